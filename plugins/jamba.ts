import {
  attention,
  attentionWeights,
  defineArchitecture,
  expertRouting,
  expertWeights,
  gatedMlp,
  layerCount,
  mamba1Memory,
  mamba1Mixer,
  mamba1Weights,
  matrix,
  mlpWeights,
  optional,
  perLayer,
  routedExperts,
  routeToExperts,
  selfAttention,
  share,
  StrataError,
  table,
  tapCount,
  vector,
  vocabularySize,
  type Metadata,
} from "ggstrata";

/**
 * Jamba (arXiv:2403.19887): Mamba layers with norms on what the scan selects by, attention without positions in some,
 * and an MLP or experts in each. A layer without key heads is Mamba; one with a router has experts.
 */
export const jamba = defineArchitecture({
  apiVersion: 1,
  names: ["jamba"],

  example: {
    "jamba.vocab_size": 96,
    "jamba.context_length": 512,
    "jamba.block_count": 3,
    "jamba.embedding_length": 64,
    "jamba.feed_forward_length": 40,
    "jamba.attention.head_count": 4,
    "jamba.attention.head_count_kv": [0, 2, 0],
    "jamba.attention.layer_norm_rms_epsilon": 1e-5,
    "jamba.ssm.conv_kernel": 4,
    "jamba.ssm.inner_size": 128,
    "jamba.ssm.state_size": 16,
    "jamba.ssm.time_step_rank": 8,
    "jamba.expert_count": 4,
    "jamba.expert_used_count": 2,
  },

  config: readConfig,

  memory: (c) =>
    c.kvHeads.map((kvHeads) =>
      kvHeads === 0
        ? { ssm: mamba1Memory(c) }
        : { attn: attention({ heads: kvHeads, keyDim: c.keyDim, valueDim: c.valueDim }) },
    ),

  weights: (c) => ({
    embedding: table("token_embd.weight", [c.width, c.vocabulary]),
    norm: vector("output_norm.weight", [c.width]),
    head: matrix("output.weight", [c.width, c.vocabulary], { tied: "token_embd.weight" }),
    layers: c.kvHeads.map((kvHeads, i) => ({
      norm: vector(`blk.${i}.attn_norm.weight`, [c.width]),
      mixer: kvHeads === 0 ? { ssm: ssmWeights(c, i) } : { attn: attentionWeights(i, { ...c, kvHeads }) },
      mlpNorm: vector(`blk.${i}.ffn_norm.weight`, [c.width]),
      mlp: eitherWeights(c, i),
    })),
  }),

  graph: (g, c, w, memories) => {
    const { eps } = c;
    let x = g.getRows(w.embedding, g.tokens());
    for (const { index, layer, memory, isLast } of g.layers(w.layers, memories)) {
      const { mixer, mlp } = layer;
      const normed = g.rmsNorm(x, eps, layer.norm);
      let mixed =
        mixer.ssm !== undefined
          ? mamba1Mixer(g, normed, mixer.ssm, { ...c, memory: memory.ssm, selectionEps: eps })
          : selfAttention(g, normed, mixer.attn, { memory: memory.attn, heads: c.heads });
      if (isLast) [x, mixed] = [g.selectOutputs(x), g.selectOutputs(mixed)];
      x = g.add(x, mixed);
      const hidden = g.rmsNorm(x, eps, layer.mlpNorm);
      if (c.routing === undefined || mlp.router === undefined) {
        x = g.add(x, gatedMlp(g, hidden, complete(index, "", mlp.dense)));
      } else {
        const route = routeToExperts(g, hidden, { router: mlp.router }, c.routing);
        x = g.add(x, routedExperts(g, hidden, complete(index, "_exps", mlp.experts), route));
      }
    }
    return g.mulMat(w.head, g.rmsNorm(x, eps, w.norm));
  },
});

type Config = ReturnType<typeof readConfig>;

function readConfig(m: Metadata) {
  const layers = layerCount(m, "jamba");
  const width = m.count("jamba.embedding_length");
  const heads = m.count("jamba.attention.head_count");
  const keyDim =
    m.count("jamba.attention.key_length", undefined) ?? share(m, '"jamba.attention.head_count"', width, heads);
  const kvHeads = perLayer(m, "jamba.attention.head_count_kv", layers);
  for (const count of kvHeads) if (count > 0) share(m, '"jamba.attention.head_count"', heads, count);
  // One expert is an MLP.
  const hasExperts = m.count("jamba.expert_count", 0) > 1;
  return {
    vocabulary: vocabularySize(m, "jamba"),
    contextLength: m.count("jamba.context_length"),
    width,
    hidden: m.count("jamba.feed_forward_length"),
    eps: m.number("jamba.attention.layer_norm_rms_epsilon"),
    // attention
    heads,
    kvHeads,
    keyDim,
    valueDim: m.count("jamba.attention.value_length", keyDim),
    // Mamba
    inner: m.count("jamba.ssm.inner_size"),
    stateSize: m.count("jamba.ssm.state_size"),
    rank: m.count("jamba.ssm.time_step_rank"),
    taps: tapCount(m, "jamba.ssm.conv_kernel"),
    // experts, weighted by their share of all probability
    routing: hasExperts ? expertRouting(m, "jamba", { scores: "softmax", normalizes: false, epsilon: 0 }) : undefined,
  };
}

function ssmWeights(c: Config, i: number) {
  return {
    ...mamba1Weights(i, c),
    dtNorm: vector(`blk.${i}.ssm_dt_norm.weight`, [c.rank]),
    bNorm: vector(`blk.${i}.ssm_b_norm.weight`, [c.stateSize]),
    cNorm: vector(`blk.${i}.ssm_c_norm.weight`, [c.stateSize]),
  };
}

/** No key says which layers have experts: the file's tensors do. */
function eitherWeights({ width, hidden, routing }: Config, i: number) {
  const { gate, up, down } = mlpWeights(i, width, hidden);
  if (routing === undefined) return { dense: { gate, up, down } };
  const { router, ...experts } = expertWeights(i, width, hidden, routing.experts);
  return {
    router: optional(router),
    experts: { gate: optional(experts.gate), up: optional(experts.up), down: optional(experts.down) },
    dense: { gate: optional(gate), up: optional(up), down: optional(down) },
  };
}

/** The three weights of an MLP or of experts, none of which the file may lack. */
function complete<W>(i: number, suffix: string, w: { readonly [K in "gate" | "up" | "down"]: W | undefined }) {
  const of = (name: "gate" | "up" | "down"): W => {
    const weight = w[name];
    if (weight !== undefined) return weight;
    throw new StrataError("bad_format", `the tensor "blk.${i}.ffn_${name}${suffix}.weight" is missing`);
  };
  return { gate: of("gate"), up: of("up"), down: of("down") };
}
