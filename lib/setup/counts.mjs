// @ts-check
/**
 * What test runners say at their end.
 *
 * @typedef {{ passed: number, failed: number, skipped: number }} Counts
 */

/** @param {string} text */
const plain = (text) => text.replace(/\x1b\[[0-9;]*m/g, "");

/**
 * @param {RegExpMatchArray | null | undefined} match
 */
const number = (match) => Number(match?.[1] ?? 0);

/**
 * The counts of `zig build test --summary all`. A run that ended badly, or ran nothing, has failed at
 * least once.
 *
 * @param {string} said
 * @param {boolean} ok whether it ended well
 * @returns {Counts}
 */
export function zigCounts(said, ok) {
  const line =
    plain(said)
      .split("\n")
      .findLast((text) => text.startsWith("Build Summary:")) ?? "";
  const tests = /(\d+)\/\d+ tests passed(.*)$/.exec(line);
  const rest = tests?.[2] ?? "";
  const counts = {
    passed: number(tests),
    failed:
      number(/(\d+) failed/.exec(rest)) + number(/(\d+) crashed/.exec(rest)) + number(/(\d+) timed out/.exec(rest)),
    skipped: number(/(\d+) skipped/.exec(rest)),
  };
  return atLeastOneFailure(counts, ok);
}

/**
 * The counts of `bun test`. Its closing lines are "N pass", "N skip", "N fail" and "N error", each if there is any.
 *
 * @param {string} said
 * @param {boolean} ok whether it ended well
 * @returns {Counts}
 */
export function bunCounts(said, ok) {
  const lines = plain(said).split("\n");
  const last = (/** @type {RegExp} */ pattern) => number(lines.findLast((line) => pattern.test(line))?.match(pattern));
  // Anything before the closing lines may be a test's own output.
  const start = lines.findLastIndex((line) => /^\s*\d+ pass$/.test(line));
  lines.splice(0, Math.max(start, 0));
  const counts = {
    passed: last(/^\s*(\d+) pass$/),
    failed: last(/^\s*(\d+) fail$/) + last(/^\s*(\d+) errors?$/),
    skipped: last(/^\s*(\d+) skip$/) + last(/^\s*(\d+) todo$/),
  };
  return atLeastOneFailure(counts, ok);
}

/**
 * A runner that ran no test has not shown that anything works.
 *
 * @param {Counts} counts
 * @param {boolean} ok
 * @returns {Counts}
 */
function atLeastOneFailure(counts, ok) {
  const ran = counts.passed + counts.failed > 0;
  return (ok && ran) || counts.failed > 0 ? counts : { ...counts, failed: 1 };
}

/**
 * @param {Counts[]} all
 * @returns {Counts}
 */
export function sumOf(all) {
  const sum = { passed: 0, failed: 0, skipped: 0 };
  for (const { passed, failed, skipped } of all) {
    sum.passed += passed;
    sum.failed += failed;
    sum.skipped += skipped;
  }
  return sum;
}

/** @param {Counts} counts */
export function countsLine({ passed, failed, skipped }) {
  return `${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ""}`;
}
