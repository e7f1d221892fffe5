import { StrataError } from "../errors.ts";

/** One way of masking, and its inverse. */
export interface MaskAttempt<Value> {
  readonly masked: Value;
  readonly unmask: (text: string) => string;
}

/**
 * Makes text unable to be a special token, whatever a template does with it: of each special token's text, the
 * characters that are no letters, digits or whitespace (as in `<|im_end|>`) are replaced one to one by private-use
 * characters. What a template looks for in text, to split or compare it, mostly stays as it is.
 */
export class ContentMask {
  /** Characters that are replaced. */
  private readonly marks: readonly string[];
  private readonly specialTexts: readonly string[];
  private readonly inspected: readonly string[];

  /** @param inspected texts for which the template looks in the messages */
  constructor(
    private readonly source: string,
    specialTexts: readonly string[],
    inspected: readonly string[],
  ) {
    this.specialTexts = specialTexts.filter((text) => punctuation.test(text));
    this.marks = [...new Set(this.specialTexts.flatMap((text) => Array.from(text).filter((c) => punctuation.test(c))))];
    // A text that holds a special token must stay masked even though the template looks for it.
    this.inspected = inspected
      .filter((text) => this.marks.some((mark) => text.includes(mark)))
      .filter((text) => !this.specialTexts.some((special) => text.includes(special)))
      .sort((a, b) => b.length - a.length);
  }

  /** A special token's text, for error sentences. */
  get example(): string {
    return JSON.stringify(this.specialTexts[0] ?? "");
  }

  /**
   * Masks every text in a value: first all of it; then, for templates that look for texts such as `</think>`, with
   * those left as they are.
   */
  *attempts<Value>(value: Value): Generator<MaskAttempt<Value>> {
    const codes = this.assignCodes(value);
    const back = new Map(Array.from(codes, ([mark, code]) => [code, mark]));
    const coded = new RegExp(`[${[...codes.values()].join("")}]`, "gu");
    const unmask = (text: string): string =>
      codes.size === 0 ? text : text.replace(coded, (code) => back.get(code) ?? code);
    const cover = (text: string): string => Array.from(text, (letter) => codes.get(letter) ?? letter).join("");
    yield { masked: mapTexts(value, cover), unmask };
    if (this.inspected.length === 0) return;
    yield { masked: mapTexts(value, (text) => this.coverAround(text, cover)), unmask };
  }

  /** Masks a text but for what the template looks for, unless that is a part of a special token. */
  private coverAround(text: string, cover: (text: string) => string): string {
    const left = this.inspected.map((literal) => RegExp.escape(literal)).join("|");
    const kept = text.replace(new RegExp(`(${left})|[^]`, "gu"), (found, literal) =>
      literal === undefined ? cover(found) : found,
    );
    return this.specialTexts.some((special) => kept.includes(special)) ? cover(text) : kept;
  }

  /** Private-use characters that neither the value nor the template uses. */
  private assignCodes(value: unknown): Map<string, string> {
    const used = new Set(this.source.match(privateUse));
    mapTexts(value, (text) => {
      for (const found of text.match(privateUse) ?? []) used.add(found);
      return text;
    });
    const codes = new Map<string, string>();
    let code = 0xe000;
    for (const mark of this.marks) {
      while (used.has(String.fromCharCode(code))) code += 1;
      if (code > 0xf8ff) {
        throw new StrataError("unsupported", "the messages use all private-use characters, of which some are needed");
      }
      codes.set(mark, String.fromCharCode(code));
      code += 1;
    }
    return codes;
  }
}

/**
 * Texts for which a template looks in values: what it compares with, tests for, or gives to a string's methods.
 * @param program a parsed template
 */
export function inspectedLiterals(program: object): string[] {
  const found = new Set<string>();
  visit(program, (node) => {
    const type = Reflect.get(node, "type");
    if (type === "CallExpression" && typeOf(Reflect.get(node, "callee")) === "MemberExpression") {
      collectLiterals(Reflect.get(node, "args"), found);
    }
    if (type === "BinaryExpression" && inspectingOperators.has(operatorOf(node))) collectLiterals(node, found);
  });
  return [...found];
}

const inspectingOperators = new Set(["in", "not in", "==", "!="]);
const punctuation = /[^\p{L}\p{N}\s_]/u;
const privateUse = /[\ue000-\uf8ff]/g;

function collectLiterals(node: unknown, found: Set<string>): void {
  visit(node, (child) => {
    const value: unknown = Reflect.get(child, "value");
    if (Reflect.get(child, "type") === "StringLiteral" && typeof value === "string") found.add(value);
  });
}

function visit(node: unknown, use: (node: object) => void): void {
  if (typeof node !== "object" || node === null) return;
  use(node);
  const children = node instanceof Map ? [...node.entries()].flat() : Object.values(node);
  for (const child of children) visit(child, use);
}

function typeOf(node: unknown): unknown {
  return typeof node === "object" && node !== null ? Reflect.get(node, "type") : undefined;
}

function operatorOf(node: object): string {
  const operator: unknown = Reflect.get(node, "operator");
  return typeof operator === "object" && operator !== null ? String(Reflect.get(operator, "value")) : "";
}

/** A copy of a JSON-like value with every text in it mapped, names of properties too. */
function mapTexts<Value>(value: Value, map: (text: string) => string): Value {
  return mapValue(value, map) as Value;
}

function mapValue(value: unknown, map: (text: string) => string): unknown {
  if (typeof value === "string") {
    if (value.isWellFormed()) return map(value);
    throw new StrataError("invalid_argument", "a message has half of a surrogate pair in it, which is no character");
  }
  if (Array.isArray(value)) return value.map((item) => mapValue(item, map));
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [map(key), mapValue(item, map)]));
}
