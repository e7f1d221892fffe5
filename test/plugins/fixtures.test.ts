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
] as const;

describe.each(fixtures)("%s", (name, tolerance) => {
  const fixture = readFixture(name);
  let model: Model;
  beforeAll(async () => {
    model = await loadModel(fixture.model, { context: 256, kv: "f32", threads: 2 });
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

  test("the greedy continuation is the reference's", async () => {
    const { prompt, tokens } = fixture.greedy;
    const drawn: number[] = [];
    const options = { temperature: 0, maxTokens: tokens.length, ignoreEnd: true };
    for await (const event of model.events(prompt, options)) if (event.type === "token") drawn.push(event.token);
    expect(drawn).toEqual([...tokens]);
  });
});
