import { StrataError } from "../errors.ts";
import { Glu, RopeMode, SortOrder, Type, Unary } from "../native/abi.ts";
import type { NativeGraph, OperationName, ScanShape, TensorFacts } from "../native/graph.ts";
import type { MemoryHandle } from "./memory.ts";
import { Tensor, Weight, type Operand } from "./tensor.ts";

export interface RopeOptions {
  /** Elements of each head that are rotated, from the first. Default: all. */
  readonly dims?: number;
  /** "normal" rotates neighbours (2i, 2i + 1), "neox" rotates i with i + dims / 2. */
  readonly mode: keyof typeof RopeMode;
  /** Base of the frequencies. */
  readonly base: number;
  /** Multiplies positions: 1 / factor for linear scaling. Default 1. */
  readonly scale?: number;
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
interface WkvOptions {
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
  /** The layer being built, for error sentences; `layers` sets it. */
  private layer: number | undefined;
  private readonly weights = new Map<Weight, Tensor>();

  constructor(
    private readonly native: NativeGraph,
    private readonly architecture: string,
    /** Tokens of the step. */
    readonly rows: number,
    /** Tokens whose logits are computed. */
    readonly outputs: number,
  ) {}

  // ---- inputs ----

  /** The step's token ids, `[rows]` i32. */
  tokens(): Tensor {
    return this.make("tokens", () => this.native.input("tokens"));
  }

  /** The tokens' positions in their sequences, `[rows]` i32. */
  positions(): Tensor {
    return this.make("positions", () => this.native.input("positions"));
  }

  /** Keeps the rows whose logits are wanted: `[n, rows]` to `[n, outputs]`. Call it before the last layer's MLP. */
  selectOutputs(x: Operand): Tensor {
    if (this.outputs === this.rows) return this.tensor(x);
    return this.getRows(
      x,
      this.make("selectOutputs", () => this.native.input("outputs")),
    );
  }

  /** Walks weights and memories of the layers side by side, so that errors name the layer being built. */
  *layers<W, M>(weights: readonly W[], memories: readonly M[]): Generator<GraphLayer<W, M>> {
    if (weights.length !== memories.length) {
      throw this.error("layers", `${weights.length} layers have weights and ${memories.length} have memories declared`);
    }
    for (const [index, layer] of weights.entries()) {
      this.layer = index;
      yield { index, layer, memory: memories[index] as M, isLast: index === weights.length - 1 };
    }
    this.layer = undefined;
  }

  // ---- element by element ----

  /** a + b; b is repeated to a's shape. */
  add(a: Operand, b: Operand): Tensor {
    return this.op("add", [a, b]);
  }

  /** a - b; b is repeated to a's shape. */
  sub(a: Operand, b: Operand): Tensor {
    return this.op("sub", [a, b]);
  }

  /** a * b; b is repeated to a's shape. */
  mul(a: Operand, b: Operand): Tensor {
    return this.op("mul", [a, b]);
  }

  /** a / b; b is repeated to a's shape. */
  div(a: Operand, b: Operand): Tensor {
    return this.op("div", [a, b]);
  }

  /** a * factor + bias; a itself where that changes nothing. */
  scale(a: Operand, factor: number, bias = 0): Tensor {
    if (bias !== 0) return this.op("scale_bias", [a], [], [factor, bias]);
    return factor === 1 ? this.tensor(a) : this.op("scale", [a], [], [factor]);
  }

  sqr(a: Operand): Tensor {
    return this.op("sqr", [a]);
  }

  sqrt(a: Operand): Tensor {
    return this.op("sqrt", [a]);
  }

  log(a: Operand): Tensor {
    return this.op("log", [a]);
  }

  sin(a: Operand): Tensor {
    return this.op("sin", [a]);
  }

  cos(a: Operand): Tensor {
    return this.op("cos", [a]);
  }

  clamp(a: Operand, min: number, max: number): Tensor {
    return this.op("clamp", [a], [], [min, max]);
  }

  /** A function of one variable: "silu", "gelu", "tanh", "sigmoid", "exp", "softplus", "relu", "neg", ... */
  unary(a: Operand, fn: keyof typeof Unary): Tensor {
    return this.op("unary", [a], [Unary[fn]]);
  }

  /** act(a) * b, with swiglu = silu, geglu = gelu (tanh), reglu = relu. */
  glu(a: Operand, b: Operand, fn: keyof typeof Glu): Tensor {
    return this.op("glu_split", [a, b], [Glu[fn]]);
  }

  // ---- norms, sums, softmax ----

  /** LayerNorm over the first dimension without weight: (x - mean) / sqrt(variance + eps). */
  norm(a: Operand, eps: number): Tensor {
    return this.op("norm", [a], [], [eps]);
  }

  /** x / sqrt(mean(x^2) + eps) over the first dimension, times `weight` where given. */
  rmsNorm(a: Operand, eps: number, weight?: Operand): Tensor {
    const normed = this.op("rms_norm", [a], [], [eps]);
    return weight === undefined ? normed : this.mul(normed, weight);
  }

  /** x / sqrt(sum(x^2)), at least eps, over the first dimension. */
  l2Norm(a: Operand, eps: number): Tensor {
    return this.op("l2_norm", [a], [], [eps]);
  }

  /** Sums over the first dimension: `[n, ...]` to `[1, ...]`. */
  sumRows(a: Operand): Tensor {
    return this.op("sum_rows", [a]);
  }

  mean(a: Operand): Tensor {
    return this.op("mean", [a]);
  }

  cumsum(a: Operand): Tensor {
    return this.op("cumsum", [a]);
  }

  /** softmax(a * scale + mask) over the first dimension. */
  softMax(a: Operand, options: { mask?: Operand; scale?: number } = {}): Tensor {
    return this.op("soft_max_ext", [a, options.mask], [], [options.scale ?? 1, 0]);
  }

  // ---- products ----

  /** Matrix product: a `[k, n]` (often a weight), b `[k, m]` gives `[n, m]`. */
  mulMat(a: Operand, b: Operand): Tensor {
    return this.op("mul_mat", [a, b]);
  }

  /** For each row, products with the chosen of many matrices: a `[k, n, experts]`, b `[k, used or 1, rows]`, ids `[used, rows]` i32. */
  mulMatId(a: Operand, b: Operand, ids: Operand): Tensor {
    return this.op("mul_mat_id", [a, b, ids]);
  }

  // ---- rows and order ----

  /** Rows of `a` by index: a `[n, rows]`, indices `[m]` i32, gives `[n, m]` f32. */
  getRows(a: Operand, indices: Operand): Tensor {
    return this.op("get_rows", [a, indices]);
  }

  /** `a` with rows replaced: rows `b` `[n, m]` are put where indices `[m]` say, i32 or i64. */
  setRows(a: Operand, b: Operand, indices: Operand): Tensor {
    return this.op("set_rows", [a, b, indices]);
  }

  /** A tensor of a's shape and type, all of one value. */
  fill(a: Operand, value: number): Tensor {
    return this.op("fill", [a], [], [value]);
  }

  /** Positions of the k largest elements of each row, descending: `[k, ...]` i32. */
  argsortTopK(a: Operand, k: number): Tensor {
    return this.op("argsort_top_k", [a], [k]);
  }

  argsort(a: Operand, order: keyof typeof SortOrder): Tensor {
    return this.op("argsort", [a], [SortOrder[order]]);
  }

  // ---- shapes ----

  /** The same elements in another shape. */
  reshape(a: Operand, ...shape: readonly number[]): Tensor {
    return this.op("reshape", [a], four(shape));
  }

  /**
   * A window onto `a` of `shape`, from byte `offset`. `strides` are the bytes of dimensions 1 to 3; those left out are
   * the tensor's own.
   */
  view(a: Operand, shape: readonly number[], offset = 0, strides: readonly number[] = []): Tensor {
    const own = this.tensor(a).strides;
    const nb = [strides[0] ?? own[1], strides[1] ?? own[2], strides[2] ?? own[3]];
    return this.op("view", [a], [...four(shape), ...nb, offset]);
  }

  /** Elements `[from, from + count)` of the first dimension, as a view. */
  slice(a: Operand, from: number, count: number): Tensor {
    const tensor = this.tensor(a);
    const [, ...rest] = tensor.shape;
    return this.view(tensor, [count, ...rest], from * tensor.strides[0]);
  }

  /** Dimension i becomes dimension axes[i]. */
  permute(a: Operand, ...axes: readonly [number, number, number, number]): Tensor {
    return this.op("permute", [a], axes);
  }

  transpose(a: Operand): Tensor {
    return this.op("transpose", [a]);
  }

  /** A contiguous copy. */
  cont(a: Operand): Tensor {
    return this.op("cont", [a]);
  }

  cast(a: Operand, type: keyof typeof Type): Tensor {
    return this.op("cast", [a], [Type[type]]);
  }

  concat(a: Operand, b: Operand, dim: number): Tensor {
    return this.op("concat", [a, b], [dim]);
  }

  /** Repeats `a` to a shape whose every dimension is a multiple of its own. */
  repeat(a: Operand, ...shape: readonly number[]): Tensor {
    return this.op("repeat_4d", [a], four(shape));
  }

  /** Appends zeros. */
  pad(a: Operand, ...counts: readonly number[]): Tensor {
    return this.op(
      "pad",
      [a],
      [0, 1, 2, 3].map((i) => counts[i] ?? 0),
    );
  }

  // ---- position ----

  /** Rotary embedding of `a` `[headDim, heads, rows]` at the step's positions (RoFormer, arXiv:2104.09864). */
  rope(a: Operand, options: RopeOptions): Tensor {
    const { mode, base, scale = 1, factors } = options;
    const dims = options.dims ?? this.tensor(a).shape[0];
    const floats = [base, scale, 0, 1, 32, 1];
    return this.op("rope_ext", [a, this.positions(), factors], [dims, RopeMode[mode], 0], floats);
  }

  // ---- memories ----

  /**
   * Stores keys and values in the memory and lets every token attend to what its sequence holds there, itself
   * included; with keys left out the memory is only read. The result is `[valueDim, heads, rows]`.
   */
  attend(memory: MemoryHandle, options: AttendOptions): Tensor {
    const { record } = memory;
    if (record.kind !== "attention") {
      throw this.error("attend", `the memory "${memory.name}" is ${record.kind}, and attention was expected`);
    }
    const { queries, keys, values, scale = 1 / Math.sqrt(record.keyDim), softcap = 0, valueDim = 0 } = options;
    if (memory.isShared && keys !== undefined) {
      throw this.error("attend", `the memory "${memory.name}" is another layer's, and can only be read`);
    }
    const operands = { queries: this.number(queries), keys: this.number(keys), values: this.number(values) };
    return this.make("attend", () => this.native.attend(memory.number, operands, { scale, softcap, valueDim }));
  }

  /**
   * Depthwise causal convolution of `x` `[channels, rows]` over each sequence's time; the state carries the last inputs.
   * The result is `[channels, rows]`.
   */
  convolve(memory: MemoryHandle, x: Operand, options: ConvolveOptions): Tensor {
    const state = this.state("convolve", memory, options.state);
    const input = this.number(x);
    const weight = this.number(options.weight);
    const bias = this.number(options.bias);
    const { silu = false } = options;
    return this.make("convolve", () => this.native.convolve(memory.number, state, input, weight, bias, silu));
  }

  /** The Mamba-2 selective scan (arXiv:2405.21060), skip included. The result is `[headDim * heads, rows]`. */
  scan(memory: MemoryHandle, options: ScanOptions): Tensor {
    const operands = {
      memory: memory.number,
      state: this.state("scan", memory, options.state),
      x: this.number(options.x),
      dt: this.number(options.dt),
      dtBias: this.number(options.dtBias),
      a: this.number(options.a),
      b: this.number(options.b),
      c: this.number(options.c),
      d: this.number(options.d),
    };
    return this.make("scan", () => this.native.scan(operands, options));
  }

  /**
   * The Mamba-1 selective scan (arXiv:2312.00752), where every number of the state has its own decay; skip included. The
   * result is `[channels, rows]`.
   */
  scanMamba1(memory: MemoryHandle, options: ScanMamba1Options): Tensor {
    const operands = {
      memory: memory.number,
      state: this.state("scanMamba1", memory, options.state),
      x: this.number(options.x),
      dt: this.number(options.dt),
      dtBias: this.number(options.dtBias),
      a: this.number(options.a),
      b: this.number(options.b),
      c: this.number(options.c),
      d: this.number(options.d),
    };
    return this.make("scanMamba1", () => this.native.scanMamba1(operands));
  }

  /**
   * The gated delta rule (arXiv:2412.06464; with a decay per key channel arXiv:2510.26692). Per value head, with the state
   * `S` of keys by values: `S = diag(exp(g)) S`, `S = S + k (outer) beta (v - S^T k)`, `y = scale S^T q`. The result is
   * `[valueDim * valueHeads, rows]`.
   */
  deltaNet(memory: MemoryHandle, options: DeltaNetOptions): Tensor {
    const { keyDim, valueDim, keyHeads, valueHeads, mapping = "blocks", betaSigmoid = false } = options;
    const operands = {
      memory: memory.number,
      state: this.state("deltaNet", memory, options.state),
      q: this.number(options.q),
      k: this.number(options.k),
      v: this.number(options.v),
      g: this.number(options.g),
      beta: this.number(options.beta),
      ...{ keyDim, valueDim, keyHeads, valueHeads },
      interleaved: mapping === "interleaved" ? 1 : 0,
      betaSigmoid: betaSigmoid ? 1 : 0,
      scale: options.scale ?? 1 / Math.sqrt(keyDim),
      normalize: options.normalize ?? -1,
    };
    return this.make("deltaNet", () => this.native.deltaNet(operands));
  }

  /**
   * The time mixing of RWKV-6 (arXiv:2404.05892). Per head, with the state `S` of keys by values:
   * `y = r^T (S + diag(u) k v^T)`, then `S = diag(w) S + k v^T`. The result is `[headSize * heads, rows]`.
   */
  wkv6(memory: MemoryHandle, options: Wkv6Options): Tensor {
    const operands = { ...this.wkvOperands("wkv6", memory, options), u: this.number(options.u) };
    return this.make("wkv6", () => this.native.wkv6(operands));
  }

  /**
   * The time mixing of RWKV-7 (arXiv:2503.14456). Per head, with the state `S` of values by keys:
   * `S = S diag(w) + (S a) b^T + v k^T`, then `y = S r`. The result is `[headSize * heads, rows]`.
   */
  wkv7(memory: MemoryHandle, options: Wkv7Options): Tensor {
    const removal = { a: this.number(options.a), b: this.number(options.b) };
    const operands = { ...this.wkvOperands("wkv7", memory, options), ...removal };
    return this.make("wkv7", () => this.native.wkv7(operands));
  }

  private wkvOperands(operation: string, memory: MemoryHandle, options: WkvOptions) {
    return {
      memory: memory.number,
      state: this.state(operation, memory, options.state),
      r: this.number(options.r),
      w: this.number(options.w),
      k: this.number(options.k),
      v: this.number(options.v),
      headSize: options.headSize,
      heads: options.heads,
    };
  }

  /** `h = a h + x` for every channel, as in the RG-LRU (arXiv:2402.19427). The result is h, `[channels, rows]`. */
  linearRecurrence(memory: MemoryHandle, options: LinearRecurrenceOptions): Tensor {
    const state = this.state("linearRecurrence", memory, options.state);
    const a = this.number(options.a);
    const x = this.number(options.x);
    return this.make("linearRecurrence", () => this.native.linearRecurrence(memory.number, state, a, x));
  }

  /**
   * Every row of `x` `[channels, rows]` is replaced by the one before it in its sequence, the first by zeros (the token
   * shift of RWKV). State `state`, `[channels]`, carries the last row.
   */
  previous(memory: MemoryHandle, x: Operand, options: { readonly state: string }): Tensor {
    const state = this.state("previous", memory, options.state);
    const input = this.number(x);
    return this.make("previous", () => this.native.previous(memory.number, state, input));
  }

  private state(operation: string, memory: MemoryHandle, name: string): number {
    if (memory.record.kind === "recurrent" && !memory.isShared) {
      const index = Object.keys(memory.record.tensors).indexOf(name);
      if (index >= 0) return index;
    }
    throw this.error(operation, `the memory "${memory.name}" has no state "${name}" of its own`);
  }

  // ---- underneath ----

  private tensor(operand: Operand): Tensor {
    if (operand instanceof Tensor) return operand;
    let tensor = this.weights.get(operand);
    if (tensor === undefined) {
      tensor = new Tensor(this.native.weight(operand.number));
      this.weights.set(operand, tensor);
    }
    return tensor;
  }

  private number(operand: Operand | undefined): number {
    return operand === undefined ? -1 : this.tensor(operand).number;
  }

  private op(
    name: OperationName,
    operands: readonly (Operand | undefined)[],
    ints: readonly number[] = [],
    floats: readonly number[] = [],
  ): Tensor {
    const tensors = operands.map((operand) => this.number(operand));
    return this.make(name, () => this.native.operation(name, tensors, ints, floats));
  }

  private make(operation: string, build: () => TensorFacts): Tensor {
    try {
      return new Tensor(build());
    } catch (error) {
      throw error instanceof StrataError ? this.error(operation, error.message, error) : error;
    }
  }

  private error(operation: string, sentence: string, cause?: StrataError): StrataError {
    const where = this.layer === undefined ? this.architecture : `${this.architecture}, layer ${this.layer}`;
    const text = sentence.startsWith(`${operation}: `) ? sentence : `${operation}: ${sentence}`;
    return new StrataError(cause?.code ?? "invalid_argument", `${where}: ${text}`, { cause });
  }
}

function four(shape: readonly number[]): [number, number, number, number] {
  return [shape[0] ?? 1, shape[1] ?? 1, shape[2] ?? 1, shape[3] ?? 1];
}
