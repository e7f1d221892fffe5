// @ts-check
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import { runQuietly } from "./command.mjs";
import { SetupError } from "./errors.mjs";
import { readStamp, replaceFolder, sha256Of, sha256OfFile, writeStamp } from "./files.mjs";
import { ggmlManifest } from "./pins.mjs";

/**
 * ggml's source: a commit in the git bundle that an npm package carries, of which the parts that are built are
 * unpacked.
 *
 * @typedef {import("./paths.mjs").Paths} Paths
 */

const stampName = "strata.json";

/** What the unpacked folder must have come from. */
function sourceKey() {
  const { commit, bundleSha256, paths } = ggmlManifest;
  return sha256Of(commit, bundleSha256, ...paths);
}

/** @param {Paths} paths */
export function ggmlIsUnpacked({ ggml }) {
  return readStamp(join(ggml, stampName))?.["source"] === sourceKey() && existsSync(join(ggml, "src", "ggml.c"));
}

/** @param {Paths} paths */
export async function unpackGgml(paths) {
  const { commit, version } = ggmlManifest;
  await withSourceTree(paths, ggmlManifest.paths, (tree) => {
    const source = join(tree, "ggml");
    const found = versionOf(readFileSync(join(source, "CMakeLists.txt"), "utf8"));
    if (found !== version) {
      throw new SetupError(
        `The unpacked ggml is version ${found}, and ggml/manifest.json wants ${version}: correct it.`,
      );
    }
    renameSync(join(tree, "LICENSE"), join(source, "LICENSE"));
    writeStamp(join(source, stampName), { source: sourceKey(), version, commit });
    replaceFolder(source, paths.ggml);
  });
}

/**
 * Checks parts of the bundle's tree out, which is llama.cpp's.
 *
 * @param {Paths} paths
 * @param {readonly string[]} wanted git's patterns of paths
 * @param {(tree: string) => void} take moves what it wants to keep: the folder goes afterwards
 */
export async function withSourceTree(paths, wanted, take) {
  const bundle = join(paths.modules, ggmlManifest.package, ggmlManifest.bundle);
  await checkBundle(bundle);
  const folder = join(paths.cache, `tmp-ggml-${process.pid}`);
  const tree = join(folder, "tree");
  const repository = join(folder, "repository");
  mkdirSync(tree, { recursive: true });
  const git = (/** @type {string[]} */ ...args) =>
    runQuietly({
      what: `Unpacking ggml (git ${args[0]})`,
      command: "git",
      // A person's own settings may change line ends or run hooks.
      args: ["-c", "core.autocrlf=false", "-c", "core.hooksPath=/dev/null", "-c", "init.templateDir=", ...args],
      cwd: folder,
      env: { GIT_TERMINAL_PROMPT: "0", GIT_ATTR_NOSYSTEM: "1" },
      log: join(paths.cache, "logs", "git.log"),
    });
  await git("init", "--quiet", "--bare", repository);
  await git("--git-dir", repository, "fetch", "--quiet", "--no-tags", bundle, "HEAD");
  const { commit } = ggmlManifest;
  await git("--git-dir", repository, "--work-tree", tree, "checkout", "--quiet", commit, "--", ...wanted);
  take(tree);
  rmSync(folder, { recursive: true, force: true });
}

/** @param {string} bundle */
async function checkBundle(bundle) {
  if (!existsSync(bundle)) {
    throw new SetupError(
      `${bundle} is missing, which holds ggml's source: remove node_modules and run the same command again.`,
    );
  }
  const hash = await sha256OfFile(bundle);
  if (hash === ggmlManifest.bundleSha256) return;
  throw new SetupError(
    `${bundle} is not the pinned one (sha256 ${hash}, expected ${ggmlManifest.bundleSha256}): remove node_modules and run the same command again.`,
  );
}

/** @param {string} cmake ggml's CMakeLists.txt */
export function versionOf(cmake) {
  return ["MAJOR", "MINOR", "PATCH"]
    .map((part) => new RegExp(`set\\(GGML_VERSION_${part} (\\d+)\\)`).exec(cmake)?.[1] ?? "?")
    .join(".");
}
