import {
  attention,
  defineArchitecture,
  gatedMlp,
  layerCount,
  mamba2Memory,
  mamba2Mixer,
  matrix,
  optional,
  ropeScale,
  selfAttention,
  share,
  table,
  tapCount,
  vector,
  vocabularySize,
  type Metadata,
} from "ggstrata";

/**
 * Falcon-H1 (arXiv:2507.22448): attention and Mamba-2 side by side on the same input in every layer, then a gated MLP. Its
 * multipliers are folded into the weights of these files.
 */
export const falconH1 = defineArchitecture({
  apiVersion: 1,
  names: ["falcon-h1"],

  config: readConfig,

  memory: (c) =>
    Array.from({ length: c.layers }, () => ({
      attn: attention({ heads: c.kvHeads, keyDim: c.headDim, valueDim: c.valueDim }),
      ssm: mamba2Memory(c),
    })),

  weights: (c) => ({
    embedding: table("token_embd.weight", [c.width, c.vocabulary]),
    norm: vector("output_norm.weight", [c.width]),
    head: matrix("output.weight", [c.width, c.vocabulary], { tied: "token_embd.weight" }),
    layers: Array.from({ length: c.layers }, (_, i) => ({
      norm: vector(`blk.${i}.attn_norm.weight`, [c.width]),
      attn: attentionWeights(c, i),
      ssm: ssmWeights(c, i),
      // Named without ".weight" in these files.
      mlpNorm: vector(`blk.${i}.ffn_norm`, [c.width]),
      mlp: {
        gate: matrix(`blk.${i}.ffn_gate.weight`, [c.width, c.hidden]),
        up: matrix(`blk.${i}.ffn_up.weight`, [c.width, c.hidden]),
        down: matrix(`blk.${i}.ffn_down.weight`, [c.hidden, c.width]),
        gateBias: optional(vector(`blk.${i}.ffn_gate.bias`, [c.hidden])),
        upBias: optional(vector(`blk.${i}.ffn_up.bias`, [c.hidden])),
        downBias: optional(vector(`blk.${i}.ffn_down.bias`, [c.width])),
      },
    })),
  }),

  graph: (g, c, w, memories) => {
    const rope = { mode: "neox", dims: c.ropeDims, base: c.ropeBase, scale: c.ropeScale } as const;
    let x = g.getRows(w.embedding, g.tokens());
    for (const { layer, memory, isLast } of g.layers(w.layers, memories)) {
      const normed = g.rmsNorm(x, c.eps, layer.norm);
      const scanned = mamba2Mixer(g, normed, layer.ssm, { ...c, memory: memory.ssm });
      const attended = selfAttention(g, normed, layer.attn, { memory: memory.attn, heads: c.attentionHeads, rope });
      let mixed = g.add(scanned, attended);
      if (isLast) [x, mixed] = [g.selectOutputs(x), g.selectOutputs(mixed)];
      x = g.add(x, mixed);
      x = g.add(x, gatedMlp(g, g.rmsNorm(x, c.eps, layer.mlpNorm), layer.mlp));
    }
    return g.mulMat(w.head, g.rmsNorm(x, c.eps, w.norm));
  },
});

type Config = ReturnType<typeof readConfig>;

function readConfig(m: Metadata) {
  const key = (name: string) => `falcon-h1.${name}`;
  const width = m.count(key("embedding_length"));
  const heads = m.count(key("attention.head_count"));
  const headDim =
    m.count(key("attention.key_length"), undefined) ?? share(m, `"${key("attention.head_count")}"`, width, heads);
  const inner = m.count(key("ssm.inner_size"));
  const ssmHeads = m.count(key("ssm.time_step_rank"));
  const groups = m.count(key("ssm.group_count"));
  share(m, `"${key("ssm.inner_size")}"`, inner, ssmHeads);
  share(m, `"${key("ssm.time_step_rank")}"`, ssmHeads, groups);
  const kvHeads = m.count(key("attention.head_count_kv"), heads);
  share(m, `"${key("attention.head_count_kv")}"`, heads, kvHeads);
  return {
    vocabulary: vocabularySize(m, "falcon-h1"),
    contextLength: m.count(key("context_length")),
    layers: layerCount(m, "falcon-h1"),
    width,
    hidden: m.count(key("feed_forward_length")),
    eps: m.number(key("attention.layer_norm_rms_epsilon")),
    // attention
    attentionHeads: heads,
    kvHeads,
    headDim,
    valueDim: m.count(key("attention.value_length"), headDim),
    ropeDims: m.count(key("rope.dimension_count"), headDim),
    ropeBase: m.number(key("rope.freq_base"), 10000),
    ropeScale: ropeScale(m, "falcon-h1"),
    // Mamba-2
    inner,
    heads: ssmHeads,
    groups,
    stateSize: m.count(key("ssm.state_size")),
    taps: tapCount(m, key("ssm.conv_kernel")),
  };
}

function attentionWeights(c: Config, i: number) {
  return {
    q: matrix(`blk.${i}.attn_q.weight`, [c.width, c.attentionHeads * c.headDim]),
    k: matrix(`blk.${i}.attn_k.weight`, [c.width, c.kvHeads * c.headDim]),
    v: matrix(`blk.${i}.attn_v.weight`, [c.width, c.kvHeads * c.valueDim]),
    output: matrix(`blk.${i}.attn_output.weight`, [c.attentionHeads * c.valueDim, c.width]),
    qBias: optional(vector(`blk.${i}.attn_q.bias`, [c.attentionHeads * c.headDim])),
    kBias: optional(vector(`blk.${i}.attn_k.bias`, [c.kvHeads * c.headDim])),
    vBias: optional(vector(`blk.${i}.attn_v.bias`, [c.kvHeads * c.valueDim])),
    outputBias: optional(vector(`blk.${i}.attn_output.bias`, [c.width])),
  };
}

function ssmWeights(c: Config, i: number) {
  const channels = c.inner + 2 * c.groups * c.stateSize;
  return {
    input: matrix(`blk.${i}.ssm_in.weight`, [c.width, c.inner + channels + c.heads]),
    convolution: vector(`blk.${i}.ssm_conv1d.weight`, [c.taps, channels]),
    convolutionBias: optional(vector(`blk.${i}.ssm_conv1d.bias`, [channels])),
    dtBias: vector(`blk.${i}.ssm_dt.bias`, [c.heads]),
    a: vector(`blk.${i}.ssm_a`, [1, c.heads]),
    d: vector(`blk.${i}.ssm_d`, [1, c.heads]),
    norm: optional(vector(`blk.${i}.ssm_norm.weight`, [c.inner / c.groups, c.groups])),
    output: matrix(`blk.${i}.ssm_out.weight`, [c.inner, c.width]),
  };
}
