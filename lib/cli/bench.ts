import { basename } from "node:path";
import type { GenerateOptions, GenerationEvent, Model } from "../index.ts";
import { defineCommand } from "./command.ts";
import { counted, formatNumber, formatTable, median, rounded } from "./format.ts";
import { collect } from "./generate.ts";
import { interruptible } from "./interrupt.ts";
import { openModel } from "./open.ts";
import { countFrom, kvOption, modelOption, threadsOption, whole } from "./options.ts";
import { Progress } from "./output.ts";

/** Speeds of one kind of work, in tokens per second. */
export interface Speeds {
  /** Tokens in each run. */
  tokens: number;
  /** One a run, in their order. */
  samples: number[];
  median: number;
}

export interface Measurement {
  prefill: Speeds;
  decode: Speeds;
}

export interface BenchOptions {
  /** Tokens of the prompt that is read. */
  readonly prefillTokens: number;
  /** Tokens that are generated one by one. */
  readonly decodeTokens: number;
  readonly repetitions: number;
  readonly signal: AbortSignal;
  onRun?(done: number, total: number): void;
}

/** What {@link measureSpeeds} needs of a model. */
export type BenchModel = Pick<Model, "events" | "vocabularySize">;

/**
 * Measures reading a prompt and generating, each by itself and in turns, after one run of both that does not count.
 * Prompts are drawn from the vocabulary, the same ones each time.
 */
export async function measureSpeeds(model: BenchModel, options: BenchOptions): Promise<Measurement> {
  const { prefillTokens, decodeTokens, repetitions, signal, onRun } = options;
  const random = randomTokens(model.vocabularySize);
  const generation: GenerateOptions = { temperature: 0, ignoreEnd: true, signal };
  const prefill: number[] = [];
  const decode: number[] = [];
  for (let run = 0; run <= repetitions; run += 1) {
    const read = await timed(model.events(random(prefillTokens), { ...generation, maxTokens: 1 }));
    // The first token comes out of the prompt's own step; those after it are decoded.
    const written = await timed(model.events(random(1), { ...generation, maxTokens: decodeTokens + 1 }));
    signal.throwIfAborted();
    if (run === 0) continue;
    prefill.push(rounded((1000 * prefillTokens) / read.prefillMs));
    decode.push(rounded((1000 * decodeTokens) / written.decodeMs));
    onRun?.(run, repetitions);
  }
  return {
    prefill: { tokens: prefillTokens, samples: prefill, median: rounded(median(prefill)) },
    decode: { tokens: decodeTokens, samples: decode, median: rounded(median(decode)) },
  };
}

async function timed(events: AsyncIterable<GenerationEvent>): Promise<{ prefillMs: number; decodeMs: number }> {
  return (await collect(events, 0)).timings;
}

/** Draws token ids, from the same seed in every process. */
function randomTokens(vocabularySize: number): (count: number) => number[] {
  let state = 1;
  const draw = (): number => {
    // A linear congruential generator; its high bits are good enough to choose tokens by.
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * vocabularySize);
  };
  return (count) => Array.from({ length: count }, draw);
}

export const bench = defineCommand({
  name: "bench",
  summary: "Measure prefill and decode speed.",
  usage: "-m FILE [--pp 512 --tg 128 --reps 5 --threads N]",
  options: {
    ...modelOption,
    pp: whole("N", "tokens of the prompt to read; default 512", countFrom(1)),
    tg: whole("N", "tokens to generate; default 128", countFrom(1)),
    reps: whole("N", "how often each is measured; default 5", countFrom(1)),
    ...kvOption,
    ...threadsOption,
  },
  notes: `
Prompts are random tokens. One run of both comes first and does not count. All speeds are tokens per second.
JSON: {"model": "file.gguf", "threads": 4, "prefill": {"tokens": 512, "samples": [...], "median": 123.4},
  "decode": {"tokens": 128, "samples": [...], "median": 12.3}}

  strata bench -m model.gguf --pp 512 --tg 128 --reps 5 --threads 4`,
  async run({ values, output }) {
    const { pp = 512, tg = 128, reps = 5 } = values;
    return await interruptible(async (signal) => {
      const loading = { context: Math.max(pp, tg + 1) + 1, kv: values.kv, threads: values.threads };
      await using model = await openModel(values, loading, output, signal);
      using progress = new Progress(output);
      progress.update("Warming up");
      const { prefill, decode } = await measureSpeeds(model, {
        prefillTokens: pp,
        decodeTokens: tg,
        repetitions: reps,
        signal,
        onRun: (done, total) => progress.update(`Run ${done} of ${total}`),
      });
      progress.clear();
      const name = basename(values.model);
      const { threads } = model;
      if (output.json) return output.document({ model: name, threads, prefill, decode });
      const row = (kind: string, { tokens, samples, median }: Speeds): string[] => {
        return [kind, String(tokens), formatNumber(median), samples.map(formatNumber).join(" ")];
      };
      const rows = [["", "tokens", "tokens/s", "each run"], row("prefill", prefill), row("decode", decode)];
      await output.write(`${name}, ${counted(threads, "thread")}\n\n${formatTable(rows, [1, 2])}`);
    });
  },
});
