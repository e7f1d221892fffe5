import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import {
  argmax,
  kvTypes,
  loadModel,
  softmax,
  type GenerateOptions,
  type GenerationEvent,
  type KvType,
  type Model,
} from "ggstrata";
import { Gguf } from "../model/gguf.ts";
import {
  fixtureNames,
  fixturePath,
  Folder,
  free,
  freeAgain,
  generated,
  refusal,
  someTokens,
  thrown,
  tinyHybrid,
} from "../model/help.ts";

setDefaultTimeout(60_000);

describe("what is asked for wrongly", () => {
  let model: Model;
  beforeAll(async () => {
    model = await loadModel(tinyHybrid, { context: 64, threads: 1 });
  });
  afterAll(() => model.dispose());

  test.each<[string, string | readonly number[], GenerateOptions, string]>([
    ["an empty text", "", {}, "the prompt is empty; give some text"],
    ["no tokens", [], {}, "the prompt is empty; give at least one token"],
    ["an unknown token", [5, 70_000], {}, "token 70000 does not exist; the vocabulary has "],
    ["a token below zero", [-1], {}, "token -1 does not exist"],
    ["a token that is a fraction", [1.5], {}, "token 1.5 does not exist"],
    ["a token that is no number", [Number.NaN], {}, "token NaN does not exist"],
    ["a prompt that is too long", someTokens(65), {}, "the prompt has 65 tokens and the context is 64"],
    ["half a character", "a \ud83d b", {}, "surrogate"],
    ["a temperature that is no number", [5], { temperature: Number.NaN }, "temperature is NaN"],
    ["a temperature below zero", [5], { temperature: -1 }, "temperature is -1"],
    ["topP of nothing", [5], { topP: 0 }, "topP is 0"],
    ["a seed that is a fraction", [5], { seed: 0.5 }, "seed is 0.5"],
    ["fewer tokens than none", [5], { maxTokens: -1 }, "maxTokens is -1; give a whole number from 0 up"],
    ["half a token", [5], { maxTokens: 0.5 }, "maxTokens is 0.5"],
    ["tokens that are no number", [5], { maxTokens: Number.NaN }, "maxTokens is NaN"],
    ["a bias of an unknown token", [5], { logitBias: { 99999: 1 } }, 'logitBias names token "99999"'],
    ["an empty stop text", [5], { stop: ["a", ""] }, "stop"],
  ])("%s", async (_, prompt, options, sentence) => {
    const { steps } = model.counters();
    const error = thrown(() => model.events(prompt, options));
    expect(error.code).toBe("invalid_argument");
    expect(error.message).toContain(sentence);
    expect(error.message).not.toContain("\n");
    expect((await refusal(generated(model, prompt, options))).message).toBe(error.message);
    expect(model.counters().steps).toBe(steps);
  });

  test("logits of nothing, of too much, in no pieces", async () => {
    const rows = async (tokens: readonly number[], chunk?: number) => {
      for await (const row of model.logits(tokens, chunk === undefined ? {} : { chunk })) expect(row).toBeUndefined();
    };
    expect((await refusal(rows([]))).message).toContain("empty");
    expect((await refusal(rows(someTokens(65)))).message).toContain("the prompt has 65 tokens and the context is 64");
    for (const chunk of [0, -1, 1.5, Number.NaN]) {
      expect((await refusal(rows([5], chunk))).message).toBe(`chunk is ${chunk}; give a whole number from 1 up`);
    }
  });
});

describe("loading with options that cannot be", () => {
  test.each([
    [{ context: 0 }, "context is 0"],
    [{ context: -5 }, "context is -5"],
    [{ context: 1.5 }, "context is 1.5"],
    [{ context: Number.NaN }, "context is NaN"],
    [{ context: 2 ** 31 }, "context is 2147483648"],
    [{ sequences: 0 }, "sequences is 0"],
    [{ sequences: 70_000, context: 16 }, "sequences is 70000; give a number from 1 to 65536"],
    [{ batch: 0 }, "batch is 0"],
    [{ batch: 100_000, context: 100_000 }, "batch is 100000; give a number from 1 to 65536"],
    [{ threads: 0 }, "threads is 0"],
    [{ threads: 100_000 }, "threads is 100000"],
    [{ context: 2 ** 28, sequences: 65_536 }, "65536 sequences of 268435456 positions are more than"],
    [{ kv: "f8" as KvType }, 'kv is "f8"; give one of f32, f16, bf16, q8_0, q4_0'],
  ] as const)("%j", async (options, sentence) => {
    const loading = loadModel(fixturePath("llama"), { threads: 1, ...options }).then((model) => model.dispose());
    const error = await refusal(loading);
    expect(error.code).toBe("invalid_argument");
    expect(error.message).toContain(sentence);
  });

  test("a memory larger than the machine", async () => {
    const options = { context: 2 ** 24, sequences: 64, kv: "f32", threads: 1 } as const;
    const error = await refusal(loadModel(fixturePath("gemma3"), options).then((model) => model.dispose()));
    expect(error.code).toBe("out_of_memory");
    expect(error.message).toContain("use a smaller context, fewer sequences or a smaller type");
  });
});

describe("the ends of a generation", () => {
  test.each(fixtureNames)("a full context of %s ends it with its length", async (name) => {
    await using model = await loadModel(fixturePath(name), { context: 50, threads: 1, kv: "f32" });
    const untouched = free(model);
    for (const length of [1, 30, 49, 50]) {
      const { end, tokens } = await generated(model, someTokens(length));
      // The last token need not fit: nothing follows it.
      expect(tokens).toHaveLength(50 - length + 1);
      expect(end).toMatchObject({ finishReason: "length", promptTokenCount: length, tokenCount: 51 - length });
      await freeAgain(model, untouched);
    }
  });

  test("no tokens asked for, none drawn, nothing computed", async () => {
    await using model = await loadModel(fixturePath("llama"), { threads: 1 });
    const { end, tokens } = await generated(model, [5], { maxTokens: 0 });
    expect({ tokens, end }).toMatchObject({ tokens: [], end: { finishReason: "length", tokenCount: 0, text: "" } });
    expect(model.counters().steps).toBe(0);
  });

  test("an end token ends it with stop, and an ignored one does not", async () => {
    await using model = await loadModel(fixturePath("llama"), { threads: 1 });
    const end = 1;
    const options = { ignoreEnd: false, logitBias: { [end]: 1e6 }, maxTokens: 5 };
    const stopped = await generated(model, [5], options);
    expect({ tokens: stopped.tokens, reason: stopped.end.finishReason }).toEqual({ tokens: [end], reason: "stop" });
    const ignored = await generated(model, [5], { ...options, ignoreEnd: true });
    expect({ tokens: ignored.tokens, reason: ignored.end.finishReason }).toEqual({
      tokens: [end, end, end, end, end],
      reason: "length",
    });
  });

  test("a stop text ends it, and is no part of the text", async () => {
    await using model = await loadModel(tinyHybrid, { threads: 1, context: 256 });
    const whole = await generated(model, "Once upon a time", { maxTokens: 40 });
    const stop = whole.text.slice(20, 24);
    const stopped = await generated(model, "Once upon a time", { maxTokens: 40, stop });
    expect(stopped.text).toBe(whole.text.slice(0, whole.text.indexOf(stop)));
    expect(stopped.end.finishReason).toBe("stop");
  });
});

describe("the order of events", () => {
  test("one start, prefill up to the prompt's length, tokens, one end", async () => {
    await using model = await loadModel(fixturePath("granitehybrid"), { threads: 1, context: 256, batch: 16 });
    const events: GenerationEvent[] = [];
    const prompt = someTokens(50);
    await generated(model, prompt, { maxTokens: 4, seed: 9, logProbabilities: true }, (event) => events.push(event));
    expect(events.map(({ type }) => type)).toEqual(
      [["start"], Array(4).fill("prefill"), Array(4).fill("token"), ["end"]].flat() as GenerationEvent["type"][],
    );
    expect(events[0]).toEqual({ type: "start", promptTokens: prompt, seed: 9 });
    const prefills = events.filter((event) => event.type === "prefill");
    expect(prefills.map(({ doneTokens, totalTokens }) => [doneTokens, totalTokens])).toEqual([
      [16, 50],
      [32, 50],
      [48, 50],
      [50, 50],
    ]);
    for (const event of events) if (event.type === "token") expect(event.logProbability).toBeLessThanOrEqual(0);
    const end = events.at(-1);
    if (end?.type !== "end") throw new Error("no end");
    const { timings } = end;
    for (const value of Object.values(timings)) expect(value).toBeGreaterThanOrEqual(0);
    expect(timings.prefillMs).toBeGreaterThan(0);
    expect(timings.decodeTokensPerSecond).toBeGreaterThan(0);
  });
});

describe("sampling", () => {
  let model: Model;
  let untouched: ReturnType<typeof free>;
  beforeAll(async () => {
    model = await loadModel(tinyHybrid, { context: 256, sequences: 2, threads: 1, kv: "f32" });
    untouched = free(model);
  });
  afterAll(() => model.dispose());
  const prompt = "The old king";

  test("a custom sampler that takes the greatest draws what temperature 0 does", async () => {
    const steps: number[] = [];
    const custom = await generated(model, prompt, {
      maxTokens: 30,
      sampler: async (logits, { step, tokens }) => {
        steps.push(step);
        expect(tokens).toHaveLength(model.tokenizer.encode(prompt).length + step);
        await Bun.sleep(0);
        return argmax(logits);
      },
    });
    expect(custom.tokens).toEqual((await generated(model, prompt, { maxTokens: 30 })).tokens);
    expect(steps).toEqual(Array.from({ length: 30 }, (_, i) => i));
    // Its logits are its own: what it does to them changes nothing.
    const ruined = await generated(model, prompt, {
      maxTokens: 30,
      sampler: (logits) => {
        const chosen = argmax(softmax(logits));
        logits.fill(Number.NaN);
        return chosen;
      },
    });
    expect(ruined.tokens).toEqual(custom.tokens);
  });

  test("the same seed gives the same text, beside others and alone; another seed another", async () => {
    const options = { temperature: 1, topK: 0, topP: 1, minP: 0, maxTokens: 40, repetitionPenalty: 1.1 };
    const first = await generated(model, prompt, { ...options, seed: 7 });
    const [again, other] = await Promise.all([
      generated(model, prompt, { ...options, seed: 7 }),
      generated(model, prompt, { ...options, seed: 8 }),
    ]);
    expect(again.text).toBe(first.text);
    expect(other.text).not.toBe(first.text);
    let seed = -1;
    const drawn = await generated(model, prompt, options, (event) => {
      if (event.type === "start") seed = event.seed;
    });
    expect((await generated(model, prompt, { ...options, seed })).text).toBe(drawn.text);
  });

  test.each<[string, () => unknown]>([
    ["nothing", () => undefined],
    ["null", () => null],
    ["text", () => "5"],
    ["NaN", () => Number.NaN],
    ["a fraction", () => 1.5],
    ["a token below zero", () => -1],
    ["a token beyond the vocabulary", () => 1e6],
    ["infinity", () => Infinity],
    ["a bigint", () => 5n],
    ["a list", () => [5]],
    ["a promise of nothing", () => Promise.resolve()],
  ])("a custom sampler that returns %s", async (_, nonsense) => {
    const sampler = (logits: Float32Array, { step }: { step: number }) =>
      step < 2 ? argmax(logits) : (nonsense() as number);
    const error = await refusal(generated(model, prompt, { sampler }));
    expect(error.code).toBe("invalid_argument");
    expect(error.message).toMatch(/^the custom sampler returned .* at step 2; return a token id from 0 to \d+$/);
    await freeAgain(model, untouched);
  });

  test("a custom sampler that throws, at once or later", async () => {
    const fault = new RangeError("out of ideas");
    const samplers: GenerateOptions["sampler"][] = [
      () => {
        throw fault;
      },
      () => Promise.reject(fault),
    ];
    for (const sampler of samplers) {
      expect(await generated(model, prompt, { sampler }).catch((error: unknown) => error)).toBe(fault);
      await freeAgain(model, untouched);
    }
  });
});

describe("logits that are no numbers", () => {
  test.each(["llama", "mamba2"] as const)("are an error of %s that names the step", async (name) => {
    using folder = new Folder();
    const file = Gguf.read(fixturePath(name));
    const norm = file.tensor("output_norm.weight");
    new DataView(norm.data.buffer, norm.data.byteOffset).setFloat32(12, Number.NaN, true);
    const path = folder.write("nan.gguf", file.write());
    await using model = await loadModel(path, { threads: 1, sequences: 2 });
    const untouched = free(model);
    const prompt = someTokens(5);
    const built = await refusal(generated(model, prompt));
    expect(built.code).toBe("internal");
    expect(built.message).toMatch(/step \d+/);
    expect(built.message).toContain("NaN");
    const custom = await refusal(generated(model, prompt, { sampler: () => 5 }));
    expect(custom.message).toContain("the logits of step 0 hold NaN at token 0 of 384");
    await freeAgain(model, untouched);
  });
});

describe("types of keys and values", () => {
  const hasBlocks = ["q8_0", "q4_0"];

  test.each(fixtureNames)("of %s", async (name) => {
    const prompt = someTokens(40, 2);
    let expected: number[] | undefined;
    for (const kv of kvTypes) {
      const loading = loadModel(fixturePath(name), { context: 128, threads: 1, kv });
      // Heads of 8, 24, 12 and 16 elements fill no block of 32; a model without attention has no keys.
      if (hasBlocks.includes(kv) && name !== "mamba2") {
        const error = await refusal(loading.then((model) => model.dispose()));
        expect(error.code).toBe("unsupported");
        expect(error.message).toMatch(new RegExp(`layer \\d+: keys of \\d+ elements a head cannot be ${kv}`));
        continue;
      }
      await using model = await loading;
      const { tokens } = await generated(model, prompt, { maxTokens: 10 });
      expect(tokens).toHaveLength(10);
      expected ??= tokens;
      if (kv === "f16") expect(tokens).toEqual(expected);
    }
  });

  test("q8_0 and q4_0 where heads fill blocks", async () => {
    const prompt = "Once upon a time there was a";
    const texts = new Map<string, string>();
    const bytes = new Map<string, number>();
    for (const kv of kvTypes) {
      await using model = await loadModel(tinyHybrid, { context: 256, threads: 1, kv });
      texts.set(kv, (await generated(model, prompt, { maxTokens: 12 })).text);
      bytes.set(kv, model.counters().memoryBytes);
      expect(model.memory.bytes).toBe(model.counters().memoryBytes);
    }
    // The model's own weights are quantised, so its text may part anywhere; not at the first words.
    const beginnings = kvTypes.map((kv) => texts.get(kv)?.split(" ").slice(0, 4).join(" "));
    expect(beginnings).toEqual(kvTypes.map(() => beginnings[0]));
    const sizes = kvTypes.map((kv) => bytes.get(kv) ?? 0);
    expect(sizes[0]).toBeGreaterThan(sizes[1] ?? 0);
    expect(sizes[1]).toBe(sizes[2] ?? 0);
    expect(sizes[2]).toBeGreaterThan(sizes[3] ?? 0);
    expect(sizes[3]).toBeGreaterThan(sizes[4] ?? 0);
  });
});

describe("kept graphs", () => {
  test.each(fixtureNames)("200 tokens of %s take at most 3", async (name) => {
    await using model = await loadModel(fixturePath(name), { context: 256, threads: 1 });
    const untouched = free(model);
    const { tokens } = await generated(model, someTokens(20), { maxTokens: 200 });
    expect(tokens).toHaveLength(200);
    const { graphsBuilt, graphsReused, steps, rows } = model.counters();
    expect(graphsBuilt).toBeLessThanOrEqual(3);
    expect(steps).toBe(200);
    expect(rows).toBe(219);
    expect(graphsReused).toBeGreaterThanOrEqual(196);
    await freeAgain(model, untouched);
    const { memoryBytes, computeBytes } = model.counters();
    expect(memoryBytes).toBe(model.memory.bytes);
    await generated(model, someTokens(20), { maxTokens: 200 });
    expect(model.counters()).toMatchObject({ graphsBuilt, computeBytes });
  });

  test("of more shapes than are kept, the oldest go and come again", async () => {
    await using model = await loadModel(fixturePath("granitehybrid"), { context: 256, threads: 1, kv: "f32" });
    const first: number[][] = [];
    for (const round of [0, 1]) {
      for (let length = 1; length <= 40; length += 1) {
        const { tokens } = await generated(model, someTokens(length), { maxTokens: 3 });
        if (round === 0) first.push(tokens);
        else expect(tokens).toEqual(first[length - 1] ?? []);
      }
    }
    expect(model.counters().graphsBuilt).toBeGreaterThan(41);
  });
});
