import { recurrent, type RecurrentMemory } from "../memory/declaration.ts";
import { given } from "./blocks.ts";
import type { Graph } from "./graph.ts";
import type { MemoryHandle } from "./memory.ts";
import type { Operand, Tensor } from "./tensor.ts";

export interface Mamba1Weights {
  /** `[d, 2 inner]`: x, gate, in this order. */
  readonly input: Operand;
  /** `[taps, inner]` */
  readonly convolution: Operand;
  /** `[inner]` */
  readonly convolutionBias?: Operand | undefined;
  /** `[inner, rank + 2 stateSize]`: what time steps are made from, B, C, in this order. */
  readonly selection: Operand;
  /** `[rank, inner]` */
  readonly dt: Operand;
  /** `[inner]` */
  readonly dtBias?: Operand | undefined;
  /** `[stateSize, inner]`, negative: already -exp(A_log). */
  readonly a: Operand;
  /** `[inner]`, the skip. */
  readonly d: Operand;
  /** `[inner, d]` */
  readonly output: Operand;
  /** `[rank]`, `[stateSize]`, `[stateSize]`: weights of the RMS norms of what time steps are made from, of B and of C. */
  readonly dtNorm?: Operand | undefined;
  readonly bNorm?: Operand | undefined;
  readonly cNorm?: Operand | undefined;
}

export interface Mamba1Options {
  /** A recurrent memory of the layer, as `mamba1Memory` declares it. */
  readonly memory: MemoryHandle | undefined;
  /** Channels. */
  readonly inner: number;
  readonly stateSize: number;
  /** Width of what time steps are made from. */
  readonly rank: number;
  /**
   * Epsilon of the RMS norms that time steps, B and C go through (Jamba with weights, Falcon-Mamba without). Left out:
   * there are none.
   */
  readonly selectionEps?: number | undefined;
}

/** What a Mamba-1 layer remembers: the states "conv" and "ssm". */
export function mamba1Memory(c: {
  readonly inner: number;
  readonly stateSize: number;
  readonly taps: number;
}): RecurrentMemory {
  const states = { conv: [c.inner, c.taps - 1], ssm: [c.stateSize, c.inner] };
  // The convolution's input, the time steps of all channels, and B.
  return recurrent(states, { inputs: 2 * c.inner + c.stateSize });
}

/**
 * The Mamba-1 mixer (arXiv:2312.00752) with states "conv" and "ssm": projection, causal convolution with SiLU, time
 * steps, B and C selected by its result, selective scan, gate, output projection. x `[d, rows]` gives `[d, rows]`.
 */
export function mamba1Mixer(g: Graph, x: Operand, w: Mamba1Weights, options: Mamba1Options): Tensor {
  const { inner, stateSize, rank, selectionEps } = options;
  const memory = given("mamba1Mixer", options.memory);
  const projected = g.mulMat(w.input, x);
  const convolved = g.convolve(memory, g.slice(projected, 0, inner), {
    state: "conv",
    weight: w.convolution,
    bias: w.convolutionBias,
    silu: true,
  });
  const selected = g.mulMat(w.selection, convolved);
  const part = (from: number, count: number, norm: Operand | undefined): Tensor => {
    const slice = g.slice(selected, from, count);
    return selectionEps === undefined ? g.cont(slice) : g.rmsNorm(slice, selectionEps, norm);
  };
  const scanned = g.scanMamba1(memory, {
    state: "ssm",
    x: convolved,
    dt: g.mulMat(w.dt, part(0, rank, w.dtNorm)),
    dtBias: w.dtBias,
    a: w.a,
    b: part(rank, stateSize, w.bNorm),
    c: part(rank + stateSize, stateSize, w.cNorm),
    d: w.d,
  });
  return g.mulMat(w.output, g.glu(g.slice(projected, inner, inner), scanned, "swiglu"));
}
