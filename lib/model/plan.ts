/** What a model would take, from its file's header and its architecture's declaration alone. */
import { formatBytes } from "../format.ts";
import type { Reuse, Rollback } from "../memory/declaration.ts";
import { keepsAll, layOutMemory, type KvType, type MemoryLayout } from "../memory/layout.ts";
import type { MemoryKind, PlacedMemory } from "../memory/placed.ts";
import { engineFlags, NativeEngine, type EngineConfig } from "../native/engine.ts";
import type { GraphFacts } from "../native/graph.ts";
import type { ReadArchitecture } from "./architecture.ts";
import { buildGraph, declareWeights, memoryHandles } from "./build.ts";
import { openModelFile, type ModelFile } from "./file.ts";
import { machineBytes } from "./machine.ts";
import { nameFile } from "./model.ts";
import { checkOptions, engineConfig, type MemoryOptions } from "./options.ts";
import { readArchitecture } from "./read.ts";
import { findArchitecture } from "./registry.ts";

export interface PlanOptions extends MemoryOptions {
  /** Threads that will compute; each works in memory of its own. Default as for `loadModel`. */
  readonly threads?: number | undefined;
}

/** What one memory of one layer takes. `bytes` is the sum of the next four. */
export interface PlannedMemory {
  readonly name: string;
  readonly kind: "attention" | "recurrent";
  /** What it remembers, in words. */
  readonly description: string;
  /** The layer whose memory this is, where it is shared and takes nothing itself. */
  readonly sharedFrom: number | null;
  /** From where it can be resumed under these options. */
  readonly reuse: Reuse;
  /** How tokens are taken back. */
  readonly rollback: Rollback;
  /** Positions for attention, states for recurrent memories; over all sequences and snapshots. */
  readonly cells: number;
  readonly bytesPerCell: number;
  readonly bytes: number;
  /** For the sequences themselves: positions, or of each state the one that a step reads and the one it writes. */
  readonly sequenceBytes: number;
  readonly rollbackBytes: number;
  readonly snapshotBytes: number;
  /** What fills up blocks of cells and cache lines. */
  readonly paddingBytes: number;
}

/** What the graph of steps of one shape takes. */
export interface PlannedStep extends GraphFacts {
  /** Tokens of the step, and those whose logits are computed. */
  readonly rows: number;
  readonly outputs: number;
}

/** What a model would take; plain data. */
export interface MemoryPlan {
  readonly path: string;
  /** GGUF's `general.architecture`. */
  readonly architecture: string;
  readonly kind: MemoryKind;
  /** The options, those left out filled in. */
  readonly options: {
    readonly context: number;
    readonly sequences: number;
    readonly batch: number;
    readonly kv: KvType;
    readonly rollback: number;
    readonly snapshotBytes: number;
    /** Element type of the states that snapshots hold. */
    readonly snapshotType: "f32" | "f16";
    /** Positions of all sequences together; 0: as many as each may reach. */
    readonly cells: number;
    readonly streams: "shared" | "separate";
    readonly wholeWindows: boolean;
    readonly flashAttention: boolean;
    readonly threads: number;
  };
  readonly layers: readonly { readonly index: number; readonly memories: readonly PlannedMemory[] }[];
  /** All memories; `counters().memoryBytes` of the loaded model. */
  readonly memoryBytes: number;
  /** Results of a step's operations, and what operations work in, once steps of all of `steps` have run. */
  readonly computeBytes: number;
  readonly workBytes: number;
  readonly scratchBytes: number;
  /** The shapes of steps that generating needs most for. */
  readonly steps: readonly PlannedStep[];
  readonly weights: {
    readonly fileBytes: number;
    /** Bytes of the file that are computed with where they are mapped. */
    readonly mappedBytes: number;
    /** Bytes that are put in another order in memory of their own; their pages in the file are given back. */
    readonly repackedBytes: number;
  };
  readonly snapshots: {
    readonly bytesEach: number;
    readonly budgetBytes: number;
    /** How many fit. */
    readonly count: number;
  };
  /**
   * Tokens that a prompt must share with an earlier one for any of its work to be reused: 1 where every memory can be
   * resumed anywhere; else the distance between as many snapshots as fit, spread over one context; null where none fits.
   */
  readonly smallestReusablePrefix: number | null;
  /** All of the above but the file: what is allocated. */
  readonly allocatedBytes: number;
  /** What is allocated, and the weights that stay mapped. */
  readonly totalBytes: number;
  /** What is possible and hardly wanted, such as more memory than the machine has. */
  readonly warnings: readonly string[];
}

/**
 * Plans a model without loading its weights: the bytes of each memory as `loadModel` would allocate them, and of the
 * graphs, which are really built. All options of `loadModel` may be given. Throws a `StrataError` with the reason where
 * the combination is impossible.
 */
export async function planMemory(path: string, options: PlanOptions = {}): Promise<MemoryPlan> {
  checkOptions(options);
  using file = openModelFile(path);
  try {
    const architecture = await findArchitecture(file.metadata, options.plugins ?? []);
    const read = readArchitecture(architecture, file.metadata);
    const config = engineConfig(read, options);
    const layout = layOutMemory(read.memory, options.kv ?? "f16", config);
    return summarise({ file, read, options, config, layout, ...(await measure(file, read, layout, config)) });
  } catch (error) {
    throw nameFile(path, error);
  }
}

interface Measured {
  readonly steps: readonly PlannedStep[];
  readonly weights: { readonly mappedBytes: number; readonly repackedBytes: number };
}

/** Builds graphs in an engine that allocates no memory for them. */
async function measure(
  file: ModelFile,
  read: ReadArchitecture,
  layout: MemoryLayout,
  config: EngineConfig,
): Promise<Measured> {
  const { native, weights } = declareWeights(file, read);
  try {
    const engine = new NativeEngine(native, layout.lowered, { ...config, flags: config.flags | engineFlags.dry });
    try {
      const architecture = file.metadata.string("general.architecture");
      const parts = { engine, read, weights, handles: memoryHandles(layout), architecture };
      const steps = stepShapes(config).map(([rows, outputs]) => {
        const { operations: _, ...facts } = buildGraph(parts, rows, outputs);
        return { rows, outputs, ...facts };
      });
      return { steps, weights: native.measure() };
    } finally {
      await engine.close();
    }
  } finally {
    native.free();
  }
}

/** One sequence decodes; all decode; a prompt fills the batch; prompts of all sequences end in one batch. */
function stepShapes({ batch, sequences }: EngineConfig): [rows: number, outputs: number][] {
  const together = Math.min(sequences, batch);
  const shapes: [number, number][] = [
    [1, 1],
    [together, together],
    [batch, 1],
    [batch, together],
  ];
  return shapes.filter(([rows, outputs], i) => shapes.findIndex(([r, o]) => r === rows && o === outputs) === i);
}

interface PlanParts extends Measured {
  readonly file: ModelFile;
  readonly read: ReadArchitecture;
  readonly options: PlanOptions;
  readonly config: EngineConfig;
  readonly layout: MemoryLayout;
}

function summarise({ file, read, options, config, layout, steps, weights }: PlanParts): MemoryPlan {
  const { kind, bytes: memoryBytes, bytesPerSnapshot, snapshots: count, layers } = layout.memory;
  const most = (of: (step: PlannedStep) => number) => Math.max(...steps.map(of));
  const computeBytes = most((step) => step.computeBytes);
  const workBytes = most((step) => step.workBytes);
  const scratchBytes = most((step) => step.scratchBytes);
  const allocatedBytes = memoryBytes + computeBytes + workBytes + scratchBytes + weights.repackedBytes;
  const { context, sequences, batch, rollback, snapshotBytes, cells, threads } = config;
  const plan: Omit<MemoryPlan, "warnings"> = {
    path: file.path,
    architecture: file.metadata.string("general.architecture"),
    kind,
    options: {
      ...{ context, sequences, batch, kv: options.kv ?? "f16", rollback, snapshotBytes, cells, threads },
      snapshotType: options.snapshotType ?? "f32",
      streams: options.streams ?? "shared",
      wholeWindows: options.wholeWindows ?? false,
      flashAttention: options.flashAttention ?? true,
    },
    layers: layers.map(({ index, memories }) => ({
      index,
      memories: memories.map((placed) => planOne(placed, config)),
    })),
    ...{ memoryBytes, computeBytes, workBytes, scratchBytes, steps },
    weights: { fileBytes: file.fileBytes, ...weights },
    snapshots: { bytesEach: bytesPerSnapshot, budgetBytes: snapshotBytes, count },
    smallestReusablePrefix: smallestPrefix(layout, config, count),
    allocatedBytes,
    totalBytes: allocatedBytes + weights.mappedBytes,
  };
  return { ...plan, warnings: warningsOf(plan, read.config.contextLength) };
}

function planOne(placed: PlacedMemory, config: EngineConfig): PlannedMemory {
  const { name, kind, description, sharedFrom = null, record, rollback } = placed;
  const { cells, bytesPerCell, bytes, rollbackBytes, snapshotBytes } = placed;
  const reuse = keepsAll(record, config) ? "prefix" : record.reuse;
  const sequenceBytes = sharedFrom === null ? sequenceCells(placed, config) * bytesPerCell : 0;
  const paddingBytes = bytes - sequenceBytes - rollbackBytes - snapshotBytes;
  return {
    ...{ name, kind, description, sharedFrom, reuse, rollback, cells, bytesPerCell, bytes },
    ...{ sequenceBytes, rollbackBytes, snapshotBytes, paddingBytes },
  };
}

/** Cells that sequences can fill. What a step pushes out of a window is let go when it has succeeded. */
function sequenceCells({ record }: PlacedMemory, config: EngineConfig): number {
  const { sequences, context, batch, cells, flags } = config;
  if (record.kind === "recurrent") return 2 * sequences;
  const { extent } = record;
  const isWhole = !("size" in extent) || keepsAll(record, config);
  const each = isWhole ? context : Math.min(context, extent.size + batch);
  const isLimited = cells > 0 && (flags & engineFlags.separate) === 0;
  return isLimited ? Math.min(sequences * each, cells) : sequences * each;
}

function smallestPrefix({ records }: MemoryLayout, config: EngineConfig, snapshots: number): number | null {
  if (records.every((record) => keepsAll(record, config))) return 1;
  return snapshots === 0 ? null : Math.ceil(config.context / snapshots);
}

function warningsOf(plan: Omit<MemoryPlan, "warnings">, trainedContext: number): string[] {
  const { totalBytes, snapshots, options } = plan;
  const warnings: string[] = [];
  const machine = machineBytes();
  if (totalBytes > machine) {
    warnings.push(`it takes ${formatBytes(totalBytes)}, and this machine has ${formatBytes(machine)}`);
  }
  if (options.context > trainedContext) {
    warnings.push(`the context is ${options.context}, and the model was trained for ${trainedContext} positions`);
  }
  if (snapshots.budgetBytes > 0 && snapshots.count === 0) {
    const { bytesEach, budgetBytes } = snapshots;
    warnings.push(
      bytesEach === 0
        ? "snapshots need no memory here, and none is set aside"
        : `a snapshot is counted as ${formatBytes(bytesEach)}, and none fits in ${formatBytes(budgetBytes)}`,
    );
  }
  return warnings;
}
