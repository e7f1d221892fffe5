/** What a value is, in words, for sentences about values that should have been others. */
export function shown(value: unknown): string {
  switch (typeof value) {
    case "string":
      return JSON.stringify(value.length > 60 ? `${value.slice(0, 60)}...` : value);
    case "object":
      if (value === null) return "null";
      if (isPromise(value)) return "a promise";
      if (Array.isArray(value)) return value.length <= 4 ? shownList(value) : `an array of ${value.length}`;
      return shownObject(value);
    case "function":
      return "a function";
    case "bigint":
      return `${value}n`;
    default:
      return String(value);
  }
}

function shownList(values: readonly unknown[]): string {
  return `[${values.map((value) => (typeof value === "object" && value !== null ? "..." : shown(value))).join(", ")}]`;
}

function shownObject(value: object): string {
  const { name = "" } = (value.constructor ?? {}) as { readonly name?: unknown };
  return typeof name !== "string" || name === "" || name === "Object" ? "an object" : `a ${name}`;
}

/** Whether a value is a promise, or would be waited for as one. */
export function isPromise(value: unknown): value is PromiseLike<unknown> {
  return typeof value === "object" && value !== null && "then" in value && typeof value.then === "function";
}

/** Whether a value is a whole number from `min` to `max`. */
export function isWhole(value: unknown, min: number, max: number): value is number {
  return Number.isSafeInteger(value) && (value as number) >= min && (value as number) <= max;
}

/** Whether a value is an object as `{ ... }` makes it: no array, no promise, no instance of a class. */
export function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  if (typeof value !== "object" || value === null) return false;
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === null || prototype === Object.prototype;
}
