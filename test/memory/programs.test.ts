/**
 * The central test of memories: random programs of all operations, over many declarations, against a naive memory that
 * keeps token lists and computes everything again. A failing program is shrunk and printed with its seed:
 * `STRATA_SEED` repeats a run, `STRATA_SOAK=1` runs the full count.
 */
import { afterAll, describe, expect, test } from "bun:test";
import fc from "fast-check";
import { Folder } from "../model/help.ts";
import { declarations } from "./declarations.ts";
import { MadeUpModel } from "./made-up-architecture.ts";
import { Bench, program, type Tally } from "./programs.ts";

const soak = process.env.STRATA_SOAK === "1";
const runs = Math.ceil((soak ? 20_000 : 1000) / declarations.length);
const seed = Number(process.env.STRATA_SEED ?? Date.now() % 1_000_000_007);
const timeoutMs = soak ? 900_000 : 60_000;

describe(`random programs, ${runs} for each declaration, STRATA_SEED=${seed}`, () => {
  const tallies: (Tally & { name: string })[] = [];

  test.each([...declarations])(
    "$name",
    async (declared) => {
      const index = declarations.indexOf(declared);
      using folder = new Folder();
      const madeUp = new MadeUpModel(declared.layers, 7 + index);
      await using bench = new Bench(declared, folder.write("made-up.gguf", madeUp.file()), folder.path, madeUp);
      await fc.assert(
        fc.asyncProperty(program, (operations) => bench.run(operations)),
        { seed: seed + index, numRuns: runs },
      );
      const { tally } = bench;
      tallies.push({ name: declared.name, ...tally });
      // What refuses or fails everything would prove nothing.
      expect(tally.done + tally.feeds).toBeGreaterThan(tally.operations / 2);
      expect(tally.rowsCompared).toBeGreaterThan(tally.operations / 2);
      expect(tally.declined).toBeLessThan(tally.operations / 4);
      expect(tally.loaded).toBeGreaterThan(runs / 10);
    },
    timeoutMs,
  );

  afterAll(() => {
    const sum = (key: keyof Tally) => tallies.reduce((total, tally) => total + tally[key], 0);
    console.log(
      `programs: STRATA_SEED=${seed}, ${runs} programs for each of ${tallies.length} declarations, ` +
        `${sum("operations")} operations (${sum("refused")} refused, ${sum("declined")} where they may be, ` +
        `${sum("cancelled")} cancelled), ${sum("saved")} saved and ${sum("loaded")} loaded, ` +
        `${sum("rowsCompared")} rows of logits`,
    );
  });
});
