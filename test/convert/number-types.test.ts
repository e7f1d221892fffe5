import { dlopen, ptr } from "bun:ffi";
import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { decodeNumbers, encodeNumbers } from "../../lib/convert/number-types.ts";
import { checkout } from "../../lib/setup/paths.mjs";
import { randomOf } from "../model/help.ts";

/** ggml as the peer has it, built by others. */
const ggml = dlopen(join(checkout, "node_modules/@node-llama-cpp/linux-x64/bins/linux-x64/libggml-base.so"), {
  quantize_row_q8_0_ref: { args: ["ptr", "ptr", "i64"], returns: "void" },
  ggml_fp32_to_fp16_row: { args: ["ptr", "ptr", "i64"], returns: "void" },
  ggml_fp32_to_bf16_row_ref: { args: ["ptr", "ptr", "i64"], returns: "void" },
}).symbols;

const count = 32 * 4096;

/** Numbers of all sizes, halves between steps, zeros of both signs, and numbers below the smallest normal one. */
function variedNumbers(largest: number): Float32Array<ArrayBuffer> {
  const random = randomOf(11);
  return Float32Array.from({ length: count }, (_, i) => {
    const block = Math.floor(i / 32);
    const sign = random() < 0.5 ? -1 : 1;
    if (block % 16 === 0) return 0 * sign;
    if (block % 16 === 1) return (sign * (2 * Math.floor(random() * 127) + (i % 32 === 0 ? 254 : 1))) / 254;
    if (block % 16 === 2) return sign * random() * 2 ** -126;
    if (block % 16 === 3) return sign * (1 + Math.floor(random() * 64) * 2 ** -11);
    return Math.min(largest, Math.max(-largest, sign * random() * 2 ** (40 * random() - 25)));
  });
}

describe("what ggml's reference makes of the same numbers", () => {
  test("q8_0", () => {
    const values = variedNumbers(60000);
    const expected = new Uint8Array((count / 32) * 34);
    ggml.quantize_row_q8_0_ref(ptr(values), ptr(expected), count);
    expect(new Set(expected).size).toBe(256);
    expect(Buffer.compare(encodeNumbers("q8_0", values, "t"), expected)).toBe(0);
  });

  test("f16", () => {
    const values = variedNumbers(60000);
    values.set([65504, 65519.99609375, -65519, Infinity, -Infinity], 40);
    const expected = new Uint8Array(2 * count);
    ggml.ggml_fp32_to_fp16_row(ptr(values), ptr(expected), count);
    expect(Buffer.compare(encodeNumbers("f16", values, "t"), expected)).toBe(0);
  });

  test("bf16, infinities and NaN too", () => {
    const values = variedNumbers(1e38);
    values.set([Infinity, -Infinity, NaN, 3.4e38, -3.4e38], 7);
    const expected = new Uint8Array(2 * count);
    ggml.ggml_fp32_to_bf16_row_ref(ptr(values), ptr(expected), count);
    expect(Buffer.compare(encodeNumbers("bf16", values, "t"), expected)).toBe(0);
  });
});

test.each([
  ["F32", [1.5, -2, 2 ** -140, 0.1], (x: readonly number[]) => Float32Array.from(x)],
  ["F16", [1.5, -2, 2 ** -24, 65504], (x: readonly number[]) => Float16Array.from(x)],
  ["F64", [1.5, -2, 0.1, 1e-30], (x: readonly number[]) => Float64Array.from(x)],
  [
    "BF16",
    [1.5, -2, 2 ** -130, 3e38],
    (x: readonly number[]) => {
      return Uint16Array.from(new Uint32Array(Float32Array.from(x).buffer), (word) => word >>> 16);
    },
  ],
] as const)("reads %s", (type, values, held) => {
  const array = held(values);
  const read = decodeNumbers(type, new Uint8Array(array.buffer));
  if (type === "BF16")
    for (const [i, value] of values.entries()) expect(Math.abs((read[i] ?? 0) / value - 1)).toBeLessThan(0.01);
  else expect(read).toEqual(Float32Array.from(array as Float64Array));
});

test.each([
  ["f16", [65520], "has the number 65520, which f16 cannot hold; use the type bf16 or f32"],
  ["q8_0", [NaN], "has NaN in it, which q8_0 cannot hold; use the type f32"],
  ["q8_0", [-Infinity], "has -Infinity in it"],
  ["q8_0", [1e38], "which f16 cannot hold"],
] as const)("refuses for %s what it cannot hold: %p", (type, [value], message) => {
  const values = new Float32Array(32);
  values[5] = value;
  expect(() => encodeNumbers(type, values, "some.weight")).toThrow(message);
  expect(() => encodeNumbers(type, values, "some.weight")).toThrow('"some.weight"');
});
