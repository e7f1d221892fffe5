import { Environment, Interpreter, Template } from "@huggingface/jinja";
import { StrataError } from "../errors.ts";
import type { Metadata } from "../gguf/metadata.ts";
import { ContentMask, inspectedLiterals } from "./content-mask.ts";
import type { Tokenizer } from "./tokenizer.ts";

/** A message as OpenAI's chat API has it. What else a template reads, such as `tool_calls`, may be given too. */
export interface ChatMessage {
  /** Letters, digits, `_` and `-`: "system", "user", "assistant", "tool". */
  readonly role: string;
  readonly content?: unknown;
  readonly [key: string]: unknown;
}

export interface ChatTemplateOptions {
  /** Whether the prompt ends where the assistant's answer begins: true. */
  readonly addGenerationPrompt?: boolean;
  /** Tools as OpenAI's chat API has them. */
  readonly tools?: readonly unknown[];
  /** More of the template's variables, such as `enable_thinking`. */
  readonly extra?: Readonly<Record<string, unknown>>;
}

/** A part of a prompt: one of the template's special tokens, or text, in which no special token is meant. */
export type PromptPart =
  | { readonly kind: "token"; readonly id: number; readonly text: string }
  | { readonly kind: "text"; readonly text: string };

/** Turns chats into prompts. What the caller's messages and tools say never becomes a special token. */
export interface ChatTemplate {
  /** The template's source, in Jinja. */
  readonly source: string;
  /**
   * @throws StrataError `invalid_argument` where the template refuses the messages, `unsupported` where it uses what
   * is not known or changes the messages' text so that it cannot be told from the template's own
   */
  apply(messages: readonly ChatMessage[], options?: ChatTemplateOptions): PromptPart[];
  /** The prompt's tokens, with BOS in front where the file asks for it and the template has not put it there. */
  tokenize(messages: readonly ChatMessage[], options?: ChatTemplateOptions): number[];
}

/**
 * The chat template of a model file, or `source` where given.
 * @throws StrataError `unsupported` where there is none, `bad_format` where it is not a template
 */
export function createChatTemplate(
  metadata: Metadata,
  tokenizer: Tokenizer,
  options: { readonly source?: string } = {},
): ChatTemplate {
  const given = options.source ?? metadata.string("tokenizer.chat_template", undefined);
  if (given === undefined) {
    throw new StrataError(
      "unsupported",
      `${metadata.file}: the file has no chat template (tokenizer.chat_template), so pass one or generate from plain text`,
    );
  }
  return new JinjaChatTemplate(metadata.file, namedTemplates.get(given) ?? given, tokenizer);
}

/** Files of RWKV may hold the name of a template, which llama.cpp knows, in place of it. */
const namedTemplates: ReadonlyMap<string, string> = new Map([
  [
    "rwkv-world",
    "{% for message in messages if message.role in ['system', 'user', 'assistant'] %}" +
      "{{ message.role | capitalize + ': ' + message.content | trim + '\\n\\n' }}{% endfor %}" +
      "{% if add_generation_prompt %}Assistant:{% endif %}",
  ],
]);

class JinjaChatTemplate implements ChatTemplate {
  private readonly template: Template;
  private readonly mask: ContentMask;

  constructor(
    private readonly file: string,
    readonly source: string,
    private readonly tokenizer: Tokenizer,
  ) {
    this.template = parse(file, source);
    const specialTexts = Array.from(tokenizer.specialTokens, (id) => tokenizer.tokenText(id));
    this.mask = new ContentMask(source, specialTexts, inspectedLiterals(this.template.parsed));
  }

  apply(messages: readonly ChatMessage[], options: ChatTemplateOptions = {}): PromptPart[] {
    const input = this.readInput(messages, options);
    const dates = new Map<string, string>();
    const plain = this.render(input, dates);
    const { prompt, unmask } = this.renderMasked(input, plain, dates);
    return this.tokenizer
      .splitSpecial(prompt)
      .filter((part) => part !== "")
      .map((part) =>
        typeof part === "number"
          ? { kind: "token", id: part, text: this.tokenizer.tokenText(part) }
          : { kind: "text", text: unmask(part) },
      );
  }

  tokenize(messages: readonly ChatMessage[], options: ChatTemplateOptions = {}): number[] {
    const { bos, addBos, specialTokens } = this.tokenizer;
    const parts = this.apply(messages, options);
    const first = parts[0];
    const hasBos = first?.kind === "token" && first.id === bos;
    const tokens = addBos && bos !== undefined && !hasBos ? [bos] : [];
    for (const part of parts) {
      if (part.kind === "token") tokens.push(part.id);
      else {
        const ids = this.tokenizer.encode(part.text, { bos: false, eos: false, without: specialTokens });
        for (const id of ids) tokens.push(id);
      }
    }
    return tokens;
  }

  private readInput(messages: readonly ChatMessage[], options: ChatTemplateOptions): Input {
    for (const [index, { role }] of messages.entries()) {
      if (typeof role === "string" && /^[\w-]+$/.test(role)) continue;
      throw new StrataError(
        "invalid_argument",
        `message ${index} has the role ${JSON.stringify(role)}, expected a word of letters, digits, "_" and "-"`,
      );
    }
    return {
      messages,
      tools: options.tools ?? null,
      extra: options.extra ?? {},
      ends: options.addGenerationPrompt ?? true,
    };
  }

  /**
   * Renders with the messages' text masked, so that a special token in the prompt can only be the template's own, and
   * makes sure that the mask changed nothing else.
   */
  private renderMasked(input: Input, plain: string, dates: Map<string, string>): { prompt: string; unmask: Unmask } {
    for (const attempt of this.mask.attempts(input)) {
      const prompt = this.tryRender(attempt.masked, dates);
      if (prompt !== undefined && attempt.unmask(prompt) === plain) return { prompt, unmask: attempt.unmask };
    }
    throw new StrataError(
      "unsupported",
      `${this.file}: the chat template treats the messages' text in a way that does not tell it from the template's ` +
        `own special tokens, so remove texts like ${this.mask.example} from the messages or pass another template`,
    );
  }

  private tryRender(input: Input, dates: Map<string, string>): string | undefined {
    try {
      return this.render(input, dates);
    } catch (error) {
      // The plain rendering went well: it is the mask that the template cannot bear, and the caller tries another.
      if (error instanceof StrataError) return undefined;
      throw error;
    }
  }

  private render(input: Input, dates: Map<string, string>): string {
    const textOf = (id: number | undefined): string => (id === undefined ? "" : this.tokenizer.tokenText(id));
    try {
      return run(this.template, {
        ...globals,
        documents: null,
        strftime_now: (format: string) => now(format, dates),
        ...input.extra,
        tools: input.tools,
        messages: input.messages,
        add_generation_prompt: input.ends,
        bos_token: textOf(this.tokenizer.bos),
        eos_token: textOf(this.tokenizer.eos),
        pad_token: textOf(this.tokenizer.pad),
        unk_token: textOf(this.tokenizer.unk),
      });
    } catch (error) {
      if (error instanceof Refusal) {
        throw new StrataError(
          "invalid_argument",
          `${this.file}: the chat template refuses the messages: ${error.message}`,
          { cause: error },
        );
      }
      const reason = error instanceof Error ? error.message : String(error);
      throw new StrataError("unsupported", `${this.file}: the chat template cannot be run: ${reason}`, {
        cause: error,
      });
    }
  }
}

interface Input {
  readonly messages: readonly ChatMessage[];
  /** Templates know "no tools" as `none`. */
  readonly tools: readonly unknown[] | null;
  readonly extra: Readonly<Record<string, unknown>>;
  readonly ends: boolean;
}

type Unmask = (text: string) => string;

/** What a template itself raises. */
class Refusal extends Error {}

/** What every template may use. `Template.render` sets most of it too, but its exceptions look like its own faults. */
const globals = {
  true: true,
  false: false,
  none: null,
  True: true,
  False: false,
  None: null,
  range: (...bounds: number[]): number[] => range(bounds),
  raise_exception: (message: unknown): never => {
    throw new Refusal(String(message));
  },
} as const;

function range([first = 0, second, step = 1]: readonly number[]): number[] {
  if (step === 0) throw new Error("range() has a step of zero");
  const [start, stop] = second === undefined ? [0, first] : [first, second];
  return Array.from({ length: Math.max(0, Math.ceil((stop - start) / step)) }, (_, index) => start + index * step);
}

function run(template: Template, variables: Readonly<Record<string, unknown>>): string {
  const environment = new Environment();
  for (const [name, value] of Object.entries(variables)) environment.set(name, value);
  return String(new Interpreter(environment).run(template.parsed).value);
}

/** The time in a template's format, the same in each rendering of one prompt. */
function now(format: string, dates: Map<string, string>): string {
  const known = dates.get(format);
  if (known !== undefined) return known;
  const date = new Template("{{ strftime_now(format) }}").render({ format });
  dates.set(format, date);
  return date;
}

function parse(file: string, source: string): Template {
  try {
    return new Template(source);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new StrataError("bad_format", `${file}: the chat template cannot be parsed: ${reason}`, { cause: error });
  }
}
