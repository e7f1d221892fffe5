/** Shapes that no fixture has: odd widths, one head, many groups, any order of layers, against plain sums. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { loadModel, type Model } from "ggstrata";
import { jamba } from "../../plugins/jamba.ts";
import { mamba } from "../../plugins/mamba.ts";
import { plamo2 } from "../../plugins/plamo2.ts";
import { qwen3 } from "../../plugins/qwen3.ts";
import { Gguf } from "../model/gguf.ts";
import { Folder, refusal, someTokens } from "../model/help.ts";
import { make, type Made } from "./made-file.ts";
import { nmse, readFixture } from "./reference.ts";
import * as scalar from "./scalar.ts";

setDefaultTimeout(60_000);

async function logitsOf(model: Model, tokens: readonly number[], chunk: number): Promise<Float32Array> {
  const rows: number[] = [];
  for await (const { logits } of model.logits(tokens, { chunk })) rows.push(...logits);
  return Float32Array.from(rows);
}

type Forward = (w: scalar.Tensors, tokens: readonly number[]) => number[][];

async function expectSame({ path, weights }: Made, forward: Forward): Promise<void> {
  const tokens = someTokens(23, 3);
  const expected = Float32Array.from(forward(weights, tokens).flat());
  await using model = await loadModel(path, { context: 64, kv: "f32", threads: 2 });
  for (const chunk of [64, 1, 5])
    expect(nmse(await logitsOf(model, tokens, chunk), expected)).toBeLessThanOrEqual(1e-8);
}

const common = { context_length: 128, "attention.layer_norm_rms_epsilon": 1e-5 };
const eps = Math.fround(1e-5);

describe("plain sums give what the fixtures' references give", () => {
  const heads = { heads: 4, keyDim: 16, valueDim: 16 };
  const ssm = { inner: 96, stateSize: 16, rank: 3, taps: 4 };
  const small = Math.fround(1e-6);
  const plamo: scalar.Plamo2Shape = {
    ...{ eps: small, hidden: 64, heads: [4, 4, 4, 4], kvHeads: [0, 2, 0, 2], keyDim: 16, valueDim: 16 },
    ...{ rope: { dims: 16, base: 10000 }, inner: 64, ssmHeads: 4, stateSize: 16, rank: 64, taps: 4 },
  };
  const jambaShape = {
    ...ssm,
    heads: 4,
    keyDim: 12,
    valueDim: 12,
    eps: small,
    kvHeads: [0, 0, 2, 0, 0],
    experts: 4,
    used: 2,
  };
  const forwards: readonly (readonly [string, Forward])[] = [
    [
      "qwen3",
      (w, t) => scalar.qwen3(w, t, { ...heads, kvHeads: 1, layers: 3, eps: small, rope: { dims: 16, base: 1e6 } }),
    ],
    ["mamba", (w, t) => scalar.mamba(w, t, { ...ssm, layers: 4, eps, norms: false })],
    ["falcon-mamba", (w, t) => scalar.mamba(w, t, { ...ssm, layers: 3, eps, norms: true })],
    ["jamba", (w, t) => scalar.jamba(w, t, jambaShape)],
    ["plamo2", (w, t) => scalar.plamo2(w, t, plamo)],
  ];
  test.each(forwards)("%s", (name, forward) => {
    const { model, sequences } = readFixture(name);
    const weights = new scalar.Tensors(Gguf.read(model));
    for (const { tokens, logits } of sequences.slice(0, 2)) {
      expect(nmse(Float32Array.from(forward(weights, tokens).flat()), logits)).toBeLessThanOrEqual(1e-10);
    }
  });
});

describe("qwen3", () => {
  test("values narrower than keys, a part rotated and slowed down, biases, a head of its own", async () => {
    using folder = new Folder();
    const made = await make(folder, qwen3, {
      ...{ ...common, block_count: 2, embedding_length: 36, feed_forward_length: 50 },
      ...{ "attention.head_count": 6, "attention.head_count_kv": 3, "attention.key_length": 10 },
      ...{ "attention.value_length": 7, "rope.dimension_count": 6, "rope.freq_base": 500 },
      ...{ "rope.scaling.type": "linear", "rope.scaling.factor": 4 },
    });
    const rope = { dims: 6, base: 500, scale: 1 / 4 };
    await expectSame(made, (w, t) =>
      scalar.qwen3(w, t, { layers: 2, heads: 6, kvHeads: 3, keyDim: 10, valueDim: 7, eps, rope }),
    );
  });

  test("heads that cannot share keys, and scaling of positions that is not computed, are refused by name", async () => {
    using folder = new Folder();
    const sizes = {
      ...common,
      block_count: 1,
      embedding_length: 32,
      feed_forward_length: 8,
      "attention.head_count": 4,
    };
    expect((await refusal(make(folder, qwen3, { ...sizes, "attention.head_count_kv": 3 }))).message).toContain(
      "qwen3.attention.head_count",
    );
    const long = { ...sizes, "rope.scaling.type": "longrope", "rope.scaling.factor": 4 };
    expect((await refusal(make(folder, qwen3, long))).message).toContain("qwen3.rope.scaling.type");
  });
});

describe("mamba", () => {
  test.each([
    ["a width that is no multiple of anything", { width: 19, inner: 37, stateSize: 5, rank: 7, taps: 4 }, false],
    ["a state of one number, two taps", { width: 24, inner: 24, stateSize: 1, rank: 1, taps: 2 }, false],
    ["a long state, many taps, norms", { width: 16, inner: 20, stateSize: 67, rank: 2, taps: 7 }, true],
  ])("%s", async (_, { width, inner, stateSize, rank, taps }, norms) => {
    using folder = new Folder();
    const made = await make(folder, mamba, {
      ...{ ...common, block_count: 3, embedding_length: width, "ssm.conv_kernel": taps, "ssm.inner_size": inner },
      ...{ "ssm.state_size": stateSize, "ssm.time_step_rank": rank, "ssm.dt_b_c_rms": norms },
    });
    await expectSame(made, (w, t) => scalar.mamba(w, t, { layers: 3, inner, stateSize, rank, taps, eps, norms }));
  });

  test("a convolution of one tap, which remembers nothing, is refused by name", async () => {
    using folder = new Folder();
    const sizes = { block_count: 1, embedding_length: 8, "ssm.inner_size": 8, "ssm.state_size": 2 };
    const one = make(folder, mamba, { ...common, ...sizes, "ssm.time_step_rank": 1, "ssm.conv_kernel": 1 });
    expect((await refusal(one)).message).toContain("mamba.ssm.conv_kernel");
  });
});

describe("jamba", () => {
  const sizes = { inner: 44, stateSize: 6, rank: 5, taps: 3, heads: 6, keyDim: 7, valueDim: 5 };
  const values = {
    ...{ ...common, embedding_length: 22, feed_forward_length: 18, "attention.head_count": 6 },
    ...{ "attention.key_length": 7, "attention.value_length": 5, "ssm.conv_kernel": 3, "ssm.inner_size": 44 },
    ...{ "ssm.state_size": 6, "ssm.time_step_rank": 5 },
  };
  const expertTensor = /ffn_(gate_inp|\w+_exps)/;
  const layerOf = (name: string) => Number(/^blk\.(\d+)/.exec(name)?.[1] ?? -1);

  test.each([
    ["attention first and last, other key heads in each, experts in some", [3, 0, 0, 2], 5, 3, [1, 3]],
    ["all of the experts, in attention layers", [0, 1, 6], 3, 3, [1, 2]],
    ["one expert of many", [0, 2], 7, 1, [0]],
    ["no experts, and what the key of one expert says", [0, 2], 1, 2, []],
  ])("%s", async (_, kvHeads, experts, used, withExperts) => {
    using folder = new Folder();
    const counts = { "attention.head_count_kv": kvHeads, expert_count: experts, expert_used_count: used };
    const made = await make(folder, jamba, { ...values, ...counts, block_count: kvHeads.length }, (name) => {
      const isExpert = expertTensor.test(name);
      const isMlp = isExpert || /ffn_(gate|up|down)\.weight/.test(name);
      return isMlp && isExpert !== (withExperts as readonly number[]).includes(layerOf(name));
    });
    await expectSame(made, (w, t) => scalar.jamba(w, t, { ...sizes, eps, kvHeads, experts, used }));
  });

  test("a layer with a part of its experts, and more experts in use than there are, are refused", async () => {
    using folder = new Folder();
    const counts = { block_count: 1, "attention.head_count_kv": [0], expert_count: 4, expert_used_count: 2 };
    const isLeftOut = (name: string) => /ffn_((gate|up|down)\.weight|up_exps)/.test(name);
    const { path } = await make(folder, jamba, { ...values, ...counts }, isLeftOut);
    expect((await refusal(loadModel(path))).message).toContain("blk.0.ffn_up_exps.weight");
    const many = make(folder, jamba, { ...values, ...counts, expert_used_count: 5 });
    expect((await refusal(many)).message).toContain("jamba.expert_used_count");
  });
});

describe("plamo2", () => {
  const base = {
    ...{ ...common, embedding_length: 26, feed_forward_length: 21, "attention.key_length": 10 },
    ...{ "attention.value_length": 6, "rope.freq_base": 700, "ssm.conv_kernel": 3, "ssm.inner_size": 33 },
    ...{ "ssm.state_size": 9, "ssm.time_step_rank": 3, "ssm.group_count": 0 },
  };
  const shape = {
    ...{ eps, hidden: 21, keyDim: 10, valueDim: 6, rope: { dims: 10, base: 700 } },
    ...{ inner: 33, ssmHeads: 3, stateSize: 9, rank: 64, taps: 3 },
  };

  test("other heads in each layer, Mamba and attention in any order", async () => {
    using folder = new Folder();
    const [heads, kvHeads] = [
      [4, 0, 6, 0, 3],
      [2, 0, 1, 0, 3],
    ];
    const counts = { block_count: 5, "attention.head_count": heads, "attention.head_count_kv": kvHeads };
    const made = await make(folder, plamo2, { ...base, ...counts });
    await expectSame(made, (w, t) => scalar.plamo2(w, t, { ...shape, heads, kvHeads }));
  });

  test("a window, one number of heads for all layers, and a width that sets the rank", async () => {
    using folder = new Folder();
    const kvHeads = [0, 4];
    const counts = { block_count: 2, "attention.head_count": 4, "attention.head_count_kv": kvHeads };
    const wide = { embedding_length: 1072, "attention.sliding_window": 6, "ssm.inner_size": 6 };
    const made = await make(folder, plamo2, { ...base, ...counts, ...wide });
    const wideShape = { ...shape, inner: 6, rank: 67, window: 6, heads: [0, 4], kvHeads };
    await expectSame(made, (w, t) => scalar.plamo2(w, t, wideShape));
  });

  test("groups of B and C are refused by name", async () => {
    using folder = new Folder();
    const counts = { block_count: 1, "attention.head_count": 0, "attention.head_count_kv": [0], "ssm.group_count": 2 };
    expect((await refusal(make(folder, plamo2, { ...base, ...counts }))).message).toContain("plamo2.ssm.group_count");
  });
});
