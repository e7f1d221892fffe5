/** An architecture of someone else's: the formulas of Llama, less what the test's model does not use. */
import {
  attention,
  defineArchitecture,
  gatedMlp,
  layerCount,
  matrix,
  selfAttention,
  table,
  vector,
  vocabularySize,
} from "ggstrata";

export const outer = defineArchitecture({
  apiVersion: 1,
  names: ["outer"],

  config: (m) => {
    const width = m.count("outer.embedding_length");
    const heads = m.count("outer.attention.head_count");
    return {
      vocabulary: vocabularySize(m, "outer"),
      contextLength: m.count("outer.context_length"),
      layers: layerCount(m, "outer"),
      width,
      hidden: m.count("outer.feed_forward_length"),
      heads,
      kvHeads: m.count("outer.attention.head_count_kv"),
      headDim: width / heads,
      eps: m.number("outer.attention.layer_norm_rms_epsilon"),
      ropeBase: m.number("outer.rope.freq_base", 10000),
    };
  },

  memory: (c) =>
    Array.from({ length: c.layers }, () => ({
      attn: attention({ heads: c.kvHeads, keyDim: c.headDim, valueDim: c.headDim }),
    })),

  weights: (c) => ({
    embedding: table("token_embd.weight", [c.width, c.vocabulary]),
    norm: vector("output_norm.weight", [c.width]),
    head: matrix("output.weight", [c.width, c.vocabulary], { tied: "token_embd.weight" }),
    layers: Array.from({ length: c.layers }, (_, i) => ({
      norm: vector(`blk.${i}.attn_norm.weight`, [c.width]),
      q: matrix(`blk.${i}.attn_q.weight`, [c.width, c.heads * c.headDim]),
      k: matrix(`blk.${i}.attn_k.weight`, [c.width, c.kvHeads * c.headDim]),
      v: matrix(`blk.${i}.attn_v.weight`, [c.width, c.kvHeads * c.headDim]),
      output: matrix(`blk.${i}.attn_output.weight`, [c.heads * c.headDim, c.width]),
      mlpNorm: vector(`blk.${i}.ffn_norm.weight`, [c.width]),
      gate: matrix(`blk.${i}.ffn_gate.weight`, [c.width, c.hidden]),
      up: matrix(`blk.${i}.ffn_up.weight`, [c.width, c.hidden]),
      down: matrix(`blk.${i}.ffn_down.weight`, [c.hidden, c.width]),
    })),
  }),

  graph: (g, c, w, memories) => {
    const rope = { mode: "normal", dims: c.headDim, base: c.ropeBase } as const;
    let x = g.getRows(w.embedding, g.tokens());
    for (const { layer, memory, isLast } of g.layers(w.layers, memories)) {
      const normed = g.rmsNorm(x, c.eps, layer.norm);
      let mixed = selfAttention(g, normed, layer, { memory: memory.attn, heads: c.heads, rope });
      if (isLast) [x, mixed] = [g.selectOutputs(x), g.selectOutputs(mixed)];
      x = g.add(x, mixed);
      x = g.add(x, gatedMlp(g, g.rmsNorm(x, c.eps, layer.mlpNorm), layer));
    }
    return g.mulMat(w.head, g.rmsNorm(x, c.eps, w.norm));
  },
});
