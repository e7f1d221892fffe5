import { type ErrorCode, StrataError } from "../../lib/errors.ts";
import type { GenerateOptions } from "../../lib/index.ts";
import { Metadata, type MetadataValue } from "../../lib/gguf/metadata.ts";
import type { FinishReason, GenerationEvent } from "../../lib/schedule/events.ts";
import type { OwnedModel } from "../../lib/server/serve.ts";
import { createChatTemplate, createTokenizer, type ChatTemplate, type Tokenizer } from "../../lib/text/index.ts";

/** What a made-up model does, so that tests decide when and how it fails. */
export interface Script {
  /** What every generation says; its seed is put in place of "%seed". */
  readonly says?: string;
  /** Milliseconds before each token. */
  readonly delayMs?: number;
  /** Throws before the token of this index: an error of this code, "internal" unless given. */
  readonly failsAt?: number;
  readonly failure?: ErrorCode;
  /** Ends as cancelled before the token of this index, though nobody asked for it here. */
  readonly cancelledAt?: number;
  readonly sequences?: number;
  readonly context?: number;
}

/**
 * A model that computes nothing: a true tokenizer (one token a byte) and a scripted text. Generations wait for one of
 * `sequences` places, as with a true model, and give it back however they end.
 */
export class FakeModel implements OwnedModel {
  readonly path = "models/fake-00001-of-00002.gguf";
  readonly metadata: Metadata;
  readonly tokenizer: Tokenizer;
  readonly chatTemplate: ChatTemplate;
  readonly contextLength: number;
  readonly sequenceCount: number;
  readonly vocabularySize: number;
  /** Options of all generations so far. */
  readonly asked: GenerateOptions[] = [];
  /** Prompts of all generations so far, as text with special tokens written out. */
  readonly prompts: string[] = [];
  running = 0;
  runningMax = 0;
  /** How many generations `dispose` interrupted; undefined before. */
  runningWhenDisposed: number | undefined;
  private readonly waiting: (() => void)[] = [];

  constructor(private readonly script: Script = {}) {
    this.metadata = metadataOf();
    this.tokenizer = createTokenizer(this.metadata);
    this.chatTemplate = createChatTemplate(this.metadata, this.tokenizer);
    this.vocabularySize = this.tokenizer.vocabularySize;
    this.contextLength = script.context ?? 256;
    this.sequenceCount = script.sequences ?? 4;
  }

  async *events(
    prompt: string | readonly number[],
    options: GenerateOptions = {},
  ): AsyncGenerator<GenerationEvent, void> {
    const promptTokens = typeof prompt === "string" ? this.tokenizer.encode(prompt) : prompt;
    this.asked.push(options);
    this.prompts.push(this.tokenizer.decode(promptTokens, { special: true, cleanUp: false }));
    while (this.running >= this.sequenceCount) await new Promise<void>((resolve) => this.waiting.push(resolve));
    this.running += 1;
    this.runningMax = Math.max(this.runningMax, this.running);
    try {
      yield* this.speak(promptTokens, options);
    } finally {
      this.running -= 1;
      this.waiting.shift()?.();
    }
  }

  async dispose(): Promise<void> {
    this.runningWhenDisposed = this.running;
  }

  private async *speak(
    promptTokens: readonly number[],
    options: GenerateOptions,
  ): AsyncGenerator<GenerationEvent, void> {
    const seed = options.seed ?? 1;
    const tokens = this.tokenizer.encode((this.script.says ?? "Hello.").replace("%seed", String(seed)));
    yield { type: "start", promptTokens, seed };
    yield { type: "prefill", doneTokens: promptTokens.length, totalTokens: promptTokens.length };
    const decoder = this.tokenizer.decoder();
    let finishReason: FinishReason = "stop";
    let count = 0;
    for (const token of [...tokens, this.tokenizer.eos as number]) {
      if (count === options.maxTokens) finishReason = "length";
      else await Bun.sleep(this.script.delayMs ?? 0);
      if (options.signal?.aborted === true || count === this.script.cancelledAt) finishReason = "cancelled";
      if (finishReason !== "stop") break;
      if (count === this.script.failsAt)
        throw new StrataError(this.script.failure ?? "internal", `step ${count} went wrong`);
      count += 1;
      const logProbability = options.logProbabilities === true ? { logProbability: -count } : {};
      yield { type: "token", token, text: decoder.push(token), ...logProbability };
    }
    const timings = {
      queueMs: 0,
      prefillMs: 1,
      decodeMs: 1,
      prefillTokensPerSecond: 1,
      decodeTokensPerSecond: 1,
    };
    const counts = { promptTokenCount: promptTokens.length, tokenCount: count, timings };
    yield { type: "end", text: decoder.flush(), finishReason, ...counts };
  }
}

/** Byte-level BPE without merges: 256 bytes, then three special tokens. */
function metadataOf(): Metadata {
  const printable = (byte: number): boolean => (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte !== 0xad);
  let next = 256;
  const letters = Array.from({ length: 256 }, (_, byte) => String.fromCharCode(printable(byte) ? byte : next++));
  const tokens = [...letters, "<|start|>", "<|end|>", "<|done|>"];
  const values: Record<string, MetadataValue> = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "gpt-2",
    "tokenizer.ggml.tokens": tokens,
    "tokenizer.ggml.merges": [],
    "tokenizer.ggml.token_type": Int32Array.from(tokens, (_, id) => (id < 256 ? 1 : 3)),
    "tokenizer.ggml.bos_token_id": 256,
    "tokenizer.ggml.eos_token_id": 258,
    "tokenizer.ggml.add_bos_token": false,
    "tokenizer.chat_template":
      "{% if messages[0].role == 'nobody' %}{{ raise_exception('nobody may not speak') }}{% endif %}" +
      "{% for m in messages %}<|start|>{{ m.role }}:{{ m.content }}<|end|>{% endfor %}" +
      "{% if add_generation_prompt %}<|start|>assistant:{% endif %}",
  };
  return new Metadata("fake.gguf", Object.keys(values), (key) => values[key]);
}
