// @ts-check
import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { endOf } from "./command.mjs";

/**
 * Runs a program in the place of this one: its standard streams, signals and exit are the program's.
 *
 * @param {string} program
 * @param {string[]} args
 * @param {Record<string, string>} [env] beside this process's own
 * @param {string} [cwd]
 * @returns {Promise<import("./command.mjs").End>}
 */
export async function runInPlace(program, args, env = {}, cwd = process.cwd()) {
  const child = spawn(program, args, { cwd, env: { ...process.env, ...env }, stdio: "inherit" });
  forwardSignals(child);
  return endOf(child, program);
}

/**
 * Ends this process as another one ended.
 *
 * @param {import("./command.mjs").End} end
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
