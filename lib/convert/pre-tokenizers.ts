import { preTokenizer } from "../text/pre-tokenizer.ts";
import { isObject, type Json, type JsonObject } from "./config.ts";

/** What a `tokenizer.json` says of how text is cut into words. */
export interface WordCutting {
  /** What each step cuts at, as written in the file; steps with fixed meaning by their names. */
  readonly steps: readonly string[];
  /** Whether a word that is a token is taken whole, whatever the merges say. */
  readonly ignoreMerges: boolean;
}

const contractions = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
const ending = String.raw`| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`;
const word = String.raw`[^\r\n\p{L}\p{N}]?\p{L}+`;
const lead = String.raw`[^\r\n\p{L}\p{N}]?`;
const upper = String.raw`[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`;
const lower = String.raw`[\p{Ll}\p{Lm}\p{Lo}\p{M}]`;
const slashEnding = ending.replace(String.raw`[\r\n]*`, String.raw`[\r\n/]*`);

function mixedCase(suffix: string, digits: string): string {
  return `${lead}${upper}*${lower}+${suffix}|${lead}${upper}+${lower}*${suffix}|${digits}${slashEnding}`;
}

/**
 * Steps as released `tokenizer.json` have them, and the names of `tokenizer.ggml.pre` that cut the same way: the first
 * that also agrees in what the name implies besides.
 */
const known: readonly (readonly [steps: readonly string[], names: readonly string[]])[] = [
  [["ByteLevel"], ["gpt-2", "trillion"]],
  [
    ["Digits", "ByteLevel"],
    ["starcoder", "smollm"],
  ],
  [["Punctuation", "ByteLevel", "[0-9][0-9][0-9]"], ["falcon"]],
  [[`${contractions}|${word}|\\p{N}{1,3}${ending}`], ["llama-bpe", "dbrx"]],
  [[`${contractions}|${word}|\\p{N}${ending}`], ["qwen2", "stablelm2"]],
  [
    [
      String.raw`${contractions}|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}` +
        String.raw`| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`,
    ],
    ["qwen35"],
  ],
  [[mixedCase("", "\\p{N}")], ["tekken"]],
  [[mixedCase(`${contractions}?`, "\\p{N}{1,3}")], ["gpt-4o"]],
  [
    [
      "\\p{N}{1,3}",
      "[一-龥぀-ゟ゠-ヿ]+",
      String.raw`[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_` +
        "`" +
        String.raw`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`,
    ],
    ["deepseek-v3"],
  ],
];

/** How `tokenizer.json` cuts text into words. Steps that cannot be named are given as they are. */
export function wordCutting(tokenizer: JsonObject): WordCutting {
  const model = tokenizer["model"];
  return {
    steps: stepsOf(tokenizer["pre_tokenizer"]),
    ignoreMerges: isObject(model) && model["ignore_merges"] === true,
  };
}

/**
 * The name in `tokenizer.ggml.pre` of the pre-tokenizer that cuts text so; undefined where none is known to.
 * @param cleansUp whether decoding drops the space before punctuation; undefined where nothing says it
 * @param mergesReachAll whether the merges alone make a token of every word that is one, so that ignoring them is no
 * difference; only asked where it matters
 */
export function preTokenizerName(
  cutting: WordCutting,
  cleansUp: boolean | undefined,
  mergesReachAll: (name: string) => boolean,
): string | undefined {
  const steps = cutting.steps.join("\n");
  const names = known.find(([candidate]) => candidate.join("\n") === steps)?.[1] ?? [];
  const traits = names.map((name) => ({ name, ...preTokenizer("tokenizer.json", name) }));
  const alike = traits.filter(({ ignoreMerges }) => ignoreMerges === cutting.ignoreMerges);
  const [first] = traits;
  if (first !== undefined && first.ignoreMerges !== cutting.ignoreMerges && alike[0] !== undefined) {
    if (mergesReachAll(alike[0].name)) return first.name;
  }
  return (alike.find(({ cleanUp }) => cleanUp === cleansUp) ?? alike[0])?.name;
}

function stepsOf(step: Json | undefined): string[] {
  if (!isObject(step)) return [];
  const { type } = step;
  if (type === "Sequence" && Array.isArray(step["pretokenizers"])) {
    return (step["pretokenizers"] as readonly Json[]).flatMap(stepsOf);
  }
  if (type === "ByteLevel") {
    const steps = plain(step, { add_prefix_space: false });
    // Spelling bytes as letters cuts nothing.
    return step["use_regex"] === false ? steps.filter((name) => name !== type) : steps;
  }
  if (type === "Digits") return step["individual_digits"] === true ? ["Digits"] : [];
  if (type === "Punctuation") return plain(step, { behavior: "Contiguous" });
  if (type === "Split" && isIsolated(step)) return [patternOf(step["pattern"])];
  return [JSON.stringify(step)];
}

/** The step's name where it has the usual settings, and otherwise all of it. */
function plain(step: JsonObject, usual: JsonObject): string[] {
  const isUsual = Object.entries(usual).every(([key, value]) => (step[key] ?? value) === value);
  return [isUsual ? String(step["type"]) : JSON.stringify(step)];
}

/** Whether matches are pieces; taking away what is between the matches is the same where they leave nothing out. */
function isIsolated(step: JsonObject): boolean {
  const { behavior, invert } = step;
  return (behavior === "Isolated" && invert !== true) || (behavior === "Removed" && invert === true);
}

function patternOf(pattern: Json | undefined): string {
  const text = isObject(pattern) ? (pattern["Regex"] ?? JSON.stringify(pattern)) : JSON.stringify(pattern ?? null);
  // Some files have line ends as they are and not by their escapes, and some the expanded form of ignored case.
  const escaped = String(text).replaceAll("\r", "\\r").replaceAll("\n", "\\n");
  return escaped.replaceAll("(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])", contractions);
}
