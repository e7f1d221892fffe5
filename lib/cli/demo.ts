import { existsSync } from "node:fs";
import { basename, resolve } from "node:path";
import { StrataError, type Model } from "../index.ts";
import { defineCommand } from "./command.ts";
import { formatBytes, formatNumber, formatTable } from "./format.ts";
import { collect } from "./generate.ts";
import { layerRows } from "./inspect.ts";
import { interruptible } from "./interrupt.ts";
import { openModel } from "./open.ts";
import { threadsOption } from "./options.ts";
import { Output } from "./output.ts";

const prompt = "The old king was very angry, and";
const length = 120;
const sampling = { temperature: 0.8, topK: 40, topP: 0.95, repetitionPenalty: 1.1, seed: 1 };

function modelPath(): string {
  const path = resolve(import.meta.dir, "../../test/fixtures/tiny-hybrid/model.gguf");
  if (existsSync(path)) return path;
  throw new StrataError(
    "not_found",
    `${path}: the demo's model is missing, it comes with a checkout of the repository; clone it again, or use \`strata generate\` with another model`,
  );
}

function introduction(path: string, { architecture, memory, threads }: Model): string {
  const file = `${basename(path)} (${formatBytes(Bun.file(path).size)}), architecture ${architecture}, ${threads} threads`;
  const head = `Its memory is ${memory.kind}: what each layer remembers of one sequence, ${formatBytes(memory.bytes)} in all`;
  return `${file}\n${head}\n\n${formatTable(layerRows(memory.layers), [0, 4])}\n`;
}

/** Shows what the demo's model remembers, lets it write, and tells how fast it did. */
async function show(path: string, model: Model, output: Output, signal: AbortSignal): Promise<void> {
  await output.write(`${introduction(path, model)}${prompt}`);
  const events = model.events(prompt, { ...sampling, maxTokens: length, signal });
  const generated = await collect(events, model.loadMs, { onText: (text) => output.write(text) });
  const { timings } = generated;
  const speed = formatNumber(timings.decodeTokensPerSecond);
  await output.write(`\n\n${generated.tokens.length} tokens, ${speed} tokens per second\n`);
  if (!output.json) return;
  const { text, tokens } = generated;
  await output.document({ layers: model.memory.layers, prompt, text, tokens, timings });
}

export const demo = defineCommand({
  name: "demo",
  summary: "Show what each layer of the checkout's own model remembers, let it write, and tell how fast it did.",
  usage: "",
  options: { ...threadsOption },
  notes: `
JSON: {"layers": [...], "prompt": "...", "text": "...", "tokens": [ids], "timings": {...}}`,
  async run({ values, output }) {
    const path = modelPath();
    return await interruptible(async (signal) => {
      const loading = { threads: values.threads };
      await using model = await openModel({ ...values, model: path }, loading, output, signal);
      await show(path, model, output, signal);
    });
  },
});

if (import.meta.main) {
  process.exit(await demo.execute(process.argv.slice(2), new Output(process.stdout, process.stderr)));
}
