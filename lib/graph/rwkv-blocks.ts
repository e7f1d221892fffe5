import { recurrent, type RecurrentMemory } from "../memory/declaration.ts";
import { given } from "./blocks.ts";
import type { Graph } from "./graph.ts";
import type { MemoryHandle } from "./memory.ts";
import type { Operand, Tensor } from "./tensor.ts";

/** Epsilon of the norm over each head's result, in RWKV-6 and RWKV-7 alike. */
const headNormEps = 64e-5;

/** LayerNorm over the first dimension: (x - mean) / sqrt(variance + eps) * weight + bias. (arXiv:1607.06450) */
export function layerNorm(g: Graph, x: Operand, eps: number, weight: Operand, bias: Operand): Tensor {
  return g.add(g.mul(g.norm(x, eps), weight), bias);
}

/**
 * Token shift: how far the token before each one is from it, `previous(x) - x`; before the first there are zeros. State
 * `state`, `[d]`, carries the last row of x `[d, rows]`.
 */
export function tokenShift(g: Graph, memory: MemoryHandle | undefined, x: Operand, state: string): Tensor {
  return g.sub(g.previous(given("tokenShift", memory), x, { state }), x);
}

export interface RwkvShape {
  /** d */
  readonly width: number;
  /** Divides `width`. */
  readonly headSize: number;
}

/** What an RWKV-6 layer remembers: the last rows of "time" and "channel" mixing, and "wkv". */
export function rwkv6Memory(c: RwkvShape): RecurrentMemory {
  // Two shifted rows; decays, keys and values.
  return rwkvMemory(c, 2 + 3);
}

/** What an RWKV-7 layer remembers: the last rows of "time" and "channel" mixing, and "wkv". */
export function rwkv7Memory(c: RwkvShape): RecurrentMemory {
  // Two shifted rows; decays, keys, values, and the two removal keys.
  return rwkvMemory(c, 2 + 5);
}

function rwkvMemory({ width, headSize }: RwkvShape, rowsLogged: number): RecurrentMemory {
  const states = { time: [width], channel: [width], wkv: [headSize, headSize, width / headSize] };
  return recurrent(states, { inputs: rowsLogged * width });
}

export interface TimeMixOptions {
  /** A memory of the layer with the state "wkv", as `rwkv6Memory` or `rwkv7Memory` declares it. */
  readonly memory: MemoryHandle | undefined;
  readonly headSize: number;
}

export interface Rwkv6TimeMixWeights {
  /** Mixes x with the token before it for the adjustments below, `[d]`. */
  readonly lerpX: Operand;
  /** How much of the token before it each of w, k, v, r and g takes, `[d, 1, 1, 5]`. */
  readonly lerps: Operand;
  /** Adjusts the five by what the token is: `[d, 5 * rank]`, then `[rank, d, 5]`. */
  readonly adjustDown: Operand;
  readonly adjustUp: Operand;
  /** `[d]` */
  readonly decay: Operand;
  /** `[d, rank]`, then `[rank, d]`. */
  readonly decayDown: Operand;
  readonly decayUp: Operand;
  /** The bonus of the current token, `[headSize, heads]`. */
  readonly bonus: Operand;
  /** `[d, d]` */
  readonly receptance: Operand;
  readonly key: Operand;
  readonly value: Operand;
  readonly gate: Operand;
  readonly output: Operand;
  /** Of the norm over each head, `[d]`. */
  readonly norm: Operand;
  readonly normBias: Operand;
}

/**
 * The time mixing of RWKV-6 (arXiv:2404.05892): five mixtures with the token before, whose shares depend on the token; a
 * decay for each channel; linear attention; a norm over each head; a gate. x and `shift`, as `tokenShift` gives it, are
 * `[d, rows]`, and so is the result.
 */
export function rwkv6TimeMix(g: Graph, x: Tensor, shift: Tensor, w: Rwkv6TimeMixWeights, o: TimeMixOptions): Tensor {
  const [d] = x.shape;
  const shares = rwkv6Shares(g, x, shift, w);
  const [forDecay, forKey, forValue, forReceptance, forGate] = five(g, g.add(g.mul(shares, shift), x));
  const decay = g.add(lowRank(g, forDecay, w.decayDown, w.decayUp, "tanh"), w.decay);
  const attended = g.wkv6(given("rwkv6TimeMix", o.memory), {
    state: "wkv",
    headSize: o.headSize,
    heads: d / o.headSize,
    r: g.mulMat(w.receptance, forReceptance),
    w: g.unary(g.unary(g.unary(decay, "exp"), "neg"), "exp"),
    k: g.mulMat(w.key, forKey),
    v: g.mulMat(w.value, forValue),
    u: w.bonus,
  });
  const normed = headNorm(g, attended, o.headSize, w);
  return g.mulMat(w.output, g.glu(g.mulMat(w.gate, forGate), normed, "swiglu"));
}

/** The share that the token before has in each of the five mixtures, `[d, rows, 1, 5]`. */
function rwkv6Shares(g: Graph, x: Tensor, shift: Tensor, w: Rwkv6TimeMixWeights): Tensor {
  const [d, rows] = x.shape;
  const down = g.unary(g.mulMat(w.adjustDown, g.add(g.mul(shift, w.lerpX), x)), "tanh");
  const apart = g.permute(g.reshape(down, down.shape[0] / 5, 5, rows), 0, 2, 1, 3);
  return g.add(g.reshape(g.mulMat(w.adjustUp, apart), d, rows, 1, 5), w.lerps);
}

/** The first five mixtures of `[d, rows, 1, n]`, each `[d, rows]`. */
function five(g: Graph, mixed: Tensor): [Tensor, Tensor, Tensor, Tensor, Tensor] {
  return [mixture(g, mixed, 0), mixture(g, mixed, 1), mixture(g, mixed, 2), mixture(g, mixed, 3), mixture(g, mixed, 4)];
}

function mixture(g: Graph, mixed: Tensor, index: number): Tensor {
  const [d, rows] = mixed.shape;
  return g.view(mixed, [d, rows], index * mixed.strides[3]);
}

/** Weights of the norm over each head, `[d]`. */
interface HeadNormWeights {
  readonly norm: Operand;
  readonly normBias: Operand;
}

/** LayerNorm of every head by itself: x `[d, rows]` gives `[d, rows]`. */
function headNorm(g: Graph, x: Tensor, headSize: number, w: HeadNormWeights): Tensor {
  const [d, rows] = x.shape;
  const normed = g.norm(g.reshape(x, headSize, d / headSize, rows), headNormEps);
  return g.add(g.mul(g.reshape(normed, d, rows), w.norm), w.normBias);
}

/** up fn(down x): `down` `[d, rank]`, `up` `[rank, d]`. */
function lowRank(g: Graph, x: Operand, down: Operand, up: Operand, fn?: "tanh" | "sigmoid"): Tensor {
  const hidden = g.mulMat(down, x);
  return g.mulMat(up, fn === undefined ? hidden : g.unary(hidden, fn));
}

export interface Rwkv6ChannelMixWeights {
  /** `[d]` */
  readonly lerpKey: Operand;
  readonly lerpReceptance: Operand;
  /** `[d, hidden]` */
  readonly key: Operand;
  /** `[hidden, d]` */
  readonly value: Operand;
  /** `[d, d]` */
  readonly receptance: Operand;
}

/** The channel mixing of RWKV-6 (arXiv:2404.05892): an MLP with squared ReLU, gated. x and `shift` are `[d, rows]`. */
export function rwkv6ChannelMix(g: Graph, x: Operand, shift: Operand, w: Rwkv6ChannelMixWeights): Tensor {
  const receptance = g.mulMat(w.receptance, g.add(g.mul(shift, w.lerpReceptance), x));
  return g.mul(rwkv7ChannelMix(g, x, shift, w), g.unary(receptance, "sigmoid"));
}

export interface Rwkv7ChannelMixWeights {
  /** `[d]` */
  readonly lerpKey: Operand;
  /** `[d, hidden]` */
  readonly key: Operand;
  /** `[hidden, d]` */
  readonly value: Operand;
}

/** The channel mixing of RWKV-7 (arXiv:2503.14456): an MLP with squared ReLU. x and `shift` are `[d, rows]`. */
export function rwkv7ChannelMix(g: Graph, x: Operand, shift: Operand, w: Rwkv7ChannelMixWeights): Tensor {
  const hidden = g.mulMat(w.key, g.add(g.mul(shift, w.lerpKey), x));
  return g.mulMat(w.value, g.sqr(g.unary(hidden, "relu")));
}

/** base + up fn(down x). */
export interface LowRankWeights {
  /** `[d]` */
  readonly base: Operand;
  /** `[d, rank]` */
  readonly down: Operand;
  /** `[rank, d]` */
  readonly up: Operand;
}

export interface Rwkv7TimeMixWeights {
  /** How much of the token before it each of r, w, k, v, a and g takes, `[d, 1, 1, 6]`. */
  readonly lerps: Operand;
  readonly decay: LowRankWeights;
  /** The learning rate in context. */
  readonly rate: LowRankWeights;
  /** How much of the first layer's values replaces this one's; left out in the first layer. */
  readonly valueMix?: LowRankWeights | undefined;
  /** `[d, rank]`, then `[rank, d]`. */
  readonly gateDown: Operand;
  readonly gateUp: Operand;
  /** Multiply keys for removal, by the learning rate, and for the current token: `[d]`. */
  readonly keyRemoval: Operand;
  readonly keyRate: Operand;
  readonly keyBonus: Operand;
  /** `[d, d]` */
  readonly receptance: Operand;
  readonly key: Operand;
  readonly value: Operand;
  readonly output: Operand;
  /** Of the norm over each head, `[d]`. */
  readonly norm: Operand;
  readonly normBias: Operand;
}

export interface Rwkv7TimeMixOptions extends TimeMixOptions {
  /** The first layer's values; left out in the first layer. */
  readonly firstValues?: Tensor | undefined;
}

/** -e^(-1/2): the logarithm of the strongest decay of RWKV-7. */
const decayLogMin = -Math.exp(-0.5);

/**
 * The time mixing of RWKV-7 (arXiv:2503.14456): six mixtures with the token before; the generalised delta rule with a
 * decay and a learning rate for each channel; a norm over each head; a bonus for the current token; a gate. x and
 * `shift`, as `tokenShift` gives it, are `[d, rows]`, and so are `mixed` and the `values` that later layers mix in.
 */
export function rwkv7TimeMix(
  g: Graph,
  x: Tensor,
  shift: Tensor,
  w: Rwkv7TimeMixWeights,
  o: Rwkv7TimeMixOptions,
): { readonly mixed: Tensor; readonly values: Tensor } {
  const { headSize } = o;
  const [d, rows] = x.shape;
  const heads = d / headSize;
  const mixed = g.add(g.mul(g.repeat(shift, d, rows, 1, 6), w.lerps), x);
  const [forReceptance, forDecay, forKey, forValue, forRate] = five(g, mixed);
  const receptance = g.mulMat(w.receptance, forReceptance);
  const decay = g.unary(lowRankFrom(g, forDecay, w.decay, "tanh"), "sigmoid");
  const rate = g.unary(lowRankFrom(g, forRate, w.rate), "sigmoid");
  const values = rwkv7Values(g, forValue, w, o.firstValues);

  const plain = g.mulMat(w.key, forKey);
  const removal = g.l2Norm(g.reshape(g.mul(plain, w.keyRemoval), headSize, heads, rows), 1e-12);
  const keys = g.add(plain, g.mul(g.mul(plain, w.keyRate), g.scale(rate, 1, -1)));
  const attended = g.wkv7(given("rwkv7TimeMix", o.memory), {
    ...{ state: "wkv", headSize, heads },
    r: receptance,
    w: g.unary(g.scale(decay, decayLogMin), "exp"),
    k: keys,
    v: values,
    a: g.unary(removal, "neg"),
    b: g.mul(removal, g.reshape(rate, headSize, heads, rows)),
  });

  const agreement = g.mul(g.mul(receptance, keys), w.keyBonus);
  const bonus = g.sumRows(g.reshape(agreement, headSize, heads, rows));
  const current = g.reshape(g.mul(g.reshape(values, headSize, heads, rows), bonus), d, rows);
  const gate = lowRank(g, mixture(g, mixed, 5), w.gateDown, w.gateUp, "sigmoid");
  const y = g.mul(g.add(headNorm(g, attended, headSize, w), current), gate);
  return { mixed: g.mulMat(w.output, y), values };
}

function rwkv7Values(g: Graph, x: Tensor, w: Rwkv7TimeMixWeights, first: Tensor | undefined): Tensor {
  const values = g.mulMat(w.value, x);
  if (first === undefined || w.valueMix === undefined) return values;
  const share = g.unary(lowRankFrom(g, x, w.valueMix), "sigmoid");
  return g.add(values, g.mul(g.sub(first, values), share));
}

function lowRankFrom(g: Graph, x: Operand, w: LowRankWeights, fn?: "tanh"): Tensor {
  return g.add(lowRank(g, x, w.down, w.up, fn), w.base);
}
