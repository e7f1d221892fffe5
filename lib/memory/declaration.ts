import { StrataError } from "../errors.ts";

/**
 * Which earlier positions a memory keeps: all, those less than `size` back, those of the same chunk, those no further
 * than half of `size` away, or a state.
 */
export type Extent =
  | { readonly kind: "all" }
  | { readonly kind: "window"; readonly size: number }
  | { readonly kind: "chunk"; readonly size: number }
  | { readonly kind: "symmetric"; readonly size: number }
  | { readonly kind: "state" };

/** From where a kept memory can be resumed: at any prefix, where a window's tail is held, at its exact position. */
export type Reuse = "prefix" | "window" | "exact";

/**
 * How a memory goes back by some tokens: by cutting off cells; by computing a state again from what its tokens put in; by
 * kept states; not at all.
 */
export type Rollback = "truncate" | "replay" | "snapshot" | "none";

/** A named tensor of a memory, for one cell. */
export interface MemoryTensor {
  /** Elements, fastest first (ggml's order). */
  readonly shape: readonly number[];
  /** "kv" is the type that the user chose for keys and values. */
  readonly dtype: "f32" | "f16" | "kv";
}

interface MemoryProperties {
  readonly extent: Extent;
  readonly reuse: Reuse;
  readonly rollback: Rollback;
  readonly tensors: Readonly<Record<string, MemoryTensor>>;
}

/** Keys and values, one cell a position. */
export interface AttentionMemory extends MemoryProperties {
  readonly kind: "attention";
  readonly heads: number;
  readonly keyDim: number;
  /** 0: values are parts of the keys. */
  readonly valueDim: number;
}

/** Named states of fixed size, one cell a sequence. */
export interface RecurrentMemory extends MemoryProperties {
  readonly kind: "recurrent";
  /** Numbers a token that the memory's operations take in; 0: they cannot be computed again. */
  readonly inputs: number;
}

/** What one layer remembers under one name; plain data. */
export type MemoryRecord = AttentionMemory | RecurrentMemory;

/** Another layer's memory, read and not written. */
export interface SharedMemory {
  readonly kind: "shared";
  /** The layer that owns the memory. */
  readonly layer: number;
  readonly name: string;
}

/** The memories of one layer by name; a layer may have none. A name that is `undefined` is one it does not have. */
export type LayerMemory = Readonly<Record<string, MemoryRecord | SharedMemory | undefined>>;

export interface AttentionOptions {
  /** Key and value heads. */
  readonly heads: number;
  /** Elements of one head's key. */
  readonly keyDim: number;
  /** Elements of one head's value. Left out: keys without values, whose beginnings serve as values. */
  readonly valueDim?: number | undefined;
  /** Sliding window: a token sees the last `window` positions, its own included. */
  readonly window?: number | undefined;
  /** Chunks: a token sees the positions of its own chunk of this many. */
  readonly chunk?: number | undefined;
  /** Symmetric window: a token sees positions no further than half of this away, of those computed so far. */
  readonly symmetric?: number | undefined;
}

/**
 * Declares keys and values of `heads` heads. Without `window`, `chunk` or `symmetric` every earlier position is kept.
 * Its cells can be reused from any prefix (a window: while its tail is held) and cut off at the end.
 */
export function attention(options: AttentionOptions): AttentionMemory {
  const { heads, keyDim, valueDim = 0 } = options;
  const extent = extentOf(options);
  const keys = { shape: [keyDim, heads], dtype: "kv" } as const;
  return {
    kind: "attention",
    extent,
    reuse: extent.kind === "all" ? "prefix" : "window",
    rollback: "truncate",
    heads,
    keyDim,
    valueDim,
    tensors: valueDim === 0 ? { keys } : { keys, values: { shape: [valueDim, heads], dtype: "kv" } },
  };
}

function extentOf({ window, chunk, symmetric }: AttentionOptions): Extent {
  const given = Object.entries({ window, chunk, symmetric }).filter(([, size]) => size !== undefined);
  if (given.length > 1) {
    const names = given.map(([name]) => name).join(" and ");
    throw new StrataError("invalid_argument", `attention was declared with ${names}; a memory has one extent`);
  }
  if (window !== undefined) return { kind: "window", size: window };
  if (chunk !== undefined) return { kind: "chunk", size: chunk };
  return symmetric === undefined ? { kind: "all" } : { kind: "symmetric", size: symmetric };
}

/** A state by its shape (ggml order, fastest first), or with its element type: f16 is for a convolution's inputs. */
export type StateSpec = readonly number[] | { readonly shape: readonly number[]; readonly dtype: "f32" | "f16" };

export interface RecurrentOptions {
  /**
   * Numbers a token that the operations on these states take in: of `convolve` and `previous` the channels; of
   * `linearRecurrence` twice those; of `scan`, `scanMamba1`, `deltaNet`, `wkv6` and `wkv7` what they are given, less q, r, C
   * and what is a slice of a convolution's result on the same memory. With it, taking tokens back needs one state and a
   * log instead of a state for each. A wrong count is refused, with the right one.
   */
  readonly inputs?: number | undefined;
}

/**
 * Declares named states by their shapes (ggml order, fastest first), for example
 * `recurrent({ conv: [channels, taps - 1], ssm: [stateSize, headDim, heads] })`. They stand for exactly one position and
 * can be resumed only there.
 */
export function recurrent(
  states: Readonly<Record<string, StateSpec>>,
  options: RecurrentOptions = {},
): RecurrentMemory {
  const tensors = Object.fromEntries(
    Object.entries(states).map(([name, state]): [string, MemoryTensor] => [
      name,
      "shape" in state ? { shape: state.shape, dtype: state.dtype } : { shape: state, dtype: "f32" },
    ]),
  );
  const { inputs = 0 } = options;
  const rollback = inputs > 0 ? "replay" : "snapshot";
  return { kind: "recurrent", extent: { kind: "state" }, reuse: "exact", rollback, inputs, tensors };
}

/** Declares that a layer reads the memory `name` of an earlier layer instead of keeping its own. */
export function shared(layer: number, name: string): SharedMemory {
  return { kind: "shared", layer, name };
}
