/**
 * What a made-up model computes, in float64 and one number after the other: from the list of tokens and positions that a
 * sequence holds, each time from the start.
 */
import {
  bypassWidth,
  channelsOf,
  owner,
  vocabulary,
  width,
  type AttentionPart,
  type MadeUpModel,
  type RecurrentPart,
  type Rope,
  type ScanShape,
  type SharedPart,
} from "./made-up-architecture.ts";

/** A token and the position at which it stands. */
export interface Pair {
  readonly token: number;
  readonly position: number;
}

type Extent = Pick<AttentionPart, "window" | "chunk" | "symmetric">;

/** The earliest position that a token at `position` sees. */
export function lowestSeen({ window, chunk, symmetric }: Extent, position: number): number {
  if (window !== undefined) return Math.max(0, position - window + 1);
  if (chunk !== undefined) return position - (position % chunk);
  return symmetric === undefined ? 0 : Math.max(0, position - Math.floor(symmetric / 2));
}

export class Reference {
  /** What does not change from call to call: projections of tokens, keys at positions. */
  private readonly kept = new Map<string, Float64Array>();

  constructor(
    private readonly model: MadeUpModel,
    /** Positions there are. */
    private readonly reach: number,
  ) {}

  /** The logits of the pairs at the indices `wanted`, ascending, each of which sees those before it in the list. */
  logits(pairs: readonly Pair[], wanted: readonly number[]): Float64Array[] {
    const { layers } = this.model;
    const rows = wanted.map((index) => Float64Array.from(this.project("head", (pairs[index] as Pair).token)));
    for (const [i, layer] of layers.entries()) {
      for (const [k, part] of layer.entries()) {
        const name = `${i}.${k}`;
        if (part.kind === "recurrent") this.addRecurrent(rows, name, part, pairs, wanted);
        else {
          for (const [r, index] of wanted.entries()) {
            this.addProduct(rows[r] as Float64Array, `${name}.head0`, this.attend(name, part, pairs, index));
          }
        }
      }
    }
    return rows;
  }

  // ---- products ----

  private values(name: string): Float32Array {
    const found = this.model.weights.get(name);
    if (found === undefined) throw new Error(`the made-up model has no weight ${name}`);
    return found.values;
  }

  private keep(name: string, make: () => Float64Array): Float64Array {
    let found = this.kept.get(name);
    if (found === undefined) this.kept.set(name, (found = make()));
    return found;
  }

  /** Weight `name` times the embedding of a token. */
  private project(name: string, token: number): Float64Array {
    return this.keep(`${name} ${token}`, () => {
      const x = this.values("embedding").subarray(token * width, (token + 1) * width);
      return product(this.values(name), x, new Float64Array(this.values(name).length / width));
    });
  }

  private addProduct(row: Float64Array, name: string, result: ArrayLike<number>): void {
    const added = product(this.values(name), result, new Float64Array(vocabulary));
    for (let i = 0; i < vocabulary; i += 1) row[i] = at(row, i) + at(added, i);
  }

  // ---- attention ----

  private attend(name: string, part: AttentionPart | SharedPart, pairs: readonly Pair[], index: number): Float64Array {
    const own = owner(this.model.layers, part);
    const source = part.kind === "shared" ? `${part.layer}.${part.part}` : name;
    const { heads, group, keyDim, valueDim, softcap = 0 } = own;
    const { token, position } = pairs[index] as Pair;
    const queries = this.turned(`${name}.q`, own, token, position, heads * group);
    const low = lowestSeen(own, position);
    const seen = pairs.slice(0, index + 1).filter((pair) => pair.position >= low);
    const keys = seen.map((pair) => this.key(source, own, pair));
    const values = own.keysOnly ? keys : seen.map((pair) => this.project(`${source}.v`, pair.token));
    const stride = own.keysOnly ? keyDim : valueDim;
    const out = new Float64Array(heads * group * valueDim);
    for (let h = 0; h < heads * group; h += 1) {
      const kv = Math.floor(h / group);
      const scores = keys.map((key) => {
        let sum = 0;
        for (let i = 0; i < keyDim; i += 1) sum += at(queries, h * keyDim + i) * at(key, kv * keyDim + i);
        const score = sum / Math.sqrt(keyDim);
        return softcap === 0 ? score : softcap * Math.tanh(score / softcap);
      });
      const greatest = Math.max(...scores);
      const shares = scores.map((score) => Math.exp(score - greatest));
      const total = shares.reduce((sum, share) => sum + share, 0);
      for (const [j, share] of shares.entries()) {
        const value = values[j] as Float64Array;
        for (let i = 0; i < valueDim; i += 1) {
          out[h * valueDim + i] = at(out, h * valueDim + i) + (share / total) * at(value, kv * stride + i);
        }
      }
    }
    return out;
  }

  private key(source: string, own: AttentionPart, { token, position }: Pair): Float64Array {
    return this.keep(`${source}.k ${token} at ${position}`, () => {
      const key = this.turned(`${source}.k`, own, token, position, own.heads);
      return key.map((value) => value * (own.keyScale ?? 1));
    });
  }

  private turned(name: string, own: AttentionPart, token: number, position: number, heads: number): Float64Array {
    const vectors = Float64Array.from(this.project(name, token));
    if (own.rope === undefined) return vectors;
    if (position < 0 || position >= this.reach) throw new Error(`nothing stands at position ${position}`);
    for (let h = 0; h < heads; h += 1) turn(vectors.subarray(h * own.keyDim, (h + 1) * own.keyDim), own.rope, position);
    return vectors;
  }

  // ---- states ----

  private addRecurrent(
    rows: readonly Float64Array[],
    name: string,
    part: RecurrentPart,
    pairs: readonly Pair[],
    wanted: readonly number[],
  ): void {
    const { total } = channelsOf(part);
    const states = part.scans.map(({ heads, headDim, stateSize }) => new Float64Array(heads * headDim * stateSize));
    const inputs = pairs.map(({ token }) => this.project(`${name}.input`, token));
    let next = 0;
    for (let index = 0; next < wanted.length; index += 1) {
      const convolved = this.convolve(name, part, inputs, index);
      const input = inputs[index] as Float64Array;
      const isWanted = wanted[next] === index;
      const row = rows[next] as Float64Array;
      if (isWanted) this.addProduct(row, `${name}.head0`, convolved);
      let time = total;
      for (const [s, shape] of part.scans.entries()) {
        const result = this.scan(name, part, s, convolved, input, time, states[s] as Float64Array);
        if (isWanted) this.addProduct(row, `${name}.head${s + 1}`, result);
        time += shape.heads;
      }
      if (isWanted) next += 1;
    }
  }

  private convolve(name: string, part: RecurrentPart, inputs: readonly Float64Array[], index: number): Float64Array {
    const { total } = channelsOf(part);
    const weight = this.values(`${name}.convolution`);
    const bias = this.values(`${name}.bias`);
    const out = new Float64Array(total);
    for (let channel = 0; channel < total; channel += 1) {
      let sum = at(bias, channel);
      for (let tap = 0; tap < part.taps; tap += 1) {
        const input = inputs[index - (part.taps - 1) + tap];
        if (input !== undefined) sum += at(weight, channel * part.taps + tap) * at(input, channel);
      }
      out[channel] = sum / (1 + Math.exp(-sum));
    }
    return out;
  }

  /** One token of a scan; changes the state. */
  private scan(
    name: string,
    part: RecurrentPart,
    s: number,
    convolved: Float64Array,
    input: Float64Array,
    time: number,
    state: Float64Array,
  ): Float64Array {
    const { heads, headDim, groups, stateSize } = part.scans[s] as ScanShape;
    const { total, scans } = channelsOf(part);
    const begin = scans[s] as (typeof scans)[number];
    const [dtBias, a, d] = ["dtBias", "a", "d"].map((what) => this.values(`${name}.${s}.${what}`)) as [
      Float32Array,
      Float32Array,
      Float32Array,
    ];
    const times = part.scans.reduce((sum, shape) => sum + shape.heads, 0);
    const isPast = s === 0 && bypassWidth(part) > 0;
    const b = isPast ? input.subarray(total + times) : convolved.subarray(begin.b);
    const c = convolved.subarray(begin.c);
    const out = new Float64Array(heads * headDim);
    for (let h = 0; h < heads; h += 1) {
      const step = Math.log1p(Math.exp(at(input, time + h) + at(dtBias, h)));
      const decay = Math.exp(step * at(a, h));
      const group = Math.floor(h / (heads / groups)) * stateSize;
      for (let channel = h * headDim; channel < (h + 1) * headDim; channel += 1) {
        const x = at(convolved, begin.x + channel);
        let sum = at(d, h) * x;
        for (let n = 0; n < stateSize; n += 1) {
          const value = at(state, channel * stateSize + n) * decay + step * x * at(b, group + n);
          state[channel * stateSize + n] = value;
          sum += value * at(c, group + n);
        }
        out[channel] = sum;
      }
    }
    return out;
  }
}

function at(numbers: ArrayLike<number>, index: number): number {
  return numbers[index] as number;
}

/** `weight` `[in, out]` times x `[in]`. */
function product(weight: Float32Array, x: ArrayLike<number>, out: Float64Array): Float64Array {
  const count = x.length;
  for (let o = 0; o < out.length; o += 1) {
    let sum = 0;
    for (let i = 0; i < count; i += 1) sum += at(weight, o * count + i) * at(x, i);
    out[o] = sum;
  }
  return out;
}

/** Rotary embedding of one head. */
function turn(head: Float64Array, { mode, base, dims }: Rope, position: number): void {
  for (let i = 0; i < dims / 2; i += 1) {
    const [left, right] = mode === "neox" ? [i, i + dims / 2] : [2 * i, 2 * i + 1];
    const angle = position * base ** ((-2 * i) / dims);
    const [x, y] = [at(head, left), at(head, right)];
    head[left] = x * Math.cos(angle) - y * Math.sin(angle);
    head[right] = x * Math.sin(angle) + y * Math.cos(angle);
  }
}
