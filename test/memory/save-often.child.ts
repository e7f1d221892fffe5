/** Saves a sequence of 40 tokens and one of 90 in turns, until it is killed: `MODEL FILE`. */
import { loadModel } from "ggstrata";
import { someTokens } from "../model/help.ts";

const [model = "", path = ""] = process.argv.slice(2);
const loaded = await loadModel(model, {
  context: 256,
  sequences: 2,
  batch: 64,
  threads: 1,
  kv: "f32",
  snapshotBytes: 4e6,
});
const [short, long] = [loaded.sequence(), loaded.sequence()];
const tokens = someTokens(90, 3);
await short.feed(tokens.slice(0, 40));
await long.feed(tokens);
await short.save(path);
console.log("saving");
while (true) {
  await long.save(path);
  await short.save(path);
}
