import { createInterface, type Interface } from "node:readline";
import { Writable } from "node:stream";

/** What came of asking for a line: the line, Ctrl-C in the middle of `text`, or that there is none any more. */
export interface Line {
  readonly how: "entered" | "cancelled" | "ended";
  readonly text: string;
}

/** Where a chat's lines come from. */
export interface LineSource extends Disposable {
  /** The next line, asked for with a prompt where a person types it. */
  next(prompt: string): Promise<Line>;
  /** Called for a Ctrl-C that comes while no line is asked for. */
  onInterrupt: () => void;
}

/** Lines of a stream that is no terminal, without prompts. */
export class StreamLines implements LineSource {
  onInterrupt: () => void = () => {};
  private readonly lines: AsyncIterator<string>;
  private readonly reader: Interface;

  constructor(input: NodeJS.ReadableStream) {
    this.reader = createInterface({ input, crlfDelay: Infinity });
    this.lines = this.reader[Symbol.asyncIterator]();
  }

  async next(): Promise<Line> {
    const { value, done } = await this.lines.next();
    return done === true ? { how: "ended", text: "" } : { how: "entered", text: value };
  }

  [Symbol.dispose](): void {
    this.reader.close();
  }
}

/**
 * Lines that a person types, with editing and history. What is typed while nobody asks is kept and shown with the next
 * prompt.
 */
export class TerminalLines implements LineSource {
  onInterrupt: () => void = () => {};
  private readonly reader: Interface;
  /** What was typed before it was asked for. */
  private readonly early: string[] = [];
  private answer: ((line: Line) => void) | undefined;
  private isClosed = false;

  constructor(
    input: NodeJS.ReadStream,
    private readonly terminal: NodeJS.WriteStream,
  ) {
    this.reader = createInterface({ input, output: this.screen(), terminal: true, historySize: 1000 });
    this.reader.on("line", (text) => {
      if (this.answer === undefined) this.early.push(text);
      else this.give({ how: "entered", text });
    });
    this.reader.on("SIGINT", () => this.interrupt());
    this.reader.on("close", () => {
      this.isClosed = true;
      this.give({ how: "ended", text: "" });
    });
  }

  next(prompt: string): Promise<Line> {
    const text = this.early.shift();
    if (text !== undefined) {
      this.terminal.write(`${prompt}${text}\n`);
      return Promise.resolve({ how: "entered", text });
    }
    return new Promise((resolve) => {
      this.answer = resolve;
      if (this.isClosed) return this.give({ how: "ended", text: "" });
      this.reader.setPrompt(prompt);
      this.reader.prompt(true);
    });
  }

  [Symbol.dispose](): void {
    this.reader.close();
  }

  private give(line: Line): void {
    const { answer } = this;
    this.answer = undefined;
    answer?.(line);
  }

  private interrupt(): void {
    if (this.answer === undefined) return this.onInterrupt();
    const text = this.reader.line;
    // To the end of the line, then erase all of it: the next prompt begins empty.
    this.reader.write(null, { ctrl: true, name: "e" });
    this.terminal.write("^C\n");
    this.give({ how: "cancelled", text });
    this.reader.write(null, { ctrl: true, name: "u" });
  }

  /** The terminal, which shows what is typed only while a line is asked for. */
  private screen(): Writable {
    const { terminal } = this;
    const screen = new Writable({
      write: (chunk: Uint8Array, _encoding, done) => {
        if (this.answer !== undefined) terminal.write(chunk);
        done();
      },
    });
    return Object.defineProperties(screen, {
      columns: { get: () => terminal.columns },
      isTTY: { value: true },
    });
  }
}
