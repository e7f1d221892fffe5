/** Checks of what callers hand over. What goes wrong is told as `invalid_argument`, with what was given. */
import { StrataError } from "./errors.ts";
import { isRecord, isWhole, shown } from "./shown.ts";

/**
 * Throws unless `path` can be the path of a file.
 * @param what the file is of, as in "the path of the model"
 * @param remedy what can be given
 */
export function checkPath(what: string, path: unknown, remedy = "the path of a file"): asserts path is string {
  const fault = faultOfPath(path);
  if (fault === undefined) return;
  throw new StrataError("invalid_argument", `the path of the ${what} ${fault}; give ${remedy}`);
}

function faultOfPath(path: unknown): string | undefined {
  if (typeof path !== "string") return `is ${shown(path)}`;
  if (path === "") return "is empty";
  if (path.includes("\0")) return "has a zero byte in it";
  return path.isWellFormed() ? undefined : "is not valid text";
}

/**
 * Throws unless `options` is an object with no other options than `names`. One that is undefined counts as left out.
 * @param options what a caller gave; the names alone are checked
 */
export function checkNames(options: unknown, names: readonly string[]): void {
  if (!isRecord(options)) {
    throw new StrataError(
      "invalid_argument",
      `the options are ${shown(options)}; give an object, { ${names[0]}: ... }`,
    );
  }
  const unknown = Object.keys(options).find((name) => options[name] !== undefined && !names.includes(name));
  if (unknown === undefined) return;
  throw new StrataError("invalid_argument", `there is no option ${shown(unknown)}; there are ${names.join(", ")}`);
}

/** The value of an option that is one of a few words. */
export function wordOption<T extends string>(name: string, value: T, words: readonly T[]): T {
  if (words.includes(value)) return value;
  throw wrong(name, value, `one of ${words.join(", ")}`);
}

/** The value of an option that is on or off. */
export function flagOption(name: string, value: boolean): boolean {
  if (typeof value === "boolean") return value;
  throw wrong(name, value, "true or false");
}

/**
 * The value of an option that is a whole number. What is beyond `max` and can be told to the library is left to it: it
 * says so itself.
 */
export function wholeOption(name: string, value: number, min: number, max: number): number {
  if (isWhole(value, min, 2 ** 31 - 1)) return value;
  throw wrong(name, value, `a whole number from ${min} to ${max}`);
}

/** The error of an option of another value than it can have. */
export function wrong(name: string, value: unknown, allowed: string): StrataError {
  return new StrataError("invalid_argument", `${name} is ${shown(value)}; give ${allowed}`);
}
