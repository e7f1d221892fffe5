import { join } from "node:path";
import { main } from "../../lib/cli/main.ts";
import { checkout } from "../../lib/setup/paths.mjs";
import { keptOutput } from "./streams.ts";

/** The model that comes with the repository. */
export const tinyHybrid = join(checkout, "test/fixtures/tiny-hybrid/model.gguf");

/** The command as a person runs it. */
export const strataCommand = [process.execPath, join(checkout, "lib", "cli", "main.ts")];

export interface Ended {
  code: number;
  stdout: string;
  stderr: string;
}

/** Runs the command in a process of its own. */
export async function strata(args: readonly string[], input = ""): Promise<Ended> {
  const stdin = new TextEncoder().encode(input);
  const child = Bun.spawn([...strataCommand, ...args], { stdin, stdout: "pipe", stderr: "pipe" });
  const [stdout, stderr, code] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  return { code, stdout, stderr };
}

/** Runs the command in this process. */
export async function strataHere(...args: string[]): Promise<Ended> {
  const { output, stdout, stderr } = keptOutput();
  const code = await main(args, output);
  return { code, stdout: stdout.text, stderr: stderr.text };
}
