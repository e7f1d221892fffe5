import { afterAll, describe, expect, test } from "bun:test";
import { rmSync } from "node:fs";
import { join } from "node:path";
import { convertModel, createTokenizer, openModelFile, type ConvertOptions, type Tokenizer } from "ggstrata";
import { randomNumbers } from "../text/lines.ts";
import { modelFiles, openText } from "../text/models.ts";
import { fixtureFolder, readJsonFile, readSafetensors, Workshop } from "./checkpoints.ts";

const workshop = new Workshop();
afterAll(() => rmSync(workshop.folder, { recursive: true }));

const tokenizerJson = readJsonFile(join(fixtureFolder("mamba2"), "tokenizer.json"));
const config = readJsonFile(join(fixtureFolder("mamba2"), "config.json"));
const tensors = readSafetensors(join(fixtureFolder("mamba2"), "model.safetensors"));

/** What a checkpoint's files become: the metadata, and the tokenizer that reads them. */
async function convert(
  files: Readonly<Record<string, unknown>>,
  options: ConvertOptions = {},
): Promise<{ values: Record<string, unknown>; tokenizer: Tokenizer }> {
  const path = workshop.path();
  const folder = workshop.make({ "config.json": config, "tokenizer.json": tokenizerJson, ...files }, tensors);
  await convertModel(folder, path, options);
  using file = openModelFile(path);
  const { metadata } = file;
  const keys = metadata.keys.filter((key) => key.startsWith("tokenizer."));
  return {
    values: Object.fromEntries(keys.map((key) => [key, metadata.get(key)])),
    tokenizer: createTokenizer(metadata),
  };
}

const model = tokenizerJson["model"] as { vocab: Record<string, number>; merges: [string, string][] };
const added = tokenizerJson["added_tokens"] as Record<string, unknown>[];

/** The fixture's tokenizer with other cutting into words. */
function cutting(pre_tokenizer: unknown, changes: Readonly<Record<string, unknown>> = {}) {
  return { "tokenizer.json": { ...tokenizerJson, pre_tokenizer, model: { ...model, ...changes } } };
}

const bytes = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: false };
const gpt2 = { ...bytes, use_regex: true };
const split = (Regex: string) => ({ type: "Split", pattern: { Regex }, behavior: "Isolated", invert: false });
const sequence = (...pretokenizers: unknown[]) => ({ type: "Sequence", pretokenizers });

const ends = String.raw`| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`;
const contractions = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
const words = String.raw`[^\r\n\p{L}\p{N}]?\p{L}+`;
const llama3 = `${contractions}|${words}|\\p{N}{1,3}${ends}`;
const casedWords = (suffix: string) => {
  const [lead, upper, lower] = [
    "[^\\r\\n\\p{L}\\p{N}]?",
    "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]",
    "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]",
  ];
  return `${lead}${upper}*${lower}+${suffix}|${lead}${upper}+${lower}*${suffix}`;
};
const slashEnds = String.raw`| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`;

describe("the pre-tokenizer is told from how text is cut", () => {
  const unmerged = { merges: model.merges.slice(0, 40) };
  test.each([
    ["gpt-2", gpt2, {}],
    ["starcoder", sequence({ type: "Digits", individual_digits: true }, gpt2), {}],
    [
      "falcon",
      sequence(
        { type: "Punctuation", behavior: "Contiguous" },
        gpt2,
        { type: "Digits", individual_digits: false },
        split("[0-9][0-9][0-9]"),
      ),
      {},
    ],
    ["llama-bpe", sequence(split(llama3), bytes), { ignore_merges: true }],
    ["llama-bpe", sequence(split(llama3), bytes), { ignore_merges: false }],
    ["llama-bpe", sequence(split(llama3), bytes), { ignore_merges: true, ...unmerged }],
    // Some tokens are words that no merges make, so it matters here that merges are not ignored.
    ["dbrx", sequence(split(llama3), bytes), { ignore_merges: false, ...unmerged }],
    ["dbrx", sequence(split(llama3), bytes), unmerged],
    ["qwen2", sequence(split(`${contractions}|${words}|\\p{N}${ends}`), bytes), {}],
    [
      "qwen35",
      sequence(
        split(
          String.raw`${contractions}|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`,
        ),
        bytes,
      ),
      {},
    ],
    ["tekken", sequence(split(`${casedWords("")}|\\p{N}${slashEnds}`), bytes), { ignore_merges: true }],
    ["gpt-4o", sequence(split(`${casedWords(`${contractions}?`)}|\\p{N}{1,3}${slashEnds}`), bytes), {}],
    // Line ends as they are, and taking away what lies between: the same cuts.
    [
      "llama-bpe",
      sequence({ ...split(llama3.replaceAll("\\r\\n", "\r\n")), behavior: "Removed", invert: true }, bytes),
      { ignore_merges: true },
    ],
  ])("%s", async (name, pre_tokenizer, changes) => {
    const { values } = await convert(cutting(pre_tokenizer, changes));
    expect(values["tokenizer.ggml.pre"]).toBe(name);
  });

  test("names that cut alike are told apart by what decoding does", async () => {
    const smollm = cutting(sequence({ type: "Digits", individual_digits: true }, gpt2));
    const settings = { clean_up_tokenization_spaces: false };
    expect((await convert({ ...smollm, "tokenizer_config.json": settings })).values["tokenizer.ggml.pre"]).toBe(
      "smollm",
    );
  });

  test("one that is not known is an error, and may be named", async () => {
    const odd = cutting(sequence(split("[a-z]+"), bytes));
    const path = workshop.path();
    const folder = workshop.make({ "config.json": config, ...odd }, tensors);
    await expect(convertModel(folder, path)).rejects.toThrow(
      "does ([a-z]+); if one of llama.cpp's does, give its name: --pre NAME",
    );
    await expect(convertModel(folder, path, { pre: "odd" })).rejects.toThrow('"odd"');
    expect((await convert(odd, { pre: "qwen2" })).values["tokenizer.ggml.pre"]).toBe("qwen2");
    const merged = cutting({ ...split("x"), behavior: "MergedWithPrevious" });
    await expect(convert(merged)).rejects.toThrow('"behavior":"MergedWithPrevious"');
    const prefixed = cutting(sequence(split(llama3), { ...bytes, add_prefix_space: true }), { ignore_merges: true });
    await expect(convert(prefixed)).rejects.toThrow('"add_prefix_space":true');
    const letters = { "tokenizer.json": { ...tokenizerJson, pre_tokenizer: null, decoder: null } };
    await expect(convert(letters)).rejects.toThrow("neither bytes as letters");
  });
});

describe("special tokens", () => {
  test("come from the settings, as text or as an object, and else from the configuration", async () => {
    const { values } = await convert({
      "config.json": { ...config, bos_token_id: 1, pad_token_id: 2, eos_token_id: [2, 1] },
      "tokenizer_config.json": { bos_token: { content: "<s>" }, unk_token: "<pad>" },
    });
    expect(values).toMatchObject({
      "tokenizer.ggml.bos_token_id": 0,
      "tokenizer.ggml.eos_token_id": 2,
      "tokenizer.ggml.unknown_token_id": 2,
      "tokenizer.ggml.padding_token_id": 2,
    });
    expect(Object.keys(values)).not.toContain("tokenizer.ggml.mask_token_id");
  });

  test("BOS is added where the template adds it, unless the settings say otherwise", async () => {
    const single = [{ SpecialToken: { id: "<s>", type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }];
    const template = { type: "TemplateProcessing", single, pair: [], special_tokens: {} };
    const tokenizer = { ...tokenizerJson, post_processor: { type: "Sequence", processors: [bytes, template] } };
    const files = { "tokenizer.json": tokenizer, "tokenizer_config.json": { bos_token: "<s>" } };
    expect((await convert(files)).tokenizer).toMatchObject({ addBos: true, addEos: false, bos: 0 });
    const settings = { bos_token: "<s>", eos_token: "</s>", add_bos_token: false, add_eos_token: true };
    const changed = { ...files, "tokenizer_config.json": settings };
    expect((await convert(changed)).tokenizer).toMatchObject({ addBos: false, addEos: true, eos: 1 });
  });

  test("tokens that were added are control tokens or a user's, and free ids are filled", async () => {
    const marks = [
      { id: 380, content: "<tool>", special: false },
      { id: 381, content: "<|im_end|>", special: false },
      { id: 383, content: "<x>", special: true },
    ];
    const vocab = Object.fromEntries(Object.entries(model.vocab).filter(([, id]) => id < 380));
    const { values, tokenizer } = await convert({
      "tokenizer.json": { ...tokenizerJson, added_tokens: [...added, ...marks], model: { ...model, vocab } },
    });
    expect(Array.from(values["tokenizer.ggml.token_type"] as Int32Array).slice(379)).toEqual([1, 4, 3, 5, 3]);
    expect((values["tokenizer.ggml.tokens"] as string[]).slice(380)).toEqual([
      "<tool>",
      "<|im_end|>",
      "[PAD382]",
      "<x>",
    ]);
    expect(tokenizer.encode("<tool><x>", { bos: false })[0]).toBe(380);
    expect(tokenizer.encode("<tool><x>", { bos: false, special: true })).toEqual([380, 383]);
    const beyond = { ...tokenizerJson, added_tokens: [{ id: 384, content: "<y>", special: true }] };
    await expect(convert({ "tokenizer.json": beyond })).rejects.toThrow(
      '"<y>" has the id 384, and the model has 384 tokens',
    );
  });

  test("what ends a generation by its settings ends it in the file", async () => {
    const marks = ["<a>", "<b>", "<c>"].map((content, i) => ({ id: 381 + i, content, special: true }));
    const vocab = Object.fromEntries(Object.entries(model.vocab).filter(([, id]) => id < 381));
    const files = {
      "tokenizer.json": { ...tokenizerJson, added_tokens: [...added, ...marks], model: { ...model, vocab } },
      "tokenizer_config.json": { eos_token: "</s>" },
    };
    const { tokenizer } = await convert({ ...files, "generation_config.json": { eos_token_id: [1, 382, 381] } });
    expect([1, 381, 382, 383].filter((id) => tokenizer.isEndOfGeneration(id))).toEqual([1, 381, 382]);
    const { values } = await convert({ ...files, "generation_config.json": { eos_token_id: 1 } });
    expect(Object.keys(values).filter((key) => /eot|eom/.test(key))).toEqual([]);
  });
});

describe("chat templates", () => {
  test("a file of its own counts before the settings", async () => {
    const settings = { chat_template: "settings" };
    const files = { "tokenizer_config.json": settings, "chat_template.jinja": "{{ messages }}\n" };
    expect((await convert(files)).values["tokenizer.chat_template"]).toBe("{{ messages }}\n");
    expect((await convert({ "tokenizer_config.json": settings })).values["tokenizer.chat_template"]).toBe("settings");
    expect(Object.keys((await convert({})).values)).not.toContain("tokenizer.chat_template");
  });

  test("several by name", async () => {
    const chat_template = [
      { name: "default", template: "one" },
      { name: "tool_use", template: "two" },
    ];
    expect((await convert({ "tokenizer_config.json": { chat_template } })).values).toMatchObject({
      "tokenizer.chat_template": "one",
      "tokenizer.chat_template.tool_use": "two",
      "tokenizer.chat_templates": ["tool_use"],
    });
  });
});

/** A SentencePiece vocabulary as Hugging Face's own converter writes it: merges of all splits, by the score of their result. */
function sentencePiece(prepends: boolean) {
  const pieces = ["<unk>", "<s>", "</s>"];
  for (let byte = 0; byte < 256; byte += 1) pieces.push(`<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`);
  const letters = [..."etaoinshrdlucmfwypvbgkjqxz.,\u2581"];
  const texts = openText(modelFiles.tinyHybrid).metadata.strings("tokenizer.ggml.tokens").slice(260, 360);
  const spelled = texts.map((text) => text.replaceAll("Ġ", "\u2581")).filter((text) => /^[a-z\u2581]{2,}$/.test(text));
  const own = [...new Set(spelled)].slice(0, 384 - pieces.length - letters.length);
  const vocab = Object.fromEntries([...pieces, ...own, ...letters].map((text, id) => [text, id]));
  const merges = own.flatMap((text) => {
    const splits = Array.from(text)
      .slice(1)
      .map((_, i) => [text.slice(0, i + 1), text.slice(i + 1)] as const);
    const known = splits.filter(([left, right]) => left in vocab && right in vocab);
    return known.sort((a, b) => (vocab[a[0]] ?? 0) - (vocab[b[0]] ?? 0) || (vocab[a[1]] ?? 0) - (vocab[b[1]] ?? 0));
  });
  const space = { type: "Replace", pattern: { String: " " }, content: "\u2581" };
  const normalizers = prepends ? [{ type: "Prepend", prepend: "\u2581" }, space] : [space];
  const special = pieces.slice(0, 3).map((content, id) => ({ id, content, special: true }));
  return {
    added_tokens: [...special, { id: 383, content: "\u2581\u2581\u2581", special: false }],
    normalizer: { type: "Sequence", normalizers },
    pre_tokenizer: null,
    decoder: { type: "Sequence", decoders: [{ type: "ByteFallback" }, { type: "Fuse" }] },
    model: { type: "BPE", unk_token: "<unk>", byte_fallback: true, fuse_unk: true, vocab, merges },
  };
}

/** Byte-pair encoding as `tokenizer.json` means it: the pair of the lowest rank first, the leftmost of equal ones. */
function plainEncode(json: ReturnType<typeof sentencePiece>, text: string): number[] {
  const { vocab, merges } = json.model;
  const ranks = new Map(merges.map(([left, right], rank) => [`${left} ${right}`, rank]));
  const parts = Array.from(text.replaceAll(" ", "\u2581"));
  for (;;) {
    const found = parts.slice(1).map((right, i) => ranks.get(`${parts[i]} ${right}`) ?? Infinity);
    const best = Math.min(...found);
    if (best === Infinity) break;
    const at = found.indexOf(best);
    parts.splice(at, 2, (parts[at] ?? "") + (parts[at + 1] ?? ""));
  }
  return parts.flatMap((part) => {
    const id = vocab[part];
    if (id !== undefined) return [id];
    return Array.from(new TextEncoder().encode(part), (byte) => 3 + byte);
  });
}

describe("SentencePiece's encodings with bytes to fall back to", () => {
  test.each([true, false])("tokenize as their merges do (a space in front: %p)", async (prepends) => {
    const json = sentencePiece(prepends);
    expect(json.model.merges.length).toBeGreaterThan(60);
    const { values, tokenizer } = await convert({
      "tokenizer.json": json,
      "tokenizer_config.json": { bos_token: "<s>", eos_token: "</s>", add_bos_token: true },
    });
    expect(values).toMatchObject({
      "tokenizer.ggml.model": "llama",
      "tokenizer.ggml.pre": "default",
      "tokenizer.ggml.add_space_prefix": prepends,
      "tokenizer.ggml.bos_token_id": 1,
      "tokenizer.ggml.add_bos_token": true,
    });
    expect(Array.from(values["tokenizer.ggml.token_type"] as Int32Array).slice(0, 5)).toEqual([2, 3, 3, 6, 6]);
    const random = randomNumbers(3);
    const letters = "etaoinshrdlu tht er in  an é🦀";
    for (let round = 0; round < 300; round += 1) {
      const characters = Array.from(letters);
      const any = () => characters[Math.floor(random() * characters.length)] ?? "";
      const text = Array.from({ length: 1 + Math.floor(random() * 24) }, any)
        .join("")
        .replaceAll("   ", " ");
      const expected = plainEncode(json, prepends ? ` ${text}` : text);
      // Three spaces are a user's token here; the plain encoder does not know of those.
      if (`${prepends ? " " : ""}${text}`.includes("   ")) continue;
      expect({ text, tokens: tokenizer.encode(text, { bos: false }) }).toEqual({ text, tokens: expected });
    }
  });

  test("are refused where words are cut apart that a token joins", async () => {
    const json = sentencePiece(true);
    const vocab = { ...json.model.vocab, "a\u2581t": 382 };
    const joining = { ...json, pre_tokenizer: { type: "Metaspace", split: true }, model: { ...json.model, vocab } };
    await expect(convert({ "tokenizer.json": joining })).rejects.toThrow('the token "a\u2581t" has one inside');
    const whole = {
      ...joining,
      pre_tokenizer: { type: "Sequence", pretokenizers: [{ type: "Metaspace", split: false }] },
    };
    expect((await convert({ "tokenizer.json": whole })).values["tokenizer.ggml.model"]).toBe("llama");
  });

  test("are refused where no scores say the same", async () => {
    const json = sentencePiece(true);
    const [first] = json.model.merges;
    const merges = [...json.model.merges.slice(1), ["x", "y"], first];
    const text = { ...json, model: { ...json.model, merges: [...(first === undefined ? [] : [first]), ...merges] } };
    await expect(convert({ "tokenizer.json": text })).rejects.toThrow(
      "are not one after the other, so no scores say the same",
    );
  });
});

test("kinds of tokenizers that cannot be converted", async () => {
  const unigram = { ...tokenizerJson, model: { type: "Unigram", vocab: [["a", 0]] } };
  await expect(convert({ "tokenizer.json": unigram })).rejects.toThrow('of the kind "Unigram"; "BPE" can be converted');
  await expect(convert({ "tokenizer.json": "[" })).rejects.toThrow(/tokenizer\.json: it is no JSON/);
});
