// `npm run bench`: Strata beside node-llama-cpp, the same files, threads and run.
import { availableParallelism, loadavg } from "node:os";
import { parseArgs } from "node:util";
import { formatBytes, formatNumber, formatTable, rounded } from "../../lib/cli/format.ts";
import { Peer } from "../peer/peer.ts";
import { measureMemoryUse, type MemoryUse } from "./memory.ts";
import { chooseModels, comparedModels } from "./models.ts";
import { compareSpeeds, type Comparison, type Samples } from "./speed.ts";

const help = `npm run bench -- [--model NAME]... [--pp 512 --tg 128 --reps 5 --threads N] [--json]

Measures how fast Strata and node-llama-cpp read a prompt (prefill) and generate after it (decode), in turns, and the
peak memory of Strata. Speeds are tokens per second; a ratio above 1 says that Strata is the faster one.

  --model NAME   ${comparedModels.map(({ name }) => name).join(", ")}, or a GGUF file; may be given again; default all
  --pp N         tokens of the prompt; default 512
  --tg N         tokens to generate; default 128
  --reps N       how often each is measured, the median counts; default 5
  --threads N    threads of both; default one for each core
  --json         one JSON document on standard output
`;

const options = {
  model: { type: "string", multiple: true },
  pp: { type: "string", default: "512" },
  tg: { type: "string", default: "128" },
  reps: { type: "string", default: "5" },
  threads: { type: "string", default: String(availableParallelism()) },
  json: { type: "boolean", default: false },
  help: { type: "boolean", default: false, short: "h" },
} as const;

interface Row {
  readonly model: string;
  readonly prefill: Comparison;
  readonly decode: Comparison;
  readonly memory: MemoryUse;
}

type Settings = ReturnType<typeof readSettings>;

function readSettings() {
  const { values } = parseArgs({ options, allowPositionals: false });
  const count = (name: "pp" | "tg" | "reps" | "threads"): number => {
    const value = Number(values[name]);
    if (Number.isSafeInteger(value) && value >= 1) return value;
    throw new Error(`--${name} is "${values[name]}": give a whole number from 1 up`);
  };
  const speed = {
    promptTokens: count("pp"),
    generateTokens: count("tg"),
    repetitions: count("reps"),
    threads: count("threads"),
  };
  return { speed, models: chooseModels(values.model ?? []), json: values.json, help: values.help };
}

function report(line: string): void {
  process.stderr.write(`${line}\n`);
}

async function measure({ speed, models }: Settings): Promise<{ rows: Row[]; features: string }> {
  await using peer = new Peer();
  const rows: Row[] = [];
  for (const { name, path } of models) {
    const onRepetition = (done: number): void => report(`${name}: ${done} of ${speed.repetitions}`);
    const speeds = await compareSpeeds(peer, path, { ...speed, onRepetition });
    rows.push({ model: name, ...speeds, memory: await measureMemoryUse(path, speed.threads) });
  }
  return { rows, features: (await peer.version()).systemInfo };
}

function speedTable(rows: readonly Row[], { promptTokens, generateTokens }: Settings["speed"]): string {
  const line = (model: string, work: string, tokens: number, { strata, libllama, ratio }: Comparison): string[] => [
    ...[model, work, String(tokens), formatNumber(strata.median), formatNumber(libllama.median), ratio.toFixed(2)],
    ...[spread(strata), spread(libllama)],
  ];
  return formatTable(
    [
      ["model", "", "tokens", "Strata", "libllama", "ratio", "Strata's range", "libllama's range"],
      ...rows.flatMap(({ model, prefill, decode }) => [
        line(model, "prefill", promptTokens, prefill),
        line(model, "decode", generateTokens, decode),
      ]),
    ],
    [2, 3, 4, 5],
  );
}

function spread({ samples }: Samples): string {
  return `${formatNumber(Math.min(...samples))} to ${formatNumber(Math.max(...samples))}`;
}

function memoryTable(rows: readonly Row[]): string {
  return formatTable(
    [
      ["model", "peak memory", "file", "memories", "graphs", "expected", "ratio"],
      ...rows.map(({ model, memory }) => [
        model,
        ...[memory.peakBytes, memory.fileBytes, memory.memoryBytes, memory.computeBytes].map(formatBytes),
        formatBytes(memory.expectedBytes),
        memory.ratio.toFixed(2),
      ]),
    ],
    [1, 2, 3, 4, 5, 6],
  );
}

function documentOf({ speed }: Settings, rows: readonly Row[], features: string, load: number): object {
  const samples = (value: Samples): object => ({
    samples: value.samples.map(rounded),
    median: rounded(value.median),
  });
  const comparison = (tokens: number, { strata, libllama, ratio }: Comparison): object => ({
    ...{ tokens, strata: samples(strata), libllama: samples(libllama), ratio: rounded(ratio) },
  });
  const models = rows.map(({ model, prefill, decode, memory }) => ({
    model,
    prefill: comparison(speed.promptTokens, prefill),
    decode: comparison(speed.generateTokens, decode),
    memory: { ...memory, ratio: rounded(memory.ratio) },
  }));
  return { threads: speed.threads, cores: availableParallelism(), load, libllama: features, models };
}

async function run(settings: Settings): Promise<void> {
  const [load = 0] = loadavg();
  const { rows, features } = await measure(settings);
  if (settings.json) {
    process.stdout.write(`${JSON.stringify(documentOf(settings, rows, features, rounded(load)), undefined, 2)}\n`);
    return;
  }
  const { threads, repetitions } = settings.speed;
  process.stdout.write(`\n${speedTable(rows, settings.speed)}\n${memoryTable(rows)}\n`);
  process.stdout.write(`Median of ${repetitions}, ${threads} threads. ${features.trim()}\n`);
  if (load > 0.5) {
    const cores = `${availableParallelism()} cores`;
    process.stdout.write(
      `Other programs were running (load ${load.toFixed(1)} of ${cores}): trust no ratio of this run.\n`,
    );
  }
}

try {
  const settings = readSettings();
  if (settings.help) process.stdout.write(help);
  else await run(settings);
} catch (error) {
  report(error instanceof Error ? error.message : String(error));
  process.exitCode = 1;
}
