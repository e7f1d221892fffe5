import { recurrent, type RecurrentMemory } from "../memory/declaration.ts";
import { given, linear } from "./blocks.ts";
import type { Graph } from "./graph.ts";
import type { MemoryHandle } from "./memory.ts";
import type { Operand, Tensor } from "./tensor.ts";

/**
 * GELU by tanh, computed as it is written: x sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3)). "gelu" and "geglu" look it up
 * in a table of f16 values, which is faster and right to three digits. (arXiv:1606.08415)
 */
export function geluTanh(g: Graph, x: Operand): Tensor {
  const slope = 2 * Math.sqrt(2 / Math.PI);
  const argument = g.mul(g.scale(g.sqr(x), slope * 0.044715, slope), x);
  return g.mul(g.unary(argument, "sigmoid"), x);
}

/**
 * A product with a block-diagonal matrix, plus bias: each part of x `[width * blocks, rows]` meets its own matrix.
 * `weight` `[width, width, blocks]`, `bias` `[width * blocks]`.
 */
export function blockDiagonal(g: Graph, x: Tensor, weight: Operand, bias: Operand): Tensor {
  const [d, rows] = x.shape;
  const [width = d, , blocks = 1] = weight.shape;
  // A matrix of all rows for each block, and back.
  const parts = g.permute(g.reshape(x, width, blocks, rows), 0, 2, 1, 3);
  const products = g.cont(g.permute(g.mulMat(weight, parts), 0, 2, 1, 3));
  return g.add(g.reshape(products, d, rows), bias);
}

/** 1 for tokens at position 0, and 0 for all others: `[1, rows]`. */
export function sequenceStarts(g: Graph): Tensor {
  const later = g.unary(g.cast(g.positions(), "f32"), "step");
  return g.reshape(g.scale(later, -1, 1), 1, g.rows);
}

export interface RgLruWeights {
  /** Gates what comes in: `[width, width, blocks]`, and `[width * blocks]`. */
  readonly inputGate: Operand;
  readonly inputGateBias: Operand;
  /** Gates the decay, in the same shapes. */
  readonly recurrenceGate: Operand;
  readonly recurrenceGateBias: Operand;
  /** Logarithm of the strongest decay of each channel, `[channels]`, negative: already -8 softplus(parameter). */
  readonly a: Operand;
}

export interface RgLruOptions {
  /** A memory of the layer with the state "lru", `[channels]`. */
  readonly memory: MemoryHandle | undefined;
  /** What `sequenceStarts` gives: a sequence's first token is taken in whole. */
  readonly starts: Operand;
}

/**
 * The real-gated linear recurrent unit of Griffin (arXiv:2402.19427): for each channel, `h = a h + sqrt(1 - a^2) i x` with
 * a decay `a` and a gate `i` that depend on the token. x `[channels, rows]` gives h, `[channels, rows]`.
 */
export function rgLru(g: Graph, x: Tensor, w: RgLruWeights, options: RgLruOptions): Tensor {
  const input = g.unary(blockDiagonal(g, x, w.inputGate, w.inputGateBias), "sigmoid");
  const recurrence = g.unary(blockDiagonal(g, x, w.recurrenceGate, w.recurrenceGateBias), "sigmoid");
  const decayLog = g.mul(recurrence, w.a);
  // 1 - a^2, without the digits that a near 1 would cancel.
  const rest = g.scale(g.unary(g.scale(decayLog, 2), "expm1"), -1);
  const share = g.sqrt(g.clamp(g.add(rest, options.starts), 0, 1));
  return g.linearRecurrence(given("rgLru", options.memory), {
    state: "lru",
    a: g.unary(decayLog, "exp"),
    x: g.mul(g.mul(input, x), share),
  });
}

export interface GriffinWeights extends RgLruWeights {
  /** `[d, channels]`, and `[channels]`. */
  readonly input: Operand;
  readonly inputBias?: Operand | undefined;
  /** The branch that multiplies the result, in the same shapes. */
  readonly gate: Operand;
  readonly gateBias?: Operand | undefined;
  /** `[taps, channels]` */
  readonly convolution: Operand;
  /** `[channels]` */
  readonly convolutionBias?: Operand | undefined;
  /** `[channels, d]`, and `[d]`. */
  readonly output: Operand;
  readonly outputBias?: Operand | undefined;
}

/** What a recurrent layer of Griffin remembers: the states "conv" and "lru". */
export function griffinMemory(c: { readonly channels: number; readonly taps: number }): RecurrentMemory {
  const states = { conv: [c.channels, c.taps - 1], lru: [c.channels] };
  // The convolution's input; the decay and the input of the recurrence.
  return recurrent(states, { inputs: 3 * c.channels });
}

/**
 * The recurrent block of Griffin (arXiv:2402.19427): projection, causal convolution, RG-LRU, times a GELU branch, output
 * projection. x `[d, rows]` gives `[d, rows]`; the memory is as `griffinMemory` declares it.
 */
export function griffinMixer(g: Graph, x: Operand, w: GriffinWeights, options: RgLruOptions): Tensor {
  const memory = given("griffinMixer", options.memory);
  const convolved = g.convolve(memory, linear(g, x, w.input, w.inputBias), {
    state: "conv",
    weight: w.convolution,
    bias: w.convolutionBias,
  });
  const gate = geluTanh(g, linear(g, x, w.gate, w.gateBias));
  return linear(g, g.mul(rgLru(g, convolved, w, options), gate), w.output, w.outputBias);
}
