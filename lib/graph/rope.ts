/** How ggml is told to turn queries and keys by their positions. */
import type { RopeOptions } from "./options.ts";

/** YaRN (arXiv:2309.00071). */
export interface YarnOptions {
  /** Positions that the model was trained for before it was extended. */
  readonly originalContext: number;
  /** Frequencies that turn so often in those positions, or more often, are not scaled. Default 32. */
  readonly betaFast?: number;
  /** Frequencies that turn so often in those positions, or less often, are scaled wholly. Default 1. */
  readonly betaSlow?: number;
}

/** The numbers of ggml's rope_ext behind dimensions and mode: those that are whole, and the others. */
export function ropeNumbers(options: RopeOptions): { readonly context: number; readonly floats: readonly number[] } {
  const { base, scale = 1, yarn } = options;
  if (yarn === undefined) return { context: 0, floats: [base, scale, 0, options.magnitude ?? 1, 32, 1] };
  const { originalContext, betaFast = 32, betaSlow = 1 } = yarn;
  // With an extension ggml multiplies by this itself.
  const own = 1 + 0.1 * Math.log(1 / scale);
  const { magnitude = own } = options;
  return { context: originalContext, floats: [base, scale, 1, magnitude / own, betaFast, betaSlow] };
}
