import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Gguf } from "../model/gguf.ts";
import { strata, strataCommand, tinyHybrid } from "./strata.ts";

const template =
  "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}";
let folder = "";
let chatModel = "";

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "strata-chat-"));
  chatModel = join(folder, "chat.gguf");
  await writeFile(chatModel, Gguf.read(tinyHybrid).setString("tokenizer.chat_template", template).write());
});
afterAll(() => rm(folder, { recursive: true }));

/** The command in a terminal of its own: a person that types and reads. */
class Person implements AsyncDisposable {
  private shown = "";
  private read = 0;
  private readonly child: Bun.Subprocess;

  constructor(args: readonly string[]) {
    this.child = Bun.spawn([...strataCommand, ...args], {
      terminal: {
        cols: 100,
        rows: 30,
        data: (_, bytes) => void (this.shown += new TextDecoder().decode(bytes)),
      },
    });
  }

  /** Waits for a text that was not there before, and gives what came up to its end. */
  async see(expected: string | RegExp): Promise<string> {
    const end_ms = performance.now() + 30_000;
    for (;;) {
      const fresh = this.shown.slice(this.read);
      const index = typeof expected === "string" ? fresh.indexOf(expected) : fresh.search(expected);
      if (index >= 0) {
        const length = typeof expected === "string" ? expected.length : (expected.exec(fresh)?.[0].length ?? 0);
        this.read += index + length;
        return fresh.slice(0, index + length);
      }
      if (performance.now() > end_ms) throw new Error(`no ${expected} in ${JSON.stringify(fresh)}`);
      await Bun.sleep(5);
    }
  }

  type(keys: string): void {
    this.child.terminal?.write(keys);
  }

  exitCode(): Promise<number> {
    return this.child.exited;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.child.kill("SIGKILL");
    await this.child.exited;
  }
}

const ctrlC = "\x03";
const ctrlD = "\x04";

describe("Ctrl-C", () => {
  const long = ["generate", "-m", tinyHybrid, "-p", "The old king was", "--ignore-end", "--seed", "1", "-n", "4000"];

  test("ends a generation, and what was written stays", async () => {
    await using person = new Person(long);
    const text = await person.see(/\w+ \w+ \w+/);
    person.type(ctrlC);
    await person.see("ended by cancelled, seed 1");
    expect(await person.exitCode()).toBe(130);
    expect(text.length).toBeGreaterThan(5);
  });

  test("gives the JSON of what there is", async () => {
    const env = { ...process.env, STRATA_TRACE: "1" };
    const child = Bun.spawn([...strataCommand, ...long, "--json"], { stdout: "pipe", stderr: "pipe", env });
    const output = child.stdout.text();
    let said = "";
    for await (const piece of child.stderr) {
      const hadBegun = said.includes("strata_engine_submit");
      said += new TextDecoder().decode(piece);
      // Once: a second signal would not let it write anything.
      if (!hadBegun && said.includes("strata_engine_submit")) child.kill("SIGINT");
    }
    expect(await child.exited).toBe(130);
    const { finishReason, tokens, text } = JSON.parse(await output);
    expect(finishReason).toBe("cancelled");
    expect(tokens.length).toBeLessThan(4000);
    expect(text === "").toBe(tokens.length === 0);
  });

  test("leaves no half of a file behind", async () => {
    const tokens = Array.from({ length: 4000 }, (_, index) => index).join(",");
    const out = join(folder, "stopped.f32");
    const args = ["logits", "-m", tinyHybrid, "--tokens", tokens, "--chunk", "1", "--out", out];
    const child = Bun.spawn([...strataCommand, ...args], { stderr: "pipe" });
    const part = `${out}.${child.pid}.part`;
    while (!(await Bun.file(part).exists()) && child.exitCode === null) await Bun.sleep(5);
    child.kill("SIGTERM");
    expect(await child.exited).toBe(143);
    expect([await Bun.file(out).exists(), await Bun.file(part).exists()]).toEqual([false, false]);
  });
});

describe("a chat in a terminal", () => {
  const args = (): string[] => ["chat", "-m", chatModel, "--seed", "1"];

  test("answers, stops an answer at Ctrl-C, and leaves at the next one", async () => {
    await using person = new Person(args());
    await person.see("> ");
    person.type("Who are you?\r");
    await person.see("you?");
    await person.see(/\w+ \w+ \w+/);
    person.type(ctrlC);
    await person.see("ended by cancelled");
    await person.see("> ");
    person.type("half a line");
    await person.see("half a line");
    person.type(ctrlC);
    await person.see("^C");
    await person.see("> ");
    person.type(ctrlC);
    expect(await person.exitCode()).toBe(0);
  });

  test("takes several lines, commands, and what is typed ahead", async () => {
    await using person = new Person([...args(), "-n", "8"]);
    await person.see("> ");
    person.type("one \\\r");
    await person.see("... ");
    person.type("two\rthree\r");
    await person.see("ended by length");
    const between = await person.see("ended by length");
    expect(between).toContain("> three");
    person.type("/clear\r");
    await person.see("Forgotten.");
    person.type(ctrlD);
    expect(await person.exitCode()).toBe(0);
  });
});

describe("a chat with a script", () => {
  test("answers each line from what was said before", async () => {
    const args = ["chat", "-m", chatModel, "-n", "6", "--temp", "0", "--system", "Be kind."];
    const input = "Hello.\nand \\\nyou?\n";
    const said = await strata(args, input);
    expect(said.code).toBe(0);
    const json = await strata([...args, "--json"], input);
    expect(json.code).toBe(0);
    const { messages } = JSON.parse(json.stdout) as { messages: { role: string; content: string }[] };
    expect(messages.map(({ role }) => role)).toEqual(["system", "user", "assistant", "user", "assistant"]);
    expect(messages[3]?.content).toBe("and \nyou?");
    const answers = messages.filter(({ role }) => role === "assistant").map(({ content }) => content);
    expect(said.stdout).toBe(answers.map((answer) => `${answer}\n`).join(""));
    const prompt = `system: Be kind.\nuser: Hello.\nassistant:`;
    const plain = await strata(["generate", "-m", chatModel, "-n", "6", "--temp", "0", "-p", prompt]);
    expect(plain.stdout).toBe(`${answers[0]}\n`);
  });
});

describe("serve", () => {
  test("answers until it is told to end, and finishes what runs", async () => {
    const child = Bun.spawn([...strataCommand, "serve", "-m", tinyHybrid, "--port", "0", "--parallel", "2", "--json"], {
      stdout: "pipe",
      stderr: "pipe",
    });
    const [first] = await Array.fromAsync(firstOf(child.stdout));
    const { url } = JSON.parse(first ?? "") as { url: string };
    while ((await fetch(`${url}/ready`)).status !== 200) await Bun.sleep(10);
    const body = JSON.stringify({ prompt: "The old king was", max_tokens: 200, seed: 1, stream: true });
    const headers = { "content-type": "application/json" };
    const response = await fetch(`${url}/v1/completions`, { method: "POST", body, headers });
    expect(response.status).toBe(200);
    child.kill("SIGTERM");
    expect(await response.text()).toEndWith("data: [DONE]\n\n");
    expect(await child.exited).toBe(0);
    expect(await child.stderr.text()).toContain("strata: ending; what runs is finished first\n");
  });

  test("ends with the reason where the model cannot be loaded", async () => {
    const { code, stdout, stderr } = await strata(["serve", "-m", "no-such.gguf", "--port", "0"]);
    expect([code, stdout]).toEqual([1, ""]);
    expect(stderr).toContain("no-such.gguf: there is no such file\n");
  });
});

/** The first piece of a stream. */
async function* firstOf(stream: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  for await (const piece of stream) {
    yield new TextDecoder().decode(piece);
    return;
  }
}
