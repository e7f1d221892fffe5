/** What went wrong, for a program to branch on. The same names as the native library's status codes. */
export type ErrorCode =
  | "invalid_argument"
  | "not_found"
  | "out_of_memory"
  | "io"
  | "bad_format"
  | "unsupported"
  | "busy"
  | "cancelled"
  | "full"
  | "closed"
  | "refused"
  | "internal";

/** Every error that Strata throws on purpose: `code` for the program, `message` (one sentence) for the person. */
export class StrataError extends Error {
  override readonly name = "StrataError";

  constructor(
    readonly code: ErrorCode,
    message: string,
    options?: ErrorOptions,
  ) {
    super(message, options);
  }
}
