import {
  defineArchitecture,
  expertRouting,
  expertWeights,
  gatedMlp,
  kimiDeltaAttention,
  kimiDeltaMemory,
  latentAttention,
  latentMemory,
  layerCount,
  matrix,
  mlpWeights,
  perLayer,
  routedExperts,
  routeToExperts,
  StrataError,
  supportsOnly,
  table,
  vector,
  vocabularySize,
  type Metadata,
} from "ggstrata";

/**
 * Kimi Linear (arXiv:2510.26692): layers with Kimi Delta Attention, which have no key heads in the file, and some with
 * latent attention and no positions; routed experts and a shared one after the first layers.
 */
export const kimiLinear = defineArchitecture({
  apiVersion: 1,
  names: ["kimi-linear"],

  config: readConfig,

  memory: (c) =>
    c.isDelta.map((isDelta) => (isDelta ? { delta: kimiDeltaMemory(c.delta) } : { attn: latentMemory(c.latent) })),

  weights: (c) => ({
    embedding: table("token_embd.weight", [c.width, c.vocabulary]),
    norm: vector("output_norm.weight", [c.width]),
    head: matrix("output.weight", [c.width, c.vocabulary], { tied: "token_embd.weight" }),
    layers: c.isDelta.map((isDelta, i) => ({
      norm: vector(`blk.${i}.attn_norm.weight`, [c.width]),
      mixer: isDelta ? { delta: deltaWeights(c, i) } : { attn: latentWeights(c, i) },
      mlpNorm: vector(`blk.${i}.ffn_norm.weight`, [c.width]),
      mlp:
        i < c.denseLayers
          ? { dense: mlpWeights(i, c.width, c.hidden) }
          : {
              ...expertWeights(i, c.width, c.expertHidden, c.routing.experts),
              routerBias: vector(`blk.${i}.exp_probs_b.bias`, [c.routing.experts]),
              shared: c.sharedHidden > 0 ? mlpWeights(i, c.width, c.sharedHidden, "_shexp") : undefined,
            },
    })),
  }),

  graph: (g, c, w, memories) => {
    const { eps } = c;
    let x = g.getRows(w.embedding, g.tokens());
    for (const { layer, memory, isLast } of g.layers(w.layers, memories)) {
      const { mixer, mlp } = layer;
      const normed = g.rmsNorm(x, eps, layer.norm);
      let mixed =
        mixer.delta !== undefined
          ? kimiDeltaAttention(g, normed, mixer.delta, { ...c.delta, eps, memory: memory.delta })
          : latentAttention(g, normed, mixer.attn, { ...c.latent, eps, memory: memory.attn });
      if (isLast) [x, mixed] = [g.selectOutputs(x), g.selectOutputs(mixed)];
      x = g.add(x, mixed);
      const hidden = g.rmsNorm(x, eps, layer.mlpNorm);
      if (mlp.dense !== undefined) {
        x = g.add(x, gatedMlp(g, hidden, mlp.dense));
        continue;
      }
      x = g.add(x, routedExperts(g, hidden, mlp, routeToExperts(g, hidden, mlp, c.routing)));
      if (mlp.shared !== undefined) x = g.add(x, gatedMlp(g, hidden, mlp.shared));
    }
    return g.mulMat(w.head, g.rmsNorm(x, eps, w.norm));
  },
});

type Config = ReturnType<typeof readConfig>;

function readConfig(m: Metadata) {
  const key = (name: string) => `kimi-linear.${name}`;
  const layers = layerCount(m, "kimi-linear");
  const heads = m.count(key("attention.head_count"));
  const kvHeads = perLayer(m, key("attention.head_count_kv"), layers);
  const odd = kvHeads.find((count) => count > 1);
  if (odd !== undefined) {
    const what = "keys and values of each head (attn_kv_b), as old files have them";
    const sentence = `"${key("attention.head_count_kv")}" has a layer with ${odd}: ${what}; 0 and 1, for one latent, can be computed`;
    throw new StrataError("unsupported", `${m.file}: ${sentence}`);
  }
  supportsOnly(m, key("attention.q_lora_rank"), 0);
  const expertHidden = m.count(key("expert_feed_forward_length"));
  return {
    vocabulary: vocabularySize(m, "kimi-linear"),
    contextLength: m.count(key("context_length")),
    isDelta: kvHeads.map((count) => count === 0),
    width: m.count(key("embedding_length")),
    eps: m.number(key("attention.layer_norm_rms_epsilon")),
    delta: { heads, headDim: m.count(key("kda.head_dim")), taps: m.count(key("ssm.conv_kernel")) },
    latent: readLatent(m, heads),
    // MLPs and experts
    hidden: m.count(key("feed_forward_length")),
    denseLayers: m.count(key("leading_dense_block_count"), 0),
    expertHidden,
    sharedHidden: expertHidden * m.count(key("expert_shared_count"), 0),
    routing: expertRouting(m, "kimi-linear", { scores: "sigmoid", normalizes: true, epsilon: 1e-20 }),
  };
}

/** Sizes of latent attention. What the file calls rotated is the part of keys that heads share; nothing is rotated. */
function readLatent(m: Metadata, heads: number) {
  const key = (name: string) => `kimi-linear.${name}`;
  const latentDim = m.count(key("attention.kv_lora_rank"));
  const sharedDim = m.count(key("rope.dimension_count"));
  const keyDim = m.count(key("attention.key_length_mla"));
  supportsOnly(m, key("attention.key_length"), latentDim + sharedDim);
  if (keyDim <= sharedDim) {
    const sentence = `"${key("attention.key_length_mla")}" is number ${keyDim}, expected more than the shared ${sharedDim}`;
    throw new StrataError("bad_format", `${m.file}: ${sentence}`);
  }
  const valueDim = m.count(key("attention.value_length_mla"));
  return { heads, latentDim, sharedDim, ownDim: keyDim - sharedDim, valueDim };
}

function deltaWeights(c: Config, i: number) {
  const { heads, headDim, taps } = c.delta;
  const channels = heads * headDim;
  return {
    q: matrix(`blk.${i}.attn_q.weight`, [c.width, channels]),
    k: matrix(`blk.${i}.attn_k.weight`, [c.width, channels]),
    v: matrix(`blk.${i}.attn_v.weight`, [c.width, channels]),
    qConvolution: vector(`blk.${i}.ssm_conv1d_q.weight`, [taps, 1, channels]),
    kConvolution: vector(`blk.${i}.ssm_conv1d_k.weight`, [taps, 1, channels]),
    vConvolution: vector(`blk.${i}.ssm_conv1d_v.weight`, [taps, 1, channels]),
    decay: lowRankWeights(c, i, "ssm_f"),
    dtBias: vector(`blk.${i}.ssm_dt.bias`, [channels]),
    a: vector(`blk.${i}.ssm_a`, [1, heads]),
    beta: matrix(`blk.${i}.ssm_beta.weight`, [c.width, heads]),
    gate: lowRankWeights(c, i, "ssm_g"),
    norm: vector(`blk.${i}.ssm_norm.weight`, [headDim]),
    output: matrix(`blk.${i}.attn_output.weight`, [channels, c.width]),
  };
}

function lowRankWeights(c: Config, i: number, name: string) {
  const { heads, headDim } = c.delta;
  return {
    down: matrix(`blk.${i}.${name}_a.weight`, [c.width, headDim]),
    up: matrix(`blk.${i}.${name}_b.weight`, [headDim, heads * headDim]),
  };
}

function latentWeights(c: Config, i: number) {
  const { heads, latentDim, sharedDim, ownDim, valueDim } = c.latent;
  return {
    q: matrix(`blk.${i}.attn_q.weight`, [c.width, heads * (ownDim + sharedDim)]),
    latent: matrix(`blk.${i}.attn_kv_a_mqa.weight`, [c.width, latentDim + sharedDim]),
    latentNorm: vector(`blk.${i}.attn_kv_a_norm.weight`, [latentDim]),
    k: vector(`blk.${i}.attn_k_b.weight`, [ownDim, latentDim, heads]),
    v: vector(`blk.${i}.attn_v_b.weight`, [latentDim, valueDim, heads]),
    output: matrix(`blk.${i}.attn_output.weight`, [heads * valueDim, c.width]),
  };
}
