// @ts-check
/** A failure that a person can act on: the message alone is shown, never a stack. */
export class SetupError extends Error {
  /** @param {string} message what was wrong and what to do */
  constructor(message) {
    super(message);
    this.name = "SetupError";
  }
}

/**
 * @param {unknown} error
 * @returns {string} the code of a system error, such as "ENOENT", or ""
 */
export function errorCode(error) {
  return error instanceof Error && "code" in error ? String(error.code) : "";
}
