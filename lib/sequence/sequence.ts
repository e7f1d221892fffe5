import { checkPath } from "../arguments.ts";
import { StrataError } from "../errors.ts";
import type { BatchMark, BatchRequest, NativeEngine, SequenceTask, StateHolder } from "../native/engine.ts";
import { NativeState } from "../native/state.ts";
import type { Scheduler } from "../schedule/scheduler.ts";
import { heedSignal } from "../schedule/signal.ts";
import { checkBounds, checkKind, checkList, checkWhole, copyFeedOptions } from "./arguments.ts";
import { Snapshot } from "./snapshot.ts";
import { Work } from "./work.ts";

export interface FeedOptions {
  /** Of which tokens the logits are wanted. Default "last". */
  readonly logits?: "none" | "last" | "all";
  /** Positions at which snapshots are taken on the way: each is of the sequence before the token at that position. */
  readonly snapshots?: readonly number[];
  /** The position that the first token is believed to take. Where it is not the sequence's next one, that is an error. */
  readonly position?: number;
}

/** What one sequence is fed in a batch. */
export interface FeedRequest extends FeedOptions {
  readonly sequence: Sequence;
  readonly tokens: readonly number[];
}

export interface FeedResult {
  /** The logits that were wanted, `[vocabulary]` each, in the order of their tokens. */
  readonly logits: readonly Float32Array[];
  /** The snapshots that were wanted, in the order in which they were. */
  readonly snapshots: readonly Snapshot[];
}

/** From where a sequence can go on. */
export interface Resumable {
  /** The position that the next token would take. */
  readonly position: number;
  /** The snapshot to restore; undefined where the sequence is cut off there, or goes on as it is. */
  readonly snapshot: Snapshot | undefined;
  /** The memory that cannot go on from any later position, by its name in refusals; undefined where nothing limits. */
  readonly limitedBy: string | undefined;
}

/** What sequences work with; the model's. */
export interface SequenceHost {
  readonly engine: NativeEngine;
  readonly scheduler: Scheduler;
}

/**
 * One sequence of tokens in a model's memory. Positions count from 0; ranges are `[p0, p1)`, and a negative bound means
 * the start or the end. What a memory cannot do is refused with an error of code "refused" that names it, and then
 * nothing has changed. Dispose of a sequence (`using`) to free what it holds.
 *
 * What returns a promise is done in the order in which it was asked for. What changes the sequence at once (`remove`,
 * `rollback`, `clear`, `copy`, `copyTo`, `restore`, `keep`) throws "busy" while such work has not ended: await it first.
 */
export class Sequence implements Disposable {
  private number: number | undefined;
  private readonly taken = new Set<Snapshot>();
  private readonly work = new Work();

  /** For the SDK; use `model.sequence()`. */
  constructor(
    private readonly host: SequenceHost,
    number: number,
  ) {
    this.number = number;
  }

  /** The sequence's number in the library. */
  get index(): number {
    if (this.number === undefined) throw new StrataError("closed", "this sequence was disposed of");
    return this.number;
  }

  /** The position that the next token takes. */
  get position(): number {
    return this.host.engine.bounds(this.index).end;
  }

  /** The first position that every memory still holds; -1 where the sequence is empty. */
  get minPosition(): number {
    const { min, end } = this.host.engine.bounds(this.index);
    return end === 0 ? -1 : min;
  }

  /** The last position; -1 where the sequence is empty. */
  get maxPosition(): number {
    return this.position - 1;
  }

  /** The tokens that it was fed, without those that were removed. */
  get tokens(): number[] {
    return this.host.engine.tokens(this.index);
  }

  /** The snapshots that were taken of this sequence, or restored with it, and not disposed of. */
  get snapshots(): readonly Snapshot[] {
    return [...this.taken].filter((snapshot) => !snapshot.isDisposed);
  }

  /**
   * Saves the sequence and its snapshots to a file, from which `model.restore` brings them back. The file is written
   * under another name (`PATH.tmp-...`), synced and renamed: a crash leaves the old file or the new one, and what it left
   * of writing goes with the next save to the same path.
   *
   * Tokens are private: a new file can be read and written by its user only. One that is replaced keeps its permissions,
   * owner and group, as far as this process may give them. A symbolic link stays, and what it leads to is written; a
   * folder or a device is refused.
   */
  save(path: string, options: { readonly signal?: AbortSignal } = {}): Promise<void> {
    return saveTogether(this.host, path, [this], options.signal);
  }

  /**
   * Feeds tokens and resolves to the wanted logits. What fails or is cancelled leaves the sequence as it was before the
   * sub-batch that was running (of at most `batch` tokens); those before it stay.
   */
  async feed(
    tokens: readonly number[],
    options: FeedOptions & { readonly signal?: AbortSignal } = {},
  ): Promise<FeedResult> {
    const { signal, ...request } = options;
    const [result] = await feedTogether(this.host, [{ ...request, sequence: this, tokens }], signal);
    return result as FeedResult;
  }

  /**
   * The longest beginning of the sequence, of at most `position` positions, that tokens can be fed after without
   * computing it again: by `remove(found.position)`, or by restoring `found.snapshot`, one of the sequence's own that
   * stands for the same tokens. Says which memory kept it from more.
   */
  resumable(position = this.position): Resumable {
    if (!Number.isSafeInteger(position) || position < 0 || position >= 2 ** 31) {
      throw new StrataError("invalid_argument", `a position is ${position}; give a whole number from 0 up`);
    }
    const { snapshots } = this;
    const handles = snapshots.map(({ handle }) => handle);
    const found = this.host.engine.resumable(this.index, position, handles);
    return { ...found, snapshot: found.snapshot === undefined ? undefined : snapshots[found.snapshot] };
  }

  /** Removes positions `[p0, p1)`. A whole sequence always can be; a tail, where every memory can go back that far. */
  remove(p0 = -1, p1 = -1): void {
    checkBounds("remove", { p0, p1 });
    this.checkIdle("remove");
    this.host.engine.remove(this.index, p0, p1);
  }

  /** Takes back the last `count` positions: as many tokens, unless a shift left a hole there. Exact, or refused. */
  rollback(count: number): void {
    checkWhole("rollback", { count });
    this.checkIdle("rollback");
    const { position } = this;
    if (count < 0 || count > position) {
      throw new StrataError("invalid_argument", `${count} tokens cannot be taken back of ${position}`);
    }
    if (count > 0) this.remove(position - count, -1);
  }

  /** Removes everything. */
  clear(): void {
    this.checkIdle("clear");
    this.host.engine.clear(this.index);
  }

  /** Another sequence that holds the same, or positions `[p0, p1)` of it. Memory is shared until one of them changes it. */
  copy(p0 = -1, p1 = -1): Sequence {
    checkBounds("copy", { p0, p1 });
    this.checkIdle("copy");
    const { scheduler } = this.host;
    const copy = new Sequence(this.host, scheduler.take());
    try {
      this.copyTo(copy, p0, p1);
      return copy;
    } catch (error) {
      copy.dispose();
      throw error;
    }
  }

  /** Makes another sequence hold what this one holds; what it held before goes. */
  copyTo(destination: Sequence, p0 = -1, p1 = -1): void {
    checkKind("copyTo", destination, Sequence, "sequence");
    destination.check(this.host);
    checkBounds("copyTo", { p0, p1 });
    this.checkIdle("copyTo");
    destination.checkIdle("copyTo");
    this.host.engine.copy(this.index, destination.index, p0, p1);
  }

  /**
   * Removes everything from all other sequences of the model. Throws "busy" while anything runs or waits with it:
   * generations, logits, or work of any sequence.
   */
  keep(): void {
    const { index } = this;
    this.host.scheduler.checkQuiet("keep");
    this.host.engine.keep(index);
  }

  /**
   * Moves positions `[p0, p1)` by `distance`. Keys are turned on where rotary embedding is used. States of recurrent
   * layers move only with the whole sequence.
   */
  async shift(p0: number, p1: number, distance: number): Promise<void> {
    checkBounds("shift", { p0, p1 });
    checkWhole("shift", { distance });
    await this.task({ kind: "shift", from: p0, to: p1, amount: distance });
  }

  /** Divides positions `[p0, p1)` by `divisor`, rounding down. Refused where a layer has states. */
  async divide(p0: number, p1: number, divisor: number): Promise<void> {
    checkBounds("divide", { p0, p1 });
    checkWhole("divide", { divisor });
    await this.task({ kind: "divide", from: p0, to: p1, amount: divisor });
  }

  /** A snapshot of the sequence as it is: it can be restored to any sequence of the model, any number of times. */
  async snapshot(): Promise<Snapshot> {
    const snapshot = new Snapshot(this.host.engine);
    try {
      await this.task({ kind: "takeSnapshot", snapshot: snapshot.handle });
      this.own(snapshot);
      return snapshot;
    } catch (error) {
      snapshot.dispose();
      throw error;
    }
  }

  /** Makes the sequence hold what a snapshot holds; what it held before goes. */
  restore(snapshot: Snapshot): void {
    checkKind("restore", snapshot, Snapshot, "snapshot");
    snapshot.check(this.host.engine);
    this.checkIdle("restore");
    this.host.engine.restoreSnapshot(snapshot.handle, this.index);
  }

  /** Frees what the sequence holds, and its place for others: at once, or when what runs with it has ended. */
  dispose(): void {
    const { number } = this;
    if (number === undefined) return;
    this.number = undefined;
    this.host.scheduler.leave(number);
    this.work.whenIdle(() => this.host.scheduler.release(number));
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  /** For the SDK: throws where this is no sequence of the model that is to work with it. */
  check(host: SequenceHost): void {
    if (host !== this.host) throw new StrataError("invalid_argument", "this sequence belongs to another model");
  }

  /** For the SDK: a snapshot that belongs to this sequence. */
  own(snapshot: Snapshot): void {
    for (const other of this.taken) if (other.isDisposed) this.taken.delete(other);
    this.taken.add(snapshot);
  }

  /** For the SDK: does work that must end before the sequence is given back. */
  hold<T>(work: Promise<T>): Promise<T> {
    return this.work.during(work);
  }

  /** Throws where what is done at once would overtake what was asked for before. */
  private checkIdle(operation: string): void {
    const { index } = this;
    if (this.work.isIdle) return;
    throw new StrataError(
      "busy",
      `${operation}: sequence ${index} has work that has not ended; await what it returned first`,
    );
  }

  private async task(task: Omit<SequenceTask, "sequence">): Promise<void> {
    await this.hold(this.host.scheduler.task({ ...task, sequence: this.index }));
  }
}

/** Feeds several sequences in one batch, which only the batch limit cuts. */
export async function feedTogether(
  host: SequenceHost,
  requests: readonly FeedRequest[],
  signal: AbortSignal | undefined,
): Promise<FeedResult[]> {
  heedSignal(signal);
  const { engine, scheduler } = host;
  const parts = copyRequests(host, requests);
  const snapshots: Snapshot[][] = parts.map(() => []);
  try {
    const marks: BatchMark[] = [];
    for (const [request, part] of parts.entries()) {
      for (const position of part.snapshots) {
        const snapshot = new Snapshot(engine);
        snapshots[request]?.push(snapshot);
        marks.push({ request, position, snapshot: snapshot.handle });
      }
    }
    const work = scheduler.feed(
      parts.map(({ request }) => request),
      marks,
      signal,
    );
    for (const { sequence } of parts) void sequence.hold(work).catch(() => undefined);
    const logits = await work;
    return parts.map(({ sequence }, index) => {
      const own = snapshots[index] ?? [];
      for (const snapshot of own) sequence.own(snapshot);
      return { logits: logits[index] ?? [], snapshots: own };
    });
  } catch (error) {
    for (const snapshot of snapshots.flat()) snapshot.dispose();
    throw error;
  }
}

/** What is to be fed, the caller's no more: it may change until its turn comes. Throws on what cannot be. */
function copyRequests(
  host: SequenceHost,
  requests: readonly FeedRequest[],
): { sequence: Sequence; snapshots: readonly number[]; request: BatchRequest }[] {
  checkList("feed", requests, "what sequences are fed, { sequence, tokens }");
  return requests.map((given) => {
    const { sequence } = (given ?? {}) as FeedRequest;
    checkKind("feed", sequence, Sequence, "sequence");
    sequence.check(host);
    const { logits, snapshots, position } = copyFeedOptions(given);
    const request = { sequence: sequence.index, tokens: host.scheduler.copyTokens(given.tokens), logits };
    return { sequence, snapshots, request: position === undefined ? request : { ...request, position } };
  });
}

/** Saves sequences and their snapshots to one file. */
export async function saveTogether(
  host: SequenceHost,
  path: string,
  sequences: readonly Sequence[],
  signal: AbortSignal | undefined,
): Promise<void> {
  heedSignal(signal);
  checkPath("state", path);
  checkList("save", sequences, "sequences");
  const { engine, scheduler } = host;
  const saved = [...sequences];
  for (const sequence of saved) {
    checkKind("save", sequence, Sequence, "sequence");
    sequence.check(host);
  }
  const holders: StateHolder[] = saved.map(({ index }) => ({ kind: "sequence", number: index }));
  const held: (Sequence | Snapshot)[] = [...saved];
  for (const [of, { snapshots }] of saved.entries()) {
    for (const snapshot of snapshots) {
      holders.push({ kind: "snapshot", number: snapshot.handle, of });
      held.push(snapshot);
    }
  }
  const work = scheduler.job(() => engine.save(path, holders), signal);
  for (const one of held) void one.hold(work).catch(() => undefined);
  await work;
}

/** Brings the sequences of a file back, each with its snapshots; where `only` is given, of a file that holds as many. */
export async function restoreTogether(
  host: SequenceHost,
  path: string,
  signal: AbortSignal | undefined,
  only?: 1,
): Promise<Sequence[]> {
  heedSignal(signal);
  checkPath("state", path);
  const { engine, scheduler } = host;
  using state = new NativeState(path);
  const facts = state.holders();
  checkPlaces(scheduler, path, facts.filter(({ kind }) => kind === "sequence").length, only);
  const sequences: Sequence[] = [];
  const snapshots: Snapshot[] = [];
  try {
    const bySequence = new Map<number, Sequence>();
    const holders = facts.map(({ kind, of }, index): StateHolder => {
      if (kind === "snapshot") {
        const snapshot = new Snapshot(engine);
        snapshots.push(snapshot);
        return { kind, number: snapshot.handle, of };
      }
      const sequence = new Sequence(host, scheduler.take());
      sequences.push(sequence);
      bySequence.set(index, sequence);
      return { kind, number: sequence.index };
    });
    await scheduler.job(() => engine.restore(state, holders), signal);
    let next = 0;
    for (const { kind, of } of facts) if (kind === "snapshot") bySequence.get(of)?.own(snapshots[next++] as Snapshot);
    return sequences;
  } catch (error) {
    for (const holder of [...snapshots, ...sequences]) holder.dispose();
    throw error;
  }
}

/** Throws where the sequences of a file are too many. */
function checkPlaces({ freeCount }: Scheduler, path: string, count: number, only: number | undefined): void {
  if (only !== undefined && count > only) {
    const sentence = `this state holds ${count} sequences; bring them back with restoreAll`;
    throw new StrataError("invalid_argument", `${path}: ${sentence}`);
  }
  if (count <= freeCount) return;
  const sentence = `this state holds ${count} sequences, and this model has ${freeCount} free`;
  throw new StrataError("full", `${path}: ${sentence}; dispose of some, or load the model with more`);
}
