/** RWKV and RecurrentGemma in other shapes than the fixtures', with random weights, against double precision. */
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { loadModel, Metadata, type Architecture, type MetadataValue, type WeightSpec, type WeightTree } from "ggstrata";
import { recurrentgemma } from "../../plugins/recurrentgemma.ts";
import { rwkv6 } from "../../plugins/rwkv6.ts";
import { rwkv7 } from "../../plugins/rwkv7.ts";
import { Gguf, GgufType, numbers } from "../model/gguf.ts";
import { fixturePath, Folder, randomOf, refusal } from "../model/help.ts";
import * as scalar from "./recurrent-scalar.ts";
import { nmse } from "./reference.ts";

setDefaultTimeout(60_000);

const folder = new Folder();
afterAll(() => folder[Symbol.dispose]());

const vocabulary = 96;
const random = randomOf(11);
const tokens = Array.from({ length: 43 }, () => Math.floor(random() * vocabulary));

type Keys = Readonly<Record<string, number | readonly number[]>>;

interface Made {
  readonly path: string;
  readonly tensors: scalar.Tensors;
}

/** Writes a model with these keys and random weights; of the optional ones those that `has` wants. */
function make(architecture: Architecture, keys: Keys, has: (name: string) => boolean): Made {
  const name = architecture.names[0] ?? "";
  const all: Keys = { ...keys, vocab_size: vocabulary, context_length: 256 };
  const values = new Map<string, MetadataValue>();
  const gguf = Gguf.read(fixturePath("llama"));
  gguf.values.splice(0, gguf.values.length, ...gguf.values.filter(({ key }) => key.startsWith("tokenizer.")));
  gguf.setString("general.architecture", name);
  for (const [key, value] of Object.entries(all)) {
    values.set(`${name}.${key}`, typeof value === "number" ? value : Float64Array.from(value));
    if (typeof value !== "number") gguf.set(`${name}.${key}`, GgufType.array, uint32s(value));
    else gguf.set(`${name}.${key}`, GgufType.float64, new Uint8Array(Float64Array.of(value).buffer));
  }
  const read = architecture.read(new Metadata(name, [...values.keys()], (key) => values.get(key)));
  const specs = specsOf(read.weights).filter((spec) => !spec.isOptional || has(spec.name));
  const made = new Map(specs.map((spec) => [spec.name, { shape: spec.shape, data: numbersOf(spec) }] as const));
  const tensors = [...made].map(([tensor, { shape, data }]) => ({
    ...{ name: tensor, type: 0, shape: [...shape] },
    data: new Uint8Array(data.buffer),
  }));
  const path = folder.write(`${name}-${Bun.hash(JSON.stringify(keys))}.gguf`, new Gguf(gguf.values, tensors).write());
  return { path, tensors: new scalar.Tensors(made) };
}

function uint32s(list: readonly number[]): Uint8Array {
  return numbers(12 + 4 * list.length, (view) => {
    view.setUint32(0, GgufType.uint32, true);
    view.setBigUint64(4, BigInt(list.length), true);
    list.forEach((n, i) => view.setUint32(12 + 4 * i, n, true));
  });
}

function specsOf(tree: WeightTree): WeightSpec[] {
  if (tree === undefined) return [];
  if ("use" in tree && typeof tree.name === "string") {
    const spec = tree as WeightSpec;
    return spec.tied === undefined ? [spec] : [];
  }
  return Object.values(tree as Readonly<Record<string, WeightTree>>).flatMap(specsOf);
}

/** Norms near 1, decays below 0, rows of products near unit length; one tensor's numbers are always the same. */
function numbersOf({ name, shape }: WeightSpec): Float32Array {
  const next = randomOf(Number(Bun.hash(name) & 0xffffffffn));
  const symmetric = () => Math.sqrt(3) * (2 * next() - 1);
  const count = shape.reduce((product, n) => product * n, 1);
  const isPerChannel = count === shape[0] || /lerp|first/.test(name);
  const draw = /norm(_2)?\.weight|mix_ln\.weight/.test(name)
    ? () => 1 + 0.2 * symmetric()
    : name.endsWith("ssm_a")
      ? () => -0.05 - 2 * next()
      : isPerChannel
        ? () => 0.5 * symmetric()
        : () => (1.5 * symmetric()) / Math.sqrt(shape[0] ?? 1);
  return Float32Array.from({ length: count }, draw);
}

interface Shape {
  readonly architecture: Architecture;
  readonly keys: Keys;
  readonly has?: (name: string) => boolean;
  readonly logits: (w: scalar.Tensors) => readonly scalar.Vector[];
}

function rwkv6Shape(headSize: number, heads: number, rescaleEvery: number, lerps: "fused" | "apart"): Shape {
  const c = { layers: 4, width: headSize * heads, headSize, eps: 1e-5, mixRank: 3, rescaleEvery };
  return {
    architecture: rwkv6,
    keys: {
      ...{ block_count: 4, embedding_length: c.width, feed_forward_length: 44 },
      ...{ "wkv.head_size": headSize, "attention.layer_norm_epsilon": c.eps, rescale_every_n_layers: rescaleEvery },
      ...{ time_mix_extra_dim: c.mixRank, time_decay_extra_dim: 5 },
    },
    has: (name) => name.includes("fused") === (lerps === "fused"),
    logits: (w) => scalar.rwkv6(w, tokens, c),
  };
}

function rwkv7Shape(headSize: number, heads: number): Shape {
  const c = { layers: 3, width: headSize * heads, headSize, eps: 1e-5 };
  return {
    architecture: rwkv7,
    keys: {
      ...{ block_count: 3, embedding_length: c.width, feed_forward_length: 50 },
      ...{ "wkv.head_size": headSize, "attention.layer_norm_epsilon": c.eps },
      ...{ "attention.decay_lora_rank": 3, "attention.iclr_lora_rank": 5 },
      ...{ "attention.value_residual_mix_lora_rank": 2, "attention.gate_lora_rank": 7 },
    },
    logits: (w) => scalar.rwkv7(w, tokens, c),
  };
}

function griffinShape(kvHeads: readonly number[], channels: number, groups: number, softcap: number): Shape {
  const c = {
    ...{ width: 44, eps: 1e-6, embeddingScale: 6.625, softcap, heads: 6, kvHeads, headDim: 10, ropeDims: 4 },
    ...{ window: 7, taps: 3, groups },
  };
  return {
    architecture: recurrentgemma,
    keys: {
      ...{ block_count: kvHeads.length, embedding_length: c.width, feed_forward_length: 38, embedding_scale: 6.625 },
      ...{ "attention.layer_norm_rms_epsilon": c.eps, final_logit_softcapping: softcap },
      ...{ "attention.head_count": c.heads, "attention.head_count_kv": kvHeads, "attention.key_length": c.headDim },
      ...{ "attention.sliding_window": c.window, "rope.dimension_count": c.ropeDims },
      ...{ "ssm.inner_size": channels, "ssm.group_count": groups, "ssm.conv_kernel": c.taps },
    },
    has: () => softcap > 0,
    logits: (w) => scalar.recurrentGemma(w, tokens, c),
  };
}

const shapes: readonly (readonly [string, Shape])[] = [
  ["rwkv6 with 5 heads of 12, halved after every second layer", rwkv6Shape(12, 5, 2, "fused")],
  ["rwkv6 with 3 heads of 7 and a tensor for each mixture", rwkv6Shape(7, 3, 0, "apart")],
  ["rwkv7 with 3 heads of 13", rwkv7Shape(13, 3)],
  ["rwkv7 with one head of 20", rwkv7Shape(20, 1)],
  ["recurrentgemma, attention first, biases on queries, keys and values", griffinShape([2, 0, 3, 0, 0], 30, 5, 12)],
  ["recurrentgemma with one group of odd size and no cap", griffinShape([0, 0, 6], 21, 1, 0)],
  ["recurrentgemma with recurrent layers alone", griffinShape([0, 0, 0], 24, 24, 0)],
];

describe.each(shapes)("%s", (_, { architecture, keys, has = () => false, logits }) => {
  const { path, tensors } = make(architecture, keys, has);

  test("logits are those of double precision", async () => {
    const expected = Float32Array.from(logits(tensors).flat());
    await using model = await loadModel(path, { context: 256, kv: "f32", threads: 2 });
    for (const chunk of [256, 1, 7]) {
      const actual = new Float32Array(expected.length);
      for await (const { position, logits: row } of model.logits(tokens, { chunk }))
        actual.set(row, position * vocabulary);
      expect(nmse(actual, expected)).toBeLessThanOrEqual(1e-8);
    }
  });

  test("taken back, copied and resumed it goes on as if nothing had been", async () => {
    const options = { context: 256, sequences: 4, kv: "f32", threads: 2, rollback: 5, snapshotBytes: 1e7 } as const;
    await using model = await loadModel(path, options);
    const [start, wrong, after] = [tokens.slice(0, 20), tokens.slice(30, 34), tokens.slice(20, 26)];
    const probe = async (sequence: ReturnType<typeof model.sequence>) => (await sequence.feed(after)).logits[0];
    const begun = async () => {
      const sequence = model.sequence();
      await sequence.feed(start, { logits: "none" });
      return sequence;
    };
    using plain = await begun();
    using back = await begun();
    for (const token of wrong) await back.feed([token], { logits: "none" });
    back.rollback(wrong.length);
    using copy = back.copy();
    using snapshot = await back.snapshot();
    const expected = await probe(plain);
    expect(await probe(back)).toEqual(expected);
    expect(await probe(copy)).toEqual(expected);
    back.restore(snapshot);
    expect(await probe(back)).toEqual(expected);
  });
});

test.each([
  ["heads that do not fill the width", rwkv7Shape(13, 3), { "wkv.head_size": 12 }, "wkv.head_size"],
  ["one token shift in RWKV-7", rwkv7Shape(13, 3), { token_shift_count: 1 }, "rwkv7.token_shift_count"],
  ["one token shift in RWKV-6", rwkv6Shape(7, 3, 0, "fused"), { token_shift_count: 1 }, "rwkv6.token_shift_count"],
  ["groups that do not fill the channels", griffinShape([0, 1], 30, 5, 0), { "ssm.group_count": 4 }, "ssm.group_count"],
  [
    "key heads that do not share the heads",
    griffinShape([0, 1], 30, 5, 0),
    { "attention.head_count_kv": 4 },
    "head_count_kv",
  ],
] as const)("%s are refused by the key's name", async (_, { architecture, keys, has }, changes, key) => {
  const { path } = make(architecture, keys, has ?? (() => false));
  const gguf = Gguf.read(path);
  for (const [changed, value] of Object.entries(changes)) gguf.setCount(`${architecture.names[0]}.${changed}`, value);
  const error = await refusal(loadModel(folder.write("refused.gguf", gguf.write())));
  expect(error.message).toContain(key);
});

test("an RWKV-6 file without any lerps names the tensor that is missing", async () => {
  const { architecture, keys } = rwkv6Shape(7, 3, 0, "fused");
  const { path } = make(architecture, { ...keys, feed_forward_length: 8 }, () => false);
  const error = await refusal(
    (async () => {
      await using model = await loadModel(path);
      using sequence = model.sequence();
      await sequence.feed([1]);
    })(),
  );
  expect(error.message).toContain("blk.0.time_mix_lerp_fused.weight");
});
