/** Positions move where keys can be turned on as they were turned, and are refused where they cannot. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { attention, loadModel, type Architecture, type Graph, type Model, type Tensor } from "ggstrata";
import { llama } from "../../plugins/llama.ts";
import { fixturePath, refusal, someTokens } from "../model/help.ts";
import { nmse } from "../plugins/reference.ts";

setDefaultTimeout(60_000);

interface Weights {
  readonly embedding: never;
  readonly norm: never;
}

/** One layer of attention alone, with the embeddings as queries, keys and values. */
function load(turn: (g: Graph, keys: Tensor, norm: never) => Tensor): Promise<Model> {
  const plugin: Architecture = {
    apiVersion: 1,
    names: ["llama"],
    replaces: true,
    read(metadata) {
      const read = llama.read(metadata);
      const none = read.memory.slice(1).map(() => ({}));
      return {
        ...read,
        memory: [{ attn: attention({ heads: 4, keyDim: 16, valueDim: 16 }) }, ...none],
        graph: (g, all, memories) => {
          const { embedding, norm } = all as Weights;
          const memory = memories[0]?.["attn"];
          if (memory === undefined) throw new Error("declared above");
          const x = g.reshape(g.getRows(embedding, g.tokens()), 16, 4, g.rows);
          const keys = turn(g, x, norm);
          const attended = g.attend(memory, { queries: keys, keys, values: x });
          return g.mulMat(embedding, g.selectOutputs(g.reshape(attended, 64, g.rows)));
        },
      };
    },
  };
  return loadModel(fixturePath("llama"), { plugins: [plugin], threads: 2, context: 256, sequences: 2, kv: "f32" });
}

const options = { mode: "neox", base: 100 } as const;
const turns = {
  plain: (g: Graph, keys: Tensor) => g.rope(keys, options),
  "by a weight": (g: Graph, keys: Tensor, norm: never) => g.rope(keys, { ...options, factors: norm }),
  "by a part of a weight": (g: Graph, keys: Tensor, norm: never) =>
    g.rope(keys, { ...options, factors: g.view(norm, [8], 32) }),
  "by factors that the graph computes": (g: Graph, keys: Tensor, norm: never) =>
    g.rope(keys, { ...options, factors: g.scale(norm, 0.5) }),
  twice: (g: Graph, keys: Tensor) => g.rope(g.rope(keys, options), options),
  "twice, with something between": (g: Graph, keys: Tensor) =>
    g.rope(g.rmsNorm(g.rope(keys, { ...options, base: 7 }), 1e-5), options),
} as const;

describe("keys turned", () => {
  test.each(["plain", "by a weight", "by a part of a weight"] as const)("%s are moved", async (name) => {
    await using model = await load(turns[name]);
    const tokens = someTokens(40, 4);
    using moved = model.sequence();
    await moved.feed(tokens);
    moved.remove(0, 9);
    await moved.shift(9, -1, -9);
    using straight = model.sequence();
    await straight.feed(tokens.slice(9));
    const rest = someTokens(5, 5);
    const [actual, expected] = [await moved.feed(rest), await straight.feed(rest)];
    expect(nmse(actual.logits[0] as Float32Array, expected.logits[0] as Float32Array)).toBeLessThanOrEqual(1e-10);
  });

  test.each(["by factors that the graph computes", "twice", "twice, with something between"] as const)(
    "%s are not",
    async (name) => {
      await using model = await load(turns[name]);
      const tokens = someTokens(40, 4);
      using sequence = model.sequence();
      await sequence.feed(tokens);
      using other = model.sequence();
      await other.feed(tokens);
      for (const move of [() => sequence.shift(9, -1, 4), () => sequence.divide(0, -1, 2)]) {
        const error = await refusal(move());
        expect(error.code).toBe("refused");
        expect(error.message).toContain("cannot move: layer 0");
      }
      expect(sequence).toMatchObject({ position: 40, minPosition: 0, maxPosition: 39 });
      const rest = someTokens(5, 5);
      const [after, before] = [await sequence.feed(rest), await other.feed(rest)];
      expect(after.logits[0]).toEqual(before.logits[0]);
    },
  );
});
