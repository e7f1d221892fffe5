import { StrataError } from "../errors.ts";
import type { Metadata } from "../model/metadata.ts";
import { BytePairEncoder } from "./bpe.ts";
import { ByteBuffer, cleanUpSpaces, decodeUtf8, StreamDecoder, TokenPieces } from "./decode.ts";
import { SpecialTokens, type Fragment } from "./partition.ts";
import { SentencePieceEncoder } from "./spm.ts";
import { bits, Vocabulary, type TokenAttribute } from "./vocabulary.ts";

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
  /** SentencePiece-style (`spm`) or byte-level byte-pair encoding (`bpe`). */
  readonly kind: "spm" | "bpe";
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

/**
 * The tokenizer of a model file.
 * @throws StrataError `unsupported` where the file has none, or one of a kind or pre-tokenizer that is not known;
 * `bad_format` where its metadata are incomplete
 */
export function createTokenizer(metadata: Metadata): Tokenizer {
  const model = metadata.string("tokenizer.ggml.model", "none");
  if (model === "llama") return new GgufTokenizer(metadata, "spm");
  if (model === "gpt2") return new GgufTokenizer(metadata, "bpe");
  if (model === "none" || model === "no_vocab") {
    throw new StrataError(
      "unsupported",
      `${metadata.file}: the file has no tokenizer (tokenizer.ggml.model), so give token ids instead of text`,
    );
  }
  throw new StrataError(
    "unsupported",
    `${metadata.file}: the tokenizer "${model}" (tokenizer.ggml.model) is not known, known are "llama" and "gpt2"`,
  );
}

/** Default ids where a file names none, as llama.cpp has them. */
const defaultIds = {
  spm: { bos: 1, eos: 2, unk: 0 },
  bpe: { bos: 11, eos: 11 },
  bpeWithoutBos: { eos: 11 },
} as const;

class GgufTokenizer implements Tokenizer {
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
  private readonly encoder: BytePairEncoder | SentencePieceEncoder;
  private readonly addSpacePrefix: boolean;
  private readonly cleanUp: boolean;
  private readonly userDefined: SpecialTokens;
  private readonly control: SpecialTokens;
  private readonly allSpecial: SpecialTokens;

  constructor(
    metadata: Metadata,
    readonly kind: "spm" | "bpe",
  ) {
    const isGlm = ["glm4", "chatglm-bpe"].includes(metadata.string("tokenizer.ggml.pre", ""));
    const vocabulary = new Vocabulary(metadata, defaultIds[kind === "bpe" && isGlm ? "bpeWithoutBos" : kind]);
    this.vocabulary = vocabulary;
    this.vocabularySize = vocabulary.size;
    this.bos = vocabulary.bos;
    this.eos = vocabulary.eos;
    this.eot = vocabulary.eot;
    this.pad = vocabulary.pad;
    this.unk = vocabulary.unk;
    if (kind === "spm") {
      this.encoder = new SentencePieceEncoder(metadata, vocabulary);
      this.cleanUp = false;
    } else {
      this.encoder = new BytePairEncoder(metadata, vocabulary);
      this.cleanUp = this.encoder.preTokenizer.cleanUp;
    }
    const addsBos = this.encoder instanceof SentencePieceEncoder || this.encoder.preTokenizer.addBos;
    this.addBos = metadata.boolean("tokenizer.ggml.add_bos_token", addsBos) && this.bos !== undefined;
    this.addEos = metadata.boolean("tokenizer.ggml.add_eos_token", false) && this.eos !== undefined;
    this.addSpacePrefix = metadata.boolean("tokenizer.ggml.add_space_prefix", kind === "spm");
    this.pieces = new TokenPieces(vocabulary, kind === "spm" ? "underscores" : "letters");
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
    if (this.kind === "bpe") {
      this.encoder.encode(fragment, tokens, without);
    } else {
      const prefix = this.addSpacePrefix && !afterText ? " " : "";
      this.encoder.encode((prefix + fragment).replaceAll(" ", "\u2581"), tokens, without);
    }
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
