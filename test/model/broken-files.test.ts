/** Every way in which a model file can be wrong: one sentence that names the file, what is wrong in it, what was expected. */
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { chmodSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describeMemory, loadModel, openModelFile, type StrataError } from "ggstrata";
import { Gguf, GgufType, numbers, partPath } from "./gguf.ts";
import { fixtureNames, fixturePath, Folder, generated, refusal, someTokens, thrown } from "./help.ts";

setDefaultTimeout(60_000);

const folder = new Folder();
afterAll(() => folder[Symbol.dispose]());

let count = 0;

/** The llama fixture, changed. */
function changed(change: (file: Gguf) => unknown): string {
  const file = Gguf.read(fixturePath("llama"));
  change(file);
  count += 1;
  return folder.write(`changed-${count}.gguf`, file.write());
}

async function loadError(path: string): Promise<StrataError> {
  return refusal(loadModel(path, { threads: 1, context: 64 }).then((model) => model.dispose()));
}

/** Root may read everything, so it becomes somebody else for a moment. */
function asNobody<T>(work: () => T): T {
  if (process.geteuid?.() !== 0) return work();
  process.seteuid?.(65534);
  try {
    return work();
  } finally {
    process.seteuid?.(0);
  }
}

const float32 = (value: number) => numbers(4, (view) => view.setFloat32(0, value, true));
const int32 = (value: number) => numbers(4, (view) => view.setInt32(0, value, true));
const whole = readFileSync(fixturePath("llama"));

test("the tests' writer gives back what it read", async () => {
  for (const name of fixtureNames) {
    const path = folder.write(`${name}-again.gguf`, Gguf.read(fixturePath(name)).write());
    await using again = await loadModel(path, { threads: 1, context: 128 });
    await using first = await loadModel(fixturePath(name), { threads: 1, context: 128 });
    const [a, b] = [
      await generated(again, someTokens(9), { maxTokens: 9 }),
      await generated(first, someTokens(9), { maxTokens: 9 }),
    ];
    expect(a.tokens).toEqual(b.tokens);
    expect(again.metadata.keys).toEqual(first.metadata.keys);
  }
});

describe("what is no model file", () => {
  test.each([
    ["an empty file", new Uint8Array(), "the file is empty, expected a GGUF file"],
    ["text", "# a model\n", 'this is not a GGUF file: it starts with "# a ", expected "GGUF"'],
    ["one byte", "G", 'this is not a GGUF file: it starts with "G", expected "GGUF"'],
  ])("%s", async (name, content, sentence) => {
    const path = folder.write(`${name.replaceAll(" ", "-")}.gguf`, content);
    const error = await loadError(path);
    expect(error.code).toBe("bad_format");
    expect(error.message).toBe(`${path}: ${sentence}`);
  });

  test("a directory, a missing file, an empty path, a path with a zero byte", async () => {
    const path = join(folder.path, "folder.gguf");
    mkdirSync(path);
    expect((await loadError(path)).message).toBe(`${path}: this is a directory; give the path of a .gguf file in it`);
    const missing = join(folder.path, "missing.gguf");
    const error = await loadError(missing);
    expect(error.code).toBe("not_found");
    expect(error.message).toStartWith(`${missing}: `);
    expect((await loadError("")).code).toBe("invalid_argument");
    expect((await loadError("a\0b")).code).toBe("invalid_argument");
    expect((await loadError("lone \ud800 surrogate")).code).toBe("invalid_argument");
  });

  test("an unreadable file", () => {
    const path = folder.write("unreadable.gguf", whole);
    chmodSync(path, 0);
    const error = thrown(() => asNobody(() => openModelFile(path)));
    expect(error.code).toBe("io");
    expect(error.message).toStartWith(`${path}: this process may not read it`);
  });

  test("a version that is not known", async () => {
    const path = changed((file) => (file.version = 7));
    const error = await loadError(path);
    expect(error.code).toBe("unsupported");
    expect(error.message).toStartWith(`${path}: `);
    expect(error.message).toContain("GGUF version 7 is not supported, expected 2 or 3");
  });
});

test("a file that ends anywhere", async () => {
  for (const size of [5, 12, 23, 24, 100, 3000, 10_000, 16_000, whole.length >> 1, whole.length - 1]) {
    const path = folder.write(`cut-${size}.gguf`, whole.subarray(0, size));
    const error = await loadError(path);
    expect(error.code).toBe("bad_format");
    expect(error.message).toStartWith(`${path}: `);
    expect(error.message).toMatch(/cut off|damaged|not a GGUF/);
  }
});

describe("metadata", () => {
  test.each<[string, (file: Gguf) => unknown, string]>([
    [
      "an unknown architecture",
      (file) => file.setString("general.architecture", "gptj"),
      'no plugin declares the architecture "gptj"; known are ',
    ],
    [
      "no architecture",
      (file) => file.delete("general.architecture"),
      'the metadata lacks the key "general.architecture" (expected a string)',
    ],
    [
      "an architecture that is a number",
      (file) => file.setCount("general.architecture", 3),
      '"general.architecture" is number 3, expected a string',
    ],
    [
      "a missing count",
      (file) => file.delete("llama.embedding_length"),
      'the metadata lacks the key "llama.embedding_length" (expected a whole number that is not negative)',
    ],
    [
      "a count that is text",
      (file) => file.setString("llama.embedding_length", "64"),
      '"llama.embedding_length" is the string "64", expected a whole number that is not negative',
    ],
    [
      "a count that is a fraction",
      (file) => file.set("llama.attention.head_count", GgufType.float32, float32(7.5)),
      '"llama.attention.head_count" is number 7.5, expected a whole number that is not negative',
    ],
    [
      "a count below zero",
      (file) => file.set("llama.block_count", GgufType.int32, int32(-1)),
      '"llama.block_count" is number -1, expected a whole number that is not negative',
    ],
    [
      "more layers than any model has",
      (file) => file.setCount("llama.block_count", 0xffff_ffff),
      '"llama.block_count" is number 4294967295, expected ',
    ],
    ["no layers", (file) => file.setCount("llama.block_count", 0), '"llama.block_count" is number 0, expected '],
    [
      "a number that is a list",
      (file) => file.setStrings("llama.attention.layer_norm_rms_epsilon", ["1e-5"]),
      '"llama.attention.layer_norm_rms_epsilon" is an array of 1 values, expected a number',
    ],
    ["heads of no size", (file) => file.setCount("llama.attention.key_length", 0), "layer 0"],
    ["no heads", (file) => file.setCount("llama.attention.head_count_kv", 0), "layer 0"],
    ["a vocabulary of nothing", (file) => file.setCount("llama.vocab_size", 0), "config gives 0 for vocabulary"],
    [
      "a vocabulary beyond measure",
      (file) => file.setCount("llama.vocab_size", 0xffff_fff0),
      "config gives 4294967280 for vocabulary",
    ],
    ["a context of nothing", (file) => file.setCount("llama.context_length", 0), ""],
  ])("%s", async (_, change, sentence) => {
    const path = changed(change);
    const error = await refusal(loadModel(path, { threads: 1 }).then((model) => model.dispose()));
    expect(error.message).toStartWith(`${path}: `);
    expect(error.message).toContain(sentence);
  });

  test("a rotation that cannot be computed is found while loading", async () => {
    for (const dims of [7, 10, 0]) {
      const path = changed((file) => file.setCount("llama.rope.dimension_count", dims));
      const error = await loadError(path);
      expect(error.message).toStartWith(`${path}: `);
    }
  });

  test("a per-layer list of another length", async () => {
    const file = Gguf.read(fixturePath("granitehybrid"));
    file.setCount("granitehybrid.block_count", 3);
    const path = folder.write("layers.gguf", file.write());
    expect((await loadError(path)).message).toBe(
      `${path}: "granitehybrid.attention.head_count_kv" has 4 values, expected one for each of 3 layers`,
    );
  });
});

test("a file without a tokenizer computes token ids, and says that text it cannot", async () => {
  for (const name of ["none", "no_vocab"]) {
    const path = changed((file) => file.setString("tokenizer.ggml.model", name));
    await using model = await loadModel(path, { threads: 1, context: 64 });
    await using whole = await loadModel(fixturePath("llama"), { threads: 1, context: 64 });
    const [ids, expected] = [
      await generated(model, someTokens(5), { maxTokens: 4 }),
      await generated(whole, someTokens(5), { maxTokens: 4 }),
    ];
    expect(ids.tokens).toEqual(expected.tokens);
    expect(ids.text).toBe("");
    const error = await refusal(generated(model, "text"));
    expect(error.message).toContain("the file has no tokenizer");
  }
});

test.skipIf(process.platform !== "linux")("opening reads the header and no weights", () => {
  // So many tensors that a page of each would show, although the system maps up to 2 MiB around a byte that is read.
  const file = Gguf.read(fixturePath("llama"));
  const bytes = 1 << 16;
  for (let i = 0; i < 1024; i += 1) {
    file.tensors.push({ name: `more.${i}`, type: 0, shape: [bytes / 4], data: new Uint8Array(bytes) });
  }
  const path = folder.write("many-tensors.gguf", file.write());
  using opened = openModelFile(path);
  expect(opened.fileBytes).toBeGreaterThan(1024 * bytes);
  const maps = readFileSync("/proc/self/smaps", "utf8").split("\n");
  const start = maps.findIndex((line) => line.endsWith(path));
  const [, resident] = /^Rss: +(\d+) kB$/.exec(maps.slice(start).find((line) => line.startsWith("Rss:")) ?? "") ?? [];
  expect(Number(resident)).toBeGreaterThan(0);
  expect(Number(resident)).toBeLessThan(4096);
});

describe("tensors", () => {
  test("a missing one", async () => {
    const path = changed((file) => (file.tensor("blk.1.ffn_up.weight").name = "blk.1.ffn_upp.weight"));
    const error = await loadError(path);
    expect(error.code).toBe("bad_format");
    expect(error.message).toBe(`${path}: the tensor "blk.1.ffn_up.weight" is missing (expected [64, 128])`);
  });

  test("one of another shape, and of another number of dimensions", async () => {
    const turned = changed((file) => file.tensor("blk.1.ffn_up.weight").shape.reverse());
    expect((await loadError(turned)).message).toBe(
      `${turned}: the tensor "blk.1.ffn_up.weight" has the shape [128, 64], expected [64, 128]`,
    );
    const flat = changed((file) => (file.tensor("blk.0.attn_q.weight").shape = [4096]));
    expect((await loadError(flat)).message).toBe(
      `${flat}: the tensor "blk.0.attn_q.weight" has the shape [4096], expected [64, 64]`,
    );
  });

  test("one whose data would lie beyond the end", async () => {
    const path = changed((file) => (file.tensor("output_norm.weight").shape = [2 ** 40]));
    const error = await loadError(path);
    expect(error.message).toStartWith(`${path}: tensor "output_norm.weight": `);
    const wrapped = changed((file) => (file.tensor("output_norm.weight").shape = [2 ** 32, 2 ** 32, 2 ** 30]));
    expect((await loadError(wrapped)).message).toStartWith(`${wrapped}: tensor "output_norm.weight": `);
  });

  test("one twice", async () => {
    const path = changed((file) => file.tensors.push({ ...file.tensor("output_norm.weight") }));
    expect((await loadError(path)).message).toContain('tensor "output_norm.weight": ');
  });

  test("one of a type that its operation cannot compute with", async () => {
    for (const [name, type] of [
      ["blk.0.attn_q.weight", 26],
      ["blk.0.attn_norm.weight", 26],
      ["token_embd.weight", 26],
      ["output_norm.weight", 24],
      ["blk.0.attn_q.weight", 99],
    ] as const) {
      const path = changed((file) => {
        file.tensor(name).type = type;
      });
      const error = await loadError(path);
      expect(error.message).toStartWith(`${path}: `);
    }
  });
});

describe("a model in several files", () => {
  const file = Gguf.read(fixturePath("llama"));
  const parts = file.split(3);
  const paths = parts.map((bytes, i) => folder.write(partPath("split", i, 3), bytes));
  const [firstPath, secondPath] = paths as [string, string, string];

  test("is the whole", async () => {
    using opened = openModelFile(firstPath);
    expect(opened.parts).toBe(3);
    expect(opened.tensors.map(({ name }) => name).sort()).toEqual(file.tensors.map(({ name }) => name).sort());
    await using split = await loadModel(firstPath, { threads: 1 });
    await using one = await loadModel(fixturePath("llama"), { threads: 1 });
    const prompt = someTokens(30);
    expect((await generated(split, prompt, { maxTokens: 30 })).tokens).toEqual(
      (await generated(one, prompt, { maxTokens: 30 })).tokens,
    );
  });

  test("names the part that is missing", async () => {
    const alone = folder.write(partPath("alone", 0, 3), parts[0] ?? "");
    folder.write(partPath("alone", 1, 3), parts[1] ?? "");
    const error = await loadError(alone);
    expect(error.code).toBe("not_found");
    expect(error.message).toBe(
      `${alone}: part 3 of 3 is missing: expected alone-00003-of-00003.gguf in the same folder`,
    );
  });

  test("is opened by its first part, under its own name", async () => {
    expect((await loadError(secondPath)).message).toBe(
      `${secondPath}: this is part 2 of 3; open the first part, ${firstPath}`,
    );
    const renamed = folder.write("renamed.gguf", parts[0] ?? "");
    expect((await loadError(renamed)).message).toContain("its name does not end in -00001-of-00003.gguf");
  });

  test("with a broken part names that part", async () => {
    const first = folder.write(partPath("broken", 0, 3), parts[0] ?? "");
    const second = folder.write(partPath("broken", 1, 3), (parts[1] ?? new Uint8Array()).subarray(0, 900));
    folder.write(partPath("broken", 2, 3), parts[2] ?? "");
    expect((await loadError(first)).message).toStartWith(`${second}: `);
    writeFileSync(second, parts[2] ?? "");
    expect((await loadError(first)).message).toContain('key "split.no" is 2, expected 1');
  });
});

test("what cannot be loaded cannot be described either, and the file can be opened after all", async () => {
  const path = changed((file) => file.delete("llama.attention.head_count"));
  using file = openModelFile(path);
  expect(file.tensors).toHaveLength(30);
  const error = await refusal(describeMemory(file));
  expect(error.message).toStartWith(`${path}: the metadata lacks the key "llama.attention.head_count"`);
});

test("a closed file says so", () => {
  const file = openModelFile(fixturePath("llama"));
  file.dispose();
  file.dispose();
  expect(thrown(() => file.metadata.get("llama.block_count")).code).toBe("closed");
});
