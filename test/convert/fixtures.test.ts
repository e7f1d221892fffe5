import { afterAll, describe, expect, test } from "bun:test";
import { readFileSync, rmSync } from "node:fs";
import { join, resolve } from "node:path";
import { convertModel, loadModel, openModelFile, type Model, type WrittenType } from "ggstrata";
import { Gguf } from "../model/gguf.ts";
import { nmse, readFixture } from "../plugins/reference.ts";
import { fixtureFolder, Workshop } from "./checkpoints.ts";

const workshop = new Workshop();
afterAll(() => rmSync(workshop.folder, { recursive: true }));

interface TokenizerCase {
  readonly text: string;
  readonly ids: readonly number[];
}

function tokenizerCases(name: string): readonly TokenizerCase[] {
  const path = resolve(import.meta.dir, "../fixtures", name, "reference.json");
  return (JSON.parse(readFileSync(path, "utf8")) as { tokenizer_cases: TokenizerCase[] }).tokenizer_cases;
}

async function logitsOf(model: Model, tokens: readonly number[]): Promise<Float32Array> {
  const out = new Float32Array(tokens.length * model.vocabularySize);
  for await (const { position, logits } of model.logits(tokens)) out.set(logits, position * model.vocabularySize);
  return out;
}

async function worstError(name: string, type: WrittenType): Promise<number> {
  const path = workshop.path();
  await convertModel(fixtureFolder(name), path, { type });
  await using model = await loadModel(path, { context: 256, kv: "f32", threads: 1 });
  let worst = 0;
  for (const { tokens, logits } of readFixture(name).sequences) {
    worst = Math.max(worst, nmse(await logitsOf(model, tokens), logits));
  }
  return worst;
}

const names = ["llama", "granitehybrid", "mamba2", "recurrentgemma"] as const;

describe.each(names)("%s", (name) => {
  test("logits are the reference's", async () => {
    expect(await worstError(name, "f32")).toBeLessThanOrEqual(1e-8);
  });

  // Rows of 48 are no blocks of 32, so most of a fixture's q8_0 is f16; only llama's rows are all whole blocks.
  test.each([
    ["f16", 1e-5],
    ["bf16", 1e-3],
    ["q8_0", 1e-3],
  ] as const)("logits of %s are near it", async (type, bound) => {
    const error = await worstError(name, type);
    expect(error).toBeLessThanOrEqual(bound);
    expect(error).toBeGreaterThan(1e-10);
  });

  test("the tokenizer is the reference's", async () => {
    const path = workshop.path();
    await convertModel(fixtureFolder(name), path);
    await using model = await loadModel(path, { context: 256, threads: 1 });
    const cases = tokenizerCases(name);
    expect(cases.length).toBeGreaterThan(0);
    for (const { text, ids } of cases) {
      expect(model.tokenizer.encode(text, { bos: false })).toEqual([...ids]);
      expect(model.tokenizer.decode(ids, { cleanUp: false })).toBe(text);
    }
  });

  test("tensors and metadata are those of the fixture's own file", async () => {
    const path = workshop.path();
    const { type, tensors, bytes } = await convertModel(fixtureFolder(name), path, { name });
    const [ours, theirs] = [Gguf.read(path), Gguf.read(readFixture(name).model)];
    expect({ type, tensors, bytes }).toEqual({
      type: "f32",
      tensors: theirs.tensors.length,
      bytes: Bun.file(path).size,
    });
    expect(ours.tensors.map((tensor) => tensor.name).sort()).toEqual(
      theirs.tensors.map((tensor) => tensor.name).sort(),
    );
    for (const { name: tensor, type: number, shape, data } of theirs.tensors) {
      const made = ours.tensor(tensor);
      expect({ tensor, number: made.type, shape: made.shape }).toEqual({ tensor, number, shape });
      // The last bytes are padding.
      const count = shape.reduce((product, n) => product * n, 1);
      const [a, b] = [made.data, data].map(
        (bytes) => new Float32Array(new Uint8Array(bytes.subarray(0, 4 * count)).buffer),
      );
      // Exponentials differ in their last bit; all else is the same number.
      const error = nmse(a as Float32Array, b as Float32Array);
      expect({ tensor, error }).toEqual({ tensor, error: tensor.endsWith("ssm_a") ? expect.closeTo(0, 12) : 0 });
    }
    const [our, their] = [path, readFixture(name).model].map((file) => {
      using opened = openModelFile(file);
      const { metadata } = opened;
      return Object.fromEntries(metadata.keys.map((key) => [key, metadata.get(key)]));
    });
    // A label of the size for people, a length that this checkpoint does not say, a key that needs no saying.
    const excused = ["general.size_label", `${name}.vocab_size`, "general.quantization_version"];
    if (name === "recurrentgemma") excused.push("general.name", "recurrentgemma.context_length");
    for (const key of excused) for (const each of [our, their]) delete each?.[key];
    expect(our).toEqual(their as NonNullable<typeof our>);
  });
});

test("greedy continuations of what was converted are the reference's", async () => {
  for (const name of names) {
    const path = join(workshop.folder, `greedy-${name}.gguf`);
    await convertModel(fixtureFolder(name), path);
    await using model = await loadModel(path, { context: 256, kv: "f32", threads: 1 });
    const { prompt, tokens } = readFixture(name).greedy;
    const drawn: number[] = [];
    const options = { temperature: 0, maxTokens: tokens.length, ignoreEnd: true };
    for await (const event of model.events(prompt, options)) if (event.type === "token") drawn.push(event.token);
    expect(drawn).toEqual([...tokens]);
  }
});
