import {
  attention,
  attentionTensors,
  attentionWeights,
  blockTensors,
  commonMetadata,
  defineArchitecture,
  gatedMlp,
  headNormWeights,
  layerCount,
  matrix,
  mlpTensors,
  mlpWeights,
  ropeMetadata,
  ropeOptions,
  selfAttention,
  share,
  supportsOnly,
  table,
  vector,
  vocabularySize,
} from "ggstrata";

/** Qwen 3 (arXiv:2505.09388), dense: full attention with norms of each head's queries and keys, gated MLP, RMS norms. */
export const qwen3 = defineArchitecture({
  apiVersion: 1,
  names: ["qwen3"],

  config: (m) => {
    const width = m.count("qwen3.embedding_length");
    const heads = m.count("qwen3.attention.head_count");
    const kvHeads = m.count("qwen3.attention.head_count_kv", heads);
    const keyDim =
      m.count("qwen3.attention.key_length", undefined) ?? share(m, '"qwen3.attention.head_count"', width, heads);
    share(m, '"qwen3.attention.head_count"', heads, kvHeads);
    return {
      vocabulary: vocabularySize(m, "qwen3"),
      contextLength: m.count("qwen3.context_length"),
      layers: layerCount(m, "qwen3"),
      width,
      hidden: m.count("qwen3.feed_forward_length"),
      heads,
      kvHeads,
      keyDim,
      valueDim: m.count("qwen3.attention.value_length", keyDim),
      eps: m.number("qwen3.attention.layer_norm_rms_epsilon"),
      rope: ropeOptions(m, "qwen3", keyDim),
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
    layers: Array.from({ length: c.layers }, (_, i) => ({
      norm: vector(`blk.${i}.attn_norm.weight`, [c.width]),
      ...attentionWeights(i, c),
      ...headNormWeights(i, c.keyDim),
      mlpNorm: vector(`blk.${i}.ffn_norm.weight`, [c.width]),
      ...mlpWeights(i, c.width, c.hidden),
    })),
  }),

  graph: (g, c, w, memories) => {
    const { heads, eps } = c;
    const rope = { ...c.rope, mode: "neox" } as const;
    let x = g.getRows(w.embedding, g.tokens());
    for (const { layer, memory, isLast } of g.layers(w.layers, memories)) {
      const normed = g.rmsNorm(x, eps, layer.norm);
      let mixed = selfAttention(g, normed, layer, { memory: memory.attn, heads, rope, eps });
      if (isLast) [x, mixed] = [g.selectOutputs(x), g.selectOutputs(mixed)];
      x = g.add(x, mixed);
      x = g.add(x, gatedMlp(g, g.rmsNorm(x, eps, layer.mlpNorm), layer));
    }
    return g.mulMat(w.head, g.rmsNorm(x, eps, w.norm));
  },

  huggingFace: {
    architectures: ["Qwen3ForCausalLM"],
    metadata: (c) => {
      supportsOnly(c, "hidden_act", "silu");
      supportsOnly(c, "use_sliding_window", false);
      return { ...commonMetadata(c, "qwen3"), ...ropeMetadata(c, "qwen3") };
    },
    tensors: (c) => ({
      "token_embd.weight": "model.embed_tokens.weight",
      "output_norm.weight": "model.norm.weight",
      "output.weight": "lm_head.weight",
      ...blockTensors(c.count("num_hidden_layers"), "model.layers", () => ({
        "attn_norm.weight": "input_layernorm.weight",
        ...attentionTensors("self_attn"),
        "attn_q_norm.weight": "self_attn.q_norm.weight",
        "attn_k_norm.weight": "self_attn.k_norm.weight",
        "ffn_norm.weight": "post_attention_layernorm.weight",
        ...mlpTensors("mlp"),
      })),
    }),
  },
});
