/** An outsider's architecture with four kinds of memory in five layers does what plain sums do, and all that memories do. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { loadModel, planMemory, recurrent, type LoadOptions, type Model, type Sequence } from "ggstrata";
import { testArchitecture } from "ggstrata/testing";
import { Folder, refusal, someTokens } from "../model/help.ts";
import { quartet as sums } from "./four-memories-scalar.ts";
import { quartet } from "./four-memories.ts";
import { make, type Made, type Values } from "./made-file.ts";
import { nmse } from "./reference.ts";

setDefaultTimeout(60_000);

const chunk = 7;
const delta = { keyHeads: 2, valueHeads: 4, keyDim: 6, valueDim: 10, taps: 3 };
const shape = {
  ...{ eps: Math.fround(1e-5), heads: 4, kvHeads: 2, keyDim: 10, valueDim: 6 },
  ...{ ropeBase: 500, chunk, delta },
};

function valuesOf(kinds: readonly string[]): Values {
  return {
    ...{ block_count: kinds.length, block_kinds: kinds, vocab_size: 384, context_length: 128 },
    ...{ embedding_length: 40, feed_forward_length: 50, "attention.layer_norm_rms_epsilon": 1e-5 },
    ...{ "attention.head_count": 4, "attention.head_count_kv": 2, "attention.value_length": 6 },
    ...{ "attention.chunk_size": chunk, "rope.freq_base": 500 },
    ...{ "ssm.group_count": delta.keyHeads, "ssm.time_step_rank": delta.valueHeads, "ssm.state_size": delta.keyDim },
    ...{ "ssm.head_size": delta.valueDim, "ssm.conv_kernel": delta.taps },
  };
}

/** The biases that the plugin's attention takes where a file has them. */
const isBias = (name: string) => /attn_\w+\.bias/.test(name);

/** The logits of every token, one row after the other. */
function expected({ weights }: Made, kinds: readonly string[], tokens: readonly number[]): Float32Array {
  return Float32Array.from(sums(weights, tokens, { ...shape, kinds }).flat());
}

async function fed(sequence: Sequence, tokens: readonly number[], piece: number): Promise<Float32Array> {
  const rows: number[] = [];
  for (let at = 0; at < tokens.length; at += piece) {
    const { logits } = await sequence.feed(tokens.slice(at, at + piece), { logits: "all" });
    for (const row of logits) rows.push(...row);
  }
  return Float32Array.from(rows);
}

const options: LoadOptions = {
  ...{
    context: 64,
    sequences: 4,
    batch: 32,
    threads: 2,
    kv: "f32",
    rollback: 6,
    snapshotBytes: 4e6,
    plugins: [quartet],
  },
};

describe.each([
  ["four memories, and one that is read", ["full", "delta", "echo", "chunk", "reader"]],
  ["another order, and a layer without memory", ["none", "echo", "full", "reader", "delta", "chunk", "none"]],
  ["the plugin's own memory alone", ["echo", "echo"]],
])("%s", (_, kinds) => {
  const folder = new Folder();
  const tokens = someTokens(39, 3);
  let made: Made;
  let reference: Float32Array;
  let model: Model;
  beforeAll(async () => {
    made = await make(folder, quartet, valuesOf(kinds), isBias);
    reference = expected(made, kinds, tokens);
    // Memory and buffers hold NaN wherever nothing was written.
    process.env["STRATA_POISON"] = "1";
    model = await loadModel(made.path, options);
    delete process.env["STRATA_POISON"];
  });
  afterAll(async () => {
    await model.dispose();
    folder[Symbol.dispose]();
  });

  /** What goes on from position `from` is what plain sums give there. */
  async function expectGoesOn(sequence: Sequence, from: number): Promise<void> {
    expect(sequence.position).toBe(from);
    const rest = await fed(sequence, tokens.slice(from), 4);
    expect(nmse(rest, reference.subarray(from * model.vocabularySize))).toBeLessThanOrEqual(1e-8);
  }

  test.each([
    ["whole", 32],
    ["one token at a time", 1],
    ["in chunks of 5", 5],
  ])("%s", async (_, piece) => {
    using sequence = model.sequence();
    expect(nmse(await fed(sequence, tokens, piece), reference)).toBeLessThanOrEqual(1e-8);
  });

  test("as one of four in each batch", async () => {
    const texts = [tokens, someTokens(11, 4), someTokens(23, 5), someTokens(1, 6)];
    const runs = texts.map((text) => ({ text, sequence: model.sequence(), rows: [] as number[], at: 0 }));
    for (let round = 0; runs.some(({ text, at }) => at < text.length); round += 1) {
      const parts = runs.flatMap((run, i) => {
        const piece = run.text.slice(run.at, run.at + 1 + ((3 * round + 2 * i) % 7));
        run.at += piece.length;
        return piece.length > 0 ? [{ run, sequence: run.sequence, tokens: piece, logits: "all" as const }] : [];
      });
      const results = await model.feed(parts);
      for (const [j, { run }] of parts.entries()) for (const row of results[j]?.logits ?? []) run.rows.push(...row);
    }
    for (const { text, rows, sequence } of runs) {
      sequence.dispose();
      expect(nmse(Float32Array.from(rows), expected(made, kinds, text))).toBeLessThanOrEqual(1e-8);
    }
  });

  test("resumed from snapshots within a prompt, and from a copy", async () => {
    using sequence = model.sequence();
    const { snapshots } = await sequence.feed(tokens.slice(0, 30), { snapshots: [1, 16, 30] });
    using copy = sequence.copy();
    await sequence.feed(someTokens(5, 7));
    await expectGoesOn(copy, 30);
    for (const snapshot of snapshots) {
      const { position } = snapshot;
      sequence.restore(snapshot);
      await expectGoesOn(sequence, position);
      snapshot.dispose();
    }
  });

  test("taken back by some tokens, twice, and also into a prompt", async () => {
    using sequence = model.sequence();
    await sequence.feed(tokens.slice(0, 20));
    for (const token of someTokens(4, 8)) await sequence.feed([token]);
    sequence.rollback(3);
    sequence.rollback(3);
    await expectGoesOn(sequence, 18);
  });

  test("saved, and brought back by another model", async () => {
    const path = join(folder.path, "saved.state");
    {
      using sequence = model.sequence();
      await sequence.feed(tokens.slice(0, 25), { snapshots: [9] });
      await sequence.save(path);
    }
    await using other = await loadModel(made.path, { ...options, streams: "separate" });
    using restored = await other.restore(path);
    const [snapshot] = restored.snapshots;
    using second = other.sequence();
    if (snapshot !== undefined) second.restore(snapshot);
    await expectGoesOn(restored, 25);
    await expectGoesOn(second, 9);
  });

  test("what is planned is what is allocated", async () => {
    const plan = await planMemory(made.path, options);
    expect(plan.layers.map(({ memories }) => memories.length)).toEqual(kinds.map((kind) => (kind === "none" ? 0 : 1)));
    expect(model.counters().memoryBytes).toBe(model.memory.bytes);
    expect(plan.memoryBytes).toBe(model.memory.bytes);
  });
});

describe("a record written by hand", () => {
  test("is what the library's own function would make, and one that promises too little is refused with what it lacks", async () => {
    using folder = new Folder();
    const { path } = await make(folder, quartet, valuesOf(["echo"]));
    await using model = await loadModel(path, { plugins: [quartet], context: 16 });
    const [placed] = model.memory.layers[0]?.memories ?? [];
    expect(placed?.record).toEqual(recurrent({ before: [40], average: [40] }, { inputs: 120 }));
    expect(placed?.description).toBe("recurrent states: before 40, average 40 (f32)");

    // The same architecture but for the count.
    const careless: typeof quartet = {
      ...quartet,
      read: (metadata) => {
        const read = quartet.read(metadata);
        const memory = read.memory.map((layer) =>
          Object.fromEntries(Object.entries(layer).map(([name, record]) => [name, { ...record, inputs: 10 }])),
        );
        return { ...read, memory: memory as typeof read.memory };
      },
    };
    const error = await refusal(loadModel(path, { plugins: [careless], context: 16, rollback: 4 }));
    expect(error.message).toContain("120");
  });

  test("kinds that no layer has are refused by the key's name", async () => {
    using folder = new Folder();
    const error = await refusal(make(folder, quartet, valuesOf(["full", "twice"])));
    expect(error.message).toContain("quartet.block_kinds");
  });
});

// As its author would.
testArchitecture(quartet);
