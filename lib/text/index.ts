export { StreamDecoder } from "./decode.ts";
export type { TokenizerKind } from "./kinds.ts";
export { StopMatcher, type StopResult } from "./stop.ts";
export {
  type ChatMessage,
  type ChatTemplate,
  type ChatTemplateOptions,
  createChatTemplate,
  type PromptPart,
} from "./template.ts";
export { createTokenizer, type DecodeOptions, type EncodeOptions, type Tokenizer } from "./tokenizer.ts";
export type { TokenAttribute } from "./vocabulary.ts";
