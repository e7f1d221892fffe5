// @ts-check
import { mkdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { runQuietly } from "./command.mjs";
import { SetupError } from "./errors.mjs";
import { entriesOf, filesBelow, readStamp, sha256Of, statOf, writeStamp } from "./files.mjs";
import { ggmlManifest, pins } from "./pins.mjs";

/**
 * The native library: built for this machine's CPU by Zig, and again when something that it is made of has changed.
 *
 * @typedef {import("./paths.mjs").Paths} Paths
 * @typedef {import("./progress.mjs").Step} Step
 */

/**
 * One hash of all that the library is made of.
 *
 * @param {Paths} paths
 * @param {string} cpu the CPU that it is built for
 */
export function libraryKey({ root }, cpu) {
  const files = [
    "build.zig",
    ...["zig", "ggml"].flatMap((folder) => filesBelow(join(root, folder)).map((file) => `${folder}/${file}`)),
  ];
  const contents = files.flatMap((file) => [file, readFileSync(join(root, file))]);
  return sha256Of(pins.zig.version, ggmlManifest.commit, cpu, ...contents);
}

/**
 * @param {Paths} paths
 * @param {string} key
 */
export function libraryIsBuilt({ library, libraryStamp }, key) {
  const stamp = readStamp(libraryStamp);
  const file = statOf(library);
  // A library that someone built by hand since, for debugging, is another one.
  return (
    file !== undefined && stamp?.["key"] === key && stamp["size"] === file.size && stamp["mtimeMs"] === file.mtimeMs
  );
}

/**
 * Where Zig keeps what it has compiled.
 *
 * @param {Paths} paths
 */
export function zigEnvironment(paths) {
  return { ZIG_LOCAL_CACHE_DIR: paths.zigCache, ZIG_GLOBAL_CACHE_DIR: paths.zigGlobalCache };
}

/**
 * @param {Paths} paths
 * @param {string} zig
 * @param {string} key
 * @param {Step} step
 */
export async function buildLibrary(paths, zig, key, step) {
  rmSync(paths.libraryStamp, { force: true });
  mkdirSync(paths.cache, { recursive: true });
  step.howFar = compileProgress(paths, pins.zig.files);
  await runQuietly({
    what: "Building the native library",
    command: zig,
    args: ["build", "lib", "-Doptimize=fast", "--color", "off", `-Dggml=${paths.ggml}`],
    cwd: paths.root,
    env: zigEnvironment(paths),
    log: join(paths.cache, "logs", "zig.log"),
  });
  const file = statOf(paths.library);
  if (!file)
    throw new SetupError(`zig build lib ended well and left no ${paths.library}: build.zig does not install it there.`);
  writeStamp(paths.libraryStamp, { key, size: file.size, mtimeMs: file.mtimeMs });
}

/**
 * Tells how far a build is that begins now. Zig shows its progress on terminals only, and tells no other program of it;
 * but its caches show what is done.
 *
 * @param {Paths} paths
 * @param {number} files how many a build with nothing cached compiles
 * @returns {() => string}
 */
export function compileProgress(paths, files) {
  const before = compiledFiles(paths).count;
  return () => {
    const { names, count } = compiledFiles(paths);
    // With nothing cached Zig first compiles the program that reads build.zig, for a third of the whole time.
    if (!names.has("maker")) return "Zig is compiling its build program";
    if (before >= files) return `${count - before} newly compiled`;
    // Caches keep what other builds compiled, so that there can be more than a first build needs.
    return count > files ? `${count} files compiled` : `${count} of about ${files} files compiled`;
  };
}

/** @param {Paths} paths */
function compiledFiles({ zigCache, zigGlobalCache }) {
  const names = new Set();
  let count = 0;
  for (const cache of [zigCache, zigGlobalCache]) {
    for (const folder of entriesOf(join(cache, "o"))) {
      for (const { name } of entriesOf(join(cache, "o", folder.name))) {
        names.add(name);
        if (name.endsWith(".o")) count += 1;
      }
    }
  }
  return { names, count };
}
