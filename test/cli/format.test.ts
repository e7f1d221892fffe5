import { expect, test } from "bun:test";
import { counted, formatBytes, formatNumber, formatTable, median, rounded } from "../../lib/cli/format.ts";

test.each<[number, string]>([
  [0, "0 bytes"],
  [999, "999 bytes"],
  [1000, "1.00 kB"],
  [999_900, "1000 kB"],
  [8_069_248, "8.07 MB"],
  [543_744, "544 kB"],
  [1.5e12, "1.50 TB"],
  [1.5e16, "15000 TB"],
])("%p bytes are %p", (bytes, text) => {
  expect(formatBytes(bytes)).toBe(text);
});

test.each<[number, string]>([
  [0.12345, "0.123"],
  [12.345, "12.3"],
  [1234.5, "1235"],
  [Infinity, "-"],
])("%p is %p to a person", (value, text) => {
  expect(formatNumber(value)).toBe(text);
});

test.each<[number[], number]>([
  [[3], 3],
  [[3, 1, 2], 2],
  [[4, 1, 3, 2], 2.5],
])("the median of %p is %p", (samples, middle) => {
  expect(median(samples)).toBe(middle);
});

test("a measurement is finite", () => {
  expect([rounded(1.23456), rounded(NaN), rounded(Infinity)]).toEqual([1.235, 0, 0]);
});

test("counts have their nouns", () => {
  expect([counted(0, "token"), counted(1, "token"), counted(2, "token")]).toEqual(["0 tokens", "1 token", "2 tokens"]);
});

test("columns line up", () => {
  const rows = [
    ["a", "1", "x"],
    ["\u8a9e", "100", ""],
  ];
  expect(formatTable(rows, [1])).toBe("a     1  x\n\u8a9e  100\n");
  expect(formatTable([])).toBe("");
});
