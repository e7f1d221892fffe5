import { StrataError } from "../errors.ts";

/**
 * How the built-in chain chooses a token. It works in llama.cpp's order: logit bias, penalties, then either the most
 * probable token (`temperature` 0) or top-k, top-p, min-p, temperature and a draw. Each filter sees what the one before
 * it left; top-p and min-p measure probabilities before temperature.
 *
 * What is left out comes from {@link samplingDefaults}.
 */
export interface SamplingOptions {
  /** 0 takes the most probable token every time; up to 1000. Higher is more varied. Default 0.8. */
  readonly temperature?: number | undefined;
  /** Draw among this many most probable tokens; 0 or -1 is off. Default 40. */
  readonly topK?: number | undefined;
  /** Above 0, up to 1: draw among the fewest tokens that together reach this probability; 1 is off. Default 0.95. */
  readonly topP?: number | undefined;
  /** 0 to 1: draw among tokens at least this fraction as probable as the best one; 0 is off. Default 0.05. */
  readonly minP?: number | undefined;
  /** A safe integer from 0 up: the same seed gives the same text. Left out or -1, one is drawn and reported. */
  readonly seed?: number | undefined;
  /** 0.01 to 100: divides positive and multiplies negative logits of tokens already seen; 1 is off. Default 1. */
  readonly repetitionPenalty?: number | undefined;
  /** -100 to 100: subtracted from a token's logit once per occurrence; 0 is off. Default 0. */
  readonly frequencyPenalty?: number | undefined;
  /** -100 to 100: subtracted from the logit of every token already seen; 0 is off. Default 0. */
  readonly presencePenalty?: number | undefined;
  /** How many of the last tokens the penalties look at: up to 1,048,576; 0 is none, -1 all. Default 64. */
  readonly penaltyLastN?: number | undefined;
  /** Added to the logits of these token ids: -1e9 to 1e9, or -Infinity to ban a token. */
  readonly logitBias?: Readonly<Record<number, number>> | ReadonlyMap<number, number> | undefined;
}

type DefaultedOption = Exclude<keyof SamplingOptions, "seed" | "logitBias">;

/** What {@link SamplingOptions} become where nothing is given: llama.cpp's defaults. */
export const samplingDefaults: Readonly<Record<DefaultedOption, number>> = Object.freeze({
  temperature: 0.8,
  topK: 40,
  topP: 0.95,
  minP: 0.05,
  repetitionPenalty: 1,
  frequencyPenalty: 0,
  presencePenalty: 0,
  penaltyLastN: 64,
});

/** A logit bias as the core takes it. */
export interface ResolvedLogitBias {
  /** Token ids, ascending, each once. */
  readonly ids: Uint32Array<ArrayBuffer>;
  /** What is added to the logit of the id at the same index. */
  readonly values: Float32Array<ArrayBuffer>;
}

/** Checked options, complete; the core takes the numbers as float32 and int32. */
export interface ResolvedSampling {
  readonly temperature: number;
  /** 0 is off. */
  readonly topK: number;
  readonly topP: number;
  readonly minP: number;
  /** The seed given, or the one drawn: report it, so that a run can be repeated. */
  readonly seed: number;
  readonly repetitionPenalty: number;
  readonly frequencyPenalty: number;
  readonly presencePenalty: number;
  readonly penaltyLastN: number;
  readonly logitBias: ResolvedLogitBias;
}

/**
 * Checks options against the vocabulary and fills in the defaults.
 *
 * @param vocabularySize tokens in the model's vocabulary
 * @throws StrataError `invalid_argument`: one sentence that names the option, its value and what is allowed
 */
export function resolveSampling(options: SamplingOptions, vocabularySize: number): ResolvedSampling {
  const given = { ...samplingDefaults, ...withoutUndefined(options) };
  const topK = integer("topK", given.topK, -1, 2 ** 31 - 1, "an integer from 1 up, or 0 to keep every token");
  return {
    temperature: real("temperature", given.temperature, 0, 1000, "a number from 0 to 1000"),
    topK: Math.max(topK, 0),
    topP: real("topP", given.topP, smallestFloat32, 1, "a number above 0, up to 1"),
    minP: real("minP", given.minP, 0, 1, "a number from 0 to 1"),
    seed: resolveSeed(options.seed),
    repetitionPenalty: real("repetitionPenalty", given.repetitionPenalty, 0.01, 100, "a number from 0.01 to 100"),
    frequencyPenalty: real("frequencyPenalty", given.frequencyPenalty, -100, 100, "a number from -100 to 100"),
    presencePenalty: real("presencePenalty", given.presencePenalty, -100, 100, "a number from -100 to 100"),
    penaltyLastN: integer(
      "penaltyLastN",
      given.penaltyLastN,
      -1,
      penaltyLastNMax,
      `an integer from 0 to ${penaltyLastNMax}, or -1 to look back on every token`,
    ),
    logitBias: resolveLogitBias(options.logitBias, vocabularySize),
  };
}

/** The two 32-bit halves of a seed, as the core takes it. */
export function seedHalves(seed: number): { low: number; high: number } {
  return { low: seed >>> 0, high: Math.floor(seed / 2 ** 32) };
}

const penaltyLastNMax = 2 ** 20;
const logitBiasMax = 1e9;
const smallestFloat32 = 2 ** -149;

/** So that an option set to undefined means the default, as one left out does. */
function withoutUndefined(options: SamplingOptions): Partial<Record<DefaultedOption, number>> {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined));
}

function real(name: string, value: unknown, low: number, high: number, allowed: string): number {
  // Compared as the core will see it: what float32 rounds to 0 is 0, and the bounds round as the value does.
  const inRange =
    typeof value === "number" && Math.fround(value) >= Math.fround(low) && Math.fround(value) <= Math.fround(high);
  if (!inRange) throw invalid(name, value, allowed);
  return value;
}

function integer(name: string, value: unknown, low: number, high: number, allowed: string): number {
  if (typeof value !== "number" || !Number.isInteger(value) || value < low || value > high) {
    throw invalid(name, value, allowed);
  }
  return value;
}

function resolveSeed(seed: unknown): number {
  if (seed === undefined || seed === -1) return drawSeed();
  const allowed = `an integer from 0 to ${Number.MAX_SAFE_INTEGER}, or leave it out to have one drawn`;
  return integer("seed", seed, 0, Number.MAX_SAFE_INTEGER, allowed);
}

/** 32 bits: enough to never meet twice by accident, short enough to type again. */
function drawSeed(): number {
  const [seed] = crypto.getRandomValues(new Uint32Array(1));
  if (seed === undefined) throw new StrataError("internal", "the system gave no random number for the seed");
  return seed;
}

function resolveLogitBias(bias: SamplingOptions["logitBias"], vocabularySize: number): ResolvedLogitBias {
  const entries = biasEntries(bias).map(([id, value]) => biasEntry(id, value, vocabularySize));
  entries.sort(([a], [b]) => a - b);
  return {
    ids: Uint32Array.from(entries, ([id]) => id),
    values: Float32Array.from(entries, ([, value]) => value),
  };
}

function biasEntries(bias: unknown): [unknown, unknown][] {
  if (bias === undefined) return [];
  if (bias instanceof Map) return [...bias];
  if (typeof bias === "object" && bias !== null && !Array.isArray(bias)) return Object.entries(bias);
  throw invalid("logitBias", bias, "an object or a Map from token ids to numbers");
}

/** An object's keys are strings: only an integer's own spelling is an id, so that no two keys are one id. */
function biasEntry(key: unknown, value: unknown, vocabularySize: number): [number, number] {
  const id = typeof key === "string" && String(Number(key)) === key ? Number(key) : key;
  if (typeof id !== "number" || !Number.isInteger(id) || id < 0 || id >= vocabularySize) {
    throw new StrataError(
      "invalid_argument",
      `sampling: logitBias names token ${show(key)}; give token ids from 0 to ${vocabularySize - 1}`,
    );
  }
  if (typeof value !== "number" || !(value === -Infinity || Math.abs(value) <= logitBiasMax)) {
    const allowed = `a number from ${-logitBiasMax} to ${logitBiasMax}, or -Infinity to ban the token`;
    throw invalid(`logitBias of token ${id}`, value, allowed);
  }
  return [id, value];
}

function invalid(name: string, value: unknown, allowed: string): StrataError {
  return new StrataError("invalid_argument", `sampling: ${name} is ${show(value)}; give ${allowed}`);
}

/** A value in an error's sentence: short, and unlike another type's. */
function show(value: unknown): string {
  if (typeof value === "string") return JSON.stringify(value.length > 40 ? `${value.slice(0, 40)}...` : value);
  if (Array.isArray(value)) return "an array";
  if (typeof value === "bigint") return `${value}n`;
  if (typeof value === "object" && value !== null) return "an object";
  if (typeof value === "function") return "a function";
  return String(value);
}
