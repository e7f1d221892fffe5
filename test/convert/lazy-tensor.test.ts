import { expect, test } from "bun:test";
import {
  computed,
  mapped,
  permuteRope,
  reshaped,
  split,
  stacked,
  transposed,
  type LazyTensor,
  type TensorSource,
} from "ggstrata";
import { elementsOf } from "../../lib/convert/lazy-tensor.ts";
import { recipeOf } from "../../lib/convert/recipe.ts";
import { randomOf } from "../model/help.ts";

/** A tensor in memory, whose numbers are their places. */
function counted(name: string, shape: readonly number[], first = 0): LazyTensor {
  const values = Float32Array.from({ length: elementsOf(shape) }, (_, i) => first + i);
  return { name, shape, grain: 1, read: async (start, count) => values.slice(start, start + count) };
}

const sources: Readonly<Record<string, LazyTensor>> = {
  a: counted("a", [12, 5]),
  b: counted("b", [12, 5], 100),
  cube: counted("cube", [3, 4, 6]),
  list: counted("list", [24]),
};

function make(source: TensorSource): LazyTensor {
  const { sources: names, make: recipe } = recipeOf(source);
  return recipe(names.map((name) => sources[name] as LazyTensor));
}

test.each<[string, TensorSource, readonly number[], (read: Float32Array) => void]>([
  [
    "permuteRope",
    permuteRope("a", 2, 4),
    [12, 5],
    (read) => expect(Array.from(read.subarray(4, 16))).toEqual([4, 10, 11, 12, 13, 14, 5, 6, 7, 8, 9, 15]),
  ],
  [
    "permuteRope of a bias",
    permuteRope("list", 4),
    [24],
    (read) => expect(Array.from(read.subarray(6, 12))).toEqual([6, 9, 7, 10, 8, 11]),
  ],
  [
    "transposed",
    transposed("cube"),
    [3, 6, 4],
    (read) => expect(Array.from(read.subarray(24, 30))).toEqual([24, 30, 36, 42, 25, 31]),
  ],
  ["split", split("cube", 1, 2), [3, 2, 6], (read) => expect([read[0], read[11], read[12]]).toEqual([12, 23, 36])],
  [
    "split of the last dimension",
    split("cube", 2, 3, -1),
    [3, 4, 2],
    (read) => expect(Array.from(read.subarray(0, 4))).toEqual([4, 5, 10, 11]),
  ],
  [
    "split of the first dimension",
    split("cube", 2, 3, -3),
    [1, 4, 6],
    (read) => expect([read[0], read[23]]).toEqual([48, 71]),
  ],
  [
    "stacked",
    stacked(2, (i) => (i === 0 ? "b" : "a")),
    [2, 12, 5],
    (read) => expect([read[0], read[60]]).toEqual([100, 0]),
  ],
  [
    "stacked of recipes",
    stacked(2, (i) => transposed(i === 0 ? "b" : "a")),
    [2, 5, 12],
    (read) => expect([read[1], read[61]]).toEqual([105, 5]),
  ],
  ["mapped and reshaped", mapped(reshaped("cube", [72]), (x) => -x), [72], (read) => expect(read[71]).toBe(-71)],
  ["computed", computed([3, 1, 2]), [3], (read) => expect(Array.from(read)).toEqual([3, 1, 2])],
])("%s: a part of it is that part of the whole", async (_, source, shape, check) => {
  const tensor = make(source);
  expect(tensor.shape).toEqual([...shape]);
  const total = elementsOf(shape);
  const whole = await tensor.read(0, total);
  expect(whole.length).toBe(total);
  check(whole);
  const random = randomOf(5);
  for (let round = 0; round < 200; round += 1) {
    const start = Math.floor(random() * total);
    const count = Math.floor(random() * (total - start + 1));
    expect(await tensor.read(start, count)).toEqual(whole.slice(start, start + count));
  }
});

test.each<[TensorSource, string]>([
  [permuteRope("a", 5), 'the tensor "a" of shape (12, 5) cannot be shared by 5 heads'],
  [permuteRope("a", 2, 8), "has 6 rows for each head, and 8 of them cannot be rotated in pairs"],
  [permuteRope("a", 4), "has 3 rows for each head, and 3 of them cannot be rotated in pairs"],
  [transposed("list"), "has no two dimensions to exchange"],
  [split("list", 0, 2), "has no dimension -2 of 2 parts"],
  [split("cube", 0, 3), "has no dimension -2 of 3 parts"],
  [reshaped("cube", [70]), 'the tensor "cube" of shape (3, 4, 6) cannot become (70)'],
  [
    stacked(2, (i) => (i === 0 ? "a" : "cube")),
    'the tensor "cube" of shape (3, 4, 6) has another shape than the first',
  ],
])("what does not fit is an error", (source, message) => {
  expect(() => make(source)).toThrow(message);
});
