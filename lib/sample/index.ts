export {
  resolveSampling,
  samplingDefaults,
  seedHalves,
  type ResolvedLogitBias,
  type ResolvedSampling,
  type SamplingOptions,
} from "./options.ts";
export {
  argmax,
  checkLogits,
  checkSampler,
  checkToken,
  softmax,
  type CustomSampler,
  type CustomSamplerContext,
} from "./custom.ts";
