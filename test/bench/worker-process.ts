import { createInterface } from "node:readline";
import { Readable } from "node:stream";
import type { ReadableStream as NodeReadableStream } from "node:stream/web";
import { fileURLToPath } from "node:url";

export interface WorkerOptions {
  readonly model: string;
  readonly context?: number;
  readonly threads?: number;
}

export type WorkerRequest =
  | { readonly op: "generate"; readonly promptTokens: number; readonly generateTokens: number }
  | { readonly op: "memory" };

export interface WorkerAnswers {
  generate: { readonly prefillTokensPerSecond: number; readonly decodeTokensPerSecond: number };
  memory: {
    /** The most that the process has had in use so far. */
    readonly peakBytes: number;
    readonly fileBytes: number;
    /** What the model's memories take, planned and allocated. */
    readonly memoryBytes: number;
    /** What its graphs' intermediate results take. */
    readonly computeBytes: number;
  };
}

/** A model that Strata has loaded in a fresh process. Use with `await using`. */
export class WorkerProcess implements AsyncDisposable {
  private readonly process: Bun.Subprocess<"pipe", "pipe", "pipe">;
  private readonly lines: AsyncIterator<string>;
  private readonly errors: Promise<string>;

  private constructor(options: WorkerOptions) {
    const command = [process.execPath, fileURLToPath(new URL("worker.ts", import.meta.url)), JSON.stringify(options)];
    this.process = Bun.spawn(command, { stdin: "pipe", stdout: "pipe", stderr: "pipe" });
    this.errors = new Response(this.process.stderr).text();
    const output = Readable.fromWeb(this.process.stdout as NodeReadableStream<Uint8Array>);
    this.lines = createInterface({ input: output })[Symbol.asyncIterator]();
  }

  /** Resolves when the model is loaded. */
  static async start(options: WorkerOptions): Promise<WorkerProcess> {
    const worker = new WorkerProcess(options);
    await worker.read();
    return worker;
  }

  /** Reads a prompt and generates, from an empty memory. */
  async generate(promptTokens: number, generateTokens: number): Promise<WorkerAnswers["generate"]> {
    return (await this.ask({ op: "generate", promptTokens, generateTokens })) as WorkerAnswers["generate"];
  }

  async memory(): Promise<WorkerAnswers["memory"]> {
    return (await this.ask({ op: "memory" })) as WorkerAnswers["memory"];
  }

  /** Stops the process, with whatever its threads poll for. */
  pause(): void {
    this.process.kill("SIGSTOP");
  }

  resume(): void {
    this.process.kill("SIGCONT");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.resume();
    await this.process.stdin.end();
    await this.process.exited;
  }

  private async ask(request: WorkerRequest): Promise<unknown> {
    this.process.stdin.write(`${JSON.stringify(request)}\n`);
    await this.process.stdin.flush();
    return this.read();
  }

  private async read(): Promise<unknown> {
    const { value, done } = await this.lines.next();
    if (done !== true) return JSON.parse(value);
    const code = await this.process.exited;
    throw new Error(`Strata's process ended with code ${code}: ${(await this.errors).slice(-2000)}`);
  }
}
