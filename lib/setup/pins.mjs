// @ts-check
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { checkout } from "./paths.mjs";

/** @param {string} path a file in the checkout */
const readJson = (path) => JSON.parse(readFileSync(join(checkout, path), "utf8"));

/**
 * @typedef {{ name: string, integrity: string }} PlatformPackage
 * @typedef {{ package: string, sha256: string, member: string, bytes: number }} ModelPart
 * @typedef {{ file: string, bytes: number, sha256: string, parts: ModelPart[] }} ModelPin
 * @typedef {object} Pins
 * @property {string} node the lowest version of Node
 * @property {{ version: string, megabytes: number, packages: Record<string, PlatformPackage> }} bun
 * @property {{ version: string, packages: Record<string, PlatformPackage> }} peer
 * @property {{ version: string, megabytes: number, files: number, releaseFiles: number, sha256: string[] }} zig files: how many a first build compiles, of the library here and of the packages
 * @property {ModelPin[]} models
 * @property {{ package: string, sha256: string, members: Record<string, string> }} terms
 *
 * @typedef {object} GgmlManifest
 * @property {string} version of ggml
 * @property {string} package the npm package that carries the source
 * @property {string} packageVersion
 * @property {string} bundle the git bundle in that package
 * @property {string} bundleSha256
 * @property {string} commit
 * @property {string[]} paths what of the commit is unpacked
 */

/** Every version and hash of what is fetched; npm's own packages are pinned by package-lock.json. */
export const pins = /** @type {Pins} */ (readJson("lib/setup/pins.json"));

/** Where ggml's source comes from. */
export const ggmlManifest = /** @type {GgmlManifest} */ (readJson("ggml/manifest.json"));
