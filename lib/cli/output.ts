import { styleText } from "node:util";

/** Whoever read the output has stopped reading: the command has nothing left to do. */
export class OutputClosed extends Error {
  override readonly name = "OutputClosed";
}

/** What the command writes to; `process.stdout` and `process.stderr` are such streams. */
export interface OutputStream {
  readonly isTTY?: boolean;
  write(text: string, done: (error?: Error | null) => void): unknown;
  on(event: "error", listener: (error: Error) => void): unknown;
}

/**
 * The command's two streams: what was asked for goes to stdout, the rest to stderr. With `json`, stdout carries one
 * JSON document and nothing else.
 */
export class Output {
  json = false;
  private pending: Promise<void> = Promise.resolve();

  constructor(
    private readonly stdout: OutputStream,
    private readonly stderr: OutputStream,
  ) {
    // Each write's own callback gets the error; without a listener the stream would throw it once more.
    stdout.on("error", () => {});
    stderr.on("error", () => {});
  }

  /** Whether a person watches stderr. */
  get isWatched(): boolean {
    return this.stderr.isTTY === true;
  }

  /**
   * Writes what was asked for, as text: to stdout, or where that carries JSON to stderr. Resolves when the stream has
   * taken it.
   * @throws OutputClosed where nobody reads any more
   */
  write(text: string): Promise<void> {
    return this.json ? this.note(text, "") : send(this.stdout, text);
  }

  /**
   * Writes the one JSON document.
   * @throws OutputClosed where nobody reads any more
   */
  document(value: unknown): Promise<void> {
    const indent = this.stdout.isTTY === true ? 2 : undefined;
    return send(this.stdout, `${JSON.stringify(value, undefined, indent)}\n`);
  }

  /** Writes a remark to stderr. Where that cannot be written there is no other place to say so, and it is no failure. */
  note(text: string, end = "\n"): Promise<void> {
    const sent = send(this.stderr, text + end).catch(() => undefined);
    this.pending = this.pending.then(() => sent);
    return sent;
  }

  /** Resolves when all remarks are written. */
  flush(): Promise<void> {
    return this.pending;
  }

  /** The text less prominent, where stderr shows colours. */
  dim(text: string): string {
    return this.isWatched && (process.env["NO_COLOR"] ?? "") === "" ? styleText("dim", text) : text;
  }
}

function send(stream: OutputStream, text: string): Promise<void> {
  return new Promise((resolve, reject) => {
    stream.write(text, (error) => {
      if (error === undefined || error === null) return resolve();
      const code = "code" in error ? error.code : undefined;
      const isClosed = code === "EPIPE" || code === "ERR_STREAM_DESTROYED";
      reject(isClosed ? new OutputClosed("the output was closed", { cause: error }) : error);
    });
  });
}

const redraw_ms = 100;
const silence_ms = 1000;
const repeat_ms = 5000;

/**
 * How far something is, on stderr: one line that is redrawn and in the end erased where a person watches, and otherwise
 * a line now and then for what takes longer than a second.
 */
export class Progress implements Disposable {
  private readonly start_ms: number;
  private shown_ms = -Infinity;
  private isShown = false;

  /** @param now the time in milliseconds */
  constructor(
    private readonly output: Output,
    private readonly now = (): number => performance.now(),
  ) {
    this.start_ms = now();
  }

  update(text: string): void {
    const now = this.now();
    const isWatched = this.output.isWatched;
    if (now - this.shown_ms < (isWatched ? redraw_ms : repeat_ms)) return;
    if (now - this.start_ms < (isWatched ? redraw_ms : silence_ms)) return;
    this.shown_ms = now;
    this.isShown = true;
    void this.output.note(isWatched ? `\r\x1b[K${text}` : text, isWatched ? "" : "\n");
  }

  /** Erases the line, before something else is written. */
  clear(): void {
    if (this.isShown && this.output.isWatched) void this.output.note("\r\x1b[K", "");
    this.isShown = false;
  }

  [Symbol.dispose](): void {
    this.clear();
  }
}
