/** The packages as `npm run pack` makes them, and a folder of someone who installs them and has nothing else. */
import { cpSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { which } from "../../lib/cli/passthrough.mjs";
import { readEnvironment } from "../../lib/environment.ts";
import { buildReleases, packAll, type Library } from "../../lib/setup/pack.mjs";
import { checkout, pathsOf } from "../../lib/setup/paths.mjs";
import { Step } from "../../lib/setup/progress.mjs";
import { findZig } from "../../lib/setup/zig.mjs";
import { Folder, outcomeOf } from "./folder.ts";

const paths = { ...pathsOf(checkout), ggml: readEnvironment("STRATA_GGML") ?? pathsOf(checkout).ggml };
const zig = findZig(paths).path;

/** The release builds of the library; those that are built already cost nothing. */
export function releaseBuilds(): Promise<Library[]> {
  const silent = new Step("", { write: () => undefined });
  return buildReleases(paths, zig, silent).finally(() => silent.end(""));
}

/** Makes the packages' archives in a folder. */
export function packInto(folder: string, libraries: Library[]): { sdk: string; platform: string } {
  const [sdk, platform] = packAll({ ...paths, packages: folder }, zig, libraries);
  return { sdk: sdk!.file, platform: platform!.file };
}

/** The settings of Bun's own `bun init`, less the comments. */
const tsconfig = {
  compilerOptions: {
    lib: ["ESNext"],
    target: "ESNext",
    module: "Preserve",
    moduleDetection: "force",
    moduleResolution: "bundler",
    allowImportingTsExtensions: true,
    verbatimModuleSyntax: true,
    noEmit: true,
    types: ["bun"],
    strict: true,
    skipLibCheck: true,
    noFallthroughCasesInSwitch: true,
    noUncheckedIndexedAccess: true,
    noImplicitOverride: true,
  },
};

/** What of the checkout's node_modules an outsider gets: exactly what npm would install, found without a registry. */
interface Lock {
  packages: Record<string, { dev?: boolean; optional?: boolean; dependencies?: Record<string, string> }>;
}

const readLock = (): Lock => JSON.parse(readFileSync(join(checkout, "package-lock.json"), "utf8")) as Lock;

/** A person's folder with a home of its own; nothing of the checkout, its settings or its tools is in its sight. */
export class Outsider extends Folder {
  readonly app = join(this.path, "app");
  readonly temporary = join(this.path, "tmp");
  private readonly home = join(this.path, "home");

  constructor() {
    super();
    for (const folder of [this.app, this.temporary, this.home]) mkdirSync(folder);
    this.programs("node", "npm", "sh", "env");
    symlinkSync(process.execPath, join(this.path, "bin", "bun"));
    this.file("app/tsconfig.json", JSON.stringify(tsconfig));
  }

  /**
   * Installs archives with npm, scripts allowed. The versions of what they depend on are the lockfile's, so that npm
   * finds them in the cache that the checkout's own installation has filled.
   */
  async install(archives: Record<string, string>): Promise<void> {
    const { packages } = readLock();
    const types = "@types/bun";
    const version = (packages[`node_modules/${types}`] as { version?: string }).version;
    const dependencies = Object.fromEntries(Object.entries(archives).map(([name, file]) => [name, `file:${file}`]));
    const manifest = { name: "app", version: "1.0.0", type: "module", private: true, dependencies };
    this.file("app/package.json", JSON.stringify({ ...manifest, devDependencies: { [types]: version } }));
    delete packages[""];
    const lock = { name: "app", version: "1.0.0", lockfileVersion: 3, requires: true, packages };
    this.file("app/package-lock.json", JSON.stringify(lock));
    const settings = ["cache", "userconfig"].map((name) => {
      const { stdout } = Bun.spawnSync([which("npm") ?? "npm", "config", "get", name, "--loglevel=error"]);
      return [`npm_config_${name}`, stdout.toString().trim()] as const;
    });
    const args = ["install", "--ignore-scripts=false", "--prefer-offline", "--no-audit", "--no-fund"];
    const { code, stderr } = await this.run("npm", [...args, "--loglevel=error"], Object.fromEntries(settings));
    if (code !== 0) throw new Error(`npm install failed (${code}): ${stderr}`);
  }

  /** Runs one of its few programs, or a file, in its app's folder. */
  run(program: string, args: readonly string[], env: Record<string, string> = {}, cwd = this.app) {
    const path = program.includes("/") ? program : join(this.path, "bin", program);
    const own = { PATH: join(this.path, "bin"), HOME: this.home, TMPDIR: this.temporary, ...env };
    return outcomeOf(path, [...args], own, "", { cwd, clean: true });
  }

  /** Copies a folder of the checkout's tests to one of its own. */
  copy(from: string, to: string): string {
    const target = join(this.path, to);
    cpSync(join(checkout, from), target, { recursive: true });
    return target;
  }
}

/**
 * The fixture `llama` as a file of the architecture `outer`. Both names have five letters, so nothing moves.
 */
export function writeOuterModel(path: string): void {
  const bytes = readFileSync(join(checkout, "test/fixtures/llama/model.gguf"));
  const rename = (at: number) => bytes.write("outer", at, "latin1");
  for (let at = bytes.indexOf("llama."); at >= 0; at = bytes.indexOf("llama.", at + 5)) rename(at);
  const key = "general.architecture";
  // Behind the key: the type of the value, its length, its letters.
  rename(bytes.indexOf(key) + key.length + 4 + 8);
  writeFileSync(path, bytes);
}
