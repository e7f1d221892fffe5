import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { Elysia } from "elysia";
import { StrataError } from "../../lib/errors.ts";
import { strata } from "../../lib/server/plugin.ts";
import type { ModelState } from "../../lib/server/service.ts";
import { FakeModel } from "./fake-model.ts";
import { appOf, chunksOf, Dig, get, post, send, until } from "./help.ts";

// For machines that do something else besides.
setDefaultTimeout(60_000);

const hello = { messages: [{ role: "user", content: "Hi" }] };

describe("chat completions", () => {
  test("a whole answer", async () => {
    const model = new FakeModel({ says: "Grüße 🦜" });
    const { status, headers, json } = await post(appOf({ model }), "/v1/chat/completions", { model: "any", ...hello });
    expect(status).toBe(200);
    expect(json.value).toEqual({
      id: expect.stringMatching(/^chatcmpl-[0-9a-f]{32}$/),
      object: "chat.completion",
      created: expect.any(Number),
      model: "fake",
      choices: [
        {
          index: 0,
          message: { role: "assistant", content: "Grüße 🦜", refusal: null },
          logprobs: null,
          finish_reason: "stop",
        },
      ],
      // One token a byte and one that ends the answer; the prompt's three special tokens and its bytes.
      usage: { prompt_tokens: 3 + "user:Hiassistant:".length, completion_tokens: 13, total_tokens: 33 },
    });
    expect(headers.get("x-request-id")).toBe(json.at("id") as string);
    expect(model.prompts).toEqual(["<|start|>user:Hi<|end|><|start|>assistant:"]);
  });

  test("a stream: the role first, the reason last, then usage and the end mark", async () => {
    const model = new FakeModel({ says: "é!" });
    const request = { ...hello, stream: true, stream_options: { include_usage: true } };
    const response = await send(appOf({ model }), "/v1/chat/completions", request);
    expect(response.headers.get("content-type")).toBe("text/event-stream; charset=utf-8");
    const { chunks, isDone } = chunksOf(await response.text());
    expect(isDone).toBe(true);
    const id = chunks[0]?.at("id");
    const created = chunks[0]?.at("created");
    const rest = { id, object: "chat.completion.chunk", created, model: "fake" };
    const chunk = (delta: object, finish: string | null = null): object => ({
      ...rest,
      choices: [{ index: 0, delta, logprobs: null, finish_reason: finish }],
      usage: null,
    });
    expect(chunks.map(({ value }) => value)).toEqual([
      chunk({ role: "assistant", content: "" }),
      chunk({ content: "é" }),
      chunk({ content: "!" }),
      chunk({}, "stop"),
      { ...rest, choices: [], usage: { prompt_tokens: 20, completion_tokens: 4, total_tokens: 24 } },
    ]);
  });

  test("without include_usage no chunk mentions usage", async () => {
    const response = await send(appOf({ model: new FakeModel() }), "/v1/chat/completions", { ...hello, stream: true });
    const { chunks } = chunksOf(await response.text());
    expect(chunks.every(({ value }) => !("usage" in (value as object)))).toBe(true);
  });

  test("the head and the role come before any computing", async () => {
    const app = appOf({ model: new FakeModel({ delayMs: 5000 }) });
    const start = performance.now();
    const response = await send(app, "/v1/chat/completions", { ...hello, stream: true, max_tokens: 1 });
    const reader = (response.body as ReadableStream<Uint8Array>).getReader();
    const first = new TextDecoder().decode((await reader.read()).value);
    expect(performance.now() - start).toBeLessThan(4000);
    expect(chunksOf(first).chunks[0]?.at("choices", 0, "delta", "role")).toBe("assistant");
    await reader.cancel();
  });

  test("several choices run together, with seeds that follow each other", async () => {
    const model = new FakeModel({ says: "seed %seed", delayMs: 5 });
    const request = { ...hello, n: 3, seed: 7 };
    const { json } = await post(appOf({ model }), "/v1/chat/completions", request);
    expect([0, 1, 2].map((index) => json.at("choices", index, "message", "content"))).toEqual([
      "seed 7",
      "seed 8",
      "seed 9",
    ]);
    expect(json.at("usage")).toEqual({ prompt_tokens: 20, completion_tokens: 21, total_tokens: 41 });
    expect(model.runningMax).toBe(3);
    const streamed = await send(appOf({ model }), "/v1/chat/completions", { ...request, stream: true });
    const { chunks } = chunksOf(await streamed.text());
    const texts = ["", "", ""];
    for (const chunk of chunks) {
      texts[chunk.at("choices", 0, "index") as number] += (chunk.at("choices", 0, "delta", "content") ?? "") as string;
    }
    expect(texts).toEqual(["seed 7", "seed 8", "seed 9"]);
  });

  test("log probabilities with bytes, in a stream and at once, without the end token", async () => {
    const app = appOf({ model: new FakeModel({ says: "é." }) });
    const whole = await post(app, "/v1/chat/completions", { ...hello, logprobs: true });
    const content = [
      { token: "\ufffd", logprob: -1, bytes: [0xc3], top_logprobs: [] },
      { token: "\ufffd", logprob: -2, bytes: [0xa9], top_logprobs: [] },
      { token: ".", logprob: -3, bytes: [0x2e], top_logprobs: [] },
    ];
    expect(whole.json.at("choices", 0, "logprobs")).toEqual({ content, refusal: null });
    const response = await send(app, "/v1/chat/completions", { ...hello, logprobs: true, stream: true });
    const { chunks } = chunksOf(await response.text());
    expect(chunks.flatMap((chunk) => chunk.at("choices", 0, "logprobs", "content") ?? [])).toEqual(content);
  });

  test("messages: parts of text are joined, a developer is the system, and special tokens in them are text", async () => {
    const model = new FakeModel();
    const messages = [
      { role: "developer", content: "Be brief." },
      {
        role: "user",
        content: [
          { type: "text", text: "a<|end|>" },
          { type: "text", text: "b" },
        ],
      },
    ];
    await post(appOf({ model }), "/v1/chat/completions", { messages });
    expect(model.prompts).toEqual([
      "<|start|>system:Be brief.<|end|><|start|>user:a<|end|>b<|end|><|start|>assistant:",
    ]);
    const { json } = await post(appOf({ model }), "/v1/chat/completions", { messages });
    // Three tokens are special, and "<|end|>" in the user's text is its seven letters.
    const letters = "system:Be brief.user:a<|end|>bassistant:".length;
    expect(json.at("usage", "prompt_tokens")).toBe(letters + 5);
  });

  test("a template of one's own", async () => {
    const model = new FakeModel();
    const chatTemplate = "{% for m in messages %}[{{ m.content }}]{% endfor %}{{ mood }}";
    const app = appOf({ model, chatTemplate });
    await post(app, "/v1/chat/completions", { ...hello, chat_template_kwargs: { mood: "?" } });
    expect(model.prompts).toEqual(["[Hi]?"]);
  });
});

describe("completions", () => {
  test("a whole answer", async () => {
    const { json } = await post(appOf({ model: new FakeModel() }), "/v1/completions", { prompt: "abc" });
    expect(json.value).toEqual({
      id: expect.stringMatching(/^cmpl-[0-9a-f]{32}$/),
      object: "text_completion",
      created: expect.any(Number),
      model: "fake",
      choices: [{ index: 0, text: "Hello.", logprobs: null, finish_reason: "stop" }],
      usage: { prompt_tokens: 3, completion_tokens: 7, total_tokens: 10 },
    });
  });

  test("prompts in all four forms, and several choices of each", async () => {
    const model = new FakeModel({ says: "%seed" });
    const app = appOf({ model });
    const [a, b] = [model.tokenizer.encode("a"), model.tokenizer.encode("b")];
    for (const [prompt, expected] of [
      ["a", ["a"]],
      [
        ["a", "b"],
        ["a", "b"],
      ],
      [a, ["a"]],
      [
        [a, b],
        ["a", "b"],
      ],
      [
        ["a", b],
        ["a", "b"],
      ],
    ]) {
      model.prompts.length = 0;
      expect((await post(app, "/v1/completions", { prompt })).status).toBe(200);
      expect(model.prompts).toEqual(expected as string[]);
    }
    const { json } = await post(app, "/v1/completions", { prompt: ["a", "b"], n: 2, seed: 1, echo: true });
    const texts = [0, 1, 2, 3].map((index) => json.at("choices", index, "text"));
    expect(texts).toEqual(["a1", "a2", "b1", "b2"]);
    expect(json.at("usage", "prompt_tokens")).toBe(2);
  });

  test("a stream, with the prompt repeated", async () => {
    const model = new FakeModel({ says: "!" });
    for (const prompt of ["ab", model.tokenizer.encode("ab")]) {
      const response = await send(appOf({ model }), "/v1/completions", { prompt, echo: true, stream: true });
      const { chunks, isDone } = chunksOf(await response.text());
      expect(chunks.map((chunk) => [chunk.at("choices", 0, "text"), chunk.at("choices", 0, "finish_reason")])).toEqual([
        ["ab", null],
        ["!", null],
        ["", "stop"],
      ]);
      expect(isDone).toBe(true);
    }
  });

  test("special tokens in a prompt are text unless asked for", async () => {
    const model = new FakeModel();
    const app = appOf({ model });
    const count = async (special: boolean): Promise<unknown> =>
      (await post(app, "/v1/completions", { prompt: "a<|end|>", special })).json.at("usage", "prompt_tokens");
    expect(await count(false)).toBe(8);
    expect(await count(true)).toBe(2);
  });

  test("log probabilities", async () => {
    const app = appOf({ model: new FakeModel({ says: "xy" }) });
    const { json } = await post(app, "/v1/completions", { prompt: "a", logprobs: 0 });
    expect(json.at("choices", 0, "logprobs")).toEqual({
      tokens: ["x", "y"],
      token_logprobs: [-1, -2],
      top_logprobs: null,
      text_offset: [0, 1],
    });
    const response = await send(app, "/v1/completions", { prompt: "a", logprobs: 0, stream: true });
    const { chunks } = chunksOf(await response.text());
    const offsets = chunks.flatMap((chunk) => chunk.at("choices", 0, "logprobs", "text_offset") ?? []);
    expect(offsets).toEqual([0, 1]);
  });

  test("options arrive under the SDK's names", async () => {
    const model = new FakeModel();
    await post(appOf({ model }), "/v1/completions", {
      prompt: "a",
      max_tokens: 9,
      temperature: 0.5,
      top_k: 3,
      top_p: 0.9,
      min_p: 0.1,
      seed: 5,
      repeat_penalty: 1.1,
      frequency_penalty: 0.2,
      presence_penalty: 0.3,
      repeat_last_n: 32,
      logit_bias: { "65": -100 },
      stop: ["x", "y"],
      ignore_eos: true,
      user: "someone",
      unheard_of: 1,
    });
    expect(model.asked[0]).toMatchObject({
      maxTokens: 9,
      temperature: 0.5,
      topK: 3,
      topP: 0.9,
      minP: 0.1,
      seed: 5,
      repetitionPenalty: 1.1,
      frequencyPenalty: 0.2,
      presencePenalty: 0.3,
      penaltyLastN: 32,
      logitBias: { 65: -100 },
      stop: ["x", "y"],
      ignoreEnd: true,
    });
  });

  test("the number of tokens: 16 unless said, as OpenAI has it, and -1 for no limit; a chat has none", async () => {
    const model = new FakeModel({ says: "x".repeat(30) });
    const app = appOf({ model });
    const reason = async (path: string, body: object): Promise<unknown> =>
      (await post(app, path, body)).json.at("choices", 0, "finish_reason");
    expect(await reason("/v1/completions", { prompt: "a" })).toBe("length");
    expect(await reason("/v1/completions", { prompt: "a", max_tokens: -1 })).toBe("stop");
    expect(await reason("/v1/chat/completions", hello)).toBe("stop");
    expect(await reason("/v1/chat/completions", { ...hello, max_tokens: 30, max_completion_tokens: 2 })).toBe("length");
    expect(model.asked.map(({ maxTokens }) => maxTokens)).toEqual([16, undefined, undefined, 2]);
  });
});

describe("errors", () => {
  const chat = (more: object): [string, object] => ["/v1/chat/completions", { ...hello, ...more }];
  const completion = (more: object): [string, object] => ["/v1/completions", { prompt: "a", ...more }];
  const cases: [[string, unknown], string, RegExp][] = [
    [["/v1/chat/completions", "[]"], "body", /give a JSON object/],
    [["/v1/chat/completions", {}], "messages", /missing/],
    [chat({ messages: [] }), "messages", /empty/],
    [chat({ messages: "Hi" }), "messages", /an array/],
    [chat({ messages: ["Hi"] }), "messages[0]", /give a JSON object/],
    [chat({ messages: [{ content: "Hi" }] }), "messages[0].role", /missing/],
    [chat({ messages: [{ role: "user" }] }), "messages[0].content", /missing/],
    [chat({ messages: [{ role: "user", content: 5 }] }), "messages[0].content", /is 5/],
    [chat({ messages: [{ role: "user", content: [{ type: "image_url" }] }] }), "messages[0].content[0].type", /"text"/],
    [chat({ messages: [{ role: "user", content: [{ type: "text" }] }] }), "messages[0].content[0].text", /missing/],
    [chat({ messages: [{ role: "user", content: "\ud800" }] }), "messages", /surrogate/],
    [chat({ messages: [{ role: "nobody", content: "" }] }), "messages", /nobody may not speak/],
    [chat({ messages: [{ role: "user", content: "x".repeat(300) }] }), "messages", /has 318 tokens.* 256/],
    [chat({ tools: [{ type: "function", function: { name: "f" } }] }), "tools", /leave it out/],
    [chat({ functions: [{ name: "f" }] }), "functions", /leave it out/],
    [chat({ response_format: { type: "json_object" } }), "response_format", /json_object/],
    [chat({ top_logprobs: 2, logprobs: true }), "top_logprobs", /only the chosen/],
    [chat({ logprobs: 1 }), "logprobs", /true or false/],
    [chat({ max_completion_tokens: 1.5 }), "max_completion_tokens", /1\.5.*an integer/],
    [chat({ stream: "yes" }), "stream", /"yes".*true or false/],
    [chat({ stream_options: { include_usage: 1 } }), "stream_options.include_usage", /true or false/],
    [chat({ model: 5 }), "model", /a string/],
    [chat({ n: 0 }), "n", /from 1 to 128/],
    [completion({ prompt: undefined }), "prompt", /missing/],
    [completion({ prompt: "" }), "prompt", /is empty/],
    [completion({ prompt: [[]] }), "prompt[0]", /no token/],
    [completion({ prompt: [] }), "prompt", /is empty/],
    [completion({ prompt: {} }), "prompt", /an object/],
    [completion({ prompt: ["a", 5] }), "prompt[1]", /is 5/],
    [completion({ prompt: [1, 259] }), "prompt[1]", /259.*from 0 to 258/],
    [completion({ prompt: [[1], [-1]] }), "prompt[1][0]", /-1/],
    [completion({ prompt: "\udc00" }), "prompt", /surrogate/],
    [completion({ prompt: "x".repeat(257) }), "prompt", /257 tokens.* 256/],
    [completion({ prompt: Array(129).fill("a") }), "prompt", /129 prompts/],
    [completion({ prompt: ["a", "b"], n: 65 }), "n", /128 choices/],
    [completion({ logprobs: 2 }), "logprobs", /only 0/],
    [completion({ logprobs: 0, echo: true }), "logprobs", /echo/],
    [completion({ suffix: "z" }), "suffix", /leave it out/],
    [completion({ best_of: 3 }), "best_of", /more than n/],
    [completion({ temperature: -1 }), "temperature", /from 0 to 1000/],
    [completion({ temperature: "hot" }), "temperature", /"hot"/],
    [completion({ top_p: 2 }), "top_p", /from 0 to 1/],
    [completion({ top_k: 0.5 }), "top_k", /an integer/],
    [completion({ min_p: -0.1 }), "min_p", /from 0 to 1/],
    [completion({ seed: 1.5 }), "seed", /an integer/],
    [completion({ repeat_penalty: 0 }), "repeat_penalty", /0\.01/],
    [completion({ presence_penalty: true }), "presence_penalty", /is true/],
    [completion({ logit_bias: [1] }), "logit_bias", /a JSON object/],
    [completion({ logit_bias: { hello: 1 } }), "logit_bias", /"hello"/],
    [completion({ logit_bias: { "259": 1 } }), "logit_bias", /from 0 to 258/],
    [completion({ logit_bias: { "5": "x" } }), "logit_bias.5", /"x"/],
    [completion({ stop: 5 }), "stop", /a string or an array/],
    [completion({ stop: ["a", ""] }), "stop", /empty/],
    [["/tokenize", {}], "content", /missing/],
    [["/tokenize", { content: 5 }], "content", /a string/],
    [["/detokenize", {}], "tokens", /missing/],
    [["/detokenize", { tokens: [0, "x"] }], "tokens[1]", /"x"/],
  ];
  for (const [[path, body], param, message] of cases) {
    test(`${path}: ${param} ${message.source}`, async () => {
      const model = new FakeModel();
      const { status, json } = await post(appOf({ model }), path, body);
      expect(status).toBe(400);
      expect(json.value).toEqual({
        error: {
          message: expect.stringMatching(message),
          type: "invalid_request_error",
          param,
          code: expect.any(String),
        },
      });
      expect(model.asked).toEqual([]);
    });
  }

  test("null is as good as nothing", async () => {
    const names = [
      "max_tokens",
      "temperature",
      "top_p",
      "n",
      "stop",
      "seed",
      "logit_bias",
      "logprobs",
      "stream",
      "tools",
    ];
    const more = Object.fromEntries(names.map((name) => [name, null]));
    expect((await post(appOf({ model: new FakeModel() }), ...chat(more))).status).toBe(200);
  });

  test("a body that is not JSON", async () => {
    for (const body of ["{bad", ""]) {
      const { status, json } = await post(appOf({ model: new FakeModel() }), "/v1/completions", body);
      expect(status).toBe(400);
      expect(json.at("error", "code")).toBe("invalid_json");
    }
  });

  test("a failure before the answer is a status, one in a stream is in the stream", async () => {
    const log: string[] = [];
    const model = new FakeModel({ failsAt: 2 });
    const app = appOf({ model, log: (line) => log.push(line) });
    const error = { message: "step 2 went wrong", type: "server_error", param: null, code: "internal" };
    const whole = await post(app, ...completion({}));
    expect([whole.status, whole.json.value]).toEqual([500, { error }]);
    const response = await send(app, ...completion({ stream: true }));
    expect(response.status).toBe(200);
    const { chunks, isDone } = chunksOf(await response.text());
    expect(chunks.map((chunk) => chunk.at("choices", 0, "text"))).toEqual(["", "H", "e", undefined]);
    expect(chunks.at(-1)?.value).toEqual({ error });
    expect(isDone).toBe(false);
    expect(log).toEqual(["step 2 went wrong", "step 2 went wrong"]);
    expect(model.running).toBe(0);
  });

  test("a failure while a right request runs is never the client's", async () => {
    const model = new FakeModel({ failsAt: 1, failure: "invalid_argument" });
    const { status, json } = await post(appOf({ model }), ...completion({}));
    expect([status, json.at("error", "type")]).toEqual([500, "server_error"]);
  });

  test("what somebody else cancelled is an error, not a short answer", async () => {
    const { status, json } = await post(appOf({ model: new FakeModel({ cancelledAt: 2 }) }), ...completion({}));
    expect([status, json.at("error", "code")]).toEqual([503, "cancelled"]);
  });

  test("one choice's failure ends the others and is told once", async () => {
    const model = new FakeModel({ failsAt: 3, delayMs: 5, sequences: 2 });
    const response = await send(appOf({ model }), ...completion({ stream: true, n: 4 }));
    const { chunks } = chunksOf(await response.text());
    expect(chunks.filter((chunk) => chunk.at("error") !== undefined)).toHaveLength(1);
    expect(model.running).toBe(0);
  });

  test("a queue that is too long: 429, and room again when it has moved", async () => {
    const model = new FakeModel({ sequences: 1, delayMs: 5 });
    const app = appOf({ model, maxQueue: 1 });
    const first = post(app, ...completion({}));
    const second = post(app, ...completion({}));
    const third = await post(app, ...completion({}));
    expect([third.status, third.headers.get("retry-after")]).toEqual([429, "1"]);
    expect(third.json.at("error", "type")).toBe("rate_limit_error");
    expect(third.json.at("error", "code")).toBe("queue_full");
    expect([(await first).status, (await second).status]).toEqual([200, 200]);
    expect((await post(app, ...completion({ n: 2 }))).status).toBe(200);
    const never = await post(app, ...completion({ n: 3 }));
    expect([never.status, never.json.at("error", "message")]).toEqual([
      400,
      "the request asks for 3 choices, but the server queues at most 2",
    ]);
  });
});

describe("models, tokens and health", () => {
  test("models", async () => {
    const app = appOf({ model: new FakeModel() });
    const model = { id: "fake", object: "model", created: expect.any(Number), owned_by: "strata", context_length: 256 };
    expect((await get(app, "/v1/models")).json.value).toEqual({ object: "list", data: [model] });
    expect((await get(app, "/v1/models/fake")).json.value).toEqual(model);
    const other = await get(app, "/v1/models/gpt-5");
    expect([other.status, other.json.at("error", "code")]).toEqual([404, "model_not_found"]);
    const named = appOf({ model: new FakeModel(), modelName: "me/mine" });
    expect((await get(named, "/v1/models/me%2Fmine")).json.at("id")).toBe("me/mine");
  });

  test("tokenize and detokenize", async () => {
    const model = new FakeModel();
    const app = appOf({ model });
    const text = "Ä<|end|>";
    const plain = await post(app, "/tokenize", { content: text });
    expect(plain.json.value).toEqual({ tokens: model.tokenizer.encode(text, { bos: false }), count: 9 });
    const special = await post(app, "/tokenize", { text, parse_special: true });
    expect(special.json.at("tokens", 2)).toBe(257);
    const tokens = special.json.at("tokens");
    expect((await post(app, "/detokenize", { tokens })).json.value).toEqual({ text: "Ä", content: "Ä" });
    expect((await post(app, "/detokenize", { tokens, special: true })).json.at("text")).toBe(text);
  });

  test("while a model loads, and when it is there", async () => {
    const { promise, resolve } = Promise.withResolvers<FakeModel>();
    const app = appOf({ model: promise });
    const loading = await get(app, "/health");
    expect([loading.status, loading.json.value]).toEqual([503, { status: "loading", progress: 0 }]);
    expect((await get(app, "/ready")).status).toBe(503);
    const early = await post(app, "/v1/completions", { prompt: "a" });
    expect([early.status, early.headers.get("retry-after")]).toEqual([503, "1"]);
    expect(early.json.value).toEqual({
      error: {
        message: "the model is loading (0 %); try again soon",
        type: "server_error",
        param: null,
        code: "model_loading",
      },
    });
    expect((await get(app, "/v1/models")).status).toBe(503);
    resolve(new FakeModel());
    await promise;
    const there = await get(app, "/health");
    expect([there.status, there.json.value]).toEqual([200, { status: "ok" }]);
    expect((await get(app, "/ready")).status).toBe(200);
    expect((await post(app, "/v1/completions", { prompt: "a" })).status).toBe(200);
  });

  test("a model that cannot be loaded", async () => {
    const app = appOf({ model: Promise.reject(new StrataError("bad_format", "x.gguf: the magic is wrong")) });
    await Bun.sleep(0);
    const { status, json } = await get(app, "/health");
    expect(status).toBe(500);
    expect(json.at("status")).toBe("failed");
    expect(json.at("error", "message")).toBe("x.gguf: the magic is wrong");
    expect((await get(app, "/ready")).status).toBe(503);
    const answer = await post(app, "/v1/completions", { prompt: "a" });
    expect(answer.status).toBe(503);
    expect(answer.json.at("error", "message")).toBe("the model could not be loaded: x.gguf: the magic is wrong");
  });

  test("progress comes from the caller's own state", async () => {
    let state: ModelState = { status: "loading", progress: 0.25 };
    const app = appOf({ model: () => state });
    expect((await get(app, "/health")).json.at("progress")).toBe(0.25);
    state = { status: "ready", model: new FakeModel() };
    expect((await get(app, "/health")).status).toBe(200);
  });
});

describe("in a host", () => {
  test("its routes, errors and validation stay its own", async () => {
    const host = new Elysia()
      .onError(({ code }) => (code === "NOT_FOUND" ? new Response("host: not found", { status: 404 }) : undefined))
      .get("/", () => "host")
      .get("/v1/mine", () => "host's own")
      .get("/fails", () => {
        throw new Error("host's");
      })
      .use(strata({ model: new FakeModel(), prefix: "/llm" }))
      .use(strata({ model: new FakeModel({ says: "second" }) }));
    const text = async (path: string): Promise<string> =>
      (await host.handle(new Request(`http://localhost${path}`))).text();
    expect(await text("/")).toBe("host");
    expect(await text("/v1/mine")).toBe("host's own");
    expect(await text("/nowhere")).toBe("host: not found");
    expect(await text("/fails")).toBe("host's");
    expect((await post(host, "/llm/v1/completions", { prompt: "a" })).json.at("choices", 0, "text")).toBe("Hello.");
    expect((await post(host, "/v1/completions", { prompt: "a" })).json.at("choices", 0, "text")).toBe("second");
    expect((await get(host, "/llm/health")).status).toBe(200);
  });

  test("what is not served under /v1 says so in OpenAI's form", async () => {
    const app = appOf({ model: new FakeModel() });
    for (const [method, path] of [
      ["POST", "/v1/embeddings"],
      ["GET", "/v1/chat/completions"],
    ] as const) {
      const response = await app.handle(new Request(`http://localhost${path}`, { method }));
      expect(response.status).toBe(404);
      const json = new Dig(await response.json());
      expect(json.at("error", "message")).toBe(`${method} ${path} is not served here`);
    }
  });

  test("a host's hook that stops a request is not hidden", async () => {
    const host = new Elysia()
      .onBeforeHandle({ as: "global" }, ({ request, status }) =>
        request.headers.has("authorization") ? undefined : status(401, "who are you?"),
      )
      .use(strata({ model: new FakeModel() }));
    const refused = await send(host, "/v1/completions", { prompt: "a" });
    expect([refused.status, await refused.text()]).toEqual([401, "who are you?"]);
  });

  test("a prefix that is no path", () => {
    expect(() => strata({ model: new FakeModel(), prefix: "llm/" })).toThrow('begin it with "/"');
  });
});

test("a client that stops reading a stream frees its sequence", async () => {
  const model = new FakeModel({ says: "x".repeat(500), delayMs: 2, context: 1000 });
  const response = await send(appOf({ model }), "/v1/completions", { prompt: "a", stream: true, max_tokens: -1 });
  const reader = (response.body as ReadableStream<Uint8Array>).getReader();
  await reader.read();
  expect(model.running).toBe(1);
  await reader.cancel();
  await until("no generation runs", () => model.running === 0);
});
