/**
 * What must hold of any architecture, of each fixture's model: whole = chunks = one at a time; alone = in a batch; resumed by a
 * snapshot, a copy, a file or a rollback = computed afresh; the plan = the allocation; buffers full of NaN change nothing.
 */
import { expect, setDefaultTimeout, test } from "bun:test";
import { openModelFile } from "ggstrata";
import { checkArchitecture } from "ggstrata/testing";
import { architectures } from "../../plugins/index.ts";
import { allFixtureNames, fixturePath } from "../model/help.ts";

setDefaultTimeout(120_000);

const equalities = [
  "whole = chunks = one at a time",
  "batch = alone",
  "neighbours in a batch change nothing",
  "resumed from a snapshot = fresh",
  "copy = fresh",
  "resumed from a file = fresh",
  "rollback = fresh",
  "NaN-filled buffers change nothing",
  "memory plan = allocation",
];

test.each(allFixtureNames)("%s", async (name) => {
  const model = fixturePath(name);
  using file = openModelFile(model);
  const architecture = architectures.find(({ names }) => names.includes(file.metadata.string("general.architecture")));
  if (architecture === undefined) throw new Error(`there is no architecture for ${name}`);
  const { checks } = await checkArchitecture(architecture, { model, only: equalities });
  const outcomes = checks.filter(({ name }) => equalities.includes(name));
  expect(outcomes.filter(({ outcome }) => outcome !== "passed")).toEqual([]);
  expect(outcomes.map(({ name }) => name).sort()).toEqual([...equalities].sort());
});
