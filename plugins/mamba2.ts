import {
  blockTensors,
  defineArchitecture,
  float32,
  layerCount,
  mamba2Config,
  mamba2Memory,
  mamba2Mixer,
  mamba2Tensors,
  mamba2Weights,
  matrix,
  refuseTimeStepLimit,
  supportsOnly,
  table,
  vector,
  vocabularySize,
  type HuggingFaceConfig,
} from "ggstrata";

/** Mamba-2 (arXiv:2405.21060): selective scans alone, no attention and no MLP. */
export const mamba2 = defineArchitecture({
  apiVersion: 1,
  names: ["mamba2"],

  config: (m) => ({
    vocabulary: vocabularySize(m, "mamba2"),
    contextLength: m.count("mamba2.context_length"),
    layers: layerCount(m, "mamba2"),
    width: m.count("mamba2.embedding_length"),
    eps: m.number("mamba2.attention.layer_norm_rms_epsilon"),
    ...mamba2Config(m, "mamba2"),
  }),

  memory: (c) => Array.from({ length: c.layers }, () => ({ ssm: mamba2Memory(c) })),

  weights: (c) => ({
    embedding: table("token_embd.weight", [c.width, c.vocabulary]),
    norm: vector("output_norm.weight", [c.width]),
    head: matrix("output.weight", [c.width, c.vocabulary], { tied: "token_embd.weight" }),
    layers: Array.from({ length: c.layers }, (_, i) => ({
      norm: vector(`blk.${i}.attn_norm.weight`, [c.width]),
      ssm: mamba2Weights(i, c),
    })),
  }),

  graph: (g, c, w, memories) => {
    let x = g.getRows(w.embedding, g.tokens());
    for (const { layer, memory, isLast } of g.layers(w.layers, memories)) {
      let mixed = mamba2Mixer(g, g.rmsNorm(x, c.eps, layer.norm), layer.ssm, { ...c, memory: memory.ssm });
      if (isLast) [x, mixed] = [g.selectOutputs(x), g.selectOutputs(mixed)];
      x = g.add(x, mixed);
    }
    return g.mulMat(w.head, g.rmsNorm(x, c.eps, w.norm));
  },

  huggingFace: {
    architectures: ["Mamba2ForCausalLM"],
    metadata: (c) => {
      supportsOnly(c, "hidden_act", "silu");
      supportsOnly(c, "rms_norm", true);
      refuseTimeStepLimit(c);
      return {
        "mamba2.block_count": c.count("num_hidden_layers"),
        "mamba2.context_length": 2 ** 20, // nothing in a checkpoint limits it
        "mamba2.embedding_length": c.count("hidden_size"),
        "mamba2.feed_forward_length": 0, // llama.cpp asks for these two
        "mamba2.attention.head_count": 0,
        "mamba2.ssm.conv_kernel": c.count("conv_kernel"),
        "mamba2.ssm.inner_size": checkpointShape(c).inner,
        "mamba2.ssm.state_size": c.count("state_size"),
        "mamba2.ssm.time_step_rank": c.count("num_heads"),
        "mamba2.ssm.group_count": checkpointShape(c).groups,
        "mamba2.attention.layer_norm_rms_epsilon": float32(c.number("layer_norm_epsilon")),
        "mamba2.vocab_size": c.count("vocab_size"),
      };
    },
    // Mamba-Codestral's are a model within another.
    rename: (name) => name.replace(/^model\.(?=backbone\.|lm_head\.)/, ""),
    tensors: (c) => ({
      "token_embd.weight": "backbone.embeddings.weight",
      "output_norm.weight": "backbone.norm_f.weight",
      "output.weight": "lm_head.weight",
      ...blockTensors(c.count("num_hidden_layers"), "backbone.layers", () => ({
        "attn_norm.weight": "norm.weight",
        ...mamba2Tensors("mixer", checkpointShape(c)),
      })),
    }),
  },
});

function checkpointShape(c: HuggingFaceConfig) {
  return { inner: c.count("num_heads") * c.count("head_dim"), groups: c.count("n_groups") };
}
