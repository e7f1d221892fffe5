import {
  blockTensors,
  defineArchitecture,
  float32,
  layerCount,
  mamba1Memory,
  mamba1Mixer,
  mamba1Weights,
  matrix,
  negativeExp,
  supportsOnly,
  table,
  tapCount,
  vector,
  vocabularySize,
} from "ggstrata";

/**
 * Mamba (arXiv:2312.00752): selective scans alone, no attention and no MLP. Falcon-Mamba (arXiv:2410.05355) has RMS norms
 * without weights on what the scan selects by.
 */
export const mamba = defineArchitecture({
  apiVersion: 1,
  names: ["mamba"],

  config: (m) => {
    const eps = m.number("mamba.attention.layer_norm_rms_epsilon");
    return {
      vocabulary: vocabularySize(m, "mamba"),
      contextLength: m.count("mamba.context_length"),
      layers: layerCount(m, "mamba"),
      width: m.count("mamba.embedding_length"),
      inner: m.count("mamba.ssm.inner_size"),
      stateSize: m.count("mamba.ssm.state_size"),
      rank: m.count("mamba.ssm.time_step_rank"),
      taps: tapCount(m, "mamba.ssm.conv_kernel"),
      eps,
      selectionEps: m.boolean("mamba.ssm.dt_b_c_rms", false) ? eps : undefined,
    };
  },

  memory: (c) => Array.from({ length: c.layers }, () => ({ ssm: mamba1Memory(c) })),

  weights: (c) => ({
    embedding: table("token_embd.weight", [c.width, c.vocabulary]),
    norm: vector("output_norm.weight", [c.width]),
    head: matrix("output.weight", [c.width, c.vocabulary], { tied: "token_embd.weight" }),
    layers: Array.from({ length: c.layers }, (_, i) => ({
      norm: vector(`blk.${i}.attn_norm.weight`, [c.width]),
      ssm: mamba1Weights(i, c),
    })),
  }),

  graph: (g, c, w, memories) => {
    let x = g.getRows(w.embedding, g.tokens());
    for (const { layer, memory, isLast } of g.layers(w.layers, memories)) {
      let mixed = mamba1Mixer(g, g.rmsNorm(x, c.eps, layer.norm), layer.ssm, { ...c, memory: memory.ssm });
      if (isLast) [x, mixed] = [g.selectOutputs(x), g.selectOutputs(mixed)];
      x = g.add(x, mixed);
    }
    return g.mulMat(w.head, g.rmsNorm(x, c.eps, w.norm));
  },

  huggingFace: {
    architectures: ["MambaForCausalLM"],
    metadata: (c) => {
      supportsOnly(c, "hidden_act", "silu");
      return {
        "mamba.block_count": c.count("num_hidden_layers"),
        "mamba.context_length": 2 ** 20, // nothing in a checkpoint limits it
        "mamba.embedding_length": c.count("hidden_size"),
        "mamba.feed_forward_length": 0, // llama.cpp asks for these two
        "mamba.attention.head_count": 0,
        "mamba.ssm.conv_kernel": c.count("conv_kernel"),
        "mamba.ssm.inner_size": c.count("intermediate_size"),
        "mamba.ssm.state_size": c.count("state_size"),
        "mamba.ssm.time_step_rank": c.count("time_step_rank"),
        "mamba.ssm.dt_b_c_rms": false,
        "mamba.attention.layer_norm_rms_epsilon": float32(c.number("layer_norm_epsilon")),
        "mamba.vocab_size": c.count("vocab_size"),
      };
    },
    tensors: (c) => ({
      "token_embd.weight": "backbone.embeddings.weight",
      "output_norm.weight": "backbone.norm_f.weight",
      "output.weight": "lm_head.weight",
      ...blockTensors(c.count("num_hidden_layers"), "backbone.layers", () => ({
        "attn_norm.weight": "norm.weight",
        "ssm_in.weight": "mixer.in_proj.weight",
        "ssm_conv1d.weight": "mixer.conv1d.weight",
        "ssm_conv1d.bias": "mixer.conv1d.bias",
        "ssm_x.weight": "mixer.x_proj.weight",
        "ssm_dt.weight": "mixer.dt_proj.weight",
        "ssm_dt.bias": "mixer.dt_proj.bias",
        ssm_a: negativeExp("mixer.A_log"),
        ssm_d: "mixer.D",
        "ssm_out.weight": "mixer.out_proj.weight",
      })),
    }),
  },
});
