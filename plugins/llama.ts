import {
  attention,
  attentionTensors,
  attentionWeights,
  blockTensors,
  commonMetadata,
  defineArchitecture,
  expertWeights,
  gatedMlp,
  layerCount,
  matrix,
  mixtureOfExperts,
  mlpTensors,
  mlpWeights,
  optional,
  ropeFactors,
  ropeMetadata,
  ropeOptions,
  selfAttention,
  share,
  supportsOnly,
  table,
  vector,
  vocabularySize,
  type HuggingFaceConfig,
} from "ggstrata";

/**
 * Llama and its kin (arXiv:2302.13971): full attention with rotary embedding, gated MLP, RMS norms. Mixtral
 * (arXiv:2401.04088), whose files are of the same name, has experts for MLPs.
 */
export const llama = defineArchitecture({
  apiVersion: 1,
  names: ["llama"],

  config: (m) => {
    const width = m.count("llama.embedding_length");
    const heads = m.count("llama.attention.head_count");
    const keyDim = m.count("llama.attention.key_length", undefined) ?? share(m, "heads", width, heads);
    return {
      vocabulary: vocabularySize(m, "llama"),
      contextLength: m.count("llama.context_length"),
      layers: layerCount(m, "llama"),
      width,
      hidden: m.count("llama.feed_forward_length"),
      heads,
      kvHeads: m.count("llama.attention.head_count_kv", heads),
      keyDim,
      valueDim: m.count("llama.attention.value_length", keyDim),
      eps: m.number("llama.attention.layer_norm_rms_epsilon"),
      rope: ropeOptions(m, "llama", keyDim),
      experts: m.count("llama.expert_count", 0),
      used: m.count("llama.expert_used_count", 0),
    };
  },

  memory: (c) =>
    Array.from({ length: c.layers }, () => ({
      attn: attention({ heads: c.kvHeads, keyDim: c.keyDim, valueDim: c.valueDim }),
    })),

  weights: (c) => ({
    embedding: table("token_embd.weight", [c.width, c.vocabulary]),
    norm: vector("output_norm.weight", [c.width]),
    head: matrix("output.weight", [c.width, c.vocabulary], { tied: "token_embd.weight" }),
    ropeFactors: optional(vector("rope_freqs.weight", [c.rope.dims / 2])),
    layers: Array.from({ length: c.layers }, (_, i) => ({
      norm: vector(`blk.${i}.attn_norm.weight`, [c.width]),
      ...attentionWeights(i, c),
      mlpNorm: vector(`blk.${i}.ffn_norm.weight`, [c.width]),
      mlp:
        c.experts === 0
          ? { dense: mlpWeights(i, c.width, c.hidden) }
          : { moe: expertWeights(i, c.width, c.hidden, c.experts) },
    })),
  }),

  graph: (g, c, w, memories) => {
    const rope = { ...c.rope, mode: "normal", factors: w.ropeFactors } as const;
    let x = g.getRows(w.embedding, g.tokens());
    for (const { layer, memory, isLast } of g.layers(w.layers, memories)) {
      const normed = g.rmsNorm(x, c.eps, layer.norm);
      let mixed = selfAttention(g, normed, layer, { memory: memory.attn, heads: c.heads, rope });
      if (isLast) [x, mixed] = [g.selectOutputs(x), g.selectOutputs(mixed)];
      x = g.add(x, mixed);
      const hidden = g.rmsNorm(x, c.eps, layer.mlpNorm);
      const { dense, moe } = layer.mlp;
      x = g.add(x, dense !== undefined ? gatedMlp(g, hidden, dense) : mixtureOfExperts(g, hidden, moe, c));
    }
    return g.mulMat(w.head, g.rmsNorm(x, c.eps, w.norm));
  },

  huggingFace: {
    architectures: ["LlamaForCausalLM"],
    metadata: (c) => {
      supportsOnly(c, "hidden_act", "silu");
      return {
        ...commonMetadata(c, "llama"),
        ...ropeMetadata(c, "llama", true),
        "llama.rope.dimension_count": checkpointHeads(c).headDim,
      };
    },
    tensors: (c) => ({
      "token_embd.weight": "model.embed_tokens.weight",
      "output_norm.weight": "model.norm.weight",
      "output.weight": "lm_head.weight",
      "rope_freqs.weight": ropeFactors(c, checkpointHeads(c).headDim),
      ...blockTensors(c.count("num_hidden_layers"), "model.layers", () => ({
        "attn_norm.weight": "input_layernorm.weight",
        ...attentionTensors("self_attn", checkpointHeads(c)),
        "ffn_norm.weight": "post_attention_layernorm.weight",
        ...mlpTensors("mlp"),
      })),
    }),
  },
});

function checkpointHeads(c: HuggingFaceConfig) {
  const heads = c.count("num_attention_heads");
  const headDim = c.count("head_dim", undefined) ?? share(c, "heads", c.count("hidden_size"), heads);
  return { heads, kvHeads: c.count("num_key_value_heads", heads), headDim };
}
