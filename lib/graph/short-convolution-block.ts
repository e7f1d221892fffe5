import { StrataError } from "../errors.ts";
import { recurrent, type RecurrentMemory } from "../memory/declaration.ts";
import { linear } from "./blocks.ts";
import type { Graph } from "./graph.ts";
import type { MemoryHandle } from "./memory.ts";
import type { Operand, Tensor } from "./tensor.ts";

export interface ShortConvolutionWeights {
  /** `[d, 3 width]`: gate of the input, gate of the output, input, in this order. */
  readonly input: Operand;
  /** `[3 width]` */
  readonly inputBias?: Operand | undefined;
  /** `[taps, width]` */
  readonly convolution: Operand;
  /** `[width]` */
  readonly convolutionBias?: Operand | undefined;
  /** `[width, d]` */
  readonly output: Operand;
  /** `[d]` */
  readonly outputBias?: Operand | undefined;
}

export interface ShortConvolutionOptions {
  /** A recurrent memory of the layer, as `shortConvolutionMemory` declares it. */
  readonly memory: MemoryHandle | undefined;
  /** Channels of the convolution. */
  readonly width: number;
}

/** What a gated short convolution remembers: the state "conv", its last `taps - 1` gated inputs. */
export function shortConvolutionMemory(c: { readonly width: number; readonly taps: number }): RecurrentMemory {
  return recurrent({ conv: [c.width, c.taps - 1] }, { inputs: c.width });
}

/**
 * The gated short convolution of LFM2 (arXiv:2511.23404), with state "conv": a projection to `b`, `c` and `u`, then
 * `c * convolution(b * u)`, then a projection. No activation: the gates alone are not linear. x `[d, rows]` gives
 * `[d, rows]`.
 */
export function shortConvolution(
  g: Graph,
  x: Operand,
  w: ShortConvolutionWeights,
  options: ShortConvolutionOptions,
): Tensor {
  const { memory, width } = options;
  if (memory === undefined) {
    const sentence = "shortConvolution needs a memory, and the layer declares none of that name";
    throw new StrataError("invalid_argument", sentence);
  }
  const projected = linear(g, x, w.input, w.inputBias);
  const [b, c, u] = [
    g.slice(projected, 0, width),
    g.slice(projected, width, width),
    g.slice(projected, 2 * width, width),
  ];
  const convolved = g.convolve(memory, g.mul(b, u), {
    state: "conv",
    weight: w.convolution,
    bias: w.convolutionBias,
  });
  return linear(g, g.mul(c, convolved), w.output, w.outputBias);
}
