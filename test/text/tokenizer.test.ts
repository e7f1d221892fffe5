import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { byteLetters } from "../../lib/text/bpe.ts";
import { at } from "../../lib/text/merge.ts";
import { Peer } from "../peer/peer.ts";
import { randomNumbers, variedLines } from "./lines.ts";
import { attributeOfBits } from "./made-up.ts";
import { fixtureFolders, modelFiles, openText } from "./models.ts";

const lineCount = process.env["STRATA_SOAK"] === "1" ? 20_000 : 2_400;
const seed = Number(process.env["STRATA_SEED"] ?? Date.now() % 1_000_000);

setDefaultTimeout(120_000);

let peer: Peer;
beforeAll(() => {
  console.log(`tokenizer lines: ${lineCount} a model, STRATA_SEED=${seed}`);
  peer = new Peer();
});
afterAll(() => peer[Symbol.asyncDispose]());

describe.each(Object.entries(modelFiles))("the tokenizer of %s", (_name, file) => {
  test("makes libllama's tokens of varied lines, and libllama's text of those tokens", async () => {
    const { tokenizer } = openText(file);
    const specials = Array.from(tokenizer.specialTokens, (id) => tokenizer.tokenText(id)).slice(0, 300);
    const lines = variedLines(lineCount, seed, [...specials, "<h1>", "</s>", "<|im_end|>"]);
    expect(lines.length).toBeGreaterThanOrEqual(2_000);
    for (const special of [false, true]) {
      const theirs = await peer.tokenize(file, lines, special);
      const theirTexts = await peer.detokenize(file, theirs, special);
      const plainTexts = await peer.detokenize(file, theirs, !special);
      for (const [index, line] of lines.entries()) {
        const ids = theirs[index] as number[];
        const ours = tokenizer.encode(line, { special, bos: false, eos: false });
        if (!Bun.deepEquals(ours, ids)) expect({ line, special, tokens: ours }).toEqual({ line, special, tokens: ids });
        expect(tokenizer.decode(ids, { special })).toBe(theirTexts[index] as string);
        expect(tokenizer.decode(ids, { special: !special })).toBe(plainTexts[index] as string);
      }
    }
  });

  test("gives the tokens' own bytes where the text is not put in order", () => {
    const { tokenizer } = openText(file);
    const prefix = tokenizer.kind === "spm" && tokenizer.encode("a", { bos: false })[0] !== tokenizer.tokenId("a");
    const spelled = (byte: number): boolean =>
      tokenizer.tokenId(String.fromCharCode(at(byteLetters, byte))) !== undefined;
    // Bytes for which a vocabulary has no token are lost, in libllama too: SmolLM2's lacks some control characters.
    const lossless = (line: string): boolean => tokenizer.kind === "spm" || Buffer.from(line).every(spelled);
    const lines = variedLines(500, seed + 1, ["x"]).filter(lossless);
    expect(lines.length).toBeGreaterThan(300);
    for (const line of lines) {
      const text = tokenizer.decode(tokenizer.encode(line, { bos: false }), { cleanUp: false });
      const expected = tokenizer.kind === "spm" ? line.replaceAll("\u2581", " ") : line;
      expect(text).toBe(prefix && line !== "" ? ` ${expected}` : expected);
    }
  });

  test("decodes any list of tokens as libllama does", async () => {
    const { tokenizer } = openText(file);
    const random = randomNumbers(seed);
    const anyId = (): number => Math.floor(random() * tokenizer.vocabularySize);
    const lists = Array.from({ length: 500 }, () => Array.from({ length: Math.floor(random() * 12) }, anyId));
    for (const special of [false, true]) {
      const texts = await peer.detokenize(file, lists, special);
      for (const [index, ids] of lists.entries()) {
        expect(tokenizer.decode(ids, { special })).toBe(texts[index] as string);
      }
    }
  });

  test("knows the same special tokens and attributes as libllama", async () => {
    const { tokenizer } = openText(file);
    const theirs = await peer.vocabulary(file);
    expect(tokenizer.bos ?? null).toBe(theirs.bos);
    expect(tokenizer.eos ?? null).toBe(theirs.eos);
    expect(tokenizer.addBos).toBe(theirs.addBos);
    expect(tokenizer.addEos).toBe(theirs.addEos);
    const { bits: theirBits, ends } = await peer.attributes(file, tokenizer.vocabularySize);
    const ids = Array.from({ length: tokenizer.vocabularySize }, (_, id) => id);
    expect(ids.filter((id) => tokenizer.isEndOfGeneration(id))).toEqual([...ends]);
    // The end of a turn is one of several where a file does not name it: libllama's choice is its hash table's.
    expect(theirs.eot === null).toBe(tokenizer.eot === undefined);
    if (tokenizer.eot !== undefined) expect(ends).toContain(tokenizer.eot);
    expect(ids.map((id) => tokenizer.attribute(id))).toEqual(theirBits.map(attributeOfBits));
  });

  test("gives text token by token as it gives it whole", () => {
    const { tokenizer } = openText(file);
    const random = randomNumbers(seed);
    for (let round = 0; round < 300; round += 1) {
      const ids = Array.from({ length: 40 }, () => Math.floor(random() * tokenizer.vocabularySize));
      const special = round % 2 === 0;
      const decoder = tokenizer.decoder({ special });
      const pieces = ids.map((id) => decoder.push(id));
      expect(pieces.join("") + decoder.flush()).toBe(tokenizer.decode(ids, { special, cleanUp: false }));
    }
  });

  test("never splits a character", () => {
    const { tokenizer } = openText(file);
    const text = "naïve 日本語 👩‍👩‍👧‍👦 \u{1fae9} \u{33479}𐐀";
    const decoder = tokenizer.decoder();
    const pieces = tokenizer.encode(text, { bos: false }).map((id) => decoder.push(id));
    for (const piece of pieces) {
      expect(piece.isWellFormed()).toBeTrue();
      expect(piece).not.toContain("\ufffd");
    }
    expect((pieces.join("") + decoder.flush()).trimStart()).toBe(text);
  });

  test("adds BOS and EOS where asked to", () => {
    const { tokenizer } = openText(file);
    const plain = tokenizer.encode("Hello", { bos: false, eos: false });
    const { bos = -1, eos = -1 } = tokenizer;
    expect(tokenizer.encode("Hello", { bos: true, eos: true })).toEqual([bos, ...plain, eos]);
    expect(tokenizer.encode("Hello")).toEqual(tokenizer.addBos ? [bos, ...plain] : plain);
  });

  test("refuses half of a surrogate pair and tokens that do not exist", () => {
    const { tokenizer } = openText(file);
    const size = tokenizer.vocabularySize;
    expect(() => tokenizer.encode("a😀b\ud83d")).toThrow(/half of a surrogate pair at index 4/);
    expect(() => tokenizer.encode("\ude00")).toThrow(/half of a surrogate pair at index 0/);
    for (const id of [size, -1, 1.5, Number.NaN]) {
      const sentence = `token ${id} does not exist, the vocabulary's ids are 0 to ${size - 1}`;
      expect(() => tokenizer.decode([id])).toThrow(sentence);
      expect(() => tokenizer.decoder().push(id)).toThrow(sentence);
      expect(() => tokenizer.tokenBytes(id)).toThrow(sentence);
    }
  });
});

test.each(fixtureFolders)("the tokenizer of %s makes the reference's tokens", (folder) => {
  const reference = JSON.parse(readFileSync(join(folder, "reference.json"), "utf8")) as {
    tokenizer_cases: { text: string; ids: number[] }[];
  };
  const { tokenizer } = openText(join(folder, "model.gguf"));
  expect(reference.tokenizer_cases.length).toBeGreaterThan(0);
  for (const { text, ids } of reference.tokenizer_cases) {
    expect(tokenizer.encode(text, { bos: false })).toEqual(ids);
    expect(tokenizer.decode(ids, { cleanUp: false })).toBe(text);
  }
});
