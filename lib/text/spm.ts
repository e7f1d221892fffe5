import { StrataError } from "../errors.ts";
import type { Metadata } from "../gguf/metadata.ts";
import { at, PairMerger } from "./merge.ts";
import { byteName, tooShort, type Vocabulary } from "./vocabulary.ts";
import { WordCache } from "./word-cache.ts";

/** SentencePiece-style merging: neighbouring pieces whose union is a token merge, the best score first. */
export class SentencePieceEncoder extends PairMerger {
  /** Tokens of equal score have equal ranks; the best score has rank 0. */
  private readonly ranks: Int32Array;
  private readonly starts: number[] = [];
  private readonly words = new WordCache();
  /**
   * Marks UTF-16 units that come right before U+2581 inside of some token. After any other unit a space starts a word
   * that no merge can join with what is before it, so words are merged, and kept, one by one.
   */
  private readonly joinsSpace: Uint8Array;
  private text = "";
  private without: ReadonlySet<number> | undefined;

  constructor(
    metadata: Metadata,
    private readonly vocabulary: Vocabulary,
  ) {
    super();
    this.ranks = rankScores(metadata, vocabulary.size);
    this.joinsSpace = findSpaceJoiners(vocabulary.texts);
  }

  /** Appends the tokens of a text in which no special token is left. None of `without` comes out. */
  encode(given: string, tokens: number[], without: ReadonlySet<number> | undefined): void {
    const text = given.replaceAll(" ", "\u2581");
    this.without = without;
    let start = 0;
    for (let space = text.indexOf("\u2581", 1); space >= 0; space = text.indexOf("\u2581", space + 1)) {
      if (this.joinsSpace[text.charCodeAt(space - 1)] === 1) continue;
      this.words.append(text.slice(start, space), tokens, without, this.encodeWord);
      start = space;
    }
    if (start < text.length) this.words.append(text.slice(start), tokens, without, this.encodeWord);
  }

  private readonly encodeWord = (word: string): Int32Array => {
    this.text = word;
    const starts = this.starts;
    starts.length = 0;
    for (let start = 0; start < word.length; start += isHighSurrogate(word, start) ? 2 : 1) starts.push(start);
    this.chain(starts.length);
    for (const [index, start] of starts.entries()) {
      this.ids[index] = -1;
      this.lengths[index] = (starts[index + 1] ?? word.length) - start;
    }
    this.mergeAll(starts.length);
    const tokens: number[] = [];
    for (let index = 0; index >= 0; index = at(this.nexts, index)) this.emit(index, tokens);
    return Int32Array.from(tokens);
  };

  protected consider(left: number, right: number): void {
    const size = at(this.lengths, left) + at(this.lengths, right);
    const start = at(this.starts, left);
    const id = this.vocabulary.ids.get(this.text.slice(start, start + size));
    if (id === undefined || this.without?.has(id)) return;
    this.propose(at(this.ranks, id), left, size, id);
  }

  private emit(index: number, tokens: number[]): void {
    const merged = at(this.ids, index);
    if (merged >= 0) {
      tokens.push(merged);
      return;
    }
    const start = at(this.starts, index);
    const letter = this.text.slice(start, start + at(this.lengths, index));
    const id = this.vocabulary.ids.get(letter);
    if (id !== undefined && !this.without?.has(id)) tokens.push(id);
    else for (const byte of utf8.encode(letter)) tokens.push(this.byteToken(byte));
  }

  private byteToken(byte: number): number {
    const { ids } = this.vocabulary;
    const name = byteName(byte);
    const id = ids.get(name) ?? (byte < 0x80 ? ids.get(String.fromCharCode(byte)) : undefined);
    if (id !== undefined) return id;
    throw new StrataError(
      "bad_format",
      `${this.vocabulary.file}: the vocabulary has no token for the byte ${name}, so the text cannot be tokenized`,
    );
  }
}

const utf8 = new TextEncoder();

function isHighSurrogate(text: string, index: number): boolean {
  return (text.charCodeAt(index) & 0xfc00) === 0xd800;
}

function rankScores(metadata: Metadata, count: number): Int32Array {
  const ranks = new Int32Array(count);
  const scores = metadata.numbers("tokenizer.ggml.scores", undefined);
  if (scores === undefined) return ranks;
  if (scores.length < count) throw tooShort(metadata, "tokenizer.ggml.scores", scores.length, count);
  const sorted = Float32Array.from(scores).sort();
  const rankOfScore = new Map<number, number>();
  for (let index = sorted.length - 1; index >= 0; index -= 1) {
    const score = at(sorted, index);
    if (!rankOfScore.has(score)) rankOfScore.set(score, rankOfScore.size);
  }
  for (let id = 0; id < count; id += 1) ranks[id] = rankOfScore.get(Math.fround(at(scores, id))) ?? 0;
  return ranks;
}

function findSpaceJoiners(texts: readonly string[]): Uint8Array {
  const marks = new Uint8Array(65_536);
  for (const text of texts) {
    for (let space = text.indexOf("\u2581", 1); space >= 0; space = text.indexOf("\u2581", space + 1)) {
      marks[text.charCodeAt(space - 1)] = 1;
    }
  }
  return marks;
}
