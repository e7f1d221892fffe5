/** How ggml is told by how much queries and keys are turned. */

/** Frequencies of rotary embedding (RoFormer, arXiv:2104.09864), scaled or not. */
export interface RopeScaling {
  /** Base of the frequencies. */
  readonly base: number;
  /** Multiplies positions: 1 / factor. Default 1. */
  readonly scale?: number;
  /** Scales slow frequencies by `scale`, and fast ones not. Left out: all by `scale` (linear scaling). */
  readonly yarn?: YarnOptions | undefined;
  /** Multiplies what is rotated. Default 1, or with YaRN 1 + 0.1 log(1 / scale). */
  readonly magnitude?: number;
}

/** YaRN (arXiv:2309.00071). */
export interface YarnOptions {
  /** Positions that the model was trained for before it was extended. */
  readonly originalContext: number;
  /** Frequencies that turn so often in those positions, or more often, are not scaled. Default 32. */
  readonly betaFast?: number;
  /** Frequencies that turn so often in those positions, or less often, are scaled wholly. Default 1. */
  readonly betaSlow?: number;
}

/** The numbers of ggml's rope_ext behind dimensions and mode: the context, and those that are not whole. */
export function ropeNumbers(scaling: RopeScaling): { readonly context: number; readonly floats: readonly number[] } {
  const { base, scale = 1, yarn } = scaling;
  if (yarn === undefined) return { context: 0, floats: [base, scale, 0, scaling.magnitude ?? 1, 32, 1] };
  const { originalContext, betaFast = 32, betaSlow = 1 } = yarn;
  // With an extension ggml multiplies by this itself.
  const own = 1 + 0.1 * Math.log(1 / scale);
  const { magnitude = own } = scaling;
  return { context: originalContext, floats: [base, scale, 1, magnitude / own, betaFast, betaSlow] };
}
