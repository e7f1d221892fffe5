/** From a file and its architecture to weights and graphs of the library, for models and for plans of them. */
import { StrataError } from "../errors.ts";
import { Graph } from "../graph/graph.ts";
import type { LayerHandles, MemoryHandle } from "../graph/memory.ts";
import type { MemoryRecord } from "../memory/declaration.ts";
import type { MemoryLayout } from "../memory/layout.ts";
import type { NativeEngine } from "../native/engine.ts";
import { NativeGraph, type GraphFacts } from "../native/graph.ts";
import { NativeModel } from "../native/model.ts";
import type { ReadArchitecture } from "./architecture.ts";
import type { ModelFile } from "./file.ts";
import { nameError, refusePromise } from "./read.ts";
import { bindWeights, checkUnused, resolveWeights, type WeightSpec } from "./weights.ts";

/** Declares the architecture's weights to the library, which reads none of them yet. The caller frees `native`. */
export function declareWeights(file: ModelFile, read: ReadArchitecture): { native: NativeModel; weights: unknown } {
  const resolved = resolveWeights(read.weights, file);
  checkUnused(file.metadata.string("general.architecture"), file, resolved, read.ignores);
  const native = new NativeModel(file.native, resolved.length);
  try {
    const numbers = new Map<WeightSpec, number>();
    for (const { spec, index } of resolved) numbers.set(spec, native.weight(index, spec.use));
    return { native, weights: bindWeights(read.weights, native.handle, numbers) };
  } catch (error) {
    native.free();
    throw error;
  }
}

/** The memories of each layer as graphs reach them. */
export function memoryHandles({ numbers, records, lowered }: MemoryLayout): LayerHandles[] {
  return numbers.map((names, layer) =>
    Object.fromEntries(
      Object.entries(names).map(([name, number]): [string, MemoryHandle] => {
        const own = lowered[number];
        const owner = own?.kind === "shared" ? own.from : number;
        return [
          name,
          { layer, name, number, record: records[number] as MemoryRecord, isShared: owner !== number, owner },
        ];
      }),
    ),
  );
}

/** What graphs are built from. */
export interface GraphParts {
  readonly engine: NativeEngine;
  readonly read: ReadArchitecture;
  readonly weights: unknown;
  readonly handles: readonly LayerHandles[];
  /** For errors. */
  readonly architecture: string;
}

/** A graph that the engine keeps. */
export interface BuiltGraph extends GraphFacts {
  /** A number that graphs of the same operations have in common. */
  readonly operations: number;
}

/**
 * Builds the graph of steps of `rows` tokens and `outputs` logits; the engine keeps it. Throws where its operations are
 * others than `before`, those of an earlier graph of the same shape: a graph is kept and run for all steps of its shape.
 */
export function buildGraph(parts: GraphParts, rows: number, outputs: number, before?: number): BuiltGraph {
  return build(parts, rows, outputs, (g, logits) => {
    const { operations } = g;
    if (before !== undefined && before !== operations) throw unsteadyGraph(parts.architecture, rows, outputs);
    return { ...g.finish(logits, parts.engine.config.vocabulary), operations };
  });
}

/** Builds a graph like `buildGraph` and lets it go; the number that graphs of the same operations have in common. */
export function tryGraph(parts: GraphParts, rows: number, outputs: number): number {
  return build(parts, rows, outputs, (g) => {
    g.abandon();
    return g.operations;
  });
}

function unsteadyGraph(architecture: string, rows: number, outputs: number): StrataError {
  const sentence = "may depend on the configuration and on g.rows and g.outputs, and on nothing that changes";
  const what = `graph built other operations for ${rows} tokens and ${outputs} outputs than the time before; it ${sentence}`;
  return new StrataError("invalid_argument", `${architecture}: ${what}`);
}

function build<T>(parts: GraphParts, rows: number, outputs: number, end: (g: Graph, logits: unknown) => T): T {
  const { engine, read, weights, handles, architecture } = parts;
  const native = new NativeGraph(engine, rows, outputs, 1024 + 256 * handles.length);
  const g = new Graph(native, architecture, rows, outputs, handles);
  try {
    let logits: unknown;
    try {
      logits = read.graph(g, weights, handles);
    } catch (error) {
      throw nameError(architecture, g.place, error);
    }
    refusePromise(architecture, "graph", logits);
    return end(g, logits);
  } catch (error) {
    g.abandon();
    throw error;
  }
}
