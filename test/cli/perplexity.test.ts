import { describe, expect, test } from "bun:test";
import { measurePerplexity, type LogitsSource } from "../../lib/cli/perplexity.ts";

const { signal } = new AbortController();

/** A model whose logits depend on the tokens before; keeps what it was given. */
function model(logitsAfter: (tokens: readonly number[]) => number[]) {
  const given: number[][] = [];
  const source: LogitsSource = {
    async *logits(tokens) {
      given.push([...tokens]);
      for (const position of tokens.keys()) {
        yield { position, logits: Float32Array.from(logitsAfter(tokens.slice(0, position + 1))) };
      }
    },
  };
  return { source, given };
}

function uniform(count: number): number[] {
  return new Array<number>(count).fill(1000);
}

describe("perplexity", () => {
  test("of a model that knows nothing is the size of its vocabulary", async () => {
    const { source, given } = model(() => uniform(50));
    const tokens = Array.from({ length: 25 }, (_, index) => index);
    const { perplexity, tokens: scored } = await measurePerplexity(source, tokens, {
      window: 8,
      bos: undefined,
      signal,
    });
    expect(perplexity).toBeCloseTo(50, 9);
    // Of the positions 4 to 7 of each of three windows, the last one has nothing to predict.
    expect(scored).toBe(9);
    expect(given).toEqual([tokens.slice(0, 8), tokens.slice(8, 16), tokens.slice(16, 24)]);
  });

  test("is that of the tokens that come, not of others", async () => {
    const { source } = model((tokens) => [0, 1, 2, 3].map((id) => (id === (tokens.at(-1) ?? 0) + 1 ? Math.log(7) : 0)));
    const options = { window: 4, bos: undefined, signal };
    expect((await measurePerplexity(source, [0, 1, 2, 3], options)).perplexity).toBeCloseTo(10 / 7, 6);
    expect((await measurePerplexity(source, [0, 1, 2, 1], options)).perplexity).toBeCloseTo(10, 6);
  });

  test("puts BOS in place of each window's first token", async () => {
    const { source, given } = model(() => uniform(9));
    await measurePerplexity(source, [1, 2, 3, 4, 5, 6, 7, 8], { window: 4, bos: 0, signal });
    expect(given).toEqual([
      [0, 2, 3, 4],
      [0, 6, 7, 8],
    ]);
  });

  test("tells how far it is", async () => {
    const { source } = model(() => uniform(9));
    const heard: [number, number][] = [];
    const onWindow = (done: number, total: number): void => void heard.push([done, total]);
    await measurePerplexity(source, [1, 2, 3, 4, 5, 6, 7, 8], { window: 4, bos: 0, signal, onWindow });
    expect(heard).toEqual([
      [1, 2],
      [2, 2],
    ]);
  });

  test("refuses a text shorter than a window", async () => {
    const { source } = model(() => uniform(9));
    const measured = measurePerplexity(source, [1, 2, 3], { window: 4, bos: undefined, signal });
    await expect(measured).rejects.toThrow(
      "the text has 3 tokens, and one window needs 4; give a longer text or a smaller --ctx",
    );
  });

  test("refuses logits that are no numbers", async () => {
    const { source } = model((tokens) => (tokens.length === 3 ? [0, NaN] : [0, 0]));
    const measured = measurePerplexity(source, [0, 1, 0, 1], { window: 4, bos: undefined, signal });
    await expect(measured).rejects.toThrow("the logits after token 2 of the text are no numbers");
  });
});
