import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { Elysia } from "elysia";
import { type Model, loadModel } from "ggstrata";
import { strata } from "ggstrata/server";
import { OpenAI } from "openai";
import { chunksOf, Dig, until } from "./help.ts";

// For machines that do something else besides.
setDefaultTimeout(60_000);

const root = join(import.meta.dir, "..", "..");
const path = join(root, "test/fixtures/tiny-hybrid/model.gguf");
const prompts = [
  "Once upon a time",
  "The old king",
  "There was",
  '"I do not know,"',
  "In the morning the girl went",
  "The wolf said to",
  "It was raining and",
  "A long way from here",
];

describe("a true model", () => {
  let model: Model;
  let url: string;
  let client: OpenAI;
  let untouched: object;
  let app: { stop(closeActive?: boolean): Promise<unknown> };

  beforeAll(async () => {
    model = await loadModel(path, { sequences: 4, context: 1024, kv: "f32" });
    untouched = free();
    const chatTemplate =
      "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}";
    const host = new Elysia().use(strata({ model, chatTemplate })).listen({ hostname: "127.0.0.1", port: 0 });
    app = host;
    url = (host.server as Bun.Server<unknown>).url.origin;
    client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });
  });

  afterAll(async () => {
    await app.stop(true);
    await model.dispose();
  });

  /** What of the memory is free. */
  function free(): object {
    const { freeBlocks, freeCells } = model.counters();
    return { freeBlocks, freeCells };
  }

  function complete(prompt: string, more: object = {}): Promise<OpenAI.Completion> {
    return client.completions.create({ model: "tiny", prompt, temperature: 0, max_tokens: 24, ...more });
  }

  async function directly(prompt: string, maxTokens = 24): Promise<string> {
    let text = "";
    for await (const piece of model.generate(prompt, { temperature: 0, maxTokens })) text += piece.text;
    return text;
  }

  test("eight requests at once give the greedy texts that each gives alone", async () => {
    const alone: string[] = [];
    for (const prompt of prompts) alone.push((await complete(prompt)).choices[0]?.text ?? "");
    const steps = model.counters().steps;
    const together = await Promise.all(prompts.map((prompt) => complete(prompt)));
    expect(together.map(({ choices }) => choices[0]?.text)).toEqual(alone);
    expect(alone[0]).toBe(await directly(prompts[0] as string));
    expect(together[0]?.usage?.completion_tokens).toBe(24);
    // 192 tokens, in steps of four sequences: two rounds of 24, and a few where one joins or leaves.
    expect(model.counters().steps - steps).toBeLessThan(80);
  });

  test("a stream's text is the whole answer's", async () => {
    const whole = await complete("The old king", { echo: true });
    let text = "";
    const request = { model: "tiny", prompt: "The old king", temperature: 0, max_tokens: 24, echo: true } as const;
    for await (const chunk of await client.completions.create({ ...request, stream: true })) {
      text += chunk.choices[0]?.text ?? "";
    }
    expect(text).toBe(whole.choices[0]?.text ?? "");
    expect(text).toStartWith("The old king");
    expect(whole.choices[0]?.finish_reason).toBe("length");
  });

  test("seeds: the same one gives the same text, and choices have seeds that follow each other", async () => {
    const drawn = async (seed: number, n: number): Promise<string[]> =>
      (await complete("Once", { temperature: 1, seed, n })).choices.map(({ text }) => text);
    const three = await drawn(5, 3);
    expect(new Set(three).size).toBe(3);
    expect(await drawn(6, 2)).toEqual(three.slice(1));
  });

  test("a chat, by the given template", async () => {
    const answer = await client.chat.completions.create({
      model: "tiny",
      messages: [{ role: "user", content: "Hello" }],
      temperature: 0,
      max_tokens: 8,
      logprobs: true,
    });
    expect(answer.choices[0]?.message.content).toBe(await directly("user: Hello\nassistant:", 8));
    const entries = answer.choices[0]?.logprobs?.content ?? [];
    expect(Buffer.from(entries.flatMap(({ bytes }) => bytes ?? [])).toString()).toBe(
      answer.choices[0]?.message.content ?? "",
    );
    for (const { logprob } of entries) expect(logprob).toBeWithin(-20, 0);
  });

  test("stop strings, and tokens that are ruled out", async () => {
    const text = await directly("Once upon a time");
    const stop = text.slice(8, 12);
    const answer = await complete("Once upon a time", { stop: [stop] });
    expect(answer.choices[0]).toMatchObject({ text: text.slice(0, text.indexOf(stop)), finish_reason: "stop" });
    const [first] = model.tokenizer.encode(text, { bos: false });
    const other = await complete("Once upon a time", { logit_bias: { [String(first)]: -100 }, max_tokens: 1 });
    expect(other.choices[0]?.text).not.toBe(model.tokenizer.decode([first as number], { cleanUp: false }));
  });

  test("max_tokens 0 only repeats the prompt", async () => {
    const answer = await complete("Once upon a time", { echo: true, max_tokens: 0 });
    expect(answer.choices[0]).toMatchObject({ text: "Once upon a time", finish_reason: "length" });
    expect(answer.usage?.completion_tokens).toBe(0);
  });

  test("the context's end is a reason, and a prompt beyond it is an error with both numbers", async () => {
    const long = model.tokenizer.encode("the ".repeat(1020)).slice(0, 1020);
    const answer = await client.completions.create({ model: "tiny", prompt: long, max_tokens: 100, temperature: 0 });
    expect(answer.choices[0]?.finish_reason).toBe("length");
    expect(answer.usage?.completion_tokens).toBeWithin(4, 6);
    const error = await complete("the ".repeat(1100)).catch((failure) => failure);
    expect(error).toBeInstanceOf(OpenAI.BadRequestError);
    expect(error.code).toBe("context_length_exceeded");
    expect(error.message).toMatch(/\d{4} tokens.* 1024/);
  });

  test("clients that leave free their sequences and cells", async () => {
    const readers = prompts.slice(0, 4).map(async (prompt) => {
      const request = { model: "tiny", prompt, max_tokens: 900, ignore_eos: true, stream: true } as const;
      const stream = await client.completions.create(request);
      let count = 0;
      for await (const _ of stream) if ((count += 1) === 5) break;
      expect(free()).not.toEqual(untouched);
    });
    await Promise.all(readers);
    await until("all of it is free again", () => Bun.deepEquals(free(), untouched));
    expect((await complete("Once")).choices[0]?.text).toBe(await directly("Once"));
  });
});

describe("strata serve", () => {
  test("SIGTERM lets the stream that runs end, and the process with it", async () => {
    const command = [
      process.execPath,
      join(root, "lib", "cli", "main.ts"),
      "serve",
      "-m",
      path,
      "--port",
      "0",
      "--json",
    ];
    await using server = Bun.spawn(command, { stdout: "pipe", stderr: "inherit" });
    const reader = server.stdout.getReader();
    let line = "";
    while (!line.includes("}")) {
      const { value, done } = await reader.read();
      if (done) throw new Error(`strata serve ended after ${JSON.stringify(line)}`);
      line += new TextDecoder().decode(value);
    }
    const url = new Dig(JSON.parse(line)).at("url") as string;
    while ((await fetch(`${url}/ready`)).status !== 200) await Bun.sleep(20);
    const body = JSON.stringify({ prompt: "Once", max_tokens: 400, ignore_eos: true, stream: true });
    const response = await fetch(`${url}/v1/completions`, { method: "POST", body });
    server.kill("SIGTERM");
    const { chunks, isDone } = chunksOf(await response.text());
    expect(isDone).toBe(true);
    expect(chunks.at(-1)?.at("choices", 0, "finish_reason")).toBe("length");
    expect(await server.exited).toBe(0);
    await expect(fetch(`${url}/health`)).rejects.toThrow();
  });
});
