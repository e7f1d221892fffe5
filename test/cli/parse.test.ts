import { describe, expect, test } from "bun:test";
import { choice, flag, name, readTokens, real, repeated, requiredText, whole } from "../../lib/cli/options.ts";
import { findOptions, readOptions } from "../../lib/cli/parse.ts";
import { UsageError } from "../../lib/cli/usage.ts";

const table = {
  prompt: requiredText("a text"),
  model: name("FILE", "a file", "m"),
  count: whole("N", "a count", { min: 0, max: 100 }, "n"),
  heat: real("X", "a number", { min: 0, max: 2, above: true }),
  kind: choice(["a", "b"], "a kind"),
  stop: repeated("TEXT", "texts"),
  json: flag("a flag"),
};

function read(...args: string[]) {
  const given = findOptions(table, args);
  return { ...readOptions(table, given), positionals: given.positionals };
}

function mistake(...args: string[]): string {
  try {
    read(...args);
  } catch (error) {
    expect(error).toBeInstanceOf(UsageError);
    if (error instanceof UsageError) return error.message;
  }
  throw new Error(`accepted ${args.join(" ")}`);
}

describe("the command line", () => {
  test("becomes values", () => {
    const args = ["-p", "a b", "--model=x.gguf", "-n5", "--heat", "1e-1", "--stop", "x", "--stop=y", "--json", "file"];
    expect(read(...args)).toEqual({
      prompt: "a b",
      model: "x.gguf",
      count: 5,
      heat: 0.1,
      kind: undefined,
      stop: ["x", "y"],
      json: true,
      positionals: ["file"],
    });
  });

  test("takes the last of an option given twice", () => {
    expect(read("-p", "a", "-n", "1", "--count", "2").count).toBe(2);
  });

  test.each(["-", "", "-5 degrees", "--", "--unknown"])("takes %p for a text", (text) => {
    expect(read("-p", text).prompt).toBe(text);
  });

  test("takes an option's name for a text where it is joined to it", () => {
    expect(read("--prompt=--json").prompt).toBe("--json");
  });

  test.each<[string[], string]>([
    [[], "-p TEXT is missing"],
    [["-p", "a", "--constructor"], "there is no option --constructor"],
    [["-p", "a", "--toString=1"], "there is no option --toString"],
    [["-p", "a", "--__proto__"], "there is no option --__proto__"],
    [["-p"], "-p needs a value: -p TEXT"],
    [["-p", "--json"], "-p needs a value before --json; if that is the value, write --prompt=--json"],
    [["-p", "-n", "1"], "-p needs a value before -n; if that is the value, write --prompt=-n"],
    [["--stop", "--model=x"], "--stop needs a value before --model=x; if that is the value, write --stop=--model=x"],
    [["--what"], "there is no option --what"],
    [["-x"], "there is no option -x"],
    [["--no-json"], "there is no option --no-json"],
    [["-p", "a", "--json=yes"], '--json takes no value, and "yes" was given'],
    [["-p", "a", "-m", ""], "-m is empty; give it a value"],
    [["-p", "a", "--stop", ""], "--stop is empty; give it a value"],
    [["-p", "a", "--kind", "c"], '--kind is "c"; give one of a, b'],
    [["-p", "a", "-n", "101"], '-n is "101"; give a whole number from 0 to 100'],
    [["-p", "a", "-n", "-1"], '-n is "-1"; give a whole number from 0 to 100'],
    [["-p", "a", "-n", "1.5"], '-n is "1.5"; give a whole number from 0 to 100'],
    [["-p", "a", "-n", "0x10"], '-n is "0x10"; give a whole number from 0 to 100'],
    [["-p", "a", "-n", ""], '-n is ""; give a whole number from 0 to 100'],
    [["-p", "a", "--heat", "0"], '--heat is "0"; give a number above 0, up to 2'],
    [["-p", "a", "--heat", "NaN"], '--heat is "NaN"; give a number above 0, up to 2'],
    [["-p", "a", "--heat", "Infinity"], '--heat is "Infinity"; give a number above 0, up to 2'],
  ])("refuses %p", (args, sentence) => {
    expect(mistake(...args)).toBe(sentence);
  });
});

describe("token ids", () => {
  test.each<[string, number[]]>([
    ["1,2,3", [1, 2, 3]],
    [" 1, 2\n3 ", [1, 2, 3]],
    ["[1, 2]\n", [1, 2]],
    ["[]", []],
    ["", []],
  ])("are read from %p", (text, tokens) => {
    expect(readTokens(text, "--tokens")).toEqual(tokens);
  });

  test.each(["-1", "1.0", "x", "1e3", "2147483648", "[[1]]"])("are not %p", (item) => {
    expect(() => readTokens(`7,${item}`, "--tokens")).toThrow("give token ids from 0 up with commas between them");
  });
});
