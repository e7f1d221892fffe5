import {
  defineArchitecture,
  layerCount,
  layerNorm,
  matrix,
  rwkv7ChannelMix,
  rwkv7Memory,
  rwkv7TimeMix,
  share,
  StrataError,
  table,
  tokenShift,
  vector,
  vocabularySize,
  type Metadata,
  type Tensor,
} from "ggstrata";

/** RWKV-7 "Goose" (arXiv:2503.14456): the generalised delta rule and an MLP, both of which look one token back. */
export const rwkv7 = defineArchitecture({
  apiVersion: 1,
  names: ["rwkv7"],

  config: readConfig,

  memory: (c) => Array.from({ length: c.layers }, () => ({ rwkv: rwkv7Memory(c) })),

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
      channelNorm: vector(`blk.${i}.attn_norm_2.weight`, [c.width]),
      channelNormBias: vector(`blk.${i}.attn_norm_2.bias`, [c.width]),
      channel: {
        lerpKey: vector(`blk.${i}.channel_mix_lerp_k.weight`, [c.width]),
        key: matrix(`blk.${i}.channel_mix_key.weight`, [c.width, c.hidden]),
        value: matrix(`blk.${i}.channel_mix_value.weight`, [c.hidden, c.width]),
      },
    })),
  }),

  // Files have these for the first layer too, which mixes no earlier layer's values into its own.
  ignores: () => ["blk.0.time_mix_v0.weight", "blk.0.time_mix_v1.weight", "blk.0.time_mix_v2.weight"],

  graph: (g, c, w, memories) => {
    let x = layerNorm(g, g.getRows(w.embedding, g.tokens()), c.eps, w.embeddingNorm, w.embeddingNormBias);
    let firstValues: Tensor | undefined;
    for (const { layer, memory, isLast } of g.layers(w.layers, memories)) {
      const normed = layerNorm(g, x, c.eps, layer.norm, layer.normBias);
      const timeShift = tokenShift(g, memory.rwkv, normed, "time");
      const options = { memory: memory.rwkv, headSize: c.headSize, firstValues };
      const { mixed, values } = rwkv7TimeMix(g, normed, timeShift, layer.time, options);
      firstValues ??= values;
      x = g.add(x, mixed);

      let hidden = layerNorm(g, x, c.eps, layer.channelNorm, layer.channelNormBias);
      let shift = tokenShift(g, memory.rwkv, hidden, "channel");
      if (isLast) [x, hidden, shift] = [g.selectOutputs(x), g.selectOutputs(hidden), g.selectOutputs(shift)];
      x = g.add(x, rwkv7ChannelMix(g, hidden, shift, layer.channel));
    }
    return g.mulMat(w.head, layerNorm(g, x, c.eps, w.norm, w.normBias));
  },
});

type Config = ReturnType<typeof readConfig>;

function readConfig(m: Metadata) {
  const width = m.count("rwkv7.embedding_length");
  const headSize = m.count("rwkv7.wkv.head_size");
  share(m, '"rwkv7.wkv.head_size"', width, headSize);
  const shifts = m.count("rwkv7.token_shift_count", 2);
  if (shifts !== 2) {
    throw new StrataError("unsupported", `${m.file}: "rwkv7.token_shift_count" is ${shifts}; 2 can be computed`);
  }
  return {
    vocabulary: vocabularySize(m, "rwkv7"),
    contextLength: m.count("rwkv7.context_length"),
    layers: layerCount(m, "rwkv7"),
    width,
    headSize,
    hidden: m.count("rwkv7.feed_forward_length"),
    eps: m.number("rwkv7.attention.layer_norm_epsilon"),
    decayRank: m.count("rwkv7.attention.decay_lora_rank"),
    rateRank: m.count("rwkv7.attention.iclr_lora_rank"),
    valueRank: m.count("rwkv7.attention.value_residual_mix_lora_rank"),
    gateRank: m.count("rwkv7.attention.gate_lora_rank"),
  };
}

function timeWeights(c: Config, i: number) {
  const perChannel = (name: string) => vector(`blk.${i}.time_mix_${name}`, [c.width]);
  const square = (name: string) => matrix(`blk.${i}.time_mix_${name}.weight`, [c.width, c.width]);
  const down = (name: string, rank: number) => matrix(`blk.${i}.time_mix_${name}.weight`, [c.width, rank]);
  const up = (name: string, rank: number) => matrix(`blk.${i}.time_mix_${name}.weight`, [rank, c.width]);
  const lowRank = (letter: string, rank: number) => ({
    base: perChannel(`${letter}0.weight`),
    down: down(`${letter}1`, rank),
    up: up(`${letter}2`, rank),
  });
  return {
    lerps: vector(`blk.${i}.time_mix_lerp_fused.weight`, [c.width, 1, 1, 6]),
    decay: lowRank("w", c.decayRank),
    rate: lowRank("a", c.rateRank),
    // The first layer's are in the file, and of no use.
    valueMix: i === 0 ? undefined : lowRank("v", c.valueRank),
    gateDown: down("g1", c.gateRank),
    gateUp: up("g2", c.gateRank),
    keyRemoval: perChannel("k_k.weight"),
    keyRate: perChannel("k_a.weight"),
    keyBonus: perChannel("r_k.weight"),
    receptance: square("receptance"),
    key: square("key"),
    value: square("value"),
    output: square("output"),
    norm: perChannel("ln.weight"),
    normBias: perChannel("ln.bias"),
  };
}
