/** Whether a sequence that is resumed goes on as if it had been computed afresh. */
import { join } from "node:path";
import type { Model } from "../model/model.ts";
import type { LoadOptions } from "../model/options.ts";
import { StrataError } from "../errors.ts";
import type { Sequence } from "../sequence/sequence.ts";
import { defineCheck } from "./check.ts";
import { feedAll, Mistake, NothingToCheck, type Subject } from "./subject.ts";

/** Options with room for some snapshots. */
async function withSnapshots(subject: Subject): Promise<LoadOptions> {
  const { snapshots } = await subject.plan({});
  if (snapshots.bytesEach === 0) throw new NothingToCheck("there is nothing that a snapshot would hold");
  return { snapshotBytes: snapshots.bytesEach * 6 };
}

/** Feeds what follows to a resumed sequence, and compares with the same text computed afresh. */
async function expectGoesOn(subject: Subject, sequence: Sequence, fresh: Model, sentence: string): Promise<void> {
  const before = sequence.tokens;
  const more = await subject.tokens(9, 31);
  const rows = await feedAll(sequence, more);
  using other = fresh.sequence();
  await other.feed(before);
  const expected = await feedAll(other, more);
  await subject.expectEqual(
    rows,
    expected,
    sentence,
    ({ row }) => `from ${row} tokens behind it on. What a token leaves behind is not all in the declared memories`,
  );
}

export const snapshots = defineCheck("resumed from a snapshot = fresh", async (subject) => {
  await using model = await subject.load(await withSnapshots(subject));
  const text = await subject.tokens(40, 30);
  using sequence = model.sequence();
  const {
    snapshots: [middle],
  } = await sequence.feed(text, { snapshots: [17] });
  const last = await sequence.snapshot();
  await sequence.feed(await subject.tokens(5, 32));
  if (middle === undefined) throw new Error("no snapshot was taken at position 17");
  for (const snapshot of [middle, last, middle]) {
    using resumed = model.sequence();
    resumed.restore(snapshot);
    const sentence = `a sequence resumed from a snapshot at position ${snapshot.position} gives other logits than a fresh one`;
    await expectGoesOn(subject, resumed, model, sentence);
  }
  return "at position 17, taken within a step, and at 40";
});

export const copies = defineCheck("copy = fresh", async (subject) => {
  await using model = await subject.load();
  using sequence = model.sequence();
  await sequence.feed(await subject.tokens(30, 33));
  using copy = sequence.copy();
  await expectGoesOn(subject, copy, model, "a copy of a sequence gives other logits than a fresh one");
  await expectGoesOn(subject, sequence, model, "a sequence gives other logits after a copy of it went on");
  return "of 30 tokens, and its source";
});

export const files = defineCheck("resumed from a file = fresh", async (subject) => {
  const path = join(subject.folder, "saved.state");
  const options = await withSnapshots(subject);
  await using model = await subject.load(options);
  {
    using sequence = model.sequence();
    await sequence.feed(await subject.tokens(28, 34), { snapshots: [11] });
    await sequence.save(path);
  }
  await using other = await subject.load(options);
  using restored = await other.restore(path);
  const [snapshot] = restored.snapshots;
  using early = other.sequence();
  if (snapshot === undefined) throw new Mistake("a saved sequence came back without its snapshot");
  early.restore(snapshot);
  await expectGoesOn(subject, restored, model, "a sequence resumed from a file gives other logits than a fresh one");
  await expectGoesOn(subject, early, model, "a snapshot resumed from a file gives other logits than a fresh one");
  return "28 tokens, and a snapshot at 11";
});

/** Takes tokens back in every way that `rollback` allows and compares. */
async function checkRollback(subject: Subject, rollback: number): Promise<void> {
  await using model = await subject.load({ rollback });
  const start = await subject.tokens(31, 35);
  const tail = await subject.tokens(rollback + 3, 36);
  const counts = [...new Set([1, 2, Math.ceil(rollback / 2), rollback])].filter((count) => count <= rollback);
  for (const count of counts) {
    for (const chunk of [1, tail.length]) {
      using sequence = model.sequence();
      await sequence.feed(start);
      await feedAll(sequence, tail, chunk);
      const how = chunk === 1 ? "single tokens" : "tokens of one step";
      try {
        sequence.rollback(count);
      } catch (error) {
        if (!(error instanceof StrataError)) throw error;
        throw new Mistake(`${count} ${how} cannot be taken back, loaded with rollback ${rollback}: ${error.message}`);
      }
      const sentence = `after ${count} ${how} were taken back, logits are other than of a fresh sequence`;
      await expectGoesOn(subject, sequence, model, sentence);
    }
  }
}

export const rollbacks = defineCheck("rollback = fresh", async (subject) => {
  await checkRollback(subject, 8);
  return "1, 2, 4 and 8 tokens, fed one by one and at once";
});

export const replays = defineCheck("declared `inputs` are right", async (subject) => {
  const { memory } = await subject.read();
  const declared = memory.flatMap((layer, index) =>
    Object.entries(layer).flatMap(([name, record]) =>
      record?.kind === "recurrent" && record.inputs > 0 ? [{ index, name, inputs: record.inputs }] : [],
    ),
  );
  if (declared.length === 0) return "no memory declares any";
  const waiting = new Set(declared.map(({ index, name }) => `${index}.${name}`));
  let tried = 0;
  // States are only computed again where that takes less memory than keeping them.
  for (const rollback of [4, 1, 16, 48]) {
    const { layers } = await subject.plan({ rollback });
    const replayed = layers.flatMap(({ index, memories }) =>
      memories.filter((one) => one.rollback === "replay").map(({ name }) => `${index}.${name}`),
    );
    if (!replayed.some((key) => waiting.has(key))) continue;
    await checkRollback(subject, rollback);
    tried += 1;
    for (const key of replayed) waiting.delete(key);
    if (waiting.size === 0) break;
  }
  const rest = waiting.size === 0 ? "" : `; ${waiting.size} would be kept instead at these sizes, and were not tried`;
  return `states of ${declared.length - waiting.size} memories computed again${tried > 1 ? ` in ${tried} sizes` : ""}${rest}`;
});
