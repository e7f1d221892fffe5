/** The architectures that come with Strata pass the kit, with made-up weights and with the fixtures' models and logits. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { openModelFile, type Architecture, type MetadataValue } from "ggstrata";
import { checkArchitecture, testArchitecture, type CheckReport } from "ggstrata/testing";
import { readEnvironment } from "../../lib/environment.ts";
import { architectures } from "../../plugins/index.ts";
import { root } from "../model/help.ts";

setDefaultTimeout(120_000);

const isWhole = readEnvironment("STRATA_SOAK") !== undefined;

function find(name: string): Architecture {
  const found = architectures.find(({ names }) => names.includes(name));
  if (found === undefined) throw new Error(`there is no architecture ${name}`);
  return found;
}

/** A fixture's metadata without its tokenizer, as an example of a tiny model. */
function exampleOf(fixture: string): Readonly<Record<string, MetadataValue>> {
  using file = openModelFile(join(root, "test/fixtures", fixture, "model.gguf"));
  const { metadata } = file;
  const architecture = metadata.string("general.architecture");
  const entries = metadata.keys.flatMap((key): [string, MetadataValue][] => {
    const value = metadata.get(key);
    return value === undefined || key.startsWith("tokenizer.") || key.startsWith("general.") ? [] : [[key, value]];
  });
  const own = {
    "general.architecture": architecture,
    [`${architecture}.vocab_size`]: metadata.strings("tokenizer.ggml.tokens").length,
  };
  return { ...Object.fromEntries(entries), ...own };
}

/** Whose keys depend on each other in ways that usual answers do not meet, and what an architecture's example leaves out. */
const examples: Readonly<Record<string, string>> = {
  "kimi-linear": "kimi-linear",
  qwen3next: "qwen3next",
  nemotron_h_moe: "nemotron-h-moe",
};

function expectPassed(report: CheckReport, skipped: readonly string[]): void {
  expect(report.checks.filter(({ outcome }) => outcome === "failed")).toEqual([]);
  expect(report.passed).toBe(true);
  const left = report.checks.flatMap(({ name, outcome }) => (outcome === "skipped" ? [name] : []));
  expect(left.filter((name) => !skipped.includes(name))).toEqual([]);
}

const madeUp = isWhole
  ? architectures.flatMap(({ names }) => names)
  : ["granitehybrid", "jamba", "kimi-linear", "nemotron_h", "nemotron_h_moe", "rwkv6"];

describe("with made-up weights", () => {
  test.each(madeUp)("%s", async (name) => {
    const fixture = examples[name];
    const architecture = fixture === undefined ? find(name) : { ...find(name), example: exampleOf(fixture) };
    const report = await checkArchitecture(architecture);
    expect(report).toMatchObject({ architecture: architecture.names[0], model: null });
    expectPassed(report, ["weights that a file may lack", "logits = the reference's"]);
  });
});

const names = [
  ...["llama", "gemma3", "mamba2", "granitehybrid", "granitehybrid-moe", "bamba", "qwen3", "mamba", "falcon-mamba"],
  ...["jamba", "plamo2", "qwen3next", "qwen35", "kimi-linear", "lfm2", "lfm2moe", "recurrentgemma", "rwkv6", "rwkv7"],
  ...["falcon-h1", "nemotron-h", "nemotron-h-moe"],
];

describe("with the fixture's model and reference", () => {
  test.each(isWhole ? names : ["jamba"])("%s", async (name) => {
    const folder = join(root, "test/fixtures", name);
    const model = join(folder, "model.gguf");
    using file = openModelFile(model);
    const architecture = find(file.metadata.string("general.architecture"));
    // ggml's gelu is a table of f16 values.
    const tolerance = name === "gemma3" ? 1e-6 : undefined;
    const report = await checkArchitecture(architecture, { model, reference: folder, tolerance });
    expect(report.model).toBe(model);
    expectPassed(report, ["weights that a file may lack"]);
  });
});

// As an author writes it.
testArchitecture(find("mamba2"), {
  model: join(root, "test/fixtures/mamba2/model.gguf"),
  reference: join(root, "test/fixtures/mamba2/reference.json"),
});
