import { StrataError } from "../errors.ts";
import type { WrittenType } from "../gguf/index.ts";

/** Number types of a safetensors file that can be read. */
export const readableTypes = { F64: 8, F32: 4, F16: 2, BF16: 2 } as const;

export type ReadableType = keyof typeof readableTypes;

/** Bytes of a file as numbers; f64 is rounded to f32. The bytes must start at a multiple of 8. */
export function decodeNumbers(type: ReadableType, bytes: Uint8Array<ArrayBuffer>): Float32Array<ArrayBuffer> {
  const { buffer, byteOffset } = bytes;
  const count = bytes.length / readableTypes[type];
  if (type === "F32") return new Float32Array(buffer, byteOffset, count);
  if (type === "F64") return Float32Array.from(new Float64Array(buffer, byteOffset, count));
  if (type === "F16") return Float32Array.from(new Float16Array(buffer, byteOffset, count));
  const halves = new Uint16Array(buffer, byteOffset, count);
  const words = new Uint32Array(count);
  for (let i = 0; i < count; i += 1) words[i] = (halves[i] as number) << 16;
  return new Float32Array(words.buffer);
}

/**
 * Numbers as bytes of a tensor. f16 and bf16 are rounded to the nearest, halves to even; q8_0 is exactly what ggml's
 * reference makes of them.
 * @param name the tensor, for errors
 * @throws StrataError `unsupported` where a number does not fit the type
 */
export function encodeNumbers(type: WrittenType, values: Float32Array<ArrayBuffer>, name: string): Uint8Array {
  if (type === "f32") return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
  if (type === "f16") return encodeF16(values, name);
  return type === "bf16" ? encodeBf16(values) : encodeQ8(values, name);
}

/** The smallest magnitude that is rounded to an infinity. */
const beyond = 65520;

function encodeF16(values: Float32Array, name: string): Uint8Array {
  for (let i = 0; i < values.length; i += 1) {
    const magnitude = Math.abs(values[i] as number);
    if (magnitude >= beyond && magnitude < Infinity) throw beyondF16(name, values[i] as number);
  }
  return new Uint8Array(new Float16Array(values).buffer);
}

function beyondF16(name: string, value: number): StrataError {
  const sentence = `the tensor "${name}" has the number ${value}, which f16 cannot hold; use the type bf16 or f32`;
  return new StrataError("unsupported", sentence);
}

function encodeBf16(values: Float32Array<ArrayBuffer>): Uint8Array {
  const words = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const halves = new Uint16Array(words.length);
  for (let i = 0; i < words.length; i += 1) {
    const word = words[i] as number;
    const isNaN = (word & 0x7fffffff) > 0x7f800000;
    // A NaN keeps its sign and stays one; rounding could carry it into an infinity.
    halves[i] = isNaN ? (word >>> 16) | 64 : (word + 0x7fff + ((word >>> 16) & 1)) >>> 16;
  }
  return new Uint8Array(halves.buffer);
}

const block = 32;

/** Blocks of 32: a scale, the largest magnitude / 127 as f16, and each number over it, halves away from zero. */
function encodeQ8(values: Float32Array, name: string): Uint8Array {
  const blocks = values.length / block;
  const bytes = new Uint8Array(blocks * (2 + block));
  const scale = new Float16Array(1);
  const scaleBytes = new Uint8Array(scale.buffer);
  for (let b = 0; b < blocks; b += 1) {
    let largest = 0;
    for (let i = b * block; i < (b + 1) * block; i += 1) {
      const magnitude = Math.abs(values[i] as number);
      if (!(magnitude < Infinity)) throw notFinite(name, values[i] as number);
      if (magnitude > largest) largest = magnitude;
    }
    // ggml computes in f32: a quotient or product of two f32, rounded once more from f64, is the same.
    const d = Math.fround(largest / 127);
    const inverse = d === 0 ? 0 : Math.fround(1 / d);
    scale[0] = d;
    if (scale[0] === Infinity) throw beyondF16(name, largest);
    bytes.set(scaleBytes, b * (2 + block));
    for (let i = 0; i < block; i += 1) {
      const scaled = Math.fround((values[b * block + i] as number) * inverse);
      const rounded = Math.floor(Math.abs(scaled) + 0.5);
      bytes[b * (2 + block) + 2 + i] = scaled < 0 ? -rounded : rounded;
    }
  }
  return bytes;
}

function notFinite(name: string, value: number): StrataError {
  return new StrataError(
    "unsupported",
    `the tensor "${name}" has ${value} in it, which q8_0 cannot hold; use the type f32`,
  );
}
