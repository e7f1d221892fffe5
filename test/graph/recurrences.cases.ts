/**
 * Layers of nothing but recurrent operations, each with the same written out number by number. They work on material
 * that depends on the token alone: a row of the embedding and one of the head of the llama fixture.
 */
import type { Graph, LayerHandles, MemoryHandle, Operand, Tensor } from "ggstrata";

export const materialWidth = 128;

/** What a case builds its graph from. */
export interface Place {
  readonly g: Graph;
  readonly memory: MemoryHandle;
  /** Numbers `[from, from + count)` of each token's material. */
  part(from: number, count: number): Tensor;
  /** A part of the embedding's table, from element `from` on, as a weight. */
  weight(from: number, ...shape: readonly number[]): Tensor;
}

/** One token after the other: its material gives its result. */
export type Scalar = (x: Float64Array) => readonly number[];

export interface Case {
  readonly states: Readonly<Record<string, readonly number[]>>;
  /** Numbers a token that the operations log. */
  readonly inputs: number;
  /** Numbers that a log saves nothing over keeping states. */
  readonly keepsStates?: boolean;
  build(place: Place): Tensor;
  /** `table` holds the numbers that weights are parts of. */
  scalar(table: Float32Array): Scalar;
}

export function placeOf(
  g: Graph,
  tables: { first: Operand; second: Operand },
  handles: readonly LayerHandles[],
): Place {
  const memory = handles[0]?.["memory"];
  if (memory === undefined) throw new Error("the layer declares a memory");
  const tokens = g.tokens();
  const material = g.concat(g.getRows(tables.first, tokens), g.scale(g.getRows(tables.second, tokens), 4), 0);
  return {
    g,
    memory,
    part: (from, count) => g.slice(material, from, count),
    weight: (from, ...shape) => {
      const count = shape.reduce((product, n) => product * n, 1);
      return g.reshape(g.view(tables.first, [count], 4 * from), ...shape);
    },
  };
}

// ---- number by number ----

const sigmoid = (x: number) => 1 / (1 + Math.exp(-x));
const silu = (x: number) => x * sigmoid(x);
const softplus = (x: number) => Math.log1p(Math.exp(x));
const sum = (values: readonly number[]) => values.reduce((a, b) => a + b, 0);
const dot = (a: ArrayLike<number>, b: ArrayLike<number>) => sum(Array.from(a, (value, i) => value * at(b, i)));

function at(list: ArrayLike<number>, index: number): number {
  const value = list[index];
  if (value === undefined) throw new Error(`there is no number ${index} among ${list.length}`);
  return value;
}

const range = (count: number) => Array.from({ length: count }, (_, i) => i);
const cut = (x: ArrayLike<number>, from: number, count: number) => range(count).map((i) => at(x, from + i));
const zeros = (count: number) => new Float64Array(count);

function unit(x: readonly number[], epsilon = 0): number[] {
  const length = Math.sqrt(dot(x, x) + epsilon);
  return x.map((value) => value / length);
}

function convolution(taps: number, weight: ArrayLike<number>, bias?: ArrayLike<number>) {
  const past: (readonly number[])[] = [];
  return (x: readonly number[]) => {
    past.push(x);
    return x.map((_, c) => {
      const terms = range(taps).map((j) => at(weight, c * taps + j) * (past.at(j - taps)?.[c] ?? 0));
      return silu(sum(terms) + (bias === undefined ? 0 : at(bias, c)));
    });
  };
}

interface DeltaShape {
  readonly keyDim: number;
  readonly valueDim: number;
  /** The key head of each value head. */
  readonly keyHeads: readonly number[];
  readonly scale: number;
}

/** `g` has one number for each head and key channel. */
function deltaNet({ keyDim, valueDim, keyHeads, scale }: DeltaShape) {
  const states = keyHeads.map(() => range(valueDim).map(() => zeros(keyDim)));
  return (
    q: readonly number[],
    k: readonly number[],
    v: readonly number[],
    g: readonly number[],
    beta: readonly number[],
  ) =>
    states.flatMap((columns, head) => {
      const key = cut(k, at(keyHeads, head) * keyDim, keyDim);
      const query = cut(q, at(keyHeads, head) * keyDim, keyDim);
      return columns.map((column, j) => {
        for (const i of range(keyDim)) column[i] = at(column, i) * Math.exp(at(g, head * keyDim + i));
        const delta = at(beta, head) * (at(v, head * valueDim + j) - dot(column, key));
        for (const i of range(keyDim)) column[i] = at(column, i) + at(key, i) * delta;
        return scale * dot(column, query);
      });
    });
}

const headSize = 16;
const wkvHeads = 2;
const wkvWidth = headSize * wkvHeads;

function shift(width: number) {
  let last: readonly number[] = range(width).map(() => 0);
  return (x: readonly number[]) => {
    const before = last;
    last = x;
    return before;
  };
}

const recurrence = (width: number) => {
  const h = zeros(width);
  return (a: readonly number[], x: readonly number[]) =>
    range(width).map((i) => (h[i] = at(a, i) * at(h, i) + at(x, i)));
};

/** Selective scans: `decay(channel, n)` is a. */
function scan(channels: number, size: number, decay: (channel: number, n: number) => number) {
  const states = range(channels).map(() => zeros(size));
  return (
    x: readonly number[],
    dt: readonly number[],
    b: (c: number) => readonly number[],
    c: (c: number) => readonly number[],
  ) =>
    states.map((state, i) => {
      for (const n of range(size)) {
        state[n] = Math.exp(at(dt, i) * decay(i, n)) * at(state, n) + at(dt, i) * at(b(i), n) * at(x, i);
      }
      return dot(state, c(i));
    });
}

// ---- the cases ----

export const cases: Readonly<Record<string, Case>> = {
  previous: {
    states: { last: [64] },
    inputs: 64,
    keepsStates: true,
    build: ({ g, memory, part }) => g.previous(memory, part(3, 64), { state: "last" }),
    scalar: () => {
      const before = shift(64);
      return (x) => before(cut(x, 3, 64));
    },
  },

  linearRecurrence: {
    states: { h: [50] },
    inputs: 100,
    keepsStates: true,
    build: ({ g, memory, part }) =>
      g.linearRecurrence(memory, { state: "h", a: g.unary(g.cont(part(64, 50)), "sigmoid"), x: part(0, 50) }),
    scalar: () => {
      const step = recurrence(50);
      return (x) => step(cut(x, 64, 50).map(sigmoid), cut(x, 0, 50));
    },
  },

  "convolve, scanMamba1": {
    states: { conv: [32, 3], ssm: [8, 16] },
    inputs: 32 + 16,
    build: ({ g, memory, part, weight }) => {
      const [kernel, bias] = [weight(0, 4, 32), weight(200, 32)];
      const convolved = g.convolve(memory, part(0, 32), { state: "conv", weight: kernel, bias, silu: true });
      return g.scanMamba1(memory, {
        state: "ssm",
        x: g.slice(convolved, 0, 16),
        b: g.slice(convolved, 16, 8),
        c: g.slice(convolved, 24, 8),
        dt: g.scale(g.cont(part(64, 16)), 1, -3),
        dtBias: weight(300, 16),
        a: weight(400, 8, 16),
        d: weight(600, 16),
      });
    },
    scalar: (table) => {
      const convolve = convolution(4, table, cut(table, 200, 32));
      const step = scan(16, 8, (channel, n) => at(table, 400 + 8 * channel + n));
      return (x) => {
        const convolved = convolve(cut(x, 0, 32));
        const dt = range(16).map((i) => softplus(at(x, 64 + i) - 3 + at(table, 300 + i)));
        const [b, c] = [cut(convolved, 16, 8), cut(convolved, 24, 8)];
        const y = step(
          convolved.slice(0, 16),
          dt,
          () => b,
          () => c,
        );
        return y.map((value, i) => value + at(table, 600 + i) * at(convolved, i));
      };
    },
  },

  "convolve, scan": {
    states: { conv: [48, 3], ssm: [8, 4, 4] },
    inputs: 48 + 4,
    build: ({ g, memory, part, weight }) => {
      const convolved = g.convolve(memory, part(0, 48), { state: "conv", weight: weight(0, 4, 48), silu: true });
      return g.scan(memory, {
        ...{ state: "ssm", headDim: 4, heads: 4, groups: 2, stateSize: 8 },
        // One operand by heads and one flat: both are parts of the convolution.
        x: g.view(convolved, [4, 4, g.rows], 0, [16, convolved.strides[1]]),
        b: g.slice(convolved, 16, 16),
        c: g.slice(convolved, 32, 16),
        dt: g.scale(g.cont(part(64, 4)), 1, -3),
        a: weight(400, 4),
      });
    },
    scalar: (table) => {
      const convolve = convolution(4, table);
      const step = scan(16, 8, (channel) => at(table, 400 + Math.floor(channel / 4)));
      return (x) => {
        const convolved = convolve(cut(x, 0, 48));
        const dt = range(16).map((i) => softplus(at(x, 64 + Math.floor(i / 4)) - 3));
        const group = (first: number) => (channel: number) => cut(convolved, first + 8 * Math.floor(channel / 8), 8);
        return step(convolved.slice(0, 16), dt, group(16), group(32));
      };
    },
  },

  "convolve, deltaNet with a decay a head": {
    states: { conv: [64, 3], net: [8, 8, 4] },
    inputs: 64 + 4 + 4,
    build: ({ g, memory, part, weight }) => {
      const convolved = g.convolve(memory, part(0, 64), { state: "conv", weight: weight(0, 4, 64), silu: true });
      return g.deltaNet(memory, {
        ...{ state: "net", keyDim: 8, valueDim: 8, keyHeads: 2, valueHeads: 4, normalize: 1e-6, betaSigmoid: true },
        q: g.slice(convolved, 0, 16),
        k: g.slice(convolved, 16, 16),
        v: g.slice(convolved, 32, 32),
        g: g.unary(g.unary(g.cont(part(64, 4)), "softplus"), "neg"),
        beta: part(68, 4),
      });
    },
    scalar: (table) => {
      const convolve = convolution(4, table);
      const step = deltaNet({ keyDim: 8, valueDim: 8, keyHeads: [0, 0, 1, 1], scale: 1 / Math.sqrt(8) });
      const heads = (x: readonly number[]) => [...unit(x.slice(0, 8), 1e-6), ...unit(x.slice(8, 16), 1e-6)];
      return (x) => {
        const convolved = convolve(cut(x, 0, 64));
        const g = range(32).map((i) => -softplus(at(x, 64 + Math.floor(i / 8))));
        const [q, k] = [heads(convolved.slice(0, 16)), heads(convolved.slice(16, 32))];
        return step(q, k, convolved.slice(32), g, cut(x, 68, 4).map(sigmoid));
      };
    },
  },

  "three convolutions, deltaNet with a decay a key channel": {
    states: { q: [16, 3], k: [16, 3], v: [32, 3], net: [8, 8, 4] },
    inputs: 16 + 16 + 32 + 32 + 4,
    build: ({ g, memory, part, weight }) => {
      const convolve = (state: string, from: number, count: number) =>
        // As files give it: [taps, 1, channels].
        g.convolve(memory, part(from, count), { state, weight: weight(4 * from, 4, 1, count), silu: true });
      const [q, k, v] = [convolve("q", 0, 16), convolve("k", 16, 16), convolve("v", 32, 32)];
      return g.deltaNet(memory, {
        ...{ state: "net", keyDim: 8, valueDim: 8, keyHeads: 2, valueHeads: 4, mapping: "interleaved", scale: 0.5 },
        q,
        k: g.reshape(k, 8, 2, g.rows),
        v: g.slice(v, 0, 32),
        g: g.reshape(g.unary(g.unary(g.cont(part(64, 32)), "softplus"), "neg"), 8, 4, g.rows),
        beta: g.unary(g.cont(part(100, 4)), "sigmoid"),
      });
    },
    scalar: (table) => {
      const convolve = convolution(4, table);
      const step = deltaNet({ keyDim: 8, valueDim: 8, keyHeads: [0, 1, 0, 1], scale: 0.5 });
      return (x) => {
        const convolved = convolve(cut(x, 0, 64));
        const g = cut(x, 64, 32).map((value) => -softplus(value));
        const parts = [convolved.slice(0, 16), convolved.slice(16, 32), convolved.slice(32)] as const;
        return step(...parts, g, cut(x, 100, 4).map(sigmoid));
      };
    },
  },

  "previous, wkv6": {
    states: { last: [64], wkv: [headSize, headSize, wkvHeads] },
    inputs: 64 + 3 * wkvWidth,
    build: ({ g, memory, part, weight }) => {
      const x = part(0, 64);
      const mixed = g.add(g.scale(g.previous(memory, x, { state: "last" }), 0.5), x);
      return g.wkv6(memory, {
        ...{ state: "wkv", headSize, heads: wkvHeads },
        r: g.slice(mixed, 0, wkvWidth),
        k: g.slice(mixed, wkvWidth, wkvWidth),
        v: part(64, wkvWidth),
        w: g.reshape(g.unary(g.cont(part(96, wkvWidth)), "sigmoid"), headSize, wkvHeads, g.rows),
        u: weight(0, headSize, wkvHeads),
      });
    },
    scalar: (table) => {
      const before = shift(64);
      const states = range(wkvHeads).map(() => range(headSize).map(() => zeros(headSize)));
      return (x) => {
        const now = cut(x, 0, 64);
        const mixed = before(now).map((value, i) => at(now, i) + value / 2);
        return states.flatMap((state, head) => {
          const own = (from: number, list: ArrayLike<number>) => cut(list, from + head * headSize, headSize);
          const [r, k, v] = [own(0, mixed), own(wkvWidth, mixed), own(64, x)];
          const [w, u] = [own(96, x).map(sigmoid), own(0, table)];
          return v.map((value, j) =>
            sum(
              state.map((row, i) => {
                const kv = at(k, i) * value;
                const y = at(r, i) * (at(row, j) + at(u, i) * kv);
                row[j] = at(w, i) * at(row, j) + kv;
                return y;
              }),
            ),
          );
        });
      };
    },
  },

  "previous, wkv7": {
    states: { last: [32], wkv: [headSize, headSize, wkvHeads] },
    inputs: 32 + 5 * wkvWidth,
    build: ({ g, memory, part }) => {
      const heads = (x: Tensor) => g.reshape(g.cont(x), headSize, wkvHeads, g.rows);
      const x = part(0, 32);
      const removal = g.l2Norm(heads(part(20, wkvWidth)), 1e-12);
      return g.wkv7(memory, {
        ...{ state: "wkv", headSize, heads: wkvHeads },
        r: g.add(g.previous(memory, x, { state: "last" }), x),
        w: g.unary(g.cont(part(96, wkvWidth)), "sigmoid"),
        k: part(32, wkvWidth),
        v: part(64, wkvWidth),
        a: g.unary(removal, "neg"),
        b: g.mul(removal, g.unary(heads(part(90, wkvWidth)), "sigmoid")),
      });
    },
    scalar: () => {
      const before = shift(32);
      const states = range(wkvHeads).map(() => range(headSize).map(() => zeros(headSize)));
      return (x) => {
        const now = cut(x, 0, 32);
        const mixed = before(now).map((value, i) => at(now, i) + value);
        return states.flatMap((state, head) => {
          const own = (from: number) => cut(x, from + head * headSize, headSize);
          const [k, v, w] = [own(32), own(64), own(96).map(sigmoid)];
          const removal = unit(own(20));
          const b = own(90).map((value, i) => sigmoid(value) * at(removal, i));
          const r = cut(mixed, head * headSize, headSize);
          return state.map((row, i) => {
            const taken = -dot(row, removal);
            for (const j of range(headSize)) {
              row[j] = at(row, j) * at(w, j) + taken * at(b, j) + at(v, i) * at(k, j);
            }
            return dot(row, r);
          });
        });
      };
    },
  },

  "linearRecurrence, deltaNet that reads it": {
    states: { h: [32], net: [16, 16, 1] },
    inputs: 64 + 16 + 16 + 1 + 1,
    build: ({ g, memory, part }) => {
      const a = g.unary(g.cont(part(64, 32)), "sigmoid");
      const h = g.linearRecurrence(memory, { state: "h", a, x: part(0, 32) });
      const net = g.deltaNet(memory, {
        ...{ state: "net", keyDim: 16, valueDim: 16, keyHeads: 1, valueHeads: 1, normalize: 1e-6, betaSigmoid: true },
        q: part(32, 16),
        k: part(48, 16),
        v: g.slice(h, 8, 16),
        g: g.unary(g.unary(g.cont(part(96, 1)), "softplus"), "neg"),
        beta: part(97, 1),
      });
      return g.concat(h, net, 0);
    },
    scalar: () => {
      const step = recurrence(32);
      const net = deltaNet({ keyDim: 16, valueDim: 16, keyHeads: [0], scale: 1 / 4 });
      return (x) => {
        const h = step(cut(x, 64, 32).map(sigmoid), cut(x, 0, 32));
        const g = range(16).map(() => -softplus(at(x, 96)));
        const [q, k] = [unit(cut(x, 32, 16), 1e-6), unit(cut(x, 48, 16), 1e-6)];
        return [...h, ...net(q, k, h.slice(8, 24), g, [sigmoid(at(x, 97))])];
      };
    },
  },
};
