/** What the SDK's blocks take, by the names and shapes that GGUF files have for it: `blk.<layer>.<name>`. */
import type { GatedDeltaShape } from "../graph/delta-blocks.ts";
import { experts, matrix, optional, vector } from "./weights.ts";

export interface AttentionShape {
  /** d */
  readonly width: number;
  /** Query heads. */
  readonly heads: number;
  readonly kvHeads: number;
  readonly keyDim: number;
  readonly valueDim: number;
  /** With each query comes a gate, as wide as a value. */
  readonly gated?: boolean;
}

/** Of `selfAttention`: `attn_q`, `attn_k`, `attn_v` and `attn_output`, and their biases where the file has them. */
export function attentionWeights(layer: number, c: AttentionShape) {
  const queries = c.heads * (c.gated === true ? c.keyDim + c.valueDim : c.keyDim);
  const [keys, values] = [c.kvHeads * c.keyDim, c.kvHeads * c.valueDim];
  return {
    q: matrix(`blk.${layer}.attn_q.weight`, [c.width, queries]),
    k: matrix(`blk.${layer}.attn_k.weight`, [c.width, keys]),
    v: matrix(`blk.${layer}.attn_v.weight`, [c.width, values]),
    output: matrix(`blk.${layer}.attn_output.weight`, [c.heads * c.valueDim, c.width]),
    qBias: optional(vector(`blk.${layer}.attn_q.bias`, [queries])),
    kBias: optional(vector(`blk.${layer}.attn_k.bias`, [keys])),
    vBias: optional(vector(`blk.${layer}.attn_v.bias`, [values])),
    outputBias: optional(vector(`blk.${layer}.attn_output.bias`, [c.width])),
  };
}

/** The norms of each head's queries and keys of `selfAttention`: `attn_q_norm` and `attn_k_norm`. */
export function headNormWeights(layer: number, keyDim: number) {
  return {
    qNorm: vector(`blk.${layer}.attn_q_norm.weight`, [keyDim]),
    kNorm: vector(`blk.${layer}.attn_k_norm.weight`, [keyDim]),
  };
}

/**
 * Of `gatedMlp`: `ffn_gate`, `ffn_up` and `ffn_down`, and their biases where the file has them; an expert that every token
 * uses has the suffix "_shexp".
 */
export function mlpWeights(layer: number, width: number, hidden: number, suffix: "" | "_shexp" = "") {
  return {
    gate: matrix(`blk.${layer}.ffn_gate${suffix}.weight`, [width, hidden]),
    up: matrix(`blk.${layer}.ffn_up${suffix}.weight`, [width, hidden]),
    down: matrix(`blk.${layer}.ffn_down${suffix}.weight`, [hidden, width]),
    gateBias: optional(vector(`blk.${layer}.ffn_gate${suffix}.bias`, [hidden])),
    upBias: optional(vector(`blk.${layer}.ffn_up${suffix}.bias`, [hidden])),
    downBias: optional(vector(`blk.${layer}.ffn_down${suffix}.bias`, [width])),
  };
}

/** Of `routeToExperts` and `routedExperts`: `ffn_gate_inp`, and `ffn_gate_exps`, `ffn_up_exps` and `ffn_down_exps`. */
export function expertWeights(layer: number, width: number, hidden: number, count: number) {
  return {
    router: matrix(`blk.${layer}.ffn_gate_inp.weight`, [width, count]),
    gate: experts(`blk.${layer}.ffn_gate_exps.weight`, [width, hidden, count]),
    up: experts(`blk.${layer}.ffn_up_exps.weight`, [width, hidden, count]),
    down: experts(`blk.${layer}.ffn_down_exps.weight`, [hidden, width, count]),
  };
}

export interface Mamba1Shape {
  /** d */
  readonly width: number;
  /** Channels. */
  readonly inner: number;
  readonly stateSize: number;
  /** Width of what time steps are made from. */
  readonly rank: number;
  /** Of the convolution, the current token's included. */
  readonly taps: number;
}

/** Of `mamba1Mixer`: `ssm_in`, `ssm_conv1d`, `ssm_x`, `ssm_dt`, `ssm_a`, `ssm_d` and `ssm_out`. */
export function mamba1Weights(layer: number, c: Mamba1Shape) {
  return {
    input: matrix(`blk.${layer}.ssm_in.weight`, [c.width, 2 * c.inner]),
    convolution: vector(`blk.${layer}.ssm_conv1d.weight`, [c.taps, c.inner]),
    convolutionBias: optional(vector(`blk.${layer}.ssm_conv1d.bias`, [c.inner])),
    selection: matrix(`blk.${layer}.ssm_x.weight`, [c.inner, c.rank + 2 * c.stateSize]),
    dt: matrix(`blk.${layer}.ssm_dt.weight`, [c.rank, c.inner]),
    dtBias: vector(`blk.${layer}.ssm_dt.bias`, [c.inner]),
    a: vector(`blk.${layer}.ssm_a`, [c.stateSize, c.inner]),
    d: vector(`blk.${layer}.ssm_d`, [c.inner]),
    output: matrix(`blk.${layer}.ssm_out.weight`, [c.inner, c.width]),
  };
}

export interface Mamba2Shape {
  /** d */
  readonly width: number;
  /** Channels: heads * headDim. */
  readonly inner: number;
  readonly heads: number;
  readonly groups: number;
  readonly stateSize: number;
  /** Of the convolution, the current token's included. */
  readonly taps: number;
}

/** Of `mamba2Mixer`: `ssm_in`, `ssm_conv1d`, `ssm_dt`, `ssm_a`, `ssm_d`, `ssm_norm` and `ssm_out`. */
export function mamba2Weights(layer: number, c: Mamba2Shape) {
  const channels = c.inner + 2 * c.groups * c.stateSize;
  return {
    input: matrix(`blk.${layer}.ssm_in.weight`, [c.width, c.inner + channels + c.heads]),
    convolution: vector(`blk.${layer}.ssm_conv1d.weight`, [c.taps, channels]),
    convolutionBias: optional(vector(`blk.${layer}.ssm_conv1d.bias`, [channels])),
    dtBias: vector(`blk.${layer}.ssm_dt.bias`, [c.heads]),
    a: vector(`blk.${layer}.ssm_a`, [1, c.heads]),
    d: vector(`blk.${layer}.ssm_d`, [1, c.heads]),
    norm: vector(`blk.${layer}.ssm_norm.weight`, [c.inner / c.groups, c.groups]),
    output: matrix(`blk.${layer}.ssm_out.weight`, [c.inner, c.width]),
  };
}

/** Of `shortConvolution`: `shortconv.in_proj`, `shortconv.conv` and `shortconv.out_proj`. */
export function shortConvolutionWeights(layer: number, c: { readonly width: number; readonly taps: number }) {
  return {
    input: matrix(`blk.${layer}.shortconv.in_proj.weight`, [c.width, 3 * c.width]),
    inputBias: optional(vector(`blk.${layer}.shortconv.in_proj.bias`, [3 * c.width])),
    convolution: vector(`blk.${layer}.shortconv.conv.weight`, [c.taps, c.width]),
    convolutionBias: optional(vector(`blk.${layer}.shortconv.conv.bias`, [c.width])),
    output: matrix(`blk.${layer}.shortconv.out_proj.weight`, [c.width, c.width]),
    outputBias: optional(vector(`blk.${layer}.shortconv.out_proj.bias`, [c.width])),
  };
}

/**
 * Of `gatedDeltaNet`, all but what gives the rates: `attn_qkv`, `attn_gate`, `ssm_conv1d`, `ssm_dt`, `ssm_a`, `ssm_norm`
 * and `ssm_out`.
 */
export function gatedDeltaWeights(layer: number, width: number, c: GatedDeltaShape) {
  const inner = c.valueHeads * c.valueDim;
  const channels = 2 * c.keyHeads * c.keyDim + inner;
  return {
    qkv: matrix(`blk.${layer}.attn_qkv.weight`, [width, channels]),
    convolution: vector(`blk.${layer}.ssm_conv1d.weight`, [c.taps, channels]),
    gate: matrix(`blk.${layer}.attn_gate.weight`, [width, inner]),
    a: vector(`blk.${layer}.ssm_a`, [c.valueHeads]),
    dtBias: vector(`blk.${layer}.ssm_dt.bias`, [c.valueHeads]),
    norm: vector(`blk.${layer}.ssm_norm.weight`, [c.valueDim]),
    output: matrix(`blk.${layer}.ssm_out.weight`, [inner, width]),
  };
}
