import { openModelFile, StrataError } from "../index.ts";
import { defineCommand } from "./command.ts";
import { Conversation } from "./conversation.ts";
import { figures } from "./generate.ts";
import { interruptible } from "./interrupt.ts";
import { StreamLines, TerminalLines, type LineSource } from "./line-source.ts";
import { openModel } from "./open.ts";
import {
  contextOption,
  kvOption,
  limitOption,
  modelOption,
  name,
  repeated,
  samplingOptions,
  threadsOption,
  toSampling,
} from "./options.ts";
import { Progress, type Output } from "./output.ts";

const commandHelp = `/clear  forget what was said
/exit   leave, as Ctrl-D does
/help   show this
A line that ends with \\ goes on in the next. Ctrl-C stops an answer, and leaves where nothing is typed.`;

/** A chat between lines that are typed and a model. */
export class ChatSession {
  private answering: AbortController | undefined;
  private isLeft = false;

  /** @param isScript whether no person is there: an error then ends the chat */
  constructor(
    private readonly conversation: Conversation,
    private readonly lines: LineSource,
    private readonly output: Output,
    private readonly isScript: boolean,
  ) {
    lines.onInterrupt = () => this.answering?.abort();
  }

  /** Ends the chat, and the answer that is being given. */
  leave(): void {
    this.isLeft = true;
    this.answering?.abort();
    this.lines[Symbol.dispose]();
  }

  /** Goes on until the lines end or the person leaves. */
  async run(): Promise<void> {
    while (!this.isLeft) {
      const message = await this.nextMessage();
      if (message === undefined) break;
      if (/^\/[a-z]+\s*$/i.test(message)) await this.obey(message.trim().toLowerCase());
      else if (message.trim() !== "") await this.answer(message);
    }
    if (!this.isScript) await this.output.note("");
  }

  /** A line, and those after it as long as they end with a backslash; undefined where there is none any more. */
  private async nextMessage(): Promise<string | undefined> {
    let message = "";
    while (!this.isLeft) {
      const { how, text } = await this.lines.next(message === "" ? "> " : "... ");
      const isEmpty = message + text === "";
      if (how === "ended" || (how === "cancelled" && isEmpty)) return isEmpty ? undefined : message;
      if (how === "cancelled") message = "";
      else if (text.endsWith("\\")) message += `${text.slice(0, -1)}\n`;
      else return message + text;
    }
    return undefined;
  }

  private async obey(command: string): Promise<void> {
    if (command === "/exit" || command === "/quit") return this.leave();
    if (command === "/clear") {
      this.conversation.clear();
      return this.output.note(this.output.dim("Forgotten."));
    }
    const unknown = command === "/help" ? "" : `There is no ${command}.\n`;
    await this.output.note(this.output.dim(unknown + commandHelp));
  }

  private async answer(question: string): Promise<void> {
    const answering = new AbortController();
    this.answering = answering;
    try {
      await this.follow(question, answering.signal);
    } catch (error) {
      const isRefused = error instanceof StrataError && error.code === "invalid_argument";
      if (this.isScript || !isRefused) throw error;
      await this.output.note(`strata: ${error.message} (/clear forgets what was said)`);
    } finally {
      this.answering = undefined;
    }
  }

  private async follow(question: string, signal: AbortSignal): Promise<void> {
    const { output } = this;
    using progress = new Progress(output);
    const answer = await this.conversation.ask(question, signal, {
      onPrefill: (done, total) => {
        if (done < total) progress.update(`Reading: ${done} of ${total} tokens`);
      },
      onText: async (text) => {
        progress.clear();
        await output.write(text);
      },
    });
    if (!answer.text.endsWith("\n")) await output.write("\n");
    if (this.isScript) return;
    const isCut = answer.finishReason === "length" ? "; the limit cut it, /clear makes room" : "";
    await output.note(output.dim(`${figures(answer)}${isCut}\n`));
  }
}

/** Refuses a file without a template before its weights are read. */
function checkTemplate(path: string): void {
  using file = openModelFile(path);
  if (file.metadata.has("tokenizer.chat_template")) return;
  throw new StrataError(
    "unsupported",
    `${path}: the file has no chat template (tokenizer.chat_template), so there is no telling how to chat with it; ` +
      "continue plain text with `strata generate`",
  );
}

export const chat = defineCommand({
  name: "chat",
  summary: "Talk with a model in the terminal, by the file's own chat template.",
  usage: "-m FILE [--system TEXT] [options]",
  options: {
    ...modelOption,
    system: name("TEXT", "what the model is told before the chat"),
    ...limitOption,
    ...samplingOptions,
    stop: repeated("TEXT", "end an answer before this text; may be repeated"),
    ...contextOption,
    ...kvOption,
    ...threadsOption,
  },
  notes: `
In the chat:
${commandHelp.replaceAll(/^/gm, "  ")}
Where standard input is no terminal, each of its lines is a message, and the answers go to stdout.
JSON, when the chat is over: {"messages": [{"role", "content"}]}`,
  async run({ values, output }) {
    checkTemplate(values.model);
    const loading = { context: values.ctx, kv: values.kv, threads: values.threads };
    const isScript = !process.stdin.isTTY || output.json;
    return await interruptible(async (signal) => {
      await using model = await openModel(values, loading, output, signal);
      const options = { ...toSampling(values), maxTokens: values["max-tokens"], stop: values.stop };
      const conversation = new Conversation(model, options, values.system);
      using lines = isScript ? new StreamLines(process.stdin) : new TerminalLines(process.stdin, process.stderr);
      const session = new ChatSession(conversation, lines, output, isScript);
      if (!isScript) await output.note(output.dim(`${model.architecture}, ${model.contextLength} positions; /help\n`));
      signal.addEventListener("abort", () => session.leave(), { once: true });
      await session.run();
      if (output.json) await output.document({ messages: conversation.messages });
    });
  },
});
