/** States that are restored to a model whose memories go back in another way than where they were saved. */
import { expect, test } from "bun:test";
import { join } from "node:path";
import { loadModel } from "ggstrata";
import { Folder, someTokens } from "../model/help.ts";
import { quartet } from "./four-memories.ts";
import { make } from "./made-file.ts";

/** Two recurrent memories: with a rollback of 6 tokens one has a log, and the other keeps its states. */
const metadata = {
  ...{ block_count: 2, block_kinds: ["delta", "echo"], vocab_size: 384, context_length: 128 },
  ...{ embedding_length: 40, feed_forward_length: 50, "attention.layer_norm_rms_epsilon": 1e-5 },
  ...{ "attention.head_count": 4, "attention.head_count_kv": 2, "attention.chunk_size": 7, "ssm.group_count": 2 },
  ...{ "ssm.time_step_rank": 4, "ssm.state_size": 6, "ssm.head_size": 10, "ssm.conv_kernel": 3 },
};
const tokens = someTokens(25, 3);

test.each([
  [6, 0, []],
  [0, 6, []],
  [6, 0, [9]],
  [0, 6, [9]],
])("saved with rollback %d, restored with %d, snapshots at %j", async (before, after, snapshots) => {
  using folder = new Folder();
  const { path } = await make(folder, quartet, metadata);
  const options = { context: 64, sequences: 2, threads: 1, snapshotBytes: 4e6, plugins: [quartet] };
  const file = join(folder.path, "state");
  const expected = await (async () => {
    await using model = await loadModel(path, { ...options, rollback: before });
    using sequence = model.sequence();
    await sequence.feed(tokens, { snapshots, logits: "none" });
    await sequence.save(file);
    return await sequence.feed([7]);
  })();
  await using model = await loadModel(path, { ...options, rollback: after });
  using sequence = await model.restore(file);
  expect(sequence.position).toBe(tokens.length);
  expect(sequence.snapshots.length).toBe(snapshots.length);
  expect(await sequence.feed([7])).toEqual(expected);
});
