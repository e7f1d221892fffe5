import { expect, test } from "bun:test";
import { join } from "node:path";
import { loadModel, planMemory, type MemoryPlan } from "../../lib/index.ts";
import { bytes } from "../../lib/cli/options.ts";
import { UsageError } from "../../lib/cli/usage.ts";
import { checkout } from "../../lib/setup/paths.mjs";
import { strataHere, tinyHybrid } from "./strata.ts";

const gemma = join(checkout, "test/fixtures/gemma3/model.gguf");

test("prints the SDK's plan as JSON, with its options", async () => {
  const args = ["--ctx", "96", "--seqs", "3", "--kv", "f32", "--snapshots", "1MiB", "--rollback", "8", "--batch", "24"];
  const more = ["--snapshot-type", "f16", "--streams", "separate", "--whole-windows", "--no-flash", "--threads", "2"];
  more.push("--cells", "150");
  const { code, stdout, stderr } = await strataHere("plan", gemma, "--json", ...args, ...more);
  expect([code, stderr]).toEqual([0, ""]);
  const options = {
    ...({ context: 96, sequences: 3, kv: "f32", snapshotBytes: 1 << 20, rollback: 8, batch: 24 } as const),
    ...({
      snapshotType: "f16",
      streams: "separate",
      wholeWindows: true,
      flashAttention: false,
      threads: 2,
      cells: 150,
    } as const),
  };
  const plan = JSON.parse(stdout) as MemoryPlan;
  expect(plan).toEqual(await planMemory(gemma, options));
  expect(plan.options).toEqual(options);
  await using model = await loadModel(gemma, options);
  expect(model.counters().memoryBytes).toBe(plan.memoryBytes);
});

test("says it in words", async () => {
  const args = ["--ctx", "256", "--seqs", "2", "--snapshots", "8MiB", "--rollback", "16", "--threads", "2"];
  const { code, stdout, stderr } = await strataHere("plan", tinyHybrid, ...args);
  expect([code, stderr]).toEqual([0, ""]);
  const lines = stdout.split("\n");
  expect(lines[0]).toBe(`${tinyHybrid}: granitehybrid, hybrid memory`);
  expect(lines[1]).toBe(
    "2 sequences of 256, batches of 256, keys and values f16, rollback 16, 8.39 MB for snapshots, shared streams",
  );
  expect(lines[3]).toMatch(
    /^layer +memory +remembers +cells +each +bytes +sequences +rollback +by +snapshots +padding$/,
  );
  // Two cells for each sequence, one for its rollback, one for each of four snapshots.
  expect(lines[4]).toMatch(/^ +0 +ssm +recurrent states: .* 10 +271 kB +.* +1\.09 MB +.* replay +1\.09 MB +0 bytes$/);
  expect(lines[7]).toMatch(/^ +3 +attn +keys and values of every token: .* truncate /);
  expect(stdout).toMatch(/^memories +[\d.]+ MB$/m);
  expect(stdout).toMatch(/^results of a step +[\d.]+ MB +the largest of 1 x 1: .*, 256 x 2: .* \(tokens x logits\)$/m);
  expect(stdout).toMatch(/^mapped weights +7\.93 MB +of a file of 8\.07 MB$/m);
  expect(stdout).toEndWith("\nSnapshots: 4 of 1.69 MB each fit in 8.39 MB.\nSmallest reusable prefix: 64 tokens.\n");
});

test("says how many positions all sequences have together", async () => {
  const { stdout } = await strataHere("plan", tinyHybrid, "--ctx", "256", "--seqs", "4", "--cells", "640");
  expect(stdout.split("\n")[1]).toEndWith("shared streams, at most 640 positions together");
  const whole = await planMemory(tinyHybrid, { context: 256, sequences: 4 });
  const limited = await planMemory(tinyHybrid, { context: 256, sequences: 4, cells: 640 });
  expect(limited.memoryBytes).toBeLessThan(whole.memoryBytes);
});

test("warns where no snapshot fits", async () => {
  const { stdout, stderr } = await strataHere("plan", tinyHybrid, "--ctx", "64", "--snapshots", "1kB");
  expect(stdout).toContain("Smallest reusable prefix: none, since no snapshot fits.");
  expect(stderr).toBe("strata: warning: a snapshot is counted as 1.69 MB, and none fits in 1.00 kB\n");
});

test("refuses in one line what cannot be", async () => {
  const refused = await strataHere("plan", gemma, "--kv", "q8_0");
  expect(refused).toEqual({
    code: 1,
    stdout: "",
    stderr: expect.stringMatching(/^strata: .*: layer 0: keys of 24 .*\n$/),
  });
  const quantised = await strataHere("plan", tinyHybrid, "--kv", "q8_0", "--no-flash", "--json");
  expect(quantised).toMatchObject({ code: 1, stdout: "", stderr: expect.stringContaining("need flash attention") });
});

test("wrong usage names what to give", async () => {
  expect(await strataHere("plan")).toMatchObject({ code: 2, stderr: expect.stringContaining("FILE is missing") });
  expect(await strataHere("plan", gemma, "--streams", "one")).toMatchObject({
    code: 2,
    stderr: expect.stringContaining('--streams is "one"; give one of shared, separate'),
  });
});

test.each<[string, number]>([
  ["0", 0],
  ["1000", 1000],
  ["12B", 12],
  ["1.5kB", 1500],
  ["2 MiB", 2 << 20],
  [".5mb", 500_000],
  ["3GiB", 3 * 2 ** 30],
  ["1TB", 1e12],
])("%p is %p bytes", (text, expected) => {
  expect(bytes("room").read([text], "--snapshots")).toBe(expected);
});

test.each(["", "x", "1e3", "-1", "MB", "1 2", "12QB", "toString", "9999999TB"])("%p is no number of bytes", (text) => {
  expect(() => bytes("room").read([text], "--snapshots")).toThrow(UsageError);
});

test("inspect shows rollbacks when asked", async () => {
  const plain = await strataHere("inspect", tinyHybrid);
  expect(plain.stdout).toMatch(/^layer +memory +kind +remembers +bytes$/m);
  const { stdout } = await strataHere("inspect", tinyHybrid, "--rollback", "16");
  expect(stdout).toMatch(/^layer +memory +kind +remembers +bytes +rollback +of that$/m);
  expect(stdout).toMatch(/^ +0 +ssm +recurrent .* replay +371 kB$/m);
  expect(stdout).toMatch(/^ +3 +attn +attention .* truncate +0 bytes$/m);
});
