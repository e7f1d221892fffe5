import type { HuggingFaceMapping } from "../convert/mapping.ts";
import { StrataError } from "../errors.ts";
import { isRecord, shown } from "../shown.ts";
import type { Graph } from "../graph/graph.ts";
import type { LayerHandles } from "../graph/memory.ts";
import type { Tensor } from "../graph/tensor.ts";
import type { LayerMemory } from "../memory/declaration.ts";
import type { Metadata, MetadataValue } from "../gguf/metadata.ts";
import { architectureName, runPart } from "./read.ts";
import type { BoundWeights, WeightTree } from "./weights.ts";

/** The version of what {@link defineArchitecture} takes and of what its functions are given. */
export const apiVersion = 1;

/** GGUF metadata by key, as a plugin writes it. */
export type ExampleMetadata = Readonly<Record<string, MetadataValue | readonly number[]>>;

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
  /** The version of Strata's plugin API that the plugin is written for. */
  readonly apiVersion: typeof apiVersion;
  /** GGUF's `general.architecture`, one or more. */
  readonly names: readonly [string, ...string[]];
  /** It takes the place of another architecture of one of its names, which is an error otherwise. */
  readonly replaces?: true;
  /** Metadata of a tiny model, for tests that make one with random weights. */
  readonly example?: ExampleMetadata;
  /** How Hugging Face checkpoints become files of this architecture, for `strata convert`; one mapping or several. */
  readonly huggingFace?: HuggingFaceMapping | readonly HuggingFaceMapping[];
  /** Reads the configuration; `Metadata` throws on missing and odd values. */
  config(metadata: Metadata): C;
  /** What each layer remembers, by name. */
  memory(config: C): readonly M[];
  /** Names and shapes of the weights, checked against the file before anything is read. */
  weights(config: C): W;
  /**
   * Names of tensors that a file may have and a step does not need, such as those of layers that only guess further
   * tokens; `*` at the end stands for any rest. Other tensors that `weights` does not name are refused.
   */
  ignores?(config: C): readonly string[];
  /** The whole model, from token ids to logits `[vocabulary, outputs]`. */
  graph(g: Graph, config: C, weights: BoundWeights<W>, memory: readonly LayerHandles<M>[]): Tensor;
}

/** An architecture as the loader holds it, whatever its configuration is. */
export interface Architecture {
  readonly apiVersion: number;
  readonly names: readonly string[];
  readonly replaces?: boolean;
  readonly example?: ExampleMetadata | undefined;
  readonly huggingFace?: readonly HuggingFaceMapping[];
  /** Reads a file's metadata; the result answers for the other parts. */
  read(metadata: Metadata): ReadArchitecture;
}

/** An architecture with the configuration of one file. */
export interface ReadArchitecture {
  readonly config: BaseConfig;
  readonly memory: readonly LayerMemory[];
  readonly weights: WeightTree;
  /** Names of tensors that a step does not need; `*` at the end stands for any rest. */
  readonly ignores?: readonly string[] | undefined;
  /** `weights` are those of the tree, bound. */
  graph(g: Graph, weights: unknown, memory: readonly LayerHandles[]): Tensor;
}

/**
 * Defines an architecture plugin.
 * @throws StrataError `unsupported` where the plugin is written for another version of the plugin API
 */
export function defineArchitecture<C extends BaseConfig, M extends LayerMemory, W extends WeightTree>(
  definition: ArchitectureDefinition<C, M, W>,
): Architecture {
  checkDefinition(definition);
  const { names, replaces = false, example, huggingFace = [] } = definition;
  return {
    apiVersion: definition.apiVersion,
    names,
    replaces,
    example,
    huggingFace: [huggingFace].flat(),
    read(metadata) {
      const { file } = metadata;
      const name = architectureName(definition, metadata);
      const config = runPart(name, "config", file, () => definition.config(metadata));
      return {
        config,
        memory: runPart(name, "memory", file, () => definition.memory(config)),
        weights: runPart(name, "weights", file, () => definition.weights(config)),
        ignores: runPart(name, "ignores", file, () => definition.ignores?.(config)),
        graph: (g, weights, memory) =>
          definition.graph(g, config, weights as BoundWeights<W>, memory as readonly LayerHandles<M>[]),
      };
    },
  };
}

const parts = ["config", "memory", "weights", "graph"] as const;

/** Throws unless a definition has all its parts, for authors whom no type checker told. */
function checkDefinition(definition: unknown): void {
  const fault = (sentence: string) => new StrataError("invalid_argument", `defineArchitecture: ${sentence}`);
  if (!isRecord(definition))
    throw fault(`${shown(definition)} is no definition; give an object with ${parts.join(", ")}`);
  const { names } = definition;
  const isNames = Array.isArray(names) && names.length > 0;
  if (!isNames || !Array.from<unknown>(names).every((name) => typeof name === "string" && name !== "")) {
    throw fault(`names is ${shown(names)}; give GGUF's general.architecture, one or more, such as ["jamba"]`);
  }
  checkApiVersion(names as string[], definition["apiVersion"]);
  const who = `the architecture "${names.join('", "')}"`;
  for (const part of parts) {
    if (typeof definition[part] !== "function")
      throw fault(`${part} of ${who} is ${shown(definition[part])}, and no function`);
  }
  const { replaces } = definition;
  if (replaces !== undefined && replaces !== true) {
    throw fault(`replaces of ${who} is ${shown(replaces)}; write true, or leave it out`);
  }
}

/** Throws unless a plugin is written for this version of the plugin API, saying which side to update; `origin` is where it is from. */
export function checkApiVersion(names: readonly string[], version: unknown, origin?: string): void {
  if (version === apiVersion) return;
  const who = `${origin === undefined ? "" : `${origin}: `}the architecture "${names.join('", "')}"`;
  if (typeof version !== "number") {
    const sentence = `${who} does not say which plugin API it is written for; this Strata has version ${apiVersion}: `;
    throw new StrataError("unsupported", `${sentence}write apiVersion: ${apiVersion}`);
  }
  const remedy = version > apiVersion ? "update ggstrata" : "update the plugin";
  const sentence = `${who} is written for version ${version} of the plugin API, and this Strata has version ${apiVersion}`;
  throw new StrataError("unsupported", `${sentence}; ${remedy}`);
}
