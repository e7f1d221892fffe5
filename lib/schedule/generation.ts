import { wrong } from "../arguments.ts";
import { NativeSampler } from "../native/engine.ts";
import { nowMs } from "../native/events.ts";
import { Struct } from "../native/struct.ts";
import { checkLogits, checkSampler, checkToken, resolveSampling, seedHalves } from "../sample/index.ts";
import type { CustomSampler, ResolvedSampling, SamplingOptions } from "../sample/index.ts";
import { StopMatcher, type StreamDecoder, type Tokenizer } from "../text/index.ts";
import type { FinishReason, GenerationEvent, GenerationTimings } from "./events.ts";
import type { DrawnToken, Lease, Scheduler, Task } from "./scheduler.ts";
import { checkSignal } from "./signal.ts";

export interface GenerateOptions extends SamplingOptions {
  /** Most tokens to draw. Default: until the context is full. */
  readonly maxTokens?: number | undefined;
  /** Texts that end the generation; they are not part of its text. */
  readonly stop?: string | readonly string[] | undefined;
  /** Ends the generation; the event stream then ends with the reason "cancelled". */
  readonly signal?: AbortSignal | undefined;
  /** Draws tokens in place of the built-in chain. */
  readonly sampler?: CustomSampler | undefined;
  /** Text of special tokens in a string prompt becomes those tokens. Default false. */
  readonly special?: boolean | undefined;
  /** Goes on after end tokens. Default false. */
  readonly ignoreEnd?: boolean | undefined;
  /** Gives each token's log probability. Default false. */
  readonly logProbabilities?: boolean | undefined;
}

/** One generation: a task of the scheduler, turned into the stream of events. */
export class Generation implements Task {
  pending: number[];
  readonly ignoreEnd: boolean;
  private readonly prompt: readonly number[];
  private readonly sampling: ResolvedSampling;
  private readonly matcher: StopMatcher;
  private readonly decoder: Pick<StreamDecoder, "push" | "flush">;
  private readonly limit: number;
  private readonly drawn: number[] = [];
  private nativeSampler: NativeSampler | undefined;
  private readonly buffer: GenerationEvent[] = [];
  private error: { readonly cause: unknown } | undefined;
  private wake: (() => void) | undefined;
  private finished: FinishReason | undefined;
  /** Tokens computed since it started, or started again. */
  private computed = 0;
  /** Tokens of the prompt that have been told of as computed. */
  private prefilled = 0;
  private readonly times = { asked: nowMs(), started: 0, first: 0, last: 0 };

  /** Checks everything that can be wrong with the request, before anything is computed. */
  constructor(
    private readonly scheduler: Scheduler,
    private readonly tokenizer: Tokenizer | undefined,
    prompt: readonly number[],
    private readonly options: GenerateOptions,
  ) {
    this.prompt = scheduler.copyPrompt(prompt);
    this.pending = [...this.prompt];
    this.ignoreEnd = options.ignoreEnd ?? false;
    this.sampling = resolveSampling(options, scheduler.vocabularySize);
    checkSignal(options.signal);
    checkSampler(options.sampler);
    this.matcher = new StopMatcher(stopTexts(options.stop));
    this.decoder = tokenizer?.decoder() ?? noText;
    // The last token drawn need not fit in the context: it is not fed again.
    this.limit = Math.min(maxTokens(options.maxTokens), scheduler.contextLength - this.prompt.length + 1);
  }

  get sampler(): NativeSampler | undefined {
    return this.nativeSampler;
  }

  get remaining(): number {
    return this.limit - this.drawn.length;
  }

  async *events(): AsyncGenerator<GenerationEvent, void> {
    const { signal } = this.options;
    yield { type: "start", promptTokens: this.prompt, seed: this.sampling.seed };
    if (signal?.aborted || this.limit === 0) {
      yield this.end(signal?.aborted ? "cancelled" : "length");
      return;
    }
    let sequence: number;
    try {
      sequence = await this.scheduler.acquire(signal);
    } catch (error) {
      if (!signal?.aborted) throw error;
      yield this.end("cancelled");
      return;
    }
    let lease: Lease | undefined;
    // Whoever reads the events may be elsewhere; the computing ends now.
    const cancel = () => {
      this.finish("cancelled");
      lease?.end();
    };
    try {
      this.createSampler();
      this.times.started = nowMs();
      lease = this.scheduler.start(sequence, this);
      signal?.addEventListener("abort", cancel, { once: true });
      yield* this.drain();
    } finally {
      signal?.removeEventListener("abort", cancel);
      if (lease === undefined) this.scheduler.release(sequence);
      else lease.end();
      this.nativeSampler?.free();
    }
  }

  private async *drain(): AsyncGenerator<GenerationEvent, void> {
    while (true) {
      yield* this.buffer.splice(0);
      if (this.error !== undefined) throw this.error.cause;
      if (this.finished !== undefined && this.buffer.length === 0) {
        yield this.end(this.finished);
        return;
      }
      if (this.buffer.length > 0) continue;
      const { promise, resolve } = Promise.withResolvers<void>();
      this.wake = resolve;
      await promise;
    }
  }

  // ---- called by the scheduler ----

  onPrefill(computed: number): void {
    this.computed += computed;
    this.tellPrefilled(Math.min(this.computed, this.prompt.length));
  }

  restart(): void {
    this.pending = [...this.prompt, ...this.drawn];
    this.computed = 0;
  }

  onToken({ token, logProbability, timeMs }: DrawnToken): boolean {
    if (this.finished !== undefined) return false;
    if (this.drawn.length === 0) {
      this.times.first = timeMs;
      this.tellPrefilled(this.prompt.length);
    }
    this.times.last = timeMs;
    this.drawn.push(token);
    const isEnd = !this.ignoreEnd && (this.tokenizer?.isEndOfGeneration(token) ?? false);
    const { text, stop } = isEnd ? { text: "", stop: undefined } : this.matcher.push(this.decoder.push(token));
    const event = { type: "token", token, text } as const;
    this.emit(Number.isNaN(logProbability) ? event : { ...event, logProbability });
    if (isEnd || stop !== undefined) this.finish("stop");
    else if (this.remaining <= 0) this.finish("length");
    return this.finished === undefined;
  }

  async choose(logits: Float32Array): Promise<number> {
    const step = this.drawn.length;
    checkLogits(logits, step);
    const { sampler } = this.options;
    const tokens = [...this.prompt, ...this.drawn];
    return checkToken(await sampler?.(logits, { step, tokens }), this.scheduler.vocabularySize, step);
  }

  onError(cause: unknown): void {
    this.error = { cause };
    this.wake?.();
  }

  // ---- underneath ----

  private createSampler(): void {
    if (this.options.sampler !== undefined) return;
    const { sampling } = this;
    const config = new Struct("SamplerConfig");
    config.set("temperature", sampling.temperature);
    config.set("topP", sampling.topP);
    config.set("minP", sampling.minP);
    config.set("repetitionPenalty", sampling.repetitionPenalty);
    config.set("frequencyPenalty", sampling.frequencyPenalty);
    config.set("presencePenalty", sampling.presencePenalty);
    config.set("topK", sampling.topK);
    config.set("penaltyLastN", sampling.penaltyLastN);
    const { low, high } = seedHalves(sampling.seed);
    config.set("seedLow", low);
    config.set("seedHigh", high);
    config.set("logProbability", this.options.logProbabilities ? 1 : 0);
    this.nativeSampler = new NativeSampler(this.scheduler.vocabularySize, config, sampling.logitBias);
    this.nativeSampler.accept(this.prompt);
  }

  /** What is computed again has been told of already. */
  private tellPrefilled(doneTokens: number): void {
    if (doneTokens <= this.prefilled) return;
    this.prefilled = doneTokens;
    this.emit({ type: "prefill", doneTokens, totalTokens: this.prompt.length });
  }

  private finish(reason: FinishReason): void {
    this.finished ??= reason;
    this.wake?.();
  }

  private emit(event: GenerationEvent): void {
    this.buffer.push(event);
    this.wake?.();
  }

  private end(finishReason: FinishReason): GenerationEvent {
    const stopped = this.matcher.push(this.decoder.flush());
    return {
      type: "end",
      text: stopped.text + this.matcher.flush(),
      finishReason,
      promptTokenCount: this.prompt.length,
      tokenCount: this.drawn.length,
      timings: this.timings(),
    };
  }

  private timings(): GenerationTimings {
    const { asked, started, first, last } = this.times;
    const prefillMs = this.drawn.length > 0 ? first - started : 0;
    const decodeMs = last - first;
    const perSecond = (count: number, ms: number) => (ms > 0 ? (count * 1000) / ms : 0);
    return {
      queueMs: started > 0 ? started - asked : 0,
      prefillMs,
      decodeMs,
      prefillTokensPerSecond: perSecond(this.prompt.length, prefillMs),
      decodeTokensPerSecond: perSecond(this.drawn.length - 1, decodeMs),
    };
  }
}

/** For a model without tokenizer: tokens have no text. */
const noText = { push: () => "", flush: () => "" };

function maxTokens(value: number | undefined): number {
  if (value === undefined) return Infinity;
  if (Number.isSafeInteger(value) && value >= 0) return value;
  throw wrong("maxTokens", value, "a whole number from 0 up");
}

function stopTexts(stop: GenerateOptions["stop"] = []): readonly string[] {
  const texts = typeof stop === "string" ? [stop] : stop;
  if (Array.isArray(texts) && texts.every((text) => typeof text === "string")) return [...texts];
  throw wrong("stop", stop, "a text, or an array of texts");
}
