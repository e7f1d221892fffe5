import { GraphInput, operations, type layouts } from "./abi.ts";
import type { NativeEngine } from "./engine.ts";
import { check, native } from "./library.ts";
import { Struct } from "./struct.ts";

export type OperationName = keyof typeof operations;

/** What a graph function returned: a tensor that belongs to its graph. */
export interface TensorFacts {
  readonly number: number;
  readonly type: number;
  readonly shape: readonly [number, number, number, number];
  readonly strides: readonly [number, number, number, number];
}

export interface ScanShape {
  readonly headDim: number;
  readonly heads: number;
  readonly groups: number;
  readonly stateSize: number;
}

type ScanField = Exclude<keyof (typeof layouts)["ScanArguments"]["fields"], `shape${string}`>;

/** What a finished graph takes while it computes. */
export interface GraphFacts {
  readonly nodes: number;
  /** Of the buffer that all graphs share. */
  readonly computeBytes: number;
  /** What ggml's operations, and our kernels on all threads, work in; shared likewise. */
  readonly workBytes: number;
  readonly scratchBytes: number;
}

/** A graph under construction in the library. Tensors are numbers; -1 is one that is left out. */
export class NativeGraph {
  private readonly handle: number;
  private readonly out = new Struct("TensorInfo");
  private readonly operands = new Struct("OpArguments");

  constructor(
    private readonly engine: NativeEngine,
    rows: number,
    outputs: number,
    nodesMax: number,
  ) {
    const handle = new Uint32Array(1);
    check(native().strata_graph_new(engine.handle, rows, outputs, nodesMax, handle));
    this.handle = handle[0] as number;
  }

  input(which: keyof typeof GraphInput): TensorFacts {
    check(native().strata_graph_input(this.handle, GraphInput[which], this.out.bytes));
    return this.facts();
  }

  weight(number: number): TensorFacts {
    check(native().strata_graph_weight(this.engine.handle, this.handle, number, this.out.bytes));
    return this.facts();
  }

  operation(
    name: OperationName,
    tensors: readonly number[],
    ints: readonly number[],
    floats: readonly number[],
  ): TensorFacts {
    const operands = this.operands;
    for (let i = 0; i < 8; i += 1) operands.set("tensors", tensors[i] ?? -1, 0, i);
    for (let i = 0; i < ints.length; i += 1) operands.set("ints", ints[i] as number, 0, i);
    for (let i = 0; i < floats.length; i += 1) operands.set("floats", floats[i] as number, 0, i);
    check(native().strata_graph_op(this.handle, operations[name].code, operands.bytes, this.out.bytes));
    return this.facts();
  }

  attend(
    memory: number,
    operands: { readonly queries: number; readonly keys: number; readonly values: number },
    parameters: { readonly scale: number; readonly softcap: number; readonly valueDim: number },
  ): TensorFacts {
    const { handle, out } = this;
    const { queries, keys, values } = operands;
    const { scale, softcap, valueDim } = parameters;
    check(native().strata_graph_attend(handle, memory, queries, keys, values, scale, softcap, valueDim, out.bytes));
    return this.facts();
  }

  convolve(memory: number, state: number, x: number, weight: number, bias: number, silu: boolean): TensorFacts {
    const { handle, out } = this;
    check(native().strata_graph_convolve(handle, memory, state, x, weight, bias, silu ? 1 : 0, out.bytes));
    return this.facts();
  }

  scan(operands: Readonly<Record<ScanField, number>>, shape: ScanShape): TensorFacts {
    const struct = new Struct("ScanArguments");
    for (const [field, value] of Object.entries(operands)) struct.set(field as ScanField, value);
    struct.set("shapeHeadDim", shape.headDim);
    struct.set("shapeHeads", shape.heads);
    struct.set("shapeGroups", shape.groups);
    struct.set("shapeStateSize", shape.stateSize);
    check(native().strata_graph_scan(this.handle, struct.bytes, this.out.bytes));
    return this.facts();
  }

  /** Ends the building; the engine keeps the graph. */
  finish(logits: number): GraphFacts {
    const info = new Struct("GraphInfo");
    check(native().strata_graph_finish(this.engine.handle, this.handle, logits, info.bytes));
    return {
      nodes: info.get("nodes"),
      computeBytes: info.get("computeBytes"),
      workBytes: info.get("workBytes"),
      scratchBytes: info.get("scratchBytes"),
    };
  }

  /** Frees a graph that was not finished. */
  abandon(): void {
    check(native().strata_graph_abandon(this.handle));
  }

  private facts(): TensorFacts {
    const { out } = this;
    const four = (field: "ne" | "nb") =>
      [out.get(field, 0, 0), out.get(field, 0, 1), out.get(field, 0, 2), out.get(field, 0, 3)] as const;
    return { number: out.get("number"), type: out.get("type"), shape: four("ne"), strides: four("nb") };
  }
}
