/** What the contract of memories promises in so many words, one by one, where no other test would notice its absence. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { loadModel, type LoadOptions, type Model, type Sequence } from "ggstrata";
import { fixturePath, Folder, refusal, someTokens, thrown } from "../model/help.ts";
import { MadeUpModel, type AttentionPart, type Layer, type RecurrentPart } from "./made-up-architecture.ts";

setDefaultTimeout(60_000);

const full: AttentionPart = { kind: "attention", heads: 2, group: 1, keyDim: 8, valueDim: 8 };
const narrow: AttentionPart = { ...full, window: 5 };
const states: RecurrentPart = {
  kind: "recurrent",
  channels: 0,
  taps: 4,
  scans: [{ heads: 4, headDim: 2, groups: 2, stateSize: 4 }],
};
const logged: RecurrentPart = { ...states, scans: [{ heads: 4, headDim: 4, groups: 1, stateSize: 16 }], logged: true };

/** A made-up model's file, and how to load it. */
class MadeUp implements Disposable {
  private readonly folder = new Folder();
  private readonly model: MadeUpModel;
  private readonly file: string;

  constructor(layers: readonly Layer[]) {
    this.model = new MadeUpModel(layers, 11);
    this.file = this.folder.write("made-up.gguf", this.model.file());
  }

  load(options: LoadOptions = {}): Promise<Model> {
    const usual = { context: 96, sequences: 4, batch: 24, threads: 1, kv: "f32", snapshotBytes: 300_000 } as const;
    return loadModel(this.file, { ...usual, ...options, plugins: [this.model.plugin] });
  }

  path(name: string): string {
    return join(this.folder.path, name);
  }

  [Symbol.dispose](): void {
    this.folder[Symbol.dispose]();
  }
}

const tokens = (count: number, seed = 1): number[] => someTokens(count, seed).map((token) => token % 24);

/** All that can be seen of a sequence and its model without changing either. */
function seen(model: Model, sequence: Sequence): unknown {
  const { position, minPosition, tokens } = sequence;
  const { freeBlocks, freeCells, snapshots, steps } = model.counters();
  return { position, minPosition, tokens, freeBlocks, freeCells, snapshots, steps };
}

describe("what is refused names the memory that refused, and changes nothing", () => {
  const window = /attention with sliding window 5/;
  const recurrent = /the recurrent states/;
  test.each<[string, Layer[], (sequence: Sequence) => unknown, RegExp]>([
    ["a middle cut out", [[full], [narrow]], (s) => s.remove(3, 9), window],
    ["a tail cut off", [[narrow], [full]], (s) => s.remove(9), window],
    ["a middle cut out", [[full], [states]], (s) => s.remove(3, 9), recurrent],
    ["a head cut off", [[states], [full]], (s) => s.remove(0, 9), recurrent],
    ["a token taken back", [[full], [states]], (s) => s.rollback(1), recurrent],
    ["a part copied", [[full], [narrow]], (s) => s.copy(0, 9), window],
    ["a part copied", [[full], [states]], (s) => s.copy(0, 9), recurrent],
    ["a part moved", [[full], [narrow]], (s) => s.shift(9, -1, 2), window],
    ["a part moved", [[full], [states]], (s) => s.shift(9, -1, 2), recurrent],
    ["all divided", [[full], [narrow]], (s) => s.divide(-1, -1, 2), window],
    ["all divided", [[full], [states]], (s) => s.divide(-1, -1, 2), recurrent],
  ])("%s", async (_, layers, action, name) => {
    using madeUp = new MadeUp(layers);
    await using model = await madeUp.load();
    const sequence = model.sequence();
    await sequence.feed(tokens(20));
    const before = seen(model, sequence);
    const error = await refusal((async () => action(sequence))());
    expect(error.code).toBe("refused");
    expect(error.message).toMatch(name);
    expect(seen(model, sequence)).toEqual(before);
  });
});

test("moves go no further than the context, however far they are meant to go", async () => {
  for (const layers of [
    [[full]],
    [[states]],
    [[{ ...full, rope: { mode: "neox", base: 100, dims: 8 } }]],
  ] as Layer[][]) {
    using madeUp = new MadeUp(layers);
    await using model = await madeUp.load();
    const sequence = model.sequence();
    await sequence.feed(tokens(20));
    const before = seen(model, sequence);
    for (const distance of [77, 2 ** 31 - 1, -1, 1 - 2 ** 31]) {
      expect((await refusal(sequence.shift(-1, -1, distance))).code).toBe("refused");
    }
    expect((await refusal(sequence.shift(-1, -1, 2 ** 31))).code).toBe("invalid_argument");
    expect(seen(model, sequence)).toEqual(before);
    await sequence.shift(-1, -1, 76);
    expect(sequence.maxPosition).toBe(95);
  }
});

test("a batch continues what is held: repeated and skipped positions are refused, with all that shares the batch", async () => {
  using madeUp = new MadeUp([[full], [narrow], [states]]);
  await using model = await madeUp.load();
  const [first, second] = [model.sequence(), model.sequence()];
  await first.feed(tokens(20));
  const before = [seen(model, first), seen(model, second)];
  for (const position of [0, 18, 19, 21, 90]) {
    const requests = [
      { sequence: second, tokens: [3] },
      { sequence: first, tokens: [4], position },
    ];
    const error = await refusal(model.feed(requests));
    expect(error.code).toBe("refused");
    expect(error.message).toContain(`goes on at position 20, and tokens from position ${position} were given`);
  }
  expect([seen(model, first), seen(model, second)]).toEqual(before);
  await model.feed([{ sequence: first, tokens: [4], position: 20 }]);
});

test("a memory that is full says which it is and how much is lacking, before anything is computed", async () => {
  using madeUp = new MadeUp([[narrow], [full], [states]]);
  await using model = await madeUp.load({ cells: 128, snapshotBytes: 0 });
  const [first, second] = [model.sequence(), model.sequence()];
  await first.feed(tokens(70));
  const before = [seen(model, first), seen(model, second)];
  const requests = [
    { sequence: second, tokens: tokens(10) },
    { sequence: first, tokens: tokens(20) },
  ];
  const error = await refusal(model.feed(requests));
  expect(error).toMatchObject({ code: "full" });
  expect(error.message).toContain("full attention is full: 64 cells more are needed than are free");
  expect([seen(model, first), seen(model, second)]).toEqual(before);
  await first.feed(tokens(20));
});

describe.each(["llama", "gemma3", "mamba2", "granitehybrid"] as const)("%s", (name) => {
  test("computes to the bit what it does alone, whatever lies between its cells", async () => {
    const options: LoadOptions = { context: 256, sequences: 5, batch: 64, threads: 1, kv: "f32" };
    const [start, text] = [someTokens(40, 1), someTokens(100, 2)];
    const follow = async (model: Model, between: (sequence: Sequence) => Promise<void>) => {
      const sequence = model.sequence();
      await sequence.feed(start);
      const rows: (Float32Array | undefined)[] = [];
      for (const token of text) {
        await between(sequence);
        rows.push((await sequence.feed([token])).logits[0]);
      }
      return rows;
    };
    await using alone = await loadModel(fixturePath(name), options);
    const expected = await follow(alone, async () => {});
    await using crowded = await loadModel(fixturePath(name), options);
    const others = [crowded.sequence(), crowded.sequence()];
    let copy: Sequence | undefined;
    const actual = await follow(crowded, async (sequence) => {
      for (const other of others) await other.feed([7], { logits: "none" });
      if (others[0]?.position === 20) others.shift()?.clear();
      if (sequence.position === 63) copy = sequence.copy();
      if (sequence.position === 90) copy?.dispose();
    });
    expect(actual).toEqual(expected);
  });
});

test("a window's cells do not grow with the context, unless they all are wanted", async () => {
  using madeUp = new MadeUp([[narrow], [full]]);
  const cells = async (options: LoadOptions) => {
    await using model = await madeUp.load({ sequences: 3, batch: 70, rollback: 9, snapshotBytes: 0, ...options });
    const counts = model.memory.layers.flatMap(({ memories }) => memories.map((memory) => memory.cells));
    return counts as [number, number];
  };
  const [short, long] = [await cells({ context: 400 }), await cells({ context: 4000 })];
  expect(short[0]).toBe(long[0]);
  // What a window sees, can take back and is computed at once, in blocks of 64, with two to spare.
  expect(long[0]).toBe(3 * (2 + 2) * 64);
  expect(long[1]).toBeGreaterThanOrEqual(3 * 4000);
  const whole = await cells({ context: 4000, wholeWindows: true });
  expect(whole[0]).toBe(whole[1]);
});

test("keys and values are f16 unless something else is asked for, states f32", async () => {
  using madeUp = new MadeUp([[full], [states]]);
  await using model = await madeUp.load({ kv: undefined });
  const [attention, recurrent] = model.memory.layers.map(({ memories }) => memories[0]?.bytesPerCell);
  expect(attention).toBe(2 * (2 * 8 + 2 * 8));
  expect(recurrent).toBe(4 * (3 * (8 + 2 * 8) + 4 * 2 * 4));
});

test("a sequence or snapshot of another model is refused", async () => {
  using madeUp = new MadeUp([[full], [states]]);
  await using model = await madeUp.load();
  await using other = await madeUp.load();
  const [mine, theirs] = [model.sequence(), other.sequence()];
  await mine.feed(tokens(9, 1));
  await theirs.feed(tokens(5, 2));
  const [own, foreign] = [await mine.snapshot(), await theirs.snapshot()];
  const before = [seen(model, mine), seen(other, theirs)];
  expect(thrown(() => mine.copyTo(theirs)).code).toBe("invalid_argument");
  expect(thrown(() => mine.restore(foreign)).code).toBe("invalid_argument");
  expect((await refusal(model.feed([{ sequence: theirs, tokens: [3] }]))).code).toBe("invalid_argument");
  expect((await refusal(model.save(madeUp.path("x.state"), [mine, theirs]))).code).toBe("invalid_argument");
  expect([seen(model, mine), seen(other, theirs)]).toEqual(before);
  mine.restore(own);
  theirs.restore(foreign);
});

describe("a state file", () => {
  test("is of the tokens and what was remembered, however tokens are taken back there", async () => {
    // Of one of the states tokens are taken back by a log, of the other by states that are kept, or of neither.
    using madeUp = new MadeUp([[logged], [full], [states], [{ ...states, half: true }]]);
    const path = madeUp.path("mixed.state");
    const rollbacks = [0, 3, 12];
    for (const rollback of rollbacks) {
      await using model = await madeUp.load({ rollback });
      const sequence = model.sequence();
      await sequence.feed(tokens(30), { snapshots: [11] });
      await model.save(path, [sequence, model.sequence()]);
      using copy = sequence.copy();
      const expected = (await copy.feed([5])).logits;
      for (const other of rollbacks) {
        await using elsewhere = await madeUp.load({ rollback: other });
        const [restored, empty] = await elsewhere.restoreAll(path);
        expect(empty?.position).toBe(0);
        expect((await restored?.feed([5]))?.logits).toEqual(expected);
        expect(restored?.snapshots.map(({ position }) => position)).toEqual([11]);
      }
    }
  });

  test("holds what a chunk that has just ended holds, which is nothing, also where all is kept", async () => {
    using madeUp = new MadeUp([[{ ...full, chunk: 8 }], [full]]);
    await using model = await madeUp.load();
    const path = madeUp.path("chunk.state");
    const sequence = model.sequence();
    await sequence.feed(tokens(16));
    await sequence.save(path);
    const expected = (await sequence.feed([5])).logits;
    await using whole = await madeUp.load({ wholeWindows: true });
    const restored = await whole.restore(path);
    expect(restored.position).toBe(16);
    expect((await restored.feed([5])).logits).toEqual(expected);
  });

  test("of several sequences is no single one's, and trying leaves no snapshot behind", async () => {
    using madeUp = new MadeUp([[full], [states]]);
    await using model = await madeUp.load();
    const path = madeUp.path("two.state");
    const pair = [model.sequence(), model.sequence()];
    for (const sequence of pair) await sequence.feed(tokens(9), { snapshots: [4] });
    await model.save(path, pair);
    const before = model.counters();
    expect((await refusal(model.restore(path))).code).toBe("invalid_argument");
    const { freeBlocks, freeCells, snapshots } = before;
    expect(model.counters()).toMatchObject({ freeBlocks, freeCells, snapshots });
  });
});

describe("while a batch is computed", () => {
  test("what others take and give back is never what it was promised", async () => {
    using madeUp = new MadeUp([[full]]);
    const options = { context: 4096, sequences: 3, batch: 1, cells: 40 * 64, snapshotBytes: 0 };
    await using model = await madeUp.load(options);
    const [computed, source] = [model.sequence(), model.sequence()];
    await source.feed(tokens(256), { logits: "none" });
    const copy = source.copy();
    const { steps } = model.counters();
    // All blocks that are left.
    const work = computed.feed(tokens(36 * 64), { logits: "none" });
    while (model.counters().steps < steps + 5) await Promise.resolve();
    copy.remove(10, 60);
    copy.remove(70, 120);
    copy.remove(140, 180);
    expect(model.counters().steps).toBeLessThan(steps + 36 * 64);
    await work;
    expect(computed.position).toBe(36 * 64);
    expect(copy.tokens).toHaveLength(116);
  });

  test("a snapshot in f16 can be restored to any other sequence", async () => {
    using madeUp = new MadeUp(
      Array.from({ length: 6 }, () => [{ ...states, scans: [{ heads: 4, headDim: 64, groups: 2, stateSize: 64 }] }]),
    );
    await using model = await madeUp.load({
      context: 4096,
      batch: 64,
      rollback: 3,
      snapshotType: "f16",
      snapshotBytes: 9e6,
    });
    const all = Array.from({ length: 4 }, () => model.sequence());
    const idle = all[3] as Sequence;
    for (const token of tokens(6)) await idle.feed([token]);
    using snapshot = await idle.snapshot();
    idle.clear();
    for (const sequence of all.slice(0, 3)) for (const token of tokens(6)) await sequence.feed([token]);
    const pair = all.slice(0, 2);
    let restored = 0;
    for (let round = 0; round < 30; round += 1) {
      // As many at once as may be held in f16 on the way.
      const marks = ({ position }: Sequence) => [1, 2, 3, 4].map((n) => position + 3 * n);
      const work = model.feed(pair.map((sequence) => ({ sequence, tokens: tokens(20), snapshots: marks(sequence) })));
      for (const end = performance.now() + 3; performance.now() < end; restored += 1) {
        idle.restore(snapshot);
        idle.clear();
        await Promise.resolve();
      }
      for (const { snapshots } of await work) for (const one of snapshots) one.dispose();
    }
    expect(restored).toBeGreaterThan(30);
  });
});

describe("the longest position to resume at is found, and what limits it is named", () => {
  const recurrent = "the recurrent states";

  test("cut back, by a rollback, from a snapshot of the same tokens, or not at all", async () => {
    using made = new MadeUp([[full], [logged]]);
    await using model = await made.load({ rollback: 4 });
    using sequence = model.sequence();
    expect(sequence.resumable(5)).toEqual({ position: 0, snapshot: undefined, limitedBy: undefined });
    const fed = await sequence.feed(tokens(20), { snapshots: [7, 12], logits: "none" });
    const [seven, twelve] = fed.snapshots;
    expect(sequence.resumable()).toEqual({ position: 20, snapshot: undefined, limitedBy: undefined });
    expect(sequence.resumable(17)).toEqual({ position: 17, snapshot: undefined, limitedBy: undefined });
    expect(sequence.resumable(15)).toEqual({ position: 12, snapshot: twelve, limitedBy: recurrent });
    expect(sequence.resumable(12)).toEqual({ position: 12, snapshot: twelve, limitedBy: undefined });
    expect(sequence.resumable(11)).toEqual({ position: 7, snapshot: seven, limitedBy: recurrent });
    expect(sequence.resumable(3)).toEqual({ position: 0, snapshot: undefined, limitedBy: recurrent });
    // A snapshot of tokens that the sequence has no more is none of its beginnings.
    sequence.restore(seven as NonNullable<typeof seven>);
    await sequence.feed(tokens(20, 2), { logits: "none" });
    expect(sequence.resumable(15)).toEqual({ position: 7, snapshot: seven, limitedBy: recurrent });
    sequence.restore(twelve as NonNullable<typeof twelve>);
    expect((await sequence.feed([5])).logits.length).toBe(1);
  });

  test("a window by its own name; attention to everything by nothing", async () => {
    using made = new MadeUp([[full], [narrow]]);
    await using model = await made.load();
    using sequence = model.sequence();
    await sequence.feed(tokens(20), { logits: "none" });
    const found = sequence.resumable(9);
    expect(found.limitedBy).toBe("attention with sliding window 5");
    expect(found.position).toBe(0);
    using unlimited = new MadeUp([[full]]);
    await using other = await unlimited.load();
    using whole = other.sequence();
    await whole.feed(tokens(20), { logits: "none" });
    const at = whole.resumable(9);
    expect(at).toEqual({ position: 9, snapshot: undefined, limitedBy: undefined });
    whole.remove(at.position);
    expect(whole.position).toBe(9);
    expect(await thrown(() => whole.resumable(-1))).toMatchObject({ code: "invalid_argument" });
  });
});

test("tokens that are none are refused, and change nothing", async () => {
  using made = new MadeUp([[full]]);
  await using model = await made.load();
  using sequence = model.sequence();
  for (const bad of ["abc", undefined, null, 7, [1.5], [24], ["1"], Int32Array.of(1)] as unknown as number[][]) {
    expect(await refusal(sequence.feed(bad))).toMatchObject({ code: "invalid_argument" });
  }
  expect(sequence.position).toBe(0);
});
