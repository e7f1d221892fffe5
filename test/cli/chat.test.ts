import { describe, expect, test } from "bun:test";
import { ChatSession } from "../../lib/cli/chat.ts";
import { Conversation, type ChatModel } from "../../lib/cli/conversation.ts";
import type { Line, LineSource } from "../../lib/cli/line-source.ts";
import { StrataError, type ChatMessage } from "../../lib/index.ts";
import { eventsOf } from "./fake-model.ts";
import { keptOutput } from "./streams.ts";

/** A model that says how many messages it was given, or refuses a question "refuse". */
function chatModel() {
  const asked: (readonly ChatMessage[])[] = [];
  const model: ChatModel = {
    loadMs: 0,
    async *chatEvents(messages, options) {
      asked.push(messages);
      const question = messages.at(-1)?.content;
      if (question === "refuse") throw new StrataError("invalid_argument", "the prompt is too long");
      if (question === "break") throw new StrataError("internal", "it broke");
      yield* eventsOf([1], question === "nothing" ? [] : ["I was told ", `${messages.length}`], options);
    },
  };
  return { model, asked };
}

/** Lines of a script: a text is entered, a line object is as it is; afterwards they are at their end. */
function linesOf(...script: (string | Line)[]) {
  const prompts: string[] = [];
  const lines: LineSource = {
    onInterrupt: () => {},
    next: async (prompt) => {
      prompts.push(prompt);
      const line = script.shift() ?? { how: "ended", text: "" };
      return typeof line === "string" ? { how: "entered", text: line } : line;
    },
    [Symbol.dispose]: () => void script.splice(0),
  };
  return { lines, prompts };
}

async function run(
  script: (string | Line)[],
  { system, isScript = false }: { system?: string; isScript?: boolean } = {},
) {
  const { model, asked } = chatModel();
  const conversation = new Conversation(model, { maxTokens: 9 }, system);
  const { lines, prompts } = linesOf(...script);
  const { output, stdout, stderr } = keptOutput();
  await new ChatSession(conversation, lines, output, isScript).run();
  return { asked, prompts, stdout: stdout.text, stderr: stderr.text, messages: conversation.messages };
}

const question = (content: string): ChatMessage => ({ role: "user", content });
const answer = (content: string): ChatMessage => ({ role: "assistant", content });

describe("a chat", () => {
  test("keeps its history", async () => {
    const { asked, stdout, messages } = await run(["hello", "again"], { system: "be brief", isScript: true });
    const system = { role: "system", content: "be brief" };
    expect(asked[0]).toEqual([system, question("hello")]);
    expect(asked[1]).toEqual([system, question("hello"), answer("I was told 2"), question("again")]);
    expect(messages).toEqual([...(asked[1] ?? []), answer("I was told 4")]);
    expect(stdout).toBe("I was told 2\nI was told 4\n");
  });

  test("takes lines that end with a backslash together", async () => {
    const { asked, prompts } = await run(["one\\", "two\\", "three", "\\"]);
    expect(asked[0]).toEqual([question("one\ntwo\nthree")]);
    expect(prompts.slice(0, 5)).toEqual(["> ", "... ", "... ", "> ", "... "]);
  });

  test("passes over empty lines", async () => {
    const { asked } = await run(["", "  ", "hello"]);
    expect(asked).toHaveLength(1);
  });

  test("forgets at /clear, ends at /exit, and explains the rest", async () => {
    const { asked, stderr } = await run(["hello", "/clear", "again", "/what", "/exit", "never"], { system: "s" });
    expect(asked.map((messages) => messages.length)).toEqual([2, 2]);
    expect(stderr).toContain("There is no /what.\n/clear");
  });

  test("leaves at Ctrl-C where nothing is typed, and otherwise only drops what is", async () => {
    const cancelled = (text: string): Line => ({ how: "cancelled", text });
    const { asked, prompts } = await run([cancelled("half"), "one\\", cancelled(""), "two", cancelled(""), "never"]);
    expect(asked).toEqual([[question("two")]]);
    expect(prompts).toEqual(["> ", "> ", "... ", "> ", "> "]);
  });

  test("drops a question that was refused or got no answer", async () => {
    const { asked, stderr, messages } = await run(["refuse", "nothing", "hello"]);
    expect(stderr).toContain("strata: the prompt is too long (/clear forgets what was said)\n");
    expect(asked.at(-1)).toEqual([question("hello")]);
    expect(messages).toEqual([question("hello"), answer("I was told 1")]);
  });

  test("ends at an error that nobody can do something about, and in a script at any", async () => {
    await expect(run(["break"])).rejects.toThrow("it broke");
    await expect(run(["refuse"], { isScript: true })).rejects.toThrow("the prompt is too long");
  });

  test("keeps what was said when Ctrl-C stops an answer", async () => {
    const { lines } = linesOf("hello", "again");
    const { output, stdout } = keptOutput();
    const asked: (readonly ChatMessage[])[] = [];
    const model: ChatModel = {
      loadMs: 0,
      async *chatEvents(messages, options) {
        asked.push(messages);
        for await (const event of eventsOf([1], ["first", " second", " third"], options)) {
          yield event;
          if (event.type === "token" && event.text === " second" && asked.length === 1) lines.onInterrupt();
        }
      },
    };
    await new ChatSession(new Conversation(model, {}), lines, output, true).run();
    expect(asked[1]).toEqual([question("hello"), answer("first second"), question("again")]);
    expect(stdout.text).toBe("first second\nfirst second third\n");
  });
});
