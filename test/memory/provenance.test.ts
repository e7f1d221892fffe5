/** States that stand for something else than their sequence's tokens are refused by name. */
import { describe, expect, test } from "bun:test";
import { fixturePath, refusal, someTokens } from "../model/help.ts";
import { OpenEngine } from "../native/open-engine.ts";

const faults = [
  { kind: "exchange", pattern: /recurrent states stand for another text of the same 30 tokens/, others: [1] },
  { kind: "behind", pattern: /recurrent states stand for 29 tokens and the sequence has 30/, others: [] },
  { kind: "other", pattern: /recurrent states stand for another text of the same 30 tokens/, others: [] },
  { kind: "alone", pattern: /stand (for another text|at position)/, others: [] },
] as const;

describe.each(["mamba2", "granitehybrid"] as const)("in %s", (name) => {
  test.each(faults)("a planted fault is noticed: $kind", async ({ kind, pattern, others }) => {
    await using open = await OpenEngine.open(fixturePath(name));
    const { engine } = open;
    const begin = async (sequence: number) => {
      await open.feed(sequence, someTokens(29, sequence));
      await open.feed(sequence, someTokens(1, sequence + 10));
    };
    await begin(2);
    engine.copy(2, 3);
    const expected = await open.feed(3, [5]);
    await begin(1);
    // The last one fed: its state before is still where it was.
    await begin(0);
    engine.plantFault(kind, 0, 1);
    for (const sequence of [0, ...others]) {
      const error = await refusal(open.feed(sequence, [5]));
      expect(error.code).toBe("refused");
      expect(error.message).toMatch(pattern);
      expect(error.message).toContain(`sequence ${sequence}`);
    }
    // Who had no part in it goes on, and a cleared sequence is whole again.
    expect(await open.feed(2, [5])).toEqual(expected);
    engine.clear(0);
    await open.feed(0, someTokens(5, 1));
  });
});
