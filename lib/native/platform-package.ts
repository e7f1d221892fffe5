import { resolve } from "node:path";
import { StrataError } from "../errors.ts";
import packageFile from "../../package.json" with { type: "json" };
import { cpuFlags, isMusl, missingFeatures, type CpuFlags } from "./cpu.ts";

/** What a platform package, such as `ggstrata-linux-x64`, exports. `npm run pack` writes it. */
interface PlatformPackage {
  readonly version: string;
  /** One library for each kind of CPU, the most demanding first. */
  readonly libraries: readonly PlatformLibrary[];
}

export interface PlatformLibrary {
  readonly name: string;
  /** The library's file; in a compiled program a file inside that program. */
  readonly file: string;
  /** The features, by the compiler's names, that it was built for. */
  readonly features: readonly string[];
}

/** The platforms that there is a package for. */
const packaged = ["linux-x64"];

/** This machine's package, or undefined where it is not installed. */
function installed(platform: string): PlatformPackage | undefined {
  try {
    // Each name is written out: only then does `bun build` take the package, and the libraries in it, along.
    if (platform === "linux-x64") return require("ggstrata-linux-x64") as PlatformPackage;
    return undefined;
  } catch (error) {
    // Bun says the first where it looks for a module, and the second where `bun build` did not find it.
    const { code, message } = error as Error & { code?: string };
    if (code === "MODULE_NOT_FOUND" || message.startsWith("Cannot require module")) return undefined;
    throw error;
  }
}

/**
 * The file of the platform package's best library for this machine.
 * @throws StrataError `not_found` or `unsupported` with what to install, where there is none
 */
export function packagedLibrary(): string {
  const platform = `${process.platform}-${process.arch}`;
  const { version } = packageFile;
  if (!packaged.includes(platform)) {
    throw new StrataError(
      "unsupported",
      `there is no package of the native library for ${platform} (only for ${packaged.join(", ")}); ` +
        "build it in a checkout of Strata with `npm run build` and name the file in STRATA_LIBRARY",
    );
  }
  const name = `ggstrata-${platform}`;
  if (isMusl()) {
    throw new StrataError(
      "unsupported",
      `${name} is built for glibc, and this system's C library is musl; use a system with glibc, such as Debian's`,
    );
  }
  const found = installed(platform);
  if (found === undefined) {
    throw new StrataError(
      "not_found",
      `the native library is not here: the package ${name} is missing, which installing ggstrata brings unless ` +
        `optional dependencies are left out; run \`bun add ${name}@${version}\``,
    );
  }
  if (found.version !== version) {
    throw new StrataError(
      "unsupported",
      `ggstrata is version ${version} and ${name} is ${found.version}; run \`bun add ${name}@${version}\``,
    );
  }
  return resolve(import.meta.dir, bestLibrary(found.libraries, cpuFlags()).file);
}

/** The first library, and so the most demanding, that a CPU can run; the last asks for nothing that Bun does not. */
export function bestLibrary(libraries: readonly PlatformLibrary[], flags: CpuFlags): PlatformLibrary {
  const best = libraries.find(({ features }) => missingFeatures(features, flags).length === 0);
  if (best === undefined) throw new Error("the platform package holds no library for every CPU");
  return best;
}
