/** plugins/README.md is right: its files run, its excerpts stand where it says, and it leaves no operation or block out. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { convertModel, loadModel, type Architecture } from "ggstrata";
import { f32, writeSafetensors } from "../convert/checkpoints.ts";
import { Gguf } from "../model/gguf.ts";
import { fixturePath, Folder, root, someTokens } from "../model/help.ts";
import { make, type Made } from "./made-file.ts";
import { nmse } from "./reference.ts";
import { add, at, attention, gatedMlp, model as sums, normed, type Tensors, type Vector } from "./scalar.ts";

setDefaultTimeout(120_000);

const readme = readFileSync(join(root, "plugins/README.md"), "utf8");
const blocks = Array.from(readme.matchAll(/^```ts\n([^]*?)^```$/gm), ([, code = ""]) => code);

/** Blocks by the name in their first line. */
function named(pattern: RegExp): [name: string, code: string][] {
  return blocks.flatMap((code): [string, string][] => {
    const [, name] = pattern.exec(code) ?? [];
    return name === undefined ? [] : [[name, code.slice(code.indexOf("\n") + 1)]];
  });
}

const [channels, kvHeads] = [40, [0, 2, 0]];
const values = {
  ...{ vocab_size: 384, context_length: 256, block_count: 3, embedding_length: 48, feed_forward_length: 64 },
  ...{ recurrent_length: channels, "attention.head_count": 4, "attention.head_count_kv": kvHeads },
  ...{ "attention.sliding_window": 12, "attention.layer_norm_rms_epsilon": 1e-5 },
};

describe("the example", () => {
  const folder = new Folder();
  let mingru: Architecture;
  let made: Made;
  beforeAll(async () => {
    for (const [name, code] of named(/^\/\/ ([\w.]+\.ts)\n/)) folder.write(name, code);
    // As a package manager would have put them there.
    mkdirSync(join(folder.path, "node_modules"));
    symlinkSync(root, join(folder.path, "node_modules/ggstrata"));
    symlinkSync(join(root, "node_modules/@types"), join(folder.path, "node_modules/@types"));
    ({ mingru } = (await import(join(folder.path, "mingru.ts"))) as { mingru: Architecture });
    // Its attention has no biases.
    made = await make(folder, mingru, values, (name) => name.endsWith(".bias"));
    const { values: vocabulary } = Gguf.read(fixturePath("llama"));
    const file = Gguf.read(made.path);
    file.values.push(...vocabulary.filter(({ key }) => key.startsWith("tokenizer.")));
    folder.write("model.gguf", file.write());
  });
  afterAll(() => folder[Symbol.dispose]());

  async function run(...args: string[]): Promise<{ code: number; output: string }> {
    const child = Bun.spawn([process.execPath, ...args], { cwd: folder.path, stdout: "pipe", stderr: "pipe" });
    const [stdout, stderr, code] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
    return { code, output: stdout + stderr };
  }

  test("passes its test", async () => {
    const { code, output } = await run("test", "--timeout", "60000");
    expect(code, output).toBe(0);
    expect(Number(/(\d+) pass/.exec(output)?.[1])).toBeGreaterThan(15);
  });

  test("loads, prints its memory and generates", async () => {
    const { code, output } = await run("run.ts");
    expect(code, output).toBe(0);
    expect(output).toContain("recurrent states: hidden 40");
    expect(output).toContain("the last 12 tokens");
  });

  test("computes what its formulas say", async () => {
    const tokens = someTokens(40, 3);
    const expected = Float32Array.from(forward(made.weights, tokens).flat());
    expect(nmse(await logitsOf(join(folder.path, "model.gguf"), tokens), expected)).toBeLessThanOrEqual(1e-8);
  });

  test("is converted from a checkpoint to the same model", async () => {
    const checkpoint = join(folder.path, "checkpoint");
    mkdirSync(checkpoint);
    const config = {
      ...{ architectures: ["MinGruForCausalLM"], num_hidden_layers: 3, hidden_size: 48, intermediate_size: 64 },
      ...{ max_position_embeddings: 256, vocab_size: 384, rms_norm_eps: 1e-5, recurrent_size: channels },
      ...{ num_attention_heads: 4, num_key_value_heads: 2, sliding_window: 12, rope_theta: 10000 },
      layer_types: ["recurrent", "sliding_attention", "recurrent"],
    };
    writeFileSync(join(checkpoint, "config.json"), JSON.stringify(config));
    const tensors = Gguf.read(made.path).tensors.map(({ name, shape, data }) => {
      const count = shape.reduce((product, n) => product * n, 1);
      return [
        checkpointName(name),
        f32([...shape].reverse(), new Float32Array(Uint8Array.from(data.subarray(0, 4 * count)).buffer)),
      ] as const;
    });
    writeSafetensors(join(checkpoint, "model.safetensors"), Object.fromEntries(tensors));
    const path = join(folder.path, "converted.gguf");
    await convertModel(checkpoint, path, { plugins: [mingru], tokenizer: false });
    const tokens = someTokens(20, 4);
    expect(await logitsOf(path, tokens)).toEqual(await logitsOf(join(folder.path, "model.gguf"), tokens));
  });

  async function logitsOf(path: string, tokens: readonly number[]): Promise<Float32Array> {
    await using model = await loadModel(path, { context: 64, kv: "f32", threads: 2, plugins: [mingru] });
    const rows: number[] = [];
    for await (const { logits } of model.logits(tokens)) rows.push(...logits);
    return Float32Array.from(rows);
  }
});

/** The example in double precision. */
function forward(w: Tensors, tokens: readonly number[]): number[][] {
  const eps = Math.fround(1e-5);
  const shape = { eps, heads: 4, kvHeads: 2, keyDim: 12, valueDim: 12, window: 12, rope: { dims: 12, base: 10000 } };
  return sums(w, tokens, 3, eps, (block, xs, i) => {
    const rows = normed(w, `${block}.attn_norm.weight`, xs, eps);
    const mixed = kvHeads[i] === 0 ? minGru(w, block, rows) : attention(w, block, rows, shape);
    const added = xs.map((x, t) => add(x, mixed[t] ?? []));
    const hidden = normed(w, `${block}.ffn_norm.weight`, added, eps);
    return added.map((x, t) => add(x, gatedMlp(w, block, hidden[t] ?? [])));
  });
}

function minGru(w: Tensors, block: string, rows: readonly Vector[]): number[][] {
  let h: Vector = Array.from({ length: channels }, () => 0);
  return rows.map((x) => {
    const z = w.product(`${block}.gru_gate.weight`, x).map((value) => 1 / (1 + Math.exp(-value)));
    const input = w.product(`${block}.gru_in.weight`, x);
    h = h.map((value, i) => (1 - at(z, i)) * value + at(z, i) * at(input, i));
    return w.product(`${block}.gru_out.weight`, h);
  });
}

/** What a tensor of the file is called in the checkpoint. */
function checkpointName(name: string): string {
  const [, layer, rest = ""] = /^blk\.(\d+)\.(.*)\.weight$/.exec(name) ?? [];
  const own: Readonly<Record<string, string>> = {
    ...{ attn_norm: "input_layernorm", ffn_norm: "post_attention_layernorm" },
    ...{ gru_gate: "gru.to_gate", gru_in: "gru.to_hidden", gru_out: "gru.to_out" },
    ...{ attn_q: "self_attn.q_proj", attn_k: "self_attn.k_proj", attn_v: "self_attn.v_proj" },
    ...{ attn_output: "self_attn.o_proj", ffn_gate: "mlp.gate_proj", ffn_up: "mlp.up_proj", ffn_down: "mlp.down_proj" },
    ...{ "token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight" },
    "output.weight": "lm_head.weight",
  };
  const found = layer === undefined ? own[name] : own[rest] && `model.layers.${layer}.${own[rest]}.weight`;
  if (found === undefined) throw new Error(`the checkpoint has no tensor for ${name}`);
  return found;
}

test.each(named(/^\/\/ from ([\w./-]+)\n/))("the excerpts of %s stand there", (path, code) => {
  expect(readFileSync(join(root, path), "utf8")).toContain(code);
});

describe("the page names", () => {
  const read = (path: string) => readFileSync(join(root, path), "utf8");

  test("every operation of the graph", () => {
    const methods = Array.from(
      read("lib/graph/graph.ts").matchAll(/^ {2}\*?([a-z]\w*)(?:<.*>)?\(/gm),
      ([, name = ""]) => name,
    );
    const operations = methods.filter((name) => !["constructor", "finish", "abandon"].includes(name));
    expect(operations.length).toBeGreaterThan(45);
    expect(operations.filter((name) => !new RegExp(`\`[^\`]*\\b${name}\\b[^\`]*\``).test(readme))).toEqual([]);
  });

  test("every block, and every helper for configurations and weights", () => {
    const files = ["attention-blocks", "blocks", "delta-blocks", "mamba-blocks", "recurrence-blocks", "routing-blocks"]
      .concat(["rwkv-blocks", "short-convolution-block"])
      .map((name) => `lib/graph/${name}.ts`)
      .concat(
        "lib/model/conventions.ts",
        "lib/model/block-weights.ts",
        "lib/model/weights.ts",
        "lib/memory/declaration.ts",
      );
    const index = read("lib/graph/index.ts") + read("lib/index.ts") + read("lib/memory/index.ts");
    const functions = files
      .flatMap((path) => Array.from(read(path).matchAll(/^export function (\w+)/gm), ([, name = ""]) => name))
      .filter((name) => new RegExp(`\\b${name}\\b`).test(index));
    expect(functions.length).toBeGreaterThan(50);
    expect(functions.filter((name) => !readme.includes(`\`${name}`) && !readme.includes(`${name}(`))).toEqual([]);
  });

  test("only files that there are", () => {
    const links = Array.from(readme.matchAll(/\]\((?!https?:|#)([^)#]+)/g), ([, path = ""]) =>
      join(root, "plugins", path),
    );
    expect(links.length).toBeGreaterThan(1);
    for (const path of links) expect(() => readFileSync(path)).not.toThrow();
  });
});
