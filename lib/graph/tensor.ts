import type { TensorFacts } from "../native/graph.ts";
import { typeFacts } from "../native/model.ts";

/** A tensor of the graph under construction. It belongs to that graph alone. */
export class Tensor {
  constructor(
    private readonly facts: TensorFacts,
    private readonly graph: object,
  ) {}

  /** Whether this graph made it. */
  isOf(graph: object): boolean {
    return this.graph === graph;
  }

  /** The graph's number for it. */
  get number(): number {
    return this.facts.number;
  }

  /** Elements in each of four dimensions, fastest first (ggml's order). */
  get shape(): readonly [number, number, number, number] {
    return this.facts.shape;
  }

  /** Bytes from one element to the next in each dimension. */
  get strides(): readonly [number, number, number, number] {
    return this.facts.strides;
  }

  /** Name of the element type, such as "f32" or "q4_K". */
  get type(): string {
    return typeFacts(this.facts.type).name;
  }

  toString(): string {
    const last = this.shape.findLastIndex((n) => n !== 1);
    return `[${this.shape.slice(0, Math.max(last, 0) + 1).join(", ")}] ${this.type}`;
  }
}

/** A weight of the model, usable wherever a tensor is, in every graph of its model. */
export class Weight {
  constructor(
    /** The name in the file. */
    readonly name: string,
    readonly shape: readonly number[],
    /** The library's number for it. */
    readonly number: number,
    /** The library's handle of its model. */
    readonly model: number,
  ) {}
}

/** What an operation takes. */
export type Operand = Tensor | Weight;
