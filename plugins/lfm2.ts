import {
  attention,
  defineArchitecture,
  gatedMlp,
  layerCount,
  matrix,
  optional,
  perLayer,
  ropeScale,
  selfAttention,
  share,
  shortConvolution,
  shortConvolutionMemory,
  supportsOnly,
  table,
  tapCount,
  vector,
  vocabularySize,
  type Metadata,
} from "ggstrata";

/**
 * LFM2 (arXiv:2511.23404): each layer mixes tokens by a gated short convolution or by attention, then applies a gated MLP.
 * A layer without key heads is a convolution.
 */
export const lfm2 = defineArchitecture({
  apiVersion: 1,
  names: ["lfm2"],

  config: readConfig,

  memory: (c) =>
    c.kvHeads.map((kvHeads) =>
      kvHeads === 0
        ? { conv: shortConvolutionMemory(c) }
        : { attn: attention({ heads: kvHeads, keyDim: c.headDim, valueDim: c.valueDim, window: c.window }) },
    ),

  weights: (c) => ({
    embedding: table("token_embd.weight", [c.width, c.vocabulary]),
    // The norm before the head, by its name in these files.
    norm: vector("token_embd_norm.weight", [c.width]),
    head: matrix("output.weight", [c.width, c.vocabulary], { tied: "token_embd.weight" }),
    layers: c.kvHeads.map((kvHeads, i) => ({
      norm: vector(`blk.${i}.attn_norm.weight`, [c.width]),
      mixer: kvHeads === 0 ? { conv: convolutionWeights(c, i) } : { attn: attentionWeights(c, i, kvHeads) },
      mlpNorm: vector(`blk.${i}.ffn_norm.weight`, [c.width]),
      gate: matrix(`blk.${i}.ffn_gate.weight`, [c.width, c.hidden]),
      up: matrix(`blk.${i}.ffn_up.weight`, [c.width, c.hidden]),
      down: matrix(`blk.${i}.ffn_down.weight`, [c.hidden, c.width]),
    })),
  }),

  graph: (g, c, w, memories) => {
    const rope = { mode: "neox", dims: c.ropeDims, base: c.ropeBase, scale: c.ropeScale } as const;
    let x = g.getRows(w.embedding, g.tokens());
    for (const { layer, memory, isLast } of g.layers(w.layers, memories)) {
      const { mixer } = layer;
      const normed = g.rmsNorm(x, c.eps, layer.norm);
      let mixed =
        mixer.conv !== undefined
          ? shortConvolution(g, normed, mixer.conv, { memory: memory.conv, width: c.width })
          : selfAttention(g, normed, mixer.attn, { memory: memory.attn, heads: c.heads, rope, eps: c.eps });
      if (isLast) [x, mixed] = [g.selectOutputs(x), g.selectOutputs(mixed)];
      x = g.add(x, mixed);
      x = g.add(x, gatedMlp(g, g.rmsNorm(x, c.eps, layer.mlpNorm), layer));
    }
    return g.mulMat(w.head, g.rmsNorm(x, c.eps, w.norm));
  },
});

type Config = ReturnType<typeof readConfig>;

function readConfig(m: Metadata) {
  const key = (name: string) => `lfm2.${name}`;
  // The models that embed texts look both ways.
  supportsOnly(m, key("attention.causal"), true);
  const layers = layerCount(m, "lfm2");
  const width = m.count(key("embedding_length"));
  const heads = m.count(key("attention.head_count"));
  const headDim =
    m.count(key("attention.key_length"), undefined) ?? share(m, `"${key("attention.head_count")}"`, width, heads);
  const kvHeads = perLayer(m, key("attention.head_count_kv"), layers);
  for (const count of kvHeads) if (count > 0) share(m, `"${key("attention.head_count_kv")}"`, heads, count);
  return {
    vocabulary: vocabularySize(m, "lfm2"),
    contextLength: m.count(key("context_length")),
    width,
    hidden: m.count(key("feed_forward_length")),
    eps: m.number(key("attention.layer_norm_rms_epsilon")),
    taps: tapCount(m, key("shortconv.l_cache")),
    // attention
    heads,
    kvHeads,
    headDim,
    valueDim: m.count(key("attention.value_length"), headDim),
    window: m.count(key("attention.sliding_window"), 0) || undefined,
    ropeDims: m.count(key("rope.dimension_count"), headDim),
    ropeBase: m.number(key("rope.freq_base"), 10000),
    ropeScale: ropeScale(m, "lfm2"),
  };
}

function convolutionWeights(c: Config, i: number) {
  return {
    input: matrix(`blk.${i}.shortconv.in_proj.weight`, [c.width, 3 * c.width]),
    inputBias: optional(vector(`blk.${i}.shortconv.in_proj.bias`, [3 * c.width])),
    convolution: vector(`blk.${i}.shortconv.conv.weight`, [c.taps, c.width]),
    convolutionBias: optional(vector(`blk.${i}.shortconv.conv.bias`, [c.width])),
    output: matrix(`blk.${i}.shortconv.out_proj.weight`, [c.width, c.width]),
    outputBias: optional(vector(`blk.${i}.shortconv.out_proj.bias`, [c.width])),
  };
}

function attentionWeights(c: Config, i: number, kvHeads: number) {
  return {
    q: matrix(`blk.${i}.attn_q.weight`, [c.width, c.heads * c.headDim]),
    k: matrix(`blk.${i}.attn_k.weight`, [c.width, kvHeads * c.headDim]),
    v: matrix(`blk.${i}.attn_v.weight`, [c.width, kvHeads * c.valueDim]),
    output: matrix(`blk.${i}.attn_output.weight`, [c.heads * c.valueDim, c.width]),
    qNorm: vector(`blk.${i}.attn_q_norm.weight`, [c.headDim]),
    kNorm: vector(`blk.${i}.attn_k_norm.weight`, [c.headDim]),
  };
}
