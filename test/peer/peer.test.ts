import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { checkout } from "../../lib/setup/paths.mjs";
import { Peer, type PeerContext } from "./peer.ts";

const folder = join(checkout, "test", "fixtures", "llama");
const model = join(folder, "model.gguf");
const { greedy } = JSON.parse(readFileSync(join(folder, "reference.json"), "utf8")) as {
  greedy: { prompt: number[]; tokens: number[] };
};

setDefaultTimeout(60_000);

let peer: Peer;
beforeAll(() => {
  peer = new Peer();
});
afterAll(() => peer[Symbol.asyncDispose]());

const contexts: readonly PeerContext[] = [
  { kvType: "f32", threads: 1 },
  { kvType: "f16", flashAttention: true, threads: 2 },
];

test.each(contexts)("continues the reference's prompt as the reference does, with %o", async (context) => {
  const count = greedy.tokens.length;
  const [steps = []] = await peer.greedy({ ...context, model, prompts: [greedy.prompt], count, top: 3 });
  expect(steps.map((step) => step.token)).toEqual(greedy.tokens);
  for (const { token, top } of steps) {
    expect(top).toHaveLength(3);
    expect(top[0]?.token).toBe(token);
    expect(top[0]?.probability).toBeGreaterThan(top[1]?.probability ?? 1);
    expect(top[0]?.probability).toBeLessThanOrEqual(1);
  }
});

test("gives the probabilities of a text that it gave when it wrote it", async () => {
  const { prompt, tokens } = greedy;
  const [steps = []] = await peer.greedy({ model, prompts: [prompt], count: tokens.length, kvType: "f32", threads: 1 });
  const whole = [...prompt, ...tokens];
  const logs = await peer.logProbabilities({
    model,
    tokens: whole,
    from: prompt.length - 1,
    kvType: "f32",
    threads: 1,
  });
  expect(logs).toHaveLength(tokens.length);
  for (const [index, log] of logs.entries())
    expect(Math.exp(log)).toBeCloseTo(steps[index]?.top[0]?.probability ?? 0, 4);
});

test("measures speeds", async () => {
  const samples = await peer.bench({ model, promptTokens: 16, generateTokens: 4, reps: 3, threads: 1 });
  expect(samples).toHaveLength(3);
  for (const { prefillTokensPerSecond, decodeTokensPerSecond } of samples) {
    expect(prefillTokensPerSecond).toBeGreaterThan(0);
    expect(decodeTokensPerSecond).toBeGreaterThan(0);
  }
});

test("says what went wrong, and goes on", async () => {
  await expect(peer.tokenize(join(folder, "missing.gguf"), ["a"], false)).rejects.toThrow("libllama: ");
  expect(await peer.unload(model)).toBeNull();
  expect(await peer.tokenize(model, ["The"], false)).toEqual([[54, 74, 71]]);
});
