import { StrataError } from "./errors.ts";

/** An environment variable that Strata reads. */
export interface EnvironmentVariable {
  readonly name: string;
  /** What setting it does, as a sentence's end: "where ...". */
  readonly meaning: string;
  /** What holds where it is not set, for a person to read. */
  readonly default: string;
  /** Whom it is for: who runs models, or who works on Strata itself. */
  readonly audience: "users" | "developers";
}

/** Every environment variable that Strata reads; help and documentation print this table. */
export const environmentVariables = [
  {
    name: "STRATA_THREADS",
    meaning: "how many threads compute, where nothing else says it",
    default: "one for each available core",
    audience: "users",
  },
  {
    name: "STRATA_LIBRARY",
    meaning: "the native library's file",
    default: "zig-out/lib of a checkout, or the platform package's for this CPU",
    audience: "users",
  },
  {
    name: "STRATA_CACHE",
    meaning: "the folder for what set-up fetches and builds",
    default: ".cache of the checkout",
    audience: "users",
  },
  {
    name: "STRATA_TRACE",
    meaning: "set to anything: each call of the native library is written to stderr",
    default: "off",
    audience: "users",
  },
  {
    name: "STRATA_POISON",
    meaning: "set to anything: free cells and unused buffers hold NaN, so that whatever reads them shows",
    default: "off",
    audience: "developers",
  },
  {
    name: "STRATA_ZIG",
    meaning: "the Zig compiler that tests build with, set by `npm test`",
    default: "none",
    audience: "developers",
  },
  {
    name: "STRATA_GGML",
    meaning: "the folder of ggml's source that tests build with, set by `npm test`",
    default: "none",
    audience: "developers",
  },
  {
    name: "STRATA_NODE",
    meaning: "the Node that tests run libllama under, set by `npm test`",
    default: "none",
    audience: "developers",
  },
  {
    name: "STRATA_SOAK",
    meaning: "set to anything: random tests run their full counts, set by `npm run soak`",
    default: "a tenth of them",
    audience: "developers",
  },
  {
    name: "STRATA_SEED",
    meaning: "the seed of random tests, to repeat one that failed",
    default: "drawn and printed",
    audience: "developers",
  },
] as const satisfies readonly EnvironmentVariable[];

export type EnvironmentName = (typeof environmentVariables)[number]["name"];

/** A variable's value; undefined where it is not set or empty. */
export function readEnvironment(name: EnvironmentName): string | undefined {
  const value = process.env[name];
  return value === "" ? undefined : value;
}

/**
 * A variable's value as a whole number from 1 up; undefined where it is not set or empty.
 * @throws StrataError `invalid_argument` where it is anything else
 */
export function readEnvironmentCount(name: EnvironmentName): number | undefined {
  const value = readEnvironment(name);
  if (value === undefined) return undefined;
  const count = Number(value);
  if (/^\d+$/.test(value) && Number.isSafeInteger(count) && count > 0) return count;
  throw new StrataError(
    "invalid_argument",
    `the environment variable ${name} is "${value}"; set it to a whole number from 1 up, or unset it`,
  );
}

/** The table as lines of text for a terminal: name, meaning and default in columns. */
export function environmentTable(audience: EnvironmentVariable["audience"]): string {
  const shown = environmentVariables.filter((variable) => variable.audience === audience);
  const width = Math.max(...shown.map(({ name }) => name.length));
  return shown
    .map((variable) => `  ${variable.name.padEnd(width)}  ${variable.meaning} (default: ${variable.default})`)
    .join("\n");
}
