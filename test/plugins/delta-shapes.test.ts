/** Delta nets and latent attention in other shapes than the fixtures', with random weights: what libllama computes. */
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

const qwen: Changes = {
  ...{ block_count: 5, embedding_length: 40, feed_forward_length: 36, "attention.head_count": 6 },
  ...{ "attention.head_count_kv": 3, "attention.key_length": 20, "attention.value_length": 20 },
  ...{ "rope.dimension_count": 8, "rope.freq_base": 10000.5 },
  "attention.recurrent_layers": [false, true, true, false, true],
  ...{ "ssm.conv_kernel": 3, "ssm.state_size": 20, "ssm.group_count": 2, "ssm.time_step_rank": 6 },
  "ssm.inner_size": 120,
};
const qwenExperts: Changes = {
  ...{ expert_count: 5, expert_used_count: 3, expert_feed_forward_length: 12, expert_shared_feed_forward_length: 20 },
};
/** As many key heads as value heads, and layers by interval. */
const qwenEven: Changes = {
  ...{ "ssm.group_count": 4, "ssm.conv_kernel": 2, "attention.recurrent_layers": undefined },
  full_attention_interval: 2,
};
const kimi: Changes = {
  ...{ block_count: 5, "attention.head_count": 3, "attention.head_count_kv": [1, 0, 0, 1, 0] },
  ...{ "kda.head_dim": 20, "ssm.conv_kernel": 3, "attention.kv_lora_rank": 20, "rope.dimension_count": 12 },
  ...{ "attention.key_length": 32, "attention.key_length_mla": 26, "attention.value_length_mla": 10 },
  ...{ leading_dense_block_count: 2, expert_count: 6, expert_used_count: 3, expert_shared_count: 2 },
};

/** What Qwen3-Next's layers are projected by, of which older files have one matrix. */
const [apart, together] = [/attn_(qkv|gate)\.weight/, /ssm_in\.weight/];

const models: readonly (readonly [string, string, Changes, RegExp?])[] = [
  ["qwen3next", "three value heads a key head, attention first", { ...qwen, ...qwenExperts }, apart],
  ["qwen3next", "as many key heads, layers by interval", qwenEven, apart],
  ["qwen3next", "three value heads a key head, one projection", { ...qwen, ...qwenExperts }, together],
  ["qwen3next", "as many key heads, one projection", qwenEven, together],
  ["qwen35", "three value heads a key head, attention first", qwen],
  ["qwen35", "as many key heads, layers by interval", qwenEven],
  ["kimi-linear", "latents first, two dense layers, two shared experts", kimi],
  ["kimi-linear", "experts in groups", { expert_count: 6, expert_group_count: 3, expert_group_used_count: 2 }],
  ["kimi-linear", "one head of one channel more than a vector", { "attention.head_count": 1, "kda.head_dim": 17 }],
];

describe.each(models)("%s: %s", (name, _, changes, extras) => {
  test("logits are libllama's", async () => {
    const path = await makeModel(folder.path, name, changes, extras);
    const tokens = someTokens(50, 3);
    const peerOptions = { kvType: "f32", flashAttention: false, threads } as const;
    const expected = Float32Array.from((await peer.logits({ model: path, tokens, prompt: 40, ...peerOptions })).flat());
    await using model = await loadModel(path, { context: 256, kv: "f32", threads });
    for (const chunk of [256, 1, 7]) {
      const actual = new Float32Array(expected.length);
      for await (const { position, logits } of model.logits(tokens, { chunk })) {
        actual.set(logits, position * model.vocabularySize);
      }
      expect(nmse(actual, expected)).toBeLessThanOrEqual(1e-9);
    }
  });

  test("states are computed again from what is logged", async () => {
    const path = await makeModel(folder.path, name, changes, extras);
    await using model = await loadModel(path, { context: 256, sequences: 2, kv: "f32", threads, rollback: 4 });
    const methods = new Set(model.memory.layers.flatMap(({ memories }) => memories.map(({ rollback }) => rollback)));
    expect(methods).toEqual(new Set(["truncate", "replay"]));
    using straight = model.sequence();
    using sequence = model.sequence();
    const tokens = someTokens(40, 4);
    for (const token of tokens.slice(0, 32)) await straight.feed([token], { logits: "none" });
    for (const token of tokens.slice(0, 36)) await sequence.feed([token], { logits: "none" });
    sequence.rollback(4);
    const rest = someTokens(5, 5);
    expect((await sequence.feed(rest)).logits).toEqual((await straight.feed(rest)).logits);
  });
});

// What a file can ask for and the architecture does not compute, and the key that the refusal names.
const refused: readonly (readonly [string, string, Changes])[] = [
  ["qwen3next", "attention.value_length", { "attention.value_length": 8 }],
  ["qwen3next", "attention.recurrent_layers", { "attention.recurrent_layers": [true, false] }],
  ["qwen3next", "full_attention_interval", { "attention.recurrent_layers": undefined, full_attention_interval: 0 }],
  ["qwen3next", "attention.head_count", { "attention.head_count_kv": 3 }],
  ["qwen3next", "ssm.time_step_rank", { "ssm.group_count": 3 }],
  ["qwen3next", "ssm.inner_size", { "ssm.inner_size": 66 }],
  ["qwen3next", "expert_used_count", { expert_used_count: 5 }],
  ["qwen3next", "nextn_predict_layers", { nextn_predict_layers: 4 }],
  ["qwen35", "rope.dimension_sections", { "rope.dimension_sections": [2, 1, 0, 1] }],
  ["qwen35", "attention.value_length", { "attention.value_length": 8 }],
  ["kimi-linear", "attention.head_count_kv", { "attention.head_count_kv": [0, 0, 0, 2] }],
  ["kimi-linear", "attention.q_lora_rank", { "attention.q_lora_rank": 8 }],
  ["kimi-linear", "attention.key_length", { "attention.key_length": 33 }],
  ["kimi-linear", "attention.key_length_mla", { "attention.key_length_mla": 8 }],
  ["kimi-linear", "expert_gating_func", { expert_gating_func: 4 }],
];

test.each(refused)("%s is refused by %s", async (name, key, changes) => {
  const { message } = await refusal(loadModel(writeHeader(folder.path, name, changes)));
  expect(message).toContain(`"${name}.${key}"`);
});

test("Kimi Linear's keys and values of each head are named", async () => {
  const { message } = await refusal(
    loadModel(writeHeader(folder.path, "kimi-linear", { "attention.head_count_kv": [0, 0, 0, 4] })),
  );
  expect(message).toContain("has a layer with 4: keys and values of each head (attn_kv_b), as old files have them");
});

test("a projection that is missing is named", async () => {
  const path = await makeModel(folder.path, "qwen3next", qwenEven, /attn_qkv\.weight/);
  const { code, message } = await refusal(loadModel(path));
  expect(code).toBe("bad_format");
  expect(message).toMatch(/qwen3next, layer 0: the tensor "blk.0.attn_gate.weight" is missing/);
});
