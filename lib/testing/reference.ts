/** What logits are compared with: an implementation that shares nothing with the plugin. */
import { existsSync, readFileSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { StrataError } from "../errors.ts";
import type { BaseConfig } from "../model/architecture.ts";
import { isPromise, shown } from "../shown.ts";

/** A text and the logits of each of its tokens: one list after the other, or a list for each. */
export interface ReferenceSequence {
  readonly tokens: readonly number[];
  readonly logits: ArrayLike<number> | readonly ArrayLike<number>[];
}

/** The model that a reference function computes. */
export interface ReferenceModel {
  /** The model file. */
  readonly path: string;
  /** What the plugin reads from it. */
  readonly config: BaseConfig;
  /** The f32 weights of a model that the kit made, by name; empty for a given file. */
  readonly weights: ReadonlyMap<string, { readonly shape: readonly number[]; readonly values: Float32Array }>;
}

/** A plain implementation: the logits of each token, in whatever way is easiest to get right. */
export type ReferenceFunction = (
  tokens: readonly number[],
  model: ReferenceModel,
) => ReferenceSequence["logits"] | Promise<ReferenceSequence["logits"]>;

/**
 * What logits should be: texts with their logits; a function from tokens to logits; or a path. The path is of a folder, or of
 * the `reference.json` in it, with `{"tokens": [[...], ...]}` and beside it `logits.safetensors` with the f32 tensors
 * `logits_0`, `logits_1`, ..., `[tokens, vocabulary]`.
 */
export type Reference = string | ReferenceFunction | readonly ReferenceSequence[];

/** The sequences of a reference, and for each one row of logits a token. */
export async function readReference(
  reference: Reference,
  texts: readonly (readonly number[])[],
  model: ReferenceModel,
): Promise<{ tokens: readonly number[]; rows: Float32Array[] }[]> {
  const sequences: ReferenceSequence[] = [];
  if (typeof reference === "string") sequences.push(...readFolder(reference));
  else if (typeof reference === "function") {
    for (const tokens of texts) sequences.push({ tokens, logits: await reference(tokens, model) });
  } else sequences.push(...reference);
  const { vocabulary } = model.config;
  return sequences.map(({ tokens, logits }, i) => ({ tokens, rows: rowsOf(logits, tokens.length, vocabulary, i) }));
}

function rowsOf(
  logits: ReferenceSequence["logits"],
  count: number,
  vocabulary: number,
  sequence: number,
): Float32Array[] {
  if (typeof logits !== "object" || logits === null || isPromise(logits) || !("length" in logits)) {
    const sentence = `the reference gave ${shown(logits)} for sequence ${sequence}; give an array of logits for each token`;
    throw new StrataError("invalid_argument", sentence);
  }
  const [first] = logits as ArrayLike<unknown> & Iterable<unknown>;
  const flat =
    typeof first === "number"
      ? Float32Array.from(logits as ArrayLike<number>)
      : Float32Array.from((logits as readonly ArrayLike<number>[]).flatMap((row) => Array.from(row)));
  if (flat.length === count * vocabulary) {
    return Array.from({ length: count }, (_, i) => flat.subarray(i * vocabulary, (i + 1) * vocabulary));
  }
  throw new StrataError(
    "invalid_argument",
    `the reference has ${flat.length} logits for sequence ${sequence}; ${count} tokens of ${vocabulary} logits are ` +
      `${count * vocabulary}`,
  );
}

function readFolder(path: string): ReferenceSequence[] {
  if (!existsSync(path)) throw new StrataError("io", `${path}: there is no such reference`);
  const folder = statSync(path).isDirectory() ? path : dirname(path);
  const json = statSync(path).isDirectory() ? join(path, "reference.json") : path;
  const { tokens } = JSON.parse(readFileSync(json, "utf8")) as { tokens?: unknown };
  const isList = (value: unknown): value is number[] => Array.isArray(value) && value.every(Number.isSafeInteger);
  if (!Array.isArray(tokens) || !tokens.every(isList)) {
    throw new StrataError("bad_format", `${json}: expected {"tokens": [[1, 2, 3], ...]}`);
  }
  const file = join(folder, "logits.safetensors");
  const logits = readSafetensors(file);
  return tokens.map((list, i) => {
    const found = logits.get(`logits_${i}`);
    if (found === undefined) throw new StrataError("bad_format", `${file}: the tensor "logits_${i}" is missing`);
    return { tokens: list, logits: found };
  });
}

interface SafetensorsEntry {
  readonly dtype?: string;
  readonly data_offsets?: readonly [number, number];
}

/** The f32 tensors of a safetensors file: the length of a JSON header, the header, the data. */
function readSafetensors(path: string): Map<string, Float32Array> {
  const bytes = readFileSync(path);
  const start = 8 + Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.toString("utf8", 8, start)) as Record<string, SafetensorsEntry>;
  const tensors = new Map<string, Float32Array>();
  for (const [name, { dtype, data_offsets: offsets }] of Object.entries(header)) {
    if (offsets === undefined || dtype !== "F32") continue;
    const data = Uint8Array.from(bytes.subarray(start + offsets[0], start + offsets[1]));
    tensors.set(name, new Float32Array(data.buffer));
  }
  return tensors;
}
