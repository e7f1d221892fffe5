import { expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { knownCause } from "../../lib/setup/command.mjs";
import { bunBuild, checkPlatform, cpuFeatures } from "../../lib/setup/machine.mjs";
import { Folder, node, outcomeOf, patience_ms } from "./folder.ts";

setDefaultTimeout(patience_ms);

const programs = {
  npm: /^npm is missing: install Node\.js 20 or newer with npm/m,
  git: /^git is missing: install it/m,
  python3: /^Python 3 is missing: install python3/m,
};

for (const [missing, sentence] of Object.entries(programs)) {
  test(`without ${missing}, one sentence says what to install`, async () => {
    using folder = new Folder();
    const run = folder.clone();
    const others = Object.keys(programs).filter((name) => name !== missing);
    const outcome = await outcomeOf(node, [run, "demo"], {
      PATH: folder.programs("node", "env", "sh", ...others),
      STRATA_CACHE: "",
    });
    expect(outcome.stderr).toMatch(sentence);
    expect(outcome.stderr.trim().split("\n")).toHaveLength(1);
    expect(outcome).toMatchObject({ code: 1, stdout: "" });
  });
}

test("without pip, one sentence says what to install", async () => {
  using folder = new Folder();
  const run = folder.clone();
  // Python's modules are looked for here first: a pip that cannot be imported is as good as none.
  const hidden = folder.file("hidden/pip.py", "raise ImportError('no pip')");
  const outcome = await outcomeOf(node, [run, "demo"], {
    PATH: folder.programs("node", "env", "sh", "npm", "git", "python3"),
    PYTHONPATH: join(hidden, ".."),
    STRATA_CACHE: "",
  });
  expect(outcome.stderr).toMatch(/^Python's pip is missing: install it .*python3-pip/);
  expect(outcome.code).toBe(1);
});

test("without all of them, each has its sentence", async () => {
  using folder = new Folder();
  const outcome = await outcomeOf(node, [folder.clone(), "demo"], { PATH: folder.programs("node"), STRATA_CACHE: "" });
  for (const sentence of Object.values(programs)) expect(outcome.stderr).toMatch(sentence);
  expect(outcome.stderr.trim().split("\n")).toHaveLength(3);
});

test("an old Node is told so", async () => {
  using folder = new Folder();
  const old = "Object.defineProperty(process,'versions',{value:{...process.versions,node:'18.20.4'}})";
  const outcome = await outcomeOf(node, ["--import", `data:text/javascript,${old}`, folder.clone(), "demo"]);
  expect(outcome.stderr.trim()).toMatch(
    /^Strata needs Node 20 or newer and this is Node 18\.20\.4: install a newer one.*$/,
  );
  expect(outcome.code).toBe(1);
});

test("without a network, one sentence says so", async () => {
  using folder = new Folder();
  const outcome = await outcomeOf(node, [folder.clone(), "demo"], {
    npm_config_registry: "http://127.0.0.1:9/",
    npm_config_cache: join(folder.path, "npm-cache"),
    npm_config_fetch_retries: "0",
    STRATA_CACHE: "",
  });
  expect(outcome.stderr.trim().split("\n").at(-1)).toMatch(
    /^A package registry cannot be reached \(ECONNREFUSED\): connect this machine to the network/,
  );
  expect(outcome.code).toBe(1);
});

test("other platforms are refused by name", () => {
  for (const known of ["linux-x64", "linux-arm64", "darwin-arm64"]) expect(() => checkPlatform(known)).not.toThrow();
  for (const other of ["win32-x64", "darwin-x64", "linux-ia32"]) {
    expect(() => checkPlatform(other)).toThrow(`this machine is ${other}: use one of those.`);
  }
});

test("failures that are not Strata's are recognised", () => {
  expect(knownCause("OSError: [Errno 28] No space left on device", false)).toStartWith("The disk is full");
  expect(knownCause("npm error code EAI_AGAIN", true)).toStartWith("A package registry cannot be reached (EAI_AGAIN)");
  expect(knownCause("Failed to establish a new connection: [Errno -3]", true)).toStartWith("A package registry");
  expect(knownCause("error: ECONNREFUSED in a string of the source", false)).toBeUndefined();
  expect(knownCause("npm error code EINTEGRITY", true)).toStartWith("A fetched package is not the one that is pinned");
  expect(knownCause("npm error code EUSAGE", true)).toBeUndefined();
});

test("Bun's build fits the machine", () => {
  const machine = { platform: "linux-x64", musl: false, avx2: true, cpu: "" };
  expect(bunBuild(machine)).toBe("linux-x64");
  expect(bunBuild({ ...machine, avx2: false })).toBe("linux-x64-baseline");
  expect(bunBuild({ ...machine, musl: true, avx2: false })).toBe("linux-x64-musl-baseline");
  expect(bunBuild({ ...machine, platform: "darwin-arm64" })).toBe("darwin-arm64");
});

test("what the CPU is counts, not how fast it happens to run", () => {
  const text = (mhz: number, flags: string) =>
    `processor\t: 0\nvendor_id\t: GenuineIntel\nmodel\t\t: 143\nmodel name\t: Some CPU\ncpu MHz\t\t: ${mhz}\nflags\t\t: fpu ${flags}\n\nprocessor\t: 1\n`;
  expect(cpuFeatures(text(2100, "avx2"))).toBe(cpuFeatures(text(3500, "avx2")));
  expect(cpuFeatures(text(2100, "avx2"))).not.toBe(cpuFeatures(text(2100, "avx2 avx512f")));
  expect(cpuFeatures(text(2100, "avx2"))).toContain("flags : fpu avx2");
});
