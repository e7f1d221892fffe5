import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { preTokenizer, preTokenizerNames } from "../../lib/text/pre-tokenizer.ts";
import { randomNumbers } from "./lines.ts";
import { MadeUp, madeUpLines } from "./made-up.ts";
import { modelFiles, openText } from "./models.ts";
import type { HeaderValue } from "./vocabulary-file.ts";

setDefaultTimeout(120_000);

let madeUp: MadeUp;
beforeAll(() => {
  madeUp = new MadeUp();
});
afterAll(() => madeUp[Symbol.asyncDispose]());

/** The tokenizer of tiny-hybrid with another pre-tokenizer, and special tokens of several kinds. */
function byteLevel(changes: Readonly<Record<string, HeaderValue>>): Map<string, HeaderValue> {
  const { metadata } = openText(modelFiles.tinyHybrid);
  const texts = [...metadata.strings("tokenizer.ggml.tokens"), "<|im_start|>", "<|im_end|>", "<b>", "  ", "word"];
  const types = Int32Array.from(metadata.numbers("tokenizer.ggml.token_type"));
  return new Map<string, HeaderValue>([
    ["general.architecture", "llama"],
    ["tokenizer.ggml.model", "gpt2"],
    ["tokenizer.ggml.tokens", texts],
    ["tokenizer.ggml.token_type", Int32Array.of(...types, 3, 3, 4, 4, 1)],
    ["tokenizer.ggml.merges", metadata.strings("tokenizer.ggml.merges")],
    ["tokenizer.ggml.bos_token_id", 0],
    ["tokenizer.ggml.eos_token_id", 4097],
    ...Object.entries(changes),
  ]);
}

/** Adds tokens of a type. */
function withTokens(
  values: Map<string, HeaderValue>,
  texts: readonly string[],
  type: number,
): Map<string, HeaderValue> {
  const types = values.get("tokenizer.ggml.token_type") as Int32Array;
  return values
    .set("tokenizer.ggml.tokens", [...(values.get("tokenizer.ggml.tokens") as readonly string[]), ...texts])
    .set("tokenizer.ggml.token_type", Int32Array.of(...types, ...texts.map(() => type)));
}

/** Names that cut alike are compared on fewer lines, but for the first. */
const firstOfKind = new Set(
  Map.groupBy(preTokenizerNames, (name) => preTokenizer("", name).cutters.map(String).join("\n"))
    .values()
    .map((names) => names[0]),
);

describe("byte-level files", () => {
  test.each(preTokenizerNames.map((name) => [name]))("are cut by %s as libllama cuts them", async (name) => {
    const lines = firstOfKind.has(name) ? madeUpLines : madeUpLines / 10;
    await madeUp.compare(`pre-${name}`, byteLevel({ "tokenizer.ggml.pre": name }), lines);
  });

  test("of the Phi-3 family lose the whitespace after special tokens", async () => {
    const values = byteLevel({ "general.name": "My Phi-3 mini", "tokenizer.ggml.pre": "gpt-2" });
    await madeUp.compare("phi", withTokens(values, ["<unk>", "<s>", "</s>", "<|endoftext|>"], 3));
  });

  test("with a mask token lose the whitespace before it", async () => {
    await madeUp.compare("mask", withTokens(byteLevel({ "tokenizer.ggml.pre": "jina-v2-de" }), ["<mask>"], 3));
  });

  test("may name no pre-tokenizer", async () => {
    await madeUp.compare("none", byteLevel({}));
  });

  test("that lack merges' results and bytes fall back as libllama does", async () => {
    const random = randomNumbers(7);
    const values = byteLevel({ "tokenizer.ggml.pre": "llama-bpe" });
    const texts = values.get("tokenizer.ggml.tokens") as readonly string[];
    const kept = texts.map((text, id) => (id > 3 && random() < 0.2 ? `gone ${id}` : text));
    await madeUp.compare("gaps", values.set("tokenizer.ggml.tokens", kept));
  });
});

/** A SentencePiece vocabulary: bytes, letters, pieces of tiny-hybrid's tokens, special tokens of several kinds. */
function pieces(changes: Readonly<Record<string, HeaderValue>>): Map<string, HeaderValue> {
  const random = randomNumbers(11);
  const texts: string[] = [];
  const types: number[] = [];
  const add = (text: string, type: number): void => {
    if (texts.includes(text)) return;
    texts.push(text);
    types.push(type);
  };
  add("<unk>", 2);
  add("<s>", 3);
  add("</s>", 3);
  for (let byte = 0; byte < 256; byte += 1) add(`<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`, 6);
  for (const special of ["<|user|>", "<|end|>"]) add(special, 3);
  for (const marked of ["<b>", "\u2581\u2581", "\n\n", "  "]) add(marked, 4);
  add("<unused0>", 5);
  for (const text of openText(modelFiles.tinyHybrid).metadata.strings("tokenizer.ggml.tokens").slice(260)) {
    add(text.replaceAll("Ġ", "\u2581").replaceAll("Ċ", "\n"), 1);
  }
  for (const text of ["</", "s>", "</s", "日", "日本", "本語", "語", "ж", "é", "😀", "a\u2581", "\u2581\u2581\u2581"])
    add(text, 1);
  for (const letter of "etaoinshrdlucmfwypvbgkjqxzETAOIN0123456789.,'\u2581") add(letter, 1);
  // Scores repeat, so that ties are settled by position.
  const scores = Float32Array.from(texts, () => -Math.floor(random() * 500));
  return new Map<string, HeaderValue>([
    ["general.architecture", "llama"],
    ["tokenizer.ggml.model", "llama"],
    ["tokenizer.ggml.tokens", texts],
    ["tokenizer.ggml.token_type", Int32Array.from(types)],
    ["tokenizer.ggml.scores", scores],
    ...Object.entries(changes),
  ]);
}

describe("SentencePiece files", () => {
  test("put a space before text unless told not to", async () => {
    await madeUp.compare("prefix", pieces({}));
    await madeUp.compare("no-prefix", pieces({ "tokenizer.ggml.add_space_prefix": false }));
  });

  test("may name other special tokens", async () => {
    await madeUp.compare("named", pieces({ "tokenizer.ggml.bos_token_id": 259, "tokenizer.ggml.eos_token_id": 260 }));
  });

  test("give none of the tokens that are ruled out, even where letters merge to one", () => {
    const { tokenizer } = madeUp.open("ruled-out", pieces({ "tokenizer.ggml.add_space_prefix": false }));
    const end = tokenizer.tokenId("</s>") as number;
    expect(tokenizer.encode("</s>", { bos: false })).toEqual([end]);
    const without = tokenizer.encode("</s>", { bos: false, without: tokenizer.specialTokens });
    expect(without).not.toContain(end);
    expect(tokenizer.decode(without)).toBe("</s>");
  });
});

describe("files that cannot be used", () => {
  const create =
    (changes: Readonly<Record<string, HeaderValue>>): (() => unknown) =>
    () =>
      madeUp.open("bad", byteLevel(changes));

  test("an unknown pre-tokenizer is named, with those that are known", () => {
    const attempt = create({ "tokenizer.ggml.pre": "no-such" });
    expect(attempt).toThrow(/"no-such" \(tokenizer\.ggml\.pre\) is not known, known are default, gpt-2/);
  });

  test("an unknown tokenizer is named", () => {
    expect(create({ "tokenizer.ggml.model": "t5" })).toThrow(/"t5" \(tokenizer\.ggml\.model\) is not known/);
  });

  test("a file without a tokenizer says so", () => {
    expect(create({ "tokenizer.ggml.model": "none" })).toThrow(/has no tokenizer \(tokenizer\.ggml\.model\)/);
  });

  test("lists that are too short are named", () => {
    const attempt = create({ "tokenizer.ggml.token_type": Int32Array.of(1, 2) });
    expect(attempt).toThrow(/"tokenizer\.ggml\.token_type" has 2 elements, expected one for each of the 4101 tokens/);
  });

  test("a token that a file does not name cannot be added", () => {
    const values = byteLevel({ "tokenizer.ggml.pre": "glm4" });
    values.delete("tokenizer.ggml.bos_token_id");
    expect(() => madeUp.open("no-bos", values).tokenizer.encode("a", { bos: true })).toThrow(/names no bos token/);
  });
});
