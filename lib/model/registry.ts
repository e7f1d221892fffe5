/** Which architecture a file's model has: the built-in ones, and those of the caller's plugins. */
import { existsSync, statSync } from "node:fs";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { checkPath } from "../arguments.ts";
import { StrataError } from "../errors.ts";
import { shown } from "../shown.ts";
import { checkApiVersion, type Architecture } from "./architecture.ts";
import type { Metadata } from "../gguf/metadata.ts";

/** A plugin: what `defineArchitecture` returns, or the path of a file or name of a package that exports such. */
export type Plugin = Architecture | string;

/** The architectures that come with Strata; imported when first asked for. */
export async function builtinArchitectures(): Promise<readonly Architecture[]> {
  const { architectures } = await import("../../plugins/index.ts");
  return architectures;
}

/**
 * Imports a plugin, given as the path of a file or the name of an installed package: every architecture that its module
 * exports, by any name, alone or in an array. Throws where it cannot be imported or exports none.
 */
export async function loadPlugin(specifier: string): Promise<readonly [Architecture, ...Architecture[]]> {
  checkPath("plugin", specifier, "the path of a file or the name of a package");
  const file = locate(specifier);
  let module: Record<string, unknown>;
  try {
    module = (await import(pathToFileURL(file).href)) as Record<string, unknown>;
  } catch (cause) {
    throw new StrataError("invalid_argument", `${specifier}: the plugin cannot be imported: ${reasonOf(cause)}`, {
      cause,
    });
  }
  // An architecture is often exported by its name and as the default.
  const [first, ...others] = new Set(Object.values(module).flat().filter(isArchitecture));
  if (first !== undefined) return [first, ...others];
  const sentence = `${specifier}: the plugin exports no architecture; export the result of defineArchitecture`;
  throw new StrataError("invalid_argument", sentence);
}

/** Why a module cannot be imported; of source that cannot be read the first fault, with its place. */
function reasonOf(cause: unknown): string {
  const first: unknown = cause instanceof AggregateError && cause.errors.length > 0 ? cause.errors[0] : cause;
  if (first instanceof BuildMessage && first.position !== null) {
    const { file, line, column } = first.position;
    return `${file}:${line}:${column}: ${first.message}`;
  }
  return first instanceof Error ? first.message : shown(first);
}

/** The file of a plugin. A package is looked for from the working directory, then from where Strata is. */
function locate(specifier: string): string {
  const path = resolve(specifier);
  if (existsSync(path) && statSync(path).isFile()) return path;
  if (isPath(specifier) && existsSync(path)) {
    throw new StrataError("invalid_argument", `${specifier}: this is a folder; give the plugin's file in it`);
  }
  if (isPath(specifier)) throw new StrataError("not_found", `${specifier}: there is no such plugin file`);
  const installed = installedFile(specifier);
  if (installed !== undefined) return installed;
  const whole = `ggstrata-arch-${specifier}`;
  const remedy =
    installedFile(whole) === undefined
      ? `run "bun add ${specifier}" there, or give a file as ./${specifier}.ts`
      : `"${whole}" is: give that name`;
  throw new StrataError(
    "not_found",
    `the plugin package "${specifier}" is not installed in ${process.cwd()}; ${remedy}`,
  );
}

/** The file of a package's main module, or undefined where it is not installed. */
function installedFile(name: string): string | undefined {
  for (const from of [process.cwd(), import.meta.dir]) {
    try {
      return Bun.resolveSync(name, from);
    } catch {
      // It is not installed there; the next place is tried.
    }
  }
  return undefined;
}

function isPath(specifier: string): boolean {
  return specifier === "" || /^[./\\~]|^[A-Za-z]:|\\|\.[cm]?[jt]sx?$/.test(specifier);
}

function isArchitecture(value: unknown): value is Architecture {
  if (typeof value !== "object" || value === null) return false;
  return "names" in value && Array.isArray(value.names) && "read" in value && typeof value.read === "function";
}

/** An architecture and whom to name in errors about it. */
interface Known {
  readonly architecture: Architecture;
  readonly origin: string;
  readonly isBuiltin: boolean;
}

/** The architectures of files: the built-in ones and those of plugins, of each name one. */
export class Registry {
  private constructor(private readonly byName: ReadonlyMap<string, Architecture>) {}

  /**
   * Loads plugins and sets them beside the built-in architectures.
   * @throws StrataError where one cannot be loaded, is of another API version, or two have one name
   */
  static async open(plugins: readonly Plugin[] = []): Promise<Registry> {
    if (!Array.isArray(plugins)) {
      throw new StrataError("invalid_argument", `plugins is ${shown(plugins)}; give an array of plugins`);
    }
    const lists = await Promise.all(plugins.map(openOne));
    // The same object given twice is one plugin.
    const given = new Map(lists.flat().map((known) => [known.architecture, known]));
    const builtin = (await builtinArchitectures()).map((architecture): Known => {
      return { architecture, origin: "the built-in one", isBuiltin: true };
    });
    const byName = new Map<string, Known[]>();
    for (const known of [...given.values(), ...builtin.filter(({ architecture }) => !given.has(architecture))]) {
      for (const name of new Set(known.architecture.names)) byName.set(name, [...(byName.get(name) ?? []), known]);
    }
    return new Registry(new Map(Array.from(byName, ([name, known]) => [name, chooseOne(name, known)])));
  }

  get names(): readonly string[] {
    return [...this.byName.keys()];
  }

  /** The architecture of a name, or undefined. */
  get(name: string): Architecture | undefined {
    return this.byName.get(name);
  }
}

async function openOne(plugin: Plugin, index: number): Promise<Known[]> {
  if (typeof plugin === "string") {
    const architectures = await loadPlugin(plugin);
    return architectures.map((architecture) => checked({ architecture, origin: plugin, isBuiltin: false }));
  }
  if (isArchitecture(plugin)) return [checked({ architecture: plugin, origin: `plugins[${index}]`, isBuiltin: false })];
  const sentence = "give what defineArchitecture returns, the path of a file or the name of a package";
  throw new StrataError("invalid_argument", `plugins[${index}] is ${shown(plugin)}; ${sentence}`);
}

function checked(known: Known): Known {
  const { architecture, origin } = known;
  checkApiVersion(architecture.names, architecture.apiVersion, origin);
  return known;
}

/** Of several architectures for a name, the one that says it replaces the others. */
function chooseOne(name: string, known: readonly Known[]): Architecture {
  const [first, second] = known;
  if (first !== undefined && second === undefined) return first.architecture;
  const replacing = known.filter(({ architecture }) => architecture.replaces === true);
  const [only, other] = replacing;
  if (only !== undefined && other === undefined) return only.architecture;
  const origins = (only === undefined ? known : replacing).map(({ origin }) => origin).join(" and ");
  const sentence =
    only === undefined
      ? `two plugins declare the architecture "${name}": ${origins}; leave one out, or let one say replaces: true`
      : `two plugins say that they replace the architecture "${name}": ${origins}; leave one out`;
  throw new StrataError("invalid_argument", sentence);
}

/** The architecture that a file names. */
export async function findArchitecture(metadata: Metadata, plugins: readonly Plugin[]): Promise<Architecture> {
  const registry = await Registry.open(plugins);
  const name = metadata.string("general.architecture");
  const found = registry.get(name);
  if (found !== undefined) return found;
  throw new StrataError(
    "unsupported",
    `${metadata.file}: no plugin declares the architecture "${name}"; known are ${registry.names.join(", ")}; ` +
      "give the plugin that does (plugins, or --plugin)",
  );
}
