/** Snapshots are taken within a prefill without cutting it, count in bytes, and resume where they were taken. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { loadModel, StrataError, type LoadOptions } from "ggstrata";
import { allFixtureNames, fixturePath, Folder, refusal, someTokens, thrown } from "../model/help.ts";
import { nmse } from "../plugins/reference.ts";

setDefaultTimeout(120_000);

const options: LoadOptions = { context: 768, sequences: 5, batch: 512, threads: 2, kv: "f32", snapshotBytes: 64e6 };

describe.each(allFixtureNames)("%s", (name) => {
  test("seven in one prefill of 512, of three sequences, cost no step and resume exactly there", async () => {
    await using model = await loadModel(fixturePath(name), options);
    const texts = [someTokens(171, 1), someTokens(170, 2), someTokens(171, 3)];
    const places = [
      [1, 33, 170],
      [64, 99],
      [127, 171],
    ];
    const more = someTokens(9, 4);
    const feed = async (positions: readonly (readonly number[])[]) => {
      const sequences = texts.map(() => model.sequence());
      const before = model.counters();
      const results = await model.feed(
        sequences.map((sequence, i) => ({ sequence, tokens: texts[i] ?? [], snapshots: positions[i] ?? [] })),
      );
      const { steps, rows } = model.counters();
      return { sequences, results, cost: { steps: steps - before.steps, rows: rows - before.rows } };
    };
    const without = await feed([]);
    for (const sequence of without.sequences) sequence.dispose();
    const { results, cost, sequences } = await feed(places);
    expect(cost).toEqual(without.cost);
    expect(cost).toEqual({ steps: 1, rows: 512 });
    expect(results.map(({ logits }) => logits)).toEqual(without.results.map(({ logits }) => logits));
    expect(results.map(({ snapshots }) => snapshots.map(({ position }) => position))).toEqual(places);

    // What a fresh run gives from there, whatever its source does meanwhile.
    for (const sequence of sequences) sequence.dispose();
    using resumed = model.sequence();
    using fresh = model.sequence();
    for (const [i, { snapshots }] of results.entries()) {
      for (const snapshot of snapshots) {
        resumed.restore(snapshot);
        expect(resumed.tokens).toEqual(texts[i]?.slice(0, snapshot.position) ?? []);
        fresh.clear();
        await fresh.feed(resumed.tokens);
        const [actual, expected] = [await resumed.feed(more), await fresh.feed(more)];
        const [a, b] = [actual.logits[0], expected.logits[0]];
        expect(nmse(a ?? new Float32Array(1), b ?? new Float32Array(1))).toBeLessThanOrEqual(1e-8);
      }
    }
    for (const { snapshots } of results) for (const snapshot of snapshots) snapshot.dispose();
  });

  test("their bytes are counted, and the budget holds", async () => {
    await using probe = await loadModel(fixturePath(name), { ...options, snapshotBytes: 0 });
    using one = probe.sequence();
    await one.feed([1, 2, 3]);
    expect((await refusal(one.snapshot())).code).toBe("full");
    const each = probe.memory.bytesPerSnapshot;
    await using model = await loadModel(fixturePath(name), { ...options, snapshotBytes: 2.5 * each });
    expect(model.memory.snapshots).toBe(2);
    using sequence = model.sequence();
    await sequence.feed(someTokens(20, 1));
    const first = await sequence.snapshot();
    using second = await sequence.snapshot();
    expect([first.bytes, second.bytes]).toEqual([each, each]);
    const error = await refusal(sequence.snapshot());
    expect(error.message).toContain("budget");
    const before = sequence.position;
    expect((await refusal(sequence.feed([1, 2], { snapshots: [21] }))).code).toBe("full");
    expect(sequence.position).toBe(before);
    first.dispose();
    expect(thrown(() => first.position).code).toBe("closed");
    using third = await sequence.snapshot();
    expect(third.position).toBe(20);
    // A position that the batch does not pass, and one snapshot's place taken twice.
    third.dispose();
    await refusal(sequence.feed([1, 2], { snapshots: [99] }));
    expect(model.counters().snapshots).toBe(1);
    expect(sequence.position).toBe(20);
  });

  test("a batch that fails takes none", async () => {
    await using model = await loadModel(fixturePath(name), { ...options, context: 64, batch: 32 });
    using sequence = model.sequence();
    await sequence.feed(someTokens(30, 1));
    const before = model.counters();
    const signal = AbortSignal.abort();
    await expect(sequence.feed(someTokens(20, 2), { snapshots: [31, 40], signal })).rejects.toThrow();
    expect(await refusal(sequence.feed(someTokens(60, 2), { snapshots: [31] }))).toBeInstanceOf(StrataError);
    expect(model.counters()).toMatchObject({
      freeBlocks: before.freeBlocks,
      freeCells: before.freeCells,
      snapshots: 0,
    });
  });
});

describe.each(["mamba2", "granitehybrid"] as const)("states of %s in f16", (name) => {
  test("take half the bytes, resume nearly, and are saved and restored as they are", async () => {
    const settings = { ...options, snapshotType: "f16" } as const;
    await using whole = await loadModel(fixturePath(name), options);
    await using model = await loadModel(fixturePath(name), settings);
    const states = ({ memory }: typeof model) =>
      memory.layers.flatMap(({ memories }) => memories).filter(({ kind }) => kind === "recurrent");
    const bytes = states(model).reduce((sum, { bytesPerCell }) => sum + bytesPerCell, 0);
    expect(whole.memory.bytesPerSnapshot - model.memory.bytesPerSnapshot).toBe(bytes / 2);
    expect(model.counters().memoryBytes).toBe(model.memory.bytes);

    using sequence = model.sequence();
    const text = someTokens(60, 1);
    const { snapshots } = await sequence.feed(text, { snapshots: [20, 60] });
    const [middle] = snapshots;
    if (middle === undefined) throw new Error("no snapshot was taken");
    using resumed = model.sequence();
    resumed.restore(middle);
    const actual = (await resumed.feed(text.slice(20))).logits[0] ?? new Float32Array(1);
    using fresh = model.sequence();
    const expected = (await fresh.feed(text)).logits[0] ?? new Float32Array(1);
    expect(nmse(actual, expected)).toBeGreaterThan(0);
    expect(nmse(actual, expected)).toBeLessThan(1e-4);

    using folder = new Folder();
    const path = join(folder.path, "half.state");
    await sequence.save(path);
    for (const other of [settings, options]) {
      await using loaded = await loadModel(fixturePath(name), other);
      const restored = await loaded.restore(path);
      restored.restore(restored.snapshots[0] as (typeof restored.snapshots)[0]);
      expect((await restored.feed(text.slice(20))).logits[0]).toEqual(actual);
    }
    // More at once than there are cells for on the way.
    const many = Array.from({ length: 9 }, (_, i) => i + 1);
    fresh.clear();
    expect((await refusal(fresh.feed(text, { snapshots: many }))).message).toContain("8 can be taken at once");
  });
});
