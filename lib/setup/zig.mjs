// @ts-check
import { existsSync, mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { which } from "../cli/passthrough.mjs";
import { answerOf, runQuietly } from "./command.mjs";
import { folderBytes, replaceFolder } from "./files.mjs";
import { pins } from "./pins.mjs";
import { megabytes } from "./progress.mjs";

/**
 * @typedef {import("./paths.mjs").Paths} Paths
 * @typedef {import("./progress.mjs").Step} Step
 */

/** pip's settings, stronger than a person's own: those may forbid what --target needs. */
export const pipEnvironment = {
  PIP_USER: "0",
  PIP_REQUIRE_VIRTUALENV: "0",
  PIP_NO_INPUT: "1",
  PIP_DISABLE_PIP_VERSION_CHECK: "1",
  PIP_ROOT_USER_ACTION: "ignore",
  PIP_PROGRESS_BAR: "off",
};

/**
 * The Zig to build with: one on PATH if it is the pinned version, or the fetched one.
 *
 * @param {Paths} paths
 * @returns {{ path: string, missing: boolean }}
 */
export function findZig(paths) {
  const found = which("zig");
  if (found && answerOf(found, ["version"]) === pins.zig.version) return { path: found, missing: false };
  const path = join(zigFolder(paths), "ziglang", "zig");
  return { path, missing: !existsSync(path) };
}

/** @param {Paths} paths */
const zigFolder = ({ zig }) => `${zig}-${pins.zig.version}`;

/**
 * @param {Paths} paths
 * @param {Step} step
 */
export async function installZig(paths, step) {
  const folder = join(paths.cache, `tmp-zig-${process.pid}`);
  const target = join(folder, "target");
  // pip unpacks to the temporary folder first, and there it may find only a few MB.
  const temporary = join(folder, "pip");
  mkdirSync(temporary, { recursive: true });
  step.howFar = () => `${megabytes(folderBytes(folder))} of about ${pins.zig.megabytes} MB`;
  const hashes = pins.zig.sha256.map((hash) => ` --hash=sha256:${hash}`).join("");
  const requirements = join(folder, "requirements.txt");
  writeFileSync(requirements, `ziglang==${pins.zig.version}${hashes}\n`);
  await runQuietly({
    what: `pip install of Zig ${pins.zig.version}`,
    command: "python3",
    args: [
      "-m",
      "pip",
      "install",
      "--target",
      target,
      "--no-deps",
      "--only-binary=:all:",
      "--no-compile",
      "--require-hashes",
      "-r",
      requirements,
    ],
    cwd: paths.root,
    env: { ...pipEnvironment, TMPDIR: temporary },
    log: join(paths.cache, "logs", "pip.log"),
    fetches: true,
  });
  replaceFolder(target, zigFolder(paths));
  rmSync(folder, { recursive: true, force: true });
}
