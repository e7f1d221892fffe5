import { StrataError } from "../errors.ts";
import type { BatchMark, BatchRequest, Job, NativeEngine, NativeSampler, SequenceTask } from "../native/engine.ts";

/** A token that was drawn for a task. */
export interface DrawnToken {
  readonly token: number;
  readonly logProbability: number;
  readonly timeMs: number;
}

/** What a task wants of the scheduler: its sequence fed with tokens, and tokens drawn for it. */
export interface Task {
  /** Tokens that its sequence has still to be fed: the prompt's, later the one drawn last. */
  readonly pending: number[];
  /** Draws in the core; without one, `choose` is called with the logits. */
  readonly sampler: NativeSampler | undefined;
  /** How many more tokens may be drawn, at least 1 while the task runs. */
  readonly remaining: number;
  /** End tokens do not end a run of steps. */
  readonly ignoreEnd: boolean;
  /** Some of `pending` was computed and no token drawn yet. */
  onPrefill(computed: number): void;
  /** Takes a token; returns whether the task goes on. */
  onToken(token: DrawnToken): boolean;
  /** Chooses a token from logits that are the callee's own. */
  choose(logits: Float32Array): Promise<number>;
  onError(error: unknown): void;
}

interface Slot {
  readonly task: Task;
  readonly sequence: number;
  /** The task has ended; its sequence is freed when no job uses it. */
  ended: boolean;
  /** Told of the end while a sampler of the caller's is choosing. */
  onEnd?: () => void;
}

interface Running {
  readonly job: Job;
  readonly slots: readonly Slot[];
  /** More steps than one: it ends early when a task joins or ends. */
  readonly isLong: boolean;
}

/** A sequence lent to one task. */
export interface Lease {
  /** Ends the task; what its sequence held is let go. */
  end(): void;
}

/**
 * Decides which sequences compute which tokens next. All running tasks share each batch: those that decode give one
 * token each, the rest of the batch is filled with prompts, which take turns where they do not all fit. When all of
 * them decode with samplers of the core, one job runs many steps, and is ended early when somebody joins or leaves.
 */
export class Scheduler {
  private readonly free: number[];
  private readonly waiting: { resolve: (sequence: number) => void; reject: (error: unknown) => void }[] = [];
  private slots: Slot[] = [];
  private readonly exclusive: { run: () => Promise<void>; reject: (error: unknown) => void }[] = [];
  private running: Running | undefined;
  private isLooping = false;
  private isClosed = false;

  constructor(
    private readonly engine: NativeEngine,
    private readonly ensureGraph: (rows: number, outputs: number) => void,
  ) {
    this.free = Array.from({ length: engine.config.sequences }, (_, i) => i);
  }

  get contextLength(): number {
    return this.engine.config.context;
  }

  get vocabularySize(): number {
    return this.engine.config.vocabulary;
  }

  /** Refuses what cannot be fed, before anything is computed. */
  checkPrompt(tokens: readonly number[]): void {
    if (!Array.isArray(tokens)) {
      const sentence = "tokens are an array of token ids; `model.tokenizer.encode(text)` makes them";
      throw new StrataError("invalid_argument", sentence);
    }
    if (tokens.length === 0) throw new StrataError("invalid_argument", "the prompt is empty; give at least one token");
    if (tokens.length > this.contextLength) {
      throw new StrataError(
        "invalid_argument",
        `the prompt has ${tokens.length} tokens and the context is ${this.contextLength}; ` +
          "shorten it or load the model with a larger context",
      );
    }
    const bad = tokens.find((token) => !Number.isInteger(token) || token < 0 || token >= this.vocabularySize);
    if (bad === undefined) return;
    const sentence = `token ${bad} does not exist; the vocabulary has ${this.vocabularySize} tokens`;
    throw new StrataError("invalid_argument", sentence);
  }

  /** Waits for a free sequence; those who came first get one first. */
  async acquire(signal?: AbortSignal): Promise<number> {
    this.checkOpen();
    signal?.throwIfAborted();
    const sequence = this.free.shift();
    if (sequence !== undefined) return sequence;
    const { promise, resolve, reject } = Promise.withResolvers<number>();
    const entry = { resolve, reject };
    this.waiting.push(entry);
    const leave = () => {
      const index = this.waiting.indexOf(entry);
      if (index < 0) return;
      this.waiting.splice(index, 1);
      reject(signal?.reason);
    };
    signal?.addEventListener("abort", leave, { once: true });
    let lent: number;
    try {
      lent = await promise;
    } finally {
      signal?.removeEventListener("abort", leave);
    }
    if (signal?.aborted || this.isClosed) {
      // It happened between the handing over and here.
      this.release(lent);
      this.checkOpen();
      signal?.throwIfAborted();
    }
    return lent;
  }

  /** Runs a task on a sequence from `acquire`, until the task or the lease ends it. */
  start(sequence: number, task: Task): Lease {
    const slot: Slot = { task, sequence, ended: false };
    this.slots.push(slot);
    this.wake();
    return { end: () => this.endSlot(slot) };
  }

  /** A free sequence at once, for someone who holds it until `release`. */
  take(): number {
    this.checkOpen();
    const sequence = this.free.shift();
    if (sequence !== undefined) return sequence;
    throw new StrataError(
      "full",
      `all ${this.engine.config.sequences} sequences are in use; dispose of one, or load the model with more`,
    );
  }

  /** Gives back a sequence that no task was started on. */
  release(sequence: number): void {
    if (this.isClosed) return;
    this.engine.clear(sequence);
    const next = this.waiting.shift();
    if (next === undefined) this.free.push(sequence);
    else next.resolve(sequence);
  }

  /** The logits at every position of `tokens`, computed in chunks between the other tasks' steps. */
  async *logits(
    tokens: readonly number[],
    options: { readonly chunk?: number; readonly signal?: AbortSignal },
  ): AsyncGenerator<{ position: number; logits: Float32Array }, void> {
    this.checkPrompt(tokens);
    const chunk = Math.min(options.chunk ?? 32, this.engine.config.batch);
    if (!Number.isInteger(chunk) || chunk < 1) {
      throw new StrataError("invalid_argument", `chunk is ${options.chunk}; give a whole number from 1 up`);
    }
    const sequence = await this.acquire(options.signal);
    try {
      for (let first = 0; first < tokens.length; first += chunk) {
        options.signal?.throwIfAborted();
        const rows = await this.runExclusive(() => this.chunkLogits(sequence, tokens.slice(first, first + chunk)));
        for (const [i, logits] of rows.entries()) yield { position: first + i, logits };
      }
    } finally {
      this.release(sequence);
    }
  }

  private async chunkLogits(sequence: number, tokens: readonly number[]): Promise<Float32Array[]> {
    this.ensureGraph(tokens.length, tokens.length);
    const job = this.engine.submit([{ sequence, tokens, logits: "all" }]);
    await job.done;
    return tokens.map((_, row) => this.readLogits(job, row));
  }

  /** Every waiting task is refused and every running one ends with an error. */
  close(): void {
    if (this.isClosed) return;
    this.isClosed = true;
    const error = closedError();
    for (const { reject } of this.waiting.splice(0)) reject(error);
    for (const { reject } of this.exclusive.splice(0)) reject(error);
    for (const slot of this.slots.splice(0)) this.fail(slot, error);
  }

  private checkOpen(): void {
    if (this.isClosed) throw closedError();
  }

  private endSlot(slot: Slot): void {
    if (slot.ended) return;
    slot.ended = true;
    slot.onEnd?.();
    const { running } = this;
    if (running?.slots.includes(slot)) {
      // Alone, it need not wait for its step to end; with others, their step is worth finishing.
      if (running.slots.every((other) => other.ended)) this.engine.cancel(running.job);
      else if (running.isLong) this.engine.interrupt(running.job);
    } else this.sweep();
  }

  /** Frees the sequences of tasks that have ended, but for those that the running job still uses. */
  private sweep(): void {
    const ended = this.slots.filter((slot) => slot.ended && !this.running?.slots.includes(slot));
    if (ended.length === 0) return;
    this.slots = this.slots.filter((slot) => !ended.includes(slot));
    for (const slot of ended) this.release(slot.sequence);
  }

  /**
   * Computes one batch of sequences that are held, between the other tasks' steps. Of each request, the logits that it
   * wants. Cut by the batch limit only.
   */
  async feed(
    requests: readonly BatchRequest[],
    marks: readonly BatchMark[],
    signal: AbortSignal | undefined,
  ): Promise<Float32Array[][]> {
    signal?.throwIfAborted();
    return this.runExclusive(async () => {
      signal?.throwIfAborted();
      for (const { rows, outputs } of subBatches(requests, this.engine.config.batch)) this.ensureGraph(rows, outputs);
      const job = this.engine.submit(requests, { marks });
      await this.finish(job, signal);
      let row = 0;
      return requests.map(({ tokens, logits }) => {
        const count = logits === "all" ? tokens.length : logits === "last" ? 1 : 0;
        return Array.from({ length: count }, () => this.readLogits(job, row++));
      });
    });
  }

  /** Does something to a sequence between steps. */
  task(task: SequenceTask): Promise<void> {
    return this.job(() => this.engine.submitTask(task), undefined);
  }

  /** Runs a job of the engine between the other tasks' steps. */
  job(submit: () => Job, signal: AbortSignal | undefined): Promise<void> {
    return this.runExclusive(async () => {
      signal?.throwIfAborted();
      await this.finish(submit(), signal);
    });
  }

  private async finish(job: Job, signal: AbortSignal | undefined): Promise<void> {
    const cancel = () => this.engine.cancel(job);
    signal?.addEventListener("abort", cancel, { once: true });
    try {
      await job.done;
    } catch (error) {
      signal?.throwIfAborted();
      throw error;
    } finally {
      signal?.removeEventListener("abort", cancel);
    }
  }

  private runExclusive<T>(work: () => Promise<T>): Promise<T> {
    this.checkOpen();
    return new Promise<T>((resolve, reject) => {
      // What a closing engine cancels fails since the model is gone.
      const fail = (error: unknown) => reject(this.isClosed ? closedError() : error);
      this.exclusive.push({ run: () => work().then(resolve, fail), reject });
      this.wake();
    });
  }

  private wake(): void {
    if (this.running?.isLong) this.engine.interrupt(this.running.job);
    if (!this.isLooping) void this.loop();
  }

  private async loop(): Promise<void> {
    this.isLooping = true;
    try {
      // Let tasks that start in the same turn share the first batch.
      await Promise.resolve();
      while (!this.isClosed) {
        const exclusive = this.exclusive.shift();
        if (exclusive !== undefined) await exclusive.run();
        this.sweep();
        const slots = this.choose();
        if (slots.length > 0) await this.runBatch(slots);
        else if (this.exclusive.length === 0) return;
      }
    } finally {
      this.isLooping = false;
    }
  }

  /** Who takes part in the next batch: those that decode first, unless that would leave prompts no room for ever. */
  private choose(): readonly Slot[] {
    const live = this.slots.filter((slot) => !slot.ended);
    const decoding = live.filter((slot) => slot.task.pending.length === 1);
    const prompts = live.filter((slot) => slot.task.pending.length > 1);
    const chosen: Slot[] = [];
    let room = this.engine.config.batch;
    for (const slot of decoding.length < room ? [...decoding, ...prompts] : live) {
      if (room === 0) break;
      chosen.push(slot);
      room -= Math.min(room, slot.task.pending.length);
    }
    // Those that were left out come first next time.
    if (chosen.length < live.length) {
      const served = new Set(chosen);
      this.slots = [...this.slots.filter((slot) => !served.has(slot)), ...chosen];
    }
    return chosen;
  }

  private async runBatch(slots: readonly Slot[]): Promise<void> {
    let room = this.engine.config.batch;
    const parts = slots.map((slot) => {
      const tokens = slot.task.pending.slice(0, room);
      room -= tokens.length;
      return { slot, tokens, isWhole: tokens.length === slot.task.pending.length };
    });
    const outputs = parts.filter(({ isWhole }) => isWhole);
    const decodesInCore = parts.every(({ slot, isWhole }) => isWhole && slot.task.sampler !== undefined);
    const isSteady = decodesInCore && parts.every(({ tokens }) => tokens.length === 1);
    const isAwaited = this.exclusive.length > 0 || this.slots.some((slot) => !slot.ended && !slots.includes(slot));
    const steps = isSteady && !isAwaited ? Math.min(...slots.map((slot) => slot.task.remaining)) : 1;
    const requests = parts.map(({ slot, tokens, isWhole }): BatchRequest => {
      const { sampler } = slot.task;
      const request = { sequence: slot.sequence, tokens, logits: isWhole ? "last" : "none" } as const;
      return isWhole && sampler !== undefined ? { ...request, sampler } : request;
    });
    const bySequence = new Map(slots.map((slot) => [slot.sequence, slot] as const));
    try {
      const rows = parts.reduce((sum, { tokens }) => sum + tokens.length, 0);
      this.ensureGraph(rows, Math.max(outputs.length, 1));
      const job = this.engine.submit(requests, {
        steps,
        ignoreStops: slots.every((slot) => slot.task.ignoreEnd),
        onToken: ({ sequence, token, value, timeMs, error }) => {
          const slot = bySequence.get(sequence);
          if (slot === undefined) return;
          if (error === undefined) this.deliver(slot, { token, logProbability: value, timeMs });
          else this.fail(slot, error);
        },
      });
      this.running = { job, slots, isLong: steps > 1 };
      const { timeMs } = await job.done;
      this.running = undefined;
      await this.finishBatch(job, parts, timeMs);
    } catch (error) {
      this.running = undefined;
      if (slots.some((slot) => slot.ended) && error instanceof StrataError && error.code === "cancelled") return;
      for (const slot of slots) this.fail(slot, error);
    }
  }

  /** Ends a task by an error. */
  private fail(slot: Slot, error: unknown): void {
    if (slot.ended) return;
    this.endSlot(slot);
    slot.task.onError(error);
  }

  /** Hands a drawn token over. The token is what the sequence is fed next. */
  private deliver(slot: Slot, drawn: DrawnToken): void {
    if (slot.ended) return;
    slot.task.pending.splice(0, Infinity, drawn.token);
    try {
      if (!slot.task.onToken(drawn)) this.endSlot(slot);
    } catch (error) {
      this.fail(slot, error);
    }
  }

  private async finishBatch(
    job: Job,
    parts: readonly { slot: Slot; tokens: readonly number[]; isWhole: boolean }[],
    timeMs: number,
  ): Promise<void> {
    let row = 0;
    for (const { slot, tokens, isWhole } of parts) {
      const { task } = slot;
      if (!isWhole) {
        task.pending.splice(0, tokens.length);
        if (!slot.ended) task.onPrefill(tokens.length);
        continue;
      }
      if (task.sampler !== undefined) continue;
      const logits = this.readLogits(job, row);
      row += 1;
      if (slot.ended) continue;
      try {
        const token = await this.chosen(slot, logits);
        if (token !== undefined) this.deliver(slot, { token, logProbability: Number.NaN, timeMs });
      } catch (error) {
        this.fail(slot, error);
      }
    }
  }

  /** What the task chooses; undefined where it ends before: a sampler that never answers holds nobody else up then. */
  private chosen(slot: Slot, logits: Float32Array): Promise<number | undefined> {
    const ended = new Promise<undefined>((resolve) => {
      slot.onEnd = () => resolve(undefined);
    });
    return Promise.race([slot.task.choose(logits), ended]);
  }

  private readLogits(job: Job, row: number): Float32Array {
    const logits = new Float32Array(this.vocabularySize);
    this.engine.logits(job, row, logits);
    return logits;
  }
}

/** The shapes of the sub-batches that the library cuts a batch into: full ones, in order. */
function subBatches(requests: readonly BatchRequest[], limit: number): { rows: number; outputs: number }[] {
  const shapes: { rows: number; outputs: number }[] = [];
  let last = { rows: limit, outputs: 0 };
  for (const { tokens, logits } of requests) {
    for (let done = 0; done < tokens.length;) {
      if (last.rows === limit) {
        last = { rows: 0, outputs: 0 };
        shapes.push(last);
      }
      const count = Math.min(tokens.length - done, limit - last.rows);
      done += count;
      last.rows += count;
      if (logits === "all") last.outputs += count;
      else if (logits === "last" && done === tokens.length) last.outputs += 1;
    }
  }
  return shapes.map(({ rows, outputs }) => ({ rows, outputs: Math.max(outputs, 1) }));
}

function closedError(): StrataError {
  return new StrataError("closed", "this model was disposed of");
}
