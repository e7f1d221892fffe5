import type { FinishReason, GenerateOptions, GenerationEvent } from "../index.ts";
import { defineCommand } from "./command.ts";
import { counted, formatNumber, rounded } from "./format.ts";
import { interruptible } from "./interrupt.ts";
import { openModel } from "./open.ts";
import {
  contextOption,
  flag,
  kvOption,
  limitOption,
  modelOption,
  repeated,
  requiredText,
  samplingOptions,
  threadsOption,
  toSampling,
} from "./options.ts";
import { Progress, type Output } from "./output.ts";
import { textOf } from "./text-source.ts";

/** What `strata generate --json` prints. */
export interface Generated {
  text: string;
  /** The ids drawn, an end token included. */
  tokens: number[];
  /** How many tokens the prompt has. */
  promptTokens: number;
  finishReason: FinishReason;
  timings: {
    loadMs: number;
    prefillMs: number;
    decodeMs: number;
    prefillTokensPerSecond: number;
    decodeTokensPerSecond: number;
  };
}

/** What {@link collect} tells of a generation while it runs. */
export interface GenerationWatcher {
  onText?(text: string): Promise<void> | void;
  onPrefill?(doneTokens: number, totalTokens: number): void;
  onSeed?(seed: number): void;
}

/** Follows a generation to its end and gives what came of it. */
export async function collect(
  events: AsyncIterable<GenerationEvent>,
  loadMs: number,
  watcher: GenerationWatcher = {},
): Promise<Generated> {
  const tokens: number[] = [];
  let text = "";
  const add = async (piece: string): Promise<void> => {
    text += piece;
    if (piece !== "") await watcher.onText?.(piece);
  };
  for await (const event of events) {
    if (event.type === "start") watcher.onSeed?.(event.seed);
    if (event.type === "prefill") watcher.onPrefill?.(event.doneTokens, event.totalTokens);
    if (event.type === "token") {
      tokens.push(event.token);
      await add(event.text);
    }
    if (event.type !== "end") continue;
    await add(event.text);
    const { timings, finishReason, promptTokenCount } = event;
    return { text, tokens, promptTokens: promptTokenCount, finishReason, timings: measured(loadMs, timings) };
  }
  throw new Error("the generation gave no end event");
}

type Timings = Extract<GenerationEvent, { type: "end" }>["timings"];

function measured(loadMs: number, timings: Timings): Generated["timings"] {
  return {
    loadMs: rounded(loadMs),
    prefillMs: rounded(timings.prefillMs),
    decodeMs: rounded(timings.decodeMs),
    prefillTokensPerSecond: rounded(timings.prefillTokensPerSecond),
    decodeTokensPerSecond: rounded(timings.decodeTokensPerSecond),
  };
}

/** A generation's figures in one line. */
export function figures({ promptTokens, tokens, finishReason, timings }: Generated): string {
  const prefill = `${counted(promptTokens, "prompt token")} at ${formatNumber(timings.prefillTokensPerSecond)}/s`;
  const decode = `${counted(tokens.length, "token")} at ${formatNumber(timings.decodeTokensPerSecond)}/s`;
  return `${prefill}, ${decode}, ended by ${finishReason}`;
}

/** Streams a generation to stdout, ended with a line feed, or prints it as JSON. */
async function show(events: AsyncIterable<GenerationEvent>, loadMs: number, output: Output): Promise<void> {
  using progress = new Progress(output);
  let seed = 0;
  const generated = await collect(events, loadMs, {
    onSeed: (drawn) => (seed = drawn),
    onPrefill: (done, total) => {
      if (done < total) progress.update(`Reading the prompt: ${done} of ${total} tokens`);
    },
    onText: async (text) => {
      progress.clear();
      if (!output.json) await output.write(text);
    },
  });
  if (output.json) return output.document(generated);
  if (!generated.text.endsWith("\n")) await output.write("\n");
  if (output.isWatched) await output.note(output.dim(`${figures(generated)}, seed ${seed}`));
}

export const generate = defineCommand({
  name: "generate",
  summary: "Continue a text. The continuation goes to stdout as it is written.",
  usage: "-m FILE -p TEXT [-n N] [options]",
  options: {
    ...modelOption,
    prompt: requiredText("what to continue"),
    ...limitOption,
    ...samplingOptions,
    stop: repeated("TEXT", "end before this text; may be repeated"),
    special: flag("the text of special tokens in the prompt becomes those tokens"),
    "ignore-end": flag("go on after the model's end token"),
    ...contextOption,
    ...kvOption,
    ...threadsOption,
  },
  notes: `
Without -n it goes on until the model ends the text or the context is full. Ctrl-C ends it and keeps the text so far.
JSON: {"text": "...", "tokens": [ids drawn], "promptTokens": count, "finishReason": "stop" | "length" | "cancelled",
  "timings": {"loadMs", "prefillMs", "decodeMs", "prefillTokensPerSecond", "decodeTokensPerSecond"}}

  strata generate -m model.gguf -p "The capital of France is" -n 32 --temp 0
  strata generate -m model.gguf -p - --json < prompt.txt`,
  async run({ values, output }) {
    const prompt = await textOf(values.prompt, output);
    const loading = { context: values.ctx, kv: values.kv, threads: values.threads };
    return await interruptible(async (signal) => {
      await using model = await openModel(values, loading, output, signal);
      const options: GenerateOptions = {
        ...toSampling(values),
        maxTokens: values["max-tokens"],
        stop: values.stop,
        special: values.special,
        ignoreEnd: values["ignore-end"],
        signal,
      };
      await show(model.events(prompt, options), model.loadMs, output);
    });
  },
});
