/** What callers hand to the SDK beside files: options that there are not, values of other kinds, paths that are none. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import {
  describeMemory,
  describeState,
  loadModel,
  loadPlugin,
  openModelFile,
  planMemory,
  type LoadOptions,
} from "ggstrata";
import { checkNames, checkPath } from "../../lib/arguments.ts";
import { fixturePath, refusal, thrown } from "./help.ts";

setDefaultTimeout(60_000);

const path = fixturePath("granitehybrid");

/** What `loadModel`, `planMemory` and `describeMemory` say of options. */
async function refusals(options: unknown): Promise<string[]> {
  const given = options as LoadOptions;
  using file = openModelFile(path);
  const errors = await Promise.all([
    refusal(loadModel(path, given).then((model) => model.dispose())),
    refusal(planMemory(path, given)),
    refusal(describeMemory(file, given)),
  ]);
  for (const { code } of errors) expect(code).toBe("invalid_argument");
  return errors.map(({ message }) => message.replace(`${path}: `, ""));
}

const names =
  "context, sequences, batch, kv, rollback, snapshotBytes, snapshotType, cells, streams, wholeWindows, flashAttention, " +
  "plugins, threads, onProgress, signal";

test.each<[options: unknown, sentence: string]>([
  [{ streams: "seperate" }, 'streams is "seperate"; give one of shared, separate'],
  [{ snapshotType: "F16" }, 'snapshotType is "F16"; give one of f32, f16'],
  [{ kv: null }, "kv is null; give one of f32, f16, bf16, q8_0, q4_0"],
  [{ wholeWindows: "false" }, 'wholeWindows is "false"; give true or false'],
  [{ flashAttention: 0 }, "flashAttention is 0; give true or false"],
  [{ rollback: "16" }, 'rollback is "16"; give a whole number from 0 to 1024'],
  [{ rollback: 1025 }, "rollback is 1025; give a number from 0 to 1024"],
  [{ context: "64" }, 'context is "64"; give a whole number from 1 to 268435456'],
  [{ cells: -1 }, "cells is -1; give a whole number from 0 to 1073741824"],
  [{ snapshotBytes: 1e16 }, "snapshotBytes is 10000000000000000; give a number of bytes from 0 to 1125899906842624"],
  [{ snapshotBytes: "5" }, 'snapshotBytes is "5"; give a number of bytes from 0 to 1125899906842624'],
  [{ snapshotBytes: Number.NaN }, "snapshotBytes is NaN; give a number of bytes from 0 to 1125899906842624"],
  [{ onProgress: true }, "onProgress is true; give a function"],
  [{ signal: true }, "signal is true; give an AbortSignal"],
  [{ ctx: 64 }, `there is no option "ctx"; there are ${names}`],
  [{ context: 64, snapshot: 5 }, `there is no option "snapshot"; there are ${names}`],
  [{ toString: 5 }, `there is no option "toString"; there are ${names}`],
  [null, "the options are null; give an object, { context: ... }"],
  ["q8_0", 'the options are "q8_0"; give an object, { context: ... }'],
])("%j is refused", async (options, sentence) => {
  expect(await refusals(options)).toEqual([sentence, sentence, sentence]);
});

test("the limits themselves, and options that are undefined, are taken", async () => {
  const all = names.split(", ").map((name) => [name, undefined]);
  const options = { ...(Object.fromEntries(all) as LoadOptions), ctx: undefined };
  expect((await planMemory(path, options)).options).toEqual((await planMemory(path)).options);
  using file = openModelFile(path);
  const { snapshots } = await describeMemory(file, { context: 64, rollback: 1024, snapshotBytes: 1.5, cells: 2 ** 30 });
  expect(snapshots).toBe(0);
});

describe("what is no path", () => {
  const rest = "give the path of a file";
  test.each<[unknown, string]>([
    [undefined, "is undefined"],
    [null, "is null"],
    [5, "is 5"],
    [new URL("file:///a"), "is a URL"],
    ["", "is empty"],
    ["a\0b", "has a zero byte in it"],
    ["lone \ud800 surrogate", "is not valid text"],
  ])("%p", async (value, fault) => {
    const given = value as string;
    const errors = {
      "model file": [refusal(loadModel(given)), refusal(planMemory(given)), thrown(() => openModelFile(given))],
      state: [thrown(() => describeState(given))],
      plugin: [refusal(loadPlugin(given))],
    };
    for (const [what, all] of Object.entries(errors)) {
      for (const error of await Promise.all(all)) {
        expect(error.code).toBe("invalid_argument");
        const remedy = what === "plugin" ? `${rest} or the name of a package` : rest;
        expect(error.message).toBe(`the path of the ${what} ${fault}; ${remedy}`);
      }
    }
  });

  test("a plugin among the options", async () => {
    expect((await refusals({ plugins: [""] }))[0]).toContain("the path of the plugin is empty");
    expect((await refusals({ plugins: [undefined] }))[0]).toContain("plugins[0] is undefined");
  });
});

test("a path is a text that can be one, and names are those given", () => {
  expect(() => checkPath("state", "a b")).not.toThrow();
  expect(() => checkNames({ a: 1 }, ["a"])).not.toThrow();
  expect(thrown(() => checkNames({ b: 1 }, ["a"])).message).toBe('there is no option "b"; there are a');
});
