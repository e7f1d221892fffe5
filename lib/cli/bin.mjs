#!/usr/bin/env node
// @ts-check
// The command `strata`, as npm installs it: it finds Bun and runs main.ts with it.
import { delimiter, dirname } from "node:path";
import { fileURLToPath } from "node:url";
import { ProgramError, endLike, runInPlace, which } from "./passthrough.mjs";

// Bun may run this file itself, or be installed as a package beside this command.
const path = [dirname(process.argv[1] ?? ""), process.env["PATH"] ?? ""].join(delimiter);
const bun = process.versions["bun"] ? process.execPath : which("bun", path);
try {
  if (bun === undefined) {
    throw new ProgramError(
      "strata runs on Bun, which is not on PATH: install it, for example with npm install -g bun.",
    );
  }
  endLike(await runInPlace(bun, [fileURLToPath(new URL("main.ts", import.meta.url)), ...process.argv.slice(2)]));
} catch (error) {
  if (!(error instanceof ProgramError)) throw error;
  process.stderr.write(`${error.message}\n`);
  process.exitCode = 1;
}
