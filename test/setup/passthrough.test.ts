import { expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { checkout } from "../../lib/setup/paths.mjs";
import { Folder, node, outcomeOf, patience_ms } from "./folder.ts";

setDefaultTimeout(patience_ms);

const passthrough = JSON.stringify(join(checkout, "lib", "cli", "passthrough.mjs"));
/** Node runs this program in its place, as `npm run strata` does. */
const inPlace = (program: string) => [
  "--input-type=module",
  "-e",
  `import { endLike, runInPlace } from ${passthrough};
   endLike(await runInPlace(process.execPath, ["-e", ${JSON.stringify(program)}, ...process.argv.slice(1)]));`,
];

test("arguments, standard input, standard output and the exit code are the program's", async () => {
  const program = `let text = ""; process.stdin.on("data", (d) => (text += d)).on("end", () => {
    console.log(text + process.argv.slice(1).join("|")); console.error("aside"); process.exitCode = 42; });`;
  const outcome = await outcomeOf(node, [...inPlace(program), "--", "a b", "-n", "*"], {}, "from stdin ");
  expect(outcome).toEqual({ stdout: "from stdin a b|-n|*\n", stderr: "aside\n", code: 42, signal: null });
});

test("the end by a signal is the program's", async () => {
  const outcome = await outcomeOf(node, inPlace(`process.kill(process.pid, "SIGKILL")`));
  expect(outcome.signal).toBe("SIGKILL");
});

test.each(["SIGINT", "SIGTERM", "SIGHUP"] as const)("%s reaches the program once, which decides", async (signal) => {
  const program = `let times = 0; process.on("${signal}", () => { times++; setTimeout(() => process.exit(times), 100); });
    setInterval(() => {}, 1000); console.log("ready");`;
  const child = Bun.spawn([node, ...inPlace(program)], { stdin: "ignore", stdout: "pipe", stderr: "inherit" });
  await child.stdout.getReader().read();
  child.kill(signal);
  expect(await child.exited).toBe(1);
});

test("the installed command finds Bun and passes on how it ended", async () => {
  const outcome = await outcomeOf(node, [join(checkout, "lib", "cli", "bin.mjs"), "no-such-verb"]);
  expect(outcome.code).toBe(2);
  expect(outcome.stdout).toBe("");
});

test("the installed command says that Bun is missing", async () => {
  using folder = new Folder();
  const bin = join(checkout, "lib", "cli", "bin.mjs");
  const outcome = await outcomeOf(node, [bin, "--version"], { PATH: folder.programs("sh") });
  expect(outcome).toMatchObject({ code: 1, stdout: "" });
  expect(outcome.stderr).toMatch(/^strata runs on Bun, which is not on PATH: install it.*\n$/);
});

test("strata in a checkout that is set up writes nothing of its own", async () => {
  const run = join(checkout, "lib", "setup", "run.mjs");
  expect(await outcomeOf(node, [run, "build"])).toMatchObject({ code: 0, stdout: "" });
  const outcome = await outcomeOf(node, [run, "strata", "--help"]);
  expect(outcome.stderr).toBe("");
  expect(outcome.stdout).toContain("strata");
  expect(outcome.code).toBe(0);
});
