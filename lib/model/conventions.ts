import { StrataError } from "../errors.ts";
import type { GatedDeltaShape } from "../graph/delta-blocks.ts";
import type { RopeScaling } from "../graph/rope.ts";
import type { Metadata } from "../gguf/metadata.ts";

/** Tokens in the vocabulary: `<architecture>.vocab_size`, or the tokenizer's list where the key is missing. */
export function vocabularySize(metadata: Metadata, architecture: string): number {
  return metadata.count(`${architecture}.vocab_size`, undefined) ?? metadata.strings("tokenizer.ggml.tokens").length;
}

/** Far above any model's; a damaged count would otherwise be believed, and layers made until memory ends. */
const layersMax = 4096;

/** Layers of the model: `<architecture>.block_count`. Throws unless there are 1 to 4,096. */
export function layerCount(metadata: Metadata, architecture: string): number {
  const key = `${architecture}.block_count`;
  const layers = metadata.count(key);
  if (layers >= 1 && layers <= layersMax) return layers;
  throw new StrataError(
    "bad_format",
    `${metadata.file}: "${key}" is number ${layers}, expected 1 to ${layersMax} layers`,
  );
}

/**
 * The layers among `layers` that a step runs: all but the last `<architecture>.nextn_predict_layers`, which only guess
 * further tokens.
 */
export function steppedLayerCount(metadata: Metadata, architecture: string, layers: number): number {
  const key = `${architecture}.nextn_predict_layers`;
  const guessing = metadata.count(key, 0);
  if (guessing < layers) return layers - guessing;
  throw new StrataError("bad_format", `${metadata.file}: "${key}" is number ${guessing}, of ${layers} layers`);
}

/** For `ignores`: the tensors of the layers that no step runs, see {@link steppedLayerCount}. */
export function guessingTensors(metadata: Metadata, architecture: string): readonly string[] {
  const layers = layerCount(metadata, architecture);
  const stepped = steppedLayerCount(metadata, architecture, layers);
  return Array.from({ length: layers - stepped }, (_, i) => `blk.${stepped + i}.*`);
}

/**
 * A value of each layer from a key that holds one number for all layers or an array with one for each; of flags 1 for
 * true. Throws where an array has another length.
 */
export function perLayer(metadata: Metadata, key: string, layers: number, fallback?: number): readonly number[] {
  const value = metadata.get(key);
  if (typeof value === "object") {
    const isFlags = Array.isArray(value) && value.every((flag) => typeof flag === "boolean");
    const numbers = isFlags ? value.map(Number) : Array.from(metadata.numbers(key));
    if (numbers.length !== layers) {
      const sentence = `${metadata.file}: "${key}" has ${numbers.length} values, expected one for each of ${layers} layers`;
      throw new StrataError("bad_format", sentence);
    }
    return numbers;
  }
  const one = fallback === undefined ? metadata.count(key) : metadata.count(key, fallback);
  return Array.from({ length: layers }, () => one);
}

/**
 * Which layers are recurrent: `<architecture>.attention.recurrent_layers`, one flag a layer, or where the key is missing
 * all but each `<architecture>.full_attention_interval`th (4 by default). `layers` counts those of the whole file.
 */
export function recurrentLayers(metadata: Metadata, architecture: string, layers: number): readonly boolean[] {
  const key = `${architecture}.attention.recurrent_layers`;
  const value = metadata.get(key);
  if (value === undefined) {
    const name = `${architecture}.full_attention_interval`;
    const interval = metadata.count(name, 4);
    if (interval < 1) {
      throw new StrataError("bad_format", `${metadata.file}: "${name}" is number 0, expected at least 1`);
    }
    return Array.from({ length: layers }, (_, i) => (i + 1) % interval !== 0);
  }
  const flags: readonly unknown[] = Array.isArray(value) ? value : [];
  if (flags.length === layers && flags.every((flag) => typeof flag === "boolean")) return flags;
  throw new StrataError(
    "bad_format",
    `${metadata.file}: "${key}" should say true or false for each of ${layers} layers`,
  );
}

/** What a file says of rotary embedding; the mode is the architecture's. */
export interface RopeOfFile extends RopeScaling {
  readonly dims: number;
}

/**
 * How queries and keys are rotated, but for the mode: `<architecture>.rope.dimension_count`, `freq_base`, and `scaling.*`
 * of the types "none", "linear" and "yarn". Where no key says it, `headDim` elements are rotated, and by `usualBase`.
 * Throws on kinds of scaling that Strata does not compute.
 */
export function ropeOptions(metadata: Metadata, architecture: string, headDim: number, usualBase = 10000): RopeOfFile {
  const key = (name: string) => `${architecture}.rope.${name}`;
  const dims = metadata.count(key("dimension_count"), headDim);
  const base = metadata.number(key("freq_base"), usualBase);
  const type = metadata.string(key("scaling.type"), "linear");
  if (type !== "none" && type !== "linear" && type !== "yarn") {
    const sentence = `"${key("scaling.type")}" is "${type}"; "none", "linear" and "yarn" can be computed`;
    throw new StrataError("unsupported", `${metadata.file}: ${sentence}`);
  }
  supportsOnly(metadata, key("scaling.alpha"), 0);
  const multiplier = metadata.number(key("scaling.attn_factor"), 1);
  // A factor of 0 says that nothing is scaled; the second key is what old files have.
  const given = metadata.number(key("scaling.factor"), undefined) ?? metadata.number(key("scale_linear"), 0);
  const factor = type === "none" ? 1 : given || 1;
  if (type !== "yarn") return { dims, base, scale: 1 / factor, magnitude: multiplier };
  // A negative one says that the type decides.
  if (metadata.number(key("scaling.yarn_ext_factor"), -1) >= 0)
    supportsOnly(metadata, key("scaling.yarn_ext_factor"), 1);
  supportsOnly(metadata, key("scaling.yarn_log_multiplier"), 0);
  const magnitude = 1 + 0.1 * Math.log(Math.max(factor, 1));
  // Checkpoints may spell out the magnitude that YaRN has anyway.
  const spelled = metadata.number(key("scaling.yarn_attn_factor"), 1);
  if (Math.abs(spelled - magnitude) > 1e-4) supportsOnly(metadata, key("scaling.yarn_attn_factor"), 1);
  const trained = metadata.count(`${architecture}.context_length`);
  const yarn = {
    originalContext: metadata.count(key("scaling.original_context_length"), trained),
    betaFast: metadata.number(key("scaling.yarn_beta_fast"), 32),
    betaSlow: metadata.number(key("scaling.yarn_beta_slow"), 1),
  };
  return { dims, base, scale: 1 / factor, yarn, magnitude: magnitude * multiplier };
}

/** Throws unless `total` is a multiple of `parts`; returns their quotient. */
export function share(metadata: Metadata, what: string, total: number, parts: number): number {
  if (parts < 1 || total % parts !== 0) {
    throw new StrataError("bad_format", `${metadata.file}: ${what}: ${total} cannot be shared evenly by ${parts}`);
  }
  return total / parts;
}

/** Throws where the file has the key with another value: for what files can ask for and an architecture does not compute. */
export function supportsOnly(metadata: Metadata, key: string, supported: boolean | number | string): void {
  const value = metadata.get(key);
  if (value === undefined || value === supported) return;
  const shown =
    typeof value === "object" ? "an array" : JSON.stringify(typeof value === "bigint" ? Number(value) : value);
  const sentence = `${metadata.file}: "${key}" is ${shown}; only ${JSON.stringify(supported)} can be computed`;
  throw new StrataError("unsupported", sentence);
}

/** Sizes of Mamba-2 by `<architecture>.ssm.*`, checked: heads share the channels evenly, and groups the heads. */
export function mamba2Config(metadata: Metadata, architecture: string) {
  const key = (name: string) => `${architecture}.ssm.${name}`;
  const [inner, heads] = [metadata.count(key("inner_size")), metadata.count(key("time_step_rank"))];
  const groups = metadata.count(key("group_count"));
  share(metadata, `"${key("inner_size")}"`, inner, heads);
  share(metadata, `"${key("time_step_rank")}"`, heads, groups);
  const stateSize = metadata.count(key("state_size"));
  return { inner, heads, groups, stateSize, taps: tapCount(metadata, key("conv_kernel")) };
}

/** Sizes of a gated delta net by `<architecture>.ssm.*`, checked: value heads share the key heads and the width evenly. */
export function gatedDeltaConfig(metadata: Metadata, architecture: string): GatedDeltaShape {
  const key = (name: string) => `${architecture}.ssm.${name}`;
  const [keyHeads, valueHeads] = [metadata.count(key("group_count")), metadata.count(key("time_step_rank"))];
  share(metadata, `"${key("time_step_rank")}"`, valueHeads, keyHeads);
  return {
    keyHeads,
    valueHeads,
    keyDim: metadata.count(key("state_size")),
    valueDim: share(metadata, `"${key("inner_size")}"`, metadata.count(key("inner_size")), valueHeads),
    taps: tapCount(metadata, key("conv_kernel")),
  };
}

/** Taps of a causal convolution. Throws where they are fewer than two, which would leave nothing to remember. */
export function tapCount(metadata: Metadata, key: string): number {
  const taps = metadata.count(key);
  if (taps >= 2) return taps;
  throw new StrataError(
    "unsupported",
    `${metadata.file}: "${key}" is ${taps}; convolutions of 2 taps or more can be computed`,
  );
}
