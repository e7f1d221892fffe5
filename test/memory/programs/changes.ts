/** Operations of programs that change what sequences hold: cutting, copying, moving, snapshots and back. */
import type { Sequence, Snapshot } from "ggstrata";
import type { Move, Outcome } from "../naive.ts";
import { feed } from "./feeds.ts";
import { blockCells, type FeedPart, type Operation } from "./operations.ts";
import type { World } from "./world.ts";

type Kinds =
  "remove" | "rollback" | "copy" | "keep" | "shift" | "close" | "slide" | "divide" | "snapshot" | "restore" | "drop";
type Change = Extract<Operation, { op: Kinds }>;

/** One case for each operation. */
export async function changeSequences(world: World, one: Change): Promise<void> {
  const { naive } = world;
  switch (one.op) {
    case "remove": {
      const { sequence, held } = world.slot(one.slot);
      const span = world.span(held, one.range);
      const [p0, p1] = one.what === "empty" ? emptyRange(span) : cut(one.what, span);
      const outcome = naive.remove(held, p0, p1);
      if (outcome.held.pairs.length > 0 && p1 >= 0 && p1 < naive.position(held)) world.isFragmented = true;
      return world.change(one.slot, outcome, () => sequence.remove(p0, p1));
    }
    case "rollback":
      return rollback(world, one.slot, one.count);
    case "copy":
      return copy(world, one.slot, one.to, cut(one.what, world.span(world.slot(one.slot).held, one.range)));
    case "keep":
      world.slot(one.slot).sequence.keep();
      for (const [i, other] of world.slots.entries())
        if (i !== one.slot && other !== undefined) other.held = naive.empty;
      return;
    case "shift": {
      const [p0, p1] = cut(one.what, world.span(world.slot(one.slot).held, one.range));
      return move(world, one.slot, p0, p1, { shift: one.distance });
    }
    case "close": {
      const { pairs } = world.slot(one.slot).held;
      const last = pairs.findIndex(({ position }, i) => (pairs[i + 1]?.position ?? position) > position + 1);
      const [before, behind] = [pairs[last]?.position, pairs[last + 1]?.position];
      if (before === undefined || behind === undefined) return;
      return move(world, one.slot, behind, -1, { shift: before + 1 - behind });
    }
    case "slide":
      for (let i = 0; i < one.times; i += 1) await slide(world, one.slot, one.keep, one.count);
      return;
    case "divide": {
      const [p0, p1] = cut(one.what, world.span(world.slot(one.slot).held, one.range));
      await move(world, one.slot, p0, p1, { divide: one.divisor });
      return one.more === 0 ? undefined : feed(world, fed(one.slot, one.more));
    }
    case "snapshot":
      return snapshot(world, one.slot);
    case "restore": {
      const taken = world.taken[one.which % world.taken.length];
      if (taken === undefined) return;
      const { sequence } = world.slot(one.slot);
      const outcome: Outcome = { verdict: "must", held: taken.held };
      return world.change(one.slot, outcome, () => sequence.restore(taken.snapshot), world.canBeFull());
    }
    case "drop": {
      const [gone] = world.taken.splice(one.which % Math.max(world.taken.length, 1), 1);
      if (gone === undefined) return;
      gone.snapshot.dispose();
      gone.snapshot.dispose();
      await world.mustFail(["closed"], () => world.slot(0).sequence.restore(gone.snapshot));
      return world.probe(0);
    }
  }
}

/** A plain feed of one sequence. */
export function fed(slot: number, count: number): Extract<Operation, { op: "feed" }> {
  const part: FeedPart = { slot, count, upTo: "count", seed: count, logits: "last", marks: [] };
  return { op: "feed", parts: [part], fault: "none", faulty: 0, moment: null, meanwhile: null };
}

/** Bounds as an operation takes them; negative ones mean the start and the end. */
export function cut(
  what: "whole" | "tail" | "head" | "range",
  [low, high]: readonly [number, number],
): [number, number] {
  if (what === "whole") return [-1, -1];
  if (what === "tail") return [low, -1];
  return what === "head" ? [-1, high] : [low, high];
}

function emptyRange([low, high]: readonly [number, number]): [number, number] {
  return [high, low];
}

export async function rollback(world: World, index: number, count: number | "block"): Promise<void> {
  const { naive } = world;
  const { sequence, held } = world.slot(index);
  const position = naive.position(held);
  const taken = count === "block" ? position % blockCells : Math.min(count, position);
  const nothing: Outcome = { verdict: "must", held };
  const outcome = taken === 0 ? nothing : naive.remove(held, position - taken, -1);
  return world.change(index, outcome, () => sequence.rollback(taken));
}

async function move(world: World, index: number, p0: number, p1: number, how: Move): Promise<void> {
  const { sequence, held } = world.slot(index);
  world.isFragmented = true;
  return world.change(
    index,
    world.naive.move(held, p0, p1, how),
    () => ("shift" in how ? sequence.shift(p0, p1, how.shift) : sequence.divide(p0, p1, how.divide)),
    // Shared cells become the sequence's own first.
    true,
  );
}

async function slide(world: World, index: number, keep: number, count: number): Promise<void> {
  const { naive } = world;
  const { sequence, held } = world.slot(index);
  const first = (held.pairs[0]?.position ?? 0) + keep;
  const before = naive.position(held);
  world.isFragmented = true;
  await world.change(index, naive.remove(held, first, first + count), () => sequence.remove(first, first + count));
  if (naive.position(world.slot(index).held) === before) await move(world, index, first + count, -1, { shift: -count });
  await feed(world, fed(index, count));
}

async function copy(world: World, from: number, to: number, [p0, p1]: readonly [number, number]): Promise<void> {
  const { sequence, held } = world.slot(from);
  const target = world.slots[to];
  const outcome =
    from === to
      ? ({ verdict: "must", held } as const)
      : world.naive.copy(held, target?.held ?? world.naive.empty, p0, p1);
  if (outcome.held.pairs.length < held.pairs.length) world.isFragmented = true;
  if (target !== undefined)
    return world.change(to, outcome, () => sequence.copyTo(target.sequence, p0, p1), world.canBeFull());
  let made: Sequence | undefined;
  const error = await world.attempt(async () => (made = sequence.copy(p0, p1)));
  if (world.judge(outcome, error, world.canBeFull()) && made !== undefined) {
    world.slots[to] = { sequence: made, held: outcome.held };
  }
}

async function snapshot(world: World, index: number): Promise<void> {
  const { sequence, held } = world.slot(index);
  let snapshot: Snapshot | undefined;
  const error = await world.attempt(async () => (snapshot = await sequence.snapshot()));
  if (error?.code === "full" && world.taken.length === world.model.memory.snapshots) return;
  if (world.judge({ verdict: "must", held }, error, world.canBeFull()) && snapshot !== undefined) {
    world.take(snapshot, sequence, world.naive.snapped(held));
  }
}
