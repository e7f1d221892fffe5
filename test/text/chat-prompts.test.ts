import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { MetadataValue } from "../../lib/gguf/metadata.ts";
import {
  createChatTemplate,
  createTokenizer,
  type ChatMessage,
  type ChatTemplate,
  type Tokenizer,
} from "../../lib/text/index.ts";
import { llamaFiles } from "./llama-files.ts";
import { metadataOf } from "./metadata.ts";
import { modelFiles, openText } from "./models.ts";

// The chat templates of released models of our families, as llama.cpp keeps them, give the prompts that Python's Jinja
// gives. How those were rendered is said in the file that holds them.

interface Chat {
  readonly messages: readonly ChatMessage[];
  readonly tools: readonly unknown[] | null;
  readonly addGenerationPrompt: boolean;
}

const golden = JSON.parse(readFileSync(join(import.meta.dir, "chat-prompts.json"), "utf8")) as {
  chats: Record<string, Chat>;
  /** Of each template and chat the prompt, or null where the template refuses the chat. */
  prompts: Record<string, Record<string, string | null>>;
};
const folder = await llamaFiles();

/** A tokenizer that has every mark which the template writes. */
function open(source: string): { template: ChatTemplate; tokenizer: Tokenizer } {
  const { metadata } = openText(modelFiles.fixture);
  const texts = metadata.strings("tokenizer.ggml.tokens");
  const marks = new Set(source.match(/<\|?[\w/-]+\|?>|\[\/?[A-Z_]+\]/g)).difference(new Set(texts));
  const values = new Map<string, MetadataValue>();
  for (const key of metadata.keys) values.set(key, metadata.get(key) as MetadataValue);
  values.set("tokenizer.ggml.tokens", [...texts, ...marks]);
  values.set(
    "tokenizer.ggml.token_type",
    // Marks such as <think> and <tool_call> are no control tokens in most files.
    Int32Array.of(...Array.from(metadata.numbers("tokenizer.ggml.token_type")), ...Array.from(marks, typeOf)),
  );
  values.set("tokenizer.chat_template", source);
  const extended = metadataOf("chat.gguf", values);
  const tokenizer = createTokenizer(extended);
  return { template: createChatTemplate(extended, tokenizer), tokenizer };
}

function typeOf(mark: string): number {
  return /think|tool/.test(mark) ? 4 : 3;
}

function render(template: ChatTemplate, { messages, tools, addGenerationPrompt }: Chat): string {
  const extra = { strftime_now: () => "2026-01-02" };
  const parts = template.apply(messages, { ...(tools === null ? {} : { tools }), addGenerationPrompt, extra });
  return parts.map(({ text }) => text).join("");
}

describe.each(Object.entries(golden.prompts))("the template %s", (name, prompts) => {
  const { template, tokenizer } = open(readFileSync(join(folder, "templates", `${name}.jinja`), "utf8"));

  test.each(Object.entries(prompts))("says of the chat %s what Python's Jinja says", (chat, prompt) => {
    const given = golden.chats[chat] as Chat;
    if (prompt === null) {
      expect(() => render(template, given)).toThrow(/the chat template refuses the messages/);
      return;
    }
    expect(render(template, given)).toBe(prompt);
  });

  test("makes the tokens of the whole prompt", () => {
    const prompt = golden.prompts[name]?.["one"] as string;
    const tokens = template.tokenize(golden.chats["one"]?.messages ?? [], {
      extra: { strftime_now: () => "2026-01-02" },
    });
    expect(tokens).toEqual(tokenizer.encode(prompt, { special: true, bos: false }));
  });
});

test("a file that names RWKV's template has it", () => {
  const chat = golden.chats["system"] as Chat;
  const prompt = render(open("rwkv-world").template, chat);
  // The named one writes no BOS, and is trimmed alike for each role.
  const written = golden.prompts["llama-cpp-rwkv-world"]?.["system"] ?? "";
  expect(prompt).toBe(written.replace("<s>", "").replace(" Be brief. ", "Be brief."));
  expect(prompt.endsWith("\n\nAssistant:")).toBeTrue();
});
