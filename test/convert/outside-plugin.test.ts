import { afterAll, describe, expect, test } from "bun:test";
import { rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { computed, convertModel, loadModel, type Architecture, type HuggingFaceMapping } from "ggstrata";
import { strataHere } from "../cli/strata.ts";
import { Gguf } from "../model/gguf.ts";
import { randomOf } from "../model/help.ts";
import { Workshop, writeSafetensors, type WrittenTensor } from "./checkpoints.ts";
import { madeMix } from "./made-mix.ts";

const workshop = new Workshop();
afterAll(() => rmSync(workshop.folder, { recursive: true }));

const [width, hidden, count, vocabulary] = [12, 32, 3, 40];
const config = {
  architectures: ["MadeMixForCausalLM"],
  hidden_size: width,
  intermediate_size: hidden,
  max_position_embeddings: 64,
  moe: { experts: count, used: 2 },
  num_hidden_layers: 2,
  rms_norm_eps: 1e-6,
  vocab_size: vocabulary,
};

/** Numbers of 8 bits, which every type holds exactly. */
function numbersOf(seed: number, length: number): Float32Array {
  const random = randomOf(seed);
  return Float32Array.from({ length }, () => (Math.floor(random() * 256) - 128) / 128);
}

const holders = {
  F32: (values: Float32Array) => values,
  F16: (values: Float32Array) => new Float16Array(values),
  F64: (values: Float32Array) => Float64Array.from(values),
  BF16: (values: Float32Array) => Uint16Array.from(new Uint32Array(values.buffer), (word) => word >>> 16),
};

/** Names, shapes and types of the checkpoint's tensors; each has numbers of its own. */
const shapes: readonly (readonly [name: string, shape: readonly number[], type: keyof typeof holders])[] = [
  ["embed.weight", [vocabulary, width], "BF16"],
  ["norm.weight", [width], "F32"],
  ...[0, 1].flatMap((i) => [
    [`layers.${i}.norm.weight`, [width], "F16"] as const,
    [`layers.${i}.decay_log`, [3, 4], "F64"] as const,
    [`layers.${i}.mix.weight`, [width, width], "BF16"] as const,
    [`layers.${i}.router.weight`, [count, width], "F32"] as const,
    [`layers.${i}.aux_loss`, [1], "F32"] as const,
    ...Array.from({ length: count }, (_, e) => e).flatMap((e) => [
      [`layers.${i}.experts.${e}.w13.weight`, [2 * hidden, width], "BF16"] as const,
      [`layers.${i}.experts.${e}.w2.weight`, [hidden, width], "F16"] as const,
    ]),
  ]),
  // Only one layer has it.
  ["layers.1.mix.bias", [width], "F32"],
];

const numbers = new Map(
  shapes.map(([name, shape], i) => [
    name,
    numbersOf(
      i + 1,
      shape.reduce((a, b) => a * b, 1),
    ),
  ]),
);

/** The checkpoint, in two files and their index. */
function checkpoint(): string {
  const folder = workshop.make({ "config.json": config });
  const parts: Record<string, WrittenTensor>[] = [{}, {}];
  const map: Record<string, string> = {};
  for (const [i, [name, shape, type]] of shapes.entries()) {
    const held = holders[type](numbers.get(name) ?? new Float32Array(0));
    const part = parts[i % 2] ?? {};
    part[name] = { type, shape, bytes: new Uint8Array(held.buffer) };
    map[name] = `model-0000${(i % 2) + 1}-of-00002.safetensors`;
  }
  for (const [i, part] of parts.entries())
    writeSafetensors(join(folder, `model-0000${i + 1}-of-00002.safetensors`), part);
  writeFileSync(join(folder, "model.safetensors.index.json"), JSON.stringify({ metadata: {}, weight_map: map }));
  return folder;
}

/** The numbers of an f32 tensor of a file. */
function written(file: Gguf, name: string): number[] {
  const { shape, data } = file.tensor(name);
  const size = shape.reduce((a, b) => a * b, 1);
  return Array.from(new Float32Array(new Uint8Array(data.subarray(0, 4 * size)).buffer));
}

const own = (name: string) => Array.from(numbers.get(name) ?? []);

test("every recipe gives what it says, from several files and types", async () => {
  const path = workshop.path();
  const { tensors, architecture } = await convertModel(checkpoint(), path, {
    type: "f32",
    plugins: [madeMix],
    tokenizer: false,
  });
  expect({ tensors, architecture }).toEqual({ tensors: 3 + 2 * 7 + 1, architecture: "made-mix" });
  const file = Gguf.read(path);
  expect(written(file, "token_embd.weight")).toEqual(own("embed.weight"));
  expect(written(file, "output_norm.weight")).toEqual(own("norm.weight").map((x) => x + 1));
  expect(written(file, "steps")).toEqual(Array.from({ length: width }, (_, i) => Math.fround(1 / (i + 1))));
  expect(file.tensor("blk.0.decay").shape).toEqual([width, 1, 1]);
  expect(file.tensors.some(({ name }) => name === "blk.0.mix.bias")).toBeFalse();
  // Two heads of six rows, of which four are rotated: 0 2 1 3 by pairs, the others stay.
  const order = [0, 2, 1, 3, 4, 5, 6, 8, 7, 9, 10, 11];
  const bias = own("layers.1.mix.bias");
  expect(written(file, "blk.1.mix.bias")).toEqual(order.map((row) => bias[row] ?? NaN));
  for (const i of [0, 1]) {
    const from = (name: string) => own(`layers.${i}.${name}`);
    expect(written(file, `blk.${i}.ffn_norm.weight`)).toEqual(from("norm.weight").map((x) => 2 * x));
    expect(written(file, `blk.${i}.decay`)).toEqual(from("decay_log").map((x) => Math.fround(-Math.exp(x))));
    const rows = order.flatMap((row) => from("mix.weight").slice(row * width, (row + 1) * width));
    expect(written(file, `blk.${i}.mix.weight`)).toEqual(rows);
    const experts = [0, 1, 2].map((e) => from(`experts.${e}.w13.weight`));
    expect(written(file, `blk.${i}.ffn_gate_exps.weight`)).toEqual(experts.flatMap((w) => w.slice(0, hidden * width)));
    expect(written(file, `blk.${i}.ffn_up_exps.weight`)).toEqual(experts.flatMap((w) => w.slice(hidden * width)));
    const down = [0, 1, 2].flatMap((e) => {
      const w = from(`experts.${e}.w2.weight`);
      return Array.from(
        { length: width * hidden },
        (_, at) => w[(at % hidden) * width + Math.floor(at / hidden)] ?? NaN,
      );
    });
    expect(written(file, `blk.${i}.ffn_down_exps.weight`)).toEqual(down);
  }
});

test("what is matrices has the type, what is too narrow for it f16, and all else is f32", async () => {
  const path = workshop.path();
  await convertModel(checkpoint(), path, { type: "q8_0", plugins: [madeMix], tokenizer: false });
  const types = Object.fromEntries(Gguf.read(path).tensors.map(({ name, type }) => [name, type]));
  const [f32, f16, q8] = [0, 1, 8];
  expect(types).toMatchObject({
    "token_embd.weight": f16,
    "output_norm.weight": f32,
    steps: f32,
    "blk.0.decay": f32,
    "blk.0.mix.weight": f16,
    "blk.0.ffn_gate_inp.weight": f32,
    "blk.0.ffn_gate_exps.weight": f16,
    "blk.0.ffn_down_exps.weight": q8,
  });
});

test("the type is what most of the checkpoint's numbers have, and the model runs", async () => {
  const path = workshop.path();
  expect((await convertModel(checkpoint(), path, { plugins: [madeMix], tokenizer: false })).type).toBe("bf16");
  await using model = await loadModel(path, { plugins: [madeMix], context: 32, threads: 1 });
  let rows = 0;
  for await (const { logits } of model.logits([1, 2, 39])) {
    rows += 1;
    expect(logits.length).toBe(vocabulary);
    expect(logits.every(Number.isFinite)).toBeTrue();
  }
  expect(rows).toBe(3);
});

test("the command takes the plugin as a file", async () => {
  const path = workshop.path();
  const args = ["convert", checkpoint(), "-o", path, "--no-tokenizer", "--json"];
  const without = await strataHere(...args);
  expect(without).toMatchObject({ code: 1, stdout: "" });
  expect(without.stderr).toContain('no architecture converts "MadeMixForCausalLM"; convertible are');
  const { code, stdout } = await strataHere(...args, "--plugin", join(import.meta.dir, "made-mix.ts"));
  expect(code).toBe(0);
  expect(JSON.parse(stdout)).toEqual({
    path,
    architecture: "made-mix",
    type: "bf16",
    tensors: 18,
    bytes: Bun.file(path).size,
  });
});

describe("a mapping that disagrees with the declaration", () => {
  const mapping = madeMix.huggingFace?.[0] as HuggingFaceMapping;
  const changed = (change: Partial<HuggingFaceMapping>): Architecture => ({
    ...madeMix,
    huggingFace: [{ ...mapping, ...change }],
  });
  test.each<[string, Partial<HuggingFaceMapping>, string | RegExp]>([
    [
      "a name that is no weight",
      { tensors: (c) => ({ ...mapping.tensors(c), "odd.weight": "embed.weight" }) },
      'the architecture "made-mix" maps a tensor "odd.weight", which is none of its weights',
    ],
    [
      "a weight without a source",
      { tensors: (c) => ({ ...mapping.tensors(c), steps: undefined }) },
      'the architecture "made-mix" needs a tensor "steps" and does not say which one of the checkpoint\'s it is',
    ],
    [
      "a shape that is another",
      { tensors: (c) => ({ ...mapping.tensors(c), steps: computed([1, 2, 3, 4, 5]) }) },
      '"steps", made of what is computed, has the shape [5], expected [12]',
    ],
    [
      "a tensor that is not used",
      { unused: [] },
      "does not know what to do with: layers.0.aux_loss, layers.1.aux_loss",
    ],
    ["no table", { tensors: () => null as never }, 'huggingFace.tensors of "made-mix" gives null; give an object'],
    ["no values", { metadata: () => 5 as never }, 'huggingFace.metadata of "made-mix" gives 5; give an object'],
    ["a promise", { metadata: (async () => ({})) as never }, "huggingFace.metadata"],
    [
      "what is no source",
      { tensors: (c) => ({ ...mapping.tensors(c), steps: 5 as never }) },
      'huggingFace.tensors of "made-mix" gives 5 for "steps"; give a name or a recipe',
    ],
    [
      "a mistake in its code",
      { tensors: () => (undefined as unknown as { x: { y: never } }).x.y },
      /made-mix: huggingFace\.tensors: .*undefined/,
    ],
    ["a key that the configuration lacks", { metadata: (c) => ({ x: c.count("odd") }) }, 'lacks the key "odd"'],
  ])("%s", async (_, change, message) => {
    const path = workshop.path();
    await expect(convertModel(checkpoint(), path, { plugins: [changed(change)], tokenizer: false })).rejects.toThrow(
      message,
    );
    expect(await Bun.file(path).exists()).toBeFalse();
  });
});

test("a mistake in a mapping is a type error where it can be", () => {
  const part = (mapping: Partial<HuggingFaceMapping>) => Object.keys(mapping);
  // @ts-expect-error metadata are no plain objects
  expect(part({ metadata: () => ({ a: {} }) })).toEqual(["metadata"]);
  // @ts-expect-error a source is a name or a recipe
  expect(part({ tensors: () => ({ "a.weight": 1 }) })).toEqual(["tensors"]);
});
