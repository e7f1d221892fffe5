// `npm run bench`: Strata beside node-llama-cpp, the same files, threads and run.
import { availableParallelism, loadavg } from "node:os";
import { parseArgs } from "node:util";
import { formatBytes, formatNumber, formatTable, rounded } from "../../lib/cli/format.ts";
import { Peer } from "../peer/peer.ts";
import { measureGraphs, type GraphMeasurement } from "./graphs.ts";
import { measureMemoryUse, type MemoryUse } from "./memory.ts";
import { measureOperations, operationsDocument, operationsTable, type Measurement } from "./memory-operations.ts";
import { chooseModels, comparedModels } from "./models.ts";
import { compareSpeeds, type Comparison, type Samples } from "./speed.ts";

const help = `npm run bench -- [--model NAME]... [--only PART] [--pp 512 --tg 128 --reps 5 --threads N] [--json]

Measures how fast Strata and node-llama-cpp read a prompt (prefill) and generate after it (decode), in turns, and the
peak memory of Strata. Speeds are tokens per second; a ratio above 1 says that Strata is the faster one. Then what
Strata's memory does: snapshots, saved states, sequences together, rollback, and a memory that is full of others. Then
how long the graph of a step takes to build, of models of 32 layers.

  --model NAME   ${comparedModels.map(({ name }) => name).join(", ")}, or a GGUF file; may be given again; default all
  --only PART    speed: that beside node-llama-cpp; memory: what Strata's memory does; graphs: their building; default all
  --pp N         tokens of the prompt; default 512
  --tg N         tokens to generate; default 128
  --reps N       how often each is measured, the median counts; default 5
  --threads N    threads of both; default one for each core
  --json         one JSON document on standard output
`;

const options = {
  model: { type: "string", multiple: true },
  only: { type: "string" },
  pp: { type: "string", default: "512" },
  tg: { type: "string", default: "128" },
  reps: { type: "string", default: "5" },
  threads: { type: "string", default: String(availableParallelism()) },
  json: { type: "boolean", default: false },
  help: { type: "boolean", default: false, short: "h" },
} as const;

interface SpeedRow {
  readonly model: string;
  readonly prefill: Comparison;
  readonly decode: Comparison;
  readonly memory: MemoryUse;
}

interface OperationsRow {
  readonly model: string;
  readonly operations: readonly Measurement[];
}

interface Measured {
  /** Undefined where it was not wanted. */
  readonly speed: { readonly rows: readonly SpeedRow[]; readonly features: string } | undefined;
  readonly operations: readonly OperationsRow[] | undefined;
  readonly graphs: readonly GraphMeasurement[] | undefined;
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
  const { only } = values;
  if (only !== undefined && only !== "speed" && only !== "memory" && only !== "graphs") {
    throw new Error(`--only is "${only}": give speed, memory or graphs`);
  }
  return { speed, only, models: chooseModels(values.model ?? []), json: values.json, help: values.help };
}

function report(line: string): void {
  process.stderr.write(`${line}\n`);
}

async function measure(settings: Settings): Promise<Measured> {
  const wants = (part: NonNullable<Settings["only"]>): boolean => (settings.only ?? part) === part;
  return {
    speed: wants("speed") ? await measureSpeed(settings) : undefined,
    operations: wants("memory") ? await measureMemory(settings) : undefined,
    graphs: wants("graphs") ? await measureGraphs((name) => report(`graph of ${name}`)) : undefined,
  };
}

async function measureSpeed({ speed, models }: Settings): Promise<NonNullable<Measured["speed"]>> {
  await using peer = new Peer();
  const rows: SpeedRow[] = [];
  for (const { name, path } of models) {
    const onRepetition = (done: number): void => report(`${name}: ${done} of ${speed.repetitions}`);
    const speeds = await compareSpeeds(peer, path, { ...speed, onRepetition });
    rows.push({ model: name, ...speeds, memory: await measureMemoryUse(path, speed.threads) });
  }
  return { rows, features: (await peer.version()).systemInfo };
}

async function measureMemory({ speed, models }: Settings): Promise<OperationsRow[]> {
  const rows: OperationsRow[] = [];
  for (const { name, path } of models) {
    const onMeasured = (what: string): void => report(`${name}: ${what}`);
    rows.push({ model: name, operations: await measureOperations(path, { ...speed, onMeasured }) });
  }
  return rows;
}

function speedTable(rows: readonly SpeedRow[], { promptTokens, generateTokens }: Settings["speed"]): string {
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

function memoryTable(rows: readonly SpeedRow[]): string {
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

function graphTable(graphs: readonly GraphMeasurement[]): string {
  return formatTable(
    [
      ["graph of 32 layers", "nodes", "first, ms", "later, ms"],
      ...graphs.map(({ architecture, nodes, first_ms, build_ms }) => [
        ...[architecture, String(nodes), first_ms.toFixed(2), build_ms.toFixed(2)],
      ]),
    ],
    [1, 2, 3],
  );
}

function documentOf({ speed: settings }: Settings, { speed, operations, graphs }: Measured, load: number): object {
  const samples = (value: Samples): object => ({
    samples: value.samples.map(rounded),
    median: rounded(value.median),
  });
  const comparison = (tokens: number, { strata, libllama, ratio }: Comparison): object => ({
    ...{ tokens, strata: samples(strata), libllama: samples(libllama), ratio: rounded(ratio) },
  });
  const models = speed?.rows.map(({ model, prefill, decode, memory }) => ({
    model,
    prefill: comparison(settings.promptTokens, prefill),
    decode: comparison(settings.generateTokens, decode),
    memory: { ...memory, ratio: rounded(memory.ratio) },
  }));
  const memory = operations?.map((row) => ({ model: row.model, operations: operationsDocument(row.operations) }));
  const { threads } = settings;
  return { threads, cores: availableParallelism(), load, libllama: speed?.features, models, memory, graphs };
}

function printTables({ speed: settings }: Settings, { speed, operations, graphs }: Measured): void {
  if (speed !== undefined) {
    process.stdout.write(`\n${speedTable(speed.rows, settings)}\n${memoryTable(speed.rows)}`);
  }
  if (operations !== undefined) process.stdout.write(`\n${operationsTable(operations)}`);
  if (graphs !== undefined) process.stdout.write(`\n${graphTable(graphs)}`);
  if (speed === undefined && operations === undefined) return;
  const features = speed === undefined ? "" : ` ${speed.features.trim()}`;
  process.stdout.write(`\nMedian of ${settings.repetitions}, ${settings.threads} threads.${features}\n`);
}

async function run(settings: Settings): Promise<void> {
  const [load = 0] = loadavg();
  const measured = await measure(settings);
  if (settings.json) {
    process.stdout.write(`${JSON.stringify(documentOf(settings, measured, rounded(load)), undefined, 2)}\n`);
    return;
  }
  printTables(settings, measured);
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
