/** The options that a model is loaded with, others that its files are brought back under, and what they do to sums. */
import type { LoadOptions } from "ggstrata";
import { context, type Layer } from "../made-up-architecture.ts";

export type Options = Omit<LoadOptions, "plugins">;

/** Greatest normalised mean squared error of types whose rounding shows, with room for what cancels out. */
const lossy = { f32: 1e-8, f16: 1e-5, bf16: 3e-4, q8_0: 3e-3, q4_0: 0.3 } as const;

/** How far logits may be from exact ones. */
export function toleranceOf(layers: readonly Layer[], { kv = "f16", flashAttention, snapshotType }: Options): number {
  const hasHalves = layers.flat().some((one) => one.kind === "recurrent" && one.half);
  const hasAttention = layers.flat().some(({ kind }) => kind === "attention");
  const states = hasHalves || snapshotType === "f16" ? 1e-5 : 1e-8;
  if (!hasAttention) return states;
  // As ggml's flash attention, it sums values in f16, which shows where they cancel each other.
  const sums = kv === "f16" && flashAttention !== false ? 1e-4 : 0;
  return Math.max(states, sums, lossy[kv]);
}

/**
 * The same model with room for more and nothing in common that may differ; with windows and snapshots of the other kind;
 * for shorter sequences; with another type of keys and values; with room for no snapshot.
 */
export function variantsOf(layers: readonly Layer[], options: Options): Options[] {
  const { context: reach = context, rollback, streams, wholeWindows, snapshotType, kv = "f16" } = options;
  const hasHalves = layers.flat().some((one) => one.kind === "recurrent" && one.half);
  const own = { ...options, cells: 0 };
  return [
    {
      ...own,
      context: 2 * reach,
      batch: 7,
      sequences: 6,
      rollback: rollback ? 0 : hasHalves ? 2 : 5,
      streams: streams === "separate" ? "shared" : "separate",
      snapshotBytes: 3 * (options.snapshotBytes ?? 0),
    },
    { ...own, wholeWindows: !wholeWindows, snapshotType: snapshotType === "f16" ? "f32" : "f16", threads: 2 },
    { ...own, context: Math.floor(reach / 2), batch: Math.floor(reach / 2), sequences: 5 },
    { ...own, kv: kv === "f32" ? "f16" : "f32" },
    { ...own, snapshotBytes: 0 },
  ];
}
