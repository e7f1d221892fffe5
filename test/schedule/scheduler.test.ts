import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { argmax, loadModel, type GenerationEvent } from "ggstrata";
import { readEnvironment } from "../../lib/environment.ts";
import { Scheduler } from "../../lib/schedule/scheduler.ts";
import { fixtureNames, fixturePath, free, freeAgain, generated, randomOf, refusal, someTokens } from "../model/help.ts";
import { OpenEngine } from "../native/open-engine.ts";

setDefaultTimeout(60_000);

const lengths = [3, 40, 17, 1, 90, 5, 64, 28];
const prompts = lengths.map((length, i) => someTokens(length, i + 1));

describe.each(fixtureNames)("several sequences of %s", (name) => {
  test("compute what each computes alone, joining and leaving at any time", async () => {
    const options = { context: 256, batch: 48, threads: 1, kv: "f32" } as const;
    const alone: number[][] = [];
    {
      await using model = await loadModel(fixturePath(name), options);
      for (const [i, prompt] of prompts.entries()) {
        alone.push((await generated(model, prompt, { maxTokens: 20 + 9 * i })).tokens);
      }
    }
    for (const sequences of [4, 8]) {
      await using model = await loadModel(fixturePath(name), { ...options, sequences });
      const untouched = free(model);
      const together = await Promise.all(
        prompts.map(async (prompt, i) => {
          // Some come while others decode; with 4 sequences, half of them wait.
          await Bun.sleep(i * 3);
          return (await generated(model, prompt, { maxTokens: 20 + 9 * i })).tokens;
        }),
      );
      expect(together).toEqual(alone);
      await freeAgain(model, untouched);
    }
  });
});

const seed = Number(readEnvironment("STRATA_SEED") ?? Date.now() % 1_000_000_007);
const visitors = readEnvironment("STRATA_SOAK") === undefined ? 60 : 1000;

describe.each(["granitehybrid", "gemma3"] as const)(`comings and goings at %s, STRATA_SEED=${seed}`, (name) => {
  test(`of ${visitors} visitors who stay, leave, cancel, sample for themselves or read logits`, async () => {
    console.log(`scheduler: STRATA_SEED=${seed}`);
    const random = randomOf(seed);
    const options = { context: 128, batch: 24, threads: 1, kv: "f32" } as const;
    const kinds = prompts.map((prompt, i) => ({ prompt, maxTokens: 5 + 4 * i }));
    const expected: number[][] = [];
    await using model = await loadModel(fixturePath(name), { ...options, sequences: 5 });
    const untouched = free(model);
    for (const { prompt, maxTokens } of kinds) expected.push((await generated(model, prompt, { maxTokens })).tokens);
    const visit = async (action: number, kind: number, stay: number): Promise<void> => {
      const { prompt, maxTokens } = kinds[kind] as (typeof kinds)[number];
      const wanted = expected[kind] as number[];
      const controller = new AbortController();
      const { signal } = controller;
      const drawn: number[] = [];
      if (action === 3) {
        for await (const { position } of model.logits(prompt, { chunk: 1 + stay })) if (position > stay) break;
        return;
      }
      if (action === 4) setTimeout(() => controller.abort(), stay);
      const sampler = action === 2 ? { sampler: (logits: Float32Array) => argmax(logits) } : {};
      for await (const event of model.events(prompt, {
        temperature: 0,
        ignoreEnd: true,
        maxTokens,
        signal,
        ...sampler,
      })) {
        if (event.type === "token") drawn.push(event.token);
        if (event.type === "token" && action === 0 && drawn.length > stay) break;
        if (event.type === "token" && action === 1 && drawn.length > stay) controller.abort();
        if (event.type === "end" && event.finishReason === "length") expect(drawn).toEqual(wanted);
      }
      expect(drawn).toEqual(wanted.slice(0, drawn.length));
    };
    const visits: Promise<void>[] = [];
    for (let i = 0; i < visitors; i += 1) {
      const [action, kind, stay] = [random() * 7, random() * kinds.length, random() * 12].map(Math.floor);
      visits.push(visit(action ?? 0, kind ?? 0, stay ?? 0));
      if (random() < 0.7) await Bun.sleep(random() * 4);
    }
    await Promise.all(visits);
    await freeAgain(model, untouched);
  });
});

describe("turns", () => {
  test("those who came first get a sequence first, all get one", async () => {
    await using model = await loadModel(fixturePath("llama"), { context: 128, sequences: 2, threads: 1 });
    const order: number[] = [];
    const runs = Array.from({ length: 9 }, (_, i) => {
      let isFirst = true;
      return generated(model, someTokens(4, i), { maxTokens: 6 }, (event) => {
        if (event.type === "token" && isFirst) order.push(i);
        if (event.type === "token") isFirst = false;
      });
    });
    for (const { end } of await Promise.all(runs)) expect(end).toMatchObject({ finishReason: "length", tokenCount: 6 });
    expect(order).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8]);
  });

  test("long prompts do not hold up one that decodes", async () => {
    const options = { context: 1024, sequences: 3, batch: 32, threads: 1 };
    await using model = await loadModel(fixturePath("granitehybrid"), options);
    const log: string[] = [];
    const note = (who: string) => (event: GenerationEvent) => {
      if (event.type === "token" || event.type === "prefill") log.push(`${who} ${event.type}`);
    };
    const decoding = generated(model, someTokens(2), { maxTokens: 200 }, (event) => {
      note("decoder")(event);
      if (log.length === 5)
        for (const who of ["a", "b"]) late.push(generated(model, someTokens(600), { maxTokens: 2 }, note(who)));
    });
    const late: Promise<unknown>[] = [];
    await decoding;
    await Promise.all(late);
    // 1,200 tokens of prompts in steps of 32, each with a token of the one that decodes.
    const prefills = log.filter((entry) => entry.endsWith("prefill") && !entry.startsWith("decoder"));
    expect(prefills.length).toBeGreaterThanOrEqual(1200 / 32);
    const first = log.findIndex((entry) => entry === "a prefill" || entry === "b prefill");
    const last = log.findLastIndex((entry) => entry === "a prefill" || entry === "b prefill");
    const between = log.slice(first, last).filter((entry) => entry === "decoder token").length;
    expect(between).toBeGreaterThanOrEqual(prefills.length * 0.8);
  });

  test("those that decode do not hold up a prompt, even where they fill every step", async () => {
    const options = { context: 512, sequences: 3, batch: 2, threads: 1 };
    await using model = await loadModel(fixturePath("mamba2"), options);
    let decoded = 0;
    const decoders = [1, 2].map((seed) =>
      generated(model, someTokens(2, seed), { maxTokens: 400 }, (event) => {
        if (event.type === "token") decoded += 1;
      }),
    );
    const alone = generated(model, someTokens(20, 3), { maxTokens: 3 });
    const late = await alone;
    expect(decoded).toBeLessThan(400);
    await Promise.all(decoders);
    expect((await generated(model, someTokens(20, 3), { maxTokens: 3 })).tokens).toEqual(late.tokens);
  });

  test("logits are computed beside generations", async () => {
    await using model = await loadModel(fixturePath("bamba"), { context: 256, sequences: 2, threads: 1, kv: "f32" });
    const untouched = free(model);
    const tokens = someTokens(60, 5);
    const rows = async () => {
      const all: number[] = [];
      for await (const { logits } of model.logits(tokens, { chunk: 7 })) all.push(...logits.slice(0, 4));
      return all;
    };
    const [quietly, text] = [await rows(), (await generated(model, someTokens(9), { maxTokens: 100 })).tokens];
    const running = generated(model, someTokens(9), { maxTokens: 100 });
    expect(await rows()).toEqual(quietly);
    expect((await running).tokens).toEqual(text);
    await freeAgain(model, untouched);
  });
});

describe("one that fails", () => {
  test("fails alone, whatever its sampler or its logit bias did", async () => {
    await using model = await loadModel(fixturePath("llama"), { context: 256, sequences: 4, threads: 1, kv: "f32" });
    const untouched = free(model);
    const seeded = { temperature: 1, seed: 5, repetitionPenalty: 1.3, maxTokens: 80 };
    const expected = (await generated(model, someTokens(9), seeded)).tokens;
    const banned = Object.fromEntries(Array.from({ length: model.vocabularySize }, (_, id) => [id, -Infinity]));
    const good = generated(model, someTokens(9), seeded);
    const [first, second] = await Promise.all([
      refusal(generated(model, someTokens(12, 2), { logitBias: banned })),
      refusal(generated(model, someTokens(3, 2), { sampler: (_, { step }) => (step < 5 ? 7 : 384) })),
    ]);
    expect(first.message).toContain("the logit bias bans every token");
    expect(second.message).toBe("the custom sampler returned 384 at step 5; return a token id from 0 to 383");
    expect((await good).tokens).toEqual(expected);
    await freeAgain(model, untouched);
  });
});

describe("the lending of sequences", () => {
  test("one that is handed over to somebody who has just left goes to the next", async () => {
    await using open = await OpenEngine.open(fixturePath("llama"), { sequences: 1 });
    const scheduler = new Scheduler(open.engine, () => undefined);
    const lent = await scheduler.acquire();
    const controller = new AbortController();
    const left = scheduler.acquire(controller.signal);
    const next = scheduler.acquire();
    scheduler.release(lent);
    controller.abort(new Error("left"));
    expect(await left.catch((error: Error) => error.message)).toBe("left");
    expect(await next).toBe(lent);
    expect(await scheduler.acquire(AbortSignal.abort("no")).catch((reason: unknown) => reason)).toBe("no");
    const closed = scheduler.acquire();
    scheduler.release(lent);
    scheduler.close();
    expect((await refusal(closed)).code).toBe("closed");
  });
});
