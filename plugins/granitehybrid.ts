import {
  attention,
  attentionTensors,
  attentionWeights,
  blockTensors,
  commonMetadata,
  defineArchitecture,
  expertWeights,
  float32,
  gatedMlp,
  layerCount,
  mamba2Config,
  mamba2Memory,
  mamba2Mixer,
  mamba2Tensors,
  mamba2Weights,
  matrix,
  mixtureOfExperts,
  mlpTensors,
  mlpWeights,
  perLayer,
  refuseTimeStepLimit,
  ropeMetadata,
  ropeOptions,
  selfAttention,
  share,
  split,
  supportsOnly,
  table,
  vector,
  vocabularySize,
  type GgufMetadata,
  type HuggingFaceConfig,
  type Metadata,
  type TensorTable,
} from "ggstrata";

/**
 * Granite 4 hybrids, dense and with experts, and Bamba: each layer mixes tokens by Mamba-2 or by attention, then applies
 * an MLP. A layer without key heads is Mamba-2.
 */
export const granitehybrid = defineArchitecture({
  apiVersion: 1,
  names: ["granitehybrid"],

  example: {
    "granitehybrid.vocab_size": 96,
    "granitehybrid.context_length": 512,
    "granitehybrid.block_count": 3,
    "granitehybrid.embedding_length": 64,
    "granitehybrid.feed_forward_length": 32,
    "granitehybrid.attention.head_count": 4,
    "granitehybrid.attention.head_count_kv": [0, 2, 0],
    "granitehybrid.attention.layer_norm_rms_epsilon": 1e-5,
    "granitehybrid.ssm.conv_kernel": 4,
    "granitehybrid.ssm.inner_size": 128,
    "granitehybrid.ssm.state_size": 16,
    "granitehybrid.ssm.time_step_rank": 8,
    "granitehybrid.ssm.group_count": 2,
    "granitehybrid.expert_count": 4,
    "granitehybrid.expert_used_count": 2,
    "granitehybrid.expert_shared_feed_forward_length": 40,
    "granitehybrid.embedding_scale": 1.5,
    "granitehybrid.residual_scale": 0.75,
    "granitehybrid.logit_scale": 2.5,
  },

  config: readConfig,

  memory: (c) =>
    c.kvHeads.map((kvHeads) =>
      kvHeads === 0
        ? { ssm: mamba2Memory(c) }
        : { attn: attention({ heads: kvHeads, keyDim: c.keyDim, valueDim: c.valueDim }) },
    ),

  weights: (c) => ({
    embedding: table("token_embd.weight", [c.width, c.vocabulary]),
    norm: vector("output_norm.weight", [c.width]),
    head: matrix("output.weight", [c.width, c.vocabulary], { tied: "token_embd.weight" }),
    layers: c.kvHeads.map((kvHeads, i) => ({
      norm: vector(`blk.${i}.attn_norm.weight`, [c.width]),
      mixer:
        kvHeads === 0
          ? { ssm: mamba2Weights(i, c) }
          : { attn: attentionWeights(i, { ...c, heads: c.attentionHeads, kvHeads }) },
      mlpNorm: vector(`blk.${i}.ffn_norm.weight`, [c.width]),
      mlp:
        c.experts === 0
          ? { dense: mlpWeights(i, c.width, c.hidden) }
          : {
              moe: expertWeights(i, c.width, c.hidden, c.experts),
              shared: c.sharedHidden > 0 ? mlpWeights(i, c.width, c.sharedHidden, "_shexp") : undefined,
            },
    })),
  }),

  graph: (g, c, w, memories) => {
    const rope = c.rope && ({ ...c.rope, mode: "normal" } as const);
    let x = g.scale(g.getRows(w.embedding, g.tokens()), c.embeddingScale);
    for (const { layer, memory, isLast } of g.layers(w.layers, memories)) {
      const { mixer, mlp } = layer;
      const normed = g.rmsNorm(x, c.eps, layer.norm);
      let mixed =
        mixer.ssm !== undefined
          ? mamba2Mixer(g, normed, mixer.ssm, { ...c, memory: memory.ssm })
          : selfAttention(g, normed, mixer.attn, {
              memory: memory.attn,
              heads: c.attentionHeads,
              scale: c.attentionScale,
              rope,
            });
      if (isLast) [x, mixed] = [g.selectOutputs(x), g.selectOutputs(mixed)];
      x = g.add(x, g.scale(mixed, c.residualScale));
      const hidden = g.rmsNorm(x, c.eps, layer.mlpNorm);
      let y = mlp.dense !== undefined ? gatedMlp(g, hidden, mlp.dense) : mixtureOfExperts(g, hidden, mlp.moe, c);
      if (mlp.shared !== undefined) y = g.add(y, gatedMlp(g, hidden, mlp.shared));
      x = g.add(x, g.scale(y, c.residualScale));
    }
    return g.scale(g.mulMat(w.head, g.rmsNorm(x, c.eps, w.norm)), 1 / c.logitScale);
  },

  huggingFace: [
    {
      architectures: ["GraniteMoeHybridForCausalLM"],
      metadata: (c) => ({ ...checkpointMetadata(c), ...graniteMetadata(c) }),
      tensors: (c) => ({
        "output_norm.weight": "model.norm.weight",
        ...checkpointTensors(c, { "ffn_norm.weight": "post_attention_layernorm.weight", ...graniteMlpTensors(c) }),
      }),
    },
    {
      architectures: ["BambaForCausalLM"],
      metadata: (c) => ({ ...checkpointMetadata(c), "granitehybrid.rope.scaling.finetuned": true }),
      tensors: (c) => ({
        "output_norm.weight": "model.final_layernorm.weight",
        ...checkpointTensors(c, { "ffn_norm.weight": "pre_ff_layernorm.weight", ...mlpTensors("feed_forward") }),
      }),
    },
  ],
});

function readConfig(m: Metadata) {
  const key = (name: string) => `granitehybrid.${name}`;
  const layers = layerCount(m, "granitehybrid");
  const width = m.count(key("embedding_length"));
  const heads = m.count(key("attention.head_count"));
  const keyDim = m.count(key("attention.key_length"), undefined) ?? share(m, "heads", width, heads);
  return {
    vocabulary: vocabularySize(m, "granitehybrid"),
    contextLength: m.count(key("context_length")),
    width,
    hidden: m.count(key("feed_forward_length")),
    eps: m.number(key("attention.layer_norm_rms_epsilon")),
    // attention
    attentionHeads: heads,
    kvHeads: perLayer(m, key("attention.head_count_kv"), layers),
    keyDim,
    valueDim: keyDim,
    attentionScale: m.number(key("attention.scale"), 0) || 1 / Math.sqrt(keyDim),
    // A model without rotary embedding says that its scaling was not tuned.
    rope: m.boolean(key("rope.scaling.finetuned"), true) ? ropeOptions(m, "granitehybrid", keyDim) : undefined,
    // Mamba-2
    ...mamba2Config(m, "granitehybrid"),
    // experts
    experts: m.count(key("expert_count"), 0),
    used: m.count(key("expert_used_count"), 0),
    sharedHidden: m.count(key("expert_shared_feed_forward_length"), 0),
    // Granite's multipliers; one that is missing, or 0, is 1
    embeddingScale: m.number(key("embedding_scale"), 0) || 1,
    residualScale: m.number(key("residual_scale"), 0) || 1,
    logitScale: m.number(key("logit_scale"), 0) || 1,
  };
}

/** What both checkpoints say of their layers and heads. Granite rotates whole heads, where it does, and Bamba half of each. */
function checkpointShape(c: HuggingFaceConfig) {
  const types = c.strings("layer_types", undefined) ?? c.strings("layers_block_type", undefined);
  const indices = types === undefined ? Array.from(c.numbers("attn_layer_indices")) : [];
  const heads = c.count("num_attention_heads");
  const headDim = share(c, "heads", c.count("hidden_size"), heads);
  const part = c.strings("architectures").includes("BambaForCausalLM") ? 0.5 : 1;
  const rotated =
    c.number("rope_parameters.partial_rotary_factor", undefined) ?? c.number("partial_rotary_factor", part);
  return {
    layers: c.count("num_hidden_layers"),
    isAttention: (i: number) => (types === undefined ? indices.includes(i) : types[i] === "attention"),
    heads,
    kvHeads: c.count("num_key_value_heads", heads),
    dims: c.count("attn_rotary_emb", Math.floor(headDim * rotated)),
    inner: c.count("mamba_expand") * c.count("hidden_size"),
    groups: c.count("mamba_n_groups"),
  };
}

function checkpointMetadata(c: HuggingFaceConfig): GgufMetadata {
  supportsOnly(c, "hidden_act", "silu");
  refuseTimeStepLimit(c);
  const { layers, isAttention, kvHeads, dims, inner, groups } = checkpointShape(c);
  return {
    ...commonMetadata(c, "granitehybrid"),
    ...ropeMetadata(c, "granitehybrid"),
    "granitehybrid.attention.head_count_kv": Int32Array.from({ length: layers }, (_, i) =>
      isAttention(i) ? kvHeads : 0,
    ),
    "granitehybrid.rope.dimension_count": dims,
    "granitehybrid.ssm.conv_kernel": c.count("mamba_d_conv"),
    "granitehybrid.ssm.state_size": c.count("mamba_d_state"),
    "granitehybrid.ssm.group_count": groups,
    "granitehybrid.ssm.inner_size": inner,
    "granitehybrid.ssm.time_step_rank": c.count("mamba_n_heads"),
  };
}

function graniteMetadata(c: HuggingFaceConfig): GgufMetadata {
  const experts = c.count("num_local_experts", 0);
  const shared = c.count("shared_intermediate_size");
  const hasRope = c.string("position_embedding_type", "nope") === "rope";
  return {
    "granitehybrid.context_length": hasRope ? c.count("max_position_embeddings") : 2 ** 20,
    "granitehybrid.feed_forward_length": experts === 0 ? shared : c.count("intermediate_size"),
    "granitehybrid.expert_count": experts,
    "granitehybrid.expert_used_count": experts === 0 ? 0 : c.count("num_experts_per_tok"),
    "granitehybrid.expert_shared_feed_forward_length": shared,
    "granitehybrid.rope.scaling.finetuned": hasRope,
    "granitehybrid.attention.scale": float32(c.number("attention_multiplier")),
    "granitehybrid.embedding_scale": float32(c.number("embedding_multiplier")),
    "granitehybrid.residual_scale": float32(c.number("residual_multiplier")),
    "granitehybrid.logit_scale": float32(c.number("logits_scaling")),
  };
}

function checkpointTensors(c: HuggingFaceConfig, mlp: TensorTable): TensorTable {
  const shape = checkpointShape(c);
  return {
    "token_embd.weight": "model.embed_tokens.weight",
    "output.weight": "lm_head.weight",
    ...blockTensors(shape.layers, "model.layers", (i) => ({
      "attn_norm.weight": "input_layernorm.weight",
      ...(shape.isAttention(i) ? attentionTensors("self_attn", shape) : mamba2Tensors("mamba", shape)),
      ...mlp,
    })),
  };
}

function graniteMlpTensors(c: HuggingFaceConfig): TensorTable {
  const hasExperts = c.count("num_local_experts", 0) > 0;
  const suffix = hasExperts ? "_shexp" : "";
  const [shared, experts] = ["shared_mlp.input_linear.weight", "block_sparse_moe.input_linear.weight"];
  return {
    [`ffn_gate${suffix}.weight`]: split(shared, 0, 2),
    [`ffn_up${suffix}.weight`]: split(shared, 1, 2),
    [`ffn_down${suffix}.weight`]: "shared_mlp.output_linear.weight",
    "ffn_gate_inp.weight": hasExperts ? "block_sparse_moe.router.layer.weight" : undefined,
    "ffn_gate_exps.weight": hasExperts ? split(experts, 0, 2) : undefined,
    "ffn_up_exps.weight": hasExperts ? split(experts, 1, 2) : undefined,
    "ffn_down_exps.weight": hasExperts ? "block_sparse_moe.output_linear.weight" : undefined,
  };
}
