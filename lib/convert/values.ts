import { StrataError } from "../errors.ts";
import { float32, type GgufMetadata } from "../gguf/index.ts";
import type { HuggingFaceConfig } from "./mapping.ts";
import { computed, type TensorRecipe } from "./recipe.ts";

/**
 * The metadata that most architectures have, from the keys that most configurations have. But for layers and width, what
 * a configuration lacks is left out. Spread it first and write what differs after it.
 */
export function commonMetadata(config: HuggingFaceConfig, architecture: string): GgufMetadata {
  const counts = {
    context_length: "max_position_embeddings",
    feed_forward_length: "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.value_length": "head_dim",
    vocab_size: "vocab_size",
  };
  const entries = Object.entries(counts).map(([key, from]) => [
    `${architecture}.${key}`,
    config.count(from, undefined),
  ]);
  const eps = config.number("rms_norm_eps", undefined);
  return {
    [`${architecture}.block_count`]: config.count("num_hidden_layers"),
    [`${architecture}.embedding_length`]: config.count("hidden_size"),
    ...Object.fromEntries(entries),
    [`${architecture}.attention.layer_norm_rms_epsilon`]: eps === undefined ? undefined : float32(eps),
  };
}

/**
 * The base of rotary embedding and its linear scaling, as `<architecture>.rope.*`. Both places where checkpoints have
 * them are read: `rope_parameters`, and `rope_theta` beside `rope_scaling`.
 * @param withFactors whether the mapping has {@link ropeFactors} too, which are Llama 3's scaling
 * @throws StrataError `unsupported` for other kinds of scaling
 */
export function ropeMetadata(config: HuggingFaceConfig, architecture: string, withFactors = false): GgufMetadata {
  const type = ropeType(config);
  if (!["default", "linear", ...(withFactors ? ["llama3"] : [])].includes(type)) throw unknownScaling(config, type);
  return {
    [`${architecture}.rope.freq_base`]: float32(ropeBase(config)),
    ...(type === "linear"
      ? {
          [`${architecture}.rope.scaling.type`]: "linear",
          [`${architecture}.rope.scaling.factor`]: float32(ropeNumber(config, "factor")),
        }
      : {}),
  };
}

/**
 * What each frequency is divided by in Llama 3's scaling, `rope_freqs.weight`; undefined for other kinds.
 * @param dims entries of a head that are rotated
 */
export function ropeFactors(config: HuggingFaceConfig, dims: number): TensorRecipe | undefined {
  if (ropeType(config) !== "llama3") return undefined;
  const base = ropeBase(config);
  const factor = ropeNumber(config, "factor");
  const low = ropeNumber(config, "low_freq_factor");
  const high = ropeNumber(config, "high_freq_factor");
  const trained = ropeNumber(config, "original_max_position_embeddings");
  const factors = Array.from({ length: dims / 2 }, (_, i) => {
    const turns = trained / (2 * Math.PI * base ** ((2 * i) / dims));
    if (turns > high) return 1;
    if (turns < low) return factor;
    const smooth = (turns - low) / (high - low);
    return 1 / ((1 - smooth) / factor + smooth);
  });
  return computed(factors);
}

function ropeBase(config: HuggingFaceConfig): number {
  return config.number("rope_parameters.rope_theta", undefined) ?? config.number("rope_theta", 10000);
}

function ropeType(config: HuggingFaceConfig): string {
  const keys = ["rope_parameters.rope_type", "rope_scaling.rope_type", "rope_scaling.type"];
  return keys.map((key) => config.string(key, undefined)).find((type) => type !== undefined) ?? "default";
}

function ropeNumber(config: HuggingFaceConfig, name: string): number {
  return config.number(`rope_parameters.${name}`, undefined) ?? config.number(`rope_scaling.${name}`);
}

function unknownScaling({ file }: HuggingFaceConfig, type: string): StrataError {
  const sentence = `the scaling of rotary embedding "${type}" (rope_type) cannot be converted for this architecture`;
  return new StrataError("unsupported", `${file}: ${sentence}`);
}

/** Throws where steps of a state space are kept within limits (`time_step_limit`), which the mixers here do not compute. */
export function refuseTimeStepLimit(config: HuggingFaceConfig): void {
  const [low = 0, high = Infinity] = Array.from(config.numbers("time_step_limit", []));
  if (low <= 0 && high === Infinity) return;
  const sentence = `"time_step_limit" is [${low}, ${high}]; only [0, Infinity] can be computed`;
  throw new StrataError("unsupported", `${config.file}: ${sentence}`);
}

/** The nearest number that bf16 has: what a checkpoint's factor becomes where the model computes it in that type. */
export function roundToBf16(value: number): number {
  const word = new Uint32Array(Float32Array.of(value).buffer)[0] as number;
  const rounded = (word + 0x7fff + ((word >>> 16) & 1)) & 0xffff0000;
  return new Float32Array(Uint32Array.of(rounded).buffer)[0] as number;
}
