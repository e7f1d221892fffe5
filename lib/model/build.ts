/** From a file and its architecture to weights and graphs of the library, for models and for plans of them. */
import { Graph } from "../graph/graph.ts";
import type { LayerHandles, MemoryHandle } from "../graph/memory.ts";
import type { MemoryRecord } from "../memory/declaration.ts";
import type { MemoryLayout } from "../memory/layout.ts";
import type { NativeEngine } from "../native/engine.ts";
import { NativeGraph, type GraphFacts } from "../native/graph.ts";
import { NativeModel } from "../native/model.ts";
import type { ReadArchitecture } from "./architecture.ts";
import type { ModelFile } from "./file.ts";
import { bindWeights, resolveWeights, type WeightSpec } from "./weights.ts";

/** Declares the architecture's weights to the library, which reads none of them yet. The caller frees `native`. */
export function declareWeights(file: ModelFile, read: ReadArchitecture): { native: NativeModel; weights: unknown } {
  const resolved = resolveWeights(read.weights, file);
  const native = new NativeModel(file.native, resolved.length);
  try {
    const numbers = new Map<WeightSpec, number>();
    for (const { spec, index } of resolved) numbers.set(spec, native.weight(index, spec.use));
    return { native, weights: bindWeights(read.weights, numbers) };
  } catch (error) {
    native.free();
    throw error;
  }
}

/** The memories of each layer as graphs reach them. */
export function memoryHandles(layout: MemoryLayout): LayerHandles[] {
  return layout.numbers.map((names, layer) =>
    Object.fromEntries(
      Object.entries(names).map(([name, number]): [string, MemoryHandle] => [
        name,
        {
          layer,
          name,
          number,
          record: layout.records[number] as MemoryRecord,
          isShared: layout.lowered[number]?.kind === "shared",
        },
      ]),
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

/** Builds the graph of steps of `rows` tokens and `outputs` logits; the engine keeps it. */
export function buildGraph(parts: GraphParts, rows: number, outputs: number): GraphFacts {
  const { engine, read, weights, handles, architecture } = parts;
  const native = new NativeGraph(engine, rows, outputs, 1024 + 256 * handles.length);
  try {
    const g = new Graph(native, architecture, rows, outputs);
    return native.finish(read.graph(g, weights, handles).number);
  } catch (error) {
    native.abandon();
    throw error;
  }
}
