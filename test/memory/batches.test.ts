/** Batches are cut by their limit alone, and neighbours change nothing. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { loadModel, type LoadOptions, type Sequence } from "ggstrata";
import { allFixtureNames, fixturePath, randomOf, someTokens } from "../model/help.ts";
import { nmse } from "../plugins/reference.ts";

setDefaultTimeout(120_000);

const options: LoadOptions = { context: 1024, sequences: 10, batch: 512, threads: 2, kv: "f32" };

function best(logits: Float32Array): number {
  return logits.reduce((most, value, index) => (value > (logits[most] ?? NaN) ? index : most), 0);
}

/** Equal as semantics ask for: sums may be taken in another order. */
function expectSame(actual: Float32Array | undefined, expected: Float32Array | undefined): void {
  expect(nmse(actual ?? new Float32Array(1), expected ?? new Float32Array(1))).toBeLessThanOrEqual(1e-8);
  expect(best(actual as Float32Array)).toBe(best(expected as Float32Array));
}

describe.each(allFixtureNames)("%s", (name) => {
  test("one token beside 500 is one pass over the weights, and both are as alone", async () => {
    await using model = await loadModel(fixturePath(name), options);
    const [long, short] = [someTokens(500, 1), someTokens(30, 2)];
    using alone = model.sequence();
    const expected = [(await alone.feed(long)).logits[0]];
    alone.clear();
    await alone.feed(short.slice(0, 29));
    expected.push((await alone.feed(short.slice(29))).logits[0]);
    using a = model.sequence();
    using b = model.sequence();
    await b.feed(short.slice(0, 29));
    const before = model.counters().steps;
    const [first, second] = await model.feed([
      { sequence: b, tokens: short.slice(29) },
      { sequence: a, tokens: long },
    ]);
    expect(model.counters().steps - before).toBe(1);
    expectSame(second?.logits[0], expected[0]);
    expectSame(first?.logits[0], expected[1]);
  });

  test("eight of any lengths, joining and leaving, take as many steps as the limit asks for", async () => {
    await using model = await loadModel(fixturePath(name), { ...options, batch: 64, context: 256 });
    const random = randomOf(5);
    const texts = Array.from({ length: 8 }, (_, i) => someTokens(20 + Math.floor(random() * 90), 30 + i));
    using alone = model.sequence();
    const expected: (Float32Array | undefined)[] = [];
    for (const text of texts) {
      alone.clear();
      expected.push((await alone.feed(text)).logits[0]);
    }
    const live: { sequence: Sequence; text: readonly number[]; index: number; done: number }[] = [];
    let next = 0;
    while (next < texts.length || live.length > 0) {
      while (next < texts.length && (live.length < 3 || random() < 0.5) && live.length < 8) {
        live.push({ sequence: model.sequence(), text: texts[next] as number[], index: next, done: 0 });
        next += 1;
      }
      const parts = live.map((entry) => {
        const count = Math.min(entry.text.length - entry.done, 1 + Math.floor(random() * 40));
        return { entry, tokens: entry.text.slice(entry.done, entry.done + count) };
      });
      const rows = parts.reduce((sum, { tokens }) => sum + tokens.length, 0);
      const before = model.counters().steps;
      const results = await model.feed(parts.map(({ entry, tokens }) => ({ sequence: entry.sequence, tokens })));
      expect(model.counters().steps - before).toBe(Math.ceil(rows / 64));
      for (const [i, { entry, tokens }] of parts.entries()) {
        entry.done += tokens.length;
        if (entry.done < entry.text.length) continue;
        expectSame(results[i]?.logits[0], expected[entry.index]);
        entry.sequence.dispose();
        live.splice(live.indexOf(entry), 1);
      }
      await Bun.sleep(0);
    }
  });
});
