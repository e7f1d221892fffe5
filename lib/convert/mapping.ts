import type { GgufMetadata } from "../gguf/index.ts";
import type { Metadata } from "../gguf/metadata.ts";
import { renamed, type TensorSource } from "./recipe.ts";

/**
 * A checkpoint's `config.json`, read as a file's metadata is: `c.count("hidden_size")` throws where the key is missing or
 * no count. A dot goes into an object: `c.number("rope_parameters.rope_theta", 10000)`. `null` is a missing key.
 */
export type HuggingFaceConfig = Metadata;

/** Tensors by their GGUF names, and what each is made of. `undefined` stands for none. */
export type TensorTable = Readonly<Record<string, TensorSource | undefined>>;

/**
 * How a Hugging Face checkpoint becomes a GGUF file of an architecture. What the architecture's `weights` declares is
 * checked here too: a tensor that may be missing there may be missing in the checkpoint, shapes must agree (but for
 * dimensions of 1), and products' matrices are what `--type` is for.
 */
export interface HuggingFaceMapping {
  /** Names in `architectures` of the configuration that this mapping is for. */
  readonly architectures: readonly string[];
  /** Metadata by their full keys. `general.*` and the tokenizer are written without it. */
  metadata(config: HuggingFaceConfig): GgufMetadata;
  /** What each tensor is made of, by full names. {@link blockTensors} spares the repetition. */
  tensors(config: HuggingFaceConfig): TensorTable;
  /** What a tensor is called in all of these, where some checkpoints call it otherwise. */
  rename?(name: string): string;
  /** Names of tensors in the checkpoint that no tensor is made of, and rightly so. */
  readonly unused?: readonly RegExp[];
}

/**
 * The tensors of all blocks: GGUF names get `blk.0.` and so on before them, the checkpoint's `PREFIX.0.`.
 *
 * ```ts
 * ...blockTensors(layers, "model.layers", () => ({ "attn_norm.weight": "input_layernorm.weight" }))
 * ```
 */
export function blockTensors(count: number, prefix: string, table: (index: number) => TensorTable): TensorTable {
  const blocks = Array.from({ length: count }, (_, index) => {
    const entries = Object.entries(table(index)).map(([name, source]) => {
      const own = source === undefined ? undefined : renamed(source, (from) => `${prefix}.${index}.${from}`);
      return [`blk.${index}.${name}`, own] as const;
    });
    return Object.fromEntries(entries);
  });
  return Object.assign({}, ...blocks) as TensorTable;
}
