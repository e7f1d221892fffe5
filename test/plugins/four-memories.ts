/**
 * "Quartet", which no model has: layers with four kinds of memory, one of them, and the operation that uses it, the
 * plugin's own; layers that read another's memory; layers with none. Written as an outsider would write it.
 */
import {
  attention,
  attentionWeights,
  defineArchitecture,
  gatedDeltaMemory,
  gatedDeltaNet,
  gatedDeltaWeights,
  gatedMlp,
  given,
  layerCount,
  matrix,
  mlpWeights,
  selfAttention,
  share,
  shared,
  StrataError,
  table,
  vector,
  vocabularySize,
  type BoundWeights,
  type Graph,
  type MemoryHandle,
  type Metadata,
  type RecurrentMemory,
  type RopeOptions,
  type Tensor,
} from "ggstrata";

export const quartet = defineArchitecture({
  apiVersion: 1,
  names: ["quartet"],

  example: {
    "quartet.vocab_size": 96,
    "quartet.context_length": 256,
    "quartet.block_count": 5,
    "quartet.block_kinds": ["full", "delta", "echo", "chunk", "reader"],
    "quartet.embedding_length": 40,
    "quartet.feed_forward_length": 50,
    "quartet.attention.layer_norm_rms_epsilon": 1e-5,
    "quartet.attention.head_count": 4,
    "quartet.attention.head_count_kv": 2,
    "quartet.attention.chunk_size": 16,
    "quartet.ssm.group_count": 2,
    "quartet.ssm.time_step_rank": 4,
    "quartet.ssm.state_size": 8,
    "quartet.ssm.head_size": 10,
    "quartet.ssm.conv_kernel": 3,
  },

  config: readConfig,

  memory: (c) => c.kinds.map((kind) => declare(c, kind)),

  weights: (c) => ({
    embedding: table("token_embd.weight", [c.width, c.vocabulary]),
    norm: vector("output_norm.weight", [c.width]),
    head: matrix("output.weight", [c.width, c.vocabulary], { tied: "token_embd.weight" }),
    layers: c.kinds.map((kind, i) => ({
      norm: vector(`blk.${i}.attn_norm.weight`, [c.width]),
      mixer: mixerWeights(c, kind, i),
      mlpNorm: vector(`blk.${i}.ffn_norm.weight`, [c.width]),
      ...mlpWeights(i, c.width, c.hidden),
    })),
  }),

  graph: (g, c, w, memories) => {
    const { heads, eps } = c;
    const rope = { mode: "neox", base: c.ropeBase } as const;
    let x = g.getRows(w.embedding, g.tokens());
    for (const { layer, memory, isLast } of g.layers(w.layers, memories)) {
      const { mixer } = layer;
      const normed = g.rmsNorm(x, eps, layer.norm);
      let mixed: Tensor | undefined;
      if (mixer.attn) mixed = selfAttention(g, normed, mixer.attn, { memory: memory.attn, heads, rope, eps });
      else if (mixer.reader) mixed = readAttention(g, normed, mixer.reader, memory.attn, heads, rope);
      else if (mixer.delta) mixed = gatedDeltaNet(g, normed, mixer.delta, { ...c.delta, memory: memory.delta, eps });
      else if (mixer.echo) mixed = fadingEcho(g, normed, mixer.echo, memory.echo);
      if (isLast) [x, mixed] = [g.selectOutputs(x), mixed && g.selectOutputs(mixed)];
      if (mixed !== undefined) x = g.add(x, mixed);
      x = g.add(x, gatedMlp(g, g.rmsNorm(x, eps, layer.mlpNorm), layer));
    }
    return g.mulMat(w.head, g.rmsNorm(x, eps, w.norm));
  },
});

// ---- what a layer remembers ----

const kinds = ["full", "chunk", "delta", "echo", "reader", "none"] as const;
type Kind = (typeof kinds)[number];

function declare(c: Config, kind: Kind) {
  const heads = { heads: c.kvHeads, keyDim: c.keyDim, valueDim: c.valueDim };
  switch (kind) {
    case "full":
      return { attn: attention(heads) };
    case "chunk":
      return { attn: attention({ ...heads, chunk: c.chunk }) };
    case "reader":
      return { attn: shared(c.kinds.indexOf("full"), "attn") };
    case "delta":
      return { delta: gatedDeltaMemory(c.delta) };
    case "echo":
      return { echo: echoMemory(c.width) };
    case "none":
      return {};
  }
}

/** A record of the plugin's own: the token before, and an average that fades. */
function echoMemory(width: number): RecurrentMemory {
  return {
    kind: "recurrent",
    extent: { kind: "state" },
    reuse: "exact",
    rollback: "replay",
    tensors: { before: { shape: [width], dtype: "f32" }, average: { shape: [width], dtype: "f32" } },
    // What `previous` takes in, and the decay and the input of `linearRecurrence`.
    inputs: 3 * width,
  };
}

// ---- operations of the plugin's own, composed of the graph's ----

/**
 * A fading average over tokens, each mixed with the one before it: `u = x + sigmoid(mix) (x' - x)` with the token before
 * `x'`, `a = sigmoid(fade x + bias)`, `h = a h + (1 - a) u`. x `[d, rows]` gives output h, `[d, rows]`.
 */
function fadingEcho(g: Graph, x: Tensor, w: EchoWeights, memory: MemoryHandle | undefined): Tensor {
  const own = given("fadingEcho", memory);
  const before = g.previous(own, x, { state: "before" });
  const mixed = g.add(x, g.mul(g.sub(before, x), g.unary(w.mix, "sigmoid")));
  const a = g.unary(g.add(g.mulMat(w.fade, x), w.bias), "sigmoid");
  const average = g.linearRecurrence(own, { state: "average", a, x: g.mul(mixed, g.scale(a, -1, 1)) });
  return g.mulMat(w.output, average);
}

/** Attention over what another layer remembers. x `[d, rows]` gives `[d, rows]`. */
function readAttention(
  g: Graph,
  x: Tensor,
  w: ReaderWeights,
  memory: MemoryHandle | undefined,
  heads: number,
  rope: RopeOptions,
): Tensor {
  const projected = g.mulMat(w.q, x);
  const queries = g.rope(g.reshape(projected, projected.shape[0] / heads, heads, g.rows), rope);
  const attended = g.attend(given("readAttention", memory), { queries });
  return g.mulMat(w.output, g.reshape(attended, attended.shape[0] * heads, g.rows));
}

// ---- configuration and weights ----

type Config = ReturnType<typeof readConfig>;

function readConfig(m: Metadata) {
  const key = (name: string) => `quartet.${name}`;
  const width = m.count(key("embedding_length"));
  const heads = m.count(key("attention.head_count"));
  const keyDim = share(m, `"${key("attention.head_count")}"`, width, heads);
  return {
    vocabulary: vocabularySize(m, "quartet"),
    contextLength: m.count(key("context_length")),
    kinds: readKinds(m),
    width,
    hidden: m.count(key("feed_forward_length")),
    eps: m.number(key("attention.layer_norm_rms_epsilon")),
    heads,
    kvHeads: m.count(key("attention.head_count_kv")),
    keyDim,
    valueDim: m.count(key("attention.value_length"), keyDim),
    chunk: m.count(key("attention.chunk_size")),
    ropeBase: m.number(key("rope.freq_base"), 10000),
    delta: {
      keyHeads: m.count(key("ssm.group_count")),
      valueHeads: m.count(key("ssm.time_step_rank")),
      keyDim: m.count(key("ssm.state_size")),
      valueDim: m.count(key("ssm.head_size")),
      taps: m.count(key("ssm.conv_kernel")),
    },
  };
}

function readKinds(m: Metadata): readonly Kind[] {
  const names = m.strings("quartet.block_kinds");
  const read = names.map((name) => kinds.find((kind) => kind === name));
  if (read.length !== layerCount(m, "quartet") || !read.every((kind) => kind !== undefined)) {
    const sentence = `"quartet.block_kinds" is ${names.join(", ")}; give each layer one of ${kinds.join(", ")}`;
    throw new StrataError("bad_format", `${m.file}: ${sentence}`);
  }
  return read;
}

function mixerWeights(c: Config, kind: Kind, i: number) {
  if (kind === "full" || kind === "chunk") return { attn: attentionWeights(i, c) };
  if (kind === "reader") return { reader: readerWeights(c, i) };
  if (kind === "delta") return { delta: deltaWeights(c, i) };
  return kind === "echo" ? { echo: echoWeights(c, i) } : {};
}

type ReaderWeights = BoundWeights<ReturnType<typeof readerWeights>>;

function readerWeights(c: Config, i: number) {
  const { q, output } = attentionWeights(i, c);
  return { q, output };
}

type EchoWeights = BoundWeights<ReturnType<typeof echoWeights>>;

function echoWeights(c: Config, i: number) {
  return {
    mix: vector(`blk.${i}.echo_mix.weight`, [c.width]),
    fade: matrix(`blk.${i}.echo_fade.weight`, [c.width, c.width]),
    bias: vector(`blk.${i}.echo_fade.bias`, [c.width]),
    output: matrix(`blk.${i}.echo_output.weight`, [c.width, c.width]),
  };
}

function deltaWeights(c: Config, i: number) {
  return {
    ...gatedDeltaWeights(i, c.width, c.delta),
    beta: matrix(`blk.${i}.ssm_beta.weight`, [c.width, c.delta.valueHeads]),
    alpha: matrix(`blk.${i}.ssm_alpha.weight`, [c.width, c.delta.valueHeads]),
  };
}
