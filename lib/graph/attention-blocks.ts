/** Attention of other kinds than `selfAttention`. */
import { attention, type AttentionMemory } from "../memory/declaration.ts";
import { given } from "./blocks.ts";
import type { Graph } from "./graph.ts";
import type { MemoryHandle } from "./memory.ts";
import type { Operand, Tensor } from "./tensor.ts";

export interface LatentShape {
  /** Elements of what a token's keys and values are made from. */
  readonly latentDim: number;
  /** Elements of a key that all heads share and that are not compressed. */
  readonly sharedDim: number;
}

export interface LatentAttentionWeights {
  /** `[d, heads (ownDim + sharedDim)]`; a head's own elements first. */
  readonly q: Operand;
  /** `[d, latentDim + sharedDim]` */
  readonly latent: Operand;
  /** `[latentDim]` */
  readonly latentNorm: Operand;
  /** From a head's own part of its query to the latent, `[ownDim, latentDim, heads]`. */
  readonly k: Operand;
  /** From the latent to a head's value, `[latentDim, valueDim, heads]`. */
  readonly v: Operand;
  /** `[heads valueDim, d]` */
  readonly output: Operand;
}

export interface LatentAttentionOptions extends LatentShape {
  /** A memory of the layer, as `latentMemory` declares it. */
  readonly memory: MemoryHandle | undefined;
  readonly heads: number;
  /** Elements of a head's query beside the shared ones. */
  readonly ownDim: number;
  readonly valueDim: number;
  /** Epsilon of the latent's norm. */
  readonly eps: number;
}

/** What latent attention remembers: a latent and a shared key a token, and no values. */
export function latentMemory({ latentDim, sharedDim }: LatentShape): AttentionMemory {
  return attention({ heads: 1, keyDim: latentDim + sharedDim });
}

/**
 * Multi-head latent attention (arXiv:2405.04434) without positions. A token is remembered as one latent vector; the
 * matrices that would make keys and values of it are applied to queries and to what attention gives instead.
 * x `[d, rows]` gives `[d, rows]`.
 */
export function latentAttention(
  g: Graph,
  x: Operand,
  w: LatentAttentionWeights,
  options: LatentAttentionOptions,
): Tensor {
  const { heads, latentDim, sharedDim, ownDim, valueDim, eps } = options;
  const memory = given("latentAttention", options.memory);
  /** A product for each head: `[n, heads, rows]` gives `[m, heads, rows]`. */
  const byHead = (weight: Operand, t: Tensor) => g.permute(g.mulMat(weight, g.permute(t, 0, 2, 1, 3)), 0, 2, 1, 3);
  const q = g.reshape(g.mulMat(w.q, x), ownDim + sharedDim, heads, g.rows);
  const token = g.mulMat(w.latent, x);
  const latent = g.rmsNorm(g.slice(token, 0, latentDim), eps, w.latentNorm);
  const attended = g.attend(memory, {
    queries: g.concat(byHead(w.k, g.slice(q, 0, ownDim)), g.slice(q, ownDim, sharedDim), 0),
    keys: g.reshape(g.concat(latent, g.slice(token, latentDim, sharedDim), 0), latentDim + sharedDim, 1, g.rows),
    valueDim: latentDim,
    scale: 1 / Math.sqrt(ownDim + sharedDim),
  });
  const values = g.cont(byHead(w.v, attended));
  return g.mulMat(w.output, g.reshape(values, valueDim * heads, g.rows));
}
