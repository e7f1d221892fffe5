import { resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { StrataError } from "../errors.ts";
import type { Architecture } from "./architecture.ts";
import type { Metadata } from "./metadata.ts";

/** The architectures that come with Strata; imported when first asked for. */
export async function builtinArchitectures(): Promise<readonly Architecture[]> {
  const { architectures } = await import("../../plugins/index.ts");
  return architectures;
}

/**
 * Imports an architecture plugin: a module whose default export, or any export, is the result of `defineArchitecture`.
 * Throws where the file cannot be imported or exports none.
 */
export async function loadPlugin(path: string): Promise<Architecture> {
  let module: Record<string, unknown>;
  try {
    module = (await import(pathToFileURL(resolve(path)).href)) as Record<string, unknown>;
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new StrataError("invalid_argument", `${path}: the plugin cannot be imported: ${reason}`, { cause });
  }
  const found = [module["default"], ...Object.values(module)].find(isArchitecture);
  if (found === undefined) {
    const sentence = `${path}: the plugin exports no architecture; export the result of defineArchitecture`;
    throw new StrataError("invalid_argument", sentence);
  }
  return found;
}

function isArchitecture(value: unknown): value is Architecture {
  if (typeof value !== "object" || value === null) return false;
  return "names" in value && Array.isArray(value.names) && "read" in value && typeof value.read === "function";
}

/** The architecture that a file names: the caller's plugins first, then the built-in ones. */
export async function findArchitecture(metadata: Metadata, plugins: readonly Architecture[]): Promise<Architecture> {
  const name = metadata.string("general.architecture");
  const known = [...plugins, ...(await builtinArchitectures())];
  const found = known.find((architecture) => architecture.names.includes(name));
  if (found !== undefined) return found;
  const names = known.flatMap((architecture) => architecture.names).join(", ");
  throw new StrataError(
    "unsupported",
    `${metadata.file}: no plugin declares the architecture "${name}"; known are ${names}`,
  );
}
