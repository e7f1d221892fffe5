import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { randomNumbers, variedLines } from "./lines.ts";
import { MadeUp, madeUpSeed } from "./made-up.ts";
import type { HeaderValue } from "./vocabulary-file.ts";

// Tokenizers that no model here has: RWKV's, PLaMo-2's, and byte-pair encoding of text as it is.

setDefaultTimeout(120_000);

let madeUp: MadeUp;
beforeAll(() => {
  madeUp = new MadeUp();
});
afterAll(() => madeUp[Symbol.asyncDispose]());

type Changes = Readonly<Record<string, HeaderValue>>;
type Random = () => number;

/** Tokens as they are collected: no text twice. */
class Tokens {
  readonly texts: string[] = [];
  readonly types: number[] = [];
  readonly scores: number[] = [];
  private readonly known = new Set<string>();

  add(text: string, type: number, score = 0): void {
    // libllama reads a token's text up to a zero.
    if (text === "" || text.includes("\0") || this.known.has(text)) return;
    this.known.add(text);
    this.texts.push(text);
    this.types.push(type);
    this.scores.push(score);
  }

  has(text: string): boolean {
    return this.known.has(text);
  }

  header(model: string, changes: Changes): Map<string, HeaderValue> {
    return new Map<string, HeaderValue>([
      ["general.architecture", "llama"],
      ["tokenizer.ggml.model", model],
      ["tokenizer.ggml.tokens", this.texts],
      ["tokenizer.ggml.token_type", Int32Array.from(this.types)],
      ["tokenizer.ggml.scores", Float32Array.from(this.scores)],
      ...Object.entries(changes),
    ]);
  }
}

const normal = 1;
const control = 3;
const userDefined = 4;
const unused = 5;
const byteType = 6;

/** Parts of varied lines, from one unit to a dozen. */
function* parts<Line extends { readonly length: number }>(
  lines: readonly Line[],
  random: Random,
): Generator<{ line: Line; from: number; to: number }> {
  for (const line of lines) {
    for (let count = 0; count < 12 && line.length > 0; count += 1) {
      const from = Math.floor(random() * line.length);
      yield { line, from, to: Math.min(line.length, from + 1 + Math.floor(random() ** 2 * 12)) };
    }
  }
}

/** The spelling of bytes in RWKV's files, which is Python's. */
function escapeBytes(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => {
    const letter = String.fromCharCode(byte);
    const short = { "\t": "\\t", "\n": "\\n", "\r": "\\r", "\\": "\\\\", "'": "\\'" }[letter];
    return short ?? (byte >= 0x20 && byte < 0x7f ? letter : `\\x${byte.toString(16).padStart(2, "0")}`);
  }).join("");
}

function rwkv(changes: Changes, mayBegin: (byte: number) => boolean = () => true): Map<string, HeaderValue> {
  const random = randomNumbers(madeUpSeed);
  const tokens = new Tokens();
  tokens.add("<s>", control);
  for (let byte = 0; byte < 256; byte += 1) if (mayBegin(byte)) tokens.add(escapeBytes(Uint8Array.of(byte)), normal);
  const lines = variedLines(400, madeUpSeed + 2, ["<s>"]).map((line) => new TextEncoder().encode(line));
  for (const { line, from, to } of parts(lines, random)) {
    if (mayBegin(line[from] ?? 0)) tokens.add(escapeBytes(line.subarray(from, to)), normal);
  }
  tokens.add("\\n\\n", normal);
  tokens.add("<b>", userDefined);
  for (const index of [1, 2, 3]) tokens.add(`[PAD${index}]`, unused);
  const { texts } = tokens;
  return tokens.header("rwkv", {
    "tokenizer.ggml.bos_token_id": 0,
    "tokenizer.ggml.eos_token_id": 0,
    "tokenizer.ggml.eot_token_id": texts.indexOf("\\n\\n"),
    ...changes,
  });
}

describe("RWKV's files", () => {
  test("give the longest tokens, as in libllama", async () => {
    await madeUp.compare("rwkv", rwkv({}), 4_000);
  });

  test("may name BOS, EOS and a space in front", async () => {
    const named = { "tokenizer.ggml.add_bos_token": true, "tokenizer.ggml.add_eos_token": true };
    await madeUp.compare("rwkv-named", rwkv({ ...named, "tokenizer.ggml.add_space_prefix": true }));
  });

  test("that lack bytes give the unknown token for them", async () => {
    await madeUp.compare(
      "rwkv-gaps",
      rwkv({ "tokenizer.ggml.unknown_token_id": 7 }, (byte) => byte < 0xe0),
    );
  });

  test("and name no unknown token refuse text with such bytes", () => {
    const { tokenizer } = madeUp.open(
      "rwkv-lacking",
      rwkv({}, (byte) => byte < 0xe0),
    );
    expect(tokenizer.decode(tokenizer.encode("naïve"))).toBe("naïve");
    expect(() => tokenizer.encode("日本")).toThrow(/no token of the vocabulary begins with the byte 0xe6/);
  });

  test("round-trip any text and never split a character", () => {
    const { tokenizer } = madeUp.open("rwkv-trip", rwkv({}));
    for (const line of variedLines(500, madeUpSeed + 1, ["<s>"])) {
      const ids = tokenizer.encode(line);
      expect(tokenizer.decode(ids, { special: true })).toBe(line);
      const decoder = tokenizer.decoder({ special: true });
      for (const id of ids) expect(decoder.push(id).isWellFormed()).toBeTrue();
      expect(decoder.flush()).toBe("");
    }
  });

  test("give none of the tokens that are ruled out", () => {
    const { tokenizer } = madeUp.open("rwkv-ruled-out", rwkv({}));
    expect(tokenizer.encode("<s>")).toEqual([0]);
    const without = tokenizer.encode("<s>", { without: tokenizer.specialTokens });
    expect(without).not.toContain(0);
    expect(tokenizer.decode(without)).toBe("<s>");
  });

  test("end a turn where they say, and a generation there too", () => {
    const { tokenizer } = madeUp.open("rwkv-turn", rwkv({}));
    expect(tokenizer.eot).toBe(tokenizer.tokenId("\\n\\n"));
    expect(tokenizer.isEndOfGeneration(tokenizer.eot as number)).toBeTrue();
    expect(tokenizer.decode([tokenizer.eot as number])).toBe("\n\n");
  });
});

function addBytes(tokens: Tokens, hex = (byte: number) => byte.toString(16).toUpperCase()): void {
  for (let byte = 0; byte < 256; byte += 1) tokens.add(`<0x${hex(byte).padStart(2, "0")}>`, byteType);
}

function plamo2(changes: Changes, changeScore = (score: number, _random: Random) => score): Map<string, HeaderValue> {
  const random = randomNumbers(madeUpSeed + 5);
  const tokens = new Tokens();
  const score = (): number => changeScore(-Math.floor(random() * 40) / 4 - random() * 0.0004, random);
  tokens.add("<|plamo:unk|>", 2);
  for (const name of ["bos", "eos", "pad", "op"]) tokens.add(`<|plamo:${name}|>`, control);
  addBytes(tokens);
  const lines = variedLines(400, madeUpSeed + 2, ["<|plamo:op|>"]).map((line) => Array.from(line));
  for (const { line, from, to } of parts(lines, random)) {
    // Each letter of some texts, so that cuts compete.
    if (random() < 0.3) for (const letter of line.slice(from, to)) tokens.add(letter, normal, score());
    tokens.add(line.slice(from, to).join(""), normal, score());
  }
  for (let length = 1; length <= 64; length *= 2) tokens.add(" ".repeat(length), normal, score());
  for (const text of ["<b>", "  b"]) tokens.add(text, userDefined, score());
  for (const index of [1, 2, 3]) tokens.add(`[PAD${index}]`, unused, -1000);
  return tokens.header("plamo2", changes);
}

describe("PLaMo-2's files", () => {
  test("give the tokens of the highest score, as in libllama", async () => {
    await madeUp.compare("plamo2", plamo2({}), 4_000);
  });

  test("may score tokens alike, or as no text ever", async () => {
    const coarse = plamo2({}, (score) => Math.ceil(score / 4));
    await madeUp.compare("plamo2-alike", coarse);
    const odd = [-1000, -2000, -3000, 10, 0, Number.NaN, Number.NEGATIVE_INFINITY];
    const strange = plamo2({}, (score, random) =>
      random() < 0.2 ? (odd[Math.floor(random() * odd.length)] as number) : score,
    );
    await madeUp.compare("plamo2-strange", strange);
    strange.delete("tokenizer.ggml.scores");
    await madeUp.compare("plamo2-no-scores", strange);
  });

  test("may name BOS, EOS and a space in front", async () => {
    const named = { "tokenizer.ggml.add_bos_token": true, "tokenizer.ggml.add_eos_token": true };
    await madeUp.compare("plamo2-named", plamo2({ ...named, "tokenizer.ggml.add_space_prefix": true }));
    const { tokenizer } = madeUp.open("plamo2-bos", plamo2(named));
    expect(tokenizer.encode("")).toEqual([1, 2]);
  });

  test("treat text near padding as libllama does", async () => {
    const near = (line: string): string => `${line}[PAD1]${line}[PAD2] [PAD`;
    await madeUp.compare("plamo2-padding", plamo2({}), undefined, near);
  });

  test("round-trip any text and never split a character", () => {
    const { tokenizer } = madeUp.open("plamo2-trip", plamo2({}));
    for (const line of variedLines(500, madeUpSeed + 1, ["<|plamo:bos|>"])) {
      const ids = tokenizer.encode(line);
      // A byte order mark in front is no part of the text.
      expect(tokenizer.decode(ids, { special: true })).toBe(line.replace(/^\ufeff/, ""));
      const decoder = tokenizer.decoder({ special: true });
      for (const id of ids) expect(decoder.push(id).isWellFormed()).toBeTrue();
      expect(decoder.flush()).toBe("");
    }
  });

  test("give none of the tokens that are ruled out", () => {
    const { tokenizer } = madeUp.open("plamo2-ruled-out", plamo2({}));
    const text = "[PAD1]x<|plamo:bos|>y";
    expect(tokenizer.encode(text)).toContain(1);
    const padding = tokenizer.tokenId("[PAD1]") as number;
    const without = tokenizer.encode(text, { without: new Set([...tokenizer.specialTokens, padding]) });
    expect(without).not.toContain(1);
    expect(without).not.toContain(padding);
    expect(tokenizer.decode(without)).toBe(text);
  });

  test("need a token for each byte", () => {
    const tokens = new Tokens();
    addBytes(tokens, (byte) => (byte === 0x41 ? "ZZ" : byte.toString(16)));
    const open = (): unknown => madeUp.open("plamo2-bytes", tokens.header("plamo2", {}));
    expect(open).toThrow(/no token of type byte for <0x41>, and a "plamo2" tokenizer needs all 256/);
  });
});

/** Tokens that are text as it is, and for each of several letters a merge of two that are tokens, or of none. */
function rawPairs(model: string, changes: Changes): Map<string, HeaderValue> {
  const random = randomNumbers(madeUpSeed + 9);
  const tokens = new Tokens();
  for (const text of ["<pad>", "<eos>", "<bos>", "<unk>"]) tokens.add(text, control);
  addBytes(tokens);
  tokens.add("<b>", userDefined);
  const merges: string[] = [];
  for (const text of ["\n", "\n\n", "\n\n\n", "\u2581", "\u2581\u2581"]) tokens.add(text, normal);
  const lines = variedLines(400, madeUpSeed + 2, ["<b>"]).map((line) => Array.from(line.replaceAll(" ", "\u2581")));
  for (const { line, from, to } of parts(lines, random)) {
    const text = line.slice(from, to);
    if (random() < 0.9) for (const letter of text) tokens.add(letter, normal);
    if (text.some((letter) => letter === "\n" || letter === "\0")) continue;
    // Merged from the left: some of what is merged is no token.
    for (let length = 2; length <= text.length; length += 1) {
      if (random() < 0.8) tokens.add(text.slice(0, length).join(""), normal);
      merges.push(`${text.slice(0, length - 1).join("")} ${text[length - 1]}`);
    }
  }
  return tokens.header(model, {
    "tokenizer.ggml.merges": merges,
    "tokenizer.ggml.bos_token_id": 2,
    "tokenizer.ggml.eos_token_id": 1,
    ...changes,
  });
}

describe("files of pairs of text as it is", () => {
  test("merge as in libllama, with bytes for what is no token", async () => {
    await madeUp.compare("gemma4", rawPairs("gemma4", { "tokenizer.ggml.add_bos_token": false }), 1_000);
    for (const pre of ["granite-embed-multi-311m", "sarvam-moe"]) {
      await madeUp.compare(pre, rawPairs("gpt2", { "tokenizer.ggml.pre": pre }), 500);
    }
  });

  test("that name no roles have none", async () => {
    const values = rawPairs("gemma4", {});
    for (const role of ["bos", "eos"]) values.delete(`tokenizer.ggml.${role}_token_id`);
    const { tokenizer } = madeUp.open("gemma4-plain", values);
    expect([tokenizer.bos, tokenizer.eos, tokenizer.addBos]).toEqual([undefined, undefined, false]);
  });
});
