import { StrataError } from "../errors.ts";
import { isObject, type Json, type JsonObject } from "./config.ts";

/** GGUF's types of tokens. */
export const TokenType = { normal: 1, unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 } as const;

/** What `tokenizer.json` says of a token that was added to the model's own vocabulary. */
export interface AddedToken {
  readonly id: number;
  readonly content: string;
  readonly special: boolean;
}

/** The tokens of a `tokenizer.json`. */
export interface TokenList {
  readonly texts: readonly string[];
  readonly types: Int32Array;
  readonly added: readonly AddedToken[];
  /** Ids by text, as the model's own vocabulary has them. */
  readonly ids: ReadonlyMap<string, number>;
}

/**
 * Reads tokens, types and ids.
 * @param size tokens of the model; ids that the file leaves free are filled up
 * @param isSentencePiece whether tokens are spelled with U+2581 for spaces, and bytes as `<0x0A>`
 */
export function readTokens(tokenizer: JsonObject, size: number, isSentencePiece: boolean, path: string): TokenList {
  const model = tokenizer["model"] as JsonObject;
  const ids = new Map(
    Object.entries(isObject(model["vocab"]) ? model["vocab"] : {}).map(([text, id]) => [text, Number(id)]),
  );
  const added = readAdded(tokenizer["added_tokens"]);
  const texts = Array.from({ length: size }, (_, id) => `[PAD${id}]`);
  const types = new Int32Array(size).fill(TokenType.unused);
  const put = (id: number, text: string, type: number): void => {
    if (!Number.isInteger(id) || id < 0 || id >= size) {
      const sentence = `the token "${text}" has the id ${id}, and the model has ${size} tokens (vocab_size)`;
      throw new StrataError("bad_format", `${path}: ${sentence}`);
    }
    texts[id] = text;
    types[id] = type;
  };
  for (const [text, id] of ids) {
    const isByte = isSentencePiece && /^<0x[0-9A-F]{2}>$/.test(text);
    put(id, text, isByte ? TokenType.byte : TokenType.normal);
  }
  for (const { id, content, special } of added) {
    if (special || looksSpecial(content)) put(id, content, TokenType.control);
    else put(id, isSentencePiece ? content.replaceAll("\u2581", " ") : content, TokenType.userDefined);
  }
  const unknown = model["unk_token"];
  const unknownId = typeof unknown === "string" ? ids.get(unknown) : undefined;
  if (isSentencePiece && unknownId !== undefined) types[unknownId] = TokenType.unknown;
  return { texts, types, added, ids };
}

function readAdded(list: Json | undefined): AddedToken[] {
  return (Array.isArray(list) ? (list as readonly Json[]) : []).filter(isObject).map((token) => {
    return { id: Number(token["id"]), content: String(token["content"]), special: token["special"] === true };
  });
}

/** Some models do not mark tokens as special that are no text of a user's: llama.cpp's rule for those. */
function looksSpecial(text: string): boolean {
  if (["<pad>", "<mask>", "<2mass>", "[@BOS@]"].includes(text)) return true;
  return /^<\|.*\|>$|^<｜.*｜>$|^<unused.*>$/s.test(text);
}

/** Merges as pairs; both spellings of `tokenizer.json` are read. */
export function readMerges(tokenizer: JsonObject): (readonly [string, string])[] {
  const merges = (tokenizer["model"] as JsonObject)["merges"];
  return (Array.isArray(merges) ? (merges as readonly Json[]) : []).map((merge) => {
    if (Array.isArray(merge)) return [String(merge[0]), String(merge[1])];
    const space = String(merge).indexOf(" ", 1);
    return [String(merge).slice(0, space), String(merge).slice(space + 1)];
  });
}

/**
 * A score for each token, from merges: SentencePiece joins first what makes the token of the best score, so the earlier
 * a token's merge comes the better its score.
 * @throws StrataError `unsupported` where merges cannot be said as scores: those of one token are not one after the other
 */
export function scoresOfMerges(
  merges: readonly (readonly [string, string])[],
  tokens: TokenList,
  path: string,
): Float32Array {
  const scores = new Float32Array(tokens.texts.length);
  const ranks = new Map<string, number>();
  let last = "";
  for (const [left, right] of merges) {
    const text = left + right;
    if (text !== last && ranks.has(text)) {
      const sentence = `the merges that make the token "${text}" are not one after the other, so no scores say the same`;
      throw new StrataError("unsupported", `${path}: ${sentence}`);
    }
    if (text !== last) ranks.set(text, ranks.size);
    last = text;
  }
  // What no merge makes is never joined; its score is below all others.
  for (const [text, id] of tokens.ids) scores[id] = -(ranks.get(text) ?? ranks.size);
  for (const { id } of tokens.added) scores[id] = -(ranks.size + 1);
  return scores;
}
