/** What types of keys and values lose against f32, beside what libllama loses with the same type on the same file. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { kvTypes, loadModel, type KvType } from "ggstrata";
import { Gguf } from "../model/gguf.ts";
import { fixturePath, Folder, randomOf, refusal, someTokens } from "../model/help.ts";
import { nmse } from "../plugins/reference.ts";
import { Peer } from "./peer.ts";

setDefaultTimeout(120_000);

const sizes = { width: 96, hidden: 192, layers: 3, heads: 4, kvHeads: 2, context: 512, vocabulary: 384 } as const;
const prompt_tokens = 200;
const single_tokens = 40;
const tokens = someTokens(prompt_tokens + single_tokens, 41);
const parts = ["prompt", "singles"] as const;
const threads = 2;
/** How much more than libllama a type may lose. */
const loss_max = 1.5;

const folder = new Folder();
let peer: Peer;
beforeAll(() => {
  peer = new Peer();
});
afterAll(async () => {
  await peer[Symbol.asyncDispose]();
  folder[Symbol.dispose]();
});

/** A model of random f32 weights with heads of a size, and the vocabulary of the llama fixture. */
function writeModel(headDim: number): string {
  const { width, hidden, layers, heads, kvHeads, context, vocabulary } = sizes;
  const random = randomOf(headDim);
  const file = new Gguf(Gguf.read(fixturePath("llama")).values, []);
  const counts = { embedding_length: width, feed_forward_length: hidden, block_count: layers, context_length: context };
  const headCounts = { head_count: heads, head_count_kv: kvHeads, key_length: headDim, value_length: headDim };
  for (const [key, count] of Object.entries(counts)) file.setCount(`llama.${key}`, count);
  for (const [key, count] of Object.entries(headCounts)) file.setCount(`llama.attention.${key}`, count);
  file.setCount("llama.rope.dimension_count", headDim);
  const add = (name: string, shape: number[], value: () => number) => {
    const elements = Float32Array.from({ length: shape.reduce((product, n) => product * n, 1) }, value);
    file.tensors.push({ name, type: 0, shape, data: new Uint8Array(elements.buffer) });
  };
  /** Columns of about the length `gain`. */
  const matrix = (name: string, inputs: number, outputs: number, gain = 1) =>
    add(name, [inputs, outputs], () => (gain * normal(random)) / Math.sqrt(inputs));
  const norm = (name: string) => add(name, [width], () => 1 + 0.1 * normal(random));
  add("token_embd.weight", [width, vocabulary], () => normal(random));
  matrix("output.weight", width, vocabulary);
  norm("output_norm.weight");
  for (let layer = 0; layer < layers; layer += 1) {
    const own = `blk.${layer}`;
    norm(`${own}.attn_norm.weight`);
    // Twice as long, so that attention prefers some cells to others, and what their keys lose matters.
    matrix(`${own}.attn_q.weight`, width, heads * headDim, 2);
    matrix(`${own}.attn_k.weight`, width, kvHeads * headDim);
    matrix(`${own}.attn_v.weight`, width, kvHeads * headDim);
    matrix(`${own}.attn_output.weight`, heads * headDim, width, 2);
    norm(`${own}.ffn_norm.weight`);
    matrix(`${own}.ffn_gate.weight`, width, hidden);
    matrix(`${own}.ffn_up.weight`, width, hidden);
    matrix(`${own}.ffn_down.weight`, hidden, width);
  }
  return folder.write(`heads-of-${headDim}.gguf`, file.write());
}

/** A standard normal number (Box-Muller). */
function normal(random: () => number): number {
  return Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
}

/** Logits of the prompt, and of the single tokens after it. */
type Run = Readonly<Record<(typeof parts)[number], Float32Array>>;

function runOf(rows: readonly ArrayLike<number>[]): Run {
  expect(rows.map(({ length }) => length)).toEqual(tokens.map(() => sizes.vocabulary));
  const joined = (part: readonly ArrayLike<number>[]) => Float32Array.from(part.flatMap((row) => Array.from(row)));
  const run = { prompt: joined(rows.slice(0, prompt_tokens)), singles: joined(rows.slice(prompt_tokens)) };
  for (const logits of Object.values(run)) expect(logits.every(Number.isFinite)).toBe(true);
  return run;
}

async function runOurs(path: string, kv: KvType, flashAttention: boolean): Promise<Run> {
  await using model = await loadModel(path, { context: sizes.context, kv, flashAttention, threads });
  using sequence = model.sequence();
  const { logits: rows } = await sequence.feed(tokens.slice(0, prompt_tokens), { logits: "all" });
  const all = [...rows];
  for (const token of tokens.slice(prompt_tokens)) all.push(...(await sequence.feed([token])).logits);
  return runOf(all);
}

async function runTheirs(path: string, kvType: KvType, flashAttention: boolean): Promise<Run> {
  return runOf(await peer.logits({ model: path, tokens, prompt: prompt_tokens, kvType, flashAttention, threads }));
}

describe.each([32, 64])("heads of %i", (headDim) => {
  let path: string;
  let ours: Run;
  let theirs: Run;
  beforeAll(async () => {
    path = writeModel(headDim);
    // Without flash attention: with it, libllama makes f16 of f32 keys and values before it reads them.
    ours = await runOurs(path, "f32", false);
    theirs = await runTheirs(path, "f32", false);
  });
  afterAll(() => peer.unload(path));

  test("f32 is libllama's f32", () => {
    // A loss against a base that is another one would say nothing.
    for (const part of parts) expect(nmse(ours[part], theirs[part])).toBeLessThanOrEqual(1e-8);
  });

  test("f32 with flash attention loses nothing", async () => {
    const flash = await runOurs(path, "f32", true);
    for (const part of parts) expect(nmse(flash[part], ours[part])).toBeLessThanOrEqual(1e-8);
  });

  describe.each([
    { name: "with flash attention", flash: true, types: kvTypes },
    { name: "without flash attention", flash: false, types: kvTypes.filter((type) => !type.startsWith("q")) },
  ])("$name", ({ name, flash, types }) => {
    test.each(types.filter((type) => type !== "f32"))(
      `%s loses at most ${loss_max} times what libllama loses`,
      async (kv) => {
        const [mine, other] = [await runOurs(path, kv, flash), await runTheirs(path, kv, flash)];
        for (const part of parts) {
          const loss = nmse(mine[part], ours[part]);
          const peerLoss = nmse(other[part], theirs[part]);
          const ratio = `${(loss / peerLoss).toFixed(2)} times`;
          console.log(
            `heads of ${headDim} ${name}, ${kv}, ${part}: ${loss.toExponential(2)}, ${ratio} libllama's ${peerLoss.toExponential(2)}`,
          );
          // A type that loses nothing was not used.
          expect(loss).toBeGreaterThan(1e-10);
          expect(peerLoss).toBeGreaterThan(1e-10);
          expect(loss).toBeLessThanOrEqual(loss_max * peerLoss);
        }
      },
    );
  });

  test.each(["q8_0", "q4_0"] as const)("%s without flash attention is refused by name", async (kv) => {
    const error = await refusal(loadModel(path, { context: sizes.context, kv, flashAttention: false, threads }));
    expect(error.code).toBe("unsupported");
    expect(error.message).toBe(
      `${path}: layer 0: quantised keys and values need flash attention; leave it on, or use f16`,
    );
  });
});

test.each(["q8_0", "q4_0"] as const)("heads of 48 with %s are refused by name, and can be f16", async (kv) => {
  const path = writeModel(48);
  const error = await refusal(loadModel(path, { context: sizes.context, kv, threads }));
  expect(error.code).toBe("unsupported");
  expect(error.message).toBe(
    `${path}: layer 0: keys of 48 elements a head cannot be ${kv}, whose blocks hold 32; use f16`,
  );
  await using model = await loadModel(path, { context: sizes.context, kv: "f16", threads });
  expect(model.memory.bytes).toBeGreaterThan(0);
});
