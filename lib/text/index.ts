export { StreamDecoder } from "./decode.ts";
export { createTokenizer, type DecodeOptions, type EncodeOptions, type Tokenizer } from "./tokenizer.ts";
export type { TokenAttribute } from "./vocabulary.ts";
