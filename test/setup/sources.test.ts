import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { entriesOf, removeLeftovers } from "../../lib/setup/files.mjs";
import { ggmlIsUnpacked, versionOf } from "../../lib/setup/ggml.mjs";
import { isWhole } from "../../lib/setup/models.mjs";
import { packagesAreInstalled } from "../../lib/setup/packages.mjs";
import { checkout, pathsOf } from "../../lib/setup/paths.mjs";
import { ggmlManifest, pins } from "../../lib/setup/pins.mjs";
import { Progress } from "../../lib/setup/progress.mjs";
import { Folder } from "./folder.ts";

const read = (path: string) => readFileSync(join(checkout, path), "utf8");

test("every version is pinned once, or the same each time", () => {
  const { devDependencies, dependencies } = JSON.parse(read("package.json"));
  for (const version of Object.values({ ...dependencies, ...devDependencies }))
    expect(version).toMatch(/^\d+\.\d+\.\d+$/);
  expect(devDependencies["node-llama-cpp"]).toBe(pins.peer.version);
  expect(ggmlManifest.packageVersion).toBe(pins.peer.version);
  expect(devDependencies["@types/bun"]).toBe(pins.bun.version);
  expect(read("build.zig")).toContain(`zig_version = "${pins.zig.version}"`);
  expect(read("ggml/sources.zig")).toContain(`version = "${ggmlManifest.version}"`);
  expect(read("package-lock.json")).not.toContain('"resolved"');
});

test("ggml's version is read from its own build file", () => {
  expect(versionOf("set(GGML_VERSION_MAJOR 0)\nset(GGML_VERSION_MINOR 25)\nset(GGML_VERSION_PATCH 1)")).toBe("0.25.1");
  expect(versionOf("")).toBe("?.?.?");
});

test("ggml's source counts only whole and from the pinned commit", () => {
  using folder = new Folder();
  const paths = pathsOf(folder.path, {});
  expect(ggmlIsUnpacked(paths)).toBe(false);
  folder.file(".cache/ggml/src/ggml.c", "");
  expect(ggmlIsUnpacked(paths)).toBe(false);
  folder.file(".cache/ggml/strata.json", JSON.stringify({ source: "of another commit" }));
  expect(ggmlIsUnpacked(paths)).toBe(false);
  expect(ggmlIsUnpacked(pathsOf(checkout))).toBe(true);
});

test("packages count only if they are those of the lockfile", () => {
  using folder = new Folder();
  const paths = pathsOf(folder.path, {});
  const lock = (integrity: string) =>
    JSON.stringify({
      packages: { "": {}, "node_modules/a": { integrity }, "node_modules/gpu": { integrity: "x", optional: true } },
    });
  folder.file("package-lock.json", lock("sha512-new"));
  expect(packagesAreInstalled(paths)).toBe(false);
  folder.file("node_modules/.package-lock.json", lock("sha512-new"));
  expect(packagesAreInstalled(paths)).toBe(false);
  folder.file("node_modules/a/package.json", "{}");
  expect(packagesAreInstalled(paths)).toBe(true);
  folder.file("node_modules/.package-lock.json", lock("sha512-old"));
  expect(packagesAreInstalled(paths)).toBe(false);
});

test("a model counts only with the pinned bytes, and is read again when it has changed", async () => {
  using folder = new Folder();
  const paths = pathsOf(folder.path, {});
  const path = ".cache/models/tiny.gguf";
  const sha256 = new Bun.CryptoHasher("sha256").update("the model").digest("hex");
  const model = { file: "tiny.gguf", bytes: 9, sha256, parts: [] };
  expect(await isWhole(paths, model)).toBe(false);
  folder.file(path, "the mod");
  expect(await isWhole(paths, model)).toBe(false);
  folder.file(path, "the modem");
  expect(await isWhole(paths, model)).toBe(false);
  folder.file(path, "the model");
  expect(await isWhole(paths, model)).toBe(true);
  await Bun.sleep(5);
  folder.file(path, "the modem");
  expect(await isWhole(paths, model)).toBe(false);
});

test("what an interrupted step left is removed, and nothing else", () => {
  using folder = new Folder();
  folder.file("tmp-zig-123/target/ziglang/zig", "half");
  folder.file("ggml/strata.json", "{}");
  removeLeftovers(folder.path);
  expect(entriesOf(folder.path).map((entry) => entry.name)).toEqual(["ggml"]);
});

test("progress in a log is whole lines, and on a terminal one line that rewrites itself", async () => {
  const written = async (isTTY: boolean) => {
    let text = "";
    const output = { write: (more: string) => (text += more), isTTY, columns: 40 };
    const progress = new Progress(2, output);
    await progress.step("Zig", async (step) => {
      step.howFar = () => "12 of about 413 MB and a long story that does not fit";
      step.show();
    });
    await progress.step("Library", () => Promise.reject(new Error("broken"))).catch(() => {});
    return text;
  };
  const log = (await written(false)).replace(/\d+\.\d s/g, "T").split("\n");
  expect(log).toEqual([
    "[1/2] Zig ...",
    "[1/2] Zig: 12 of about 413 MB and a long story that does not fit, T",
    "[1/2] Zig: done, T",
    "[2/2] Library ...",
    "[2/2] Library: failed, T",
    "",
  ]);
  const lines = (await written(true)).split(/\r\x1b\[2K|\n/).filter(Boolean);
  for (const line of lines) expect(line.length).toBeLessThan(40);
  expect(lines.at(-1)).toStartWith("[2/2] Library: failed");
});
