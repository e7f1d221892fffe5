/** What sequences, feeding and generating are asked for wrongly: refused before anything is computed or taken. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { loadModel, type FeedOptions, type GenerateOptions, type Model, type Sequence, type Snapshot } from "ggstrata";
import { fixturePath, refusal, someTokens, thrown } from "../model/help.ts";

setDefaultTimeout(60_000);

let model: Model;
let sequence: Sequence;
let before: ReturnType<typeof observed>;

const observed = () => ({ counters: model.counters(), tokens: sequence.tokens });

beforeAll(async () => {
  const options = { context: 64, sequences: 3, threads: 1, snapshotBytes: 2 ** 20 };
  model = await loadModel(fixturePath("llama"), options);
  sequence = model.sequence();
  await sequence.feed(someTokens(20));
  before = observed();
});
afterAll(() => model.dispose());

/** Invalid, said so, and without consequence. */
async function expectInvalid(work: Promise<unknown>, sentence: string): Promise<void> {
  const error = await refusal(work);
  expect(error.code).toBe("invalid_argument");
  expect(error.message).toContain(sentence);
  expect(observed()).toEqual(before);
}

const holed = [5, 6, 7];
delete holed[1];

describe("tokens that are none", () => {
  test.each<[string, unknown, string]>([
    ["undefined", [5, undefined], "token undefined does not exist"],
    ["a hole", holed, "token undefined does not exist"],
    ["null", [null], "token null does not exist"],
    ["text", ["5"], 'token "5" does not exist'],
    ["beyond the vocabulary", [5, 384], "token 384 does not exist; the vocabulary has 384 tokens"],
    ["no array", "5", "tokens are an array of token ids"],
    ["nothing", undefined, "tokens are an array of token ids"],
  ])("%s", async (_, given, sentence) => {
    const tokens = given as number[];
    await expectInvalid(sequence.feed(tokens), sentence);
    await expectInvalid(model.feed([{ sequence, tokens }]), sentence);
    expect(thrown(() => model.logits(tokens)).message).toContain(sentence);
    if (typeof given !== "string") expect(thrown(() => model.events(tokens)).message).toContain(sentence);
    expect(observed()).toEqual(before);
  });
});

describe("positions that are none", () => {
  const values = [Number.NaN, 1.5, Infinity, -Infinity, 2 ** 32, 2 ** 31, -(2 ** 31), null, "3", 3n];
  const other = () => model.sequence();

  test.each(values)("%p, as a bound", async (given) => {
    const value = given as number;
    using target = other();
    const name = (bound: string) => `${bound} is `;
    const calls: [string, string, () => unknown][] = [
      ["remove", "p0", () => sequence.remove(value)],
      ["remove", "p1", () => sequence.remove(0, value)],
      ["copy", "p0", () => sequence.copy(value)],
      ["copy", "p1", () => sequence.copy(-1, value)],
      ["copyTo", "p0", () => sequence.copyTo(target, value)],
      ["copyTo", "p1", () => sequence.copyTo(target, -1, value)],
      ["shift", "p0", () => sequence.shift(value, -1, 1)],
      ["shift", "p1", () => sequence.shift(0, value, 1)],
      ["divide", "p0", () => sequence.divide(value, -1, 2)],
      ["divide", "p1", () => sequence.divide(0, value, 2)],
    ];
    for (const [operation, bound, call] of calls) {
      await expectInvalid((async () => call())(), `${operation}: ${name(bound)}`);
      await expectInvalid((async () => call())(), "give a whole number, or -1 for the start or the end");
    }
  });

  test.each([...values, undefined])("%p, as a distance, a divisor or a count", async (given) => {
    const value = given as number;
    await expectInvalid(sequence.shift(0, -1, value), "shift: distance is ");
    await expectInvalid(sequence.divide(0, -1, value), "divide: divisor is ");
    await expectInvalid((async () => sequence.rollback(value))(), "rollback: count is ");
  });

  test("none at all where they are needed", async () => {
    await expectInvalid(sequence.shift(undefined as unknown as number, -1, 1), "shift: p0 is undefined");
    await expectInvalid(sequence.divide(0, undefined as unknown as number, 2), "divide: p1 is undefined");
    await expectInvalid((async () => sequence.rollback(21))(), "21 tokens cannot be taken back of 20");
  });
});

describe("feeding", () => {
  test.each<[string, object, string]>([
    ["unknown logits", { logits: "first" }, 'feed: logits is "first"; give one of none, last, all'],
    ["logits of null", { logits: null }, "feed: logits is null"],
    ["snapshots that are no array", { snapshots: 22 }, "feed: snapshots is 22"],
    ["a snapshot at half a position", { snapshots: [20, 20.5] }, "feed: a position in snapshots is 20.5"],
    ["a snapshot below zero", { snapshots: [-1] }, "feed: a position in snapshots is -1"],
    ["a snapshot nowhere", { snapshots: [undefined] }, "feed: a position in snapshots is undefined"],
    ["a snapshot beyond numbers", { snapshots: [2 ** 32 + 20] }, "feed: a position in snapshots is 4294967316"],
    ["half a position", { position: 1.5 }, "feed: position is 1.5"],
    ["a position below zero", { position: -1 }, "feed: position is -1"],
    ["a position of text", { position: "20" }, 'feed: position is "20"'],
    ["a signal that is none", { signal: {} }, "signal is an object; give an AbortSignal"],
    ["a controller", { signal: new AbortController() }, "signal is a AbortController; give an AbortSignal"],
  ])("with %s", async (_, options, sentence) => {
    await expectInvalid(sequence.feed([5], options as FeedOptions), sentence);
  });

  test("nobody, nothing and another model's", async () => {
    type Requests = Parameters<Model["feed"]>[0];
    await expectInvalid(model.feed([{ tokens: [5] }] as unknown as Requests), "feed: the sequence is undefined");
    await expectInvalid(model.feed([undefined] as unknown as Requests), "feed: the sequence is undefined");
    await expectInvalid(
      model.feed([{ sequence: {}, tokens: [5] }] as unknown as Requests),
      "the sequence is an object",
    );
    await expectInvalid(model.feed(undefined as unknown as Requests), "feed takes an array of ");
    await using second = await loadModel(fixturePath("llama"), { context: 64, threads: 1 });
    using foreign = second.sequence();
    await expectInvalid(model.feed([{ sequence: foreign, tokens: [5] }]), "this sequence belongs to another model");
  });

  test("what is copied, restored or saved without being there", async () => {
    const now = (call: () => unknown) => (async () => call())();
    await expectInvalid(
      now(() => sequence.copyTo(undefined as unknown as Sequence)),
      "copyTo: the sequence is undefined",
    );
    await expectInvalid(
      now(() => sequence.restore(undefined as unknown as Snapshot)),
      "restore: the snapshot is undefined",
    );
    await expectInvalid(
      model.save("/dev/null/x", [undefined] as unknown as Sequence[]),
      "save: the sequence is undefined",
    );
    await expectInvalid(
      model.save("/dev/null/x", sequence as unknown as Sequence[]),
      "save takes an array of sequences",
    );
  });

  test("files, with signals that are none", async () => {
    const signal = 5 as unknown as AbortSignal;
    await expectInvalid(sequence.save("x.state", { signal }), "signal is 5; give an AbortSignal");
    await expectInvalid(model.restore("x.state", { signal }), "signal is 5");
    await expectInvalid(model.restoreAll("x.state", { signal }), "signal is 5");
    expect(thrown(() => model.logits([5], { signal })).message).toContain("signal is 5");
  });
});

describe("generating", () => {
  test.each<[string, object, string]>([
    ["a signal of null", { signal: null }, "signal is null; give an AbortSignal"],
    ["a signal like one", { signal: { aborted: false } }, "signal is an object"],
    ["no stop", { stop: null }, "stop is null; give a text, or an array of texts"],
    ["a stop of a number", { stop: 5 }, "stop is 5"],
    ["stops of numbers", { stop: ["a", 5] }, 'stop is ["a", 5]'],
    ["a sampler by name", { sampler: "greedy" }, 'sampler is "greedy"; give a function'],
    ["a sampler of null", { sampler: null }, "sampler is null"],
  ])("with %s", (_, options, sentence) => {
    const error = thrown(() => model.events([5], options as GenerateOptions));
    expect(error.code).toBe("invalid_argument");
    expect(error.message).toContain(sentence);
    expect(observed()).toEqual(before);
  });
});
