import { writeFileSync } from "node:fs";

/** A value for a file's metadata: a number is written as a 32-bit one. */
export type HeaderValue = string | boolean | number | readonly string[] | Float32Array | Int32Array;

/** Writes a GGUF file of metadata alone, which is enough for its tokenizer, libllama's too. */
export function writeVocabularyFile(file: string, values: ReadonlyMap<string, HeaderValue>): void {
  const parts: Buffer[] = [Buffer.from("GGUF"), uint32(3), uint64(0), uint64(values.size)];
  for (const [key, value] of values) parts.push(string(key), ...typed(value));
  writeFileSync(file, Buffer.concat(parts));
}

function typed(value: HeaderValue): Buffer[] {
  if (typeof value === "string") return [uint32(8), string(value)];
  if (typeof value === "boolean") return [uint32(7), Buffer.of(value ? 1 : 0)];
  if (typeof value === "number") return [uint32(4), uint32(value)];
  const isFloat = value instanceof Float32Array;
  if (isFloat || value instanceof Int32Array) {
    return [uint32(9), uint32(isFloat ? 6 : 5), uint64(value.length), Buffer.from(value.buffer)];
  }
  return [uint32(9), uint32(8), uint64(value.length), ...value.map(string)];
}

function string(text: string): Buffer {
  const bytes = Buffer.from(text);
  return Buffer.concat([uint64(bytes.length), bytes]);
}

function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}

function uint64(value: number): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(value));
  return bytes;
}
