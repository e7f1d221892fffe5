/** What the library itself says of operands of attention that the layer above it refuses before. */
import { expect, test } from "bun:test";
import { NativeEngine, type LoweredMemory } from "../../lib/native/engine.ts";
import { NativeFile } from "../../lib/native/file.ts";
import { NativeGraph } from "../../lib/native/graph.ts";
import { NativeModel } from "../../lib/native/model.ts";
import { fixturePath, thrown } from "../model/help.ts";

const f32 = 0;
const memories: readonly LoweredMemory[] = [
  { kind: "recurrent", layer: 0, states: [{ elements: 64, type: f32 }], inputs: 0 },
  {
    kind: "attention",
    layer: 1,
    extent: "all",
    window: 0,
    keyType: f32,
    valueType: f32,
    heads: 4,
    keyDim: 16,
    valueDim: 16,
  },
];

test("a refused operation leaves a graph that computes, with nothing of itself in it", async () => {
  const file = new NativeFile(fixturePath("llama"));
  const names = file.tensors().map((tensor) => tensor.name);
  const model = new NativeModel(file, 2);
  const embedding = model.weight(names.indexOf("token_embd.weight"), "elements");
  const head = model.weight(names.indexOf("output.weight"), "product");
  await model.load();
  const sizes = { threads: 1, sequences: 1, context: 64, batch: 8, vocabulary: 384, poll: 0 };
  const engine = new NativeEngine(model, memories, { ...sizes, rollback: 0, cells: 0, snapshotBytes: 0, flags: 0 });
  const graph = new NativeGraph(engine, 2, 1, 64);
  const x = graph.operation("get_rows", [embedding, graph.input("tokens").number], [], []);
  const heads = graph.operation("reshape", [x.number], [16, 4, 2, 1], []).number;
  const parameters = { scale: 1, softcap: 0, valueDim: 0 };
  const refused = (memory: number, keys: number, values: number) =>
    thrown(() => graph.attend(memory, { queries: heads, keys, values }, parameters)).message;
  expect(refused(0, heads, heads)).toContain("layer 0: this memory is recurrent, and attention was expected");
  expect(refused(7, heads, heads)).toContain("there is no memory 7");
  const apart = "layer 1: keys and values are stored together or not at all";
  expect(refused(1, heads, -1)).toContain(apart);
  expect(refused(1, -1, heads)).toContain(apart);
  const flat = x.number;
  expect(refused(1, heads, flat)).toContain("the values must be [16, 4, 2]");
  const last = graph.operation("view", [x.number], [64, 1, 1, 1, 256, 256, 256, 0], []);
  graph.finish(graph.operation("mul_mat", [head, last.number], [], []).number);
  await engine.submit([{ sequence: 0, tokens: [3, 4], logits: "last" }]).done;
  await engine.close();
});
