/** Batches of programs: computed, refused, cancelled at any moment, and with other sequences being changed meanwhile. */
import { StrataError, type FeedResult } from "ggstrata";
import { randomOf } from "../../model/help.ts";
import { vocabulary } from "../made-up-architecture.ts";
import type { Held, Outcome } from "../naive.ts";
import { cut } from "./changes.ts";
import { blockCells, type Feed, type FeedPart, type Meddling, type Moment } from "./operations.ts";
import type { Slot, World } from "./world.ts";

/** What one sequence is fed in a batch that runs. */
interface Fed {
  readonly target: Slot;
  readonly first: number;
  readonly tokens: number[];
  readonly marks: number[];
  readonly logits: FeedPart["logits"];
}

/** Snapshots that one sub-batch may take where they are held in f16. */
const halvesAtOnce = 8;

export async function feed(world: World, one: Feed): Promise<void> {
  const { parts, fault, moment, meanwhile } = one;
  const own = parts.map((part, i) => partOf(world, part, i === 0 && moment?.of === "steps"));
  const faulty = own[one.faulty % own.length] as Fed;
  spoil(world, faulty, fault);
  const requests = own.map(({ target, tokens, marks, logits, first }, i) => ({
    sequence: target.sequence,
    tokens,
    logits,
    snapshots: marks,
    ...(fault === "position" && own[i] === faulty ? { position: first + 1 } : {}),
  }));
  if (fault === "twice") requests.push({ ...requests[0], snapshots: [] } as (typeof requests)[number]);
  if (fault === "disposed") {
    using gone = world.model.sequence();
    requests.push({ sequence: gone, tokens: [5], logits: "last", snapshots: [] });
  }
  const reasons = reasonsOf(world, own, fault);
  const marks = own.reduce((sum, part) => sum + part.marks.length, 0);

  const controller = new AbortController();
  const state = { isOver: false };
  const steps = world.model.counters().steps;
  const work = world.model.feed(requests, moment && !meanwhile ? { signal: controller.signal } : {});
  const interrupted = interrupt();
  let results: FeedResult[];
  try {
    results = await work;
  } catch (error) {
    state.isOver = true;
    await interrupted;
    if (controller.signal.aborted && error === controller.signal.reason) return afterCancelled(world, own);
    if (!(error instanceof StrataError)) throw error;
    const canBeFull = error.code === "full" && (world.canBeFull() || marks > 0);
    if (!reasons.has(error.code) && !canBeFull) world.fail(`it failed with "${error.code}": ${error.message}`);
    world.tally.refused += 1;
    for (const part of parts) await world.probe(part.slot);
    return;
  }
  state.isOver = true;
  await interrupted;
  if (reasons.size > 0) world.fail(`it was computed, and had to fail with ${[...reasons].join(" or ")}`);
  afterComputed(world, own, results);

  async function interrupt(): Promise<void> {
    if (moment === null) return;
    await reach(world, moment, steps, () => state.isOver);
    if (meanwhile === null) return controller.abort(new Error("the program cancelled it"));
    for (const meddling of meanwhile) meddle(world, parts, meddling);
  }
}

/** What a sequence is fed; where steps are counted, so much that there are several. */
function partOf(world: World, part: FeedPart, isLong: boolean): Fed {
  const { naive } = world;
  const target = world.slot(part.slot);
  const first = naive.position(target.held);
  const random = randomOf(part.seed);
  const usual = lengthOf(part, first, naive.context);
  const length = isLong ? Math.max(usual, Math.floor((naive.context - first) / 2)) : usual;
  const tokens = Array.from({ length }, () => Math.floor(random() * vocabulary));
  const marks = part.marks.map((share) => first + Math.floor((share * length) / 1000));
  return { target, first, tokens, marks, logits: part.logits };
}

function lengthOf({ upTo, count }: FeedPart, first: number, context: number): number {
  if (upTo === "count") return count;
  if (upTo === "context") return Math.max(1, context - first);
  const offset = { before: -1, end: 0, behind: 1 }[upTo];
  const end = Math.ceil((first + 1 - offset) / blockCells) * blockCells + offset;
  return Math.max(1, end - first);
}

function spoil(world: World, part: Fed, fault: Feed["fault"]): void {
  const { first, tokens, marks } = part;
  if (fault === "nothing") tokens.splice(0);
  if (fault === "long") while (first + tokens.length <= world.naive.context) tokens.push(3);
  if (fault === "token") tokens[tokens.length - 1] = vocabulary;
  if (fault === "behind") marks.push(first + tokens.length + 1);
  if (fault === "before") marks.push(first - 1);
  if (fault === "snapshots") {
    for (let left = world.model.memory.snapshots - world.taken.length; left >= 0; left -= 1) marks.push(first);
  }
}

/** With which errors it may fail, and must with one of them. */
function reasonsOf(world: World, own: readonly Fed[], fault: Feed["fault"]): Set<string> {
  const reasons = new Set<string>();
  if (fault === "position") reasons.add("refused");
  if (fault === "disposed") reasons.add("closed");
  if (["token", "behind", "before", "nothing", "twice"].includes(fault)) reasons.add("invalid_argument");
  const { context } = world.naive;
  if (own.some(({ first, tokens }) => first + tokens.length > context)) reasons.add("full").add("invalid_argument");
  const wanted = own.reduce((sum, { marks }) => sum + marks.length, 0);
  if (world.taken.length + wanted > world.model.memory.snapshots) reasons.add("full");
  if (world.bench.declared.options.snapshotType === "f16" && mostMarks(world, own) > halvesAtOnce) {
    reasons.add("refused");
  }
  return reasons;
}

/** Most snapshots that any sub-batch takes. */
function mostMarks(world: World, own: readonly Fed[]): number {
  const ends = own.map(({ first }) => first);
  const left = own.map(({ marks }) => [...marks]);
  const counts = world.naive.subBatches(own.map(({ tokens }) => tokens.length)).map((subBatch) => {
    let count = 0;
    for (const [i, tokens] of subBatch) {
      const end = (ends[i] as number) + tokens;
      ends[i] = end;
      count += (left[i] as number[]).filter((position) => position <= end).length;
      left[i] = (left[i] as number[]).filter((position) => position > end);
    }
    return count;
  });
  return Math.max(0, ...counts);
}

// ---- while it is computed ----

/** Waits for a moment of a batch, or for its end. */
async function reach(world: World, { of, count }: Moment, before: number, isOver: () => boolean): Promise<void> {
  if (of === "turns") {
    for (let i = 0; i < count; i += 1) await (i % 4 === 3 ? Bun.sleep(0) : Promise.resolve());
    return;
  }
  const spin_ms_max = 2;
  const end = performance.now() + spin_ms_max;
  while (!isOver() && world.model.counters().steps - before < count) {
    await (performance.now() < end ? Promise.resolve() : Bun.sleep(0));
  }
}

/** Something that needs no waiting, done to other sequences than those that are computed. */
function meddle(world: World, parts: readonly FeedPart[], { what, slot, to, which, range }: Meddling): void {
  const { naive } = world;
  const isIdle = (index: number) => parts.every((part) => part.slot !== index);
  const [first] = parts;
  if (what === "own" || what === "keep") {
    if (first === undefined) return;
    const { sequence } = world.slot(first.slot);
    // Nothing is removed; but that cannot even be asked of what is being computed.
    if (what === "own") return void tryNow(world, () => sequence.remove(1, 1), "busy");
    if (parts.length > 1) return;
    // Everybody else would lose what they have: not while anything is computed.
    if (!tryNow(world, () => sequence.keep(), "busy")) return;
    for (const [i, other] of world.slots.entries()) if (i !== first.slot && other) other.held = naive.empty;
    return;
  }
  if (what === "drop") return world.taken.splice(which % Math.max(world.taken.length, 1), 1)[0]?.snapshot.dispose();
  const one = world.slots[slot];
  if (one === undefined || !isIdle(slot)) return;
  const { sequence, held } = one;
  world.tally.meanwhile += 1;
  const change = (target: Slot, outcome: Outcome, action: () => void, canBeFull = false): void => {
    if (judgeNow(world, outcome, action, canBeFull)) target.held = outcome.held;
  };
  if (what === "clear") change(one, { verdict: "must", held: naive.empty }, () => sequence.clear());
  if (what === "remove") {
    const [p0, p1] = cut("range", world.span(held, range));
    const outcome = naive.remove(held, p0, p1);
    world.isFragmented = true;
    change(one, outcome, () => sequence.remove(p0, p1));
  }
  if (what === "copy") {
    const target = world.slots[to];
    if (target === undefined || !isIdle(to) || to === slot) return;
    change(target, { verdict: "must", held }, () => sequence.copyTo(target.sequence), world.canBeFull());
  }
  if (what === "restore") {
    const taken = world.taken[which % world.taken.length];
    if (taken === undefined) return;
    change(one, { verdict: "must", held: taken.held }, () => sequence.restore(taken.snapshot), world.canBeFull());
  }
}

/** Does something at once. False where it failed in the one way that it may. */
function tryNow(world: World, action: () => void, code: string): boolean {
  try {
    action();
    return true;
  } catch (error) {
    if (!(error instanceof StrataError) || error.code !== code) throw error;
    world.tally.busy += 1;
    return false;
  }
}

function judgeNow(world: World, outcome: Outcome, action: () => void, canBeFull: boolean): boolean {
  let failure: StrataError | undefined;
  try {
    action();
  } catch (error) {
    if (!(error instanceof StrataError)) throw error;
    failure = error;
  }
  return world.judge(outcome, failure, canBeFull);
}

// ---- afterwards ----

function afterComputed(world: World, own: readonly Fed[], results: readonly FeedResult[]): void {
  world.tally.feeds += 1;
  follow(world, own, Infinity, results);
  for (const [i, { target, first, tokens, logits }] of own.entries()) {
    const rows = results[i]?.logits ?? [];
    const begin = target.held.pairs.length - tokens.length;
    const shown = logits === "none" ? [] : logits === "last" ? [tokens.length - 1] : tokens.map((_, k) => k);
    const indices = shown.map((k) => begin + k);
    world.compareRows(target.held, indices, rows, `position ${first} on`);
  }
}

/** Lets the naive memory follow the first sub-batches of a batch. */
function follow(world: World, own: readonly Fed[], limit: number, results: readonly FeedResult[]): void {
  const { naive } = world;
  const done = own.map(() => 0);
  const marked = own.map(({ marks }) => marks.map((): Held | undefined => undefined));
  for (const subBatch of naive.subBatches(own.map(({ tokens }) => tokens.length)).slice(0, limit)) {
    for (const [i, count] of subBatch) {
      const { target, tokens, marks } = own[i] as Fed;
      const before = target.held;
      const begin = done[i] as number;
      target.held = naive.fed(before, tokens.slice(begin, begin + count));
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
    for (const [m, snapshot] of snapshots.entries()) world.take(snapshot, sequence, marked[i]?.[m] as Held);
  }
}

/** Of a batch that was cancelled, the sub-batches that had been computed stay. */
function afterCancelled(world: World, own: readonly Fed[]): void {
  const all = world.naive.subBatches(own.map(({ tokens }) => tokens.length));
  const ends = own.map(({ first }) => first);
  const isReached = () => own.every(({ target }, i) => target.sequence.position === ends[i]);
  let computed = 0;
  while (!isReached() && computed < all.length) {
    for (const [i, count] of all[computed] as Map<number, number>) ends[i] = (ends[i] as number) + count;
    computed += 1;
  }
  if (!isReached()) world.fail("the cancelled batch left sequences between its sub-batches");
  world.tally.cancelled += 1;
  if (computed > 0) world.tally.cancelledInside += 1;
  follow(world, own, computed, []);
  // What could be taken back may be gone.
  for (const { target } of own) target.held = { ...target.held, sure: 0 };
}
