import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { loadModel, type Model } from "ggstrata";
import { nmse, readFixture } from "./reference.ts";

/** Logits of every position, one after the other. */
async function allLogits(model: Model, tokens: readonly number[], chunk: number): Promise<Float32Array> {
  const out = new Float32Array(tokens.length * model.vocabularySize);
  for await (const { position, logits } of model.logits(tokens, { chunk })) {
    out.set(logits, position * model.vocabularySize);
  }
  return out;
}

// gemma3: ggml's gelu is a table of f16 values.
const fixtures = [
  ["llama", 1e-8],
  ["gemma3", 1e-6],
  ["mamba2", 1e-8],
  ["granitehybrid", 1e-8],
  ["granitehybrid-moe", 1e-8],
  ["bamba", 1e-8],
  ["qwen3", 1e-8],
  ["mamba", 1e-8],
  ["falcon-mamba", 1e-8],
  ["jamba", 1e-8],
  ["plamo2", 1e-8],
  ["qwen3next", 1e-8],
  ["qwen35", 1e-8],
  ["kimi-linear", 1e-8],
  ["lfm2", 1e-8],
  ["lfm2moe", 1e-8],
  ["recurrentgemma", 1e-8],
  ["rwkv6", 1e-8],
  ["rwkv7", 1e-8],
  ["falcon-h1", 1e-8],
  ["nemotron-h", 1e-8],
  ["nemotron-h-moe", 1e-8],
] as const;

describe.each(fixtures)("%s", (name, tolerance) => {
  const fixture = readFixture(name);
  let model: Model;
  beforeAll(async () => {
    model = await loadModel(fixture.model, { context: 256, sequences: 4, kv: "f32", threads: 2 });
  });
  afterAll(() => model.dispose());

  test.each([
    ["the whole prompt at once", 256],
    ["one token at a time", 1],
    ["chunks of 5", 5],
  ])("logits are the reference's: %s", async (_, chunk) => {
    for (const { tokens, logits } of fixture.sequences) {
      expect(nmse(await allLogits(model, tokens, chunk), logits)).toBeLessThanOrEqual(tolerance);
    }
  });

  test("logits are the reference's: four sequences of different lengths in each batch", async () => {
    const [first, ...others] = fixture.sequences;
    if (first === undefined) throw new Error(`${name} has no sequence`);
    // The fourth one is the beginning of the first.
    const all = [first, ...others, { tokens: first.tokens.slice(0, 17), logits: first.logits }];
    const runs = all.map(({ tokens, logits }) => ({ tokens, expected: logits, sequence: model.sequence(), at: 0 }));
    expect(runs.length).toBe(4);
    const actual = runs.map((): Float32Array[] => []);
    for (let round = 0; runs.some(({ tokens, at }) => at < tokens.length); round += 1) {
      const parts = runs.flatMap((run, i) => {
        const tokens = run.tokens.slice(run.at, run.at + 1 + ((7 * round + 5 * i) % 11));
        run.at += tokens.length;
        return tokens.length === 0 ? [] : [{ i, sequence: run.sequence, tokens, logits: "all" as const }];
      });
      const results = await model.feed(parts);
      for (const [j, { i }] of parts.entries()) actual[i]?.push(...(results[j]?.logits ?? []));
    }
    for (const [i, { tokens, expected, sequence }] of runs.entries()) {
      sequence.dispose();
      const rows = actual[i] ?? [];
      expect(rows.length).toBe(tokens.length);
      const joined = Float32Array.from(rows.flatMap((row) => [...row]));
      expect(nmse(joined, expected.subarray(0, joined.length))).toBeLessThanOrEqual(tolerance);
    }
  });

  test("the greedy continuation is the reference's", async () => {
    const { prompt, tokens } = fixture.greedy;
    const drawn: number[] = [];
    const options = { temperature: 0, maxTokens: tokens.length, ignoreEnd: true };
    for await (const event of model.events(prompt, options)) if (event.type === "token") drawn.push(event.token);
    expect(drawn).toEqual([...tokens]);
  });
});
