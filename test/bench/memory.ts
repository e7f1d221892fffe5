import { requireModel } from "./models.ts";
import { WorkerProcess, type WorkerAnswers } from "./worker-process.ts";

export interface MemoryUse extends Readonly<WorkerAnswers["memory"]> {
  /** What was to be expected: file, planned memory, and 150 MiB for everything else. */
  readonly expectedBytes: number;
  /** Peak over expected. */
  readonly ratio: number;
}

const allowance_bytes = 150 * 2 ** 20;
/** A whole default step, so that the largest graph has run, and some decoding. */
const prompt_tokens = 512;
const generate_tokens = 16;

/** The peak memory of a fresh process that loads a model with the default options, reads a prompt and generates. */
export async function measureMemoryUse(model: string, threads?: number): Promise<MemoryUse> {
  requireModel(model);
  await using worker = await WorkerProcess.start(threads === undefined ? { model } : { model, threads });
  await worker.generate(prompt_tokens, generate_tokens);
  const use = await worker.memory();
  const expectedBytes = use.fileBytes + use.memoryBytes + use.computeBytes + allowance_bytes;
  return { ...use, expectedBytes, ratio: use.peakBytes / expectedBytes };
}
