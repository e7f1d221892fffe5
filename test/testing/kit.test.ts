/** Parts of the conformance kit by themselves. */
import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import {
  attention,
  defineArchitecture,
  given,
  layerCount,
  matrix,
  openModelFile,
  optional,
  perLayer,
  recurrent,
  shared,
  StrataError,
  table,
  vector,
  type Metadata,
} from "ggstrata";
import { checkArchitecture } from "ggstrata/testing";
import { engineFlags } from "../../lib/native/engine.ts";
import { difference, nmse } from "../../lib/testing/compare.ts";
import { madeUpMetadata, makeWeights } from "../../lib/testing/made-model.ts";
import { readReference } from "../../lib/testing/reference.ts";
import { Subject } from "../../lib/testing/subject.ts";
import { Folder, refusal, root } from "../model/help.ts";
import { toy } from "./toy.ts";

const rows = (...numbers: number[][]) => numbers.map((row) => Float32Array.from(row));

describe("logits are compared", () => {
  test("all together, and by the first row that differs", () => {
    const expected = rows([1, 2], [3, 4], [5, 6]);
    expect(difference(rows([1, 2], [3, 4], [5, 6]), expected, 0)).toBeUndefined();
    expect(difference(rows([1, 2], [3, 4.1], [5, 6]), expected, 1e-8)).toMatchObject({ row: 1, count: 1 });
    expect(difference(rows([1, 2], [3, 4.1], [5, 6]), expected, 1e-2)).toBeUndefined();
  });

  test("NaN and missing rows are differences", () => {
    const expected = rows([1, 2], [3, 4]);
    expect(difference(rows([1, 2], [NaN, 4]), expected, 1)).toMatchObject({ row: 1, count: 1, nmse: NaN });
    expect(difference(rows([1, 2]), expected, 1)).toMatchObject({ row: 1, count: 1 });
    expect(nmse([0, 0], [0, 0])).toBe(0);
    expect(nmse([1], [1, 2])).toBe(NaN);
  });
});

const plain = (read: (m: Metadata) => void) =>
  defineArchitecture({
    apiVersion: 1,
    names: ["plain"],
    config: (m) => {
      read(m);
      return { vocabulary: m.count("plain.vocab_size"), contextLength: m.count("plain.context_length") };
    },
    memory: () => [],
    weights: (c) => ({
      embedding: table("token_embd.weight", [8, c.vocabulary]),
      norm: vector("output_norm.weight", [8]),
      decay: vector("blk.0.ssm_a", [8]),
      head: matrix("output.weight", [8, c.vocabulary]),
    }),
    graph: (g, _, w) => {
      const x = g.add(g.getRows(w.embedding, g.tokens()), w.decay);
      return g.mulMat(w.head, g.rmsNorm(g.selectOutputs(x), 1e-5, w.norm));
    },
  });

describe("a model is made", () => {
  test("with answers to the keys that are asked for, and no others", () => {
    const metadata = madeUpMetadata(
      plain((m) => {
        const layers = layerCount(m, "plain");
        perLayer(m, "plain.attention.head_count_kv", layers);
        m.count("plain.something_else");
        m.count("plain.left_out", 3);
        m.number("plain.attention.layer_norm_rms_epsilon");
      }),
    );
    expect(metadata).toEqual({
      "general.architecture": "plain",
      "plain.vocab_size": 96,
      "plain.context_length": 512,
      "plain.block_count": 4,
      "plain.attention.head_count_kv": Uint32Array.of(0, 2, 0, 2),
      "plain.something_else": 8,
      "plain.attention.layer_norm_rms_epsilon": 1e-5,
    });
  });

  test("with the architecture's example where it has one", () => {
    const example = { "plain.vocab_size": 5, "plain.context_length": 99, "plain.list": [1, 2], "plain.halves": [0.5] };
    expect(madeUpMetadata({ ...plain(() => undefined), example })).toEqual({
      "general.architecture": "plain",
      ...example,
      "plain.list": Uint32Array.of(1, 2),
      "plain.halves": Float32Array.of(0.5),
    });
  });

  test("or the error says what to give", () => {
    const architecture = plain((m) => m.string("plain.kind"));
    expect(() => madeUpMetadata(architecture)).toThrow(/no tiny model of "plain" .*"plain.kind".*give .* an `example`/);
  });

  test("with numbers that fit what weights are for, or the caller's", () => {
    const tree = { norm: vector("a_norm.weight", [40]), decay: vector("blk.0.ssm_a", [40]), own: vector("own", [2]) };
    const [norm, decay, own] = makeWeights(tree, (name) => (name === "own" ? [7, 8] : undefined));
    expect(norm?.values.every((value) => value > 0.5 && value < 1.5)).toBe(true);
    expect(decay?.values.every((value) => value < 0)).toBe(true);
    expect(own?.values).toEqual(Float32Array.of(7, 8));
  });
});

/** Its second layer has a state in f16; both declare what they remember in forms that differ by a name. */
const halves = defineArchitecture({
  apiVersion: 1,
  names: ["halves"],
  config: (m) => ({ vocabulary: m.count("halves.vocab_size"), contextLength: m.count("halves.context_length") }),
  memory: () =>
    [0, 1].map((i) => {
      const last = () => recurrent({ before: [8] }, { inputs: 8 });
      const half = { shape: [8, 2], dtype: "f16" } as const;
      return { ...(i === 0 ? { first: last() } : { half: recurrent({ conv: half }, { inputs: 8 }) }), last: last() };
    }),
  weights: (c) => ({
    embedding: table("token_embd.weight", [8, c.vocabulary]),
    head: matrix("output.weight", [8, c.vocabulary]),
    layers: [0, 1].map((i) => ({ taps: i === 0 ? undefined : vector(`blk.${i}.conv.weight`, [3, 8]) })),
  }),
  graph: (g, _, w, memories) => {
    let x = g.getRows(w.embedding, g.tokens());
    for (const { layer, memory } of g.layers(w.layers, memories)) {
      x = g.add(x, g.previous(memory.last, x, { state: "before" }));
      x =
        layer.taps === undefined
          ? g.add(x, g.previous(given("halves", memory.first), x, { state: "before" }))
          : g.convolve(given("halves", memory.half), x, { state: "conv", weight: layer.taps });
    }
    return g.mulMat(w.head, g.selectOutputs(x));
  },
});

/** Its first layer stores keys for the second, and makes nothing of them itself; `isRead` is whether the second looks. */
const lender = (isRead: boolean) =>
  defineArchitecture({
    apiVersion: 1,
    names: ["lender"],
    config: (m) => ({ vocabulary: m.count("lender.vocab_size"), contextLength: m.count("lender.context_length") }),
    memory: () => [{ kv: attention({ heads: 1, keyDim: 8, valueDim: 8 }) }, { kv: shared(0, "kv") }],
    weights: (c) => ({
      embedding: table("token_embd.weight", [8, c.vocabulary]),
      head: matrix("output.weight", [8, c.vocabulary]),
      layers: [0, 1].map((i) => ({ q: matrix(`blk.${i}.attn_q.weight`, [8, 8]) })),
    }),
    graph: (g, _, w, memories) => {
      let x = g.getRows(w.embedding, g.tokens());
      for (const { index, layer, memory } of g.layers(w.layers, memories)) {
        const made = g.reshape(g.mulMat(layer.q, x), 8, 1, g.rows);
        const attended = g.attend(
          memory.kv,
          index === 0 ? { queries: made, keys: made, values: made } : { queries: made },
        );
        if (index === 1) x = g.add(x, isRead ? g.reshape(attended, 8, g.rows) : g.mulMat(layer.q, x));
      }
      return g.mulMat(w.head, g.selectOutputs(x));
    },
  });

describe("what is stored for another layer alone", () => {
  const only = ["weights and memories are used"];

  test("is used where that layer's result is", async () => {
    const { checks } = await checkArchitecture(lender(true), { only });
    expect(checks.filter(({ outcome }) => outcome === "failed")).toEqual([]);
  });

  test("is not where it is not, and both are named", async () => {
    const { checks } = await checkArchitecture(lender(false), { only });
    const [failed] = checks.filter(({ outcome }) => outcome === "failed");
    expect(failed?.message).toMatch(/layer 0: attend\(0.kv.* is computed and .*; layer 1: attend\(1.kv.* is not used/);
  });
});

/** A bias and its scale, that a file has or lacks together; where one is missing `fault` is thrown. */
const paired = (fault: StrataError) =>
  defineArchitecture({
    apiVersion: 1,
    names: ["paired"],
    config: (m) => ({ vocabulary: m.count("paired.vocab_size"), contextLength: m.count("paired.context_length") }),
    memory: () => [],
    weights: (c) => ({
      embedding: table("token_embd.weight", [8, c.vocabulary]),
      head: matrix("output.weight", [8, c.vocabulary]),
      bias: optional(vector("blk.0.in.bias", [8])),
      scale: optional(vector("blk.0.in.scale", [8])),
    }),
    graph: (g, _, { embedding, head, bias, scale }) => {
      const x = g.selectOutputs(g.getRows(embedding, g.tokens()));
      if (bias === undefined && scale === undefined) return g.mulMat(head, x);
      if (bias === undefined || scale === undefined) throw fault;
      return g.mulMat(head, g.add(x, g.mul(bias, scale)));
    },
  });

describe("weights that a file may lack together", () => {
  const only = ["weights that a file may lack"];
  const outcomeOf = async (code: "bad_format" | "invalid_argument", sentence: string) => {
    const { checks } = await checkArchitecture(paired(new StrataError(code, sentence)), { only });
    return checks.find(({ name }) => name === only[0]);
  };

  test("may be refused one without the other, by a sentence that names them", async () => {
    const sentence = 'the tensors "blk.0.in.bias" and "blk.0.in.scale" are there together or not at all';
    expect(await outcomeOf("bad_format", sentence)).toMatchObject({
      outcome: "passed",
      message: "runs without each of 0 kinds of them, and says of 2 more that others need them",
    });
  });

  test("may not by one that names another, or blames the plugin", async () => {
    const failed = { outcome: "failed", message: expect.stringContaining('a file without the weights "blk.N.in.') };
    expect(await outcomeOf("bad_format", 'the tensor "blk.0.other.bias" is missing')).toMatchObject(failed);
    expect(await outcomeOf("invalid_argument", 'no "blk.0.in.bias" and no "blk.0.in.scale"')).toMatchObject(failed);
  });
});

test("an architecture without memories passes", async () => {
  const { checks, passed } = await checkArchitecture(plain(() => undefined));
  expect(checks.filter(({ outcome }) => outcome === "failed")).toEqual([]);
  expect(passed).toBe(true);
});

test("a file of another architecture is named", async () => {
  const model = join(root, "test/fixtures/mamba2/model.gguf");
  const { checks } = await checkArchitecture(toy("nothing"), { model });
  expect(checks[0]?.message).toContain('its model is of the architecture "mamba2", not "toy"');
});

test("a name that no check has is refused", async () => {
  const { message } = await refusal(checkArchitecture(toy("nothing"), { only: ["rollbacks"] }));
  expect(message).toContain('only: there is no check "rollbacks"; there are "declaration", ');
});

test("states in f16 are compared as such", async () => {
  const { checks } = await checkArchitecture(halves);
  expect(checks.filter(({ outcome }) => outcome === "failed")).toEqual([]);
});

test("a model for poisoned checks is loaded with poison, and the environment is as before", async () => {
  using subject = new Subject(toy("nothing"), {});
  const before = process.env["STRATA_POISON"];
  await using model = await subject.load({ poison: true });
  const { config } = Reflect.get(model, "engine") as { config: { flags: number } };
  expect(config.flags & engineFlags.poison).toBe(engineFlags.poison);
  expect(process.env["STRATA_POISON"]).toBe(before as string);
});

describe("a reference", () => {
  const model = { path: "", config: { vocabulary: 2, contextLength: 9 }, weights: new Map() };

  test("is a function, arrays in any form, or a folder", async () => {
    const expected = [{ tokens: [4, 5], rows: rows([1, 2], [3, 4]) }];
    const nested = [
      {
        tokens: [4, 5],
        logits: [
          [1, 2],
          [3, 4],
        ],
      },
    ];
    expect(await readReference(nested, [], model)).toEqual(expected);
    expect(await readReference([{ tokens: [4, 5], logits: Float32Array.of(1, 2, 3, 4) }], [], model)).toEqual(expected);
    expect(await readReference(() => [1, 2, 3, 4], [[4, 5]], model)).toEqual(expected);
    const folder = join(root, "test/fixtures/mamba2");
    using file = openModelFile(join(folder, "model.gguf"));
    const vocabulary = file.metadata.strings("tokenizer.ggml.tokens").length;
    const read = await readReference(folder, [], { ...model, config: { ...model.config, vocabulary } });
    expect(read.every(({ tokens, rows: own }) => tokens.length === own.length)).toBe(true);
  });

  test("that does not fit is an error that says so", async () => {
    const short = [{ tokens: [4, 5], logits: [1, 2, 3] }];
    expect((await refusal(readReference(short, [], model))).message).toContain(
      "3 logits for sequence 0; 2 tokens of 2",
    );
    const nothing = (() => undefined) as unknown as () => number[];
    expect((await refusal(readReference(nothing, [[4, 5]], model))).message).toContain(
      "the reference gave undefined for",
    );
    expect((await refusal(readReference("no-such-folder", [], model))).code).toBe("io");
    using folder = new Folder();
    const json = folder.write("reference.json", "{}");
    expect((await refusal(readReference(json, [], model))).message).toContain('expected {"tokens"');
  });
});
