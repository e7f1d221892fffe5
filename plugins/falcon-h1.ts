import {
  attention,
  attentionWeights,
  defineArchitecture,
  gatedMlp,
  layerCount,
  mamba2Config,
  mamba2Memory,
  mamba2Mixer,
  mamba2Weights,
  matrix,
  mlpWeights,
  optional,
  ropeOptions,
  selfAttention,
  share,
  table,
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
      attn: attention({ heads: c.kvHeads, keyDim: c.keyDim, valueDim: c.valueDim }),
      ssm: mamba2Memory(c),
    })),

  weights: (c) => ({
    embedding: table("token_embd.weight", [c.width, c.vocabulary]),
    norm: vector("output_norm.weight", [c.width]),
    head: matrix("output.weight", [c.width, c.vocabulary], { tied: "token_embd.weight" }),
    layers: Array.from({ length: c.layers }, (_, i) => ({
      norm: vector(`blk.${i}.attn_norm.weight`, [c.width]),
      attn: attentionWeights(i, { ...c, heads: c.attentionHeads }),
      ssm: { ...mamba2Weights(i, c), norm: optional(mamba2Weights(i, c).norm) },
      // Named without ".weight" in these files.
      mlpNorm: vector(`blk.${i}.ffn_norm`, [c.width]),
      mlp: mlpWeights(i, c.width, c.hidden),
    })),
  }),

  graph: (g, c, w, memories) => {
    const rope = { ...c.rope, mode: "neox" } as const;
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

function readConfig(m: Metadata) {
  const key = (name: string) => `falcon-h1.${name}`;
  const width = m.count(key("embedding_length"));
  const heads = m.count(key("attention.head_count"));
  const keyDim =
    m.count(key("attention.key_length"), undefined) ?? share(m, `"${key("attention.head_count")}"`, width, heads);
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
    keyDim,
    valueDim: m.count(key("attention.value_length"), keyDim),
    rope: ropeOptions(m, "falcon-h1", keyDim),
    // Mamba-2
    ...mamba2Config(m, "falcon-h1"),
  };
}
