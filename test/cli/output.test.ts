import { describe, expect, test } from "bun:test";
import { defineCommand } from "../../lib/cli/command.ts";
import { OutputClosed, Progress, type Output } from "../../lib/cli/output.ts";
import { UsageError } from "../../lib/cli/usage.ts";
import { StrataError } from "../../lib/errors.ts";
import { keptOutput } from "./streams.ts";

function failing(error: unknown) {
  const options = {};
  return defineCommand({
    ...{ name: "fail", summary: "Fail.", usage: "", options, notes: "" },
    run: () => Promise.reject(error),
  });
}

function broken(code: string): Error {
  return Object.assign(new Error(code), { code });
}

describe("the output", () => {
  test("goes to stdout, remarks to stderr", async () => {
    const { output, stdout, stderr } = keptOutput();
    await output.write("text");
    await output.note("remark");
    expect([stdout.text, stderr.text]).toEqual(["text", "remark\n"]);
  });

  test("is one JSON document on stdout where that was asked for", async () => {
    const { output, stdout, stderr } = keptOutput({ json: true });
    await output.write("text");
    await output.document({ a: [1] });
    expect([stdout.text, stderr.text]).toEqual(['{"a":[1]}\n', "text"]);
  });

  test("tells that its reader is gone", async () => {
    const { output, stdout } = keptOutput();
    stdout.failure = broken("EPIPE");
    await expect(output.write("text")).rejects.toBeInstanceOf(OutputClosed);
  });

  test.each(["EPIPE", "ENOSPC"])("does not mind that remarks cannot be written: %s", async (code) => {
    const { output, stdout, stderr } = keptOutput();
    stderr.failure = broken(code);
    await output.note("remark");
    await output.flush();
    await output.write("text");
    expect(stdout.text).toBe("text");
  });
});

describe("progress", () => {
  function progressOf(output: Output) {
    const clock = { ms: 0 };
    return { clock, progress: new Progress(output, () => clock.ms) };
  }

  test("redraws a line that a person watches, and erases it", () => {
    const { output, stderr } = keptOutput({ isWatched: true });
    const { clock, progress } = progressOf(output);
    for (const [ms, text] of [
      [0, "too early"],
      [99, "still"],
      [100, "first"],
      [199, "too soon"],
      [200, "second"],
    ] as const) {
      clock.ms = ms;
      progress.update(text);
    }
    progress.clear();
    progress.clear();
    expect(stderr.text).toBe("\r\x1b[Kfirst\r\x1b[Ksecond\r\x1b[K");
  });

  test("is a line now and then of what takes long, where nobody watches", () => {
    const { output, stderr } = keptOutput();
    const { clock, progress } = progressOf(output);
    for (const ms of [0, 999, 1000, 5999, 6000]) {
      clock.ms = ms;
      progress.update(`at ${ms}`);
    }
    progress.clear();
    expect(stderr.text).toBe("at 1000\nat 6000\n");
  });
});

describe("a command that fails", () => {
  test.each<[string, unknown, number, string]>([
    ["on purpose", new StrataError("io", "x: cannot be read\n  (really)"), 1, "strata: x: cannot be read (really)\n"],
    ["by wrong usage", new UsageError("-n is odd"), 2, "strata fail: -n is odd (see strata fail --help)\n"],
    ["by surprise", new TypeError("oh"), 1, "strata: unexpected TypeError: oh (run again with --debug to see where)\n"],
    ["for want of room", broken("ENOSPC"), 1, "strata: the output cannot be written (the disk is full)\n"],
    ["with no error", "oh", 1, "strata: unexpected error: oh (run again with --debug to see where)\n"],
    ["since nobody reads", new OutputClosed("closed"), 0, ""],
  ])("says why in one line: %s", async (_, error, code, line) => {
    const { output, stdout, stderr } = keptOutput();
    expect(await failing(error).execute([], output)).toBe(code);
    expect([stdout.text, stderr.text]).toEqual(["", line]);
  });

  test("shows the stack where it is asked for", async () => {
    const { output, stderr } = keptOutput();
    expect(await failing(new TypeError("oh")).execute(["--debug"], output)).toBe(1);
    expect(stderr.text).toStartWith("strata: unexpected TypeError: oh\n");
    expect(stderr.text).toContain("output.test.ts");
  });
});
