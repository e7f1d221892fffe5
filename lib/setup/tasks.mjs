// @ts-check
import { spawn } from "node:child_process";
import { dirname, join, relative } from "node:path";
import { endOf, runInPlace, which } from "../cli/passthrough.mjs";
import { bunCounts, countsLine, sumOf, zigCounts } from "./counts.mjs";
import { childEnvironment } from "./command.mjs";
import { removeLeftovers } from "./files.mjs";
import { zigEnvironment } from "./library.mjs";
import { withLock } from "./lock.mjs";
import { ensureModels } from "./models.mjs";
import { buildReleases, packAll, packs } from "./pack.mjs";
import { pathsOf } from "./paths.mjs";
import { Progress, seconds } from "./progress.mjs";
import { ensure } from "./setup.mjs";
import { findZig } from "./zig.mjs";

/**
 * What package.json's scripts do, each after the set-up that it needs.
 *
 * @typedef {import("./paths.mjs").Paths} Paths
 * @typedef {import("../cli/passthrough.mjs").End} End
 */

/** @type {Record<string, (args: string[]) => Promise<End>>} */
export const tasks = { demo, test, soak, bench, models, strata, build, pack };

/** @param {string[]} args */
async function demo(args) {
  const { paths, bun } = await ensure();
  return runInPlace(bun, [join(paths.root, "lib", "cli", "demo.ts"), ...args]);
}

/** @param {string[]} args */
async function strata(args) {
  const { paths, bun } = await ensure();
  // npm runs scripts in the checkout; a person names files from where they are.
  const cwd = process.env["npm_lifecycle_event"] === "strata" ? process.env["INIT_CWD"] : undefined;
  return runInPlace(bun, [join(paths.root, "lib", "cli", "main.ts"), ...args], {}, cwd);
}

/** @param {string[]} args */
async function bench(args) {
  const { paths, bun } = await ensure();
  await ensureModels(paths);
  return runInPlace(bun, [join(paths.root, "test", "bench", "main.ts"), ...args], runEnvironment(paths, bun));
}

/** Fetches the models and prints where they are. */
async function models() {
  const paths = pathsOf();
  for (const file of await ensureModels(paths)) process.stdout.write(`${relative(process.cwd(), file) || file}\n`);
  return { code: 0, signal: null };
}

/** Sets up and does no more. */
async function build() {
  await ensure({ toolchain: true });
  return { code: 0, signal: null };
}

/** Builds the packages and prints where they are. */
async function pack() {
  const { paths } = await ensure({ toolchain: true });
  const zig = findZig(paths).path;
  const packed = await withLock(join(paths.packages, "lock"), async () => {
    removeLeftovers(paths.packages);
    const progress = new Progress(2);
    const libraries = await releases(paths, progress);
    return progress.step("Packages", async () => packAll(paths, zig, libraries));
  });
  for (const { file, bytes } of packed) {
    process.stdout.write(`${relative(process.cwd(), file) || file} (${(bytes / 1e6).toFixed(1)} MB)\n`);
  }
  return { code: 0, signal: null };
}

/**
 * Builds the packages' libraries and shows how far it is.
 *
 * @param {Paths} paths
 * @param {Progress} progress
 */
function releases(paths, progress) {
  const title = "The packages' libraries, for three kinds of CPU (minutes, the first time)";
  return progress.step(title, (step) => buildReleases(paths, findZig(paths).path, step));
}

/** @param {string[]} args */
function test(args) {
  return runTests(args, {});
}

/** The tests with the full counts of the random ones. @param {string[]} args */
function soak(args) {
  return runTests(args, { STRATA_SOAK: "1" });
}

/**
 * Runs the native tests and the others, or with arguments only those others that `bun test` selects by them.
 *
 * @param {string[]} args
 * @param {Record<string, string>} env
 * @returns {Promise<End>}
 */
async function runTests(args, env) {
  const { paths, bun } = await ensure({ toolchain: true });
  await ensureModels(paths);
  const zig = findZig(paths).path;
  /** @type {import("./counts.mjs").Counts[]} */
  const all = [];
  const run = async (
    /** @type {string} */ name,
    /** @type {string} */ program,
    /** @type {string[]} */ programArgs,
    /** @type {typeof zigCounts} */ read,
  ) => {
    process.stderr.write(`\n${name}\n`);
    const start_ms = Date.now();
    const { said, ok } = await runVisibly(paths, program, programArgs, runEnvironment(paths, bun, env));
    const counts = read(said, ok);
    all.push(counts);
    process.stderr.write(`${name}: ${countsLine(counts)}, in ${seconds(Date.now() - start_ms)}\n`);
  };
  if (args.length === 0) {
    // The tests of the packages would build them too, without a word for minutes.
    if (packs()) await releases(paths, new Progress(1));
    await run("Native tests", zig, ["build", "test", "fuzz", "--summary", "all", `-Dggml=${paths.ggml}`], zigCounts);
  }
  // Bun's own limit of 5 s is for tests without models.
  await run("Tests", bun, ["test", "--timeout", "120000", ...args], bunCounts);
  const sum = sumOf(all);
  process.stdout.write(`${countsLine(sum)}\n`);
  return { code: sum.failed === 0 && sum.passed > 0 ? 0 : 1, signal: null };
}

/**
 * What the programs that run in the checkout are told of where things are.
 *
 * @param {Paths} paths
 * @param {string} bun
 * @param {Record<string, string>} extra
 */
function runEnvironment(paths, bun, extra = {}) {
  const node = process.versions["bun"] ? which("node") : process.execPath;
  return {
    STRATA_CACHE: paths.cache,
    STRATA_ZIG: findZig(paths).path,
    STRATA_GGML: paths.ggml,
    STRATA_NODE: node ?? "node",
    ...zigEnvironment(paths),
    PATH: `${dirname(bun)}:${process.env["PATH"] ?? ""}`,
    ...extra,
  };
}

/**
 * Runs a program whose output is shown as it comes, and read.
 *
 * @param {Paths} paths
 * @param {string} program
 * @param {string[]} args
 * @param {Record<string, string>} env
 */
async function runVisibly(paths, program, args, env) {
  const colour = process.stderr.isTTY && !process.env["NO_COLOR"] ? { FORCE_COLOR: "1", CLICOLOR_FORCE: "1" } : {};
  const child = spawn(program, args, {
    cwd: paths.root,
    env: childEnvironment({ ...env, ...colour }),
    stdio: ["ignore", "pipe", "pipe"],
  });
  let said = "";
  for (const [from, to] of /** @type {const} */ ([
    [child.stdout, process.stdout],
    [child.stderr, process.stderr],
  ])) {
    from.on("data", (/** @type {Buffer} */ chunk) => {
      to.write(chunk);
      said = (said + chunk.toString()).slice(-1_000_000);
    });
  }
  const { code } = await endOf(child, program);
  return { said, ok: code === 0 };
}
