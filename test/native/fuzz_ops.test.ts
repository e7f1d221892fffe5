/**
 * No input reaches a ggml assert: random operands for every graph operation, built and computed in child processes.
 * A child that dies names its operation, seed and case on its error stream, so that the case can be run again:
 * `zig-out/bin/strata-fuzz-ops <op> <seed> <case> 1`. `STRATA_SEED` repeats a run, `STRATA_SOAK=1` runs the full count.
 */
import { describe, expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { join } from "node:path";

const program = join(import.meta.dir, "../../zig-out/bin/strata-fuzz-ops");
const soak = process.env.STRATA_SOAK === "1";
const cases = soak ? 1000 : 100;
const seed = process.env.STRATA_SEED ?? String(Date.now() % 1_000_000_007);
const timeoutMs = soak ? 600_000 : 60_000;
/** Below this share of accepted cases the checks, or the drafts, refuse too much for the run to prove anything. */
const acceptedShareMin = 0.15;

interface Outcome {
  code: number | null;
  signal: string | null;
  output: string;
  errors: string;
}

async function run(...args: string[]): Promise<Outcome> {
  if (!existsSync(program)) {
    throw new Error(`${program} is missing: \`npm test\` builds it (\`zig build fuzz\`)`);
  }
  const child = Bun.spawn([program, ...args], { stdout: "pipe", stderr: "pipe", timeout: timeoutMs - 5000 });
  const [output, errors] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  return { code: child.exitCode, signal: child.signalCode === null ? null : String(child.signalCode), output, errors };
}

/** What a failed child was doing, and what it said last. */
function describeDeath(op: string, { code, signal, errors }: Outcome): string {
  const lines = errors.trimEnd().split("\n");
  const last = lines.findLast((line) => line.startsWith(`${op} `));
  const number = last?.slice(op.length + 1) ?? "unknown";
  const how = signal === null ? `exited with ${code}` : `was ended by ${signal}`;
  const said = lines.filter((line) => !line.startsWith(`${op} `)).slice(0, 5);
  return [`${op}: the child ${how} in case ${number} of seed ${seed}`, ...said].join("\n");
}

const listed = existsSync(program) ? Bun.spawnSync([program, "list"]).stdout.toString().trim().split("\n") : [];

describe(`graph operations, ${cases} random cases each, STRATA_SEED=${seed}`, () => {
  test("the fuzzer lists the operations", async () => {
    console.log(`fuzz_ops: STRATA_SEED=${seed}, ${cases} cases for each of ${listed.length} operations`);
    const { code, output } = await run("list");
    expect(code).toBe(0);
    expect(output.trim().split("\n").length).toBeGreaterThan(50);
  });

  for (const op of listed) {
    test(
      op,
      async () => {
        const outcome = await run(op, seed, "0", String(cases));
        if (outcome.code !== 0) throw new Error(describeDeath(op, outcome));
        const counts = /^(\w+) ok=(\d+) refused=(\d+)$/m.exec(outcome.output);
        expect(counts?.[1]).toBe(op);
        const accepted = Number(counts?.[2]);
        expect(accepted + Number(counts?.[3])).toBe(cases);
        expect(accepted).toBeGreaterThanOrEqual(cases * acceptedShareMin);
      },
      timeoutMs,
    );
  }

  test("an unknown operation is refused", async () => {
    const { code, errors } = await run("no_such_op", seed, "0", "1");
    expect(code).toBe(2);
    expect(errors).toContain("no_such_op");
  });
});
