/** "Made-mix", which no model is: an outsider's architecture whose checkpoints need every kind of recipe. */
import {
  blockTensors,
  commonMetadata,
  computed,
  defineArchitecture,
  experts,
  mapped,
  matrix,
  mixtureOfExperts,
  negativeExp,
  optional,
  permuteRope,
  plusOne,
  reshaped,
  split,
  stacked,
  table,
  transposed,
  vector,
} from "ggstrata";

export const madeMix = defineArchitecture({
  apiVersion: 1,
  names: ["made-mix"],

  config: (m) => ({
    vocabulary: m.count("made-mix.vocab_size"),
    contextLength: m.count("made-mix.context_length"),
    layers: m.count("made-mix.block_count"),
    width: m.count("made-mix.embedding_length"),
    hidden: m.count("made-mix.feed_forward_length"),
    experts: m.count("made-mix.expert_count"),
    used: m.count("made-mix.expert_used_count"),
    eps: m.number("made-mix.attention.layer_norm_rms_epsilon"),
  }),

  memory: (c) => Array.from({ length: c.layers }, () => ({})),

  weights: (c) => ({
    embedding: table("token_embd.weight", [c.width, c.vocabulary]),
    norm: vector("output_norm.weight", [c.width]),
    head: matrix("output.weight", [c.width, c.vocabulary], { tied: "token_embd.weight" }),
    steps: vector("steps", [c.width]),
    layers: Array.from({ length: c.layers }, (_, i) => ({
      norm: vector(`blk.${i}.ffn_norm.weight`, [c.width]),
      decay: vector(`blk.${i}.decay`, [c.width, 1, 1]),
      mix: matrix(`blk.${i}.mix.weight`, [c.width, c.width]),
      bias: optional(vector(`blk.${i}.mix.bias`, [c.width])),
      router: matrix(`blk.${i}.ffn_gate_inp.weight`, [c.width, c.experts]),
      gate: experts(`blk.${i}.ffn_gate_exps.weight`, [c.width, c.hidden, c.experts]),
      up: experts(`blk.${i}.ffn_up_exps.weight`, [c.width, c.hidden, c.experts]),
      down: experts(`blk.${i}.ffn_down_exps.weight`, [c.hidden, c.width, c.experts]),
    })),
  }),

  graph: (g, c, w, memories) => {
    let x = g.getRows(w.embedding, g.tokens());
    for (const { layer, isLast } of g.layers(w.layers, memories)) {
      if (isLast) x = g.selectOutputs(x);
      const mixed = g.mulMat(layer.mix, g.mul(g.rmsNorm(x, c.eps, layer.norm), w.steps));
      x = g.add(x, g.mul(layer.bias === undefined ? mixed : g.add(mixed, layer.bias), layer.decay));
      x = g.add(x, mixtureOfExperts(g, x, layer, c));
    }
    return g.mulMat(w.head, g.rmsNorm(x, c.eps, w.norm));
  },

  huggingFace: {
    architectures: ["MadeMixForCausalLM"],
    metadata: (c) => ({
      ...commonMetadata(c, "made-mix"),
      "made-mix.expert_count": c.count("moe.experts"),
      "made-mix.expert_used_count": c.count("moe.used"),
    }),
    tensors: (c) => ({
      "token_embd.weight": "embed.weight",
      "output_norm.weight": plusOne("norm.weight"),
      "output.weight": "lm_head.weight",
      steps: computed(Array.from({ length: c.count("hidden_size") }, (_, i) => 1 / (i + 1))),
      ...blockTensors(c.count("num_hidden_layers"), "layers", () => ({
        "ffn_norm.weight": mapped("norm.weight", (x) => 2 * x),
        decay: reshaped(negativeExp("decay_log"), [c.count("hidden_size")]),
        "mix.weight": permuteRope("mix.weight", 2, 4),
        "mix.bias": permuteRope("mix.bias", 2, 4),
        "ffn_gate_inp.weight": "router.weight",
        "ffn_gate_exps.weight": stacked(c.count("moe.experts"), (e) => split(`experts.${e}.w13.weight`, 0, 2)),
        "ffn_up_exps.weight": stacked(c.count("moe.experts"), (e) => split(`experts.${e}.w13.weight`, 1, 2)),
        "ffn_down_exps.weight": stacked(c.count("moe.experts"), (e) => transposed(`experts.${e}.w2.weight`)),
      })),
    }),
    unused: [/\.aux_loss$/],
  },
});
