/** Declarations for the random programs: those that models have, and those that none would. */
import type { MemoryOptions } from "ggstrata";
import type { AttentionPart, Layer, RecurrentPart, SharedPart } from "./made-up-architecture.ts";

export interface Declared {
  readonly name: string;
  readonly layers: readonly Layer[];
  readonly options: MemoryOptions & { readonly threads?: number };
}

const neox = { mode: "neox", base: 100, dims: 8 } as const;
const full: AttentionPart = { kind: "attention", heads: 2, group: 1, keyDim: 8, valueDim: 8, rope: neox };
const plain: AttentionPart = { kind: "attention", heads: 1, group: 2, keyDim: 4, valueDim: 6 };
const narrow: AttentionPart = { ...full, heads: 1, group: 3, valueDim: 4, window: 5 };
const wide: AttentionPart = { ...plain, heads: 3, group: 1, window: 18 };
const chunked: AttentionPart = { ...full, heads: 1, chunk: 8 };
const symmetric: AttentionPart = { ...full, group: 2, symmetric: 13 };
const first: SharedPart = { kind: "shared", layer: 0, part: 0 };
const short: RecurrentPart = { kind: "recurrent", channels: 6, taps: 3, scans: [] };
const mamba: RecurrentPart = {
  kind: "recurrent",
  channels: 0,
  taps: 4,
  scans: [{ heads: 4, headDim: 2, groups: 2, stateSize: 4 }],
};
const double: RecurrentPart = {
  kind: "recurrent",
  channels: 3,
  taps: 2,
  scans: [
    { heads: 2, headDim: 3, groups: 1, stateSize: 8 },
    { heads: 1, headDim: 4, groups: 1, stateSize: 2 },
  ],
};
const large: RecurrentPart = {
  ...mamba,
  scans: [{ heads: 4, headDim: 4, groups: 1, stateSize: 16 }],
  logged: true,
};
const budget = 300_000;

export const declarations: readonly Declared[] = [
  {
    name: "full attention",
    layers: [[full], [], [plain]],
    options: { kv: "f32", batch: 24, snapshotBytes: budget },
  },
  {
    name: "two windows, full, two shapes of states, nothing, shared",
    layers: [[full], [narrow], [wide], [mamba], [double], [], [first]],
    options: { kv: "f32", batch: 32, rollback: 3, snapshotBytes: budget },
  },
  {
    name: "windows only",
    layers: [[narrow], [wide], [{ ...plain, window: 1 }]],
    options: { kv: "f32", batch: 16, snapshotBytes: budget },
  },
  {
    name: "windows that can be taken back",
    layers: [[narrow], [{ ...full, window: 20 }], [full]],
    options: { kv: "f32", batch: 24, rollback: 8, snapshotBytes: budget },
  },
  {
    name: "states with logs",
    layers: [[large], [{ ...large, scans: [{ heads: 2, headDim: 8, groups: 2, stateSize: 12 }], bypass: true }], []],
    options: { batch: 20, rollback: 8, snapshotBytes: budget },
  },
  {
    name: "states that are kept, one of them f16",
    layers: [[short], [{ ...double, half: true }], [mamba]],
    options: { batch: 32, rollback: 3, snapshotBytes: budget },
  },
  {
    name: "states that cannot go back",
    layers: [[double], [{ ...short, taps: 5 }], [mamba]],
    options: { batch: 40, snapshotBytes: budget, threads: 2 },
  },
  {
    name: "chunks and states with and without logs",
    layers: [[chunked], [large], [short], [mamba]],
    options: { kv: "f32", batch: 24, rollback: 3, snapshotBytes: budget },
  },
  {
    name: "chunks and full attention",
    layers: [[chunked], [full], [first]],
    options: { kv: "f32", batch: 24, rollback: 8, snapshotBytes: budget },
  },
  {
    name: "symmetric windows",
    layers: [[symmetric], [full], [{ ...plain, symmetric: 6, softcap: 2 }]],
    options: { kv: "f32", batch: 24, rollback: 3, snapshotBytes: budget },
  },
  {
    name: "keys without values",
    layers: [
      [{ ...full, valueDim: 4, keysOnly: true }],
      [{ ...plain, keyDim: 8, valueDim: 8, keysOnly: true, window: 9, rope: { mode: "normal", base: 50, dims: 4 } }],
    ],
    options: { kv: "f32", batch: 32, rollback: 3, snapshotBytes: budget },
  },
  {
    name: "whole windows",
    layers: [[narrow], [wide], [chunked], [full]],
    options: { kv: "f32", batch: 24, wholeWindows: true, snapshotBytes: budget },
  },
  {
    name: "streams of their own with states",
    layers: [[full], [narrow], [large], [double]],
    options: { kv: "f32", batch: 24, rollback: 3, streams: "separate", snapshotBytes: budget, threads: 2 },
  },
  {
    name: "streams of their own",
    layers: [[full], [wide]],
    options: { kv: "f32", batch: 24, streams: "separate", snapshotBytes: budget },
  },
  {
    name: "streams of their own without windows",
    layers: [[full], [plain], [chunked]],
    options: { kv: "f32", batch: 40, streams: "separate", wholeWindows: true, snapshotBytes: 3 * budget },
  },
  {
    name: "few cells",
    layers: [[full], [wide]],
    options: { kv: "f32", batch: 24, cells: 192, rollback: 3, snapshotBytes: budget },
  },
  {
    name: "other heads in each layer, several memories in one, f16",
    layers: [[full, mamba], [{ ...plain, heads: 4, group: 2, keyDim: 6, valueDim: 3 }, narrow], [first]],
    options: { kv: "f16", flashAttention: false, batch: 32, rollback: 3, snapshotBytes: budget },
  },
  {
    name: "keys that cannot be turned on, f16",
    layers: [[{ ...full, keyScale: 1.5 }], [plain]],
    options: { kv: "f16", batch: 32, snapshotBytes: budget },
  },
  {
    name: "snapshots of states in f16",
    layers: [[full], [mamba], [large], [{ ...short, half: true }], [narrow]],
    options: { kv: "f32", batch: 24, rollback: 8, snapshotType: "f16", snapshotBytes: budget },
  },
  {
    name: "no memory at all",
    layers: [[], []],
    options: { batch: 24, snapshotBytes: budget },
  },
];
