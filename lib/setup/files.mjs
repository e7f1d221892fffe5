// @ts-check
import { createHash } from "node:crypto";
import { createReadStream, lstatSync, readFileSync, readdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { errorCode } from "./errors.mjs";

/**
 * The files below a folder, sorted, as paths relative to it. A folder that is missing has none.
 *
 * @param {string} folder
 * @returns {string[]}
 */
export function filesBelow(folder) {
  /** @type {string[]} */
  const found = [];
  const visit = (/** @type {string} */ relative) => {
    for (const entry of entriesOf(join(folder, relative))) {
      const path = relative ? `${relative}/${entry.name}` : entry.name;
      if (entry.isDirectory()) visit(path);
      else found.push(path);
    }
  };
  visit("");
  return found.sort();
}

/**
 * The bytes of the files below a folder. Files that vanish meanwhile count nothing.
 *
 * @param {string} folder
 */
export function folderBytes(folder) {
  let bytes = 0;
  for (const file of filesBelow(folder)) bytes += statOf(join(folder, file))?.size ?? 0;
  return bytes;
}

/** @param {string} path */
export function statOf(path) {
  return lstatSync(path, { throwIfNoEntry: false });
}

/** @param {string} folder */
export function entriesOf(folder) {
  try {
    return readdirSync(folder, { withFileTypes: true });
  } catch (error) {
    if (errorCode(error) === "ENOENT" || errorCode(error) === "ENOTDIR") return [];
    throw error;
  }
}

/**
 * What a JSON file holds, or undefined where it is missing or cut short.
 *
 * @param {string} path
 * @returns {Record<string, unknown> | undefined}
 */
export function readStamp(path) {
  try {
    const value = JSON.parse(readFileSync(path, "utf8"));
    return typeof value === "object" && value !== null ? value : undefined;
  } catch (error) {
    if (error instanceof SyntaxError || errorCode(error) === "ENOENT" || errorCode(error) === "ENOTDIR")
      return undefined;
    throw error;
  }
}

/**
 * Writes a JSON file so that a reader sees all of it or none.
 *
 * @param {string} path
 * @param {Record<string, unknown>} value
 */
export function writeStamp(path, value) {
  const partial = `${path}.tmp-${process.pid}`;
  writeFileSync(partial, `${JSON.stringify(value, null, 2)}\n`);
  renameSync(partial, path);
}

/**
 * @param {string} path
 * @returns {Promise<string>} in hex
 */
export async function sha256OfFile(path) {
  const hash = createHash("sha256");
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 })) hash.update(chunk);
  return hash.digest("hex");
}

/** @param {(string | Buffer)[]} parts each is hashed with its length, so that the borders count */
export function sha256Of(...parts) {
  const hash = createHash("sha256");
  for (const part of parts) hash.update(`${part.length}:`).update(part);
  return hash.digest("hex");
}

/**
 * Replaces a folder by another on the same disk. If it stops half-way the folder is missing, never mixed.
 *
 * @param {string} from
 * @param {string} to
 */
export function replaceFolder(from, to) {
  rmSync(to, { recursive: true, force: true });
  renameSync(from, to);
}

/**
 * Removes what an interrupted set-up left half-done in a folder: everything that is named tmp-*.
 *
 * @param {string} folder
 */
export function removeLeftovers(folder) {
  for (const entry of entriesOf(folder)) {
    if (entry.name.startsWith("tmp-")) rmSync(join(folder, entry.name), { recursive: true, force: true });
  }
}
