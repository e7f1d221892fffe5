import { StrataError } from "../errors.ts";
import type { GenerateOptions, Model } from "../index.ts";
import { resolveSampling } from "../sample/index.ts";
import { StopMatcher, type ChatMessage, type ChatTemplate } from "../text/index.ts";
import { invalid, notSupported, RequestError, toRequestError } from "./errors.ts";
import { Fields, show } from "./fields.ts";

/** What reading a request needs to know of the model. */
export type PromptModel = Pick<Model, "tokenizer" | "contextLength" | "vocabularySize">;

/** One continuation that a request asks for. */
export interface Generation {
  readonly prompt: readonly number[];
  /** Text that the answer repeats in front of the continuation. */
  readonly echo: string;
  readonly options: GenerateOptions;
}

/** What a request asks for, checked. */
export interface Job {
  readonly kind: "chat" | "completion";
  /** In the order of the answer's choices: all of the first prompt, then all of the next. */
  readonly generations: readonly Generation[];
  /** Tokens of the prompts, each prompt counted once however many choices it has. */
  readonly promptTokenCount: number;
  readonly stream: boolean;
  readonly includeUsage: boolean;
  readonly logProbabilities: boolean;
}

/** Choices of one answer, over all of its prompts. */
export const choicesMax = 128;

/**
 * Reads a request to `/v1/chat/completions`.
 * @param template gives the chat template, which is asked for only when the request is otherwise right
 * @throws RequestError that names the field
 */
export function readChatRequest(body: unknown, model: PromptModel, template: () => ChatTemplate): Job {
  const fields = Fields.of(body);
  refuseInChat(fields);
  const messages = readMessages(fields);
  const extra = fields.object("chat_template_kwargs")?.all ?? {};
  const logProbabilities = fields.flag("logprobs") ?? false;
  const maxTokens = readMaxTokens(fields, "max_completion_tokens") ?? readMaxTokens(fields, "max_tokens");
  const shared = readShared(fields, model, { maxTokens, logProbabilities });
  const chatTemplate = blame(null, template);
  const tokens = blame("messages", () => chatTemplate.tokenize(messages, { extra }));
  const prompt = checkLength("messages", tokens, model);
  return toJob("chat", [{ prompt, echo: "" }], shared);
}

/**
 * Reads a request to `/v1/completions`.
 * @throws RequestError that names the field
 */
export function readCompletionRequest(body: unknown, model: PromptModel): Job {
  const fields = Fields.of(body);
  refuseInCompletion(fields);
  const echo = fields.flag("echo") ?? false;
  const logprobs = fields.integer("logprobs", 0, 5);
  if (logprobs !== undefined && logprobs > 0) {
    throw notSupported("logprobs", `is ${logprobs}; only 0, the log probability of the chosen tokens, is available`);
  }
  if (logprobs !== undefined && echo) {
    throw notSupported("logprobs", "cannot be given with echo: the prompt's log probabilities are not available");
  }
  const maxTokens = readMaxTokens(fields, "max_tokens") ?? completionTokensDefault;
  const shared = readShared(fields, model, { maxTokens, logProbabilities: logprobs !== undefined });
  const special = fields.flag("special") ?? false;
  const prompts = readPrompts(fields, model, special);
  return toJob(
    "completion",
    prompts.map(({ prompt, text }) => ({ prompt, echo: echo ? text() : "" })),
    shared,
  );
}

/** A request to `/tokenize`. */
export function readTokenizeRequest(body: unknown): { text: string; bos: boolean; special: boolean } {
  const fields = Fields.of(body);
  const field = ["content", "text", "prompt"].find((name) => fields.get(name) !== undefined) ?? "content";
  const text = fields.text(field);
  if (text === undefined) throw fields.wrong(field, "the text to tokenize");
  return { text, bos: fields.flag("add_special") ?? false, special: fields.flag("parse_special") ?? false };
}

/** A request to `/detokenize`. */
export function readDetokenizeRequest(body: unknown, model: PromptModel): { tokens: number[]; special: boolean } {
  const fields = Fields.of(body);
  const values = fields.array("tokens");
  if (values === undefined) throw fields.wrong("tokens", "an array of token ids");
  return { tokens: readTokens("tokens", values, model), special: fields.flag("special") ?? false };
}

/** OpenAI's default for completions. A model of plain text would otherwise go on until the context is full. */
const completionTokensDefault = 16;

interface Shared {
  readonly options: GenerateOptions;
  readonly count: number;
  readonly stream: boolean;
  readonly includeUsage: boolean;
  readonly logProbabilities: boolean;
}

/** What both kinds of request have in common. */
function readShared(
  fields: Fields,
  model: PromptModel,
  read: { maxTokens: number | "unlimited" | undefined; logProbabilities: boolean },
): Shared {
  fields.text("model");
  const stop = readStop(fields);
  const sampling = readSampling(fields, model);
  return {
    options: {
      ...sampling,
      ...(typeof read.maxTokens === "number" ? { maxTokens: read.maxTokens } : {}),
      ...(stop.length > 0 ? { stop } : {}),
      ignoreEnd: fields.flag("ignore_eos") ?? false,
      logProbabilities: read.logProbabilities,
    },
    count: fields.integer("n", 1, choicesMax) ?? 1,
    stream: fields.flag("stream") ?? false,
    includeUsage: fields.object("stream_options")?.flag("include_usage") ?? false,
    logProbabilities: read.logProbabilities,
  };
}

function toJob(
  kind: Job["kind"],
  prompts: readonly { prompt: readonly number[]; echo: string }[],
  shared: Shared,
): Job {
  const { options, count, stream, includeUsage, logProbabilities } = shared;
  if (prompts.length * count > choicesMax) {
    throw invalid("n", `is ${count} for ${prompts.length} prompts; ask for at most ${choicesMax} choices in all`);
  }
  const generations = prompts.flatMap((prompt) =>
    Array.from({ length: count }, (_, index) => ({
      ...prompt,
      options: { ...options, seed: nth(options.seed, index) },
    })),
  );
  const promptTokenCount = prompts.reduce((sum, { prompt }) => sum + prompt.length, 0);
  return { kind, generations, promptTokenCount, stream, includeUsage, logProbabilities };
}

/** Choices of one prompt differ by their seeds, and the first is what a request for one choice gives. */
function nth(seed: number | undefined, index: number): number | undefined {
  return seed === undefined ? undefined : (seed + index) % Number.MAX_SAFE_INTEGER;
}

function readSampling(fields: Fields, model: PromptModel): GenerateOptions {
  const topP = fields.real("top_p", 0, 1);
  const seed = fields.integer("seed", -1, Number.MAX_SAFE_INTEGER - choicesMax);
  const options = {
    temperature: fields.real("temperature", 0, 1000),
    topK: fields.integer("top_k", -1, 2 ** 31 - 1),
    // OpenAI allows 0, which can only mean: as few tokens as possible.
    topP: topP === undefined ? undefined : Math.max(topP, 1e-9),
    minP: fields.real("min_p", 0, 1),
    seed: seed === -1 ? undefined : seed,
    repetitionPenalty: fields.real("repeat_penalty", 0.01, 100) ?? fields.real("repetition_penalty", 0.01, 100),
    frequencyPenalty: fields.real("frequency_penalty", -100, 100),
    presencePenalty: fields.real("presence_penalty", -100, 100),
    penaltyLastN: fields.integer("repeat_last_n", -1, 2 ** 20),
    logitBias: readLogitBias(fields, model),
  };
  // The fields were checked by name; this finds what their combination and the vocabulary still forbid.
  blame(null, () => resolveSampling(options, model.vocabularySize));
  return options;
}

function readLogitBias(fields: Fields, model: PromptModel): Record<number, number> | undefined {
  const biases = fields.object("logit_bias");
  if (biases === undefined) return undefined;
  const keys = Object.keys(biases.all);
  for (const key of keys) {
    if (!/^(0|[1-9]\d*)$/.test(key) || Number(key) >= model.vocabularySize) {
      const range = `token ids from 0 to ${model.vocabularySize - 1}`;
      throw invalid("logit_bias", `has the key ${show(key)}; give ${range}, as strings`);
    }
  }
  return Object.fromEntries(keys.map((key) => [key, biases.real(key, -1000, 1000) ?? 0]));
}

function readStop(fields: Fields): readonly string[] {
  const value = fields.get("stop");
  if (value === undefined) return [];
  const stops: readonly unknown[] = Array.isArray(value) ? value : [value];
  if (!stops.every((stop) => typeof stop === "string")) throw fields.wrong("stop", "a string or an array of strings");
  blame("stop", () => new StopMatcher(stops));
  return stops;
}

/** -1 is llama.cpp's way to say that there is no limit but the context. */
function readMaxTokens(fields: Fields, field: string): number | "unlimited" | undefined {
  const value = fields.integer(field, -1, 2 ** 31 - 1);
  return value === -1 ? "unlimited" : value;
}

interface Prompt {
  readonly prompt: readonly number[];
  readonly text: () => string;
}

/** A prompt is a text or token ids, or an array of either. */
function readPrompts(fields: Fields, model: PromptModel, special: boolean): readonly Prompt[] {
  const value = fields.get("prompt");
  if (typeof value === "string") return [readPrompt("prompt", value, model, special)];
  const allowed = "a string, an array of strings, an array of token ids, or an array of such arrays";
  if (!Array.isArray(value)) throw fields.wrong("prompt", allowed);
  if (value.length === 0) throw invalid("prompt", `is empty; give ${allowed}`);
  if (typeof value[0] === "number") return [readPrompt("prompt", value, model, special)];
  if (value.length > choicesMax) {
    throw invalid("prompt", `holds ${value.length} prompts; give at most ${choicesMax} in one request`);
  }
  return value.map((item: unknown, index) => readPrompt(`prompt[${index}]`, item, model, special));
}

function readPrompt(param: string, value: unknown, model: PromptModel, special: boolean): Prompt {
  if (typeof value === "string") {
    if (value === "") throw invalid(param, "is empty; give some text to continue");
    const tokens = blame(param, () => model.tokenizer.encode(value, { special }));
    return { prompt: checkLength(param, tokens, model), text: () => value };
  }
  if (!Array.isArray(value)) throw invalid(param, `is ${show(value)}; give a string or an array of token ids`);
  const tokens = checkLength(param, readTokens(param, value, model), model);
  return { prompt: tokens, text: () => model.tokenizer.decode(tokens, { cleanUp: false }) };
}

function readTokens(param: string, values: readonly unknown[], model: PromptModel): number[] {
  return values.map((value, index) => {
    const isToken = typeof value === "number" && Number.isInteger(value) && value >= 0 && value < model.vocabularySize;
    if (isToken) return value;
    throw invalid(`${param}[${index}]`, `is ${show(value)}; give token ids from 0 to ${model.vocabularySize - 1}`);
  });
}

function checkLength(param: string, tokens: number[], model: PromptModel): number[] {
  if (tokens.length === 0) throw invalid(param, "gives no token; give some text to continue");
  if (tokens.length <= model.contextLength) return tokens;
  throw new RequestError(
    400,
    `${param} has ${tokens.length} tokens, but the context has room for ${model.contextLength}; shorten it`,
    { param, code: "context_length_exceeded" },
  );
}

function readMessages(fields: Fields): ChatMessage[] {
  const messages = fields.array("messages");
  if (messages === undefined || messages.length === 0) {
    throw invalid("messages", `is ${messages === undefined ? "missing" : "empty"}; give at least one message`);
  }
  return messages.map((value, index) => {
    const message = Fields.of(value, `messages[${index}]`);
    const role = message.text("role");
    if (role === undefined) throw message.wrong("role", '"system", "user" or "assistant"');
    const { content: _, ...others } = message.all;
    // Templates know the older name of what OpenAI now calls a developer's message.
    return { ...others, role: role === "developer" ? "system" : role, content: readContent(message, role) };
  });
}

/** Text, from a string or from OpenAI's array of parts. Only an assistant's message may have none. */
function readContent(message: Fields, role: string): string | null {
  const content = message.get("content");
  if (typeof content === "string") return content;
  if (content === undefined && role === "assistant") return null;
  if (!Array.isArray(content)) throw message.wrong("content", "a string or an array of text parts");
  return content
    .map((value: unknown, index) => {
      const part = Fields.of(value, `${message.name("content")}[${index}]`);
      if (part.get("type") !== "text") {
        throw notSupported(part.name("type"), `is ${show(part.get("type"))}; only parts of type "text" can be read`);
      }
      const text = part.text("text");
      if (text === undefined) throw part.wrong("text", "a string");
      return text;
    })
    .join("");
}

/** What would change the answer's meaning must not be ignored in silence. */
function refuseInChat(fields: Fields): void {
  if ((fields.integer("top_logprobs", 0, 20) ?? 0) > 0) {
    throw notSupported("top_logprobs", "is above 0; only the chosen tokens' log probabilities are available");
  }
  const offersTools = (fields.array("tools")?.length ?? 0) > 0 && fields.get("tool_choice") !== "none";
  if (offersTools) throw notSupported("tools", "cannot be called here yet; leave it out, or set tool_choice to none");
  if ((fields.array("functions")?.length ?? 0) > 0) {
    throw notSupported("functions", "cannot be called here; leave it out");
  }
  refuseFormat(fields);
}

function refuseInCompletion(fields: Fields): void {
  if ((fields.text("suffix") ?? "") !== "") throw notSupported("suffix", "cannot be filled in here; leave it out");
  const bestOf = fields.integer("best_of", 1, choicesMax) ?? 1;
  if (bestOf > (fields.integer("n", 1, choicesMax) ?? 1)) {
    throw notSupported("best_of", `is ${bestOf}, more than n; ask for n choices and choose`);
  }
  refuseFormat(fields);
}

function refuseFormat(fields: Fields): void {
  const format = fields.object("response_format");
  const type = format?.text("type");
  if (type !== undefined && type !== "text") {
    throw notSupported("response_format", `has the type ${show(type)}; only "text" is available`);
  }
}

/** Says which field of the request it was that the SDK refused. */
function blame<Result>(param: string | null, use: () => Result): Result {
  try {
    return use();
  } catch (error) {
    if (!(error instanceof StrataError)) throw error;
    const { status, message, code } = toRequestError(error);
    throw new RequestError(status, message, { param, code, cause: error });
  }
}
