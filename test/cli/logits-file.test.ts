import { expect, test } from "bun:test";
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { FloatFile } from "../../lib/cli/logits.ts";

async function inFolder(work: (folder: string) => Promise<void>): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), "strata-logits-"));
  try {
    await work(folder);
  } finally {
    await rm(folder, { recursive: true });
  }
}

test("rows are float32, little-endian, one after another", () =>
  inFolder(async (folder) => {
    const path = join(folder, "out");
    {
      await using file = await FloatFile.create(path);
      // A view into something longer: only the view is written.
      await file.write(Float32Array.of(9, 1, -2, 9).subarray(1, 3));
      await file.write(Float32Array.of(0.5, Infinity));
      await file.keep();
    }
    const bytes = await readFile(path);
    expect(bytes.length).toBe(16);
    expect([0, 4, 8, 12].map((offset) => bytes.readFloatLE(offset))).toEqual([1, -2, 0.5, Infinity]);
    expect(await readdir(folder)).toEqual(["out"]);
  }));

test("a file that did not become whole leaves the one before it", () =>
  inFolder(async (folder) => {
    const path = join(folder, "out");
    await writeFile(path, "before");
    {
      await using file = await FloatFile.create(path);
      await file.write(Float32Array.of(1));
      expect(await readdir(folder)).toHaveLength(2);
    }
    expect(await readdir(folder)).toEqual(["out"]);
    expect(await readFile(path, "utf8")).toBe("before");
  }));

test("what is no regular file is written directly", async () => {
  await using file = await FloatFile.create("/dev/null");
  await file.write(Float32Array.of(1));
  await file.keep();
  expect(await readdir("/dev")).not.toContain(`null.${process.pid}.part`);
});

test("where nothing can be written, a sentence says so", () =>
  inFolder(async (folder) => {
    const refusal = (path: string): Promise<FloatFile> => FloatFile.create(path);
    const missing = join(folder, "none", "out");
    await expect(refusal(missing)).rejects.toThrow(
      `${missing}: cannot be written (no such file or folder); give another file`,
    );
    await expect(refusal(folder)).rejects.toThrow(`${folder}: cannot be written (it is a folder); give another file`);
    await using full = await FloatFile.create("/dev/full");
    await expect(full.write(Float32Array.of(1))).rejects.toThrow("/dev/full: cannot be written (the disk is full)");
  }));
