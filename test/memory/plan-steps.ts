import type { Model, PlanOptions } from "ggstrata";
import { someTokens } from "../model/help.ts";

/** Runs steps of all shapes that a plan counts; the context must hold two batches. */
export async function runSteps(model: Model, options: PlanOptions): Promise<void> {
  const { sequences: count = 1, batch = 512 } = options;
  const tokens = (length: number, seed = 1): number[] =>
    someTokens(length, seed).map((token) => token % model.vocabularySize);
  const together = Math.min(count, batch);
  const sequences = Array.from({ length: together }, () => model.sequence());
  // A batch shared evenly, with logits for each sequence.
  const parts = sequences.map((_, i) => Math.floor(batch / together) + (i < batch % together ? 1 : 0));
  await model.feed(sequences.map((sequence, i) => ({ sequence, tokens: tokens(parts[i] ?? 0, i + 1) })));
  await model.feed(sequences.map((sequence) => ({ sequence, tokens: [5] })));
  const [first] = sequences;
  await first?.feed([6]);
  first?.clear();
  await first?.feed(tokens(batch));
  for (const sequence of sequences) sequence.dispose();
}
