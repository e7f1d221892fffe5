/** The memory contract as far as it is built: sequences copied, cut, cleared and computed by the engine itself. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import type { StrataError } from "ggstrata";
import { allFixtureNames, fixturePath, refusal, someTokens, thrown, type FixtureName } from "../model/help.ts";
import { distance, greatest, OpenEngine } from "../native/open-engine.ts";
import { nmse } from "../plugins/reference.ts";

setDefaultTimeout(60_000);

const attentionOnly = ["llama", "gemma3", "qwen3"] as const;
const withStates = allFixtureNames.filter((name) => !attentionOnly.some((other) => other === name));

/** What a fresh engine computes for a history, told in the same pieces. */
async function fresh(name: FixtureName, pieces: readonly (readonly number[])[]): Promise<Float32Array> {
  await using open = await OpenEngine.open(fixturePath(name));
  let out: Float32Array = new Float32Array();
  for (const piece of pieces) out = await open.feed(0, piece);
  return out;
}

/** Equal up to the order of sums; without difference where that is wanted. */
function expectSame(actual: Float32Array, expected: Float32Array): void {
  expect(actual.every((value) => Number.isFinite(value))).toBe(true);
  expect(distance(actual, expected)).toBeLessThan(1e-4);
}

describe.each(allFixtureNames)("copies of %s", (name) => {
  const [start, left, right] = [someTokens(70, 1), someTokens(9, 2), someTokens(13, 3)];

  test("go their own ways", async () => {
    const expectedLeft = await fresh(name, [start, left, left]);
    const expectedRight = await fresh(name, [start, right, right]);
    await using open = await OpenEngine.open(fixturePath(name));
    const { engine } = open;
    const { freeBlocks, freeCells } = engine.counters();
    await open.feed(0, start);
    engine.copy(0, 1);
    engine.copy(0, 2);
    expect(engine.bounds(2)).toEqual(engine.bounds(0));
    await open.feed(1, left);
    await open.feed(0, right);
    expect(await open.feed(1, left)).toEqual(expectedLeft);
    expect(await open.feed(0, right)).toEqual(expectedRight);
    // The third was never written to, and both others have moved on.
    await open.feed(2, left);
    expect(await open.feed(2, left)).toEqual(expectedLeft);
    // One that is copied onto itself, and one that is copied over what it held.
    engine.copy(0, 0);
    engine.copy(2, 0);
    expect(engine.bounds(0)).toEqual(engine.bounds(2));
    for (const sequence of [0, 1, 2]) engine.clear(sequence);
    expect(engine.counters()).toMatchObject({ freeBlocks, freeCells });
  });

  test("of an empty sequence are empty", async () => {
    await using open = await OpenEngine.open(fixturePath(name));
    await open.feed(1, start);
    open.engine.copy(0, 1);
    expect(open.engine.bounds(1)).toEqual({ min: 0, end: 0 });
    expect(await open.feed(1, left)).toEqual(await fresh(name, [left]));
  });

  test("share a step with their source, and both write", async () => {
    const expected = [await fresh(name, [start, left]), await fresh(name, [start, right])];
    await using open = await OpenEngine.open(fixturePath(name));
    await open.feed(0, start);
    open.engine.copy(0, 3);
    const both = await open.step([
      [3, left],
      [0, right],
    ]);
    both.forEach((logits, i) => expectSame(logits, expected[i] as Float32Array));
  });
});

describe.each(attentionOnly)("the tail of %s", (name) => {
  test("can be removed, and what follows is as if it had never been", async () => {
    const [start, wrong, right] = [someTokens(75, 4), someTokens(10, 5), someTokens(12, 6)];
    await using open = await OpenEngine.open(fixturePath(name), { batch: 128 });
    const { engine } = open;
    await open.feed(0, start);
    const held = engine.bounds(0);
    await open.feed(0, wrong);
    if (name === "gemma3") {
      // Its window of 16 is gone further than a token before position 75 would look back.
      const error = thrown(() => engine.remove(0, 75, -1));
      expect(error.code).toBe("refused");
      expect(error.message).toContain("attention with sliding window 16");
      expect(engine.bounds(0).end).toBe(85);
      return;
    }
    engine.remove(0, 75, -1);
    expect(engine.bounds(0)).toEqual(held);
    expectSame(await open.feed(0, right), await fresh(name, [start, right]));
    // Of a copy: the source keeps what the copy loses.
    engine.copy(0, 1);
    engine.remove(1, 3, 500);
    expect(engine.bounds(1)).toEqual({ min: 0, end: 3 });
    expect(engine.bounds(0).end).toBe(87);
    expectSame(await open.feed(1, right), await fresh(name, [start.slice(0, 3), right]));
  });
});

describe.each(withStates)("the states of %s", (name) => {
  test("cannot forget a part, and a refusal changes nothing", async () => {
    const [start, more] = [someTokens(40, 7), someTokens(5, 8)];
    await using open = await OpenEngine.open(fixturePath(name));
    const { engine } = open;
    await open.feed(0, start);
    const before = { bounds: engine.bounds(0), counters: engine.counters() };
    for (const [from, to] of [
      [39, -1],
      [10, 20],
      [0, 10],
      [-1, 39],
    ] as const) {
      const error = thrown(() => engine.remove(0, from, to));
      expect(error.code).toBe("refused");
      expect(error.message).toContain("the recurrent states");
    }
    expect({ bounds: engine.bounds(0), counters: engine.counters() }).toEqual(before);
    // Nothing to remove, and everything.
    engine.remove(0, 40, 90);
    engine.remove(0, 20, 20);
    engine.remove(0, 30, 20);
    expect(await open.feed(0, more)).toEqual(await fresh(name, [start, more]));
    engine.remove(0, -1, -1);
    expect(engine.bounds(0)).toEqual({ min: 0, end: 0 });
    expect(await open.feed(0, start)).toEqual(await fresh(name, [start]));
  });
});

describe("what is refused", () => {
  test("an unknown sequence, by every operation", async () => {
    await using open = await OpenEngine.open(fixturePath("granitehybrid"), { sequences: 2 });
    const { engine } = open;
    for (const sequence of [2, -1, 2 ** 31 - 1]) {
      const calls = [
        () => engine.bounds(sequence),
        () => engine.clear(sequence),
        () => engine.remove(sequence, 0, -1),
        () => engine.copy(sequence, 0),
        () => engine.copy(0, sequence),
        () => engine.submit([{ sequence, tokens: [5], logits: "last" }]),
      ];
      for (const call of calls) {
        const error = thrown(call);
        expect(error.code).toBe("not_found");
        expect(error.message).toBe(`there is no sequence ${sequence}: this model holds 2, numbered from 0`);
      }
    }
  });

  test("a sequence that is being computed", async () => {
    await using open = await OpenEngine.open(fixturePath("llama"), { context: 2048, batch: 512 });
    const { engine } = open;
    await open.feed(1, someTokens(5));
    open.ensureGraph(512, 1);
    const job = engine.submit([{ sequence: 0, tokens: someTokens(2048), logits: "last" }]);
    const calls = [
      () => engine.clear(0),
      () => engine.remove(0, 0, -1),
      () => engine.copy(0, 1),
      () => engine.copy(1, 0),
    ];
    const errors = calls.map((call): StrataError | undefined => {
      try {
        call();
        return undefined;
      } catch (error) {
        return error as StrataError;
      }
    });
    // Another sequence can be changed meanwhile.
    engine.copy(1, 2);
    engine.clear(1);
    await job.done;
    for (const error of errors) expect(error).toMatchObject({ code: "busy" });
    for (const error of errors) expect(error?.message).toBe("sequence 0 is being computed; wait for it, or cancel it");
    expect(engine.bounds(0).end).toBe(2048);
    expect(engine.bounds(2).end).toBe(5);
  });

  test("batches that cannot be, before anything changes", async () => {
    await using open = await OpenEngine.open(fixturePath("bamba"), { context: 64, sequences: 2, batch: 64 });
    const { engine } = open;
    await open.feed(0, someTokens(60));
    open.ensureGraph(6, 1);
    open.ensureGraph(6, 2);
    const before = { bounds: engine.bounds(0), counters: engine.counters() };
    const full = engine.submit([
      { sequence: 1, tokens: [5], logits: "none" },
      { sequence: 0, tokens: someTokens(5), logits: "last" },
    ]);
    const error = await refusal(full.done);
    expect(error.code).toBe("full");
    expect(error.message).toBe("sequence 0 holds 60 tokens and was given 5 more, but the context is 64");
    const twice = engine.submit([
      { sequence: 1, tokens: [5, 6], logits: "none" },
      { sequence: 1, tokens: [5, 6, 7, 8], logits: "last" },
    ]);
    expect((await refusal(twice.done)).message).toBe("sequence 1 stands twice in one batch");
    const nothing = engine.submit([{ sequence: 1, tokens: [], logits: "last" }]);
    expect((await refusal(nothing.done)).message).toContain("was given 0 tokens");
    expect(thrown(() => engine.submit([])).code).toBe("invalid_argument");
    for (const token of [384, -1, 2 ** 31 - 1]) {
      const bad = thrown(() => engine.submit([{ sequence: 1, tokens: [1, token], logits: "last" }]));
      expect(bad.message).toBe(`token ${token} does not exist; the vocabulary has 384 tokens`);
    }
    const unbuilt = engine.submit([{ sequence: 1, tokens: [5, 6, 7], logits: "last" }]);
    expect((await refusal(unbuilt.done)).message).toBe("no graph of 3 rows and 1 outputs was built");
    const sampler = open.sampler();
    for (const logits of ["all", "none"] as const) {
      const request = { sequence: 1, tokens: someTokens(6), logits, sampler };
      expect(thrown(() => engine.submit([request])).message).toContain(
        "has a sampler, which draws from the last token's",
      );
    }
    sampler.free();
    expect(thrown(() => engine.submit([{ sequence: 1, tokens: [5], logits: "last" }], { steps: 2 })).message).toContain(
      "has no sampler",
    );
    expect({ bounds: engine.bounds(0), counters: engine.counters() }).toEqual(before);
    expect(engine.bounds(1).end).toBe(0);
  });

  test("logits of a job that left none", async () => {
    await using open = await OpenEngine.open(fixturePath("llama"));
    const { engine } = open;
    open.ensureGraph(2, 1);
    const first = engine.submit([{ sequence: 0, tokens: [5, 6], logits: "last" }]);
    await first.done;
    const second = engine.submit([{ sequence: 0, tokens: [7, 8], logits: "last" }]);
    await second.done;
    const out = new Float32Array(384);
    expect(thrown(() => engine.logits(first, 0, out)).code).toBe("not_found");
    expect(thrown(() => engine.logits(second, 1, out)).code).toBe("not_found");
    expect(thrown(() => engine.logits(second, 0, new Float32Array(383))).code).toBe("invalid_argument");
    engine.logits(second, 0, out);
    expect(greatest(out)).toBeGreaterThanOrEqual(0);
  });
});

describe.each(allFixtureNames)("a step of %s that was not computed", (name) => {
  test("leaves its own sequences where they were, and the others untouched", async () => {
    const [start, more] = [someTokens(50, 9), someTokens(200, 10)];
    await using open = await OpenEngine.open(fixturePath(name), { context: 512, batch: 256 });
    const { engine } = open;
    const expected = await fresh(name, [start, start]);
    await open.feed(0, start);
    await open.feed(1, start);
    open.ensureGraph(200, 1);
    let cancelled = 0;
    for (let attempt = 0; attempt < 20; attempt += 1) {
      const before = { bounds: engine.bounds(0), free: engine.counters().freeBlocks + engine.counters().freeCells };
      const job = engine.submit([{ sequence: 0, tokens: more, logits: "last" }]);
      if (attempt % 4 > 0) await Bun.sleep(attempt % 4);
      engine.cancel(job);
      const outcome = await job.done.catch((error: StrataError) => error.code);
      if (typeof outcome !== "string") {
        // It was quicker than the wish: begin again.
        engine.clear(0);
        await open.feed(0, start);
        continue;
      }
      expect(outcome).toBe("cancelled");
      cancelled += 1;
      const after = { bounds: engine.bounds(0), free: engine.counters().freeBlocks + engine.counters().freeCells };
      expect(after).toEqual(before);
    }
    expect(cancelled).toBeGreaterThan(0);
    expect(await open.feed(0, start)).toEqual(expected);
    expect(await open.feed(1, start)).toEqual(expected);
  });
});

describe("a job of many steps", () => {
  test("ends where a sequence's sampler fails, and tells only that one", async () => {
    await using open = await OpenEngine.open(fixturePath("llama"));
    const { engine } = open;
    open.ensureGraph(2, 2);
    const good = open.sampler();
    const banned = open.sampler(new Map(Array.from({ length: 384 }, (_, id) => [id, -Infinity])));
    const seen: { sequence: number; token: number; code: string | undefined }[] = [];
    const job = engine.submit(
      [
        { sequence: 0, tokens: [5], logits: "last", sampler: good },
        { sequence: 1, tokens: [6], logits: "last", sampler: banned },
      ],
      { steps: 10, onToken: ({ sequence, token, error }) => seen.push({ sequence, token, code: error?.code }) },
    );
    await job.done;
    expect(seen).toEqual([
      { sequence: 0, token: expect.any(Number) as number, code: undefined },
      { sequence: 1, token: -1, code: "invalid_argument" },
    ]);
    expect(engine.bounds(0).end).toBe(1);
    good.free();
    banned.free();
  });

  test("that is cancelled before it began never runs", async () => {
    await using open = await OpenEngine.open(fixturePath("llama"), { context: 1024, batch: 512 });
    const { engine } = open;
    open.ensureGraph(512, 1);
    const first = engine.submit([{ sequence: 0, tokens: someTokens(1024), logits: "last" }]);
    const second = engine.submit([{ sequence: 1, tokens: someTokens(512), logits: "last" }]);
    engine.cancel(second);
    await first.done;
    const error = await refusal(second.done);
    expect(error.code).toBe("cancelled");
    expect(engine.bounds(1).end).toBe(0);
    engine.clear(1);
  });
});

describe("a window of 16", () => {
  test("gives the same token by token, in pieces, and for key/value types", async () => {
    const tokens = someTokens(400, 11);
    for (const kv of ["f32", "f16", "bf16"] as const) {
      await using open = await OpenEngine.open(fixturePath("gemma3"), { context: 512, batch: 128, kv });
      const whole = await open.feed(0, tokens, 128);
      const rows = [await open.feed(1, tokens, 1), await open.feed(2, tokens, 7), await open.feed(3, tokens, 50)];
      // Of gemma3 also with f32: ggml's gelu is a table of f16 values.
      const limit = { f32: 1e-6, f16: 1e-5, bf16: 1e-4 }[kv];
      for (const row of rows) expect(nmse(row, whole)).toBeLessThanOrEqual(limit);
    }
  });
});
