/** Layers that remember by the delta rule: Gated DeltaNet (Qwen3-Next, Qwen3.5) and Kimi Delta Attention. */
import { recurrent, type RecurrentMemory } from "../memory/declaration.ts";
import { given } from "./blocks.ts";
import type { Graph } from "./graph.ts";
import type { MemoryHandle } from "./memory.ts";
import type { Operand, Tensor } from "./tensor.ts";

/** What both add to the sum of squares before they normalise a head's queries and keys, whatever the model's epsilon is. */
const headEps = 1e-6;

export interface GatedDeltaShape {
  readonly keyHeads: number;
  /** A multiple of `keyHeads`. */
  readonly valueHeads: number;
  /** Elements of one head's query and key. */
  readonly keyDim: number;
  /** Elements of one head's value. */
  readonly valueDim: number;
  /** Of the convolution, the current token's included. */
  readonly taps: number;
}

interface GatedDeltaBase {
  /** `[taps, 2 keyHeads keyDim + valueHeads valueDim]` */
  readonly convolution: Operand;
  /** `[valueHeads]`, negative: already -exp(A_log). */
  readonly a: Operand;
  /** `[valueHeads]` */
  readonly dtBias: Operand;
  /** `[valueDim]` */
  readonly norm: Operand;
  /** `[valueHeads valueDim, d]` */
  readonly output: Operand;
}

/** What gives queries, keys and values, and the output's gate. */
type GatedDeltaProjections =
  | {
      /** `[d, 2 keyHeads keyDim + valueHeads valueDim]`: queries, keys, values. */ readonly qkv: Operand;
      /** `[d, valueHeads valueDim]` */ readonly gate: Operand;
    }
  | {
      /**
       * `[d, 2 keyHeads keyDim + 2 valueHeads valueDim]`: for each key head its query, its key, and the values, then the
       * gates, of its value heads.
       */
      readonly qkvGate: Operand;
    };

/** What gives each value head's strength of writing (beta) and time step (alpha). */
type GatedDeltaRates =
  | { /** `[d, valueHeads]` */ readonly beta: Operand; /** `[d, valueHeads]` */ readonly alpha: Operand }
  | {
      /** `[d, 2 valueHeads]`: for each key head the betas, then the alphas, of its value heads. */ readonly betaAlpha: Operand;
    };

export type GatedDeltaWeights = GatedDeltaBase & GatedDeltaProjections & GatedDeltaRates;

export interface GatedDeltaOptions extends GatedDeltaShape {
  /** A recurrent memory of the layer, as `gatedDeltaMemory` declares it. */
  readonly memory: MemoryHandle | undefined;
  /**
   * The key head of value head h: "blocks" is `h / (valueHeads / keyHeads)` (default), "interleaved" is `h % keyHeads`.
   */
  readonly mapping?: "blocks" | "interleaved";
  /** Epsilon of the heads' norm. */
  readonly eps: number;
}

/** What a layer with a gated delta net remembers: the states "conv" and "delta". */
export function gatedDeltaMemory(c: GatedDeltaShape): RecurrentMemory {
  const channels = channelsOf(c);
  const states = { conv: [channels, c.taps - 1], delta: [c.keyDim, c.valueDim, c.valueHeads] };
  // The convolution's input, and a decay and a beta of each head.
  return recurrent(states, { inputs: channels + 2 * c.valueHeads });
}

/**
 * Gated DeltaNet (arXiv:2412.06464) as Qwen3-Next has it, with states "conv" and "delta": projections, one causal
 * convolution with SiLU over queries, keys and values, the delta rule, RMS norm of heads, gate, output projection.
 * x `[d, rows]` gives `[d, rows]`.
 */
export function gatedDeltaNet(g: Graph, x: Operand, w: GatedDeltaWeights, options: GatedDeltaOptions): Tensor {
  const { keyHeads, valueHeads, keyDim, valueDim, mapping = "blocks", eps } = options;
  const memory = given("gatedDeltaNet", options.memory);
  const [projected, gate] = gatedDeltaProjections(g, x, w, options);
  const mixed = g.convolve(memory, projected, { state: "conv", weight: w.convolution, silu: true });
  const [beta, alpha] = gatedDeltaRates(g, x, w, options);
  const keys = keyHeads * keyDim;
  const y = g.deltaNet(memory, {
    state: "delta",
    ...{ keyHeads, valueHeads, keyDim, valueDim, mapping },
    q: g.slice(mixed, 0, keys),
    k: g.slice(mixed, keys, keys),
    v: g.slice(mixed, 2 * keys, valueHeads * valueDim),
    g: g.mul(g.unary(g.add(alpha, w.dtBias), "softplus"), w.a),
    beta,
    betaSigmoid: true,
    normalize: headEps,
  });
  const normed = g.rmsNorm(g.reshape(y, valueDim, valueHeads, g.rows), eps, w.norm);
  return g.mulMat(w.output, g.glu(gate, g.reshape(normed, valueHeads * valueDim, g.rows), "swiglu"));
}

/** Queries, keys and values in one, and the output's gate, `[valueHeads valueDim, rows]`. */
function gatedDeltaProjections(g: Graph, x: Operand, w: GatedDeltaProjections, c: GatedDeltaShape): [Tensor, Tensor] {
  if ("qkv" in w) return [g.mulMat(w.qkv, x), g.mulMat(w.gate, x)];
  const values = (c.valueHeads / c.keyHeads) * c.valueDim;
  const all = g.reshape(g.mulMat(w.qkvGate, x), 2 * c.keyDim + 2 * values, c.keyHeads, g.rows);
  const part = (from: number, count: number) =>
    g.reshape(g.cont(g.slice(all, from, count)), count * c.keyHeads, g.rows);
  const keys = g.concat(part(0, c.keyDim), part(c.keyDim, c.keyDim), 0);
  return [g.concat(keys, part(2 * c.keyDim, values), 0), part(2 * c.keyDim + values, values)];
}

/** Beta and alpha of every value head, `[valueHeads, rows]` each. */
function gatedDeltaRates(g: Graph, x: Operand, w: GatedDeltaRates, c: GatedDeltaShape): [Tensor, Tensor] {
  if ("beta" in w) return [g.mulMat(w.beta, x), g.mulMat(w.alpha, x)];
  const share = c.valueHeads / c.keyHeads;
  const both = g.reshape(g.mulMat(w.betaAlpha, x), 2 * share, c.keyHeads, g.rows);
  const part = (from: number) => g.reshape(g.cont(g.slice(both, from, share)), c.valueHeads, g.rows);
  return [part(0), part(share)];
}

function channelsOf(c: GatedDeltaShape): number {
  return 2 * c.keyHeads * c.keyDim + c.valueHeads * c.valueDim;
}

export interface KimiDeltaShape {
  readonly heads: number;
  /** Elements of one head's query, key and value. */
  readonly headDim: number;
  /** Of the convolutions, the current token's included. */
  readonly taps: number;
}

/** A matrix as the product of two slim ones: up(down x). */
export interface LowRank {
  /** `[d, rank]` */
  readonly down: Operand;
  /** `[rank, out]` */
  readonly up: Operand;
}

export interface KimiDeltaWeights {
  /** `[d, heads headDim]` each. */
  readonly q: Operand;
  readonly k: Operand;
  readonly v: Operand;
  /** `[taps, heads headDim]`, or `[taps, 1, heads headDim]`, each. */
  readonly qConvolution: Operand;
  readonly kConvolution: Operand;
  readonly vConvolution: Operand;
  /** To a decay for every channel, `[heads headDim]`. */
  readonly decay: LowRank;
  /** `[heads headDim]` */
  readonly dtBias: Operand;
  /** `[1, heads]`, negative: already -exp(A_log). */
  readonly a: Operand;
  /** `[d, heads]` */
  readonly beta: Operand;
  /** To the output's gate, `[heads headDim]`. */
  readonly gate: LowRank;
  /** `[headDim]` */
  readonly norm: Operand;
  /** `[heads headDim, d]` */
  readonly output: Operand;
}

export interface KimiDeltaOptions extends Omit<KimiDeltaShape, "taps"> {
  /** A recurrent memory of the layer, as `kimiDeltaMemory` declares it. */
  readonly memory: MemoryHandle | undefined;
  /** Epsilon of the heads' norm. */
  readonly eps: number;
}

/** What a layer of Kimi Delta Attention remembers: the states "convQ", "convK", "convV" and "delta". */
export function kimiDeltaMemory({ heads, headDim, taps }: KimiDeltaShape): RecurrentMemory {
  const channels = heads * headDim;
  const conv = [channels, taps - 1];
  const states = { convQ: conv, convK: conv, convV: conv, delta: [headDim, headDim, heads] };
  // What goes into the three convolutions, a decay of each channel and a beta of each head.
  return recurrent(states, { inputs: 4 * channels + heads });
}

/**
 * Kimi Delta Attention (arXiv:2510.26692), the delta rule with a decay for every key channel: a convolution with SiLU
 * each for queries, keys and values, the rule, RMS norm of heads, sigmoid gate, output projection. x `[d, rows]` gives
 * `[d, rows]`.
 */
export function kimiDeltaAttention(g: Graph, x: Operand, w: KimiDeltaWeights, options: KimiDeltaOptions): Tensor {
  const { heads, headDim, eps } = options;
  const memory = given("kimiDeltaAttention", options.memory);
  const channels = heads * headDim;
  const convolved = (projection: Operand, state: string, weight: Operand) =>
    g.convolve(memory, g.mulMat(projection, x), { state, weight, silu: true });
  const lowRank = ({ down, up }: LowRank) => g.mulMat(up, g.mulMat(down, x));
  const steps = g.unary(g.add(lowRank(w.decay), w.dtBias), "softplus");
  const y = g.deltaNet(memory, {
    state: "delta",
    ...{ keyHeads: heads, valueHeads: heads, keyDim: headDim, valueDim: headDim },
    q: convolved(w.q, "convQ", w.qConvolution),
    k: convolved(w.k, "convK", w.kConvolution),
    v: convolved(w.v, "convV", w.vConvolution),
    g: g.mul(g.reshape(steps, headDim, heads, g.rows), w.a),
    beta: g.mulMat(w.beta, x),
    betaSigmoid: true,
    normalize: headEps,
  });
  const normed = g.rmsNorm(g.reshape(y, headDim, heads, g.rows), eps, w.norm);
  const gated = g.mul(g.reshape(normed, channels, g.rows), g.unary(lowRank(w.gate), "sigmoid"));
  return g.mulMat(w.output, gated);
}
