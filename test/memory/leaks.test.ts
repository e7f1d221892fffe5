/** Sequences and snapshots that come and go leave nothing behind, neither in the pools nor in the process. */
import { expect, test } from "bun:test";
import { loadModel, StrataError, type Model, type Sequence, type Snapshot } from "ggstrata";
import { readEnvironment, readEnvironmentCount } from "../../lib/environment.ts";
import { fixturePath, randomOf, someTokens } from "../model/help.ts";

const tokenCount = readEnvironment("STRATA_SOAK") === undefined ? 20_000 : 200_000;
const growth_bytes_max = 32 * 2 ** 20;
const sequences_max = 64;
const context = 192;

/** A model in use: who is there, and how much was asked of it. */
class Traffic {
  readonly sequences: Sequence[] = [];
  readonly snapshots: Snapshot[] = [];
  readonly done = { fed: 0, together: 0, copied: 0, restored: 0, takenBack: 0, cancelled: 0, full: 0 };

  constructor(
    private readonly model: Model,
    private readonly random: () => number,
  ) {}

  /** Something at random; what there is no room for makes room for something else. */
  async act(): Promise<void> {
    const { sequences, snapshots } = this;
    this.done.together = Math.max(this.done.together, sequences.length);
    const choice = this.random();
    try {
      if (sequences.length === 0 || choice < 0.2) this.begin();
      else if (choice < 0.7) await this.feed();
      else if (choice < 0.76) await this.cancel();
      else if (choice < 0.82) this.copy();
      else if (choice < 0.87) snapshots.push(await this.pick(sequences).snapshot());
      else if (choice < 0.92) this.restore();
      else if (choice < 0.95) this.takeBack();
      else if (choice < 0.975) this.end(this.pick(sequences));
      else if (snapshots.length > 0) snapshots.splice(this.below(snapshots.length), 1)[0]?.dispose();
    } catch (error) {
      if (!(error instanceof StrataError) || error.code !== "full") throw error;
      this.done.full += 1;
      this.end(this.pick(sequences));
      snapshots.shift()?.dispose();
    }
  }

  endAll(): void {
    for (const sequence of [...this.sequences]) this.end(sequence);
    for (const snapshot of this.snapshots.splice(0)) snapshot.dispose();
  }

  /** Up to 8 sequences, as far as there is room. */
  private begin(): void {
    for (let more = 1 + this.below(8); more > 0; more -= 1) this.sequences.push(this.model.sequence());
  }

  /** Some of the sequences in one batch, with a snapshot within the first one's tokens now and then. */
  private async feed(): Promise<void> {
    for (const sequence of this.sequences.filter(({ position }) => position > context - 24)) this.end(sequence);
    const active = this.sequences.filter(() => this.random() < 0.5);
    if (active.length === 0) return;
    const requests = active.map((sequence, index) => {
      const tokens = someTokens(1 + this.below(index === 0 ? 24 : 3), this.below(1000));
      const at = sequence.position + this.below(tokens.length + 1);
      const marks = index === 0 && this.random() < 0.2 ? [at] : [];
      return { sequence, tokens, logits: "none" as const, snapshots: marks };
    });
    for (const { snapshots } of await this.model.feed(requests)) this.snapshots.push(...snapshots);
    this.done.fed += requests.reduce((sum, { tokens }) => sum + tokens.length, 0);
  }

  /** A batch that is cancelled, unless it was quicker. */
  private async cancel(): Promise<void> {
    const sequence = this.pick(this.sequences);
    if (sequence.position > context - 24) return;
    const controller = new AbortController();
    const work = sequence.feed(someTokens(20), { logits: "none", signal: controller.signal });
    if (this.random() < 0.5) await Bun.sleep(0);
    controller.abort();
    try {
      await work;
      this.done.fed += 20;
    } catch (error) {
      if (error instanceof StrataError && error.code === "full") throw error;
      expect(error).toBe(controller.signal.reason);
      this.done.cancelled += 1;
    }
  }

  private copy(): void {
    this.sequences.push(this.pick(this.sequences).copy());
    this.done.copied += 1;
  }

  private restore(): void {
    if (this.snapshots.length === 0) return;
    this.pick(this.sequences).restore(this.pick(this.snapshots));
    this.done.restored += 1;
  }

  private takeBack(): void {
    const sequence = this.pick(this.sequences);
    try {
      sequence.rollback(Math.min(sequence.position, 1 + this.below(4)));
      this.done.takenBack += 1;
    } catch (error) {
      // After a restore there is nothing to go back with.
      if (!(error instanceof StrataError) || error.code !== "refused") throw error;
    }
  }

  private end(sequence: Sequence): void {
    this.sequences.splice(this.sequences.indexOf(sequence), 1);
    sequence.dispose();
  }

  private pick<T>(list: readonly T[]): T {
    return list[this.below(list.length)] as T;
  }

  private below(count: number): number {
    return Math.floor(this.random() * count);
  }
}

function residentBytes(): number {
  Bun.gc(true);
  return process.memoryUsage.rss();
}

test.each(["granitehybrid", "gemma3"] as const)(
  `${tokenCount} tokens over ${sequences_max} sequences of %s that come and go leave nothing behind`,
  async (name) => {
    const seed = readEnvironmentCount("STRATA_SEED") ?? Math.floor(Math.random() * 2 ** 31);
    console.log(`${name}: STRATA_SEED=${seed}`);
    const options = { context, sequences: sequences_max, batch: 128, threads: 2, rollback: 4, snapshotBytes: 2e6 };
    await using model = await loadModel(fixturePath(name), options);
    const { freeBlocks, freeCells, snapshots } = model.counters();
    const traffic = new Traffic(model, randomOf(seed));
    let atQuarter: number | undefined;
    while (traffic.done.fed < tokenCount) {
      await traffic.act();
      if (traffic.done.fed >= tokenCount / 4) atQuarter ??= residentBytes();
    }
    traffic.endAll();
    const growth = residentBytes() - (atQuarter ?? NaN);
    console.log(
      `${name}: ${JSON.stringify(traffic.done)}, ${(growth / 2 ** 20).toFixed(1)} MiB more after the first quarter`,
    );
    expect(model.counters()).toMatchObject({ freeBlocks, freeCells, snapshots });
    expect(snapshots).toBe(0);
    expect(growth).toBeLessThan(growth_bytes_max);
    // Nothing that came and went would have left nothing behind either.
    for (const count of Object.values(traffic.done)) expect(count).toBeGreaterThan(0);
    expect(traffic.done.together).toBe(sequences_max);
  },
  600_000,
);
