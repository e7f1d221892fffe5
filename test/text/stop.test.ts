import { expect, test } from "bun:test";
import fc from "fast-check";
import { StopMatcher } from "../../lib/text/index.ts";

/** What a matcher gives for a text in pieces. */
function run(stops: readonly string[], pieces: readonly string[]): { text: string; stop: string | undefined } {
  const matcher = new StopMatcher(stops);
  let text = "";
  for (const piece of pieces) {
    const result = matcher.push(piece);
    text += result.text;
    if (result.stop !== undefined) return { text, stop: result.stop };
  }
  return { text: text + matcher.flush(), stop: undefined };
}

/** The same by trying every end of the text. */
function expected(stops: readonly string[], text: string): { text: string; stop: string | undefined } {
  for (let end = 1; end <= text.length; end += 1) {
    const found = stops.filter((stop) => text.slice(0, end).endsWith(stop)).sort((a, b) => b.length - a.length)[0];
    if (found !== undefined) return { text: text.slice(0, end - found.length), stop: found };
  }
  return { text, stop: undefined };
}

const text = fc.string({ unit: fc.constantFrom("a", "b", "c", "😀", "😁"), maxLength: 24 });
const stops = fc.array(fc.string({ unit: fc.constantFrom("a", "b", "😀"), minLength: 1, maxLength: 4 }), {
  maxLength: 4,
});

test("the text ends before the stop string that is complete first, however it is cut", () => {
  fc.assert(
    fc.property(stops, fc.array(text, { maxLength: 8 }), (stopStrings, pieces) => {
      expect(run(stopStrings, pieces)).toEqual(expected(stopStrings, pieces.join("")));
    }),
    { numRuns: process.env["STRATA_SOAK"] === "1" ? 20_000 : 2_000 },
  );
});

test("no more is held back than what may begin a stop string", () => {
  fc.assert(
    fc.property(stops, text, (stopStrings, whole) => {
      const matcher = new StopMatcher(stopStrings);
      const { text: given, stop } = matcher.push(whole);
      if (stop !== undefined) return;
      const held = whole.slice(given.length);
      expect(held === "" || stopStrings.some((candidate) => candidate.startsWith(held))).toBeTrue();
      expect(given.isWellFormed()).toBeTrue();
      expect(matcher.flush()).toBe(held);
    }),
  );
});

test("a stop string is found across pieces, and nothing comes after it", () => {
  const matcher = new StopMatcher(["###", "\nUser:"]);
  expect(matcher.push("Hi\nUs")).toEqual({ text: "Hi", stop: undefined });
  expect(matcher.push("ers #")).toEqual({ text: "\nUsers ", stop: undefined });
  expect(matcher.push("## more")).toEqual({ text: "", stop: "###" });
  expect(matcher.push("more")).toEqual({ text: "", stop: "###" });
  expect(matcher.flush()).toBe("");
});

test("stop strings that can never be found are refused", () => {
  expect(() => new StopMatcher(["a", ""])).toThrow("stop string 1 is empty");
  expect(() => new StopMatcher(["\ud83d"])).toThrow("stop string 0 has half of a surrogate pair");
});
