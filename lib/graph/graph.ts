import { StrataError } from "../errors.ts";
import { Glu, RopeMode, SortOrder, Type, Unary } from "../native/abi.ts";
import type { GraphFacts, NativeGraph, OperationName, TensorFacts } from "../native/graph.ts";
import { isWhole, shown } from "../shown.ts";
import { Fingerprint } from "./fingerprint.ts";
import type { LayerHandles, MemoryHandle } from "./memory.ts";
import { MemoryUses } from "./memory-uses.ts";
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
  WkvOptions,
} from "./options.ts";
import { ropeNumbers } from "./rope.ts";
import { Tensor, Weight, type Operand } from "./tensor.ts";

/** Operations whose operand of this index may be left out. */
const optionalOperand: { readonly [name in OperationName]?: number } = { soft_max_ext: 1, rope_ext: 2 };

const wholeMax = 2 ** 31 - 1;

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
  private readonly uses: MemoryUses;
  private readonly fingerprint = new Fingerprint();
  private isFinished = false;

  /** For the SDK, which hands a graph to an architecture. */
  constructor(
    private readonly native: NativeGraph,
    private readonly architecture: string,
    /** Tokens of the step. */
    readonly rows: number,
    /** Tokens whose logits are computed. */
    readonly outputs: number,
    memories: readonly LayerHandles[],
  ) {
    this.uses = new MemoryUses(memories);
  }

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
    if (this.outputs === this.rows) return this.tensor("selectOutputs", "x", x);
    return this.getRows(
      x,
      this.make("selectOutputs", () => this.native.input("outputs")),
    );
  }

  /** Walks weights and memories of the layers side by side, so that errors name the layer being built. */
  *layers<W, M>(weights: readonly W[], memories: readonly M[]): Generator<GraphLayer<W, M>> {
    for (const list of [weights, memories]) {
      if (!Array.isArray(list)) throw this.error("layers", `${shown(list)} was given, and arrays were expected`);
    }
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
    return factor === 1 ? this.tensor("scale", "a", a) : this.op("scale", [a], [], [factor]);
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
    return this.op("unary", [a], [this.choose("unary", Unary, fn)]);
  }

  /** act(a) * b, with swiglu = silu, geglu = gelu (tanh), reglu = relu. */
  glu(a: Operand, b: Operand, fn: keyof typeof Glu): Tensor {
    return this.op("glu_split", [a, b], [this.choose("glu_split", Glu, fn)]);
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
    return this.op("argsort", [a], [this.choose("argsort", SortOrder, order)]);
  }

  // ---- shapes ----

  /** The same elements in another shape. */
  reshape(a: Operand, ...shape: readonly number[]): Tensor {
    return this.op("reshape", [a], this.four("reshape", shape));
  }

  /**
   * A window onto `a` of `shape`, from byte `offset`. `strides` are the bytes of dimensions 1 to 3; those left out are
   * the tensor's own.
   */
  view(a: Operand, shape: readonly number[], offset = 0, strides: readonly number[] = []): Tensor {
    const own = this.tensor("view", "a", a).strides;
    // Of one element a stride says nothing, and a large tensor's is too long to be said.
    const step = (i: 1 | 2 | 3) => ((shape[i] ?? 1) === 1 ? 0 : (strides[i - 1] ?? own[i]));
    const nb = [step(1), step(2), step(3)];
    return this.op("view", [a], [...this.four("view", shape), ...nb, offset]);
  }

  /** Elements `[from, from + count)` of the first dimension, as a view. */
  slice(a: Operand, from: number, count: number): Tensor {
    const tensor = this.tensor("view", "a", a);
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
    return this.op("cast", [a], [this.choose("cast", Type, type)]);
  }

  concat(a: Operand, b: Operand, dim: number): Tensor {
    return this.op("concat", [a, b], [dim]);
  }

  /** Repeats `a` to a shape whose every dimension is a multiple of its own. */
  repeat(a: Operand, ...shape: readonly number[]): Tensor {
    return this.op("repeat_4d", [a], this.four("repeat_4d", shape));
  }

  /** Appends zeros. */
  pad(a: Operand, ...counts: readonly number[]): Tensor {
    if (counts.length > 4)
      throw this.error("pad", `[${counts.join(", ")}] has ${counts.length} dimensions, of at most 4`);
    return this.op(
      "pad",
      [a],
      [0, 1, 2, 3].map((i) => counts[i] ?? 0),
    );
  }

  // ---- position ----

  /** Rotary embedding of `a` `[headDim, heads, rows]` at the step's positions (RoFormer, arXiv:2104.09864). */
  rope(a: Operand, options: RopeOptions): Tensor {
    const dims = options.dims ?? this.tensor("rope_ext", "a", a).shape[0];
    const mode = this.choose("rope_ext", RopeMode, options.mode);
    const { context, floats } = ropeNumbers(options);
    return this.op("rope_ext", [a, this.positions(), options.factors], [dims, mode, context], floats);
  }

  // ---- memories ----

  /**
   * Stores keys and values in the memory and lets every token attend to what its sequence holds there, itself
   * included; with keys left out the memory is only read. The result is `[valueDim, heads, rows]`.
   */
  attend(memory: MemoryHandle, options: AttendOptions): Tensor {
    const { record } = this.known("attend", memory);
    if (record.kind !== "attention") {
      throw this.error("attend", `the memory "${memory.name}" is ${record.kind}, and attention was expected`);
    }
    const { queries, keys, values, scale = 1 / Math.sqrt(record.keyDim), softcap = 0, valueDim = 0 } = options;
    const operands = {
      queries: this.given("attend", "queries", queries),
      keys: this.optional("attend", "keys", keys),
      values: this.optional("attend", "values", values),
    };
    if (values !== undefined && keys === undefined) {
      throw this.error("attend", "values were given without keys; they are stored together or not at all");
    }
    this.checkFloats("attend", [scale, softcap]);
    this.checkWholes("attend", [valueDim]);
    this.fingerprint.mix(memory.number);
    if (keys === undefined) this.use("attend", this.uses.read(memory));
    else this.use("attend", this.uses.write(memory));
    return this.make("attend", () => this.native.attend(memory.number, operands, { scale, softcap, valueDim }));
  }

  /**
   * Depthwise causal convolution of `x` `[channels, rows]` over each sequence's time; the state carries the last inputs.
   * The result is `[channels, rows]`.
   */
  convolve(memory: MemoryHandle, x: Operand, options: ConvolveOptions): Tensor {
    const state = this.state("convolve", memory, options.state);
    const input = this.given("convolve", "x", x);
    const weight = this.given("convolve", "weight", options.weight);
    const bias = this.optional("convolve", "bias", options.bias);
    const { silu = false } = options;
    return this.make("convolve", () => this.native.convolve(memory.number, state, input, weight, bias, silu));
  }

  /** The Mamba-2 selective scan (arXiv:2405.21060), skip included. The result is `[headDim * heads, rows]`. */
  scan(memory: MemoryHandle, options: ScanOptions): Tensor {
    const { headDim, heads, groups, stateSize } = options;
    this.checkWholes("scan", [headDim, heads, groups, stateSize]);
    const operands = this.scanOperands("scan", memory, options);
    return this.make("scan", () => this.native.scan(operands, options));
  }

  /**
   * The Mamba-1 selective scan (arXiv:2312.00752), where every number of the state has its own decay; skip included. The
   * result is `[channels, rows]`.
   */
  scanMamba1(memory: MemoryHandle, options: ScanMamba1Options): Tensor {
    const operands = this.scanOperands("scanMamba1", memory, options);
    return this.make("scanMamba1", () => this.native.scanMamba1(operands));
  }

  private scanOperands(operation: string, memory: MemoryHandle, options: ScanMamba1Options) {
    return {
      state: this.state(operation, memory, options.state),
      memory: memory.number,
      x: this.given(operation, "x", options.x),
      dt: this.given(operation, "dt", options.dt),
      dtBias: this.optional(operation, "dtBias", options.dtBias),
      a: this.given(operation, "a", options.a),
      b: this.given(operation, "b", options.b),
      c: this.given(operation, "c", options.c),
      d: this.optional(operation, "d", options.d),
    };
  }

  /**
   * The gated delta rule (arXiv:2412.06464; with a decay per key channel arXiv:2510.26692). Per value head, with the state
   * `S` of keys by values: `S = diag(exp(g)) S`, `S = S + k (outer) beta (v - S^T k)`, `y = scale S^T q`. The result is
   * `[valueDim * valueHeads, rows]`.
   */
  deltaNet(memory: MemoryHandle, options: DeltaNetOptions): Tensor {
    const { keyDim, valueDim, keyHeads, valueHeads, mapping = "blocks", betaSigmoid = false } = options;
    const { scale = 1 / Math.sqrt(keyDim), normalize = -1 } = options;
    this.checkWholes("deltaNet", [keyDim, valueDim, keyHeads, valueHeads]);
    this.checkFloats("deltaNet", [scale, normalize]);
    const interleaved = this.choose("deltaNet", { blocks: 0, interleaved: 1 }, mapping);
    const operands = {
      state: this.state("deltaNet", memory, options.state),
      memory: memory.number,
      q: this.given("deltaNet", "q", options.q),
      k: this.given("deltaNet", "k", options.k),
      v: this.given("deltaNet", "v", options.v),
      g: this.given("deltaNet", "g", options.g),
      beta: this.given("deltaNet", "beta", options.beta),
      ...{ keyDim, valueDim, keyHeads, valueHeads, interleaved, scale, normalize },
      betaSigmoid: betaSigmoid ? 1 : 0,
    };
    return this.make("deltaNet", () => this.native.deltaNet(operands));
  }

  /**
   * The time mixing of RWKV-6 (arXiv:2404.05892). Per head, with the state `S` of keys by values:
   * `y = r^T (S + diag(u) k v^T)`, then `S = diag(w) S + k v^T`. The result is `[headSize * heads, rows]`.
   */
  wkv6(memory: MemoryHandle, options: Wkv6Options): Tensor {
    const operands = { ...this.wkvOperands("wkv6", memory, options), u: this.given("wkv6", "u", options.u) };
    return this.make("wkv6", () => this.native.wkv6(operands));
  }

  /**
   * The time mixing of RWKV-7 (arXiv:2503.14456). Per head, with the state `S` of values by keys:
   * `S = S diag(w) + (S a) b^T + v k^T`, then `y = S r`. The result is `[headSize * heads, rows]`.
   */
  wkv7(memory: MemoryHandle, options: Wkv7Options): Tensor {
    const removal = { a: this.given("wkv7", "a", options.a), b: this.given("wkv7", "b", options.b) };
    const operands = { ...this.wkvOperands("wkv7", memory, options), ...removal };
    return this.make("wkv7", () => this.native.wkv7(operands));
  }

  private wkvOperands(operation: string, memory: MemoryHandle, options: WkvOptions) {
    const { headSize, heads } = options;
    this.checkWholes(operation, [headSize, heads]);
    return {
      state: this.state(operation, memory, options.state),
      memory: memory.number,
      r: this.given(operation, "r", options.r),
      w: this.given(operation, "w", options.w),
      k: this.given(operation, "k", options.k),
      v: this.given(operation, "v", options.v),
      headSize,
      heads,
    };
  }

  /** `h = a h + x` for every channel, as in the RG-LRU (arXiv:2402.19427). The result is h, `[channels, rows]`. */
  linearRecurrence(memory: MemoryHandle, options: LinearRecurrenceOptions): Tensor {
    const state = this.state("linearRecurrence", memory, options.state);
    const a = this.given("linearRecurrence", "a", options.a);
    const x = this.given("linearRecurrence", "x", options.x);
    return this.make("linearRecurrence", () => this.native.linearRecurrence(memory.number, state, a, x));
  }

  /**
   * Every row of `x` `[channels, rows]` is replaced by the one before it in its sequence, the first by zeros (the token
   * shift of RWKV). State `state`, `[channels]`, carries the last row.
   */
  previous(memory: MemoryHandle, x: Operand, options: { readonly state: string }): Tensor {
    const state = this.state("previous", memory, options.state);
    const input = this.given("previous", "x", x);
    return this.make("previous", () => this.native.previous(memory.number, state, input));
  }

  // ---- underneath ----

  /** Throws unless a memory is one of this model's layers. */
  private known(operation: string, memory: MemoryHandle): MemoryHandle {
    if (this.uses.has(memory)) return memory;
    const remedy = "give one of the last argument of graph, such as memory[0].attn";
    if (memory === undefined) throw this.error(operation, `the layer has no memory of that name; ${remedy}`);
    throw this.error(operation, `${shown(memory)} is no memory of this model's layers; ${remedy}`);
  }

  /** The index of a memory's state, which this operation advances. */
  private state(operation: string, memory: MemoryHandle, name: string): number {
    const { record, isShared } = this.known(operation, memory);
    const names = record.kind === "recurrent" && !isShared ? Object.keys(record.tensors) : [];
    const index = names.indexOf(name);
    if (index < 0) {
      const known = names.length > 0 ? `; it has ${names.map((own) => `"${own}"`).join(", ")}` : "";
      throw this.error(operation, `the memory "${memory.name}" has no state "${name}" of its own${known}`);
    }
    this.fingerprint.mix(memory.number);
    this.fingerprint.mix(index);
    this.use(operation, this.uses.write(memory, name));
    return index;
  }

  /** Throws where a memory is not used as it must be. */
  private use(operation: string, mistake: string | undefined): void {
    if (mistake !== undefined) throw this.error(operation, mistake);
  }

  /** The number of an operand that must be given. */
  private given(operation: string, name: string, operand: Operand): number {
    const { number } = this.tensor(operation, name, operand);
    this.fingerprint.mix(number);
    return number;
  }

  private optional(operation: string, name: string, operand: Operand | undefined): number {
    return operand === undefined ? -1 : this.given(operation, name, operand);
  }

  private tensor(operation: string, name: string, operand: Operand): Tensor {
    this.checkOpen(operation);
    if (operand instanceof Tensor) {
      if (operand.isOf(this)) return operand;
      throw this.error(
        operation,
        `${name} is a tensor of another graph; a graph is built of its own tensors and of weights`,
      );
    }
    if (operand instanceof Weight) return this.weight(operation, operand);
    const hint = operand === undefined ? ": an optional weight that the file lacks, or a name that is none" : "";
    throw this.error(operation, `${name} is ${shown(operand)}, and a tensor or weight was expected${hint}`);
  }

  private weight(operation: string, weight: Weight): Tensor {
    let tensor = this.weights.get(weight);
    if (tensor !== undefined) return tensor;
    if (weight.model !== this.native.model) {
      throw this.error(operation, `"${weight.name}" is a weight of another model; use those that graph is given`);
    }
    tensor = new Tensor(this.native.weight(weight.number), this);
    this.weights.set(weight, tensor);
    return tensor;
  }

  private op(
    name: OperationName,
    operands: readonly (Operand | undefined)[],
    ints: readonly number[] = [],
    floats: readonly number[] = [],
  ): Tensor {
    const tensors = operands.map((operand, i) =>
      operand === undefined && optionalOperand[name] === i
        ? -1
        : this.given(name, operandNames[i] ?? "", operand as Operand),
    );
    this.checkWholes(name, ints);
    this.checkFloats(name, floats);
    return this.make(name, () => this.native.operation(name, tensors, ints, floats));
  }

  private make(operation: string, build: () => TensorFacts): Tensor {
    this.checkOpen(operation);
    try {
      const tensor = new Tensor(build(), this);
      this.fingerprint.addOperation(operation, tensor);
      return tensor;
    } catch (error) {
      throw error instanceof StrataError ? this.error(operation, error.message, error) : error;
    }
  }

  private checkOpen(operation: string): void {
    if (!this.isFinished) return;
    throw this.error(operation, "this graph has been built; a graph function uses g only until it returns");
  }

  /** Throws on what the library would take for other numbers. */
  private checkWholes(operation: string, values: readonly number[]): void {
    for (const value of values) {
      this.fingerprint.add(value);
      if (!isWhole(value, -wholeMax, wholeMax)) {
        throw this.error(operation, `${shown(value)} was given, and a whole number below 2^31 was expected`);
      }
    }
  }

  private checkFloats(operation: string, values: readonly number[]): void {
    for (const value of values) {
      this.fingerprint.add(value);
      if (typeof value !== "number" || Number.isNaN(value)) {
        throw this.error(operation, `${shown(value)} was given, and a number was expected`);
      }
    }
  }

  private four(operation: string, shape: readonly number[]): [number, number, number, number] {
    if (shape.length >= 1 && shape.length <= 4) return [shape[0] ?? 1, shape[1] ?? 1, shape[2] ?? 1, shape[3] ?? 1];
    throw this.error(operation, `the shape [${shape.join(", ")}] has ${shape.length} dimensions; tensors have 1 to 4`);
  }

  private choose<T extends string>(operation: string, table: Readonly<Record<T, number>>, word: T): number {
    if (Object.hasOwn(table, word)) return table[word];
    throw this.error(operation, `${shown(word)} is none of ${Object.keys(table).join(", ")}`);
  }

  private error(operation: string, sentence: string, cause?: StrataError): StrataError {
    const text = sentence.startsWith(`${operation}: `) ? sentence : `${operation}: ${sentence}`;
    return new StrataError(cause?.code ?? "invalid_argument", `${this.place}: ${text}`, { cause });
  }

  // ---- for the SDK ----

  /** What is being built, for error sentences. */
  get place(): string {
    return this.layer === undefined ? this.architecture : `${this.architecture}, layer ${this.layer}`;
  }

  /** A number that graphs of the same operations have in common. */
  get operations(): number {
    return this.fingerprint.value;
  }

  /** Ends the building: `logits` is what the architecture's function returned. From here on the graph cannot be used. */
  finish(logits: unknown, vocabulary: number): GraphFacts {
    this.layer = undefined;
    const { number } = this.checkLogits(logits, vocabulary);
    const mistake = this.uses.missing();
    if (mistake !== undefined) throw new StrataError("invalid_argument", `${this.architecture}, ${mistake}`);
    this.isFinished = true;
    try {
      return this.native.finish(number);
    } catch (error) {
      throw error instanceof StrataError ? this.error("graph", error.message, error) : error;
    }
  }

  /** Ends the building without a graph. */
  abandon(): void {
    this.isFinished = true;
    this.native.abandon();
  }

  private checkLogits(logits: unknown, vocabulary: number): Tensor {
    const expected = `the graph must give logits of the shape [${vocabulary}, ${this.outputs}] (vocabulary, outputs) in f32`;
    if (!(logits instanceof Tensor)) {
      const what = logits instanceof Weight ? `the weight "${logits.name}"` : shown(logits);
      throw this.error("graph", `${expected}; it returned ${what}`);
    }
    if (!logits.isOf(this)) throw this.error("graph", `${expected}; it returned a tensor of another graph`);
    const [first, second, third, fourth] = logits.shape;
    const isRight = first === vocabulary && second === this.outputs && third === 1 && fourth === 1;
    if (isRight && logits.type === "f32") return logits;
    throw this.error("graph", `${expected}, not ${logits.toString()}${logitsHint(logits, this.rows, this.outputs)}`);
  }
}

/** Operands as ggml calls them. */
const operandNames = ["a", "b", "c"];

function logitsHint(logits: Tensor, rows: number, outputs: number): string {
  return rows !== outputs && logits.shape[1] === rows ? "; selectOutputs keeps the rows whose logits are wanted" : "";
}
