import { Elysia } from "elysia";
import { strata, type StrataOptions } from "../../lib/server/plugin.ts";

export interface Reply {
  readonly status: number;
  readonly headers: Headers;
  /** The body as JSON. */
  readonly json: Dig;
}

/** A JSON value to look into without knowing its type: what is not there is undefined all the way down. */
export class Dig {
  constructor(readonly value: unknown) {}

  at(...path: readonly (string | number)[]): unknown {
    let value = this.value;
    for (const key of path) value = typeof value === "object" && value !== null ? Reflect.get(value, key) : undefined;
    return value;
  }
}

export type Handler = { handle(request: Request): Promise<Response> };

export function appOf(options: StrataOptions): Handler {
  return new Elysia().use(strata(options));
}

export async function get(app: Handler, path: string): Promise<Reply> {
  return replyOf(await app.handle(new Request(`http://localhost${path}`)));
}

/** Posts a value as JSON, or a string as it is. */
export async function post(app: Handler, path: string, body: unknown): Promise<Reply> {
  return replyOf(await send(app, path, body));
}

export function send(app: Handler, path: string, body: unknown): Promise<Response> {
  const text = typeof body === "string" ? body : JSON.stringify(body);
  return app.handle(new Request(`http://localhost${path}`, { method: "POST", body: text }));
}

async function replyOf(response: Response): Promise<Reply> {
  const { status, headers } = response;
  return { status, headers, json: new Dig(await response.json()) };
}

/** The data of a stream's events; the framing must be exactly one line of data and an empty one. */
export function eventsOf(stream: string): string[] {
  if (!stream.endsWith("\n\n")) throw new Error(`the stream ends within an event: ${JSON.stringify(stream)}`);
  return stream
    .slice(0, -2)
    .split("\n\n")
    .map((event) => {
      if (!event.startsWith("data: ") || event.includes("\n"))
        throw new Error(`not an event: ${JSON.stringify(event)}`);
      return event.slice("data: ".length);
    });
}

/** The JSON chunks of a stream, and whether `[DONE]` came last. */
export function chunksOf(stream: string): { chunks: Dig[]; isDone: boolean } {
  const events = eventsOf(stream);
  const isDone = events.at(-1) === "[DONE]";
  const chunks = (isDone ? events.slice(0, -1) : events).map((event) => new Dig(JSON.parse(event)));
  return { chunks, isDone };
}

/** Waits until something is so, and fails after 30 seconds. */
export async function until(what: string, isSo: () => boolean): Promise<void> {
  const deadline = performance.now() + 30_000;
  while (!isSo()) {
    if (performance.now() > deadline) throw new Error(`after 30 s it was still not so that ${what}`);
    await Bun.sleep(2);
  }
}
