/** Each active state is read once from its cell and written once to another; no other bytes of states move. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { loadModel, type LoadOptions, type Model, type Sequence } from "ggstrata";
import { fixturePath, randomOf, someTokens } from "../model/help.ts";

setDefaultTimeout(60_000);

const options: LoadOptions = { context: 256, sequences: 16, batch: 64, threads: 2 };

/** Inputs of a convolution of 4 taps over 128 channels, and 6 heads of 16 x 16, in f32. */
const layerBytes = (3 * 128 + 6 * 16 * 16) * 4;

/** Bytes of states that some work moves. */
async function moved(model: Model, work: () => unknown): Promise<number> {
  const before = model.counters().stateBytesMoved;
  await work();
  return model.counters().stateBytesMoved - before;
}

/** One token more of each, in one batch. */
function step(model: Model, sequences: readonly Sequence[]): Promise<unknown> {
  return model.feed(sequences.map((sequence, index) => ({ sequence, tokens: [5 + index], logits: "none" as const })));
}

describe.each([
  { name: "mamba2", recurrentLayers: 4 },
  { name: "granitehybrid", recurrentLayers: 3 },
] as const)("a step of $name", ({ name, recurrentLayers }) => {
  const stateBytes = recurrentLayers * layerBytes;

  test("reads and writes the state of one sequence once, however many tokens it takes", async () => {
    await using model = await loadModel(fixturePath(name), options);
    const states = model.memory.layers.flatMap(({ memories }) => memories.filter(({ kind }) => kind === "recurrent"));
    expect(states.map(({ bytesPerCell }) => bytesPerCell)).toEqual(Array(recurrentLayers).fill(layerBytes));
    using sequence = model.sequence();
    // A sequence that begins has no state to read.
    expect(await moved(model, () => sequence.feed(someTokens(40)))).toBe(stateBytes);
    for (let steps = 0; steps < 10; steps += 1) {
      expect(await moved(model, () => sequence.feed([9]))).toBe(2 * stateBytes);
    }
    expect(await moved(model, () => sequence.feed(someTokens(64, 2)))).toBe(2 * stateBytes);
    // Two sub-batches.
    expect(await moved(model, () => sequence.feed(someTokens(65, 3)))).toBe(4 * stateBytes);
  });

  test("moves as much of each of 16, and nothing of the others, after many came and went", async () => {
    await using model = await loadModel(fixturePath(name), { ...options, snapshotBytes: 4e6 });
    const random = randomOf(11);
    const live: Sequence[] = [];
    const pick = () => Math.floor(random() * live.length);
    let steps = 0;
    for (let round = 0; round < 300; round += 1) {
      // Cells are let go in another order than they were taken in.
      while (live.length > 12 || (live.length > 0 && random() < 0.3)) live.splice(pick(), 1)[0]?.dispose();
      const source = live[pick()];
      if (source !== undefined && random() < 0.5) live.push(source.copy());
      const fresh = model.sequence();
      await fresh.feed(someTokens(1 + Math.floor(random() * 5), round));
      live.splice(pick(), 0, fresh);
      const active = live.filter(({ position }) => position < 250 && random() < 0.7);
      if (active.length === 0) continue;
      expect(await moved(model, () => step(model, active))).toBe(2 * stateBytes * active.length);
      steps += 1;
    }
    expect(steps).toBeGreaterThan(200);
    while (live.length < 16) live.push((live[pick()] as Sequence).copy());
    expect(await moved(model, () => step(model, live))).toBe(32 * stateBytes);
    for (const sequence of live) sequence.dispose();
  });

  test("moves a state more for each snapshot within it, which takes, restores, copies and clears move none", async () => {
    await using model = await loadModel(fixturePath(name), { ...options, snapshotBytes: 4e6 });
    using sequence = model.sequence();
    const work = () => sequence.feed(someTokens(40), { snapshots: [7, 20, 40] });
    // Segments up to 7, 20 and 40: what one writes is what the next reads.
    expect(await moved(model, work)).toBe((1 + 2 + 2) * stateBytes);
    using other = model.sequence();
    const [first] = sequence.snapshots;
    const others = async () => {
      if (first !== undefined) other.restore(first);
      (await other.snapshot()).dispose();
      sequence.copy().dispose();
      sequence.clear();
    };
    expect(await moved(model, others)).toBe(0);
    expect(other.position).toBe(7);
    expect(await moved(model, () => other.feed([9]))).toBe(2 * stateBytes);
  });
});
