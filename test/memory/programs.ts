/**
 * Random programs of the operations on sequences, run against the real memory and the naive one at once. After every
 * operation both must say the same, and after every feed the logits must be those that are computed from token lists.
 */
import fc from "fast-check";
import { expect } from "bun:test";
import { join } from "node:path";
import { loadModel, StrataError, type FeedResult, type Model, type Sequence, type Snapshot } from "ggstrata";
import { randomOf } from "../model/help.ts";
import type { Declared } from "./declarations.ts";
import { context, MadeUpModel, vocabulary } from "./made-up-architecture.ts";
import { Naive, type Held, type Move, type Outcome } from "./naive.ts";
import { Reference } from "./reference.ts";

/** Sequences that a program names; one more is there for copies that are only looked at. */
const names = 3;
/** Files that a program saves to, over and over. */
const fileCount = 2;

// ---- what programs are made of ----

/** What one sequence is fed. */
interface FeedPart {
  readonly slot: number;
  readonly count: number;
  readonly seed: number;
  readonly logits: "none" | "last" | "all";
  /** Where snapshots are taken, in thousandths of the way. */
  readonly marks: readonly number[];
}

/** How a batch is made to fail: by the position it claims, an unknown token, a snapshot behind it, no tokens. */
type Fault = "none" | "position" | "token" | "mark" | "nothing" | "long";

/** A range in thousandths of a sequence and a little beyond. */
interface Range {
  readonly a: number;
  readonly b: number;
}

export type Operation =
  | { readonly op: "feed"; readonly parts: readonly FeedPart[]; readonly fault: Fault; readonly abort: number }
  | {
      readonly op: "remove";
      readonly slot: number;
      readonly range: Range;
      readonly what: "whole" | "tail" | "head" | "range" | "empty";
    }
  | { readonly op: "rollback"; readonly slot: number; readonly count: number }
  | {
      readonly op: "copy";
      readonly slot: number;
      readonly to: number;
      readonly range: Range;
      readonly what: "whole" | "tail" | "head" | "range";
    }
  | { readonly op: "keep"; readonly slot: number }
  | {
      readonly op: "shift";
      readonly slot: number;
      readonly range: Range;
      readonly what: "whole" | "tail" | "range";
      readonly distance: number;
    }
  /** Moves what stands behind the first hole up to it. */
  | { readonly op: "close"; readonly slot: number }
  /** Makes room as chats do: again and again what stands behind a beginning goes, the rest closes up, and goes on. */
  | {
      readonly op: "slide";
      readonly slot: number;
      readonly keep: number;
      readonly count: number;
      readonly times: number;
    }
  | {
      readonly op: "divide";
      readonly slot: number;
      readonly range: Range;
      readonly what: "whole" | "tail" | "range";
      readonly divisor: number;
    }
  | { readonly op: "snapshot"; readonly slot: number }
  | { readonly op: "restore"; readonly slot: number; readonly which: number }
  | { readonly op: "drop"; readonly which: number }
  | { readonly op: "leave"; readonly slot: number }
  /** Saves a sequence with its snapshots, `back` tokens after they were taken back: its states may be pending then. */
  | { readonly op: "save"; readonly slot: number; readonly back: number; readonly file: number }
  /** Brings a saved sequence back and gives it the place of another; `isCrowded` is while all sequences are in use. */
  | { readonly op: "load"; readonly slot: number; readonly file: number; readonly isCrowded: boolean };

const slot = fc.nat(names - 1);
const range: fc.Arbitrary<Range> = fc.record({ a: fc.nat(999), b: fc.nat(999) });
const count = fc.oneof(
  { weight: 4, arbitrary: fc.constant(1) },
  { weight: 4, arbitrary: fc.integer({ min: 1, max: 8 }) },
  { weight: 3, arbitrary: fc.integer({ min: 1, max: 40 }) },
);
const part: fc.Arbitrary<FeedPart> = fc.record({
  slot,
  count,
  seed: fc.nat(9999),
  logits: fc.constantFrom("last", "last", "all", "none"),
  marks: fc.oneof(
    { weight: 4, arbitrary: fc.constant([]) },
    { weight: 1, arbitrary: fc.array(fc.nat(1000), { maxLength: 3 }) },
  ),
});

/** Mostly one; now and then one of the others. */
function rarely<T>(usual: T, ...others: readonly T[]): fc.Arbitrary<T> {
  return fc.oneof({ weight: 10, arbitrary: fc.constant(usual) }, { weight: 1, arbitrary: fc.constantFrom(...others) });
}

const feed: fc.Arbitrary<Operation> = fc.record({
  op: fc.constant("feed" as const),
  parts: fc.oneof(
    { weight: 3, arbitrary: fc.tuple(part) },
    { weight: 1, arbitrary: fc.uniqueArray(part, { minLength: 2, maxLength: names, selector: (p) => p.slot }) },
  ),
  fault: rarely<Fault>("none", "position", "token", "mark", "nothing", "long"),
  abort: fc.oneof({ weight: 12, arbitrary: fc.constant(-1) }, { weight: 1, arbitrary: fc.nat(12) }),
});

const operation: fc.Arbitrary<Operation> = fc.oneof(
  { weight: 14, arbitrary: feed },
  {
    weight: 5,
    arbitrary: fc.record({
      op: fc.constant("remove" as const),
      slot,
      range,
      what: fc.constantFrom("tail", "tail", "head", "range", "range", "empty", "whole"),
    }),
  },
  {
    weight: 4,
    arbitrary: fc.record({ op: fc.constant("rollback" as const), slot, count: fc.integer({ min: 0, max: 10 }) }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      op: fc.constant("copy" as const),
      slot,
      to: slot,
      range,
      what: fc.constantFrom("whole", "whole", "tail", "head", "range"),
    }),
  },
  { weight: 1, arbitrary: fc.record({ op: fc.constant("keep" as const), slot }) },
  {
    weight: 2,
    arbitrary: fc.record({
      op: fc.constant("shift" as const),
      slot,
      range,
      what: fc.constantFrom("whole", "tail", "range"),
      distance: fc.integer({ min: -20, max: 20 }),
    }),
  },
  { weight: 2, arbitrary: fc.record({ op: fc.constant("close" as const), slot }) },
  {
    weight: 1,
    arbitrary: fc.record({
      op: fc.constant("slide" as const),
      slot,
      keep: fc.integer({ min: 1, max: 8 }),
      count: fc.integer({ min: 1, max: 12 }),
      times: fc.integer({ min: 1, max: 12 }),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      op: fc.constant("divide" as const),
      slot,
      range,
      what: fc.constantFrom("whole", "tail", "range"),
      divisor: fc.integer({ min: 1, max: 4 }),
    }),
  },
  { weight: 2, arbitrary: fc.record({ op: fc.constant("snapshot" as const), slot }) },
  { weight: 3, arbitrary: fc.record({ op: fc.constant("restore" as const), slot, which: fc.nat(9) }) },
  { weight: 1, arbitrary: fc.record({ op: fc.constant("drop" as const), which: fc.nat(9) }) },
  { weight: 1, arbitrary: fc.record({ op: fc.constant("leave" as const), slot }) },
  {
    weight: 3,
    arbitrary: fc.record({
      op: fc.constant("save" as const),
      slot,
      back: fc.constantFrom(0, 0, 1, 2, 3, 5),
      file: fc.nat(fileCount - 1),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      op: fc.constant("load" as const),
      slot,
      file: fc.nat(fileCount - 1),
      isCrowded: rarely(false, true),
    }),
  },
);

export const program: fc.Arbitrary<Operation[]> = fc.array(operation, { minLength: 1, maxLength: 40, size: "max" });

// ---- running them ----

/** What became of the operations, so that a test can see that they did something. */
export interface Tally {
  operations: number;
  done: number;
  refused: number;
  /** Refused, and the contract left it open. */
  declined: number;
  feeds: number;
  rowsCompared: number;
  cancelled: number;
  saved: number;
  loaded: number;
  /** Greatest normalised mean squared error of any row. */
  worst: number;
}

/** A declaration's model, loaded once and used by many programs. */
export class Bench implements AsyncDisposable {
  readonly tally: Tally = {
    operations: 0,
    done: 0,
    refused: 0,
    declined: 0,
    feeds: 0,
    rowsCompared: 0,
    cancelled: 0,
    saved: 0,
    loaded: 0,
    worst: 0,
  };
  readonly naive: Naive;
  readonly reference: Reference;
  private model: Model | undefined;

  constructor(
    readonly declared: Declared,
    private readonly path: string,
    /** Where programs save sequences. */
    private readonly folder: string,
    private readonly madeUp: MadeUpModel,
  ) {
    this.naive = new Naive(declared.layers, declared.options);
    this.reference = new Reference(madeUp);
  }

  /** How far logits may be from exact ones. */
  get tolerance(): number {
    const { layers, options } = this.declared;
    const hasHalves = layers.flat().some((one) => one.kind === "recurrent" && one.half);
    const hasAttention = layers.flat().some(({ kind }) => kind === "attention");
    const isHalf = hasAttention && options.kv === "f16";
    // As ggml's flash attention, it sums values in f16, which shows where they cancel each other.
    if (isHalf && options.flashAttention !== false) return 1e-4;
    return hasHalves || isHalf || options.snapshotType === "f16" ? 1e-5 : 1e-8;
  }

  statePath(file: number): string {
    return join(this.folder, `${file}.state`);
  }

  /** Runs one program. After a failure the next one gets a model that was loaded anew. */
  async run(operations: readonly Operation[]): Promise<void> {
    const { model: kept, madeUp } = this;
    const options = { context, sequences: names + 1, threads: 1, ...this.declared.options, plugins: [madeUp.plugin] };
    const model = kept ?? (await loadModel(this.path, options));
    this.model = undefined;
    const world = new World(this, model);
    try {
      for (const [i, one] of operations.entries()) await world.run(one, `operation ${i}, ${JSON.stringify(one)}`);
      await world.end();
    } catch (error) {
      await model.dispose();
      throw error;
    }
    this.model = model;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.model?.dispose();
  }
}

interface Slot {
  readonly sequence: Sequence;
  held: Held;
}

interface Taken {
  readonly snapshot: Snapshot;
  /** Whose it is: it is saved and brought back with it. */
  readonly owner: Sequence;
  readonly held: Held;
}

/** What a file was given to hold. */
interface Saved {
  readonly held: Held;
  readonly snapshots: readonly Held[];
}

/** One program's sequences and snapshots, real and naive. */
class World {
  private readonly slots: (Slot | undefined)[] = Array.from({ length: names }, () => undefined);
  private readonly taken: Taken[] = [];
  /** Of this program; what another one left in a file is not loaded. */
  private readonly files: (Saved | undefined)[] = Array.from({ length: fileCount }, () => undefined);
  private readonly start: { freeBlocks: number; freeCells: number; snapshots: number };
  /** Something was cut out or moved: blocks may be in use for a few cells each. */
  private isFragmented = false;
  private where = "";

  constructor(
    private readonly bench: Bench,
    private readonly model: Model,
  ) {
    this.start = this.counts();
  }

  async run(one: Operation, where: string): Promise<void> {
    this.where = where;
    this.bench.tally.operations += 1;
    await this.apply(one);
    this.compareAll();
  }

  /** Lets everything go; all that was taken must be free again. */
  async end(): Promise<void> {
    this.where = "at the end";
    for (const { snapshot } of this.taken) snapshot.dispose();
    for (const one of this.slots) one?.sequence.dispose();
    await Bun.sleep(0);
    const left = this.counts();
    for (const name of ["freeBlocks", "freeCells", "snapshots"] as const) {
      if (left[name] !== this.start[name])
        this.fail(`${name} is ${left[name]}, and was ${this.start[name]} at the start`);
    }
  }

  private counts(): { freeBlocks: number; freeCells: number; snapshots: number } {
    const { freeBlocks, freeCells, snapshots } = this.model.counters();
    return { freeBlocks, freeCells, snapshots };
  }

  private fail(sentence: string): never {
    throw new Error(`${this.bench.declared.name}, ${this.where}: ${sentence}`);
  }

  private slot(index: number): Slot {
    return (this.slots[index] ??= { sequence: this.model.sequence(), held: this.bench.naive.empty });
  }

  /** One case for each operation. */
  private async apply(one: Operation): Promise<void> {
    const { naive } = this.bench;
    switch (one.op) {
      case "feed":
        return this.feed(one.parts, one.fault, one.abort);
      case "remove": {
        const { sequence, held } = this.slot(one.slot);
        const [p0, p1] =
          one.what === "empty" ? emptyRange(this.span(held, one.range)) : cut(one.what, this.span(held, one.range));
        const outcome = naive.remove(held, p0, p1);
        if (outcome.held.pairs.length > 0 && p1 >= 0 && p1 < naive.position(held)) this.isFragmented = true;
        return this.change(one.slot, outcome, () => sequence.remove(p0, p1));
      }
      case "rollback":
        return this.rollback(one.slot, one.count);
      case "copy":
        return this.copy(one.slot, one.to, cut(one.what, this.span(this.slot(one.slot).held, one.range)));
      case "keep": {
        const { sequence } = this.slot(one.slot);
        sequence.keep();
        for (const [i, other] of this.slots.entries())
          if (i !== one.slot && other !== undefined) other.held = naive.empty;
        return;
      }
      case "shift": {
        const [p0, p1] = cut(one.what, this.span(this.slot(one.slot).held, one.range));
        return this.move(one.slot, p0, p1, { shift: one.distance });
      }
      case "close": {
        const { pairs } = this.slot(one.slot).held;
        const last = pairs.findIndex(({ position }, i) => (pairs[i + 1]?.position ?? position) > position + 1);
        const [before, behind] = [pairs[last]?.position, pairs[last + 1]?.position];
        if (before === undefined || behind === undefined) return;
        return this.move(one.slot, behind, -1, { shift: before + 1 - behind });
      }
      case "slide":
        for (let i = 0; i < one.times; i += 1) await this.slide(one.slot, one.keep, one.count);
        return;
      case "divide": {
        const [p0, p1] = cut(one.what, this.span(this.slot(one.slot).held, one.range));
        return this.move(one.slot, p0, p1, { divide: one.divisor });
      }
      case "snapshot":
        return this.snapshot(one.slot);
      case "restore": {
        const taken = this.taken[one.which % this.taken.length];
        if (taken === undefined) return;
        const { sequence } = this.slot(one.slot);
        return this.change(
          one.slot,
          { verdict: "must", held: taken.held },
          () => sequence.restore(taken.snapshot),
          this.canBeFull(),
        );
      }
      case "drop": {
        const [gone] = this.taken.splice(one.which % Math.max(this.taken.length, 1), 1);
        gone?.snapshot.dispose();
        return;
      }
      case "leave": {
        this.slots[one.slot]?.sequence.dispose();
        this.slots[one.slot] = undefined;
        await Bun.sleep(0);
        return;
      }
      case "save":
        if (one.back > 0) await this.rollback(one.slot, one.back);
        return this.save(one.slot, one.file);
      case "load": {
        const file = this.files[one.file] === undefined ? this.files.findLastIndex(Boolean) : one.file;
        const saved = this.files[file];
        return saved && this.load(one.slot, file, saved, one.isCrowded);
      }
    }
  }

  /** Positions of a range given in thousandths. */
  private span(held: Held, { a, b }: Range): [number, number] {
    const reach = this.bench.naive.position(held) + 3;
    const [low, high] = [Math.min(a, b), Math.max(a, b)].map((share) => Math.floor((share * reach) / 1000)) as [
      number,
      number,
    ];
    return [low, high + 1];
  }

  // ---- operations that are done or refused ----

  /** Does something to one sequence, and holds both memories' words against each other. */
  private async change(
    index: number,
    outcome: Outcome,
    action: () => void | Promise<void>,
    canBeFull = false,
  ): Promise<void> {
    const error = await this.attempt(async () => action());
    if (!this.judge(outcome, error, canBeFull)) return this.probe(index);
    this.slot(index).held = outcome.held;
  }

  /** Whether it was done; fails where it must not have been, or must have been. */
  private judge({ verdict }: Outcome, error: StrataError | undefined, canBeFull = false): boolean {
    const { tally } = this.bench;
    if (error === undefined) {
      if (verdict === "refuse") this.fail("it was done, and had to be refused");
      tally.done += 1;
      return true;
    }
    if (error.code === "full" && canBeFull) tally.declined += 1;
    else {
      if (error.code !== "refused") this.fail(`it failed with "${error.code}": ${error.message}`);
      if (verdict === "must") this.fail(`it had to be done, and was refused: ${error.message}`);
      if (verdict === "may") tally.declined += 1;
      else tally.refused += 1;
    }
    return false;
  }

  private async attempt(action: () => Promise<unknown>): Promise<StrataError | undefined> {
    try {
      await action();
      return undefined;
    } catch (error) {
      if (error instanceof StrataError) return error;
      throw error;
    }
  }

  /** More room than sequences need at their longest may be taken by snapshots, and by blocks that are used in part. */
  private canBeFull(): boolean {
    return this.isFragmented || this.taken.length > 0 || this.bench.declared.options.cells !== undefined;
  }

  private async rollback(index: number, count: number): Promise<void> {
    const { naive } = this.bench;
    const { sequence, held } = this.slot(index);
    const taken = Math.min(count, naive.position(held));
    const nothing: Outcome = { verdict: "must", held };
    const outcome = taken === 0 ? nothing : naive.remove(held, naive.position(held) - taken, -1);
    return this.change(index, outcome, () => sequence.rollback(taken));
  }

  private async move(index: number, p0: number, p1: number, how: Move): Promise<void> {
    const { sequence, held } = this.slot(index);
    this.isFragmented = true;
    return this.change(
      index,
      this.bench.naive.move(held, p0, p1, how),
      () => ("shift" in how ? sequence.shift(p0, p1, how.shift) : sequence.divide(p0, p1, how.divide)),
      // Shared cells become the sequence's own first.
      true,
    );
  }

  private async slide(index: number, keep: number, count: number): Promise<void> {
    const { sequence, held } = this.slot(index);
    const first = (held.pairs[0]?.position ?? 0) + keep;
    const before = this.bench.naive.position(held);
    this.isFragmented = true;
    await this.change(index, this.bench.naive.remove(held, first, first + count), () =>
      sequence.remove(first, first + count),
    );
    if (this.bench.naive.position(this.slot(index).held) === before)
      await this.move(index, first + count, -1, { shift: -count });
    await this.feed([{ slot: index, count, seed: count, logits: "last", marks: [] }], "none", -1);
  }

  private async copy(from: number, to: number, [p0, p1]: readonly [number, number]): Promise<void> {
    const { sequence, held } = this.slot(from);
    const { naive } = this.bench;
    const outcome = from === to ? ({ verdict: "must", held } as const) : naive.copy(held, p0, p1);
    if (outcome.held.pairs.length < held.pairs.length) this.isFragmented = true;
    const target = this.slots[to];
    if (target !== undefined)
      return this.change(to, outcome, () => sequence.copyTo(target.sequence, p0, p1), this.canBeFull());
    let copy: Sequence | undefined;
    const error = await this.attempt(async () => (copy = sequence.copy(p0, p1)));
    if (this.judge(outcome, error, this.canBeFull()) && copy !== undefined) {
      this.slots[to] = { sequence: copy, held: outcome.held };
    } else await Bun.sleep(0);
  }

  private async snapshot(index: number): Promise<void> {
    const { sequence, held } = this.slot(index);
    let snapshot: Snapshot | undefined;
    const error = await this.attempt(async () => (snapshot = await sequence.snapshot()));
    if (error?.code === "full" && this.taken.length === this.model.memory.snapshots) return;
    if (this.judge({ verdict: "must", held }, error, this.canBeFull()) && snapshot !== undefined) {
      this.take(snapshot, sequence, this.bench.naive.snapped(held));
    }
  }

  private take(snapshot: Snapshot, owner: Sequence, held: Held): void {
    const position = this.bench.naive.position(held);
    if (snapshot.position !== position)
      this.fail(`a snapshot stands at ${snapshot.position}, and ${position} was expected`);
    this.taken.push({ snapshot, owner, held });
  }

  // ---- files ----

  private async save(index: number, file: number): Promise<void> {
    const { sequence, held } = this.slot(index);
    const snapshots = this.taken.filter(({ owner }) => owner === sequence).map((one) => one.held);
    const error = await this.attempt(() => sequence.save(this.bench.statePath(file)));
    if (!this.judge({ verdict: "must", held }, error)) return;
    this.bench.tally.saved += 1;
    this.files[file] = { held: this.bench.naive.saved(held), snapshots };
  }

  /** What has the place is let go only when the file was brought back: both are held at once. */
  private async load(index: number, file: number, { held, snapshots }: Saved, isCrowded: boolean): Promise<void> {
    const free = names + 1 - this.slots.filter((one) => one !== undefined).length;
    const others = Array.from({ length: isCrowded ? free : 0 }, () => this.model.sequence());
    const hasNoPlace = isCrowded || this.taken.length + snapshots.length > this.model.memory.snapshots;
    let loaded: Sequence | undefined;
    const error = await this.attempt(async () => {
      loaded = await this.model.restore(this.bench.statePath(file));
    });
    for (const other of others) other.dispose();
    await Bun.sleep(0);
    if (hasNoPlace) {
      if (error?.code !== "full") this.fail(`it had to fail with "full", and ${error?.message ?? "was done"}`);
      this.bench.tally.refused += 1;
    }
    // What snapshots shared with sequences that live is there twice now. In streams of their own all have their room.
    const isShared = this.bench.declared.options.streams !== "separate";
    const canBeFull = isShared && (snapshots.length > 0 || this.canBeFull());
    if (hasNoPlace || !this.judge({ verdict: "must", held }, error, canBeFull) || loaded === undefined) {
      for (const i of this.slots.keys()) await this.probe(i);
      return;
    }
    this.bench.tally.loaded += 1;
    this.slots[index]?.sequence.dispose();
    await Bun.sleep(0);
    this.slots[index] = { sequence: loaded, held };
    const own = loaded.snapshots;
    if (own.length !== snapshots.length)
      this.fail(`${own.length} snapshots were loaded, and ${snapshots.length} had been saved`);
    for (const [i, one] of snapshots.entries()) this.take(own[i] as Snapshot, loaded, one);
    await this.probe(index);
  }

  // ---- batches ----

  private async feed(parts: readonly FeedPart[], fault: Fault, abort: number): Promise<void> {
    const { naive, tally } = this.bench;
    const own = parts.map((one, i) => {
      const target = this.slot(one.slot);
      const first = naive.position(target.held);
      const random = randomOf(one.seed);
      let length = one.count;
      if (i === 0 && fault === "nothing") length = 0;
      if (i === 0 && fault === "long") length = context + 1 - first;
      const tokens = Array.from({ length }, () => Math.floor(random() * vocabulary));
      if (i === 0 && fault === "token") tokens[tokens.length - 1] = vocabulary;
      const marks = one.marks.map((share) => first + Math.floor((share * length) / 1000));
      if (i === 0 && fault === "mark") marks.push(first + length + 1);
      return { target, first, tokens, marks, logits: one.logits };
    });
    const requests = own.map(({ target, tokens, marks, logits, first }, i) => ({
      sequence: target.sequence,
      tokens,
      logits,
      snapshots: marks,
      ...(i === 0 && fault === "position" ? { position: first + 1 } : {}),
    }));
    const reasons = new Set<string>();
    if (fault === "position") reasons.add("refused");
    if (fault === "token" || fault === "mark" || fault === "nothing") reasons.add("invalid_argument");
    if (own.some(({ first, tokens }) => first + tokens.length > context)) reasons.add("full").add("invalid_argument");
    const wanted = own.reduce((sum, { marks }) => sum + marks.length, 0);
    if (this.taken.length + wanted > this.model.memory.snapshots) reasons.add("full");

    const controller = new AbortController();
    if (abort >= 0) void abortLater(controller, abort);
    let results: FeedResult[];
    try {
      results = await this.model.feed(requests, abort < 0 ? {} : { signal: controller.signal });
    } catch (error) {
      if (controller.signal.aborted && error === controller.signal.reason) return this.afterCancelled(own);
      if (!(error instanceof StrataError)) throw error;
      const canBeFull = error.code === "full" && (this.canBeFull() || wanted > 0);
      if (!reasons.has(error.code) && !canBeFull) this.fail(`it failed with "${error.code}": ${error.message}`);
      tally.refused += 1;
      for (const one of parts) await this.probe(one.slot);
      return;
    }
    if (reasons.size > 0) this.fail(`it was computed, and had to fail with ${[...reasons].join(" or ")}`);
    tally.feeds += 1;
    this.follow(own, Infinity, results);
    for (const [i, { target, first, tokens, logits }] of own.entries()) {
      const rows = results[i]?.logits ?? [];
      const begin = target.held.pairs.length - tokens.length;
      const shown = logits === "none" ? [] : logits === "last" ? [tokens.length - 1] : tokens.map((_, k) => k);
      this.compareRows(
        target.held,
        shown.map((k) => begin + k),
        rows,
        `position ${first} on`,
      );
    }
  }

  /** Lets the naive memory follow the first sub-batches of a batch. */
  private follow(own: readonly Fed[], limit: number, results: readonly FeedResult[]): void {
    const { naive } = this.bench;
    const done = own.map(() => 0);
    const marked = own.map(({ marks }) => marks.map((): Held | undefined => undefined));
    for (const subBatch of naive.subBatches(own.map(({ tokens }) => tokens.length)).slice(0, limit)) {
      for (const [i, count] of subBatch) {
        const { target, tokens, marks } = own[i] as Fed;
        const before = target.held;
        const begin = done[i] as number;
        target.held = naive.fed(before, tokens.slice(begin, begin + count), subBatch.size === 1);
        done[i] = begin + count;
        const end = naive.position(target.held);
        for (const [m, position] of marks.entries()) {
          const list = marked[i] as (Held | undefined)[];
          if (list[m] === undefined && position <= end) list[m] = naive.marked(before, target.held, position);
        }
      }
    }
    for (const [i, { snapshots }] of results.entries()) {
      const { sequence } = (own[i] as Fed).target;
      for (const [m, snapshot] of snapshots.entries()) this.take(snapshot, sequence, marked[i]?.[m] as Held);
    }
  }

  /** Of a batch that was cancelled, the sub-batches that had been computed stay. */
  private afterCancelled(own: readonly Fed[]): void {
    const { naive, tally } = this.bench;
    tally.cancelled += 1;
    const all = naive.subBatches(own.map(({ tokens }) => tokens.length));
    const ends = own.map(({ first }) => first);
    const isReached = () => own.every(({ target }, i) => target.sequence.position === ends[i]);
    let computed = 0;
    while (!isReached() && computed < all.length) {
      for (const [i, count] of all[computed] as Map<number, number>) ends[i] = (ends[i] as number) + count;
      computed += 1;
    }
    if (!isReached()) this.fail("the cancelled batch left sequences between its sub-batches");
    this.follow(own, computed, []);
    // What could be taken back may be gone.
    for (const { target } of own) target.held = { ...target.held, sure: 0 };
  }

  // ---- comparing ----

  private compareAll(): void {
    for (const [i, one] of this.slots.entries()) {
      if (one === undefined) continue;
      const { sequence, held } = one;
      const expected = this.bench.naive.bounds(held);
      const { position, minPosition: min, maxPosition: max } = sequence;
      for (const [name, actual] of Object.entries({ position, min, max })) {
        const wanted = expected[name as keyof typeof expected];
        if (actual !== wanted) this.fail(`sequence ${i}: ${name} is ${actual}, and ${wanted} was expected`);
      }
      const tokens = held.pairs.map(({ token }) => token);
      if (!Bun.deepEquals(sequence.tokens, tokens)) {
        this.fail(`sequence ${i}: its tokens are ${sequence.tokens.join(" ")}, and ${tokens.join(" ")} were expected`);
      }
    }
    expect(this.model.counters().snapshots).toBe(this.taken.length);
  }

  private compareRows(held: Held, indices: readonly number[], rows: readonly Float32Array[], what: string): void {
    const { reference, tally, tolerance } = this.bench;
    if (rows.length !== indices.length)
      this.fail(`${rows.length} rows of logits came, and ${indices.length} were expected`);
    for (const [r, expected] of reference.logits(held.pairs, indices).entries()) {
      const error = distance(rows[r] as Float32Array, expected);
      tally.rowsCompared += 1;
      tally.worst = Math.max(tally.worst, error / tolerance);
      if (!(error <= tolerance)) {
        this.fail(`the logits of ${what}, row ${r} of ${indices.length}, are wrong: NMSE ${error.toExponential(2)}`);
      }
    }
  }

  /** After a refusal, or a load: a copy of the sequence goes on as the naive one does. */
  private async probe(index: number): Promise<void> {
    const one = this.slots[index];
    if (one === undefined || this.bench.naive.position(one.held) === context) return;
    let copy: Sequence | undefined;
    const error = await this.attempt(async () => {
      copy = one.sequence.copy();
      const [token] = [index + 5];
      const { logits } = await copy.feed([token]);
      const held = this.bench.naive.fed(one.held, [token], true);
      this.compareRows(held, [held.pairs.length - 1], logits, "what follows");
    });
    copy?.dispose();
    await Bun.sleep(0);
    if (error !== undefined && !(error.code === "full" && this.canBeFull())) {
      this.fail(`what follows failed with "${error.code}": ${error.message}`);
    }
  }
}

/** What one sequence is fed in a batch that runs. */
interface Fed {
  readonly target: Slot;
  readonly first: number;
  readonly tokens: readonly number[];
  readonly marks: readonly number[];
}

/** Bounds as an operation takes them; negative ones mean the start and the end. */
function cut(what: "whole" | "tail" | "head" | "range", [low, high]: readonly [number, number]): [number, number] {
  if (what === "whole") return [-1, -1];
  if (what === "tail") return [low, -1];
  return what === "head" ? [-1, high] : [low, high];
}

function emptyRange([low, high]: readonly [number, number]): [number, number] {
  return [high, low];
}

/** At once, or after so many turns of the event loop or steps between them. */
async function abortLater(controller: AbortController, turns: number): Promise<void> {
  for (let i = 0; i < turns; i += 1) await (i % 4 === 3 ? Bun.sleep(0) : Promise.resolve());
  controller.abort(new Error("the program cancelled it"));
}

/** Normalised mean squared error; not a number where there is one that is none. */
function distance(actual: Float32Array, expected: Float64Array): number {
  let [error, power] = [0, 0];
  for (const [i, value] of expected.entries()) {
    error += ((actual[i] as number) - value) ** 2;
    power += value ** 2;
  }
  return error / power;
}
