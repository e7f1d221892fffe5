// @ts-check
import { readFileSync } from "node:fs";
import { cpus } from "node:os";
import { SetupError, errorCode } from "./errors.mjs";

/**
 * What of this machine decides what is fetched and built.
 *
 * @typedef {object} Machine
 * @property {string} platform such as "linux-x64" or "darwin-arm64"
 * @property {boolean} musl whether the C library is musl
 * @property {boolean} avx2 whether an x64 CPU has AVX2, which Bun's ordinary build needs
 * @property {string} cpu the model and the features of the CPU: the native library is built for these
 */

const supported = ["linux-x64", "linux-arm64", "darwin-arm64"];

/** @param {string} platform */
export function checkPlatform(platform = `${process.platform}-${process.arch}`) {
  if (supported.includes(platform)) return;
  throw new SetupError(
    `Strata runs on Linux (x64, arm64) and macOS (arm64), and this machine is ${platform}: use one of those.`,
  );
}

/**
 * The lines of /proc/cpuinfo that name the CPU and its features, of the first CPU.
 *
 * @param {string} cpuinfo
 */
export function cpuFeatures(cpuinfo) {
  const first = cpuinfo.split(/\n\s*\n/)[0] ?? "";
  const wanted =
    /^(vendor_id|cpu family|model|model name|flags|Features|CPU (implementer|part|variant|architecture))\s*:/;
  return first
    .split("\n")
    .filter((line) => wanted.test(line))
    .map((line) => line.replace(/\s+/g, " ").trim())
    .join("\n");
}

/** @returns {Machine} */
export function thisMachine() {
  const platform = `${process.platform}-${process.arch}`;
  const cpu = process.platform === "linux" ? cpuFeatures(readText("/proc/cpuinfo")) : (cpus()[0]?.model ?? "");
  return { platform, musl: isMusl(), avx2: process.arch !== "x64" || /\bavx2\b/.test(cpu), cpu };
}

/**
 * The name in pins.json of Bun's build for a machine.
 *
 * @param {Machine} machine
 */
export function bunBuild({ platform, musl, avx2 }) {
  return platform + (musl ? "-musl" : "") + (avx2 ? "" : "-baseline");
}

function isMusl() {
  if (process.platform !== "linux") return false;
  // The maps of this very process name its C library; process.report costs 100 times as much.
  return /\/ld-musl-|\/libc\.musl-/.test(readText("/proc/self/maps"));
}

/** @param {string} path */
function readText(path) {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    if (errorCode(error) === "ENOENT" || errorCode(error) === "EACCES") return "";
    throw error;
  }
}
