import { expect, setDefaultTimeout, test } from "bun:test";
import { resolve } from "node:path";
import { readEnvironment, readEnvironmentCount } from "../../lib/environment.ts";

setDefaultTimeout(300_000);

const seed = readEnvironmentCount("STRATA_SEED") ?? Math.floor(Math.random() * 1e6) + 1;
const cases = readEnvironment("STRATA_SOAK") === undefined ? 600 : 6000;

test(`memory operations compute or refuse ${cases} random operands (STRATA_SEED=${seed})`, async () => {
  const child = Bun.spawn(
    [process.execPath, resolve(import.meta.dir, "memory_operations.child.ts"), `${seed}`, `${cases}`],
    { stdout: "pipe", stderr: "pipe" },
  );
  const [output, errors] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  const lines = errors.trimEnd().split("\n");
  const at = `seed ${seed}, ${lines.findLast((line) => line.startsWith("case "))}: ${lines.slice(-12).join("\n")}`;
  expect(child.exitCode, at).toBe(0);
  const { computed, refused } = JSON.parse(output) as Record<"computed" | "refused", Record<string, number>>;
  // Of no operation everything is refused, or everything taken.
  const all = ["attend", "convolve", "scan", "scanMamba1", "deltaNet", "wkv6", "wkv7", "linearRecurrence", "previous"];
  for (const operation of all) {
    expect(computed[operation] ?? 0, operation).toBeGreaterThan(0);
    expect(refused[operation] ?? 0, operation).toBeGreaterThan(0);
  }
});
