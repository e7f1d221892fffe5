import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { rmSync } from "node:fs";
import { join } from "node:path";
import { convertModel, loadModel } from "ggstrata";
import { Peer } from "../peer/peer.ts";
import { nmse, readFixture } from "../plugins/reference.ts";
import { randomOf } from "../model/help.ts";
import { f32, fixtureFolder, readSafetensors, Workshop, writeSafetensors } from "./checkpoints.ts";

setDefaultTimeout(60_000);

const workshop = new Workshop();
let peer: Peer;
beforeAll(() => {
  peer = new Peer();
});
afterAll(async () => {
  await peer[Symbol.asyncDispose]();
  rmSync(workshop.folder, { recursive: true });
});

/** Compares the logits behind a text of the fixtures, which have one vocabulary. */
async function expectLikePeer(path: string, errorMax: number): Promise<void> {
  const [first] = readFixture("llama").sequences;
  const tokens = first?.tokens ?? [];
  const exact = { kvType: "f32", flashAttention: false, threads: 1 } as const;
  const rows = await peer.logits({ ...exact, model: path, tokens, prompt: tokens.length });
  const theirs = Float32Array.from(rows.flat());
  await using model = await loadModel(path, { context: 64, kv: "f32", threads: 1 });
  const last = new Float32Array(model.vocabularySize);
  for await (const { logits } of model.logits(tokens)) last.set(logits);
  expect(theirs.length).toBeGreaterThanOrEqual(last.length);
  expect(nmse(theirs.subarray(-last.length), last)).toBeLessThan(errorMax);
}

test("libllama gives the same logits of a Llama with biases", async () => {
  const folder = workshop.copy("llama");
  const { tensors: without } = await convertModel(folder, workshop.path());
  workshop.change(folder, "config.json", { attention_bias: true, mlp_bias: true });
  const path = join(folder, "model.safetensors");
  const tensors = readSafetensors(path);
  const random = randomOf(5);
  for (const [name, { shape }] of Object.entries(tensors)) {
    if (!/(self_attn|mlp)\.\w+\.weight$/.test(name)) continue;
    const bias = Float32Array.from({ length: shape[0] ?? 0 }, () => random() - 0.5);
    tensors[name.replace("weight", "bias")] = f32([bias.length], bias);
  }
  writeSafetensors(path, tensors);
  const model = workshop.path();
  const { tensors: count } = await convertModel(folder, model, { type: "f32" });
  expect(count).toBe(without + 7 * 3);
  await expectLikePeer(model, 1e-10);
});

describe.each(["llama", "granitehybrid", "mamba2"])("libllama reads what was converted of %s", (name) => {
  test.each(["f32", "f16", "bf16", "q8_0"] as const)("%s, and gives the same logits", async (type) => {
    const path = workshop.path();
    await convertModel(fixtureFolder(name), path, { type });
    // Both round what they multiply with a matrix of 16 bits or 8, each where it likes.
    await expectLikePeer(path, { f32: 1e-10, f16: 1e-5, bf16: 1e-4, q8_0: 1e-3 }[type]);
  });

  test("the tokenizer is the same", async () => {
    const path = workshop.path();
    await convertModel(fixtureFolder(name), path);
    await using model = await loadModel(path, { context: 64, threads: 1 });
    const lines = ["The quick brown fox", "  jumps\n\nover 12345 dogs' don't", "<s>größer 🦀</s>", "\t\t x  "];
    for (const special of [false, true]) {
      const theirs = await peer.tokenize(path, lines, special);
      expect(lines.map((line) => model.tokenizer.encode(line, { bos: false, special }))).toEqual(theirs);
    }
    const { bos, eos, addBos, addEos } = await peer.vocabulary(path);
    expect({ bos, eos, addBos, addEos }).toEqual({ bos: 0, eos: 1, addBos: false, addEos: false });
  });
});
