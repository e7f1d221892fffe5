import { closeSync, copyFileSync, fsyncSync, mkdtempSync, openSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  describeMemory,
  loadModel,
  openModelFile,
  type GenerationEvent,
  type LoadOptions,
  type Model,
  type Sequence,
} from "ggstrata";
import { formatBytes, formatNumber, formatTable, median, rounded } from "../../lib/cli/format.ts";
import { requireModel } from "./models.ts";

export interface OperationOptions {
  readonly threads: number;
  readonly promptTokens: number;
  readonly generateTokens: number;
  readonly repetitions: number;
  onMeasured?(what: string): void;
}

/** One thing that was measured, beside what it is to be compared with. */
export interface Measurement {
  readonly what: string;
  readonly unit: "GB/s" | "ms" | "tokens/s" | "bytes";
  readonly value: number;
  /** Another measurement of the same run and unit. */
  readonly beside?: { readonly what: string; readonly value: number };
  /** `value` over that of `beside`; of speeds that were taken in turns, the middle one of the turns' ratios. */
  readonly ratio?: number;
  /** What the ratio must not exceed, or not fall below. */
  readonly limit?: { readonly most: number } | { readonly least: number };
}

const prefill_tokens = 2048;
const snapshot_every = 512;
/** The first snapshot: not where a step of the default batch ends. */
const snapshot_first = 256;
const together = [1, 4, 8, 16] as const;
const together_prompt_tokens = 64;
/** Contexts' worth of sequences and snapshots that are held beside one that is measured. */
const held_contexts = 8;
/** After its work, ggml's threads poll for more for a while; another model's turn waits until they sleep. */
const settle_ms = 300;

/** What sequences, snapshots, files and rollbacks cost with one model. */
export async function measureOperations(path: string, options: OperationOptions): Promise<Measurement[]> {
  requireModel(path);
  const parts = [
    ["snapshots", measureSnapshots],
    ["files", measureFiles],
    ["snapshots while prefilling", measurePrefillSnapshots],
    ["sequences together", measureTogether],
    ["rollback", measureRollback],
    ["a full memory", measureHeld],
  ] as const;
  const measurements: Measurement[] = [];
  for (const [what, measure] of parts) {
    measurements.push(...(await measure(path, options)));
    options.onMeasured?.(what);
  }
  return measurements;
}

/** Whether a measurement keeps its limit; undefined where it has none. */
export function keepsLimit({ ratio, limit }: Measurement): boolean | undefined {
  if (ratio === undefined || limit === undefined) return undefined;
  return "most" in limit ? ratio <= limit.most : ratio >= limit.least;
}

export function operationsTable(
  rows: readonly { readonly model: string; readonly operations: readonly Measurement[] }[],
): string {
  const line = (model: string, measurement: Measurement): string[] => {
    const { what, unit, value, beside, ratio, limit } = measurement;
    const amount = (number: number): string =>
      unit === "bytes" ? formatBytes(number) : `${formatNumber(number)} ${unit}`;
    const bound = limit === undefined ? "" : "most" in limit ? `at most ${limit.most}` : `at least ${limit.least}`;
    const kept = keepsLimit(measurement) === false ? "MISSED" : "";
    return [
      model,
      what,
      amount(value),
      beside?.what ?? "",
      beside === undefined ? "" : amount(beside.value),
      ratio?.toFixed(3) ?? "",
      bound,
      kept,
    ];
  };
  const head = ["model", "", "", "beside", "", "ratio", "limit", ""];
  return formatTable(
    [head, ...rows.flatMap(({ model, operations }) => operations.map((one) => line(model, one)))],
    [2, 4, 5],
  );
}

/** Measurements for JSON, with whether each keeps its limit. */
export function operationsDocument(operations: readonly Measurement[]): object[] {
  return operations.map((one) => ({
    ...one,
    value: rounded(one.value),
    ...(one.beside === undefined ? {} : { beside: { ...one.beside, value: rounded(one.beside.value) } }),
    ...(one.ratio === undefined ? {} : { ratio: rounded(one.ratio) }),
    kept: keepsLimit(one),
  }));
}

function compared(
  what: string,
  unit: Measurement["unit"],
  value: number,
  beside: NonNullable<Measurement["beside"]>,
  limit?: Measurement["limit"],
): Measurement {
  const measurement = { what, unit, value, beside, ratio: value / beside.value };
  return limit === undefined ? measurement : { ...measurement, limit };
}

// ---- snapshots ----

/** Taking and restoring share cells, so the first step after a restore, which writes own ones, is measured as well. */
async function measureSnapshots(path: string, { threads, repetitions }: OperationOptions): Promise<Measurement[]> {
  await using model = await loadWithSnapshots(path, 2, { context: prefill_tokens + 8, sequences: 2, threads });
  using sequence = model.sequence();
  using other = model.sequence();
  await sequence.feed(textOf(prefill_tokens), { logits: "none" });
  const bytes = heldBytes(model, sequence.position);
  const [from, to] = [Buffer.alloc(bytes, 1), Buffer.alloc(bytes, 2)];
  const times = {
    take: [] as number[],
    restore: [] as number[],
    copy: [] as number[],
    first: [] as number[],
    next: [] as number[],
  };
  for (let round = 0; round <= 8 * repetitions; round += 1) {
    const start = performance.now();
    using snapshot = await sequence.snapshot();
    const take = performance.now() - start;
    const restore = await timed(() => other.restore(snapshot));
    const first = await timed(() => other.feed([7]));
    const next = await timed(() => other.feed([7]));
    const copy = await timed(() => from.copy(to));
    // The first round warms up.
    if (round > 0)
      for (const [name, time] of Object.entries({ take, restore, copy, first, next }))
        times[name as keyof typeof times].push(time);
  }
  const speed = (samples: readonly number[]): number => bytes / 1e6 / median(samples);
  const memcpy = { what: `memcpy of ${formatBytes(bytes)}`, value: speed(times.copy) };
  return [
    compared("take a snapshot", "GB/s", speed(times.take), memcpy),
    compared("restore a snapshot", "GB/s", speed(times.restore), memcpy),
    compared("first token after it", "ms", median(times.first), { what: "the next token", value: median(times.next) }),
  ];
}

/** Bytes that a sequence of this length stands for: those of the cells that hold its positions, and its states. */
function heldBytes({ memory }: Model, position: number): number {
  const own = memory.layers.flatMap(({ memories }) => memories.filter(({ sharedFrom }) => sharedFrom === undefined));
  return own.reduce((sum, { bytesPerCell, record: { extent } }) => {
    const cells = extent.kind === "state" ? 1 : "size" in extent ? Math.min(extent.size, position) : position;
    return sum + cells * bytesPerCell;
  }, 0);
}

async function measurePrefillSnapshots(
  path: string,
  { threads, repetitions }: OperationOptions,
): Promise<Measurement[]> {
  const places: number[] = [];
  for (let at = snapshot_first; at < prefill_tokens; at += snapshot_every) places.push(at);
  await using model = await loadWithSnapshots(path, places.length, { context: prefill_tokens, threads });
  const prefill = async (snapshots: readonly number[]): Promise<number> => {
    using sequence = model.sequence();
    const time = await timed(() => sequence.feed(textOf(prefill_tokens), { snapshots }));
    for (const snapshot of sequence.snapshots) snapshot.dispose();
    return time;
  };
  const [taken, plain] = await alternated(2 * repetitions + 1, [() => prefill(places), () => prefill([])]);
  const turns = taken.map((ms, turn) => [ms, plain[turn] ?? NaN] as const);
  const what = `prefill of ${prefill_tokens}, a snapshot every ${snapshot_every}`;
  return [paired(what, "ms", "without", turns, { most: 1.03 })];
}

// ---- files ----

async function measureFiles(path: string, { threads, repetitions }: OperationOptions): Promise<Measurement[]> {
  const places = [prefill_tokens / 4, prefill_tokens / 2, (3 * prefill_tokens) / 4];
  const settings = { context: prefill_tokens, sequences: 2, threads };
  await using model = await loadWithSnapshots(path, 2 * places.length, settings);
  using sequence = model.sequence();
  await sequence.feed(textOf(prefill_tokens), { logits: "none", snapshots: places });
  const folder = mkdtempSync(join(tmpdir(), "strata-bench-"));
  try {
    const [file, copy] = [join(folder, "state"), join(folder, "copy")];
    const [saves, copies, loads] = await alternated(repetitions, [
      () => timed(() => sequence.save(file)),
      () => timed(() => copyAndSync(file, copy)),
      () => timeRestore(model, file),
    ]);
    const { size } = statSync(file);
    const speed = (samples: readonly number[]): number => size / 1e6 / median(samples);
    const beside = { what: `copy and sync ${formatBytes(size)}`, value: speed(copies) };
    return [
      compared("save a sequence, 3 snapshots", "GB/s", speed(saves), beside),
      compared("bring it back", "GB/s", speed(loads), beside),
    ];
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

async function timeRestore(model: Model, file: string): Promise<number> {
  const start = performance.now();
  using sequence = await model.restore(file);
  const time = performance.now() - start;
  for (const snapshot of sequence.snapshots) snapshot.dispose();
  return time;
}

function copyAndSync(from: string, to: string): void {
  copyFileSync(from, to);
  const file = openSync(to, "r+");
  fsyncSync(file);
  closeSync(file);
}

// ---- several sequences ----

async function measureTogether(path: string, options: OperationOptions): Promise<Measurement[]> {
  const { threads, generateTokens, repetitions } = options;
  const most = Math.max(...together);
  const steps = Math.ceil(generateTokens / 4);
  const context = together_prompt_tokens + steps + 8;
  await using model = await loadModel(path, { context, sequences: most, threads });
  const decode = async (count: number): Promise<number> => {
    const sequences = Array.from({ length: count }, () => model.sequence());
    await model.feed(
      sequences.map((sequence, index) => ({
        sequence,
        tokens: textOf(together_prompt_tokens, index),
        logits: "none" as const,
      })),
    );
    await stepAll(model, sequences);
    const time = await timed(async () => {
      for (let step = 0; step < steps; step += 1) await stepAll(model, sequences);
    });
    for (const sequence of sequences) sequence.dispose();
    return (1000 * count * steps) / time;
  };
  const samples = await alternated(
    repetitions,
    together.map((count) => () => decode(count)),
  );
  const speeds = samples.map(median);
  const [alone = NaN] = speeds;
  const measurements = together.map((count, index): Measurement => {
    const [what, value] = [`decode ${count} together`, speeds[index] ?? NaN];
    return count === 1
      ? { what, unit: "tokens/s", value }
      : compared(what, "tokens/s", value, { what: "1", value: alone });
  });
  return [...measurements, ...(await measureStateBytes(model))];
}

function stepAll(model: Model, sequences: readonly Sequence[]): Promise<unknown> {
  return model.feed(sequences.map((sequence, index) => ({ sequence, tokens: [3 + index] })));
}

/** What a decode step moves of states, after sequences came and went so that their cells are in no order. */
async function measureStateBytes(model: Model): Promise<Measurement[]> {
  const memories = model.memory.layers.flatMap((layer) => layer.memories);
  const states = memories.filter(({ kind, sharedFrom }) => kind === "recurrent" && sharedFrom === undefined);
  const stateBytes = states.reduce((sum, { bytesPerCell }) => sum + bytesPerCell, 0);
  if (stateBytes === 0) return [];
  const sequences: Sequence[] = [];
  for (let round = 0; round < 3; round += 1) {
    while (sequences.length < model.sequenceCount) sequences.push(model.sequence());
    for (const sequence of sequences) await sequence.feed([5], { logits: "none" });
    for (const index of [13, 2, 8, 5]) sequences.splice(index, 1)[0]?.dispose();
    sequences.reverse();
  }
  const before = model.counters().stateBytesMoved;
  await stepAll(model, sequences);
  const moved = model.counters().stateBytesMoved - before;
  const active = { what: "the active states", value: stateBytes * sequences.length };
  for (const sequence of sequences) sequence.dispose();
  return [compared(`states that a step of ${sequences.length} moves`, "bytes", moved, active, { most: 2.1 })];
}

// ---- one sequence, and what else is asked for or held ----

async function measureRollback(path: string, options: OperationOptions): Promise<Measurement[]> {
  const context = options.promptTokens + options.generateTokens;
  const settings = { context, threads: options.threads };
  await using able = await loadModel(path, { ...settings, rollback: 16 });
  await using plain = await loadModel(path, settings);
  const { decode, prefill } = await compareModels(able, plain, options);
  return [
    paired("decode, rollback 16", "tokens/s", "without", decode, { least: 0.95 }),
    paired("prefill, rollback 16", "tokens/s", "without", prefill),
  ];
}

async function measureHeld(path: string, options: OperationOptions): Promise<Measurement[]> {
  const context = options.promptTokens + options.generateTokens;
  const settings = { context, sequences: held_contexts + 1, threads: options.threads };
  await using full = await loadWithSnapshots(path, held_contexts, settings);
  await using empty = await loadWithSnapshots(path, held_contexts, settings);
  await fill(full);
  const { decode, prefill } = await compareModels(full, empty, options);
  const held = `${held_contexts} contexts held`;
  return [
    paired(`decode, ${held}`, "tokens/s", "nothing held", decode, { least: 0.95 }),
    paired(`prefill, ${held}`, "tokens/s", "nothing held", prefill, { least: 0.95 }),
  ];
}

/**
 * Leaves half of the held contexts to sequences, and half to snapshots whose sequences are gone. All were fed in turns
 * with one more that is gone without a trace, so that what is free lies between what is held.
 */
async function fill(model: Model): Promise<void> {
  const piece = 64;
  const sequences = Array.from({ length: held_contexts + 1 }, () => model.sequence());
  for (let at = 0; at < model.contextLength; at += piece) {
    const count = Math.min(piece, model.contextLength - at);
    const tokens = (index: number): number[] => textOf(count, at + index);
    await model.feed(
      sequences.map((sequence, index) => ({ sequence, tokens: tokens(index), logits: "none" as const })),
    );
  }
  for (const [index, sequence] of sequences.entries()) {
    if (index % 2 === 0) continue;
    await sequence.snapshot();
    sequence.dispose();
  }
  sequences[held_contexts / 2]?.dispose();
}

/** The same of two, measured in turns. */
type Turns = readonly (readonly [number, number])[];

/** Both models' speeds: twice as many turns as other measurements have, since it is small differences that count. */
async function compareModels(
  first: Model,
  second: Model,
  { promptTokens, generateTokens, repetitions }: OperationOptions,
): Promise<Record<"prefill" | "decode", Turns>> {
  const run = (model: Model) => async () => {
    await Bun.sleep(settle_ms);
    const { prefillMs, decodeMs } = await generateOnce(model, promptTokens, generateTokens);
    return { prefill: (1000 * promptTokens) / prefillMs, decode: (1000 * generateTokens) / decodeMs };
  };
  const [one, other] = await alternated(2 * repetitions + 1, [run(first), run(second)]);
  const turns = (what: "prefill" | "decode"): Turns =>
    one.map((speeds, turn) => [speeds[what], other[turn]?.[what] ?? NaN]);
  return { prefill: turns("prefill"), decode: turns("decode") };
}

/** The middle ratio of neighbouring turns: what slows the machine down for a while slows both. */
function paired(
  what: string,
  unit: Measurement["unit"],
  beside: string,
  turns: Turns,
  limit?: Measurement["limit"],
): Measurement {
  const middle = (index: 0 | 1): number => median(turns.map((pair) => pair[index]));
  const measurement = compared(what, unit, middle(0), { what: beside, value: middle(1) }, limit);
  return { ...measurement, ratio: median(turns.map(([one, other]) => one / other)) };
}

async function generateOnce(
  model: Model,
  promptTokens: number,
  generateTokens: number,
): Promise<{ readonly prefillMs: number; readonly decodeMs: number }> {
  // The first token comes out of the prompt's own step.
  const settings = { temperature: 0, ignoreEnd: true, maxTokens: generateTokens + 1 };
  let end: Extract<GenerationEvent, { type: "end" }> | undefined;
  for await (const event of model.events(textOf(promptTokens), settings)) if (event.type === "end") end = event;
  if (end?.tokenCount === generateTokens + 1) return end.timings;
  throw new Error(`${end?.tokenCount} tokens came, not ${generateTokens + 1}`);
}

// ---- what all of them use ----

/** Token ids that every model has. */
function textOf(count: number, seed = 0): number[] {
  return Array.from({ length: count }, (_, index) => 3 + (((index + 31 * seed) * 7919) % 300));
}

/** Loads a model with room for so many snapshots. */
async function loadWithSnapshots(path: string, count: number, options: LoadOptions): Promise<Model> {
  using file = openModelFile(path);
  const { bytesPerSnapshot } = await describeMemory(file, options);
  return loadModel(path, { ...options, snapshotBytes: count * bytesPerSnapshot });
}

async function timed(work: () => unknown): Promise<number> {
  const start = performance.now();
  await work();
  return performance.now() - start;
}

/** What each kind of work gives, in turns, from the other end every other time; all have done it once before. */
async function alternated<Sample, const Works extends readonly (() => Promise<Sample>)[]>(
  repetitions: number,
  works: Works & readonly (() => Promise<Sample>)[],
): Promise<{ readonly [Index in keyof Works]: Sample[] }> {
  for (const work of works) await work();
  const samples = works.map((): Sample[] => []);
  for (let repetition = 0; repetition < repetitions; repetition += 1) {
    const order = [...works.entries()];
    for (const [index, work] of repetition % 2 === 0 ? order : order.reverse()) samples[index]?.push(await work());
  }
  return samples as { readonly [Index in keyof Works]: Sample[] };
}
