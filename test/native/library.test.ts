/** The boundary: its generated description, and what is refused before any of the library's code can do harm. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { copyFileSync, cpSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { readEnvironment } from "../../lib/environment.ts";
import { abiHash, layouts, Status, symbols } from "../../lib/native/abi.ts";
import { libraryPath } from "../../lib/native/library.ts";
import { fixturePath, Folder, root } from "../model/help.ts";

setDefaultTimeout(60_000);

/** Opens a model file in a process of its own; prints the error's code and sentence, or "opened". */
async function openElsewhere(env: Record<string, string>): Promise<{ out: string; err: string; code: number | null }> {
  const script = `
    import { openModelFile } from "./lib/index.ts";
    try {
      openModelFile(${JSON.stringify(fixturePath("llama"))}).dispose();
      console.log("opened");
    } catch (error) {
      console.log(error.code + ": " + error.message);
    }`;
  const options = { cwd: root, env: { ...process.env, ...env }, stdout: "pipe", stderr: "pipe" } as const;
  const child = Bun.spawn([process.execPath, "-e", script], options);
  const [out, err] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  return { out: out.trimEnd(), err, code: child.exitCode };
}

const extension = process.platform === "darwin" ? "dylib" : "so";

describe("the generated description", () => {
  test("is what the sources generate now", async () => {
    using folder = new Folder();
    for (const name of ["build.zig", "zig", "ggml", "lib/native"]) {
      cpSync(join(root, name), join(folder.path, name), { recursive: true });
    }
    writeFileSync(join(folder.path, "lib/native/abi.ts"), "");
    const zig = readEnvironment("STRATA_ZIG") ?? "zig";
    const ggml = readEnvironment("STRATA_GGML") ?? join(root, ".cache/ggml");
    const cache = process.env["ZIG_LOCAL_CACHE_DIR"] ?? join(root, ".cache/zig");
    const command = [zig, "build", "abi", "--color", "off", `-Dggml=${ggml}`, "--cache-dir", cache];
    const child = Bun.spawn(command, { cwd: folder.path, stdout: "pipe", stderr: "pipe" });
    const [said] = await Promise.all([child.stderr.text(), child.exited]);
    expect(child.exitCode, said.slice(-4000)).toBe(0);
    const generated = readFileSync(join(folder.path, "lib/native/abi.ts"), "utf8");
    expect(generated).toContain("abiHash");
    // Otherwise: `zig build abi`.
    expect(readFileSync(join(root, "lib/native/abi.ts"), "utf8") === generated).toBe(true);
  }, 900_000);

  test("has structs whose fields lie side by side, aligned, inside", () => {
    const widths = { u8: 1, i32: 4, u32: 4, f32: 4, f64: 8 };
    for (const [name, { size, fields }] of Object.entries(layouts)) {
      let end = 0;
      const own: Record<string, { type: keyof typeof widths; offset: number; count: number }> = fields;
      for (const [field, { type, offset, count }] of Object.entries(own)) {
        const width = widths[type];
        expect(offset % width, `${name}.${field}`).toBe(0);
        expect(offset, `${name}.${field}`).toBeGreaterThanOrEqual(end);
        end = offset + width * count;
      }
      expect(size, name).toBeGreaterThanOrEqual(end);
      expect(size - end, name).toBeLessThan(8);
    }
  });

  test("numbers the status codes from 0 down, and returns one from every function", () => {
    expect<number[]>(Object.values(Status)).toEqual(Object.keys(Status).map((_, i) => 0 - i));
    for (const [name, { returns }] of Object.entries(symbols)) {
      expect(name).toStartWith("strata_");
      expect(returns as string).toBe("i32");
    }
  });
});

describe("a library", () => {
  test("is traced, call by call", async () => {
    const { out, err, code } = await openElsewhere({ STRATA_TRACE: "1" });
    expect({ out, code }).toEqual({ out: "opened", code: 0 });
    const lines = err.trimEnd().split("\n");
    expect(lines.length).toBeGreaterThan(50);
    for (const line of lines) expect(line).toMatch(/^strata_\w+\(.*\) = 0 \(\d+\.\d us\)$/);
    expect(lines[0]).toStartWith("strata_file_open(");
    expect(lines.at(-1)).toStartWith("strata_file_close(");
    expect((await openElsewhere({ STRATA_TRACE: "" })).err).toBe("");
  });

  test("of other sources is refused", async () => {
    using folder = new Folder();
    const path = join(folder.path, `libstrata.${extension}`);
    const bytes = readFileSync(libraryPath());
    const hash = Buffer.alloc(4);
    hash.writeUInt32LE(abiHash);
    let places = 0;
    for (let at = bytes.indexOf(hash); at >= 0; at = bytes.indexOf(hash, at + 4)) {
      bytes.writeUInt32LE((abiHash ^ 0x5555) >>> 0, at);
      places += 1;
    }
    expect(places).toBeGreaterThan(0);
    writeFileSync(path, bytes);
    const { out } = await openElsewhere({ STRATA_LIBRARY: path });
    expect(out).toBe(
      `unsupported: ${path}: the native library was built from other sources than this SDK; run \`npm run build\` to build it here`,
    );
  });

  test("that is missing, empty or none is refused", async () => {
    using folder = new Folder();
    const missing = join(folder.path, "missing.so");
    expect((await openElsewhere({ STRATA_LIBRARY: missing })).out).toBe(
      `not_found: ${missing}: the native library is missing; run \`npm run build\` to build it here`,
    );
    for (const content of ["", "no library"]) {
      const path = folder.write("broken.so", content);
      const { out } = await openElsewhere({ STRATA_LIBRARY: path });
      expect(out).toStartWith(`unsupported: ${path}: the native library cannot be loaded (`);
      expect(out.split("\n")).toHaveLength(1);
    }
  });

  test.if(process.platform === "linux")("for another CPU is refused before it is loaded", async () => {
    using folder = new Folder();
    // No library at all: the refusal comes before the loading.
    const path = folder.write("libstrata.so", "");
    const built = process.arch === "x64" ? "sse2 avx avx512f amx_tile avx512vnni" : "neon";
    const flags = /^flags\s*:(.*)$/m.exec(readFileSync("/proc/cpuinfo", "utf8"))?.[1]?.trim().split(/\s+/) ?? [];
    folder.write("libstrata.features", `${built}\n`);
    const lacks = Object.entries({ avx: "avx", avx512f: "avx512f", amx_tile: "amx_tile", avx512vnni: "avx512_vnni" })
      .filter(([, flag]) => !flags.includes(flag))
      .map(([name]) => name);
    const { out } = await openElsewhere({ STRATA_LIBRARY: path });
    console.log(`this CPU lacks ${lacks.join(", ") || "none of those asked for"}`);
    if (lacks.length === 0) expect(out).toContain("cannot be loaded");
    else {
      expect(out).toBe(
        `unsupported: ${path}: the native library was built for a CPU with ${lacks.join(", ")}, which this one lacks; ` +
          "run `npm run build` to build it here",
      );
    }
  });

  test("with its own features is accepted from any place", async () => {
    using folder = new Folder();
    const path = join(folder.path, `libstrata.${extension}`);
    copyFileSync(libraryPath(), path);
    copyFileSync(libraryPath().replace(/\.(so|dylib)$/, ".features"), path.replace(/\.(so|dylib)$/, ".features"));
    expect((await openElsewhere({ STRATA_LIBRARY: path })).out).toBe("opened");
  });
});

test("importing the SDK loads no library", async () => {
  const child = Bun.spawn([process.execPath, "-e", 'await import("./lib/index.ts"); console.log("imported")'], {
    cwd: root,
    env: { ...process.env, STRATA_LIBRARY: "/nowhere/libstrata.so" },
    stdout: "pipe",
    stderr: "pipe",
  });
  expect((await child.stdout.text()).trim()).toBe("imported");
});
