import { expect, test } from "bun:test";
import { resolve } from "node:path";
import { readEnvironment } from "../../lib/environment.ts";

const root = resolve(import.meta.dir, "../..");

test("the library compiles for aarch64 Linux and aarch64 macOS", async () => {
  const zig = readEnvironment("STRATA_ZIG") ?? "zig";
  const ggml = readEnvironment("STRATA_GGML");
  const child = Bun.spawn(
    [zig, "build", "cross", "--color", "off", ...(ggml === undefined ? [] : [`-Dggml=${ggml}`])],
    {
      cwd: root,
      stdout: "pipe",
      stderr: "pipe",
    },
  );
  const [said] = await Promise.all([child.stderr.text(), child.exited]);
  expect(child.exitCode, said.slice(-4000)).toBe(0);
}, 1_800_000);
