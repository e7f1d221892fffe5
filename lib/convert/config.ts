import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { StrataError } from "../errors.ts";
import { Metadata, type MetadataValue } from "../gguf/metadata.ts";
import type { HuggingFaceConfig } from "./mapping.ts";

/** A value of a JSON file. */
export type Json = string | number | boolean | null | readonly Json[] | JsonObject;
export type JsonObject = { readonly [key: string]: Json };

/**
 * Reads a file of JSON as Python writes it: with `Infinity`, `-Infinity` and `NaN` as numbers.
 * @returns undefined where there is no such file
 * @throws StrataError `bad_format` where it holds no JSON object
 */
export async function readJson(path: string): Promise<JsonObject | undefined> {
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (cause) {
    if (cause instanceof Error && "code" in cause && cause.code === "ENOENT") return undefined;
    throw new StrataError("io", `${path}: cannot be read (${String(cause)})`, { cause });
  }
  return parseJson(text, path);
}

/** Parses JSON as Python writes it; `path` is for errors. */
export function parseJson(text: string, path: string): JsonObject {
  let value: Json;
  try {
    value = JSON.parse(text.replace(pythonNumbers, (found) => spellings[found] ?? found)) as Json;
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new StrataError("bad_format", `${path}: it is no JSON (${reason})`, { cause });
  }
  if (isObject(value)) return value;
  throw new StrataError("bad_format", `${path}: it holds no JSON object`);
}

/** Strings, so that they are passed over, and the numbers that JSON lacks. */
const pythonNumbers = /"(?:[^"\\]|\\.)*"|-?\bInfinity\b|\bNaN\b/g;
const spellings: Readonly<Record<string, string>> = { Infinity: "1e999", "-Infinity": "-1e999", NaN: "null" };

export function isObject(value: Json | undefined): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/**
 * The configuration of a checkpoint's folder.
 * @throws StrataError `not_found` where the folder has none
 */
export async function readConfig(folder: string): Promise<HuggingFaceConfig> {
  const path = join(folder, "config.json");
  const values = await readJson(path);
  if (values === undefined) {
    throw new StrataError(
      "not_found",
      `${folder}: there is no config.json in it; give the folder of a Hugging Face checkpoint`,
    );
  }
  return new Metadata(path, Object.keys(values), (key) => toMetadata(valueAt(values, key)));
}

function valueAt(values: JsonObject, key: string): Json | undefined {
  return key.split(".").reduce<Json | undefined>((value, name) => {
    return isObject(value) && Object.hasOwn(value, name) ? value[name] : undefined;
  }, values);
}

/** A JSON value as one of a file's metadata. What those cannot say, such as an object, reads as missing. */
function toMetadata(value: Json | undefined): MetadataValue | undefined {
  if (typeof value === "string" || typeof value === "boolean") return value;
  const number = toNumber(value);
  if (number !== undefined) return number;
  if (!Array.isArray(value)) return undefined;
  const numbers = value.map(toNumber);
  // Of an empty list nobody can say of what it is: a list of layers is the likeliest.
  if (numbers.every((item) => item !== undefined)) return Float64Array.from(numbers);
  const isPlain = value.every((item) => typeof item === "string") || value.every((item) => typeof item === "boolean");
  return isPlain ? (value as readonly string[] | readonly boolean[]) : undefined;
}

/** Also numbers as transformers 5 writes those that JSON lacks: `{"__float__": "Infinity"}`. */
function toNumber(value: Json | undefined): number | undefined {
  if (typeof value === "number") return value;
  const float = isObject(value) ? value["__float__"] : undefined;
  return typeof float === "string" ? Number(float) : undefined;
}
