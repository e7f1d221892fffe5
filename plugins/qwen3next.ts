import {
  attention,
  attentionWeights,
  defineArchitecture,
  expertRouting,
  expertWeights,
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
  optional,
  perLayer,
  recurrentLayers,
  ropeOptions,
  routedExperts,
  routeToExperts,
  selfAttention,
  share,
  steppedLayerCount,
  StrataError,
  supportsOnly,
  table,
  vector,
  vocabularySize,
  type BoundWeights,
  type Metadata,
} from "ggstrata";

/**
 * Qwen3-Next: three layers with a gated delta net (arXiv:2412.06464) to one with gated attention, each followed by routed
 * experts and a shared one that has a gate of its own. Norms as in the file: what the model adds to them is added there.
 */
export const qwen3next = defineArchitecture({
  apiVersion: 1,
  names: ["qwen3next"],

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
    layers: c.layers.map(({ isRecurrent, kvHeads }, i) => ({
      norm: vector(`blk.${i}.attn_norm.weight`, [c.width]),
      mixer: isRecurrent
        ? { net: netWeights(c, i) }
        : { attn: { ...attentionWeights(i, { ...c, kvHeads, gated: true }), ...headNormWeights(i, c.keyDim) } },
      mlpNorm: vector(`blk.${i}.post_attention_norm.weight`, [c.width]),
      experts: expertWeights(i, c.width, c.hidden, c.routing.experts),
      shared: {
        ...mlpWeights(i, c.width, c.sharedHidden, "_shexp"),
        router: matrix(`blk.${i}.ffn_gate_inp_shexp.weight`, [c.width, 1]),
      },
    })),
  }),

  ignores: (c) => c.guessing,

  graph: (g, c, w, memories) => {
    const { eps, heads } = c;
    const rope = { ...c.rope, mode: "neox" } as const;
    let x = g.getRows(w.embedding, g.tokens());
    for (const { index, layer, memory, isLast } of g.layers(w.layers, memories)) {
      const { mixer } = layer;
      const normed = g.rmsNorm(x, eps, layer.norm);
      let mixed =
        mixer.net !== undefined
          ? gatedDeltaNet(g, normed, completeNet(index, mixer.net), { ...c.net, eps, memory: memory.net })
          : selfAttention(g, normed, mixer.attn, { memory: memory.attn, heads, rope, eps, gated: true });
      if (isLast) [x, mixed] = [g.selectOutputs(x), g.selectOutputs(mixed)];
      x = g.add(x, mixed);
      const hidden = g.rmsNorm(x, eps, layer.mlpNorm);
      const routed = routedExperts(g, hidden, layer.experts, routeToExperts(g, hidden, layer.experts, c.routing));
      const part = g.unary(g.mulMat(layer.shared.router, hidden), "sigmoid");
      x = g.add(x, g.add(routed, g.mul(gatedMlp(g, hidden, layer.shared), part)));
    }
    return g.mulMat(w.head, g.rmsNorm(x, eps, w.norm));
  },
});

type Config = ReturnType<typeof readConfig>;

function readConfig(m: Metadata) {
  const key = (name: string) => `qwen3next.${name}`;
  const width = m.count(key("embedding_length"));
  const heads = m.count(key("attention.head_count"));
  const keyDim = m.count(key("attention.key_length"), undefined) ?? share(m, "heads", width, heads);
  supportsOnly(m, key("attention.value_length"), keyDim);
  const hidden = m.count(key("feed_forward_length"), 0);
  return {
    vocabulary: vocabularySize(m, "qwen3next"),
    contextLength: m.count(key("context_length")),
    layers: readLayers(m, heads),
    guessing: guessingTensors(m, "qwen3next"),
    width,
    eps: m.number(key("attention.layer_norm_rms_epsilon")),
    // attention
    heads,
    keyDim,
    valueDim: keyDim,
    rope: ropeOptions(m, "qwen3next", keyDim),
    // delta net
    net: gatedDeltaConfig(m, "qwen3next"),
    // experts
    hidden: m.count(key("expert_feed_forward_length")),
    sharedHidden: m.count(key("expert_shared_feed_forward_length"), hidden),
    routing: expertRouting(m, "qwen3next", { scores: "softmax", normalizes: true, epsilon: 0 }),
  };
}

/** The layers that a step runs; those that only guess further tokens come after them in the file. */
function readLayers(m: Metadata, heads: number) {
  const all = layerCount(m, "qwen3next");
  const recurrent = recurrentLayers(m, "qwen3next", all);
  const kvHeads = perLayer(m, "qwen3next.attention.head_count_kv", all, heads);
  const layers = recurrent.map((isRecurrent, i) => ({ isRecurrent, kvHeads: kvHeads[i] as number }));
  for (const layer of layers)
    if (!layer.isRecurrent) share(m, '"qwen3next.attention.head_count"', heads, layer.kvHeads);
  return layers.slice(0, steppedLayerCount(m, "qwen3next", all));
}

/** Older files have one matrix, `ssm_in`, where others have `attn_qkv` and `attn_gate`. */
function netWeights(c: Config, i: number) {
  const { keyHeads, valueHeads, keyDim, valueDim } = c.net;
  const { qkv, gate, ...others } = gatedDeltaWeights(i, c.width, c.net);
  return {
    ...others,
    qkv: optional(qkv),
    gate: optional(gate),
    qkvGate: optional(matrix(`blk.${i}.ssm_in.weight`, [c.width, 2 * keyHeads * keyDim + 2 * valueHeads * valueDim])),
    betaAlpha: matrix(`blk.${i}.ssm_ba.weight`, [c.width, 2 * valueHeads]),
  };
}

function completeNet(i: number, { qkv, gate, qkvGate, ...others }: BoundWeights<ReturnType<typeof netWeights>>) {
  if (qkv !== undefined && gate !== undefined) return { ...others, qkv, gate };
  if (qkvGate !== undefined) return { ...others, qkvGate };
  const name = qkv === undefined ? "attn_qkv" : "attn_gate";
  throw new StrataError("bad_format", `the tensor "blk.${i}.${name}.weight" is missing`);
}
