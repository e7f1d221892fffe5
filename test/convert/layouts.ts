/**
 * Checkpoints made from fixtures that come without one: the published layouts of granitemoehybrid, Bamba, Qwen 3 and Mamba,
 * filled from a GGUF file. Written from the descriptions of both formats, and shares nothing with the conversion.
 */
import { openModelFile } from "ggstrata";
import { Gguf } from "../model/gguf.ts";
import { readFixture } from "../plugins/reference.ts";
import { f32, type WrittenTensor } from "./checkpoints.ts";

interface Matrix {
  /** PyTorch's order. */
  readonly shape: readonly number[];
  readonly values: Float32Array;
}

/** The tensors of a fixture by name. */
export class FixtureTensors {
  /** Numbers of the blocks. */
  readonly blocks: readonly number[];
  private readonly gguf: Gguf;
  private readonly numbers: ReadonlyMap<string, unknown>;

  constructor(name: string) {
    const { model } = readFixture(name);
    this.gguf = Gguf.read(model);
    this.blocks = [...new Set(this.gguf.tensors.flatMap((tensor) => /^blk\.(\d+)\./.exec(tensor.name)?.[1] ?? []))].map(
      Number,
    );
    using file = openModelFile(model);
    const { metadata } = file;
    this.numbers = new Map(metadata.keys.map((key) => [key, metadata.get(key)]));
  }

  /** A number of the fixture's metadata. */
  count(key: string): number {
    return Number(this.numbers.get(key));
  }

  has(name: string): boolean {
    return this.gguf.tensors.some((tensor) => tensor.name === name);
  }

  get(name: string): Matrix {
    const { shape, data } = this.gguf.tensor(name);
    const count = shape.reduce((product, n) => product * n, 1);
    return { shape: shape.toReversed(), values: new Float32Array(new Uint8Array(data.subarray(0, 4 * count)).buffer) };
  }

  /** The tensor as it is, in another shape where one is given. */
  plain(name: string, shape?: readonly number[]): WrittenTensor {
    const tensor = this.get(name);
    return f32(shape ?? tensor.shape, tensor.values);
  }
}

/** Rows of rotated pairs put back: entry `i` of a head beside entry `i + dims / 2`. */
function unpermuted({ shape, values }: Matrix, heads: number, dims: number): WrittenTensor {
  const [rows = 0, width = 0] = shape;
  const headDim = rows / heads;
  const out = new Float32Array(values.length);
  for (let row = 0; row < rows; row += 1) {
    const [head, i] = [Math.floor(row / headDim), row % headDim];
    const target = i >= dims ? i : i % 2 === 0 ? i / 2 : (i - 1) / 2 + dims / 2;
    out.set(values.subarray(row * width, (row + 1) * width), (head * headDim + target) * width);
  }
  return f32(shape, out);
}

/** Two of `[experts, rows, width]` as one of `[experts, 2 rows, width]`, each expert's first rows before its second. */
function fused(first: Matrix, second: Matrix): WrittenTensor {
  const [experts, rows = 0, width = 0] = first.shape.length === 3 ? first.shape : [1, ...first.shape];
  const size = rows * width;
  const values = Array.from({ length: experts ?? 1 }, (_, e) => [
    ...first.values.subarray(e * size, (e + 1) * size),
    ...second.values.subarray(e * size, (e + 1) * size),
  ]).flat();
  return f32([...first.shape.slice(0, -2), 2 * rows, width], values);
}

function mixer(
  t: FixtureTensors,
  i: number,
  prefix: string,
  heads: readonly [number, number],
  dims: number,
): Record<string, WrittenTensor> {
  const own = (name: string) => `blk.${i}.${name}`;
  if (t.has(own("attn_q.weight"))) {
    return {
      [`${prefix}.self_attn.q_proj.weight`]: unpermuted(t.get(own("attn_q.weight")), heads[0], dims),
      [`${prefix}.self_attn.k_proj.weight`]: unpermuted(t.get(own("attn_k.weight")), heads[1], dims),
      [`${prefix}.self_attn.v_proj.weight`]: t.plain(own("attn_v.weight")),
      [`${prefix}.self_attn.o_proj.weight`]: t.plain(own("attn_output.weight")),
    };
  }
  const [channels, taps] = t.get(own("ssm_conv1d.weight")).shape as [number, number];
  const decays = t.get(own("ssm_a")).values;
  return {
    [`${prefix}.mamba.in_proj.weight`]: t.plain(own("ssm_in.weight")),
    [`${prefix}.mamba.conv1d.weight`]: t.plain(own("ssm_conv1d.weight"), [channels, 1, taps]),
    [`${prefix}.mamba.conv1d.bias`]: t.plain(own("ssm_conv1d.bias")),
    [`${prefix}.mamba.dt_bias`]: t.plain(own("ssm_dt.bias")),
    [`${prefix}.mamba.A_log`]: f32(
      [decays.length],
      decays.map((a) => Math.log(-a)),
    ),
    [`${prefix}.mamba.D`]: t.plain(own("ssm_d"), [decays.length]),
    [`${prefix}.mamba.norm.weight`]: t.plain(own("ssm_norm.weight"), [t.get(own("ssm_norm.weight")).values.length]),
    [`${prefix}.mamba.out_proj.weight`]: t.plain(own("ssm_out.weight")),
  };
}

const common = {
  hidden_act: "silu",
  hidden_size: 48,
  mamba_conv_bias: true,
  mamba_d_conv: 4,
  mamba_d_head: 16,
  mamba_d_state: 16,
  mamba_expand: 2,
  mamba_n_groups: 1,
  mamba_n_heads: 6,
  mamba_proj_bias: false,
  max_position_embeddings: 512,
  num_hidden_layers: 4,
  rms_norm_eps: 1e-5,
  vocab_size: 384,
};

export interface MadeCheckpoint {
  readonly config: Record<string, unknown>;
  readonly tensors: Record<string, WrittenTensor>;
}

/** granitehybrid-moe, as GraniteMoeHybridForCausalLM keeps it: gates and ups of all experts in one tensor. */
export function graniteWithExperts(): MadeCheckpoint {
  const t = new FixtureTensors("granitehybrid-moe");
  const layers = Array.from({ length: 4 }, (_, i): Record<string, WrittenTensor> => {
    const [prefix, own] = [`model.layers.${i}`, (name: string) => `blk.${i}.${name}.weight`];
    return {
      [`${prefix}.input_layernorm.weight`]: t.plain(own("attn_norm")),
      [`${prefix}.post_attention_layernorm.weight`]: t.plain(own("ffn_norm")),
      ...mixer(t, i, prefix, [4, 2], 12),
      [`${prefix}.block_sparse_moe.router.layer.weight`]: t.plain(own("ffn_gate_inp")),
      [`${prefix}.block_sparse_moe.input_linear.weight`]: fused(t.get(own("ffn_gate_exps")), t.get(own("ffn_up_exps"))),
      [`${prefix}.block_sparse_moe.output_linear.weight`]: t.plain(own("ffn_down_exps")),
      [`${prefix}.shared_mlp.input_linear.weight`]: fused(t.get(own("ffn_gate_shexp")), t.get(own("ffn_up_shexp"))),
      [`${prefix}.shared_mlp.output_linear.weight`]: t.plain(own("ffn_down_shexp")),
    };
  });
  return {
    config: {
      ...common,
      architectures: ["GraniteMoeHybridForCausalLM"],
      attention_multiplier: 0.125,
      embedding_multiplier: 12,
      intermediate_size: 32,
      layer_types: ["mamba", "mamba", "attention", "mamba"],
      logits_scaling: 6,
      num_attention_heads: 4,
      num_experts_per_tok: 2,
      num_key_value_heads: 2,
      num_local_experts: 4,
      position_embedding_type: null,
      residual_multiplier: 0.22,
      rope_theta: 10000,
      shared_intermediate_size: 64,
      tie_word_embeddings: true,
    },
    tensors: Object.assign(
      {
        "model.embed_tokens.weight": t.plain("token_embd.weight"),
        "model.norm.weight": t.plain("output_norm.weight"),
      },
      ...layers,
    ) as Record<string, WrittenTensor>,
  };
}

/** bamba, as BambaForCausalLM keeps it: half of each head is rotated. */
export function bamba(): MadeCheckpoint {
  const t = new FixtureTensors("bamba");
  const layers = Array.from({ length: 4 }, (_, i): Record<string, WrittenTensor> => {
    const [prefix, own] = [`model.layers.${i}`, (name: string) => `blk.${i}.${name}.weight`];
    return {
      [`${prefix}.input_layernorm.weight`]: t.plain(own("attn_norm")),
      [`${prefix}.pre_ff_layernorm.weight`]: t.plain(own("ffn_norm")),
      ...mixer(t, i, prefix, [3, 1], 8),
      [`${prefix}.feed_forward.gate_proj.weight`]: t.plain(own("ffn_gate")),
      [`${prefix}.feed_forward.up_proj.weight`]: t.plain(own("ffn_up")),
      [`${prefix}.feed_forward.down_proj.weight`]: t.plain(own("ffn_down")),
    };
  });
  return {
    config: {
      ...common,
      architectures: ["BambaForCausalLM"],
      attn_layer_indices: [2],
      attn_rotary_emb: 8,
      intermediate_size: 64,
      num_attention_heads: 3,
      num_key_value_heads: 1,
      rope_theta: 10000,
      tie_word_embeddings: false,
    },
    tensors: Object.assign(
      {
        "model.embed_tokens.weight": t.plain("token_embd.weight"),
        "model.final_layernorm.weight": t.plain("output_norm.weight"),
        "lm_head.weight": t.plain("output.weight"),
      },
      ...layers,
    ) as Record<string, WrittenTensor>,
  };
}

/** qwen3, as Qwen3ForCausalLM keeps it. */
export function qwen3(): MadeCheckpoint {
  const t = new FixtureTensors("qwen3");
  const names = {
    attn_norm: "input_layernorm",
    attn_q: "self_attn.q_proj",
    attn_k: "self_attn.k_proj",
    attn_v: "self_attn.v_proj",
    attn_output: "self_attn.o_proj",
    attn_q_norm: "self_attn.q_norm",
    attn_k_norm: "self_attn.k_norm",
    ffn_norm: "post_attention_layernorm",
    ffn_gate: "mlp.gate_proj",
    ffn_up: "mlp.up_proj",
    ffn_down: "mlp.down_proj",
  };
  const layers = t.blocks.flatMap((i) =>
    Object.entries(names).map(([own, theirs]) => {
      return [`model.layers.${i}.${theirs}.weight`, t.plain(`blk.${i}.${own}.weight`)] as const;
    }),
  );
  const head = t.has("output.weight") ? { "lm_head.weight": t.plain("output.weight") } : {};
  const count = (key: string) => t.count(`qwen3.${key}`);
  return {
    config: {
      architectures: ["Qwen3ForCausalLM"],
      head_dim: count("attention.key_length"),
      hidden_act: "silu",
      hidden_size: count("embedding_length"),
      intermediate_size: count("feed_forward_length"),
      max_position_embeddings: count("context_length"),
      num_attention_heads: count("attention.head_count"),
      num_hidden_layers: t.blocks.length,
      num_key_value_heads: count("attention.head_count_kv"),
      rms_norm_eps: 1e-6,
      rope_parameters: { rope_theta: count("rope.freq_base"), rope_type: "default" },
      tie_word_embeddings: !t.has("output.weight"),
      use_sliding_window: false,
      vocab_size: 384,
    },
    tensors: {
      "model.embed_tokens.weight": t.plain("token_embd.weight"),
      "model.norm.weight": t.plain("output_norm.weight"),
      ...head,
      ...Object.fromEntries(layers),
    },
  };
}

/** mamba, as MambaForCausalLM keeps it. */
export function mamba(): MadeCheckpoint {
  const t = new FixtureTensors("mamba");
  const layers = t.blocks.map((i): Record<string, WrittenTensor> => {
    const [prefix, own] = [`backbone.layers.${i}`, (name: string) => `blk.${i}.${name}`];
    const [channels, taps] = t.get(own("ssm_conv1d.weight")).shape as [number, number];
    const decays = t.get(own("ssm_a"));
    return {
      [`${prefix}.norm.weight`]: t.plain(own("attn_norm.weight")),
      [`${prefix}.mixer.in_proj.weight`]: t.plain(own("ssm_in.weight")),
      [`${prefix}.mixer.conv1d.weight`]: t.plain(own("ssm_conv1d.weight"), [channels, 1, taps]),
      [`${prefix}.mixer.conv1d.bias`]: t.plain(own("ssm_conv1d.bias")),
      [`${prefix}.mixer.x_proj.weight`]: t.plain(own("ssm_x.weight")),
      [`${prefix}.mixer.dt_proj.weight`]: t.plain(own("ssm_dt.weight")),
      [`${prefix}.mixer.dt_proj.bias`]: t.plain(own("ssm_dt.bias")),
      [`${prefix}.mixer.A_log`]: f32(
        decays.shape,
        decays.values.map((a) => Math.log(-a)),
      ),
      [`${prefix}.mixer.D`]: t.plain(own("ssm_d")),
      [`${prefix}.mixer.out_proj.weight`]: t.plain(own("ssm_out.weight")),
    };
  });
  const count = (key: string) => t.count(`mamba.${key}`);
  return {
    config: {
      architectures: ["MambaForCausalLM"],
      conv_kernel: count("ssm.conv_kernel"),
      hidden_act: "silu",
      hidden_size: count("embedding_length"),
      intermediate_size: count("ssm.inner_size"),
      layer_norm_epsilon: 1e-5,
      num_hidden_layers: t.blocks.length,
      state_size: count("ssm.state_size"),
      time_step_rank: count("ssm.time_step_rank"),
      use_bias: false,
      use_conv_bias: true,
      vocab_size: 384,
    },
    tensors: Object.assign(
      {
        "backbone.embeddings.weight": t.plain("token_embd.weight"),
        "backbone.norm_f.weight": t.plain("output_norm.weight"),
      },
      ...layers,
    ) as Record<string, WrittenTensor>,
  };
}
