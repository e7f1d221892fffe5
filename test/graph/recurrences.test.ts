/** Every recurrent operation against the same written out number by number, in pieces, side by side, and taken back. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { defineArchitecture, loadModel, recurrent, table, type Model, type Sequence } from "ggstrata";
import { Gguf } from "../model/gguf.ts";
import { fixturePath, someTokens } from "../model/help.ts";
import { nmse } from "../plugins/reference.ts";
import { cases, materialWidth, placeOf, type Case } from "./recurrences.cases.ts";

setDefaultTimeout(60_000);

const vocabulary = 384;
const rollback = 4;
const path = fixturePath("llama");

function floats(name: string): Float32Array {
  const { data } = Gguf.read(path).tensor(name);
  return new Float32Array(Uint8Array.from(data).buffer);
}

const tables = { first: floats("token_embd.weight"), second: floats("output.weight") };

function material(token: number): Float64Array {
  const half = materialWidth / 2;
  const row = (from: Float32Array) => from.subarray(token * half, (token + 1) * half);
  return Float64Array.from([...row(tables.first), ...row(tables.second).map((value) => 4 * value)]);
}

/** A model of one layer, whose logits are the result of the case and zeros. */
function architecture(of: Case, inputs: number) {
  return defineArchitecture({
    apiVersion: 1,
    names: ["llama"],
    replaces: true,
    config: () => ({ vocabulary, contextLength: 256 }),
    memory: () => [{ memory: recurrent(of.states, { inputs }) }],
    weights: () => ({
      first: table("token_embd.weight", [64, vocabulary]),
      second: table("output.weight", [64, vocabulary]),
    }),
    ignores: () => ["*"],
    graph: (g, _, weights, handles) => {
      const result = g.selectOutputs(of.build(placeOf(g, weights, handles)));
      return g.pad(result, vocabulary - result.shape[0]);
    },
  });
}

/** The results of all tokens, fed in pieces of these lengths; the last one is repeated. */
async function feed(
  sequence: Sequence,
  tokens: readonly number[],
  ...pieces: readonly number[]
): Promise<Float32Array[]> {
  const all: Float32Array[] = [];
  for (let at = 0, i = 0; at < tokens.length; i += 1) {
    const length = pieces[Math.min(i, pieces.length - 1)] ?? tokens.length;
    const { logits } = await sequence.feed(tokens.slice(at, at + length), { logits: "all" });
    all.push(...logits);
    at += length;
  }
  return all;
}

function flat(rows: readonly ArrayLike<number>[]): Float32Array {
  return Float32Array.from(rows.flatMap((row) => Array.from(row)));
}

const variants = Object.entries(cases).flatMap(([name, of]) => [
  { name: `${name}, states kept`, of, inputs: 0, method: "snapshot" },
  { name: `${name}, logged`, of, inputs: of.inputs, method: of.keepsStates === true ? "snapshot" : "replay" },
]);

describe.each(variants)("$name", ({ of, inputs, method }) => {
  let model: Model;
  const tokens = someTokens(40);

  beforeAll(async () => {
    model = await loadModel(path, {
      plugins: [architecture(of, inputs)],
      ...{ context: 256, sequences: 4, batch: 64, threads: 2, rollback },
    });
  });
  afterAll(() => model.dispose());

  /** What tokens give that are fed alone and at once. */
  async function alone(fed: readonly number[]): Promise<Float32Array[]> {
    using sequence = model.sequence();
    return feed(sequence, fed);
  }

  test("is what its definition gives", async () => {
    expect(model.memory.layers[0]?.memories[0]?.rollback as string).toBe(method);
    const scalar = of.scalar(tables.first);
    const expected = tokens.map((token) => scalar(material(token)));
    const width = expected[0]?.length ?? 0;
    const actual = (await alone(tokens)).map((row) => row.subarray(0, width));
    expect(Math.hypot(...flat(expected))).toBeGreaterThan(1);
    expect(nmse(flat(actual), flat(expected))).toBeLessThan(1e-10);
  });

  test("is the same in pieces of any size", async () => {
    const whole = await alone(tokens);
    for (const pieces of [[1], [3], [7, 1, 1, 16, 5], [17], [39]]) {
      using sequence = model.sequence();
      expect(await feed(sequence, tokens, ...pieces)).toEqual(whole);
    }
  });

  test("is the same for sequences that share a step", async () => {
    const others = [someTokens(9, 2), someTokens(1, 3), someTokens(20, 4)];
    const expected = await Promise.all(others.map(alone));
    const sequences = others.map(() => model.sequence());
    const fed = sequences.map((sequence, i) => ({ sequence, tokens: others[i] ?? [], logits: "all" as const }));
    expect((await model.feed(fed)).map(({ logits }) => [...logits])).toEqual(expected);
    for (const sequence of sequences) sequence.dispose();
  });

  test("goes back exactly after decoding, after a prefill, and twice in a row", async () => {
    const more = someTokens(12, 5);
    for (const pieces of [[1], [40], [20, 1], [3], [30, 10]]) {
      for (const counts of [[1], [rollback], [2, 1], [1, 1, 2]]) {
        using sequence = model.sequence();
        await feed(sequence, tokens, ...pieces);
        for (const count of counts) sequence.rollback(count);
        const kept = tokens.slice(0, sequence.position);
        const expected = (await alone([...kept, ...more])).slice(kept.length);
        expect(await feed(sequence, more, 1, 1, 5)).toEqual(expected);
        // And again, over what was computed since.
        sequence.rollback(rollback);
        const rest = more.slice(0, -rollback);
        const again = (await alone([...kept, ...rest, ...more])).slice(kept.length + rest.length);
        expect(await feed(sequence, more, 3)).toEqual(again);
      }
    }
  });
});

describe("what an author can get wrong is refused", () => {
  async function buildError(of: Case, inputs = of.inputs): Promise<string> {
    try {
      await using _ = await loadModel(path, { plugins: [architecture(of, inputs)], context: 64, rollback });
    } catch (error) {
      return (error as Error).message;
    }
    throw new Error("the model loaded");
  }
  const named = (name: string): Case => {
    const found = cases[name];
    if (found === undefined) throw new Error(`there is no case ${name}`);
    return found;
  };

  test("a wrong number of inputs, with the right one", async () => {
    const of = named("previous, wkv6");
    expect(await buildError(of, of.inputs - 1)).toContain(
      `declared with ${of.inputs - 1} inputs a token, and its operations log ${of.inputs}`,
    );
  });

  test("two operations on one state", async () => {
    const twice: Case = {
      ...named("previous"),
      build: ({ g, memory, part }) => {
        const once = g.previous(memory, part(0, 64), { state: "last" });
        return g.previous(memory, once, { state: "last" });
      },
    };
    expect(await buildError(twice)).toContain(
      'the state "last" of the memory "memory" has been written by another operation',
    );
  });

  test("a decay that is computed in the graph, where states are computed again", async () => {
    const of = named("convolve, scan");
    const computed: Case = {
      ...of,
      build: (place) =>
        of.build({ ...place, weight: (from, ...shape) => place.g.scale(place.weight(from, ...shape), 2) }),
    };
    expect(await buildError(computed)).toContain("the operand weight is computed in the graph");
  });

  test("heads that do not lie together", async () => {
    const of = named("linearRecurrence, deltaNet that reads it");
    const apart: Case = {
      ...of,
      build: ({ g, memory, part }) => {
        const half = g.view(part(0, 16), [4, 2, g.rows], 0, [32, 512]);
        const beta = g.cont(part(0, 2));
        const shape = { keyDim: 4, valueDim: 4, keyHeads: 2, valueHeads: 2 };
        return g.deltaNet(memory, { state: "net", ...shape, q: half, k: half, v: half, g: beta, beta });
      },
    };
    expect(await buildError(apart)).toContain(
      "the queries must be [8, 1], or [4, 2, 1] with the heads of a token next to each other",
    );
  });
});
