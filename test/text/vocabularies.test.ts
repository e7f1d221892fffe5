import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { basename, join } from "node:path";
import { tokenizerModels } from "../../lib/text/kinds.ts";
import { createTokenizer, type Tokenizer } from "../../lib/text/index.ts";
import { openModelFile } from "../../lib/model/file.ts";
import { Peer } from "../peer/peer.ts";
import { variedLines } from "./lines.ts";
import { llamaFiles } from "./llama-files.ts";
import { madeUpSeed } from "./made-up.ts";

// The vocabularies of released models that llama.cpp keeps for its own tests, with the tokens that each model's own
// tokenizer makes of some texts.

const soaks = process.env["STRATA_SOAK"] === "1";
const lineCount = soaks ? 2_000 : 300;

setDefaultTimeout(120_000);

const folder = await llamaFiles();
const files = readdirSync(folder);

interface Found {
  readonly file: string;
  readonly model: string;
}

function find(name: string): Found {
  const file = join(folder, name);
  using opened = openModelFile(file);
  return { file, model: opened.metadata.string("tokenizer.ggml.model") };
}

const found = new Map(
  files
    .filter((name) => name.endsWith(".gguf"))
    .map((name) => [/^ggml-vocab-(.*)\.gguf$/.exec(name)?.[1] ?? "", find(name)]),
);
const known = [...found].filter(([, { model }]) => tokenizerModels.has(model));

function open(file: string): Tokenizer {
  using opened = openModelFile(file);
  return createTokenizer(opened.metadata);
}

interface Case {
  readonly text: string;
  readonly ids: number[];
}

/** The texts of an `.inp` file with the tokens of the `.out` file beside it. */
function readCases(file: string): Case[] {
  const texts = readFileSync(`${file}.inp`, "utf8").split("\n__ggml_vocab_test__\n");
  const lines = readFileSync(`${file}.out`, "utf8").replace(/\n$/, "").split("\n");
  // The last separator may have nothing after it.
  if (texts.length === lines.length + 1 && texts.at(-1) === "") texts.pop();
  expect(texts).toHaveLength(lines.length);
  const idsOf = (line: string): number[] => (line.trim() === "" ? [] : line.trim().split(" ").map(Number));
  return texts.map((text, index) => ({ text, ids: idsOf(lines[index] ?? "") }));
}

test("the files are all but those of kinds that are refused", () => {
  const names = known.map(([name]) => name);
  expect([...found.keys()].filter((name) => !names.includes(name)).sort()).toEqual(["bert-bge", "nomic-bert-moe"]);
  expect(known.length).toBeGreaterThanOrEqual(17);
});

describe("the vocabulary of", () => {
  let peer: Peer;
  beforeAll(() => {
    console.log(`llama.cpp's vocabularies: ${lineCount} lines each, STRATA_SEED=${madeUpSeed}`);
    peer = new Peer();
  });
  afterAll(() => peer[Symbol.asyncDispose]());

  const hasCases = ({ file }: Found): boolean => files.includes(`${basename(file)}.inp`);

  test("most models has such texts", () => {
    expect(known.filter(([, vocabulary]) => hasCases(vocabulary)).length).toBeGreaterThanOrEqual(14);
  });

  test.each(known.filter(([, vocabulary]) => hasCases(vocabulary)))(
    "%s gives the model's own tokens",
    (_name, { file }) => {
      const tokenizer = open(file);
      const cases = readCases(file);
      expect(cases.length).toBeGreaterThanOrEqual(40);
      for (const { text, ids } of cases) {
        expect({ text, ids: tokenizer.encode(text, { bos: false, eos: false }) }).toEqual({ text, ids });
      }
    },
  );

  // Those without such texts; a soak compares all.
  const compared = known.filter(([, vocabulary]) => soaks || !hasCases(vocabulary));

  test.each(compared)("%s gives libllama's tokens", async (_name, { file }) => {
    const tokenizer = open(file);
    await compareLines(tokenizer, file);
    const { ends } = await peer.attributes(file, tokenizer.vocabularySize);
    const ids = Array.from({ length: tokenizer.vocabularySize }, (_, id) => id);
    expect(ids.filter((id) => tokenizer.isEndOfGeneration(id))).toEqual([...ends]);
    await peer.unload(file);
  });

  async function compareLines(tokenizer: Tokenizer, file: string): Promise<void> {
    const specials = Array.from(tokenizer.specialTokens, (id) => tokenizer.tokenText(id)).slice(0, 20);
    const lines = variedLines(lineCount, madeUpSeed, [...specials, "</s>", "<|im_end|>"]);
    for (const special of [false, true]) {
      const theirs = await peer.tokenize(file, lines, special);
      const texts = await peer.detokenize(file, theirs, special);
      for (const [index, text] of lines.entries()) {
        const ids = theirs[index] as number[];
        const ours = tokenizer.encode(text, { special, bos: false, eos: false });
        if (!Bun.deepEquals(ours, ids)) expect({ text, special, ids: ours }).toEqual({ text, special, ids });
        expect(tokenizer.decode(ids, { special })).toBe(texts[index] as string);
      }
    }
  }
});
