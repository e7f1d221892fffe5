/**
 * A small architecture of every part that a plugin can get wrong: attention, a convolution and a scan, a layer that
 * reads another's memory. Its parts can be replaced one by one, and the tensors of its graph under way.
 */
import {
  attention,
  matrix,
  optional,
  recurrent,
  shared,
  table,
  vector,
  type Graph,
  type LayerMemory,
  type MemoryHandle,
  type Operand,
  type Tensor,
  type WeightTree,
} from "ggstrata";
import { Gguf } from "./gguf.ts";
import { randomOf } from "./help.ts";

export const name = "oddarch";
export const vocabulary = 24;
const width = 16;
const [heads, keyDim] = [2, 8];
const [scanHeads, headDim, stateSize] = [2, 4, 4];
const channels = scanHeads * headDim + 2 * stateSize;
const taps = 3;
export const contextLength = 64;

/** The parts of a definition, any of which may be anything. */
export interface Parts {
  readonly apiVersion: unknown;
  readonly names: unknown;
  readonly config: unknown;
  readonly memory: unknown;
  readonly weights: unknown;
  readonly graph: unknown;
  readonly [other: string]: unknown;
}

/** Where a graph's tensors can be replaced. */
export const places = [
  "x",
  "q",
  "k",
  "v",
  "attended",
  "projected",
  "convolved",
  "dt",
  "b",
  "scanned",
  "logits",
] as const;
export type Place = (typeof places)[number];

/** Sees a graph being built; what it returns takes the tensor's place. */
export type Hook = (place: Place, tensor: Tensor, g: Graph) => Operand;

export type Memories = Readonly<Record<string, MemoryHandle>>[];
export type Weights = Readonly<Record<string, Operand>>;

export function oddMemory(): Record<string, LayerMemory[string]>[] {
  const inputs = channels + scanHeads;
  return [
    { attn: attention({ heads, keyDim, valueDim: keyDim }) },
    { ssm: recurrent({ conv: [channels, taps - 1], ssm: [stateSize, headDim, scanHeads] }, { inputs }) },
    { attn: shared(0, "attn") },
  ];
}

export function oddWeights(): Record<string, WeightTree> {
  return {
    embedding: table("embedding", [width, vocabulary]),
    norm: vector("norm", [width]),
    head: matrix("head", [width, vocabulary]),
    q: matrix("q", [width, width]),
    k: matrix("k", [width, width]),
    v: matrix("v", [width, width]),
    input: matrix("input", [width, channels + scanHeads]),
    convolution: vector("convolution", [taps, channels]),
    a: vector("a", [scanHeads]),
    output: matrix("output", [scanHeads * headDim, width]),
    q2: matrix("q2", [width, width]),
    lacking: optional(vector("lacking", [width])),
  };
}

/** A layer's memory. */
export function own(memory: Memories, layer: number, part: string): MemoryHandle {
  return memory[layer]?.[part] as MemoryHandle;
}

export function oddGraph(g: Graph, w: Weights, memory: Memories, hook: Hook = (_, tensor) => tensor): Tensor {
  const at = (place: Place, tensor: Operand) => hook(place, tensor as Tensor, g);
  const of = (weight: string) => w[weight] as Operand;
  const split = (x: Operand) => g.reshape(x, keyDim, heads, g.rows);
  const joined = (x: Operand) => g.reshape(x, width, g.rows);
  let x = at("x", g.getRows(of("embedding"), g.tokens()));
  for (const { index } of g.layers([{}, {}, {}], memory)) {
    const normed = g.rmsNorm(x, 1e-5, of("norm"));
    if (index === 0) {
      const queries = at("q", split(g.mulMat(of("q"), normed)));
      const keys = at("k", split(g.mulMat(of("k"), normed)));
      const values = at("v", split(g.mulMat(of("v"), normed)));
      x = g.add(x, joined(at("attended", g.attend(own(memory, 0, "attn"), { queries, keys, values }))));
    } else if (index === 1) {
      const projected = at("projected", g.mulMat(of("input"), normed));
      const convolution = { state: "conv", weight: of("convolution"), silu: true };
      const convolved = at(
        "convolved",
        g.convolve(own(memory, 1, "ssm"), g.slice(projected, 0, channels), convolution),
      );
      const scanned = g.scan(own(memory, 1, "ssm"), {
        ...{ state: "ssm", headDim, heads: scanHeads, groups: 1, stateSize },
        x: g.slice(convolved, 0, scanHeads * headDim),
        b: at("b", g.slice(convolved, scanHeads * headDim, stateSize)),
        c: g.slice(convolved, scanHeads * headDim + stateSize, stateSize),
        dt: at("dt", g.slice(projected, channels, scanHeads)),
        a: of("a"),
      });
      x = g.add(x, g.mulMat(of("output"), at("scanned", scanned)));
    } else {
      x = g.add(x, joined(g.attend(own(memory, 2, "attn"), { queries: split(g.mulMat(of("q2"), normed)) })));
    }
  }
  return at("logits", g.mulMat(of("head"), g.selectOutputs(x))) as Tensor;
}

/** What loads and generates. */
export const good: Parts = {
  apiVersion: 1,
  names: [name],
  config: () => ({ vocabulary, contextLength }),
  memory: oddMemory,
  weights: oddWeights,
  graph: (g: Graph, _: unknown, w: Weights, memory: Memories) => oddGraph(g, w, memory),
};

/** The good definition with a graph whose tensors a hook replaces. */
export function hooked(hook: Hook): Parts {
  return { ...good, graph: (g: Graph, _: unknown, w: Weights, memory: Memories) => oddGraph(g, w, memory, hook) };
}

/** A file of random weights; `change` may damage those of a tensor. */
export function oddFile(change: (name: string, values: Float32Array) => void = () => undefined): Uint8Array {
  const random = randomOf(7);
  const tensors = Object.values(oddWeights()).flatMap((spec) => {
    const { name: tensor, shape, isOptional } = spec as ReturnType<typeof vector>;
    if (isOptional) return [];
    const count = shape.reduce((product, n) => product * n, 1);
    const values = Float32Array.from({ length: count }, () => (tensor === "a" ? -random() : random() - 0.5));
    change(tensor, values);
    return [{ name: tensor, type: 0, shape: [...shape], data: new Uint8Array(values.buffer) }];
  });
  return new Gguf([], tensors).setString("general.architecture", name).write();
}
