import { availableParallelism } from "node:os";
import { StrataError } from "../errors.ts";
import { readEnvironment, readEnvironmentCount } from "../environment.ts";
import { formatBytes } from "../format.ts";
import type { LayerHandles } from "../graph/memory.ts";
import { kvTypes, layOutMemory, type KvType, type MemoryLayout } from "../memory/layout.ts";
import type { ModelMemory } from "../memory/placed.ts";
import { engineFlags, NativeEngine, type Counters, type EngineConfig } from "../native/engine.ts";
import type { LoadProgress } from "../native/model.ts";
import type { GenerationEvent } from "../schedule/events.ts";
import { Generation, type GenerateOptions } from "../schedule/generation.ts";
import { Scheduler } from "../schedule/scheduler.ts";
import {
  feedTogether,
  restoreTogether,
  saveTogether,
  Sequence,
  type FeedRequest,
  type FeedResult,
  type SequenceHost,
} from "../sequence/sequence.ts";
import {
  createChatTemplate,
  createTokenizer,
  type ChatMessage,
  type ChatTemplate,
  type Tokenizer,
} from "../text/index.ts";
import type { ReadArchitecture } from "./architecture.ts";
import { buildGraph, declareWeights, memoryHandles, tryGraph, type GraphParts } from "./build.ts";
import { ModelFile, openModelFile } from "./file.ts";
import { machineBytes } from "./machine.ts";
import type { Metadata } from "./metadata.ts";
import { readArchitecture } from "./read.ts";
import { findArchitecture, type Plugin } from "./registry.ts";

export interface MemoryOptions {
  /** Positions that one sequence may reach. Default: what the model was trained for, at most 4,096. */
  readonly context?: number | undefined;
  /** Sequences that can be held and computed at once. Default 1. */
  readonly sequences?: number | undefined;
  /** Most tokens of one step. Default 512, at most the context. */
  readonly batch?: number | undefined;
  /** Element type of keys and values. Default "f16". */
  readonly kv?: KvType | undefined;
  /** Tokens that can be taken back from the end of every sequence. Default 0; layers with states need memory for it. */
  readonly rollback?: number | undefined;
  /** What snapshots of sequences may take together. Default 0: none can be taken. */
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
  readonly onProgress?: ((progress: LoadProgress) => void) | undefined;
  /** Ends the loading; the promise rejects with its reason. */
  readonly signal?: AbortSignal | undefined;
}

const defaultContext = 4096;
const defaultBatch = 512;
/** Kept graphs; the one used longest ago goes first. */
const graphsMax = 24;
/** Rows and outputs of the graph that decodes one sequence, which is built first. */
const decodeShape = "1 1";

/**
 * Loads a GGUF model: opens and checks the file, finds its architecture's plugin, allocates the memories that it
 * declares, and maps its weights. Throws a `StrataError` that names the file and what is wrong with it.
 */
export async function loadModel(path: string, options: LoadOptions = {}): Promise<Model> {
  const start = performance.now();
  options.signal?.throwIfAborted();
  const file = openModelFile(path);
  try {
    const architecture = await findArchitecture(file.metadata, options.plugins ?? []);
    return await loadWeights(file, readArchitecture(architecture, file.metadata), options, start);
  } catch (error) {
    file.dispose();
    throw nameFile(path, error);
  }
}

/** What is wrong with a layer or an operation is wrong with a file. */
export function nameFile(path: string, error: unknown): unknown {
  if (!(error instanceof StrataError) || error.message.includes(path)) return error;
  return new StrataError(error.code, `${path}: ${error.message}`, { cause: error });
}

async function loadWeights(
  file: ModelFile,
  read: ReadArchitecture,
  options: LoadOptions,
  start: number,
): Promise<Model> {
  const config = engineConfig(read, options);
  const layout = layOutMemory(read.memory, options.kv ?? "f16", config);
  const { native, weights } = declareWeights(file, read);
  try {
    await native.load(options.onProgress, options.signal);
    const engine = new NativeEngine(native, layout.lowered, config);
    try {
      return new Model({ file, read, layout, engine, weights, start });
    } catch (error) {
      await engine.close();
      throw error;
    }
  } finally {
    // The engine keeps what it needs alive.
    native.free();
  }
}

/** What a file's model would remember, from the header alone. Throws where its architecture is unknown. */
export async function describeMemory(file: ModelFile, options: MemoryOptions = {}): Promise<ModelMemory> {
  const architecture = await findArchitecture(file.metadata, options.plugins ?? []);
  const read = readArchitecture(architecture, file.metadata);
  return layOutMemory(read.memory, options.kv ?? "f16", engineConfig(read, options)).memory;
}

/** What the options make of the engine. Throws on those that cannot be. */
export function engineConfig(read: ReadArchitecture, options: LoadOptions): EngineConfig {
  const { contextLength } = read.config;
  const vocabulary = whole("vocabulary", read.config.vocabulary);
  const context = whole("context", options.context ?? Math.min(contextLength, defaultContext));
  const kv = options.kv ?? "f16";
  if (!kvTypes.includes(kv)) {
    throw new StrataError("invalid_argument", `kv is "${kv}"; give one of ${kvTypes.join(", ")}`);
  }
  return {
    context,
    vocabulary,
    sequences: whole("sequences", options.sequences ?? 1),
    batch: Math.min(whole("batch", options.batch ?? defaultBatch), context),
    threads: whole("threads", options.threads ?? readEnvironmentCount("STRATA_THREADS") ?? availableParallelism()),
    poll: 50,
    rollback: wholeOrNone("rollback", options.rollback),
    cells: wholeOrNone("cells", options.cells),
    snapshotBytes: snapshotBytes(options.snapshotBytes),
    flags:
      (options.streams === "separate" ? engineFlags.separate : 0) |
      (options.wholeWindows ? engineFlags.wholeWindows : 0) |
      ((options.flashAttention ?? true) ? 0 : engineFlags.noFlash) |
      (options.snapshotType === "f16" ? engineFlags.halfSnapshots : 0) |
      (readEnvironment("STRATA_POISON") === undefined ? 0 : engineFlags.poison),
  };
}

function wholeOrNone(name: string, value = 0): number {
  return value === 0 ? 0 : whole(name, value);
}

function snapshotBytes(value = 0): number {
  if (Number.isFinite(value) && value >= 0) return Math.floor(value);
  throw new StrataError("invalid_argument", `snapshotBytes is ${value}; give a number of bytes from 0 up`);
}

function whole(name: string, value: number): number {
  if (Number.isSafeInteger(value) && value >= 1 && value <= 2 ** 28) return value;
  throw new StrataError("invalid_argument", `${name} is ${value}; give a whole number from 1 to ${2 ** 28}`);
}

interface ModelParts {
  readonly file: ModelFile;
  readonly read: ReadArchitecture;
  readonly layout: MemoryLayout;
  readonly engine: NativeEngine;
  readonly weights: unknown;
  readonly start: number;
}

/** A loaded model. Dispose of it (`await using`) to free its memory; disposing while it computes is safe. */
export class Model implements AsyncDisposable {
  readonly path: string;
  /** GGUF's `general.architecture`. */
  readonly architecture: string;
  readonly metadata: Metadata;
  /** What each layer remembers, and how many bytes that takes. */
  readonly memory: ModelMemory;
  /** Positions that one sequence may reach. */
  readonly contextLength: number;
  /** Sequences that can be computed at once. */
  readonly sequenceCount: number;
  readonly vocabularySize: number;
  readonly threads: number;
  /** Milliseconds from the call of `loadModel` to now. */
  readonly loadMs: number;
  private readonly engine: NativeEngine;
  private readonly scheduler: Scheduler;
  private readonly host: SequenceHost;
  private readonly handles: readonly LayerHandles[];
  /** By rows and outputs, the one used longest ago first; those that the engine keeps. */
  private readonly graphs = new Set<string>();
  /** By rows and outputs, of all graphs built so far: a number that graphs of the same operations have in common. */
  private readonly operations = new Map<string, number>();
  private tokenizerCreated: Tokenizer | undefined;
  private templateCreated: ChatTemplate | undefined;

  /** For the SDK; use `loadModel`. */
  constructor(private readonly parts: ModelParts) {
    const { file, engine, layout } = parts;
    this.path = file.path;
    this.architecture = file.metadata.string("general.architecture");
    this.metadata = file.metadata;
    this.memory = layout.memory;
    this.contextLength = engine.config.context;
    this.sequenceCount = engine.config.sequences;
    this.vocabularySize = engine.config.vocabulary;
    this.threads = engine.config.threads;
    this.engine = engine;
    this.handles = memoryHandles(layout);
    this.scheduler = new Scheduler(engine, (rows, outputs) => this.ensureGraph(rows, outputs));
    this.host = { engine, scheduler: this.scheduler };
    this.operations.set(decodeShape, tryGraph(this.graphParts(), 1, 1));
    // The graph that decodes; weights that cannot be computed with are found now, not in the first step.
    this.ensureGraph(1, 1);
    this.loadMs = performance.now() - parts.start;
  }

  /** The file's tokenizer; created when first used. Throws where the file has none, or one that is unknown. */
  get tokenizer(): Tokenizer {
    if (this.tokenizerCreated === undefined) {
      this.tokenizerCreated = createTokenizer(this.metadata);
      this.engine.setStops(endTokens(this.tokenizerCreated, this.vocabularySize));
    }
    return this.tokenizerCreated;
  }

  /** The file's chat template. Throws "unsupported" where it has none. */
  get chatTemplate(): ChatTemplate {
    this.templateCreated ??= createChatTemplate(this.metadata, this.tokenizer);
    return this.templateCreated;
  }

  /**
   * Generates from a prompt (text, or token ids), as a stream of events. Further generations may run at the same time;
   * those beyond `sequenceCount` wait their turn. Leaving the loop frees the sequence.
   */
  events(prompt: string | readonly number[], options: GenerateOptions = {}): AsyncGenerator<GenerationEvent, void> {
    const generation = new Generation(this.scheduler, this.textTokenizer(), this.encode(prompt, options), options);
    return this.named(generation.events());
  }

  /** What goes wrong inside of steps, such as logits that are no numbers, is the architecture's or its file's. */
  private async *named(events: AsyncGenerator<GenerationEvent, void>): AsyncGenerator<GenerationEvent, void> {
    try {
      yield* events;
    } catch (error) {
      if (!(error instanceof StrataError) || error.code !== "internal") throw error;
      throw new StrataError(error.code, `${this.architecture}: ${error.message}`, { cause: error });
    }
  }

  private encode(prompt: string | readonly number[], options: GenerateOptions): readonly number[] {
    if (typeof prompt !== "string") return prompt;
    if (prompt === "") throw new StrataError("invalid_argument", "the prompt is empty; give some text");
    return this.tokenizer.encode(prompt, { special: options.special ?? false });
  }

  /** The tokenizer, or undefined where the file has none: token ids can still be generated from token ids. */
  private textTokenizer(): Tokenizer | undefined {
    return this.metadata.string("tokenizer.ggml.model", "none") === "none" ? undefined : this.tokenizer;
  }

  /** Generates an answer to a chat by the model's template. Text of messages never becomes special tokens. */
  chatEvents(messages: readonly ChatMessage[], options: GenerateOptions = {}): AsyncGenerator<GenerationEvent, void> {
    return this.events(this.chatTemplate.tokenize(messages), options);
  }

  /** Generates text piece by piece. Throws the signal's reason when `signal` aborts. */
  async *generate(
    prompt: string | readonly number[],
    options: GenerateOptions = {},
  ): AsyncGenerator<{ text: string; token: number }, void> {
    let token = -1;
    for await (const event of this.events(prompt, options)) {
      if (event.type === "token") {
        token = event.token;
        yield { text: event.text, token };
      } else if (event.type === "end") {
        options.signal?.throwIfAborted();
        if (event.text !== "") yield { text: event.text, token };
      }
    }
  }

  /** The logits at every position of `tokens`, computed `chunk` tokens a step in a sequence of its own. */
  logits(
    tokens: readonly number[],
    options: { readonly chunk?: number; readonly signal?: AbortSignal } = {},
  ): AsyncGenerator<{ position: number; logits: Float32Array }, void> {
    return this.scheduler.logits(tokens, options);
  }

  /**
   * A sequence to be worked with by hand. Throws "full" where all are in use; dispose of it to give it back.
   */
  sequence(): Sequence {
    return new Sequence(this.host, this.scheduler.take());
  }

  /** Feeds several sequences in one batch, which is cut by the batch limit only. */
  feed(requests: readonly FeedRequest[], options: { readonly signal?: AbortSignal } = {}): Promise<FeedResult[]> {
    return feedTogether(this.host, requests, options.signal);
  }

  /** Saves several sequences and their snapshots to one file; what they share is written once. */
  save(path: string, sequences: readonly Sequence[], options: { readonly signal?: AbortSignal } = {}): Promise<void> {
    return saveTogether(this.host, path, sequences, options.signal);
  }

  /**
   * Brings back the sequence that a file holds, with its snapshots (`sequence.snapshots`). The file must be of this model
   * file and have been saved with the same types; anything else is refused with the reason, and nothing has changed.
   */
  async restore(path: string, options: { readonly signal?: AbortSignal } = {}): Promise<Sequence> {
    const [sequence, ...others] = await this.restoreAll(path, options);
    if (others.length === 0) return sequence as Sequence;
    for (const other of [sequence, ...others]) {
      for (const snapshot of other?.snapshots ?? []) snapshot.dispose();
      other?.dispose();
    }
    throw new StrataError(
      "invalid_argument",
      `${path}: this state holds ${others.length + 1} sequences; bring them back with restoreAll`,
    );
  }

  /** Brings back all sequences of a file, in the order in which they were saved. All or nothing. */
  restoreAll(path: string, options: { readonly signal?: AbortSignal } = {}): Promise<Sequence[]> {
    return restoreTogether(this.host, path, options.signal);
  }

  /** What the engine has done so far, and what is free. */
  counters(): Counters {
    return this.engine.counters();
  }

  /** Cancels what runs, ends the engine and frees the memory. */
  async dispose(): Promise<void> {
    this.scheduler.close();
    await this.engine.close();
    this.parts.file.dispose();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.dispose();
  }

  /** Builds the graph for a shape unless it is kept; lets go of the one used longest ago where there are too many. */
  private ensureGraph(rows: number, outputs: number): void {
    const key = `${rows} ${outputs}`;
    if (this.graphs.delete(key)) {
      this.graphs.add(key);
      return;
    }
    if (this.graphs.size >= graphsMax) {
      // The first one stays: it says how states are computed again.
      const [, oldest = ""] = [decodeShape, ...this.graphs].filter((shape, i) => i === 0 || shape !== decodeShape);
      const [oldRows = 0, oldOutputs = 0] = oldest.split(" ").map(Number);
      this.engine.dropGraph(oldRows, oldOutputs);
      this.graphs.delete(oldest);
    }
    const { operations, computeBytes } = buildGraph(this.graphParts(), rows, outputs, this.operations.get(key));
    if (computeBytes > machineBytes()) {
      // It was measured and not allocated; the graph that decodes goes with the engine.
      if (key !== decodeShape) this.engine.dropGraph(rows, outputs);
      const sizes = `${formatBytes(computeBytes)}, and this machine has ${formatBytes(machineBytes())}`;
      const sentence = `the results of a step of ${rows} tokens take ${sizes}; use a smaller batch`;
      throw new StrataError("out_of_memory", `${this.architecture}: ${sentence}`);
    }
    this.operations.set(key, operations);
    this.graphs.add(key);
  }

  private graphParts(): GraphParts {
    const { architecture, engine, handles } = this;
    return { ...this.parts, architecture, engine, handles };
  }
}

function endTokens(tokenizer: Tokenizer, vocabulary: number): number[] {
  const count = Math.min(tokenizer.vocabularySize, vocabulary);
  return Array.from({ length: count }, (_, token) => token).filter((token) => tokenizer.isEndOfGeneration(token));
}
