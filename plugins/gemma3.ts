import {
  attention,
  attentionWeights,
  defineArchitecture,
  gatedMlp,
  headNormWeights,
  layerCount,
  matrix,
  mlpWeights,
  perLayer,
  ropeOptions,
  selfAttention,
  share,
  table,
  vector,
  vocabularySize,
  type Metadata,
} from "ggstrata";

/** Where no key says otherwise, every sixth layer sees all tokens. */
const usualPeriod = 6;

/** The 27B model, which no key names, scales queries by the width per head instead of the head's own. */
const layersOf27B = 62;

/** Gemma 3 (arXiv:2503.19786): some layers with a sliding window to one with full attention, norms before and after. */
export const gemma3 = defineArchitecture({
  apiVersion: 1,
  names: ["gemma3"],

  config: (m) => {
    const width = m.count("gemma3.embedding_length");
    const heads = m.count("gemma3.attention.head_count");
    const keyDim = m.count("gemma3.attention.key_length", undefined) ?? share(m, "heads", width, heads);
    const layers = layerCount(m, "gemma3");
    const window = m.count("gemma3.attention.sliding_window", 0);
    return {
      vocabulary: vocabularySize(m, "gemma3"),
      contextLength: m.count("gemma3.context_length"),
      layers,
      width,
      hidden: m.count("gemma3.feed_forward_length"),
      heads,
      kvHeads: m.count("gemma3.attention.head_count_kv", heads),
      keyDim,
      valueDim: m.count("gemma3.attention.value_length", keyDim),
      queryScale: 1 / Math.sqrt(layers === layersOf27B ? width / heads : keyDim),
      window,
      isGlobal: window === 0 ? Array.from({ length: layers }, () => true) : globalLayers(m, layers),
      eps: m.number("gemma3.attention.layer_norm_rms_epsilon"),
      rope: ropeOptions(m, "gemma3", keyDim, 1e6),
      ropeBaseLocal: m.number("gemma3.rope.freq_base_swa", 10000),
      softcap: m.number("gemma3.final_logit_softcapping", 0),
    };
  },

  memory: (c) =>
    c.isGlobal.map((isGlobal) => ({
      attn: attention({
        heads: c.kvHeads,
        keyDim: c.keyDim,
        valueDim: c.valueDim,
        window: isGlobal ? undefined : c.window,
      }),
    })),

  weights: (c) => ({
    embedding: table("token_embd.weight", [c.width, c.vocabulary]),
    norm: vector("output_norm.weight", [c.width]),
    head: matrix("output.weight", [c.width, c.vocabulary], { tied: "token_embd.weight" }),
    layers: Array.from({ length: c.layers }, (_, i) => ({
      norm: vector(`blk.${i}.attn_norm.weight`, [c.width]),
      ...attentionWeights(i, c),
      ...headNormWeights(i, c.keyDim),
      postNorm: vector(`blk.${i}.post_attention_norm.weight`, [c.width]),
      mlpNorm: vector(`blk.${i}.ffn_norm.weight`, [c.width]),
      ...mlpWeights(i, c.width, c.hidden),
      mlpPostNorm: vector(`blk.${i}.post_ffw_norm.weight`, [c.width]),
    })),
  }),

  graph: (g, c, w, memories) => {
    let x = g.scale(g.getRows(w.embedding, g.tokens()), Math.sqrt(c.width));
    for (const { index, layer, memory, isLast } of g.layers(w.layers, memories)) {
      const rope = c.isGlobal[index]
        ? ({ ...c.rope, mode: "neox" } as const)
        : ({ dims: c.rope.dims, base: c.ropeBaseLocal, mode: "neox" } as const);
      const normed = g.rmsNorm(x, c.eps, layer.norm);
      const { heads, eps, queryScale } = c;
      let mixed = selfAttention(g, normed, layer, { memory: memory.attn, heads, rope, eps, queryScale });
      if (isLast) [x, mixed] = [g.selectOutputs(x), g.selectOutputs(mixed)];
      x = g.add(x, g.rmsNorm(mixed, c.eps, layer.postNorm));
      const hidden = gatedMlp(g, g.rmsNorm(x, c.eps, layer.mlpNorm), layer, "geglu");
      x = g.add(x, g.rmsNorm(hidden, c.eps, layer.mlpPostNorm));
    }
    const logits = g.mulMat(w.head, g.rmsNorm(x, c.eps, w.norm));
    return c.softcap === 0 ? logits : g.scale(g.unary(g.scale(logits, 1 / c.softcap), "tanh"), c.softcap);
  },
});

/** The layers that see all tokens: one of a number of layers, or those that have no flag of a window. */
function globalLayers(m: Metadata, layers: number): readonly boolean[] {
  const key = "gemma3.attention.sliding_window_pattern";
  const pattern = m.get(key);
  if (typeof pattern === "object") return perLayer(m, key, layers).map((hasWindow) => hasWindow === 0);
  const period = m.count(key, usualPeriod);
  return Array.from({ length: layers }, (_, i) => (i + 1) % period === 0);
}
