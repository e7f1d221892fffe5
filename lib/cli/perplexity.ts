import { StrataError, type Model } from "../index.ts";
import { defineCommand } from "./command.ts";
import { counted, formatNumber } from "./format.ts";
import { interruptible } from "./interrupt.ts";
import { openModel } from "./open.ts";
import { countFrom, modelOption, requiredName, threadsOption, whole } from "./options.ts";
import { Progress } from "./output.ts";
import { textOfFile } from "./text-source.ts";

/** What {@link measurePerplexity} needs of a model. */
export type LogitsSource = Pick<Model, "logits">;

export interface PerplexityOptions {
  /** Tokens in each window. */
  readonly window: number;
  /** What takes the place of each window's first token, where the model's texts begin with BOS. */
  readonly bos: number | undefined;
  readonly signal: AbortSignal;
  onWindow?(done: number, total: number, perplexity: number): void;
}

export interface Perplexity {
  /** e to the mean negative log-likelihood of the tokens scored. */
  perplexity: number;
  /** How many tokens were scored. */
  tokens: number;
}

/**
 * Perplexity by llama.cpp's recipe: consecutive windows of the text, each read afresh; the first half of a window is
 * only context, and each position from the middle on is scored by how well it predicts the next. What is left after the
 * last whole window is not read.
 *
 * @throws StrataError `invalid_argument` where the text has not one window, `internal` where the logits are no numbers
 */
export async function measurePerplexity(
  model: LogitsSource,
  tokens: readonly number[],
  { window, bos, signal, onWindow }: PerplexityOptions,
): Promise<Perplexity> {
  const windows = Math.floor(tokens.length / window);
  if (windows === 0) {
    throw new StrataError(
      "invalid_argument",
      `the text has ${counted(tokens.length, "token")}, and one window needs ${window}; give a longer text or a smaller --ctx`,
    );
  }
  let sum = 0;
  let scored = 0;
  for (let index = 0; index < windows; index += 1) {
    const part = tokens.slice(index * window, (index + 1) * window);
    if (bos !== undefined) part[0] = bos;
    for await (const { position, logits } of model.logits(part, { signal })) {
      const next = part[position + 1];
      if (position < window >> 1 || next === undefined) continue;
      sum += negativeLogLikelihood(logits, next, index * window + position);
      scored += 1;
    }
    onWindow?.(index + 1, windows, Math.exp(sum / scored));
  }
  return { perplexity: Math.exp(sum / scored), tokens: scored };
}

/** Of a token under the softmax of `logits`, in float64. */
function negativeLogLikelihood(logits: Float32Array, token: number, position: number): number {
  // By index: four times as fast as iterating, and a vocabulary can have 262,144 tokens.
  let max = -Infinity;
  for (let id = 0; id < logits.length; id += 1) max = Math.max(max, logits[id] ?? NaN);
  let sum = 0;
  for (let id = 0; id < logits.length; id += 1) sum += Math.exp((logits[id] ?? NaN) - max);
  const loss = Math.log(sum) + max - (logits[token] ?? NaN);
  if (!Number.isNaN(loss)) return loss;
  throw new StrataError("internal", `the logits after token ${position} of the text are no numbers`);
}

const defaultWindow = 512;
const smallestWindow = 4;

export const perplexity = defineCommand({
  name: "perplexity",
  summary: "Measure how well a model predicts a text: the lower, the better.",
  usage: "-m FILE -f TEXT [--ctx N]",
  options: {
    ...modelOption,
    file: requiredName("TEXT", "the text, a UTF-8 file; - reads standard input", "f"),
    ctx: whole("N", `tokens in a window; default ${defaultWindow}`, countFrom(smallestWindow)),
    ...threadsOption,
  },
  notes: `
The text is cut into windows of N tokens that are read one by one, each with BOS in place of its first token where the
file asks for BOS. The second half of each window is scored. Keys and values are f32.
JSON: {"perplexity": 12.34, "tokens": count of those scored}

  strata perplexity -m model.gguf -f text.txt --ctx 512`,
  async run({ values, output }) {
    const text = await textOfFile(values.file, output);
    const window = values.ctx ?? defaultWindow;
    return await interruptible(async (signal) => {
      const loading = { context: window, kv: "f32" as const, threads: values.threads };
      await using model = await openModel(values, loading, output, signal);
      const { tokenizer } = model;
      using progress = new Progress(output);
      const result = await measurePerplexity(model, tokenizer.encode(text, { eos: false }), {
        window,
        bos: tokenizer.addBos ? tokenizer.bos : undefined,
        signal,
        onWindow: (done, total, soFar) => {
          progress.update(`Window ${done} of ${total}: perplexity ${formatNumber(soFar)} so far`);
        },
      });
      progress.clear();
      if (output.json) await output.document(result);
      else await output.write(`perplexity ${result.perplexity.toFixed(4)} over ${counted(result.tokens, "token")}\n`);
    });
  },
});
