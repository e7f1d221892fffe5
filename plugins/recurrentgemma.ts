import {
  attention,
  defineArchitecture,
  geluTanh,
  griffinMemory,
  griffinMixer,
  layerCount,
  linear,
  matrix,
  optional,
  perLayer,
  ropeScale,
  selfAttention,
  sequenceStarts,
  share,
  table,
  vector,
  vocabularySize,
  type Metadata,
} from "ggstrata";

/**
 * RecurrentGemma (arXiv:2404.07839), of Griffin's design: recurrent layers, and attention with a window between them,
 * each followed by an MLP. A layer without key heads is recurrent.
 *
 * llama.cpp has no such files. In these, as in Gemma's there, 1 is added to the weights of norms; `feed_forward_length`
 * is the MLP's own width (half of `intermediate_size`); `embedding_scale` is sqrt(d) rounded to bf16. Of the recurrent
 * block, `linear_x` is `ssm_in`, `linear_y` is `attn_gate` and `linear_out` is `ssm_out`; `ssm_a` is
 * -8 softplus(`recurrent_param`); the gates `ssm_input_gate` and `ssm_recurrence_gate` have a block `[in, out]` for each of
 * `ssm.group_count` heads, and biases without heads.
 */
export const recurrentgemma = defineArchitecture({
  apiVersion: 1,
  names: ["recurrentgemma"],

  config: readConfig,

  memory: (c) =>
    c.kvHeads.map((kvHeads) =>
      kvHeads === 0
        ? { lru: griffinMemory(c) }
        : { attn: attention({ heads: kvHeads, keyDim: c.headDim, valueDim: c.headDim, window: c.window }) },
    ),

  weights: (c) => ({
    embedding: table("token_embd.weight", [c.width, c.vocabulary]),
    norm: vector("output_norm.weight", [c.width]),
    head: matrix("output.weight", [c.width, c.vocabulary], { tied: "token_embd.weight" }),
    layers: c.kvHeads.map((kvHeads, i) => ({
      norm: vector(`blk.${i}.attn_norm.weight`, [c.width]),
      mixer: kvHeads === 0 ? { lru: recurrentWeights(c, i) } : { attn: attentionWeights(c, i, kvHeads) },
      mlpNorm: vector(`blk.${i}.ffn_norm.weight`, [c.width]),
      gate: matrix(`blk.${i}.ffn_gate.weight`, [c.width, c.hidden]),
      gateBias: vector(`blk.${i}.ffn_gate.bias`, [c.hidden]),
      up: matrix(`blk.${i}.ffn_up.weight`, [c.width, c.hidden]),
      upBias: vector(`blk.${i}.ffn_up.bias`, [c.hidden]),
      down: matrix(`blk.${i}.ffn_down.weight`, [c.hidden, c.width]),
      downBias: vector(`blk.${i}.ffn_down.bias`, [c.width]),
    })),
  }),

  graph: (g, c, w, memories) => {
    const rope = { mode: "neox", dims: c.ropeDims, base: c.ropeBase, scale: c.ropeScale } as const;
    const starts = sequenceStarts(g);
    let x = g.scale(g.getRows(w.embedding, g.tokens()), c.embeddingScale);
    for (const { layer, memory, isLast } of g.layers(w.layers, memories)) {
      const { mixer } = layer;
      const normed = g.rmsNorm(x, c.eps, layer.norm);
      let mixed =
        mixer.lru !== undefined
          ? griffinMixer(g, normed, mixer.lru, { memory: memory.lru, starts })
          : selfAttention(g, normed, mixer.attn, { memory: memory.attn, heads: c.heads, rope });
      if (isLast) [x, mixed] = [g.selectOutputs(x), g.selectOutputs(mixed)];
      x = g.add(x, mixed);
      const hidden = g.rmsNorm(x, c.eps, layer.mlpNorm);
      const gate = geluTanh(g, linear(g, hidden, layer.gate, layer.gateBias));
      const up = linear(g, hidden, layer.up, layer.upBias);
      x = g.add(x, linear(g, g.mul(gate, up), layer.down, layer.downBias));
    }
    const logits = g.mulMat(w.head, g.rmsNorm(x, c.eps, w.norm));
    return c.softcap === 0 ? logits : g.scale(g.unary(g.scale(logits, 1 / c.softcap), "tanh"), c.softcap);
  },
});

type Config = ReturnType<typeof readConfig>;

function readConfig(m: Metadata) {
  const key = (name: string) => `recurrentgemma.${name}`;
  const layers = layerCount(m, "recurrentgemma");
  const heads = m.count(key("attention.head_count"));
  const kvHeads = perLayer(m, key("attention.head_count_kv"), layers);
  for (const count of kvHeads) if (count !== 0) share(m, `"${key("attention.head_count_kv")}"`, heads, count);
  const headDim = m.count(key("attention.key_length"));
  const channels = m.count(key("ssm.inner_size"));
  const groups = m.count(key("ssm.group_count"));
  return {
    vocabulary: vocabularySize(m, "recurrentgemma"),
    contextLength: m.count(key("context_length")),
    width: m.count(key("embedding_length")),
    hidden: m.count(key("feed_forward_length")),
    eps: m.number(key("attention.layer_norm_rms_epsilon")),
    embeddingScale: m.number(key("embedding_scale")),
    softcap: m.number(key("final_logit_softcapping"), 0),
    // attention
    heads,
    kvHeads,
    headDim,
    window: m.count(key("attention.sliding_window")),
    ropeDims: m.count(key("rope.dimension_count"), headDim),
    ropeBase: m.number(key("rope.freq_base"), 10000),
    ropeScale: ropeScale(m, "recurrentgemma"),
    // recurrence
    channels,
    groups,
    groupWidth: share(m, `"${key("ssm.group_count")}"`, channels, groups),
    taps: m.count(key("ssm.conv_kernel")),
  };
}

function recurrentWeights(c: Config, i: number) {
  return {
    input: matrix(`blk.${i}.ssm_in.weight`, [c.width, c.channels]),
    inputBias: vector(`blk.${i}.ssm_in.bias`, [c.channels]),
    gate: matrix(`blk.${i}.attn_gate.weight`, [c.width, c.channels]),
    gateBias: vector(`blk.${i}.attn_gate.bias`, [c.channels]),
    convolution: vector(`blk.${i}.ssm_conv1d.weight`, [c.taps, c.channels]),
    convolutionBias: vector(`blk.${i}.ssm_conv1d.bias`, [c.channels]),
    inputGate: vector(`blk.${i}.ssm_input_gate.weight`, [c.groupWidth, c.groupWidth, c.groups]),
    inputGateBias: vector(`blk.${i}.ssm_input_gate.bias`, [c.channels]),
    recurrenceGate: vector(`blk.${i}.ssm_recurrence_gate.weight`, [c.groupWidth, c.groupWidth, c.groups]),
    recurrenceGateBias: vector(`blk.${i}.ssm_recurrence_gate.bias`, [c.channels]),
    a: vector(`blk.${i}.ssm_a`, [c.channels]),
    output: matrix(`blk.${i}.ssm_out.weight`, [c.channels, c.width]),
    outputBias: vector(`blk.${i}.ssm_out.bias`, [c.width]),
  };
}

function attentionWeights(c: Config, i: number, kvHeads: number) {
  return {
    q: matrix(`blk.${i}.attn_q.weight`, [c.width, c.heads * c.headDim]),
    qBias: optional(vector(`blk.${i}.attn_q.bias`, [c.heads * c.headDim])),
    k: matrix(`blk.${i}.attn_k.weight`, [c.width, kvHeads * c.headDim]),
    kBias: optional(vector(`blk.${i}.attn_k.bias`, [kvHeads * c.headDim])),
    v: matrix(`blk.${i}.attn_v.weight`, [c.width, kvHeads * c.headDim]),
    vBias: optional(vector(`blk.${i}.attn_v.bias`, [kvHeads * c.headDim])),
    output: matrix(`blk.${i}.attn_output.weight`, [c.heads * c.headDim, c.width]),
    outputBias: vector(`blk.${i}.attn_output.bias`, [c.width]),
  };
}
