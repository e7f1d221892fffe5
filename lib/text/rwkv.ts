import { StrataError } from "../errors.ts";
import { at } from "./merge.ts";
import { PairTable } from "./pair-table.ts";
import type { Vocabulary } from "./vocabulary.ts";

/** RWKV's tokenizer: at each place of the text, the longest token whose bytes begin there. */
export class LongestMatchEncoder {
  /** A trie of bytes: the pair (node, byte) has the number of the next node less one. Node 0 is the root. */
  private readonly nodes: PairTable;
  /** The token that ends at each node, or -1. */
  private readonly tokenAt: Int32Array;

  constructor(private readonly vocabulary: Vocabulary) {
    const spelled = vocabulary.texts.map(unescapeBytes);
    const most = spelled.reduce((sum, bytes) => sum + bytes.length, 0);
    this.nodes = new PairTable(most);
    const tokenAt = new Int32Array(most + 1).fill(-1);
    for (const [id, bytes] of spelled.entries()) {
      let node = 0;
      for (const byte of bytes) node = this.nodes.add(node, byte) + 1;
      tokenAt[node] = id;
    }
    // No text is made of the token that has no bytes.
    tokenAt[0] = -1;
    this.tokenAt = tokenAt.slice(0, this.nodes.size + 1);
  }

  /** Appends the tokens of a text in which no special token is left. None of `without` comes out. */
  encode(text: string, tokens: number[], without: ReadonlySet<number> | undefined): void {
    const bytes = utf8.encode(text);
    for (let start = 0; start < bytes.length;) {
      let longest = -1;
      let end = start;
      let node = 0;
      for (let index = start; index < bytes.length; index += 1) {
        node = this.nodes.find(node, at(bytes, index)) + 1;
        if (node === 0) break;
        const token = at(this.tokenAt, node);
        if (token < 0 || without?.has(token)) continue;
        longest = token;
        end = index + 1;
      }
      tokens.push(longest >= 0 ? longest : this.unknown(at(bytes, start), without));
      start = longest >= 0 ? end : start + 1;
    }
  }

  private unknown(byte: number, without: ReadonlySet<number> | undefined): number {
    const { file, unk } = this.vocabulary;
    if (unk !== undefined && !without?.has(unk)) return unk;
    throw new StrataError(
      "bad_format",
      `${file}: no token of the vocabulary begins with the byte 0x${byte.toString(16).padStart(2, "0")} and may be ` +
        `used here, so the text cannot be tokenized`,
    );
  }
}

/** The bytes of a token as RWKV's files spell them: `\n`, `\t`, `\r`, `\x` and two digits, else a letter's own. */
export function unescapeBytes(text: string): Uint8Array {
  const spelled = utf8.encode(text);
  if (!text.includes("\\")) return spelled;
  const bytes = new Uint8Array(spelled.length);
  let length = 0;
  for (let index = 0; index < spelled.length; index += 1) {
    let byte = at(spelled, index);
    if (byte === backslash) {
      index += 1;
      if (index >= spelled.length) break;
      byte = at(spelled, index);
      if (byte === hexMark) {
        if (index + 2 >= spelled.length) break;
        byte = (hexDigit(at(spelled, index + 1)) << 4) + hexDigit(at(spelled, index + 2));
        index += 2;
      } else {
        byte = escaped.get(byte) ?? byte;
      }
    }
    bytes[length] = byte;
    length += 1;
  }
  return bytes.subarray(0, length);
}

const backslash = 0x5c;
const hexMark = 0x78;
/** What stands for tab, line feed and carriage return after a backslash: t, n, r. */
const escaped: ReadonlyMap<number, number> = new Map([
  [0x74, 0x09],
  [0x6e, 0x0a],
  [0x72, 0x0d],
]);

function hexDigit(letter: number): number {
  return letter >= 0x61 && letter < 0x80 ? letter - 0x61 + 10 : letter - 0x30;
}

const utf8 = new TextEncoder();
