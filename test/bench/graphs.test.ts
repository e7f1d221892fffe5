/** A graph is built once for a shape and kept; and that takes no time worth seeing. */
import { expect, setDefaultTimeout, test } from "bun:test";
import { loadModel, type Architecture } from "ggstrata";
import { granitehybrid } from "../../plugins/granitehybrid.ts";
import { fixturePath, generated, someTokens } from "../model/help.ts";
import { measureGraphs } from "./graphs.ts";

setDefaultTimeout(120_000);

/** The same architecture, which counts how often its graph is asked for. */
function counting(architecture: Architecture): { plugin: Architecture; built: () => number } {
  let count = 0;
  const plugin: Architecture = {
    ...architecture,
    replaces: true,
    read(metadata) {
      const read = architecture.read(metadata);
      return {
        ...read,
        graph: (...parts) => {
          count += 1;
          return read.graph(...parts);
        },
      };
    },
  };
  return { plugin, built: () => count };
}

test("a graph is not built again while shapes stay", async () => {
  const { plugin, built } = counting(granitehybrid);
  await using model = await loadModel(fixturePath("granitehybrid"), { context: 256, batch: 32, plugins: [plugin] });
  // 70 tokens are two whole steps and a rest, whatever the tokens are.
  await generated(model, someTokens(70, 1), { maxTokens: 50 });
  const { graphsBuilt, graphsReused } = model.counters();
  const before = built();
  expect(before).toBeGreaterThanOrEqual(graphsBuilt);
  for (const seed of [2, 3, 4]) await generated(model, someTokens(70, seed), { maxTokens: 50 });
  const after = model.counters();
  expect(built()).toBe(before);
  expect(after.graphsBuilt).toBe(graphsBuilt);
  // Of each generation's decoding, all steps but the first run the graph of the step before.
  expect(after.graphsReused - graphsReused).toBeGreaterThanOrEqual(3 * 48);
});

test("the graph of a hybrid of 32 layers is built in a moment", async () => {
  for (const { architecture, nodes, build_ms } of await measureGraphs()) {
    expect(nodes, architecture).toBeGreaterThan(400);
    // Ten times what it may take on a machine with nothing else to do; `npm run bench -- --only graphs` measures.
    expect(build_ms, architecture).toBeLessThan(20);
  }
});
