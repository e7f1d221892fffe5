import { describe, expect, test } from "bun:test";
import { argmax, checkLogits, checkToken, softmax, type CustomSampler } from "../../lib/sample/index.ts";

const odd: [string, Float32Array, string][] = [
  ["NaN", Float32Array.of(1, NaN, 2), "hold NaN at token 1 of 3"],
  ["NaN after +infinity", Float32Array.of(Infinity, 0, NaN), "hold NaN at token 2 of 3"],
  ["+infinity", Float32Array.of(1, 2, Infinity), "hold +infinity at token 2 of 3"],
  ["-infinity everywhere", Float32Array.of(-Infinity, -Infinity), "are all -infinity"],
  ["nothing", new Float32Array(), "are empty"],
];

describe("softmax", () => {
  test("equals its definition", () => {
    const logits = Float32Array.of(1, -2, 0.5, 3, -Infinity);
    for (const temperature of [0.5, 1, 2]) {
      const weights = [...logits].map((logit) => Math.exp(logit / temperature));
      const sum = weights.reduce((a, b) => a + b);
      const probabilities = softmax(logits, temperature);
      for (const [i, weight] of weights.entries()) expect(probabilities[i]).toBeCloseTo(weight / sum, 6);
      expect(probabilities[4]).toBe(0);
    }
    expect(logits).toEqual(Float32Array.of(1, -2, 0.5, 3, -Infinity));
  });

  test("does not overflow", () => {
    expect(softmax(Float32Array.of(3e38, 3e38, -3e38))).toEqual(Float32Array.of(0.5, 0.5, 0));
  });

  test.each([0, -1, NaN, Infinity])("refuses temperature %p", (temperature) => {
    const sentence = `softmax: temperature is ${temperature}; give a finite number above 0`;
    expect(() => softmax(Float32Array.of(1), temperature)).toThrow(sentence);
  });

  test.each(odd)("refuses %s", (_, logits, fault) => {
    expect(() => softmax(logits)).toThrow(`softmax: the logits ${fault}; give at least one finite number`);
  });
});

describe("argmax", () => {
  test("takes the lowest of the best", () => {
    expect(argmax(Float32Array.of(-5))).toBe(0);
    expect(argmax(Float32Array.of(-Infinity, 2, 3, 3))).toBe(2);
    expect(argmax(Float32Array.of(-0, 0))).toBe(0);
  });

  test.each(odd)("refuses %s", (_, logits, fault) => {
    expect(() => argmax(logits)).toThrow(`argmax: the logits ${fault}; give at least one finite number`);
  });
});

describe("checkToken", () => {
  test("returns a token of the vocabulary", () => {
    expect(checkToken(0, 10, 0)).toBe(0);
    expect(checkToken(9, 10, 0)).toBe(9);
  });

  test.each([
    [10, "10"],
    [-1, "-1"],
    [1.5, "1.5"],
    [NaN, "NaN"],
    ["3", "a value of type string"],
    [undefined, "a value of type undefined"],
    [null, "a value of type null"],
  ])("refuses %p", (result, shown) => {
    const sentence = `the custom sampler returned ${shown} at step 4; return a token id from 0 to 9`;
    expect(() => checkToken(result, 10, 4)).toThrow(sentence);
  });
});

describe("checkLogits", () => {
  test("passes what can be sampled", () => {
    expect(() => checkLogits(Float32Array.of(-Infinity, 1), 0)).not.toThrow();
  });

  test.each(odd)("refuses %s, naming the step", (_, logits, fault) => {
    expect(() => checkLogits(logits, 17)).toThrow(`the logits of step 17 ${fault}: the model file is damaged`);
  });
});

test("a custom sampler may be synchronous or not", async () => {
  const greedy: CustomSampler = (logits) => argmax(logits);
  const lastAgain: CustomSampler = async (_, { tokens }) => tokens.at(-1) ?? 0;
  const context = { step: 1, tokens: [5, 6] };
  expect(checkToken(await greedy(Float32Array.of(0, 1), context), 10, 1)).toBe(1);
  expect(checkToken(await lastAgain(Float32Array.of(0, 1), context), 10, 1)).toBe(6);
});
