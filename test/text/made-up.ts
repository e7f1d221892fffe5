import { expect } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openModelFile } from "../../lib/model/file.ts";
import { createTokenizer, type TokenAttribute, type Tokenizer } from "../../lib/text/index.ts";
import { bits } from "../../lib/text/vocabulary.ts";
import { Peer } from "../peer/peer.ts";
import { randomNumbers, variedLines } from "./lines.ts";
import { writeVocabularyFile, type HeaderValue } from "./vocabulary-file.ts";

export type Header = ReadonlyMap<string, HeaderValue>;

export const madeUpSeed = Number(process.env["STRATA_SEED"] ?? Date.now() % 1_000_000);
export const madeUpLines = process.env["STRATA_SOAK"] === "1" ? 5_000 : 200;

/** Vocabularies that no model here has, written to files that libllama reads too, and what it makes of them. */
export class MadeUp implements AsyncDisposable {
  private readonly peer = new Peer();
  private readonly folder = mkdtempSync(join(tmpdir(), "strata-text-"));

  constructor() {
    console.log(`made-up vocabularies: ${madeUpLines} lines each, STRATA_SEED=${madeUpSeed}`);
  }

  /** Writes a file and opens our tokenizer of it. */
  open(name: string, values: Header): { file: string; tokenizer: Tokenizer } {
    const file = join(this.folder, `${name}.gguf`);
    writeVocabularyFile(file, values);
    using opened = openModelFile(file);
    return { file, tokenizer: createTokenizer(opened.metadata) };
  }

  /**
   * Compares the tokens of varied lines, the text of those tokens and of any others, and what the tokens are for.
   * @param use changes lines that libllama cannot bear
   */
  async compare(name: string, values: Header, count = madeUpLines, use = (line: string) => line): Promise<void> {
    const { file, tokenizer } = this.open(name, values);
    const specials = Array.from(tokenizer.specialTokens, (id) => tokenizer.tokenText(id));
    const lines = variedLines(count, madeUpSeed, [...specials, "<b>", "</s>"]).map(use);
    for (const special of [false, true]) await this.compareLines(file, tokenizer, lines, special);
    await this.compareRoles(file, tokenizer);
    await this.peer.unload(file);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.peer[Symbol.asyncDispose]();
    rmSync(this.folder, { recursive: true });
  }

  private async compareLines(file: string, tokenizer: Tokenizer, lines: readonly string[], special: boolean) {
    const theirs = await this.peer.tokenize(file, lines, special);
    const texts = await this.peer.detokenize(file, theirs, special);
    for (const [index, line] of lines.entries()) {
      const ids = theirs[index] as number[];
      const tokens = tokenizer.encode(line, { special, bos: false, eos: false });
      if (!Bun.deepEquals(tokens, ids)) {
        expect({ file, line, special, tokens }).toEqual({ file, line, special, tokens: ids });
      }
      expect(tokenizer.decode(ids, { special })).toBe(texts[index] as string);
    }
    const random = randomNumbers(madeUpSeed);
    const anyId = (): number => Math.floor(random() * tokenizer.vocabularySize);
    const lists = Array.from({ length: 100 }, () => Array.from({ length: Math.floor(random() * 12) }, anyId));
    const listTexts = await this.peer.detokenize(file, lists, special);
    for (const [index, ids] of lists.entries()) {
      expect(tokenizer.decode(ids, { special })).toBe(listTexts[index] as string);
      const decoder = tokenizer.decoder({ special });
      const pieces = ids.map((id) => decoder.push(id));
      expect(pieces.join("") + decoder.flush()).toBe(tokenizer.decode(ids, { special, cleanUp: false }));
    }
  }

  /** Compares what the tokens are for, and which of them end a generation. */
  async compareRoles(file: string, tokenizer: Tokenizer): Promise<void> {
    const theirs = await this.peer.vocabulary(file);
    // The peer tells BOS and EOS where they are control tokens, and wishes to add what is not there.
    for (const role of ["bos", "eos"] as const) {
      const ours = tokenizer[role];
      const isTold = theirs[role] !== null || (ours !== undefined && tokenizer.attribute(ours) === "control");
      if (isTold) expect({ file, role, id: ours }).toEqual({ file, role, id: theirs[role] ?? undefined });
    }
    expect(tokenizer.addBos).toBe(theirs.addBos && tokenizer.bos !== undefined);
    expect(tokenizer.addEos).toBe(theirs.addEos && tokenizer.eos !== undefined);
    const attributes = await this.peer.attributes(file, tokenizer.vocabularySize);
    const ids = Array.from({ length: tokenizer.vocabularySize }, (_, id) => id);
    expect(ids.filter((id) => tokenizer.isEndOfGeneration(id))).toEqual([...attributes.ends]);
    expect(ids.map((id) => tokenizer.attribute(id))).toEqual(attributes.bits.map(attributeOfBits));
  }
}

/** What a token is for, by libllama's bits. */
export function attributeOfBits(value: number): TokenAttribute {
  if ((value & bits.unknown) !== 0) return "unknown";
  if ((value & bits.control) !== 0) return "control";
  if ((value & bits.userDefined) !== 0) return "user_defined";
  if ((value & bits.byte) !== 0) return "byte";
  return (value & bits.normal) !== 0 ? "normal" : "unused";
}
