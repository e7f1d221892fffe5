import {
  attention,
  attentionWeights,
  defineArchitecture,
  gatedDeltaConfig,
  gatedDeltaMemory,
  gatedDeltaNet,
  gatedDeltaWeights,
  gatedMlp,
  guessingTensors,
  headNormWeights,
  layerCount,
  matrix,
  mlpWeights,
  perLayer,
  recurrentLayers,
  ropeOptions,
  selfAttention,
  share,
  steppedLayerCount,
  StrataError,
  supportsOnly,
  table,
  vector,
  vocabularySize,
  type Metadata,
} from "ggstrata";

/**
 * Qwen3.5, dense, for text: three layers with a gated delta net (arXiv:2412.06464) to one with gated attention, gated MLP.
 * Files have value heads in another order than Qwen3-Next's. Of a text the three parts of a position are the same, so that
 * its rotary embedding in sections is the plain one.
 */
export const qwen35 = defineArchitecture({
  apiVersion: 1,
  names: ["qwen35"],

  config: readConfig,

  memory: (c) =>
    c.layers.map(({ isRecurrent, kvHeads }) =>
      isRecurrent
        ? { net: gatedDeltaMemory(c.net) }
        : { attn: attention({ heads: kvHeads, keyDim: c.keyDim, valueDim: c.valueDim }) },
    ),

  weights: (c) => ({
    embedding: table("token_embd.weight", [c.width, c.vocabulary]),
    norm: vector("output_norm.weight", [c.width]),
    head: matrix("output.weight", [c.width, c.vocabulary], { tied: "token_embd.weight" }),
    layers: c.layers.map(({ isRecurrent, kvHeads, hidden }, i) => ({
      norm: vector(`blk.${i}.attn_norm.weight`, [c.width]),
      mixer: isRecurrent
        ? { net: netWeights(c, i) }
        : { attn: { ...attentionWeights(i, { ...c, kvHeads, gated: true }), ...headNormWeights(i, c.keyDim) } },
      mlpNorm: vector(`blk.${i}.post_attention_norm.weight`, [c.width]),
      mlp: mlpWeights(i, c.width, hidden),
    })),
  }),

  ignores: (c) => c.guessing,

  graph: (g, c, w, memories) => {
    const { eps, heads } = c;
    const rope = { ...c.rope, mode: "neox" } as const;
    let x = g.getRows(w.embedding, g.tokens());
    for (const { layer, memory, isLast } of g.layers(w.layers, memories)) {
      const { mixer } = layer;
      const normed = g.rmsNorm(x, eps, layer.norm);
      let mixed =
        mixer.net !== undefined
          ? gatedDeltaNet(g, normed, mixer.net, { ...c.net, eps, memory: memory.net, mapping: "interleaved" })
          : selfAttention(g, normed, mixer.attn, { memory: memory.attn, heads, rope, eps, gated: true });
      if (isLast) [x, mixed] = [g.selectOutputs(x), g.selectOutputs(mixed)];
      x = g.add(x, mixed);
      x = g.add(x, gatedMlp(g, g.rmsNorm(x, eps, layer.mlpNorm), layer.mlp));
    }
    return g.mulMat(w.head, g.rmsNorm(x, eps, w.norm));
  },
});

type Config = ReturnType<typeof readConfig>;

function readConfig(m: Metadata) {
  const key = (name: string) => `qwen35.${name}`;
  const width = m.count(key("embedding_length"));
  const heads = m.count(key("attention.head_count"));
  const keyDim = m.count(key("attention.key_length"), undefined) ?? share(m, "heads", width, heads);
  supportsOnly(m, key("attention.value_length"), keyDim);
  if (m.numbers(key("rope.dimension_sections"), [0, 0, 0, 0])[3] !== 0) {
    const sentence = `"${key("rope.dimension_sections")}" turns by a fourth part of positions, which text has not`;
    throw new StrataError("unsupported", `${m.file}: ${sentence}`);
  }
  return {
    vocabulary: vocabularySize(m, "qwen35"),
    contextLength: m.count(key("context_length")),
    layers: readLayers(m, heads),
    guessing: guessingTensors(m, "qwen35"),
    width,
    eps: m.number(key("attention.layer_norm_rms_epsilon")),
    // attention
    heads,
    keyDim,
    valueDim: keyDim,
    rope: ropeOptions(m, "qwen35", keyDim),
    // delta net
    net: gatedDeltaConfig(m, "qwen35"),
  };
}

/** The layers that a step runs; those that only guess further tokens come after them in the file. */
function readLayers(m: Metadata, heads: number) {
  const all = layerCount(m, "qwen35");
  const recurrent = recurrentLayers(m, "qwen35", all);
  const kvHeads = perLayer(m, "qwen35.attention.head_count_kv", all, heads);
  const hidden = perLayer(m, "qwen35.feed_forward_length", all);
  const layers = recurrent.map((isRecurrent, i) => ({
    isRecurrent,
    kvHeads: kvHeads[i] as number,
    hidden: hidden[i] as number,
  }));
  for (const layer of layers) if (!layer.isRecurrent) share(m, '"qwen35.attention.head_count"', heads, layer.kvHeads);
  return layers.slice(0, steppedLayerCount(m, "qwen35", all));
}

function netWeights(c: Config, i: number) {
  return {
    ...gatedDeltaWeights(i, c.width, c.net),
    beta: matrix(`blk.${i}.ssm_beta.weight`, [c.width, c.net.valueHeads]),
    alpha: matrix(`blk.${i}.ssm_alpha.weight`, [c.width, c.net.valueHeads]),
  };
}
