import { StrataError } from "../errors.ts";
import {
  operationCode,
  type InputName,
  type NativeGraph,
  type OperationName,
  type TensorFacts,
} from "../native/graph.ts";
import { shown } from "../shown.ts";
import { Fingerprint } from "./fingerprint.ts";
import type { LayerHandles, MemoryHandle } from "./memory.ts";
import { MemoryUses } from "./memory-uses.ts";
import { Tensor, Weight, type Operand } from "./tensor.ts";

/** Operands as ggml calls them. */
const operandNames = ["a", "b", "c"] as const;

/** Operations whose operand of this index may be left out. */
const optionalOperand: { readonly [name in OperationName]?: number } = { soft_max_ext: 1, rope_ext: 2 };

const wholeMax = 2 ** 31 - 1;

const none: readonly number[] = [];

/**
 * What every operation of a graph is made by: it checks what the operation is given, writes it down in the graph's
 * fingerprint, and says of every refusal where it happened. A graph has a thousand operations and more, and is built
 * between two tokens, so nothing here is made that only a refusal needs.
 */
export class Construction {
  /** The layer being built. */
  layer: number | undefined;
  readonly uses: MemoryUses;
  readonly fingerprint = new Fingerprint();
  private readonly inputs: { [name in InputName]?: Tensor } = {};
  private readonly weights = new Map<Weight, Tensor>();
  /** The handle of the model whose weights it takes. */
  private readonly model: number;
  /** Numbers of an operation's operands, by how many there are: written and handed on, again and again. */
  private readonly numbers: readonly number[][] = [[], [0], [0, 0], [0, 0, 0]];
  private isOver = false;

  constructor(
    readonly native: NativeGraph,
    readonly architecture: string,
    memories: readonly LayerHandles[],
  ) {
    this.uses = new MemoryUses(memories);
    this.model = native.model;
  }

  /** From here on nothing can be added. */
  close(): void {
    this.isOver = true;
  }

  // ---- operations ----

  /** One of ggml's operations. */
  operation(
    name: OperationName,
    operands: readonly (Operand | undefined)[],
    ints: readonly number[] = none,
    floats: readonly number[] = none,
  ): Tensor {
    this.checkOpen(name);
    const numbers = this.numbers[operands.length] as number[];
    for (let i = 0; i < operands.length; i += 1) {
      const operand = operands[i];
      const operandName = operandNames[i] as string;
      numbers[i] =
        operand === undefined && optionalOperand[name] === i
          ? this.optional(name, operandName, operand)
          : this.given(name, operandName, operand as Operand);
    }
    this.checkWholes(name, ints);
    this.checkFloats(name, floats);
    this.fingerprint.mix(operationCode(name));
    try {
      return new Tensor(this.native.operation(name, numbers, ints, floats), this);
    } catch (error) {
      throw this.explained(name, error);
    }
  }

  /** What the engine fills in before each step, for an operation that asks for it. */
  input(operation: string, which: InputName): Tensor {
    this.checkOpen(operation);
    return (this.inputs[which] ??= this.make(operation, () => this.native.input(which)));
  }

  /** Any other operation. */
  make(operation: string, build: () => TensorFacts): Tensor {
    this.checkOpen(operation);
    this.fingerprint.addText(operation);
    try {
      return new Tensor(build(), this);
    } catch (error) {
      throw this.explained(operation, error);
    }
  }

  // ---- what they are given ----

  /** The number of an operand that must be given. */
  given(operation: string, name: string, operand: Operand): number {
    let number: number;
    if (operand instanceof Tensor && operand.isOf(this)) number = operand.number;
    // The first tensors of a graph are the weights, by the same numbers; few of them are ever described.
    else if (operand instanceof Weight && operand.model === this.model) number = operand.number;
    else number = this.tensor(operation, name, operand).number;
    this.fingerprint.mix(number);
    return number;
  }

  /** The number of an operand that may be left out. */
  optional(operation: string, name: string, operand: Operand | undefined): number {
    if (operand !== undefined) return this.given(operation, name, operand);
    this.fingerprint.mix(-1);
    return -1;
  }

  /** An operand as a tensor of this graph. */
  tensor(operation: string, name: string, operand: Operand): Tensor {
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
    if (weight.model !== this.model) {
      throw this.error(operation, `"${weight.name}" is a weight of another model; use those that graph is given`);
    }
    tensor = new Tensor(this.native.describe(weight.number), this);
    this.weights.set(weight, tensor);
    return tensor;
  }

  /** Throws on what the library would take for other numbers. */
  checkWholes(operation: string, values: readonly number[]): void {
    for (let i = 0; i < values.length; i += 1) {
      const value = values[i] as number;
      if (typeof value !== "number" || (value | 0) !== value || value < -wholeMax) {
        throw this.error(operation, `${shown(value)} was given, and a whole number below 2^31 was expected`);
      }
      this.fingerprint.mix(value);
    }
  }

  /** Throws on what is no number. */
  checkFloats(operation: string, values: readonly number[]): void {
    for (let i = 0; i < values.length; i += 1) {
      const value = values[i] as number;
      if (typeof value !== "number" || Number.isNaN(value)) {
        throw this.error(operation, `${shown(value)} was given, and a number was expected`);
      }
      this.fingerprint.add(value);
    }
  }

  /** A shape's four dimensions. */
  four(operation: string, shape: readonly number[]): [number, number, number, number] {
    if (shape.length >= 1 && shape.length <= 4) return [shape[0] ?? 1, shape[1] ?? 1, shape[2] ?? 1, shape[3] ?? 1];
    throw this.error(operation, `the shape [${shape.join(", ")}] has ${shape.length} dimensions; tensors have 1 to 4`);
  }

  /** The library's number for a word. */
  choose<T extends string>(operation: string, table: Readonly<Record<T, number>>, word: T): number {
    if (Object.hasOwn(table, word)) return table[word];
    throw this.error(operation, `${shown(word)} is none of ${Object.keys(table).join(", ")}`);
  }

  // ---- memories ----

  /** Throws unless a memory is one of this model's layers. */
  known(operation: string, memory: MemoryHandle): MemoryHandle {
    if (this.uses.has(memory)) return memory;
    const remedy = "give one of the last argument of graph, such as memory[0].attn";
    if (memory === undefined) throw this.error(operation, `the layer has no memory of that name; ${remedy}`);
    throw this.error(operation, `${shown(memory)} is no memory of this model's layers; ${remedy}`);
  }

  /** The index of a memory's state, which this operation advances. */
  state(operation: string, memory: MemoryHandle, name: string): number {
    const { record, isShared } = this.known(operation, memory);
    const names = record.kind === "recurrent" && !isShared ? Object.keys(record.tensors) : [];
    const index = names.indexOf(name);
    if (index < 0) {
      const known = names.length > 0 ? `; it has ${names.map((own) => `"${own}"`).join(", ")}` : "";
      throw this.error(operation, `the memory "${memory.name}" has no state "${name}" of its own${known}`);
    }
    this.fingerprint.mix(memory.number);
    this.fingerprint.mix(index);
    this.use(operation, this.uses.write(memory, index));
    return index;
  }

  /** Throws where a memory is not used as it must be. */
  use(operation: string, mistake: string | undefined): void {
    if (mistake !== undefined) throw this.error(operation, mistake);
  }

  // ---- refusals ----

  private checkOpen(operation: string): void {
    if (!this.isOver) return;
    throw this.error(operation, "this graph has been built; a graph function uses g only until it returns");
  }

  /** What is being built. */
  get place(): string {
    return this.layer === undefined ? this.architecture : `${this.architecture}, layer ${this.layer}`;
  }

  error(operation: string, sentence: string, cause?: StrataError): StrataError {
    const text = sentence.startsWith(`${operation}: `) ? sentence : `${operation}: ${sentence}`;
    return new StrataError(cause?.code ?? "invalid_argument", `${this.place}: ${text}`, { cause });
  }

  /** The library's refusal of an operation, with the place; anything else as it is. */
  explained(operation: string, error: unknown): unknown {
    return error instanceof StrataError ? this.error(operation, error.message, error) : error;
  }
}
