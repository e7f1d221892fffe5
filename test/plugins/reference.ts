import { readFileSync } from "node:fs";
import { resolve } from "node:path";

/** A fixture: a tiny model and logits from an implementation that shares nothing with ours. */
export interface Fixture {
  readonly name: string;
  readonly model: string;
  readonly sequences: readonly { readonly tokens: readonly number[]; readonly logits: Float32Array }[];
  readonly greedy: { readonly prompt: readonly number[]; readonly tokens: readonly number[] };
}

interface Reference {
  tokens: number[][];
  greedy: { prompt: number[]; tokens: number[] };
}

export function readFixture(name: string): Fixture {
  const folder = resolve(import.meta.dir, "../fixtures", name);
  const reference = JSON.parse(readFileSync(resolve(folder, "reference.json"), "utf8")) as Reference;
  const logits = readSafetensors(resolve(folder, "logits.safetensors"));
  return {
    name,
    model: resolve(folder, "model.gguf"),
    sequences: reference.tokens.map((tokens, i) => {
      const expected = logits.get(`logits_${i}`);
      if (expected === undefined) throw new Error(`${name}: logits_${i} is missing`);
      return { tokens, logits: expected };
    }),
    greedy: reference.greedy,
  };
}

/** Float32 tensors of a safetensors file: a header length, a JSON header, the data. */
function readSafetensors(path: string): Map<string, Float32Array> {
  const bytes = readFileSync(path);
  const headerBytes = Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.toString("utf8", 8, 8 + headerBytes)) as Record<string, { data_offsets?: number[] }>;
  const tensors = new Map<string, Float32Array>();
  for (const [name, { data_offsets: offsets }] of Object.entries(header)) {
    const [start = 0, end = 0] = offsets ?? [];
    if (end > start)
      tensors.set(
        name,
        new Float32Array(
          bytes.buffer.slice(bytes.byteOffset + 8 + headerBytes + start, bytes.byteOffset + 8 + headerBytes + end),
        ),
      );
  }
  return tensors;
}

/** Normalised mean squared error: sum((actual - expected)^2) / sum(expected^2). */
export function nmse(actual: Float32Array, expected: Float32Array): number {
  if (actual.length !== expected.length) throw new Error(`${actual.length} numbers against ${expected.length}`);
  let error = 0;
  let power = 0;
  for (let i = 0; i < expected.length; i += 1) {
    const e = expected[i] as number;
    error += ((actual[i] as number) - e) ** 2;
    power += e ** 2;
  }
  return error / power;
}
