/** The plan of declarations that no model has is what is allocated, too. */
import { expect, test } from "bun:test";
import { loadModel, planMemory } from "ggstrata";
import { Folder } from "../model/help.ts";
import { declarations } from "./declarations.ts";
import { context, MadeUpModel } from "./made-up-architecture.ts";
import { runSteps } from "./plan-steps.ts";

test.each(declarations.map((declared) => [declared.name, declared] as const))("%s", async (_, declared) => {
  using folder = new Folder();
  const made = new MadeUpModel(declared.layers, 1);
  const path = folder.write("model.gguf", made.file());
  const options = { context, sequences: 3, plugins: [made.plugin], ...declared.options };
  const plan = await planMemory(path, options);
  for (const memory of plan.layers.flatMap(({ memories }) => memories)) {
    const { bytes, sequenceBytes, rollbackBytes, snapshotBytes, paddingBytes, sharedFrom } = memory;
    expect(sequenceBytes + rollbackBytes + snapshotBytes + paddingBytes).toBe(bytes);
    expect(Math.min(rollbackBytes, snapshotBytes, paddingBytes)).toBeGreaterThanOrEqual(0);
    expect(sequenceBytes > 0).toBe(sharedFrom === null);
  }
  await using model = await loadModel(path, options);
  await runSteps(model, options);
  const { memoryBytes, computeBytes, workBytes, scratchBytes, snapshots } = plan;
  const expected = { memoryBytes, computeBytes, workBytes, scratchBytes, snapshotsMax: snapshots.count };
  expect(model.counters()).toMatchObject(expected);
});
