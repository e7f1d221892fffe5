/** Nothing that a plugin does wrong ends the process, or harms the model that is loaded after it. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { defineArchitecture, loadModel, StrataError, type Architecture, type Graph, type Tensor } from "ggstrata";
import { readEnvironment, readEnvironmentCount } from "../../lib/environment.ts";
import { Folder, generated, randomOf, refusal, thrown } from "./help.ts";
import { malformed, ways, type Malformed, type Random } from "./malformed.ts";
import { good, hooked, name, oddFile, oddGraph, type Memories, type Parts, type Weights } from "./odd-architecture.ts";

setDefaultTimeout(300_000);

const seed = readEnvironmentCount("STRATA_SEED") ?? Math.floor(Math.random() * 1e6) + 1;
const cases = Math.max(ways, readEnvironment("STRATA_SOAK") === undefined ? 300 : 6000);
const prompt = [1, 5, 9, 2, 17];
const options = { context: 64, batch: 16, threads: 1, rollback: 4 };

let folder: Folder;
let file: string;
let expected: readonly number[];

const define = defineArchitecture as unknown as (parts: Parts) => Architecture;

/** Loads a plugin of these parts and generates. */
async function run(parts: Parts, path = file, onLoad: () => void = () => undefined): Promise<readonly number[]> {
  await using model = await loadModel(path, { ...options, plugins: [define(parts)] });
  onLoad();
  const { tokens } = await generated(model, prompt, { maxTokens: 6 });
  return tokens;
}

beforeAll(async () => {
  folder = new Folder();
  file = folder.write("odd.gguf", oddFile());
  expected = await run(good);
});
afterAll(() => folder[Symbol.dispose]());

/** Runs one, and says what is wrong with how it fails; undefined where nothing is. */
async function judge({ parts, damage, fails = "load" }: Malformed): Promise<string | undefined> {
  const path = damage === undefined ? file : folder.write("damaged.gguf", oddFile(damage));
  let loaded = false;
  try {
    await run(parts, path, () => {
      loaded = true;
    });
  } catch (error) {
    if (!(error instanceof StrataError)) return `an error that is no StrataError: ${Bun.inspect(error)}`;
    // Of a file's tensors the file is named.
    const isNamed = error.message.includes(name) || /odd\.gguf: the tensor "/.test(error.message);
    const isDefinition = error.message.startsWith("defineArchitecture: ");
    if (!isNamed && !isDefinition) return `the sentence names no architecture: ${error.message}`;
    if (/undefined is not|null is not|\bundefined\b.*evaluating/.test(error.message))
      return `unclear: ${error.message}`;
    return loaded === (fails === "generate") ? undefined : `it failed after loading: ${loaded}: ${error.message}`;
  }
  return "no error";
}

test(`${cases} malformed plugins are errors, and the next model works (STRATA_SEED=${seed})`, async () => {
  const random = randomOf(seed);
  const pick: Random = (choices) => choices[Math.floor(random() * choices.length)] as never;
  for (let i = 0; i < cases; i += 1) {
    const one = malformed(i, pick);
    const fault = await judge(one);
    if (fault !== undefined) throw new Error(`case ${i} (${one.what}): ${fault}`);
    expect(await run(good), one.what).toEqual(expected);
  }
});

test("a graph that is used after its function has returned", async () => {
  let late: Graph | undefined;
  let kept: Tensor | undefined;
  const parts = hooked((_, tensor, g) => {
    [late, kept] = [g, tensor];
    return tensor;
  });
  expect(await run(parts)).toEqual(expected);
  const sentence = "this graph has been built; a graph function uses g only until it returns";
  expect(thrown(() => late?.tokens()).message).toBe(`oddarch: tokens: ${sentence}`);
  expect(thrown(() => late?.sqr(kept as Tensor)).message).toBe(`oddarch: sqr: ${sentence}`);
});

test("weights and memories of another model of the same plugin", async () => {
  let kept: { w: Weights; memory: Memories } | undefined;
  const parts = (which: "weights" | "memories"): Parts => ({
    ...good,
    graph: (g: Graph, _: unknown, w: Weights, memory: Memories) => {
      kept ??= { w, memory };
      return oddGraph(g, which === "weights" ? kept.w : w, which === "memories" ? kept.memory : memory);
    },
  });
  for (const which of ["weights", "memories"] as const) {
    kept = undefined;
    const plugin = define(parts(which));
    await using _ = await loadModel(file, { ...options, plugins: [plugin] });
    const error = await refusal(loadModel(file, { ...options, plugins: [plugin] }));
    expect(error.message).toMatch(
      which === "weights" ? /is a weight of another model/ : /no memory of this model's layers/,
    );
  }
});

test("what is thrown is the error's cause", async () => {
  const cause = new Error("the reason");
  const fail = () => {
    throw cause;
  };
  for (const part of ["config", "memory", "weights", "graph"] as const) {
    let error: unknown = await refusal(run({ ...good, [part]: fail }));
    while (error instanceof StrataError) error = error.cause;
    expect(error, part).toBe(cause);
  }
});
