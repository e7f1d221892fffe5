import { afterAll, describe, expect, test } from "bun:test";
import { readdirSync, rmSync, truncateSync, unlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { convertModel, type ConvertOptions } from "ggstrata";
import {
  f32,
  fixtureFolder,
  readJsonFile,
  readSafetensors,
  Workshop,
  writeSafetensors,
  type WrittenTensor,
} from "./checkpoints.ts";

const workshop = new Workshop();
afterAll(() => rmSync(workshop.folder, { recursive: true }));

/** Converts, expects a failure that says `message`, and that nothing is left of the file. */
async function refuses(folder: string, message: string | RegExp, options: ConvertOptions = {}): Promise<void> {
  const path = workshop.path();
  await expect(convertModel(folder, path, options)).rejects.toThrow(message);
  expect(readdirSync(workshop.folder).filter((name) => join(workshop.folder, name).startsWith(path))).toEqual([]);
}

function withTensors(
  name: string,
  change: (tensors: Record<string, WrittenTensor>) => Record<string, WrittenTensor>,
): string {
  const folder = workshop.copy(name);
  const path = join(folder, "model.safetensors");
  writeSafetensors(path, change(readSafetensors(path)));
  return folder;
}

describe("a folder that is not whole", () => {
  test("no folder, no config.json, none that is JSON, none that is an object", async () => {
    await refuses(join(workshop.folder, "nowhere"), "there is no config.json in it");
    await refuses(workshop.make({}), "give the folder of a Hugging Face checkpoint");
    await refuses(workshop.make({ "config.json": "{" }), /config\.json: it is no JSON/);
    await refuses(workshop.make({ "config.json": "[1]" }), "it holds no JSON object");
  });

  test("an architecture that none converts: those that can be are named", async () => {
    const folder = workshop.copy("llama");
    workshop.change(folder, "config.json", { architectures: ["GptForCausalLM"] });
    await refuses(
      folder,
      /no architecture converts "GptForCausalLM"; convertible are .*LlamaForCausalLM, Mamba2ForCausalLM/,
    );
    workshop.change(folder, "config.json", { architectures: undefined });
    await refuses(folder, 'lacks the key "architectures"');
  });

  test("a key that is missing, or asks for what is not computed", async () => {
    const folder = workshop.copy("llama");
    workshop.change(folder, "config.json", { num_hidden_layers: undefined });
    await refuses(folder, 'lacks the key "num_hidden_layers"');
    workshop.change(folder, "config.json", { num_hidden_layers: 3, intermediate_size: undefined });
    await refuses(folder, 'config.json, as converted: the metadata lacks the key "llama.feed_forward_length"');
    workshop.change(folder, "config.json", { intermediate_size: 128, hidden_act: "gelu" });
    await refuses(folder, '"hidden_act" is "gelu"');
    workshop.change(folder, "config.json", { hidden_act: "silu", rope_parameters: { rope_type: "yarn", factor: 4 } });
    await refuses(folder, '"yarn" (rope_type) cannot be converted');
    const mamba = workshop.copy("mamba2");
    workshop.change(mamba, "config.json", { time_step_limit: [0.001, 0.1] });
    await refuses(mamba, '"time_step_limit" is [0.001, 0.1]; only [0, Infinity]');
  });

  test("no safetensors, no tokenizer", async () => {
    const folder = workshop.copy("llama");
    unlinkSync(join(folder, "model.safetensors"));
    await refuses(folder, "there is neither model.safetensors nor model.safetensors.index.json");
    const other = workshop.copy("llama");
    unlinkSync(join(other, "tokenizer.json"));
    await refuses(other, "there is no tokenizer.json in it");
    const path = workshop.path();
    await convertModel(other, path, { tokenizer: false });
    expect(await Bun.file(path).exists()).toBeTrue();
  });

  test("an index that names nothing, a path, or a file that is missing", async () => {
    const folder = workshop.copy("llama");
    const index = join(folder, "model.safetensors.index.json");
    writeFileSync(index, JSON.stringify({ weight_map: {} }));
    await refuses(folder, '"weight_map" does not name the file of each tensor');
    writeFileSync(index, JSON.stringify({ weight_map: { a: "../model.safetensors" } }));
    await refuses(folder, '"weight_map" does not name the file of each tensor');
    writeFileSync(index, JSON.stringify({ weight_map: { a: "model-00001-of-00002.safetensors" } }));
    await refuses(folder, /model-00001-of-00002\.safetensors: cannot be read \(there is no such file\)/);
  });
});

describe("safetensors that are damaged", () => {
  const path = (folder: string) => join(folder, "model.safetensors");
  test.each([
    ["empty", (folder: string) => writeFileSync(path(folder), ""), "its header has no whole JSON"],
    ["cut in the header", (folder: string) => truncateSync(path(folder), 100), "its header has no whole JSON"],
    [
      "cut in the data",
      (folder: string) => truncateSync(path(folder), 400_000),
      /it has 400000 bytes, and the tensor ".*" ends at \d+; is it cut off\?/,
    ],
    ["of no JSON", (folder: string) => writeFileSync(path(folder), "\x05\0\0\0\0\0\0\0hello"), "it is no JSON"],
    [
      "with an entry that is none",
      (folder: string) => writeFileSync(path(folder), "\x0c\0\0\0\0\0\0\0" + '{"a":{"b":1}'.padEnd(11) + "}"),
      /does not describe the tensor "a"|it is no JSON/,
    ],
  ])("%s", async (_, damage, message) => {
    const folder = workshop.copy("llama");
    damage(folder);
    await refuses(folder, message);
  });

  test("of numbers that cannot be read", async () => {
    const folder = withTensors("llama", (tensors) => {
      const bytes = new Uint8Array(64);
      return { ...tensors, "model.norm.weight": { type: "F8_E4M3", shape: [64], bytes } };
    });
    await refuses(
      folder,
      'the tensor "model.norm.weight" has numbers of the type F8_E4M3; F64, F32, F16, BF16 can be read',
    );
  });
});

describe("tensors", () => {
  test("missing", async () => {
    const without = (tensors: Record<string, WrittenTensor>) => {
      const { "model.layers.1.mlp.up_proj.weight": _, ...rest } = tensors;
      return rest;
    };
    await refuses(
      withTensors("llama", without),
      'the checkpoint has no tensor "model.layers.1.mlp.up_proj.weight", of which "blk.1.ffn_up.weight" is made',
    );
  });

  test("left over: the first are named", async () => {
    const extra = (names: readonly string[]) => (tensors: Record<string, WrittenTensor>) => {
      return { ...tensors, ...Object.fromEntries(names.map((name) => [name, f32([1], [0])])) };
    };
    await refuses(withTensors("llama", extra(["model.odd"])), /does not know what to do with: model\.odd$/);
    const many = ["a", "b", "c", "d", "e", "f", "g"];
    await refuses(withTensors("llama", extra(many)), "what to do with: a, b, c, d, e and 2 more");
  });

  test("of the wrong shape, in the order of the file", async () => {
    const folder = withTensors("llama", (tensors) => ({
      ...tensors,
      "model.norm.weight": f32([65], new Float32Array(65)),
    }));
    await refuses(folder, '"output_norm.weight", made of "model.norm.weight", has the shape [65], expected [64]');
    const turned = withTensors("llama", (tensors) => {
      const tensor = tensors["model.layers.0.mlp.up_proj.weight"] as WrittenTensor;
      return { ...tensors, "model.layers.0.mlp.up_proj.weight": { ...tensor, shape: tensor.shape.toReversed() } };
    });
    await refuses(turned, "has the shape [128, 64], expected [64, 128]");
    const heads = withTensors("llama", (tensors) => {
      return { ...tensors, "model.layers.0.self_attn.q_proj.weight": f32([9, 64], new Float32Array(9 * 64)) };
    });
    await refuses(
      heads,
      'tensor "model.layers.0.self_attn.q_proj.weight" of shape (9, 64) cannot be shared by 8 heads',
    );
  });

  test("with numbers that the type cannot hold", async () => {
    const folder = withTensors("llama", (tensors) => {
      const values = new Float32Array(384 * 64);
      values[1000] = 1e6;
      return { ...tensors, "lm_head.weight": f32([384, 64], values) };
    });
    await refuses(folder, '"output.weight" has the number 1000000, which f16 cannot hold', { type: "f16" });
    await convertModel(folder, workshop.path(), { type: "bf16" });
  });
});

describe("tied embeddings", () => {
  const untied = (tensors: Record<string, WrittenTensor>) => {
    const { "lm_head.weight": _, ...rest } = tensors;
    return rest;
  };

  test("without a head: an error where the configuration says there is one, else the embeddings are it", async () => {
    const folder = withTensors("llama", untied);
    await refuses(folder, 'no tensor "lm_head.weight"');
    for (const tie_word_embeddings of [true, undefined]) {
      workshop.change(folder, "config.json", { tie_word_embeddings });
      expect((await convertModel(folder, workshop.path())).tensors).toBe(29);
    }
  });

  test("with a head all the same: the configuration counts", async () => {
    const folder = workshop.copy("llama");
    workshop.change(folder, "config.json", { tie_word_embeddings: true });
    expect((await convertModel(folder, workshop.path())).tensors).toBe(29);
    workshop.change(folder, "config.json", { tie_word_embeddings: undefined });
    expect((await convertModel(folder, workshop.path())).tensors).toBe(30);
  });
});

test("a file that exists is kept, unless it is to be replaced", async () => {
  const path = workshop.path();
  writeFileSync(path, "mine");
  await expect(convertModel(fixtureFolder("mamba2"), path)).rejects.toThrow("the file exists already");
  expect(await Bun.file(path).text()).toBe("mine");
  await convertModel(fixtureFolder("mamba2"), path, { overwrite: true });
  expect((await Bun.file(path).bytes()).subarray(0, 4)).toEqual(new TextEncoder().encode("GGUF"));
});

test("an abort in the middle leaves nothing behind", async () => {
  const controller = new AbortController();
  const seen: string[] = [];
  const path = workshop.path();
  const converting = convertModel(fixtureFolder("llama"), path, {
    signal: controller.signal,
    onProgress: ({ tensor, doneBytes, totalBytes }) => {
      seen.push(tensor);
      expect(doneBytes).toBeLessThan(totalBytes);
      if (seen.length === 5) controller.abort(new Error("enough"));
    },
  });
  await expect(converting).rejects.toThrow("enough");
  expect(seen).toHaveLength(5);
  expect(readdirSync(workshop.folder).filter((name) => join(workshop.folder, name).startsWith(path))).toEqual([]);
});

test("the configuration may have what JSON lacks", async () => {
  const folder = workshop.copy("mamba2");
  const config = readJsonFile(join(folder, "config.json"));
  const text = JSON.stringify({ ...config, note: 'Infinity "NaN"', time_step_limit: "LIMIT" });
  writeFileSync(
    join(folder, "config.json"),
    text.replace('"LIMIT"', "[0.0, Infinity]").replace("}", ', "x": NaN, "y": -Infinity}'),
  );
  expect((await convertModel(folder, workshop.path())).tensors).toBe(39);
});
