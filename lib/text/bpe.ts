import { StrataError } from "../errors.ts";
import type { Metadata } from "../model/metadata.ts";
import { at, PairMerger } from "./merge.ts";
import { preTokenizer, splitWords, type PreTokenizer } from "./pre-tokenizer.ts";
import type { Vocabulary } from "./vocabulary.ts";
import { WordCache } from "./word-cache.ts";

/** Byte-level BPE spells each byte as one printable character: this is the character code of each byte. */
export const byteLetters: Uint16Array = makeByteLetters();

/** Byte-level byte-pair encoding: text is cut into words, whose bytes are merged by the file's list of merges. */
export class BytePairEncoder {
  readonly preTokenizer: PreTokenizer;
  private readonly merger: WordMerger;
  private readonly words = new WordCache();

  constructor(
    metadata: Metadata,
    private readonly vocabulary: Vocabulary,
  ) {
    this.preTokenizer = preTokenizer(metadata.file, metadata.string("tokenizer.ggml.pre", "default") || "default");
    this.merger = new WordMerger(metadata.strings("tokenizer.ggml.merges"), vocabulary);
  }

  /** Appends the tokens of a text in which no special token is left. None of `without` comes out. */
  encode(text: string, tokens: number[], without: ReadonlySet<number> | undefined): void {
    const encode = (word: string): Int32Array => this.encodeWord(word, without);
    for (const word of splitWords(text, this.preTokenizer.patterns)) this.words.append(word, tokens, without, encode);
  }

  private encodeWord(word: string, without: ReadonlySet<number> | undefined): Int32Array {
    const bytes = utf8.encode(word);
    if (this.preTokenizer.ignoreMerges) {
      const id = this.vocabulary.ids.get(spell(bytes));
      if (id !== undefined && !without?.has(id)) return Int32Array.of(id);
    }
    return this.merger.merge(bytes, without);
  }
}

/** Merges the bytes of one word. */
class WordMerger extends PairMerger {
  /** The symbol of each byte. Symbols that are no tokens have ids from the vocabulary's size on. */
  private readonly symbolOfByte = new Int32Array(256);
  private readonly extraSymbols: string[] = [];
  private readonly merges: MergeTable;
  private without: ReadonlySet<number> | undefined;

  constructor(
    merges: readonly string[],
    private readonly vocabulary: Vocabulary,
  ) {
    super();
    const extra = new Map<string, number>();
    const intern = (text: string): number => {
      const known = vocabulary.ids.get(text) ?? extra.get(text);
      if (known !== undefined) return known;
      const id = vocabulary.size + extra.size;
      extra.set(text, id);
      this.extraSymbols.push(text);
      return id;
    };
    for (let byte = 0; byte < 256; byte += 1) {
      this.symbolOfByte[byte] = intern(String.fromCharCode(at(byteLetters, byte)));
    }
    this.merges = new MergeTable(merges.length);
    for (const [rank, merge] of merges.entries()) {
      const space = merge.indexOf(" ", 1);
      if (space < 0) continue;
      const left = merge.slice(0, space);
      const right = merge.slice(space + 1);
      this.merges.add(intern(left), intern(right), rank, intern(left + right));
    }
  }

  merge(bytes: Uint8Array, without: ReadonlySet<number> | undefined): Int32Array {
    this.without = without;
    this.chain(bytes.length);
    for (const [index, byte] of bytes.entries()) {
      this.ids[index] = at(this.symbolOfByte, byte);
      this.lengths[index] = 1;
    }
    this.mergeAll(bytes.length);
    const tokens: number[] = [];
    for (let index = bytes.length === 0 ? -1 : 0; index >= 0; index = at(this.nexts, index)) {
      this.emit(at(this.ids, index), tokens);
    }
    return Int32Array.from(tokens);
  }

  protected consider(left: number, right: number): void {
    const slot = this.merges.find(at(this.ids, left), at(this.ids, right));
    if (slot < 0) return;
    const result = this.merges.result(slot);
    if (this.without?.has(result)) return;
    this.propose(this.merges.rank(slot), left, at(this.lengths, left) + at(this.lengths, right), result);
  }

  /** A symbol that is no token falls apart into those of its characters that are ASCII and tokens, as in llama.cpp. */
  private emit(symbol: number, tokens: number[]): void {
    if (symbol < this.vocabulary.size) {
      if (this.without?.has(symbol)) {
        throw new StrataError(
          "invalid_argument",
          `${this.vocabulary.file}: a byte of the text has no token but "${this.vocabulary.texts[symbol]}", which is special`,
        );
      }
      tokens.push(symbol);
      return;
    }
    for (const letter of this.extraSymbols[symbol - this.vocabulary.size] ?? "") {
      const id = letter <= "\x7f" ? this.vocabulary.ids.get(letter) : undefined;
      if (id !== undefined) tokens.push(id);
    }
  }
}

/** Pairs of symbols to their merge: open addressing in typed arrays, half a million merges are 12 MiB. */
class MergeTable {
  private readonly mask: number;
  private readonly slots: Int32Array;
  private readonly columns: Int32Array;
  private count = 0;

  constructor(capacity: number) {
    const room = 2 ** Math.ceil(Math.log2(Math.max(2, capacity * 2)));
    this.mask = room - 1;
    this.slots = new Int32Array(room).fill(-1);
    this.columns = new Int32Array(4 * capacity);
  }

  /** Adds a merge. The first of a pair counts. */
  add(left: number, right: number, rank: number, result: number): void {
    let slot = hash(left, right) & this.mask;
    for (; at(this.slots, slot) >= 0; slot = (slot + 1) & this.mask) {
      if (this.holds(at(this.slots, slot), left, right)) return;
    }
    this.slots[slot] = this.count;
    this.columns.set([left, right, rank, result], 4 * this.count);
    this.count += 1;
  }

  /** The merge of a pair, for `rank` and `result`, or -1. */
  find(left: number, right: number): number {
    for (let slot = hash(left, right) & this.mask; ; slot = (slot + 1) & this.mask) {
      const entry = at(this.slots, slot);
      if (entry < 0 || this.holds(entry, left, right)) return entry;
    }
  }

  rank(entry: number): number {
    return at(this.columns, 4 * entry + 2);
  }

  result(entry: number): number {
    return at(this.columns, 4 * entry + 3);
  }

  private holds(entry: number, left: number, right: number): boolean {
    return at(this.columns, 4 * entry) === left && at(this.columns, 4 * entry + 1) === right;
  }
}

const utf8 = new TextEncoder();

function hash(left: number, right: number): number {
  const mixed = Math.imul(left, 0x9e3779b1) ^ Math.imul(right, 0x85ebca6b);
  return mixed ^ (mixed >>> 15);
}

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
