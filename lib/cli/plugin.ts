import { readFile, stat } from "node:fs/promises";
import { join, resolve } from "node:path";
import { loadPlugin, StrataError, type Architecture } from "../index.ts";
import { checkArchitecture, type CheckReport } from "../testing/kit.ts";
import { defineCommand } from "./command.ts";
import { counted } from "./format.ts";
import { name } from "./options.ts";
import { Progress, type Output } from "./output.ts";
import { packageName, writePluginPackage } from "./plugin-new.ts";
import { UsageError } from "./usage.ts";

export const plugin = defineCommand({
  name: "plugin",
  summary: "Write a package for a new architecture, or check an architecture by the conformance kit.",
  usage: "new NAME [--dir FOLDER] | check FILE [-m MODEL --reference FILE]",
  options: {
    dir: name("FOLDER", "new: where the package is written; default ggstrata-arch-NAME"),
    model: name("MODEL", "check: a model file; default: a tiny one with random weights is made", "m"),
    reference: name("FILE", "check: reference.json with logits.safetensors beside it, or their folder"),
  },
  positionals: ["new or check", "NAME or FILE"],
  notes: `
new writes a plugin, a test of it and what makes them a package, into a folder that is empty or not there.
check takes a plugin's file, the folder of its package, or the name of an installed package. It prints what each check
saw; the exit code is 1 where one fails.
JSON: of new {"package", "folder", "files"}; of check {"passed", "architectures": [{"architecture", "model": path or
  null, "passed", "checks": [{"name", "outcome": "passed" | "failed" | "skipped", "message"}]}]}

  strata plugin new my-arch && cd ggstrata-arch-my-arch && bun install && bun test
  strata plugin check ./my-arch.ts -m model.gguf --reference tiny/reference.json`,
  async run({ values, positionals, output }) {
    const [action, target] = positionals;
    if (target === undefined || target === "") throw new UsageError("NAME or FILE is empty");
    if (action === "new") {
      for (const option of ["model", "reference"] as const) refuse(values[option], option, "check");
      return await makePackage(target, values.dir ?? packageName(target), output);
    }
    if (action !== "check") throw new UsageError(`"${action}" is neither new nor check`);
    refuse(values.dir, "dir", "new");
    return await check(target, values.model, values.reference, output);
  },
});

function refuse(value: string | undefined, option: string, action: string): void {
  if (value !== undefined) throw new UsageError(`--${option} belongs to strata plugin ${action}`);
}

async function makePackage(architecture: string, folder: string, output: Output): Promise<number> {
  const files = await writePluginPackage(architecture, resolve(folder));
  if (output.json) await output.document({ package: packageName(architecture), folder: resolve(folder), files });
  else {
    const lines = files.map((file) => `  ${join(folder, file)}\n`);
    await output.write(`Written:\n${lines.join("")}Next: cd ${folder} && bun install && bun test\n`);
  }
  return 0;
}

async function check(
  target: string,
  model: string | undefined,
  reference: string | undefined,
  output: Output,
): Promise<number> {
  using progress = new Progress(output);
  const reports: CheckReport[] = [];
  for (const architecture of await openPlugin(target)) {
    const onCheck = (check: string) => progress.update(`Checking ${architecture.names[0]}: ${check}`);
    reports.push(await checkArchitecture(architecture, { model, reference, onCheck }));
  }
  progress.clear();
  const passed = reports.every((report) => report.passed);
  await (output.json
    ? output.document({ passed, architectures: reports })
    : output.write(reports.map(text).join("\n")));
  return passed ? 0 : 1;
}

/** The architectures of a plugin, by its file, the folder of its package, or its package's name. */
async function openPlugin(target: string): Promise<readonly Architecture[]> {
  const found = await stat(target).catch(() => undefined);
  return loadPlugin(found?.isDirectory() === true ? resolve(target, await mainFile(target)) : target);
}

/** The file that a package's `package.json` names. */
async function mainFile(folder: string): Promise<string> {
  const path = join(folder, "package.json");
  let content: unknown;
  try {
    content = JSON.parse(await readFile(path, "utf8"));
  } catch (cause) {
    throw new StrataError("invalid_argument", `${path}: it is no package; give the plugin's file`, { cause });
  }
  const of = (value: unknown, key: string): unknown =>
    typeof value === "object" && value !== null ? (value as Readonly<Record<string, unknown>>)[key] : undefined;
  const exported = of(of(content, "exports"), ".") ?? of(content, "exports");
  const file = [exported, of(exported, "default"), of(content, "main")].find((value) => typeof value === "string");
  return file === undefined ? "index.ts" : (file as string);
}

const marks = { passed: "ok", failed: "FAILED", skipped: "-" } as const;

function text({ architecture, model, checks }: CheckReport): string {
  const width = Math.max(...Object.values(marks).map(({ length }) => length));
  const lines = checks.map(({ name, outcome, message }) => `  ${marks[outcome].padEnd(width)}  ${name}: ${message}\n`);
  const count = (outcome: keyof typeof marks) => checks.filter((one) => one.outcome === outcome).length;
  const what = model ?? "a tiny model with random weights";
  return `${architecture}, ${what}\n${lines.join("")}${counted(count("passed"), "check")} passed, ${count("failed")} failed, ${count("skipped")} skipped\n`;
}
