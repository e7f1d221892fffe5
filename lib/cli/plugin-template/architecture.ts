import {
  attention,
  defineArchitecture,
  gatedMlp,
  layerCount,
  matrix,
  perLayer,
  selfAttention,
  share,
  shortConvolution,
  shortConvolutionMemory,
  table,
  tapCount,
  vector,
  vocabularySize,
  type Metadata,
} from "ggstrata";

/**
 * What the paper's figure shows, in a sentence. As generated: layers without key heads mix tokens by a gated short
 * convolution, the others by attention, and an MLP follows each.
 */
export const newArchitecture = defineArchitecture({
  apiVersion: 1,
  // GGUF's `general.architecture`.
  names: ["new-architecture"],

  // A tiny model's metadata: the conformance kit makes one of it, with random weights.
  example: {
    "new-architecture.vocab_size": 96,
    "new-architecture.context_length": 256,
    "new-architecture.block_count": 3,
    "new-architecture.embedding_length": 48,
    "new-architecture.feed_forward_length": 64,
    "new-architecture.attention.head_count": 4,
    "new-architecture.attention.head_count_kv": [0, 2, 0],
    "new-architecture.attention.layer_norm_rms_epsilon": 1e-5,
    "new-architecture.rope.freq_base": 10000,
    "new-architecture.shortconv.l_cache": 3,
  },

  config: readConfig,

  // What each layer remembers; allocation, sharing, going back and saving follow from it.
  memory: (c) =>
    c.kvHeads.map((heads) =>
      heads === 0
        ? { conv: shortConvolutionMemory(c) }
        : { attn: attention({ heads, keyDim: c.headDim, valueDim: c.headDim }) },
    ),

  // The file's tensors by name, with their shapes (fastest dimension first).
  weights: (c) => ({
    embedding: table("token_embd.weight", [c.width, c.vocabulary]),
    norm: vector("output_norm.weight", [c.width]),
    head: matrix("output.weight", [c.width, c.vocabulary], { tied: "token_embd.weight" }),
    layers: c.kvHeads.map((heads, i) => ({
      norm: vector(`blk.${i}.attn_norm.weight`, [c.width]),
      mixer: heads === 0 ? { conv: convolutionWeights(c, i) } : { attn: attentionWeights(c, i, heads) },
      mlpNorm: vector(`blk.${i}.ffn_norm.weight`, [c.width]),
      mlp: {
        gate: matrix(`blk.${i}.ffn_gate.weight`, [c.width, c.hidden]),
        up: matrix(`blk.${i}.ffn_up.weight`, [c.width, c.hidden]),
        down: matrix(`blk.${i}.ffn_down.weight`, [c.hidden, c.width]),
      },
    })),
  }),

  // One step, from token ids to logits. It is kept and run again: nothing in it may depend on a step's values.
  graph: (g, c, w, memories) => {
    const rope = { mode: "neox", base: c.ropeBase } as const;
    let x = g.getRows(w.embedding, g.tokens());
    for (const { layer, memory, isLast } of g.layers(w.layers, memories)) {
      const { mixer } = layer;
      const normed = g.rmsNorm(x, c.eps, layer.norm);
      let mixed =
        mixer.conv !== undefined
          ? shortConvolution(g, normed, mixer.conv, { memory: memory.conv, width: c.width })
          : selfAttention(g, normed, mixer.attn, { memory: memory.attn, heads: c.heads, rope });
      // Only the wanted tokens go on behind the last memory.
      if (isLast) [x, mixed] = [g.selectOutputs(x), g.selectOutputs(mixed)];
      x = g.add(x, mixed);
      x = g.add(x, gatedMlp(g, g.rmsNorm(x, c.eps, layer.mlpNorm), layer.mlp));
    }
    return g.mulMat(w.head, g.rmsNorm(x, c.eps, w.norm));
  },
});

type Config = ReturnType<typeof readConfig>;

/** Keys that a file lacks are errors that name them, unless a second argument says what holds then. */
function readConfig(m: Metadata) {
  const key = (name: string) => `new-architecture.${name}`;
  const layers = layerCount(m, "new-architecture");
  const width = m.count(key("embedding_length"));
  const heads = m.count(key("attention.head_count"));
  return {
    vocabulary: vocabularySize(m, "new-architecture"),
    contextLength: m.count(key("context_length")),
    width,
    hidden: m.count(key("feed_forward_length")),
    heads,
    kvHeads: perLayer(m, key("attention.head_count_kv"), layers),
    headDim: share(m, "heads", width, heads),
    eps: m.number(key("attention.layer_norm_rms_epsilon")),
    ropeBase: m.number(key("rope.freq_base"), 10000),
    taps: tapCount(m, key("shortconv.l_cache")),
  };
}

function convolutionWeights(c: Config, i: number) {
  return {
    input: matrix(`blk.${i}.shortconv.in_proj.weight`, [c.width, 3 * c.width]),
    convolution: vector(`blk.${i}.shortconv.conv.weight`, [c.taps, c.width]),
    output: matrix(`blk.${i}.shortconv.out_proj.weight`, [c.width, c.width]),
  };
}

function attentionWeights(c: Config, i: number, kvHeads: number) {
  return {
    q: matrix(`blk.${i}.attn_q.weight`, [c.width, c.heads * c.headDim]),
    k: matrix(`blk.${i}.attn_k.weight`, [c.width, kvHeads * c.headDim]),
    v: matrix(`blk.${i}.attn_v.weight`, [c.width, kvHeads * c.headDim]),
    output: matrix(`blk.${i}.attn_output.weight`, [c.heads * c.headDim, c.width]),
  };
}
