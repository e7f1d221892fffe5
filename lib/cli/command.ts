import { StrataError } from "../errors.ts";
import { counted } from "./format.ts";
import { commonOptions } from "./options.ts";
import { OutputClosed, type Output } from "./output.ts";
import { findOptions, readOptions, type Option, type OptionTable, type Values } from "./parse.ts";
import { UsageError } from "./usage.ts";

/** A command's own part: its options, its help, and what it does. */
export interface CommandDefinition<T extends OptionTable> {
  readonly name: string;
  readonly summary: string;
  /** What follows the name in the first line of its help. */
  readonly usage: string;
  readonly options: T;
  /** Names of the arguments that are no options, all of them needed. */
  readonly positionals?: readonly string[];
  /** The end of its help: what JSON it gives, examples. */
  readonly notes: string;
  run(input: CommandInput<T>): Promise<number>;
}

/** What a command works on. */
export interface CommandInput<T extends OptionTable> {
  readonly values: Values<T & typeof commonOptions>;
  /** As many as the definition has `positionals`. */
  readonly positionals: readonly string[];
  readonly output: Output;
}

export interface Command {
  readonly name: string;
  readonly help: string;
  /** Does what the arguments say and gives the exit code: 0 done, 1 failed, 2 wrong usage, 128 + n for a signal. */
  execute(args: readonly string[], output: Output): Promise<number>;
}

/** A command from its own part and what all commands have in common. */
export function defineCommand<T extends OptionTable>(definition: CommandDefinition<T>): Command {
  const options = { ...definition.options, ...commonOptions };
  return {
    name: definition.name,
    help: helpOf(definition, options),
    execute: async (args, output) => {
      const isDebugging = args.includes("--debug");
      try {
        const given = findOptions(options, args);
        if (given.texts.has("help")) {
          await output.write(helpOf(definition, options));
          return 0;
        }
        output.json = given.texts.has("json");
        checkPositionals(definition.positionals ?? [], given.positionals);
        const values = readOptions(options, given);
        return await definition.run({ values, positionals: given.positionals, output });
      } catch (error) {
        return await report(error, definition.name, output, isDebugging);
      } finally {
        await output.flush();
      }
    },
  };
}

/**
 * Says on stderr, in one line, why a command ended, and gives the exit code for it.
 *
 * @param name the command, where it was known
 */
export async function report(
  error: unknown,
  name: string | undefined,
  output: Output,
  isDebugging: boolean,
): Promise<number> {
  // Who stopped reading has what they wanted: `strata ... | head` is no failure.
  if (error instanceof OutputClosed) return 0;
  const command = name === undefined ? "strata" : `strata ${name}`;
  const isUsage = error instanceof UsageError;
  await output.note(isUsage ? `${command}: ${error.message} (see ${command} --help)` : sentenceOf(error, isDebugging));
  if (isDebugging) await output.note(Bun.inspect(error, { colors: false }));
  return isUsage ? 2 : 1;
}

function sentenceOf(error: unknown, isDebugging: boolean): string {
  const message = oneLine(error instanceof Error ? error.message : String(error));
  if (error instanceof StrataError) return `strata: ${message}`;
  const code = error instanceof Error && "code" in error ? error.code : undefined;
  if (code === "ENOSPC") return "strata: the output cannot be written (the disk is full)";
  const kind = error instanceof Error ? error.name : "error";
  return `strata: unexpected ${kind}: ${message}${isDebugging ? "" : " (run again with --debug to see where)"}`;
}

function oneLine(message: string): string {
  return message.trim().replaceAll(/\s*\n\s*/g, " ");
}

function checkPositionals(expected: readonly string[], given: readonly string[]): void {
  const missing = expected[given.length];
  if (missing !== undefined) throw new UsageError(`${missing} is missing`);
  const surplus = given[expected.length];
  if (surplus === undefined) return;
  const taken = expected.length === 0 ? "only options" : counted(expected.length, "argument");
  throw new UsageError(
    `"${surplus}" is one argument too many: it takes ${taken}; put quotes around a text with spaces`,
  );
}

function helpOf(definition: CommandDefinition<OptionTable>, options: OptionTable): string {
  const entries = Object.entries(options).map(([name, option]) => [spelled(name, option), option.help] as const);
  const width = Math.max(...entries.map(([spelling]) => spelling.length));
  const lines = entries.map(([spelling, help]) => `  ${spelling.padEnd(width)}  ${help}\n`);
  const { name, usage, summary, notes } = definition;
  return `${summary}\n\nUsage: strata ${name} ${usage}\n\nOptions:\n${lines.join("")}\n${notes.trim()}\n`;
}

function spelled(name: string, option: Option<unknown>): string {
  const letter = option.short === undefined ? "    " : `-${option.short}, `;
  return `${letter}--${name}${option.placeholder === undefined ? "" : ` ${option.placeholder}`}`;
}
