/** Which earlier positions a memory keeps: all, those less than `size` back, those of the same chunk, or a state. */
export type Extent =
  | { readonly kind: "all" }
  | { readonly kind: "window"; readonly size: number }
  | { readonly kind: "chunk"; readonly size: number }
  | { readonly kind: "state" };

/** From where a kept memory can be resumed: at any prefix, where a window's tail is held, at its exact position. */
export type Reuse = "prefix" | "window" | "exact";

/** How a memory goes back by some tokens: by cutting off cells; by a kept state; not at all. */
export type Rollback = "truncate" | "snapshot" | "none";

/** A named tensor of a memory, for one cell. */
export interface MemoryTensor {
  /** Elements, fastest first (ggml's order). */
  readonly shape: readonly number[];
  /** "kv" is the type that the user chose for keys and values. */
  readonly dtype: "f32" | "kv";
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
  readonly valueDim: number;
}

/** Named states of fixed size, one cell a sequence. */
export interface RecurrentMemory extends MemoryProperties {
  readonly kind: "recurrent";
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
  /** Elements of one head's value. */
  readonly valueDim: number;
  /** Sliding window: a token sees the last `window` positions, its own included. */
  readonly window?: number | undefined;
  /** Chunks: a token sees the positions of its own chunk of this many. */
  readonly chunk?: number | undefined;
}

/**
 * Declares keys and values of `heads` heads. Without `window` or `chunk` every earlier position is kept.
 * Its cells can be reused from any prefix (a window: while its tail is held) and cut off at the end.
 */
export function attention(options: AttentionOptions): AttentionMemory {
  const { heads, keyDim, valueDim, window, chunk } = options;
  const extent: Extent =
    window !== undefined
      ? { kind: "window", size: window }
      : chunk !== undefined
        ? { kind: "chunk", size: chunk }
        : { kind: "all" };
  return {
    kind: "attention",
    extent,
    reuse: extent.kind === "all" ? "prefix" : "window",
    rollback: "truncate",
    heads,
    keyDim,
    valueDim,
    tensors: {
      keys: { shape: [keyDim, heads], dtype: "kv" },
      values: { shape: [valueDim, heads], dtype: "kv" },
    },
  };
}

/**
 * Declares named states by their shapes (ggml order, fastest first), for example
 * `recurrent({ conv: [channels, taps - 1], ssm: [stateSize, headDim, heads] })`. States are f32. They stand for exactly
 * one position and can be resumed only there.
 */
export function recurrent(states: Readonly<Record<string, readonly number[]>>): RecurrentMemory {
  const tensors = Object.fromEntries(
    Object.entries(states).map(([name, shape]) => [name, { shape, dtype: "f32" }] as const),
  );
  return { kind: "recurrent", extent: { kind: "state" }, reuse: "exact", rollback: "none", tensors };
}

/** Declares that a layer reads the memory `name` of an earlier layer instead of keeping its own. */
export function shared(layer: number, name: string): SharedMemory {
  return { kind: "shared", layer, name };
}
