import type { StrataError } from "../errors.ts";
import { Extent, Logits, MemoryKind, Method, TaskKind } from "./abi.ts";
import { eventPump, type NativeEvent } from "./events.ts";
import { check, native } from "./library.ts";
import type { NativeModel } from "./model.ts";
import type { NativeState } from "./state.ts";
import { Struct } from "./struct.ts";

const utf8 = new TextEncoder();

/** One declared memory, lowered to what the library knows. Element types are ggml's numbers. */
export type LoweredMemory =
  | {
      readonly kind: "attention";
      readonly layer: number;
      readonly extent: keyof typeof Extent;
      readonly window: number;
      readonly heads: number;
      readonly keyDim: number;
      readonly valueDim: number;
      readonly keyType: number;
      readonly valueType: number;
    }
  | {
      readonly kind: "recurrent";
      readonly layer: number;
      /** Elements and ggml type of each state. */
      readonly states: readonly { readonly elements: number; readonly type: number }[];
      /** Numbers a token from which states can be computed again; 0 = they cannot. */
      readonly inputs: number;
    }
  | { readonly kind: "shared"; readonly layer: number; readonly from: number; readonly of: "attention" | "recurrent" };

export interface EngineConfig {
  readonly threads: number;
  readonly sequences: number;
  readonly context: number;
  readonly batch: number;
  readonly vocabulary: number;
  readonly poll: number;
  readonly rollback: number;
  /** Attention cells of all sequences together; 0 = as many as each could fill. */
  readonly cells: number;
  readonly snapshotBytes: number;
  /** Bits of `engineFlags`. */
  readonly flags: number;
}

/** `Engine.Config.Flags` of the library. */
export const engineFlags = { separate: 1, wholeWindows: 2, noFlash: 4, dry: 8, poison: 16, halfSnapshots: 32 } as const;

export interface MemoryShare {
  readonly pool: number;
  /** How tokens are taken back of a recurrent memory. */
  readonly method: keyof typeof Method;
  readonly cells: number;
  readonly bytesPerCell: number;
  /** All of it; the next two are parts of this. */
  readonly bytes: number;
  readonly rollbackBytes: number;
  readonly snapshotBytes: number;
}

/** What all memories take together. */
export interface MemoryTotals {
  readonly bytes: number;
  readonly bytesPerSnapshot: number;
  readonly snapshots: number;
}

/** A snapshot to be taken within a batch, before the token at `position`. */
export interface BatchMark {
  /** Index of the request. */
  readonly request: number;
  readonly position: number;
  readonly snapshot: number;
}

/** A sequence by its number, or a snapshot by its handle and the index of its sequence in the same list. */
export type StateHolder =
  | { readonly kind: "sequence"; readonly number: number }
  | { readonly kind: "snapshot"; readonly number: number; readonly of: number };

/** Something to be done to a sequence on the engine's thread. */
export interface SequenceTask {
  readonly kind: Exclude<keyof typeof TaskKind, "none">;
  readonly sequence: number;
  readonly from?: number;
  readonly to?: number;
  readonly amount?: number;
  readonly snapshot?: number;
}

/** What one sequence contributes to a batch. */
export interface BatchRequest {
  readonly sequence: number;
  readonly tokens: readonly number[];
  readonly logits: keyof typeof Logits;
  readonly sampler?: NativeSampler;
  /** Where the sequence is believed to go on; left out: wherever it does. */
  readonly position?: number;
}

export interface JobOptions {
  readonly marks?: readonly BatchMark[];
  /** The batch and then one token for each sequence, up to this many steps. Default 1. */
  readonly steps?: number;
  /** End tokens do not end the job. */
  readonly ignoreStops?: boolean;
  readonly onToken?: (event: Extract<NativeEvent, { kind: "token" }>) => void;
}

/** A submitted job. `done` resolves when it has ended, and rejects where it failed. */
export interface Job {
  readonly id: number;
  readonly done: Promise<{ timeMs: number }>;
}

/** Numbers of the engine since it began. */
export interface Counters {
  /** Sub-batches computed. */
  readonly steps: number;
  /** Tokens computed. */
  readonly rows: number;
  readonly graphsBuilt: number;
  /** Steps that ran the same graph as the step before. */
  readonly graphsReused: number;
  /** What the declared memories take, snapshots included: as planned, `model.memory.bytes`. */
  readonly memoryBytes: number;
  /** Results within a step: the most that any step so far needed. All graphs share them. */
  readonly computeBytes: number;
  /** What ggml's operations, and our kernels on all threads, have to work in. */
  readonly workBytes: number;
  readonly scratchBytes: number;
  /** Attention blocks that nobody holds. */
  readonly freeBlocks: number;
  /** Recurrent state cells that nobody holds. */
  readonly freeCells: number;
  /** Bytes of recurrent states that steps have read and written. */
  readonly stateBytesMoved: number;
  /** Snapshots taken or reserved, and how many there is room for. */
  readonly snapshots: number;
  readonly snapshotsMax: number;
}

function lower(memories: readonly LoweredMemory[]): Struct<"MemoryDeclaration"> {
  const out = new Struct("MemoryDeclaration", memories.length);
  memories.forEach((memory, i) => {
    out.set("layer", memory.layer, i);
    out.set("sharedFrom", memory.kind === "shared" ? memory.from : -1, i);
    out.set("kind", MemoryKind[memory.kind === "shared" ? memory.of : memory.kind], i);
    if (memory.kind === "attention") {
      out.set("extent", Extent[memory.extent], i);
      for (const field of ["window", "heads", "keyDim", "valueDim", "keyType", "valueType"] as const) {
        out.set(field, memory[field], i);
      }
    } else if (memory.kind === "recurrent") {
      out.set("stateCount", memory.states.length, i);
      out.set("inputs", memory.inputs, i);
      memory.states.slice(0, 8).forEach(({ elements, type }, state) => {
        out.set("stateElements", elements, i, state);
        out.set("stateTypes", type, i, state);
      });
    }
  });
  return out;
}

function configStruct(config: EngineConfig): Struct<"EngineConfig"> {
  const out = new Struct("EngineConfig");
  const fields = ["threads", "sequences", "context", "batch", "vocabulary", "poll"] as const;
  for (const field of [...fields, "rollback", "cells", "flags", "snapshotBytes"] as const)
    out.set(field, config[field]);
  return out;
}

const methodNames = Object.keys(Method) as (keyof typeof Method)[];

/** Bytes of each declared memory and of all, from the declaration alone. */
export function measureMemory(
  memories: readonly LoweredMemory[],
  config: EngineConfig,
): { readonly shares: readonly MemoryShare[]; readonly totals: MemoryTotals } {
  const out = new Struct("MemoryShare", memories.length);
  const totals = new Struct("MemoryTotals");
  const declarations = lower(memories).bytes;
  const struct = configStruct(config).bytes;
  check(native().strata_memory_measure(declarations, memories.length, struct, out.bytes, totals.bytes));
  const shares = memories.map((_, i) => ({
    pool: out.get("pool", i),
    method: methodNames[out.get("method", i)] ?? "none",
    cells: out.get("cells", i),
    bytesPerCell: out.get("bytesPerCell", i),
    bytes: out.get("bytes", i),
    rollbackBytes: out.get("rollbackBytes", i),
    snapshotBytes: out.get("snapshotBytes", i),
  }));
  return {
    shares,
    totals: {
      bytes: totals.get("bytes"),
      bytesPerSnapshot: totals.get("bytesPerSnapshot"),
      snapshots: totals.get("snapshots"),
    },
  };
}

function holderList(holders: readonly StateHolder[]): Uint8Array {
  const list = new Struct("HolderRef", holders.length);
  holders.forEach((holder, i) => {
    list.set("isSnapshot", holder.kind === "snapshot" ? 1 : 0, i);
    list.set("number", holder.number, i);
    list.set("of", holder.kind === "snapshot" ? holder.of : i, i);
  });
  return list.bytes;
}

/** A sampling chain of the library. */
export class NativeSampler {
  readonly handle: number;
  private freed = false;

  constructor(vocabulary: number, config: Struct<"SamplerConfig">, bias: { ids: Uint32Array; values: Float32Array }) {
    const handle = new Uint32Array(1);
    const count = bias.ids.length;
    const ids = count > 0 ? bias.ids : new Uint32Array(1);
    const values = count > 0 ? bias.values : new Float32Array(1);
    check(native().strata_sampler_new(vocabulary, config.bytes, ids, values, count, handle));
    this.handle = handle[0] as number;
  }

  /** Lets the penalties see tokens that were not drawn. */
  accept(tokens: readonly number[]): void {
    if (tokens.length === 0) return;
    check(native().strata_sampler_accept(this.handle, Int32Array.from(tokens), tokens.length));
  }

  free(): void {
    if (this.freed) return;
    this.freed = true;
    check(native().strata_sampler_free(this.handle));
  }
}

/** The library's engine: its own thread computes what is submitted here. */
export class NativeEngine {
  readonly handle: number;
  /** The handle of its model. */
  readonly model: number;
  private readonly jobs = new Map<
    number,
    {
      onToken: JobOptions["onToken"];
      resolve: (value: { timeMs: number }) => void;
      reject: (error: StrataError) => void;
    }
  >();
  private nextJob = 1;
  private closing: Promise<void> | undefined;
  private onClosed: (() => void) | undefined;

  constructor(
    model: NativeModel,
    memories: readonly LoweredMemory[],
    readonly config: EngineConfig,
  ) {
    const pump = eventPump();
    const handle = new Uint32Array(1);
    const declarations = lower(memories).bytes;
    const struct = configStruct(config).bytes;
    check(native().strata_engine_new(model.handle, pump.handle, declarations, memories.length, struct, handle));
    this.handle = handle[0] as number;
    this.model = model.handle;
    pump.listen(this.handle, (event) => this.receive(event));
  }

  setStops(tokens: readonly number[]): void {
    const list = Int32Array.from(tokens.length > 0 ? tokens : [0]);
    check(native().strata_engine_stops(this.handle, list, tokens.length));
  }

  submit(requests: readonly BatchRequest[], options: JobOptions = {}): Job {
    const structs = new Struct("Request", requests.length);
    const tokens = Int32Array.from(requests.flatMap((request) => request.tokens));
    requests.forEach((request, i) => {
      structs.set("sequence", request.sequence, i);
      structs.set("count", request.tokens.length, i);
      structs.set("logits", Logits[request.logits], i);
      structs.set("sampler", request.sampler?.handle ?? 0, i);
      structs.set("position", request.position ?? -1, i);
    });
    const list = options.marks ?? [];
    const marks = new Struct("Mark", list.length);
    list.forEach((mark, i) => {
      for (const field of ["request", "position", "snapshot"] as const) marks.set(field, mark[field], i);
    });
    return this.enqueue(options.onToken, (id) =>
      native().strata_engine_submit(
        this.handle,
        id,
        tokens.length > 0 ? tokens : new Int32Array(1),
        tokens.length,
        structs.bytes,
        requests.length,
        marks.bytes,
        list.length,
        options.steps ?? 1,
        options.ignoreStops ? 1 : 0,
      ),
    );
  }

  /** Does something to a sequence between jobs. */
  submitTask(task: SequenceTask): Job {
    const struct = new Struct("Task");
    struct.set("kind", TaskKind[task.kind]);
    struct.set("sequence", task.sequence);
    for (const field of ["from", "to", "amount", "snapshot"] as const) struct.set(field, task[field] ?? 0);
    return this.enqueue(undefined, (id) => native().strata_engine_task(this.handle, id, struct.bytes));
  }

  /** Writes sequences and snapshots to a file, all or nothing. */
  save(path: string, holders: readonly StateHolder[]): Job {
    const bytes = utf8.encode(path);
    const list = holderList(holders);
    return this.enqueue(undefined, (id) =>
      native().strata_engine_save(this.handle, id, bytes, bytes.length, list, holders.length),
    );
  }

  /** Brings a state's holders back to empty ones. */
  restore(state: NativeState, holders: readonly StateHolder[]): Job {
    const list = holderList(holders);
    return this.enqueue(undefined, (id) =>
      native().strata_engine_restore(this.handle, id, state.handle, list, holders.length),
    );
  }

  private enqueue(onToken: JobOptions["onToken"], submit: (id: number) => number): Job {
    const id = this.nextJob;
    this.nextJob = id === 0xffff_ffff ? 1 : id + 1;
    const { promise, resolve, reject } = Promise.withResolvers<{ timeMs: number }>();
    this.jobs.set(id, { onToken, resolve, reject });
    try {
      check(submit(id));
    } catch (error) {
      this.jobs.delete(id);
      throw error;
    }
    eventPump().expect();
    return { id, done: promise };
  }

  /** Ends a job after its running step. */
  interrupt(job: Job): void {
    if (this.isRunning(job)) check(native().strata_engine_stop(this.handle, job.id, 0));
  }

  /** Ends a job at once; what its running step did is taken back, and `done` rejects with "cancelled". */
  cancel(job: Job): void {
    if (this.isRunning(job)) check(native().strata_engine_stop(this.handle, job.id, 1));
  }

  /** A closing engine has cancelled its jobs already. */
  private isRunning(job: Job): boolean {
    return this.jobs.has(job.id) && this.closing === undefined;
  }

  /** Copies a row of the logits that a job without sampler left. */
  logits(job: Job, row: number, out: Float32Array): void {
    check(native().strata_engine_logits(this.handle, job.id, row, out, out.length));
  }

  counters(): Counters {
    const out = new Struct("Counters");
    check(native().strata_engine_counters(this.handle, out.bytes));
    return {
      steps: out.get("steps"),
      rows: out.get("rows"),
      graphsBuilt: out.get("graphsBuilt"),
      graphsReused: out.get("graphsReused"),
      memoryBytes: out.get("memoryBytes"),
      computeBytes: out.get("computeBytes"),
      workBytes: out.get("workBytes"),
      scratchBytes: out.get("scratchBytes"),
      freeBlocks: out.get("freeBlocks"),
      freeCells: out.get("freeCells"),
      stateBytesMoved: out.get("stateBytesMoved"),
      snapshots: out.get("snapshots"),
      snapshotsMax: out.get("snapshotsMax"),
    };
  }

  bounds(sequence: number): { min: number; end: number } {
    const out = new Struct("Bounds");
    check(native().strata_sequence_bounds(this.handle, sequence, out.bytes));
    return { min: out.get("min"), end: out.get("end") };
  }

  /** The longest beginning that a sequence can go on from: cut back, or from the snapshot of that index. */
  resumable(
    sequence: number,
    position: number,
    snapshots: readonly number[],
  ): { position: number; snapshot: number | undefined; limitedBy: string | undefined } {
    const out = new Struct("Resumable");
    const name = new Uint8Array(64);
    const handles = Uint32Array.from(snapshots.length === 0 ? [0] : snapshots);
    const { handle } = this;
    check(
      native().strata_sequence_resumable(
        handle,
        sequence,
        position,
        handles,
        snapshots.length,
        out.bytes,
        name,
        name.length,
      ),
    );
    const [index, length] = [out.get("snapshot"), out.get("nameLength")];
    return {
      position: out.get("position"),
      snapshot: index < 0 ? undefined : index,
      limitedBy: length === 0 ? undefined : new TextDecoder().decode(name.subarray(0, length)),
    };
  }

  clear(sequence: number): void {
    check(native().strata_sequence_clear(this.handle, sequence));
  }

  remove(sequence: number, from: number, to: number): void {
    check(native().strata_sequence_remove(this.handle, sequence, from, to));
  }

  /** Makes `destination` hold positions `[from, to)` of `source`; negative bounds mean the start and the end. */
  copy(source: number, destination: number, from = -1, to = -1): void {
    check(native().strata_sequence_copy(this.handle, source, destination, from, to));
  }

  /** Empties all sequences but one. */
  keep(sequence: number): void {
    check(native().strata_sequence_keep(this.handle, sequence));
  }

  /** The tokens that a sequence was fed. */
  tokens(sequence: number): number[] {
    const count = new Uint32Array(1);
    const read = (out: Int32Array, capacity: number) =>
      check(native().strata_sequence_tokens(this.handle, sequence, out, capacity, count));
    read(new Int32Array(1), 0);
    const out = new Int32Array(Math.max(count[0] ?? 0, 1));
    read(out, out.length);
    return Array.from(out.subarray(0, count[0]));
  }

  /** Reserves room for a snapshot. */
  newSnapshot(): number {
    const out = new Uint32Array(1);
    check(native().strata_snapshot_new(this.handle, out));
    return out[0] as number;
  }

  dropSnapshot(snapshot: number): void {
    check(native().strata_snapshot_drop(this.handle, snapshot));
  }

  restoreSnapshot(snapshot: number, sequence: number): void {
    check(native().strata_snapshot_restore(this.handle, snapshot, sequence));
  }

  describeSnapshot(snapshot: number): { position: number; tokens: number; bytes: number } {
    const out = new Struct("SnapshotInfo");
    check(native().strata_snapshot_info(this.handle, snapshot, out.bytes));
    return { position: out.get("position"), tokens: out.get("tokens"), bytes: out.get("bytes") };
  }

  /** For tests: makes the books of the memory wrong. */
  plantFault(kind: "exchange" | "behind" | "other" | "alone", first: number, second: number): void {
    const number = ["exchange", "behind", "other", "alone"].indexOf(kind);
    check(native().strata_debug_fault(this.handle, number, first, second));
  }

  dropGraph(rows: number, outputs: number): void {
    check(native().strata_graph_drop(this.handle, rows, outputs));
  }

  /** Cancels what runs and ends the engine. Resolves when its thread has ended and its memory is free. */
  close(): Promise<void> {
    this.closing ??= new Promise<void>((resolve) => {
      this.onClosed = resolve;
      check(native().strata_engine_close(this.handle));
      eventPump().expect();
    });
    return this.closing;
  }

  private receive(event: NativeEvent): void {
    switch (event.kind) {
      case "token":
        this.jobs.get(event.job)?.onToken?.(event);
        return;
      case "done": {
        const job = this.jobs.get(event.job);
        this.jobs.delete(event.job);
        if (event.error === undefined) job?.resolve({ timeMs: event.timeMs });
        else job?.reject(event.error);
        return;
      }
      case "closed":
        eventPump().forget(this.handle);
        this.onClosed?.();
        return;
    }
  }
}
