/**
 * Forward passes number by number in double precision, from the papers: what plugins are compared with in shapes that no
 * fixture has. They read a file's tensors by name and take sizes from the caller.
 */
import type { Gguf } from "../model/gguf.ts";

export type Vector = readonly number[];

/** The f32 tensors of a file. */
export class Tensors {
  private readonly values = new Map<string, { shape: readonly number[]; data: Float32Array }>();

  constructor(file: Gguf) {
    for (const { name, shape, data } of file.tensors) {
      const count = shape.reduce((product, n) => product * n, 1);
      const bytes = Uint8Array.from(data.subarray(0, 4 * count));
      this.values.set(name, { shape, data: new Float32Array(bytes.buffer) });
    }
  }

  has(name: string): boolean {
    return this.values.has(name);
  }

  all(name: string): Vector {
    return [...this.find(name).data];
  }

  /** Zeros where the file has none of this name. */
  allOrZeros(name: string, count: number): Vector {
    return this.has(name) ? this.all(name) : range(count).map(() => 0);
  }

  row(name: string, index: number): Vector {
    const { shape, data } = this.find(name);
    const [width = 0] = shape;
    return [...data.subarray(index * width, (index + 1) * width)];
  }

  /** The matrix `[in, out]` times x; of three dimensions the matrix of an expert. */
  product(name: string, x: Vector, expert = 0): number[] {
    const { shape, data } = this.find(name);
    const [input = 0, output = 0] = shape;
    if (x.length !== input) throw new Error(`${name} takes ${input} numbers and was given ${x.length}`);
    return range(output).map((o) => {
      const first = (expert * output + o) * input;
      return sum(x.map((value, i) => value * (data[first + i] as number)));
    });
  }

  private find(name: string): { shape: readonly number[]; data: Float32Array } {
    const found = this.values.get(name);
    if (found === undefined) throw new Error(`the file has no tensor ${name}`);
    return found;
  }
}

export function range(count: number): number[] {
  return Array.from({ length: count }, (_, i) => i);
}

export function at(x: Vector, i: number): number {
  const value = x[i];
  if (value === undefined) throw new Error(`there is no number ${i} of ${x.length}`);
  return value;
}

function sum(x: Vector): number {
  return x.reduce((total, value) => total + value, 0);
}

export function add(a: Vector, b: Vector): number[] {
  return a.map((value, i) => value + at(b, i));
}

export function cut(x: Vector, from: number, count: number): Vector {
  if (from + count > x.length) throw new Error(`${x.length} numbers do not reach to ${from + count}`);
  return x.slice(from, from + count);
}

export function silu(x: number): number {
  return x / (1 + Math.exp(-x));
}

export function softplus(x: number): number {
  return x > 30 ? x : Math.log1p(Math.exp(x));
}

function softmax(x: Vector): number[] {
  const most = Math.max(...x);
  const powers = x.map((value) => Math.exp(value - most));
  const total = sum(powers);
  return powers.map((power) => power / total);
}

/** RMS norm, times a weight where one is given. */
export function rms(x: Vector, eps: number, weight?: Vector): number[] {
  const scale = 1 / Math.sqrt(sum(x.map((value) => value * value)) / x.length + eps);
  return x.map((value, i) => value * scale * (weight === undefined ? 1 : at(weight, i)));
}

/** Causal convolution over time of each channel, weight `[taps, channels]`, with SiLU. */
export function convolve(xs: readonly Vector[], taps: number, weight: Vector, bias: Vector): number[][] {
  return xs.map((x, t) =>
    x.map((_, c) => {
      const past = range(taps).map((j) => {
        const from = xs[t - (taps - 1) + j];
        return from === undefined ? 0 : at(weight, c * taps + j) * at(from, c);
      });
      return silu(at(bias, c) + sum(past));
    }),
  );
}

export interface RopeShape {
  readonly dims: number;
  readonly base: number;
  readonly scale?: number;
}

/** Rotates i with i + dims / 2. */
export function rotate(x: Vector, position: number, { dims, base, scale = 1 }: RopeShape): number[] {
  const half = dims / 2;
  return x.map((value, i) => {
    if (i >= dims) return value;
    const angle = position * scale * base ** ((-2 * (i % half)) / dims);
    const other = i < half ? -at(x, i + half) : at(x, i - half);
    return value * Math.cos(angle) + other * Math.sin(angle);
  });
}

export interface AttentionShape {
  readonly heads: number;
  readonly kvHeads: number;
  readonly keyDim: number;
  readonly valueDim: number;
  /** A token sees so many positions, its own included. */
  readonly window?: number;
  /** A token sees its own chunk of so many positions. */
  readonly chunk?: number;
}

/** Softmax attention over each token's past; rows are heads one after the other. */
export function attend(
  qs: readonly Vector[],
  ks: readonly Vector[],
  vs: readonly Vector[],
  shape: AttentionShape,
): number[][] {
  const { heads, kvHeads, keyDim, valueDim, window = Infinity, chunk = Infinity } = shape;
  return qs.map((q, t) =>
    range(heads).flatMap((h) => {
      const kvHead = Math.floor(h / (heads / kvHeads));
      const query = cut(q, h * keyDim, keyDim);
      const seen = range(t + 1).filter((j) => t - j < window && j >= t - (t % chunk));
      const scores = seen.map((j) => {
        const key = cut(ks[j] ?? [], kvHead * keyDim, keyDim);
        return sum(query.map((value, i) => value * at(key, i))) / Math.sqrt(keyDim);
      });
      const weights = softmax(scores);
      return range(valueDim).map((i) =>
        sum(seen.map((j, n) => at(weights, n) * at(vs[j] ?? [], kvHead * valueDim + i))),
      );
    }),
  );
}

export interface AttentionOptions extends AttentionShape {
  readonly eps: number;
  readonly rope?: RopeShape;
}

/** A function of each head of a row. */
export function byHead(x: Vector, dim: number, of: (head: Vector, index: number) => Vector): Vector {
  return range(x.length / dim).flatMap((h) => [...of(cut(x, h * dim, dim), h)]);
}

/** Attention with a matrix and an optional bias and head norm each for queries, keys and values. */
export function attention(w: Tensors, block: string, xs: readonly Vector[], o: AttentionOptions): number[][] {
  const project = (name: "q" | "k" | "v"): Vector[] =>
    xs.map((x, position) => {
      const product = w.product(`${block}.attn_${name}.weight`, x);
      const projected = add(product, w.allOrZeros(`${block}.attn_${name}.bias`, product.length));
      if (name === "v") return projected;
      const norm = `${block}.attn_${name}_norm.weight`;
      return byHead(projected, o.keyDim, (head) => {
        const normed = w.has(norm) ? rms(head, o.eps, w.all(norm)) : head;
        return o.rope === undefined ? normed : rotate(normed, position, o.rope);
      });
    });
  return attend(project("q"), project("k"), project("v"), o).map((y) => {
    const product = w.product(`${block}.attn_output.weight`, y);
    return add(product, w.allOrZeros(`${block}.attn_output.bias`, product.length));
  });
}

export function gatedMlp(w: Tensors, block: string, x: Vector): number[] {
  const linear = (name: string, input: Vector): number[] => {
    const product = w.product(`${block}.${name}.weight`, input);
    return add(product, w.allOrZeros(`${block}.${name}.bias`, product.length));
  };
  const up = linear("ffn_up", x);
  return linear(
    "ffn_down",
    linear("ffn_gate", x).map((value, i) => silu(value) * at(up, i)),
  );
}

/** Tokens to logits, by a function of all rows for each layer. */
export function model(
  w: Tensors,
  tokens: readonly number[],
  layers: number,
  eps: number,
  layer: (block: string, xs: Vector[], index: number) => Vector[],
): number[][] {
  let xs: Vector[] = tokens.map((token) => w.row("token_embd.weight", token));
  for (const i of range(layers)) xs = layer(`blk.${i}`, xs, i);
  const head = w.has("output.weight") ? "output.weight" : "token_embd.weight";
  return xs.map((x) => w.product(head, rms(x, eps, w.all("output_norm.weight"))));
}

// ---- Qwen 3 ----

export interface Qwen3Shape extends AttentionShape {
  readonly layers: number;
  readonly eps: number;
  readonly rope: RopeShape;
}

export function qwen3(w: Tensors, tokens: readonly number[], c: Qwen3Shape): number[][] {
  return model(w, tokens, c.layers, c.eps, (block, xs) => {
    const mixed = attention(w, block, normed(w, `${block}.attn_norm.weight`, xs, c.eps), c);
    const added = xs.map((x, t) => add(x, mixed[t] ?? []));
    const hidden = normed(w, `${block}.ffn_norm.weight`, added, c.eps);
    return added.map((x, t) => add(x, gatedMlp(w, block, hidden[t] ?? [])));
  });
}

export function normed(w: Tensors, name: string, xs: readonly Vector[], eps: number): number[][] {
  return xs.map((x) => rms(x, eps, w.all(name)));
}

// ---- Mamba ----

export interface MambaShape {
  readonly inner: number;
  readonly stateSize: number;
  readonly rank: number;
  readonly taps: number;
}

/** A scan of channels; `decay` is A of a channel and a place in its state. */
function scan(
  xs: readonly Vector[],
  steps: readonly Vector[],
  bs: readonly Vector[],
  cs: readonly Vector[],
  decay: (channel: number, n: number) => number,
): number[][] {
  const state = (xs[0] ?? []).map(() => (bs[0] ?? []).map(() => 0));
  return xs.map((x, t) =>
    x.map((value, channel) => {
      const step = at(steps[t] ?? [], channel);
      const held = state[channel] ?? [];
      for (const n of held.keys()) {
        held[n] = Math.exp(step * decay(channel, n)) * at(held, n) + step * at(bs[t] ?? [], n) * value;
      }
      return sum(held.map((h, n) => h * at(cs[t] ?? [], n)));
    }),
  );
}

function mamba1(w: Tensors, block: string, rows: readonly Vector[], c: MambaShape & { eps: number; norms: boolean }) {
  const { inner, stateSize, rank } = c;
  const projected = rows.map((row) => w.product(`${block}.ssm_in.weight`, row));
  const bias = w.allOrZeros(`${block}.ssm_conv1d.bias`, inner);
  const inputs = projected.map((row) => cut(row, 0, inner));
  const xs = convolve(inputs, c.taps, w.all(`${block}.ssm_conv1d.weight`), bias);
  const selected = xs.map((x) => w.product(`${block}.ssm_x.weight`, x));
  const part = (name: string, from: number, count: number): Vector[] =>
    selected.map((row) => {
      const values = cut(row, from, count);
      const weight = `${block}.ssm_${name}_norm.weight`;
      return c.norms ? rms(values, c.eps, w.has(weight) ? w.all(weight) : undefined) : values;
    });
  const dtBias = w.all(`${block}.ssm_dt.bias`);
  const steps = part("dt", 0, rank).map((dt) => add(w.product(`${block}.ssm_dt.weight`, dt), dtBias).map(softplus));
  const [bs, cs] = [part("b", rank, stateSize), part("c", rank + stateSize, stateSize)];
  const a = w.all(`${block}.ssm_a`);
  const d = w.all(`${block}.ssm_d`);
  return scan(xs, steps, bs, cs, (channel, n) => at(a, channel * stateSize + n)).map((y, t) => {
    const gate = cut(projected[t] ?? [], inner, inner);
    const gated = y.map((value, i) => (value + at(d, i) * at(xs[t] ?? [], i)) * silu(at(gate, i)));
    return w.product(`${block}.ssm_out.weight`, gated);
  });
}

export interface MambaModelShape extends MambaShape {
  readonly layers: number;
  readonly eps: number;
  /** Norms without weights on time steps, B and C. */
  readonly norms: boolean;
}

export function mamba(w: Tensors, tokens: readonly number[], c: MambaModelShape): number[][] {
  return model(w, tokens, c.layers, c.eps, (block, xs) => {
    const mixed = mamba1(w, block, normed(w, `${block}.attn_norm.weight`, xs, c.eps), c);
    return xs.map((x, t) => add(x, mixed[t] ?? []));
  });
}

// ---- Jamba ----

export interface JambaShape extends MambaShape, Omit<AttentionShape, "kvHeads"> {
  readonly eps: number;
  /** Of each layer; 0: Mamba. */
  readonly kvHeads: readonly number[];
  readonly experts: number;
  readonly used: number;
}

export function jamba(w: Tensors, tokens: readonly number[], c: JambaShape): number[][] {
  return model(w, tokens, c.kvHeads.length, c.eps, (block, xs, i) => {
    const kvHeads = at(c.kvHeads, i);
    const rows = normed(w, `${block}.attn_norm.weight`, xs, c.eps);
    const mixed =
      kvHeads === 0 ? mamba1(w, block, rows, { ...c, norms: true }) : attention(w, block, rows, { ...c, kvHeads });
    const added = xs.map((x, t) => add(x, mixed[t] ?? []));
    const hidden = normed(w, `${block}.ffn_norm.weight`, added, c.eps);
    const hasExperts = w.has(`${block}.ffn_gate_inp.weight`);
    return added.map((x, t) => {
      const row = hidden[t] ?? [];
      return add(x, hasExperts ? routed(w, block, row, c) : gatedMlp(w, block, row));
    });
  });
}

/** The experts of the largest probabilities, weighted by them as they are. */
function routed(w: Tensors, block: string, x: Vector, { experts, used }: JambaShape): number[] {
  const probabilities = softmax(w.product(`${block}.ffn_gate_inp.weight`, x));
  const chosen = range(experts)
    .sort((a, b) => at(probabilities, b) - at(probabilities, a))
    .slice(0, used);
  return chosen
    .map((e) => {
      const up = w.product(`${block}.ffn_up_exps.weight`, x, e);
      const hidden = w.product(`${block}.ffn_gate_exps.weight`, x, e).map((value, i) => silu(value) * at(up, i));
      return w.product(`${block}.ffn_down_exps.weight`, hidden, e).map((value) => value * at(probabilities, e));
    })
    .reduce(add);
}

// ---- PLaMo 2 ----

export interface Plamo2Shape extends MambaShape {
  readonly eps: number;
  readonly hidden: number;
  /** Query heads of each layer; those of Mamba layers count nothing. */
  readonly heads: readonly number[];
  readonly kvHeads: readonly number[];
  readonly keyDim: number;
  readonly valueDim: number;
  readonly window?: number;
  readonly rope: RopeShape;
  readonly ssmHeads: number;
}

export function plamo2(w: Tensors, tokens: readonly number[], c: Plamo2Shape): number[][] {
  return model(w, tokens, c.kvHeads.length, c.eps, (block, xs, i) => {
    const rows = normed(w, `${block}.attn_norm.weight`, xs, c.eps);
    const mixer = at(c.kvHeads, i) === 0 ? plamoMamba(w, block, rows, c) : plamoAttention(w, block, rows, c, i);
    const mixed = normed(w, `${block}.post_attention_norm`, mixer, c.eps);
    const added = xs.map((x, t) => add(x, mixed[t] ?? []));
    const hidden = normed(w, `${block}.ffn_norm.weight`, added, c.eps).map((x) => {
      const up = w.product(`${block}.ffn_up.weight`, x);
      const gated = range(c.hidden).map((n) => silu(at(up, n)) * at(up, c.hidden + n));
      return w.product(`${block}.ffn_down.weight`, gated);
    });
    const after = normed(w, `${block}.post_ffw_norm`, hidden, c.eps);
    return added.map((x, t) => add(x, after[t] ?? []));
  });
}

function plamoMamba(w: Tensors, block: string, rows: readonly Vector[], c: Plamo2Shape): number[][] {
  const { inner, stateSize, ssmHeads } = c;
  const dim = inner / ssmHeads;
  const head = (channel: number) => Math.floor(channel / dim);
  const projected = rows.map((row) => w.product(`${block}.ssm_in.weight`, row));
  /** The halves of what each head has of a row. */
  const half = (row: Vector, second: number) =>
    range(inner).map((channel) => at(row, (2 * head(channel) + second) * dim + (channel % dim)));
  const bias = w.allOrZeros(`${block}.ssm_conv1d.bias`, inner);
  const inputs = projected.map((row) => half(row, 1));
  const xs = convolve(inputs, c.taps, w.all(`${block}.ssm_conv1d.weight`), bias);
  const selected = xs.map((x) => w.product(`${block}.ssm_x.weight`, x));
  const part = (name: string, from: number, count: number) =>
    selected.map((row) => rms(cut(row, from, count), c.eps, w.all(`${block}.ssm_${name}_norm`)));
  const [bs, cs] = [part("b", 0, stateSize), part("c", stateSize, stateSize)];
  const dtBias = w.all(`${block}.ssm_dt.bias`);
  const steps = part("dt", 2 * stateSize, c.rank).map((dt) => {
    const ofHeads = add(w.product(`${block}.ssm_dt.weight`, dt), dtBias).map(softplus);
    return range(inner).map((channel) => at(ofHeads, head(channel)));
  });
  const a = w.all(`${block}.ssm_a`);
  const d = w.all(`${block}.ssm_d`);
  return scan(xs, steps, bs, cs, (channel) => at(a, head(channel))).map((y, t) => {
    const gate = half(projected[t] ?? [], 0);
    const gated = y.map((value, i) => (value + at(d, head(i)) * at(xs[t] ?? [], i)) * silu(at(gate, i)));
    return w.product(`${block}.ssm_out.weight`, gated);
  });
}

function plamoAttention(w: Tensors, block: string, rows: readonly Vector[], c: Plamo2Shape, i: number): number[][] {
  const { keyDim, valueDim } = c;
  const [heads, kvHeads] = [at(c.heads, i), at(c.kvHeads, i)];
  const projected = rows.map((row) => w.product(`${block}.attn_qkv.weight`, row));
  const turned = (name: "q" | "k", from: number, count: number) =>
    projected.map((row, position) =>
      byHead(cut(row, from, count * keyDim), keyDim, (values, h) =>
        rotate(rms(values, c.eps, w.row(`${block}.attn_${name}_norm.weight`, h)), position, c.rope),
      ),
    );
  const values = projected.map((row) => cut(row, (heads + kvHeads) * keyDim, kvHeads * valueDim));
  const [qs, ks] = [turned("q", 0, heads), turned("k", heads * keyDim, kvHeads)];
  return attend(qs, ks, values, { ...c, heads, kvHeads }).map((y) => w.product(`${block}.attn_output.weight`, y));
}
