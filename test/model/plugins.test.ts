/** Where plugins come from, which of several is taken, and which files they refuse. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import {
  apiVersion,
  defineArchitecture,
  loadModel,
  loadPlugin,
  vector,
  type Architecture,
  type Plugin,
} from "ggstrata";
import { llama } from "../../plugins/llama.ts";
import { strataHere } from "../cli/strata.ts";
import { Gguf } from "./gguf.ts";
import { fixturePath, Folder, generated, refusal, root, thrown } from "./help.ts";
import { good, name, oddFile, type Parts } from "./odd-architecture.ts";

setDefaultTimeout(60_000);

const define = defineArchitecture as unknown as (parts: Parts) => Architecture;
const odd = define(good);
const options = { context: 64, threads: 1 };
let folder: Folder;
let file: string;
/** A file, and a folder with an installed package, that export two architectures. */
let pluginFile: string;
const workingFolder = process.cwd();

beforeAll(() => {
  folder = new Folder();
  file = folder.write("odd.gguf", oddFile());
  const sources = JSON.stringify(join(root, "test/model/odd-architecture.ts"));
  const sdk = JSON.stringify(join(root, "lib/index.ts"));
  const module = `
    import { defineArchitecture } from ${sdk};
    import { good } from ${sources};
    export const odd = defineArchitecture(good);
    export const others = [defineArchitecture({ ...good, names: ["second"] })];
    export const answer = 42;
    export default odd;`;
  pluginFile = folder.write("two.ts", module);
  const write = (path: string, text: string) => {
    mkdirSync(dirname(join(folder.path, path)), { recursive: true });
    writeFileSync(join(folder.path, path), text);
  };
  write("node_modules/ggstrata-arch-odd/package.json", '{ "type": "module", "exports": { "import": "./plugin.ts" } }');
  write("node_modules/ggstrata-arch-odd/plugin.ts", module);
});
afterAll(() => {
  process.chdir(workingFolder);
  folder[Symbol.dispose]();
});

function load(...plugins: readonly Plugin[]) {
  return loadModel(file, { ...options, plugins });
}

async function failure(...plugins: readonly Plugin[]): Promise<string> {
  return (await refusal(load(...plugins).then((model) => model.dispose()))).message;
}

describe("where plugins come from", () => {
  test("an object, a file and a package are the same", async () => {
    process.chdir(folder.path);
    const texts: unknown[] = [];
    for (const plugin of [odd, pluginFile, "./two.ts", "two.ts", "ggstrata-arch-odd"]) {
      await using model = await load(plugin);
      texts.push((await generated(model, [1, 2, 3], { maxTokens: 5 })).tokens);
    }
    process.chdir(workingFolder);
    expect(texts).toEqual(texts.map(() => texts[0]));
  });

  test("all architectures of a module are taken, each once", async () => {
    const found = await loadPlugin(pluginFile);
    expect(found.map(({ names }) => names)).toEqual([[name], ["second"]]);
  });

  test("the command takes files and packages", async () => {
    const inspect = (plugin: string) => strataHere("inspect", file, "--json", "--plugin", plugin);
    process.chdir(folder.path);
    for (const plugin of ["./two.ts", "ggstrata-arch-odd"]) {
      const { stdout, stderr } = await inspect(plugin);
      expect(stderr).toBe("");
      expect(JSON.parse(stdout)).toMatchObject({ architecture: name, memory: { kind: "hybrid" } });
    }
    const short = await inspect("odd");
    expect(short.stderr).toContain('"odd" is not installed in ');
    expect(short.stderr).toContain('; "ggstrata-arch-odd" is: give that name');
    const { stderr } = await inspect("ggstrata-arch-none");
    process.chdir(workingFolder);
    expect(stderr).toContain('the plugin package "ggstrata-arch-none" is not installed in ');
    expect(stderr).toContain('run "bun add ggstrata-arch-none" there, or give a file as ./ggstrata-arch-none.ts');
  });

  test("what is none says what to give", async () => {
    expect(await failure("./none.ts")).toContain("./none.ts: there is no such plugin file");
    expect(await failure(folder.path)).toContain("this is a folder; give the plugin's file in it");
    expect(await failure(folder.write("unread.ts", "const x = 1;\nconst y = ;\nexport const = z;"))).toMatch(
      /cannot be imported: .*unread\.ts:2:11: Unexpected ;$/,
    );
    expect(await failure(folder.write("empty.ts", "export const x = 1;"))).toContain("exports no architecture");
    expect(await failure(folder.write("broken.ts", "throw new Error('at once');"))).toContain("imported: at once");
    expect(await failure(5 as unknown as string)).toContain("plugins[0] is 5; give what defineArchitecture returns");
    expect(await failure({ ...good } as unknown as Architecture)).toContain("plugins[0] is an object; give what");
  });
});

describe("two plugins of one name", () => {
  const again = define({ ...good });
  const replacing = define({ ...good, replaces: true });

  test("are an error that names both", async () => {
    const sentence = `two plugins declare the architecture "${name}"`;
    expect(await failure(odd, again)).toContain(
      `${sentence}: plugins[0] and plugins[1]; leave one out, or let one say`,
    );
    expect(await failure(pluginFile, odd)).toContain(`${sentence}: ${pluginFile} and plugins[1]`);
    const own = define({ ...good, names: ["llama"] });
    expect(await failure(odd, own)).toContain('the architecture "llama": plugins[1] and the built-in one');
  });

  test("are one where one says that it replaces the others", async () => {
    await using model = await load(odd, replacing, again);
    expect(model.architecture).toBe(name);
  });

  test("that both replace are an error", async () => {
    const other = define({ ...good, replaces: true });
    expect(await failure(replacing, other)).toContain(
      `two plugins say that they replace the architecture "${name}": plugins[0] and plugins[1]; leave one out`,
    );
  });

  test("are one where they are the same object, also the built-in one", async () => {
    await using _ = await load(odd, odd);
    await using model = await loadModel(fixturePath("llama"), { ...options, plugins: [llama] });
    expect(model.architecture).toBe("llama");
  });
});

describe("the version of the plugin API", () => {
  test("of a definition is this one", () => {
    expect(odd.apiVersion).toBe(apiVersion);
    expect(thrown(() => define({ ...good, apiVersion: 2 })).message).toBe(
      'the architecture "oddarch" is written for version 2 of the plugin API, and this Strata has version 1; update ggstrata',
    );
    expect(thrown(() => define({ ...good, apiVersion: 0 })).message).toEndWith("has version 1; update the plugin");
    expect(thrown(() => define({ ...good, apiVersion: undefined })).message).toEndWith(
      "version 1: write apiVersion: 1",
    );
  });

  test("of a plugin that another Strata made is checked too, and named by where it is from", async () => {
    const newer = { ...odd, apiVersion: 3 };
    expect(await failure(newer)).toContain('plugins[0]: the architecture "oddarch" is written for version 3');
  });
});

describe("tensors that an architecture does not declare", () => {
  const withTensors = (...names: readonly string[]): string => {
    const read = Gguf.read(file);
    for (const tensor of names) read.tensors.push({ name: tensor, type: 0, shape: [4], data: new Uint8Array(16) });
    return folder.write("more.gguf", read.write());
  };
  const open = (ignores: readonly string[], ...tensors: readonly string[]) => {
    const plugin = define({ ...good, ignores: () => ignores });
    return loadModel(withTensors(...tensors), { ...options, plugins: [plugin] });
  };

  test("are refused by name", async () => {
    const error = await refusal(open([], "blk.0.attn_q.bias", "b1", "b2", "b3", "b4", "b5"));
    expect(error.code).toBe("unsupported");
    expect(error.message).toContain(
      'the file has tensors that the architecture "oddarch" does not declare: ' +
        '"blk.0.attn_q.bias", "b1", "b2", "b3" and 2 more; without them it would be another model.',
    );
  });

  test("are let be where the architecture says that no step needs them", async () => {
    await using _ = await open(["left", "blk.3.*"], "left", "blk.3.nextn.norm.weight");
    const error = await refusal(open(["left", "blk.3.*"], "left", "blk.30.norm", "leftover"));
    expect(error.message).toContain('"blk.30.norm", "leftover"; without');
  });

  test("are no others because they are declared twice by one declaration", async () => {
    const norm = vector("norm", [16]);
    const weights = () => ({ ...(good.weights as () => object)(), norm, layers: [norm, { norm }] });
    await using model = await load(define({ ...good, weights }));
    expect(model.architecture).toBe(name);
  });
});
