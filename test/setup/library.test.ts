import { expect, test } from "bun:test";
import { rmSync } from "node:fs";
import { join } from "node:path";
import { compileProgress, libraryIsBuilt, libraryKey } from "../../lib/setup/library.mjs";
import { statOf, writeStamp } from "../../lib/setup/files.mjs";
import { pathsOf } from "../../lib/setup/paths.mjs";
import { Folder } from "./folder.ts";

function project(folder: Folder) {
  folder.file("build.zig", "pub fn build() void {}");
  folder.file("zig/kernels/scan.zig", "// one");
  folder.file("ggml/sources.zig", "// two");
  return pathsOf(folder.path, {});
}

test("the key changes with each thing that the library is made of, and with nothing else", () => {
  using folder = new Folder();
  const paths = project(folder);
  const keys = [libraryKey(paths, "cpu with avx2")];
  const changed = () => {
    keys.push(libraryKey(paths, "cpu with avx2"));
    expect(new Set(keys).size).toBe(keys.length);
  };
  folder.file("README.md", "not part of it");
  expect(libraryKey(paths, "cpu with avx2")).toBe(keys[0]!);
  expect(libraryKey(paths, "cpu with avx512")).not.toBe(keys[0]!);
  folder.file("zig/kernels/scan.zig", "// another");
  changed();
  folder.file("zig/added.zig", "");
  changed();
  rmSync(join(folder.path, "zig/added.zig"));
  folder.file("zig/renamed.zig", "");
  changed();
  folder.file("build.zig", "pub fn build() u8 {}");
  changed();
  folder.file("ggml/sources.zig", "// three");
  changed();
});

test("a library counts as built only whole, as stamped, and from these sources", () => {
  using folder = new Folder();
  const paths = project(folder);
  const key = libraryKey(paths, "cpu");
  expect(libraryIsBuilt(paths, key)).toBe(false);
  folder.file("zig-out/lib/" + paths.library.split("/").pop(), "machine code");
  expect(libraryIsBuilt(paths, key)).toBe(false);
  const { size, mtimeMs } = statOf(paths.library)!;
  writeStamp(paths.libraryStamp, { key, size, mtimeMs });
  expect(libraryIsBuilt(paths, key)).toBe(true);
  expect(libraryIsBuilt(paths, libraryKey(paths, "another cpu"))).toBe(false);
  folder.file("zig-out/strata-build.json", '{"key": "cut sho');
  expect(libraryIsBuilt(paths, key)).toBe(false);
  writeStamp(paths.libraryStamp, { key, size, mtimeMs });
  folder.file("zig-out/lib/" + paths.library.split("/").pop(), "other machine code, built by hand");
  expect(libraryIsBuilt(paths, key)).toBe(false);
});

test("the progress of compiling counts what the caches get, and never more than there is", () => {
  using folder = new Folder();
  const paths = project(folder);
  const compile = (from: number, to: number) => {
    for (let i = from; i < to; i += 1) folder.file(`.cache/zig/o/${i}/one.o`, "");
  };
  const howFar = compileProgress(paths, 5);
  compile(0, 2);
  expect(howFar()).toBe("Zig is compiling its build program");
  folder.file(".cache/zig-global/o/m/maker", "");
  expect(howFar()).toBe("2 of about 5 files compiled");
  compile(2, 5);
  expect(howFar()).toBe("5 of about 5 files compiled");
  compile(5, 7);
  expect(howFar()).toBe("7 files compiled");
  const again = compileProgress(paths, 5);
  compile(7, 8);
  expect(again()).toBe("1 newly compiled");
});
