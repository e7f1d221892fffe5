import { wordOption, wrong } from "../arguments.ts";
import { StrataError } from "../errors.ts";
import { isWhole, shown } from "../shown.ts";
import type { FeedOptions } from "./sequence.ts";

/** One more than the greatest position that the library can be told of, and the greatest distance. */
const limit = 2 ** 31;

/** Throws on bounds of a range that are no positions, by their names. */
export function checkBounds(operation: string, bounds: Readonly<Record<string, unknown>>): void {
  checkWhole(operation, bounds, "a whole number, or -1 for the start or the end");
}

/** Throws on distances and divisors that cannot be. */
export function checkWhole(
  operation: string,
  values: Readonly<Record<string, unknown>>,
  allowed = "a whole number",
): void {
  for (const [name, value] of Object.entries(values)) {
    if (!isWhole(value, 1 - limit, limit - 1)) throw wrong(`${operation}: ${name}`, value, allowed);
  }
}

/** Throws on something that is not what an operation is done with. */
export function checkKind<T>(operation: string, value: unknown, kind: new (...args: never[]) => T, what: string): void {
  if (!(value instanceof kind)) throw wrong(`${operation}: the ${what}`, value, `a ${what} of this model`);
}

/** A copy of how a sequence is to be fed, complete but for the position. Throws on what cannot be. */
export function copyFeedOptions({ logits = "last", snapshots = [], position }: FeedOptions): {
  readonly logits: "none" | "last" | "all";
  readonly snapshots: readonly number[];
  readonly position: number | undefined;
} {
  wordOption("feed: logits", logits, ["none", "last", "all"]);
  if (!Array.isArray(snapshots)) throw wrong("feed: snapshots", snapshots, "an array of positions");
  const marks: number[] = [...(snapshots as readonly number[])];
  for (const mark of marks) checkPosition("feed: a position in snapshots", mark);
  if (position !== undefined) checkPosition("feed: position", position);
  return { logits, snapshots: marks, position };
}

function checkPosition(name: string, value: unknown): void {
  if (!isWhole(value, 0, limit - 1)) throw wrong(name, value, "a whole number from 0 up");
}

/** Throws on what is no list. */
export function checkList(operation: string, value: unknown, what: string): void {
  if (Array.isArray(value)) return;
  throw new StrataError("invalid_argument", `${operation} takes an array of ${what}, and was given ${shown(value)}`);
}
