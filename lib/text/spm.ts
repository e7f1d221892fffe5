import { StrataError } from "../errors.ts";
import type { Metadata } from "../model/metadata.ts";
import { at, PairMerger } from "./merge.ts";
import { tooShort, type Vocabulary } from "./vocabulary.ts";

/** SentencePiece-style merging: neighbouring pieces whose union is a token merge, the best score first. */
export class SentencePieceEncoder extends PairMerger {
  /** Tokens of equal score have equal ranks; the best score has rank 0. */
  private readonly ranks: Int32Array;
  private readonly starts: number[] = [];
  private text = "";
  private without: ReadonlySet<number> | undefined;

  constructor(
    metadata: Metadata,
    private readonly vocabulary: Vocabulary,
  ) {
    super();
    this.ranks = rankScores(metadata, vocabulary.size);
  }

  /** Appends the tokens of a text whose spaces are already U+2581. None of `without` comes out. */
  encode(text: string, tokens: number[], without: ReadonlySet<number> | undefined): void {
    this.text = text;
    this.without = without;
    const starts = this.starts;
    starts.length = 0;
    for (let start = 0; start < text.length; start += isHighSurrogate(text, start) ? 2 : 1) starts.push(start);
    this.chain(starts.length);
    for (const [index, start] of starts.entries()) {
      this.ids[index] = -1;
      this.lengths[index] = (starts[index + 1] ?? text.length) - start;
    }
    this.mergeAll(starts.length);
    for (let index = starts.length === 0 ? -1 : 0; index >= 0; index = at(this.nexts, index)) {
      this.emit(index, tokens);
    }
  }

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
    const name = `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`;
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
