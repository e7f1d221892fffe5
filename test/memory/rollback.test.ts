/** Taking tokens back: refused and nothing changed, or exact. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { loadModel, StrataError, type LoadOptions, type Model, type Sequence } from "ggstrata";
import { allFixtureNames, fixturePath, someTokens } from "../model/help.ts";
import { nmse } from "../plugins/reference.ts";

setDefaultTimeout(60_000);

const rollback = 6;
const options: LoadOptions = { context: 256, sequences: 6, batch: 64, threads: 2, kv: "f32", rollback };
const start = someTokens(41, 1);
const tail = someTokens(20, 2);
const after = someTokens(7, 3);

async function single(sequence: Sequence, tokens: readonly number[]): Promise<void> {
  for (const token of tokens) await sequence.feed([token], { logits: "none" });
}

async function probe(sequence: Sequence): Promise<Float32Array> {
  return (await sequence.feed(after)).logits[0] as Float32Array;
}

/** What follows `length` tokens of the tail, fed in the way that is to be taken back. */
async function expected(model: Model, feed: typeof single, length: number): Promise<Float32Array> {
  using sequence = model.sequence();
  await sequence.feed(start, { logits: "none" });
  await feed(sequence, tail.slice(0, length));
  return probe(sequence);
}

/** Takes back, or sees that a refusal names what refused and changed nothing. */
function takeBack(sequence: Sequence, count: number): boolean {
  const before = [sequence.position, sequence.minPosition, sequence.tokens] as const;
  try {
    sequence.rollback(count);
    expect(sequence.position).toBe(before[0] - count);
    return true;
  } catch (error) {
    expect(error).toBeInstanceOf(StrataError);
    expect((error as StrataError).code).toBe("refused");
    expect((error as StrataError).message).toMatch(/states|window/);
    expect([sequence.position, sequence.minPosition, sequence.tokens]).toEqual([...before]);
    return false;
  }
}

describe.each(allFixtureNames)("%s", (name) => {
  const counts = Array.from({ length: rollback + 1 }, (_, i) => i + 1);

  test("after single tokens: to the bit, each of the last ones, alone, after neighbours, of a copy, twice", async () => {
    await using model = await loadModel(fixturePath(name), options);
    for (const count of counts) {
      const wanted = await expected(model, single, tail.length - count);
      for (const way of ["alone", "neighbours", "copy", "twice"] as const) {
        using sequence = model.sequence();
        await sequence.feed(start, { logits: "none" });
        await single(sequence, tail);
        using other = model.sequence();
        if (way === "neighbours") {
          await other.feed(someTokens(30, 5), { logits: "none" });
          await single(other, someTokens(9, 6));
        }
        using copy = way === "copy" ? sequence.copy() : undefined;
        const target = copy ?? sequence;
        const first = way === "twice" ? Math.ceil(count / 2) : count;
        const isDone = takeBack(target, first) && (first === count || takeBack(target, count - first));
        if (count <= rollback) expect(isDone).toBe(true);
        if (isDone) expect(await probe(target)).toEqual(wanted);
        // The source of a copy is where it was.
        if (copy !== undefined) expect(sequence.position).toBe(start.length + tail.length);
      }
    }
  });

  test("after one batch: as if the rest had never been", async () => {
    await using model = await loadModel(fixturePath(name), options);
    const whole = async (sequence: Sequence, tokens: readonly number[]) => {
      await sequence.feed(tokens, { logits: "none" });
    };
    for (const count of counts) {
      const wanted = await expected(model, whole, tail.length - count);
      for (const neighbours of [false, true]) {
        using sequence = model.sequence();
        await sequence.feed(start, { logits: "none" });
        using other = model.sequence();
        const requests = [{ sequence, tokens: tail, logits: "none" } as const];
        if (neighbours) await model.feed([{ sequence: other, tokens: someTokens(9, 6), logits: "none" }, ...requests]);
        else await model.feed(requests);
        const isDone = takeBack(sequence, count);
        if (count <= rollback) expect(isDone).toBe(true);
        if (isDone) expect(nmse(await probe(sequence), wanted)).toBeLessThanOrEqual(1e-8);
      }
    }
  });

  test("again and again while decoding, a token at a time between", async () => {
    await using model = await loadModel(fixturePath(name), options);
    using sequence = model.sequence();
    using plain = model.sequence();
    await sequence.feed(start, { logits: "none" });
    await plain.feed(start, { logits: "none" });
    for (let round = 0; round < 30; round += 1) {
      const wrong = someTokens(1 + (round % rollback), 100 + round);
      await single(sequence, wrong);
      sequence.rollback(wrong.length);
      const [token] = someTokens(1, 200 + round);
      const mine = await sequence.feed([token as number]);
      const theirs = await plain.feed([token as number]);
      expect(mine.logits).toEqual(theirs.logits);
    }
    expect(sequence.tokens).toEqual(plain.tokens);
  });

  test("is refused where it was not asked for, and costs nothing then", async () => {
    await using without = await loadModel(fixturePath(name), { ...options, rollback: 0 });
    await using withIt = await loadModel(fixturePath(name), options);
    const hasStates = without.memory.isRecurrent || without.memory.isHybrid;
    if (hasStates) expect(without.memory.bytes).toBeLessThan(withIt.memory.bytes);
    for (const { memories } of without.memory.layers) {
      for (const memory of memories) expect(memory.rollbackBytes).toBe(0);
    }
    using sequence = without.sequence();
    await sequence.feed(start);
    if (hasStates) expect(takeBack(sequence, 1)).toBe(false);
    // Attention to all positions goes back by cutting them off.
    if (without.memory.kind === "unified") {
      expect(takeBack(sequence, 30)).toBe(true);
      using fresh = without.sequence();
      await fresh.feed(start.slice(0, -30));
      expect(nmse(await probe(sequence), await probe(fresh))).toBeLessThanOrEqual(1e-8);
    }
  });
});
