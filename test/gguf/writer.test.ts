import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openModelFile } from "ggstrata";
import { encodeHeader, float32, GgufWriter, typedNumber, writeGguf, type GgufMetadata } from "../../lib/gguf/index.ts";
import { Gguf } from "../model/gguf.ts";

let folder = "";
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "strata-gguf-"));
});
afterAll(() => rm(folder, { recursive: true }));

const bytesOf = (...numbers: number[]) => new Uint8Array(Float32Array.from(numbers).buffer);

test("what is written is read back, every type of value", async () => {
  const path = join(folder, "values.gguf");
  const metadata: GgufMetadata = {
    "general.architecture": "made-up",
    text: "größer 🦀 \0 end",
    empty: "",
    yes: true,
    count: 7,
    large: 2 ** 40,
    below: -5,
    farBelow: -(2 ** 40),
    part: 0.5,
    base: float32(10000),
    left: undefined,
    byte: typedNumber("uint8", 255),
    signed: typedNumber("int8", -128),
    short: typedNumber("uint16", 65535),
    signedShort: typedNumber("int16", -32768),
    huge: typedNumber("uint64", 2n ** 63n),
    hugeBelow: typedNumber("int64", -(2n ** 63n)),
    double: typedNumber("float64", Math.PI),
    words: ["a", "", "ß"],
    none: [],
    flags: [true, false],
    bytes: Uint8Array.of(1, 2),
    shorts: Int16Array.of(-1, 2),
    counts: Uint32Array.of(0, 4294967295),
    signs: Int32Array.of(-1),
    floats: Float32Array.of(0.5, Infinity),
    doubles: Float64Array.of(0.1),
    longs: BigInt64Array.of(-1n),
  };
  await writeGguf(path, { metadata, tensors: [] });
  using file = openModelFile(path);
  expect(file.metadata.keys).toEqual(Object.keys(metadata).filter((key) => key !== "left"));
  const read = Object.fromEntries(file.metadata.keys.map((key) => [key, file.metadata.get(key)]));
  expect(read).toEqual({
    ...metadata,
    base: 10000,
    byte: 255,
    signed: -128,
    short: 65535,
    signedShort: -32768,
    huge: 2n ** 63n,
    hugeBelow: -(2n ** 63n),
    double: Math.PI,
    left: undefined,
  });
  // The types of plain numbers are those that the comment promises: uint32, uint64, int32, int64, float32.
  const types = new Map(Gguf.read(path).values.map(({ key, type }) => [key, type]));
  const plain = ["count", "large", "below", "farBelow", "part", "base"].map((key) => types.get(key));
  expect(plain).toEqual([4, 10, 5, 11, 6, 6]);
});

test.each([32, 64, 4096])(
  "tensors lie where the header says, in pieces and in any order, aligned to %d",
  async (alignment) => {
    const path = join(folder, `tensors-${alignment}.gguf`);
    const tensors = [
      { name: "a", type: "f32", shape: [3] },
      { name: "b", type: "f16", shape: [5, 2] },
      { name: "c", type: "q8_0", shape: [64, 3] },
      { name: "d", type: "bf16", shape: [1, 1, 1, 2] },
    ] as const;
    const data = {
      a: bytesOf(1, 2, 3),
      b: Uint8Array.from({ length: 20 }, (_, i) => i),
      c: Uint8Array.from({ length: 6 * 34 }, (_, i) => 255 - i),
      d: Uint8Array.of(1, 2, 3, 4),
    };
    await using writer = await GgufWriter.create(path, { metadata: { "general.alignment": alignment }, tensors });
    for (const { name } of tensors.toReversed()) {
      await writer.write(name, [data[name].subarray(0, 3), data[name].subarray(3, 3), data[name].subarray(3)]);
    }
    expect(await Bun.file(path).exists()).toBeFalse();
    await writer.finish();
    expect(await readdir(folder)).toContain(`tensors-${alignment}.gguf`);
    expect((await readdir(folder)).filter((name) => name.endsWith(".part"))).toEqual([]);
    using file = openModelFile(path);
    expect(file.fileBytes).toBe(writer.fileBytes);
    expect(file.tensors.map(({ name, type, shape }) => ({ name, type, shape: [...shape] }))).toEqual([
      { name: "a", type: "f32", shape: [3] },
      { name: "b", type: "f16", shape: [5, 2] },
      { name: "c", type: "q8_0", shape: [64, 3] },
      { name: "d", type: "bf16", shape: expect.arrayContaining([1, 2]) },
    ]);
    const bytes = await readFile(path);
    const header = encodeHeader({ metadata: { "general.alignment": alignment }, tensors });
    for (const { name } of tensors) {
      const { offset, bytes: size } = header.places.get(name) ?? { offset: -1, bytes: 0 };
      expect(offset % alignment).toBe(0);
      expect(new Uint8Array(bytes.subarray(offset, offset + size))).toEqual(data[name]);
    }
  },
);

test("a long header keeps every byte", async () => {
  const words = Array.from({ length: 20_000 }, (_, i) => `word ${i}`.repeat(1 + (i % 3)));
  const path = join(folder, "long.gguf");
  await writeGguf(path, {
    metadata: { words },
    tensors: [{ name: "t", type: "f32", shape: [2], data: bytesOf(1, 2) }],
  });
  using file = openModelFile(path);
  expect(file.metadata.strings("words")).toEqual(words);
});

describe("refused", () => {
  const t = { name: "t", type: "f32", shape: [2] } as const;
  test.each<
    [string, GgufMetadata, readonly { name: string; type: "f32" | "q8_0"; shape: readonly number[] }[], string]
  >([
    ["a number that does not fit", { a: typedNumber("uint8", 256) }, [], '"a" is 256, which does not fit uint8'],
    ["a negative count", { a: typedNumber("uint32", -1) }, [], '"a" is -1, which does not fit uint32'],
    ["a part of an integer", { a: typedNumber("int32", 0.5) }, [], '"a" is 0.5, which is no exact int32'],
    ["mixed values", { a: ["x", true] as unknown as string[] }, [], '"a" is an array of mixed values'],
    ["null", { a: null as unknown as string }, [], '"a" is null'],
    ["two of one name", {}, [t, t], 'two tensors have the name "t"'],
    ["a long name", {}, [{ ...t, name: "n".repeat(64) }], "has 64 bytes, and ggml reads at most 63"],
    ["no dimension", {}, [{ ...t, shape: [] }], '"t" has the shape [], which is no shape'],
    ["five dimensions", {}, [{ ...t, shape: [1, 1, 1, 1, 1] }], "which is no shape"],
    ["half a block", {}, [{ ...t, type: "q8_0", shape: [48, 2] }], "whose rows are no multiple of 32 as q8_0 needs"],
    ["an odd alignment", { "general.alignment": 33 }, [], '"general.alignment" is 33'],
  ])("%s", async (_, metadata, tensors, message) => {
    const path = join(folder, "refused.gguf");
    await expect(GgufWriter.create(path, { metadata, tensors })).rejects.toThrow(message);
    expect(await readdir(folder)).not.toContain("refused.gguf");
  });

  test("too few bytes, too many, none, and a tensor that is not in the header; nothing is left behind", async () => {
    const path = join(folder, "sizes.gguf");
    {
      await using writer = await GgufWriter.create(path, { metadata: {}, tensors: [t] });
      await expect(writer.write("t", [new Uint8Array(7)])).rejects.toThrow('"t" was given 7 bytes, and it has 8');
      await expect(writer.write("t", [new Uint8Array(5), new Uint8Array(5)])).rejects.toThrow("given 10 bytes or more");
      await expect(writer.write("u", [new Uint8Array(8)])).rejects.toThrow('no tensor "u"');
      await expect(writer.finish()).rejects.toThrow('the data of the tensor "t" were not written');
    }
    expect((await readdir(folder)).filter((name) => name.startsWith("sizes"))).toEqual([]);
  });

  test("a file that exists, unless it may be replaced; a folder always; a folder that is not there", async () => {
    const path = join(folder, "taken.gguf");
    await writeFile(path, "mine");
    const create = (target: string, overwrite: boolean) => writeGguf(target, { metadata: {}, tensors: [], overwrite });
    await expect(create(path, false)).rejects.toThrow("the file exists already");
    expect(await readFile(path, "utf8")).toBe("mine");
    await create(path, true);
    expect((await readFile(path)).subarray(0, 4).toString()).toBe("GGUF");
    await mkdir(join(folder, "taken"));
    await expect(create(join(folder, "taken"), true)).rejects.toThrow("something that is no file has this name");
    await expect(create(join(folder, "missing", "x.gguf"), false)).rejects.toThrow("its folder does not exist");
  });
});
