import { StrataError } from "../errors.ts";
import { Glu, RopeMode, SortOrder, Type, Unary } from "../native/abi.ts";
import type { GraphFacts, NativeGraph } from "../native/graph.ts";
import { shown } from "../shown.ts";
import { Construction } from "./construction.ts";
import type { LayerHandles, MemoryHandle } from "./memory.ts";
import * as onMemories from "./memory-operations.ts";
import type {
  AttendOptions,
  ConvolveOptions,
  DeltaNetOptions,
  LinearRecurrenceOptions,
  RopeOptions,
  ScanMamba1Options,
  ScanOptions,
  Wkv6Options,
  Wkv7Options,
} from "./options.ts";
import { ropeNumbers } from "./rope.ts";
import { Tensor, Weight, type Operand } from "./tensor.ts";

/** One layer, as `Graph.layers` walks them. */
export interface GraphLayer<W, M> {
  readonly index: number;
  /** Its weights. */
  readonly layer: W;
  /** Its memories by name. */
  readonly memory: M;
  readonly isLast: boolean;
}

/**
 * Builds the graph of one step: `rows` tokens in, logits of `outputs` of them out. Operations carry ggml's names and
 * shapes (fastest dimension first); each checks its operands and throws a `StrataError` that names architecture, layer
 * and operation. The graph is kept and run for every step of the same numbers of rows and outputs, so nothing in it may
 * depend on a step's values.
 */
export class Graph {
  private readonly build: Construction;

  /** For the SDK, which hands a graph to an architecture. */
  constructor(
    native: NativeGraph,
    architecture: string,
    /** Tokens of the step. */
    readonly rows: number,
    /** Tokens whose logits are computed. */
    readonly outputs: number,
    memories: readonly LayerHandles[],
  ) {
    this.build = new Construction(native, architecture, memories);
  }

  // ---- inputs ----

  /** The step's token ids, `[rows]` i32. */
  tokens(): Tensor {
    return this.build.input("tokens", "tokens");
  }

  /** The tokens' positions in their sequences, `[rows]` i32. */
  positions(): Tensor {
    return this.build.input("positions", "positions");
  }

  /** Keeps the rows whose logits are wanted: `[n, rows]` to `[n, outputs]`. Call it before the last layer's MLP. */
  selectOutputs(x: Operand): Tensor {
    if (this.outputs === this.rows) return this.build.tensor("selectOutputs", "x", x);
    return this.getRows(x, this.build.input("selectOutputs", "outputs"));
  }

  /** Walks weights and memories of the layers side by side, so that errors name the layer being built. */
  *layers<W, M>(weights: readonly W[], memories: readonly M[]): Generator<GraphLayer<W, M>> {
    for (const list of [weights, memories]) {
      if (!Array.isArray(list)) throw this.build.error("layers", `${shown(list)} was given, and arrays were expected`);
    }
    if (weights.length !== memories.length) {
      throw this.build.error(
        "layers",
        `${weights.length} layers have weights and ${memories.length} have memories declared`,
      );
    }
    for (const [index, layer] of weights.entries()) {
      this.build.layer = index;
      yield { index, layer, memory: memories[index] as M, isLast: index === weights.length - 1 };
    }
    this.build.layer = undefined;
  }

  // ---- element by element ----

  /** a + b; b is repeated to a's shape. */
  add(a: Operand, b: Operand): Tensor {
    return this.build.operation("add", [a, b]);
  }

  /** a - b; b is repeated to a's shape. */
  sub(a: Operand, b: Operand): Tensor {
    return this.build.operation("sub", [a, b]);
  }

  /** a * b; b is repeated to a's shape. */
  mul(a: Operand, b: Operand): Tensor {
    return this.build.operation("mul", [a, b]);
  }

  /** a / b; b is repeated to a's shape. */
  div(a: Operand, b: Operand): Tensor {
    return this.build.operation("div", [a, b]);
  }

  /** a * factor + bias; a itself where that changes nothing. */
  scale(a: Operand, factor: number, bias = 0): Tensor {
    if (bias !== 0) return this.build.operation("scale_bias", [a], [], [factor, bias]);
    return factor === 1 ? this.build.tensor("scale", "a", a) : this.build.operation("scale", [a], [], [factor]);
  }

  sqr(a: Operand): Tensor {
    return this.build.operation("sqr", [a]);
  }

  sqrt(a: Operand): Tensor {
    return this.build.operation("sqrt", [a]);
  }

  log(a: Operand): Tensor {
    return this.build.operation("log", [a]);
  }

  sin(a: Operand): Tensor {
    return this.build.operation("sin", [a]);
  }

  cos(a: Operand): Tensor {
    return this.build.operation("cos", [a]);
  }

  clamp(a: Operand, min: number, max: number): Tensor {
    return this.build.operation("clamp", [a], [], [min, max]);
  }

  /** A function of one variable: "silu", "gelu", "tanh", "sigmoid", "exp", "softplus", "relu", "neg", ... */
  unary(a: Operand, fn: keyof typeof Unary): Tensor {
    return this.build.operation("unary", [a], [this.build.choose("unary", Unary, fn)]);
  }

  /** act(a) * b, with swiglu = silu, geglu = gelu (tanh), reglu = relu. */
  glu(a: Operand, b: Operand, fn: keyof typeof Glu): Tensor {
    return this.build.operation("glu_split", [a, b], [this.build.choose("glu_split", Glu, fn)]);
  }

  // ---- norms, sums, softmax ----

  /** LayerNorm over the first dimension without weight: (x - mean) / sqrt(variance + eps). */
  norm(a: Operand, eps: number): Tensor {
    return this.build.operation("norm", [a], [], [eps]);
  }

  /** x / sqrt(mean(x^2) + eps) over the first dimension, times `weight` where given. */
  rmsNorm(a: Operand, eps: number, weight?: Operand): Tensor {
    const normed = this.build.operation("rms_norm", [a], [], [eps]);
    return weight === undefined ? normed : this.mul(normed, weight);
  }

  /** x / sqrt(sum(x^2)), at least eps, over the first dimension. */
  l2Norm(a: Operand, eps: number): Tensor {
    return this.build.operation("l2_norm", [a], [], [eps]);
  }

  /** Sums over the first dimension: `[n, ...]` to `[1, ...]`. */
  sumRows(a: Operand): Tensor {
    return this.build.operation("sum_rows", [a]);
  }

  mean(a: Operand): Tensor {
    return this.build.operation("mean", [a]);
  }

  cumsum(a: Operand): Tensor {
    return this.build.operation("cumsum", [a]);
  }

  /** softmax(a * scale + mask) over the first dimension. */
  softMax(a: Operand, options: { mask?: Operand; scale?: number } = {}): Tensor {
    return this.build.operation("soft_max_ext", [a, options.mask], [], [options.scale ?? 1, 0]);
  }

  // ---- products ----

  /** Matrix product: a `[k, n]` (often a weight), b `[k, m]` gives `[n, m]`. */
  mulMat(a: Operand, b: Operand): Tensor {
    return this.build.operation("mul_mat", [a, b]);
  }

  /** For each row, products with the chosen of many matrices: a `[k, n, experts]`, b `[k, used or 1, rows]`, ids `[used, rows]` i32. */
  mulMatId(a: Operand, b: Operand, ids: Operand): Tensor {
    return this.build.operation("mul_mat_id", [a, b, ids]);
  }

  // ---- rows and order ----

  /** Rows of `a` by index: a `[n, rows]`, indices `[m]` i32, gives `[n, m]` f32. */
  getRows(a: Operand, indices: Operand): Tensor {
    return this.build.operation("get_rows", [a, indices]);
  }

  /** `a` with rows replaced: rows `b` `[n, m]` are put where indices `[m]` say, i32 or i64. */
  setRows(a: Operand, b: Operand, indices: Operand): Tensor {
    return this.build.operation("set_rows", [a, b, indices]);
  }

  /** A tensor of a's shape and type, all of one value. */
  fill(a: Operand, value: number): Tensor {
    return this.build.operation("fill", [a], [], [value]);
  }

  /** Positions of the k largest elements of each row, descending: `[k, ...]` i32. */
  argsortTopK(a: Operand, k: number): Tensor {
    return this.build.operation("argsort_top_k", [a], [k]);
  }

  argsort(a: Operand, order: keyof typeof SortOrder): Tensor {
    return this.build.operation("argsort", [a], [this.build.choose("argsort", SortOrder, order)]);
  }

  // ---- shapes ----

  /** The same elements in another shape. */
  reshape(a: Operand, ...shape: readonly number[]): Tensor {
    return this.build.operation("reshape", [a], this.build.four("reshape", shape));
  }

  /**
   * A window onto `a` of `shape`, from byte `offset`. `strides` are the bytes of dimensions 1 to 3; those left out are
   * the tensor's own.
   */
  view(a: Operand, shape: readonly number[], offset = 0, strides: readonly number[] = []): Tensor {
    const own = this.build.tensor("view", "a", a).strides;
    const [n0, n1, n2, n3] = this.build.four("view", shape);
    const [step1 = own[1], step2 = own[2], step3 = own[3]] = strides;
    // Of one element a stride says nothing, and a large tensor's is too long to be said.
    const nb = [n1 === 1 ? 0 : step1, n2 === 1 ? 0 : step2, n3 === 1 ? 0 : step3] as const;
    return this.build.operation("view", [a], [n0, n1, n2, n3, nb[0], nb[1], nb[2], offset]);
  }

  /** Elements `[from, from + count)` of the first dimension, as a view. */
  slice(a: Operand, from: number, count: number): Tensor {
    const tensor = this.build.tensor("view", "a", a);
    const { shape, strides } = tensor;
    return this.view(tensor, [count, shape[1], shape[2], shape[3]], from * strides[0]);
  }

  /** Dimension i becomes dimension axes[i]. */
  permute(a: Operand, ...axes: readonly [number, number, number, number]): Tensor {
    return this.build.operation("permute", [a], axes);
  }

  transpose(a: Operand): Tensor {
    return this.build.operation("transpose", [a]);
  }

  /** A contiguous copy. */
  cont(a: Operand): Tensor {
    return this.build.operation("cont", [a]);
  }

  cast(a: Operand, type: keyof typeof Type): Tensor {
    return this.build.operation("cast", [a], [this.build.choose("cast", Type, type)]);
  }

  concat(a: Operand, b: Operand, dim: number): Tensor {
    return this.build.operation("concat", [a, b], [dim]);
  }

  /** Repeats `a` to a shape whose every dimension is a multiple of its own. */
  repeat(a: Operand, ...shape: readonly number[]): Tensor {
    return this.build.operation("repeat_4d", [a], this.build.four("repeat_4d", shape));
  }

  /** Appends zeros. */
  pad(a: Operand, ...counts: readonly number[]): Tensor {
    if (counts.length > 4)
      throw this.build.error("pad", `[${counts.join(", ")}] has ${counts.length} dimensions, of at most 4`);
    return this.build.operation(
      "pad",
      [a],
      [0, 1, 2, 3].map((i) => counts[i] ?? 0),
    );
  }

  // ---- position ----

  /** Rotary embedding of `a` `[headDim, heads, rows]` at the step's positions (RoFormer, arXiv:2104.09864). */
  rope(a: Operand, options: RopeOptions): Tensor {
    const dims = options.dims ?? this.build.tensor("rope_ext", "a", a).shape[0];
    const mode = this.build.choose("rope_ext", RopeMode, options.mode);
    const { context, floats } = ropeNumbers(options);
    return this.build.operation("rope_ext", [a, this.positions(), options.factors], [dims, mode, context], floats);
  }

  // ---- memories ----

  /**
   * Stores keys and values in the memory and lets every token attend to what its sequence holds there, itself
   * included; with keys left out the memory is only read. The result is `[valueDim, heads, rows]`.
   */
  attend(memory: MemoryHandle, options: AttendOptions): Tensor {
    return onMemories.attend(this.build, memory, options);
  }

  /**
   * Depthwise causal convolution of `x` `[channels, rows]` over each sequence's time; the state carries the last inputs.
   * The result is `[channels, rows]`.
   */
  convolve(memory: MemoryHandle, x: Operand, options: ConvolveOptions): Tensor {
    return onMemories.convolve(this.build, memory, x, options);
  }

  /** The Mamba-2 selective scan (arXiv:2405.21060), skip included. The result is `[headDim * heads, rows]`. */
  scan(memory: MemoryHandle, options: ScanOptions): Tensor {
    return onMemories.scan(this.build, memory, options);
  }

  /**
   * The Mamba-1 selective scan (arXiv:2312.00752), where every number of the state has its own decay; skip included. The
   * result is `[channels, rows]`.
   */
  scanMamba1(memory: MemoryHandle, options: ScanMamba1Options): Tensor {
    return onMemories.scanMamba1(this.build, memory, options);
  }

  /**
   * The gated delta rule (arXiv:2412.06464; with a decay per key channel arXiv:2510.26692). Per value head, with the state
   * `S` of keys by values: `S = diag(exp(g)) S`, `S = S + k (outer) beta (v - S^T k)`, `y = scale S^T q`. The result is
   * `[valueDim * valueHeads, rows]`.
   */
  deltaNet(memory: MemoryHandle, options: DeltaNetOptions): Tensor {
    return onMemories.deltaNet(this.build, memory, options);
  }

  /**
   * The time mixing of RWKV-6 (arXiv:2404.05892). Per head, with the state `S` of keys by values:
   * `y = r^T (S + diag(u) k v^T)`, then `S = diag(w) S + k v^T`. The result is `[headSize * heads, rows]`.
   */
  wkv6(memory: MemoryHandle, options: Wkv6Options): Tensor {
    return onMemories.wkv6(this.build, memory, options);
  }

  /**
   * The time mixing of RWKV-7 (arXiv:2503.14456). Per head, with the state `S` of values by keys:
   * `S = S diag(w) + (S a) b^T + v k^T`, then `y = S r`. The result is `[headSize * heads, rows]`.
   */
  wkv7(memory: MemoryHandle, options: Wkv7Options): Tensor {
    return onMemories.wkv7(this.build, memory, options);
  }

  /** `h = a h + x` for every channel, as in the RG-LRU (arXiv:2402.19427). The result is h, `[channels, rows]`. */
  linearRecurrence(memory: MemoryHandle, options: LinearRecurrenceOptions): Tensor {
    return onMemories.linearRecurrence(this.build, memory, options);
  }

  /**
   * Every row of `x` `[channels, rows]` is replaced by the one before it in its sequence, the first by zeros (the token
   * shift of RWKV). State `state`, `[channels]`, carries the last row.
   */
  previous(memory: MemoryHandle, x: Operand, options: { readonly state: string }): Tensor {
    return onMemories.previous(this.build, memory, x, options.state);
  }

  // ---- for the SDK ----

  /** What is being built, for error sentences. */
  get place(): string {
    return this.build.place;
  }

  /** A number that graphs of the same operations have in common. */
  get operations(): number {
    return this.build.fingerprint.value;
  }

  /** Ends the building: `logits` is what the architecture's function returned. From here on the graph cannot be used. */
  finish(logits: unknown, vocabulary: number): GraphFacts {
    this.build.layer = undefined;
    const { number } = this.checkLogits(logits, vocabulary);
    const mistake = this.build.uses.missing();
    if (mistake !== undefined) throw new StrataError("invalid_argument", `${this.build.architecture}, ${mistake}`);
    this.build.close();
    try {
      return this.build.native.finish(number);
    } catch (error) {
      throw this.build.explained("graph", error);
    }
  }

  /** Ends the building without a graph. */
  abandon(): void {
    this.build.close();
    this.build.native.abandon();
  }

  private checkLogits(logits: unknown, vocabulary: number): Tensor {
    const expected = `the graph must give logits of the shape [${vocabulary}, ${this.outputs}] (vocabulary, outputs) in f32`;
    if (!(logits instanceof Tensor)) {
      const what = logits instanceof Weight ? `the weight "${logits.name}"` : shown(logits);
      throw this.build.error("graph", `${expected}; it returned ${what}`);
    }
    if (!logits.isOf(this.build)) throw this.build.error("graph", `${expected}; it returned a tensor of another graph`);
    const [first, second, third, fourth] = logits.shape;
    const isRight = first === vocabulary && second === this.outputs && third === 1 && fourth === 1;
    if (isRight && logits.type === "f32") return logits;
    throw this.build.error(
      "graph",
      `${expected}, not ${logits.toString()}${logitsHint(logits, this.rows, this.outputs)}`,
    );
  }
}

function logitsHint(logits: Tensor, rows: number, outputs: number): string {
  return rows !== outputs && logits.shape[1] === rows ? "; selectOutputs keeps the rows whose logits are wanted" : "";
}
