import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { openModelFile } from "../../lib/model/file.ts";
import { createTokenizer, type Tokenizer } from "../../lib/text/index.ts";
import type { Metadata } from "../../lib/gguf/metadata.ts";
import { checkout, pathsOf } from "../../lib/setup/paths.mjs";

/** The model files whose tokenizers are compared with libllama's: each kind and pre-tokenizer that they use. */
export const modelFiles = {
  tinyHybrid: join(checkout, "test/fixtures/tiny-hybrid/model.gguf"),
  fixture: join(checkout, "test", "fixtures", "llama", "model.gguf"),
  smollm: join(pathsOf().models, "SmolLM2-135M-Instruct.Q4_1.gguf"),
  gemma: join(pathsOf().models, "gemma-3-270m-q4_k_m.gguf"),
} as const;

/** The folders of the fixtures that name what text their tokenizer makes of some lines. */
export const fixtureFolders = readdirSync(join(checkout, "test", "fixtures"))
  .map((name) => join(checkout, "test", "fixtures", name))
  .filter((folder) => existsSync(join(folder, "reference.json")));

const opened = new Map<string, { metadata: Metadata; tokenizer: Tokenizer }>();

/** A file's metadata and tokenizer, read once in a test process. */
export function openText(file: string): { metadata: Metadata; tokenizer: Tokenizer } {
  const known = opened.get(file);
  if (known !== undefined) return known;
  const { metadata } = openModelFile(file);
  const text = { metadata, tokenizer: createTokenizer(metadata) };
  opened.set(file, text);
  return text;
}
