/** Saving and loading in programs: one sequence or all, cancelled, without room, and by a model with other options. */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import type { Model, Sequence, Snapshot } from "ggstrata";
import { Naive, type Held } from "../naive.ts";
import { rollback } from "./changes.ts";
import { fileCount, names, type Operation } from "./operations.ts";
import { toleranceOf, type Options } from "./variants.ts";
import type { Saved, Slot, World } from "./world.ts";

type Of<Op extends Operation["op"]> = Extract<Operation, { op: Op }>;

export async function save(world: World, { slot, all, back, file, cancels }: Of<"save">): Promise<void> {
  if (back > 0) await rollback(world, slot, back);
  const { sequence } = world.slot(slot);
  const chosen = all ? world.slots.filter((one): one is Slot => one !== undefined) : [world.slot(slot)];
  const path = world.bench.statePath(file);
  const old = existsSync(path) ? readFileSync(path) : undefined;
  const isDone = await cancellable(world, cancels, (options) =>
    all
      ? world.model.save(
          path,
          chosen.map((one) => one.sequence),
          options,
        )
      : sequence.save(path, options),
  );
  const known = new Set([...Array(fileCount).keys()].map((number) => `${number}.state`)).add("made-up.gguf");
  const strange = readdirSync(world.bench.folder).filter((name) => !known.has(name));
  if (strange.length > 0) world.fail(`it left ${strange.join(", ")} behind`);
  if (!isDone) {
    const now = existsSync(path) ? readFileSync(path) : undefined;
    if (!Bun.deepEquals(now, old)) world.fail("it was cancelled and the file is another one");
    return world.probeAll();
  }
  world.tally.saved += 1;
  if (chosen.length > 1) world.tally.savedTogether += 1;
  world.files[file] = chosen.map((one) => ({
    held: world.naive.saved(one.held),
    snapshots: world.taken.filter(({ owner }) => owner === one.sequence).map((taken) => taken.held),
  }));
}

/** Cancels what is running after so many turns. False where that came in time; any other error is the caller's. */
async function cancellable(
  world: World,
  turns: number | null,
  start: (options: { signal?: AbortSignal }) => Promise<unknown>,
): Promise<boolean> {
  const controller = new AbortController();
  const work = start(turns === null ? {} : { signal: controller.signal });
  const settled = work.then(
    () => undefined,
    (error: unknown) => ({ error }),
  );
  for (let i = 0; i < (turns ?? 0); i += 1) await (i % 3 === 2 ? Bun.sleep(0) : Promise.resolve());
  if (turns !== null) controller.abort(new Error("the program cancelled it"));
  const failed = await settled;
  if (failed === undefined) return true;
  if (turns === null || failed.error !== controller.signal.reason) throw failed.error;
  world.tally.filesCancelled += 1;
  return false;
}

function savedIn(world: World, file: number): { readonly path: string; readonly saved: Saved } | undefined {
  const found = world.files[file] === undefined ? world.files.findLastIndex(Boolean) : file;
  const saved = world.files[found];
  return saved && { path: world.bench.statePath(found), saved };
}

const snapshotsOf = (saved: Saved): number => saved.reduce((sum, { snapshots }) => sum + snapshots.length, 0);

export async function load(world: World, one: Of<"load">): Promise<void> {
  const found = savedIn(world, one.file);
  if (found === undefined) return;
  const { path, saved } = found;
  if (one.clears) for (const index of world.slots.keys()) letGo(world, index);
  const { snapshots: most } = world.model.memory;
  const hasNoPlace =
    one.isCrowded || saved.length > world.freeSequences || world.taken.length + snapshotsOf(saved) > most;
  // What snapshots shared with sequences that live is there twice now. In streams of their own all have their room.
  const isShared = world.bench.declared.options.streams !== "separate";
  const canBeFull = isShared && (snapshotsOf(saved) > 0 || world.canBeFull());
  const before = world.free();
  let loaded: Sequence[] = [];
  let isDone = true;
  const error = await world.attempt(async () => {
    const restore = async () => {
      isDone = await cancellable(world, one.cancels, async (options) => {
        loaded = await (saved.length === 1
          ? world.model.restore(path, options).then((sequence) => [sequence])
          : world.model.restoreAll(path, options));
      });
    };
    await (one.isCrowded ? world.crowded(restore) : restore());
  });
  if (!isDone || hasNoPlace || error !== undefined) {
    if (isDone && hasNoPlace) {
      if (error?.code !== "full") world.fail(`it had to fail with "full", and ${error?.message ?? "was done"}`);
      world.tally.refused += 1;
    } else if (isDone && error !== undefined) world.judge(must, error, canBeFull);
    world.compareFree(before);
    return world.probeAll();
  }
  world.tally.loaded += 1;
  if (saved.length > 1) world.tally.loadedTogether += 1;
  const indices = saved.map((_, i) => (one.slot + i) % names);
  for (const index of indices) letGo(world, index);
  for (const [i, { held, snapshots }] of saved.entries()) {
    const sequence = loaded[i] as Sequence;
    world.slots[indices[i] as number] = { sequence, held };
    for (const [k, snapshot] of ownOf(world, sequence, snapshots).entries()) {
      world.take(snapshot, sequence, snapshots[k] as Held);
    }
  }
  for (const index of indices) await world.probe(index);
  if (saved.length > 1) await refuseSeveral(world, path);
}

const must = { verdict: "must", held: { pairs: [], lost: [], sure: 0 } } as const;

function letGo(world: World, index: number): void {
  world.slots[index]?.sequence.dispose();
  world.slots[index] = undefined;
}

function ownOf(world: World, sequence: Sequence, expected: readonly Held[]): readonly Snapshot[] {
  const { snapshots } = sequence;
  if (snapshots.length === expected.length) return snapshots;
  world.fail(`${snapshots.length} snapshots were loaded, and ${expected.length} had been saved`);
}

/** What brings back one sequence does not bring back several, and leaves nothing of them. */
async function refuseSeveral(world: World, path: string): Promise<void> {
  const before = world.free();
  await world.mustFail(["invalid_argument", "full"], () => world.model.restore(path));
  world.compareFree(before);
}

// ---- under other options ----

export async function loadElsewhere(world: World, { file, variant }: Of<"elsewhere">): Promise<void> {
  const found = savedIn(world, file);
  if (found === undefined) return;
  const { path, saved } = found;
  const { layers, options: own } = world.bench.declared;
  const options = world.bench.variants[variant % world.bench.variants.length] as Options;
  const naive = new Naive(layers, options);
  const model = await world.bench.variant(options);
  const { freeBlocks, freeCells } = model.counters();
  const mustFail = reasonsElsewhere(world, saved, naive, model, options);
  let loaded: Sequence[] = [];
  const error = await world.attempt(async () => (loaded = await model.restoreAll(path)));
  if (error !== undefined) {
    // Shared blocks are there for each that shared them, and what windows let go where they keep all is not.
    const isTighter = Boolean(own.wholeWindows) !== Boolean(options.wholeWindows);
    const canBeFull = snapshotsOf(saved) > 0 || isTighter || world.isFragmented;
    const isAllowed = mustFail.has(error.code) || (error.code === "full" && canBeFull);
    if (!isAllowed) world.fail(`elsewhere it failed with "${error.code}": ${error.message}`);
    const reason = mustFail.get(error.code);
    if (reason !== undefined && !reason.test(error.message)) world.fail(`elsewhere it failed by ${error.message}`);
    world.tally.refusedElsewhere += 1;
  } else {
    if (mustFail.size > 0)
      world.fail(`elsewhere it was loaded, and had to fail with ${[...mustFail.keys()].join(" or ")}`);
    world.tally.elsewhere += 1;
    const tolerance = Math.max(world.bench.tolerance, toleranceOf(layers, options));
    for (const [i, { held, snapshots }] of saved.entries()) {
      const sequence = loaded[i] as Sequence;
      world.compare(`sequence ${i} elsewhere`, sequence, held, naive);
      await goOn(world, sequence, held, naive, tolerance);
      for (const [k, snapshot] of ownOf(world, sequence, snapshots).entries()) {
        sequence.restore(snapshot);
        world.compare(`snapshot ${k} of sequence ${i} elsewhere`, sequence, snapshots[k] as Held, naive);
        await goOn(world, sequence, snapshots[k] as Held, naive, tolerance);
      }
    }
    for (const sequence of loaded) {
      for (const snapshot of sequence.snapshots) snapshot.dispose();
      sequence.dispose();
    }
  }
  const after = model.counters();
  if (after.freeBlocks !== freeBlocks || after.freeCells !== freeCells || after.snapshots !== 0)
    world.fail("elsewhere something is left behind");
}

/** With which errors it must fail there, and what they must say. */
function reasonsElsewhere(
  world: World,
  saved: Saved,
  naive: Naive,
  model: Model,
  options: Options,
): Map<string, RegExp> {
  const reasons = new Map<string, RegExp>();
  const holders = saved.flatMap(({ held, snapshots }) => [held, ...snapshots]);
  const isOtherType = (options.kv ?? "f16") !== (world.bench.declared.options.kv ?? "f16");
  if (isOtherType && naive.hasAttention) reasons.set("refused", /another type of keys and values/);
  else if (holders.some((held) => world.naive.position(held) > naive.context)) {
    reasons.set("refused", new RegExp(`the context is ${naive.context};`));
  }
  if (saved.length > model.sequenceCount) reasons.set("full", /sequences are in use/);
  if (snapshotsOf(saved) > model.memory.snapshots) reasons.set("full", /snapshots/);
  return reasons;
}

async function goOn(world: World, sequence: Sequence, held: Held, naive: Naive, tolerance: number): Promise<void> {
  if (naive.position(held) >= naive.context) return;
  let rows: readonly Float32Array[] = [];
  const error = await world.attempt(async () => (rows = (await sequence.feed([11])).logits));
  if (error !== undefined) {
    if (error.code === "full" && world.isFragmented) return;
    world.fail(`elsewhere what follows failed with "${error.code}": ${error.message}`);
  }
  const after = naive.fed(held, [11]);
  world.compareRows(after, [after.pairs.length - 1], rows, "what follows elsewhere", tolerance);
}
