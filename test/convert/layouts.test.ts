import { afterAll, expect, test } from "bun:test";
import { rmSync } from "node:fs";
import { join } from "node:path";
import { convertModel, loadModel, openModelFile, type HuggingFaceMapping } from "ggstrata";
import { nmse, readFixture } from "../plugins/reference.ts";
import { mamba2 } from "../../plugins/mamba2.ts";
import { fixtureFolder, readJsonFile, readSafetensors, Workshop, writeSafetensors } from "./checkpoints.ts";
import { bamba, graniteWithExperts, mamba, qwen3 } from "./layouts.ts";

const workshop = new Workshop();
afterAll(() => rmSync(workshop.folder, { recursive: true }));

/** The fixtures' tokenizer is the same in all of them. */
const tokenizer = {
  "tokenizer.json": readJsonFile(join(fixtureFolder("llama"), "tokenizer.json")),
  "tokenizer_config.json": readJsonFile(join(fixtureFolder("llama"), "tokenizer_config.json")),
};

test.each([
  ["granitehybrid-moe", "granitehybrid", graniteWithExperts],
  ["bamba", "granitehybrid", bamba],
  ["qwen3", "qwen3", qwen3],
  ["mamba", "mamba", mamba],
] as const)("%s in its published layout becomes the fixture's file", async (name, expected, make) => {
  const { config, tensors } = make();
  const path = workshop.path();
  const { architecture } = await convertModel(workshop.make({ "config.json": config, ...tokenizer }, tensors), path);
  expect(architecture).toBe(expected);
  using ours = openModelFile(path);
  using fixture = openModelFile(readFixture(name).model);
  expect(ours.tensors.map((tensor) => tensor.name).sort()).toEqual(fixture.tensors.map((tensor) => tensor.name).sort());
  for (const key of fixture.metadata.keys) {
    if (/^general\.(name|size_label)$|^tokenizer\./.test(key)) continue;
    expect({ key, value: ours.metadata.get(key) }).toEqual({ key, value: fixture.metadata.get(key) });
  }
  await using model = await loadModel(path, { context: 256, kv: "f32", threads: 1 });
  for (const { tokens, logits } of readFixture(name).sequences) {
    const out = new Float32Array(logits.length);
    for await (const row of model.logits(tokens)) out.set(row.logits, row.position * model.vocabularySize);
    expect(nmse(out, logits)).toBeLessThanOrEqual(1e-8);
  }
});

test("Mamba-Codestral's tensors are Mamba-2's, with one more name before them", async () => {
  const folder = workshop.copy("mamba2");
  const [straight, other] = [workshop.path(), workshop.path()];
  await convertModel(folder, straight, { name: "mamba2" });
  const path = join(folder, "model.safetensors");
  const tensors = Object.entries(readSafetensors(path)).map(([name, tensor]) => [`model.${name}`, tensor] as const);
  writeSafetensors(path, Object.fromEntries(tensors));
  await convertModel(folder, other, { name: "mamba2" });
  expect(Buffer.compare(await Bun.file(other).bytes(), await Bun.file(straight).bytes())).toBe(0);
});

test("a plugin that renames tensors to nothing is named", async () => {
  const [mapping] = mamba2.huggingFace ?? [];
  const rename = () => undefined as unknown as string;
  const plugin = { ...mamba2, replaces: true, huggingFace: [{ ...(mapping as HuggingFaceMapping), rename }] };
  const conversion = convertModel(workshop.copy("mamba2"), workshop.path(), { plugins: [plugin] });
  await expect(conversion).rejects.toThrow('huggingFace.rename of "mamba2" gives undefined for "');
});

test("Bamba's layers may be named by kind, and its rotated share by a factor", async () => {
  const { config, tensors } = bamba();
  const { attn_layer_indices: _, attn_rotary_emb: __, rope_theta: ___, ...rest } = config;
  const named = { ...rest, layer_types: ["mamba", "mamba", "attention", "mamba"] };
  const spelled = {
    ...named,
    rope_parameters: { rope_theta: 10000, rope_type: "default", partial_rotary_factor: 0.5 },
  };
  const [first, second, third] = [workshop.path(), workshop.path(), workshop.path()];
  await convertModel(workshop.make({ "config.json": config, ...tokenizer }, tensors), first, { name: "bamba" });
  await convertModel(workshop.make({ "config.json": named, ...tokenizer }, tensors), second, { name: "bamba" });
  await convertModel(workshop.make({ "config.json": spelled, ...tokenizer }, tensors), third, { name: "bamba" });
  const whole = await Bun.file(first).bytes();
  expect(Buffer.compare(await Bun.file(second).bytes(), whole)).toBe(0);
  expect(Buffer.compare(await Bun.file(third).bytes(), whole)).toBe(0);
});
