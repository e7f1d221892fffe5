import { cpSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { checkout } from "../../lib/setup/paths.mjs";
import { which } from "../../lib/cli/passthrough.mjs";

/** The Node that runs set-up; the tests run in Bun. */
export const node = process.env["STRATA_NODE"] ?? which("node") ?? "node";

/** Starting npm or pip takes seconds on a busy machine. */
export const patience_ms = 120_000;

/** A temporary folder that is removed when it goes out of scope. */
export class Folder implements Disposable {
  readonly path = mkdtempSync(join(tmpdir(), "strata-setup-"));

  file(name: string, text: string): string {
    const path = join(this.path, name);
    mkdirSync(join(path, ".."), { recursive: true });
    writeFileSync(path, text);
    return path;
  }

  /** A checkout as a clone leaves it, as far as set-up reads it: nothing is installed or built. */
  clone(): string {
    for (const name of [
      "package.json",
      "package-lock.json",
      ".npmrc",
      "build.zig",
      "ggml",
      "lib/setup",
      "lib/cli/passthrough.mjs",
    ]) {
      cpSync(join(checkout, name), join(this.path, name), { recursive: true });
    }
    mkdirSync(join(this.path, "zig"));
    return join(this.path, "lib", "setup", "run.mjs");
  }

  /** A PATH on which there are only these programs. */
  programs(...names: string[]): string {
    const folder = join(this.path, "bin");
    mkdirSync(folder, { recursive: true });
    for (const name of names)
      symlinkSync(name === "python3" ? realPython() : (which(name) ?? name), join(folder, name));
    return folder;
  }

  [Symbol.dispose](): void {
    rmSync(this.path, { recursive: true, force: true });
  }
}

/** The Python itself: the one on PATH may be a script that needs other programs to find it. */
function realPython(): string {
  return Bun.spawnSync(["python3", "-c", "import sys; print(sys.executable)"]).stdout.toString().trim();
}

/** How a program ended and what it said. A clean one gets nothing of this process's environment. */
export async function outcomeOf(
  program: string,
  args: string[],
  env: Record<string, string | undefined> = {},
  stdin = "",
  { cwd, clean = false }: { cwd?: string; clean?: boolean } = {},
) {
  const child = Bun.spawn([program, ...args], {
    env: clean ? env : { ...process.env, ...env },
    ...(cwd === undefined ? {} : { cwd }),
    stdin: new TextEncoder().encode(stdin),
    stdout: "pipe",
    stderr: "pipe",
  });
  const [stdout, stderr, code] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  return { stdout, stderr, code, signal: child.signalCode };
}
