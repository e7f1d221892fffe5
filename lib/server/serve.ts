import { Elysia } from "elysia";
import { StrataError } from "../errors.ts";
import { type LoadOptions, loadModel, type Model } from "../index.ts";
import { toRequestError } from "./errors.ts";
import { notFound, routes } from "./plugin.ts";
import { modelNameOf, type ModelState, type ServedModel, Service, type ServiceOptions } from "./service.ts";

export interface ServerOptions extends ServiceOptions {
  /** The model file. */
  readonly path: string;
  /** How it is loaded. `sequences` is how many generations run together, `context` the positions of each. */
  readonly load?: LoadOptions | undefined;
  /** 127.0.0.1 unless given, which other machines cannot reach; 0.0.0.0 is every address of this one. */
  readonly host?: string | undefined;
  /** 8080 unless given; 0 is any free one. */
  readonly port?: number | undefined;
}

export interface StopOptions {
  /** What runs may take this long to end, in milliseconds, before it is cancelled: 30,000. */
  readonly limitMs?: number | undefined;
}

export interface RunningServer<Loaded = Model> {
  /** As "http://127.0.0.1:8080". */
  readonly url: string;
  /** The model, when it is loaded. Rejects if it cannot be, or if `stop` was called before. */
  readonly ready: Promise<Loaded>;
  /** Accepts nothing more, lets what runs end, and disposes the model. */
  stop(options?: StopOptions): Promise<void>;
}

/**
 * Serves a model file over HTTP. It answers at once and loads meanwhile: `/health` tells how far it is, and afterwards
 * what went wrong, if something did.
 *
 * @throws StrataError `io` where the port cannot be listened on
 */
export function startServer(options: ServerOptions): Promise<RunningServer> {
  return startServerWith(loadModel, options);
}

/** A model that the server loads and disposes. */
export type OwnedModel = ServedModel & Pick<Model, "dispose">;

/** {@link startServer} with another way to load. */
export async function startServerWith<Loaded extends OwnedModel>(
  load: (path: string, options: LoadOptions) => Promise<Loaded>,
  options: ServerOptions,
): Promise<RunningServer<Loaded>> {
  let state: ModelState = { status: "loading", progress: 0 };
  const log = options.log ?? ((): void => undefined);
  const modelName = options.modelName ?? modelNameOf(options.path);
  const service = new Service(() => state, { ...options, modelName });
  const server = listen(service, options);
  const url = server.url.origin;
  log(`listening on ${url}`);

  const cancelled = new AbortController();
  const signals = [cancelled.signal, ...(options.load?.signal ? [options.load.signal] : [])];
  const ready = load(options.path, {
    ...options.load,
    signal: AbortSignal.any(signals),
    onProgress: (progress) => {
      options.load?.onProgress?.(progress);
      const { doneBytes, totalBytes } = progress;
      if (state.status === "loading")
        state = { status: "loading", progress: totalBytes > 0 ? doneBytes / totalBytes : 0 };
    },
  });
  const settled = ready.then(
    (model) => {
      prepareTokenizer(model, log);
      state = { status: "ready", model };
      log(`serving ${modelName}, ${model.sequenceCount} sequences of ${model.contextLength} tokens`);
    },
    (error: unknown) => {
      state = { status: "failed", error };
      if (!cancelled.signal.aborted) log(`the model could not be loaded: ${toRequestError(error).message}`);
    },
  );

  const stop = async ({ limitMs = 30_000 }: StopOptions = {}): Promise<void> => {
    const deadline = performance.now() + limitMs;
    cancelled.abort(new StrataError("cancelled", "the server was stopped before the model was loaded"));
    // The listening socket closes now; connections with a request under way stay.
    const closed = server.stop(false);
    await service.drain(limitMs);
    // What was generated is still on its way to slow clients.
    await Promise.race([closed, Bun.sleep(Math.max(deadline - performance.now(), lastBytesMs))]);
    await server.stop(true);
    await settled;
    if (state.status === "ready") await (await ready).dispose();
  };
  let stopped: Promise<void> | undefined;
  return { url, ready, stop: (stopOptions) => (stopped ??= stop(stopOptions)) };
}

/** Read now, so that the first request need not wait for it. Without it the model can still be given token ids. */
function prepareTokenizer(model: ServedModel, log: (line: string) => void): void {
  try {
    log(`its tokenizer has ${model.tokenizer.vocabularySize} tokens`);
  } catch (error) {
    log(toRequestError(error).message);
  }
}

/** What a client has at least to read the end of an answer that was cancelled. */
const lastBytesMs = 500;

function listen(service: Service, { host = "127.0.0.1", port = 8080 }: ServerOptions): Bun.Server<unknown> {
  const app = new Elysia()
    .onError(({ code, request }) => (code === "NOT_FOUND" ? notFound(request).response() : undefined))
    .use(routes(service));
  try {
    // Elysia would share a port that another process listens on.
    app.listen({ hostname: host, port, reusePort: false });
  } catch (error) {
    throw cannotListen(host, port, error);
  }
  if (app.server === null) throw new StrataError("internal", "the server was started and is not there");
  return app.server;
}

function cannotListen(host: string, port: number, error: unknown): StrataError {
  const inUse = error instanceof Error && "code" in error && error.code === "EADDRINUSE";
  const reason = inUse ? "it is in use" : error instanceof Error ? error.message : String(error);
  return new StrataError("io", `cannot listen on port ${port} of ${host}: ${reason}; choose another port or host`, {
    cause: error,
  });
}
