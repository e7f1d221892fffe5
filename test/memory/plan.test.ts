/** What is planned from a header is what is allocated when the model is loaded and runs. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { freemem, totalmem } from "node:os";
import { join } from "node:path";
import {
  describeMemory,
  loadModel,
  openModelFile,
  planMemory,
  type MemoryPlan,
  type PlannedMemory,
  type PlanOptions,
} from "ggstrata";
import { declareWeights } from "../../lib/model/build.ts";
import { findArchitecture } from "../../lib/model/registry.ts";
import { Gguf } from "../model/gguf.ts";
import { allFixtureNames, fixturePath, Folder, refusal, tinyHybrid } from "../model/help.ts";
import type { Growth } from "./plan-growth.child.ts";
import { runSteps } from "./plan-steps.ts";

setDefaultTimeout(60_000);

const memoriesOf = (plan: MemoryPlan): PlannedMemory[] => plan.layers.flatMap(({ memories }) => [...memories]);
const sum = (numbers: readonly number[]): number => numbers.reduce((total, number) => total + number, 0);

/** Every byte is listed, and once. */
function expectComplete(plan: MemoryPlan): void {
  const memories = memoriesOf(plan);
  expect(sum(memories.map(({ bytes }) => bytes))).toBe(plan.memoryBytes);
  for (const { bytes, sequenceBytes, rollbackBytes, snapshotBytes, paddingBytes, sharedFrom } of memories) {
    expect(sequenceBytes + rollbackBytes + snapshotBytes + paddingBytes).toBe(bytes);
    expect(Math.min(rollbackBytes, snapshotBytes, paddingBytes)).toBeGreaterThanOrEqual(0);
    expect(sequenceBytes > 0).toBe(sharedFrom === null);
  }
  const { memoryBytes, computeBytes, workBytes, scratchBytes, weights } = plan;
  expect(plan.allocatedBytes).toBe(sum([memoryBytes, computeBytes, workBytes, scratchBytes, weights.repackedBytes]));
  expect(plan.totalBytes).toBe(plan.allocatedBytes + weights.mappedBytes);
}

/** Plans, loads, runs, and compares. */
async function expectPlanned(path: string, options: PlanOptions): Promise<MemoryPlan> {
  const plan = await planMemory(path, options);
  expectComplete(plan);
  await using model = await loadModel(path, options);
  expect(model.counters()).toMatchObject({
    memoryBytes: plan.memoryBytes,
    snapshotsMax: plan.snapshots.count,
    computeBytes: 0,
  });
  expect(plan.layers).toMatchObject(
    model.memory.layers.map(({ index, memories }) => ({
      index,
      memories: memories.map(({ name, bytes, rollback }) => ({ name, bytes, rollback })),
    })),
  );
  await runSteps(model, options);
  const { computeBytes, workBytes, scratchBytes } = plan;
  expect(model.counters()).toMatchObject({ memoryBytes: plan.memoryBytes, computeBytes, workBytes, scratchBytes });
  return plan;
}

const optionSets: Readonly<Record<string, PlanOptions>> = {
  "one sequence": { context: 128, batch: 32 },
  "rollback and snapshots": { context: 200, sequences: 3, batch: 48, kv: "f32", rollback: 5, snapshotBytes: 400_000 },
  "streams of their own, whole windows, no flash attention": {
    ...{ context: 256, sequences: 4, batch: 16, kv: "bf16", rollback: 16, snapshotBytes: 900_000 },
    ...{ streams: "separate", wholeWindows: true, flashAttention: false },
  },
  "states of snapshots in f16": {
    ...{ context: 128, sequences: 2, batch: 32, rollback: 8 },
    ...{ snapshotBytes: 700_000, snapshotType: "f16" },
  },
  "few cells, more threads": { context: 300, sequences: 5, batch: 64, cells: 700, rollback: 40, threads: 3 },
  "more sequences than a batch holds": { context: 64, sequences: 70, batch: 24 },
};

describe.each(allFixtureNames)("the plan of %s is what is allocated", (name) => {
  test.each(Object.entries(optionSets))("%s", async (_, options) => {
    const plan = await expectPlanned(fixturePath(name), options);
    expect(plan.steps).toContainEqual(expect.objectContaining({ rows: 1, outputs: 1 }));
    expect(plan.steps).toContainEqual(expect.objectContaining({ rows: options.batch, outputs: 1 }));
  });
});

test.each(["q8_0", "q4_0"] as const)("keys and values of %s are planned", async (kv) => {
  const options = { context: 128, batch: 32, sequences: 2, snapshotBytes: 8_000_000, rollback: 4 };
  const plan = await expectPlanned(tinyHybrid, { ...options, kv });
  const { memoryBytes } = await planMemory(tinyHybrid, { ...options, kv: "f16" });
  expect(plan.memoryBytes).toBeLessThan(memoryBytes);
});

test("what repacked weights take is known before they are loaded", async () => {
  using folder = new Folder();
  const gguf = Gguf.read(tinyHybrid);
  // Zeros in blocks of 18 bytes, a type that ggml puts in another order on most CPUs.
  for (const tensor of gguf.tensors) {
    if (tensor.type !== 8) continue;
    const elements = tensor.shape.reduce((product, n) => product * n, 1);
    Object.assign(tensor, { type: 2, data: new Uint8Array((elements / 32) * 18) });
  }
  const path = folder.write("q4_0.gguf", gguf.write());
  const { weights } = await planMemory(path, { context: 64 });
  using file = openModelFile(path);
  const { native } = declareWeights(file, (await findArchitecture(file.metadata, [])).read(file.metadata));
  try {
    await native.load();
    expect(native.measure()).toEqual({ mappedBytes: weights.mappedBytes, repackedBytes: weights.repackedBytes });
  } finally {
    native.free();
  }
  expect(weights.fileBytes).toBe(Bun.file(path).size);
  if (process.arch === "x64") expect(weights.repackedBytes).toBeGreaterThan(0);
});

test("a state has the cell that a step reads and the one it writes", async () => {
  const options = { context: 64, sequences: 3, rollback: 16, snapshotBytes: 500_000 };
  for (const memory of memoriesOf(await planMemory(fixturePath("mamba2"), options))) {
    expect(memory.sequenceBytes).toBe(3 * 2 * memory.bytesPerCell);
    expect(memory.rollback).toBe("replay");
    expect(memory.rollbackBytes).toBeGreaterThan(3 * memory.bytesPerCell);
  }
});

test("more snapshots fit where they hold states in f16", async () => {
  const count = async (snapshotType: "f32" | "f16") => {
    const options = { context: 64, snapshotBytes: 500_000, snapshotType };
    return (await planMemory(fixturePath("mamba2"), options)).snapshots.count;
  };
  expect(await count("f16")).toBeGreaterThanOrEqual(2 * (await count("f32")));
});

describe("the smallest prefix that can be reused", () => {
  const prefix = async (path: string, options: PlanOptions) => (await planMemory(path, options)).smallestReusablePrefix;

  test("is one token where every memory can be resumed anywhere", async () => {
    expect(await prefix(fixturePath("llama"), { context: 128 })).toBe(1);
    expect(await prefix(fixturePath("gemma3"), { context: 128, wholeWindows: true })).toBe(1);
    // Its windows of 16 never let a position go.
    expect(await prefix(fixturePath("gemma3"), { context: 16 })).toBe(1);
  });

  test("is none without room for a snapshot", async () => {
    for (const name of ["gemma3", "mamba2", "granitehybrid"] as const) {
      expect(await prefix(fixturePath(name), { context: 128 })).toBe(null);
    }
  });

  test("is the distance between those that fit", async () => {
    const path = fixturePath("granitehybrid");
    const { snapshots } = await planMemory(path, { context: 100 });
    const options = { context: 100, snapshotBytes: 3 * snapshots.bytesEach };
    expect(await planMemory(path, options)).toMatchObject({ snapshots: { count: 3 }, smallestReusablePrefix: 34 });
    expect(await prefix(path, { ...options, snapshotBytes: options.snapshotBytes - 1 })).toBe(50);
  });
});

describe("what cannot be is refused with the reason", () => {
  test.each<[string, PlanOptions, string, string]>([
    ["gemma3", { kv: "q8_0" }, "unsupported", "layer 0: keys of 24 elements a head cannot be q8_0"],
    ["llama", { rollback: 1025 }, "invalid_argument", "rollback is 1025; give a number from 0 to 1024"],
    ["llama", { context: 2 ** 26, sequences: 64 }, "invalid_argument", "64 sequences of 67108864 positions are more"],
    ["llama", { sequences: 0 }, "invalid_argument", "sequences is 0; give a whole number"],
    ["llama", { snapshotBytes: -1 }, "invalid_argument", "snapshotBytes is -1"],
  ])("%s with %p", async (name, options, code, sentence) => {
    const path = fixturePath(name as "llama");
    const [planned, loaded] = [await refusal(planMemory(path, options)), await refusal(loadModel(path, options))];
    expect(planned.message).toContain(`${path}: ${sentence}`);
    expect(planned.code).toBe(code as typeof planned.code);
    expect(loaded).toMatchObject({ code: planned.code, message: planned.message });
  });

  test("quantised keys without flash attention", async () => {
    const error = await refusal(planMemory(tinyHybrid, { kv: "q4_0", flashAttention: false }));
    expect(error.message).toContain("layer 3: quantised keys and values need flash attention");
  });

  test("a file that is none, and one without a tensor", async () => {
    using folder = new Folder();
    expect((await refusal(planMemory(folder.write("text.gguf", "a text")))).code).toBe("bad_format");
    const gguf = Gguf.read(fixturePath("llama"));
    gguf.tensors.splice(
      gguf.tensors.findIndex(({ name }) => name === "blk.1.attn_q.weight"),
      1,
    );
    const error = await refusal(planMemory(folder.write("less.gguf", gguf.write())));
    expect(error.message).toContain('the tensor "blk.1.attn_q.weight" is missing');
  });
});

describe("what is possible and hardly wanted is warned of", () => {
  test("more memory than the machine has", async () => {
    const path = fixturePath("llama");
    const options = { context: 2 ** 18, kv: "f32" } as const;
    const free = freemem();
    const one = await planMemory(path, options);
    expect(one.warnings).not.toContainEqual(expect.stringContaining("this machine has"));
    const sequences = Math.ceil(totalmem() / one.memoryBytes) + 1;
    const many = await planMemory(path, { ...options, sequences });
    expect(many.totalBytes).toBeGreaterThan(totalmem());
    expect(many.warnings).toContainEqual(expect.stringMatching(/^it takes .* GB, and this machine has .* GB$/));
    // Planned, and not taken.
    expect(free - freemem()).toBeLessThan(many.totalBytes / 10);
  });

  test("a longer context than the model knows, and room for no snapshot", async () => {
    const path = fixturePath("mamba2");
    using file = openModelFile(path);
    const trained = (await findArchitecture(file.metadata, [])).read(file.metadata).config.contextLength;
    expect((await planMemory(path, { context: trained })).warnings).toEqual([]);
    const { warnings } = await planMemory(path, { context: trained + 1, snapshotBytes: 10 });
    expect(warnings).toEqual([
      `the context is ${trained + 1}, and the model was trained for ${trained} positions`,
      expect.stringMatching(/^a snapshot is counted as .* and none fits in 10 bytes$/),
    ]);
  });
});

test.skipIf(process.platform !== "linux")("the process grows by what was planned, within 1 %", async () => {
  const options: PlanOptions = {
    ...{ context: 4096, sequences: 64, batch: 512, kv: "f32", threads: 1 },
    ...{ rollback: 16, snapshotBytes: 20_000_000 },
  };
  const script = join(import.meta.dir, "plan-growth.child.ts");
  const child = Bun.spawn([process.execPath, script, tinyHybrid, JSON.stringify(options)], {
    // One arena for all threads: each of its own would reserve 64 MiB.
    env: { ...process.env, MALLOC_ARENA_MAX: "1" },
    stdout: "pipe",
    stderr: "inherit",
  });
  const [text, code] = await Promise.all([child.stdout.text(), child.exited]);
  expect(code).toBe(0);
  const { mappedBytes, ownBytes, allocatedBytes, fileBytes } = JSON.parse(text) as Growth;
  expect(allocatedBytes).toBeGreaterThan(500 << 20);
  expect(Math.abs(ownBytes - allocatedBytes) / allocatedBytes).toBeLessThan(0.01);
  const expected = allocatedBytes + fileBytes;
  expect(Math.abs(mappedBytes - expected) / expected).toBeLessThan(0.01);
});

describe("a model's memory", () => {
  test("prints as a table", async () => {
    using file = openModelFile(fixturePath("granitehybrid"));
    const memory = await describeMemory(file, { context: 128 });
    const shown = Bun.inspect(memory).split("\n");
    expect(shown[0]).toMatch(/^hybrid memory, [\d.]+ kB in 4 layers$/);
    expect(shown.slice(1).map((line) => line.trimEnd().replaceAll(/ {2,}/g, " | "))).toEqual([
      "layers | memory | remembers | rollback | bytes",
      expect.stringMatching(
        /^0-1, 3 \| ssm \| recurrent states: conv 128 x 3, ssm 16 x 16 x 6 \(f32\) \| none \| .* kB$/,
      ),
      expect.stringMatching(
        /^2 \| attn \| keys and values of every token: 2 heads of 12 \(f16\) \| truncate \| .* kB$/,
      ),
      expect.stringMatching(/^snapshots of [\d.]+ kB, room for 0$/),
    ]);
  });

  test("stays plain data", async () => {
    using file = openModelFile(fixturePath("granitehybrid"));
    const memory = await describeMemory(file, { context: 128 });
    expect(Object.keys(memory)).toContain("layers");
    expect(Reflect.ownKeys({ ...memory })).toEqual(Object.keys(memory));
    expect(JSON.parse(JSON.stringify(memory))).toMatchObject({ kind: "hybrid", layers: { length: 4 } });
  });
});
