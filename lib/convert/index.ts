export {
  convertModel,
  conversionTypes,
  type Conversion,
  type ConvertOptions,
  type ConvertProgress,
} from "./convert.ts";
export type { LazyTensor } from "./lazy-tensor.ts";
export { blockTensors, type HuggingFaceConfig, type HuggingFaceMapping, type TensorTable } from "./mapping.ts";
export {
  computed,
  mapped,
  negativeExp,
  permuteRope,
  plusOne,
  reshaped,
  split,
  stacked,
  TensorRecipe,
  transposed,
  type TensorSource,
} from "./recipe.ts";
export { attentionTensors, linearTensors, mamba2Tensors, mlpTensors } from "./tables.ts";
export { commonMetadata, refuseTimeStepLimit, ropeFactors, ropeMetadata, roundToBf16 } from "./values.ts";
