import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { StrataError } from "../errors.ts";
import type { GgufMetadata, GgufValue } from "../gguf/index.ts";
import { plainMetadata } from "../gguf/index.ts";
import { createTokenizer, type Tokenizer } from "../text/index.ts";
import { preTokenizer } from "../text/pre-tokenizer.ts";
import { isObject, readJson, type Json, type JsonObject } from "./config.ts";
import type { HuggingFaceConfig } from "./mapping.ts";
import { preTokenizerName, wordCutting } from "./pre-tokenizers.ts";
import { readMerges, readTokens, scoresOfMerges, TokenType, type TokenList } from "./vocabulary.ts";

export interface TokenizerOptions {
  /** `config.json`, which has the ids of special tokens where `tokenizer_config.json` has not. */
  readonly config: HuggingFaceConfig;
  /** Tokens of the model. */
  readonly size: number;
  /** The name of the pre-tokenizer (`tokenizer.ggml.pre`) where it is not to be found out. */
  readonly pre?: string | undefined;
}

/**
 * The tokenizer of a checkpoint's folder as a GGUF file holds it: from `tokenizer.json`, `tokenizer_config.json`,
 * `generation_config.json` and `chat_template.jinja`.
 * @throws StrataError where there is none, or it is of a kind that a file cannot say
 */
export async function readTokenizer(folder: string, options: TokenizerOptions): Promise<GgufMetadata> {
  const path = join(folder, "tokenizer.json");
  const tokenizer = await readJson(path);
  if (tokenizer === undefined) {
    const sentence = "there is no tokenizer.json in it; without it a model can be converted that takes token ids only";
    throw new StrataError("not_found", `${folder}: ${sentence} (--no-tokenizer)`);
  }
  const settings = (await readJson(join(folder, "tokenizer_config.json"))) ?? {};
  const isSentencePiece = isByteFallback(tokenizer, path);
  const tokens = readTokens(tokenizer, options.size, isSentencePiece, path);
  const values: GgufMetadata = {
    ...(isSentencePiece ? sentencePiece(tokenizer, tokens, path) : {}),
    "tokenizer.ggml.tokens": tokens.texts,
    "tokenizer.ggml.token_type": tokens.types,
    ...roles(tokens, settings, options.config),
    ...additions(tokenizer, settings),
  };
  const whole = isSentencePiece ? values : { ...byteLevel(tokenizer, settings, values, options.pre, path), ...values };
  const template = await chatTemplate(folder, settings);
  return { ...whole, ...(await endings(folder, whole)), ...template };
}

/** Whether the file is a byte-pair encoding over characters, SentencePiece's, and not over bytes. */
function isByteFallback(tokenizer: JsonObject, path: string): boolean {
  const model = tokenizer["model"];
  const type = isObject(model) ? model["type"] : undefined;
  if (!isObject(model) || type !== "BPE" || !isObject(model["vocab"])) {
    const sentence = `the tokenizer is of the kind "${String(type)}"; "BPE" can be converted`;
    throw new StrataError("unsupported", `${path}: ${sentence}`);
  }
  const text = JSON.stringify([tokenizer["pre_tokenizer"] ?? null, tokenizer["decoder"] ?? null]);
  if (text.includes('"ByteLevel"')) return false;
  if (model["byte_fallback"] === true) return true;
  throw new StrataError(
    "unsupported",
    `${path}: the tokenizer has neither bytes as letters (ByteLevel) nor byte_fallback`,
  );
}

function sentencePiece(tokenizer: JsonObject, tokens: TokenList, path: string): GgufMetadata {
  const joins = tokens.texts.find((text, id) => tokens.types[id] === TokenType.normal && text.indexOf("\u2581", 1) > 0);
  if (cutsAtSpaces(tokenizer["pre_tokenizer"]) && joins !== undefined) {
    const sentence = `text is cut at spaces before tokens are joined, and the token "${joins}" has one inside`;
    throw new StrataError("unsupported", `${path}: ${sentence}, which no file can say`);
  }
  const steps = JSON.stringify([tokenizer["normalizer"] ?? null, tokenizer["pre_tokenizer"] ?? null]);
  const prepends = /"type":"Prepend"|"prepend_scheme":"(first|always)"|"add_prefix_space":true/.test(steps);
  return {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.pre": "default",
    "tokenizer.ggml.scores": scoresOfMerges(readMerges(tokenizer), tokens, path),
    "tokenizer.ggml.add_space_prefix": prepends,
  };
}

/** Whether words are cut apart before they are encoded: `Metaspace` does, unless told not to. */
function cutsAtSpaces(step: Json | undefined): boolean {
  if (!isObject(step)) return false;
  if (step["type"] === "Metaspace") return step["split"] !== false;
  return Array.isArray(step["pretokenizers"]) && (step["pretokenizers"] as readonly Json[]).some(cutsAtSpaces);
}

function byteLevel(
  tokenizer: JsonObject,
  settings: JsonObject,
  values: GgufMetadata,
  given: string | undefined,
  path: string,
): GgufMetadata {
  const merges = readMerges(tokenizer).map((pair) => pair.map((part) => part.replaceAll(" ", "Ġ")).join(" "));
  const named = (pre: string): GgufMetadata => {
    return { "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": pre, "tokenizer.ggml.merges": merges };
  };
  if (given !== undefined) {
    preTokenizer(path, given);
    return named(given);
  }
  const cutting = wordCutting(tokenizer);
  const cleansUp = settings["clean_up_tokenization_spaces"];
  const reachesAll = (pre: string): boolean => mergesReachAll({ ...values, ...named(pre) }, path);
  const pre = preTokenizerName(cutting, typeof cleansUp === "boolean" ? cleansUp : undefined, reachesAll);
  if (pre !== undefined) return named(pre);
  throw new StrataError(
    "unsupported",
    `${path}: no pre-tokenizer is known that cuts text as this file does (${cutting.steps.join(", ") || "not at all"}); ` +
      "if one of llama.cpp's does, give its name: --pre NAME",
  );
}

/** Whether every token whose text is one word comes out when that text is tokenized by merges. */
function mergesReachAll(values: GgufMetadata, path: string): boolean {
  const tokenizer = createTokenizer(plainMetadata(path, values));
  const types = values["tokenizer.ggml.token_type"] as Int32Array;
  const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  return types.every((type, id) => {
    if (type !== TokenType.normal) return true;
    let text: string;
    try {
      text = utf8.decode(tokenizer.tokenBytes(id));
    } catch {
      // A part of a character is no word.
      return true;
    }
    const parts = tokenizer.encode(text, { bos: false, eos: false });
    return parts.length === 1;
  });
}

/** Special tokens and the keys that name them. */
const roleKeys = {
  bos: "bos_token_id",
  eos: "eos_token_id",
  unk: "unknown_token_id",
  sep: "seperator_token_id",
  pad: "padding_token_id",
  mask: "mask_token_id",
} as const;

function roles(tokens: TokenList, settings: JsonObject, config: HuggingFaceConfig): GgufMetadata {
  const byText = new Map(tokens.added.map(({ content, id }) => [content, id]));
  const entries = Object.entries(roleKeys).map(([role, key]) => {
    const text = contentOf(settings[`${role}_token`]);
    const id = text === undefined ? undefined : (byText.get(text) ?? tokens.ids.get(text));
    const configured = config.get(`${role}_token_id`);
    const first = ArrayBuffer.isView(configured) ? configured[0] : configured;
    const fallback = typeof first === "number" && first >= 0 && first < tokens.texts.length ? first : undefined;
    return [`tokenizer.ggml.${key}`, id ?? fallback] as const;
  });
  return Object.fromEntries(entries);
}

function contentOf(entry: Json | undefined): string | undefined {
  const text = isObject(entry) ? entry["content"] : entry;
  return typeof text === "string" ? text : undefined;
}

/** Whether BOS and EOS are put around a prompt: as the settings say, else as the template in `tokenizer.json` does. */
function additions(tokenizer: JsonObject, settings: JsonObject): GgufMetadata {
  const single = templateOf(tokenizer["post_processor"]);
  const isToken = (piece: Json | undefined): boolean => isObject(piece) && isObject(piece["SpecialToken"]);
  const says = (key: string, otherwise: boolean): GgufValue => {
    const value = settings[key];
    return typeof value === "boolean" ? value : otherwise;
  };
  return {
    "tokenizer.ggml.add_bos_token": says("add_bos_token", isToken(single[0])),
    "tokenizer.ggml.add_eos_token": says("add_eos_token", single.length > 1 && isToken(single.at(-1))),
  };
}

function templateOf(processor: Json | undefined): readonly Json[] {
  if (!isObject(processor)) return [];
  const { type, single, processors } = processor;
  if (type === "TemplateProcessing" && Array.isArray(single)) return single as readonly Json[];
  return Array.isArray(processors) ? (processors as readonly Json[]).flatMap(templateOf) : [];
}

/**
 * Tokens that end a generation by `generation_config.json` and would not by themselves: the first two of them become the
 * tokens that end a turn and a message.
 */
async function endings(folder: string, values: GgufMetadata): Promise<GgufMetadata> {
  const generation = await readJson(join(folder, "generation_config.json"));
  const listed = generation?.["eos_token_id"];
  const ids = (Array.isArray(listed) ? (listed as readonly Json[]) : [listed]).filter((id) => typeof id === "number");
  const tokenizer: Tokenizer = createTokenizer(plainMetadata(join(folder, "tokenizer.json"), values));
  const others = ids.filter((id) => id < tokenizer.vocabularySize && !tokenizer.isEndOfGeneration(id));
  const keys = ["tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"].slice(
    tokenizer.eot === undefined ? 0 : 1,
  );
  return Object.fromEntries(others.slice(0, keys.length).map((id, index) => [keys[index] as string, id]));
}

/** The chat template: `chat_template.jinja`, else `tokenizer_config.json`'s, which may be several by name. */
async function chatTemplate(folder: string, settings: JsonObject): Promise<GgufMetadata> {
  const file = Bun.file(join(folder, "chat_template.jinja"));
  if (await file.exists())
    return { "tokenizer.chat_template": await readFile(join(folder, "chat_template.jinja"), "utf8") };
  const template = settings["chat_template"];
  if (typeof template === "string") return { "tokenizer.chat_template": template };
  const named = (Array.isArray(template) ? (template as readonly Json[]) : []).filter(isObject);
  const entries = named.flatMap(({ name, template: text }) => {
    if (typeof name !== "string" || typeof text !== "string") return [];
    return [[name === "default" ? "tokenizer.chat_template" : `tokenizer.chat_template.${name}`, text] as const];
  });
  const others = named.flatMap(({ name }) => (typeof name === "string" && name !== "default" ? [name] : []));
  return { ...Object.fromEntries(entries), ...(others.length === 0 ? {} : { "tokenizer.chat_templates": others }) };
}
