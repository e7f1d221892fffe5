/**
 * RWKV-6, RWKV-7 and RecurrentGemma number by number in double precision, from the papers: what the plugins are compared
 * with in shapes that no fixture has. Sizes are the caller's; tensors are looked up by their names in a file.
 */

export type Vector = readonly number[];

/** A tensor of a file: shape with the fastest dimension first, and its numbers. */
export interface Values {
  readonly shape: readonly number[];
  readonly data: Float32Array;
}

export class Tensors {
  constructor(private readonly values: ReadonlyMap<string, Values>) {}

  has(name: string): boolean {
    return this.values.has(name);
  }

  all(name: string): Vector {
    return [...this.find(name).data];
  }

  /** Row `index` of a tensor whose rows have `width` numbers. */
  row(name: string, width: number, index: number): Vector {
    return [...this.find(name).data.subarray(index * width, (index + 1) * width)];
  }

  /** The matrix `[in, out]`, number `which` of those in a row, times x. */
  product(name: string, x: Vector, which = 0): Vector {
    const { shape, data } = this.find(name);
    const [input = 0, output = 0] = shape;
    if (x.length !== input) throw new Error(`${name} takes ${input} numbers and was given ${x.length}`);
    return range(output).map((o) => sum(x.map((value, i) => value * at(data, (which * output + o) * input + i))));
  }

  /** `name`.weight times x plus `name`.bias, which may be missing. */
  linear(name: string, x: Vector): Vector {
    const y = this.product(`${name}.weight`, x);
    return this.has(`${name}.bias`) ? add(y, this.all(`${name}.bias`)) : y;
  }

  private find(name: string): Values {
    const found = this.values.get(name);
    if (found === undefined) throw new Error(`the file has no tensor ${name}`);
    return found;
  }
}

export function range(count: number): number[] {
  return Array.from({ length: count }, (_, i) => i);
}

function at(x: ArrayLike<number>, i: number): number {
  const value = x[i];
  if (value === undefined) throw new Error(`there is no number ${i} of ${x.length}`);
  return value;
}

function sum(x: Vector): number {
  return x.reduce((total, value) => total + value, 0);
}

function combine(a: Vector, b: Vector, of: (a: number, b: number) => number): Vector {
  if (a.length !== b.length) throw new Error(`${a.length} numbers meet ${b.length}`);
  return a.map((value, i) => of(value, at(b, i)));
}

const add = (a: Vector, b: Vector): Vector => combine(a, b, (x, y) => x + y);
const sub = (a: Vector, b: Vector): Vector => combine(a, b, (x, y) => x - y);
const mul = (a: Vector, b: Vector): Vector => combine(a, b, (x, y) => x * y);
const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x));
const squaredRelu = (x: number): number => Math.max(x, 0) ** 2;
const gelu = (x: number): number => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));

function normal(x: Vector, eps: number): Vector {
  const mean = sum(x) / x.length;
  const variance = sum(x.map((value) => (value - mean) ** 2)) / x.length;
  return x.map((value) => (value - mean) / Math.sqrt(variance + eps));
}

function layerNorm(w: Tensors, name: string, x: Vector, eps: number): Vector {
  return add(mul(normal(x, eps), w.all(`${name}.weight`)), w.all(`${name}.bias`));
}

function heads(x: Vector, size: number): Vector[] {
  return range(x.length / size).map((h) => x.slice(h * size, (h + 1) * size));
}

/** Every row minus the one before it gives how far to go back: previous - x. */
function shifts(xs: readonly Vector[]): Vector[] {
  return xs.map((x, t) => (t === 0 ? x.map((value) => -value) : sub(row(xs, t - 1), x)));
}

function row(xs: readonly Vector[], t: number): Vector {
  const x = xs[t];
  if (x === undefined) throw new Error(`there is no row ${t}`);
  return x;
}

export interface RwkvSizes {
  readonly layers: number;
  readonly width: number;
  readonly headSize: number;
  readonly eps: number;
}

/** What RWKV-6 and RWKV-7 have in common around their mixings, which map all rows of a block. */
function rwkv(
  w: Tensors,
  tokens: readonly number[],
  c: RwkvSizes,
  mixTime: (block: string, xs: Vector[], layer: number) => Vector[],
  mixChannels: (block: string, x: Vector, shift: Vector) => Vector,
  after: (x: Vector, layer: number) => Vector = (x) => x,
): Vector[] {
  const embedded = tokens.map((token) => w.row("token_embd.weight", c.width, token));
  let xs = embedded.map((x) => layerNorm(w, "token_embd_norm", x, c.eps));
  for (const i of range(c.layers)) {
    const block = `blk.${i}`;
    const mixed = mixTime(
      block,
      xs.map((x) => layerNorm(w, `${block}.attn_norm`, x, c.eps)),
      i,
    );
    xs = xs.map((x, t) => add(x, row(mixed, t)));
    const normed = xs.map((x) => layerNorm(w, `${block}.attn_norm_2`, x, c.eps));
    const shifted = shifts(normed);
    xs = xs.map((x, t) => after(add(x, mixChannels(block, row(normed, t), row(shifted, t))), i));
  }
  return xs.map((x) => w.product("output.weight", layerNorm(w, "output_norm", x, c.eps)));
}

function headNorm(w: Tensors, block: string, y: Vector, size: number): Vector {
  const normed = heads(y, size).flatMap((head) => [...normal(head, 64e-5)]);
  return add(mul(normed, w.all(`${block}.time_mix_ln.weight`)), w.all(`${block}.time_mix_ln.bias`));
}

export interface Rwkv6Sizes extends RwkvSizes {
  readonly mixRank: number;
  /** 0: never. */
  readonly rescaleEvery: number;
}

export function rwkv6(w: Tensors, tokens: readonly number[], c: Rwkv6Sizes): Vector[] {
  const { headSize: n, width } = c;
  const mixTime = (block: string, xs: Vector[]): Vector[] => {
    const part = (name: string): string => `${block}.time_mix_${name}.weight`;
    const lerp = (j: number): Vector =>
      w.has(part("lerp_fused")) ? w.row(part("lerp_fused"), width, j) : w.all(part(`lerp_${"wkvrg"[j] ?? ""}`));
    // S[head][key][value]
    const state = range(width / n).map(() => range(n).map(() => range(n).map(() => 0)));
    const shifted = shifts(xs);
    return xs.map((x, t) => {
      const sx = row(shifted, t);
      const m = w.product(part("w1"), add(x, mul(sx, w.all(part("lerp_x"))))).map(Math.tanh);
      const [xw, xk, xv, xr, xg] = range(5).map((j) => {
        const adjusted = w.product(part("w2"), m.slice(j * c.mixRank, (j + 1) * c.mixRank), j);
        return add(x, mul(sx, add(lerp(j), adjusted)));
      }) as [Vector, Vector, Vector, Vector, Vector];
      const r = w.product(part("receptance"), xr);
      const k = w.product(part("key"), xk);
      const v = w.product(part("value"), xv);
      const low = w.product(part("decay_w2"), w.product(part("decay_w1"), xw).map(Math.tanh));
      const decay = add(low, w.all(part("decay"))).map((value) => Math.exp(-Math.exp(value)));
      const u = w.all(part("first"));
      const y = state.flatMap((held, h) => {
        const out = range(n).map((j) =>
          sum(
            range(n).map((i) => {
              const s = at(held[i] ?? [], j) + at(u, h * n + i) * at(k, h * n + i) * at(v, h * n + j);
              return at(r, h * n + i) * s;
            }),
          ),
        );
        for (const [i, line] of held.entries()) {
          for (const j of range(n)) line[j] = at(decay, h * n + i) * at(line, j) + at(k, h * n + i) * at(v, h * n + j);
        }
        return out;
      });
      const gate = w.product(part("gate"), xg).map((value) => value * sigmoid(value));
      return w.product(part("output"), mul(headNorm(w, block, y, n), gate));
    });
  };
  const mixChannels = (block: string, x: Vector, sx: Vector): Vector => {
    const part = (name: string): string => `${block}.channel_mix_${name}.weight`;
    const k = w.product(part("key"), add(x, mul(sx, w.all(part("lerp_k"))))).map(squaredRelu);
    const r = w.product(part("receptance"), add(x, mul(sx, w.all(part("lerp_r"))))).map(sigmoid);
    return mul(r, w.product(part("value"), k));
  };
  const halves = (i: number): boolean => c.rescaleEvery > 0 && (i + 1) % c.rescaleEvery === 0;
  return rwkv(w, tokens, c, mixTime, mixChannels, (x, i) => (halves(i) ? x.map((value) => value / 2) : x));
}

export function rwkv7(w: Tensors, tokens: readonly number[], c: RwkvSizes): Vector[] {
  const { headSize: n, width } = c;
  let first: Vector[] = [];
  const mixTime = (block: string, xs: Vector[], layer: number): Vector[] => {
    const part = (name: string): string => `${block}.time_mix_${name}.weight`;
    const low = (letter: string, x: Vector, of: (x: number) => number = (value) => value): Vector =>
      add(w.product(part(`${letter}2`), w.product(part(`${letter}1`), x).map(of)), w.all(part(`${letter}0`)));
    // S[head][value][key]
    const state = range(width / n).map(() => range(n).map(() => range(n).map(() => 0)));
    const shifted = shifts(xs);
    const values: Vector[] = [];
    const mixed = xs.map((x, t) => {
      const [xr, xw, xk, xv, xa, xg] = range(6).map((j) =>
        add(x, mul(row(shifted, t), w.row(part("lerp_fused"), width, j))),
      ) as [Vector, Vector, Vector, Vector, Vector, Vector];
      const r = w.product(part("receptance"), xr);
      const decay = low("w", xw, Math.tanh).map((value) => Math.exp(-Math.exp(-0.5) * sigmoid(value)));
      const plain = w.product(part("key"), xk);
      let v = w.product(part("value"), xv);
      values.push(v);
      if (layer > 0) v = add(v, mul(sub(row(first, t), v), low("v", xv).map(sigmoid)));
      const rate = low("a", xa).map(sigmoid);
      const gate = w.product(part("g2"), w.product(part("g1"), xg).map(sigmoid));
      const kk = heads(mul(plain, w.all(part("k_k"))), n).flatMap((head) => {
        const length = Math.max(Math.sqrt(sum(head.map((value) => value ** 2))), 1e-12);
        return head.map((value) => value / length);
      });
      const ka = w.all(part("k_a"));
      const k = plain.map((value, i) => value * (1 + (at(rate, i) - 1) * at(ka, i)));
      const y = state.flatMap((held, h) =>
        held.map((line, j) => {
          const removed = sum(line.map((s, i) => s * at(kk, h * n + i)));
          for (const i of range(n)) {
            const key = h * n + i;
            const kept = at(line, i) * at(decay, key) - removed * at(kk, key) * at(rate, key);
            line[i] = kept + at(v, h * n + j) * at(k, key);
          }
          return sum(line.map((s, i) => s * at(r, h * n + i)));
        }),
      );
      const bonus = heads(mul(mul(r, k), w.all(part("r_k"))), n).map(sum);
      const whole = add(
        headNorm(w, block, y, n),
        v.map((value, i) => value * at(bonus, Math.floor(i / n))),
      );
      return w.product(part("output"), mul(whole, gate));
    });
    if (layer === 0) first = values;
    return mixed;
  };
  const mixChannels = (block: string, x: Vector, sx: Vector): Vector => {
    const mixed = add(x, mul(sx, w.all(`${block}.channel_mix_lerp_k.weight`)));
    const k = w.product(`${block}.channel_mix_key.weight`, mixed).map(squaredRelu);
    return w.product(`${block}.channel_mix_value.weight`, k);
  };
  return rwkv(w, tokens, c, mixTime, mixChannels);
}

export interface RecurrentGemmaSizes {
  readonly width: number;
  readonly eps: number;
  readonly embeddingScale: number;
  /** 0: none. */
  readonly softcap: number;
  readonly heads: number;
  /** Of each layer; 0: a recurrent one. */
  readonly kvHeads: readonly number[];
  readonly headDim: number;
  readonly ropeDims: number;
  readonly window: number;
  readonly taps: number;
  readonly groups: number;
}

export function recurrentGemma(w: Tensors, tokens: readonly number[], c: RecurrentGemmaSizes): Vector[] {
  const rms = (name: string, x: Vector): Vector => {
    const scale = 1 / Math.sqrt(sum(x.map((value) => value ** 2)) / x.length + c.eps);
    return mul(
      x.map((value) => value * scale),
      w.all(`${name}.weight`),
    );
  };
  let xs: Vector[] = tokens.map((token) => w.row("token_embd.weight", c.width, token));
  xs = xs.map((x) => x.map((value) => value * c.embeddingScale));
  for (const [i, kvHeads] of c.kvHeads.entries()) {
    const block = `blk.${i}`;
    const normed = xs.map((x) => rms(`${block}.attn_norm`, x));
    const mixed = kvHeads === 0 ? rgLruBlock(w, block, normed, c) : windowAttention(w, block, normed, c, kvHeads);
    xs = xs.map((x, t) => add(x, row(mixed, t)));
    xs = xs.map((x) => {
      const hidden = rms(`${block}.ffn_norm`, x);
      const gate = w.linear(`${block}.ffn_gate`, hidden).map(gelu);
      return add(x, w.linear(`${block}.ffn_down`, mul(gate, w.linear(`${block}.ffn_up`, hidden))));
    });
  }
  const cap = (value: number): number => (c.softcap === 0 ? value : c.softcap * Math.tanh(value / c.softcap));
  return xs.map((x) => w.product("token_embd.weight", rms("output_norm", x)).map(cap));
}

function rgLruBlock(w: Tensors, block: string, xs: readonly Vector[], c: RecurrentGemmaSizes): Vector[] {
  const inputs = xs.map((x) => w.linear(`${block}.ssm_in`, x));
  const taps = w.all(`${block}.ssm_conv1d.weight`);
  const bias = w.all(`${block}.ssm_conv1d.bias`);
  const a = w.all(`${block}.ssm_a`);
  let h = bias.map(() => 0);
  return xs.map((x, t) => {
    const u = bias.map((b, channel) => {
      const past = range(Math.min(c.taps, t + 1));
      return (
        b + sum(past.map((back) => at(taps, channel * c.taps + c.taps - 1 - back) * at(row(inputs, t - back), channel)))
      );
    });
    const gate = (name: string): Vector => {
      const parts = heads(u, u.length / c.groups).flatMap((part, g) => [
        ...w.product(`${block}.${name}.weight`, part, g),
      ]);
      return add(parts, w.all(`${block}.${name}.bias`)).map(sigmoid);
    };
    const incoming = mul(gate("ssm_input_gate"), u);
    const decay = mul(gate("ssm_recurrence_gate"), a).map(Math.exp);
    h = h.map((held, i) => at(decay, i) * held + (t === 0 ? 1 : Math.sqrt(1 - at(decay, i) ** 2)) * at(incoming, i));
    return w.linear(`${block}.ssm_out`, mul(h, w.linear(`${block}.attn_gate`, x).map(gelu)));
  });
}

function windowAttention(
  w: Tensors,
  block: string,
  xs: readonly Vector[],
  c: RecurrentGemmaSizes,
  kvHeads: number,
): Vector[] {
  const { headDim, ropeDims } = c;
  const half = ropeDims / 2;
  const rotated = (x: Vector, position: number): Vector =>
    x.map((value, i) => {
      if (i >= ropeDims) return value;
      const angle = position * 10000 ** ((-2 * (i % half)) / ropeDims);
      return value * Math.cos(angle) + (i < half ? -at(x, i + half) : at(x, i - half)) * Math.sin(angle);
    });
  const project = (name: string, turn: boolean): Vector[][] =>
    xs.map((x, t) => heads(w.linear(`${block}.${name}`, x), headDim).map((head) => (turn ? rotated(head, t) : head)));
  const [qs, ks, vs] = [project("attn_q", true), project("attn_k", true), project("attn_v", false)];
  return xs.map((_, t) => {
    const seen = range(t + 1).filter((j) => t - j < c.window);
    const y = range(c.heads).flatMap((h) => {
      const kv = Math.floor(h / (c.heads / kvHeads));
      const query = row(qs[t] ?? [], h);
      const powers = seen.map((j) => Math.exp(sum(mul(query, row(ks[j] ?? [], kv))) / Math.sqrt(headDim)));
      const total = sum(powers);
      return range(headDim).map((i) => sum(seen.map((j, n) => (at(powers, n) / total) * at(row(vs[j] ?? [], kv), i))));
    });
    return w.linear(`${block}.attn_output`, y);
  });
}
