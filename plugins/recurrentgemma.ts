import {
  attention,
  attentionTensors,
  attentionWeights,
  blockTensors,
  commonMetadata,
  defineArchitecture,
  float32,
  geluTanh,
  griffinMemory,
  griffinMixer,
  layerCount,
  linear,
  linearTensors,
  mapped,
  matrix,
  mlpWeights,
  perLayer,
  plusOne,
  reshaped,
  ropeMetadata,
  ropeOptions,
  roundToBf16,
  selfAttention,
  sequenceStarts,
  share,
  supportsOnly,
  table,
  transposed,
  vector,
  vocabularySize,
  type HuggingFaceConfig,
  type Metadata,
  type TensorTable,
} from "ggstrata";

/**
 * RecurrentGemma (arXiv:2404.07839), of Griffin's design: recurrent layers, and attention with a window between them,
 * each followed by an MLP. A layer without key heads is recurrent.
 *
 * llama.cpp has no such files. In these, as in Gemma's there, 1 is added to the weights of norms; `feed_forward_length`
 * is the MLP's own width (half of `intermediate_size`); `embedding_scale` is sqrt(d) rounded to bf16. Of the recurrent
 * block, `linear_x` is `ssm_in`, `linear_y` is `attn_gate` and `linear_out` is `ssm_out`; `ssm_a` is
 * -8 softplus(`recurrent_param`); the gates `ssm_input_gate` and `ssm_recurrence_gate` have a block `[in, out]` for each of
 * `ssm.group_count` heads, and biases without heads.
 */
export const recurrentgemma = defineArchitecture({
  apiVersion: 1,
  names: ["recurrentgemma"],

  config: readConfig,

  memory: (c) =>
    c.kvHeads.map((kvHeads) =>
      kvHeads === 0
        ? { lru: griffinMemory(c) }
        : { attn: attention({ heads: kvHeads, keyDim: c.keyDim, valueDim: c.valueDim, window: c.window }) },
    ),

  weights: (c) => ({
    embedding: table("token_embd.weight", [c.width, c.vocabulary]),
    norm: vector("output_norm.weight", [c.width]),
    head: matrix("output.weight", [c.width, c.vocabulary], { tied: "token_embd.weight" }),
    layers: c.kvHeads.map((kvHeads, i) => ({
      norm: vector(`blk.${i}.attn_norm.weight`, [c.width]),
      mixer:
        kvHeads === 0
          ? { lru: recurrentWeights(c, i) }
          : {
              attn: {
                ...attentionWeights(i, { ...c, kvHeads }),
                outputBias: vector(`blk.${i}.attn_output.bias`, [c.width]),
              },
            },
      mlpNorm: vector(`blk.${i}.ffn_norm.weight`, [c.width]),
      ...mlpWeights(i, c.width, c.hidden),
      gateBias: vector(`blk.${i}.ffn_gate.bias`, [c.hidden]),
      upBias: vector(`blk.${i}.ffn_up.bias`, [c.hidden]),
      downBias: vector(`blk.${i}.ffn_down.bias`, [c.width]),
    })),
  }),

  graph: (g, c, w, memories) => {
    const rope = { ...c.rope, mode: "neox" } as const;
    const starts = sequenceStarts(g);
    let x = g.scale(g.getRows(w.embedding, g.tokens()), c.embeddingScale);
    for (const { layer, memory, isLast } of g.layers(w.layers, memories)) {
      const { mixer } = layer;
      const normed = g.rmsNorm(x, c.eps, layer.norm);
      let mixed =
        mixer.lru !== undefined
          ? griffinMixer(g, normed, mixer.lru, { memory: memory.lru, starts })
          : selfAttention(g, normed, mixer.attn, { memory: memory.attn, heads: c.heads, rope });
      if (isLast) [x, mixed] = [g.selectOutputs(x), g.selectOutputs(mixed)];
      x = g.add(x, mixed);
      const hidden = g.rmsNorm(x, c.eps, layer.mlpNorm);
      const gate = geluTanh(g, linear(g, hidden, layer.gate, layer.gateBias));
      const up = linear(g, hidden, layer.up, layer.upBias);
      x = g.add(x, linear(g, g.mul(gate, up), layer.down, layer.downBias));
    }
    const logits = g.mulMat(w.head, g.rmsNorm(x, c.eps, w.norm));
    return c.softcap === 0 ? logits : g.scale(g.unary(g.scale(logits, 1 / c.softcap), "tanh"), c.softcap);
  },

  huggingFace: {
    architectures: ["RecurrentGemmaForCausalLM"],
    metadata: checkpointMetadata,
    tensors: (c) => ({
      "token_embd.weight": "model.embed_tokens.weight",
      "output_norm.weight": plusOne("model.final_norm.weight"),
      "output.weight": "lm_head.weight",
      ...blockTensors(c.count("num_hidden_layers"), "model.layers", (i) => ({
        "attn_norm.weight": plusOne("temporal_pre_norm.weight"),
        ...(isAttention(c, i) ? attentionTensors("temporal_block") : recurrentTensors("temporal_block", channels(c))),
        "ffn_norm.weight": plusOne("channel_pre_norm.weight"),
        ...linearTensors({
          ffn_gate: "mlp_block.gate_proj",
          ffn_up: "mlp_block.up_proj",
          ffn_down: "mlp_block.down_proj",
        }),
      })),
    }),
  },
});

type Config = ReturnType<typeof readConfig>;

function readConfig(m: Metadata) {
  const key = (name: string) => `recurrentgemma.${name}`;
  const layers = layerCount(m, "recurrentgemma");
  const heads = m.count(key("attention.head_count"));
  const kvHeads = perLayer(m, key("attention.head_count_kv"), layers);
  for (const count of kvHeads) if (count !== 0) share(m, `"${key("attention.head_count_kv")}"`, heads, count);
  const keyDim = m.count(key("attention.key_length"));
  const channels = m.count(key("ssm.inner_size"));
  const groups = m.count(key("ssm.group_count"));
  return {
    vocabulary: vocabularySize(m, "recurrentgemma"),
    contextLength: m.count(key("context_length")),
    width: m.count(key("embedding_length")),
    hidden: m.count(key("feed_forward_length")),
    eps: m.number(key("attention.layer_norm_rms_epsilon")),
    embeddingScale: m.number(key("embedding_scale")),
    softcap: m.number(key("final_logit_softcapping"), 0),
    // attention
    heads,
    kvHeads,
    keyDim,
    valueDim: keyDim,
    window: m.count(key("attention.sliding_window")),
    rope: ropeOptions(m, "recurrentgemma", keyDim),
    // recurrence
    channels,
    groups,
    groupWidth: share(m, `"${key("ssm.group_count")}"`, channels, groups),
    taps: m.count(key("ssm.conv_kernel")),
  };
}

function recurrentWeights(c: Config, i: number) {
  return {
    input: matrix(`blk.${i}.ssm_in.weight`, [c.width, c.channels]),
    inputBias: vector(`blk.${i}.ssm_in.bias`, [c.channels]),
    gate: matrix(`blk.${i}.attn_gate.weight`, [c.width, c.channels]),
    gateBias: vector(`blk.${i}.attn_gate.bias`, [c.channels]),
    convolution: vector(`blk.${i}.ssm_conv1d.weight`, [c.taps, c.channels]),
    convolutionBias: vector(`blk.${i}.ssm_conv1d.bias`, [c.channels]),
    inputGate: vector(`blk.${i}.ssm_input_gate.weight`, [c.groupWidth, c.groupWidth, c.groups]),
    inputGateBias: vector(`blk.${i}.ssm_input_gate.bias`, [c.channels]),
    recurrenceGate: vector(`blk.${i}.ssm_recurrence_gate.weight`, [c.groupWidth, c.groupWidth, c.groups]),
    recurrenceGateBias: vector(`blk.${i}.ssm_recurrence_gate.bias`, [c.channels]),
    a: vector(`blk.${i}.ssm_a`, [c.channels]),
    output: matrix(`blk.${i}.ssm_out.weight`, [c.channels, c.width]),
    outputBias: vector(`blk.${i}.ssm_out.bias`, [c.width]),
  };
}

function checkpointMetadata(c: HuggingFaceConfig) {
  supportsOnly(c, "hidden_activation", "gelu_pytorch_tanh");
  const key = (name: string) => `recurrentgemma.${name}`;
  const layers = c.count("num_hidden_layers");
  const width = c.count("hidden_size");
  const heads = c.count("num_attention_heads");
  const headDim = c.count("head_dim", undefined) ?? share(c, "heads", width, heads);
  const rotated =
    c.number("rope_parameters.partial_rotary_factor", undefined) ?? c.number("partial_rotary_factor", 0.5);
  const kvHeads = c.count("num_key_value_heads", heads);
  return {
    ...commonMetadata(c, "recurrentgemma"),
    ...ropeMetadata(c, "recurrentgemma"),
    [key("context_length")]: c.count("max_position_embeddings", 8192),
    [key("feed_forward_length")]: share(c, "intermediate_size", c.count("intermediate_size"), 2),
    [key("attention.head_count_kv")]: Int32Array.from({ length: layers }, (_, i) => (isAttention(c, i) ? kvHeads : 0)),
    [key("attention.key_length")]: headDim,
    [key("attention.value_length")]: headDim,
    [key("attention.sliding_window")]: c.count("attention_window_size"),
    [key("rope.dimension_count")]: Math.floor(headDim * rotated),
    [key("final_logit_softcapping")]: float32(c.number("logits_soft_cap")),
    [key("embedding_scale")]: float32(roundToBf16(Math.sqrt(width))),
    [key("ssm.conv_kernel")]: c.count("conv1d_width"),
    [key("ssm.inner_size")]: channels(c),
    [key("ssm.group_count")]: heads,
  };
}

function isAttention(c: HuggingFaceConfig, i: number): boolean {
  const types = c.strings("block_types");
  return types[i % types.length] === "attention";
}

function channels(c: HuggingFaceConfig): number {
  return c.count("lru_width", c.count("hidden_size"));
}

function recurrentTensors(module: string, width: number): TensorTable {
  const softplus = (x: number) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));
  return {
    ...linearTensors({
      ssm_in: `${module}.linear_x`,
      attn_gate: `${module}.linear_y`,
      ssm_out: `${module}.linear_out`,
    }),
    ...linearTensors({ ssm_conv1d: `${module}.conv_1d` }),
    "ssm_input_gate.weight": transposed(`${module}.rg_lru.input_gate_weight`),
    "ssm_input_gate.bias": reshaped(`${module}.rg_lru.input_gate_bias`, [width]),
    "ssm_recurrence_gate.weight": transposed(`${module}.rg_lru.recurrent_gate_weight`),
    "ssm_recurrence_gate.bias": reshaped(`${module}.rg_lru.recurrent_gate_bias`, [width]),
    ssm_a: mapped(`${module}.rg_lru.recurrent_param`, (x) => -8 * softplus(x)),
  };
}
