import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { openModelFile } from "ggstrata";
import { strata, strataCommand, strataHere } from "../cli/strata.ts";
import { fixtureFolder, readSafetensors, Workshop, writeSafetensors } from "./checkpoints.ts";

setDefaultTimeout(30_000);

const workshop = new Workshop();
afterAll(() => rmSync(workshop.folder, { recursive: true }));

test("converts, and what it wrote continues a text", async () => {
  const path = workshop.path();
  const { code, stdout, stderr } = await strata([
    "convert",
    fixtureFolder("granitehybrid"),
    "-o",
    path,
    "--type",
    "q8_0",
  ]);
  expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
  expect(stdout).toBe(`${path}: granitehybrid, 50 tensors, q8_0, ${(Bun.file(path).size / 1000).toFixed(0)} kB\n`);
  const generated = await strata(["generate", "-m", path, "-p", "The quick", "-n", "4", "--temp", "0", "--json"]);
  expect(generated.code).toBe(0);
});

test("names and pre-tokenizers may be given", async () => {
  const path = workshop.path();
  const args = ["convert", fixtureFolder("mamba2"), "-o", path, "--name", "My model", "--pre", "qwen2", "--json"];
  expect((await strataHere(...args)).code).toBe(0);
  using file = openModelFile(path);
  expect(file.metadata.string("general.name")).toBe("My model");
  expect(file.metadata.string("tokenizer.ggml.pre")).toBe("qwen2");
});

test("wrong usage and wrong files end with one sentence", async () => {
  const path = workshop.path();
  writeFileSync(path, "mine");
  const said = async (...args: string[]) => {
    const { code, stdout, stderr } = await strataHere("convert", ...args);
    expect(stdout).toBe("");
    expect(stderr.trim()).not.toContain("\n");
    return [code, stderr] as const;
  };
  expect(await said("-o", path)).toEqual([2, expect.stringContaining("DIR is missing")]);
  expect(await said("x")).toEqual([2, expect.stringContaining("-o FILE is missing")]);
  expect(await said("x", "-o", path, "--type", "q4_0")).toEqual([
    2,
    expect.stringContaining("give one of f32, f16, bf16, q8_0"),
  ]);
  expect(await said("x", "-o", path)).toEqual([1, expect.stringContaining("there is no config.json in it")]);
  expect(await said(fixtureFolder("llama"), "-o", path)).toEqual([1, expect.stringContaining("--force")]);
  expect(await Bun.file(path).text()).toBe("mine");
  expect((await strataHere("convert", fixtureFolder("llama"), "-o", path, "--force")).code).toBe(0);
});

test("Ctrl-C removes what was written", async () => {
  // Large enough that it is still being written when the signal comes: two tables of 800,000 rows.
  const folder = workshop.copy("llama");
  const file = join(folder, "model.safetensors");
  const tensors = readSafetensors(file);
  const rows = 800_000;
  const large = { type: "BF16", shape: [rows, 64], bytes: new Uint8Array(2 * 64 * rows) };
  writeSafetensors(file, { ...tensors, "model.embed_tokens.weight": large, "lm_head.weight": large });
  workshop.change(folder, "config.json", { vocab_size: rows });
  const target = workshop.path();
  const parts = () =>
    readdirSync(workshop.folder).filter((name) => join(workshop.folder, name).startsWith(`${target}.`));
  const converting = Bun.spawn([...strataCommand, "convert", folder, "-o", target, "--no-tokenizer", "--type", "f32"], {
    stdout: "pipe",
    stderr: "pipe",
  });
  while (parts().length === 0 && converting.exitCode === null) await Bun.sleep(2);
  expect(parts()).toHaveLength(1);
  converting.kill("SIGINT");
  expect(await converting.exited).toBe(130);
  expect(parts()).toEqual([]);
  expect(await Bun.file(target).exists()).toBeFalse();
});
