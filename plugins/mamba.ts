import {
  defineArchitecture,
  layerCount,
  mamba1Memory,
  mamba1Mixer,
  matrix,
  optional,
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
      ssm: {
        input: matrix(`blk.${i}.ssm_in.weight`, [c.width, 2 * c.inner]),
        convolution: vector(`blk.${i}.ssm_conv1d.weight`, [c.taps, c.inner]),
        convolutionBias: optional(vector(`blk.${i}.ssm_conv1d.bias`, [c.inner])),
        selection: matrix(`blk.${i}.ssm_x.weight`, [c.inner, c.rank + 2 * c.stateSize]),
        dt: matrix(`blk.${i}.ssm_dt.weight`, [c.rank, c.inner]),
        dtBias: vector(`blk.${i}.ssm_dt.bias`, [c.inner]),
        a: vector(`blk.${i}.ssm_a`, [c.stateSize, c.inner]),
        d: vector(`blk.${i}.ssm_d`, [c.inner]),
        output: matrix(`blk.${i}.ssm_out.weight`, [c.inner, c.width]),
      },
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
});
