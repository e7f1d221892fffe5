import {
  attention,
  attentionWeights,
  defineArchitecture,
  expertRouting,
  expertWeights,
  gatedMlp,
  headNormWeights,
  layerCount,
  matrix,
  mlpWeights,
  optional,
  perLayer,
  ropeOptions,
  routedExperts,
  routeToExperts,
  selfAttention,
  share,
  shortConvolution,
  shortConvolutionMemory,
  shortConvolutionWeights,
  table,
  tapCount,
  vector,
  vocabularySize,
  type Metadata,
} from "ggstrata";

/**
 * LFM2 with experts (arXiv:2511.23404): gated short convolutions and attention as in LFM2; after the first layers, experts
 * take the place of the MLP. A layer without key heads is a convolution.
 */
export const lfm2moe = defineArchitecture({
  apiVersion: 1,
  names: ["lfm2moe"],

  config: readConfig,

  memory: (c) =>
    c.kvHeads.map((kvHeads) =>
      kvHeads === 0
        ? { conv: shortConvolutionMemory(c) }
        : { attn: attention({ heads: kvHeads, keyDim: c.keyDim, valueDim: c.valueDim, window: c.window }) },
    ),

  weights: (c) => ({
    embedding: table("token_embd.weight", [c.width, c.vocabulary]),
    // The norm before the head, by its name in these files.
    norm: vector("token_embd_norm.weight", [c.width]),
    head: matrix("output.weight", [c.width, c.vocabulary], { tied: "token_embd.weight" }),
    layers: c.kvHeads.map((kvHeads, i) => ({
      norm: vector(`blk.${i}.attn_norm.weight`, [c.width]),
      mixer:
        kvHeads === 0
          ? { conv: shortConvolutionWeights(i, c) }
          : { attn: { ...attentionWeights(i, { ...c, kvHeads }), ...headNormWeights(i, c.keyDim) } },
      mlpNorm: vector(`blk.${i}.ffn_norm.weight`, [c.width]),
      mlp: i < c.denseLayers ? { dense: mlpWeights(i, c.width, c.hidden) } : { moe: moeWeights(c, i) },
    })),
  }),

  graph: (g, c, w, memories) => {
    const rope = { ...c.rope, mode: "neox" } as const;
    let x = g.getRows(w.embedding, g.tokens());
    for (const { layer, memory, isLast } of g.layers(w.layers, memories)) {
      const { mixer, mlp } = layer;
      const normed = g.rmsNorm(x, c.eps, layer.norm);
      let mixed =
        mixer.conv !== undefined
          ? shortConvolution(g, normed, mixer.conv, { memory: memory.conv, width: c.width })
          : selfAttention(g, normed, mixer.attn, { memory: memory.attn, heads: c.heads, rope, eps: c.eps });
      if (isLast) [x, mixed] = [g.selectOutputs(x), g.selectOutputs(mixed)];
      x = g.add(x, mixed);
      const hidden = g.rmsNorm(x, c.eps, layer.mlpNorm);
      const y =
        mlp.dense !== undefined
          ? gatedMlp(g, hidden, mlp.dense)
          : routedExperts(g, hidden, mlp.moe, routeToExperts(g, hidden, mlp.moe, c.routing));
      x = g.add(x, y);
    }
    return g.mulMat(w.head, g.rmsNorm(x, c.eps, w.norm));
  },
});

function readConfig(m: Metadata) {
  const key = (name: string) => `lfm2moe.${name}`;
  const layers = layerCount(m, "lfm2moe");
  const width = m.count(key("embedding_length"));
  const heads = m.count(key("attention.head_count"));
  const keyDim =
    m.count(key("attention.key_length"), undefined) ?? share(m, `"${key("attention.head_count")}"`, width, heads);
  const kvHeads = perLayer(m, key("attention.head_count_kv"), layers);
  for (const count of kvHeads) if (count > 0) share(m, `"${key("attention.head_count_kv")}"`, heads, count);
  return {
    vocabulary: vocabularySize(m, "lfm2moe"),
    contextLength: m.count(key("context_length")),
    width,
    hidden: m.count(key("feed_forward_length")),
    eps: m.number(key("attention.layer_norm_rms_epsilon")),
    taps: tapCount(m, key("shortconv.l_cache")),
    // experts
    denseLayers: m.count(key("leading_dense_block_count"), 0),
    expertHidden: m.count(key("expert_feed_forward_length")),
    routing: expertRouting(m, "lfm2moe", { scores: "sigmoid", normalizes: true, epsilon: 1e-6 }),
    // attention
    heads,
    kvHeads,
    keyDim,
    valueDim: m.count(key("attention.value_length"), keyDim),
    window: m.count(key("attention.sliding_window"), 0) || undefined,
    rope: ropeOptions(m, "lfm2moe", keyDim),
  };
}

type Config = ReturnType<typeof readConfig>;

function moeWeights(c: Config, i: number) {
  const { experts } = c.routing;
  return {
    ...expertWeights(i, c.width, c.expertHidden, experts),
    routerBias: optional(vector(`blk.${i}.exp_probs_b.bias`, [experts])),
  };
}
