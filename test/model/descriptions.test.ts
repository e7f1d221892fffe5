/** What memories are called in words. */
import { expect, test } from "bun:test";
import { recurrent, type StateSpec } from "ggstrata";
import { layOutMemory } from "../../lib/memory/layout.ts";
import type { EngineConfig } from "../../lib/native/engine.ts";

const config: EngineConfig = {
  ...{ context: 64, vocabulary: 32, sequences: 1, batch: 8, threads: 1, poll: 0 },
  ...{ rollback: 0, cells: 0, snapshotBytes: 0, flags: 0 },
};

function described(states: Readonly<Record<string, StateSpec>>): string | undefined {
  return layOutMemory([{ ssm: recurrent(states) }], "f16", config).memory.layers[0]?.memories[0]?.description;
}

test("states of one type name it once, of several each its own", () => {
  const conv = { shape: [3, 24], dtype: "f16" } as const;
  expect(described({ conv: [3, 24], ssm: [4, 4] })).toBe("recurrent states: conv 3 x 24, ssm 4 x 4 (f32)");
  expect(described({ conv })).toBe("recurrent states: conv 3 x 24 (f16)");
  expect(described({ conv, ssm: [4, 4] })).toBe("recurrent states: conv 3 x 24 (f16), ssm 4 x 4 (f32)");
});
