/** Ways to write a plugin wrongly. Each gives parts of a definition, or a damaged file, drawn at random. */
import { totalmem } from "node:os";
import { attention, matrix, recurrent, shared, table, vector, type Graph, type Operand, type Tensor } from "ggstrata";
import {
  good,
  hooked,
  oddGraph,
  oddMemory,
  oddWeights,
  own,
  places,
  type Hook,
  type Memories,
  type Parts,
  type Place,
  type Weights,
} from "./odd-architecture.ts";

export type Random = <T>(choices: readonly T[]) => T;

export interface Malformed {
  readonly what: string;
  readonly parts: Parts;
  /** Damages the weights that the file has. */
  readonly damage?: (name: string, values: Float32Array) => void;
  /** It loads, and fails when it is to generate. */
  readonly fails?: "load" | "generate";
}

const counts: readonly unknown[] = [NaN, -1, 0, 1.5, Infinity, 2 ** 40, "24", null, undefined, 24n, {}, [], true];
const notObjects: readonly unknown[] = [null, undefined, 5, "text", true, () => 1, Symbol.iterator, 7n];
const thrown: readonly unknown[] = [
  new Error("no"),
  new TypeError("x is not y"),
  "text",
  5,
  null,
  undefined,
  { message: 1 },
];
const shapes: readonly unknown[] = [
  [],
  [16, NaN],
  [0, 16],
  [16, -1],
  [1.5],
  [1, 2, 3, 4, 5],
  [2 ** 30, 2 ** 30],
  "16",
  null,
  16,
];

type Way = (pick: Random) => Malformed;

function thrower(value: unknown) {
  return () => {
    throw value;
  };
}

function show(value: unknown): string {
  return typeof value === "symbol" || typeof value === "function" ? typeof value : Bun.inspect(value).slice(0, 60);
}

const part = (pick: Random) => pick(["config", "memory", "weights", "graph"] as const);

/** A list with one of its items changed. */
function changed<T>(list: readonly T[], index: number, item: unknown): unknown[] {
  return list.map((old, i) => (i === index ? item : old));
}

const definitions: readonly Way[] = [
  (pick) => {
    const apiVersion = pick([undefined, 0, 2, "1", 1.5, null, NaN]);
    return { what: `apiVersion ${show(apiVersion)}`, parts: { ...good, apiVersion } };
  },
  (pick) => {
    const names = pick([undefined, [], [5], "oddarch", [""], null]);
    return { what: `names ${show(names)}`, parts: { ...good, names } };
  },
  (pick) => {
    const [key, value] = [part(pick), pick([undefined, null, 5, {}, "f"])];
    return { what: `${key} is ${show(value)}`, parts: { ...good, [key]: value } };
  },
  (pick) => {
    const replaces = pick([false, "yes", 1, null]);
    return { what: `replaces ${show(replaces)}`, parts: { ...good, replaces } };
  },
  (pick) => {
    const [key, value] = [part(pick), pick(thrown)];
    return { what: `${key} throws ${show(value)}`, parts: { ...good, [key]: thrower(value) } };
  },
  (pick) => {
    const key = part(pick);
    const run = good[key] as (...args: unknown[]) => unknown;
    return { what: `${key} is async`, parts: { ...good, [key]: async (...args: unknown[]) => run(...args) } };
  },
  (pick) => {
    const key = part(pick);
    return {
      what: `${key} is async and fails`,
      parts: { ...good, [key]: async () => Promise.reject(new Error("late")) },
    };
  },
  (pick) => {
    const key = pick(["config", "memory"] as const);
    const value = pick(notObjects);
    return { what: `${key} gives ${show(value)}`, parts: { ...good, [key]: () => value } };
  },
  (pick) => {
    const [key, value] = [pick(["vocabulary", "contextLength"]), pick(counts)];
    const config = () => ({ vocabulary: 24, contextLength: 64, [key]: value });
    return { what: `${key} ${show(value)}`, parts: { ...good, config } };
  },
  (pick) => {
    const ignores = pick([5, "x", [1], null, {}]);
    return { what: `ignores ${show(ignores)}`, parts: { ...good, ignores: () => ignores } };
  },
];

const memories: readonly Way[] = [
  (pick) => {
    const layers = pick([[], oddMemory().slice(0, 2), [...oddMemory(), {}], new Array(3), Array(5000).fill({})]);
    return { what: `${layers.length} layers`, parts: { ...good, memory: () => layers } };
  },
  (pick) => {
    const [index, value] = [
      pick([0, 1, 2]),
      pick([...notObjects, attention({ heads: 2, keyDim: 8 }), shared(0, "attn")]),
    ];
    return {
      what: `layer ${index} is ${show(value)}`,
      parts: { ...good, memory: () => changed(oddMemory(), index, value) },
    };
  },
  (pick) => {
    const [index, name] = [pick([0, 1, 2]), pick(["", "a b", "0", "__proto__", "ä", "a.b", "x".repeat(99)])];
    const layer = Object.fromEntries(Object.values(oddMemory()[index] ?? {}).map((memory) => [name, memory]));
    return {
      what: `a memory called ${show(name)}`,
      parts: { ...good, memory: () => changed(oddMemory(), index, layer) },
    };
  },
  (pick) => {
    const field = pick(["kind", "heads", "keyDim", "valueDim", "extent", "reuse", "rollback", "tensors", "extra"]);
    const value = pick([...counts, "attentive", { kind: "window" }, { kind: "window", size: -1 }, { kind: "state" }]);
    const own = oddMemory()[0]?.["attn"];
    const parts = { ...good, memory: () => changed(oddMemory(), 0, { attn: { ...own, [field]: value } }) };
    return { what: `attention's ${field} is ${show(value)}`, parts };
  },
  (pick) => {
    const field = pick(["kind", "extent", "reuse", "rollback", "tensors", "extra", "heads"]);
    const value = pick([...counts, { conv: 5 }, { conv: { shape: [4], dtype: "f64" } }, { kind: "all" }, "prefix"]);
    const own = oddMemory()[1]?.["ssm"];
    const parts = { ...good, memory: () => changed(oddMemory(), 1, { ssm: { ...own, [field]: value } }) };
    return { what: `the states' ${field} is ${show(value)}`, parts };
  },
  (pick) => {
    const inputs = pick([NaN, -1, 0.5, 2 ** 40, 7, 19, "18", null]);
    const memory = () => changed(oddMemory(), 1, { ssm: { ...oddMemory()[1]?.["ssm"], inputs } });
    return { what: `inputs ${show(inputs)}`, parts: { ...good, memory } };
  },
  (pick) => {
    const [state, shape] = [pick(["conv", "ssm"]), pick([...shapes, [7], [16, 3]])];
    const states = { conv: [16, 2], ssm: [4, 4, 2], [state]: shape } as Record<string, number[]>;
    const memory = () => {
      const own = oddMemory()[1]?.["ssm"];
      const tensors = Object.fromEntries(Object.entries(states).map(([key, of]) => [key, { shape: of, dtype: "f32" }]));
      return changed(oddMemory(), 1, { ssm: { ...own, tensors } });
    };
    return { what: `state ${state} of shape ${show(shape)}`, parts: { ...good, memory } };
  },
  (pick) => {
    const missing = pick(["conv", "ssm"]);
    const states = missing === "conv" ? { ssm: [4, 4, 2] } : { conv: [16, 2] };
    return {
      what: `no state ${missing}`,
      parts: { ...good, memory: () => changed(oddMemory(), 1, { ssm: recurrent(states) }) },
    };
  },
  (pick) => {
    const [layer, name] = pick([
      [1, "ssm"],
      [2, "attn"],
      [5, "attn"],
      [-1, "attn"],
      [0, "ssm"],
      [NaN, "attn"],
      [0.5, "attn"],
    ]);
    const memory = () => changed(oddMemory(), 2, { attn: shared(layer as number, name as string) });
    return { what: `shares ${name} of ${layer}`, parts: { ...good, memory } };
  },
  (pick) => {
    const extra = pick([attention({ heads: 1, keyDim: 4, valueDim: 4 }), recurrent({ s: [4] }), shared(0, "attn")]);
    const index = pick([1, 2]);
    const memory = () => changed(oddMemory(), index, { ...oddMemory()[index], extra });
    return { what: `a ${extra.kind} memory that nobody uses`, parts: { ...good, memory } };
  },
  (pick) => {
    const options = pick([
      { heads: 2, keyDim: 16, valueDim: 8 },
      { heads: 3, keyDim: 8, valueDim: 8 },
      { heads: 2, keyDim: 8 },
      { heads: 2, keyDim: 8, valueDim: 8, window: 4, chunk: 4 },
      { heads: 2, keyDim: 8, valueDim: 8, window: 0 },
      { heads: 4096, keyDim: 4096, valueDim: 4096 },
    ]);
    return {
      what: `attention of ${show(options)}`,
      parts: { ...good, memory: () => changed(oddMemory(), 0, { attn: attention(options) }) },
    };
  },
  () => {
    const layer: Record<string, unknown> = {};
    layer["attn"] = layer;
    return { what: "a layer that holds itself", parts: { ...good, memory: () => changed(oddMemory(), 0, layer) } };
  },
];

const trees: readonly Way[] = [
  (pick) => {
    const leaf = pick([...notObjects.slice(2), null, new Map(), Promise.resolve(), new Date()]);
    return { what: `a weight is ${show(leaf)}`, parts: { ...good, weights: () => ({ ...oddWeights(), q: leaf }) } };
  },
  (pick) => {
    const shape = pick([...shapes, [16, 17], [8, 32], [16]]);
    const weights = () => ({ ...oddWeights(), q: { ...matrix("q", [1, 1]), shape } });
    return { what: `q of shape ${show(shape)}`, parts: { ...good, weights } };
  },
  (pick) => {
    const [field, value] = pick<readonly [string, unknown]>([
      ["name", ""],
      ["name", 5],
      ["name", "nowhere"],
      ["use", "any"],
      ["use", undefined],
      ["tied", 5],
      ["tied", "q"],
      ["isOptional", 1],
    ]);
    const weights = () => ({ ...oddWeights(), q: { ...matrix("q", [16, 16]), [field]: value } });
    return { what: `q with ${field} ${show(value)}`, parts: { ...good, weights } };
  },
  (pick) => {
    const missing = pick(["q", "norm", "a", "output"]);
    const weights = () => Object.fromEntries(Object.entries(oddWeights()).filter(([key]) => key !== missing));
    return { what: `${missing} is not declared`, parts: { ...good, weights } };
  },
  (pick) => {
    const twice = pick(["q", "norm"]);
    const again = twice === "q" ? matrix("q", [16, 16]) : vector("norm", [16]);
    return { what: `${twice} twice`, parts: { ...good, weights: () => ({ ...oddWeights(), again: [again] }) } };
  },
  (pick) => {
    const depth = pick([1, 2, 5]);
    const weights = () => {
      const tree: Record<string, unknown> = { ...oddWeights() };
      let at = tree;
      for (let i = 1; i < depth; i += 1) at = at["deeper"] = {};
      at["back"] = pick([0, 1]) === 0 ? tree : [tree];
      return tree;
    };
    return { what: `a cycle of ${depth}`, parts: { ...good, weights } };
  },
  () => {
    let tree: unknown = table("embedding", [16, 24]);
    for (let i = 0; i < 100_000; i += 1) tree = [tree];
    return { what: "a tree of 100,000 levels", parts: { ...good, weights: () => ({ ...oddWeights(), tree }) } };
  },
  () => {
    let tree: unknown = vector("lacking", [16]);
    for (let i = 0; i < 40; i += 1) tree = [tree, tree];
    return { what: "a tree that doubles 40 times", parts: { ...good, weights: () => ({ ...oddWeights(), tree }) } };
  },
];

/** Other tensors than what they are given, which nothing can be computed with in its place. */
const replacements: Readonly<Record<string, (t: Tensor, g: Graph) => unknown>> = {
  undefined: () => undefined,
  null: () => null,
  "a number": () => 5,
  "its number": (t) => t.number,
  "an array": (t) => [t],
  "an object like it": (t) => ({ number: t.number, shape: t.shape, type: t.type }),
  "tokens of it": (_, g) => g.tokens(),
  "a row more": (t, g) => g.pad(t, 0, 1, 1),
  "a column less": (t, g) => g.slice(t, 0, t.shape[0] - 1),
  "another dimension": (t, g) => g.repeat(t, t.shape[0], t.shape[1], t.shape[2], 2),
  "integers of it": (t, g) => g.cast(g.cont(t), "i32"),
  "a sort of it": (t, g) => g.argsort(g.cont(t), "asc"),
  "a sum of it": (t, g) => g.sumRows(g.cont(g.transpose(t))),
  "a product with itself": (t, g) => g.mulMat(g.transpose(t), t),
  "a view beyond it": (t, g) => g.view(t, [4096, 4096], 64),
  "a view before it": (t, g) => g.view(t, [4], -64),
  "a view of nothing": (t, g) => g.view(t, [0]),
  "a view of NaN": (t, g) => g.view(t, [4], NaN),
  "strides beyond": (t, g) => g.view(t, [2, 2, 2], 0, [2 ** 33, 4]),
  "a slice beyond": (t, g) => g.slice(t, t.shape[0], 8),
  "a reshape to more": (t, g) => g.reshape(t, ...t.shape, 2),
  "a reshape to NaN": (t, g) => g.reshape(t, NaN, 8),
  "a reshape to half an element": (t, g) => g.reshape(t, 0.5, 32),
  "a reshape of text": (t, g) => g.reshape(t, "16" as unknown as number),
  "a huge repeat": (t, g) => g.repeat(t, 2 ** 31, 2 ** 31, 2 ** 31, 2 ** 31),
  "a repeat below itself": (t, g) => g.repeat(t, 1),
  "a sum with another shape": (t, g) => g.add(t, g.pad(t, 3)),
  "a wrong axis": (t, g) => g.permute(t, 0, 0, 1, 7),
  "an unknown function": (t, g) => g.unary(t, "softsign" as "silu"),
  "an unknown type": (t, g) => g.cast(t, "f12" as "f16"),
  "a clamp by NaN": (t, g) => g.clamp(t, NaN, 1),
  "a scale by text": (t, g) => g.scale(t, "2" as unknown as number),
  "an epsilon below zero": (t, g) => g.rmsNorm(t, -1),
  "a top of too many": (t, g) => g.argsortTopK(g.cont(t), 4096),
  "rows by what is computed": (t, g) => g.getRows(t, g.cast(t, "i32")),
  "a concatenation along no axis": (t, g) => g.concat(t, t, 9),
  "a rope of odd dims": (t, g) => g.rope(t, { mode: "neox", base: 1e4, dims: 3 }),
  "a rope of no mode": (t, g) => g.rope(t, { mode: "up" as "neox", base: 1e4 }),
  "an error": () => thrower(new RangeError("out of it"))(),
};

let kept: Tensor | undefined;

const graphs: readonly Way[] = [
  ...Object.entries(replacements).map(([what, replace]): Way => (pick) => {
    const place = pick(places);
    const hook: Hook = (at, tensor, g) => (at === place ? (replace(tensor, g) as Operand) : tensor);
    return { what: `${place} is ${what}`, parts: hooked(hook) };
  }),
  (pick) => {
    const place: Place = pick(places);
    const hook: Hook = (at, tensor) => {
      if (at !== place) return tensor;
      kept ??= tensor;
      return kept;
    };
    kept = undefined;
    return { what: `${place} is that of the graph before`, parts: hooked(hook) };
  },
  (pick) => {
    const result = pick<unknown>([undefined, null, 5, {}, [], "logits"]);
    const graph = (g: Graph, _: unknown, w: Weights, memory: Memories) => {
      oddGraph(g, w, memory);
      return result;
    };
    return { what: `the graph gives ${show(result)}`, parts: { ...good, graph } };
  },
  (pick) => {
    const weight = pick(["embedding", "head", "norm"]);
    return {
      what: `the graph gives the weight ${weight}`,
      parts: { ...good, graph: (_: Graph, __: unknown, w: Weights) => w[weight] },
    };
  },
  () => {
    const hook: Hook = (at, tensor, g) => {
      let x = tensor;
      if (at === "x") for (;;) x = g.sqr(x);
      return x;
    };
    return { what: "more nodes than there is room for", parts: hooked(hook) };
  },
  (pick) => {
    const layers = pick<unknown>([undefined, [], [{}], 5, "abc", {}]);
    const graph = (g: Graph, _: unknown, w: Weights, memory: Memories) => {
      for (const _ of g.layers(layers as [], memory)) break;
      return oddGraph(g, w, memory);
    };
    return { what: `layers of ${show(layers)}`, parts: { ...good, graph } };
  },
  (pick) => {
    const missing = pick(["attend", "convolve", "scan"] as const);
    const graph = (g: Graph, _: unknown, w: Weights, memory: Memories) => {
      const instead = (...args: unknown[]): unknown => {
        const [, x] = args;
        const { queries, x: rows } = (missing === "convolve" ? { x } : x) as { queries?: Operand; x?: Operand };
        return (queries ?? rows) as Operand;
      };
      const proxy = new Proxy(g, {
        get: (target, key) => {
          const value: unknown = Reflect.get(target, key);
          if (key === missing) return instead;
          return typeof value === "function" ? value.bind(target) : value;
        },
      });
      return oddGraph(proxy, w, memory);
    };
    return { what: `${missing} is left out`, parts: { ...good, graph } };
  },
  (pick) => {
    const twice = pick(["attended", "convolved", "scanned"] as const);
    const graph = (g: Graph, _: unknown, w: Weights, memory: Memories) => {
      const result = oddGraph(g, w, memory);
      if (twice !== "attended")
        g.previous(own(memory, 1, "ssm"), result, { state: twice === "convolved" ? "conv" : "ssm" });
      else g.attend(own(memory, 0, "attn"), { queries: result, keys: result, values: result });
      return result;
    };
    return { what: `${twice} twice`, parts: { ...good, graph } };
  },
  (pick) => {
    const state = pick(["convolution", "", "toString", undefined as unknown as string, "keys"]);
    const graph = (g: Graph, _: unknown, w: Weights, memory: Memories) => {
      g.previous(own(memory, 1, "ssm"), w["norm"] as Operand, { state });
      return oddGraph(g, w, memory);
    };
    return { what: `the state ${show(state)}`, parts: { ...good, graph } };
  },
  (pick) => {
    const memory = pick<unknown>([
      undefined,
      null,
      0,
      {},
      { number: 0, isShared: false, record: { kind: "attention" } },
    ]);
    const graph = (g: Graph, _: unknown, w: Weights, handles: Memories) => {
      g.previous(memory as never, w["norm"] as Operand, { state: "ssm" });
      return oddGraph(g, w, handles);
    };
    return { what: `a memory that is ${show(memory)}`, parts: { ...good, graph } };
  },
  () => {
    // As much as the machine has, all needed at once.
    const count = Math.ceil(totalmem() / 2 ** 32) + 2;
    const hook: Hook = (at, tensor, g) => {
      if (at !== "x") return tensor;
      const huge = [g.repeat(g.sumRows(tensor), 2 ** 20, 2 ** 10)];
      for (let i = 1; i < count; i += 1) huge.push(g.sqr(huge[i - 1] as Tensor));
      const sum = huge.reduce((total, one) => g.add(one, total));
      return g.add(tensor, g.view(g.sumRows(sum), [1, 1]));
    };
    return { what: "more than the machine's memory", parts: hooked(hook) };
  },
  () => {
    let factor = 1;
    const hook: Hook = (at, tensor, g) => (at === "x" ? g.scale(tensor, (factor += 1)) : tensor);
    return { what: "another graph each time", parts: hooked(hook) };
  },
  () => {
    const hook: Hook = (at, tensor, g) => (at === "x" && Math.random() < 2 ? g.scale(tensor, Math.random()) : tensor);
    return { what: "a graph of random numbers", parts: hooked(hook) };
  },
  (pick) => {
    const scale = pick([NaN, "1", null, {}] as unknown as number[]);
    const graph = (g: Graph, _: unknown, w: Weights, memory: Memories) => {
      const queries = g.reshape(w["q"] as Operand, 8, 2, 16);
      g.attend(own(memory, 0, "attn"), { queries, scale });
      return oddGraph(g, w, memory);
    };
    return { what: `attention with the scale ${show(scale)}`, parts: { ...good, graph } };
  },
];

const generating: readonly Way[] = [
  (pick) => {
    const tensor = pick(["embedding", "norm", "head", "q", "k", "v", "input", "convolution", "a", "output", "q2"]);
    // A decay of nothing at all is one too.
    const value = pick(tensor === "a" ? [NaN, Infinity] : [NaN, Infinity, -Infinity]);
    const damage = (name: string, values: Float32Array) => {
      if (name === tensor) values.fill(value);
    };
    return { what: `${tensor} is all ${value}`, parts: good, damage, fails: "generate" };
  },
  (pick) => {
    const place = pick(["x", "attended", "scanned", "logits"] as const);
    const hook: Hook = (at, tensor, g) => (at === place ? g.log(g.scale(g.sqr(tensor), -1, -1)) : tensor);
    return { what: `${place} is the logarithm of what is below zero`, parts: hooked(hook), fails: "generate" };
  },
  (pick) => {
    const place = pick(["x", "projected"] as const);
    const hook: Hook = (at, tensor, g) => (at === place ? g.reshape(tensor, tensor.shape[0], 1) : tensor);
    return { what: `${place} is of one row`, parts: hooked(hook), fails: "generate" };
  },
  (pick) => {
    const error = pick(thrown);
    const hook: Hook = (_, tensor, g) => (g.rows > 1 ? thrower(error)() : tensor);
    return { what: `a graph of several rows throws ${show(error)}`, parts: hooked(hook), fails: "generate" };
  },
  (pick) => {
    const place = pick(places.filter((one) => one !== "logits"));
    const hook: Hook = (at, tensor, g) =>
      at === place && g.rows > 1 ? g.slice(tensor, 0, tensor.shape[0] - 1) : tensor;
    return { what: `${place} has a column less where there are several rows`, parts: hooked(hook), fails: "generate" };
  },
  (pick) => {
    const result = pick([undefined, null, 5]);
    const hook: Hook = (at, tensor, g) => (at === "logits" && g.rows > 1 ? (result as unknown as Operand) : tensor);
    return {
      what: `${show(result)} instead of logits where there are several rows`,
      parts: hooked(hook),
      fails: "generate",
    };
  },
];

/** A malformed plugin: `index` goes through all ways, and chance through what each can be. */
export function malformed(index: number, pick: Random): Malformed {
  const all = [...definitions, ...memories, ...trees, ...graphs, ...generating];
  return (all[index % all.length] as Way)(pick);
}

export const ways = definitions.length + memories.length + trees.length + graphs.length + generating.length;
