import { Elysia } from "elysia";
import { StrataError } from "../errors.ts";
import { RequestError, toRequestError } from "./errors.ts";
import {
  type Job,
  readChatRequest,
  readCompletionRequest,
  readDetokenizeRequest,
  readTokenizeRequest,
} from "./request.ts";
import { Answer } from "./response.ts";
import { type ModelState, type Run, type ServedModel, Service, type ServiceOptions } from "./service.ts";

export interface StrataOptions extends ServiceOptions {
  /** The model, also while it loads; or what tells where it is, asked at each request. It stays the caller's. */
  readonly model: ServedModel | PromiseLike<ServedModel> | (() => ModelState);
  /** What the paths begin with, as "/llm". Nothing unless given. */
  readonly prefix?: string | undefined;
}

/**
 * An Elysia plugin that serves a model as OpenAI does:
 *
 * ```ts
 * new Elysia().use(strata({ model })).listen(8080);
 * ```
 *
 * Routes: `/v1/chat/completions`, `/v1/completions`, `/v1/models`, `/tokenize`, `/detokenize`, `/health`, `/ready`.
 * Requests run together, as sequences of one batch. Any model name is accepted; answers carry the real one.
 *
 * @throws StrataError `invalid_argument` for a wrong prefix
 */
export function strata(options: StrataOptions) {
  return routes(new Service(watch(options.model), options), options.prefix);
}

/** The routes of a service. */
export function routes(service: Service, prefix = "") {
  if (!/^(\/[^/\s]+)*$/.test(prefix)) {
    throw new StrataError(
      "invalid_argument",
      `the prefix ${JSON.stringify(prefix)} is no path; begin it with "/" and end it without`,
    );
  }
  return new Elysia({ name: "strata", seed: prefix, prefix })
    .onError(({ code, error }) => {
      // Everything else that comes here is the host's: its own hooks run before our handlers.
      if (code !== "PARSE") return undefined;
      const reason = error.cause instanceof Error ? `: ${error.cause.message}` : "";
      return new RequestError(400, `the body is not valid JSON${reason}`, { code: "invalid_json" }).response();
    })
    .get("/health", () => health(service))
    .get("/ready", () => ready(service))
    .get("/v1/models", () => respond(service, () => listModels(service)))
    .get("/v1/models/:model", ({ params }) => respond(service, () => showModel(service, params.model)))
    .post(
      "/v1/chat/completions",
      ({ body, request, server }) => {
        const read = (model: ServedModel): Job => readChatRequest(body, model, () => service.templateOf(model));
        return respond(service, () => generate(service, read, request, server));
      },
      json,
    )
    .post(
      "/v1/completions",
      ({ body, request, server }) => {
        const read = (model: ServedModel): Job => readCompletionRequest(body, model);
        return respond(service, () => generate(service, read, request, server));
      },
      json,
    )
    .post("/tokenize", ({ body }) => respond(service, () => tokenize(service, body)), json)
    .post("/detokenize", ({ body }) => respond(service, () => detokenize(service, body)), json)
    .all("/v1/*", ({ request }) => notFound(request).response());
}

/** Bodies are JSON whatever their content type says: `curl -d` calls everything a form. */
const json = { parse: "json" } as const;

/** Nothing is served at a path, or not with this method. */
export function notFound(request: Request): RequestError {
  const { pathname } = new URL(request.url);
  return new RequestError(404, `${request.method} ${pathname} is not served here`, { code: "unknown_url" });
}

async function respond(service: Service, answer: () => Response | Promise<Response>): Promise<Response> {
  try {
    return await answer();
  } catch (error) {
    return service.fail(error).response();
  }
}

/** Runs what a request asks for and answers, as a stream or at the end. A client that leaves takes its run with it. */
async function generate(
  service: Service,
  read: (model: ServedModel) => Job,
  request: Request,
  server: Pick<Bun.Server<unknown>, "timeout"> | null,
): Promise<Response> {
  const model = service.model();
  const job = read(model);
  const answer = new Answer(job, service.nameOf(model), model);
  const run = service.admit(model, job);
  // Waiting for a sequence and a long prompt may take longer than the connection may be silent.
  server?.timeout(request, 0);
  const leave = (): void => run.cancel(new RequestError(499, "the client left"));
  request.signal.addEventListener("abort", leave);
  if (request.signal.aborted) leave();
  const headers = { "x-request-id": answer.id };
  if (job.stream) return eventStream(run, answer, service, leave, headers);
  await run.events((index, event) => answer.take(index, event));
  return Response.json(answer.whole(), { headers });
}

/**
 * Server-sent events. The generation runs at its own pace and what a slow client has not read yet waits here, so that
 * it holds no sequence; that is never more than one answer's text.
 */
function eventStream(
  run: Run,
  answer: Answer,
  service: Service,
  leave: () => void,
  headers: Record<string, string>,
): Response {
  const utf8 = new TextEncoder();
  let isOpen = true;
  const stream = new ReadableStream<Uint8Array>({
    start(controller) {
      const send = (data: string): void => {
        if (isOpen) controller.enqueue(utf8.encode(`data: ${data}\n\n`));
      };
      const sendAll = (chunks: readonly object[]): void => chunks.forEach((chunk) => send(JSON.stringify(chunk)));
      const pump = async (): Promise<void> => {
        try {
          sendAll(answer.opening());
          await run.events((index, event) => sendAll(answer.take(index, event)));
          sendAll(answer.closing());
          send("[DONE]");
        } catch (error) {
          // Too late for a status: the client finds the error in the stream.
          send(JSON.stringify(service.fail(error).body));
        }
        if (isOpen) controller.close();
        isOpen = false;
      };
      void pump();
    },
    cancel() {
      isOpen = false;
      leave();
    },
  });
  return new Response(stream, {
    headers: { "content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache", ...headers },
  });
}

function health(service: Service): Response {
  const state = service.state;
  if (state.status === "failed") {
    return Response.json({ status: "failed", ...toRequestError(state.error).body }, { status: 500 });
  }
  if (state.status === "loading") {
    return Response.json({ status: "loading", progress: state.progress }, { status: 503 });
  }
  return Response.json({ status: service.isStopping ? "stopping" : "ok" });
}

function ready(service: Service): Response {
  const { status } = service.state;
  if (service.isStopping || status !== "ready") {
    return Response.json({ status: service.isStopping ? "stopping" : status }, { status: 503 });
  }
  return Response.json({ status: "ok" });
}

function listModels(service: Service): Response {
  return Response.json({ object: "list", data: [describe(service, service.model())] });
}

function showModel(service: Service, name: string): Response {
  const model = service.model();
  const known = service.nameOf(model);
  if (name === known) return Response.json(describe(service, model));
  const message = `there is no model ${JSON.stringify(name)} here; the one that is served is ${JSON.stringify(known)}`;
  throw new RequestError(404, message, { param: "model", code: "model_not_found" });
}

function describe(service: Service, model: ServedModel): object {
  const id = service.nameOf(model);
  return { id, object: "model", created: service.created, owned_by: "strata", context_length: model.contextLength };
}

function tokenize(service: Service, body: unknown): Response {
  const model = service.model();
  const { text, bos, special } = readTokenizeRequest(body);
  const ends = bos ? {} : { bos: false, eos: false };
  const tokens = model.tokenizer.encode(text, { special, ...ends });
  return Response.json({ tokens, count: tokens.length });
}

function detokenize(service: Service, body: unknown): Response {
  const model = service.model();
  const { tokens, special } = readDetokenizeRequest(body, model);
  const text = model.tokenizer.decode(tokens, { special });
  // `content` is the name that clients of llama.cpp's server read.
  return Response.json({ text, content: text });
}

function watch(model: StrataOptions["model"]): () => ModelState {
  if (typeof model === "function") return model;
  if (!("then" in model)) return () => ({ status: "ready", model });
  let state: ModelState = { status: "loading", progress: 0 };
  model.then(
    (loaded) => (state = { status: "ready", model: loaded }),
    (error: unknown) => (state = { status: "failed", error }),
  );
  return () => state;
}
