import { StrataError } from "../errors.ts";
import { shown } from "../shown.ts";
import type { BatchMark, BatchRequest, Job, NativeEngine, NativeSampler, SequenceTask } from "../native/engine.ts";
import { Lending } from "./lending.ts";
import { checkSignal } from "./signal.ts";
import { subBatches, type GraphShape } from "./sub-batches.ts";
import { copyPrompt, copyTokens } from "./tokens.ts";
import { WorkQueue } from "./work-queue.ts";

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
  /** Some of `pending` was computed, and no token drawn from it. */
  onPrefill(computed: number): void;
  /** Takes a token; returns whether the task goes on. */
  onToken(token: DrawnToken): boolean;
  /** Chooses a token from logits that are the callee's own. */
  choose(logits: Float32Array): Promise<number>;
  /** Its sequence is empty again: all its tokens are pending, those that were drawn too. */
  restart(): void;
  onError(error: unknown): void;
}

interface Slot {
  readonly task: Task;
  readonly sequence: number;
  /** Of its start among those of all. */
  readonly number: number;
  /** The task has ended; its sequence is freed when no job uses it. */
  ended: boolean;
  /** A sampler of the caller's has the logits and has not answered. */
  isChoosing: boolean;
  /** It gave its memory to others, and waits until somebody lets some go. */
  isParked: boolean;
  /** Told of the end while a sampler of the caller's is choosing. */
  onEnd?: () => void;
}

/** What a task contributes to a batch; `isWhole` where that is all that was pending. */
interface Part {
  readonly slot: Slot;
  readonly tokens: readonly number[];
  readonly isWhole: boolean;
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
 *
 * A task whose sampler is the caller's sits out until that has answered, so that it may take its time and use the model.
 * Where the memory is too small for all, those that started last give theirs to the others, and start again when one ends.
 */
export class Scheduler {
  private readonly lending: Lending;
  private readonly exclusive = new WorkQueue();
  private slots: Slot[] = [];
  private started = 0;
  private running: Running | undefined;
  private isLooping = false;
  private isClosed = false;

  constructor(
    private readonly engine: NativeEngine,
    /** Sees to it that the engine has the graphs of a batch. */
    private readonly ensureGraphs: (shapes: readonly GraphShape[]) => void,
  ) {
    this.lending = new Lending(engine.config.sequences);
  }

  get contextLength(): number {
    return this.engine.config.context;
  }

  get vocabularySize(): number {
    return this.engine.config.vocabulary;
  }

  /** A copy of tokens to be fed. Refuses what cannot be, before anything is computed. */
  copyTokens(tokens: readonly number[]): number[] {
    return copyTokens(tokens, this.engine.config);
  }

  /** A copy of tokens that something is to follow. */
  copyPrompt(tokens: readonly number[]): number[] {
    return copyPrompt(tokens, this.engine.config);
  }

  // ---- the lending of sequences ----

  /** Sequences that nobody has. */
  get freeCount(): number {
    return this.lending.freeCount;
  }

  /** Waits for a free sequence; those who came first get one first. Throws "full" where all are held by hand. */
  acquire(signal?: AbortSignal): Promise<number> {
    return this.lending.acquire(signal);
  }

  /** A free sequence at once, for someone who holds it until `release`. Throws "full" where there is none. */
  take(): number {
    return this.lending.take();
  }

  /** Who took a sequence has no more use for it; it is released when its work has ended. */
  leave(sequence: number): void {
    this.lending.leave(sequence);
  }

  /** Gives back a sequence that no task was started on. */
  release(sequence: number): void {
    if (this.isClosed) return;
    this.engine.clear(sequence);
    this.lending.release(sequence);
    this.unpark();
  }

  // ---- tasks ----

  /** Runs a task on a sequence from `acquire`, until the task or the lease ends it. */
  start(sequence: number, task: Task): Lease {
    const number = this.started;
    this.started += 1;
    const slot: Slot = { task, sequence, number, ended: false, isChoosing: false, isParked: false };
    this.slots.push(slot);
    this.wake();
    return { end: () => this.endSlot(slot) };
  }

  /** Throws "busy" unless nothing runs and nothing waits: no task, no work on any sequence. */
  checkQuiet(operation: string): void {
    this.sweep();
    if (this.slots.length === 0 && this.lending.isQuiet && this.exclusive.isQuiet) return;
    const sentence = "this model has work that has not ended; await it, or end its generations, first";
    throw new StrataError("busy", `${operation}: ${sentence}`);
  }

  /** Every waiting task is refused and every running one ends with an error. */
  close(): void {
    if (this.isClosed) return;
    this.isClosed = true;
    const error = new StrataError("closed", "this model was disposed of");
    this.lending.close(error);
    this.exclusive.close(error);
    for (const slot of this.slots.splice(0)) this.fail(slot, error);
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

  // ---- work that has the engine to itself ----

  /** The logits at every position of `tokens`, computed in chunks between the other tasks' steps. */
  logits(
    tokens: readonly number[],
    options: { readonly chunk?: number; readonly signal?: AbortSignal },
  ): AsyncGenerator<{ position: number; logits: Float32Array }, void> {
    const own = this.copyPrompt(tokens);
    checkSignal(options.signal);
    const chunk = Math.min(options.chunk ?? 32, this.engine.config.batch);
    if (!Number.isInteger(chunk) || chunk < 1) {
      throw new StrataError("invalid_argument", `chunk is ${shown(options.chunk)}; give a whole number from 1 up`);
    }
    return this.chunks(own, chunk, options.signal);
  }

  private async *chunks(
    tokens: readonly number[],
    chunk: number,
    signal: AbortSignal | undefined,
  ): AsyncGenerator<{ position: number; logits: Float32Array }, void> {
    const sequence = await this.acquire(signal);
    try {
      for (let position = 0; position < tokens.length; position += chunk) {
        const part = tokens.slice(position, position + chunk);
        const [rows = []] = await this.feed([{ sequence, tokens: part, logits: "all", position }], [], signal);
        for (const [i, logits] of rows.entries()) yield { position: position + i, logits };
      }
    } finally {
      this.release(sequence);
    }
  }

  /**
   * Computes one batch of sequences that are held, between the other tasks' steps. Of each request, the logits that it
   * wants. Cut by the batch limit only.
   */
  feed(
    requests: readonly BatchRequest[],
    marks: readonly BatchMark[],
    signal: AbortSignal | undefined,
  ): Promise<Float32Array[][]> {
    return this.runExclusive(async () => {
      this.ensureGraphs(subBatches(requests, this.engine.config.batch));
      const job = this.engine.submit(requests, { marks });
      await this.finish(job, signal);
      let row = 0;
      return requests.map(({ tokens, logits }) => {
        const count = logits === "all" ? tokens.length : logits === "last" ? 1 : 0;
        return Array.from({ length: count }, () => this.readLogits(job, row++));
      });
    }, signal);
  }

  /** Does something to a sequence between steps. */
  task(task: SequenceTask): Promise<void> {
    return this.job(() => this.engine.submitTask(task), undefined);
  }

  /** Runs a job of the engine between the other tasks' steps. */
  job(submit: () => Job, signal: AbortSignal | undefined): Promise<void> {
    return this.runExclusive(async () => this.finish(submit(), signal), signal);
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

  private runExclusive<T>(work: () => Promise<T>, signal: AbortSignal | undefined): Promise<T> {
    const result = this.exclusive.add(work, signal);
    this.wake();
    return result;
  }

  // ---- the loop ----

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
        await this.exclusive.runNext();
        this.sweep();
        const slots = this.choose();
        if (slots.length > 0) await this.runBatch(slots);
        else if (this.exclusive.isEmpty) return;
      }
    } finally {
      this.isLooping = false;
    }
  }

  /** Who takes part in the next batch: those that decode first, unless that would leave prompts no room for ever. */
  private choose(): readonly Slot[] {
    const live = this.slots.filter(isReady);
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
    const parts = this.partsOf(slots);
    try {
      const job = this.submit(parts);
      const { timeMs } = await job.done;
      this.running = undefined;
      const choosing = this.finishBatch(job, parts, timeMs);
      // Those whose samplers answer at once are in the next batch again; nobody waits for the others.
      if (choosing.length > 0) await Promise.race([Promise.all(choosing), nextTurn()]);
    } catch (error) {
      this.running = undefined;
      if (!this.canRetry(slots, error)) for (const slot of slots) this.fail(slot, error);
    }
  }

  private partsOf(slots: readonly Slot[]): Part[] {
    let room = this.engine.config.batch;
    return slots.map((slot) => {
      const tokens = slot.task.pending.slice(0, room);
      room -= tokens.length;
      return { slot, tokens, isWhole: tokens.length === slot.task.pending.length };
    });
  }

  private submit(parts: readonly Part[]): Job {
    const slots = parts.map(({ slot }) => slot);
    const decodesInCore = parts.every(({ slot, isWhole }) => isWhole && slot.task.sampler !== undefined);
    const isSteady = decodesInCore && parts.every(({ tokens }) => tokens.length === 1);
    const isAwaited = !this.exclusive.isEmpty || this.slots.some((slot) => isReady(slot) && !slots.includes(slot));
    const steps = isSteady && !isAwaited ? Math.min(...slots.map((slot) => slot.task.remaining)) : 1;
    const requests = parts.map(({ slot, tokens, isWhole }): BatchRequest => {
      const { sampler } = slot.task;
      const request = { sequence: slot.sequence, tokens, logits: isWhole ? "last" : "none" } as const;
      return isWhole && sampler !== undefined ? { ...request, sampler } : request;
    });
    const bySequence = new Map(slots.map((slot) => [slot.sequence, slot] as const));
    this.ensureGraphs(subBatches(requests, this.engine.config.batch));
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
    return job;
  }

  /** Whether a batch that failed can go on without some of those in it. */
  private canRetry(slots: readonly Slot[], error: unknown): boolean {
    if (!(error instanceof StrataError) || (error.code !== "cancelled" && error.code !== "full")) return false;
    return slots.some((slot) => slot.ended) || (error.code === "full" && this.makeRoom());
  }

  // ---- room for those that do not all fit ----

  /** Lets go of what the one that started last holds, until somebody else has ended. False where it is the only one. */
  private makeRoom(): boolean {
    const holding = this.slots.filter((slot) => !slot.ended && !slot.isParked);
    const [last] = holding.filter((slot) => !slot.isChoosing).toSorted((a, b) => b.number - a.number);
    if (last === undefined || holding.length === 1) return false;
    this.engine.clear(last.sequence);
    last.task.restart();
    last.isParked = true;
    return true;
  }

  /** Somebody let go of memory: those who wait for some try again. */
  private unpark(): void {
    const parked = this.slots.filter((slot) => slot.isParked);
    for (const slot of parked) slot.isParked = false;
    if (parked.length > 0) this.wake();
  }

  // ---- what comes of a batch ----

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

  /** Lets the samplers of the caller's choose; resolved when they have. */
  private finishBatch(job: Job, parts: readonly Part[], timeMs: number): Promise<void>[] {
    const rows = new Map<Slot, Float32Array>();
    for (const { slot, tokens, isWhole } of parts) {
      const { task } = slot;
      if (isWhole) {
        if (task.sampler === undefined) rows.set(slot, this.readLogits(job, rows.size));
        continue;
      }
      task.pending.splice(0, tokens.length);
      if (!slot.ended) task.onPrefill(tokens.length);
    }
    return [...rows].filter(([slot]) => !slot.ended).map(([slot, logits]) => this.letChoose(slot, logits, timeMs));
  }

  private async letChoose(slot: Slot, logits: Float32Array, timeMs: number): Promise<void> {
    slot.isChoosing = true;
    try {
      const token = await this.chosen(slot, logits);
      if (token !== undefined) this.deliver(slot, { token, logProbability: Number.NaN, timeMs });
    } catch (error) {
      this.fail(slot, error);
    }
    slot.isChoosing = false;
    this.wake();
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

/** Whether it could take part in a batch now. */
function isReady(slot: Slot): boolean {
  return !slot.ended && !slot.isChoosing && !slot.isParked;
}

/** Resolves when what happens by itself has had its turn. */
function nextTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
