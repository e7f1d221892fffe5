import type { Metadata } from "../gguf/metadata.ts";
import { BytePairEncoder } from "./bpe.ts";
import type { Spelling } from "./decode.ts";
import { BestScoreEncoder } from "./plamo2.ts";
import { preTokenizer } from "./pre-tokenizer.ts";
import { LongestMatchEncoder } from "./rwkv.ts";
import { SentencePieceEncoder } from "./spm.ts";
import { Vocabulary, type DefaultIds } from "./vocabulary.ts";

/**
 * How a file's text becomes tokens: merging pieces by their scores (`spm`) or pairs by their ranks (`bpe`), taking the
 * longest token (`rwkv`), or the tokens of the highest score (`plamo2`).
 */
export type TokenizerKind = "spm" | "bpe" | "rwkv" | "plamo2";

/** Turns text in which no special token is left into tokens. */
export interface Encoder {
  /** Appends the tokens of a text. None of `without` comes out. */
  encode(text: string, tokens: number[], without: ReadonlySet<number> | undefined): void;
}

/** A file's tokenizer, taken apart: what differs from kind to kind. */
export interface TokenizerParts {
  readonly kind: TokenizerKind;
  readonly vocabulary: Vocabulary;
  readonly encoder: Encoder;
  readonly spelling: Spelling;
  /** Whether a prompt starts with BOS where the file does not say, or always does. */
  readonly addBos: boolean | "always";
  /** Whether a text begins with a space where the file does not say. */
  readonly addSpacePrefix: boolean;
  /** Whether detokenizing a whole text drops the space before punctuation. */
  readonly cleanUp: boolean;
}

/** The parts of each `tokenizer.ggml.model`. The default ids are llama.cpp's. */
export const tokenizerModels: ReadonlyMap<string, (metadata: Metadata) => TokenizerParts> = new Map([
  ["llama", openSentencePiece],
  ["gpt2", (metadata: Metadata) => openBytePair(metadata, metadata.string("tokenizer.ggml.pre", "") || "default")],
  ["gemma4", (metadata: Metadata) => openBytePair(metadata, "gemma4")],
  ["rwkv", openRwkv],
  ["plamo2", openPlamo2],
]);

function openSentencePiece(metadata: Metadata): TokenizerParts {
  const vocabulary = new Vocabulary(metadata, { bos: 1, eos: 2, unk: 0 });
  return {
    kind: "spm",
    vocabulary,
    encoder: new SentencePieceEncoder(metadata, vocabulary),
    spelling: "underscores",
    addBos: true,
    addSpacePrefix: true,
    cleanUp: false,
  };
}

function openBytePair(metadata: Metadata, name: string): TokenizerParts {
  const pre = preTokenizer(metadata.file, name);
  const vocabulary = new Vocabulary(metadata, bytePairDefaults(metadata, name));
  return {
    kind: "bpe",
    vocabulary,
    encoder: new BytePairEncoder(metadata, vocabulary, pre),
    spelling: pre.marksSpaces ? "underscores" : "letters",
    addBos: pre.alwaysBos ? "always" : pre.addBos,
    addSpacePrefix: false,
    cleanUp: pre.cleanUp,
  };
}

function bytePairDefaults(metadata: Metadata, name: string): DefaultIds {
  if (metadata.string("tokenizer.ggml.model") === "gemma4") return {};
  return name === "glm4" || name === "chatglm-bpe" ? { eos: 11 } : { bos: 11, eos: 11 };
}

function openRwkv(metadata: Metadata): TokenizerParts {
  const vocabulary = new Vocabulary(metadata, {});
  return {
    kind: "rwkv",
    vocabulary,
    encoder: new LongestMatchEncoder(vocabulary),
    spelling: "escapes",
    addBos: false,
    addSpacePrefix: false,
    cleanUp: false,
  };
}

function openPlamo2(metadata: Metadata): TokenizerParts {
  const vocabulary = new Vocabulary(metadata, { bos: 1, eos: 2, unk: 0, pad: 3 });
  return {
    kind: "plamo2",
    vocabulary,
    encoder: new BestScoreEncoder(metadata, vocabulary),
    spelling: "plain",
    addBos: false,
    addSpacePrefix: false,
    cleanUp: false,
  };
}
