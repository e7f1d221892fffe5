/** Saved states: what is damaged or foreign is refused with a reason, and what lives is not touched. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import {
  closeSync,
  copyFileSync,
  fsyncSync,
  ftruncateSync,
  mkdtempSync,
  openSync,
  readdirSync,
  rmSync,
  writeSync,
} from "node:fs";
import { readFileSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describeState, loadModel, type LoadOptions, type Model, type Sequence } from "ggstrata";
import { readEnvironment } from "../../lib/environment.ts";
import { fixturePath, randomOf, refusal, someTokens } from "../model/help.ts";

setDefaultTimeout(120_000);

const soak = readEnvironment("STRATA_SOAK") !== undefined;
const seed = Number(readEnvironment("STRATA_SEED") ?? Math.floor(Math.random() * 1e6));
const cuts = soak ? 500 : 50;
const flips = soak ? 2000 : 200;
const kills = soak ? 20 : 4;

const options: LoadOptions = {
  context: 256,
  sequences: 4,
  batch: 64,
  threads: 1,
  kv: "f32",
  rollback: 4,
  snapshotBytes: 4e6,
};
const hybrid = fixturePath("granitehybrid");
let folder: string;

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "strata-states-"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const place = (name: string) => join(folder, name);

/** A live sequence, and what it must go on to whatever happens to files. */
async function witness(model: Model, length = 33): Promise<{ sequence: Sequence; check(): Promise<void> }> {
  const sequence = model.sequence();
  await sequence.feed(someTokens(length, 7));
  const probe = async () => {
    using copy = sequence.copy();
    const { logits } = await copy.feed(someTokens(3, 8));
    return logits[0] as Float32Array;
  };
  const expected = await probe();
  return { sequence, check: async () => expect(await probe()).toEqual(expected) };
}

describe("a saved sequence", () => {
  test("goes on as if it had never left, with its snapshots, in another process's model too", async () => {
    const [start, more] = [someTokens(70, 1), someTokens(9, 2)];
    const path = place("whole.state");
    const expected: Float32Array[] = [];
    {
      await using model = await loadModel(hybrid, options);
      const sequence = model.sequence();
      await sequence.feed(start, { snapshots: [13, 64] });
      await sequence.save(path);
      for (const from of [70, 64, 13]) {
        using copy = model.sequence();
        const snapshot = sequence.snapshots.find(({ position }) => position === from);
        if (snapshot === undefined) sequence.copyTo(copy);
        else copy.restore(snapshot);
        expected.push((await copy.feed(more)).logits[0] as Float32Array);
      }
    }
    for (const streams of ["shared", "separate"] as const) {
      await using model = await loadModel(hybrid, { ...options, sequences: 6, rollback: 0, streams });
      const before = model.counters();
      const sequence = await model.restore(path);
      expect(sequence.tokens).toEqual(start);
      expect(sequence.snapshots.map(({ position }) => position)).toEqual([13, 64]);
      const [first, second] = sequence.snapshots;
      for (const [i, snapshot] of [undefined, second, first].entries()) {
        using copy = model.sequence();
        if (snapshot === undefined) sequence.copyTo(copy);
        else copy.restore(snapshot);
        expect((await copy.feed(more)).logits[0]).toEqual(expected[i] as Float32Array);
      }
      for (const snapshot of sequence.snapshots) snapshot.dispose();
      sequence.dispose();
      const { freeBlocks, freeCells, snapshots } = model.counters();
      expect({ freeBlocks, freeCells, snapshots }).toEqual({
        freeBlocks: before.freeBlocks,
        freeCells: before.freeCells,
        snapshots: 0,
      });
    }
  });

  test("of a whole model: what sequences share is written once", async () => {
    await using model = await loadModel(hybrid, options);
    const first = model.sequence();
    await first.feed(someTokens(120, 3));
    const copies = [first.copy(), first.copy()];
    await copies[0]?.feed([5, 6]);
    await first.save(place("one.state"));
    await model.save(place("all.state"), [first, ...copies]);
    const one = statSync(place("one.state")).size;
    expect(statSync(place("all.state")).size).toBeLessThan(1.6 * one);
    const error = await refusal(model.restoreAll(place("all.state")));
    expect(error.code).toBe("full");
    expect(error.message).toContain("this state holds 3 sequences, and this model has 1 free");
    expect((await refusal(model.restore(place("all.state")))).message).toContain("restoreAll");
    const tokens = copies.map((copy) => copy.tokens);
    for (const copy of copies) copy.dispose();
    first.dispose();
    expect((await refusal(model.restore(place("all.state")))).message).toContain("restoreAll");
    const all = await model.restoreAll(place("all.state"));
    expect(all.map((sequence) => sequence.tokens)).toEqual([someTokens(120, 3), ...tokens]);
  });

  test("that was rolled back is saved as it stands for", async () => {
    await using model = await loadModel(hybrid, options);
    const sequence = model.sequence();
    for (const token of someTokens(20, 4)) await sequence.feed([token]);
    sequence.rollback(3);
    await sequence.save(place("rolled.state"));
    const restored = await model.restore(place("rolled.state"));
    expect(restored.tokens).toEqual(someTokens(20, 4).slice(0, 17));
    const more = someTokens(5, 5);
    expect((await restored.feed(more)).logits).toEqual((await sequence.feed(more)).logits);
  });
});

describe("what is no such state", () => {
  let model: Model;
  let live: Awaited<ReturnType<typeof witness>>;
  let bytes: Uint8Array;
  const path = () => place("good.state");

  beforeAll(async () => {
    model = await loadModel(hybrid, options);
    live = await witness(model);
    await live.sequence.save(path());
    bytes = readFileSync(path());
  });
  afterAll(() => model.dispose());

  async function expectRefused(content: Uint8Array, what: string): Promise<void> {
    const bad = place("bad.state");
    writeFileSync(bad, content);
    const before = model.counters();
    const error = await refusal(model.restore(bad));
    expect(error.message, what).toContain(bad);
    await Bun.sleep(0);
    const { freeBlocks, freeCells, snapshots } = model.counters();
    const { freeBlocks: blocks, freeCells: cells, snapshots: taken } = before;
    expect({ freeBlocks, freeCells, snapshots }, what).toEqual({
      freeBlocks: blocks,
      freeCells: cells,
      snapshots: taken,
    });
  }

  test("cut anywhere", async () => {
    const random = randomOf(seed);
    for (let length = 0; length < 192; length += 1) await expectRefused(bytes.subarray(0, length), `cut to ${length}`);
    for (let i = 0; i < cuts; i += 1) {
      const length = Math.floor(random() * bytes.length);
      await expectRefused(bytes.subarray(0, length), `cut to ${length} (STRATA_SEED=${seed})`);
    }
    await live.check();
  });

  test("with any bit turned over", async () => {
    const random = randomOf(seed + 1);
    for (let i = 0; i < flips; i += 1) {
      const content = bytes.slice();
      const at = Math.floor(random() * content.length);
      const bit = Math.floor(random() * 8);
      content[at] = (content[at] ?? 0) ^ (1 << bit);
      await expectRefused(content, `bit ${bit} of byte ${at} (STRATA_SEED=${seed})`);
    }
    await live.check();
  });

  test("of another model of the same shapes, other types, another declaration, no state at all", async () => {
    const [changed, text] = [place("changed.gguf"), place("nothing")];
    copyFileSync(hybrid, changed);
    // One weight differs: the shapes are the same.
    const file = openSync(changed, "r+");
    writeSync(file, new Uint8Array([1, 2, 3, 4]), 0, 4, statSync(changed).size - 8);
    fsyncSync(file);
    closeSync(file);
    const others: [string, LoadOptions, RegExp][] = [
      [changed, options, /another model file/],
      [hybrid, { ...options, kv: "f16" }, /other memories/],
      [fixturePath("granitehybrid-moe"), options, /another model file/],
      [hybrid, { ...options, context: 16, batch: 16 }, /the context is 16/],
    ];
    for (const [other, settings, reason] of others) {
      await using foreign = await loadModel(other, settings);
      const untouched = await witness(foreign, 6);
      expect((await refusal(foreign.restore(path()))).message).toMatch(reason);
      await untouched.check();
    }
    writeFileSync(text, "not a state at all, but some text that is long enough to be one ".repeat(8));
    for (const [bad, reason] of [
      [text, /not a/],
      [folder, /folder|directory/],
      [place("missing.state"), /no such file|does not exist|there is no/],
      ["", /give the path of a file/],
    ] as const) {
      expect((await refusal(model.restore(bad))).message).toMatch(reason);
    }
    await live.check();
  });

  test("too much for the room that is left", async () => {
    await using small = await loadModel(hybrid, { ...options, sequences: 1, cells: 64 });
    const sequence = small.sequence();
    await sequence.feed(someTokens(10, 1));
    sequence.dispose();
    const restored = await small.restore(path());
    expect(restored.position).toBe(33);
  });
});

describe("a save that fails", () => {
  test("leaves the old file: a full disk, a missing folder, a folder in its place, cancelled", async () => {
    await using model = await loadModel(hybrid, options);
    const sequence = model.sequence();
    await sequence.feed(someTokens(30, 1));
    const path = place("kept.state");
    await sequence.save(path);
    const old = readFileSync(path);
    await sequence.feed(someTokens(30, 2));
    for (const [bad, code] of [
      [place("no/such.state"), "io"],
      [folder, "io"],
    ] as const) {
      expect((await refusal(sequence.save(bad))).code).toBe(code);
    }
    const signal = AbortSignal.abort(new Error("enough"));
    await expect(sequence.save(path, { signal })).rejects.toThrow("enough");
    expect(readFileSync(path)).toEqual(old);
    expect(readdirSync(folder).filter((name) => name.includes(".tmp"))).toEqual([]);
    expect(sequence.position).toBe(60);
  });

  test(`by a kill at ${kills} moments leaves a file that restores, the old one or the new`, async () => {
    const path = place("killed.state");
    const random = randomOf(seed + 2);
    const child = join(import.meta.dir, "save-often.child.ts");
    for (let i = 0; i < kills; i += 1) {
      const saver = Bun.spawn([process.execPath, child, hybrid, path], { stdout: "pipe", stderr: "inherit" });
      const reader = saver.stdout.getReader();
      // It says so when it has begun to save again and again.
      await reader.read();
      await Bun.sleep(random() * 30);
      saver.kill("SIGKILL");
      await saver.exited;
      const { holders } = describeState(path);
      expect([40, 90]).toContain(holders[0]?.position ?? -1);
      await using model = await loadModel(hybrid, options);
      const restored = await model.restore(path);
      expect(restored.tokens).toEqual(someTokens(90, 3).slice(0, restored.position));
      // What the killed one was writing goes when the next one writes to the same path.
      await restored.save(path);
      expect(readdirSync(folder).filter((name) => name.includes(".tmp"))).toEqual([]);
    }
  });
});

test("a file that is cut while nobody looks is refused the next time", () => {
  const path = place("whole.state");
  const copy = place("cut.state");
  copyFileSync(path, copy);
  const file = openSync(copy, "r+");
  ftruncateSync(file, 1000);
  closeSync(file);
  expect(() => describeState(copy)).toThrow(/cut short|bytes/);
});
