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
/** What a block of 32 numbers is quantised together of. */
const blocky: AttentionPart = {
  ...full,
  heads: 2,
  keyDim: 32,
  valueDim: 32,
  rope: { mode: "neox", base: 100, dims: 32 },
};
/** Heads of all numbers, none of their sizes a power of two. */
const odd = ([1, 2, 3, 4, 5] as const).map((heads): AttentionPart => ({
  kind: "attention",
  heads,
  group: (heads % 3) + 1,
  keyDim: 2 * heads + 1,
  valueDim: 11 - 2 * heads,
}));
const budget = 300_000;

export const declarations: readonly Declared[] = [
  {
    name: "full attention",
    layers: [[full], [], [plain]],
    options: { kv: "f32", batch: 9, snapshotBytes: budget },
  },
  {
    name: "two windows, full, two shapes of states, nothing, shared",
    layers: [[full], [narrow], [wide], [mamba], [double], [], [first]],
    options: { kv: "f32", batch: 32, rollback: 3, snapshotBytes: budget },
  },
  {
    name: "windows only",
    layers: [[narrow], [wide], [{ ...plain, window: 1 }]],
    options: { kv: "f32", batch: 6, snapshotBytes: budget },
  },
  {
    name: "windows that can be taken back",
    layers: [[narrow], [{ ...full, window: 20 }], [full]],
    options: { kv: "f32", batch: 24, rollback: 8, snapshotBytes: budget },
  },
  {
    name: "states with logs",
    layers: [[large], [{ ...large, scans: [{ heads: 2, headDim: 8, groups: 2, stateSize: 12 }], bypass: true }], []],
    options: { batch: 8, rollback: 8, snapshotBytes: budget },
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
    options: { kv: "f32", batch: 7, rollback: 8, snapshotBytes: budget },
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
    options: { kv: "f32", batch: 11, rollback: 3, streams: "separate", snapshotBytes: budget, threads: 2 },
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
    options: { kv: "f32", batch: 8, cells: 192, rollback: 3, snapshotBytes: budget },
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
  {
    name: "a window of one, one of two and one beyond the context",
    layers: [[{ ...full, window: 1 }], [{ ...plain, window: 2 }], [{ ...full, heads: 1, window: 1000 }], [mamba]],
    options: { kv: "f32", batch: 17, rollback: 2, snapshotBytes: budget },
  },
  {
    name: "chunks of one and of seven",
    layers: [[{ ...full, chunk: 7 }], [{ ...plain, chunk: 1 }], [{ ...full, heads: 1, chunk: 500 }]],
    options: { kv: "f32", batch: 24, rollback: 5, snapshotBytes: budget },
  },
  {
    name: "symmetric windows of one and of three, and states",
    layers: [[{ ...full, symmetric: 3 }], [{ ...plain, symmetric: 1 }], [short], [{ ...full, symmetric: 1000 }]],
    options: { kv: "f32", batch: 24, rollback: 4, snapshotBytes: budget },
  },
  {
    name: "one to five heads of odd sizes",
    layers: [...odd.map((part): Layer => [part]), odd.map((part) => ({ ...part, window: 3 * part.heads }))],
    options: { kv: "f32", batch: 24, rollback: 3, snapshotBytes: budget },
  },
  {
    name: "several states in one layer, two of them with f16 convolutions",
    layers: [
      [{ ...double, half: true }, mamba, short, { ...short, half: true, channels: 5 }],
      [large, mamba],
    ],
    options: { batch: 24, rollback: 4, snapshotBytes: budget },
  },
  {
    name: "memories that several layers share",
    layers: [[narrow, plain], [], [{ kind: "shared", layer: 0, part: 1 }, first], [mamba], [first], [first, full]],
    options: { kv: "f32", batch: 24, rollback: 2, snapshotBytes: budget },
  },
  {
    name: "batches of one",
    layers: [[full], [narrow], [large], [double]],
    options: { kv: "f32", batch: 1, rollback: 2, snapshotBytes: budget },
  },
  {
    name: "sequences of several blocks",
    layers: [[full], [{ ...plain, window: 70 }], [{ ...full, heads: 1, chunk: 64 }]],
    options: { kv: "f32", context: 400, batch: 20, rollback: 6, snapshotBytes: 4 * budget },
  },
  {
    name: "sequences of several blocks with states",
    layers: [[full], [mamba], [{ ...plain, window: 64 }], [large]],
    options: { kv: "f32", context: 330, batch: 64, rollback: 16, snapshotBytes: 4 * budget },
  },
  {
    name: "sequences of several blocks in streams of their own, few at once",
    layers: [[full], [{ ...plain, window: 130 }], [large]],
    options: { kv: "f32", context: 260, batch: 130, streams: "separate", rollback: 3, snapshotBytes: 4 * budget },
  },
  {
    name: "sequences of several blocks and few cells",
    layers: [[full], [{ ...plain, window: 64 }], [mamba]],
    options: { kv: "f32", context: 300, batch: 12, cells: 512, rollback: 1, snapshotBytes: 2 * budget },
  },
  {
    name: "keys without values in whole windows",
    layers: [
      [{ ...plain, keyDim: 8, valueDim: 5, keysOnly: true, window: 6 }],
      [{ ...full, valueDim: 8, keysOnly: true }],
    ],
    options: { kv: "f32", batch: 24, wholeWindows: true, rollback: 3, snapshotBytes: budget },
  },
  {
    name: "bf16, and states whose snapshots are f16",
    layers: [[full], [narrow], [mamba], [large]],
    options: { kv: "bf16", batch: 24, rollback: 3, snapshotType: "f16", snapshotBytes: budget },
  },
  {
    name: "q8_0",
    layers: [[blocky], [{ ...blocky, heads: 1, window: 20 }], [mamba]],
    options: { kv: "q8_0", batch: 24, rollback: 3, snapshotBytes: 4 * budget },
  },
  {
    name: "q4_0",
    layers: [[{ ...blocky, heads: 1 }], [{ ...blocky, chunk: 16 }], [short]],
    options: { kv: "q4_0", batch: 24, rollback: 3, streams: "separate", snapshotBytes: 4 * budget },
  },
  {
    name: "keys without values, q8_0",
    layers: [[{ ...blocky, keysOnly: true }], [{ ...blocky, heads: 1, group: 3, keysOnly: true, window: 9 }]],
    options: { kv: "q8_0", batch: 24, snapshotBytes: 4 * budget },
  },
  {
    name: "windows only and few cells",
    layers: [[narrow], [wide], [chunked]],
    options: { kv: "f32", context: 300, batch: 16, cells: 320 },
  },
];
