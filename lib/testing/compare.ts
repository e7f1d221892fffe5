/** Logits beside each other: rows of one number for each token of the vocabulary. */

/** The first place where logits are not what they should be. */
export interface Difference {
  /** Index of the first row that differs. */
  readonly row: number;
  /** Rows that differ. */
  readonly count: number;
  /** Normalised mean squared error over all rows; NaN where a number is none. */
  readonly nmse: number;
}

/** Normalised mean squared error: sum((actual - expected)^2) / sum(expected^2). */
export function nmse(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  let error = 0;
  let power = 0;
  for (let i = 0; i < expected.length; i += 1) {
    const e = expected[i] as number;
    error += ((actual[i] as number) - e) ** 2;
    power += e ** 2;
  }
  if (actual.length !== expected.length) return NaN;
  return error === 0 ? 0 : error / power;
}

/**
 * How rows differ, or undefined where they are equal within `tolerance` (a normalised mean squared error, for all rows
 * together).
 */
export function difference(
  actual: readonly Float32Array[],
  expected: readonly Float32Array[],
  tolerance: number,
): Difference | undefined {
  const total = nmse(flat(actual), flat(expected));
  if (total <= tolerance && actual.length === expected.length) return undefined;
  const differing = expected.flatMap((row, i) => {
    const own = actual[i];
    return own !== undefined && nmse(own, row) <= tolerance ? [] : [i];
  });
  return { row: differing[0] ?? 0, count: differing.length, nmse: total };
}

function flat(rows: readonly Float32Array[]): Float32Array {
  const out = new Float32Array(rows.reduce((sum, row) => sum + row.length, 0));
  let at = 0;
  for (const row of rows) {
    out.set(row, at);
    at += row.length;
  }
  return out;
}

/** A difference as a part of a sentence. */
export function sizeOf({ nmse: error }: Difference): string {
  return Number.isNaN(error) ? "some are NaN" : `NMSE ${error.toExponential(1)}`;
}

/** Uniform numbers from 0 to 1, the same for the same seed (mulberry32). */
export function randomOf(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}
