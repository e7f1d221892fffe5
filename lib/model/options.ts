/** What a model is loaded with: the options, their checks, and what they make of the engine. */
import { availableParallelism } from "node:os";
import { checkNames, flagOption, wholeOption, wordOption, wrong } from "../arguments.ts";
import { readEnvironment, readEnvironmentCount } from "../environment.ts";
import { kvTypes, type KvType } from "../memory/layout.ts";
import { engineFlags, type EngineConfig } from "../native/engine.ts";
import type { LoadProgress } from "../native/model.ts";
import type { ReadArchitecture } from "./architecture.ts";
import type { Plugin } from "./registry.ts";

export interface MemoryOptions {
  /** Positions that one sequence may reach. Default: what the model was trained for, at most 4,096. */
  readonly context?: number | undefined;
  /** Sequences that can be held and computed at once. Default 1. */
  readonly sequences?: number | undefined;
  /** Most tokens of one step. Default 512, at most the context. */
  readonly batch?: number | undefined;
  /** Element type of keys and values. Default "f16". */
  readonly kv?: KvType | undefined;
  /**
   * Tokens that can be taken back from the end of every sequence, at most 1,024. Default 0; layers with states need
   * memory for it.
   */
  readonly rollback?: number | undefined;
  /** Bytes that snapshots of sequences may take together. Default 0: none can be taken. */
  readonly snapshotBytes?: number | undefined;
  /**
   * Element type of the states that snapshots hold. "f16" takes half the bytes; what is resumed from such a snapshot is
   * then not to the bit what it was. Default "f32".
   */
  readonly snapshotType?: "f32" | "f16" | undefined;
  /** Positions of all sequences together, where that is fewer than what each could reach. Default: not limited. */
  readonly cells?: number | undefined;
  /** "shared" (default): sequences share attention cells; "separate": each has its own, and copies instead of sharing. */
  readonly streams?: "shared" | "separate" | undefined;
  /** Windows keep all positions and only mask: for moving positions, and deep rollback. Default false. */
  readonly wholeWindows?: boolean | undefined;
  /**
   * Attention rounds as ggml's flash attention does, so that text is llama.cpp's. Default true. Without it sums are f32,
   * and quantised keys and values are refused.
   */
  readonly flashAttention?: boolean | undefined;
  /** Architectures beside the built-in ones: what `defineArchitecture` returns, a file's path or a package's name. */
  readonly plugins?: readonly Plugin[] | undefined;
}

export interface LoadOptions extends MemoryOptions {
  /** Threads that compute. Default: `STRATA_THREADS`, or one for each available core. */
  readonly threads?: number | undefined;
  /** Told how far the loading is; what it throws ends the loading. */
  readonly onProgress?: ((progress: LoadProgress) => void) | undefined;
  /** Ends the loading; the promise rejects with its reason. */
  readonly signal?: AbortSignal | undefined;
}

const defaultContext = 4096;
const defaultBatch = 512;
/** Limits of the library; it checks what numbers come to together, too. */
const countMax = 2 ** 28;
const cellsMax = 2 ** 30;
const rollbackMax = 1024;
const snapshotBytesMax = 2 ** 50;

/** By name, so that none is forgotten. */
const loadOptions: Readonly<Record<keyof LoadOptions, true>> = {
  ...{ context: true, sequences: true, batch: true, kv: true, rollback: true, snapshotBytes: true, snapshotType: true },
  ...{ cells: true, streams: true, wholeWindows: true, flashAttention: true, plugins: true },
  ...{ threads: true, onProgress: true, signal: true },
};

/** Throws on an option that there is not, and on those that are no numbers or words and of the wrong kind. */
export function checkOptions(options: LoadOptions): void {
  checkNames(options, Object.keys(loadOptions));
  const { onProgress, signal } = options;
  if (onProgress !== undefined && typeof onProgress !== "function") throw wrong("onProgress", onProgress, "a function");
  if (signal !== undefined && !(signal instanceof AbortSignal)) throw wrong("signal", signal, "an AbortSignal");
}

/** What the options make of the engine. Throws on those that cannot be. */
export function engineConfig(read: ReadArchitecture, options: LoadOptions): EngineConfig {
  const { config } = read;
  const { context = Math.min(config.contextLength, defaultContext), sequences = 1, batch = defaultBatch } = options;
  const { threads = readEnvironmentCount("STRATA_THREADS") ?? availableParallelism() } = options;
  const { rollback = 0, cells = 0, kv = "f16" } = options;
  wordOption("kv", kv, kvTypes);
  return {
    context: wholeOption("context", context, 1, countMax),
    vocabulary: wholeOption("vocabulary", config.vocabulary, 1, countMax),
    sequences: wholeOption("sequences", sequences, 1, countMax),
    batch: Math.min(wholeOption("batch", batch, 1, countMax), context),
    threads: wholeOption("threads", threads, 1, countMax),
    poll: 50,
    rollback: wholeOption("rollback", rollback, 0, rollbackMax),
    cells: wholeOption("cells", cells, 0, cellsMax),
    snapshotBytes: snapshotBytes(options.snapshotBytes),
    flags: flagsOf(options),
  };
}

function snapshotBytes(value = 0): number {
  if (typeof value === "number" && value >= 0 && value <= snapshotBytesMax) return Math.floor(value);
  throw wrong("snapshotBytes", value, `a number of bytes from 0 to ${snapshotBytesMax}`);
}

function flagsOf(options: LoadOptions): number {
  const { streams = "shared", snapshotType = "f32", wholeWindows = false, flashAttention = true } = options;
  const isSeparate = wordOption("streams", streams, ["shared", "separate"]) === "separate";
  const isHalf = wordOption("snapshotType", snapshotType, ["f32", "f16"]) === "f16";
  return (
    (isSeparate ? engineFlags.separate : 0) |
    (flagOption("wholeWindows", wholeWindows) ? engineFlags.wholeWindows : 0) |
    (flagOption("flashAttention", flashAttention) ? 0 : engineFlags.noFlash) |
    (isHalf ? engineFlags.halfSnapshots : 0) |
    (readEnvironment("STRATA_POISON") === undefined ? 0 : engineFlags.poison)
  );
}
