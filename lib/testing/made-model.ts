/** Tiny models with random weights, made from an architecture's own declaration. */
import { StrataError } from "../errors.ts";
import { typedNumber, writeGguf, type GgufMetadata, type GgufValue } from "../gguf/index.ts";
import type { Architecture } from "../model/architecture.ts";
import { Metadata, type MetadataValue } from "../gguf/metadata.ts";
import type { WeightSpec, WeightTree } from "../model/weights.ts";
import { randomOf } from "./compare.ts";

/** Numbers for a weight, by its name and shape; undefined leaves them to the kit. */
export type WeightNumbers = (name: string, shape: readonly number[]) => ArrayLike<number> | undefined;

/** Layers of a model whose metadata are made up: enough for one of each kind where kinds take turns. */
const layers = 4;

/** What keys that files usually have are answered with, by their names behind the architecture's. */
const usualCounts: Readonly<Record<string, number>> = {
  vocab_size: 96,
  context_length: 512,
  block_count: layers,
  embedding_length: 64,
  feed_forward_length: 96,
  "attention.head_count": 4,
  "attention.head_count_kv": 2,
  "attention.key_length": 16,
  "attention.value_length": 16,
  "attention.key_length_mla": 24,
  "attention.value_length_mla": 16,
  "attention.kv_lora_rank": 24,
  "attention.sliding_window": 12,
  "rope.dimension_count": 16,
  "ssm.conv_kernel": 4,
  "ssm.inner_size": 128,
  "ssm.state_size": 16,
  "ssm.time_step_rank": 8,
  "ssm.group_count": 2,
  "shortconv.l_cache": 3,
  "wkv.head_size": 16,
  "kda.head_dim": 16,
  expert_count: 4,
  expert_used_count: 2,
  expert_feed_forward_length: 32,
};

/** A count whose key is none of the above. */
const otherCount = 8;

const usualNumbers: Readonly<Record<string, number>> = {
  "attention.layer_norm_rms_epsilon": 1e-5,
  "attention.layer_norm_epsilon": 1e-5,
  "rope.freq_base": 10000,
};

/** Keys that are answered layer by layer where an architecture looks for that. */
const usualLists: Readonly<Record<string, readonly number[]>> = {
  "attention.head_count_kv": Array.from({ length: layers }, (_, i) => (i % 2 === 0 ? 0 : 2)),
};

/** What a required key of each kind is answered with. */
const answers = {
  count: (key: string) => usualCounts[key] ?? otherCount,
  number: (key: string) => usualNumbers[key] ?? usualCounts[key] ?? 1,
  boolean: () => false,
  numbers: (key: string) => usualLists[key] && Float32Array.from(usualLists[key]),
  string: () => undefined,
  strings: () => undefined,
} as const;

/**
 * Metadata of a tiny model of the architecture: its own example, or what usual keys are usually worth. Keys are answered
 * as they are asked for; those that the architecture can do without stay away.
 */
export function madeUpMetadata(architecture: Architecture): GgufMetadata {
  const name = architecture.names[0] ?? "";
  const { example } = architecture;
  const given: Record<string, GgufValue | undefined> = { "general.architecture": name };
  if (example !== undefined) {
    for (const [key, value] of Object.entries(example)) given[key] = written(value);
    return given;
  }
  given[`${name}.vocab_size`] = usualCounts["vocab_size"];
  const short = (key: string) => (key.startsWith(`${name}.`) ? key.slice(name.length + 1) : key);
  const plain = new Metadata(`a made-up ${name}`, [], (key) => given[key] as MetadataValue | undefined);
  const asked = new Proxy(plain, {
    get(target, property) {
      if (property === "get") {
        return (key: string): MetadataValue | undefined => {
          const list = usualLists[short(key)];
          if (given[key] === undefined && list !== undefined) given[key] = Uint32Array.from(list);
          return target.get(key);
        };
      }
      const value: unknown = Reflect.get(target, property);
      if (typeof value !== "function") return value;
      if (!Object.hasOwn(answers, property)) return value.bind(target) as unknown;
      const answer = answers[property as keyof typeof answers];
      return (key: string, ...fallback: unknown[]): unknown => {
        if (fallback.length === 0 && given[key] === undefined) given[key] = answer(short(key));
        return value.call(target, key, ...fallback) as unknown;
      };
    },
  });
  try {
    architecture.read(asked);
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    const sentence =
      `no tiny model of "${name}" can be made up: ${reason}; give defineArchitecture an \`example\` with the metadata of ` +
      "a tiny model, or give the check a model file";
    throw new StrataError("invalid_argument", sentence, { cause });
  }
  return given;
}

/** A value as it is written to a file: lists of numbers need a type. */
function written(value: MetadataValue | readonly number[]): GgufValue {
  if (typeof value === "bigint") return typedNumber("uint64", value);
  if (!Array.isArray(value) || !value.every((item) => typeof item === "number")) return value as GgufValue;
  if (!value.every(Number.isInteger)) return Float32Array.from(value);
  return value.every((item) => item >= 0) ? Uint32Array.from(value) : Int32Array.from(value);
}

/** The weights that an architecture asks for, in the order of its tree. */
export function specsOf(tree: WeightTree): WeightSpec[] {
  if (tree === undefined) return [];
  if ("use" in tree && "name" in tree && typeof tree.name === "string") return [tree as WeightSpec];
  return Object.values(tree as Readonly<Record<string, WeightTree>>).flatMap(specsOf);
}

/** A weight with its numbers. */
export interface MadeWeight {
  readonly name: string;
  readonly shape: readonly number[];
  readonly values: Float32Array;
}

/** Random weights for a declaration, those that a file may lack among them. */
export function makeWeights(tree: WeightTree, numbers: WeightNumbers | undefined): MadeWeight[] {
  const random = randomOf(11);
  const byName = new Map(specsOf(tree).map((spec) => [spec.name, spec]));
  return [...byName.values()].map(({ name, shape, use }) => ({
    name,
    shape,
    values: Float32Array.from(numbers?.(name, shape) ?? randomNumbers(name, shape, use, random)),
  }));
}

/** Writes a model file. */
export async function writeMadeUpModel(
  path: string,
  metadata: GgufMetadata,
  weights: readonly MadeWeight[],
): Promise<void> {
  const tensors = weights.map(({ name, shape, values }) => {
    return { name, type: "f32" as const, shape, data: new Uint8Array(values.buffer) };
  });
  await writeGguf(path, { metadata, tensors, overwrite: true });
}

/**
 * Numbers as a trained model might have them, so that every part matters: norms near 1, decays below 0, rows of products
 * near unit length.
 */
function randomNumbers(
  name: string,
  shape: readonly number[],
  use: WeightSpec["use"],
  random: () => number,
): Float32Array {
  const symmetric = () => Math.sqrt(3) * (2 * random() - 1);
  const next = /norm(_\d+)?(\.weight)?$|(^|[._])ln\d*\.weight$/.test(name)
    ? () => 1 + 0.2 * symmetric()
    : /(^|[._])(ssm_a|a_log|decay_log)(\.weight)?$/.test(name)
      ? () => -0.05 - random()
      : /rope_(freqs|factors)/.test(name)
        ? () => 1 + 2 * random()
        : name.endsWith("bias")
          ? () => 0.3 * symmetric()
          : () => ((use === "elements" ? 1.2 : 1.5) * symmetric()) / Math.sqrt(shape[0] ?? 1);
  return Float32Array.from({ length: shape.reduce((product, n) => product * n, 1) }, next);
}
