/** LFM2, Falcon-H1 and Nemotron-H in other shapes than the fixtures', with random weights: what libllama computes. */
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

const lfm2: Changes = {
  ...{ block_count: 5, embedding_length: 48, feed_forward_length: 52, "attention.head_count": 6 },
  ...{ "attention.head_count_kv": [3, 0, 2, 6, 0], "shortconv.l_cache": 4 },
};
const lfm2Groups: Changes = {
  ...{ "attention.head_count_kv": [4, 0, 1, 0], leading_dense_block_count: 1, expert_feed_forward_length: 20 },
  ...{ expert_count: 12, expert_used_count: 3, expert_group_count: 4, expert_group_used_count: 2 },
};
const chosenSoftmax: Changes = {
  ...{ expert_count: 7, expert_used_count: 7, expert_gating_func: 3, leading_dense_block_count: 0 },
};
const ssm: Changes = {
  ...{ "ssm.conv_kernel": 3, "ssm.state_size": 16, "ssm.group_count": 3 },
  ...{ "ssm.inner_size": 120, "ssm.time_step_rank": 6 },
};
const falcon: Changes = {
  ...{ block_count: 2, embedding_length: 40, feed_forward_length: 36, ...ssm },
  ...{ "attention.head_count": 6, "attention.head_count_kv": 3 },
  ...{ "attention.key_length": 20, "attention.value_length": 20 },
};
const nemotron: Changes = {
  ...{ block_count: 7, embedding_length: 40, ...ssm },
  ...{ "attention.head_count": 6, "attention.head_count_kv": [2, 0, 0, 0, 3, 0, 0] },
  ...{ "attention.key_length": 20, "attention.value_length": 20, feed_forward_length: [0, 30, 0, 44, 0, 0, 52] },
};
const nemotronGroups: Changes = {
  ...{ ...nemotron, expert_feed_forward_length: 28, moe_latent_size: 24 },
  ...{ expert_count: 8, expert_used_count: 3, expert_group_count: 4, expert_group_used_count: 2 },
};
const nemotronUnset: Changes = { ...nemotronGroups, expert_gating_func: 0, expert_weights_scale: 0 };
/** Experts of another width and another number of them in each layer. */
const nemotronPuzzle: Changes = {
  ...{ ...nemotron, expert_feed_forward_length: [0, 30, 0, 44, 0, 0, 52], expert_weights_norm: false },
  ...{ expert_count: 8, expert_used_count: [0, 3, 0, 1, 0, 0, 2] },
};

// libllama v0.5.0 crashes without a bias of the convolution.
const convolutionBias = /ssm_conv1d.bias/;
// And it leaves out the bias of Falcon-H1's attention output.
const falconExtras = /ssm_norm|(?<!attn_output)\.bias/;
const models: readonly (readonly [string, string, Changes, RegExp?])[] = [
  ["lfm2", "four taps, attention first, other key heads in each layer", lfm2],
  ["lfm2", "two taps, a sliding window", { "shortconv.l_cache": 2, "attention.sliding_window": 8 }],
  ["lfm2moe", "experts in groups", lfm2Groups, /exp_probs_b/],
  ["lfm2moe", "experts of no scale", { expert_weights_scale: 0 }, /exp_probs_b/],
  ["lfm2moe", "all experts, by softmax, in every layer", chosenSoftmax, /exp_probs_b/],
  ["falcon-h1", "three groups, with norm and biases", falcon, falconExtras],
  [
    "falcon-h1",
    "two groups, two taps, one key head",
    { "ssm.group_count": 2, "ssm.conv_kernel": 2, "attention.head_count_kv": 1 },
    convolutionBias,
  ],
  ["nemotron_h", "attention first, an MLP last, all biases", nemotron, /bias/],
  ["nemotron_h", "attention last", { "attention.head_count_kv": [0, 0, 0, 2, 0, 4] }, convolutionBias],
  ["nemotron_h_moe", "experts in groups, of a narrower input", nemotronGroups, /exp_probs_b|ssm_conv1d.bias/],
  ["nemotron_h_moe", "experts by keys of 0, which say nothing", nemotronUnset, /exp_probs_b|ssm_conv1d.bias/],
  ["nemotron_h_moe", "experts of each layer's own number and width", nemotronPuzzle, /exp_probs_b|ssm_conv1d.bias/],
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
      expect(nmse(actual, expected)).toBeLessThanOrEqual(1e-10);
    }
  });

  test("tokens are taken back exactly", async () => {
    const path = await makeModel(folder.path, name, changes, extras);
    await using model = await loadModel(path, { context: 256, sequences: 2, kv: "f32", threads, rollback: 4 });
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
  ["lfm2", "attention.causal", { "attention.causal": false }],
  ["lfm2", "shortconv.l_cache", { "shortconv.l_cache": 1 }],
  ["lfm2", "attention.head_count", { "attention.head_count": 6 }],
  ["lfm2", "attention.head_count_kv", { "attention.head_count_kv": [0, 0, 3, 0, 0, 0] }],
  ["lfm2", "attention.head_count_kv", { "attention.head_count_kv": [0, 2] }],
  ["lfm2moe", "attention.causal", { "attention.causal": false }],
  ["lfm2moe", "expert_count", { expert_count: 0 }],
  ["lfm2moe", "expert_used_count", { expert_used_count: 5 }],
  ["lfm2moe", "expert_gating_func", { expert_gating_func: 4 }],
  ["lfm2moe", "expert_group_count", { expert_group_count: 3 }],
  ["lfm2moe", "expert_group_used_count", { expert_group_count: 2 }],
  ["lfm2moe", "expert_group_used_count", { expert_group_count: 4, expert_group_used_count: 1 }],
  ["falcon-h1", "attention.head_count_kv", { "attention.head_count_kv": 3 }],
  ["falcon-h1", "ssm.inner_size", { "ssm.inner_size": 66 }],
  ["falcon-h1", "ssm.time_step_rank", { "ssm.group_count": 3 }],
  ["falcon-h1", "ssm.conv_kernel", { "ssm.conv_kernel": 1 }],
  ["nemotron_h", "ssm.conv_kernel", { "ssm.conv_kernel": 1 }],
  ["nemotron_h", "ssm.inner_size", { "ssm.inner_size": 66 }],
  ["nemotron_h", "rope.scaling.finetuned", { "rope.scaling.finetuned": true }],
  ["nemotron_h", "feed_forward_length", { feed_forward_length: [0, 96, 0, 96, 96, 0] }],
  ["nemotron_h", "nextn_predict_layers", { nextn_predict_layers: 6 }],
  ["nemotron_h", "attention.head_count_kv", { "attention.head_count_kv": [0, 0, 0, 3, 0, 0] }],
  ["nemotron_h_moe", "expert_used_count", { expert_used_count: [0, 2, 0, 0, 0, 0] }],
];

test.each(refused)("%s is refused by %s", async (name, key, changes) => {
  const { message } = await refusal(loadModel(writeHeader(folder.path, name, changes)));
  expect(message).toContain(`"${name}.${key}"`);
});

test("layers that draft tokens are left out", async () => {
  const changes = {
    nextn_predict_layers: 1,
    "attention.head_count_kv": [0, 0, 0, 2, 0, 2],
    feed_forward_length: [0, 24, 0, 0, 24, 24],
  };
  const path = await makeModel(folder.path, "nemotron_h_moe", changes);
  await using model = await loadModel(path, { context: 64, threads });
  expect(model.memory.layers).toHaveLength(5);
});
