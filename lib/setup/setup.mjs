// @ts-check
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { ggmlIsUnpacked, unpackGgml } from "./ggml.mjs";
import { removeLeftovers } from "./files.mjs";
import { buildLibrary, libraryIsBuilt, libraryKey } from "./library.mjs";
import { withLock } from "./lock.mjs";
import { checkPlatform, thisMachine } from "./machine.mjs";
import {
  findBun,
  findPeer,
  installPackages,
  installPlatformPackage,
  linkPeer,
  packagesAreInstalled,
} from "./packages.mjs";
import { pathsOf } from "./paths.mjs";
import { ggmlManifest, pins } from "./pins.mjs";
import { requirePrograms } from "./prerequisites.mjs";
import { Progress, seconds } from "./progress.mjs";
import { findZig, installZig } from "./zig.mjs";

/**
 * The whole set-up: packages, toolchain, ggml's source, native library. It does what is not done yet, one process at
 * a time, and can be stopped anywhere: each step ends by a rename or a stamp, and begins again without.
 *
 * @typedef {import("./paths.mjs").Paths} Paths
 * @typedef {import("./progress.mjs").Step} Step
 * @typedef {{ title: string, programs: ("npm" | "git" | "python" | "pip")[], work: (step: Step) => Promise<void> }} Task
 */

/**
 * @param {object} [options]
 * @param {boolean} [options.toolchain] whether Zig is needed even if the library is built
 * @param {Paths} [options.paths]
 * @returns {Promise<{ paths: Paths, bun: string }>} the Bun to run with
 */
export async function ensure({ toolchain = false, paths = pathsOf() } = {}) {
  checkPlatform();
  const machine = thisMachine();
  try {
    if (plan(paths, machine, toolchain).length > 0) {
      mkdirSync(paths.cache, { recursive: true });
      // The cache may be shared between checkouts, and a checkout used with two caches: so both are locked.
      const locks = new Set([join(paths.cache, "setup.lock"), join(paths.root, ".cache", "setup.lock")]);
      await withLocks([...locks].sort(), () => setUp(paths, machine, toolchain));
    }
  } finally {
    linkPeer(paths, findPeer(paths, machine));
  }
  return { paths, bun: findBun(paths, machine).path };
}

/**
 * @param {string[]} locks
 * @param {() => Promise<void>} work
 * @returns {Promise<void>}
 */
function withLocks([first, ...others], work) {
  return first === undefined ? work() : withLock(first, () => withLocks(others, work));
}

/**
 * @param {Paths} paths
 * @param {import("./machine.mjs").Machine} machine
 * @param {boolean} toolchain
 */
async function setUp(paths, machine, toolchain) {
  // What another set-up did while this one waited is done.
  const tasks = plan(paths, machine, toolchain);
  if (tasks.length === 0) return;
  requirePrograms(tasks.flatMap((task) => task.programs));
  removeLeftovers(paths.cache);
  removeLeftovers(paths.platform);
  const start_ms = Date.now();
  process.stderr.write(
    `Strata sets itself up in ${tasks.length === 1 ? "1 step" : `${tasks.length} steps`}; what is done is kept.\n`,
  );
  const progress = new Progress(tasks.length);
  for (const { title, work } of tasks) await progress.step(title, work);
  process.stderr.write(`Set-up took ${seconds(Date.now() - start_ms)}.\n`);
}

/**
 * The steps that are not done yet, in order.
 *
 * @param {Paths} paths
 * @param {import("./machine.mjs").Machine} machine
 * @param {boolean} toolchain
 * @returns {Task[]}
 */
function plan(paths, machine, toolchain) {
  /** @type {Task[]} */
  const tasks = [];
  if (!packagesAreInstalled(paths)) {
    tasks.push({ title: "npm packages", programs: ["npm"], work: (step) => installPackages(paths, step) });
  }
  const bun = findBun(paths, machine).wanted;
  if (bun) tasks.push(platformTask(paths, `Bun ${pins.bun.version}`, bun, pins.bun.version));
  const peer = findPeer(paths, machine)?.wanted;
  if (peer) tasks.push(platformTask(paths, `node-llama-cpp's library, to compare with`, peer, pins.peer.version));
  if (!ggmlIsUnpacked(paths)) {
    tasks.push({ title: `Source of ggml ${ggmlManifest.version}`, programs: ["git"], work: () => unpackGgml(paths) });
  }
  const key = libraryKey(paths, machine.cpu);
  const build = !libraryIsBuilt(paths, key);
  if ((build || toolchain) && findZig(paths).missing) {
    tasks.push({
      title: `Zig ${pins.zig.version}`,
      programs: ["python", "pip"],
      work: (step) => installZig(paths, step),
    });
  }
  if (build) {
    tasks.push({
      title: "Native library (minutes, the first time)",
      programs: [],
      work: (step) => buildLibrary(paths, findZig(paths).path, key, step),
    });
  }
  return tasks;
}

/**
 * @param {Paths} paths
 * @param {string} title
 * @param {import("./pins.mjs").PlatformPackage} build
 * @param {string} version
 * @returns {Task}
 */
function platformTask(paths, title, build, version) {
  return { title, programs: ["npm"], work: (step) => installPlatformPackage(paths, build, version, step) };
}
