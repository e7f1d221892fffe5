/** What is told of a saved state without a model. */
import { expect, test } from "bun:test";
import { statSync } from "node:fs";
import { join } from "node:path";
import { describeState, loadModel } from "ggstrata";
import { fixturePath, Folder, someTokens } from "../model/help.ts";

test("its bytes are those of the whole file", async () => {
  using folder = new Folder();
  const path = join(folder.path, "a.state");
  await using model = await loadModel(fixturePath("granitehybrid"), { threads: 1, context: 64 });
  using sequence = model.sequence();
  await sequence.feed(someTokens(7));
  await sequence.save(path);
  expect(describeState(path).bytes).toBe(statSync(path).size);
});
