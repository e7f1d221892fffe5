import { describe, expect, test } from "bun:test";
import { environmentVariables } from "../../lib/environment.ts";
import { strataHere, tinyHybrid } from "./strata.ts";
import packageFile from "../../package.json" with { type: "json" };

const commands = [
  ...["generate", "chat", "serve", "inspect", "tokenize", "detokenize", "perplexity", "logits", "bench", "demo"],
];

describe("help", () => {
  test("names every command and variable", async () => {
    for (const args of [["--help"], ["-h"], ["help"]]) {
      const { code, stdout, stderr } = await strataHere(...args);
      expect([code, stderr]).toEqual([0, ""]);
      for (const name of commands) expect(stdout).toContain(`\n  ${name} `);
      for (const { name, audience } of environmentVariables) expect(stdout.includes(name)).toBe(audience === "users");
    }
  });

  test.each(commands)("of %s shows its usage, options and JSON", async (name) => {
    const help = await strataHere(name, "--help");
    expect([help.code, help.stderr]).toEqual([0, ""]);
    expect(help.stdout).toContain(`\n\nUsage: strata ${name} `);
    for (const option of ["--json", "--plugin PLUGIN", "--debug", "--help"]) expect(help.stdout).toContain(option);
    expect(help.stdout).toMatch(/^JSON.*\{/m);
    expect(await strataHere("help", name)).toEqual(help);
    expect(await strataHere(name, "-h", "--json")).toEqual(help);
  });

  test("comes to stderr where there is no command", async () => {
    const { code, stdout, stderr } = await strataHere();
    expect([code, stdout]).toEqual([2, ""]);
    expect(stderr).toContain("Usage: strata COMMAND");
  });

  test("has the version", async () => {
    const version = { code: 0, stdout: `strata ${packageFile.version}\n`, stderr: "" };
    expect(await strataHere("--version")).toEqual(version);
  });
});

const m = ["-m", tinyHybrid];
const unread = ["-m", "no-such.gguf"];

describe("wrong usage", () => {
  test.each<[string, string[], string]>([
    ["", ["what"], 'there is no command "what"; start with one of generate, chat'],
    ["", ["toString"], 'there is no command "toString"'],
    ["", ["--json", "inspect"], "--json comes before the command; start with one of"],
    ["", ["help", "what"], 'there is no command "what"'],
    ["generate", ["-p", "a"], "-m FILE is missing"],
    ["generate", unread, "-p TEXT is missing"],
    ["generate", [...unread, "-p", "a", "b"], '"b" is one argument too many: it takes only options'],
    ["generate", [...unread, "-p", "a", "--temp", "NaN"], '--temp is "NaN"; give a number from 0 to 1000'],
    ["generate", [...unread, "-p", "a", "--top-k", "-1"], '--top-k is "-1"; give a whole number from 0 to 2147483647'],
    ["generate", [...unread, "-p", "a", "--top-p", "1.1"], '--top-p is "1.1"; give a number above 0, up to 1'],
    ["generate", [...unread, "-p", "a", "--min-p", "x"], '--min-p is "x"; give a number from 0 to 1'],
    ["generate", [...unread, "-p", "a", "--seed", "-1"], '--seed is "-1"; give a whole number from 0 up'],
    ["generate", [...unread, "-p", "a", "--ctx", "0"], '--ctx is "0"; give a whole number from 1 up'],
    ["generate", [...unread, "-p", "a", "--kv", "f8"], '--kv is "f8"; give one of f32, f16, bf16, q8_0, q4_0'],
    ["generate", [...unread, "-p", "a", "--repeat-penalty", "0"], '--repeat-penalty is "0"; give a number from 0.01'],
    ["perplexity", unread, "-f TEXT is missing"],
    ["perplexity", [...unread, "-f", "a", "--ctx", "3"], '--ctx is "3"; give a whole number from 4 up'],
    ["chat", [], "-m FILE is missing"],
    ["chat", [...unread, "--threads", "two"], '--threads is "two"; give a whole number from 1 up'],
    ["serve", [], "-m FILE is missing"],
    ["serve", [...unread, "--port", "65536"], '--port is "65536"; give a whole number from 0 to 65535'],
    ["serve", [...unread, "--parallel", "0"], '--parallel is "0"; give a whole number from 1 up'],
    ["logits", [...unread, "--out", "x"], "--tokens IDS is missing"],
    ["logits", [...unread, "--tokens", "1"], "--out FILE is missing"],
    ["logits", [...unread, "--tokens", "1,x", "--out", "x"], '--tokens has "x" in it; give token ids from 0 up'],
    ["logits", [...unread, "--tokens", " ", "--out", "x"], "--tokens has no token in it"],
    ["logits", [...unread, "--tokens", "1", "--out", "x", "--chunk", "0"], '--chunk is "0"'],
    ["tokenize", unread, "-p TEXT is missing"],
    ["detokenize", unread, "--tokens IDS is missing"],
    ["inspect", [], "FILE is missing"],
    ["inspect", [""], "FILE is empty"],
    ["inspect", ["a", "b"], '"b" is one argument too many: it takes 1 argument'],
    ["inspect", ["a", "--what"], "there is no option --what"],
    ["bench", [...unread, "--reps", "0"], '--reps is "0"; give a whole number from 1 up'],
    ["bench", [...unread, "--pp"], "--pp needs a value: --pp N"],
    ["demo", ["--plugin", ""], "--plugin is empty"],
  ])("strata %s %p", async (command, args, sentence) => {
    const name = command === "" ? "strata" : `strata ${command}`;
    const { code, stdout, stderr } = await strataHere(...(command === "" ? [] : [command]), ...args);
    expect([code, stdout]).toEqual([2, ""]);
    expect(stderr).toStartWith(`${name}: ${sentence}`);
    expect(stderr).toEndWith(` (see ${name} --help)\n`);
    expect(stderr.trim().split("\n")).toHaveLength(1);
  });
});

describe("a failure is one line, and nothing on stdout", () => {
  const missing = ["-m", "no-such.gguf", "--json"];
  test.each<[string[], string]>([
    [["generate", ...missing, "-p", "a"], "no-such.gguf"],
    [["chat", ...missing], "no-such.gguf"],
    [["inspect", "no-such.gguf", "--json"], "no-such.gguf"],
    [["tokenize", ...missing, "-p", "a"], "no-such.gguf"],
    [["detokenize", ...missing, "--tokens", "1"], "no-such.gguf"],
    [["perplexity", ...missing, "-f", import.meta.path], "no-such.gguf"],
    [["perplexity", ...m, "-f", "no-such.txt"], "no-such.txt: cannot be read (no such file or folder)"],
    [["logits", ...missing, "--tokens", "1", "--out", "/dev/null"], "no-such.gguf"],
    [["logits", ...m, "--tokens", "1", "--out", "/no/such/folder"], "/no/such/folder: cannot be written"],
    [["logits", ...m, "--tokens", "1,4096", "--out", "/dev/null"], "4096"],
    [["bench", ...missing], "no-such.gguf"],
    [["serve", ...missing, "--host", "192.0.2.1", "--port", "0"], "cannot listen on port 0 of 192.0.2.1"],
    [["inspect", import.meta.dir, "--json"], import.meta.dir],
    [["inspect", import.meta.path, "--json"], import.meta.path],
    [["generate", ...m, "-p", "", "--json"], "the prompt is empty"],
    [["generate", ...m, "-p", "one two three four five", "--ctx", "4"], "the context is 4"],
    [["tokenize", ...m, "-p", "a", "--plugin", "no-such.ts"], "no-such.ts: there is no such plugin file"],
    [["tokenize", ...m, "-p", "a", "--plugin", import.meta.resolve("./strata.ts").slice(7)], "exports no architecture"],
    [["detokenize", ...m, "--tokens", "4096"], "4096"],
    [["chat", ...m], "continue plain text with `strata generate`"],
  ])("%p", async (args, part) => {
    const { code, stdout, stderr } = await strataHere(...args);
    expect([code, stdout]).toEqual([1, ""]);
    expect(stderr).toStartWith("strata: ");
    expect(stderr).toContain(part);
    expect(stderr.trim().split("\n")).toHaveLength(1);
  });

  test("unless its stack is asked for", async () => {
    const { code, stdout, stderr } = await strataHere("inspect", "no-such.gguf", "--debug");
    expect([code, stdout]).toEqual([1, ""]);
    expect(stderr).toMatch(/\n +at .*file\.ts/);
  });
});
