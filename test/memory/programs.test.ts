/**
 * The central test of memories: random programs of all operations, over many declarations, against a naive memory that
 * keeps token lists and computes everything again. A failing program is shrunk and printed with its seed:
 * `STRATA_SEED` repeats a run, `STRATA_SOAK=1` runs the full count.
 */
import { afterAll, describe, expect, test } from "bun:test";
import fc from "fast-check";
import { readEnvironment, readEnvironmentCount } from "../../lib/environment.ts";
import { Folder } from "../model/help.ts";
import { declarations } from "./declarations.ts";
import { context, MadeUpModel } from "./made-up-architecture.ts";
import { Bench } from "./programs/bench.ts";
import { programs } from "./programs/operations.ts";
import { newTally, type Tally } from "./programs/tally.ts";

const soak = readEnvironment("STRATA_SOAK") !== undefined;
const runs = Math.ceil((soak ? 20_000 : 1000) / declarations.length);
const seed = readEnvironmentCount("STRATA_SEED") ?? Date.now() % 1_000_000_007;
const timeoutMs = soak ? 900_000 : 60_000;

describe(`random programs, ${runs} for each declaration, STRATA_SEED=${seed}`, () => {
  const tallies: (Tally & { name: string })[] = [];
  const sum = (key: keyof Tally) => tallies.reduce((total, tally) => total + tally[key], 0);

  test.each([...declarations])(
    "$name",
    async (declared) => {
      const index = declarations.indexOf(declared);
      using folder = new Folder();
      const madeUp = new MadeUpModel(declared.layers, 7 + index);
      await using bench = new Bench(declared, folder.write("made-up.gguf", madeUp.file()), folder.path, madeUp);
      await fc.assert(
        fc.asyncProperty(programs(declared.options.context ?? context), (operations) => bench.run(operations)),
        { seed: seed + index, numRuns: runs },
      );
      const { tally } = bench;
      tallies.push({ name: declared.name, ...tally });
      // What refuses or fails everything would prove nothing.
      expect(tally.done + tally.feeds).toBeGreaterThan(tally.operations / 2);
      expect(tally.rowsCompared).toBeGreaterThan(tally.operations / 2);
      expect(tally.declined).toBeLessThan(tally.operations / 4);
      // Too rare to ask of a few programs; then all declarations together are asked, below.
      if (runs >= 200) expect(tally.loaded).toBeGreaterThan(runs / 20);
    },
    timeoutMs,
  );

  test("all together did something of everything", () => {
    // Of some declarations alone it cannot be asked.
    if (tallies.length < declarations.length) return;
    expect(sum("loaded")).toBeGreaterThan((runs * declarations.length) / 20);
    for (const key of Object.keys(newTally()) as (keyof Tally)[]) {
      expect({ key, count: sum(key) }).not.toEqual({ key, count: 0 });
    }
  });

  afterAll(() => {
    console.log(
      `programs: STRATA_SEED=${seed}, ${runs} programs for each of ${tallies.length} declarations, ` +
        `${sum("operations")} operations (${sum("refused")} refused, ${sum("declined")} where they may be), ` +
        `${sum("feeds")} batches and ${sum("cancelled")} cancelled, ${sum("cancelledInside")} of them between sub-batches, ` +
        `${sum("meanwhile")} operations meanwhile and ${sum("busy")} refused for it, ${sum("noticed")} planted mistakes, ` +
        `${sum("saved")} saved (${sum("savedTogether")} of several), ${sum("loaded")} loaded (${sum("loadedTogether")}), ` +
        `${sum("filesCancelled")} of these cancelled, ${sum("elsewhere")} loaded under other options and ` +
        `${sum("refusedElsewhere")} refused there, ${sum("rowsCompared")} rows of logits`,
    );
  });
});
