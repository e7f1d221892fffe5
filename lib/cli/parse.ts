import { parseArgs } from "node:util";
import { UsageError } from "./usage.ts";

/** One option of a command: how it is spelled, what help says of it, and how its texts become a value. */
export interface Option<T> {
  /** A letter: `m` for `-m`. */
  readonly short?: string;
  /** What stands for the value in help; an option without one is a flag. */
  readonly placeholder?: string;
  readonly help: string;
  /**
   * The value from the texts given, in order (a flag gives one empty text each time).
   * @param spelling the option as a person writes it, for errors
   */
  readonly read: (texts: readonly string[], spelling: string) => T;
}

/** Options by their long names. */
export type OptionTable = Readonly<Record<string, Option<unknown>>>;

/** What a table's options become. */
export type Values<T extends OptionTable> = { readonly [K in keyof T]: T[K] extends Option<infer V> ? V : never };

/** A command line, read. */
export interface Parsed<T extends OptionTable> {
  readonly values: Values<T>;
  readonly positionals: readonly string[];
}

/** The options given, as text, before they become values. */
export interface GivenOptions {
  readonly texts: ReadonlyMap<string, readonly string[]>;
  readonly positionals: readonly string[];
}

/**
 * Finds the options of a table in a command line.
 * @throws UsageError for an option that is not in the table, a missing value, or a value given to a flag
 */
export function findOptions(table: OptionTable, args: readonly string[]): GivenOptions {
  const { tokens } = parseArgs({
    args: [...args],
    options: Object.fromEntries(Object.entries(table).map(([name, option]) => [name, argumentType(option)])),
    strict: false,
    allowPositionals: true,
    tokens: true,
  });
  const texts = new Map<string, string[]>();
  const positionals: string[] = [];
  for (const token of tokens) {
    if (token.kind === "positional") positionals.push(token.value);
    if (token.kind !== "option") continue;
    // Any object has a "constructor", which is no option.
    const option = Object.hasOwn(table, token.name) ? table[token.name] : undefined;
    if (option === undefined) throw new UsageError(`there is no option ${token.rawName}`);
    const text = option.placeholder === undefined ? readFlag(token) : readText(token, option.placeholder, table);
    texts.set(token.name, [...(texts.get(token.name) ?? []), text]);
  }
  return { texts, positionals };
}

/**
 * Turns the options found into values.
 * @throws UsageError for a value that an option does not take, and where a required one is missing
 */
export function readOptions<T extends OptionTable>(table: T, given: GivenOptions): Values<T> {
  const values = Object.entries(table).map(([name, option]) => {
    return [name, option.read(given.texts.get(name) ?? [], spellingOf(name, option))];
  });
  return Object.fromEntries(values) as Values<T>;
}

/** An option as a person writes it: its letter where it has one. */
export function spellingOf(name: string, option: Option<unknown>): string {
  return option.short === undefined ? `--${name}` : `-${option.short}`;
}

function argumentType(option: Option<unknown>): { type: "string" | "boolean"; short?: string; multiple: true } {
  const type = option.placeholder === undefined ? "boolean" : "string";
  return option.short === undefined ? { type, multiple: true } : { type, short: option.short, multiple: true };
}

interface OptionToken {
  readonly rawName: string;
  readonly value?: string | undefined;
  readonly inlineValue?: boolean | undefined;
}

function readFlag(token: OptionToken): string {
  if (token.value === undefined) return "";
  throw new UsageError(`${token.rawName} takes no value, and "${token.value}" was given`);
}

function readText(token: OptionToken, placeholder: string, table: OptionTable): string {
  if (token.value === undefined)
    throw new UsageError(`${token.rawName} needs a value: ${token.rawName} ${placeholder}`);
  if (token.inlineValue !== true && isOption(token.value, table)) {
    const long = token.rawName.startsWith("--") ? token.rawName : longName(token.rawName, table);
    throw new UsageError(
      `${token.rawName} needs a value before ${token.value}; if that is the value, write ${long}=${token.value}`,
    );
  }
  return token.value;
}

/** Whether a text is the name of one of the options: then it is not meant as the value of the one before it. */
function isOption(text: string, table: OptionTable): boolean {
  return Object.entries(table).some(([name, { short }]) => {
    return text === `--${name}` || text.startsWith(`--${name}=`) || (short !== undefined && text === `-${short}`);
  });
}

function longName(letter: string, table: OptionTable): string {
  const found = Object.entries(table).find(([, { short }]) => letter === `-${short}`);
  return found === undefined ? letter : `--${found[0]}`;
}
