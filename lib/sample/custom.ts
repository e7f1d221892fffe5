import { wrong } from "../arguments.ts";
import { StrataError } from "../errors.ts";

/** What a {@link CustomSampler} knows besides the logits. */
export interface CustomSamplerContext {
  /** Tokens generated so far: 0 for the first one. */
  readonly step: number;
  /** The sequence's tokens, prompt first. */
  readonly tokens: readonly number[];
}

/**
 * Chooses a token in place of the built-in chain. Called once per token, on the JavaScript thread, between two steps of
 * the core: what it costs there is added to every token, of others too. While a promise that it returned is awaited, only
 * its own generation waits, and it may use the model: feed other sequences for guidance, say. Those are its own to make
 * before it begins; one more generation within it waits for a sequence if all are in use.
 *
 * @param logits float32[vocabulary], unnormalised log probabilities; -Infinity is a token that the model rules out. Its
 *   own to change, and valid until it has chosen: copy what is to be kept.
 * @returns the id of the chosen token
 */
export type CustomSampler = (logits: Float32Array, context: CustomSamplerContext) => number | Promise<number>;

/**
 * Probabilities from logits: float32[vocabulary], new, summing to 1.
 *
 * @param temperature divides the logits first; above 0
 * @throws StrataError `invalid_argument` if a logit is NaN or +Infinity, if all are -Infinity, or if there is none
 */
export function softmax(logits: Float32Array, temperature = 1): Float32Array<ArrayBuffer> {
  if (!(temperature > 0 && temperature < Infinity)) {
    throw new StrataError("invalid_argument", `softmax: temperature is ${temperature}; give a finite number above 0`);
  }
  const max = logits[best("softmax", logits)] ?? -Infinity;
  const probabilities = new Float32Array(logits.length);
  let sum = 0;
  for (let i = 0; i < logits.length; i += 1) {
    const weight = Math.exp(((logits[i] ?? NaN) - max) / temperature);
    probabilities[i] = weight;
    sum += weight;
  }
  for (let i = 0; i < probabilities.length; i += 1) probabilities[i] = (probabilities[i] ?? NaN) / sum;
  return probabilities;
}

/**
 * The id of the greatest logit; of equal ones, the lowest.
 *
 * @throws StrataError `invalid_argument` if a logit is NaN or +Infinity, if all are -Infinity, or if there is none
 */
export function argmax(logits: Float32Array): number {
  return best("argmax", logits);
}

/** Throws on a sampler that cannot be called. */
export function checkSampler(sampler: unknown): void {
  if (sampler === undefined || typeof sampler === "function") return;
  throw wrong("sampler", sampler, "a function that chooses a token from logits");
}

/**
 * Returns what a custom sampler chose, if it is a token of the vocabulary.
 *
 * @param vocabularySize tokens in the model's vocabulary
 * @param step named in the error
 * @throws StrataError `invalid_argument` for everything else
 */
export function checkToken(result: unknown, vocabularySize: number, step: number): number {
  if (typeof result === "number" && Number.isInteger(result) && result >= 0 && result < vocabularySize) return result;
  const shown =
    typeof result === "number" ? String(result) : `a value of type ${result === null ? "null" : typeof result}`;
  throw new StrataError(
    "invalid_argument",
    `the custom sampler returned ${shown} at step ${step}; return a token id from 0 to ${vocabularySize - 1}`,
  );
}

/**
 * Checks the model's logits before a custom sampler sees them, as the built-in chain does for itself.
 *
 * @param step named in the error
 * @throws StrataError `internal` if a logit is NaN or +Infinity, or if all are -Infinity
 */
export function checkLogits(logits: Float32Array, step: number): void {
  const fault = findFault(logits).fault;
  if (fault === undefined) return;
  const advice = "the model file is damaged, or its graph left the range of its number types";
  throw new StrataError("internal", `the logits of step ${step} ${fault}: ${advice}`);
}

function best(operation: string, logits: Float32Array): number {
  const { fault, token } = findFault(logits);
  if (fault === undefined) return token;
  throw new StrataError("invalid_argument", `${operation}: the logits ${fault}; give at least one finite number`);
}

/** The greatest logit and what cannot be sampled, in one pass; an iterator instead of the index takes 30 times as long. */
function findFault(logits: Float32Array): { token: number; fault?: string } {
  let token = 0;
  let max = -Infinity;
  for (let i = 0; i < logits.length; i += 1) {
    const logit = logits[i] ?? NaN;
    if (logit > max) {
      max = logit;
      token = i;
    } else if (Number.isNaN(logit)) {
      return { token, fault: `hold NaN at token ${i} of ${logits.length}` };
    }
  }
  if (max === Infinity) return { token, fault: `hold +infinity at token ${token} of ${logits.length}` };
  if (max === -Infinity) return { token, fault: logits.length === 0 ? "are empty" : "are all -infinity" };
  return { token };
}
