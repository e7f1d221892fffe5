import { StrataError } from "../errors.ts";
import type { Metadata } from "../gguf/metadata.ts";
import { at, PairMerger } from "./merge.ts";
import { PairTable } from "./pair-table.ts";
import { splitWords, type PreTokenizer } from "./pre-tokenizer.ts";
import { byteName, type Vocabulary } from "./vocabulary.ts";
import { WordCache } from "./word-cache.ts";

/** Byte-level BPE spells each byte as one printable character: this is the character code of each byte. */
export const byteLetters: Uint16Array = makeByteLetters();

/**
 * Byte-pair encoding: text is cut into words, whose symbols are merged by the file's list of merges. The symbols of a
 * byte-level file are bytes, which its tokens spell as letters; those of a raw one are the text's characters.
 */
export class BytePairEncoder {
  private readonly merger: WordMerger;
  private readonly words = new WordCache();

  constructor(
    metadata: Metadata,
    private readonly vocabulary: Vocabulary,
    private readonly preTokenizer: PreTokenizer,
  ) {
    const key = "tokenizer.ggml.merges";
    const merges = preTokenizer.mergesMayLack ? metadata.strings(key, []) : metadata.strings(key);
    this.merger = new WordMerger(merges, vocabulary, preTokenizer.raw);
  }

  /** Appends the tokens of a text in which no special token is left. None of `without` comes out. */
  encode(text: string, tokens: number[], without: ReadonlySet<number> | undefined): void {
    const encode = (word: string): Int32Array => this.encodeWord(word, without);
    const marked = this.preTokenizer.marksSpaces ? text.replaceAll(" ", "\u2581") : text;
    for (const word of splitWords(marked, this.preTokenizer.cutters)) this.words.append(word, tokens, without, encode);
  }

  private encodeWord(word: string, without: ReadonlySet<number> | undefined): Int32Array {
    const { ignoreMerges, keepsNewlines, raw } = this.preTokenizer;
    const bytes = raw ? undefined : utf8.encode(word);
    if (ignoreMerges || (keepsNewlines && word.startsWith("\n"))) {
      const id = this.vocabulary.ids.get(bytes === undefined ? word : spell(bytes));
      if (id !== undefined && !without?.has(id)) return Int32Array.of(id);
    }
    return bytes === undefined
      ? this.merger.mergeLetters(Array.from(word), without)
      : this.merger.mergeBytes(bytes, without);
  }
}

/** Merges the symbols of one word. */
class WordMerger extends PairMerger {
  /** The symbol of each byte. Symbols that are no tokens have ids from the vocabulary's size on. */
  private readonly symbolOfByte = new Int32Array(256);
  private readonly extraSymbols: string[] = [];
  private readonly extraIds = new Map<string, number>();
  /** The pairs that merge, and of each its rank and what it becomes. */
  private readonly pairs: PairTable;
  private readonly ranks: Int32Array;
  private readonly merged: Int32Array;
  private without: ReadonlySet<number> | undefined;

  constructor(
    merges: readonly string[],
    private readonly vocabulary: Vocabulary,
    private readonly raw: boolean,
  ) {
    super();
    for (let byte = 0; byte < 256 && !raw; byte += 1) {
      this.symbolOfByte[byte] = this.intern(String.fromCharCode(at(byteLetters, byte)));
    }
    this.pairs = new PairTable(merges.length);
    this.ranks = new Int32Array(merges.length);
    this.merged = new Int32Array(merges.length);
    for (const [rank, merge] of merges.entries()) {
      const space = merge.indexOf(" ", 1);
      if (space < 0) continue;
      const left = merge.slice(0, space);
      const right = merge.slice(space + 1);
      const known = this.pairs.size;
      const pair = this.pairs.add(this.intern(left), this.intern(right));
      // The first merge of a pair counts.
      if (pair < known) continue;
      this.ranks[pair] = rank;
      this.merged[pair] = this.intern(left + right);
    }
  }

  mergeBytes(bytes: Uint8Array, without: ReadonlySet<number> | undefined): Int32Array {
    this.chain(bytes.length);
    for (let index = 0; index < bytes.length; index += 1) {
      this.ids[index] = at(this.symbolOfByte, at(bytes, index));
    }
    return this.merge(bytes.length, without);
  }

  mergeLetters(letters: readonly string[], without: ReadonlySet<number> | undefined): Int32Array {
    this.chain(letters.length);
    for (const [index, letter] of letters.entries()) {
      const known = this.vocabulary.ids.get(letter) ?? this.extraIds.get(letter);
      this.ids[index] = known ?? unknownLetters + (letter.codePointAt(0) as number);
    }
    return this.merge(letters.length, without);
  }

  protected consider(left: number, right: number): void {
    const pair = this.pairs.find(at(this.ids, left), at(this.ids, right));
    if (pair < 0) return;
    const result = at(this.merged, pair);
    if (this.without?.has(result)) return;
    this.propose(at(this.ranks, pair), left, at(this.lengths, left) + at(this.lengths, right), result);
  }

  private merge(count: number, without: ReadonlySet<number> | undefined): Int32Array {
    this.without = without;
    this.lengths.fill(1, 0, count);
    this.mergeAll(count);
    const tokens: number[] = [];
    for (let index = count === 0 ? -1 : 0; index >= 0; index = at(this.nexts, index)) {
      this.emit(at(this.ids, index), tokens);
    }
    return Int32Array.from(tokens);
  }

  private intern(text: string): number {
    const known = this.vocabulary.ids.get(text) ?? this.extraIds.get(text);
    if (known !== undefined) return known;
    const id = this.vocabulary.size + this.extraSymbols.length;
    this.extraIds.set(text, id);
    this.extraSymbols.push(text);
    return id;
  }

  private emit(symbol: number, tokens: number[]): void {
    if (symbol >= this.vocabulary.size) {
      this.emitParts(this.textOf(symbol), tokens);
      return;
    }
    if (this.without?.has(symbol)) {
      throw new StrataError(
        "invalid_argument",
        `${this.vocabulary.file}: a byte of the text has no token but "${this.vocabulary.texts[symbol]}", which is special`,
      );
    }
    tokens.push(symbol);
  }

  private textOf(symbol: number): string {
    if (symbol >= unknownLetters) return String.fromCodePoint(symbol - unknownLetters);
    return this.extraSymbols[symbol - this.vocabulary.size] as string;
  }

  /**
   * A symbol that is no token falls apart as in llama.cpp: a raw one into the tokens of its bytes, another into those
   * of its characters that are ASCII and tokens. What has no token is lost.
   */
  private emitParts(text: string, tokens: number[]): void {
    const parts = this.raw ? Array.from(utf8.encode(text), byteName) : text.replace(/[^\0-\x7f]/gu, "");
    for (const part of parts) {
      const id = this.vocabulary.ids.get(part);
      if (id !== undefined && !this.without?.has(id)) tokens.push(id);
    }
  }
}

/** From here on, symbols are code points of letters that neither the tokens nor the merges have. */
const unknownLetters = 2 ** 30;

const utf8 = new TextEncoder();

function spell(bytes: Uint8Array): string {
  let spelled = "";
  for (const byte of bytes) spelled += String.fromCharCode(at(byteLetters, byte));
  return spelled;
}

/** Printable bytes of Latin-1 stand for themselves, the others follow from U+0100 on. */
function makeByteLetters(): Uint16Array {
  const letters = new Uint16Array(256);
  let next = 256;
  for (let byte = 0; byte < 256; byte += 1) {
    const printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte !== 0xad);
    letters[byte] = printable ? byte : next;
    if (!printable) next += 1;
  }
  return letters;
}
