import {
  defineArchitecture,
  layerCount,
  layerNorm,
  matrix,
  optional,
  rwkv6ChannelMix,
  rwkv6Memory,
  rwkv6TimeMix,
  share,
  StrataError,
  table,
  tokenShift,
  vector,
  vocabularySize,
  type Graph,
  type Metadata,
  type Operand,
  type Weight,
} from "ggstrata";

/** RWKV-6 "Finch" (arXiv:2404.05892): linear attention with decays that depend on the token, and a gated MLP. */
export const rwkv6 = defineArchitecture({
  apiVersion: 1,
  names: ["rwkv6"],

  config: readConfig,

  memory: (c) => Array.from({ length: c.layers }, () => ({ rwkv: rwkv6Memory(c) })),

  weights: (c) => ({
    embedding: table("token_embd.weight", [c.width, c.vocabulary]),
    embeddingNorm: vector("token_embd_norm.weight", [c.width]),
    embeddingNormBias: vector("token_embd_norm.bias", [c.width]),
    norm: vector("output_norm.weight", [c.width]),
    normBias: vector("output_norm.bias", [c.width]),
    head: matrix("output.weight", [c.width, c.vocabulary]),
    layers: Array.from({ length: c.layers }, (_, i) => ({
      norm: vector(`blk.${i}.attn_norm.weight`, [c.width]),
      normBias: vector(`blk.${i}.attn_norm.bias`, [c.width]),
      time: timeWeights(c, i),
      lerps: lerpWeights(c, i),
      channelNorm: vector(`blk.${i}.attn_norm_2.weight`, [c.width]),
      channelNormBias: vector(`blk.${i}.attn_norm_2.bias`, [c.width]),
      channel: {
        lerpKey: vector(`blk.${i}.channel_mix_lerp_k.weight`, [c.width]),
        lerpReceptance: vector(`blk.${i}.channel_mix_lerp_r.weight`, [c.width]),
        key: matrix(`blk.${i}.channel_mix_key.weight`, [c.width, c.hidden]),
        value: matrix(`blk.${i}.channel_mix_value.weight`, [c.hidden, c.width]),
        receptance: matrix(`blk.${i}.channel_mix_receptance.weight`, [c.width, c.width]),
      },
    })),
  }),

  graph: (g, c, w, memories) => {
    let x = layerNorm(g, g.getRows(w.embedding, g.tokens()), c.eps, w.embeddingNorm, w.embeddingNormBias);
    for (const { index, layer, memory, isLast } of g.layers(w.layers, memories)) {
      const normed = layerNorm(g, x, c.eps, layer.norm, layer.normBias);
      const timeShift = tokenShift(g, memory.rwkv, normed, "time");
      const time = { ...layer.time, lerps: fusedLerps(g, index, layer.lerps) };
      x = g.add(x, rwkv6TimeMix(g, normed, timeShift, time, { memory: memory.rwkv, headSize: c.headSize }));

      let hidden = layerNorm(g, x, c.eps, layer.channelNorm, layer.channelNormBias);
      let shift = tokenShift(g, memory.rwkv, hidden, "channel");
      if (isLast) [x, hidden, shift] = [g.selectOutputs(x), g.selectOutputs(hidden), g.selectOutputs(shift)];
      x = g.add(x, rwkv6ChannelMix(g, hidden, shift, layer.channel));
      // The file's output matrices are divided to suit, so that activations stay in the range of f16.
      if (c.rescaleEvery > 0 && (index + 1) % c.rescaleEvery === 0) x = g.scale(x, 0.5);
    }
    return g.mulMat(w.head, layerNorm(g, x, c.eps, w.norm, w.normBias));
  },
});

type Config = ReturnType<typeof readConfig>;

function readConfig(m: Metadata) {
  const width = m.count("rwkv6.embedding_length");
  const headSize = m.count("rwkv6.wkv.head_size");
  share(m, '"rwkv6.wkv.head_size"', width, headSize);
  const shifts = m.count("rwkv6.token_shift_count", 2);
  if (shifts !== 2) {
    throw new StrataError("unsupported", `${m.file}: "rwkv6.token_shift_count" is ${shifts}; 2 can be computed`);
  }
  return {
    vocabulary: vocabularySize(m, "rwkv6"),
    contextLength: m.count("rwkv6.context_length"),
    layers: layerCount(m, "rwkv6"),
    width,
    headSize,
    hidden: m.count("rwkv6.feed_forward_length"),
    eps: m.number("rwkv6.attention.layer_norm_epsilon"),
    mixRank: m.count("rwkv6.time_mix_extra_dim"),
    decayRank: m.count("rwkv6.time_decay_extra_dim"),
    rescaleEvery: m.count("rwkv6.rescale_every_n_layers", 0),
  };
}

function timeWeights(c: Config, i: number) {
  const perChannel = (name: string) => vector(`blk.${i}.time_mix_${name}`, [c.width]);
  const product = (name: string, from = c.width, to = c.width) =>
    matrix(`blk.${i}.time_mix_${name}.weight`, [from, to]);
  return {
    lerpX: perChannel("lerp_x.weight"),
    adjustDown: product("w1", c.width, 5 * c.mixRank),
    adjustUp: vector(`blk.${i}.time_mix_w2.weight`, [c.mixRank, c.width, 5]),
    decay: perChannel("decay.weight"),
    decayDown: product("decay_w1", c.width, c.decayRank),
    decayUp: product("decay_w2", c.decayRank, c.width),
    bonus: vector(`blk.${i}.time_mix_first.weight`, [c.headSize, c.width / c.headSize]),
    receptance: product("receptance"),
    key: product("key"),
    value: product("value"),
    gate: product("gate"),
    output: product("output"),
    norm: perChannel("ln.weight"),
    normBias: perChannel("ln.bias"),
  };
}

/** Files made before 2025 have five tensors in place of one. */
function lerpWeights(c: Config, i: number) {
  return {
    fused: optional(vector(`blk.${i}.time_mix_lerp_fused.weight`, [c.width, 1, 1, 5])),
    apart: [..."wkvrg"].map((letter) => optional(vector(`blk.${i}.time_mix_lerp_${letter}.weight`, [c.width]))),
  };
}

interface Lerps {
  readonly fused: Weight | undefined;
  readonly apart: readonly (Weight | undefined)[];
}

function fusedLerps(g: Graph, layer: number, { fused, apart }: Lerps): Operand {
  if (fused !== undefined) return fused;
  const given: readonly Operand[] = apart.filter((weight) => weight !== undefined);
  if (given.length === apart.length) return given.reduce((all, one) => g.concat(all, one, 3));
  throw new StrataError("bad_format", `the tensor "blk.${layer}.time_mix_lerp_fused.weight" is missing`);
}
