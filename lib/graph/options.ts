/** What the operations of `Graph` are told beside tensors. */
import type { RopeMode } from "../native/abi.ts";
import type { ScanShape } from "../native/graph.ts";
import type { RopeScaling } from "./rope.ts";
import type { Operand } from "./tensor.ts";

export interface RopeOptions extends RopeScaling {
  /** Elements of each head that are rotated, from the first. Default: all. */
  readonly dims?: number;
  /** "normal" rotates neighbours (2i, 2i + 1), "neox" rotates i with i + dims / 2. */
  readonly mode: keyof typeof RopeMode;
  /** Divides each frequency, `[dims / 2]` (llama3 scaling). */
  readonly factors?: Operand | undefined;
}

export interface AttendOptions {
  /** `[keyDim, heads, rows]` */
  readonly queries: Operand;
  /** `[keyDim, kvHeads, rows]`; left out where the memory is only read. */
  readonly keys?: Operand;
  /** `[valueDim, kvHeads, rows]` */
  readonly values?: Operand;
  /** Multiplies the products of queries and keys. Default 1 / sqrt(keyDim). */
  readonly scale?: number;
  /** Caps the products at ±softcap by tanh. Default: no cap. */
  readonly softcap?: number;
  /** Of a memory of keys without values: so many elements of a key, from its beginning, are the value. */
  readonly valueDim?: number;
}

export interface ConvolveOptions {
  /** Name of the state that holds the last inputs, `[channels, taps - 1]`. */
  readonly state: string;
  /** `[taps, channels]` */
  readonly weight: Operand;
  /** `[channels]` */
  readonly bias?: Operand | undefined;
  /** Applies SiLU to the result. */
  readonly silu?: boolean;
}

export interface ScanOptions extends ScanShape {
  /** Name of the state, `[stateSize, headDim, heads]`. */
  readonly state: string;
  /** `[headDim * heads, rows]` */
  readonly x: Operand;
  /** `[heads, rows]`, before bias and softplus. */
  readonly dt: Operand;
  /** `[heads]` */
  readonly dtBias?: Operand | undefined;
  /** `[heads]`, negative: already -exp(A_log). */
  readonly a: Operand;
  /** `[stateSize * groups, rows]` */
  readonly b: Operand;
  /** `[stateSize * groups, rows]` */
  readonly c: Operand;
  /** `[heads]`, the skip. */
  readonly d?: Operand | undefined;
}

export interface ScanMamba1Options {
  /** Name of the state, `[stateSize, channels]`. */
  readonly state: string;
  /** `[channels, rows]` */
  readonly x: Operand;
  /** `[channels, rows]`, before bias and softplus. */
  readonly dt: Operand;
  /** `[channels]` */
  readonly dtBias?: Operand | undefined;
  /** `[stateSize, channels]`, negative: already -exp(A_log). */
  readonly a: Operand;
  /** `[stateSize, rows]` */
  readonly b: Operand;
  /** `[stateSize, rows]` */
  readonly c: Operand;
  /** `[channels]`, the skip. */
  readonly d?: Operand | undefined;
}

/** Sizes times heads may also be two dimensions, `[keyDim, keyHeads, rows]`, with a token's heads next to each other. */
export interface DeltaNetOptions {
  /** Name of the state, `[keyDim, valueDim, valueHeads]`. */
  readonly state: string;
  readonly keyDim: number;
  readonly valueDim: number;
  readonly keyHeads: number;
  /** A multiple of `keyHeads`. */
  readonly valueHeads: number;
  /** `[keyDim * keyHeads, rows]` */
  readonly q: Operand;
  /** `[keyDim * keyHeads, rows]` */
  readonly k: Operand;
  /** `[valueDim * valueHeads, rows]` */
  readonly v: Operand;
  /** Logarithm of the decay: one a head, `[valueHeads, rows]`, or one a key channel, `[keyDim * valueHeads, rows]`. */
  readonly g: Operand;
  /** `[valueHeads, rows]` */
  readonly beta: Operand;
  /**
   * The key head of value head h: "blocks" is `h / (valueHeads / keyHeads)` (default), "interleaved" is `h % keyHeads`.
   */
  readonly mapping?: "blocks" | "interleaved";
  /** Divides q and k of each head by `sqrt(sum of squares + normalize)`. Default: they are taken as they are. */
  readonly normalize?: number;
  /** `beta` is raw, and its sigmoid is to be taken. Default false. */
  readonly betaSigmoid?: boolean;
  /** Multiplies the result. Default 1 / sqrt(keyDim). */
  readonly scale?: number;
}

/** Rows are `[headSize * heads, rows]`, or `[headSize, heads, rows]` with a token's heads next to each other. */
export interface WkvOptions {
  /** Name of the state, `[headSize, headSize, heads]`. */
  readonly state: string;
  readonly headSize: number;
  readonly heads: number;
  /** The receptance. */
  readonly r: Operand;
  /** The decay of each key channel: a factor, not its logarithm. */
  readonly w: Operand;
  readonly k: Operand;
  readonly v: Operand;
}

export interface Wkv6Options extends WkvOptions {
  /** The bonus of the current token, `[headSize, heads]`. */
  readonly u: Operand;
}

export interface Wkv7Options extends WkvOptions {
  /** What is taken out of the state: the normalised removal key, negated. */
  readonly a: Operand;
  /** Where that goes: the normalised removal key times its learning rate. */
  readonly b: Operand;
}

export interface LinearRecurrenceOptions {
  /** Name of the state, `[channels]`. */
  readonly state: string;
  /** The decay, a factor, `[channels, rows]`. */
  readonly a: Operand;
  /** `[channels, rows]` */
  readonly x: Operand;
}
