import { createInterface } from "node:readline";
import { Readable } from "node:stream";

export interface PeerVocabulary {
  readonly bos: number | null;
  readonly eos: number | null;
  readonly eot: number | null;
  readonly addBos: boolean;
  readonly addEos: boolean;
}

export interface PeerAttributes {
  /** libllama's attribute bits of each token. */
  readonly bits: readonly number[];
  /** Ids that end a generation. */
  readonly ends: readonly number[];
}

/** How a context of the peer is made. Keys and values are f16 unless given. */
export interface PeerContext {
  readonly threads?: number;
  readonly flashAttention?: boolean;
  readonly kvType?: "f16" | "f32";
}

/** One position of a greedy continuation: the token taken there, and the most probable ones. */
export interface PeerStep {
  readonly token: number;
  readonly top: readonly { readonly token: number; readonly probability: number }[];
}

export interface PeerSpeed {
  readonly prefillTokensPerSecond: number;
  readonly decodeTokensPerSecond: number;
}

interface Answer {
  readonly id: number;
  readonly result?: unknown;
  readonly error?: string;
}

/**
 * libllama in a process of its own, through node-llama-cpp under Node. It loads a model when first asked about it and
 * keeps it. Use with `await using`.
 */
export class Peer implements AsyncDisposable {
  private readonly process: Bun.Subprocess<"pipe", "pipe", "pipe">;
  private readonly waiting = new Map<number, PromiseWithResolvers<unknown>>();
  private readonly errors: Promise<string>;
  private nextId = 0;

  constructor() {
    this.process = Bun.spawn(["node", new URL("llama.mjs", import.meta.url).pathname], {
      stdin: "pipe",
      stdout: "pipe",
      stderr: "pipe",
    });
    this.errors = new Response(this.process.stderr).text();
    void this.readAnswers();
  }

  /** The CPU features that the peer's library uses. */
  version(): Promise<{ readonly systemInfo: string }> {
    return this.ask("version", {});
  }

  vocabulary(model: string): Promise<PeerVocabulary> {
    return this.ask("vocabulary", { model });
  }

  attributes(model: string, count: number): Promise<PeerAttributes> {
    return this.ask("attributes", { model, count });
  }

  /** Tokens of each line, without BOS or EOS. `special`: whether special tokens' text is parsed. */
  tokenize(model: string, lines: readonly string[], special: boolean): Promise<number[][]> {
    return this.ask("tokenize", { model, lines, special });
  }

  /** Text of each list of tokens. `special`: whether control tokens are written out. */
  detokenize(model: string, ids: readonly (readonly number[])[], special: boolean): Promise<string[]> {
    return this.ask("detokenize", { model, ids, special });
  }

  /** For each prompt, `count` greedy steps, each with the `top` most probable tokens (2 unless given). */
  greedy(
    request: PeerContext & {
      readonly model: string;
      readonly prompts: readonly (readonly number[])[];
      readonly count: number;
      readonly top?: number;
    },
  ): Promise<PeerStep[][]> {
    return this.ask("greedy", request);
  }

  /** Natural logarithms of the probabilities of tokens `from + 1` on, each given all before it, in one batch. */
  logProbabilities(
    request: PeerContext & { readonly model: string; readonly tokens: readonly number[]; readonly from: number },
  ): Promise<number[]> {
    return this.ask("logProbabilities", request);
  }

  /** Speeds, one sample a repetition, each from an empty memory. */
  bench(
    request: PeerContext & {
      readonly model: string;
      readonly promptTokens: number;
      readonly generateTokens: number;
      readonly reps: number;
    },
  ): Promise<PeerSpeed[]> {
    return this.ask("bench", request);
  }

  /** Frees a model that the peer keeps. */
  unload(model: string): Promise<null> {
    return this.ask("unload", { model });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.process.stdin.end();
    await this.process.exited;
  }

  private async ask<Result>(op: string, request: object): Promise<Result> {
    const id = this.nextId;
    this.nextId += 1;
    const answer = Promise.withResolvers<unknown>();
    this.waiting.set(id, answer);
    void this.process.stdin.write(`${JSON.stringify({ id, op, ...request })}\n`);
    void this.process.stdin.flush();
    return (await answer.promise) as Result;
  }

  private async readAnswers(): Promise<void> {
    const lines = createInterface({ input: Readable.fromWeb(this.process.stdout as never) });
    for await (const line of lines) this.settle(line);
    const code = await this.process.exited;
    const reason = new Error(`the peer ended with code ${code}: ${(await this.errors).slice(-2000)}`);
    for (const answer of this.waiting.values()) answer.reject(reason);
    this.waiting.clear();
  }

  private settle(line: string): void {
    if (!line.startsWith("{")) return;
    const answer = JSON.parse(line) as Answer;
    const waiting = this.waiting.get(answer.id);
    this.waiting.delete(answer.id);
    if (answer.error === undefined) waiting?.resolve(answer.result);
    else waiting?.reject(new Error(`libllama: ${answer.error}`));
  }
}
