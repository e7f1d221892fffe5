#!/usr/bin/env node
// @ts-check
// The command `strata`, as npm installs it: it finds Bun and runs main.ts with it.
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { which } from "../setup/command.mjs";
import { thisMachine } from "../setup/machine.mjs";
import { findBun } from "../setup/packages.mjs";
import { endLike, runInPlace } from "../setup/passthrough.mjs";
import { pathsOf } from "../setup/paths.mjs";

const bun = [process.versions["bun"] && process.execPath, which("bun"), findBun(pathsOf(), thisMachine()).path].find(
  (path) => path !== undefined && path !== "" && existsSync(path),
);
if (bun === undefined) {
  process.stderr.write("strata runs on Bun, which is not on PATH: install it, for example with npm install -g bun.\n");
  process.exitCode = 1;
} else {
  endLike(await runInPlace(bun, [fileURLToPath(new URL("main.ts", import.meta.url)), ...process.argv.slice(2)]));
}
