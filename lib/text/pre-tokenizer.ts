import { StrataError } from "../errors.ts";
import { patternView } from "./unicode.ts";

/** How a byte-level BPE file of one `tokenizer.ggml.pre` cuts text into words, and what else the name implies. */
export interface PreTokenizer {
  /** Each cuts the pieces that the one before it left. */
  readonly cutters: readonly Cutter[];
  /** A word that is a token is taken whole, whatever the merges say. */
  readonly ignoreMerges: boolean;
  /** Whether a prompt starts with BOS where the file does not say. */
  readonly addBos: boolean;
  /** Whether detokenizing a whole text drops the space before punctuation. */
  readonly cleanUp: boolean;
  /** Whether tokens are text as it is, not a letter for each of its bytes. */
  readonly raw: boolean;
  /** Whether U+2581 stands for a space in the tokens. */
  readonly marksSpaces: boolean;
  /** A run of newlines that is a token is taken whole. */
  readonly keepsNewlines: boolean;
  /** Whether a prompt starts with BOS even where the file says that it does not. */
  readonly alwaysBos: boolean;
  /** Whether the file may lack a list of merges. */
  readonly mergesMayLack: boolean;
}

/** Cuts a piece around each match of a pattern, or where a function says. */
export type Cutter = RegExp | Cuts;

/** Calls `cut` with positions inside of a text, from left to right. */
type Cuts = (text: string, cut: (position: number) => void) => void;

type Traits = Partial<Omit<PreTokenizer, "cutters">>;

// The patterns are the published ones of each model, run over `patternView`'s text, so S is all of its whitespace.
const S = "\\t-\\r ";
const contractions = "'s|'t|'re|'ve|'m|'ll|'d";
const anyCaseContractions = "'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]";
const spaces = `[${S}]*[\\r\\n]+|[${S}]+(?![^${S}])|[${S}]+`;
const word = "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+";
const symbols = ` ?[^${S}\\p{L}\\p{N}]+`;

const gpt2 = `${contractions}| ?\\p{L}+| ?\\p{N}+|${symbols}|[${S}]+(?![^${S}])|[${S}]+`;
const llama3 = modern(anyCaseContractions, word, "\\p{N}{1,3}", `${symbols}[\\r\\n]*`);
const qwen2 = modern(anyCaseContractions, word, "\\p{N}", `${symbols}[\\r\\n]*`);
const hanAndKana = "[\\u4e00-\\u9fa5\\u3040-\\u309f\\u30a0-\\u30ff]+";
const asciiPunctuation = "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{\\|}~]";

/** Words that change case inside, as GPT-4o's and Mistral's files cut them. `\p{L}` but for ASCII stands for any case. */
const upper = "(?:(?=\\p{L})[^a-z])";
const lower = "(?:(?=\\p{L})[^A-Z])";
const upperMark = "(?:(?=[\\p{L}\\p{M}])[^a-z])";
const lowerMark = "(?:(?=[\\p{L}\\p{M}])[^A-Z])";

/** Words as newer tokenizers of DeepSeek's kind cut them: marks belong to letters, one punctuation mark may lead. */
const marked = `${asciiPunctuation}[A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+`;

/** The blocks that Kimi's tokenizer cuts out as Han. */
const han =
  "\\u3400-\\u4dbf\\u4e00-\\u9fff\\uf900-\\ufaff\\u{20000}-\\u{2a6df}\\u{2a700}-\\u{2ebef}\\u{2f800}-\\u{2fa1f}";

/** What AFMoE's tokenizer keeps together: the letters of East and South-East Asia, and all from U+8C48 to U+FAFF. */
const asianLetters =
  "\\u4e00-\\u9fff\\u3400-\\u4dbf\\u8c48-\\ufaff\\u3040-\\u309f\\u30a0-\\u30ff\\uff65-\\uff9f\\u2f00-\\u2fdf" +
  "\\u0e40-\\u0e7f\\u0e80-\\u0eff\\u1780-\\u17ff\\u1000-\\u109f\\uaa60-\\uaa7f\\ua9e0-\\ua9ff\\u1100-\\u11ff";

/** Runs of whitespace in powers of two, the largest first. */
const spacesByPowers = [512, 256, 128, 64, 32, 16, 8, 4].map((n) => `[${S}]{${n}}(?![^${S}])`).join("|");

const bloom = " ?[^(\\t-\\r \\|.,!?\\u2026\\u3002\\uff0c\\u3001\\u0964\\u06d4\\u060c\\)]+";

/** Letters with case, as DeepSeek's first tokenizer lists them. */
const casedLetters =
  "A-Za-z\\xb5\\xc0-\\xd6\\xd8-\\xf6\\xf8-\\u01ba\\u01bc-\\u01bf\\u01c4-\\u0293\\u0295-\\u02af\\u0370-\\u0373\\u0376" +
  "\\u0377\\u037b-\\u037d\\u037f\\u0386\\u0388-\\u038a\\u038c\\u038e-\\u03a1\\u03a3-\\u03f5\\u03f7-\\u0481" +
  "\\u048a-\\u052f\\u0531-\\u0556\\u10a0-\\u10c5\\u13a0-\\u13f5\\u13f8-\\u13fd\\u1c90-\\u1cba\\u1cbd-\\u1cbf" +
  "\\u1d00-\\u1d2b\\u1d6b-\\u1d77\\u1d79-\\u1d9a\\u1e00-\\u1f15\\u1f18-\\u1f1d\\u1f20-\\u1f45\\u1f48-\\u1f4d" +
  "\\u1f50-\\u1f57\\u1f59\\u1f5b\\u1f5d\\u1f5f-\\u1f7d\\u1f80-\\u1fb4\\u1fb6-\\u1fbc\\u1fbe\\u1fc2-\\u1fc4" +
  "\\u1fc6-\\u1fcc\\u1fd0-\\u1fd3\\u1fd6-\\u1fdb\\u1fe0-\\u1fec\\u1ff2-\\u1ff4\\u1ff6-\\u1ffc\\u2102\\u2107" +
  "\\u210a-\\u2113\\u2115\\u2119-\\u211d\\u2124\\u2126\\u2128\\u212a-\\u212d\\u212f-\\u2134\\u2139\\u213c-\\u213f" +
  "\\u2145-\\u2149\\u214e\\u2183\\u2184\\u2c00-\\u2c7b\\u2c7e-\\u2ce4\\u2ceb-\\u2cee\\u2cf2\\u2cf3\\ua640-\\ua66d" +
  "\\ua680-\\ua69b\\ua722-\\ua76f\\ua771-\\ua787\\ua78b-\\ua78e\\uab70-\\uabbf\\ufb00-\\ufb06\\ufb13-\\ufb17" +
  "\\uff21-\\uff3a\\uff41-\\uff5a\\u{10400}-\\u{1044f}\\u{104b0}-\\u{104d3}\\u{104d8}-\\u{104fb}" +
  "\\u{10c80}-\\u{10cb2}\\u{10cc0}-\\u{10cf2}\\u{118a0}-\\u{118df}\\u{1e900}-\\u{1e943}";

const table: readonly (readonly [names: string, cutters: readonly (string | Cuts)[], traits?: Traits])[] = [
  ["default", ["[\\p{P}$+<=>\\^~\\|]+", gpt2, "\\p{N}+", "[0-9][0-9][0-9]"]],
  [
    "gpt-2 phi-2 jina-es jina-de gigachat jina-v2-es jina-v2-de a.x-4.0 mellum modern-bert mpt olmo jais exaone4 " +
      "jina-v1-en jina-v2-code roberta-bpe",
    [gpt2],
  ],
  ["trillion granite-docling", [gpt2], { cleanUp: false }],
  ["starcoder refact codeshell exaone minerva-7b mellum2", ["\\p{N}", gpt2]],
  ["smollm command-r", ["\\p{N}", gpt2], { cleanUp: false }],
  ["falcon", ["[\\p{P}$+<=>\\^~\\|`]+", gpt2, "[0-9][0-9][0-9]"]],
  [
    "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano",
    [llama3],
    { ignoreMerges: true, addBos: true },
  ],
  ["dbrx smaug-bpe glm4 chatglm-bpe", [llama3]],
  ["stablelm2 megrez", [qwen2]],
  ["qwen2 deepseek-r1-qwen kormo f2llmv2 hunyuan solar-open grok-2", [qwen2], { cleanUp: false }],
  [
    "qwen35",
    [
      modern(
        anyCaseContractions,
        "[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+",
        "\\p{N}",
        ` ?[^${S}\\p{L}\\p{M}\\p{N}]+[\\r\\n]*`,
      ),
    ],
    { cleanUp: false },
  ],
  ["ufakzeka", [`${word}|\\p{N}|${symbols}[\\r\\n]*|${spaces}`], { cleanUp: false }],
  ["laguna", ["[^\\n]+|[\\n]+", qwen2], { cleanUp: false }],
  [
    "minicpm5",
    ["\\p{N}{1,3}", modern(anyCaseContractions, word, "\\p{N}+", `${symbols}[\\r\\n]*`)],
    { ignoreMerges: true },
  ],
  ["seed-coder", [modern(anyCaseContractions, word, "\\p{N}", ` ?[^${S}\\p{L}\\p{N}\\r\\n]+`)], { cleanUp: false }],
  [
    "bailingmoe bailingmoe2 llada-moe",
    [
      `'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|${word}|\\p{N}|${symbols}[\\r\\n]*|` +
        `[${S}]*[\\r\\n]|[${S}]+(?![^${S}])|[${S}]+`,
    ],
    { cleanUp: false },
  ],
  [
    "exaone-moe",
    [
      `${anyCaseContractions}|[^\\r\\n\\p{L}\\p{N}]?(?:\\p{L}\\p{M}*(?: \\p{L}\\p{M}*)*)+|\\p{N}|` +
        `${symbols}[\\r\\n/]?|[${S}]*[\\r\\n]|[${S}]+(?![^${S}])|[${S}]+`,
    ],
  ],
  ["tekken", [mixedCase(upper, lower, "", "\\p{N}")], { ignoreMerges: true, addBos: true, cleanUp: false }],
  [
    "gpt-4o llama4 kanana2 talkie minimax-m2",
    [mixedCase(upper, lower, `(?:${anyCaseContractions})?`, "\\p{N}{1,3}")],
    { cleanUp: false },
  ],
  [
    "granite-embed-multi-97m",
    [mixedCase(upperMark, lowerMark, `(?:${anyCaseContractions})?`, "\\p{N}{1,3}")],
    { ignoreMerges: true, cleanUp: false },
  ],
  [
    "deepseek-llm",
    [
      "[\\r\\n]",
      `[${S}]?[${casedLetters}]+`,
      `[${S}]?[!-\\/:-~\\uff01-\\uff0f\\uff1a-\\uff5e\\u2018-\\u201f\\u3000-\\u3002]+`,
      `[${S}]+$`,
      "[\\u4e00-\\u9fa5\\u0800-\\u4e00\\uac00-\\ud7ff]+",
      "\\p{N}+",
    ],
    { cleanUp: false },
  ],
  [
    "deepseek-coder",
    ["[\\r\\n]", `[${S}]?\\p{L}+`, `[${S}]?\\p{P}+`, "[\\u4e00-\\u9fa5\\u0800-\\u4e00\\uac00-\\ud7ff]+", "\\p{N}"],
    { cleanUp: false },
  ],
  [
    "deepseek-v3 hunyuan-dense joyai-llm hy_v4",
    ["\\p{N}{1,3}", hanAndKana, `${marked}| ?[\\p{P}\\p{S}]+[\\r\\n]*|${spaces}`],
    { cleanUp: false },
  ],
  [
    "spark2_5",
    ["\\p{N}{1,3}", hanAndKana, `${marked}| ?[\\p{P}\\p{S}]+|[\\r\\n]|[${S}]+(?![^${S}])|[${S}]+`, "\\p{N}"],
    { cleanUp: false },
  ],
  [
    "afmoe",
    [digitsInThrees, `[${asianLetters}]+`, `${marked}| ?[\\p{P}\\p{S}]+[\\r\\n]*|${spaces}`],
    { cleanUp: false },
  ],
  ["tiny_aya cohere2moe", [digitsInThrees, withMarks("\\p{N}{1,3}")], { cleanUp: false }],
  [
    "youtu",
    [
      "[\\uac00-\\ud7a3\\u3131-\\u318e]+|[\\uff01\\u2026\\u201c\\u201d\\u2018\\u2019\\u2014\\uff1a\\uff1b\\uff0c" +
        "\\u3001-\\u303f\\ufe30-\\ufe4f]+|[\\u3105-\\u312f]+|" +
        hanAndKana,
      withMarks("\\p{N}"),
    ],
    { ignoreMerges: true, cleanUp: false },
  ],
  [
    "kimi-k2",
    [
      `[${han}]+|[^\\r\\n\\p{L}\\p{N}]?(?:(?![${han}])\\p{L})+(?:${anyCaseContractions})?|\\p{N}{1,3}|` +
        `${symbols}[\\r\\n]*|${spaces}`,
    ],
    { cleanUp: false, mergesMayLack: true },
  ],
  [
    "jais-2",
    [
      `${anyCaseContractions}|${word}|\\p{N}{1,3}|${symbols}[\\r\\n]*|[${S}]*[\\r\\n]+|` +
        `${spacesByPowers}|[${S}]{1,2}(?![^${S}])|[${S}]`,
    ],
  ],
  ["superbpe", ["\\p{N}+", asciiDigitsInThrees], { cleanUp: false }],
  [
    "chameleon",
    ["<sentinel:[0-9]+>", "IMGIMG[A-I]{1,4}Z", "[\\t\\n]|    |  ", "\\p{N}", "[\\p{P}!-\\/:-@\\[-`\\{-~]", gpt2],
    { addBos: true, cleanUp: false },
  ],
  [
    "gemma4 granite-embed-multi-311m",
    ["[^\\n]+|[\\n]+"],
    { raw: true, marksSpaces: true, keepsNewlines: true, alwaysBos: true },
  ],
  ["sarvam-moe", ["[^\\n]+|[\\n]+"], { raw: true, marksSpaces: true, cleanUp: false }],
  ["bloom gpt3-finnish", [bloom]],
  ["poro-chat", [bloom], { cleanUp: false }],
  ["viking", [bloom, "\\p{N}"], { cleanUp: false }],
];

const rows = new Map(
  table.flatMap(([names, cutters, traits]) => names.split(" ").map((name) => [name, { cutters, traits }] as const)),
);

const usualTraits = {
  ignoreMerges: false,
  addBos: false,
  cleanUp: true,
  raw: false,
  marksSpaces: false,
  keepsNewlines: false,
  alwaysBos: false,
  mergesMayLack: false,
} as const;

/** Names of `tokenizer.ggml.pre` that are known. */
export const preTokenizerNames: readonly string[] = [...rows.keys()];

/**
 * The pre-tokenizer of a name.
 * @throws StrataError `unsupported` for a name that is not known: another one's cuts would be a guess
 */
export function preTokenizer(file: string, name: string): PreTokenizer {
  const row = rows.get(name);
  if (row === undefined) {
    throw new StrataError(
      "unsupported",
      `${file}: the pre-tokenizer "${name}" (tokenizer.ggml.pre) is not known, known are ${preTokenizerNames.join(", ")}`,
    );
  }
  return {
    cutters: row.cutters.map((cutter) => (typeof cutter === "string" ? new RegExp(cutter, "gu") : cutter)),
    ...usualTraits,
    ...row.traits,
  };
}

/** Cuts a text into words. Joined, they are the text. */
export function splitWords(text: string, cutters: readonly Cutter[]): string[] {
  const view = patternView(text);
  let ends = [view.length];
  for (const cutter of cutters) {
    const finer: number[] = [];
    let start = 0;
    let last = 0;
    const cut = (position: number): void => {
      const end = start + position;
      if (end <= last) return;
      finer.push(end);
      last = end;
    };
    for (const end of ends) {
      // A piece is cut alone: a pattern must not look beyond it.
      const piece = start === 0 && end === view.length ? view : view.slice(start, end);
      cutPiece(piece, cutter, cut);
      cut(piece.length);
      start = end;
    }
    ends = finer;
  }
  let start = 0;
  return ends.map((end) => {
    const piece = text.slice(start, end);
    start = end;
    return piece;
  });
}

function cutPiece(piece: string, cutter: Cutter, cut: (position: number) => void): void {
  if (typeof cutter === "function") {
    cutter(piece, cut);
    return;
  }
  for (const match of piece.matchAll(cutter)) {
    cut(match.index);
    cut(match.index + match[0].length);
  }
}

/** Cuts a run of digits so that threes are left at its end. What is before the run stays with its first digits. */
function digitsInThrees(text: string, cut: (position: number) => void): void {
  for (const run of text.matchAll(/\p{N}+/gu)) {
    let position = run.index;
    let left = Array.from(run[0]).length;
    for (const digit of run[0]) {
      position += digit.length;
      left -= 1;
      if (left % 3 === 0) cut(position);
    }
  }
}

/** The same for runs of ASCII digits, but a run whose length is a multiple of three is cut from what is before it. */
function asciiDigitsInThrees(text: string, cut: (position: number) => void): void {
  for (const run of text.matchAll(/[0-9]+/g)) {
    for (let left = run[0].length; left > 0; left -= 1) {
      if (left % 3 === 0) cut(run.index + run[0].length - left);
    }
  }
}

function modern(endings: string, letters: string, digits: string, others: string): string {
  return `${endings}|${letters}|${digits}|${others}|${spaces}`;
}

/** Letters of any case and marks, with a contraction at their end. */
function withMarks(digits: string): string {
  return (
    `[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+(?:${anyCaseContractions})?|${digits}|` + `${symbols}[\\r\\n/]*|${spaces}`
  );
}

function mixedCase(first: string, rest: string, ending: string, digits: string): string {
  const lead = "[^\\r\\n\\p{L}\\p{N}]?";
  const words = `${lead}${first}*${rest}+${ending}|${lead}${first}+${rest}*${ending}`;
  return `${words}|${digits}|${symbols}[\\r\\n/]*|${spaces}`;
}
