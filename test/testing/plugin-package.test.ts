/** `strata plugin new` writes a package that passes its own tests, and `strata plugin check` says what is wrong with one. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Architecture } from "ggstrata";
import { writePluginPackage } from "../../lib/cli/plugin-new.ts";
import { strataHere } from "../cli/strata.ts";
import { fixturePath, Folder, root } from "../model/help.ts";

setDefaultTimeout(120_000);

const folder = new Folder();
const made = join(folder.path, "made");
const plugin = join(made, "my-arch.ts");

beforeAll(async () => {
  const { code, stdout, stderr } = await strataHere("plugin", "new", "my-arch", "--dir", made, "--json");
  expect([code, stderr]).toEqual([0, ""]);
  const files = [".gitignore", "README.md", "my-arch.test.ts", "my-arch.ts", "package.json", "tsconfig.json"];
  expect(JSON.parse(stdout)).toEqual({ package: "ggstrata-arch-my-arch", folder: made, files: expect.any(Array) });
  expect((JSON.parse(stdout) as { files: string[] }).files.toSorted()).toEqual(files);
  expect(readdirSync(made).toSorted()).toEqual(files);
  // What installing would bring.
  mkdirSync(join(made, "node_modules"));
  symlinkSync(root, join(made, "node_modules/ggstrata"));
  symlinkSync(join(root, "node_modules/@types"), join(made, "node_modules/@types"));
});

afterAll(() => folder[Symbol.dispose]());

async function run(...command: readonly string[]): Promise<{ code: number; text: string }> {
  const child = Bun.spawn([process.execPath, ...command], { cwd: made, stdout: "pipe", stderr: "pipe" });
  const [stdout, stderr, code] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  return { code, text: stdout + stderr };
}

/** The plugin with a part of its text replaced, in a file of its own. */
function changed(name: string, from: string, to: string): string {
  const text = readFileSync(plugin, "utf8");
  expect(text).toContain(from);
  const path = join(made, name);
  writeFileSync(path, text.replace(from, to));
  return path;
}

describe("a new package", () => {
  test("is one that npm knows", () => {
    const content = JSON.parse(readFileSync(join(made, "package.json"), "utf8")) as Record<string, unknown>;
    expect(content).toMatchObject({
      name: "ggstrata-arch-my-arch",
      exports: { ".": "./my-arch.ts" },
      peerDependencies: { ggstrata: expect.stringMatching(/^\^\d+\.\d+\.\d+$/) },
      devDependencies: { "@types/bun": "latest" },
    });
    for (const file of readdirSync(made, { withFileTypes: true })) {
      if (file.isFile()) expect(readFileSync(join(made, file.name), "utf8")).not.toMatch(/new-?architecture/i);
    }
  });

  test("passes its tests as generated", async () => {
    const { code, text } = await run("test");
    expect(text).toContain("(pass) my-arch > whole = chunks = one at a time");
    expect(text).toContain(" 0 fail\n");
    expect(code).toBe(0);
  });

  test("has no type errors", async () => {
    const { code, text } = await run("check");
    expect(text).toContain("No type errors");
    expect(code).toBe(0);
  });

  test("overwrites nothing", async () => {
    const before = readFileSync(plugin, "utf8");
    const { code, stderr } = await strataHere("plugin", "new", "my-arch", "--dir", made);
    expect(code).toBe(1);
    expect(stderr).toContain("in it already; give another --dir");
    expect(readFileSync(plugin, "utf8")).toBe(before);
  });

  test.each([
    "class",
    "default",
    "matrix",
    "type",
    "attention",
    "read-config",
    "attention-weights",
    "test-architecture",
  ])("may be named %p", async (name) => {
    const own = join(made, "others", name);
    await writePluginPackage(name, own);
    const [first, ...rest] = Object.entries((await import(join(own, `${name}.ts`))) as Record<string, Architecture>);
    expect(first?.[0]).toMatch(/^[a-z]\w+Architecture$/);
    expect([first?.[1].names, rest]).toEqual([[name], []]);
    const text = readFileSync(join(own, `${name}.test.ts`), "utf8");
    expect(text).toContain(`import { ${first?.[0]} } from "./${name}.ts";`);
    expect(text.match(/import \{ testArchitecture \}/g)).toHaveLength(1);
  });

  test.each(["My Arch", "../x", "", "-x", "a--b", "mine.test", "mine_spec"])("is not named %p", async (name) => {
    const { code } = await strataHere("plugin", "new", `--dir=${join(folder.path, "other")}`, "--", name);
    expect(code).toBe(name === "" ? 2 : 1);
    expect(readdirSync(folder.path)).not.toContain("other");
  });
});

test("strata plugin has help", async () => {
  const { code, stdout } = await strataHere("plugin", "--help");
  expect(code).toBe(0);
  expect(stdout).toContain("Usage: strata plugin new NAME [--dir FOLDER] | check FILE [-m MODEL --reference FILE]");
  expect((await strataHere("help")).stdout).toContain("\n  plugin ");
});

describe("strata plugin check", () => {
  test("passes a package by its folder, and prints each check", async () => {
    const { code, stdout } = await strataHere("plugin", "check", made);
    expect(stdout).toStartWith(
      "my-arch, a tiny model with random weights\n  ok      declaration: 3 layers, 3 memories",
    );
    expect(stdout).toContain("  -       logits = the reference's: no reference was given\n");
    expect(stdout).toMatch(/\d\d checks passed, 0 failed, 1 skipped\n$/);
    expect(code).toBe(0);
  });

  test("names the check that fails, and ends with 1", async () => {
    const broken = changed("broken.ts", "x = g.add(x, mixed);", "x = g.rows === 1 ? mixed : g.add(x, mixed);");
    const { code, stdout } = await strataHere("plugin", "check", broken, "--json");
    const { passed, architectures } = JSON.parse(stdout) as {
      passed: boolean;
      architectures: { passed: boolean; checks: { name: string; outcome: string; message: string }[] }[];
    };
    expect([code, passed, architectures.length, architectures[0]?.passed]).toEqual([1, false, 1, false]);
    const failed = architectures[0]?.checks.filter(({ outcome }) => outcome === "failed") ?? [];
    expect(failed).toContainEqual({
      name: "whole = chunks = one at a time",
      outcome: "failed",
      message: expect.stringContaining("the graph depends on the number of tokens in a step"),
    });
  });

  test("takes a model and a reference", async () => {
    const mamba2 = join(root, "plugins/mamba2.ts");
    const model = ["-m", fixturePath("mamba2")];
    const [own, other] = ["mamba2", "mamba"].map((name) => join(root, "test/fixtures", name));
    const good = await strataHere("plugin", "check", mamba2, ...model, "--reference", `${own}/reference.json`);
    expect(good.stdout).toMatch(/ok {6}logits = the reference's: 3 sequences, NMSE at most \d/);
    expect(good.code).toBe(0);
    const bad = await strataHere("plugin", "check", mamba2, ...model, "--reference", other ?? "");
    expect(bad.stdout).toContain("FAILED  logits = the reference's: ");
    expect(bad.code).toBe(1);
  });

  test.each<[string[], number, string]>([
    [["plugin"], 2, "new or check is missing"],
    [["plugin", "what", "x"], 2, '"what" is neither new nor check'],
    [["plugin", "new", "x", "-m", "y"], 2, "--model belongs to strata plugin check"],
    [["plugin", "check", "./no-such.ts"], 1, "no-such.ts"],
    [["plugin", "check", import.meta.dir], 1, "package.json: it is no package"],
    [["plugin", "check", import.meta.resolve("../model/help.ts").slice(7)], 1, "exports no architecture"],
  ])("%p is refused", async (args, code, sentence) => {
    const result = await strataHere(...args);
    expect([result.code, result.stdout]).toEqual([code, ""]);
    expect(result.stderr).toContain(sentence);
  });
});
