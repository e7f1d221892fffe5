export {
  latentAttention,
  latentMemory,
  type LatentAttentionOptions,
  type LatentAttentionWeights,
  type LatentShape,
} from "./attention-blocks.ts";
export {
  gatedMlp,
  given,
  linear,
  mamba2Mixer,
  mamba2Memory,
  mixtureOfExperts,
  selfAttention,
  squaredReluMlp,
  type AttentionWeights,
  type Mamba2Options,
  type Mamba2Weights,
  type MlpWeights,
  type MoeOptions,
  type MoeWeights,
  type SelfAttentionOptions,
} from "./blocks.ts";
export {
  gatedDeltaMemory,
  gatedDeltaNet,
  kimiDeltaAttention,
  kimiDeltaMemory,
  type GatedDeltaOptions,
  type GatedDeltaShape,
  type GatedDeltaWeights,
  type KimiDeltaOptions,
  type KimiDeltaShape,
  type KimiDeltaWeights,
  type LowRank,
} from "./delta-blocks.ts";
export { Graph, type GraphLayer } from "./graph.ts";
export type {
  AttendOptions,
  ConvolveOptions,
  DeltaNetOptions,
  LinearRecurrenceOptions,
  RopeOptions,
  ScanMamba1Options,
  ScanOptions,
  Wkv6Options,
  Wkv7Options,
} from "./options.ts";
export { mamba1Memory, mamba1Mixer, type Mamba1Options, type Mamba1Weights } from "./mamba-blocks.ts";
export type { LayerHandles, MemoryHandle } from "./memory.ts";
export {
  blockDiagonal,
  geluTanh,
  griffinMemory,
  griffinMixer,
  rgLru,
  sequenceStarts,
  type GriffinWeights,
  type RgLruOptions,
  type RgLruWeights,
} from "./recurrence-blocks.ts";
export type { RopeScaling, YarnOptions } from "./rope.ts";
export {
  routedExperts,
  routeToExperts,
  type ExpertWeights,
  type Route,
  type RouterScores,
  type RouterWeights,
  type RoutingOptions,
} from "./routing-blocks.ts";
export {
  layerNorm,
  rwkv6ChannelMix,
  rwkv6Memory,
  rwkv6TimeMix,
  rwkv7ChannelMix,
  rwkv7Memory,
  rwkv7TimeMix,
  tokenShift,
  type LowRankWeights,
  type Rwkv6ChannelMixWeights,
  type Rwkv6TimeMixWeights,
  type Rwkv7ChannelMixWeights,
  type Rwkv7TimeMixOptions,
  type Rwkv7TimeMixWeights,
  type RwkvShape,
  type TimeMixOptions,
} from "./rwkv-blocks.ts";
export {
  shortConvolution,
  shortConvolutionMemory,
  type ShortConvolutionOptions,
  type ShortConvolutionWeights,
} from "./short-convolution-block.ts";
export { Tensor, Weight, type Operand } from "./tensor.ts";
