import {
  engineFlags,
  measureMemory,
  type EngineConfig,
  type LoweredMemory,
  type MemoryShare,
} from "../native/engine.ts";
import { typeNumber } from "../native/model.ts";
import type { LayerMemory, MemoryRecord, RecurrentMemory, Rollback } from "./declaration.ts";
import type { MemoryKind, ModelMemory, PlacedMemory } from "./placed.ts";
import { readable } from "./table.ts";

/** Element type of keys and values. */
export type KvType = "f32" | "f16" | "bf16" | "q8_0" | "q4_0";
export const kvTypes: readonly KvType[] = ["f32", "f16", "bf16", "q8_0", "q4_0"];

/** A declaration made ready for the library: each memory numbered, in the order of layers and names. */
export interface MemoryLayout {
  readonly memory: ModelMemory;
  readonly lowered: readonly LoweredMemory[];
  /** Number of each layer's memories by name. */
  readonly numbers: readonly Readonly<Record<string, number>>[];
  /** The record behind each number. */
  readonly records: readonly MemoryRecord[];
}

/** Resolves and measures a declaration that `checkMemory` has checked. Throws where it cannot be, naming the layer. */
export function layOutMemory(layers: readonly LayerMemory[], kv: KvType, config: EngineConfig): MemoryLayout {
  const kvNumber = typeNumber(kv);
  const lowered: LoweredMemory[] = [];
  const records: MemoryRecord[] = [];
  const owners: (number | undefined)[] = [];
  const numbers: Record<string, number>[] = [];
  for (const [index, layer] of layers.entries()) {
    const own: Record<string, number> = {};
    for (const [name, declared] of Object.entries(layer)) {
      if (declared === undefined) continue;
      own[name] = records.length;
      if (declared.kind === "shared") {
        // `checkMemory` has seen to it that there is one.
        const from = numbers[declared.layer]?.[declared.name] as number;
        const record = records[from] as MemoryRecord;
        lowered.push({ kind: "shared", layer: index, from, of: record.kind });
        records.push(record);
        owners.push(declared.layer);
      } else {
        lowered.push(lowerRecord(declared, index, kvNumber));
        records.push(declared);
        owners.push(undefined);
      }
    }
    numbers.push(own);
  }
  const { shares, totals } = measureMemory(lowered, config);
  const placed = layers.map((_, index) => ({
    index,
    memories: Object.entries(numbers[index] ?? {}).map(([name, number]): PlacedMemory => {
      const record = records[number] as MemoryRecord;
      const share = shares[number] as (typeof shares)[number];
      const sharedFrom = owners[number];
      return {
        name,
        kind: record.kind,
        description: describe(record, kv, sharedFrom),
        sharedFrom,
        bytes: share.bytes,
        cells: share.cells,
        bytesPerCell: share.bytesPerCell,
        rollbackBytes: share.rollbackBytes,
        rollback: rollbackOf(record, share.method, config),
        snapshotBytes: share.snapshotBytes,
        record,
      };
    }),
  }));
  const memory = readable({ ...nameKind(records), ...totals, layers: placed });
  return { memory, lowered, numbers, records };
}

/** Where nothing is kept for taking tokens back, only what keeps every position can cut some off. */
function rollbackOf(record: MemoryRecord, method: MemoryShare["method"], config: EngineConfig): Rollback {
  if (record.kind === "attention") return config.rollback > 0 || keepsAll(record, config) ? "truncate" : "none";
  if (config.rollback === 0) return "none";
  return method === "log" ? "replay" : "snapshot";
}

/** Whether a memory lets no position go before the context ends. */
export function keepsAll({ extent }: MemoryRecord, { context, flags }: EngineConfig): boolean {
  if (extent.kind === "state") return false;
  if (extent.kind === "all" || (flags & engineFlags.wholeWindows) !== 0) return true;
  return (extent.kind === "symmetric" ? Math.floor(extent.size / 2) : extent.size) >= context;
}

const extentNames = { all: "all", window: "sliding", chunk: "chunked", symmetric: "symmetric", state: "all" } as const;

function lowerRecord(record: MemoryRecord, layer: number, kvType: number): LoweredMemory {
  if (record.kind === "recurrent") {
    const states = Object.values(record.tensors).map(({ shape, dtype }) => ({
      elements: shape.reduce((product, n) => product * n, 1),
      type: typeNumber(dtype === "f16" ? "f16" : "f32"),
    }));
    return { kind: "recurrent", layer, states, inputs: record.inputs };
  }
  const { extent, heads, keyDim, valueDim } = record;
  return {
    kind: "attention",
    layer,
    extent: extentNames[extent.kind],
    window: "size" in extent ? extent.size : 0,
    heads,
    keyDim,
    valueDim,
    keyType: kvType,
    valueType: kvType,
  };
}

function describe(record: MemoryRecord, kv: KvType, sharedFrom: number | undefined): string {
  if (sharedFrom !== undefined) return `shared from layer ${sharedFrom}`;
  if (record.kind === "recurrent") {
    return `recurrent states: ${describeStates(record.tensors)}`;
  }
  const { extent, heads, keyDim, valueDim } = record;
  const span = describeExtent(extent);
  if (valueDim === 0) return `keys of ${span}: ${heads} heads of ${keyDim} (${kv})`;
  const dims = keyDim === valueDim ? `${keyDim}` : `${keyDim}/${valueDim}`;
  return `keys and values of ${span}: ${heads} heads of ${dims} (${kv})`;
}

/** Where all are of one type, it is said once. */
function describeStates(tensors: RecurrentMemory["tensors"]): string {
  const types = new Set(Object.values(tensors).map(({ dtype }) => dtype));
  const texts = Object.entries(tensors).map(([name, { shape, dtype }]) => {
    return `${name} ${shape.join(" x ")}${types.size > 1 ? ` (${dtype})` : ""}`;
  });
  return types.size > 1 ? texts.join(", ") : `${texts.join(", ")} (${[...types].join()})`;
}

function describeExtent(extent: MemoryRecord["extent"]): string {
  switch (extent.kind) {
    case "window":
      return `the last ${extent.size} tokens`;
    case "chunk":
      return `chunks of ${extent.size} tokens`;
    case "symmetric":
      return `tokens at most ${Math.floor(extent.size / 2)} away`;
    default:
      return "every token";
  }
}

function nameKind(records: readonly MemoryRecord[]): { kind: MemoryKind; isRecurrent: boolean; isHybrid: boolean } {
  const attentions = records.filter((record) => record.kind === "attention");
  const hasStates = attentions.length < records.length;
  const isHybrid = hasStates && attentions.length > 0;
  const windows = attentions.filter((record) => record.extent.kind !== "all").length;
  let kind: MemoryKind;
  if (records.length === 0) kind = "none";
  else if (isHybrid) kind = "hybrid";
  else if (hasStates) kind = "recurrent";
  else if (windows === 0) kind = "unified";
  else kind = windows === attentions.length ? "sliding" : "iswa";
  return { kind, isRecurrent: hasStates && !isHybrid, isHybrid };
}
