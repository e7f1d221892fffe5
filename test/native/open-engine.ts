/** A model's engine without the scheduler above it: sequences are numbers, batches are the test's own. */
import { openModelFile, type KvType } from "ggstrata";
import { Graph } from "../../lib/graph/graph.ts";
import { layOutMemory } from "../../lib/memory/layout.ts";
import { readArchitecture } from "../../lib/model/read.ts";
import { bindWeights, resolveWeights, type WeightSpec } from "../../lib/model/weights.ts";
import { findArchitecture } from "../../lib/model/registry.ts";
import { NativeEngine, NativeSampler, type BatchRequest, type EngineConfig } from "../../lib/native/engine.ts";
import { NativeGraph } from "../../lib/native/graph.ts";
import { NativeModel } from "../../lib/native/model.ts";
import { Struct } from "../../lib/native/struct.ts";
import type { LayerHandles, MemoryHandle } from "../../lib/graph/memory.ts";

export interface OpenOptions {
  readonly context?: number;
  readonly sequences?: number;
  readonly batch?: number;
  readonly kv?: KvType;
}

export class OpenEngine implements AsyncDisposable {
  private constructor(
    readonly engine: NativeEngine,
    private readonly build: (rows: number, outputs: number) => void,
  ) {}

  private readonly built = new Set<string>();

  static async open(path: string, options: OpenOptions = {}): Promise<OpenEngine> {
    using file = openModelFile(path);
    const architecture = await findArchitecture(file.metadata, []);
    const read = readArchitecture(architecture, file.metadata);
    const { context = 256, sequences = 4, batch = 64, kv = "f32" } = options;
    const { vocabulary } = read.config;
    const sizes = { context, sequences, batch, vocabulary, threads: 1, poll: 0 };
    const config: EngineConfig = { ...sizes, rollback: 0, cells: 0, snapshotBytes: 0, flags: 0 };
    const layout = layOutMemory(read.memory, kv, config);
    const resolved = resolveWeights(read.weights, file);
    const native = new NativeModel(file.native, resolved.length);
    const numbers = new Map<WeightSpec, number>();
    for (const { spec, index } of resolved) numbers.set(spec, native.weight(index, spec.use));
    await native.load();
    const engine = new NativeEngine(native, layout.lowered, config);
    native.free();
    const weights = bindWeights(read.weights, engine.model, numbers);
    const handles = layout.numbers.map((names, layer): LayerHandles =>
      Object.fromEntries(
        Object.entries(names).map(([name, number]): [string, MemoryHandle] => {
          const record = layout.records[number];
          if (record === undefined) throw new Error(`memory ${number} has no record`);
          return [name, { layer, name, number, record, isShared: false, owner: number }];
        }),
      ),
    );
    return new OpenEngine(engine, (rows, outputs) => {
      const graph = new NativeGraph(engine, rows, outputs, 1024 + 256 * handles.length);
      const g = new Graph(graph, "test", rows, outputs, handles);
      g.finish(read.graph(g, weights, handles), vocabulary);
    });
  }

  /** Builds the graph of a shape once. */
  ensureGraph(rows: number, outputs: number): void {
    const key = `${rows} ${outputs}`;
    if (!this.built.has(key)) this.build(rows, outputs);
    this.built.add(key);
  }

  /** Feeds one sequence, in steps of at most the batch; the logits of its last token. */
  async feed(sequence: number, tokens: readonly number[], chunk = this.engine.config.batch): Promise<Float32Array> {
    const out = new Float32Array(this.engine.config.vocabulary);
    for (let first = 0; first < tokens.length; first += chunk) {
      const part = tokens.slice(first, first + chunk);
      this.ensureGraph(part.length, 1);
      const job = this.engine.submit([{ sequence, tokens: part, logits: "last" }]);
      await job.done;
      this.engine.logits(job, 0, out);
    }
    return out;
  }

  /** One step for several sequences at once; the logits of each one's last token. */
  async step(requests: readonly (readonly [sequence: number, tokens: readonly number[]])[]): Promise<Float32Array[]> {
    const rows = requests.reduce((sum, [, tokens]) => sum + tokens.length, 0);
    this.ensureGraph(rows, requests.length);
    const batch = requests.map(([sequence, tokens]): BatchRequest => ({ sequence, tokens, logits: "last" }));
    const job = this.engine.submit(batch);
    await job.done;
    return requests.map((_, row) => {
      const out = new Float32Array(this.engine.config.vocabulary);
      this.engine.logits(job, row, out);
      return out;
    });
  }

  /** A greedy sampler. */
  sampler(bias: ReadonlyMap<number, number> = new Map()): NativeSampler {
    const config = new Struct("SamplerConfig");
    config.set("topP", 1);
    config.set("repetitionPenalty", 1);
    config.set("penaltyLastN", 64);
    const ids = [...bias.keys()].sort((a, b) => a - b);
    return new NativeSampler(this.engine.config.vocabulary, config, {
      ids: Uint32Array.from(ids),
      values: Float32Array.from(ids, (id) => bias.get(id) ?? 0),
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.engine.close();
  }
}

/** The place of the greatest number. */
export function greatest(logits: Float32Array): number {
  return logits.reduce((best, value, index) => (value > (logits[best] ?? NaN) ? index : best), 0);
}

/** The greatest difference between two rows of logits. */
export function distance(a: Float32Array, b: Float32Array): number {
  return a.reduce((most, value, index) => Math.max(most, Math.abs(value - (b[index] ?? NaN))), 0);
}
