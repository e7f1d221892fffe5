import { describe, expect, test } from "bun:test";
import { measureSpeeds } from "../../lib/cli/bench.ts";
import { collect } from "../../lib/cli/generate.ts";
import { eventsOf, timings } from "./fake-model.ts";
import type { GenerateOptions, GenerationEvent } from "../../lib/index.ts";

describe("a generation", () => {
  test("is collected with what was held back at the end", async () => {
    async function* events(): AsyncGenerator<GenerationEvent, void> {
      for await (const event of eventsOf([1, 2], ["a", "", "b"]))
        yield event.type === "end" ? { ...event, text: "c" } : event;
    }
    const heard: string[] = [];
    const generated = await collect(events(), 5.12345, { onText: (text) => void heard.push(text) });
    expect(generated).toEqual({
      text: "abc",
      tokens: [100, 101, 102],
      promptTokens: 2,
      finishReason: "stop",
      timings: {
        ...{ loadMs: 5.123, prefillMs: 10, decodeMs: 20 },
        ...{ prefillTokensPerSecond: 200, decodeTokensPerSecond: 0 },
      },
    });
    expect(heard).toEqual(["a", "b", "c"]);
  });

  test("without an end is an error", async () => {
    async function* events(): AsyncGenerator<GenerationEvent, void> {
      yield { type: "start", promptTokens: [1], seed: 1 };
    }
    await expect(collect(events(), 0)).rejects.toThrow("the generation gave no end event");
  });
});

describe("a benchmark", () => {
  test("measures each kind of work as often as asked, and not the first run", async () => {
    const asked: { prompt: readonly number[]; options: GenerateOptions }[] = [];
    const model = {
      vocabularySize: 50,
      async *events(
        prompt: string | readonly number[],
        options: GenerateOptions = {},
      ): AsyncGenerator<GenerationEvent, void> {
        const tokens = typeof prompt === "string" ? [] : prompt;
        asked.push({ prompt: tokens, options });
        const run = asked.length;
        for await (const event of eventsOf(tokens, ["x"])) {
          yield event.type === "end"
            ? { ...event, timings: { ...timings, prefillMs: run, decodeMs: 10 * run } }
            : event;
        }
      },
    };
    const { signal } = new AbortController();
    const measured = await measureSpeeds(model, { prefillTokens: 30, decodeTokens: 8, repetitions: 3, signal });
    expect(measured).toEqual({
      prefill: { tokens: 30, samples: [10_000, 6000, 4285.714], median: 6000 },
      decode: { tokens: 8, samples: [200, 133.333, 100], median: 133.333 },
    });
    expect(asked.map(({ prompt }) => prompt.length)).toEqual([30, 1, 30, 1, 30, 1, 30, 1]);
    expect(asked.map(({ options }) => options.maxTokens)).toEqual([1, 9, 1, 9, 1, 9, 1, 9]);
    expect(asked.every(({ options }) => options.ignoreEnd && options.temperature === 0)).toBe(true);
    const drawn = asked.flatMap(({ prompt }) => prompt);
    expect(drawn.every((token) => Number.isInteger(token) && token >= 0 && token < 50)).toBe(true);
    expect(new Set(drawn).size).toBeGreaterThan(20);
  });
});
