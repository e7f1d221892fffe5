import { resolve } from "node:path";
import { StrataError } from "ggstrata";
import { NativeEngine, type LoweredMemory } from "../../lib/native/engine.ts";
import { NativeFile } from "../../lib/native/file.ts";
import { NativeGraph, type TensorFacts } from "../../lib/native/graph.ts";
import { NativeModel } from "../../lib/native/model.ts";
import { randomNumbers } from "../text/lines.ts";

/**
 * Builds and runs graphs whose memory operations get nearly fitting operands: `SEED COUNT`. Prints each case's number
 * before it begins, and at the end how many were computed and refused of each operation.
 */
const [seed = 1, count = 100] = process.argv.slice(2).map(Number);

const f32 = 0;
function states(...elements: readonly number[]) {
  return elements.map((count) => ({ elements: count, type: f32 }));
}
const attention = { kind: "attention", layer: 0, extent: "all", window: 0, keyType: f32, valueType: f32 } as const;
const memories: readonly LoweredMemory[] = [
  { ...attention, heads: 2, keyDim: 8, valueDim: 8 },
  { ...attention, layer: 1, heads: 1, keyDim: 16, valueDim: 4, extent: "sliding", window: 3 },
  { ...attention, layer: 2, heads: 2, keyDim: 32, valueDim: 32, keyType: 8, valueType: 2 },
  { kind: "recurrent", layer: 3, states: states(16 * 3, 8 * 4 * 4), inputs: 0 },
  { kind: "shared", layer: 4, from: 0, of: "attention" },
  { kind: "recurrent", layer: 5, states: states(7), inputs: 0 },
  { ...attention, layer: 6, heads: 1, keyDim: 32, valueDim: 0, keyType: 8 },
  { kind: "recurrent", layer: 7, states: states(8 * 8 * 4, 8 * 16), inputs: 0 },
  { kind: "recurrent", layer: 8, states: states(12 * 12 * 2, 12 * 12 * 2), inputs: 0 },
  { kind: "recurrent", layer: 9, states: [...states(21, 24), { elements: 24, type: 1 }], inputs: 0 },
  { kind: "shared", layer: 10, from: 9, of: "recurrent" },
];

const operations = [
  "attend",
  "convolve",
  "scan",
  "scanMamba1",
  "deltaNet",
  "wkv6",
  "wkv7",
  "linearRecurrence",
  "previous",
] as const;
type Operation = (typeof operations)[number];

/** The operations that suit each memory. */
const suited: Readonly<Record<number, readonly Operation[]>> = {
  3: ["convolve", "scan"],
  7: ["deltaNet", "scanMamba1"],
  8: ["wkv6", "wkv7"],
  9: ["linearRecurrence", "previous"],
  10: ["linearRecurrence", "previous"],
};

const file = new NativeFile(resolve(import.meta.dir, "../fixtures/llama/model.gguf"));
const names = file.tensors().map((tensor) => tensor.name);
const model = new NativeModel(file, 2);
const embedding = model.weight(names.indexOf("token_embd.weight"), "elements");
const head = model.weight(names.indexOf("output.weight"), "product");
await model.load();
const vocabulary = 384;
const width = 64;
const sizes = { threads: 1, sequences: 2, context: 64, batch: 8, vocabulary, poll: 0 };
const config = { ...sizes, rollback: 0, cells: 0, snapshotBytes: 0, flags: 0 };
const engine = new NativeEngine(model, memories, config);

// The engine keeps its first graph; the cases take others.
const first = new NativeGraph(engine, 3, 1, 64);
const row = first.operation("get_rows", [embedding, first.input("tokens").number], [], []);
const view = first.operation("view", [row.number], [width, 1, 1, 1, 4 * width, 4 * width, 4 * width, 0], []);
first.finish(first.operation("mul_mat", [head, view.number], [], []).number);

const computed: Record<string, number> = {};
const refused: Record<string, number> = {};
for (let i = 0; i < count; i += 1) {
  process.stderr.write(`case ${i}\n`);
  await runCase(i);
}
console.log(JSON.stringify({ computed, refused }));
await engine.close();

async function runCase(i: number): Promise<void> {
  const random = randomNumbers(seed * 1_000_003 + i);
  const pick = <T>(list: readonly T[]): T => list[Math.floor(random() * list.length)] as T;
  const rows = pick([1, 2, 5, 8]);
  const graph = new NativeGraph(engine, rows, 1, 512);
  let isFinished = false;
  let operation: Operation = "attend";
  try {
    const x = graph.operation("get_rows", [embedding, graph.input("tokens").number], [], []);
    /** A tensor cut out of the rows, mostly of the wanted shape. */
    const tensor = (...shape: number[]): number => {
      const wanted = random() < 0.95 ? shape : shape.map((n) => pick([n, n, 1, n + 1, 2 * n]));
      const [n0 = 1, n1 = 1, n2 = 1] = wanted;
      const repeated = graph.operation("repeat_4d", [x.number], [width * 4, rows * 4, 4, 1], []);
      const nb = (n: number) => (random() < 0.7 ? n : n + 4 * pick([0, 1, 2]));
      const nb1 = nb(4 * n0);
      const nb2 = nb(nb1 * n1);
      const view = graph.operation(
        "view",
        [repeated.number],
        [n0, n1, n2, 1, nb1, nb2, nb2 * n2, 4 * pick([0, 0, 1, 3])],
        [],
      );
      const choice = random();
      if (choice < 0.02) return graph.operation("cast", [view.number], [1], []).number;
      if (choice < 0.5) return graph.operation("cont", [view.number], [], []).number;
      if (choice < 0.53)
        return graph.operation(
          "permute",
          [view.number],
          pick([
            [0, 2, 1, 3],
            [1, 0, 2, 3],
          ]),
          [],
        ).number;
      return view.number;
    };
    const memory = pick([-1, 0, 0, 0, 1, 1, 2, 3, 3, 3, 3, 4, 5, 6, 7, 7, 7, 7, 8, 8, 8, 8, 9, 9, 9, 9, 10]);
    operation = rarelyOf(pick, pick(suited[memory] ?? (["attend"] as const)), operations);
    applyOne(graph, operation, memory, rows, pick, tensor);
    const last = graph.operation("view", [x.number], [width, 1, 1, 1, 4 * width, 4 * width, 4 * width, 0], []);
    const logits = graph.operation("mul_mat", [head, last.number], [], []);
    graph.finish(logits.number);
    isFinished = true;
    await compute(rows, random);
    engine.dropGraph(rows, 1);
    computed[operation] = (computed[operation] ?? 0) + 1;
  } catch (error) {
    if (!(error instanceof StrataError) || error.message === "") throw error;
    if (isFinished) engine.dropGraph(rows, 1);
    else graph.abandon();
    refused[operation] = (refused[operation] ?? 0) + 1;
  }
}

/** Mostly the usual, now and then one of the others. */
function rarelyOf<T>(pick: <U>(list: readonly U[]) => U, usual: T, others: readonly T[]): T {
  return pick([...Array(24).keys()]) === 0 ? pick(others) : usual;
}

/** One operation on a memory that mostly suits it, with operands that mostly fit. */
function applyOne(
  graph: NativeGraph,
  operation: Operation,
  memory: number,
  rows: number,
  pick: <T>(list: readonly T[]) => T,
  tensor: (...shape: number[]) => number,
): TensorFacts {
  const rarely = <T>(usual: T, others: readonly T[]): T => rarelyOf(pick, usual, others);
  /** Rows of heads, flat or apart. */
  const heads = (size: number, count: number) =>
    pick([true, true, false]) ? tensor(size * count, rows) : tensor(size, count, rows);
  switch (operation) {
    case "attend": {
      const shapes = [
        [2, 8, 8],
        [1, 16, 4],
        [2, 32, 32],
        [2, 8, 8],
        [2, 8, 8],
        [1, 32, 0],
      ] as const;
      const [kvHeads, keyDim, valueDim] = rarely(shapes[memory] ?? shapes[0], shapes);
      const reads = pick([false, false, true]);
      const keys = reads ? -1 : tensor(keyDim, kvHeads, rows);
      const values = reads || valueDim === 0 ? rarely(-1, [0]) : tensor(valueDim, kvHeads, rows);
      const queries = tensor(keyDim, kvHeads * pick([1, 2, 3]), rows);
      const scale = rarely(0.3, [0, -1, Number.NaN, Infinity]);
      const valuesOfKeys = valueDim === 0 ? rarely(32, [0, 8, 64, -1]) : rarely(0, [8]);
      const parameters = { scale, softcap: rarely(0, [5, -2, Number.NaN]), valueDim: valuesOfKeys };
      return graph.attend(memory, { queries, keys, values }, parameters);
    }
    case "convolve": {
      const [taps, channels] = rarely(
        [4, 16],
        [
          [2, 7],
          [9, 16],
          [1, 7],
          [4, 17],
        ],
      );
      const bias = pick([true, false]) ? tensor(channels as number) : -1;
      const x = tensor(channels as number, rows);
      const weight = tensor(taps as number, channels as number);
      return graph.convolve(memory, rarely(0, [1, 2, -1]), x, weight, bias, pick([true, false]));
    }
    case "scanMamba1": {
      const [channels, size] = rarely([16, 8], [
        [16, 7],
        [8, 16],
        [1, 1],
        [2, 64],
      ] as const);
      return graph.scanMamba1({
        memory,
        state: rarely(1, [0, 5, -1]),
        x: tensor(channels, rows),
        dt: tensor(channels, rows),
        dtBias: rarely(tensor(channels), [-1]),
        a: tensor(size, channels),
        b: tensor(size, rows),
        c: tensor(size, rows),
        d: rarely(tensor(1, channels), [-1]),
      });
    }
    case "deltaNet": {
      const shape = { keyDim: 8, valueDim: 8, keyHeads: pick([1, 2, 4]), valueHeads: 4 };
      const odd = {
        ...shape,
        [pick(["keyDim", "valueDim", "keyHeads", "valueHeads"])]: pick([0, -1, 3, 1024, 2 ** 31 - 1]),
      };
      const used = rarely(shape, [odd]);
      const { keyDim, valueDim, keyHeads, valueHeads } = rarely(used, [shape]);
      return graph.deltaNet({
        memory,
        state: rarely(0, [1, 5, -1]),
        q: heads(keyDim, keyHeads),
        k: heads(keyDim, keyHeads),
        v: heads(valueDim, valueHeads),
        g: heads(pick([1, keyDim]), valueHeads),
        beta: heads(1, valueHeads),
        ...used,
        interleaved: pick([0, 1]),
        betaSigmoid: pick([0, 1]),
        scale: rarely(0.3, [0, -1, Number.NaN, Infinity]),
        normalize: pick([-1, 0, 1e-6, Number.NaN]),
      });
    }
    case "wkv6":
    case "wkv7": {
      const shape = { headSize: 12, heads: 2 };
      const odd = { ...shape, [pick(["headSize", "heads"])]: pick([0, -1, 3, 257, 2 ** 31 - 1]) };
      const used = rarely(shape, [odd]);
      const rowsOf = () => heads(rarely(used.headSize, [12]), rarely(used.heads, [2]));
      const operands = {
        memory,
        state: rarely(pick([0, 1]), [5, -1]),
        r: rowsOf(),
        w: rowsOf(),
        k: rowsOf(),
        v: rowsOf(),
      };
      if (operation === "wkv6") return graph.wkv6({ ...operands, ...used, u: tensor(used.headSize, used.heads) });
      return graph.wkv7({ ...operands, ...used, a: rowsOf(), b: rowsOf() });
    }
    case "linearRecurrence": {
      const channels = rarely(21, [24, 1, 7]);
      return graph.linearRecurrence(memory, rarely(0, [1, 2, -1]), tensor(channels, rows), tensor(channels, rows));
    }
    case "previous":
      return graph.previous(memory, rarely(1, [0, 2, -1]), tensor(rarely(24, [21, 1, 7]), rows));
    case "scan": {
      const shape = { headDim: 4, heads: 4, groups: pick([1, 2, 4]), stateSize: 8 };
      const odd = { ...shape, [pick(["headDim", "heads", "groups", "stateSize"])]: pick([0, -1, 3, 1024]) };
      const used = rarely(shape, [odd]);
      const operands = {
        memory,
        state: rarely(1, [0, 5, -1]),
        x: heads(used.headDim, used.heads),
        dt: tensor(used.heads, rows),
        dtBias: rarely(tensor(used.heads), [-1]),
        a: tensor(1, used.heads),
        b: heads(used.stateSize, used.groups),
        c: heads(used.stateSize, used.groups),
        d: rarely(tensor(1, used.heads), [-1]),
      };
      return graph.scan(operands, used);
    }
  }
}

async function compute(rows: number, random: () => number): Promise<void> {
  for (let step = 0; step < 3; step += 1) {
    const sequence = Math.floor(random() * 2);
    if (engine.bounds(sequence).end + rows > config.context) engine.clear(sequence);
    const tokens = Array.from({ length: rows }, () => Math.floor(random() * vocabulary));
    await engine.submit([{ sequence, tokens, logits: "last" }]).done;
  }
}
