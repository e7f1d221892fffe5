import { basename } from "node:path";
import { StrataError } from "../errors.ts";
import type { Model } from "../index.ts";
import type { GenerationEvent } from "../schedule/events.ts";
import { createChatTemplate, type ChatTemplate } from "../text/index.ts";
import { RequestError, toRequestError } from "./errors.ts";
import type { Job } from "./request.ts";

/** What of a model the service uses. */
export type ServedModel = Pick<
  Model,
  "path" | "metadata" | "tokenizer" | "contextLength" | "sequenceCount" | "vocabularySize" | "chatTemplate" | "events"
>;

/** Where a model is on its way to being served. */
export type ModelState =
  | {
      readonly status: "loading";
      /** 0 to 1. */
      readonly progress: number;
    }
  | { readonly status: "ready"; readonly model: ServedModel }
  | { readonly status: "failed"; readonly error: unknown };

export interface ServiceOptions {
  /** The model's name in answers. The file's name without its ending unless given. */
  readonly modelName?: string | undefined;
  /** A Jinja template for chats in place of the file's. */
  readonly chatTemplate?: string | undefined;
  /** Generations that may wait for a free sequence; a request that would make it more gets status 429. 256. */
  readonly maxQueue?: number | undefined;
  /** Gets a line for each failure that is the server's own. */
  readonly log?: ((line: string) => void) | undefined;
}

/** The model behind the routes, and what runs on it. */
export class Service {
  /** Since when, in Unix seconds. */
  readonly created = Math.floor(Date.now() / 1000);
  private readonly runs = new Set<Run>();
  private readonly maxQueue: number;
  private template: { readonly model: ServedModel; readonly template: ChatTemplate } | undefined;
  private stopping = false;
  private idle: (() => void) | undefined;

  constructor(
    private readonly source: () => ModelState,
    private readonly options: ServiceOptions,
  ) {
    this.maxQueue = options.maxQueue ?? 256;
  }

  get state(): ModelState {
    return this.source();
  }

  get isStopping(): boolean {
    return this.stopping;
  }

  /** @throws RequestError while there is none to use */
  model(): ServedModel {
    const state = this.state;
    if (this.stopping) throw new RequestError(503, "the server is stopping", { code: "stopping" });
    if (state.status === "ready") return state.model;
    if (state.status === "failed") {
      const { message } = toRequestError(state.error);
      throw new RequestError(503, `the model could not be loaded: ${message}`, { code: "model_failed" });
    }
    const percent = Math.floor(100 * state.progress);
    throw new RequestError(503, `the model is loading (${percent} %); try again soon`, { code: "model_loading" });
  }

  nameOf(model: ServedModel): string {
    return this.options.modelName ?? modelNameOf(model.path);
  }

  /** @throws StrataError `unsupported` where the file has no template and none was given */
  templateOf(model: ServedModel): ChatTemplate {
    const { chatTemplate: source } = this.options;
    if (source === undefined) return model.chatTemplate;
    if (this.template?.model !== model) {
      this.template = { model, template: createChatTemplate(model.metadata, model.tokenizer, { source }) };
    }
    return this.template.template;
  }

  /** Takes a job on, to be run at once. @throws RequestError with status 429 where too many wait already */
  admit(model: ServedModel, job: Job): Run {
    const room = model.sequenceCount + this.maxQueue;
    const wanted = job.generations.length;
    const taken = [...this.runs].reduce((sum, run) => sum + run.generationCount, 0);
    if (wanted > room) {
      throw new RequestError(400, `the request asks for ${wanted} choices, but the server queues at most ${room}`);
    }
    if (taken + wanted > room) {
      throw new RequestError(429, `${taken} generations run or wait already; try again later`, { code: "queue_full" });
    }
    const run = new Run(model, job, () => {
      this.runs.delete(run);
      if (this.runs.size === 0) this.idle?.();
    });
    this.runs.add(run);
    return run;
  }

  /** Takes on nothing more, and waits for what runs: at most `limitMs`, then what still runs is cancelled. */
  async drain(limitMs: number): Promise<void> {
    this.stopping = true;
    if (this.runs.size === 0) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.idle = resolve;
    const timer = setTimeout(() => {
      const reason = new RequestError(503, "the server is stopping and could not wait longer", { code: "stopping" });
      for (const run of this.runs) run.cancel(reason);
    }, limitMs);
    await promise;
    clearTimeout(timer);
  }

  /** What to answer after a failure. The server's own are logged. */
  fail(error: unknown): RequestError {
    const failure = toRequestError(error);
    if (failure.status === 500) this.options.log?.(failure.message);
    return failure;
  }
}

/** The generations of one request, which run together. */
export class Run {
  private readonly abort = new AbortController();

  constructor(
    private readonly model: ServedModel,
    private readonly job: Job,
    private readonly release: () => void,
  ) {}

  get generationCount(): number {
    return this.job.generations.length;
  }

  /** Ends it soon: `events` then throws `reason`. */
  cancel(reason: unknown): void {
    this.abort.abort(reason);
  }

  /**
   * Runs to the end, and gives every event with the index of its choice. It settles when all generations have left the
   * model. The first failure cancels the other generations and is thrown.
   */
  async events(take: (index: number, event: GenerationEvent) => void): Promise<void> {
    const { signal } = this.abort;
    const follow = async (index: number): Promise<void> => {
      const { prompt, options } = this.job.generations[index] as Job["generations"][number];
      try {
        for await (const event of this.model.events(prompt, { ...options, signal })) {
          if (signal.aborted) break;
          if (event.type === "end" && event.finishReason === "cancelled") {
            throw new StrataError("cancelled", "the generation was cancelled by the host");
          }
          take(index, event);
        }
      } catch (error) {
        this.abort.abort(whileRunning(error));
      }
    };
    try {
      await Promise.all(this.job.generations.map((_, index) => follow(index)));
    } finally {
      this.release();
    }
    if (signal.aborted) throw signal.reason;
  }
}

/** The request was found right before: what is wrong while it runs is not the client's doing, whatever it is called. */
function whileRunning(error: unknown): RequestError {
  const failure = toRequestError(error);
  if (failure.status >= 500) return failure;
  return new RequestError(500, failure.message, { code: failure.code, cause: error });
}

/** A file's name without its ending and, of a split file, without the part's number. */
export function modelNameOf(path: string): string {
  return basename(path).replace(/(-\d{5}-of-\d{5})?\.gguf$/i, "");
}
