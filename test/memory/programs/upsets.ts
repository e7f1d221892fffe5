/** Operations of programs on what must not be: no room left, sequences that are gone, books that were made wrong. */
import { expect } from "bun:test";
import { StrataError, type Snapshot } from "ggstrata";
import { randomOf } from "../../model/help.ts";
import type { Held } from "../naive.ts";
import { fed } from "./changes.ts";
import { feed } from "./feeds.ts";
import { names, type Operation } from "./operations.ts";
import type { World } from "./world.ts";

type Of<Op extends Operation["op"]> = Extract<Operation, { op: Op }>;

/** As many snapshots as there is room for and no more; each goes on, whichever went before it. */
export async function hoard(world: World, { slot: index, order }: Of<"hoard">): Promise<void> {
  const { sequence, held } = world.slot(index);
  const { snapshots: most } = world.model.memory;
  const own: Snapshot[] = [];
  let error: StrataError | undefined;
  while (error === undefined) error = await world.attempt(async () => own.push(await sequence.snapshot()));
  if (error.code !== "full") world.fail(`a snapshot failed with "${error.code}": ${error.message}`);
  const isWhole = world.taken.length + own.length === most;
  if (!isWhole && !world.canBeFull())
    world.fail(`${own.length} could be taken, and ${most - world.taken.length} had to be`);
  if (isWhole && world.naive.position(held) < world.naive.context) {
    const first = world.naive.position(held);
    await world.mustFail(["full"], () => sequence.feed([5], { snapshots: [first] }));
    await world.probe(index);
  }
  const random = randomOf(order);
  while (own.length > 0) {
    const [gone] = own.splice(Math.floor(random() * own.length), 1);
    gone?.dispose();
  }
}

/** A sequence goes, perhaps while it is computed; nobody can use it any more. */
export async function leave(world: World, { slot: index, isBusy }: Of<"leave">): Promise<void> {
  const one = world.slots[index];
  if (one === undefined) return;
  const { sequence, held } = one;
  const work = isBusy && world.naive.position(held) < world.naive.context ? sequence.feed([7]) : undefined;
  sequence.dispose();
  sequence.dispose();
  world.slots[index] = undefined;
  for (const use of [
    () => sequence.position,
    () => sequence.clear(),
    () => sequence.copy(),
    () => sequence.feed([5]),
  ]) {
    await world.mustFail(["closed"], use);
  }
  const error = await world.attempt(async () => {
    const result = await work;
    if (result === undefined) return;
    const after = world.naive.fed(held, [7]);
    world.compareRows(after, [after.pairs.length - 1], result.logits, "a sequence that was leaving");
  });
  if (error !== undefined && !(error.code === "full" && world.canBeFull())) throw error;
  // Its place is given back when its work has ended, which is told on the way here.
  await Bun.sleep(0);
}

/** Where all sequences are in use there is not another one, and a copy that cannot be made leaves nothing behind. */
export async function crowd(world: World, index: number): Promise<void> {
  const { sequence } = world.slot(index);
  const before = world.free();
  await world.crowded(async () => {
    await world.mustFail(["full"], () => world.model.sequence());
    await world.mustFail(["full"], () => sequence.copy());
  });
  world.compareFree(before);
  await world.probe(index);
}

/**
 * Of two sequences that have just gone on, one is made to hold what it must not. Its next batch is refused and names it,
 * and the one that it shares the batch with has not moved.
 */
export async function corrupt(world: World, { slot, other, kind }: Of<"corrupt">): Promise<void> {
  const { naive } = world;
  const [victim, source] = [world.slot(slot), world.slot(other)];
  // States that were only taken back to are computed when they are wanted, whatever stands in their place.
  const hasRoom = [victim, source].every(({ held }) => naive.position(held) + 2 + names < naive.context);
  if (slot === other || !hasRoom) return;
  for (const index of [slot, other]) {
    const { feeds } = world.tally;
    await feed(world, fed(index, 2 + index));
    if (world.tally.feeds === feeds) return;
  }
  const [a, b] = [victim.sequence.index, source.sequence.index];
  const engine = world.model["engine"];
  const isPlanted = (await world.attempt(async () => engine.plantFault(kind, a, b))) === undefined;
  const isOtherText = !sameTokens(victim.held, source.held);
  const isElsewhere = naive.position(victim.held) !== naive.position(source.held);
  const mustNotice =
    kind === "alone" ? naive.hasMemory && (isOtherText || isElsewhere) : isOtherText && naive.hasStates;
  const bystander = world.slots.find((one, i) => one && i !== slot && i !== other && !isAtEnd(world, one.held));
  const together = bystander && naive.batch > 1 ? [bystander, victim] : [victim];
  const error = await world.attempt(async () => {
    const results = await world.model.feed(together.map(({ sequence }) => ({ sequence, tokens: [9] })));
    for (const one of together) one.held = naive.fed(one.held, [9]);
    const after = victim.held;
    world.compareRows(after, [after.pairs.length - 1], results.at(-1)?.logits ?? [], "one that was not harmed");
  });
  if (error === undefined && isPlanted && kind !== "behind" && mustNotice)
    world.fail("a planted mistake was not noticed");
  if (error !== undefined) {
    if (error.code === "full" && world.canBeFull()) world.tally.declined += 1;
    else {
      expect(error.code).toBe("refused");
      expect(error.message).toMatch(new RegExp(`^sequence ${a}: .* stand`));
      world.tally.noticed += 1;
    }
  }
  // Exchanged once more, both are themselves again; unless one went on with what was as good.
  if (kind === "exchange" && error !== undefined) engine.plantFault("exchange", a, b);
  else {
    for (const one of kind === "exchange" ? [victim, source] : [victim]) {
      one.sequence.clear();
      one.held = naive.empty;
    }
  }
  await world.probeAll();
}

function isAtEnd(world: World, held: Held): boolean {
  return world.naive.position(held) >= world.naive.context - 1;
}

function sameTokens(a: Held, b: Held): boolean {
  return Bun.deepEquals(
    a.pairs.map(({ token }) => token),
    b.pairs.map(({ token }) => token),
  );
}
