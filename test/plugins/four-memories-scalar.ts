/** What the made-up architecture of four-memories.ts computes, number by number in double precision. */
import {
  add,
  at,
  attend,
  byHead,
  convolve,
  cut,
  gatedMlp,
  model,
  normed,
  range,
  rms,
  rotate,
  silu,
  softplus,
  type AttentionShape,
  type Tensors,
  type Vector,
} from "./scalar.ts";

export interface QuartetShape extends Omit<AttentionShape, "window" | "chunk"> {
  readonly kinds: readonly string[];
  readonly eps: number;
  readonly chunk: number;
  readonly ropeBase: number;
  readonly delta: {
    readonly keyHeads: number;
    readonly valueHeads: number;
    readonly keyDim: number;
    readonly valueDim: number;
    readonly taps: number;
  };
}

type Rows = readonly Vector[];

export function quartet(w: Tensors, tokens: readonly number[], c: QuartetShape): number[][] {
  const { chunk, ...whole } = c;
  /** Of the first layer with full attention: other layers read them. */
  let held: { readonly keys: Rows; readonly values: Rows } | undefined;
  return model(w, tokens, c.kinds.length, c.eps, (block, xs, i) => {
    const rows = normed(w, `${block}.attn_norm.weight`, xs, c.eps);
    const kind = c.kinds[i];
    let mixed: Rows = rows.map((row) => row.map(() => 0));
    if (kind === "full" || kind === "chunk") {
      const own = {
        keys: turned(w, `${block}.attn_k.weight`, rows, c),
        values: product(w, `${block}.attn_v.weight`, rows),
      };
      if (kind === "full") held ??= own;
      mixed = attention(w, block, rows, own, kind === "full" ? whole : { ...whole, chunk }, c);
    } else if (kind === "reader") mixed = attention(w, block, rows, held ?? { keys: [], values: [] }, whole, c);
    else if (kind === "delta") mixed = deltaNet(w, block, rows, c);
    else if (kind === "echo") mixed = echo(w, block, rows);
    const added = xs.map((x, t) => add(x, mixed[t] ?? []));
    const hidden = normed(w, `${block}.ffn_norm.weight`, added, c.eps);
    return added.map((x, t) => add(x, gatedMlp(w, block, hidden[t] ?? [])));
  });
}

function product(w: Tensors, name: string, rows: Rows): number[][] {
  return rows.map((row) => w.product(name, row));
}

function turned(w: Tensors, name: string, rows: Rows, { keyDim, ropeBase: base }: QuartetShape): Vector[] {
  return product(w, name, rows).map((row, position) =>
    byHead(row, keyDim, (head) => rotate(head, position, { dims: keyDim, base })),
  );
}

function attention(
  w: Tensors,
  block: string,
  rows: Rows,
  { keys, values }: { readonly keys: Rows; readonly values: Rows },
  shape: AttentionShape,
  c: QuartetShape,
): number[][] {
  const queries = turned(w, `${block}.attn_q.weight`, rows, c);
  return product(w, `${block}.attn_output.weight`, attend(queries, keys, values, shape));
}

/** Each token mixed with the one before it, and an average of that which fades. */
function echo(w: Tensors, block: string, rows: Rows): number[][] {
  const sigmoid = (x: number) => 1 / (1 + Math.exp(-x));
  const shares = w.all(`${block}.echo_mix.weight`).map(sigmoid);
  const bias = w.all(`${block}.echo_fade.bias`);
  let average: Vector = shares.map(() => 0);
  return rows.map((x, t) => {
    const before = rows[t - 1] ?? x.map(() => 0);
    const keeps = add(w.product(`${block}.echo_fade.weight`, x), bias).map(sigmoid);
    average = average.map((h, i) => {
      const mixed = at(x, i) + at(shares, i) * (at(before, i) - at(x, i));
      return at(keeps, i) * h + (1 - at(keeps, i)) * mixed;
    });
    return w.product(`${block}.echo_output.weight`, average);
  });
}

/** The gated delta rule, a head's state a list of rows, one for each key channel. */
function deltaNet(w: Tensors, block: string, rows: Rows, { delta, eps }: QuartetShape): number[][] {
  const { keyHeads, valueHeads, keyDim, valueDim, taps } = delta;
  const keys = keyHeads * keyDim;
  const projected = product(w, `${block}.attn_qkv.weight`, rows);
  const bias = range(2 * keys + valueHeads * valueDim).map(() => 0);
  const convolved = convolve(projected, taps, w.all(`${block}.ssm_conv1d.weight`), bias);
  const [a, dtBias] = [w.all(`${block}.ssm_a`), w.all(`${block}.ssm_dt.bias`)];
  const states = range(valueHeads).map(() => range(keyDim).map(() => range(valueDim).map(() => 0)));
  return rows.map((x, t) => {
    const mixed = convolved[t] ?? [];
    const betas = w.product(`${block}.ssm_beta.weight`, x).map((beta) => 1 / (1 + Math.exp(-beta)));
    const steps = add(w.product(`${block}.ssm_alpha.weight`, x), dtBias).map(softplus);
    const gate = w.product(`${block}.attn_gate.weight`, x);
    const y = states.flatMap((state, h) => {
      const head = Math.floor(h / (valueHeads / keyHeads));
      const q = unit(cut(mixed, head * keyDim, keyDim));
      const k = unit(cut(mixed, keys + head * keyDim, keyDim));
      const v = cut(mixed, 2 * keys + h * valueDim, valueDim);
      const decay = Math.exp(at(steps, h) * at(a, h));
      for (const row of state) for (const j of row.keys()) row[j] = at(row, j) * decay;
      const recalled = through(state, k, valueDim);
      for (const [i, row] of state.entries()) {
        for (const j of row.keys()) row[j] = at(row, j) + at(k, i) * at(betas, h) * (at(v, j) - at(recalled, j));
      }
      const result = through(state, q, valueDim).map((value) => value / Math.sqrt(keyDim));
      return rms(result, eps, w.all(`${block}.ssm_norm.weight`));
    });
    return w.product(
      `${block}.ssm_out.weight`,
      y.map((value, i) => value * silu(at(gate, i))),
    );
  });
}

/** What a state holds under a key. */
function through(state: readonly Vector[], key: Vector, valueDim: number): number[] {
  return range(valueDim).map((j) => state.reduce((total, row, i) => total + at(key, i) * at(row, j), 0));
}

function unit(x: Vector): number[] {
  const length = Math.sqrt(x.reduce((total, value) => total + value * value, 0) + 1e-6);
  return x.map((value) => value / length);
}
