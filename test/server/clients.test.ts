import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { APIError, OpenAI } from "openai";
import { type RunningServer, startServerWith } from "../../lib/server/serve.ts";
import { FakeModel, type Script } from "./fake-model.ts";
import { chunksOf, Dig, until } from "./help.ts";

// For machines that do something else besides.
setDefaultTimeout(60_000);

/** Servers that a test has started; stopped when all are done. */
const servers: RunningServer<FakeModel>[] = [];

async function serve(script: Script): Promise<{ model: FakeModel; url: string; client: OpenAI }> {
  const model = new FakeModel(script);
  const server = await startServerWith(() => Promise.resolve(model), { path: model.path, port: 0 });
  servers.push(server);
  await server.ready;
  const client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: "none", maxRetries: 0 });
  return { model, url: server.url, client };
}

afterAll(async () => {
  await Promise.all(servers.map((server) => server.stop({ limitMs: 0 })));
});

const messages = [{ role: "user" as const, content: "Hi" }];

describe("the openai client", () => {
  let model: FakeModel;
  let client: OpenAI;
  beforeAll(async () => {
    ({ model, client } = await serve({ says: "Grüße aus %seed", delayMs: 1 }));
  });

  test("chat", async () => {
    const answer = await client.chat.completions.create({ model: "x", messages, seed: 3 });
    expect(answer.choices[0]?.message.content).toBe("Grüße aus 3");
    expect(answer.choices[0]?.finish_reason).toBe("stop");
    expect(answer.usage?.total_tokens).toBe(20 + 14);
    expect(answer._request_id).toBe(answer.id);
  });

  test("chat, streamed with usage", async () => {
    const stream = await client.chat.completions.create({
      model: "x",
      messages,
      seed: 3,
      stream: true,
      stream_options: { include_usage: true },
    });
    let text = "";
    let usage: OpenAI.CompletionUsage | null | undefined;
    for await (const chunk of stream) {
      text += chunk.choices[0]?.delta.content ?? "";
      usage = chunk.usage;
    }
    expect(text).toBe("Grüße aus 3");
    expect(usage?.total_tokens).toBe(34);
  });

  test("the client's own stream helper puts the chunks together to the whole answer", async () => {
    const stream = client.chat.completions.stream({ model: "x", messages, seed: 3, n: 2, logprobs: true });
    const answer = await stream.finalChatCompletion();
    expect(answer.choices.map(({ message }) => message.content)).toEqual(["Grüße aus 3", "Grüße aus 4"]);
    const whole = await client.chat.completions.create({ model: "x", messages, seed: 3, n: 2, logprobs: true });
    expect(answer.choices.map(({ logprobs }) => logprobs?.content)).toEqual(
      whole.choices.map(({ logprobs }) => logprobs?.content),
    );
  });

  test("completions, whole and streamed", async () => {
    const request = { model: "x", prompt: ["a", "b"], seed: 1, echo: true };
    const whole = await client.completions.create(request);
    expect(whole.choices.map(({ text }) => text)).toEqual(["aGrüße aus 1", "bGrüße aus 1"]);
    const texts = ["", ""];
    for await (const chunk of await client.completions.create({ ...request, stream: true })) {
      for (const { index, text } of chunk.choices) texts[index] += text;
    }
    expect(texts).toEqual(["aGrüße aus 1", "bGrüße aus 1"]);
  });

  test("models", async () => {
    const list = await client.models.list();
    expect(list.data.map(({ id }) => id)).toEqual(["fake"]);
    expect((await client.models.retrieve("fake")).owned_by).toBe("strata");
    expect(await client.models.retrieve("other").catch((error) => error)).toBeInstanceOf(OpenAI.NotFoundError);
  });

  test("a wrong request is an APIError with the field's name", async () => {
    const error = await client.chat.completions.create({ model: "x", messages, temperature: -1 }).catch((e) => e);
    expect(error).toBeInstanceOf(OpenAI.BadRequestError);
    expect(error).toMatchObject({ status: 400, param: "temperature", type: "invalid_request_error" });
    expect(error.message).toContain("temperature is -1");
  });

  test("leaving in the middle of a stream frees the sequence", async () => {
    const { model: slow, client: leaver } = await serve({ says: "x".repeat(500), delayMs: 2, context: 1000 });
    const stream = await leaver.chat.completions.create({ model: "x", messages, stream: true });
    for await (const chunk of stream) {
      if (chunk.choices[0]?.delta.content === "x") break;
    }
    await until("no generation runs", () => slow.running === 0);
    expect(slow.asked[0]?.signal?.aborted).toBe(true);
  });

  test("aborting a request that waits for its whole answer frees the sequence, and the place in the queue", async () => {
    const { model: slow, client: leaver } = await serve({
      says: "x".repeat(400),
      delayMs: 2,
      sequences: 1,
      context: 999,
    });
    const abort = new AbortController();
    const requests = [1, 2].map(() =>
      leaver.chat.completions.create({ model: "x", messages }, { signal: abort.signal }).catch((error) => error),
    );
    await until("both are asked for", () => slow.asked.length === 2);
    abort.abort();
    for (const error of await Promise.all(requests)) expect(error).toBeInstanceOf(OpenAI.APIUserAbortError);
    await until("no generation runs", () => slow.running === 0);
    expect((await leaver.models.list()).data).toHaveLength(1);
    expect(model.running).toBe(0);
  });

  test("a failure in the middle of a stream is an APIError", async () => {
    const { client: unlucky } = await serve({ failsAt: 3 });
    const stream = await unlucky.chat.completions.create({ model: "x", messages, stream: true });
    let text = "";
    const reading = (async () => {
      for await (const chunk of stream) text += chunk.choices[0]?.delta.content ?? "";
    })();
    const error = await reading.catch((failure) => failure);
    expect(error).toBeInstanceOf(APIError);
    expect(error.message).toContain("step 3 went wrong");
    expect(text).toBe("Hel");
  });

  test("requests run together", async () => {
    const { model: busy, client: many } = await serve({ says: "%seed is the seed", delayMs: 2, sequences: 4 });
    const seeds = [...Array(8).keys()];
    const texts = await Promise.all(
      seeds.map(async (seed) => {
        const answer = await many.chat.completions.create({ model: "x", messages, seed });
        return answer.choices[0]?.message.content;
      }),
    );
    expect(texts).toEqual(seeds.map((seed) => `${seed} is the seed`));
    expect(busy.runningMax).toBe(4);
  });
});

describe("curl", () => {
  let url: string;
  beforeAll(async () => {
    ({ url } = await serve({ says: "Grüße" }));
  });

  test("a whole answer", async () => {
    const { body, head } = await curl(`${url}/v1/completions`, { prompt: "a" });
    expect(head).toStartWith("HTTP/1.1 200");
    expect(new Dig(JSON.parse(body)).at("choices", 0, "text")).toBe("Grüße");
  });

  test("a stream", async () => {
    const { body, head } = await curl(`${url}/v1/chat/completions`, { messages, stream: true });
    expect(head.toLowerCase()).toContain("content-type: text/event-stream");
    const { chunks, isDone } = chunksOf(body);
    expect(chunks.map((chunk) => chunk.at("choices", 0, "delta", "content") ?? "").join("")).toBe("Grüße");
    expect(isDone).toBe(true);
  });

  test("an error, health, and a path that is not served", async () => {
    const wrong = await curl(`${url}/v1/completions`, { prompt: 5 });
    expect(wrong.head).toStartWith("HTTP/1.1 400");
    expect(new Dig(JSON.parse(wrong.body)).at("error", "param")).toBe("prompt");
    const health = await curl(`${url}/health`);
    expect(health.body).toBe('{"status":"ok"}');
    const nowhere = await curl(`${url}/nowhere`);
    expect(nowhere.head).toStartWith("HTTP/1.1 404");
    expect(new Dig(JSON.parse(nowhere.body)).at("error", "code")).toBe("unknown_url");
  });
});

/** What curl prints of an answer. It is not everywhere; where it is missing, fetch asks the same. */
async function curl(url: string, body?: object): Promise<{ head: string; body: string }> {
  const program = Bun.which("curl");
  const data = body === undefined ? undefined : JSON.stringify(body);
  if (program === null) {
    const response = await fetch(url, data === undefined ? {} : { method: "POST", body: data });
    const headers = [...response.headers].map(([name, value]) => `${name}: ${value}`).join("\r\n");
    return { head: `HTTP/1.1 ${response.status}\r\n${headers}`, body: await response.text() };
  }
  const run = Bun.spawn([program, "-sS", "-N", "-i", ...(data === undefined ? [] : ["-d", data]), url]);
  const answer = await run.stdout.text();
  expect(await run.exited).toBe(0);
  const end = answer.indexOf("\r\n\r\n");
  return { head: answer.slice(0, end), body: answer.slice(end + 4) };
}
