// @ts-check
import { spawnSync } from "node:child_process";
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { childEnvironment, runQuietly } from "./command.mjs";
import { SetupError } from "./errors.mjs";
import { statOf } from "./files.mjs";
import { compileProgress, zigEnvironment } from "./library.mjs";
import { pins } from "./pins.mjs";

/**
 * The packages: `ggstrata` with the SDK's sources, and `ggstrata-linux-x64` with the native libraries, stripped. What
 * is in the first, package.json's `files` says; the second is written here. Neither has anything to run on
 * installation, and the first asks for the second by its exact version.
 *
 * @typedef {import("./paths.mjs").Paths} Paths
 * @typedef {import("./progress.mjs").Step} Step
 * @typedef {{ name: string, folder: string }} Library one of build.zig's release builds
 */

/** The libraries of linux-x64, the most demanding of the CPU first, which is the order in which they are tried. */
export const releaseLibraries = ["avx512vnni", "avx2", "baseline"];

export const platformName = "ggstrata-linux-x64";

/** Whether what is in the packages runs here. */
export const packs = () => `${process.platform}-${process.arch}` === "linux-x64";

/**
 * Builds the libraries of the platform package and says where they lie.
 *
 * @param {Paths} paths
 * @param {string} zig
 * @param {Step} step
 * @returns {Promise<Library[]>}
 */
export async function buildReleases(paths, zig, step) {
  mkdirSync(paths.cache, { recursive: true });
  step.howFar = compileProgress(paths, pins.zig.releaseFiles);
  await runQuietly({
    what: "Building the packages' libraries",
    command: zig,
    args: ["build", "release", "--color", "off", `-Dggml=${paths.ggml}`],
    cwd: paths.root,
    env: zigEnvironment(paths),
    log: join(paths.cache, "logs", "zig-release.log"),
  });
  return releaseLibraries.map((name) => ({ name, folder: join(paths.releases, `linux-x64-${name}`) }));
}

/**
 * Writes both packages' archives.
 *
 * @param {Paths} paths
 * @param {string} zig whose terms the libraries carry, as parts of it are linked in
 * @param {Library[]} libraries
 * @returns {{ file: string, bytes: number }[]}
 */
export function packAll(paths, zig, libraries) {
  const work = join(paths.packages, `tmp-${process.pid}`);
  rmSync(work, { recursive: true, force: true });
  const folders = [join(work, "ggstrata"), join(work, platformName)];
  for (const folder of folders) mkdirSync(folder, { recursive: true });
  const [sdk = "", platform = ""] = folders;
  stageSdk(paths.root, sdk);
  stagePlatform(paths, zig, libraries, platform);
  const packed = folders.map((folder) => {
    const [{ filename }] = npmPack(folder, "--pack-destination", paths.packages);
    const file = join(paths.packages, filename);
    return { file, bytes: statOf(file)?.size ?? 0 };
  });
  rmSync(work, { recursive: true, force: true });
  return packed;
}

/**
 * The files that npm takes from a folder by its package.json.
 *
 * @param {string} folder
 * @returns {string[]}
 */
export function packedFiles(folder) {
  const [{ files }] = npmPack(folder, "--dry-run");
  return files.map(({ path }) => path);
}

/**
 * @param {string} folder
 * @param {string[]} args
 * @returns {[{ filename: string, files: { path: string }[] }]}
 */
function npmPack(folder, ...args) {
  const all = ["pack", "--json", "--ignore-scripts", "--loglevel=error", ...args];
  const { status, stdout, stderr } = spawnSync("npm", all, { cwd: folder, env: childEnvironment(), encoding: "utf8" });
  if (status !== 0) throw new SetupError(`npm pack in ${folder} failed (exit code ${status}):\n${stderr}`);
  return JSON.parse(stdout);
}

/** What of the checkout's package.json only matters in a checkout. */
const checkoutOnly = ["private", "files", "scripts", "devDependencies", "overrides"];

/**
 * @param {string} root
 * @param {string} folder
 */
function stageSdk(root, folder) {
  for (const file of packedFiles(root)) {
    const target = join(folder, file);
    mkdirSync(dirname(target), { recursive: true });
    copyFileSync(join(root, file), target);
  }
  const manifest = manifestOf(root);
  for (const field of checkoutOnly) delete manifest[field];
  manifest["optionalDependencies"] = { [platformName]: manifest["version"] };
  writeFileSync(join(folder, "package.json"), text(manifest));
}

/**
 * @param {Paths} paths
 * @param {string} zig
 * @param {Library[]} libraries
 * @param {string} folder
 */
function stagePlatform(paths, zig, libraries, folder) {
  const { version, license, author, engines } = manifestOf(paths.root);
  for (const library of libraries) {
    const target = join(folder, fileOf(library));
    copyFileSync(join(library.folder, "libstrata.so"), target);
    chmodSync(target, 0o644);
  }
  const manifest = {
    name: platformName,
    version,
    description: "The native library of ggstrata for Linux with glibc on x64, for three kinds of CPU.",
    license,
    author,
    type: "module",
    engines,
    os: ["linux"],
    cpu: ["x64"],
    libc: ["glibc"],
    exports: { ".": "./index.js", "./package.json": "./package.json" },
  };
  writeFileSync(join(folder, "package.json"), text(manifest));
  writeFileSync(join(folder, "index.js"), indexOf(String(version), libraries));
  writeFileSync(join(folder, "README.md"), readme);
  copyFileSync(join(paths.root, "LICENSE"), join(folder, "LICENSE"));
  writeFileSync(join(folder, "THIRD-PARTY-LICENSES"), thirdPartyLicences(paths, zig));
}

const readme = `# ${platformName}

The native library of the package \`ggstrata\`, which installs this one where it fits and chooses by the CPU among its
files.
`;

/** @param {Library} library */
const fileOf = ({ name }) => `libstrata-${name}.so`;

/**
 * The module that the SDK asks for its library: plain imports of files, which `bun build` understands too.
 *
 * @param {string} version
 * @param {Library[]} libraries
 */
function indexOf(version, libraries) {
  const imports = libraries.map(
    (library) => `import ${library.name} from "./${fileOf(library)}" with { type: "file" };`,
  );
  const entries = libraries.map(({ name, folder }) => {
    const features = readFileSync(join(folder, "libstrata.features"), "utf8").trim().split("\n");
    return `  { name: "${name}", file: ${name}, features: ${JSON.stringify(features)} },`;
  });
  return `${imports.join("\n")}

export const version = "${version}";

/** One library for each kind of CPU, the most demanding first. */
export const libraries = [
${entries.join("\n")}
];
`;
}

/**
 * The terms of what is linked into the libraries.
 *
 * @param {Paths} paths
 * @param {string} zig
 */
function thirdPartyLicences({ ggml }, zig) {
  const toolchain = dirname(realpathSync(zig));
  if (!existsSync(join(toolchain, "LICENSE"))) {
    throw new SetupError(
      `${toolchain} has no LICENSE, which the packages must carry: take zig off PATH, so that set-up fetches a whole one.`,
    );
  }
  const llamafile = readFileSync(join(ggml, "src", "ggml-cpu", "llamafile", "sgemm.cpp"), "utf8");
  const header = /^(\/\/.*\n)+/.exec(llamafile)?.[0].replace(/^\/\/ ?/gm, "") ?? "";
  const parts = {
    ggml: readFileSync(join(ggml, "LICENSE"), "utf8"),
    "llamafile's matrix products, in ggml": header,
    "Zig's standard library": readFileSync(join(toolchain, "LICENSE"), "utf8"),
    "LLVM's libc++": readFileSync(join(toolchain, "lib", "libcxx", "LICENSE.TXT"), "utf8"),
  };
  return Object.entries(parts)
    .map(([name, terms]) => {
      if (!/Copyright|LICENSE/i.test(terms)) throw new SetupError(`The terms of ${name} were not found.`);
      return `${name}\n${"=".repeat(name.length)}\n\n${terms.trim()}\n`;
    })
    .join("\n\n");
}

/**
 * @param {string} root
 * @returns {Record<string, unknown>}
 */
function manifestOf(root) {
  return JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
}

/** @param {unknown} value */
const text = (value) => `${JSON.stringify(value, null, 2)}\n`;
