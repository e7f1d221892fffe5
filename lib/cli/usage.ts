/** A command line that cannot be understood: the process ends with 2 and points to the help. */
export class UsageError extends Error {
  override readonly name = "UsageError";
}
