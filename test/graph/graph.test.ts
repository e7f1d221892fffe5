/** What a plugin's author can get wrong, and what each mistake says; and memories that no built-in plugin declares. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import {
  attention,
  loadModel,
  recurrent,
  shared,
  type Architecture,
  type BaseConfig,
  type Graph,
  type LayerHandles,
  type LayerMemory,
  type Model,
  type Tensor,
} from "ggstrata";
import { llama } from "../../plugins/llama.ts";
import { fixturePath, free, freeAgain, generated, refusal, someTokens } from "../model/help.ts";
import { nmse } from "../plugins/reference.ts";

setDefaultTimeout(60_000);

type Read = ReturnType<Architecture["read"]>;

/** The llama plugin with parts of it replaced. */
function variant(change: (read: Read) => Partial<Read>): Architecture {
  return {
    apiVersion: 1,
    names: ["llama"],
    replaces: true,
    read(metadata) {
      const read = llama.read(metadata);
      return { ...read, ...change(read) };
    },
  };
}

function load(plugin: Architecture, options: { batch?: number; sequences?: number } = {}): Promise<Model> {
  return loadModel(fixturePath("llama"), { plugins: [plugin], threads: 1, context: 256, kv: "f32", ...options });
}

type Build = (g: Graph, weights: { embedding: never; norm: never }, memory: readonly LayerHandles[]) => Tensor;

/** Of a graph with the memories of llama, or with others. */
async function buildError(build: Build, memory?: readonly LayerMemory[]): Promise<string> {
  const plugin = variant((read) => ({ graph: build as Read["graph"], memory: memory ?? read.memory }));
  const error = await refusal(load(plugin).then((model) => model.dispose()));
  expect(error.message).toStartWith(`${fixturePath("llama")}: `);
  return error.message.slice(fixturePath("llama").length + 2);
}

/** A handle that the layer's declaration does not promise, and llama's has. */
function memoryOf(memory: readonly LayerHandles[], layer: number) {
  const handle = memory[layer]?.["attn"];
  if (handle === undefined) throw new Error("llama declares attn");
  return handle;
}

describe("a graph that cannot be computed is refused while loading", () => {
  test("operands that do not fit, with architecture, layer and operation", async () => {
    expect(
      await buildError((g, w, memory) => {
        const x = g.getRows(w.embedding, g.tokens());
        for (const { index } of g.layers([{}, {}, {}], memory))
          if (index === 1) g.mulMat(w.embedding, g.reshape(x, 32, 2));
        return x;
      }),
    ).toMatch(/^llama, layer 1: mul_mat: /);
    expect(await buildError((g, w) => g.mul(g.getRows(w.embedding, g.tokens()), g.tokens()))).toMatch(/^llama: mul: /);
  });

  test("logits of another shape or type, or none", async () => {
    const sentence = "the graph must give logits of the shape [384, 1] (vocabulary, outputs) in f32";
    expect(await buildError((g, w) => g.getRows(w.embedding, g.tokens()))).toContain(sentence);
    expect(await buildError((g) => g.tokens())).toContain(sentence);
    expect(
      await buildError((g, w) => g.cast(g.mulMat(w.embedding, g.getRows(w.embedding, g.tokens())), "f16")),
    ).toContain(sentence);
  });

  test("a table that token ids or positions reach beyond", async () => {
    expect(
      await buildError((g, w) => {
        const short = g.view(w.embedding, [64, 100]);
        return g.mulMat(w.embedding, g.getRows(short, g.tokens()));
      }, []),
    ).toContain("the token ids go up to 383, and a table that the graph looks them up in has 100 rows");
    expect(
      await buildError((g, w) => g.mulMat(w.embedding, g.getRows(g.view(w.embedding, [64, 200]), g.positions())), []),
    ).toContain("the positions go up to 255, and a table that the graph looks them up in has 200 rows");
  });

  test("a tensor of another graph", async () => {
    let kept: Tensor | undefined;
    const plugin = variant((read) => ({
      graph: (g, weights, memory) => {
        const own = g.tokens();
        kept ??= own;
        if (own !== kept) for (let i = 0; i < 3; i += 1) g.sqr(kept);
        return read.graph(g, weights, memory);
      },
    }));
    // A graph is built twice while loading.
    const error = await refusal(load(plugin).then((model) => model.dispose()));
    expect(error.message).toContain("llama: sqr: a is a tensor of another graph");
  });

  test("too many nodes", async () => {
    const message = await buildError((g, w) => {
      let x = g.getRows(w.embedding, g.tokens());
      for (let i = 0; i < 100_000; i += 1) x = g.sqr(x);
      return g.mulMat(w.embedding, x);
    });
    expect(message).toMatch(/^llama: sqr: this graph has no room for more than \d+ nodes$/);
  });

  test("memories used as what they are not", async () => {
    expect(
      await buildError((g, w, memory) =>
        g.convolve(memoryOf(memory, 0), g.getRows(w.embedding, g.tokens()), { state: "conv", weight: w.norm }),
      ),
    ).toBe('llama: convolve: the memory "attn" has no state "conv" of its own');
    expect(
      await buildError((g, w, memory) => {
        const x = g.getRows(w.embedding, g.tokens());
        return g.attend(memoryOf(memory, 0), { queries: g.reshape(x, 64, 1, g.rows) });
      }),
    ).toMatch(/^llama: attend: /);
    expect(
      await buildError((g, w, memory) => {
        const q = g.reshape(g.getRows(w.embedding, g.tokens()), 8, 8, g.rows);
        return g.attend(memoryOf(memory, 0), { queries: q, keys: q, values: q });
      }),
    ).toMatch(/^llama: attend: /);
  });
});

describe("declarations that cannot be", () => {
  const own = (index: number): LayerMemory => ({ attn: attention({ heads: 2, keyDim: 8, valueDim: 8 + 0 * index }) });
  test.each<[string, LayerMemory, string]>([
    ["a window of nothing", { attn: attention({ heads: 2, keyDim: 8, valueDim: 8, window: 0 }) }, "layer 1"],
    ["a window below zero", { attn: attention({ heads: 2, keyDim: 8, valueDim: 8, window: -4 }) }, "layer 1"],
    ["heads of nothing", { attn: attention({ heads: 0, keyDim: 8, valueDim: 8 }) }, "layer 1"],
    ["keys beyond measure", { attn: attention({ heads: 4096, keyDim: 4096, valueDim: 8 }) }, "layer 1"],
    [
      "no states",
      { attn: recurrent({}) },
      'llama, layer 1, memory "attn": a recurrent memory has 1 to 8 states, not 0',
    ],
    [
      "nine states",
      { attn: recurrent(Object.fromEntries(Array.from({ length: 9 }, (_, i) => [`s${i}`, [4]]))) },
      'llama, layer 1, memory "attn": a recurrent memory has 1 to 8 states, not 9',
    ],
    [
      "a state of nothing",
      { attn: recurrent({ s: [4, 0] }) },
      'layer 1, memory "attn", state "s": it has the shape [4, 0]',
    ],
    ["a state beyond measure", { attn: recurrent({ s: [2 ** 20, 2 ** 20] }) }, 'memory "attn", state "s": it has'],
    ["half a state", { attn: recurrent({ s: [0.5] }) }, 'state "s": it has the shape [0.5]'],
    [
      "a share of a later layer",
      { attn: shared(2, "attn") },
      'layer 1, memory "attn": it shares the memory "attn" of layer 2',
    ],
    [
      "a share of itself",
      { attn: shared(1, "attn") },
      'layer 1, memory "attn": it shares the memory "attn" of layer 1',
    ],
    ["a share of what is not there", { attn: shared(0, "ssm") }, 'that layer has "attn"'],
  ])("%s", async (_, memory, sentence) => {
    const plugin = variant(() => ({ memory: [own(0), memory, own(2)] }));
    const error = await refusal(load(plugin).then((model) => model.dispose()));
    expect(error.message).toContain(sentence);
  });

  test("another number of layers than the weights have", async () => {
    const plugin = variant(() => ({ memory: [own(0), own(1)] }));
    const error = await refusal(load(plugin).then((model) => model.dispose()));
    expect(error.message).toContain("llama: layers: 3 layers have weights and 2 have memories declared");
  });
});

/** The logits of every position, fed in pieces. */
async function rows(model: Model, tokens: readonly number[], chunk: number): Promise<Float32Array> {
  const out = new Float32Array(tokens.length * model.vocabularySize);
  for await (const { position, logits } of model.logits(tokens, { chunk }))
    out.set(logits, position * model.vocabularySize);
  return out;
}

describe("memories that the built-in plugins do not declare", () => {
  const heads = { heads: 2, keyDim: 8, valueDim: 8 };
  const all = attention(heads);
  const mixes: [string, LayerMemory["x"][]][] = [
    ["chunks of 16", [1, 2, 3].map(() => attention({ ...heads, chunk: 16 }))],
    ["chunks of 64", [1, 2, 3].map(() => attention({ ...heads, chunk: 64 }))],
    ["chunks of 1", [1, 2, 3].map(() => attention({ ...heads, chunk: 1 }))],
    ["a window of 1", [all, attention({ ...heads, window: 1 }), all]],
    ["windows of 7 and 64", [attention({ ...heads, window: 7 }), attention({ ...heads, window: 64 }), all]],
    ["chunks, a window and all", [attention({ ...heads, chunk: 20 }), attention({ ...heads, window: 30 }), all]],
    ["a window larger than the context", [attention({ ...heads, window: 100_000 }), all, all]],
  ];

  test.each(mixes)("%s: whole, in pieces, among others, and after a step that was taken back", async (_, memories) => {
    const plugin = variant(() => ({ memory: memories.map((attn) => ({ attn })) }));
    await using model = await load(plugin, { batch: 64, sequences: 3 });
    const untouched = free(model);
    const tokens = someTokens(200, 3);
    const whole = await rows(model, tokens, 64);
    for (const chunk of [1, 5, 16, 33]) expect(nmse(await rows(model, tokens, chunk), whole)).toBeLessThanOrEqual(1e-8);
    const alone = (await generated(model, someTokens(64), { maxTokens: 150 })).tokens;
    const cancelled = Array.from({ length: 20 }, async (_, i) => {
      const controller = new AbortController();
      const running = generated(model, someTokens(64 + i), { signal: controller.signal }).catch(() => undefined);
      await Bun.sleep(i);
      controller.abort();
      await running;
    });
    const among = await generated(model, someTokens(64), { maxTokens: 150 });
    await Promise.all(cancelled);
    expect(among.tokens).toEqual(alone);
    await freeAgain(model, untouched);
  });

  test("a layer that reads another's keys and values", async () => {
    const plugin: Architecture = variant((read) => ({
      memory: [{ attn: all }, { attn: shared(0, "attn") }, { attn: all }],
      graph: (g, weights, memory) => readingShared(g, read.config, weights as Weights, memory),
    }));
    await using model = await load(plugin, { batch: 64 });
    expect(model.memory.layers[1]?.memories[0]).toMatchObject({
      sharedFrom: 0,
      bytes: 0,
      description: "shared from layer 0",
    });
    expect(model.memory.bytes).toBe(model.counters().memoryBytes);
    const tokens = someTokens(150, 4);
    expect(nmse(await rows(model, tokens, 1), await rows(model, tokens, 64))).toBeLessThanOrEqual(1e-8);
    // Written to, it is refused.
    const writing = variant(() => ({ memory: [{ attn: all }, { attn: shared(0, "attn") }, { attn: all }] }));
    const error = await refusal(load(writing).then((loaded) => loaded.dispose()));
    expect(error.message).toContain(
      `llama, layer 1: attend: the memory "attn" is another layer's, and can only be read`,
    );
  });

  test("no memory at all: every token by itself", async () => {
    const plugin = variant(() => ({
      memory: [{}, {}, {}],
      graph: (g, weights) => {
        const { embedding } = weights as Weights;
        return g.mulMat(embedding, g.selectOutputs(g.getRows(embedding, g.tokens())));
      },
    }));
    await using model = await load(plugin);
    expect(model.memory).toMatchObject({ kind: "none", bytes: 0 });
    expect((await generated(model, [5], { maxTokens: 3 })).tokens).toHaveLength(3);
  });
});

type Layer = Record<"norm" | "q" | "k" | "v" | "output", never>;
interface Weights {
  readonly embedding: never;
  readonly layers: readonly Layer[];
}

/** Attention alone, where layer 1 has queries of its own and reads layer 0's keys and values. */
function readingShared(g: Graph, _: BaseConfig, weights: Weights, memories: readonly LayerHandles[]): Tensor {
  let x = g.getRows(weights.embedding, g.tokens());
  for (const { index, layer } of g.layers(weights.layers, memories)) {
    const memory = memoryOf(memories, index);
    const queries = g.reshape(g.mulMat(layer.q, g.rmsNorm(x, 1e-5, layer.norm)), 8, 8, g.rows);
    const keys = g.reshape(g.mulMat(layer.k, x), 8, 2, g.rows);
    const values = g.reshape(g.mulMat(layer.v, x), 8, 2, g.rows);
    const attended = g.attend(memory, memory.isShared ? { queries } : { queries, keys, values });
    x = g.add(x, g.mulMat(layer.output, g.reshape(attended, 64, g.rows)));
  }
  return g.mulMat(weights.embedding, g.selectOutputs(x));
}
