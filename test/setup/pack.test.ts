/** The packages: what is in them, and that someone who has nothing but them can use them. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { bestLibrary, type PlatformLibrary } from "../../lib/native/platform-package.ts";
import { filesBelow, statOf } from "../../lib/setup/files.mjs";
import { packedFiles, packs, platformName, releaseLibraries } from "../../lib/setup/pack.mjs";
import { checkout } from "../../lib/setup/paths.mjs";
import { readFixture } from "../plugins/reference.ts";
import { Folder } from "./folder.ts";
import { Outsider, packInto, releaseBuilds, writeOuterModel } from "./packed.ts";

setDefaultTimeout(120_000);

const { version } = JSON.parse(readFileSync(join(checkout, "package.json"), "utf8")) as { version: string };

test("the SDK's package holds its sources, and nothing of the checkout's tools and tests", () => {
  const files = packedFiles(checkout);
  const wanted = ["lib", "plugins"]
    .flatMap((folder) => filesBelow(join(checkout, folder)).map((file) => `${folder}/${file}`))
    .filter((file) => !file.startsWith("lib/setup/"));
  expect(files.sort()).toEqual([...wanted, "LICENSE", "README.md", "package.json"].sort());
});

// The libraries of the packages are for this platform alone.
describe.if(packs())("the packages", () => {
  const archives = new Folder();
  let sdk: string;
  let platform: string;

  beforeAll(async () => {
    ({ sdk, platform } = packInto(archives.path, await releaseBuilds()));
  }, 1_200_000);
  afterAll(() => archives[Symbol.dispose]());

  function unpack(archive: string, folder: string): string {
    const target = join(archives.path, folder);
    mkdirSync(target, { recursive: true });
    expect(Bun.spawnSync(["tar", "xzf", archive, "-C", target]).exitCode).toBe(0);
    return join(target, "package");
  }

  const manifestOf = (folder: string) =>
    JSON.parse(readFileSync(join(folder, "package.json"), "utf8")) as Record<string, unknown>;

  describe("as archives", () => {
    let sdkFolder: string;
    let platformFolder: string;
    beforeAll(() => {
      sdkFolder = unpack(sdk, "sdk");
      platformFolder = unpack(platform, "platform");
    });

    test("have one version, ask for each other exactly, and have nothing to run", () => {
      const [of, on] = [manifestOf(sdkFolder), manifestOf(platformFolder)];
      expect(of).toMatchObject({ name: "ggstrata", version, optionalDependencies: { [platformName]: version } });
      const machine = { os: ["linux"], cpu: ["x64"], libc: ["glibc"] };
      expect(on).toMatchObject({ name: platformName, version, ...machine });
      for (const manifest of [of, on]) {
        expect(manifest["license"]).toBe("MIT");
        for (const field of ["scripts", "private", "devDependencies", "gypfile"])
          expect(manifest).not.toHaveProperty(field);
      }
      expect(existsSync(join(sdkFolder, "lib/cli/bin.mjs"))).toBe(true);
      expect(filesBelow(platformFolder)).toEqual([
        ...["LICENSE", "README.md", "THIRD-PARTY-LICENSES", "index.js"],
        ...releaseLibraries.map((name) => `libstrata-${name}.so`).sort(),
        "package.json",
      ]);
    });

    test("are small together", () => {
      const bytes = [sdk, platform].reduce((sum, file) => sum + (statOf(file)?.size ?? 0), 0);
      const libraries = readdirSync(platformFolder).filter((file) => file.endsWith(".so"));
      const unpacked = libraries.reduce((sum, file) => sum + (statOf(join(platformFolder, file))?.size ?? 0), 0);
      console.log(`packed ${(bytes / 1e6).toFixed(1)} MB, the libraries ${(unpacked / 1e6).toFixed(1)} MB`);
      expect(bytes + unpacked).toBeLessThan(30e6);
    });

    test("carry the terms of what is linked into the libraries", () => {
      const terms = readFileSync(join(platformFolder, "THIRD-PARTY-LICENSES"), "utf8");
      expect(terms).toContain("The ggml authors");
      expect(terms).toContain("Mozilla Foundation");
      expect(terms).toContain("Zig contributors");
      expect(terms).toContain("LLVM Exceptions");
      expect(terms.match(/Permission is hereby granted/g)?.length).toBeGreaterThanOrEqual(3);
    });

    test("hold libraries that need no newer system than Bun does, and no C++ library", () => {
      for (const name of releaseLibraries) {
        const text = readFileSync(join(platformFolder, `libstrata-${name}.so`), "latin1");
        const minors = [...text.matchAll(/GLIBC_2\.(\d+)/g)].map((match) => Number(match[1]));
        expect(minors.length).toBeGreaterThan(0);
        expect(Math.max(...minors), name).toBeLessThanOrEqual(17);
        expect(text).not.toContain("libstdc++.so");
        expect(text).not.toContain("libc++.so");
      }
    });

    test("give each kind of CPU the best library that it can run", async () => {
      const { libraries } = (await import(join(platformFolder, "index.js"))) as { libraries: PlatformLibrary[] };
      expect(libraries.map(({ name }) => name)).toEqual(releaseLibraries);
      for (const [i, { features }] of libraries.entries()) {
        // The others only say how the compiler is to choose instructions.
        const instructions = libraries[i + 1]?.features.filter((name) =>
          /^(s?sse|avx|fma|f16c|bmi|lzcnt|movbe)/.test(name),
        );
        for (const feature of instructions ?? []) expect(features).toContain(feature);
      }
      const level2 = "sse2 ssse3 sse4_1 sse4_2 popcnt cx16";
      const level3 = `${level2} avx avx2 bmi1 bmi2 f16c fma abm movbe`;
      const level4 = `${level3} avx512f avx512bw avx512cd avx512dq avx512vl`;
      const chosen = (flags: string) => bestLibrary(libraries, new Set(flags.split(" "))).name;
      expect(chosen(level2)).toBe("baseline");
      expect(chosen(level3)).toBe("avx2");
      for (const lacked of ["fma ", "bmi1 ", "bmi2 ", "abm "]) {
        expect(chosen(level3.replace(lacked, ""))).toBe("baseline");
      }
      expect(chosen(level4)).toBe("avx2");
      expect(chosen(`${level4} avx512_vnni`)).toBe("avx512vnni");
      expect(bestLibrary(libraries, undefined).name).toBe("baseline");
    });
  });

  describe("installed by someone else", () => {
    const outsider = new Outsider();
    const { greedy } = readFixture("llama");
    const model = join(outsider.path, "model.gguf");
    const plugin = "ggstrata-arch-outer";
    const script = `import { loadModel } from "ggstrata";
import { outer } from "ggstrata-arch-outer";

const [path = "", prompt = ""] = process.argv.slice(2);
await using model = await loadModel(path, { context: 256, plugins: [outer] });
const options = { maxTokens: ${greedy.tokens.length}, temperature: 0, ignoreEnd: true };
for await (const event of model.events(prompt.split(",").map(Number), options)) {
  if (event.type === "token") console.log(event.token);
}
`;
    const said = `${greedy.tokens.join("\n")}\n`;
    const done = { stdout: said, stderr: "", code: 0, signal: null };

    beforeAll(async () => {
      const folder = outsider.copy("test/setup/outside", "plugin");
      const manifest = { name: plugin, version: "1.0.0", type: "module", exports: "./index.ts" };
      writeFileSync(
        join(folder, "package.json"),
        JSON.stringify({ ...manifest, peerDependencies: { ggstrata: `^${version}` } }),
      );
      expect((await outsider.run("npm", ["pack", "--loglevel=error"], {}, folder)).code).toBe(0);
      writeOuterModel(model);
      outsider.file("app/script.ts", script);
      await outsider.install({
        ggstrata: sdk,
        [platformName]: platform,
        [plugin]: join(folder, `${plugin}-1.0.0.tgz`),
      });
    }, 300_000);
    afterAll(() => outsider[Symbol.dispose]());

    const modules = join(outsider.app, "node_modules");

    test("neither compile nor run anything, nor bring a compiler or a checkout's tools", () => {
      const manifests = filesBelow(modules).filter((file) => /^(@[^/]+\/)?[^/@]+\/package\.json$/.test(file));
      expect(manifests.length).toBeGreaterThan(5);
      for (const file of manifests) {
        const { scripts = {} } = manifestOf(join(modules, file, "..")) as { scripts?: Record<string, string> };
        for (const moment of ["preinstall", "install", "postinstall"]) expect(scripts, file).not.toHaveProperty(moment);
      }
      expect(existsSync(join(modules, "node-llama-cpp"))).toBe(false);
      expect(existsSync(join(modules, "ggstrata", "build.zig"))).toBe(false);
    });

    test("load a plugin, as an object or by its package's name, and generate", async () => {
      expect(await outsider.run("bun", ["script.ts", model, greedy.prompt.join(",")])).toEqual(done);
      const byName = script
        .replace(/^import .* from "ggstrata-arch-outer";\n/m, "")
        .replace("[outer]", `["${plugin}"]`);
      outsider.file("app/by-name.ts", byName);
      expect(await outsider.run("bun", ["by-name.ts", model, greedy.prompt.join(",")])).toEqual(done);
    });

    test("can be asked for each of their parts", async () => {
      const { exports } = manifestOf(join(modules, "ggstrata")) as { exports: Record<string, string> };
      const names = Object.keys(exports).map((name) => `ggstrata${name.slice(1).replace("*", "mamba2")}`);
      expect(names).toContain("ggstrata/server");
      const list = JSON.stringify(names);
      outsider.file("app/parts.ts", `for (const name of ${list}) await import(name);\nconsole.log("all");\n`);
      // A part may import bun:test, which only \`bun test\` has.
      outsider.file(
        "app/parts.test.ts",
        `import { test } from "bun:test";\ntest("parts", () => import("./parts.ts"));\n`,
      );
      expect(await outsider.run("bun", ["test", "./parts.test.ts"])).toMatchObject({ code: 0 });
    });

    test("have types that a strict checker accepts", async () => {
      outsider.file("app/types.ts", `${script}\nimport { strata } from "ggstrata/server";\nexport { strata };\n`);
      const stricter = ["--exactOptionalPropertyTypes", "--noPropertyAccessFromIndexSignature", "--noUnusedLocals"];
      for (const options of [[], stricter]) {
        const { stdout, stderr, code } = await outsider.run("bun", ["check", "types.ts", ...options]);
        expect({ said: (stdout + stderr).slice(0, 2000), code }).toMatchObject({ code: 0 });
      }
      outsider.file("app/wrong.ts", `import { loadModel } from "ggstrata";\nawait loadModel(1);\n`);
      expect((await outsider.run("bun", ["check", "wrong.ts"])).code).not.toBe(0);
    });

    test("bring the command", async () => {
      const expected = { stdout: `strata ${version}\n`, stderr: "", code: 0, signal: null };
      const command = join(modules, ".bin", "strata");
      expect(await outsider.run(command, ["--version"])).toEqual(expected);
      expect(await outsider.run("bun", ["x", "strata", "--version"])).toEqual(expected);
      const generate = ["generate", "-m", model, "-p", "The", "-n", "4"];
      expect(await outsider.run(command, generate)).toMatchObject({ code: 1, stdout: "" });
      expect(await outsider.run(command, [...generate, "--plugin", plugin])).toMatchObject({ code: 0 });
    });

    test("make a plugin's package that passes its own tests", async () => {
      const made = await outsider.run(join(modules, ".bin", "strata"), ["plugin", "new", "spiral", "--dir", "spiral"]);
      expect(made).toMatchObject({ code: 0 });
      const tests = await outsider.run("bun", ["test"], {}, join(outsider.app, "spiral"));
      expect({ said: tests.stderr.slice(-2000), code: tests.code }).toMatchObject({ code: 0 });
      expect(tests.stderr).toMatch(/\b[1-9]\d+ pass\b[^]*\b0 fail\b/);
    });

    test("go into a compiled program that runs anywhere and leaves nothing behind", async () => {
      const elsewhere = join(outsider.path, "elsewhere");
      mkdirSync(elsewhere);
      const build = ["build", "--compile", "script.ts", "--outfile", "program"];
      expect(await outsider.run("bun", build)).toMatchObject({ code: 0 });
      renameSync(join(outsider.app, "program"), join(elsewhere, "program"));
      const hidden = join(outsider.path, "hidden");
      renameSync(modules, hidden);
      try {
        const program = join(elsewhere, "program");
        const arguments_ = [model, greedy.prompt.join(",")];
        expect(await outsider.run(program, arguments_, {}, elsewhere)).toEqual(done);
        expect(readdirSync(outsider.temporary)).toEqual([]);
        // The built-in architectures are in it too.
        const llama = join(checkout, "test/fixtures/llama/model.gguf");
        expect(await outsider.run(program, [llama, greedy.prompt.join(",")], {}, elsewhere)).toEqual(done);
      } finally {
        renameSync(hidden, modules);
      }
    });

    test("go into a bundle that finds its library beside it", async () => {
      const build = ["build", "script.ts", "--target", "bun", "--outdir", "../bundle"];
      expect(await outsider.run("bun", build)).toMatchObject({ code: 0 });
      const bundle = join(outsider.path, "bundle", "script.js");
      expect(await outsider.run("bun", [bundle, model, greedy.prompt.join(",")], {}, outsider.path)).toEqual(done);
    });

    test("say on which machines they run, on others", async () => {
      const load = `const { loadModel } = await import("ggstrata");\nawait loadModel(${JSON.stringify(model)});\n`;
      outsider.file("app/arm.ts", `Object.defineProperty(process, "arch", { value: "arm64" });\n${load}`);
      const { stderr } = await outsider.run("bun", ["arm.ts"]);
      expect(stderr).toContain(
        "there is no package of the native library for linux-arm64 (only for linux-x64); build it",
      );
      // A process that has mapped musl's C library, by its name.
      const musl = join(outsider.path, "libc.musl-x86_64.so.1");
      copyFileSync(join(modules, platformName, "libstrata-baseline.so"), musl);
      const open = `dlopen(${JSON.stringify(musl)}, { strata_library_info: { args: ["ptr"], returns: "i32" } });`;
      outsider.file("app/musl.ts", `import { dlopen } from "bun:ffi";\n${open}\n${load}`);
      expect((await outsider.run("bun", ["musl.ts"])).stderr).toContain(`${platformName} is built for glibc`);
    });

    test("say what to install where they do not fit together", async () => {
      const run = async () => (await outsider.run("bun", ["script.ts", model, "1"])).stderr;
      const folder = join(modules, platformName);
      const index = join(folder, "index.js");
      const text = readFileSync(index, "utf8");
      writeFileSync(index, text.replace(`version = "${version}"`, `version = "0.0.9"`));
      const advice = `run \`bun add ${platformName}@${version}\``;
      expect(await run()).toContain(`ggstrata is version ${version} and ${platformName} is 0.0.9; ${advice}`);
      writeFileSync(index, text);
      rmSync(folder, { recursive: true });
      expect(await run()).toContain(`the package ${platformName} is missing`);
      expect(await run()).toContain(advice);
      const build = ["build", "script.ts", "--target", "bun", "--outdir", "../without"];
      expect(await outsider.run("bun", build)).toMatchObject({ code: 0 });
      const bundle = join(outsider.path, "without", "script.js");
      expect((await outsider.run("bun", [bundle, model, "1"])).stderr).toContain(advice);
    });
  });
});
