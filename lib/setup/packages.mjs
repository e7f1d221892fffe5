// @ts-check
import { existsSync, mkdirSync, readlinkSync, renameSync, rmSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { which } from "../cli/passthrough.mjs";
import { answerOf, runQuietly } from "./command.mjs";
import { errorCode } from "./errors.mjs";
import { folderBytes, readStamp } from "./files.mjs";
import { bunBuild } from "./machine.mjs";
import { pins } from "./pins.mjs";
import { megabytes } from "./progress.mjs";

/**
 * npm's packages. Those of package-lock.json are for every machine. Those that hold programs for one kind of machine
 * are taken one by one, each by its pinned hash: npm would fetch all that run on this system, GPU builds and builds
 * for other CPUs too (640 MB).
 *
 * @typedef {import("./paths.mjs").Paths} Paths
 * @typedef {import("./machine.mjs").Machine} Machine
 * @typedef {import("./progress.mjs").Step} Step
 * @typedef {import("./pins.mjs").PlatformPackage} PlatformPackage
 */

const npmArguments = [
  "ci",
  "--include=dev",
  "--omit=optional",
  "--ignore-scripts",
  "--no-audit",
  "--no-fund",
  "--no-progress",
  "--package-lock=true",
  "--engine-strict=false",
  "--legacy-peer-deps=false",
  "--install-strategy=hoisted",
  "--prefer-offline",
  "--loglevel=error",
];

/** Whether the packages in node_modules are those of package-lock.json. npm writes what it put there at its end. */
export function packagesAreInstalled(/** @type {Paths} */ { root, modules }) {
  const wanted = packagesOf(join(root, "package-lock.json"));
  const present = packagesOf(join(modules, ".package-lock.json"));
  return Object.entries(wanted).every(([path, entry]) => {
    if (path === "" || entry.optional) return true;
    return present[path]?.integrity === entry.integrity && existsSync(join(root, path, "package.json"));
  });
}

/**
 * @param {string} path
 * @returns {Record<string, { integrity?: string, optional?: boolean }>}
 */
function packagesOf(path) {
  const lock = readStamp(path);
  return /** @type {Record<string, { integrity?: string }>} */ (lock?.["packages"] ?? {});
}

/**
 * @param {Paths} paths
 * @param {Step} step
 */
export async function installPackages(paths, step) {
  step.howFar = () => `${megabytes(folderBytes(paths.modules))} of about 120 MB`;
  await runQuietly({
    what: "npm ci",
    command: "npm",
    args: npmArguments,
    cwd: paths.root,
    env: { NODE_LLAMA_CPP_SKIP_DOWNLOAD: "true" },
    log: join(paths.cache, "logs", "npm.log"),
    fetches: true,
  });
}

/**
 * The Bun to run with: the one that runs this, one on PATH, or the one of the platform package, if it is the pinned
 * version.
 *
 * @param {Paths} paths
 * @param {Machine} machine
 * @returns {{ path: string, wanted?: PlatformPackage }} wanted: the package that has to be fetched for it
 */
export function findBun(paths, machine) {
  const { version } = pins.bun;
  if (process.versions["bun"] === version) return { path: process.execPath };
  const stamp = join(paths.cache, "bun.json");
  const found = which("bun");
  if (found && isBun(found, version, stamp)) return { path: found };
  const build = pins.bun.packages[bunBuild(machine)];
  if (!build) throw new Error(`pins.json has no Bun for ${bunBuild(machine)}`);
  const folder = platformFolder(paths, build, version);
  const path = join(folder, "bin", "bun");
  return existsSync(path) ? { path } : { path, wanted: build };
}

/**
 * Whether a program is Bun of a version. The answer is kept, as asking takes longer than all else of a set-up with
 * nothing to do.
 *
 * @param {string} path
 * @param {string} version
 * @param {string} stamp
 */
function isBun(path, version, stamp) {
  const { size, mtimeMs } = statSync(path);
  const kept = readStamp(stamp);
  if (kept?.["path"] === path && kept["size"] === size && kept["mtimeMs"] === mtimeMs)
    return kept["version"] === version;
  const answer = answerOf(path, ["--version"]) ?? "none";
  mkdirSync(dirname(stamp), { recursive: true });
  writeFileSync(stamp, JSON.stringify({ path, size, mtimeMs, version: answer }));
  return answer === version;
}

/**
 * Where node-llama-cpp's prebuilt library for this machine's CPU is, or undefined where it has none.
 *
 * @param {Paths} paths
 * @param {Machine} machine
 * @returns {{ path: string, link: string, wanted?: PlatformPackage } | undefined}
 */
export function findPeer(paths, machine) {
  const build = machine.musl ? undefined : pins.peer.packages[machine.platform];
  if (!build) return undefined;
  const path = platformFolder(paths, build, pins.peer.version);
  const link = join(paths.modules, build.name);
  return existsSync(join(path, "package.json")) ? { path, link } : { path, link, wanted: build };
}

/**
 * Puts a link to the peer's library where node-llama-cpp looks for it. npm removes it whenever it tidies.
 *
 * @param {Paths} paths
 * @param {ReturnType<typeof findPeer>} peer
 */
export function linkPeer(paths, peer) {
  if (!peer || peer.wanted || !existsSync(join(paths.modules, "node-llama-cpp"))) return;
  const { path, link } = peer;
  if (isLinkTo(link, path)) return;
  rmSync(link, { recursive: true, force: true });
  mkdirSync(dirname(link), { recursive: true });
  symlinkSync(path, link, "dir");
}

/**
 * @param {string} link
 * @param {string} path
 */
function isLinkTo(link, path) {
  try {
    return readlinkSync(link) === path;
  } catch (error) {
    if (["ENOENT", "EINVAL", "ENOTDIR"].includes(errorCode(error))) return false;
    throw error;
  }
}

/**
 * @param {Paths} paths
 * @param {PlatformPackage} build
 * @param {string} version
 */
function platformFolder({ platform }, { name }, version) {
  return join(platform, `${name.replace("@", "").replace("/", "-")}-${version}`);
}

/**
 * Fetches one package through npm, by its pinned hash, without what it depends on and without its scripts.
 *
 * @param {Paths} paths
 * @param {PlatformPackage} build
 * @param {string} version
 * @param {Step} step
 */
export async function installPlatformPackage(paths, build, version, step) {
  const { name, integrity } = build;
  const folder = join(paths.platform, `tmp-${basename(name)}-${process.pid}`);
  mkdirSync(folder, { recursive: true });
  const root = { name: "strata-platform", version: "1.0.0", dependencies: { [name]: version } };
  const lock = {
    name: root.name,
    version: root.version,
    lockfileVersion: 3,
    requires: true,
    packages: { "": root, [`node_modules/${name}`]: { version, integrity } },
  };
  writeFileSync(join(folder, "package.json"), JSON.stringify({ ...root, private: true }));
  writeFileSync(join(folder, "package-lock.json"), JSON.stringify(lock));
  step.howFar = () => megabytes(folderBytes(folder));
  await runQuietly({
    what: `npm ci of ${name}`,
    command: "npm",
    args: npmArguments,
    cwd: folder,
    log: join(paths.cache, "logs", "npm.log"),
    fetches: true,
  });
  const target = platformFolder(paths, build, version);
  rmSync(target, { recursive: true, force: true });
  renameSync(join(folder, "node_modules", name), target);
  rmSync(folder, { recursive: true, force: true });
}
