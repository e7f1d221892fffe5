/** Why a generation ended: an end token or a stop string; a limit; the caller's `AbortSignal`. */
export type FinishReason = "stop" | "length" | "cancelled";

/** Milliseconds and speeds of one generation. */
export interface GenerationTimings {
  /** From the request to its first computing: waiting for a free sequence and for the step that ran. */
  queueMs: number;
  /** Computing the prompt, up to the first token. */
  prefillMs: number;
  /** From the first token to the last. */
  decodeMs: number;
  prefillTokensPerSecond: number;
  /** Tokens after the first, over `decodeMs`. */
  decodeTokensPerSecond: number;
}

/**
 * The one internal stream that the script API, the command line and the service all read. A generation gives one
 * `start`, any number of `prefill` and `token` events, and one `end`; a failure throws instead of `end`.
 */
export type GenerationEvent =
  | {
      type: "start";
      /** The prompt as tokens, BOS included. */
      promptTokens: readonly number[];
      /** The sampler's seed, also where it was drawn. */
      seed: number;
    }
  | { type: "prefill"; doneTokens: number; totalTokens: number }
  | {
      type: "token";
      token: number;
      /** Text that is certain by now: never half a character, never part of a stop string; may be empty. */
      text: string;
      /** Natural logarithm under the model's own softmax; only when `logProbabilities` was asked for. */
      logProbability?: number;
    }
  | {
      type: "end";
      /** What was held back until it was certain; follows the last token's text. */
      text: string;
      finishReason: FinishReason;
      promptTokenCount: number;
      /** Tokens drawn, an end token included. */
      tokenCount: number;
      timings: GenerationTimings;
    };
