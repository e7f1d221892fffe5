import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { Elysia } from "elysia";
import { StrataError } from "../../lib/errors.ts";
import { strata } from "../../lib/server/plugin.ts";
import { startServerWith } from "../../lib/server/serve.ts";
import { FakeModel, type Script } from "./fake-model.ts";
import { chunksOf, Dig, until } from "./help.ts";

// For machines that do something else besides.
setDefaultTimeout(60_000);

const fake = "models/fake.gguf";

function serve(script: Script, log?: (line: string) => void) {
  const model = new FakeModel(script);
  const started = startServerWith(() => Promise.resolve(model), { path: fake, port: 0, log });
  return started.then(async (server) => ({ server, model: await server.ready }));
}

function ask(url: string, more: object): Promise<Response> {
  return fetch(`${url}/v1/completions`, { method: "POST", body: JSON.stringify({ prompt: "a", ...more }) });
}

/** A client of bytes, which reads only what it is told to. */
async function connect(
  url: string,
  body: object,
): Promise<{ received: () => number; read: () => void; end: () => void }> {
  const { hostname, port } = new URL(url);
  let received = 0;
  const socket = await Bun.connect({
    hostname,
    port: Number(port),
    socket: {
      data: (_, bytes) => {
        received += bytes.length;
      },
    },
  });
  socket.pause();
  const text = JSON.stringify(body);
  socket.write(`POST /v1/completions HTTP/1.1\r\nhost: ${hostname}\r\ncontent-length: ${text.length}\r\n\r\n${text}`);
  return { received: () => received, read: () => void socket.resume(), end: () => void socket.end() };
}

describe("starting", () => {
  test("the socket is open before the model is there, and tells how far it is", async () => {
    const { promise, resolve } = Promise.withResolvers<FakeModel>();
    let progress: ((done: { doneBytes: number; totalBytes: number }) => void) | undefined;
    const log: string[] = [];
    const server = await startServerWith(
      (path, options) => {
        expect(path).toBe(fake);
        expect(options.sequences).toBe(3);
        progress = options.onProgress;
        return promise;
      },
      { path: fake, load: { sequences: 3 }, port: 0, log: (line) => log.push(line) },
    );
    expect(server.url).toMatch(/^http:\/\/127\.0\.0\.1:\d+$/);
    const health = async (): Promise<unknown[]> => {
      const response = await fetch(`${server.url}/health`);
      return [response.status, await response.json()];
    };
    expect(await health()).toEqual([503, { status: "loading", progress: 0 }]);
    progress?.({ doneBytes: 25, totalBytes: 100 });
    expect(await health()).toEqual([503, { status: "loading", progress: 0.25 }]);
    expect((await fetch(`${server.url}/ready`)).status).toBe(503);
    expect((await ask(server.url, {})).status).toBe(503);
    resolve(new FakeModel());
    await server.ready;
    expect(await health()).toEqual([200, { status: "ok" }]);
    expect((await fetch(`${server.url}/ready`)).status).toBe(200);
    expect(log).toEqual([
      `listening on ${server.url}`,
      "its tokenizer has 259 tokens",
      "serving fake, 4 sequences of 256 tokens",
    ]);
    await server.stop();
  });

  test("a model that cannot be loaded: health says why, and ready rejects", async () => {
    const failure = new StrataError("not_found", "models/fake.gguf: there is no such file");
    const server = await startServerWith(() => Promise.reject<FakeModel>(failure), { path: fake, port: 0 });
    await expect(server.ready).rejects.toThrow(failure);
    const response = await fetch(`${server.url}/health`);
    expect(response.status).toBe(500);
    expect(new Dig(await response.json()).at("error", "message")).toBe(failure.message);
    await server.stop();
  });

  test("a port in use is refused in a sentence", async () => {
    const { server } = await serve({});
    const port = Number(new URL(server.url).port);
    const second = startServerWith(() => Promise.resolve(new FakeModel()), { path: fake, port });
    await expect(second).rejects.toThrow(`cannot listen on port ${port} of 127.0.0.1: it is in use; choose another`);
    await server.stop();
  });
});

describe("stopping", () => {
  test("what runs is finished, nothing new is accepted, and the model is disposed", async () => {
    const { server, model } = await serve({ says: "x".repeat(40), delayMs: 5 });
    const streamed = await ask(server.url, { stream: true, max_tokens: 50 });
    const whole = ask(server.url, { max_tokens: 50 });
    await until("both run", () => model.running === 2);
    const stopped = server.stop();
    expect(server.stop()).toBe(stopped);
    await expect(ask(server.url, {})).rejects.toThrow();
    const { chunks, isDone } = chunksOf(await streamed.text());
    expect(chunks.map((chunk) => chunk.at("choices", 0, "text")).join("")).toBe("x".repeat(40));
    expect(isDone).toBe(true);
    expect(new Dig(await (await whole).json()).at("choices", 0, "text")).toBe("x".repeat(40));
    await stopped;
    expect(model.runningWhenDisposed).toBe(0);
  });

  test("after the limit what still runs ends with an error that says so", async () => {
    const { server, model } = await serve({ says: "x".repeat(5000), delayMs: 5, context: 9999 });
    const streamed = await ask(server.url, { stream: true, max_tokens: -1 });
    const whole = ask(server.url, { max_tokens: -1 });
    await until("both run", () => model.running === 2);
    const start = performance.now();
    const stopped = server.stop({ limitMs: 100 });
    const { chunks, isDone } = chunksOf(await streamed.text());
    expect(chunks.at(-1)?.at("error", "code")).toBe("stopping");
    expect(isDone).toBe(false);
    expect((await whole).status).toBe(503);
    await stopped;
    expect(performance.now() - start).toBeLessThan(10_000);
    expect(model.runningWhenDisposed).toBe(0);
  });

  test("loading is given up", async () => {
    const { promise, reject } = Promise.withResolvers<FakeModel>();
    const server = await startServerWith(
      (_, { signal }) => {
        signal?.addEventListener("abort", () => reject(signal.reason));
        return promise;
      },
      { path: fake, port: 0 },
    );
    await server.stop();
    await expect(server.ready).rejects.toThrow("stopped before the model was loaded");
  });

  test("a client that reads nothing does not hold it up", async () => {
    const { server, model } = await serve({ says: "x".repeat(60_000), context: 99_999 });
    const idle = await connect(server.url, { prompt: "a", stream: true, max_tokens: 20 });
    await until("it runs", () => model.asked.length === 1);
    const start = performance.now();
    await server.stop({ limitMs: 200 });
    expect(performance.now() - start).toBeLessThan(10_000);
    idle.end();
  });
});

describe("slow clients", () => {
  test("an answer may be silent for longer than the host's connections may", async () => {
    const model = new FakeModel({ says: "ab", delayMs: 5500 });
    // Bun counts in steps of 4 s: without `server.timeout` the connection is reset after those.
    const host = new Elysia().use(strata({ model })).listen({ hostname: "127.0.0.1", port: 0, idleTimeout: 1 });
    const url = (host.server as Bun.Server<unknown>).url.origin;
    const [streamed, whole] = await Promise.all([
      ask(url, { stream: true, max_tokens: 1 }).then((response) => response.text()),
      ask(url, { max_tokens: 1 }).then((response) => response.json()),
    ]);
    expect(chunksOf(streamed).isDone).toBe(true);
    expect(new Dig(whole).at("choices", 0, "text")).toBe("a");
    await host.stop(true);
  });

  test("one that reads nothing holds no sequence, and gets all of it later", async () => {
    const { server, model } = await serve({ says: "x".repeat(20_000), context: 99_999, sequences: 1 });
    const slow = await connect(server.url, { prompt: "a", stream: true, max_tokens: -1 });
    await until("it runs", () => model.running === 1);
    // With one sequence, the next answer can only come when the first has been generated to its end.
    const next = await ask(server.url, { max_tokens: 3 });
    expect(new Dig(await next.json()).at("choices", 0, "text")).toBe("xxx");
    expect(model.running).toBe(0);
    expect(slow.received()).toBe(0);
    slow.read();
    await until("all of it has arrived", () => slow.received() > 20_000 * 100);
    slow.end();
    await server.stop();
  });
});
