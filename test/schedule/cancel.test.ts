import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { loadModel, type GenerationEvent, type Model } from "ggstrata";
import {
  fixturePath,
  free,
  freeAgain,
  generated,
  refusal,
  someTokens,
  tinyHybrid,
  until,
  type Generated,
} from "../model/help.ts";

setDefaultTimeout(60_000);

const batch = 32;
const options = { context: 1024, batch, threads: 1, kv: "f32" } as const;
const longPrompt = someTokens(600, 7);
const prompt = someTokens(20, 8);

describe("cancelling", () => {
  let model: Model;
  let untouched: ReturnType<typeof free>;
  let expected: Generated;

  beforeAll(async () => {
    // Of a model that never cancelled anything.
    await using fresh = await loadModel(tinyHybrid, options);
    expected = await generated(fresh, prompt, { maxTokens: 24 });
    model = await loadModel(tinyHybrid, options);
    untouched = free(model);
  });
  afterAll(() => model.dispose());

  /** The sequence is given back, and computes what a fresh model does. */
  async function expectUntouched(): Promise<void> {
    await freeAgain(model, untouched);
    const again = await generated(model, prompt, { maxTokens: 24 });
    expect({ tokens: again.tokens, text: again.text }).toEqual({ tokens: expected.tokens, text: expected.text });
  }

  test("in the prompt, it stops within a step", async () => {
    const controller = new AbortController();
    let stepsThen = 0;
    const { end } = await generated(model, longPrompt, { maxTokens: 100, signal: controller.signal }, (event) => {
      if (event.type !== "prefill" || stepsThen > 0) return;
      stepsThen = model.counters().steps;
      controller.abort();
    });
    expect(end.finishReason).toBe("cancelled");
    expect(end.tokenCount).toBe(0);
    expect(model.counters().steps - stepsThen).toBeLessThanOrEqual(1);
    await expectUntouched();
  });

  test("in decoding, it stops within a step", async () => {
    const controller = new AbortController();
    let seen = 0;
    const { end, tokens } = await generated(model, prompt, { signal: controller.signal }, (event) => {
      if (event.type !== "token") return;
      seen += 1;
      if (seen === 5) controller.abort();
    });
    expect(end.finishReason).toBe("cancelled");
    // Those that were drawn before the signal are given out.
    expect(tokens.length).toBeGreaterThanOrEqual(5);
    expect(tokens.length).toBeLessThan(900);
    const { steps } = model.counters();
    await Bun.sleep(30);
    expect(model.counters().steps).toBe(steps);
    await expectUntouched();
  });

  test("the computing ends also when nobody reads", async () => {
    const controller = new AbortController();
    const events = model.events(longPrompt, { temperature: 0, signal: controller.signal });
    const first: GenerationEvent[] = [];
    while (first.length < 2) first.push((await events.next()).value as GenerationEvent);
    expect(first.map(({ type }) => type)).toEqual(["start", "prefill"]);
    controller.abort();
    await freeAgain(model, untouched);
    const { steps } = model.counters();
    await Bun.sleep(30);
    expect(model.counters().steps).toBe(steps);
    const rest: GenerationEvent[] = [];
    for await (const event of events) rest.push(event);
    expect(rest.at(-1)).toMatchObject({ type: "end", finishReason: "cancelled" });
    await expectUntouched();
  });

  test("before it starts, nothing is computed", async () => {
    const { steps } = model.counters();
    const { end } = await generated(model, prompt, { signal: AbortSignal.abort() });
    expect(end).toMatchObject({ finishReason: "cancelled", tokenCount: 0, text: "" });
    expect(model.counters().steps).toBe(steps);
  });

  test("while it waits for a sequence, it ends and the one that runs goes on", async () => {
    const controller = new AbortController();
    const running = generated(model, prompt, { maxTokens: 24 }, (event) => {
      if (event.type === "token") controller.abort();
    });
    const waiting = generated(model, longPrompt, { signal: controller.signal });
    const behind = generated(model, prompt, { maxTokens: 24 });
    expect((await waiting).end).toMatchObject({ finishReason: "cancelled", tokenCount: 0 });
    expect((await running).tokens).toEqual(expected.tokens);
    expect((await behind).tokens).toEqual(expected.tokens);
    await expectUntouched();
  });

  test("at the moment at which its turn comes, it ends and the next one gets the turn", async () => {
    const controllers = Array.from({ length: 6 }, () => new AbortController());
    const running = generated(model, prompt, { maxTokens: 8 });
    const waiting = controllers.map(({ signal }, i) =>
      generated(model, prompt, { maxTokens: 24, signal }, (event) => {
        // When one ends, its sequence is handed to the next, which is told to stop in the same turn.
        if (event.type === "end") queueMicrotask(() => controllers[i + 1]?.abort());
      }),
    );
    const last = generated(model, prompt, { maxTokens: 24 });
    await running;
    const reasons = (await Promise.all(waiting)).map(({ end }) => end.finishReason);
    expect(reasons[0]).toBe("length");
    expect(reasons.slice(1)).toEqual(Array.from({ length: 5 }, () => "cancelled" as const));
    expect((await last).tokens).toEqual(expected.tokens);
    await expectUntouched();
  });

  test("leaving the loop frees the sequence", async () => {
    let seen = 0;
    for await (const { token } of model.generate(prompt, { temperature: 0, ignoreEnd: true })) {
      expect(token).toBe(expected.tokens[seen] ?? -1);
      seen += 1;
      if (seen === 5) break;
    }
    await freeAgain(model, untouched);
    await expectUntouched();
    const events = model.events(longPrompt);
    await events.next();
    await events.return();
    await expectUntouched();
  });

  test("generate() throws the signal's reason", async () => {
    const reason = new Error("the reader left");
    const controller = new AbortController();
    const run = async () => {
      for await (const piece of model.generate(prompt, { signal: controller.signal })) {
        if (piece.token >= 0) controller.abort(reason);
      }
    };
    expect(await run().catch((error: unknown) => error)).toBe(reason);
    await expectUntouched();
  });

  test("logits() throws the signal's reason, also while it waits", async () => {
    const reason = new Error("enough");
    const collect = async (signal: AbortSignal, onRow: () => void) => {
      for await (const row of model.logits(longPrompt, { chunk: 8, signal })) if (row.position >= 0) onRow();
    };
    const controller = new AbortController();
    const outcome = collect(controller.signal, () => controller.abort(reason));
    expect(await outcome.catch((error: unknown) => error)).toBe(reason);
    const running = generated(model, prompt, { maxTokens: 24 });
    const late = new AbortController();
    const waiting = collect(late.signal, () => {});
    const never = collect(AbortSignal.abort(reason), () => {});
    late.abort(reason);
    expect(await waiting.catch((error: unknown) => error)).toBe(reason);
    expect(await never.catch((error: unknown) => error)).toBe(reason);
    expect((await running).tokens).toEqual(expected.tokens);
    await expectUntouched();
  });

  test("a hundred generations cancelled at random moments leave nothing behind", async () => {
    for (let i = 0; i < 100; i += 1) {
      const controller = new AbortController();
      const running = generated(model, i % 2 === 0 ? longPrompt : prompt, { signal: controller.signal });
      await Bun.sleep(i % 7);
      controller.abort();
      expect((await running).end.finishReason).toBe("cancelled");
    }
    await expectUntouched();
  });
});

describe("cancelling one of several", () => {
  test("the others are not disturbed", async () => {
    await using model = await loadModel(fixturePath("granitehybrid"), {
      context: 512,
      sequences: 3,
      threads: 1,
      kv: "f32",
    });
    const untouched = free(model);
    const prompts = [someTokens(30, 1), someTokens(9, 2)];
    const alone = [];
    for (const tokens of prompts) alone.push((await generated(model, tokens, { maxTokens: 60 })).tokens);
    const controller = new AbortController();
    const cancelled = generated(model, someTokens(200, 3), { signal: controller.signal }, (event) => {
      if (event.type === "token") controller.abort();
    });
    const together = await Promise.all(prompts.map((tokens) => generated(model, tokens, { maxTokens: 60 })));
    expect((await cancelled).end.finishReason).toBe("cancelled");
    expect(together.map(({ tokens }) => tokens)).toEqual(alone);
    await freeAgain(model, untouched);
  });

  test("a sampler that never answers can be cancelled, and the others go on", async () => {
    await using model = await loadModel(fixturePath("llama"), { context: 128, sequences: 2, threads: 1 });
    const controller = new AbortController();
    let isAsked = false;
    const stuck = generated(model, someTokens(5), {
      signal: controller.signal,
      sampler: () => {
        isAsked = true;
        return new Promise<number>(() => {});
      },
    });
    await until(() => isAsked);
    controller.abort();
    expect((await stuck).end.finishReason).toBe("cancelled");
    expect((await generated(model, someTokens(5), { maxTokens: 5 })).tokens).toHaveLength(5);
  });

  test("an error in a reader's hands frees the sequence", async () => {
    await using model = await loadModel(fixturePath("mamba2"), { context: 128, threads: 1 });
    const untouched = free(model);
    const broken = generated(model, someTokens(9), {}, () => {
      throw new TypeError("the reader fell over");
    });
    expect(await broken.catch((error: unknown) => error)).toBeInstanceOf(TypeError);
    await freeAgain(model, untouched);
    expect((await generated(model, someTokens(9), { maxTokens: 3 })).tokens).toHaveLength(3);
    const error = await refusal(generated(model, someTokens(9), { sampler: () => Number.NaN }));
    expect(error.message).toContain("NaN");
    await freeAgain(model, untouched);
  });
});
