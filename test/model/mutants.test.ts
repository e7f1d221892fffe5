/**
 * Damaged model files load and compute, or are refused by a sentence that names the file; no process dies of one.
 * `bun test/model/mutants.ts SEED CASE 1` runs one case again. `STRATA_SEED` repeats a run, `STRATA_SOAK` runs ten times as many.
 */
import { expect, test } from "bun:test";
import { join } from "node:path";
import { readEnvironment } from "../../lib/environment.ts";

const cases = readEnvironment("STRATA_SOAK") === undefined ? 2000 : 20_000;
const seed = Number(readEnvironment("STRATA_SEED") ?? Date.now() % 1_000_000_007);
const group = 250;

interface Counts {
  loaded: number;
  computed: number;
  refused: number;
  faults: string[];
}

async function runGroup(first: number): Promise<Counts> {
  const script = join(import.meta.dir, "mutants.ts");
  const child = Bun.spawn([process.execPath, script, `${seed}`, `${first}`, `${group}`], {
    stdout: "pipe",
    stderr: "pipe",
  });
  const [said, errors] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  if (child.exitCode === 0) return JSON.parse(said) as Counts;
  const lines = errors.trimEnd().split("\n");
  const last = lines.findLast((line) => line.startsWith("case ")) ?? "before the first case";
  const rest = lines.filter((line) => !line.startsWith("case ")).slice(0, 8);
  const how = child.signalCode ?? `exit code ${child.exitCode}`;
  throw new Error([`seed ${seed}: the child died (${how}) in ${last}`, ...rest].join("\n"));
}

test(`${cases} damaged model files`, async () => {
  console.log(`mutants: STRATA_SEED=${seed}, ${cases} cases`);
  const all: Counts = { loaded: 0, computed: 0, refused: 0, faults: [] };
  for (let first = 0; first < cases; first += group) {
    const counts = await runGroup(first);
    all.loaded += counts.loaded;
    all.computed += counts.computed;
    all.refused += counts.refused;
    all.faults.push(...counts.faults);
  }
  expect(all.faults).toEqual([]);
  expect(all.loaded + all.refused).toBe(cases);
  // Damage that nothing notices, or that nothing survives, would prove little.
  expect(all.refused).toBeGreaterThan(cases * 0.3);
  expect(all.computed).toBeGreaterThan(cases * 0.1);
}, 600_000);
