/** The order of what is asked for: what waits, what may not overtake it, and what leaves the queue. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { argmax, loadModel, type Model, type Sequence } from "ggstrata";
import { fixturePath, Folder, free, freeAgain, generated, refusal, someTokens, thrown, until } from "../model/help.ts";

setDefaultTimeout(60_000);

const options = { context: 256, sequences: 4, batch: 32, threads: 1, kv: "f32", snapshotBytes: 2 ** 20 } as const;
const open = (more: object = {}): Promise<Model> => loadModel(fixturePath("llama"), { ...options, ...more });
const hybrid = (): Promise<Model> => loadModel(fixturePath("granitehybrid"), options);

/** What a sequence of its own draws after these tokens. */
async function follows(model: Model, tokens: readonly number[]): Promise<number> {
  using sequence = model.sequence();
  const { logits } = await sequence.feed(tokens);
  return argmax(logits[0] as Float32Array);
}

/** Counts the listeners of a signal. */
function counted(signal: AbortSignal): () => number {
  const listeners = new Set<unknown>();
  const { addEventListener: add, removeEventListener: remove } = signal;
  signal.addEventListener = (type: string, listener: never, how?: never) => {
    listeners.add(listener);
    add.call(signal, type, listener, how);
  };
  signal.removeEventListener = (type: string, listener: never, how?: never) => {
    listeners.delete(listener);
    remove.call(signal, type, listener, how);
  };
  return () => listeners.size;
}

describe("what the caller does to its arrays afterwards", () => {
  test("changes nothing of what is fed", async () => {
    await using model = await open();
    const [tokens, wanted] = [someTokens(12), someTokens(12)];
    const expected = await follows(model, wanted);
    using first = model.sequence();
    using second = model.sequence();
    const snapshots = [4];
    const requests = [
      { sequence: first, tokens, snapshots },
      { sequence: second, tokens: [9], snapshots: [] },
    ];
    const work = model.feed(requests);
    tokens.fill(3);
    snapshots[0] = 999;
    requests.reverse();
    requests.pop();
    const results = await work;
    expect(results).toHaveLength(2);
    expect(first.tokens).toEqual(wanted);
    expect(argmax(results[0]?.logits[0] as Float32Array)).toBe(expected);
    expect(results[0]?.snapshots.map(({ position }) => position)).toEqual([4]);
    expect(first.snapshots).toHaveLength(1);
    expect(second.snapshots).toHaveLength(0);
  });

  test("changes nothing of the logits", async () => {
    await using model = await open();
    const tokens = someTokens(12);
    const rows = async (all: AsyncIterable<{ logits: Float32Array }>) => {
      const chosen: number[] = [];
      for await (const { logits } of all) chosen.push(argmax(logits));
      return chosen;
    };
    const expected = await rows(model.logits(tokens, { chunk: 4 }));
    const later = model.logits(tokens, { chunk: 4 });
    tokens.fill(3);
    expect(await rows(later)).toEqual(expected);
  });
});

describe("what is done at once", () => {
  const changes: [string, (one: Sequence, other: Sequence) => unknown][] = [
    ["remove", (one) => one.remove()],
    ["rollback", (one) => one.rollback(1)],
    ["clear", (one) => one.clear()],
    ["copy", (one) => one.copy()],
    ["copyTo", (one, other) => one.copyTo(other)],
    ["copyTo", (one, other) => other.copyTo(one)],
    ["keep", (one) => one.keep()],
    ["keep", (_, other) => other.keep()],
  ];

  test("does not overtake what was asked for before", async () => {
    await using model = await hybrid();
    using sequence = model.sequence();
    using other = model.sequence();
    await sequence.feed(someTokens(5));
    const snapshot = await sequence.snapshot();
    using folder = new Folder();
    const works: [string, () => Promise<unknown>][] = [
      ["feed", () => sequence.feed(someTokens(7, 2))],
      ["a feed that fails", () => sequence.feed([5], { position: 200 })],
      ["model.feed", () => model.feed([{ sequence, tokens: [5] }])],
      ["snapshot", async () => (await sequence.snapshot()).dispose()],
      ["shift", () => sequence.shift(-1, -1, 1)],
      ["a shift that fails", () => sequence.shift(-1, -1, -100)],
      ["save", () => sequence.save(`${folder.path}/a.state`)],
      ["model.save", () => model.save(`${folder.path}/b.state`, [other, sequence])],
    ];
    for (const [name, start] of works) {
      const work = start();
      const errors = [...changes, ["restore", () => sequence.restore(snapshot)] as const].map(([operation, change]) => {
        const error = thrown(() => change(sequence, other));
        return [error.code, error.message.startsWith(`${operation}: `), error.message.includes("await")];
      });
      expect({ name, errors }).toEqual({ name, errors: errors.map(() => ["busy", true, true]) });
      // Where it is told of its end, it has ended.
      const failed = await work.then(
        () => undefined,
        () => thrown(() => sequence.rollback(-1)).code,
      );
      expect(failed === undefined).toBe(!name.includes("fails"));
      sequence.restore(snapshot);
      sequence.copyTo(other);
      sequence.keep();
      expect(other.position).toBe(0);
    }
    // Those that read, and those that queue, may be asked for.
    const first = sequence.feed([5]);
    const second = sequence.feed([6]);
    expect([sequence.position, sequence.tokens.length]).toEqual([5, 5]);
    const third = sequence.snapshot();
    await Promise.all([first, second]);
    expect((await third).position).toBe(7);
  });

  test("is possible as soon as each promise has settled, also where it was refused", async () => {
    await using model = await open();
    using sequence = model.sequence();
    for (let round = 0; round < 20; round += 1) {
      await sequence.feed([5, 6]);
      sequence.keep();
      using copy = sequence.copy();
      await refusal(copy.feed([7], { position: 9 }));
      copy.clear();
      sequence.keep();
      await sequence.shift(0, -1, 0);
      sequence.rollback(1);
      await model.feed([{ sequence, tokens: [8] }]);
      sequence.clear();
    }
  });
});

describe("keep", () => {
  test("waits for all that runs: generations, logits, and those who have not been asked on", async () => {
    await using model = await open();
    const untouched = free(model);
    const prompt = someTokens(9);
    const expected = (await generated(model, prompt, { maxTokens: 12 })).tokens;
    await freeAgain(model, untouched);
    const kept = model.sequence();
    await kept.feed([5, 6, 7]);
    const busy = () => expect(thrown(() => kept.keep())).toMatchObject({ code: "busy" });

    // Between two chunks of logits nothing is computed.
    const positions: number[] = [];
    for await (const { position } of model.logits(prompt, { chunk: 2 })) {
      positions.push(position);
      busy();
    }
    expect(positions).toEqual(prompt.map((_, i) => i));

    // While a sampler thinks, neither.
    const asked = Promise.withResolvers<void>();
    const answer = Promise.withResolvers<void>();
    const drawn = generated(model, prompt, {
      maxTokens: 12,
      sampler: async (logits, { step }) => {
        if (step === 3) {
          asked.resolve();
          await answer.promise;
        }
        return argmax(logits);
      },
    });
    await asked.promise;
    busy();
    answer.resolve();
    expect((await drawn).tokens).toEqual(expected);
    await until(() => {
      try {
        kept.keep();
        return true;
      } catch {
        return false;
      }
    });
    expect(kept.position).toBe(3);
    kept.dispose();
    await freeAgain(model, untouched);
  });
});

describe("a signal", () => {
  test("takes what waits out of the queue at once", async () => {
    await using model = await open();
    using folder = new Folder();
    const sequence = model.sequence();
    const reason = new Error("enough");
    const controller = new AbortController();
    const listeners = counted(controller.signal);
    const { signal } = controller;
    const log: string[] = [];
    const note = (name: string) => (error: unknown) => void log.push(`${name} ${error === reason ? "left" : "?"}`);
    const running = sequence.feed(someTokens(200)).then(() => log.push("fed"));
    await sequence.save("/dev/null", { signal: AbortSignal.abort(reason) }).catch(note("aborted before"));
    const path = `${folder.path}/never.state`;
    const left = [
      sequence.feed([5], { signal }).catch(note("feed")),
      sequence.save(path, { signal }).catch(note("save")),
      model.feed([{ sequence, tokens: [5] }], { signal }).catch(note("model.feed")),
    ];
    const stays = sequence.feed([6]).then(() => log.push("stayed"));
    expect(listeners()).toBe(3);
    controller.abort(reason);
    await Promise.all(left);
    expect(log.toSorted()).toEqual(["aborted before left", "feed left", "model.feed left", "save left"]);
    await Promise.all([running, stays]);
    expect(sequence.tokens).toEqual([...someTokens(200), 6]);
    expect(await Bun.file(path).exists()).toBe(false);
  });

  test("is let go of by what has ended", async () => {
    await using model = await open();
    using folder = new Folder();
    using sequence = model.sequence();
    const { signal } = new AbortController();
    const listeners = counted(signal);
    await sequence.feed([5], { signal });
    await sequence.save(`${folder.path}/a.state`, { signal });
    for await (const { position } of model.logits(someTokens(9), { chunk: 2, signal }))
      expect(position).toBeLessThan(9);
    await generated(model, [5], { maxTokens: 3, signal });
    await refusal(sequence.feed([5], { position: 77, signal }));
    expect(listeners()).toBe(0);
  });
});

describe("places", () => {
  test("where all are held by hand, nobody waits for ever", async () => {
    await using model = await open({ sequences: 2 });
    const [one, two] = [model.sequence(), model.sequence()];
    const sentence = "all 2 sequences are held by hand; dispose of one, or load the model with more";
    const error = await refusal(generated(model, [5], { maxTokens: 3 }));
    expect([error.code, error.message]).toEqual(["full", sentence]);
    expect((await refusal(model.logits([5]).next())).message).toBe(sentence);
    expect(thrown(() => model.sequence()).message).toContain("all 2 sequences are in use");
    // One that is left while its work runs comes back.
    const work = two.feed(someTokens(200));
    two.dispose();
    expect((await generated(model, [5], { maxTokens: 3 })).tokens).toHaveLength(3);
    await work;
    // Those that generations have come back too.
    const runs = await Promise.all([1, 2, 3].map((seed) => generated(model, someTokens(4, seed), { maxTokens: 3 })));
    expect(runs.map(({ tokens }) => tokens.length)).toEqual([3, 3, 3]);
    one.dispose();
  });

  test("a snapshot that goes while it waits to be saved is in the file", async () => {
    await using model = await hybrid();
    using folder = new Folder();
    const path = `${folder.path}/with.state`;
    const { snapshots } = model.counters();
    using sequence = model.sequence();
    await sequence.feed(someTokens(8));
    const snapshot = await sequence.snapshot();
    const saving = sequence.save(path);
    snapshot.dispose();
    expect(sequence.snapshots).toEqual([]);
    await saving;
    expect(model.counters().snapshots).toBe(snapshots);
    const restored = await model.restore(path);
    expect(restored.snapshots.map(({ position }) => position)).toEqual([8]);
  });

  test("of a file with more sequences than there are free are counted first", async () => {
    using folder = new Folder();
    const path = `${folder.path}/two.state`;
    {
      await using model = await open();
      using first = model.sequence();
      await first.feed([5, 6]);
      using second = first.copy();
      await model.save(path, [first, second]);
    }
    await using model = await open({ sequences: 1 });
    const untouched = model.counters();
    const one = await refusal(model.restore(path));
    expect([one.code, one.message]).toEqual([
      "invalid_argument",
      `${path}: this state holds 2 sequences; bring them back with restoreAll`,
    ]);
    const all = await refusal(model.restoreAll(path));
    expect([all.code, all.message]).toEqual([
      "full",
      `${path}: this state holds 2 sequences, and this model has 1 free; dispose of some, or load the model with more`,
    ]);
    expect(model.counters()).toEqual(untouched);
    model.sequence().dispose();
  });
});
