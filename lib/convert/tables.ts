import type { TensorTable } from "./mapping.ts";
import { negativeExp, permuteRope, reshaped, type TensorSource } from "./recipe.ts";

/** Weights and biases under other names: each pair is a GGUF name and the checkpoint's, without `.weight` and `.bias`. */
export function linearTensors(names: Readonly<Record<string, string>>): TensorTable {
  const entries = Object.entries(names).flatMap(([name, from]) => [
    [`${name}.weight`, `${from}.weight`] as const,
    [`${name}.bias`, `${from}.bias`] as const,
  ]);
  return Object.fromEntries(entries);
}

/**
 * The tensors of `selfAttention` from a module with `q_proj`, `k_proj`, `v_proj` and `o_proj`, biases too.
 * @param permuted heads of queries and keys where neighbours are rotated, and how many entries of each: see `permuteRope`
 */
export function attentionTensors(
  module: string,
  permuted?: { readonly heads: number; readonly kvHeads: number; readonly dims?: number | undefined },
): TensorTable {
  const rotated = (name: string, heads: number | undefined): TensorSource => {
    return heads === undefined ? `${module}.${name}` : permuteRope(`${module}.${name}`, heads, permuted?.dims);
  };
  return {
    "attn_q.weight": rotated("q_proj.weight", permuted?.heads),
    "attn_q.bias": rotated("q_proj.bias", permuted?.heads),
    "attn_k.weight": rotated("k_proj.weight", permuted?.kvHeads),
    "attn_k.bias": rotated("k_proj.bias", permuted?.kvHeads),
    ...linearTensors({ attn_v: `${module}.v_proj`, attn_output: `${module}.o_proj` }),
  };
}

/** The tensors of `gatedMlp` from a module with `gate_proj`, `up_proj` and `down_proj`, biases too. */
export function mlpTensors(module: string): TensorTable {
  const { gate, up, down } = { gate: `${module}.gate_proj`, up: `${module}.up_proj`, down: `${module}.down_proj` };
  return linearTensors({ ffn_gate: gate, ffn_up: up, ffn_down: down });
}

/** The tensors of `mamba2Mixer` from a module of Mamba-2. */
export function mamba2Tensors(module: string, shape: { readonly inner: number; readonly groups: number }): TensorTable {
  return {
    "ssm_in.weight": `${module}.in_proj.weight`,
    "ssm_conv1d.weight": `${module}.conv1d.weight`,
    "ssm_conv1d.bias": `${module}.conv1d.bias`,
    "ssm_dt.bias": `${module}.dt_bias`,
    ssm_a: negativeExp(`${module}.A_log`),
    ssm_d: `${module}.D`,
    "ssm_norm.weight": reshaped(`${module}.norm.weight`, [shape.groups, shape.inner / shape.groups]),
    "ssm_out.weight": `${module}.out_proj.weight`,
  };
}
