import type { GenerateOptions, GenerationEvent } from "../../lib/index.ts";

/** Timings of a generation of which a test asks nothing. */
export const timings = {
  queueMs: 1,
  prefillMs: 10,
  decodeMs: 20,
  prefillTokensPerSecond: 200,
  decodeTokensPerSecond: Infinity,
};

/** The events of a generation that says these pieces, a token each, and stops early where it is aborted. */
export async function* eventsOf(
  prompt: readonly number[],
  pieces: readonly string[],
  { signal }: GenerateOptions = {},
): AsyncGenerator<GenerationEvent, void> {
  yield { type: "start", promptTokens: prompt, seed: 7 };
  yield { type: "prefill", doneTokens: prompt.length, totalTokens: prompt.length };
  let tokenCount = 0;
  for (const text of pieces) {
    if (signal?.aborted) break;
    yield { type: "token", token: 100 + tokenCount, text };
    tokenCount += 1;
  }
  const finishReason = signal?.aborted ? "cancelled" : "stop";
  yield { type: "end", text: "", finishReason, promptTokenCount: prompt.length, tokenCount, timings };
}
