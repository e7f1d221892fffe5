/** Batches of more shapes than graphs are kept. */
import { expect, setDefaultTimeout, test } from "bun:test";
import { argmax, loadModel } from "ggstrata";
import { fixturePath, someTokens } from "../model/help.ts";

setDefaultTimeout(60_000);

test("a batch of 48 sequences whose sub-batches have 24 shapes is computed, again and again", async () => {
  const batch = 32;
  await using model = await loadModel(fixturePath("llama"), {
    context: 64,
    batch,
    sequences: 48,
    threads: 1,
    kv: "f32",
  });
  // Of each sub-batch of 32, the logits of k tokens are wanted.
  const requests = Array.from({ length: 24 }, (_, i) => i + 1).flatMap((k) => [
    { sequence: model.sequence(), tokens: someTokens(batch - k, k), logits: "none" as const },
    { sequence: model.sequence(), tokens: someTokens(k, 100 + k), logits: "all" as const },
  ]);
  const drawn: number[][] = [];
  for (let round = 0; round < 2; round += 1) {
    const results = await model.feed(requests);
    expect(results.map(({ logits }) => logits.length)).toEqual(
      requests.map(({ tokens, logits }) => (logits === "all" ? tokens.length : 0)),
    );
    drawn.push(results.flatMap(({ logits }) => logits.map((row) => argmax(row))));
    for (const { sequence } of requests) sequence.clear();
  }
  expect(drawn[1]).toEqual(drawn[0] as number[]);
  // Those of other shapes still are, and what was too many has gone.
  const alone: number[] = [];
  for (const { sequence, tokens, logits } of requests) {
    const result = await sequence.feed(tokens, { logits });
    alone.push(...result.logits.map((row) => argmax(row)));
  }
  expect(alone).toEqual(drawn[0] as number[]);
});
