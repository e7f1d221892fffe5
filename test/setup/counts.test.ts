import { expect, test } from "bun:test";
import { bunCounts, countsLine, sumOf, zigCounts } from "../../lib/setup/counts.mjs";

test("zig's summary is read", () => {
  const said = (tests: string) =>
    `\x1b[1mBuild Summary: \x1b[0m7/9 steps succeeded\x1b[2m (1 failed)\x1b[0m; ${tests}\ntest\n+- run test\n`;
  expect(zigCounts(said("45/45 tests passed"), true)).toEqual({ passed: 45, failed: 0, skipped: 0 });
  expect(zigCounts(said("40/45 tests passed\x1b[2m (2 skipped, 1 failed, 1 crashed, 1 timed out)"), false)).toEqual({
    passed: 40,
    failed: 3,
    skipped: 2,
  });
});

test("bun's closing lines are read, and not what a test prints", () => {
  const said = (closing: string) =>
    `bun test v1.4.5\n 99 pass\n 7 fail\n\n${closing}\n 812 expect() calls\nRan 12 tests across 3 files. [1.00s]\n`;
  expect(bunCounts(said(" 12 pass\n 0 fail"), true)).toEqual({ passed: 12, failed: 0, skipped: 0 });
  expect(bunCounts(said(" \x1b[32m10 pass\x1b[0m\n 1 skip\n 1 todo\n 2 fail\n 1 error"), false)).toEqual({
    passed: 10,
    failed: 3,
    skipped: 2,
  });
});

test("a runner that ran nothing, or ends badly without counts, has failed once", () => {
  expect(zigCounts("Build Summary: 7/7 steps succeeded\ntest success\n+- run test cached", true)).toEqual({
    passed: 0,
    failed: 1,
    skipped: 0,
  });
  expect(zigCounts("error: compilation failed", false)).toEqual({ passed: 0, failed: 1, skipped: 0 });
  expect(bunCounts("Segmentation fault", false)).toEqual({ passed: 0, failed: 1, skipped: 0 });
});

test("the closing line adds up", () => {
  const sum = sumOf([
    { passed: 3, failed: 0, skipped: 1 },
    { passed: 4, failed: 2, skipped: 0 },
  ]);
  expect(countsLine(sum)).toBe("7 passed, 2 failed, 1 skipped");
  expect(countsLine({ passed: 1, failed: 0, skipped: 0 })).toBe("1 passed, 0 failed");
});
