import { StrataError } from "../errors.ts";

/** What may be given out, and the stop string that ended the text, if one did. */
export interface StopResult {
  readonly text: string;
  readonly stop: string | undefined;
}

/**
 * Finds stop strings in a text that comes in pieces. The text ends before the stop string that is complete first (of
 * two that are complete at once, the longer). What may be the beginning of one is held back until that is known, so
 * the result does not depend on how the text is cut into pieces.
 */
export class StopMatcher {
  private readonly stops: readonly string[];
  private held = "";
  private stopped: string | undefined;

  /** @throws StrataError `invalid_argument` for an empty stop string or one with half of a surrogate pair */
  constructor(stops: readonly string[]) {
    for (const [index, stop] of stops.entries()) {
      if (stop !== "" && stop.isWellFormed()) continue;
      const problem = stop === "" ? "is empty" : "has half of a surrogate pair in it";
      throw new StrataError("invalid_argument", `stop string ${index} ${problem}, so it can never end a text`);
    }
    this.stops = stops;
  }

  /** Takes a piece and gives the text that is now known to come before any stop string. After a stop, nothing. */
  push(piece: string): StopResult {
    if (this.stopped !== undefined) return { text: "", stop: this.stopped };
    const text = this.held + piece;
    const match = this.firstMatch(text);
    if (match !== undefined) {
      this.held = "";
      this.stopped = match;
      return { text: text.slice(0, this.endOf(text, match) - match.length), stop: match };
    }
    const safe = text.length - this.heldLength(text);
    this.held = text.slice(safe);
    return { text: text.slice(0, safe), stop: undefined };
  }

  /** What was held back, when the text has ended by itself. */
  flush(): string {
    const text = this.held;
    this.held = "";
    return text;
  }

  private firstMatch(text: string): string | undefined {
    let first: string | undefined;
    for (const stop of this.stops) {
      if (!text.includes(stop)) continue;
      const earlier = first === undefined ? 1 : this.endOf(text, first) - this.endOf(text, stop);
      if (earlier > 0 || (earlier === 0 && stop.length > (first?.length ?? 0))) first = stop;
    }
    return first;
  }

  private endOf(text: string, stop: string): number {
    return text.indexOf(stop) + stop.length;
  }

  /** Length of the longest end of the text that begins a stop string. */
  private heldLength(text: string): number {
    let longest = 0;
    for (const stop of this.stops) {
      for (let length = Math.min(stop.length - 1, text.length); length > longest; length -= 1) {
        if (text.endsWith(stop.slice(0, length))) longest = length;
      }
    }
    return longest;
  }
}
