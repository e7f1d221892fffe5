/** From a file's metadata to what its architecture says of it, every mistake of a plugin an error that says where it is. */
import { StrataError } from "../errors.ts";
import { checkMemory } from "../memory/check.ts";
import type { LayerMemory } from "../memory/declaration.ts";
import { isPromise, isRecord, isWhole, shown } from "../shown.ts";
import type { Architecture, ReadArchitecture } from "./architecture.ts";
import type { Metadata } from "../gguf/metadata.ts";
import { checkWeights } from "./weight-tree.ts";

/** Of vocabulary and context. */
const countMax = 2 ** 28;

/**
 * Reads a file's metadata by its architecture, and checks all that the architecture says.
 * @throws StrataError that names the architecture, or for metadata the file and the key
 */
export function readArchitecture(architecture: Architecture, metadata: Metadata): ReadArchitecture {
  const name = architectureName(architecture, metadata);
  const read = runPart(name, "read", metadata.file, () => architecture.read(metadata));
  checkConfig(name, read.config);
  checkMemory(name, read.memory);
  checkCausal(`${name}.attention.causal`, metadata, read.memory);
  checkWeights(name, read.weights);
  checkIgnores(name, read.ignores);
  return read;
}

/** The name that the file uses; an architecture may have several. */
export function architectureName({ names }: Pick<Architecture, "names">, metadata: Metadata): string {
  return metadata.string("general.architecture", undefined) ?? names[0] ?? "?";
}

/**
 * Runs one function of an architecture. What it throws is named after the architecture, and stays as the cause; a promise
 * is refused.
 */
export function runPart<T>(architecture: string, part: string, file: string, run: () => T): T {
  let result: T;
  try {
    result = run();
  } catch (error) {
    throw nameError(architecture, `${architecture}: ${part}`, error, file);
  }
  refusePromise(architecture, part, result);
  return result;
}

/** Throws where a function of an architecture gave a promise. */
export function refusePromise(architecture: string, part: string, result: unknown): void {
  if (!isPromise(result)) return;
  // It is refused whatever becomes of it; without a listener its failure would end the process.
  result.then(undefined, () => undefined);
  const sentence = `${part} returned a promise; it must return what it promises, so it cannot be async`;
  throw new StrataError("invalid_argument", `${architecture}: ${sentence}`);
}

/** An error of a plugin's function as a sentence that names the architecture, or the file that is wrong. */
export function nameError(architecture: string, place: string, error: unknown, file?: string): StrataError {
  if (error instanceof StrataError) {
    const isNamed = error.message.startsWith(architecture) || (file !== undefined && error.message.includes(file));
    return isNamed ? error : new StrataError(error.code, `${place}: ${error.message}`, { cause: error });
  }
  const what = error instanceof Error ? `${error.name}: ${error.message}` : shown(error);
  return new StrataError("invalid_argument", `${place}: it threw ${what}`, { cause: error });
}

function checkConfig(architecture: string, config: unknown): void {
  const fault = (sentence: string) => new StrataError("invalid_argument", `${architecture}: ${sentence}`);
  if (typeof config !== "object" || config === null) {
    throw fault(`config returned ${shown(config)}, and an object with vocabulary and contextLength was expected`);
  }
  const values = config as { readonly vocabulary?: unknown; readonly contextLength?: unknown };
  for (const key of ["vocabulary", "contextLength"] as const) {
    if (isWhole(values[key], 1, countMax)) continue;
    throw fault(`config gives ${shown(values[key])} for ${key}; it is a whole number from 1 to ${countMax}`);
  }
}

/** Throws where tokens attend to later ones too, as in models that embed texts, and memories see earlier ones only. */
function checkCausal(key: string, metadata: Metadata, memory: readonly LayerMemory[]): void {
  if (metadata.boolean(key, true)) return;
  const records = memory.flatMap((layer) => Object.values(layer));
  if (!records.some((record) => record?.kind === "attention" && record.extent.kind !== "symmetric")) return;
  const sentence = "its tokens attend to those behind them too, and what the architecture computes looks back only";
  throw new StrataError("unsupported", `${metadata.file}: "${key}" is false: ${sentence}`);
}

function checkIgnores(architecture: string, ignores: unknown): void {
  if (ignores === undefined) return;
  if (Array.isArray(ignores) && Array.from<unknown>(ignores).every((name) => typeof name === "string")) return;
  const given = isRecord(ignores) || !Array.isArray(ignores) ? shown(ignores) : "a list with other things in it";
  throw new StrataError("invalid_argument", `${architecture}: ignores gave ${given}; give a list of tensors' names`);
}
