/** Results lie where others lay that nobody reads any more: never so that an operation reads what it has written. */
import { expect, setDefaultTimeout, test } from "bun:test";
import { loadModel, type Architecture, type Graph, type Tensor } from "ggstrata";
import { llama } from "../../plugins/llama.ts";
import { Gguf } from "../model/gguf.ts";
import { fixturePath, someTokens } from "../model/help.ts";
import { nmse } from "../plugins/reference.ts";
import { range, Tensors } from "../plugins/scalar.ts";

setDefaultTimeout(60_000);

/** Tokens in a step; a row has as many numbers, so that rows and columns can change places. */
const width = 64;
const weights = new Tensors(Gguf.read(fixturePath("llama")));

/** The model whose hidden state is `build` of the tokens' embeddings, without layers. */
function plugin(build: (g: Graph, x: Tensor) => Tensor): Architecture {
  return {
    apiVersion: 1,
    names: ["llama"],
    replaces: true,
    read(metadata) {
      const read = llama.read(metadata);
      return {
        ...read,
        memory: read.memory.map(() => ({})),
        graph: (g, all) => {
          const { embedding } = all as { embedding: never };
          const x = g.getRows(embedding, g.tokens());
          return g.mulMat(embedding, g.selectOutputs(g.rows === width ? build(g, x) : x));
        },
      };
    },
  };
}

type Rows = readonly (readonly number[])[];
const at = (x: Rows, t: number, i: number) => x[t]?.[i] as number;

/** Each with what it gives at row `t`, column `i`. */
const graphs: Readonly<
  Record<string, readonly [(g: Graph, x: Tensor) => Tensor, (x: Rows, t: number, i: number) => number]>
> = {
  "the first row taken from all": [(g, x) => g.sub(x, g.view(x, [width, 1])), (x, t, i) => at(x, t, i) - at(x, 0, i)],
  "a row in the middle added to all": [
    (g, x) => g.add(x, g.view(x, [width, 1], 4 * width * 20)),
    (x, t, i) => at(x, t, i) + at(x, 20, i),
  ],
  "all divided by a column": [
    (g, x) => g.div(x, g.view(x, [1, width], 0, [4 * width])),
    (x, t, i) => at(x, t, i) / at(x, t, 0),
  ],
  "rows and columns added": [(g, x) => g.add(x, g.transpose(x)), (x, t, i) => at(x, t, i) + at(x, i, t)],
  "dimensions exchanged, on either side": [
    (g, x) => {
      const own = g.scale(g.reshape(x, width, 8, 8), 0.5);
      const product = g.mul(own, g.permute(own, 0, 2, 1, 3));
      return g.reshape(g.sub(g.permute(product, 0, 2, 1, 3), product), width, width);
    },
    // Symmetric, so that nothing is left; computed over itself, it would not be.
    () => 0,
  ],
  "a view of a view": [
    (g, x) => g.sub(x, g.reshape(g.view(g.reshape(x, 8, 8 * width), [width / 8, 8]), width, 1)),
    (x, t, i) => at(x, t, i) - at(x, 0, i),
  ],
};

test.each(Object.keys(graphs))("%s, by any number of threads", async (name) => {
  const [build, plain] = graphs[name] as (typeof graphs)[string];
  const tokens = someTokens(width, 5);
  const x = tokens.map((token) => weights.row("token_embd.weight", token));
  const expected = range(width).flatMap((t) =>
    weights.product(
      "token_embd.weight",
      range(width).map((i) => plain(x, t, i)),
    ),
  );
  for (const threads of [1, 2, 5]) {
    const options = { plugins: [plugin(build)], threads, context: 128, batch: width };
    await using model = await loadModel(fixturePath("llama"), options);
    const actual = new Float32Array(expected.length);
    for await (const { position, logits } of model.logits(tokens, { chunk: width })) {
      actual.set(logits, position * model.vocabularySize);
    }
    if (expected.every((value) => value === 0)) expect(actual.every((value) => value === 0)).toBe(true);
    else expect(nmse(actual, Float32Array.from(expected))).toBeLessThanOrEqual(1e-10);
  }
});
