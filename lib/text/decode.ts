import { byteLetters } from "./bpe.ts";
import { at } from "./merge.ts";
import { byteOfName } from "./plamo2.ts";
import { unescapeBytes } from "./rwkv.ts";
import { bits, type Vocabulary } from "./vocabulary.ts";

/**
 * How tokens spell their bytes: one letter a byte, text with U+2581 for a space, text with `\x0A` for what is no
 * text, or plain text.
 */
export type Spelling = "letters" | "underscores" | "escapes" | "plain";

/** The bytes of tokens. Nothing is kept per token: a vocabulary of a quarter million costs no memory here. */
export class TokenPieces {
  constructor(
    private readonly vocabulary: Vocabulary,
    private readonly spelling: Spelling,
  ) {}

  /**
   * The bytes that a token stands for, its own text where it is a control token. Unused tokens have none but where
   * tokens are plain or escaped text.
   */
  bytes(id: number): Uint8Array {
    const text = this.vocabulary.texts[id] ?? "";
    if (this.spelling === "escapes") return unescapeBytes(text);
    if (this.spelling === "plain") return this.plainBytes(id, text);
    if (this.vocabulary.has(id, bits.unknown | bits.control | bits.userDefined)) return utf8.encode(text);
    if (this.vocabulary.has(id, bits.normal)) {
      return this.spelling === "letters" ? unspell(text) : utf8.encode(text.replaceAll("\u2581", " "));
    }
    if (!this.vocabulary.has(id, bits.byte)) return new Uint8Array(0);
    return Uint8Array.of(Number.parseInt(text.slice(3, 5), 16));
  }

  private plainBytes(id: number, text: string): Uint8Array {
    const byte = this.vocabulary.has(id, bits.byte) ? byteOfName(text) : undefined;
    return byte === undefined ? utf8.encode(text) : Uint8Array.of(byte);
  }

  /** Appends the bytes of a token to a buffer. Control tokens have none unless `special`. */
  append(id: number, special: boolean, into: ByteBuffer): void {
    this.vocabulary.check(id);
    if (!special && this.vocabulary.has(id, bits.unknown | bits.control)) return;
    into.push(this.bytes(id));
  }
}

/** Bytes that grow. */
export class ByteBuffer {
  private bytes = new Uint8Array(256);
  private length = 0;

  push(more: Uint8Array): void {
    if (this.length + more.length > this.bytes.length) {
      const larger = new Uint8Array(2 * (this.length + more.length));
      larger.set(this.bytes.subarray(0, this.length));
      this.bytes = larger;
    }
    this.bytes.set(more, this.length);
    this.length += more.length;
  }

  view(): Uint8Array {
    return this.bytes.subarray(0, this.length);
  }

  dropFirst(): void {
    this.bytes = this.bytes.slice(1);
    this.length -= 1;
  }
}

/** Bytes to text, a broken character to U+FFFD. A byte order mark is text like any other. */
export function decodeUtf8(bytes: Uint8Array): string {
  return new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes);
}

/** Text from tokens as they come: a character is given out when all of its bytes are there. */
export class StreamDecoder {
  private readonly decoder = new TextDecoder("utf-8", { ignoreBOM: true });

  /** Use `Tokenizer.decoder`. */
  constructor(
    private readonly pieces: TokenPieces,
    private readonly special: boolean,
  ) {}

  /**
   * The text that became complete with this token, often empty inside of a character.
   * @throws StrataError `invalid_argument` where the vocabulary lacks the id
   */
  push(id: number): string {
    const bytes = new ByteBuffer();
    this.pieces.append(id, this.special, bytes);
    return this.decoder.decode(bytes.view(), { stream: true });
  }

  /** What is left at the end: U+FFFD where a character never became complete, else nothing. */
  flush(): string {
    return this.decoder.decode();
  }
}

/**
 * Drops the spaces that some tokenizers' training put before punctuation and around apostrophes: " ." to ".",
 * " 's" to "'s", " ' " to "'". Three passes in place, each over what the one before it left.
 */
export function cleanUpSpaces(bytes: Uint8Array): Uint8Array {
  let text = dropBefore(bytes, (x) => x === mark("?") || x === mark("!") || x === mark(".") || x === mark(","));
  text = joinApostrophes(text);
  return dropBefore(text, (x, y, z) => x === mark("'") && isContraction(y, z));
}

/** Removes the space before a byte of which `drop`, given it and the two after it (-1 at the end), says so. */
function dropBefore(text: Uint8Array, drop: (x: number, y: number, z: number) => boolean): Uint8Array {
  let kept = Math.min(1, text.length);
  for (let index = 1; index < text.length; index += 1) {
    const byte = at(text, index);
    if (at(text, index - 1) === mark(" ") && drop(byte, text[index + 1] ?? -1, text[index + 2] ?? -1)) kept -= 1;
    text[kept] = byte;
    kept += 1;
  }
  return text.subarray(0, kept);
}

/** An apostrophe between two spaces loses both. */
function joinApostrophes(text: Uint8Array): Uint8Array {
  let kept = Math.min(1, text.length);
  for (let index = 1; index < text.length; index += 1) {
    const byte = at(text, index);
    const alone = byte === mark("'") && at(text, index - 1) === mark(" ") && text[index + 1] === mark(" ");
    if (alone) {
      kept -= 1;
      index += 1;
      // The dropped space must not count as the one before a further apostrophe.
      text[index] = 0;
    }
    text[kept] = byte;
    kept += 1;
  }
  return text.subarray(0, kept);
}

/** The contractions whose space goes: 's, 'm, 're, 've. */
function isContraction(first: number, second: number): boolean {
  if (first === mark("s") || first === mark("m")) return true;
  return second === mark("e") && (first === mark("r") || first === mark("v"));
}

const utf8 = new TextEncoder();

function mark(letter: string): number {
  return letter.charCodeAt(0);
}

/** The byte of each letter by its character code, -1 where it has none. */
const byteOfLetter = new Int16Array(512).fill(-1);
for (const [byte, letter] of byteLetters.entries()) byteOfLetter[letter] = byte;

/** Byte-level letters to bytes. A letter that stands for no byte is written out, with the token, as llama.cpp does. */
function unspell(text: string): Uint8Array {
  const bytes = new Uint8Array(text.length);
  for (let index = 0; index < text.length; index += 1) {
    const byte = byteOfLetter[text.charCodeAt(index)] ?? -1;
    if (byte < 0) return unspellWithOthers(text);
    bytes[index] = byte;
  }
  return bytes;
}

function unspellWithOthers(text: string): Uint8Array {
  const buffer = new ByteBuffer();
  for (const letter of text) {
    const byte = byteOfLetter[letter.codePointAt(0) ?? 0] ?? -1;
    if (byte >= 0) buffer.push(Uint8Array.of(byte));
    else buffer.push(utf8.encode(`[UNK_BYTE_0x${Buffer.from(letter).toString("hex")}${text}]`));
  }
  return buffer.view();
}
