/**
 * Strata: language models whose layers keep different kinds of memory. `loadModel` for users, `defineArchitecture` and
 * the graph's blocks for authors of plugins.
 */
export * from "./convert/index.ts";
export { StrataError, type ErrorCode } from "./errors.ts";
export {
  float32,
  typedNumber,
  TypedNumber,
  type GgufMetadata,
  type GgufValue,
  type WrittenType,
} from "./gguf/index.ts";
export * from "./graph/index.ts";
export * from "./memory/index.ts";
export {
  apiVersion,
  defineArchitecture,
  type Architecture,
  type ArchitectureDefinition,
  type BaseConfig,
  type ExampleMetadata,
} from "./model/architecture.ts";
export {
  attentionWeights,
  expertWeights,
  gatedDeltaWeights,
  headNormWeights,
  mamba1Weights,
  mamba2Weights,
  mlpWeights,
  shortConvolutionWeights,
  type AttentionShape,
  type Mamba1Shape,
  type Mamba2Shape,
} from "./model/block-weights.ts";
export {
  gatedDeltaConfig,
  guessingTensors,
  layerCount,
  mamba2Config,
  perLayer,
  recurrentLayers,
  ropeOptions,
  share,
  steppedLayerCount,
  supportsOnly,
  tapCount,
  vocabularySize,
  type RopeOfFile,
} from "./model/conventions.ts";
export { ModelFile, openModelFile, type TensorInfo } from "./model/file.ts";
export { Metadata, type MetadataValue, type NumberArray } from "./gguf/metadata.ts";
export { describeMemory, loadModel, Model } from "./model/model.ts";
export type { LoadOptions, MemoryOptions } from "./model/options.ts";
export { planMemory, type MemoryPlan, type PlannedMemory, type PlannedStep, type PlanOptions } from "./model/plan.ts";
export { loadPlugin, type Plugin } from "./model/registry.ts";
export { expertRouting, type RoutingDefaults } from "./model/routing.ts";
export {
  experts,
  matrix,
  optional,
  table,
  vector,
  type BoundWeights,
  type WeightSpec,
  type WeightTree,
} from "./model/weights.ts";
export type { Counters } from "./native/engine.ts";
export type { LoadProgress } from "./native/model.ts";
export * from "./sample/index.ts";
export type { FinishReason, GenerationEvent, GenerationTimings } from "./schedule/events.ts";
export type { GenerateOptions } from "./schedule/generation.ts";
export * from "./sequence/index.ts";
export * from "./text/index.ts";
