import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { argmax, loadModel, softmax, type Model } from "ggstrata";
import { measurePerplexity } from "../../lib/cli/perplexity.ts";
import { checkout } from "../../lib/setup/paths.mjs";
import { comparedModels, requireModel } from "../bench/models.ts";
import { Peer, type PeerStep } from "./peer.ts";
import { prompts } from "./prompts.ts";

// What is printed of a model should stay what it says: the most probable token of real models is libllama's.
const positions = 48;
/** Where libllama's two best probabilities are no further apart than this, rounding may choose. */
const margin_min = 0.02;
const threads = 2;

setDefaultTimeout(180_000);

let peer: Peer;
beforeAll(() => {
  peer = new Peer();
});
afterAll(() => peer[Symbol.asyncDispose]());

/** What we would have drawn at each of libllama's steps, and how probable we hold libllama's token. */
async function follow(model: Model, prompt: readonly number[], steps: readonly PeerStep[]) {
  const ours: { readonly token: number; readonly probability: number }[] = [];
  const sampler = (logits: Float32Array) => {
    const { token } = steps[ours.length] as PeerStep;
    ours.push({ token: argmax(logits), probability: softmax(logits)[token] ?? Number.NaN });
    return token;
  };
  // As libllama computed them: the prompt in one step, then one token after the other.
  const options = { sampler, maxTokens: steps.length, ignoreEnd: true };
  for await (const event of model.events(prompt, options)) if (event.type === "end") break;
  return ours;
}

function margin({ top: [best, second] }: PeerStep): number {
  return (best?.probability ?? Number.NaN) - (second?.probability ?? Number.NaN);
}

describe.each(comparedModels)("$name", ({ name, path }) => {
  let model: Model;
  beforeAll(async () => {
    requireModel(path);
    model = await loadModel(path, { context: 256, kv: "f16", threads });
  });
  afterAll(async () => {
    await model.dispose();
    await peer.unload(path);
  });

  test(`the most probable token is libllama's along ${prompts.length} of its continuations`, async () => {
    const tokens = prompts.map((prompt) => model.tokenizer.encode(prompt));
    const settings = { kvType: "f16", flashAttention: true, threads } as const;
    const continuations = await peer.greedy({ model: path, prompts: tokens, count: positions, ...settings });
    expect(continuations.map((steps) => steps.length)).toEqual(prompts.map(() => positions));

    const compared: { margin: number; agrees: boolean; difference: number }[] = [];
    for (const [index, steps] of continuations.entries()) {
      const ours = await follow(model, tokens[index] ?? [], steps);
      expect(ours.length).toBe(positions);
      for (const [at, step] of steps.entries()) {
        const difference = (ours[at]?.probability ?? Number.NaN) - (step.top[0]?.probability ?? Number.NaN);
        compared.push({ margin: margin(step), agrees: ours[at]?.token === step.token, difference });
      }
    }

    const wide = compared.filter((step) => step.margin > margin_min);
    const same = compared.filter(({ difference }) => Math.abs(difference) < 5e-4).length;
    console.log(
      `${name}: of ${wide.length} positions where libllama's two best differ by more than ${margin_min}, ` +
        `${wide.filter(({ agrees }) => agrees).length} agree; of ${compared.length} probabilities, ${same} are libllama's to 5e-4`,
    );
    // A model that hardly ever is sure of a token would prove nothing.
    expect(wide.length).toBeGreaterThan((prompts.length * positions) / 2);
    expect(wide.filter(({ agrees }) => !agrees)).toEqual([]);
  });
});

test("the perplexity of tiny-hybrid is what libllama's probabilities give", async () => {
  const [{ path }] = comparedModels;
  const window = 512;
  const text = readFileSync(join(checkout, "test", "fixtures", "text.txt"), "utf8");
  await using model = await loadModel(path, { context: window, kv: "f32", threads });
  const { tokenizer } = model;
  const tokens = tokenizer.encode(text, { eos: false });
  const bos = tokenizer.addBos ? tokenizer.bos : undefined;
  const ours = await measurePerplexity(model, tokens, { window, bos, signal: new AbortController().signal });

  const windows = Math.floor(tokens.length / window);
  expect(windows).toBeGreaterThanOrEqual(3);
  const logs: number[] = [];
  for (let index = 0; index < windows; index += 1) {
    const part = tokens.slice(index * window, (index + 1) * window);
    if (bos !== undefined) part[0] = bos;
    const request = { model: path, tokens: part, from: window / 2, kvType: "f32", threads } as const;
    logs.push(...(await peer.logProbabilities(request)));
  }
  expect(ours.tokens).toBe(logs.length);
  const theirs = Math.exp(-logs.reduce((sum, log) => sum + log, 0) / logs.length);
  console.log(`perplexity of ${logs.length} tokens: ${ours.perplexity.toFixed(4)}, libllama's ${theirs.toFixed(4)}`);
  expect(theirs).toBeGreaterThan(1);
  expect(Math.abs(ours.perplexity / theirs - 1)).toBeLessThanOrEqual(0.001);
});
