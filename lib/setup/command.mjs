// @ts-check
import { spawn, spawnSync } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { endOf } from "../cli/passthrough.mjs";
import { SetupError } from "./errors.mjs";
import { noteChild } from "./lock.mjs";

const tail_lines = 25;

/**
 * The environment for the programs that set-up runs: this one, less what npm and git tell their own children. A
 * nested npm would take the outer one's settings for its own, and git a hook's repository.
 *
 * @param {Record<string, string>} [extra]
 */
export function childEnvironment(extra = {}) {
  /** @type {Record<string, string | undefined>} */
  const env = { ...process.env };
  const inherited =
    /^(npm_(package|lifecycle|command|execpath|node_execpath|config_(local_prefix|loglevel|json|dry_run))|INIT_CWD$|GIT_(DIR|WORK_TREE|INDEX_FILE|PREFIX|OBJECT_DIRECTORY)$)/;
  for (const name of Object.keys(env)) if (inherited.test(name)) delete env[name];
  return { ...env, ...extra };
}

/**
 * What a short command prints, or undefined where it fails or is not there.
 *
 * @param {string} command
 * @param {string[]} args
 */
export function answerOf(command, args) {
  const result = spawnSync(command, args, { encoding: "utf8", env: childEnvironment(), timeout: 60_000 });
  return result.status === 0 ? result.stdout.trim() : undefined;
}

/**
 * A long command of set-up.
 *
 * @typedef {object} Command
 * @property {string} what it is called in an error, such as "npm ci"
 * @property {string} command
 * @property {string[]} args
 * @property {string} cwd
 * @property {Record<string, string>} [env]
 * @property {string} log where all that it said is kept when it fails
 * @property {boolean} [fetches] whether it may fail for want of a network
 */

/**
 * Runs a command of set-up to its end. What it says is only shown if it fails.
 *
 * @param {Command} options
 * @returns {Promise<void>}
 */
export async function runQuietly({ what, command, args, cwd, env = {}, log, fetches = false }) {
  const child = spawn(command, args, { cwd, env: childEnvironment(env), stdio: ["ignore", "pipe", "pipe"] });
  let said = "";
  const keep = (/** @type {Buffer} */ chunk) => {
    said = (said + chunk.toString()).slice(-1_000_000);
  };
  child.stdout.on("data", keep);
  child.stderr.on("data", keep);
  noteChild(child.pid);
  const { code, signal } = await endOf(child, command);
  noteChild(undefined);
  if (code === 0) return;
  mkdirSync(join(log, ".."), { recursive: true });
  writeFileSync(log, said);
  const settings = Object.entries(env).map(([name, value]) => `${name}=${quoted(value)}`);
  const line = [...settings, ...[command, ...args].map(quoted)].join(" ");
  throw new SetupError(
    knownCause(said, fetches) ??
      `${what} failed (${signal ?? `exit code ${code}`}). The end of what it said:\n${tailOf(said)}\n` +
        `All of it is in ${log}. To run it by hand: cd ${quoted(cwd)} && ${line}\n` +
        `To go on, run the same command again: what is done already is kept.`,
  );
}

/**
 * One sentence for the failures that have nothing to do with Strata.
 *
 * @param {string} said what the failed command printed
 * @param {boolean} fetches whether it had to reach a package registry
 */
export function knownCause(said, fetches) {
  if (/ENOSPC|No space left on device/i.test(said)) {
    return "The disk is full: set-up needs about 2 GB; make room, or put the cache elsewhere with STRATA_CACHE.";
  }
  if (!fetches) return undefined;
  const network =
    /ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ENETUNREACH|EHOSTUNREACH|ETIMEDOUT|ERR_SOCKET_TIMEOUT|Temporary failure in name resolution|Name or service not known|Failed to establish a new connection|NewConnectionError|Connection(Reset|Refused)?Error|Read timed out|Network is unreachable/i;
  const reason = network.exec(said)?.[0];
  if (reason) {
    return `A package registry cannot be reached (${reason}): connect this machine to the network, or tell npm and pip of its proxy, and run the same command again.`;
  }
  if (/THESE PACKAGES DO NOT MATCH THE HASHES|EINTEGRITY/.test(said)) {
    return "A fetched package is not the one that is pinned (its hash differs): clear the caches (npm cache clean --force, python3 -m pip cache purge) and run the same command again.";
  }
  return undefined;
}

/** @param {string} said */
function tailOf(said) {
  const lines = said
    .replace(/\r/g, "\n")
    .split("\n")
    .filter((line) => line.trim() !== "");
  return lines
    .slice(-tail_lines)
    .map((line) => `  ${line}`)
    .join("\n");
}

/** @param {string} word */
function quoted(word) {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}
