/** Whether memories take what is planned, hold nothing that was not written, and can do what they are declared to. */
import { StrataError } from "../errors.ts";
import type { MemoryRecord } from "../memory/declaration.ts";
import { defineCheck } from "./check.ts";
import { afresh, feedAll, Mistake, NothingToCheck, type Subject } from "./subject.ts";

export const poison = defineCheck("NaN-filled buffers change nothing", async (subject) => {
  const [text, other] = [await subject.tokens(40, 40), await subject.tokens(21, 41)];
  await using clean = await subject.load();
  await using model = await subject.load({ poison: true });
  for (const chunk of [40, 9, 1]) {
    using sequence = model.sequence();
    using neighbour = model.sequence();
    await neighbour.feed(other);
    const rows = await feedAll(sequence, text, chunk);
    await subject.expectEqual(
      rows,
      await afresh(clean, text, chunk),
      `with NaN in all cells and buffers that nobody wrote, steps of ${chunk} tokens give other logits`,
      ({ row }) =>
        `from position ${row} on. Something is read before it is written, such as a memory before its keys are stored`,
    );
  }
  return "steps of 40, 9 and 1 tokens";
});

export const plan = defineCheck("memory plan = allocation", async (subject) => {
  const options = { sequences: 3, batch: 24, context: 64, rollback: 4, snapshotBytes: 100_000 };
  const planned = await subject.plan(options);
  await using model = await subject.load(options);
  const same = (what: string, actual: number, expected: number) => {
    if (actual === expected) return;
    throw new Mistake(
      `${what} take ${actual} bytes, and ${expected} were planned from the header: \`memory\`, \`weights\` and \`graph\` must ` +
        "depend on the configuration alone",
    );
  };
  same("memories", model.counters().memoryBytes, planned.memoryBytes);
  const parts = [8, 8, 8];
  const sequences = parts.map(() => model.sequence());
  const texts = await Promise.all(parts.map((count, i) => subject.tokens(count, 42 + i)));
  await model.feed(sequences.map((sequence, i) => ({ sequence, tokens: texts[i] ?? [] })));
  await model.feed(sequences.map((sequence) => ({ sequence, tokens: texts[0]?.slice(0, 1) ?? [] })));
  const [first] = sequences;
  await first?.feed(texts[1]?.slice(0, 1) ?? []);
  first?.clear();
  await first?.feed(await subject.tokens(24, 45));
  for (const sequence of sequences) sequence.dispose();
  const { memoryBytes, computeBytes, workBytes, scratchBytes } = model.counters();
  same("memories", memoryBytes, planned.memoryBytes);
  same("results of a step", computeBytes, planned.computeBytes);
  same("the operations of a step", workBytes + scratchBytes, planned.workBytes + planned.scratchBytes);
  return `${memoryBytes} bytes of memories, ${computeBytes} of a step's results`;
});

export const properties = defineCheck("declared properties are true", async (subject) => {
  const { memory } = await subject.read();
  const records = memory.flatMap((layer) =>
    Object.values(layer).flatMap((record) => (record === undefined || record.kind === "shared" ? [] : [record])),
  );
  if (records.length === 0) throw new NothingToCheck("there is no memory");
  const seen: string[] = [];
  if (records.every((record) => record.reuse === "prefix")) {
    await checkPrefixes(subject);
    seen.push("resumed at every tried prefix");
  }
  if (records.every((record) => record.kind === "attention" && record.extent.kind === "window")) {
    await checkReach(subject, records);
    seen.push("nothing is seen from beyond the windows");
  }
  return seen.length === 0 ? `${records.length} memories as their kinds allow` : seen.join(", ");
});

/** What is declared reusable at any prefix is cut off and goes on as if the rest had never been. */
async function checkPrefixes(subject: Subject): Promise<void> {
  await using model = await subject.load();
  const text = await subject.tokens(44, 46);
  const more = await subject.tokens(6, 47);
  for (const end of [1, 13, 31, 43]) {
    using sequence = model.sequence();
    await sequence.feed(text);
    try {
      sequence.remove(end, -1);
    } catch (error) {
      if (!(error instanceof StrataError)) throw error;
      throw new Mistake(
        `every memory is declared reusable at any prefix, and position ${end} of 44 cannot be: ${error.message}`,
      );
    }
    const rows = await feedAll(sequence, more);
    const expected = (await afresh(model, [...text.slice(0, end), ...more])).slice(end);
    await subject.expectEqual(
      rows,
      expected,
      `every memory is declared reusable at any prefix, and cut off at position ${end} of 44 it gives other logits than fresh`,
    );
  }
}

/** Where all layers have windows, a token further back than all of them reach must not matter. */
async function checkReach(subject: Subject, records: readonly MemoryRecord[]): Promise<void> {
  const reach = records.reduce((sum, { extent }) => sum + ("size" in extent ? extent.size - 1 : 0), 0);
  const length = reach + 4;
  await using model = await subject.load();
  if (length > model.contextLength) return;
  const text = await subject.tokens(length, 48);
  const other = text.with(0, ((text[0] ?? 0) + 1) % model.vocabularySize);
  const [one, two] = [await afresh(model, text), await afresh(model, other)];
  await subject.expectEqual(
    two.slice(reach + 1),
    one.slice(reach + 1),
    `windows reach ${reach} tokens back in all, and token 0 changes the logits of position ${reach + 1} or later`,
    () => "the graph remembers more than is declared",
  );
}
