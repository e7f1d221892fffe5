import { kvTypes, samplingDefaults, type KvType, type SamplingOptions } from "../index.ts";
import type { Option } from "./parse.ts";
import { UsageError } from "./usage.ts";

/** What numbers an option takes. */
interface Range {
  readonly min: number;
  readonly max: number;
  /** Whether `min` itself is left out. */
  readonly above?: boolean;
}

/** A range without an upper bound. */
export const countFrom = (min: number): Range => ({ min, max: Number.MAX_SAFE_INTEGER });

/** The last of several: so an alias can be overridden by what is typed after it. */
function last<T>(convert: (text: string, spelling: string) => T) {
  return (texts: readonly string[], spelling: string): T | undefined => {
    const text = texts.at(-1);
    return text === undefined ? undefined : convert(text, spelling);
  };
}

function required<T>(placeholder: string, read: (texts: readonly string[], spelling: string) => T | undefined) {
  return (texts: readonly string[], spelling: string): T => {
    const value = read(texts, spelling);
    if (value === undefined) throw new UsageError(`${spelling} ${placeholder} is missing`);
    return value;
  };
}

function notEmpty(text: string, spelling: string): string {
  if (text === "") throw new UsageError(`${spelling} is empty; give it a value`);
  return text;
}

/** An option that is there or not. */
export function flag(help: string, short?: string): Option<boolean> {
  return { ...(short === undefined ? {} : { short }), help, read: (texts) => texts.length > 0 };
}

/** An option that takes any text that is not empty, such as a file's name. */
export function name(placeholder: string, help: string, short?: string): Option<string | undefined> {
  return { ...(short === undefined ? {} : { short }), placeholder, help, read: last(notEmpty) };
}

/** The same, and a command without it is wrong usage. */
export function requiredName(placeholder: string, help: string, short?: string): Option<string> {
  return { ...name(placeholder, help, short), read: required(placeholder, last(notEmpty)) };
}

/** An option that takes a whole number. */
export function whole(placeholder: string, help: string, range: Range, short?: string): Option<number | undefined> {
  const convert = (text: string, spelling: string): number => readNumber(text, spelling, range, true);
  return { ...(short === undefined ? {} : { short }), placeholder, help, read: last(convert) };
}

/** An option that takes a number. */
export function real(placeholder: string, help: string, range: Range): Option<number | undefined> {
  return { placeholder, help, read: last((text, spelling) => readNumber(text, spelling, range, false)) };
}

/** Units that bytes can be given in, in small letters. */
const units: Readonly<Record<string, number>> = {
  ...{ "": 1, b: 1, kb: 1000, mb: 1000 ** 2, gb: 1000 ** 3, tb: 1000 ** 4 },
  ...{ kib: 1024, mib: 1024 ** 2, gib: 1024 ** 3, tib: 1024 ** 4 },
};

/** An option that takes bytes, with or without a unit: 1000000, 1MB, 1.5GiB. */
export function bytes(help: string): Option<number | undefined> {
  return { placeholder: "BYTES", help: `${help}; units such as MB and MiB`, read: last(readBytes) };
}

function readBytes(text: string, spelling: string): number {
  const [, digits = "", unit = ""] = /^(\d+\.?\d*|\.\d+) ?([a-z]*)$/i.exec(text.trim()) ?? [];
  const factor = units[unit.toLowerCase()] ?? NaN;
  const value = digits === "" ? NaN : Math.floor(Number(digits) * factor);
  if (Number.isSafeInteger(value)) return value;
  throw new UsageError(`${spelling} is "${text}"; give bytes, such as 1000000, 64MiB or 1.5GB`);
}

/** An option that takes one of a few words. */
export function choice<T extends string>(
  words: readonly T[],
  help: string,
  placeholder = "TYPE",
): Option<T | undefined> {
  const convert = (text: string, spelling: string): T => {
    const word = words.find((candidate) => candidate === text);
    if (word === undefined) throw new UsageError(`${spelling} is "${text}"; give one of ${words.join(", ")}`);
    return word;
  };
  return { placeholder, help: `${help}: ${words.join(", ")}`, read: last(convert) };
}

/** An option that may be repeated; each text counts. */
export function repeated(placeholder: string, help: string): Option<readonly string[]> {
  return { placeholder, help, read: (texts, spelling) => texts.map((text) => notEmpty(text, spelling)) };
}

/** A text to work on; `-` is standard input, and an empty one is a text too. */
export function requiredText(help: string): Option<string> {
  const read = required(
    "TEXT",
    last((text) => text),
  );
  return { short: "p", placeholder: "TEXT", help: `${help}; - reads standard input`, read };
}

/** A list of token ids, for {@link readTokens}; `-` is standard input. */
export const requiredTokens: Option<string> = {
  placeholder: "IDS",
  help: "token ids with commas between them; - reads standard input",
  read: required(
    "IDS",
    last((text, spelling) => {
      // Checked at once, so that a mistake is found before any file is read.
      if (text !== "-") readTokens(text, spelling);
      return text;
    }),
  ),
};

/** Reads a list of token ids: whole numbers between commas or spaces, with or without brackets around them. */
export function readTokens(text: string, spelling: string): number[] {
  const inside = /^\s*\[(.*)\]\s*$/s.exec(text)?.[1] ?? text;
  const items = inside.split(/[\s,]+/).filter((item) => item !== "");
  return items.map((item) => {
    const id = /^\d+$/.test(item) ? Number(item) : NaN;
    if (id < 2 ** 31) return id;
    throw new UsageError(`${spelling} has "${item}" in it; give token ids from 0 up with commas between them`);
  });
}

function readNumber(text: string, spelling: string, { min, max, above = false }: Range, isWhole: boolean): number {
  const form = isWhole ? /^[+-]?\d+$/ : /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i;
  const value = form.test(text.trim()) ? Number(text) : NaN;
  if (value <= max && (above ? value > min : value >= min)) return value;
  const kind = isWhole ? "a whole number" : "a number";
  const low = above ? `above ${min}` : `from ${min}`;
  const bounds = max === Number.MAX_SAFE_INTEGER ? `${low} up` : above ? `${low}, up to ${max}` : `${low} to ${max}`;
  throw new UsageError(`${spelling} is "${text}"; give ${kind} ${bounds}`);
}

/** Options of every command. */
export const commonOptions = {
  json: flag("one JSON document on stdout, everything else on stderr"),
  plugin: repeated("PLUGIN", "also know the architectures of this file or npm package; may be repeated"),
  debug: flag("show where an error comes from"),
  help: flag("show this help", "h"),
};

export const modelOption = { model: requiredName("FILE", "the model, a GGUF file", "m") };

export const threadsOption = {
  threads: whole("N", "threads that compute; default: STRATA_THREADS, else one for each available core", countFrom(1)),
};

/** The type of the attention's keys and values; help names what the command takes without it. */
export function kvOptionOf(usual: KvType): { readonly kv: Option<KvType | undefined> } {
  return { kv: choice(kvTypes, `type of the attention's keys and values, default ${usual}`) };
}

export const kvOption = kvOptionOf("f16");

export const contextOption = {
  ctx: whole("N", "positions to remember; default: what the model was trained on, at most 4096", countFrom(1)),
};

export const rollbackOption = {
  rollback: whole("N", "tokens that can be taken back from the end of every sequence; default 0", countFrom(0)),
};

export const limitOption = { "max-tokens": whole("N", "most tokens to generate", countFrom(0), "n") };

const defaults = samplingDefaults;

export const samplingOptions = {
  temp: real("X", `0: most probable token; higher: more varied; default ${defaults.temperature}`, {
    min: 0,
    max: 1000,
  }),
  "top-k": whole("N", `draw among the N most probable, 0 is off; default ${defaults.topK}`, {
    min: 0,
    max: 2 ** 31 - 1,
  }),
  "top-p": real("X", `draw among the first that reach this probability, 1 is off; default ${defaults.topP}`, {
    min: 0,
    max: 1,
    above: true,
  }),
  "min-p": real("X", `draw among those this fraction as probable as the best; default ${defaults.minP}`, {
    min: 0,
    max: 1,
  }),
  seed: whole("N", "same seed, same text; default: drawn", countFrom(0)),
  "repeat-penalty": real("X", `1 is off; default ${defaults.repetitionPenalty}`, { min: 0.01, max: 100 }),
  "frequency-penalty": real("X", `0 is off; default ${defaults.frequencyPenalty}`, { min: -100, max: 100 }),
  "presence-penalty": real("X", `0 is off; default ${defaults.presencePenalty}`, { min: -100, max: 100 }),
};

/** What {@link samplingOptions} were given as. */
interface SamplingValues {
  readonly temp: number | undefined;
  readonly "top-k": number | undefined;
  readonly "top-p": number | undefined;
  readonly "min-p": number | undefined;
  readonly seed: number | undefined;
  readonly "repeat-penalty": number | undefined;
  readonly "frequency-penalty": number | undefined;
  readonly "presence-penalty": number | undefined;
}

/** The SDK's sampling options. */
export function toSampling(values: SamplingValues): SamplingOptions {
  return {
    temperature: values.temp,
    topK: values["top-k"],
    topP: values["top-p"],
    minP: values["min-p"],
    seed: values.seed,
    repetitionPenalty: values["repeat-penalty"],
    frequencyPenalty: values["frequency-penalty"],
    presencePenalty: values["presence-penalty"],
  };
}
