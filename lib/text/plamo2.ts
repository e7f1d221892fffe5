import { StrataError } from "../errors.ts";
import type { Metadata } from "../gguf/metadata.ts";
import { at } from "./merge.ts";
import { PairTable } from "./pair-table.ts";
import { bits, byteName, tooShort, type Vocabulary } from "./vocabulary.ts";

/**
 * PLaMo-2's tokenizer: of all ways to cut a text into tokens, the one with the highest sum of scores. A character that
 * is in no token costs much and becomes the tokens of its bytes.
 *
 * The text is read from its end. A node stands for the longest text that begins here and ends some token, and a chain
 * of links leads from it to each shorter one: those that are tokens are the choices here.
 */
export class BestScoreEncoder {
  /** The pair (node, code point) has the number of the node of the longer text, less one. Node 0 is the empty text. */
  private readonly nodes: PairTable;
  private readonly lengths: Int32Array;
  /** The token that each node is, where its score is not `noScore`. */
  private readonly tokens: Int32Array;
  private readonly scores: Int32Array;
  /** The longest node that begins each node's text and is not it. */
  private readonly shorter: Int32Array;
  /** The same, but of those that can be chosen. */
  private readonly nextChoice: Int32Array;
  private readonly byteTokens: Int32Array;

  constructor(metadata: Metadata, vocabulary: Vocabulary) {
    this.byteTokens = findByteTokens(vocabulary);
    const scores = readScores(metadata, vocabulary.size);
    const most = vocabulary.texts.reduce((sum, text) => sum + text.length, 0);
    this.nodes = new PairTable(most);
    this.lengths = new Int32Array(most + 1);
    this.tokens = new Int32Array(most + 1).fill(-1);
    this.scores = new Int32Array(most + 1).fill(noScore);
    for (const [id, text] of vocabulary.texts.entries()) {
      if (!vocabulary.has(id, bits.byte)) this.add(id, text, at(scores, id));
    }
    // What is left where nothing matches: one character that no token has.
    this.lengths[0] = 1;
    this.scores[0] = unknownScore;
    this.shorter = this.linkShorter();
    this.nextChoice = this.linkChoices();
  }

  /** Appends the tokens of a text in which no special token is left. None of `without` comes out. */
  encode(text: string, tokens: number[], without: ReadonlySet<number> | undefined): void {
    const all = codePoints(text);
    const points = all[0] === byteOrderMark ? all.subarray(1) : all;
    const chosen = this.choose(points, without);
    for (let index = 0; index < points.length;) {
      const node = at(chosen, index);
      if (node !== 0) tokens.push(at(this.tokens, node));
      else this.appendBytes(at(points, index), tokens);
      index += at(this.lengths, node);
    }
  }

  /** The node of the token that is best at each place, given that what follows is cut as well as can be. */
  private choose(points: Int32Array, without: ReadonlySet<number> | undefined): Int32Array {
    const chosen = new Int32Array(points.length);
    const best = new Float64Array(points.length + 1);
    let longest = 0;
    for (let index = points.length - 1; index >= 0; index -= 1) {
      longest = this.extend(longest, at(points, index));
      let highest = Number.NEGATIVE_INFINITY;
      for (let node = longest; ; node = at(this.nextChoice, node)) {
        const score = at(this.scores, node);
        if (score > noScore && !(node !== 0 && without?.has(at(this.tokens, node)))) {
          const sum = score + at(best, index + at(this.lengths, node));
          if (sum > highest) {
            highest = sum;
            chosen[index] = node;
          }
          // A token of this score ends the choices, in llama.cpp too: files pad their vocabularies with such tokens.
          if (score === unknownScore) break;
        }
      }
      best[index] = highest;
    }
    return chosen;
  }

  /** The longest node that begins the text which has `point` in front of what `node` stands for. */
  private extend(node: number, point: number): number {
    for (let tail = node; ; tail = at(this.shorter, tail)) {
      const longer = this.nodes.find(tail, point) + 1;
      if (longer > 0) return longer;
      if (at(this.scores, tail) === unknownScore) return 0;
    }
  }

  private appendBytes(point: number, tokens: number[]): void {
    for (const byte of utf8.encode(String.fromCodePoint(point))) tokens.push(at(this.byteTokens, byte));
  }

  private add(id: number, text: string, score: number): void {
    let node = 0;
    let length = 0;
    for (const point of codePoints(text).reverse()) {
      node = this.nodes.add(node, point) + 1;
      length += 1;
      this.lengths[node] = length;
    }
    this.tokens[node] = id;
    this.scores[node] = score;
  }

  private linkShorter(): Int32Array {
    const shorter = new Int32Array(this.nodes.size + 1);
    // The links of shorter texts come first: longer ones are found through them.
    const order = Int32Array.from({ length: this.nodes.size }, (_, index) => index + 1);
    order.sort((a, b) => at(this.lengths, a) - at(this.lengths, b));
    for (const node of order) {
      const point = this.nodes.right(node - 1);
      let tail = this.nodes.left(node - 1);
      while (tail !== 0 && at(shorter, node) === 0) {
        tail = at(shorter, tail);
        shorter[node] = this.nodes.find(tail, point) + 1;
      }
    }
    return shorter;
  }

  private linkChoices(): Int32Array {
    return this.shorter.map((first) => {
      let node = first;
      while (at(this.scores, node) <= noScore) node = at(this.shorter, node);
      return node;
    });
  }
}

/** A byte's value where a token is spelled as one, `<0x0A>`, or undefined. */
export function byteOfName(text: string): number | undefined {
  return /^<0x[0-9A-Fa-f]{2}>$/.test(text) ? Number.parseInt(text.slice(3, 5), 16) : undefined;
}

/** Scores are compared in ten thousandths. This one, or less, is of what is not to be chosen. */
const noScore = -20_000_000;
const unknownScore = -10_000_000;
const byteOrderMark = 0xfeff;
const utf8 = new TextEncoder();

function codePoints(text: string): Int32Array {
  const points = new Int32Array(text.length);
  let length = 0;
  for (const letter of text) {
    points[length] = letter.codePointAt(0) as number;
    length += 1;
  }
  return points.subarray(0, length);
}

function readScores(metadata: Metadata, count: number): Int32Array {
  const scores = metadata.numbers("tokenizer.ggml.scores", undefined);
  if (scores === undefined) return new Int32Array(count);
  if (scores.length < count) throw tooShort(metadata, "tokenizer.ggml.scores", scores.length, count);
  return Int32Array.from({ length: count }, (_, id) => {
    const scaled = Math.fround(at(scores, id)) * 1e4;
    // Halves are rounded away from zero.
    const rounded = Math.sign(scaled) * Math.round(Math.abs(scaled));
    return Math.abs(rounded) < 2 ** 31 ? rounded : noScore;
  });
}

function findByteTokens(vocabulary: Vocabulary): Int32Array {
  const tokens = new Int32Array(256).fill(-1);
  for (const [id, text] of vocabulary.texts.entries()) {
    const byte = vocabulary.has(id, bits.byte) ? byteOfName(text) : undefined;
    if (byte !== undefined) tokens[byte] = id;
  }
  const missing = tokens.indexOf(-1);
  if (missing < 0) return tokens;
  throw new StrataError(
    "bad_format",
    `${vocabulary.file}: the vocabulary has no token of type byte for ${byteName(missing)}, and a "plamo2" tokenizer needs ` +
      `all 256`,
  );
}
