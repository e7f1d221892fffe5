import {
  attention,
  attentionWeights,
  defineArchitecture,
  expertRouting,
  experts,
  guessingTensors,
  layerCount,
  mamba2Config,
  mamba2Memory,
  mamba2Mixer,
  mamba2Weights,
  matrix,
  optional,
  perLayer,
  routedExperts,
  routeToExperts,
  selfAttention,
  share,
  squaredReluMlp,
  steppedLayerCount,
  StrataError,
  supportsOnly,
  table,
  vector,
  vocabularySize,
  type BoundWeights,
  type Graph,
  type Metadata,
  type RoutingOptions,
  type Tensor,
} from "ggstrata";

/**
 * Nemotron-H (arXiv:2504.03624) and Nemotron 3 (arXiv:2512.20848): each layer is one thing, Mamba-2, attention without
 * positions, or an MLP with squared ReLU; the second has experts for MLPs.
 */
export const nemotronH = defineArchitecture({
  apiVersion: 1,
  names: ["nemotron_h", "nemotron_h_moe"],

  example: {
    "nemotron_h.vocab_size": 96,
    "nemotron_h.context_length": 512,
    "nemotron_h.block_count": 4,
    "nemotron_h.embedding_length": 64,
    "nemotron_h.feed_forward_length": [0, 48, 0, 48],
    "nemotron_h.attention.head_count": 4,
    "nemotron_h.attention.head_count_kv": [0, 0, 2, 0],
    "nemotron_h.attention.key_length": 16,
    "nemotron_h.attention.layer_norm_rms_epsilon": 1e-5,
    "nemotron_h.ssm.conv_kernel": 4,
    "nemotron_h.ssm.inner_size": 128,
    "nemotron_h.ssm.state_size": 16,
    "nemotron_h.ssm.time_step_rank": 8,
    "nemotron_h.ssm.group_count": 2,
    "nemotron_h.expert_count": 4,
    "nemotron_h.expert_used_count": 2,
    "nemotron_h.expert_feed_forward_length": 48,
    "nemotron_h.expert_shared_feed_forward_length": 40,
    "nemotron_h.moe_latent_size": 32,
  },

  config: readConfig,

  memory: (c) =>
    c.layers.map(({ kind, kvHeads }) => ({
      ssm: kind === "ssm" ? mamba2Memory(c) : undefined,
      attn: kind === "attention" ? attention({ heads: kvHeads, keyDim: c.keyDim, valueDim: c.valueDim }) : undefined,
    })),

  weights: (c) => ({
    embedding: table("token_embd.weight", [c.width, c.vocabulary]),
    norm: vector("output_norm.weight", [c.width]),
    head: matrix("output.weight", [c.width, c.vocabulary], { tied: "token_embd.weight" }),
    layers: c.layers.map((layer, i) => ({
      norm: vector(`blk.${i}.attn_norm.weight`, [c.width]),
      op: opWeights(c, layer, i),
    })),
  }),

  ignores: (c) => c.guessing,

  graph: (g, c, w, memories) => {
    let x = g.getRows(w.embedding, g.tokens());
    for (const { index, layer, memory, isLast } of g.layers(w.layers, memories)) {
      const { op } = layer;
      const { heads, routing } = c.layers[index] as Layer;
      const mixesTokens = op.ssm !== undefined || op.attn !== undefined;
      if (isLast && !mixesTokens) x = g.selectOutputs(x);
      const h = g.rmsNorm(x, c.eps, layer.norm);
      let y: Tensor;
      if (op.ssm !== undefined) y = mamba2Mixer(g, h, op.ssm, { ...c, memory: memory.ssm });
      else if (op.attn !== undefined) y = selfAttention(g, h, op.attn, { memory: memory.attn, heads });
      else if (op.mlp !== undefined) y = squaredReluMlp(g, h, op.mlp);
      else y = expertMlp(g, h, op.moe, routing as RoutingOptions);
      if (isLast && mixesTokens) [x, y] = [g.selectOutputs(x), g.selectOutputs(y)];
      x = g.add(x, y);
    }
    return g.mulMat(w.head, g.rmsNorm(x, c.eps, w.norm));
  },
});

/** Experts, of a narrower input where there is a projection to it, and one more that every token uses. */
function expertMlp(
  g: Graph,
  x: Tensor,
  w: BoundWeights<ReturnType<typeof moeWeights>>,
  routing: RoutingOptions,
): Tensor {
  const route = routeToExperts(g, x, w, routing);
  const input = w.latentDown === undefined ? x : g.mulMat(w.latentDown, x);
  const routed = routedExperts(g, input, w, route);
  const output = w.latentUp === undefined ? routed : g.mulMat(w.latentUp, routed);
  return w.shared === undefined ? output : g.add(output, squaredReluMlp(g, x, w.shared));
}

interface Layer {
  readonly kind: "ssm" | "attention" | "mlp" | "moe";
  readonly heads: number;
  readonly kvHeads: number;
  /** Width of the MLP, or of each expert. */
  readonly hidden: number;
  readonly routing: RoutingOptions | undefined;
}

type Config = ReturnType<typeof readConfig>;

function readConfig(m: Metadata) {
  const architecture = m.string("general.architecture");
  const key = (name: string) => `${architecture}.${name}`;
  const width = m.count(key("embedding_length"));
  const keyDim = m.count(key("attention.key_length"));
  supportsOnly(m, key("rope.scaling.finetuned"), false);
  return {
    vocabulary: vocabularySize(m, architecture),
    contextLength: m.count(key("context_length")),
    width,
    layers: readLayers(m, architecture),
    guessing: guessingTensors(m, architecture),
    eps: m.number(key("attention.layer_norm_rms_epsilon"), undefined) ?? m.number(key("attention.layer_norm_epsilon")),
    // attention
    keyDim,
    valueDim: m.count(key("attention.value_length"), keyDim),
    // Mamba-2
    ...mamba2Config(m, architecture),
    // experts
    sharedHidden: m.count(key("expert_shared_feed_forward_length"), 0),
    latentWidth: m.count(key("moe_latent_size"), 0),
  };
}

/** What each layer is. Layers that draft tokens come last and are left out. */
function readLayers(m: Metadata, architecture: string): Layer[] {
  const key = (name: string) => `${architecture}.${name}`;
  const total = layerCount(m, architecture);
  const each = (name: string, fallback?: number) => perLayer(m, key(name), total, fallback);
  const [heads, kvHeads, hidden] = [
    each("attention.head_count"),
    each("attention.head_count_kv"),
    each("feed_forward_length"),
  ];
  const hasExperts = m.count(key("expert_count"), 0) > 0;
  const [expertHidden, used] = [each("expert_feed_forward_length", 0), each("expert_used_count", 0)];
  const layer = (i: number): Layer => {
    const [q, kv, mlp, mine] = [heads[i] ?? 0, kvHeads[i] ?? 0, hidden[i] ?? 0, used[i] ?? 0];
    if (kv > 0 && mlp > 0) {
      const keys = `"${key("attention.head_count_kv")}" and "${key("feed_forward_length")}"`;
      throw new StrataError(
        "unsupported",
        `${m.file}: layer ${i} has both heads and an MLP by ${keys}; it can be one thing`,
      );
    }
    if (kv > 0) share(m, `"${key("attention.head_count_kv")}"`, q, kv);
    const common = { heads: q, kvHeads: kv, hidden: mlp, routing: undefined };
    if (mlp === 0) return { ...common, kind: kv > 0 ? "attention" : "ssm" };
    if (!hasExperts) return { ...common, kind: "mlp" };
    const defaults = { scores: "sigmoid", normalizes: false, epsilon: 1e-20 } as const;
    const routing = expertRouting(m, architecture, { ...defaults, used: mine });
    return {
      ...common,
      kind: "moe",
      hidden: expertHidden[i] || share(m, `"${key("feed_forward_length")}"`, mlp, mine),
      routing,
    };
  };
  return Array.from({ length: steppedLayerCount(m, architecture, total) }, (_, i) => layer(i));
}

function opWeights(c: Config, layer: Layer, i: number) {
  if (layer.kind === "ssm") return { ssm: mamba2Weights(i, c) };
  if (layer.kind === "attention") return { attn: attentionWeights(i, { ...c, ...layer }) };
  if (layer.kind === "mlp") return { mlp: plainMlpWeights(c, i, "", layer.hidden) };
  return { moe: moeWeights(c, i, layer) };
}

function plainMlpWeights(c: Config, i: number, suffix: "" | "_shexp", hidden: number) {
  return {
    up: matrix(`blk.${i}.ffn_up${suffix}.weight`, [c.width, hidden]),
    upBias: optional(vector(`blk.${i}.ffn_up${suffix}.bias`, [hidden])),
    down: matrix(`blk.${i}.ffn_down${suffix}.weight`, [hidden, c.width]),
    downBias: optional(vector(`blk.${i}.ffn_down${suffix}.bias`, [c.width])),
  };
}

function moeWeights(c: Config, i: number, { hidden, routing }: Layer) {
  const count = routing?.experts ?? 0;
  const width = c.latentWidth || c.width;
  return {
    router: matrix(`blk.${i}.ffn_gate_inp.weight`, [c.width, count]),
    routerBias: optional(vector(`blk.${i}.exp_probs_b.bias`, [count])),
    up: experts(`blk.${i}.ffn_up_exps.weight`, [width, hidden, count]),
    down: experts(`blk.${i}.ffn_down_exps.weight`, [hidden, width, count]),
    latentDown: c.latentWidth > 0 ? matrix(`blk.${i}.ffn_latent_down.weight`, [c.width, width]) : undefined,
    latentUp: c.latentWidth > 0 ? matrix(`blk.${i}.ffn_latent_up.weight`, [width, c.width]) : undefined,
    shared: c.sharedHidden > 0 ? plainMlpWeights(c, i, "_shexp", c.sharedHidden) : undefined,
  };
}
