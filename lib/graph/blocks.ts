import { StrataError } from "../errors.ts";
import { recurrent, type RecurrentMemory } from "../memory/declaration.ts";
import type { Graph } from "./graph.ts";
import type { MemoryHandle } from "./memory.ts";
import type { AttendOptions, RopeOptions } from "./options.ts";
import { routedExperts, routeToExperts } from "./routing-blocks.ts";
import type { Operand, Tensor } from "./tensor.ts";

/** weight x + bias. `weight` `[in, out]`, x `[in, rows]`. */
export function linear(g: Graph, x: Operand, weight: Operand, bias?: Operand): Tensor {
  const product = g.mulMat(weight, x);
  return bias === undefined ? product : g.add(product, bias);
}

export interface MlpWeights {
  /** `[d, width]` */
  readonly gate: Operand;
  /** `[d, width]` */
  readonly up: Operand;
  /** `[width, d]` */
  readonly down: Operand;
  /** `[width]` */
  readonly gateBias?: Operand | undefined;
  /** `[width]` */
  readonly upBias?: Operand | undefined;
  /** `[d]` */
  readonly downBias?: Operand | undefined;
}

/** Gated MLP: down(act(gate x) * up x). "swiglu" = silu, "geglu" = gelu (tanh). (arXiv:2002.05202) */
export function gatedMlp(
  g: Graph,
  x: Operand,
  w: MlpWeights,
  activation: "swiglu" | "geglu" | "reglu" = "swiglu",
): Tensor {
  const hidden = g.glu(linear(g, x, w.gate, w.gateBias), linear(g, x, w.up, w.upBias), activation);
  return linear(g, hidden, w.down, w.downBias);
}

/** MLP without gate: down(relu(up x)^2). (arXiv:2109.08668) */
export function squaredReluMlp(g: Graph, x: Operand, w: Omit<MlpWeights, "gate" | "gateBias">): Tensor {
  return linear(g, g.sqr(g.unary(linear(g, x, w.up, w.upBias), "relu")), w.down, w.downBias);
}

export interface MoeWeights {
  /** Router, `[d, experts]`. */
  readonly router: Operand;
  /** `[d, width, experts]` */
  readonly gate: Operand;
  /** `[d, width, experts]` */
  readonly up: Operand;
  /** `[width, d, experts]` */
  readonly down: Operand;
}

export interface MoeOptions {
  readonly experts: number;
  /** Experts used for each token. */
  readonly used: number;
}

/**
 * Mixture of experts: the `used` experts with the largest router logits, weighted by the softmax over those logits.
 * x `[d, rows]` gives `[d, rows]`.
 */
export function mixtureOfExperts(g: Graph, x: Tensor, w: MoeWeights, options: MoeOptions): Tensor {
  const { experts, used } = options;
  return routedExperts(g, x, w, routeToExperts(g, x, w, { experts, used, scores: "chosenSoftmax" }));
}

export interface AttentionWeights {
  /** `[d, heads * keyDim]`; with gates `[d, heads * (keyDim + valueDim)]`. */
  readonly q: Operand;
  /** `[d, kvHeads * keyDim]` */
  readonly k: Operand;
  /** `[d, kvHeads * valueDim]` */
  readonly v: Operand;
  /** `[heads * valueDim, d]` */
  readonly output: Operand;
  readonly qBias?: Operand | undefined;
  readonly kBias?: Operand | undefined;
  readonly vBias?: Operand | undefined;
  readonly outputBias?: Operand | undefined;
  /** RMS norms of each head's queries and keys, `[keyDim]`. */
  readonly qNorm?: Operand | undefined;
  readonly kNorm?: Operand | undefined;
}

export interface SelfAttentionOptions extends Pick<AttendOptions, "scale" | "softcap"> {
  /** Query heads. */
  readonly heads: number;
  /** An attention memory of the layer. */
  readonly memory: MemoryHandle | undefined;
  /** Left out: no rotary embedding. */
  readonly rope?: RopeOptions | undefined;
  /** Epsilon of the head norms. */
  readonly eps?: number;
  /** Multiplies the queries, after their rotation; scores are then not scaled, unless `scale` says how. */
  readonly queryScale?: number;
  /** `q` gives a query and a gate for each head, one after the other; the gate's sigmoid multiplies the head's result. */
  readonly gated?: boolean;
}

/**
 * Self-attention with its memory: projections, optional norms of heads, optional rotary embedding, attention over what
 * the memory holds, output projection. x `[d, rows]` gives `[d, rows]`.
 */
export function selfAttention(g: Graph, x: Operand, w: AttentionWeights, options: SelfAttentionOptions): Tensor {
  const { heads, rope, eps = 1e-6, queryScale, scale = queryScale && 1, softcap, gated = false } = options;
  const memory = given("selfAttention", options.memory);
  const { record } = memory;
  if (record.kind !== "attention") {
    throw new StrataError("invalid_argument", `the memory "${memory.name}" of layer ${memory.layer} is no attention`);
  }
  const { heads: kvHeads, keyDim, valueDim } = record;
  const turn = (t: Tensor, norm: Operand | undefined): Tensor => {
    const normed = norm === undefined ? t : g.rmsNorm(t, eps, norm);
    return rope === undefined ? normed : g.rope(normed, rope);
  };
  const projected = g.reshape(linear(g, x, w.q, w.qBias), gated ? keyDim + valueDim : keyDim, heads, g.rows);
  const turned = turn(gated ? g.slice(projected, 0, keyDim) : projected, w.qNorm);
  const queries = queryScale === undefined ? turned : g.scale(turned, queryScale);
  const keys = turn(g.reshape(linear(g, x, w.k, w.kBias), keyDim, kvHeads, g.rows), w.kNorm);
  const values = g.reshape(linear(g, x, w.v, w.vBias), valueDim, kvHeads, g.rows);
  const attended = g.attend(memory, {
    queries,
    keys,
    values,
    ...(scale === undefined ? {} : { scale }),
    ...(softcap === undefined ? {} : { softcap }),
  });
  const gate = gated ? g.unary(g.slice(projected, keyDim, valueDim), "sigmoid") : undefined;
  const result = gate === undefined ? attended : g.mul(attended, gate);
  return linear(g, g.reshape(result, valueDim * heads, g.rows), w.output, w.outputBias);
}

export interface Mamba2Weights {
  /** `[d, 2 inner + 2 groups stateSize + heads]`: gate, x, B, C, time steps, in this order. */
  readonly input: Operand;
  /** `[taps, inner + 2 groups stateSize]` */
  readonly convolution: Operand;
  /** `[inner + 2 groups stateSize]` */
  readonly convolutionBias?: Operand | undefined;
  /** `[heads]` */
  readonly dtBias: Operand;
  /** `[1, heads]`, negative. */
  readonly a: Operand;
  /** `[1, heads]` */
  readonly d: Operand;
  /** `[inner / groups, groups]`; left out: the gate alone. */
  readonly norm?: Operand | undefined;
  /** `[inner, d]` */
  readonly output: Operand;
}

export interface Mamba2Options {
  /** A recurrent memory of the layer, as `mamba2Memory` declares it. */
  readonly memory: MemoryHandle | undefined;
  /** Channels: heads * headDim. */
  readonly inner: number;
  readonly heads: number;
  readonly groups: number;
  readonly stateSize: number;
  readonly eps: number;
}

/** What a Mamba-2 layer remembers: the states "conv" and "ssm". */
export function mamba2Memory(c: {
  readonly inner: number;
  readonly heads: number;
  readonly groups: number;
  readonly stateSize: number;
  readonly taps: number;
}): RecurrentMemory {
  const channels = c.inner + 2 * c.groups * c.stateSize;
  const states = { conv: [channels, c.taps - 1], ssm: [c.stateSize, c.inner / c.heads, c.heads] };
  // The convolution's input, and the time steps.
  return recurrent(states, { inputs: channels + c.heads });
}

/**
 * The Mamba-2 mixer (arXiv:2405.21060) with states "conv" and "ssm": projection, causal convolution with SiLU,
 * selective scan, gate, grouped RMS norm, output projection. x `[d, rows]` gives `[d, rows]`.
 */
export function mamba2Mixer(g: Graph, x: Operand, w: Mamba2Weights, options: Mamba2Options): Tensor {
  const { inner, heads, groups, stateSize, eps } = options;
  const memory = given("mamba2Mixer", options.memory);
  const width = groups * stateSize;
  const projected = g.mulMat(w.input, x);
  const gate = g.slice(projected, 0, inner);
  const convolved = g.convolve(memory, g.slice(projected, inner, inner + 2 * width), {
    state: "conv",
    weight: w.convolution,
    bias: w.convolutionBias,
    silu: true,
  });
  const scanned = g.scan(memory, {
    state: "ssm",
    headDim: inner / heads,
    heads,
    groups,
    stateSize,
    x: g.slice(convolved, 0, inner),
    b: g.slice(convolved, inner, width),
    c: g.slice(convolved, inner + width, width),
    dt: g.slice(projected, 2 * inner + 2 * width, heads),
    dtBias: w.dtBias,
    a: w.a,
    d: w.d,
  });
  const gated = g.glu(gate, scanned, "swiglu");
  if (w.norm === undefined) return g.mulMat(w.output, gated);
  const grouped = g.rmsNorm(g.reshape(gated, inner / groups, groups, g.rows), eps, w.norm);
  return g.mulMat(w.output, g.reshape(grouped, inner, g.rows));
}

/** The memory that a block needs. Throws, naming the block, where its layer declares none. */
export function given(block: string, memory: MemoryHandle | undefined): MemoryHandle {
  if (memory !== undefined) return memory;
  throw new StrataError("invalid_argument", `${block} needs a memory, and the layer declares none of that name`);
}
