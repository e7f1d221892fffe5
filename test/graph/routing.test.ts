/** Which experts the routing blocks choose, and what comes of them, against the same written out number by number. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import {
  defineArchitecture,
  loadModel,
  routedExperts,
  routeToExperts,
  table,
  type Graph,
  type Operand,
  type RoutingOptions,
  type Tensor,
} from "ggstrata";
import { Gguf } from "../model/gguf.ts";
import { fixturePath, refusal, someTokens } from "../model/help.ts";
import { nmse } from "../plugins/reference.ts";

setDefaultTimeout(60_000);

/** The llama fixture's embedding is input and weights in one. */
const [d, vocabulary, width, experts] = [64, 384, 6, 12];
const places = { router: 0, routerBias: 1000, gate: 2000, up: 8000, down: 14000 };
/** Multiplies the router, so that no sigmoid is 1 when rounded, and the bias, so that it decides. */
const [routerScale, biasScale] = [0.5, 3];

interface Case extends RoutingOptions {
  readonly isBiased: boolean;
  readonly isGated: boolean;
}

function plugin(options: Case) {
  const { isBiased, isGated } = options;
  return defineArchitecture({
    apiVersion: 1,
    names: ["llama"],
    replaces: true,
    config: () => ({ vocabulary, contextLength: 256 }),
    memory: () => [{}],
    weights: () => ({ embedding: table("token_embd.weight", [d, vocabulary]) }),
    ignores: () => ["*"],
    graph: (g, _, { embedding }) => {
      const part = (from: number, ...shape: readonly number[]) => partOf(g, embedding, from, shape);
      const x = g.getRows(embedding, g.tokens());
      const route = routeToExperts(
        g,
        x,
        {
          router: g.scale(part(places.router, d, experts), routerScale),
          routerBias: isBiased ? g.scale(part(places.routerBias, experts), biasScale) : undefined,
        },
        options,
      );
      const y = routedExperts(
        g,
        x,
        {
          gate: isGated ? part(places.gate, d, width, experts) : undefined,
          up: part(places.up, d, width, experts),
          down: part(places.down, width, d, experts),
        },
        route,
      );
      return g.pad(g.selectOutputs(y), vocabulary - d);
    },
  });
}

function partOf(g: Graph, embedding: Operand, from: number, shape: readonly number[]): Tensor {
  const count = shape.reduce((product, n) => product * n, 1);
  return g.reshape(g.view(embedding, [count], 4 * from), ...shape);
}

const sum = (values: readonly number[]) => values.reduce((a, b) => a + b, 0);
const sigmoid = (x: number) => 1 / (1 + Math.exp(-x));

/** One token: its row of the table gives the mixture. */
function mixture(numbers: Float32Array, token: number, options: Case): number[] {
  const at = (i: number) => numbers[i] as number;
  const x = Array.from({ length: d }, (_, i) => at(token * d + i));
  const dot = (from: number) => sum(x.map((value, i) => value * at(from + i)));
  const all = Array.from({ length: experts }, (_, e) => e);
  const logits = all.map((e) => routerScale * dot(places.router + e * d));
  const exponents = logits.map(Math.exp);
  const scores =
    options.scores === "sigmoid"
      ? logits.map(sigmoid)
      : options.scores === "softmax"
        ? exponents.map((value) => value / sum(exponents))
        : logits;
  const forChoice = scores.map((s, e) => s + (options.isBiased ? biasScale * at(places.routerBias + e) : 0));
  const best = (candidates: readonly number[], by: (i: number) => number, count: number) =>
    candidates.toSorted((a, b) => by(b) - by(a)).slice(0, count);

  const { count, used } = options.groups ?? { count: 1, used: 1 };
  const size = experts / count;
  const members = (group: number) => all.slice(group * size, (group + 1) * size);
  const rank = (group: number) =>
    sum(best(members(group), (e) => forChoice[e] as number, 2).map((e) => forChoice[e] as number));
  const groups = best(
    Array.from({ length: count }, (_, i) => i),
    rank,
    used,
  );
  const chosen = best(groups.flatMap(members), (e) => forChoice[e] as number, options.used);

  const raw = chosen.map((e) => (options.scores === "chosenSoftmax" ? exponents[e] : scores[e]) as number);
  const whole = options.scores === "chosenSoftmax" ? sum(raw) : 1;
  const kept = raw.map((value) => value / whole);
  const divisor = options.normalize === undefined ? 1 : sum(kept) + options.normalize;
  const y = new Array<number>(d).fill(0);
  for (const [i, e] of chosen.entries()) {
    const weight = ((kept[i] as number) / divisor) * (options.scale ?? 1);
    for (let j = 0; j < width; j += 1) {
      const up = dot(places.up + (e * width + j) * d);
      const gate = dot(places.gate + (e * width + j) * d);
      const hidden = options.isGated ? gate * sigmoid(gate) * up : Math.max(0, up) ** 2;
      for (let o = 0; o < d; o += 1)
        y[o] = (y[o] as number) + weight * hidden * at(places.down + (e * d + o) * width + j);
    }
  }
  return y;
}

const plain = { experts, used: 3, scores: "softmax", isBiased: false, isGated: true } as const;
const cases: readonly (readonly [string, Case])[] = [
  ["softmax over all", plain],
  ["softmax over all, normalised", { ...plain, normalize: 0 }],
  ["softmax over the chosen, one expert", { ...plain, used: 1, scores: "chosenSoftmax" }],
  ["softmax over the chosen, all experts", { ...plain, used: experts, scores: "chosenSoftmax", scale: 0.5 }],
  ["sigmoid, biased", { ...plain, scores: "sigmoid", isBiased: true }],
  [
    "sigmoid, biased, normalised and scaled, no gate",
    { ...plain, scores: "sigmoid", isBiased: true, isGated: false, normalize: 0.1, scale: 2.5 },
  ],
  [
    "two of four groups",
    { ...plain, scores: "sigmoid", isBiased: true, groups: { count: 4, used: 2 }, normalize: 1e-20 },
  ],
  ["groups filled by what is used", { ...plain, used: 6, scores: "sigmoid", groups: { count: 6, used: 3 } }],
  ["groups of one", { ...plain, scores: "sigmoid", isBiased: true, groups: { count: 12, used: 4 } }],
  ["all groups", { ...plain, scores: "sigmoid", groups: { count: 3, used: 3 } }],
];

describe("experts by", () => {
  const data = Gguf.read(fixturePath("llama")).tensor("token_embd.weight").data;
  const numbers = new Float32Array(Uint8Array.from(data).buffer, 0, d * vocabulary);

  test.each(cases)("%s", async (_, options) => {
    const tokens = someTokens(40, 5);
    const expected = tokens.map((token) => mixture(numbers, token, options));
    await using model = await loadModel(fixturePath("llama"), { plugins: [plugin(options)], threads: 2, context: 64 });
    for (const chunk of [64, 1]) {
      const actual: number[] = [];
      for await (const { logits } of model.logits(tokens, { chunk })) actual.push(...logits.slice(0, d));
      expect(nmse(Float32Array.from(actual), Float32Array.from(expected.flat()))).toBeLessThanOrEqual(1e-9);
    }
  });

  test.each([
    [{ used: 0 }, "a token cannot use 0 of 12 experts"],
    [{ used: 13 }, "a token cannot use 13 of 12 experts"],
    [{ groups: { count: 5, used: 1 } }, "12 experts cannot stand in 5 groups"],
    [{ groups: { count: 4, used: 5 } }, "a token cannot use 5 of 4 groups"],
    [{ used: 4, groups: { count: 4, used: 1 } }, "a token cannot use 4 experts of 1 groups, which hold 3"],
  ])("%p is refused", async (change, sentence) => {
    const error = await refusal(loadModel(fixturePath("llama"), { plugins: [plugin({ ...plain, ...change })] }));
    expect(error.message).toContain(sentence);
  });
});
