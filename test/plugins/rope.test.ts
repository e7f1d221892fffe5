/** Rotary embedding by what files say of it, scaled or not: what libllama computes. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { loadModel } from "ggstrata";
import { Folder, refusal, someTokens } from "../model/help.ts";
import { Peer } from "../peer/peer.ts";
import { makeModel, writeHeader, type Changes } from "./made-model.ts";
import { nmse } from "./reference.ts";

setDefaultTimeout(120_000);

const folder = new Folder();
const threads = 2;
let peer: Peer;
beforeAll(() => {
  peer = new Peer();
});
afterAll(async () => {
  await peer[Symbol.asyncDispose]();
  folder[Symbol.dispose]();
});

const heads: Changes = { "attention.key_length": 24, "attention.value_length": 24, "rope.dimension_count": 24 };
/** As Qwen 3 is extended, at a size that 60 tokens go beyond. */
const yarnAlone: Changes = { ...heads, "rope.scaling.type": "yarn", "rope.scaling.factor": 4, "rope.freq_base": 300 };
const yarn: Changes = { ...yarnAlone, "rope.scaling.original_context_length": 16 };

// Of gemma3 libllama looks GELU up in a table.
const models: readonly (readonly [string, string, Changes, number, RegExp?])[] = [
  ["llama", "divided by the file's factors (Llama 3)", heads, 1e-10, /rope_freqs/],
  ["llama", "linear, as a factor alone says", { ...heads, "rope.scaling.factor": 4 }, 1e-10],
  ["llama", "linear, by the key of old files", { ...heads, "rope.scale_linear": 3 }, 1e-10],
  ["llama", "YaRN, with factors besides", yarn, 1e-10, /rope_freqs/],
  ["qwen3", "YaRN", yarn, 1e-10],
  ["qwen3", "YaRN with a multiplier", { ...yarn, "rope.scaling.attn_factor": 1.3 }, 1e-10],
  ["qwen3", "YaRN from the trained context", { ...yarnAlone, context_length: 24 }, 1e-10],
  // What is 1 or the same anyway libllama does not read.
  [
    "qwen3",
    "YaRN whose magnitude is spelled out",
    { ...yarn, "rope.scaling.yarn_attn_factor": 1 + 0.1 * Math.log(4), "rope.scaling.yarn_ext_factor": -1 },
    1e-10,
  ],
  [
    "qwen3",
    "a factor that the type calls off",
    { ...heads, "rope.scaling.type": "none", "rope.scaling.factor": 4 },
    1e-10,
  ],
  ["gemma3", "linear, in the layers that see all", { "rope.scaling.type": "linear", "rope.scaling.factor": 8 }, 1e-6],
];

describe.each(models)("%s: %s", (name, _, changes, tolerance, extras) => {
  test("logits are libllama's", async () => {
    const path = await makeModel(folder.path, name, changes, extras);
    const tokens = someTokens(60, 3);
    const options = { kvType: "f32", flashAttention: false, threads } as const;
    const expected = Float32Array.from((await peer.logits({ model: path, tokens, prompt: 50, ...options })).flat());
    await using model = await loadModel(path, { context: 128, kv: "f32", threads });
    for (const chunk of [128, 7]) {
      const actual = new Float32Array(expected.length);
      for await (const { position, logits } of model.logits(tokens, { chunk })) {
        actual.set(logits, position * model.vocabularySize);
      }
      expect(nmse(actual, expected)).toBeLessThanOrEqual(tolerance);
    }
  });
});

test("positions move under YaRN, as if they had been so from the start", async () => {
  // Of one layer, what is remembered of a token depends on the token and its position alone.
  const path = await makeModel(folder.path, "qwen3", { ...yarn, block_count: 1 });
  await using model = await loadModel(path, { context: 128, sequences: 2, kv: "f32", threads });
  const tokens = someTokens(40, 4);
  using moved = model.sequence();
  await moved.feed(tokens);
  moved.remove(0, 9);
  await moved.shift(9, -1, -9);
  using straight = model.sequence();
  await straight.feed(tokens.slice(9));
  const rest = someTokens(5, 5);
  const [actual, expected] = [await moved.feed(rest), await straight.feed(rest)];
  expect(nmse(actual.logits[0] as Float32Array, expected.logits[0] as Float32Array)).toBeLessThanOrEqual(1e-10);
});

const refused: readonly (readonly [string, Changes])[] = [
  ["rope.scaling.type", { "rope.scaling.type": "longrope" }],
  ["rope.scaling.alpha", { "rope.scaling.alpha": 1000 }],
  ["rope.scaling.yarn_log_multiplier", { ...yarn, "rope.scaling.yarn_log_multiplier": 0.1 }],
  ["rope.scaling.yarn_ext_factor", { ...yarn, "rope.scaling.yarn_ext_factor": 0.5 }],
  ["rope.scaling.yarn_attn_factor", { ...yarn, "rope.scaling.yarn_attn_factor": 1.3 }],
];

test.each(refused)("%s is refused by its name where it asks for more", async (key, changes) => {
  const { message } = await refusal(loadModel(writeHeader(folder.path, "qwen3", changes)));
  expect(message).toContain(`"qwen3.${key}"`);
});
