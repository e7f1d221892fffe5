import { StrataError } from "../errors.ts";
import { formatBytes } from "../format.ts";
import type { LayerHandles } from "../graph/memory.ts";
import { layOutMemory, type MemoryLayout } from "../memory/layout.ts";
import type { ModelMemory } from "../memory/placed.ts";
import { NativeEngine, type Counters } from "../native/engine.ts";
import type { GenerationEvent } from "../schedule/events.ts";
import { Generation, type GenerateOptions } from "../schedule/generation.ts";
import { Scheduler } from "../schedule/scheduler.ts";
import type { GraphShape } from "../schedule/sub-batches.ts";
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
import { hasTokenizer } from "../text/tokenizer.ts";
import type { ReadArchitecture } from "./architecture.ts";
import { buildGraph, declareWeights, memoryHandles, tryGraph, type GraphParts } from "./build.ts";
import { ModelFile, openModelFile } from "./file.ts";
import { machineBytes } from "./machine.ts";
import type { Metadata } from "../gguf/metadata.ts";
import { checkOptions, engineConfig, type LoadOptions, type MemoryOptions } from "./options.ts";
import { readArchitecture } from "./read.ts";
import { findArchitecture } from "./registry.ts";

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
  checkOptions(options);
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

/**
 * What a file's model would remember, from the header alone. All options of `loadModel` may be given. Throws where its
 * architecture is unknown.
 */
export async function describeMemory(file: ModelFile, options: MemoryOptions = {}): Promise<ModelMemory> {
  checkOptions(options);
  const architecture = await findArchitecture(file.metadata, options.plugins ?? []);
  const read = readArchitecture(architecture, file.metadata);
  return layOutMemory(read.memory, options.kv ?? "f16", engineConfig(read, options)).memory;
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
    this.scheduler = new Scheduler(engine, (shapes) => this.ensureGraphs(shapes));
    this.host = { engine, scheduler: this.scheduler };
    this.operations.set(decodeShape, tryGraph(this.graphParts(), 1, 1));
    // The graph that decodes; weights that cannot be computed with are found now, not in the first step.
    this.ensureGraphs([{ rows: 1, outputs: 1 }]);
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
    return hasTokenizer(this.metadata) ? this.tokenizer : undefined;
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

  /**
   * The logits at every position of `tokens`, computed `chunk` tokens a step in a sequence of its own. Throws at once on
   * tokens that cannot be fed.
   */
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
   *
   * The signal ends the waiting for its turn. It cannot stop the reading itself: once the library has begun to check and
   * read the file, that goes on to its end, and the sequence is brought back.
   */
  async restore(path: string, options: { readonly signal?: AbortSignal } = {}): Promise<Sequence> {
    const [sequence] = await restoreTogether(this.host, path, options.signal, 1);
    return sequence as Sequence;
  }

  /**
   * Brings back all sequences of a file, in the order in which they were saved. All or nothing. Throws "full" where the
   * model has fewer free. Its signal is heeded as that of `restore`.
   */
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

  /** Builds the graphs of a batch that are not kept. */
  private ensureGraphs(shapes: readonly GraphShape[]): void {
    const wanted = new Set(shapes.map(keyOf));
    for (const shape of shapes) {
      const key = keyOf(shape);
      if (!this.graphs.delete(key)) {
        this.dropGraphs(wanted);
        this.buildGraph(shape, key);
      }
      this.graphs.add(key);
    }
  }

  /** Makes room for a graph: those used longest ago go. A batch may want more than are kept, and has them meanwhile. */
  private dropGraphs(wanted: ReadonlySet<string>): void {
    // The first one stays: it says how states are computed again.
    const others = [...this.graphs].filter((key) => key !== decodeShape && !wanted.has(key));
    for (const key of others.slice(0, Math.max(this.graphs.size - graphsMax + 1, 0))) {
      const [rows = 0, outputs = 0] = key.split(" ").map(Number);
      this.engine.dropGraph(rows, outputs);
      this.graphs.delete(key);
    }
  }

  private buildGraph({ rows, outputs }: GraphShape, key: string): void {
    const { operations, computeBytes } = buildGraph(this.graphParts(), rows, outputs, this.operations.get(key));
    if (computeBytes > machineBytes()) {
      // It was measured and not allocated; the graph that decodes goes with the engine.
      if (key !== decodeShape) this.engine.dropGraph(rows, outputs);
      const sizes = `${formatBytes(computeBytes)}, and this machine has ${formatBytes(machineBytes())}`;
      const sentence = `the results of a step of ${rows} tokens take ${sizes}; use a smaller batch`;
      throw new StrataError("out_of_memory", `${this.architecture}: ${sentence}`);
    }
    this.operations.set(key, operations);
  }

  private graphParts(): GraphParts {
    const { architecture, engine, handles } = this;
    return { ...this.parts, architecture, engine, handles };
  }
}

function keyOf({ rows, outputs }: GraphShape): string {
  return `${rows} ${outputs}`;
}

function endTokens(tokenizer: Tokenizer, vocabulary: number): number[] {
  const count = Math.min(tokenizer.vocabularySize, vocabulary);
  return Array.from({ length: count }, (_, token) => token).filter((token) => tokenizer.isEndOfGeneration(token));
}
