import { StrataError, type ErrorCode } from "../errors.ts";

/** OpenAI's form of an error, in a body and in a stream alike. */
export interface ErrorBody {
  readonly error: {
    readonly message: string;
    readonly type: string;
    /** The request's field that was wrong, as `messages[0].role`. */
    readonly param: string | null;
    readonly code: string | null;
  };
}

/** What an answer to a request says instead of what was asked for. */
export class RequestError extends Error {
  override readonly name = "RequestError";
  readonly status: number;
  readonly param: string | null;
  readonly code: string | null;

  constructor(
    status: number,
    message: string,
    details: { param?: string | null; code?: string | null; cause?: unknown } = {},
  ) {
    super(message, { cause: details.cause });
    this.status = status;
    this.param = details.param ?? null;
    this.code = details.code ?? null;
  }

  get body(): ErrorBody {
    return { error: { message: this.message, type: typeOf(this.status), param: this.param, code: this.code } };
  }

  response(): Response {
    // OpenAI's clients try again by themselves after these two.
    const headers: Record<string, string> = this.status === 429 || this.status === 503 ? { "retry-after": "1" } : {};
    return Response.json(this.body, { status: this.status, headers });
  }
}

/** A field that is missing, of the wrong type or out of range. */
export function invalid(param: string, message: string): RequestError {
  return new RequestError(400, `${param} ${message}`, { param, code: "invalid_value" });
}

/** A field that is understood, and asks for what this server does not do. */
export function notSupported(param: string, message: string): RequestError {
  return new RequestError(400, `${param} ${message}`, { param, code: "unsupported_parameter" });
}

/** What to answer after a failure of any kind. */
export function toRequestError(error: unknown): RequestError {
  if (error instanceof RequestError) return error;
  if (error instanceof StrataError) {
    return new RequestError(statuses[error.code], error.message, { code: error.code, cause: error });
  }
  const reason = error instanceof Error ? error.message : String(error);
  return new RequestError(500, `the server failed: ${reason}`, { code: "internal", cause: error });
}

const statuses: Readonly<Record<ErrorCode, number>> = {
  invalid_argument: 400,
  unsupported: 400,
  not_found: 404,
  out_of_memory: 503,
  busy: 503,
  full: 503,
  cancelled: 503,
  closed: 503,
  refused: 500,
  io: 500,
  bad_format: 500,
  internal: 500,
};

function typeOf(status: number): string {
  if (status === 429) return "rate_limit_error";
  return status < 500 ? "invalid_request_error" : "server_error";
}
