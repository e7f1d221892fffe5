import { StrataError } from "../errors.ts";
import type { Metadata } from "../gguf/metadata.ts";
import { at } from "./merge.ts";

/** What a token is for. `control` tokens structure the model's input; their text in a user's text means nothing. */
export type TokenAttribute = "normal" | "unknown" | "control" | "user_defined" | "unused" | "byte";

/** A token's properties as bits: a token may have several. */
export const bits = {
  unknown: 1,
  unused: 2,
  normal: 4,
  control: 8,
  userDefined: 16,
  byte: 32,
  stripLeft: 128,
  stripRight: 256,
} as const;

/** `tokenizer.ggml.token_type` to bits, by index. */
const bitsOfType = [0, bits.normal, bits.unknown, bits.control, bits.userDefined, bits.unused, bits.byte];

/** Texts that end a turn, in the order in which one becomes the end-of-turn token of a file that names none. */
const endOfTurnTexts = [
  "<|eot_id|>",
  "<|im_end|>",
  "<|end|>",
  "<end_of_turn>",
  "<|endoftext|>",
  "<|end_of_text|>",
  "<EOT>",
  "_<EOT>",
  "[EOT]",
  "<｜end▁of▁sentence｜>",
  "<end_of_utterance>",
];

/** Texts whose tokens end a generation wherever a vocabulary has them. */
const endOfGenerationTexts = [
  "<|eot_id|>",
  "<|im_end|>",
  "<|end|>",
  "<|return|>",
  "<|call|>",
  "<|flush|>",
  "<|calls|>",
  "<end_of_turn>",
  "<|endoftext|>",
  "</s>",
  "<|eom_id|>",
  "<EOT>",
  "_<EOT>",
  "[EOT]",
  "[EOS]",
  "<|end_of_text|>",
  "<end_of_utterance>",
  "<eos>",
  "<turn|>",
  "<|tool_response>",
  "<｜end▁of▁sentence｜>",
  "[e~[",
];

/** Marks of fill-in-the-middle: the first of each list that a vocabulary has is a control token. */
const fillTexts = [
  [
    "<|fim_prefix|>",
    "<fim-prefix>",
    "<fim_prefix>",
    "<｜fim▁begin｜>",
    "<PRE>",
    "▁<PRE>",
    "<|code_prefix|>",
    "<|prefix|>",
  ],
  [
    "<|fim_suffix|>",
    "<fim-suffix>",
    "<fim_suffix>",
    "<｜fim▁hole｜>",
    "<SUF>",
    "▁<SUF>",
    "<|code_suffix|>",
    "<|suffix|>",
  ],
  [
    "<|fim_middle|>",
    "<fim-middle>",
    "<fim_middle>",
    "<｜fim▁end｜>",
    "<MID>",
    "▁<MID>",
    "<|code_middle|>",
    "<|middle|>",
  ],
] as const;

/** Those of them that also end a generation: padding, a repository's name, a file's separator. */
const endingFillTexts = [
  { key: "tokenizer.ggml.fim_pad_token_id", texts: ["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"] },
  {
    key: "tokenizer.ggml.fim_rep_token_id",
    texts: ["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"],
  },
  { key: "tokenizer.ggml.fim_sep_token_id", texts: ["<|file_sep|>"] },
] as const;

const fillKeys = [
  ["tokenizer.ggml.fim_pre_token_id", "tokenizer.ggml.prefix_token_id"],
  ["tokenizer.ggml.fim_suf_token_id", "tokenizer.ggml.suffix_token_id"],
  ["tokenizer.ggml.fim_mid_token_id", "tokenizer.ggml.middle_token_id"],
] as const;

/** The ids that a kind of tokenizer has where the file names none. */
export interface DefaultIds {
  readonly bos?: number;
  readonly eos?: number;
  readonly unk?: number;
  readonly pad?: number;
}

/** A file's tokens: texts, ids, properties, and which of them have a role. The rules are llama.cpp's. */
export class Vocabulary {
  readonly file: string;
  /** Text of each token as the file spells it. */
  readonly texts: readonly string[];
  readonly ids: ReadonlyMap<string, number>;
  /** Bits of each token. */
  readonly attributes: Uint16Array;
  readonly bos: number | undefined;
  readonly eos: number | undefined;
  readonly eot: number | undefined;
  readonly eom: number | undefined;
  readonly pad: number | undefined;
  readonly unk: number | undefined;
  readonly endOfGeneration: ReadonlySet<number>;

  constructor(
    private readonly metadata: Metadata,
    defaults: DefaultIds,
  ) {
    this.file = metadata.file;
    this.texts = readTexts(metadata);
    this.ids = new Map(this.texts.map((text, id) => [text, id]));
    this.attributes = readAttributes(metadata, this.texts.length);
    this.bos = this.role("tokenizer.ggml.bos_token_id", defaults.bos);
    this.eos = this.role("tokenizer.ggml.eos_token_id", defaults.eos);
    this.unk = this.role("tokenizer.ggml.unknown_token_id", defaults.unk);
    this.pad = this.role("tokenizer.ggml.padding_token_id", defaults.pad);
    this.eot = this.role("tokenizer.ggml.eot_token_id", undefined) ?? this.controlByText(endOfTurnTexts);
    this.eom = this.role("tokenizer.ggml.eom_token_id", undefined) ?? this.controlByText(["<|eom_id|>"]);
    this.markFillTokens();
    const ending = this.findEndOfGeneration();
    this.correct(ending);
    this.endOfGeneration = ending;
    this.markStripping();
  }

  get size(): number {
    return this.texts.length;
  }

  has(id: number, mask: number): boolean {
    return (at(this.attributes, id) & mask) !== 0;
  }

  /** Throws where `id` is not a token of this vocabulary. */
  check(id: number): void {
    if (Number.isInteger(id) && id >= 0 && id < this.size) return;
    throw new StrataError(
      "invalid_argument",
      `${this.file}: token ${id} does not exist, the vocabulary's ids are 0 to ${this.size - 1}`,
    );
  }

  attribute(id: number): TokenAttribute {
    this.check(id);
    if (this.has(id, bits.unknown)) return "unknown";
    if (this.has(id, bits.control)) return "control";
    if (this.has(id, bits.userDefined)) return "user_defined";
    if (this.has(id, bits.byte)) return "byte";
    return this.has(id, bits.normal) ? "normal" : "unused";
  }

  private role(key: string, fallback: number | undefined): number | undefined {
    const inside = (id: number | undefined): boolean => id !== undefined && id < this.size;
    const named = this.metadata.count(key, undefined);
    if (inside(named)) return named;
    return inside(fallback) ? fallback : undefined;
  }

  private controlByText(texts: readonly string[]): number | undefined {
    const text = texts.find((candidate) => this.ids.has(candidate));
    return text === undefined ? undefined : this.markControl(text);
  }

  private markControl(text: string): number {
    const id = this.ids.get(text) as number;
    this.attributes[id] = at(this.attributes, id) | bits.control;
    return id;
  }

  private markFillTokens(): void {
    for (const [index, texts] of fillTexts.entries()) {
      const named = fillKeys[index]?.some((key) => this.role(key, undefined) !== undefined);
      if (!named) this.controlByText(texts);
    }
  }

  private findEndOfGeneration(): Set<number> {
    const ending = new Set<number>();
    for (const { key, texts } of endingFillTexts) {
      const id = this.role(key, undefined) ?? this.controlByText(texts);
      if (id !== undefined) ending.add(id);
    }
    for (const text of endOfGenerationTexts) {
      if (this.ids.has(text)) ending.add(this.markControl(text));
    }
    for (const id of [this.eos, this.eot, this.eom]) {
      if (id !== undefined) ending.add(id);
    }
    return ending;
  }

  /** Families whose files mark tokens in a way that would end or hide text wrongly. */
  private correct(ending: Set<number>): void {
    for (const text of ["<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"]) {
      const id = this.ids.get(text);
      if (id !== undefined) this.attributes[id] = bits.userDefined;
    }
    const ends = (text: string): boolean => {
      const id = this.ids.get(text);
      return id !== undefined && ending.has(id);
    };
    const calls = ends("<|call|>") || ends("<|calls|>");
    if (calls && (ends("<|return|>") || ends("<|flush|>")) && ends("<|end|>")) {
      this.exempt("<|end|>", bits.userDefined, ending);
    }
    if (ends("<|tool_response>") && ends("</s>")) this.exempt("</s>", bits.normal, ending);
  }

  private exempt(text: string, attribute: number, ending: Set<number>): void {
    const id = this.ids.get(text) as number;
    ending.delete(id);
    this.attributes[id] = attribute;
  }

  /** Files do not say which special tokens swallow the whitespace beside them: these models' do. */
  private markStripping(): void {
    const name = this.metadata.string("general.name", "").toLowerCase();
    const pre = this.metadata.string("tokenizer.ggml.pre", "");
    const set = (text: string, bit: number): void => {
      const id = this.ids.get(text);
      if (id !== undefined) this.attributes[id] = at(this.attributes, id) | bit;
    };
    if (/jina-v2-(de|es|code)/.test(pre)) {
      set("<mask>", bits.stripLeft);
    } else if (/phi-?3/.test(name)) {
      for (const id of this.attributes.keys()) {
        if (this.has(id, bits.control | bits.userDefined | bits.unknown)) {
          this.attributes[id] = at(this.attributes, id) | bits.stripRight;
        }
      }
      set("</s>", bits.stripRight);
      for (const text of ["<unk>", "<s>", "<|endoftext|>"]) {
        const id = this.ids.get(text);
        if (id !== undefined) this.attributes[id] = at(this.attributes, id) & ~bits.stripRight;
      }
    } else if (name.includes("modern-bert")) {
      set("[MASK]", bits.stripLeft);
    }
  }
}

function readTexts(metadata: Metadata): readonly string[] {
  const texts = metadata.strings("tokenizer.ggml.tokens");
  return texts.includes("") ? texts.map((text, id) => text || `[EMPTY_${id}]`) : texts;
}

function readAttributes(metadata: Metadata, count: number): Uint16Array {
  const attributes = new Uint16Array(count);
  const types = metadata.numbers("tokenizer.ggml.token_type", undefined);
  if (types === undefined) return attributes.fill(bits.normal);
  if (types.length < count) throw tooShort(metadata, "tokenizer.ggml.token_type", types.length, count);
  for (let id = 0; id < count; id += 1) {
    attributes[id] = bitsOfType[at(types, id)] ?? 0;
  }
  return attributes;
}

/** An array of the file that has fewer elements than the vocabulary has tokens. */
export function tooShort(metadata: Metadata, key: string, length: number, count: number): StrataError {
  return new StrataError(
    "bad_format",
    `${metadata.file}: "${key}" has ${length} elements, expected one for each of the ${count} tokens`,
  );
}

/** How a file spells the token of a byte, where tokens are text: `<0x0A>`. */
export function byteName(byte: number): string {
  return `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`;
}
