// One model in a process of its own, so that it can be measured and stopped. It loads the model, says so, and answers
// each line of standard input with one of standard output; worker-process.ts types both.
import { loadModel, openModelFile, type GenerationEvent } from "ggstrata";
import type { WorkerAnswers, WorkerOptions, WorkerRequest } from "./worker-process.ts";

const options = JSON.parse(process.argv[2] ?? "") as WorkerOptions;
await using model = await loadModel(options.model, { context: options.context, threads: options.threads });

function answer(value: object): void {
  process.stdout.write(`${JSON.stringify(value)}\n`);
}

/** The tokens that the peer's `bench` reads too. */
function promptOf(tokens: number): number[] {
  return Array.from({ length: tokens }, (_, index) => 3 + ((index * 7919) % 300));
}

async function generate(promptTokens: number, generateTokens: number): Promise<WorkerAnswers["generate"]> {
  // The first token comes out of the prompt's own step.
  const settings = { temperature: 0, ignoreEnd: true, maxTokens: generateTokens + 1 };
  let end: Extract<GenerationEvent, { type: "end" }> | undefined;
  for await (const event of model.events(promptOf(promptTokens), settings)) if (event.type === "end") end = event;
  if (end?.tokenCount !== generateTokens + 1)
    throw new Error(`${end?.tokenCount} tokens came, not ${generateTokens + 1}`);
  return {
    prefillTokensPerSecond: (promptTokens * 1000) / end.timings.prefillMs,
    decodeTokensPerSecond: (generateTokens * 1000) / end.timings.decodeMs,
  };
}

async function peak(): Promise<WorkerAnswers["memory"]> {
  using file = openModelFile(options.model);
  return {
    peakBytes: await peakBytes(),
    fileBytes: file.fileBytes,
    memoryBytes: model.memory.bytes,
    computeBytes: model.counters().computeBytes,
  };
}

/** The most memory that this process has had in use, what it has mapped of files included. */
async function peakBytes(): Promise<number> {
  if (process.platform !== "linux") return process.resourceUsage().maxRSS * (process.platform === "darwin" ? 1 : 1024);
  const status = await Bun.file("/proc/self/status").text();
  return Number(/^VmHWM:\s+(\d+) kB$/m.exec(status)?.[1]) * 1024;
}

answer({ threads: model.threads });
for await (const line of console) {
  const request = JSON.parse(line) as WorkerRequest;
  answer(request.op === "memory" ? await peak() : await generate(request.promptTokens, request.generateTokens));
}
