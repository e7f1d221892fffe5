/** The way of events from the engine to JavaScript: bounded, in order, and nothing lost when nobody looks. */
import { expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { loadModel } from "ggstrata";
import { fixturePath, Folder, free, freeAgain, generated, refusal, root, someTokens, until } from "../model/help.ts";

setDefaultTimeout(120_000);

/** Events that fit into the queue; the engine waits behind them. */
const ring = 4096;

/** Blocks this thread until the engine can go no further, having drawn more tokens than the queue holds. */
function blockUntilFull(steps: () => number): void {
  const end = Date.now() + 60_000;
  let last = -1;
  while (steps() !== last || steps() < ring) {
    if (Date.now() > end) throw new Error(`the queue is not full after ${steps()} steps`);
    last = steps();
    Bun.sleepSync(50);
  }
}

test("a full queue holds the engine up and loses nothing", async () => {
  await using model = await loadModel(fixturePath("llama"), { context: 8192, threads: 1 });
  const prompt = someTokens(3);
  const expected = (await generated(model, prompt, { maxTokens: 6000 })).tokens;
  const { steps } = model.counters();
  let isBlocked = false;
  const { tokens } = await generated(model, prompt, { maxTokens: 6000 }, (event) => {
    // The first tokens come one a job; then one job draws all that are left.
    if (event.type !== "token" || isBlocked || model.counters().steps - steps < 5) return;
    isBlocked = true;
    blockUntilFull(() => model.counters().steps - steps);
  });
  expect(isBlocked).toBe(true);
  expect(tokens).toEqual(expected);
});

test("behind a full queue, generations can be cancelled and other models used", async () => {
  await using model = await loadModel(fixturePath("llama"), { context: 8192, threads: 1 });
  await using other = await loadModel(fixturePath("mamba2"), { context: 64, threads: 1 });
  const untouched = free(model);
  const controller = new AbortController();
  const running = generated(model, someTokens(3), { signal: controller.signal });
  await until(() => model.counters().steps > 5);
  blockUntilFull(() => model.counters().steps);
  controller.abort();
  // Begun and cancelled in the same turn: nobody may wait here for room that only this thread can make.
  const atOnce = new AbortController();
  const begun = generated(other, [5], { signal: atOnce.signal });
  await Promise.resolve();
  atOnce.abort();
  expect((await begun).end.finishReason).toBe("cancelled");
  expect((await running).end.finishReason).toBe("cancelled");
  expect((await generated(other, [5], { maxTokens: 3 })).tokens).toHaveLength(3);
  await freeAgain(model, untouched);
});

test("behind a full queue, a model can be disposed of", async () => {
  const model = await loadModel(fixturePath("llama"), { context: 8192, threads: 1 });
  const running = refusal(generated(model, someTokens(3)));
  await until(() => model.counters().steps > 5);
  blockUntilFull(() => model.counters().steps);
  await model.dispose();
  expect((await running).code).toBe("closed");
});

test("workers have queues of their own", async () => {
  const script = `
    import { loadModel } from ${JSON.stringify(join(root, "lib/index.ts"))};
    const model = await loadModel(${JSON.stringify(fixturePath("granitehybrid"))}, { threads: 1, context: 128 });
    const tokens = [];
    for await (const event of model.events([5, 6, 7], { temperature: 0, ignoreEnd: true, maxTokens: 30 })) {
      if (event.type === "token") tokens.push(event.token);
    }
    await model.dispose();
    postMessage(tokens);`;
  using folder = new Folder();
  const path = folder.write("worker.ts", script);
  const workers = Array.from({ length: 3 }, () => new Worker(path));
  await using model = await loadModel(fixturePath("granitehybrid"), { threads: 1, context: 128 });
  const own = generated(model, [5, 6, 7], { maxTokens: 30 });
  const told = await Promise.all(
    workers.map(
      (worker) =>
        new Promise<unknown>((resolve, reject) => {
          worker.onmessage = ({ data }) => resolve(data);
          worker.onerror = ({ message }) => reject(new Error(message));
        }),
    ),
  );
  for (const tokens of told) expect(tokens).toEqual((await own).tokens);
  for (const worker of workers) worker.terminate();
});
