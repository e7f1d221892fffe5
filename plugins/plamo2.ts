import {
  attention,
  defineArchitecture,
  given,
  layerCount,
  matrix,
  optional,
  perLayer,
  recurrent,
  ropeOptions,
  share,
  supportsOnly,
  table,
  tapCount,
  vector,
  vocabularySize,
  type BoundWeights,
  type Graph,
  type MemoryHandle,
  type Metadata,
  type Tensor,
} from "ggstrata";

/**
 * PLaMo 2 (arXiv:2509.04897): layers of Mamba and of attention, each followed by a gated MLP, with norms before and after
 * both. Its Mamba has the heads of Mamba-2 and selects as Mamba-1 does. A layer without key heads is Mamba.
 */
export const plamo2 = defineArchitecture({
  apiVersion: 1,
  names: ["plamo2"],

  config: readConfig,

  memory: (c) =>
    c.kvHeads.map((kvHeads) =>
      kvHeads === 0
        ? { ssm: mambaMemory(c) }
        : { attn: attention({ heads: kvHeads, keyDim: c.headDim, valueDim: c.valueDim, window: c.window }) },
    ),

  weights: (c) => ({
    embedding: table("token_embd.weight", [c.width, c.vocabulary]),
    norm: vector("output_norm.weight", [c.width]),
    head: matrix("output.weight", [c.width, c.vocabulary], { tied: "token_embd.weight" }),
    layers: c.kvHeads.map((kvHeads, i) => ({
      norm: vector(`blk.${i}.attn_norm.weight`, [c.width]),
      mixer:
        kvHeads === 0 ? { ssm: mambaWeights(c, i) } : { attn: normedWeights(c, i, c.attentionHeads[i] ?? 0, kvHeads) },
      postNorm: vector(`blk.${i}.post_attention_norm`, [c.width]),
      mlpNorm: vector(`blk.${i}.ffn_norm.weight`, [c.width]),
      gateUp: matrix(`blk.${i}.ffn_up.weight`, [c.width, 2 * c.hidden]),
      down: matrix(`blk.${i}.ffn_down.weight`, [c.hidden, c.width]),
      mlpPostNorm: vector(`blk.${i}.post_ffw_norm`, [c.width]),
    })),
  }),

  graph: (g, c, w, memories) => {
    const { eps, hidden } = c;
    let x = g.getRows(w.embedding, g.tokens());
    for (const { layer, memory, isLast } of g.layers(w.layers, memories)) {
      const { mixer } = layer;
      const normed = g.rmsNorm(x, eps, layer.norm);
      let mixed =
        mixer.ssm !== undefined
          ? mambaMixer(g, normed, mixer.ssm, given("mambaMixer", memory.ssm), c)
          : normedAttention(g, normed, mixer.attn, given("normedAttention", memory.attn), c);
      if (isLast) [x, mixed] = [g.selectOutputs(x), g.selectOutputs(mixed)];
      x = g.add(x, g.rmsNorm(mixed, eps, layer.postNorm));
      const gateUp = g.mulMat(layer.gateUp, g.rmsNorm(x, eps, layer.mlpNorm));
      const gated = g.glu(g.slice(gateUp, 0, hidden), g.slice(gateUp, hidden, hidden), "swiglu");
      x = g.add(x, g.rmsNorm(g.mulMat(layer.down, gated), eps, layer.mlpPostNorm));
    }
    return g.mulMat(w.head, g.rmsNorm(x, eps, w.norm));
  },
});

type Config = ReturnType<typeof readConfig>;

function readConfig(m: Metadata) {
  const layers = layerCount(m, "plamo2");
  const width = m.count("plamo2.embedding_length");
  const attentionHeads = perLayer(m, "plamo2.attention.head_count", layers);
  const kvHeads = perLayer(m, "plamo2.attention.head_count_kv", layers);
  const most = Math.max(...attentionHeads);
  for (const [i, count] of kvHeads.entries()) {
    if (count > 0) share(m, `"plamo2.attention.head_count", layer ${i}`, attentionHeads[i] ?? 0, count);
  }
  const headDim =
    m.count("plamo2.attention.key_length", undefined) ?? share(m, '"plamo2.attention.head_count"', width, most);
  const inner = m.count("plamo2.ssm.inner_size");
  const heads = m.count("plamo2.ssm.time_step_rank");
  share(m, '"plamo2.ssm.inner_size"', inner, heads);
  // All heads share B and C.
  supportsOnly(m, "plamo2.ssm.group_count", 0);
  return {
    vocabulary: vocabularySize(m, "plamo2"),
    contextLength: m.count("plamo2.context_length"),
    width,
    hidden: m.count("plamo2.feed_forward_length"),
    eps: m.number("plamo2.attention.layer_norm_rms_epsilon"),
    // attention
    attentionHeads,
    kvHeads,
    headDim,
    valueDim: m.count("plamo2.attention.value_length", headDim),
    window: m.count("plamo2.attention.sliding_window", 0) || undefined,
    rope: ropeOptions(m, "plamo2", headDim),
    // Mamba; no key says how wide it is what time steps are made from
    inner,
    heads,
    rank: Math.max(64, Math.floor(width / 16)),
    stateSize: m.count("plamo2.ssm.state_size"),
    taps: tapCount(m, "plamo2.ssm.conv_kernel"),
  };
}

function mambaMemory(c: Config) {
  const states = { conv: [c.inner, c.taps - 1], ssm: [c.stateSize, c.inner / c.heads, c.heads] };
  // The convolution's input, time steps, and B.
  return recurrent(states, { inputs: c.inner + c.heads + c.stateSize });
}

function mambaWeights(c: Config, i: number) {
  return {
    input: matrix(`blk.${i}.ssm_in.weight`, [c.width, 2 * c.inner]),
    convolution: vector(`blk.${i}.ssm_conv1d.weight`, [c.taps, c.inner]),
    convolutionBias: optional(vector(`blk.${i}.ssm_conv1d.bias`, [c.inner])),
    selection: matrix(`blk.${i}.ssm_x.weight`, [c.inner, 2 * c.stateSize + c.rank]),
    dt: matrix(`blk.${i}.ssm_dt.weight`, [c.rank, c.heads]),
    dtBias: vector(`blk.${i}.ssm_dt.bias`, [c.heads]),
    a: vector(`blk.${i}.ssm_a`, [c.heads]),
    d: vector(`blk.${i}.ssm_d`, [c.heads]),
    bNorm: vector(`blk.${i}.ssm_b_norm`, [c.stateSize]),
    cNorm: vector(`blk.${i}.ssm_c_norm`, [c.stateSize]),
    dtNorm: vector(`blk.${i}.ssm_dt_norm`, [c.rank]),
    output: matrix(`blk.${i}.ssm_out.weight`, [c.inner, c.width]),
  };
}

type MambaWeights = BoundWeights<ReturnType<typeof mambaWeights>>;

function mambaMixer(g: Graph, x: Tensor, w: MambaWeights, memory: MemoryHandle, c: Config): Tensor {
  const { inner, heads, stateSize, rank, eps } = c;
  const headDim = inner / heads;
  // Each head's gate and then its channels.
  const projected = g.reshape(g.mulMat(w.input, x), 2 * headDim, heads, g.rows);
  const gate = g.cont(g.slice(projected, 0, headDim));
  const channels = g.reshape(g.cont(g.slice(projected, headDim, headDim)), inner, g.rows);
  const convolution = { state: "conv", weight: w.convolution, bias: w.convolutionBias, silu: true };
  const convolved = g.convolve(memory, channels, convolution);
  const selected = g.mulMat(w.selection, convolved);
  const scanned = g.scan(memory, {
    ...{ state: "ssm", headDim, heads, groups: 1, stateSize },
    x: convolved,
    b: g.rmsNorm(g.slice(selected, 0, stateSize), eps, w.bNorm),
    c: g.rmsNorm(g.slice(selected, stateSize, stateSize), eps, w.cNorm),
    dt: g.mulMat(w.dt, g.rmsNorm(g.slice(selected, 2 * stateSize, rank), eps, w.dtNorm)),
    dtBias: w.dtBias,
    a: w.a,
    d: w.d,
  });
  return g.mulMat(w.output, g.glu(g.reshape(gate, inner, g.rows), scanned, "swiglu"));
}

function normedWeights(c: Config, i: number, heads: number, kvHeads: number) {
  const { width, headDim, valueDim } = c;
  return {
    queriesKeysValues: matrix(`blk.${i}.attn_qkv.weight`, [width, (heads + kvHeads) * headDim + kvHeads * valueDim]),
    qNorm: vector(`blk.${i}.attn_q_norm.weight`, [headDim, heads]),
    kNorm: vector(`blk.${i}.attn_k_norm.weight`, [headDim, kvHeads]),
    output: matrix(`blk.${i}.attn_output.weight`, [heads * valueDim, width]),
  };
}

type NormedWeights = BoundWeights<ReturnType<typeof normedWeights>>;

/** Attention whose norms of queries and keys have weights of their own for each head. */
function normedAttention(g: Graph, x: Tensor, w: NormedWeights, memory: MemoryHandle, c: Config): Tensor {
  const { headDim, valueDim, eps } = c;
  const [heads, kvHeads] = [w.qNorm.shape[1] ?? 1, w.kNorm.shape[1] ?? 1];
  const rope = { ...c.rope, mode: "neox" } as const;
  const projected = g.mulMat(w.queriesKeysValues, x);
  const part = (from: number, dim: number, count: number) =>
    g.reshape(g.cont(g.slice(projected, from, dim * count)), dim, count, g.rows);
  const attended = g.attend(memory, {
    queries: g.rope(g.rmsNorm(part(0, headDim, heads), eps, w.qNorm), rope),
    keys: g.rope(g.rmsNorm(part(heads * headDim, headDim, kvHeads), eps, w.kNorm), rope),
    values: part((heads + kvHeads) * headDim, valueDim, kvHeads),
  });
  return g.mulMat(w.output, g.reshape(attended, heads * valueDim, g.rows));
}
