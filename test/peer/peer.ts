import { createInterface } from "node:readline";
import { Readable } from "node:stream";
import type { ReadableStream as NodeReadableStream } from "node:stream/web";
import { fileURLToPath } from "node:url";
import type { KvType } from "ggstrata";

/** Ids are null where the file has no such token. */
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

/** How a context of the peer is made: libllama's own choice of what is not given, but f16 for keys and values. */
export interface PeerContext {
  readonly threads?: number;
  readonly flashAttention?: boolean;
  readonly kvType?: KvType;
}

/** One position of a greedy continuation: the token taken there, and the most probable ones, the best first. */
export interface PeerStep {
  readonly token: number;
  readonly top: readonly { readonly token: number; readonly probability: number }[];
}

export interface PeerSpeed {
  readonly prefillTokensPerSecond: number;
  readonly decodeTokensPerSecond: number;
}

export interface GreedyRequest extends PeerContext {
  readonly model: string;
  /** Token ids, at least one each. */
  readonly prompts: readonly (readonly number[])[];
  readonly count: number;
  /** How many of the most probable tokens to tell: 2. */
  readonly top?: number;
}

export interface LogProbabilitiesRequest extends PeerContext {
  readonly model: string;
  readonly tokens: readonly number[];
  readonly from: number;
}

export interface LogitsRequest extends PeerContext {
  readonly model: string;
  readonly tokens: readonly number[];
  /** How many of them are fed at once; the others follow one by one. */
  readonly prompt: number;
}

export interface BenchRequest extends PeerContext {
  readonly model: string;
  readonly promptTokens: number;
  readonly generateTokens: number;
  readonly reps: number;
}

/** What the peer's process understands. */
export interface PeerOperations {
  version: { request: object; result: { readonly systemInfo: string } };
  vocabulary: { request: { model: string }; result: PeerVocabulary };
  attributes: { request: { model: string; count: number }; result: PeerAttributes };
  tokenize: { request: { model: string; lines: readonly string[]; special: boolean }; result: number[][] };
  detokenize: {
    request: { model: string; ids: readonly (readonly number[])[]; special: boolean };
    result: string[];
  };
  greedy: { request: GreedyRequest; result: PeerStep[][] };
  logProbabilities: { request: LogProbabilitiesRequest; result: number[] };
  logits: { request: LogitsRequest; result: number[][] };
  bench: { request: BenchRequest; result: PeerSpeed[] };
  unload: { request: { model: string }; result: null };
}

interface Answer {
  readonly id: number;
  readonly result?: unknown;
  readonly error?: string;
}

/**
 * libllama in a process of its own, through node-llama-cpp under Node. It loads a model when first asked about it and
 * keeps it, of a model that it only tokenizes for, the vocabulary alone. Use with `await using`.
 */
export class Peer implements AsyncDisposable {
  private readonly process: Bun.Subprocess<"pipe", "pipe", "pipe">;
  private readonly waiting = new Map<number, PromiseWithResolvers<unknown>>();
  private readonly errors: Promise<string>;
  private readonly answers: Promise<void>;
  private nextId = 0;
  /** Why the process has ended, once it has. */
  private ended: Error | undefined;

  constructor() {
    this.process = Bun.spawn(["node", fileURLToPath(new URL("llama.mjs", import.meta.url))], {
      stdin: "pipe",
      stdout: "pipe",
      stderr: "pipe",
    });
    this.errors = new Response(this.process.stderr).text();
    this.answers = this.readAnswers();
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

  /** For each prompt, `count` greedy steps. Tokens that end a generation are steps like any other. */
  greedy(request: GreedyRequest): Promise<PeerStep[][]> {
    return this.ask("greedy", request);
  }

  /** Natural logarithms of the probabilities of tokens `from + 1` on, each given all before it, in one batch. */
  logProbabilities(request: LogProbabilitiesRequest): Promise<number[]> {
    return this.ask("logProbabilities", request);
  }

  /** The logits after each token, `[vocabulary]` each. */
  logits(request: LogitsRequest): Promise<number[][]> {
    return this.ask("logits", request);
  }

  /** Speeds, one sample a repetition, each from an empty memory. */
  bench(request: BenchRequest): Promise<PeerSpeed[]> {
    return this.ask("bench", request);
  }

  /** Frees a model that the peer keeps. */
  unload(model: string): Promise<null> {
    return this.ask("unload", { model });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.ended === undefined) await this.process.stdin.end();
    await this.answers;
  }

  private async ask<Name extends keyof PeerOperations>(
    op: Name,
    request: PeerOperations[Name]["request"],
  ): Promise<PeerOperations[Name]["result"]> {
    if (this.ended !== undefined) throw this.ended;
    const id = this.nextId;
    this.nextId += 1;
    const answer = Promise.withResolvers<unknown>();
    this.waiting.set(id, answer);
    this.process.stdin.write(`${toLine({ id, op, request })}\n`);
    await this.process.stdin.flush();
    return (await answer.promise) as PeerOperations[Name]["result"];
  }

  private async readAnswers(): Promise<void> {
    const output = Readable.fromWeb(this.process.stdout as NodeReadableStream<Uint8Array>);
    for await (const line of createInterface({ input: output })) this.settle(line);
    const code = await this.process.exited;
    this.ended = new Error(`the peer ended with code ${code}: ${(await this.errors).slice(-2000)}`);
    for (const answer of this.waiting.values()) answer.reject(this.ended);
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

/** One line of JSON. Node's line reader ends lines at two more characters than JSON escapes. */
function toLine(value: unknown): string {
  return JSON.stringify(value).replaceAll("\u2028", "\\u2028").replaceAll("\u2029", "\\u2029");
}
