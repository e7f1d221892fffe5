// @ts-check
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

/** The folder of the checkout that this file belongs to. */
export const checkout = fileURLToPath(new URL("../..", import.meta.url)).replace(/[\\/]$/, "");

/**
 * Where set-up puts what it fetches and builds. All of it can be deleted at any time.
 *
 * @typedef {object} Paths
 * @property {string} root the checkout
 * @property {string} cache what is fetched and half-built: `.cache`, or STRATA_CACHE
 * @property {string} modules npm's packages
 * @property {string} platform npm's packages for this machine alone: Bun, the peer's library
 * @property {string} zig the Zig toolchain
 * @property {string} ggml ggml's unpacked source
 * @property {string} zigCache Zig's cache of this project
 * @property {string} zigGlobalCache Zig's cache of its own libraries
 * @property {string} models the real models
 * @property {string} library the native library
 * @property {string} libraryStamp what the native library was built from
 * @property {string} releases the libraries of the packages, each in a folder of its own
 * @property {string} packages the packages' archives
 */

/**
 * @param {string} [root]
 * @param {Record<string, string | undefined>} [env]
 * @returns {Paths}
 */
export function pathsOf(root = checkout, env = process.env) {
  const cache = env["STRATA_CACHE"] ? resolve(env["STRATA_CACHE"]) : join(root, ".cache");
  const extension = process.platform === "darwin" ? "dylib" : "so";
  return {
    root,
    cache,
    modules: join(root, "node_modules"),
    platform: join(cache, "npm"),
    zig: join(cache, "zig-toolchain"),
    ggml: join(cache, "ggml"),
    zigCache: env["ZIG_LOCAL_CACHE_DIR"] || join(cache, "zig"),
    zigGlobalCache: env["ZIG_GLOBAL_CACHE_DIR"] || join(cache, "zig-global"),
    models: join(cache, "models"),
    library: join(root, "zig-out", "lib", `libstrata.${extension}`),
    libraryStamp: join(root, "zig-out", "strata-build.json"),
    releases: join(root, "zig-out", "release"),
    packages: join(cache, "packages"),
  };
}
