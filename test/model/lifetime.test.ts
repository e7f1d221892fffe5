/** Loading, disposing and ending: at any time, any number of times, without leaving anything behind. */
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { loadModel, type LoadProgress } from "ggstrata";
import {
  fixtureNames,
  fixturePath,
  Folder,
  free,
  freeAgain,
  generated,
  refusal,
  root,
  someTokens,
  thrown,
  tinyHybrid,
} from "./help.ts";

setDefaultTimeout(120_000);

const folder = new Folder();
afterAll(() => folder[Symbol.dispose]());

/** Runs a script in a process of its own; it has 30 s. */
async function run(
  script: string,
  env: Record<string, string> = {},
): Promise<{ code: number | null; signal: unknown; out: string; err: string; ms: number }> {
  const path = folder.write(`script-${Math.random().toString(36).slice(2)}.ts`, script);
  const start = performance.now();
  const child = Bun.spawn([process.execPath, path], {
    cwd: root,
    env: { ...process.env, ...env },
    stdout: "pipe",
    stderr: "pipe",
    timeout: 30_000,
  });
  const [out, err] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  return { code: child.exitCode, signal: child.signalCode, out, err, ms: performance.now() - start };
}

const sdk = JSON.stringify(join(root, "lib/index.ts"));
const model = JSON.stringify(tinyHybrid);

describe("loading", () => {
  test.each([tinyHybrid, fixturePath("llama")])("tells how far it is, up to the end: %s", async (path) => {
    const told: LoadProgress[] = [];
    await using loaded = await loadModel(path, { threads: 1, onProgress: (progress) => told.push(progress) });
    expect(told.length).toBeGreaterThan(0);
    const total = told[0]?.totalBytes ?? 0;
    expect(total).toBeGreaterThan(100_000);
    told.forEach((progress, i) => {
      expect(progress.totalBytes).toBe(total);
      expect(progress.doneBytes).toBeGreaterThan(told[i - 1]?.doneBytes ?? 0);
    });
    expect(told.at(-1)).toEqual({ doneBytes: total, totalBytes: total });
    expect(loaded.loadMs).toBeGreaterThan(0);
  });

  test("can be aborted before, while and right after", async () => {
    const reason = new Error("not needed any more");
    const outcome = (signal: AbortSignal, onProgress?: () => void) =>
      loadModel(tinyHybrid, { threads: 1, signal, onProgress }).catch((error: unknown) => error);
    expect(await outcome(AbortSignal.abort(reason))).toBe(reason);
    const told = new AbortController();
    expect(await outcome(told.signal, () => told.abort(reason))).toBe(reason);
    const atOnce = new AbortController();
    const loading = outcome(atOnce.signal);
    atOnce.abort(reason);
    expect(await loading).toBe(reason);
    for (const ms of [0, 1, 2, 4]) {
      const late = new AbortController();
      const pending = outcome(late.signal);
      await Bun.sleep(ms);
      late.abort(reason);
      const result = await pending;
      // Quick as it is, it may have ended before.
      if (result !== reason) await (result as Awaited<ReturnType<typeof loadModel>>).dispose();
    }
    await using loaded = await loadModel(tinyHybrid, { threads: 1 });
    expect((await generated(loaded, [5], { maxTokens: 3 })).tokens).toHaveLength(3);
  });

  test("fails with what the listener threw", async () => {
    const fault = new TypeError("the progress bar broke");
    const onProgress = () => {
      throw fault;
    };
    expect(await loadModel(tinyHybrid, { threads: 1, onProgress }).catch((error: unknown) => error)).toBe(fault);
  });

  test("of many at once, and generating with all", async () => {
    const models = await Promise.all(
      fixtureNames.map((name) => loadModel(fixturePath(name), { threads: 1, context: 128 })),
    );
    const together = await Promise.all(models.map((each) => generated(each, someTokens(9), { maxTokens: 20 })));
    for (const [i, each] of models.entries()) {
      expect((await generated(each, someTokens(9), { maxTokens: 20 })).tokens).toEqual(together[i]?.tokens ?? []);
    }
    await Promise.all(models.map((each) => each.dispose()));
  });
});

describe("disposing", () => {
  test("while a step runs and another generation waits: both fail, and it ends", async () => {
    for (const delay of [0, 1, 3, 9, 20]) {
      const loaded = await loadModel(tinyHybrid, { threads: 1, context: 1024, batch: 512 });
      const runs = [someTokens(1000), someTokens(3), someTokens(4)].map((prompt) => refusal(generated(loaded, prompt)));
      const rows = refusal(
        (async () => {
          for await (const row of loaded.logits(someTokens(900))) expect(row.logits.length).toBeGreaterThan(0);
        })(),
      );
      await Bun.sleep(delay);
      await Promise.all([loaded.dispose(), loaded.dispose()]);
      for (const error of await Promise.all([...runs, rows])) {
        expect(error.code).toBe("closed");
        expect(error.message).toBe("this model was disposed of");
      }
      await loaded.dispose();
    }
  });

  test("says in one sentence what was disposed of, whatever is asked then", async () => {
    const loaded = await loadModel(fixturePath("llama"), { threads: 1, snapshotBytes: 1e6 });
    const sequence = loaded.sequence();
    await sequence.feed(someTokens(3));
    await loaded.dispose();
    for (const ask of [() => loaded.counters(), () => sequence.position, () => loaded.sequence()]) {
      const error = thrown(ask);
      expect([error.code, error.message]).toEqual(["closed", "this model was disposed of"]);
    }
  });

  test("while logits and generations share the engine", async () => {
    const loaded = await loadModel(fixturePath("llama"), { threads: 1, context: 256, sequences: 4 });
    const all = Array.from({ length: 3 }, (_, i) =>
      refusal(
        (async () => {
          for await (const { position } of loaded.logits(someTokens(200), { chunk: 1 })) {
            if (i === 0 && position === 3) void loaded.dispose();
          }
        })(),
      ),
    );
    for (const error of await Promise.all(all)) expect(error.code).toBe("closed");
    await loaded.dispose();
  });

  test("with a sampler of the caller's that never answers", async () => {
    const loaded = await loadModel(fixturePath("llama"), { threads: 1 });
    const stuck = refusal(generated(loaded, [5], { sampler: () => new Promise<number>(() => {}) }));
    await Bun.sleep(20);
    await loaded.dispose();
    expect((await stuck).code).toBe("closed");
  });

  test("from inside of a generation", async () => {
    const loaded = await loadModel(fixturePath("mamba2"), { threads: 1 });
    const error = await refusal(
      generated(loaded, [5], {}, (event) => {
        if (event.type === "token") void loaded.dispose();
      }),
    );
    expect(error.code).toBe("closed");
    await loaded.dispose();
  });

  test("ends every use after it with the code closed", async () => {
    const loaded = await loadModel(tinyHybrid, { threads: 1 });
    const untouched = await loadModel(tinyHybrid, { threads: 1 });
    await generated(loaded, "Once", { maxTokens: 2 });
    await loaded.dispose();
    await untouched.dispose();
    for (const each of [loaded, untouched]) {
      expect(thrown(() => each.counters()).code).toBe("closed");
      expect((await refusal(generated(each, [5]))).code).toBe("closed");
      expect((await refusal(generated(each, "Once"))).code).toBe("closed");
      expect((await refusal(each.logits([5]).next())).code).toBe("closed");
      expect((await refusal(each.generate("Once").next())).code).toBe("closed");
      // What was read of the file while it was open stays.
      expect(each.architecture).toBe("granitehybrid");
      expect(each.memory.kind).toBe("hybrid");
    }
  });

  test("by await using", async () => {
    let kept;
    {
      await using loaded = await loadModel(fixturePath("llama"), { threads: 1 });
      kept = loaded;
      expect(free(loaded).freeBlocks).toBeGreaterThan(0);
      await freeAgain(loaded, free(loaded));
    }
    const closed = kept;
    expect(thrown(() => closed.counters()).code).toBe("closed");
  });
});

describe("a process", () => {
  test("that never disposes ends after its generation, its text whole", async () => {
    const { code, signal, out, err, ms } = await run(`
      import { loadModel } from ${sdk};
      const model = await loadModel(${model}, { threads: 2 });
      let text = "";
      for await (const piece of model.generate("Once upon a time", { temperature: 0, maxTokens: 20 })) text += piece.text;
      console.log(text.length > 20 ? "text" : "no text");
    `);
    expect({ code, signal, out, err }).toEqual({ code: 0, signal: null, out: "text\n", err: "" });
    expect(ms).toBeLessThan(25_000);
  });

  test("that leaves a generation, or throws, ends", async () => {
    const left = await run(`
      import { loadModel } from ${sdk};
      const model = await loadModel(${model}, { threads: 1 });
      for await (const piece of model.generate("Once", { temperature: 0 })) if (piece.token >= 0) break;
      const events = model.events("Once upon", { temperature: 0 });
      await events.next();
      console.log("left");
    `);
    expect({ code: left.code, out: left.out, err: left.err }).toEqual({ code: 0, out: "left\n", err: "" });
    const threw = await run(`
      import { loadModel } from ${sdk};
      const model = await loadModel(${model}, { threads: 1 });
      for await (const piece of model.generate("Once", { temperature: 0 })) throw new Error("thrown at " + typeof piece.token);
    `);
    expect(threw.code).toBe(1);
    expect(threw.err).toContain("thrown at number");
  });

  test("that exits in the middle of loading or computing does so", async () => {
    for (const when of [
      "void loadModel(FILE, { threads: 2 }); process.exit(3);",
      "const m = await loadModel(FILE, { threads: 2, context: 2048 }); void m.events(Array(2000).fill(5)).next(); const e = m.events(Array(2000).fill(5)); await e.next(); void e.next(); await Bun.sleep(20); process.exit(3);",
    ]) {
      const { code, signal, err } = await run(`import { loadModel } from ${sdk};\n${when.replaceAll("FILE", model)}`);
      expect({ code, signal, err }).toEqual({ code: 3, signal: null, err: "" });
    }
  });

  test("that loads and disposes 50 times, in all ways, keeps neither memory nor files nor threads", async () => {
    const { code, out, err } = await run(`
      import { readdirSync } from "node:fs";
      import { loadModel, openModelFile } from ${sdk};
      const FILE = ${model};
      const count = (folder: string) => readdirSync(folder).length;
      const seen: { rss: number; fds: number; threads: number }[] = [];
      for (let i = 0; i < 50; i += 1) {
        const model = await loadModel(FILE, { threads: 2, context: 1024, sequences: 4 });
        const run = (async () => { for await (const _ of model.events("Once upon a time", { maxTokens: 8 })); })();
        if (i % 3 === 0) await run;
        else run.catch(() => undefined);
        await model.dispose();
        await loadModel(FILE + ".none").catch(() => undefined);
        await loadModel(FILE, { kv: "q9" as "f16" }).catch(() => undefined);
        await loadModel(FILE, { onProgress: () => { throw 0; } }).catch(() => undefined);
        await loadModel(FILE, { signal: AbortSignal.timeout(1) }).then((m) => m.dispose(), () => undefined);
        openModelFile(FILE).dispose();
        Bun.gc(true);
        await Bun.sleep(2);
        seen.push({ rss: process.memoryUsage().rss, fds: count("/proc/self/fd"), threads: count("/proc/self/task") });
      }
      const base = seen[12];
      const last = seen[49];
      console.log(JSON.stringify({ rss: last.rss - base.rss, fds: last.fds - base.fds, threads: last.threads - base.threads }));
    `);
    expect({ code, err }).toEqual({ code: 0, err: "" });
    const grown = JSON.parse(out) as { rss: number; fds: number; threads: number };
    expect(grown.rss).toBeLessThan(32 * 2 ** 20);
    expect(grown.fds).toBeLessThanOrEqual(0);
    // Bun's own come and go.
    expect(grown.threads).toBeLessThanOrEqual(4);
  });
});

test("the descriptors of this process are those of its files", async () => {
  const count = () => readdirSync("/proc/self/fd").length;
  const loaded = await loadModel(tinyHybrid, { threads: 1 });
  const before = count();
  for (let i = 0; i < 30; i += 1) await refusal(loadModel(join(folder.path, `none-${i}.gguf`)));
  await loaded.dispose();
  expect(count()).toBeLessThanOrEqual(before);
});
