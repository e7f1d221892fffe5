import type { Model } from "../index.ts";
import type { FinishReason, GenerationEvent } from "../schedule/events.ts";
import type { Job } from "./request.ts";

/** What an answer needs to know of the model. */
export type AnswerModel = Pick<Model, "tokenizer">;

/** An OpenAI object, as JSON. */
export type Json = Readonly<Record<string, unknown>>;

/** Tokens of an answer, as OpenAI counts them. */
interface Usage extends Json {
  prompt_tokens: number;
  completion_tokens: number;
  total_tokens: number;
}

interface TokenEntry {
  readonly token: string;
  readonly bytes: readonly number[];
  readonly logProbability: number;
}

/** What is known of one choice. */
interface Choice {
  text: string;
  readonly entries: TokenEntry[];
  /** Where the next token's text begins, in UTF-16 units. */
  offset: number;
  tokenCount: number;
  finishReason: FinishReason | undefined;
}

/**
 * An answer in OpenAI's form, made from generation events: as chunks while they come, or as a whole when all are
 * there.
 */
export class Answer {
  readonly id: string;
  private readonly created = Math.floor(Date.now() / 1000);
  private readonly choices: Choice[];

  constructor(
    private readonly job: Job,
    private readonly modelName: string,
    private readonly model: AnswerModel,
  ) {
    const random = crypto.randomUUID().replaceAll("-", "");
    this.id = job.kind === "chat" ? `chatcmpl-${random}` : `cmpl-${random}`;
    this.choices = job.generations.map(({ echo }) => ({
      text: echo,
      entries: [],
      offset: echo.length,
      tokenCount: 0,
      finishReason: undefined,
    }));
  }

  /**
   * The chunks before any computing: whose message it is, or the prompt that is to be repeated. Never none, so that
   * the client has the answer's head at once.
   */
  opening(): Json[] {
    return this.choices.map(({ text }, index) =>
      this.chunk(index, this.job.kind === "chat" ? { role: "assistant", content: "" } : { text }),
    );
  }

  /** Records an event of one choice and gives the chunks that it makes, none where nothing new is certain. */
  take(index: number, event: GenerationEvent): Json[] {
    if (event.type !== "token" && event.type !== "end") return [];
    const choice = this.choices[index] as Choice;
    choice.text += event.text;
    const chunks: Json[] = [];
    if (event.type === "token") {
      const logprobs = this.recordEntry(index, choice, event);
      if (event.text !== "" || logprobs !== null) chunks.push(this.textChunk(index, event.text, logprobs));
      return chunks;
    }
    choice.tokenCount = event.tokenCount;
    choice.finishReason = event.finishReason;
    if (event.text !== "") chunks.push(this.textChunk(index, event.text, null));
    const nothing = this.job.kind === "chat" ? {} : { text: "" };
    chunks.push(this.chunk(index, nothing, null, event.finishReason));
    return chunks;
  }

  /** The chunks after the last choice has ended. */
  closing(): Json[] {
    return this.job.includeUsage ? [{ ...this.envelope(true), choices: [], usage: this.usage() }] : [];
  }

  /** All of it, for a request that is not streamed. */
  whole(): Json {
    const choices = this.choices.map((choice, index) => {
      const logprobs = this.job.logProbabilities ? this.logprobs(choice.entries, this.echoLength(index)) : null;
      const rest = { logprobs, finish_reason: choice.finishReason ?? null };
      if (this.job.kind === "completion") return { index, text: choice.text, ...rest };
      return { index, message: { role: "assistant", content: choice.text, refusal: null }, ...rest };
    });
    return { ...this.envelope(false), choices, usage: this.usage() };
  }

  private usage(): Usage {
    const prompt = this.job.promptTokenCount;
    const completion = this.choices.reduce((sum, { tokenCount }) => sum + tokenCount, 0);
    return { prompt_tokens: prompt, completion_tokens: completion, total_tokens: prompt + completion };
  }

  private envelope(isChunk: boolean): Json {
    const chat = isChunk ? "chat.completion.chunk" : "chat.completion";
    const object = this.job.kind === "chat" ? chat : "text_completion";
    return { id: this.id, object, created: this.created, model: this.modelName };
  }

  private textChunk(index: number, text: string, logprobs: Json | null): Json {
    return this.chunk(index, this.job.kind === "chat" ? { content: text } : { text }, logprobs);
  }

  private chunk(
    index: number,
    content: Json,
    logprobs: Json | null = null,
    finishReason: FinishReason | null = null,
  ): Json {
    const body = this.job.kind === "chat" ? { delta: content } : content;
    return {
      ...this.envelope(true),
      choices: [{ index, ...body, logprobs, finish_reason: finishReason }],
      ...(this.job.includeUsage ? { usage: null } : {}),
    };
  }

  /** The token's log probability where it was asked for. A token that only ends the answer is none of its text. */
  private recordEntry(
    index: number,
    choice: Choice,
    event: { readonly token: number; readonly logProbability?: number },
  ): Json | null {
    if (!this.job.logProbabilities || event.logProbability === undefined) return null;
    const { tokenizer } = this.model;
    const ignoresEnd = this.job.generations[index]?.options.ignoreEnd === true;
    if (tokenizer.isEndOfGeneration(event.token) && !ignoresEnd) return null;
    const bytes = tokenizer.tokenBytes(event.token);
    const entry = {
      token: Buffer.from(bytes).toString(),
      bytes: [...bytes],
      // JSON has no infinity; this is what OpenAI gives for what is too improbable.
      logProbability: Math.max(event.logProbability, -9999),
    };
    const logprobs = this.logprobs([entry], choice.offset);
    choice.offset += entry.token.length;
    choice.entries.push(entry);
    return logprobs;
  }

  private logprobs(entries: readonly TokenEntry[], offset: number): Json {
    if (this.job.kind === "chat") {
      const content = entries.map(({ token, bytes, logProbability }) => ({
        token,
        logprob: logProbability,
        bytes,
        top_logprobs: [],
      }));
      return { content, refusal: null };
    }
    let next = offset;
    const offsets = entries.map(({ token }) => {
      next += token.length;
      return next - token.length;
    });
    return {
      tokens: entries.map(({ token }) => token),
      token_logprobs: entries.map(({ logProbability }) => logProbability),
      top_logprobs: null,
      text_offset: offsets,
    };
  }

  private echoLength(index: number): number {
    return this.job.generations[index]?.echo.length ?? 0;
  }
}
