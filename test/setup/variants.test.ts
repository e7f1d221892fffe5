/** Each library of the platform package computes what the references say, on a CPU that can run it. */
import { beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { cpuFlags, missingFeatures } from "../../lib/native/cpu.ts";
import { packs, releaseLibraries } from "../../lib/setup/pack.mjs";
import { checkout } from "../../lib/setup/paths.mjs";
import { outcomeOf } from "./folder.ts";
import { releaseBuilds } from "./packed.ts";

setDefaultTimeout(300_000);

describe.if(packs())("the packages' libraries", () => {
  const folders = new Map<string, string>();
  beforeAll(async () => {
    for (const { name, folder } of await releaseBuilds()) folders.set(name, folder);
  }, 1_200_000);

  test.each(releaseLibraries)("%s computes every fixture's logits", async (name) => {
    const folder = folders.get(name) ?? "";
    const built = readFileSync(join(folder, "libstrata.features"), "utf8").trim().split("\n");
    const missing = missingFeatures(built, cpuFlags());
    if (missing.length > 0) {
      console.log(`NOT TESTED: ${name}, as this CPU lacks ${missing.join(", ")}`);
      return;
    }
    const env = { STRATA_LIBRARY: join(folder, "libstrata.so") };
    const args = ["test", "--timeout", "120000", "./test/plugins/fixtures.test.ts"];
    const { stderr, code } = await outcomeOf(process.execPath, args, env, "", { cwd: checkout });
    expect({ said: stderr.slice(-3000), code }).toMatchObject({ code: 0 });
    // 22 fixtures, in 3 ways of feeding, in a batch of four, and by greedy choice.
    expect(Number(/^\s*(\d+) pass$/m.exec(stderr)?.[1])).toBeGreaterThanOrEqual(110);
  });
});
