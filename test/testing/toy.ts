/**
 * An architecture that no model has, of four kinds of layers, in which each mistake that authors make can be planted; and the
 * same number by number.
 */
import {
  attention,
  defineArchitecture,
  gatedMlp,
  matrix,
  recurrent,
  selfAttention,
  sequenceStarts,
  table,
  vector,
  type Architecture,
  type AttendOptions,
  type Graph,
  type LayerMemory,
  type MemoryHandle,
  type RecurrentMemory,
  type Tensor,
  type Weight,
} from "ggstrata";
import type { ReferenceFunction } from "ggstrata/testing";

/** What can be wrong with it. */
export type Planted =
  | "nothing"
  | "taps reversed"
  | "convolution over the step's rows"
  | "previous row of the step"
  | "next row of the step"
  | "window too large"
  | "window too small"
  | "no reset"
  | "heads interleaved"
  | "rope neox"
  | "no rope"
  | "rows counted as positions"
  | "wrong attention scale"
  | "last rows as outputs"
  | "one row for all outputs"
  | "outputs selected late for one branch"
  | "memory of another layer"
  | "memory of another layer read"
  | "read before stored"
  | "stored twice"
  | "one state for two operations"
  | "logits doubled"
  | "gate and up exchanged"
  | "no residual"
  | "state said to be reusable"
  | "state said to be cut off"
  | "window said to be reusable"
  | "too few inputs"
  | "counts its graphs"
  | "other graphs after some time"
  | "keeps a tensor"
  | "other graph for one token"
  | "mean over the step"
  | "bias forgotten"
  | "bias added to nothing"
  | "attention dropped"
  | "recurrence dropped"
  | "memory forgotten"
  | "memory given but not used in the result"
  | "logarithm of negative numbers"
  | "same token always"
  | "logits of the wrong width"
  | "other memory each time";

const width = 32;
const channels = 40;
const taps = 4;
const heads = 4;
const kvHeads = 2;
const headDim = 8;
const window = 6;
const hidden = 48;
const vocabulary = 64;
const eps = 1e-5;
const ropeBase = 100;
const kinds = ["conv", "window", "lru", "full"] as const;
type Kind = (typeof kinds)[number];

/** The architecture with one mistake. */
export function toy(planted: Planted): Architecture {
  const is = (...mistakes: Planted[]) => mistakes.includes(planted);
  let calls = 0;
  let kept: Tensor | undefined;
  let windowMemory: MemoryHandle | undefined;

  const mixConvolution = (g: Graph, x: Tensor, w: Weights<typeof convolutionWeights>, memory: MemoryHandle): Tensor => {
    const input = g.mulMat(w.input, x);
    if (is("convolution over the step's rows")) return g.mulMat(w.output, convolveRows(g, input, w));
    const options = {
      state: "conv",
      bias: is("bias forgotten", "bias added to nothing") ? undefined : w.bias,
      silu: true,
    };
    let weight: Weight | Tensor = w.taps;
    if (is("taps reversed")) {
      const pieces = Array.from({ length: taps }, (_, i) => g.cont(g.slice(w.taps, taps - 1 - i, 1)));
      weight = pieces.reduce((joined, piece) => g.concat(joined, piece, 0));
    }
    let convolved = g.convolve(memory, input, { ...options, weight });
    if (is("one state for two operations")) convolved = g.convolve(memory, convolved, { ...options, weight });
    if (is("bias added to nothing")) g.add(convolved, w.bias);
    return g.mulMat(w.output, convolved);
  };

  const mixRecurrence = (g: Graph, x: Tensor, w: Weights<typeof recurrenceWeights>, memory: MemoryHandle): Tensor => {
    const a = g.unary(g.mulMat(w.decay, x), "sigmoid");
    const rest = g.scale(g.sqr(a), -1, 1);
    const share = g.sqrt(is("no reset") ? rest : g.clamp(g.add(rest, sequenceStarts(g)), 0, 1));
    const input = g.mul(g.mulMat(w.input, x), share);
    if (is("memory forgotten")) return g.mulMat(w.output, input);
    return g.mulMat(w.output, g.linearRecurrence(memory, { state: "lru", a, x: input }));
  };

  const mixAttention = (g: Graph, x: Tensor, w: Weights<typeof attentionWeights>, memory: MemoryHandle): Tensor => {
    const mode = is("rope neox") ? "neox" : "normal";
    const rope = is("no rope", "rows counted as positions") ? undefined : ({ mode, base: ropeBase } as const);
    const scale = is("wrong attention scale") ? 1 / headDim : 1 / Math.sqrt(headDim);
    const options = { memory, heads, rope, scale };
    if (is("heads interleaved")) return selfAttention(interleaved(g), x, w, options);
    if (is("stored twice")) selfAttention(g, x, w, options);
    if (is("memory of another layer read") && windowMemory !== undefined && memory.layer === 3) {
      const queries = g.reshape(g.mulMat(w.q, x), headDim, heads, g.rows);
      const read = g.reshape(g.attend(windowMemory, { queries }), headDim * heads, g.rows);
      return g.add(selfAttention(g, x, w, options), g.mulMat(w.output, read));
    }
    if (!is("read before stored")) return selfAttention(g, x, w, options);
    const queries = g.reshape(g.mulMat(w.q, x), headDim, heads, g.rows);
    const read = g.reshape(g.attend(memory, { queries }), headDim * heads, g.rows);
    return g.add(selfAttention(g, x, w, options), g.mulMat(w.output, read));
  };

  const declare = (kind: Kind): LayerMemory => {
    const states = (record: RecurrentMemory): LayerMemory => {
      if (is("state said to be reusable")) return { m: { ...record, reuse: "prefix" } };
      return { m: is("state said to be cut off") ? { ...record, rollback: "truncate" } : record };
    };
    const fewer = is("too few inputs") ? 3 : 0;
    // Taps that the graph puts in another order are not there when states are computed again.
    const logged = is("taps reversed", "bias forgotten", "bias added to nothing", "one state for two operations")
      ? 0
      : channels - fewer;
    if (kind === "conv") return states(recurrent({ conv: [channels, taps - 1] }, { inputs: logged }));
    if (kind === "lru") return states(recurrent({ lru: [channels] }, { inputs: 2 * channels }));
    const shape = { heads: kvHeads, keyDim: headDim, valueDim: headDim };
    if (kind === "full") return { m: attention(shape) };
    const by = is("window too large") ? 1 : is("window too small") ? -1 : 0;
    const grown = is("other memory each time") ? 64 * (calls += 1) : 0;
    const record = attention({ ...shape, window: window + by + grown });
    return { m: is("window said to be reusable") ? { ...record, reuse: "prefix" } : record };
  };

  return defineArchitecture({
    apiVersion: 1,
    names: ["toy"],
    example: { "toy.context_length": 256 },
    config: (m) => ({ vocabulary, contextLength: m.count("toy.context_length") }),
    memory: () => kinds.map(declare),
    weights: () => ({
      embedding: table("token_embd.weight", [width, vocabulary]),
      norm: vector("output_norm.weight", [width]),
      head: matrix("output.weight", [width, vocabulary]),
      layers: kinds.map((kind, i) => ({
        norm: vector(`blk.${i}.norm.weight`, [width]),
        mixer: mixerWeights(kind, i),
        mlpNorm: vector(`blk.${i}.ffn_norm.weight`, [width]),
        gate: matrix(`blk.${i}.ffn_gate.weight`, [width, hidden]),
        up: matrix(`blk.${i}.ffn_up.weight`, [width, hidden]),
        down: matrix(`blk.${i}.ffn_down.weight`, [hidden, width]),
      })),
    }),
    graph: (g, _, w, memories) => {
      calls += 1;
      const tokens = is("same token always") ? g.cast(g.scale(g.cast(g.tokens(), "f32"), 0), "i32") : g.tokens();
      let x = g.getRows(w.embedding, tokens);
      if (is("rows counted as positions")) x = g.add(x, countedRows(g, x));
      if (is("previous row of the step")) x = g.add(x, moved(g, x, 1));
      if (is("next row of the step")) x = g.add(x, nextRows(g, x));
      if (is("mean over the step")) x = g.sub(x, g.repeat(g.transpose(g.mean(g.cont(g.transpose(x)))), width, g.rows));
      if (is("logarithm of negative numbers")) x = g.log(x);
      if (is("keeps a tensor")) kept ??= x;
      windowMemory = memories[1]?.["m"];
      for (const { index, layer, memory, isLast } of g.layers(w.layers, memories)) {
        const kind = kinds[index] ?? "full";
        const own = memory["m"] as MemoryHandle;
        const used = is("memory of another layer") && kind === "full" ? (memories[1]?.["m"] as MemoryHandle) : own;
        const { mixer } = layer;
        const normed = g.rmsNorm(x, eps, layer.norm);
        let mixed =
          mixer.conv !== undefined
            ? mixConvolution(g, normed, mixer.conv, used)
            : mixer.lru !== undefined
              ? mixRecurrence(g, normed, mixer.lru, used)
              : mixAttention(g, normed, mixer.attn, used);
        if (is("other graph for one token") && g.rows === 1 && kind === "lru") mixed = g.scale(mixed, 0.9);
        if (is("counts its graphs") && kind === "full") mixed = g.scale(mixed, 1 + 0.01 * calls);
        if (is("other graphs after some time") && kind === "full" && calls > 8) mixed = g.scale(mixed, 1.1);
        if (is("keeps a tensor") && kind === "full" && kept !== undefined && kept.shape[1] === g.rows)
          mixed = g.add(mixed, kept);
        if (is("attention dropped") && kind === "full") mixed = normed;
        if (is("recurrence dropped") && kind === "lru") mixed = normed;
        if (is("memory given but not used in the result")) mixed = g.scale(mixed, 0);
        if (isLast) [x, mixed] = select(g, x, mixed);
        x = is("no residual") && kind === "window" ? mixed : g.add(x, mixed);
        const [gate, up] = is("gate and up exchanged") ? [layer.up, layer.gate] : [layer.gate, layer.up];
        x = g.add(x, gatedMlp(g, g.rmsNorm(x, eps, layer.mlpNorm), { gate, up, down: layer.down }));
      }
      const normed = g.rmsNorm(x, eps, w.norm);
      const logits = g.mulMat(is("logits of the wrong width") ? (w.layers[0]?.up ?? w.head) : w.head, normed);
      return is("logits doubled") ? g.scale(logits, 2) : logits;
    },
  });

  function select(g: Graph, x: Tensor, mixed: Tensor): [Tensor, Tensor] {
    const last = (t: Tensor) => g.cont(g.view(t, [width, g.outputs], (g.rows - g.outputs) * t.strides[1]));
    if (is("last rows as outputs")) return [last(x), last(mixed)];
    if (is("outputs selected late for one branch")) return [last(x), g.selectOutputs(mixed)];
    if (!is("one row for all outputs")) return [g.selectOutputs(x), g.selectOutputs(mixed)];
    const one = (t: Tensor) => g.repeat(g.view(t, [width, 1], (g.rows - 1) * t.strides[1]), width, g.outputs);
    return [one(x), one(mixed)];
  }
}

type Weights<T extends (i: number) => unknown> = Readonly<Record<keyof ReturnType<T>, Weight>>;

function convolutionWeights(i: number) {
  return {
    input: matrix(`blk.${i}.in.weight`, [width, channels]),
    taps: vector(`blk.${i}.conv.weight`, [taps, channels]),
    bias: vector(`blk.${i}.conv.bias`, [channels]),
    output: matrix(`blk.${i}.out.weight`, [channels, width]),
  };
}

function recurrenceWeights(i: number) {
  return {
    input: matrix(`blk.${i}.in.weight`, [width, channels]),
    decay: matrix(`blk.${i}.decay.weight`, [width, channels]),
    output: matrix(`blk.${i}.out.weight`, [channels, width]),
  };
}

function attentionWeights(i: number) {
  return {
    q: matrix(`blk.${i}.attn_q.weight`, [width, heads * headDim]),
    k: matrix(`blk.${i}.attn_k.weight`, [width, kvHeads * headDim]),
    v: matrix(`blk.${i}.attn_v.weight`, [width, kvHeads * headDim]),
    output: matrix(`blk.${i}.out.weight`, [heads * headDim, width]),
  };
}

function mixerWeights(kind: Kind, i: number) {
  if (kind === "conv") return { conv: convolutionWeights(i) };
  return kind === "lru" ? { lru: recurrenceWeights(i) } : { attn: attentionWeights(i) };
}

/** The graph with query heads given to key heads in turn. */
function interleaved(g: Graph): Graph {
  const swap = (t: Tensor, inner: number, outer: number) =>
    g.reshape(
      g.cont(g.permute(g.reshape(g.cont(t), headDim, inner, outer, g.rows), 0, 2, 1, 3)),
      headDim,
      heads,
      g.rows,
    );
  return new Proxy(g, {
    get(target, property): unknown {
      if (property === "attend") {
        return (memory: MemoryHandle, options: AttendOptions) => {
          const queries = swap(options.queries as Tensor, kvHeads, heads / kvHeads);
          return swap(g.attend(memory, { ...options, queries }), heads / kvHeads, kvHeads);
        };
      }
      const value: unknown = Reflect.get(target, property);
      return typeof value === "function" ? (value.bind(target) as unknown) : value;
    },
  });
}

/** Rows moved down by some, zeros coming in. */
function moved(g: Graph, x: Tensor, by: number): Tensor {
  const [size, rows] = x.shape;
  if (rows <= by) return g.scale(x, 0);
  const zeros = g.scale(g.cont(g.view(x, [size, by])), 0);
  return g.concat(zeros, g.cont(g.view(x, [size, rows - by])), 1);
}

function nextRows(g: Graph, x: Tensor): Tensor {
  const [size, rows] = x.shape;
  if (rows === 1) return g.scale(x, 0);
  return g.concat(g.cont(g.view(x, [size, rows - 1], x.strides[1])), g.scale(g.cont(g.view(x, [size, 1])), 0), 1);
}

/** A convolution that sees the rows of the step only. */
function convolveRows(g: Graph, x: Tensor, w: Weights<typeof convolutionWeights>): Tensor {
  let sum: Tensor | undefined;
  for (let tap = 0; tap < taps; tap += 1) {
    const weight = g.reshape(g.cont(g.slice(w.taps, tap, 1)), channels, 1);
    const by = taps - 1 - tap;
    const part = g.mul(by === 0 ? x : moved(g, x, by), weight);
    sum = sum === undefined ? part : g.add(sum, part);
  }
  return g.unary(g.add(sum ?? x, w.bias), "silu");
}

/** A wave over the rows of the step, `[1, rows]` repeated. */
function countedRows(g: Graph, x: Tensor): Tensor {
  const ones = g.scale(g.cont(g.view(g.reshape(x, g.rows * width), [g.rows])), 0, 1);
  return g.repeat(g.reshape(g.sin(g.cumsum(ones)), 1, g.rows), width, g.rows);
}

/** The logits, number by number. */
export const toyReference: ReferenceFunction = (tokens, { weights }) => {
  const values = (name: string): Float32Array => {
    const found = weights.get(name);
    if (found === undefined) throw new Error(`the toy has no weight ${name}`);
    return found.values;
  };
  const product = (name: string, x: readonly number[]): number[] => {
    const w = values(name);
    return Array.from({ length: w.length / x.length }, (_, o) =>
      x.reduce((sum, v, i) => sum + v * (w[o * x.length + i] ?? 0), 0),
    );
  };
  const norm = (name: string, x: readonly number[]): number[] => {
    const w = values(name);
    const root = Math.sqrt(x.reduce((sum, v) => sum + v * v, 0) / x.length + eps);
    return x.map((v, i) => (v / root) * (w[i] ?? 0));
  };
  const plus = (a: readonly number[], b: readonly number[]) => a.map((v, i) => v + (b[i] ?? 0));
  const sigmoid = (v: number) => 1 / (1 + Math.exp(-v));
  const silu = (v: number) => v * sigmoid(v);

  const convolve = (i: number, xs: readonly (readonly number[])[]): number[][] => {
    const inputs = xs.map((x) => product(`blk.${i}.in.weight`, x));
    const [w, bias] = [values(`blk.${i}.conv.weight`), values(`blk.${i}.conv.bias`)];
    return inputs.map((_, t) =>
      product(
        `blk.${i}.out.weight`,
        Array.from({ length: channels }, (__, c) => {
          let sum = bias[c] ?? 0;
          for (let tap = 0; tap < taps; tap += 1)
            sum += (w[c * taps + tap] ?? 0) * (inputs[t - taps + 1 + tap]?.[c] ?? 0);
          return silu(sum);
        }),
      ),
    );
  };
  const recur = (i: number, xs: readonly (readonly number[])[]): number[][] => {
    let h = Array.from({ length: channels }, () => 0);
    return xs.map((x, t) => {
      const a = product(`blk.${i}.decay.weight`, x).map(sigmoid);
      const input = product(`blk.${i}.in.weight`, x);
      h = h.map((v, c) => (a[c] ?? 0) * v + (input[c] ?? 0) * (t === 0 ? 1 : Math.sqrt(1 - (a[c] ?? 0) ** 2)));
      return product(`blk.${i}.out.weight`, h);
    });
  };
  const turn = (x: readonly number[], position: number): number[] => {
    const out = [...x];
    for (let first = 0; first < x.length; first += 2) {
      const angle = position * ropeBase ** (-(first % headDim) / headDim);
      const [a = 0, b = 0] = [x[first], x[first + 1]];
      out[first] = a * Math.cos(angle) - b * Math.sin(angle);
      out[first + 1] = a * Math.sin(angle) + b * Math.cos(angle);
    }
    return out;
  };
  const attend = (i: number, xs: readonly (readonly number[])[], reach: number): number[][] => {
    const q = xs.map((x, t) => turn(product(`blk.${i}.attn_q.weight`, x), t));
    const k = xs.map((x, t) => turn(product(`blk.${i}.attn_k.weight`, x), t));
    const v = xs.map((x) => product(`blk.${i}.attn_v.weight`, x));
    return xs.map((_, t) => {
      const out: number[] = [];
      for (let head = 0; head < heads; head += 1) {
        const kv = Math.floor(head / (heads / kvHeads)) * headDim;
        const from = Math.max(0, t - reach + 1);
        const scores = Array.from({ length: t - from + 1 }, (__, j) => {
          let sum = 0;
          for (let d = 0; d < headDim; d += 1) sum += (q[t]?.[head * headDim + d] ?? 0) * (k[from + j]?.[kv + d] ?? 0);
          return Math.exp(sum / Math.sqrt(headDim));
        });
        const total = scores.reduce((sum, score) => sum + score, 0);
        for (let d = 0; d < headDim; d += 1) {
          out.push(scores.reduce((sum, score, j) => sum + (score / total) * (v[from + j]?.[kv + d] ?? 0), 0));
        }
      }
      return product(`blk.${i}.out.weight`, out);
    });
  };

  const embedding = values("token_embd.weight");
  let xs = tokens.map((token) => [...embedding.subarray(token * width, (token + 1) * width)]);
  for (const [i, kind] of kinds.entries()) {
    const normed = xs.map((x) => norm(`blk.${i}.norm.weight`, x));
    const mixed =
      kind === "conv"
        ? convolve(i, normed)
        : kind === "lru"
          ? recur(i, normed)
          : attend(i, normed, kind === "window" ? window : Infinity);
    xs = xs.map((x, t) => plus(x, mixed[t] ?? []));
    xs = xs.map((x) => {
      const h = norm(`blk.${i}.ffn_norm.weight`, x);
      const up = product(`blk.${i}.ffn_up.weight`, h);
      const gated = product(`blk.${i}.ffn_gate.weight`, h).map((v, j) => silu(v) * (up[j] ?? 0));
      return plus(x, product(`blk.${i}.ffn_down.weight`, gated));
    });
  }
  return xs.map((x) => product("output.weight", norm("output_norm.weight", x)));
};
