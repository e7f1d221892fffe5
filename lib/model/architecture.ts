import type { Graph } from "../graph/graph.ts";
import type { LayerHandles } from "../graph/memory.ts";
import type { Tensor } from "../graph/tensor.ts";
import type { LayerMemory } from "../memory/declaration.ts";
import type { Metadata } from "./metadata.ts";
import type { BoundWeights, WeightTree } from "./weights.ts";

/** What every architecture's configuration has; the rest is its own. */
export interface BaseConfig {
  /** Tokens in the vocabulary: the width of the logits. */
  readonly vocabulary: number;
  /** Positions that the model was trained for. */
  readonly contextLength: number;
}

/**
 * An architecture: plain functions from a file's metadata to what each layer remembers, which weights it has, and the
 * graph of a step. Shapes are ggml's, fastest dimension first.
 */
export interface ArchitectureDefinition<C extends BaseConfig, M extends LayerMemory, W extends WeightTree> {
  /** GGUF's `general.architecture`, one or more. */
  readonly names: readonly string[];
  /** Reads the configuration; `Metadata` throws on missing and odd values. */
  config(metadata: Metadata): C;
  /** What each layer remembers, by name. */
  memory(config: C): readonly M[];
  /** Names and shapes of the weights, checked against the file before anything is read. */
  weights(config: C): W;
  /** The whole model, from token ids to logits `[vocabulary, outputs]`. */
  graph(g: Graph, config: C, weights: BoundWeights<W>, memory: readonly LayerHandles<M>[]): Tensor;
}

/** An architecture as the loader holds it, whatever its configuration is. */
export interface Architecture {
  readonly names: readonly string[];
  /** Reads a file's metadata; the result answers for the other parts. */
  read(metadata: Metadata): ReadArchitecture;
}

/** An architecture with the configuration of one file. */
export interface ReadArchitecture {
  readonly config: BaseConfig;
  readonly memory: readonly LayerMemory[];
  readonly weights: WeightTree;
  /** `weights` are those of the tree, bound. */
  graph(g: Graph, weights: unknown, memory: readonly LayerHandles[]): Tensor;
}

/** Defines an architecture plugin. */
export function defineArchitecture<C extends BaseConfig, M extends LayerMemory, W extends WeightTree>(
  definition: ArchitectureDefinition<C, M, W>,
): Architecture {
  return {
    names: definition.names,
    read(metadata) {
      const config = definition.config(metadata);
      return {
        config,
        memory: definition.memory(config),
        weights: definition.weights(config),
        graph: (g, weights, memory) =>
          definition.graph(g, config, weights as BoundWeights<W>, memory as readonly LayerHandles<M>[]),
      };
    },
  };
}
