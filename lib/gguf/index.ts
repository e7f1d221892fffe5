export { encodeHeader, type GgufContents, type GgufHeader, type Placement } from "./header.ts";
export { blockElements, tensorBytes, type TensorHead, type WrittenType } from "./tensor.ts";
export {
  float32,
  plainMetadata,
  typedNumber,
  TypedNumber,
  type GgufMetadata,
  type GgufValue,
  type NumberType,
} from "./value.ts";
export { GgufWriter, writeGguf, type GgufWriterOptions, type Pieces, type TensorData } from "./writer.ts";
