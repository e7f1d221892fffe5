import type { BatchRequest } from "../native/engine.ts";

/** By what a graph is known: the tokens that it computes at once, and of how many the logits. */
export interface GraphShape {
  readonly rows: number;
  readonly outputs: number;
}

/** The shapes of the sub-batches that the library cuts a batch into: full ones, in order. */
export function subBatches(requests: readonly BatchRequest[], limit: number): GraphShape[] {
  const shapes: { rows: number; outputs: number }[] = [];
  let last = { rows: limit, outputs: 0 };
  for (const { tokens, logits } of requests) {
    for (let done = 0; done < tokens.length;) {
      if (last.rows === limit) {
        last = { rows: 0, outputs: 0 };
        shapes.push(last);
      }
      const count = Math.min(tokens.length - done, limit - last.rows);
      done += count;
      last.rows += count;
      if (logits === "all") last.outputs += count;
      else if (logits === "last" && done === tokens.length) last.outputs += 1;
    }
  }
  return shapes.map(({ rows, outputs }) => ({ rows, outputs: Math.max(outputs, 1) }));
}
