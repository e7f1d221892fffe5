import { StrataError } from "../errors.ts";
import type { Metadata } from "../gguf/metadata.ts";
import { ByteBuffer, cleanUpSpaces, decodeUtf8, StreamDecoder, TokenPieces } from "./decode.ts";
import { tokenizerModels, type Encoder, type TokenizerKind, type TokenizerParts } from "./kinds.ts";
import { SpecialTokens, type Fragment } from "./partition.ts";
import { bits, type TokenAttribute, type Vocabulary } from "./vocabulary.ts";

export interface EncodeOptions {
  /** Whether the text of special tokens in `text` becomes those tokens. Otherwise it is text like any other: false. */
  readonly special?: boolean;
  /** Whether BOS comes first. As the file says unless given. */
  readonly bos?: boolean;
  /** Whether EOS comes last. As the file says unless given. */
  readonly eos?: boolean;
  /** Tokens that must not come out of the text by any route, not even by merging its letters. */
  readonly without?: ReadonlySet<number>;
}

export interface DecodeOptions {
  /** Whether control tokens are written out as their text: false. */
  readonly special?: boolean;
  /**
   * Whether the text is put in order as llama.cpp's `detokenize` does it: the space that a SentencePiece file puts
   * before a text is dropped, and spaces before punctuation where the file's kind asks for that. `false` gives the
   * tokens' bytes as they are, which is what a `StreamDecoder` gives too. True unless given.
   */
  readonly cleanUp?: boolean;
}

/** Text to token ids and back, exactly as llama.cpp does it for the same file. */
export interface Tokenizer {
  readonly kind: TokenizerKind;
  readonly vocabularySize: number;
  readonly bos: number | undefined;
  readonly eos: number | undefined;
  readonly eot: number | undefined;
  readonly pad: number | undefined;
  readonly unk: number | undefined;
  /** Whether the file says that a prompt starts with BOS, ends with EOS. */
  readonly addBos: boolean;
  readonly addEos: boolean;
  /** Tokens that structure input and are no text: control and unknown tokens. */
  readonly specialTokens: ReadonlySet<number>;
  /** Whether a model that gives this token is done. */
  isEndOfGeneration(id: number): boolean;
  /**
   * @throws StrataError `invalid_argument` where the text has a lone surrogate, or BOS or EOS is asked for and the
   * file names none
   */
  encode(text: string, options?: EncodeOptions): number[];
  /** Cuts a text at the text of `specialTokens`: gives their ids and what is between them. */
  splitSpecial(text: string): (number | string)[];
  /** @throws StrataError `invalid_argument` where the vocabulary lacks an id, as the functions below do */
  decode(ids: ArrayLike<number>, options?: DecodeOptions): string;
  /** Decodes tokens as they come. */
  decoder(options?: { readonly special?: boolean }): StreamDecoder;
  /** The bytes that a token stands for; a part of a character has some of its bytes. */
  tokenBytes(id: number): Uint8Array;
  /** The token's text as the file spells it. */
  tokenText(id: number): string;
  /** The id of a token by its text as the file spells it. */
  tokenId(text: string): number | undefined;
  attribute(id: number): TokenAttribute;
}

/** Whether a model file has a tokenizer, known or not. */
export function hasTokenizer(metadata: Metadata): boolean {
  return !["none", "no_vocab"].includes(metadata.string("tokenizer.ggml.model", "none"));
}

/**
 * The tokenizer of a model file.
 * @throws StrataError `unsupported` where the file has none, or one of a kind or pre-tokenizer that is not known;
 * `bad_format` where its metadata are incomplete
 */
export function createTokenizer(metadata: Metadata): Tokenizer {
  const model = metadata.string("tokenizer.ggml.model", "none");
  const open = tokenizerModels.get(model);
  if (open !== undefined) return new GgufTokenizer(metadata, open(metadata));
  if (!hasTokenizer(metadata)) {
    throw new StrataError(
      "unsupported",
      `${metadata.file}: the file has no tokenizer (tokenizer.ggml.model), so give token ids instead of text`,
    );
  }
  throw new StrataError(
    "unsupported",
    `${metadata.file}: the tokenizer "${model}" (tokenizer.ggml.model) is not known, known are ${[...tokenizerModels.keys()].join(", ")}`,
  );
}

class GgufTokenizer implements Tokenizer {
  readonly kind: TokenizerKind;
  readonly vocabularySize: number;
  readonly bos: number | undefined;
  readonly eos: number | undefined;
  readonly eot: number | undefined;
  readonly pad: number | undefined;
  readonly unk: number | undefined;
  readonly addBos: boolean;
  readonly addEos: boolean;
  readonly specialTokens: ReadonlySet<number>;
  private readonly vocabulary: Vocabulary;
  private readonly pieces: TokenPieces;
  private readonly encoder: Encoder;
  private readonly addSpacePrefix: boolean;
  private readonly cleanUp: boolean;
  private readonly userDefined: SpecialTokens;
  private readonly control: SpecialTokens;
  private readonly allSpecial: SpecialTokens;

  constructor(metadata: Metadata, parts: TokenizerParts) {
    const { vocabulary } = parts;
    this.kind = parts.kind;
    this.vocabulary = vocabulary;
    this.encoder = parts.encoder;
    this.cleanUp = parts.cleanUp;
    this.vocabularySize = vocabulary.size;
    this.bos = vocabulary.bos;
    this.eos = vocabulary.eos;
    this.eot = vocabulary.eot;
    this.pad = vocabulary.pad;
    this.unk = vocabulary.unk;
    const asked = metadata.boolean("tokenizer.ggml.add_bos_token", parts.addBos !== false);
    this.addBos = (asked || parts.addBos === "always") && this.bos !== undefined;
    this.addEos = metadata.boolean("tokenizer.ggml.add_eos_token", false) && this.eos !== undefined;
    this.addSpacePrefix = metadata.boolean("tokenizer.ggml.add_space_prefix", parts.addSpacePrefix);
    this.pieces = new TokenPieces(vocabulary, parts.spelling);
    const isControl = (id: number): boolean => vocabulary.has(id, bits.control | bits.unknown);
    const isUserDefined = (id: number): boolean => vocabulary.has(id, bits.userDefined);
    this.userDefined = new SpecialTokens(vocabulary, (id) => isUserDefined(id) && !isControl(id));
    this.control = new SpecialTokens(vocabulary, isControl);
    this.allSpecial = new SpecialTokens(vocabulary, (id) => isUserDefined(id) || isControl(id));
    this.specialTokens = findSpecial(vocabulary);
  }

  isEndOfGeneration(id: number): boolean {
    return this.vocabulary.endOfGeneration.has(id);
  }

  encode(text: string, options: EncodeOptions = {}): number[] {
    if (!text.isWellFormed()) throw loneSurrogate(text);
    const tokens: number[] = [];
    if (options.bos ?? this.addBos) tokens.push(this.need(this.bos, "bos"));
    const specials = options.special === true ? this.allSpecial : this.userDefined;
    let afterText = false;
    for (const fragment of specials.split(text)) {
      afterText = this.encodeFragment(fragment, afterText, tokens, options.without);
    }
    if (options.eos ?? this.addEos) tokens.push(this.need(this.eos, "eos"));
    return tokens;
  }

  splitSpecial(text: string): (number | string)[] {
    return this.control.split(text);
  }

  decode(ids: ArrayLike<number>, options: DecodeOptions = {}): string {
    const buffer = new ByteBuffer();
    for (let index = 0; index < ids.length; index += 1) {
      this.pieces.append(ids[index] as number, options.special ?? false, buffer);
      const isFirst = index === 0 && this.addSpacePrefix && options.cleanUp !== false;
      if (isFirst && buffer.view()[0] === 0x20) buffer.dropFirst();
    }
    if (options.cleanUp === false || !this.cleanUp) return decodeUtf8(buffer.view());
    return decodeUtf8(cleanUpSpaces(buffer.view()));
  }

  decoder(options: { readonly special?: boolean } = {}): StreamDecoder {
    return new StreamDecoder(this.pieces, options.special ?? false);
  }

  tokenBytes(id: number): Uint8Array {
    this.vocabulary.check(id);
    return this.pieces.bytes(id);
  }

  tokenText(id: number): string {
    this.vocabulary.check(id);
    return this.vocabulary.texts[id] as string;
  }

  tokenId(text: string): number | undefined {
    return this.vocabulary.ids.get(text);
  }

  attribute(id: number): TokenAttribute {
    return this.vocabulary.attribute(id);
  }

  /** Appends a fragment's tokens; tells whether it was text. */
  private encodeFragment(
    fragment: Fragment,
    afterText: boolean,
    tokens: number[],
    without: ReadonlySet<number> | undefined,
  ): boolean {
    if (typeof fragment === "number") {
      tokens.push(fragment);
      return false;
    }
    const prefix = this.kind === "spm" && this.addSpacePrefix && !afterText ? " " : "";
    this.encoder.encode(prefix + fragment, tokens, without);
    return true;
  }

  private need(id: number | undefined, role: "bos" | "eos"): number {
    if (id !== undefined) return id;
    throw new StrataError(
      "invalid_argument",
      `${this.vocabulary.file}: the file names no ${role} token (tokenizer.ggml.${role}_token_id), so none can be added`,
    );
  }
}

function findSpecial(vocabulary: Vocabulary): Set<number> {
  const special = new Set<number>();
  for (let id = 0; id < vocabulary.size; id += 1) {
    if (vocabulary.has(id, bits.control | bits.unknown)) special.add(id);
  }
  return special;
}

function loneSurrogate(text: string): StrataError {
  const lone = /[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/;
  return new StrataError(
    "invalid_argument",
    `the text has half of a surrogate pair at index ${text.search(lone)}, which is no character: ` +
      `remove or replace it (String.prototype.toWellFormed does)`,
  );
}
