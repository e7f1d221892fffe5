import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { rmSync } from "node:fs";
import { convertModel, loadModel } from "ggstrata";
import { Peer } from "../peer/peer.ts";
import { nmse, readFixture } from "../plugins/reference.ts";
import { fixtureFolder, Workshop } from "./checkpoints.ts";

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

describe.each(["llama", "granitehybrid", "mamba2"])("libllama reads what was converted of %s", (name) => {
  test.each(["f32", "f16", "bf16", "q8_0"] as const)("%s, and gives the same logits", async (type) => {
    const path = workshop.path();
    await convertModel(fixtureFolder(name), path, { type });
    const [first] = readFixture(name).sequences;
    const tokens = first?.tokens ?? [];
    const exact = { kvType: "f32", flashAttention: false, threads: 1 } as const;
    const rows = await peer.logits({ ...exact, model: path, tokens, prompt: tokens.length });
    const theirs = Float32Array.from(rows.flat());
    await using model = await loadModel(path, { context: 64, kv: "f32", threads: 1 });
    const last = new Float32Array(model.vocabularySize);
    for await (const { logits } of model.logits(tokens)) last.set(logits);
    expect(theirs.length).toBeGreaterThanOrEqual(last.length);
    const error = nmse(theirs.subarray(-last.length), last);
    // Both round what they multiply with a matrix of 16 bits or 8, each where it likes.
    expect(error).toBeLessThan({ f32: 1e-10, f16: 1e-5, bf16: 1e-4, q8_0: 1e-3 }[type]);
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
