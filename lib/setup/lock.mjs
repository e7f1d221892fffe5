// @ts-check
import { mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { SetupError, errorCode } from "./errors.mjs";

/**
 * A lock between processes of one machine: a file that names its holder, and the program that the holder runs. When
 * both are gone, killed or crashed, the lock is taken over.
 *
 * @typedef {{ pid: number, started: string }} Process
 * @typedef {Process & { child?: Process | undefined }} Holder
 */

const poll_ms = 200;
/** A lock file is empty between its creation and the write of its holder: this long, at most. */
const unnamed_ms_max = 5_000;

/**
 * Runs `work` while holding the lock, and waits for it before if another process holds it.
 *
 * @template T
 * @param {string} path the lock file
 * @param {() => Promise<T>} work
 * @param {(text: string) => unknown} [say] told once when it has to wait, and when it goes on
 * @returns {Promise<T>}
 */
export async function withLock(path, work, say = (text) => process.stderr.write(`${text}\n`)) {
  mkdirSync(dirname(path), { recursive: true });
  let waited = false;
  while (!take(path)) {
    const holder = holderOf(path);
    if (isStale(path, holder)) {
      removeStale(path);
      continue;
    }
    if (!waited) say(`${whoHolds(holder)}: waiting for it to end.`);
    waited = true;
    await new Promise((resolve) => setTimeout(resolve, poll_ms));
  }
  if (waited) say("The other set-up has ended: going on.");
  const release = () => {
    held.delete(path);
    removeOwn(path);
  };
  held.add(path);
  process.on("exit", release);
  try {
    return await work();
  } finally {
    process.off("exit", release);
    release();
  }
}

/** The locks that this process holds. @type {Set<string>} */
const held = new Set();

/**
 * Notes in the locks that this process holds which program it runs: that one may outlive it, and go on writing.
 *
 * @param {number | undefined} pid undefined when it has ended
 */
export function noteChild(pid) {
  const child = pid === undefined ? undefined : { pid, started: startOf(pid) };
  for (const path of held)
    writeFileSync(path, JSON.stringify({ pid: process.pid, started: startOf(process.pid), child }));
}

/** @param {string} path */
function take(path) {
  const holder = { pid: process.pid, started: startOf(process.pid) };
  try {
    writeFileSync(path, JSON.stringify(holder), { flag: "wx" });
    return true;
  } catch (error) {
    if (errorCode(error) === "EEXIST") return false;
    throw new SetupError(`Set-up cannot write its lock ${path} (${errorCode(error)}): make that folder writable.`);
  }
}

/**
 * @param {string} path
 * @returns {Holder | undefined} undefined where the lock is gone or does not name its holder
 */
function holderOf(path) {
  try {
    const value = JSON.parse(readFileSync(path, "utf8"));
    return typeof value?.pid === "number" && value.pid > 0 ? value : undefined;
  } catch (error) {
    if (errorCode(error) === "ENOENT" || error instanceof SyntaxError) return undefined;
    throw error;
  }
}

/** @param {Holder | undefined} holder */
function whoHolds(holder) {
  if (!holder) return "Another set-up is starting";
  if (isAlive(holder)) return `Another set-up is running (process ${holder.pid})`;
  return `A part of an interrupted set-up is still running (process ${holder.child?.pid})`;
}

/**
 * @param {string} path
 * @param {Holder | undefined} holder
 */
function isStale(path, holder) {
  if (holder) return !isAlive(holder) && !(holder.child && isAlive(holder.child));
  const stat = statSync(path, { throwIfNoEntry: false });
  return stat !== undefined && Date.now() - stat.mtimeMs > unnamed_ms_max;
}

/** @param {Process} one */
function isAlive({ pid, started }) {
  try {
    process.kill(pid, 0);
  } catch (error) {
    if (errorCode(error) === "ESRCH") return false;
    if (errorCode(error) !== "EPERM") throw error;
  }
  // The number may have been given to another process since.
  return startOf(pid) === started;
}

/**
 * When a process started, in the kernel's ticks since boot; "" where that cannot be known, and for a process that
 * has ended and only waits for its parent to notice.
 *
 * @param {number} pid
 */
function startOf(pid) {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    // The second field is the program's name in brackets, which may itself hold spaces and brackets.
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    return fields[0] === "Z" || fields[0] === "X" ? "" : (fields[19] ?? "");
  } catch (error) {
    if (["ENOENT", "ESRCH", "EACCES"].includes(errorCode(error))) return "";
    throw error;
  }
}

/**
 * Removes a stale lock. Two that wait may both find it stale, and the slower must not remove the lock that the
 * faster one has taken by then: so one at a time, and each looks again.
 *
 * @param {string} path
 */
function removeStale(path) {
  const guard = `${path}.takeover`;
  if (!take(guard)) {
    if (isStale(guard, holderOf(guard))) rmSync(guard, { force: true });
    return;
  }
  try {
    if (isStale(path, holderOf(path))) rmSync(path, { force: true });
  } finally {
    rmSync(guard, { force: true });
  }
}

/** @param {string} path */
function removeOwn(path) {
  if (holderOf(path)?.pid === process.pid) rmSync(path, { force: true });
}
