/**
 * Architectures that no model has: layers that work side by side. Each reads the token's embedding alone and adds to the
 * logits alone, so what it remembers depends on tokens and positions only, whatever the other layers do.
 */
import {
  attention,
  defineArchitecture,
  matrix,
  recurrent,
  shared,
  table,
  vector,
  type Architecture,
  type Graph,
  type LayerMemory,
  type MemoryHandle,
  type MemoryRecord,
  type RopeOptions,
  type SharedMemory,
  type StateSpec,
  type Tensor,
  type Weight,
  type WeightSpec,
} from "ggstrata";
import { Gguf } from "../model/gguf.ts";
import { randomOf } from "../model/help.ts";

export const width = 16;
export const vocabulary = 24;
export const context = 96;

export interface Rope extends Pick<RopeOptions, "mode" | "base"> {
  /** Elements of a head that are turned, from the first. */
  readonly dims: number;
}

/** Attention with a memory of its own. */
export interface AttentionPart {
  readonly kind: "attention";
  /** Heads of keys and values, and query heads for each of them. */
  readonly heads: number;
  readonly group: number;
  readonly keyDim: number;
  readonly valueDim: number;
  /** The first `valueDim` elements of a key are its value. */
  readonly keysOnly?: boolean;
  readonly window?: number;
  readonly chunk?: number;
  readonly symmetric?: number;
  readonly rope?: Rope;
  readonly softcap?: number;
  /** Multiplies keys behind their rotary embedding, which then cannot be told from anything else. */
  readonly keyScale?: number;
}

/** Attention that reads the memory of part `part` of layer `layer`. */
export interface SharedPart {
  readonly kind: "shared";
  readonly layer: number;
  readonly part: number;
}

export interface ScanShape {
  readonly heads: number;
  readonly headDim: number;
  readonly groups: number;
  readonly stateSize: number;
}

/** A causal convolution, and behind it as many selective scans as there are shapes, each with a state. */
export interface RecurrentPart {
  readonly kind: "recurrent";
  /** Channels of the convolution beside those that the scans read. */
  readonly channels: number;
  readonly taps: number;
  readonly scans: readonly ScanShape[];
  /** The convolution's inputs are kept in f16. */
  readonly half?: boolean;
  /** Declares what a log needs, so that states can be computed again. */
  readonly logged?: boolean;
  /** The first scan's B comes straight from the projection instead of the convolution. */
  readonly bypass?: boolean;
}

export type Part = AttentionPart | SharedPart | RecurrentPart;
/** What one layer does side by side; nothing where the list is empty. */
export type Layer = readonly Part[];

/** Numbers by the name of their tensor. */
export interface MadeUpWeight {
  readonly shape: readonly number[];
  readonly values: Float32Array;
  readonly use: "table" | "product" | "vector";
}

export function owner(layers: readonly Layer[], part: AttentionPart | SharedPart): AttentionPart {
  if (part.kind === "attention") return part;
  const found = layers[part.layer]?.[part.part];
  if (found?.kind !== "attention") throw new Error(`layer ${part.layer} has no attention in part ${part.part}`);
  return found;
}

/** Channels of a recurrent part's convolution, and where each scan's x, B and C begin in them. */
export function channelsOf(part: RecurrentPart): { total: number; scans: { x: number; b: number; c: number }[] } {
  let at = part.channels;
  const scans = part.scans.map(({ heads, headDim, groups, stateSize }) => {
    const x = at;
    const b = x + heads * headDim;
    const c = b + groups * stateSize;
    at = c + groups * stateSize;
    return { x, b, c };
  });
  return { total: at, scans };
}

/** Width of B of the first scan where it goes past the convolution. */
export function bypassWidth(part: RecurrentPart): number {
  const [first] = part.scans;
  return part.bypass && first !== undefined ? first.groups * first.stateSize : 0;
}

/** Width of each part's results, one for every operation that has one. */
function resultWidths(layers: readonly Layer[], part: Part): number[] {
  if (part.kind !== "recurrent") {
    const { heads, group, valueDim } = owner(layers, part);
    return [heads * group * valueDim];
  }
  return [channelsOf(part).total, ...part.scans.map(({ heads, headDim }) => heads * headDim)];
}

/** A model with random weights: what the reference computes with, and the file and plugin that Strata loads. */
export class MadeUpModel {
  readonly weights = new Map<string, MadeUpWeight>();
  readonly plugin: Architecture;
  private readonly random: () => number;

  constructor(
    readonly layers: readonly Layer[],
    seed: number,
  ) {
    this.random = randomOf(seed);
    this.add("embedding", "table", [width, vocabulary], 1);
    this.add("head", "product", [width, vocabulary], 0.3);
    for (const [i, layer] of layers.entries()) {
      for (const [k, part] of layer.entries()) this.addPart(`${i}.${k}`, part);
    }
    this.plugin = this.define();
  }

  /** The bytes of the GGUF file. */
  file(): Uint8Array {
    const tensors = [...this.weights].map(([name, { shape, values }]) => ({
      name,
      type: 0,
      shape: [...shape],
      data: new Uint8Array(values.buffer),
    }));
    return new Gguf([], tensors).setString("general.architecture", "madeup").write();
  }

  private addPart(name: string, part: Part): void {
    if (part.kind === "recurrent") {
      const { total } = channelsOf(part);
      const times = part.scans.reduce((sum, { heads }) => sum + heads, 0);
      this.add(`${name}.input`, "product", [width, total + times + bypassWidth(part)], 0.3);
      this.add(`${name}.convolution`, "vector", [part.taps, total], 0.6);
      this.add(`${name}.bias`, "vector", [total], 0.2);
      for (const [s, { heads }] of part.scans.entries()) {
        this.add(`${name}.${s}.dtBias`, "vector", [heads], 0.5);
        this.add(`${name}.${s}.a`, "vector", [heads], -0.4, -0.05);
        this.add(`${name}.${s}.d`, "vector", [heads], 0.5);
      }
    } else {
      const { heads, group, keyDim, valueDim, keysOnly } = owner(this.layers, part);
      this.add(`${name}.q`, "product", [width, heads * group * keyDim], 0.5);
      if (part.kind === "attention") {
        this.add(`${name}.k`, "product", [width, heads * keyDim], 0.5);
        if (!keysOnly) this.add(`${name}.v`, "product", [width, heads * valueDim], 0.4);
      }
    }
    for (const [r, size] of resultWidths(this.layers, part).entries()) {
      this.add(`${name}.head${r}`, "product", [size, vocabulary], 1 / Math.sqrt(size));
    }
  }

  /** Random numbers up to `scale` to either side of 0; with `to`, between the two. */
  private add(name: string, use: MadeUpWeight["use"], shape: readonly number[], scale: number, to?: number): void {
    const count = shape.reduce((product, n) => product * n, 1);
    const from = to === undefined ? -scale * 1.7 : scale;
    const span = (to ?? scale * 1.7) - from;
    const values = Float32Array.from({ length: count }, () => from + span * this.random());
    this.weights.set(name, { shape, values, use });
  }

  private define(): Architecture {
    const { layers, weights } = this;
    const specs = Object.fromEntries(
      [...weights].map(([name, { shape, use }]): [string, WeightSpec<Weight>] => {
        const [first = 1, second = 1] = shape;
        if (use === "table") return [name, table(name, [first, second])];
        return [name, use === "product" ? matrix(name, [first, second]) : vector(name, shape)];
      }),
    );
    return defineArchitecture({
      apiVersion: 1,
      names: ["madeup"],
      config: () => ({ vocabulary, contextLength: context }),
      memory: () => layers.map(declare),
      weights: () => specs,
      graph: (g, _, bound, memories) => {
        const weight = (name: string): Weight => {
          const found = bound[name];
          if (found === undefined) throw new Error(`the made-up model has no weight ${name}`);
          return found;
        };
        const x = g.getRows(weight("embedding"), g.tokens());
        let logits = g.mulMat(weight("head"), g.selectOutputs(x));
        for (const { index, layer, memory } of g.layers(layers, memories)) {
          for (const [k, part] of layer.entries()) {
            const name = `${index}.${k}`;
            const own = (what: string) => weight(`${name}.${what}`);
            for (const [r, result] of compute(g, layers, part, x, own, memory[`m${k}`]).entries()) {
              logits = g.add(logits, g.mulMat(own(`head${r}`), g.selectOutputs(result)));
            }
          }
        }
        return logits;
      },
    });
  }
}

/** What a layer remembers: part `k` under the name `m<k>`. */
function declare(layer: Layer): LayerMemory {
  return Object.fromEntries(
    layer.map((part, k): [string, MemoryRecord | SharedMemory] => [`m${k}`, declarePart(part)]),
  );
}

function declarePart(part: Part): MemoryRecord | SharedMemory {
  if (part.kind === "shared") return shared(part.layer, `m${part.part}`);
  if (part.kind === "attention") {
    const { heads, keyDim, valueDim, keysOnly, window, chunk, symmetric } = part;
    return attention({ heads, keyDim, valueDim: keysOnly ? undefined : valueDim, window, chunk, symmetric });
  }
  const { total } = channelsOf(part);
  const shape = [total, part.taps - 1];
  const states: Record<string, StateSpec> = { conv: part.half ? { shape, dtype: "f16" } : shape };
  let inputs = total + bypassWidth(part);
  for (const [s, { heads, headDim, stateSize }] of part.scans.entries()) {
    states[`ssm${s}`] = [stateSize, headDim, heads];
    inputs += heads;
  }
  return recurrent(states, part.logged ? { inputs } : {});
}

function compute(
  g: Graph,
  layers: readonly Layer[],
  part: Part,
  x: Tensor,
  weight: (name: string) => Weight,
  memory: MemoryHandle | undefined,
): Tensor[] {
  if (memory === undefined) throw new Error("a part of the made-up model has no memory");
  if (part.kind === "recurrent") return computeRecurrent(g, part, x, weight, memory);
  const { heads, group, keyDim, valueDim, keysOnly, rope, softcap, keyScale } = owner(layers, part);
  const turn = (t: Tensor) => (rope === undefined ? t : g.rope(t, rope));
  const queries = turn(g.reshape(g.mulMat(weight("q"), x), keyDim, heads * group, g.rows));
  const options = { queries, ...(softcap === undefined ? {} : { softcap }), ...(keysOnly ? { valueDim } : {}) };
  let attended: Tensor;
  if (part.kind === "shared") attended = g.attend(memory, options);
  else {
    const turned = turn(g.reshape(g.mulMat(weight("k"), x), keyDim, heads, g.rows));
    const keys = keyScale === undefined ? turned : g.scale(turned, keyScale);
    const values = keysOnly ? undefined : g.reshape(g.mulMat(weight("v"), x), valueDim, heads, g.rows);
    attended = g.attend(memory, { ...options, keys, ...(values === undefined ? {} : { values }) });
  }
  return [g.reshape(attended, heads * group * valueDim, g.rows)];
}

function computeRecurrent(
  g: Graph,
  part: RecurrentPart,
  x: Tensor,
  weight: (name: string) => Weight,
  memory: MemoryHandle,
): Tensor[] {
  const { total, scans } = channelsOf(part);
  const projected = g.mulMat(weight("input"), x);
  const convolved = g.convolve(memory, g.slice(projected, 0, total), {
    state: "conv",
    weight: weight("convolution"),
    bias: weight("bias"),
    silu: true,
  });
  const results = [convolved];
  let time = total;
  const bypass = total + part.scans.reduce((sum, { heads }) => sum + heads, 0);
  for (const [s, shape] of part.scans.entries()) {
    const { heads, headDim, groups, stateSize } = shape;
    const at = scans[s] as (typeof scans)[number];
    const isPast = s === 0 && part.bypass;
    results.push(
      g.scan(memory, {
        ...shape,
        state: `ssm${s}`,
        x: g.slice(convolved, at.x, heads * headDim),
        b: isPast ? g.slice(projected, bypass, bypassWidth(part)) : g.slice(convolved, at.b, groups * stateSize),
        c: g.slice(convolved, at.c, groups * stateSize),
        dt: g.slice(projected, time, heads),
        dtBias: weight(`${s}.dtBias`),
        a: weight(`${s}.a`),
        d: weight(`${s}.d`),
      }),
    );
    time += heads;
  }
  return results;
}
