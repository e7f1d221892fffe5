/** Memory too small for all who generate: those who came last give theirs to the others, and start again. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { argmax, loadModel, type GenerationEvent, type Model } from "ggstrata";
import { fixturePath, free, freeAgain, generated, refusal, someTokens, until } from "../model/help.ts";

setDefaultTimeout(60_000);

/** Of positions of all sequences together, so many that two of 100 fit, and the third does not. */
const cells = 256;
const options = { context: 256, batch: 32, threads: 1, kv: "f32" } as const;
const prompts = [1, 2, 3, 4, 5, 6].map((seed) => someTokens(20 + 5 * seed, seed));
const lengthOf = (i: number): number => 100 - (prompts[i]?.length ?? 0);

describe.each(["llama", "granitehybrid", "gemma3"] as const)("six generations of %s where two fit", (name) => {
  const open = (sequences: number): Promise<Model> => loadModel(fixturePath(name), { ...options, sequences, cells });

  /** What each draws alone. */
  async function alone(): Promise<number[][]> {
    await using model = await loadModel(fixturePath(name), options);
    const all: number[][] = [];
    for (const [i, prompt] of prompts.entries()) {
      all.push((await generated(model, prompt, { maxTokens: lengthOf(i) })).tokens);
    }
    return all;
  }

  test("all finish with what each draws alone, told of once", async () => {
    const expected = await alone();
    await using model = await open(6);
    const untouched = free(model);
    const { rows } = model.counters();
    const events: GenerationEvent[][] = prompts.map(() => []);
    const all = await Promise.all(
      prompts.map((prompt, i) =>
        generated(model, prompt, { maxTokens: lengthOf(i) }, (event) => events[i]?.push(event)),
      ),
    );
    expect(all.map(({ tokens }) => tokens)).toEqual(expected);
    for (const [i, list] of events.entries()) {
      const total = prompts[i]?.length;
      const done = list.filter((event) => event.type === "prefill").map(({ doneTokens }) => doneTokens);
      expect(done.at(-1)).toBe(total as number);
      expect(done).toEqual([...new Set(done)].toSorted((a, b) => a - b));
    }
    // Some was computed twice, or all would have fitted.
    if (name === "llama") expect(model.counters().rows - rows).toBeGreaterThan(6 * 99);
    await freeAgain(model, untouched);
  });

  test("with samplers of all kinds among them, some of which take their time", async () => {
    const expected = await alone();
    await using model = await open(6);
    const untouched = free(model);
    const samplers = [
      {},
      { sampler: (logits: Float32Array) => argmax(logits) },
      {
        sampler: async (logits: Float32Array) => {
          await Bun.sleep(1);
          return argmax(logits);
        },
      },
    ];
    const all = await Promise.all(
      prompts.map((prompt, i) => generated(model, prompt, { maxTokens: lengthOf(i), ...samplers[i % 3] })),
    );
    expect(all.map(({ tokens }) => tokens)).toEqual(expected);
    await freeAgain(model, untouched);
  });
});

describe("one that waits for room", () => {
  const open = (): Promise<Model> => loadModel(fixturePath("llama"), { ...options, sequences: 3, cells });

  /** Two of which the first takes all the memory and then waits to be answered, and the second has none. */
  async function crowded(model: Model, signal: AbortSignal) {
    const counts = { first: 0, second: 0 };
    const answer = Promise.withResolvers<void>();
    const first = generated(model, someTokens(40, 1), {
      maxTokens: 200,
      sampler: async (logits) => {
        counts.first += 1;
        if (counts.first === 160) await answer.promise;
        return argmax(logits);
      },
    });
    const second = generated(model, someTokens(40, 2), { maxTokens: 200, signal }, ({ type }) => {
      if (type === "token") counts.second += 1;
    });
    await until(() => counts.first === 160);
    await Bun.sleep(20);
    expect(counts.second).toBeLessThan(120);
    return { first, second, answer };
  }

  test("can be cancelled then", async () => {
    await using model = await open();
    const untouched = free(model);
    const expected = (await generated(model, someTokens(40, 1), { maxTokens: 200 })).tokens;
    const controller = new AbortController();
    const { first, second, answer } = await crowded(model, controller.signal);
    controller.abort();
    expect((await second).end.finishReason).toBe("cancelled");
    answer.resolve();
    expect((await first).tokens).toEqual(expected);
    await freeAgain(model, untouched);
  });

  test("goes on when a sequence that was held by hand is let go of", async () => {
    await using model = await loadModel(fixturePath("llama"), { ...options, sequences: 3, cells: 384 });
    const untouched = free(model);
    const prompt = someTokens(40, 2);
    const expected = (await generated(model, prompt, { maxTokens: 50 })).tokens;
    const held = model.sequence();
    await held.feed(someTokens(130, 9));
    // Of six blocks of 64, three are held, and two are this one's for as long as it waits.
    const answer = Promise.withResolvers<void>();
    const first = generated(model, someTokens(40, 1), {
      maxTokens: 60,
      sampler: async (logits, { step }) => {
        if (step === 45) await answer.promise;
        return argmax(logits);
      },
    });
    let count = 0;
    const second = generated(model, prompt, { maxTokens: 50 }, ({ type }) => {
      if (type === "token") count += 1;
    });
    await until(() => count >= 24);
    await Bun.sleep(30);
    expect(count).toBeLessThan(30);
    held.dispose();
    expect((await second).tokens).toEqual(expected);
    answer.resolve();
    expect((await first).tokens).toHaveLength(60);
    await freeAgain(model, untouched);
  });

  test("is ended by its model's end", async () => {
    const model = await open();
    const { first, second } = await crowded(model, new AbortController().signal);
    const errors = Promise.all([refusal(first), refusal(second)]);
    await model.dispose();
    expect((await errors).map(({ code }) => code)).toEqual(["closed", "closed"]);
  });
});

describe("one that does not fit alone", () => {
  test("fails, and the others finish", async () => {
    const name = "llama";
    await using model = await loadModel(fixturePath(name), { ...options, context: 512, sequences: 4, cells });
    const untouched = free(model);
    const expected: number[][] = [];
    for (const prompt of prompts.slice(0, 3)) expected.push((await generated(model, prompt, { maxTokens: 40 })).tokens);
    const others = prompts.slice(0, 2).map((prompt) => generated(model, prompt, { maxTokens: 40 }));
    const tooLong = refusal(generated(model, someTokens(100, 9), { maxTokens: 400 }));
    const last = generated(model, prompts[2] as number[], { maxTokens: 40 });
    const error = await tooLong;
    expect(error.code).toBe("full");
    expect(error.message).toContain("is full");
    expect((await Promise.all([...others, last])).map(({ tokens }) => tokens)).toEqual(expected);
    await freeAgain(model, untouched);
  });
});
