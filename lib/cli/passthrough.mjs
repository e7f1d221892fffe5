// @ts-check
import { spawn } from "node:child_process";
import { accessSync, constants, readFileSync } from "node:fs";
import { delimiter, join } from "node:path";

// Other programs run by this one. Plain Node reads this file, in a checkout and where a package is installed.

/** @typedef {{ code: number | null, signal: NodeJS.Signals | null }} End how a program ended */

/** A program that cannot be started; the message says what to do. */
export class ProgramError extends Error {
  /** @param {string} message */
  constructor(message) {
    super(message);
    this.name = "ProgramError";
  }
}

/**
 * Runs a program in the place of this one: its standard streams, signals and exit are the program's.
 *
 * @param {string} program
 * @param {string[]} args
 * @param {Record<string, string>} [env] beside this process's own
 * @param {string} [cwd]
 * @returns {Promise<End>}
 */
export async function runInPlace(program, args, env = {}, cwd = process.cwd()) {
  const child = spawn(program, args, { cwd, env: { ...process.env, ...env }, stdio: "inherit" });
  forwardSignals(child);
  return endOf(child, program);
}

/**
 * Ends this process as another one ended.
 *
 * @param {End} end
 */
export function endLike({ code, signal }) {
  process.exitCode = code ?? 1;
  if (!signal) return;
  process.removeAllListeners(signal);
  process.kill(process.pid, signal);
}

/** @param {import("node:child_process").ChildProcess} child */
function forwardSignals(child) {
  for (const signal of /** @type {const} */ (["SIGTERM", "SIGHUP", "SIGUSR2"])) {
    process.removeAllListeners(signal);
    process.on(signal, () => void child.kill(signal));
  }
  for (const signal of /** @type {const} */ (["SIGINT", "SIGQUIT"])) {
    process.removeAllListeners(signal);
    process.on(signal, () => {
      // Ctrl-C in a terminal reaches the child by itself, and a second one would end what the first only stops.
      if (!isInTerminalForeground()) child.kill(signal);
    });
  }
}

/** Whether this process is of the group that the terminal sends its signals to. */
function isInTerminalForeground() {
  if (process.platform !== "linux") return process.stdin.isTTY === true;
  const stat = readFileSync("/proc/self/stat", "utf8");
  const [, , group, , , foreground] = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return group === foreground;
}

/**
 * Waits for a child's end, and ends it if this process is told to end.
 *
 * @param {import("node:child_process").ChildProcess} child
 * @param {string} command
 * @returns {Promise<End>}
 */
export function endOf(child, command) {
  return new Promise((resolve, reject) => {
    const end = () => void child.kill("SIGTERM");
    process.on("exit", end);
    child.on("error", (error) => {
      process.off("exit", end);
      reject(new ProgramError(`${command} could not be started (${codeOf(error) || error.message}): install it.`));
    });
    child.on("close", (code, signal) => {
      process.off("exit", end);
      resolve({ code, signal });
    });
  });
}

/**
 * The full path of a program that is on PATH, or undefined.
 *
 * @param {string} name
 * @param {string} [path]
 */
export function which(name, path = process.env["PATH"] ?? "") {
  for (const folder of path.split(delimiter)) {
    if (folder && isProgram(join(folder, name))) return join(folder, name);
  }
  return undefined;
}

/** @param {string} path */
function isProgram(path) {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch (error) {
    if (["ENOENT", "ENOTDIR", "EACCES", "ELOOP"].includes(codeOf(error))) return false;
    throw error;
  }
}

/**
 * @param {unknown} error
 * @returns {string} the code of a system error, such as "ENOENT", or ""
 */
function codeOf(error) {
  return error instanceof Error && "code" in error ? String(error.code) : "";
}
