import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { loadModel } from "../../lib/index.ts";
import { Gguf, GgufType } from "../model/gguf.ts";
import { strata, strataCommand, tinyHybrid, type Ended } from "./strata.ts";

const prompt = "The old king was";
let folder = "";

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "strata-cli-"));
});
afterAll(() => rm(folder, { recursive: true }));

/** The one JSON document of a command that ended well. On stderr a slow machine's progress may stand. */
function documentOf({ code, stdout, stderr }: Ended): unknown {
  expect({ code, failure: /^strata.*/m.exec(stderr) }).toEqual({ code: 0, failure: null });
  expect(stdout.trimEnd().split("\n")).toHaveLength(1);
  return JSON.parse(stdout);
}

describe("generate", () => {
  const args = ["generate", "-m", tinyHybrid, "-n", "12", "--seed", "3"];
  const isTime = expect.any(Number);

  test("gives the same text as the SDK, streamed and as JSON", async () => {
    await using model = await loadModel(tinyHybrid);
    let text = "";
    const tokens: number[] = [];
    for await (const event of model.events(prompt, { maxTokens: 12, seed: 3 })) {
      if (event.type === "token") tokens.push(event.token);
      if (event.type === "token" || event.type === "end") text += event.text;
    }
    expect(await strata([...args, "-p", prompt])).toMatchObject({ code: 0, stdout: `${text}\n` });
    expect(documentOf(await strata([...args, "-p", "-", "--json"], prompt))).toEqual({
      text,
      tokens,
      promptTokens: model.tokenizer.encode(prompt).length,
      finishReason: "length",
      timings: {
        loadMs: isTime,
        prefillMs: isTime,
        decodeMs: isTime,
        prefillTokensPerSecond: isTime,
        decodeTokensPerSecond: isTime,
      },
    });
  });

  test("takes its options to the SDK", async () => {
    const options = { temperature: 0.7, topK: 20, topP: 0.9, minP: 0.01, seed: 5, repetitionPenalty: 1.2 };
    const more = { frequencyPenalty: 0.1, presencePenalty: 0.2, stop: ["zzz", " the"], maxTokens: 60 };
    await using model = await loadModel(tinyHybrid, { context: 64, kv: "f32", threads: 1 });
    const pieces = await Array.fromAsync(model.generate(prompt, { ...options, ...more }));
    const given = ["--temp", "0.7", "--top-k", "20", "--top-p", "0.9", "--min-p", "0.01", "--seed", "5"];
    const penalties = ["--repeat-penalty", "1.2", "--frequency-penalty", "0.1", "--presence-penalty", "0.2"];
    const rest = ["--stop", "zzz", "--stop", " the", "-n", "60", "--ctx", "64", "--kv", "f32", "--threads", "1"];
    const ended = await strata(["generate", "-m", tinyHybrid, "-p", prompt, "--json", ...given, ...penalties, ...rest]);
    const text = pieces.map((piece) => piece.text).join("");
    expect(documentOf(ended)).toMatchObject({ text, finishReason: "stop" });
    expect(text).not.toContain(" the");
  });

  test("ends quietly when its reader has gone", async () => {
    const command = `"$0" "$@" | head -c 1; echo "\${PIPESTATUS[0]}"`;
    const long = [...strataCommand, "generate", "-m", tinyHybrid, "-p", prompt, "--ignore-end", "--seed", "1"];
    const child = Bun.spawn(["bash", "-c", command, ...long], { stdout: "pipe", stderr: "pipe" });
    const [stdout, stderr] = await Promise.all([child.stdout.text(), child.stderr.text()]);
    expect(stderr).not.toContain("strata");
    expect(stdout).toMatch(/^.0\n$/);
  });
});

describe("tokens", () => {
  test("become text again", async () => {
    const text = "  Odd   spaces,\n\ttabs; \u00e9\u00e8, \u8a9e and \u{1f642}. <|end_of_text|>";
    const { tokens } = documentOf(await strata(["tokenize", "-m", tinyHybrid, "-p", "-", "--json"], text)) as {
      tokens: number[];
    };
    expect(tokens.every((token) => Number.isInteger(token) && token > 3)).toBe(true);
    const back = ["detokenize", "-m", tinyHybrid, "--json", "--tokens"];
    expect(documentOf(await strata([...back, tokens.join(",")]))).toEqual({ text });
    expect(documentOf(await strata([...back, "-"], JSON.stringify(tokens)))).toEqual({ text });
  });

  test("are printed as other commands take them", async () => {
    const special = await strata(["tokenize", "-m", tinyHybrid, "-p", "king<|end_of_text|>", "--special", "--no-bos"]);
    expect(special).toEqual({ code: 0, stdout: expect.stringMatching(/^[\d,]+,0\n$/), stderr: "" });
    const ids = special.stdout.trim();
    const plain = await strata(["detokenize", "-m", tinyHybrid, "--tokens", ids]);
    expect(plain).toEqual({ code: 0, stdout: "king\n", stderr: "" });
    const shown = await strata(["detokenize", "-m", tinyHybrid, "--tokens", ids, "--special"]);
    expect(shown.stdout).toBe("king<|end_of_text|>\n");
  });
});

describe("perplexity is that of the SDK's logits", () => {
  const words = "The old king was very angry, and he said to his son that the castle must be built again. ".repeat(4);
  const window = 16;

  async function expected(path: string): Promise<{ perplexity: number; tokens: number; addBos: boolean }> {
    await using model = await loadModel(path, { context: window, kv: "f32" });
    const { addBos, bos = NaN } = model.tokenizer;
    const tokens = model.tokenizer.encode(words);
    let loss = 0;
    let count = 0;
    for (let start = 0; start + window <= tokens.length; start += window) {
      const part = tokens.slice(start, start + window);
      if (addBos) part[0] = bos;
      for await (const { position, logits } of model.logits(part)) {
        if (position < window / 2 || position === window - 1) continue;
        const sum = logits.reduce((total, logit) => total + Math.exp(logit), 0);
        loss += Math.log(sum) - (logits[part[position + 1] ?? NaN] ?? NaN);
        count += 1;
      }
    }
    return { perplexity: Math.exp(loss / count), tokens: count, addBos };
  }

  async function withBos(): Promise<string> {
    const path = join(folder, "with-bos.gguf");
    await writeFile(
      path,
      Gguf.read(tinyHybrid).set("tokenizer.ggml.add_bos_token", GgufType.bool, Uint8Array.of(1)).write(),
    );
    return path;
  }

  test.each([true, false])("with BOS: %p", async (addsBos) => {
    const model = addsBos ? await withBos() : tinyHybrid;
    const { perplexity, tokens, addBos } = await expected(model);
    expect(addBos).toBe(addsBos);
    const path = join(folder, "text.txt");
    await writeFile(path, words);
    const args = ["perplexity", "-m", model, "--ctx", String(window)];
    const measured = documentOf(await strata([...args, "-f", path, "--json"]));
    expect(measured).toEqual({ perplexity: expect.closeTo(perplexity, 4), tokens });
    const said = await strata([...args, "-f", "-"], words);
    expect(said.stdout).toMatch(new RegExp(`^perplexity \\d+\\.\\d{4} over ${tokens} tokens\n$`));
  });
});

test("logits are the same in chunks of any size", async () => {
  const args = ["logits", "-m", tinyHybrid, "--tokens", "261,283,82,202,17,44,361", "--json", "--out"];
  const [whole, chunked] = [join(folder, "whole"), join(folder, "chunked")];
  expect(documentOf(await strata([...args, whole]))).toEqual({ tokens: 7, vocab: 4096 });
  expect(documentOf(await strata([...args, chunked, "--chunk", "3"]))).toEqual({ tokens: 7, vocab: 4096 });
  const [expected, given] = await Promise.all([readFile(whole), readFile(chunked)]);
  expect(expected.length).toBe(7 * 4096 * 4);
  expect(given.length).toBe(expected.length);
  let [error, size] = [0, 0];
  for (let offset = 0; offset < expected.length; offset += 4) {
    error += (expected.readFloatLE(offset) - given.readFloatLE(offset)) ** 2;
    size += expected.readFloatLE(offset) ** 2;
  }
  expect(size).toBeGreaterThan(0);
  expect(error / size).toBeLessThan(1e-8);
});

describe("inspect", () => {
  test("shows what each layer remembers", async () => {
    const inspection = documentOf(await strata(["inspect", tinyHybrid, "--json"]));
    const memory = (name: string, kind: string) => [expect.objectContaining({ name, kind, bytes: expect.any(Number) })];
    expect(inspection).toMatchObject({
      file: { path: tinyHybrid, bytes: Bun.file(tinyHybrid).size, parts: 1 },
      architecture: "granitehybrid",
      memory: { kind: "hybrid", isHybrid: true, isRecurrent: false, bytes: expect.any(Number) },
      layers: Array.from({ length: 8 }, (_, index) => {
        return { index, memories: index % 4 === 3 ? memory("attn", "attention") : memory("ssm", "recurrent") };
      }),
      metadata: { "general.architecture": "granitehybrid", "tokenizer.ggml.tokens": { length: 4096 } },
    });
    const { tensors } = inspection as { tensors: unknown[] };
    expect(tensors).toContainEqual(expect.objectContaining({ name: "token_embd.weight", shape: [256, 4096] }));
  });

  test("says so in words, and what more positions cost", async () => {
    const bytesOf = async (...args: string[]): Promise<string> => {
      const { code, stdout, stderr } = await strata(["inspect", tinyHybrid, ...args]);
      expect([code, stderr]).toEqual([0, ""]);
      expect(stdout).toMatch(/^ +7 +attn +attention /m);
      return /^Memory: hybrid, (.*) in 8 layers$/m.exec(stdout)?.[1] ?? "";
    };
    const [small, large] = [await bytesOf("--ctx", "256"), await bytesOf("--ctx", "4096", "--kv", "f32")];
    expect(small).toMatch(/ MB$/);
    expect(parseFloat(large)).toBeGreaterThan(parseFloat(small));
  });

  test("shows a file whose architecture no plugin declares", async () => {
    const bytes = await readFile(tinyHybrid);
    // The name's first occurrence is the value of general.architecture; the keys that begin with it do not matter.
    bytes.write("unknownhybrid", bytes.indexOf("granitehybrid"), "latin1");
    const path = join(folder, "unknown.gguf");
    await writeFile(path, bytes);
    const { code, stdout, stderr } = await strata(["inspect", path, "--json"]);
    expect(code).toBe(0);
    expect(stderr).toContain('no plugin declares the architecture "unknownhybrid"; give one with --plugin PLUGIN');
    expect(JSON.parse(stdout)).toMatchObject({ architecture: "unknownhybrid", memory: null, layers: [] });
    expect((await strata(["generate", "-m", path, "-p", "a"])).code).toBe(1);
  });
});

test("bench gives every sample and the median", async () => {
  const args = ["bench", "-m", tinyHybrid, "--pp", "24", "--tg", "4", "--reps", "3", "--threads", "1"];
  type Speeds = { tokens: number; samples: number[]; median: number };
  const { prefill, decode, ...rest } = documentOf(await strata([...args, "--json"])) as Record<string, Speeds>;
  expect(rest).toEqual({ model: "model.gguf", threads: 1 } as unknown as Record<string, Speeds>);
  for (const [speeds, tokens] of [
    [prefill, 24],
    [decode, 4],
  ] as const) {
    expect(speeds?.tokens).toBe(tokens);
    const sorted = (speeds?.samples ?? []).toSorted((a, b) => a - b);
    expect(sorted).toHaveLength(3);
    expect(sorted[0]).toBeGreaterThan(0);
    expect(speeds?.median).toBe(sorted[1] ?? NaN);
  }
  const { code, stdout } = await strata(args);
  expect(code).toBe(0);
  expect(stdout).toMatch(/^prefill +24 +\d/m);
  expect(stdout).toMatch(/^decode +4 +\d/m);
});

test("demo shows the layers, a text and its speed", async () => {
  const { code, stdout } = await strata(["demo"]);
  expect(code).toBe(0);
  expect(stdout.match(/^ +\d +(ssm +recurrent|attn +attention) .* [kM]B$/gm)).toHaveLength(8);
  expect(stdout).toMatch(/\n\nThe old king was very angry, and[^]+\n\n120 tokens, [\d.]+ tokens per second\n$/);
  const document = JSON.parse((await strata(["demo", "--json"])).stdout);
  expect(document).toMatchObject({ layers: { length: 8 }, tokens: { length: 120 } });
  expect(stdout).toContain(document.prompt + document.text);
});

test("a plugin of the caller's own is used", async () => {
  const path = join(folder, "plugin.ts");
  const sdk = JSON.stringify(join(import.meta.dir, "../../lib/index.ts"));
  await writeFile(
    path,
    `import { defineArchitecture } from ${sdk};
     const fail = () => { throw new Error("never asked"); };
     export default defineArchitecture({
       apiVersion: 1,
       names: ["granitehybrid"], config: () => ({ vocabulary: 7, contextLength: 9 }),
       replaces: true,
       memory: () => [{}], weights: () => ({}), graph: fail,
     });`,
  );
  const inspection = documentOf(await strata(["inspect", tinyHybrid, "--json", "--plugin", path]));
  expect(inspection).toMatchObject({ memory: { kind: "none" }, layers: [{ index: 0, memories: [] }] });
});

test("a full disk is one line", async () => {
  const child = Bun.spawn(
    ["sh", "-c", '"$0" "$@" > /dev/full', ...strataCommand, "tokenize", "-m", tinyHybrid, "-p", "a"],
    {
      stderr: "pipe",
    },
  );
  expect(await child.stderr.text()).toBe("strata: the output cannot be written (the disk is full)\n");
  expect(await child.exited).toBe(1);
});
