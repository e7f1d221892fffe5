/** Prints by how much a process grew while it loaded and ran a model, beside what was planned. Linux only. */
import { readFileSync } from "node:fs";
import { loadModel, planMemory, type Model, type PlanOptions } from "ggstrata";
import { runSteps } from "./plan-steps.ts";

export interface Growth {
  /** Of all mapped memory, and of that part which is the process's own to write. */
  readonly mappedBytes: number;
  readonly ownBytes: number;
  readonly allocatedBytes: number;
  readonly fileBytes: number;
}

function sizes(): { mapped: number; own: number } {
  Bun.gc(true);
  const status = readFileSync("/proc/self/status", "utf8");
  const read = (name: string): number => 1024 * Number(new RegExp(`^${name}:\\s*(\\d+) kB$`, "m").exec(status)?.[1]);
  return { mapped: read("VmSize"), own: read("VmData") };
}

const [path = "", optionText = ""] = process.argv.slice(2);
const options = JSON.parse(optionText) as PlanOptions;
const { allocatedBytes, weights } = await planMemory(path, options);

async function load(given: PlanOptions): Promise<Model> {
  const model = await loadModel(path, given);
  await runSteps(model, given);
  return model;
}

// What the process itself needs, compiled code and stacks of threads, is there when the measuring begins. Two models at
// once, so that the stacks of threads which have ended, and wait for others, are as many as one model uses.
const tiny: PlanOptions = { ...options, context: 64, sequences: 2, batch: 16, snapshotBytes: 0 };
for (const small of await Promise.all([load(tiny), load(tiny)])) await small.dispose();
await Bun.sleep(200);
const before = sizes();
const model = await load(options);
await Bun.sleep(200);
const after = sizes();
const growth: Growth = {
  mappedBytes: after.mapped - before.mapped,
  ownBytes: after.own - before.own,
  allocatedBytes,
  fileBytes: weights.fileBytes,
};
console.log(JSON.stringify(growth));
await model.dispose();
