/** One program's sequences, snapshots and files, real and naive, and how the two are held against each other. */
import { expect } from "bun:test";
import { StrataError, type Model, type Sequence, type Snapshot } from "ggstrata";
import type { Held, Naive, Outcome } from "../naive.ts";
import type { Bench } from "./bench.ts";
import { blockCells, fileCount, names, type Range } from "./operations.ts";
import type { Tally } from "./tally.ts";

export interface Slot {
  readonly sequence: Sequence;
  held: Held;
}

export interface Taken {
  readonly snapshot: Snapshot;
  /** Whose it is: it is saved and brought back with it. */
  readonly owner: Sequence;
  readonly held: Held;
}

/** What a file was given to hold: sequences, each with its snapshots. */
export type Saved = readonly { readonly held: Held; readonly snapshots: readonly Held[] }[];

interface Free {
  readonly freeBlocks: number;
  readonly freeCells: number;
  readonly snapshots: number;
}

export class World {
  readonly slots: (Slot | undefined)[] = Array.from({ length: names }, () => undefined);
  readonly taken: Taken[] = [];
  /** Of this program; what another one left in a file is not loaded. */
  readonly files: (Saved | undefined)[] = Array.from({ length: fileCount }, () => undefined);
  /** Something was cut out or moved: blocks may be in use for a few cells each. */
  isFragmented = false;
  /** What is being done, for messages. */
  where = "";
  private readonly start: Free;

  constructor(
    readonly bench: Bench,
    readonly model: Model,
  ) {
    this.start = this.free();
  }

  get naive(): Naive {
    return this.bench.naive;
  }

  get tally(): Tally {
    return this.bench.tally;
  }

  free(): Free {
    const { freeBlocks, freeCells, snapshots } = this.model.counters();
    return { freeBlocks, freeCells, snapshots };
  }

  fail(sentence: string): never {
    throw new Error(`${this.bench.declared.name}, ${this.where}: ${sentence}`);
  }

  slot(index: number): Slot {
    return (this.slots[index] ??= { sequence: this.model.sequence(), held: this.naive.empty });
  }

  /** Sequences that nobody has. */
  get freeSequences(): number {
    return names + 1 - this.slots.filter((one) => one !== undefined).length;
  }

  /** Takes all sequences that nobody has, while something is tried. */
  async crowded<T>(work: () => Promise<T>): Promise<T> {
    const others = Array.from({ length: this.freeSequences }, () => this.model.sequence());
    try {
      return await work();
    } finally {
      for (const other of others) other.dispose();
    }
  }

  /** Positions of a range given in thousandths. */
  span(held: Held, { a, b, snaps }: Range): [number, number] {
    const reach = this.naive.position(held) + 3;
    const [low, high] = [Math.min(a, b), Math.max(a, b)].map((share) => Math.floor((share * reach) / 1000)) as [
      number,
      number,
    ];
    if (!snaps) return [low, high + 1];
    const first = Math.round(low / blockCells) * blockCells;
    return [first, Math.max(first + blockCells, Math.round(high / blockCells) * blockCells)];
  }

  // ---- what is done or refused ----

  /** Does something to one sequence, and holds both memories' words against each other. */
  async change(index: number, outcome: Outcome, action: () => void | Promise<void>, canBeFull = false): Promise<void> {
    const error = await this.attempt(async () => action());
    if (!this.judge(outcome, error, canBeFull)) return this.probe(index);
    this.slot(index).held = outcome.held;
  }

  /** Whether it was done; fails where it must not have been, or must have been. */
  judge({ verdict }: Outcome, error: StrataError | undefined, canBeFull = false): boolean {
    const { tally } = this;
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

  async attempt(action: () => Promise<unknown>): Promise<StrataError | undefined> {
    try {
      await action();
      return undefined;
    } catch (error) {
      if (error instanceof StrataError) return error;
      throw error;
    }
  }

  /** The error of something that must fail, and with one of these codes. */
  async mustFail(codes: readonly string[], action: () => unknown): Promise<StrataError> {
    const error = await this.attempt(async () => action());
    const wanted = `it had to fail with ${codes.map((code) => `"${code}"`).join(" or ")}`;
    if (error === undefined) this.fail(`${wanted}, and was done`);
    if (!codes.includes(error.code)) this.fail(`${wanted}, and did with "${error.code}": ${error.message}`);
    this.tally.refused += 1;
    return error;
  }

  /** More room than sequences need at their longest may be taken by snapshots, and by blocks that are used in part. */
  canBeFull(): boolean {
    return this.isFragmented || this.taken.length > 0 || this.bench.declared.options.cells !== undefined;
  }

  take(snapshot: Snapshot, owner: Sequence, held: Held): void {
    const position = this.naive.position(held);
    if (snapshot.position !== position)
      this.fail(`a snapshot stands at ${snapshot.position}, and ${position} was expected`);
    this.taken.push({ snapshot, owner, held });
  }

  // ---- comparing ----

  compareAll(): void {
    for (const [i, one] of this.slots.entries()) {
      if (one !== undefined) this.compare(`sequence ${i}`, one.sequence, one.held, this.naive);
    }
    expect(this.model.counters().snapshots).toBe(this.taken.length);
  }

  compare(what: string, sequence: Sequence, held: Held, naive: Naive): void {
    const expected = naive.bounds(held);
    const { position, minPosition: min, maxPosition: max } = sequence;
    for (const [name, actual] of Object.entries({ position, min, max })) {
      const wanted = expected[name as keyof typeof expected];
      if (actual !== wanted) this.fail(`${what}: ${name} is ${actual}, and ${wanted} was expected`);
    }
    const tokens = held.pairs.map(({ token }) => token);
    if (!Bun.deepEquals(sequence.tokens, tokens)) {
      this.fail(`${what}: its tokens are ${sequence.tokens.join(" ")}, and ${tokens.join(" ")} were expected`);
    }
  }

  compareRows(
    held: Held,
    indices: readonly number[],
    rows: readonly Float32Array[],
    what: string,
    tolerance = this.bench.tolerance,
  ): void {
    const { tally } = this;
    if (rows.length !== indices.length)
      this.fail(`${rows.length} rows of logits came, and ${indices.length} were expected`);
    for (const [r, expected] of this.bench.reference.logits(held.pairs, indices).entries()) {
      const error = distance(rows[r] as Float32Array, expected);
      tally.rowsCompared += 1;
      tally.worst = Math.max(tally.worst, error / tolerance);
      if (!(error <= tolerance)) {
        this.fail(`the logits of ${what}, row ${r} of ${indices.length}, are wrong: NMSE ${error.toExponential(2)}`);
      }
    }
  }

  /** After a refusal, or a load: a copy of the sequence goes on as the naive one does. */
  async probe(index: number): Promise<void> {
    const one = this.slots[index];
    if (one === undefined || this.naive.position(one.held) === this.naive.context) return;
    let copy: Sequence | undefined;
    const error = await this.attempt(async () => {
      copy = one.sequence.copy();
      const [token] = [index + 5];
      const { logits } = await copy.feed([token]);
      const held = this.naive.fed(one.held, [token]);
      this.compareRows(held, [held.pairs.length - 1], logits, "what follows");
    });
    copy?.dispose();
    if (error !== undefined && !(error.code === "full" && this.canBeFull())) {
      this.fail(`what follows failed with "${error.code}": ${error.message}`);
    }
  }

  async probeAll(): Promise<void> {
    for (const index of this.slots.keys()) await this.probe(index);
  }

  /** Lets everything go; all that was taken must be free again. */
  end(): void {
    this.where = "at the end";
    for (const { snapshot } of this.taken) snapshot.dispose();
    for (const one of this.slots) one?.sequence.dispose();
    this.compareFree(this.start);
  }

  /** What is free must be what was. */
  compareFree(start: Free): void {
    const left = this.free();
    for (const name of ["freeBlocks", "freeCells", "snapshots"] as const) {
      if (left[name] !== start[name]) this.fail(`${name} is ${left[name]}, and was ${start[name]}`);
    }
  }
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
