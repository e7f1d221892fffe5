/** Llama, Gemma 3 and Granite by keys and tensors that the fixtures lack, with random weights: what libllama computes. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { loadModel } from "ggstrata";
import { Gguf } from "../model/gguf.ts";
import { Folder, refusal, someTokens } from "../model/help.ts";
import { Peer } from "../peer/peer.ts";
import { makeModel, writeHeader, type Changes } from "./made-model.ts";
import { nmse, readFixture } from "./reference.ts";

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

/** More than the windows, so that it matters which layers have one. */
const gemma: Changes = { "attention.sliding_window": 6, block_count: 6 };
const pattern = "attention.sliding_window_pattern";
const unscaled: Changes = { embedding_scale: 0, residual_scale: 0, logit_scale: 0, "attention.scale": 0 };
const layersOfTwo: Changes = { block_count: 2, "attention.head_count_kv": [0, 2] };

// Of gemma3 libllama looks GELU up in a table.
const models: readonly (readonly [string, string, Changes, number, RegExp?])[] = [
  ["gemma3", "no window", { ...gemma, "attention.sliding_window": undefined }, 1e-6],
  ["gemma3", "a window of 0", { ...gemma, "attention.sliding_window": 0 }, 1e-6],
  ["gemma3", "a window in all but every second layer", { ...gemma, [pattern]: 2 }, 1e-6],
  ["gemma3", "a window in every layer", { ...gemma, [pattern]: 0 }, 1e-6],
  ["gemma3", "a window where flags say so", { ...gemma, [pattern]: [false, true, true, false, true, false] }, 1e-6],
  ["llama", "all biases", {}, 1e-10, /bias/],
  ["llama", "experts (Mixtral)", { expert_count: 8, expert_used_count: 2 }, 1e-10],
  ["llama", "one expert of three", { expert_count: 3, expert_used_count: 1 }, 1e-10],
  ["granitehybrid", "biases of the MLP", layersOfTwo, 1e-10, /ffn.*bias|ssm_conv1d.bias/],
  ["granitehybrid", "no word on rotation", { "rope.scaling.finetuned": undefined }, 1e-10, /ssm_conv1d.bias/],
  ["granitehybrid", "multipliers of 0", unscaled, 1e-10, /ssm_conv1d.bias/],
];

describe.each(models)("%s: %s", (name, _, changes, tolerance, extras) => {
  test("logits are libllama's", async () => {
    const path = await makeModel(folder.path, name, changes, extras);
    const tokens = someTokens(50, 3);
    const options = { kvType: "f32", flashAttention: false, threads } as const;
    const expected = Float32Array.from((await peer.logits({ model: path, tokens, prompt: 40, ...options })).flat());
    await using model = await loadModel(path, { context: 128, kv: "f32", threads });
    for (const chunk of [128, 1, 7]) {
      const actual = new Float32Array(expected.length);
      for await (const { position, logits } of model.logits(tokens, { chunk })) {
        actual.set(logits, position * model.vocabularySize);
      }
      expect(nmse(actual, expected)).toBeLessThanOrEqual(tolerance);
    }
  });
});

test("Gemma 3 with a window in no layer is the same without a window", async () => {
  const tokens = someTokens(30, 4);
  const logits: (readonly Float32Array[])[] = [];
  // libllama refuses the first.
  for (const changes of [
    { ...gemma, [pattern]: 1 },
    { ...gemma, "attention.sliding_window": 0 },
  ]) {
    await using model = await loadModel(await makeModel(folder.path, "gemma3", changes), { context: 64, threads });
    using sequence = model.sequence();
    logits.push((await sequence.feed(tokens)).logits);
  }
  expect(logits[0]).toEqual(logits[1] as readonly Float32Array[]);
});

// What a file can ask for and is not computed, and the key that the refusal names.
const refused: readonly (readonly [string, string, Changes])[] = [
  ["llama", "attention.causal", { "attention.causal": false }],
  ["gemma3", "attention.causal", { "attention.causal": false }],
  ["gemma3", pattern, { ...gemma, [pattern]: [true, false] }],
];

test.each(refused)("%s is refused by %s", async (name, key, changes) => {
  const { message } = await refusal(loadModel(writeHeader(folder.path, name, changes)));
  expect(message).toContain(`"${name}.${key}"`);
});

const fused = [
  ["llama", "attn_q", "attn_qkv"],
  ["kimi-linear", "attn_k_b", "attn_kv_b"],
  ["granitehybrid-moe", "ffn_gate_exps", "ffn_gate_up_exps"],
] as const;

test.each(fused)("%s without %s is told from one with %s", async (name, part, whole) => {
  const { values, tensors } = Gguf.read(readFixture(name).model);
  const renamed = tensors.map((tensor) => ({ ...tensor, name: tensor.name.replace(`.${part}.`, `.${whole}.`) }));
  const { code, message } = await refusal(loadModel(folder.write(`${name}.gguf`, new Gguf(values, renamed).write())));
  expect(code).toBe("unsupported");
  expect(message).toMatch(new RegExp(`the file has the tensor "blk.\\d+.${whole}.weight", of which "blk.\\d+.${part}`));
});

test("recurrent layers look back only, whatever a file says of attention", async () => {
  const path = await makeModel(folder.path, "mamba2", { "attention.causal": false });
  await using model = await loadModel(path, { context: 64, threads });
  expect(model.memory.layers.length).toBeGreaterThan(0);
});
