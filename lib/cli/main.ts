import packageFile from "../../package.json" with { type: "json" };
import { environmentTable } from "../environment.ts";
import { report, type Command } from "./command.ts";
import { Output } from "./output.ts";
import { UsageError } from "./usage.ts";

interface Entry {
  readonly summary: string;
  readonly load: () => Promise<Command>;
}

/** The commands by name; what one needs is only loaded to run it. */
const commands: Readonly<Record<string, Entry>> = {
  generate: {
    summary: "continue a text",
    load: async () => (await import("./generate.ts")).generate,
  },
  chat: {
    summary: "talk with a model in the terminal",
    load: async () => (await import("./chat.ts")).chat,
  },
  serve: {
    summary: "offer a model over HTTP, as OpenAI's API",
    load: async () => (await import("./serve.ts")).serve,
  },
  inspect: {
    summary: "show what a model file holds and what each layer remembers",
    load: async () => (await import("./inspect.ts")).inspect,
  },
  state: {
    summary: "show what a saved state holds",
    load: async () => (await import("./state.ts")).state,
  },
  plan: {
    summary: "plan the memory that a model would take, from its header",
    load: async () => (await import("./plan.ts")).plan,
  },
  tokenize: {
    summary: "turn text into token ids",
    load: async () => (await import("./tokenize.ts")).tokenize,
  },
  detokenize: {
    summary: "turn token ids into text",
    load: async () => (await import("./detokenize.ts")).detokenize,
  },
  perplexity: {
    summary: "measure how well a model predicts a text",
    load: async () => (await import("./perplexity.ts")).perplexity,
  },
  logits: {
    summary: "write a model's logits at every position to a file",
    load: async () => (await import("./logits.ts")).logits,
  },
  convert: {
    summary: "convert a Hugging Face checkpoint to a model file",
    load: async () => (await import("./convert.ts")).convert,
  },
  bench: {
    summary: "measure prefill and decode speed",
    load: async () => (await import("./bench.ts")).bench,
  },
  plugin: {
    summary: "write a package for a new architecture, or check one",
    load: async () => (await import("./plugin.ts")).plugin,
  },
  demo: {
    summary: "show what the model that comes with a checkout remembers and writes",
    load: async () => (await import("./demo.ts")).demo,
  },
};

function overview(): string {
  const width = Math.max(...Object.keys(commands).map((name) => name.length));
  const lines = Object.entries(commands).map(([name, { summary }]) => `  ${name.padEnd(width)}  ${summary}\n`);
  return `Run language models whose layers keep different kinds of memory.

Usage: strata COMMAND [options]

Commands:
${lines.join("")}
Every command takes --json (one JSON document on stdout, everything else on stderr), --plugin PLUGIN,
--debug and --help: strata generate --help

  strata generate -m model.gguf -p "The capital of France is" -n 32

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C.

Environment variables:
${environmentTable("users")}
`;
}

/** Runs the command that the arguments name and gives the exit code. */
export async function main(args: readonly string[], output: Output): Promise<number> {
  const [first, ...rest] = args;
  try {
    if (first === undefined) {
      await output.note(overview(), "");
      return 2;
    }
    if (["--version", "-V"].includes(first)) {
      await output.write(`strata ${packageFile.version}\n`);
      return 0;
    }
    const asksForHelp = ["help", "--help", "-h"].includes(first);
    const name = asksForHelp ? rest.find((arg) => !arg.startsWith("-")) : first;
    if (name === undefined) {
      await output.write(overview());
      return 0;
    }
    const command = await find(name);
    return await command.execute(asksForHelp ? ["--help"] : rest, output);
  } catch (error) {
    return await report(error, undefined, output, args.includes("--debug"));
  }
}

function find(name: string): Promise<Command> {
  const entry = Object.hasOwn(commands, name) ? commands[name] : undefined;
  if (entry !== undefined) return entry.load();
  const names = Object.keys(commands).join(", ");
  const problem = name.startsWith("-") ? `${name} comes before the command` : `there is no command "${name}"`;
  throw new UsageError(`${problem}; start with one of ${names}`);
}

if (import.meta.main) {
  process.exit(await main(process.argv.slice(2), new Output(process.stdout, process.stderr)));
}
