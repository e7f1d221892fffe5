/** Samplers of the caller's that take their time, or use the model themselves. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { argmax, loadModel } from "ggstrata";
import { fixturePath, free, freeAgain, generated, refusal, someTokens, until } from "../model/help.ts";

setDefaultTimeout(30_000);

const options = { context: 256, batch: 32, threads: 1, kv: "f32" } as const;
const prompt = someTokens(14, 3);
const negativePrompt = someTokens(6, 4);

/** The greatest of what the prompt makes likelier than the other one does. Strong, so that it differs at every token. */
function guided(logits: Float32Array, negative: Float32Array): number {
  return argmax(logits.map((value, i) => value - 3 * (negative[i] ?? Number.NaN)));
}

describe("a sampler that uses its model", () => {
  test("is guided by a second sequence of it", async () => {
    await using model = await loadModel(fixturePath("granitehybrid"), { ...options, sequences: 3 });
    const untouched = free(model);
    const count = 20;
    // By hand, one after the other.
    const expected: number[] = [];
    {
      using positive = model.sequence();
      using negative = model.sequence();
      let [{ logits: of }, { logits: against }] = [await positive.feed(prompt), await negative.feed(negativePrompt)];
      while (true) {
        const token = guided(of[0] as Float32Array, against[0] as Float32Array);
        expected.push(token);
        if (expected.length === count) break;
        [of, against] = [(await positive.feed([token])).logits, (await negative.feed([token])).logits];
      }
    }
    const plain = await generated(model, prompt, { maxTokens: count });
    expect(expected).not.toEqual(plain.tokens);
    expect(new Set(expected).size).toBeGreaterThan(3);
    const guide = async (): Promise<number[]> => {
      using negative = model.sequence();
      let last: readonly number[] = negativePrompt;
      const { tokens } = await generated(model, prompt, {
        maxTokens: count,
        sampler: async (logits) => {
          const result = await negative.feed(last);
          const token = guided(logits, result.logits[0] as Float32Array);
          last = [token];
          return token;
        },
      });
      return tokens;
    };
    expect(await guide()).toEqual(expected);
    // Beside one that decodes in the core for all that time.
    const long = generated(model, prompt, { maxTokens: 200 });
    expect(await guide()).toEqual(expected);
    expect((await long).tokens.slice(0, count)).toEqual(plain.tokens);
    await freeAgain(model, untouched);
  });

  test("generates within it, and reads logits", async () => {
    await using model = await loadModel(fixturePath("llama"), { ...options, sequences: 2 });
    const inner = (await generated(model, prompt, { maxTokens: 3 })).tokens;
    const { tokens } = await generated(model, negativePrompt, {
      maxTokens: 3,
      sampler: async (_, { step }) => {
        const { tokens: drawn } = await generated(model, prompt, { maxTokens: 3 });
        for await (const { logits } of model.logits(prompt)) argmax(logits);
        return drawn[step] as number;
      },
    });
    expect(tokens).toEqual(inner);
  });
});

describe("a sampler that thinks", () => {
  test("does not hold up the others", async () => {
    await using model = await loadModel(fixturePath("llama"), { ...options, sequences: 3 });
    const untouched = free(model);
    const expected = (await generated(model, prompt, { maxTokens: 240 })).tokens;
    const think = Promise.withResolvers<void>();
    let isThinking = false;
    const slow = generated(model, prompt, {
      maxTokens: 3,
      sampler: async (logits, { step }) => {
        isThinking = true;
        if (step === 1) await think.promise;
        return argmax(logits);
      },
    });
    await until(() => isThinking);
    // Whole generations of both kinds pass it by.
    expect((await generated(model, prompt, { maxTokens: 240 })).tokens).toEqual(expected);
    const beside = { maxTokens: 20, sampler: (logits: Float32Array) => argmax(logits) };
    expect((await generated(model, prompt, beside)).tokens).toEqual(expected.slice(0, 20));
    think.resolve();
    expect((await slow).tokens).toEqual(expected.slice(0, 3));
    await freeAgain(model, untouched);
  });

  test("for as long as others draw six tokens lets them, and joins a long run when it has answered", async () => {
    await using model = await loadModel(fixturePath("llama"), { ...options, context: 4096, sequences: 2 });
    const controller = new AbortController();
    let drawn = 0;
    const other = generated(model, prompt, { signal: controller.signal }, ({ type }) => {
      if (type === "token") drawn += 1;
    });
    const { tokens } = await generated(model, prompt, {
      maxTokens: 4,
      sampler: async (logits) => {
        const before = drawn;
        await until(() => drawn > before + 5);
        return argmax(logits);
      },
    });
    // The other had thousands to draw in one run, and this one did not wait for its end.
    const whole = drawn;
    controller.abort();
    expect((await other).end.finishReason).toBe("cancelled");
    expect(tokens).toHaveLength(4);
    expect(whole).toBeLessThan(4000);
  });

  test("can be cancelled while it does, fails alone, and goes with its model", async () => {
    const model = await loadModel(fixturePath("llama"), { ...options, sequences: 4 });
    const untouched = free(model);
    let asked = 0;
    const never = () => {
      asked += 1;
      return new Promise<number>(() => {});
    };
    const controller = new AbortController();
    const stuck = generated(model, prompt, { signal: controller.signal, sampler: never });
    const failing = refusal(
      generated(model, prompt, {
        sampler: async (_, { step }) => {
          await Bun.sleep(5);
          return step < 2 ? 7 : -1;
        },
      }),
    );
    await until(() => asked === 1);
    expect((await failing).message).toContain("the custom sampler returned -1 at step 2");
    controller.abort();
    expect((await stuck).end.finishReason).toBe("cancelled");
    await freeAgain(model, untouched);
    const left = refusal(generated(model, prompt, { sampler: never }));
    await until(() => asked === 2);
    await model.dispose();
    expect((await left).code).toBe("closed");
  });
});

describe("samplers that answer at once", () => {
  test.each<[string, (logits: Float32Array) => number | Promise<number>]>([
    ["by themselves", (logits) => argmax(logits)],
    ["by a promise", async (logits) => argmax(logits)],
  ])("share each step, %s", async (_, sampler) => {
    await using model = await loadModel(fixturePath("llama"), { ...options, sequences: 4 });
    const prompts = [1, 2, 3, 4].map((seed) => someTokens(5, seed));
    const { steps } = model.counters();
    const all = await Promise.all(prompts.map((tokens) => generated(model, tokens, { maxTokens: 30, sampler })));
    for (const { tokens } of all) expect(tokens).toHaveLength(30);
    // One for the prompts, which takes part in the first token, and one for each token after.
    expect(model.counters().steps - steps).toBe(30);
  });
});
