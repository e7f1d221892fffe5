import {
  attention,
  defineArchitecture,
  expertRouting,
  experts,
  gatedMlp,
  layerCount,
  mamba1Memory,
  mamba1Mixer,
  matrix,
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

  config: readConfig,

  memory: (c) =>
    c.kvHeads.map((kvHeads) =>
      kvHeads === 0
        ? { ssm: mamba1Memory(c) }
        : { attn: attention({ heads: kvHeads, keyDim: c.headDim, valueDim: c.valueDim }) },
    ),

  weights: (c) => ({
    embedding: table("token_embd.weight", [c.width, c.vocabulary]),
    norm: vector("output_norm.weight", [c.width]),
    head: matrix("output.weight", [c.width, c.vocabulary], { tied: "token_embd.weight" }),
    layers: c.kvHeads.map((kvHeads, i) => ({
      norm: vector(`blk.${i}.attn_norm.weight`, [c.width]),
      mixer: kvHeads === 0 ? { ssm: ssmWeights(c, i) } : { attn: attentionWeights(c, i, kvHeads) },
      mlpNorm: vector(`blk.${i}.ffn_norm.weight`, [c.width]),
      mlp: mlpWeights(c, i),
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
  const headDim =
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
    headDim,
    valueDim: m.count("jamba.attention.value_length", headDim),
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
    input: matrix(`blk.${i}.ssm_in.weight`, [c.width, 2 * c.inner]),
    convolution: vector(`blk.${i}.ssm_conv1d.weight`, [c.taps, c.inner]),
    convolutionBias: optional(vector(`blk.${i}.ssm_conv1d.bias`, [c.inner])),
    selection: matrix(`blk.${i}.ssm_x.weight`, [c.inner, c.rank + 2 * c.stateSize]),
    dt: matrix(`blk.${i}.ssm_dt.weight`, [c.rank, c.inner]),
    dtBias: vector(`blk.${i}.ssm_dt.bias`, [c.inner]),
    a: vector(`blk.${i}.ssm_a`, [c.stateSize, c.inner]),
    d: vector(`blk.${i}.ssm_d`, [c.inner]),
    output: matrix(`blk.${i}.ssm_out.weight`, [c.inner, c.width]),
    dtNorm: vector(`blk.${i}.ssm_dt_norm.weight`, [c.rank]),
    bNorm: vector(`blk.${i}.ssm_b_norm.weight`, [c.stateSize]),
    cNorm: vector(`blk.${i}.ssm_c_norm.weight`, [c.stateSize]),
  };
}

function attentionWeights(c: Config, i: number, kvHeads: number) {
  return {
    q: matrix(`blk.${i}.attn_q.weight`, [c.width, c.heads * c.headDim]),
    k: matrix(`blk.${i}.attn_k.weight`, [c.width, kvHeads * c.headDim]),
    v: matrix(`blk.${i}.attn_v.weight`, [c.width, kvHeads * c.valueDim]),
    output: matrix(`blk.${i}.attn_output.weight`, [c.heads * c.valueDim, c.width]),
  };
}

/** No key says which layers have experts: the file's tensors do. */
function mlpWeights({ width, hidden, routing }: Config, i: number) {
  const dense = {
    gate: matrix(`blk.${i}.ffn_gate.weight`, [width, hidden]),
    up: matrix(`blk.${i}.ffn_up.weight`, [width, hidden]),
    down: matrix(`blk.${i}.ffn_down.weight`, [hidden, width]),
  };
  if (routing === undefined) return { dense };
  return {
    router: optional(matrix(`blk.${i}.ffn_gate_inp.weight`, [width, routing.experts])),
    experts: {
      gate: optional(experts(`blk.${i}.ffn_gate_exps.weight`, [width, hidden, routing.experts])),
      up: optional(experts(`blk.${i}.ffn_up_exps.weight`, [width, hidden, routing.experts])),
      down: optional(experts(`blk.${i}.ffn_down_exps.weight`, [hidden, width, routing.experts])),
    },
    dense: { gate: optional(dense.gate), up: optional(dense.up), down: optional(dense.down) },
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
