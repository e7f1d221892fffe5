import { GraphInput, operations, type layouts } from "./abi.ts";
import type { NativeEngine } from "./engine.ts";
import { check, native } from "./library.ts";
import { Struct, type FieldName, type StructName } from "./struct.ts";

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

/** Every field of a struct of arguments. */
export type Arguments<S extends StructName> = Readonly<Record<FieldName<S>, number>>;

/** A graph under construction in the library. Tensors are numbers; -1 is one that is left out. */
export class NativeGraph {
  private readonly handle: number;
  private readonly out = new Struct("TensorInfo");
  private readonly number = this.out.elements("number");
  private readonly type = this.out.elements("type");
  private readonly shape = this.out.elements("ne");
  private readonly strides = this.out.elements("nb");
  private readonly operands = new Struct("OpArguments");
  private readonly tensors = this.operands.elements("tensors");
  private readonly ints = this.operands.elements("ints");
  private readonly floats = this.operands.elements("floats");

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

  /** The handle of the model whose weights it takes. */
  get model(): number {
    return this.engine.model;
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
    for (let i = 0; i < this.tensors.length; i += 1) this.tensors[i] = tensors[i] ?? -1;
    for (let i = 0; i < ints.length; i += 1) this.ints[i] = ints[i] as number;
    for (let i = 0; i < floats.length; i += 1) this.floats[i] = floats[i] as number;
    check(native().strata_graph_op(this.handle, operations[name].code, this.operands.bytes, this.out.bytes));
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
    const struct = filled("ScanArguments", {
      ...operands,
      shapeHeadDim: shape.headDim,
      shapeHeads: shape.heads,
      shapeGroups: shape.groups,
      shapeStateSize: shape.stateSize,
    });
    check(native().strata_graph_scan(this.handle, struct.bytes, this.out.bytes));
    return this.facts();
  }

  scanMamba1(values: Arguments<"ScanMamba1Arguments">): TensorFacts {
    const struct = filled("ScanMamba1Arguments", values);
    check(native().strata_graph_scan_mamba1(this.handle, struct.bytes, this.out.bytes));
    return this.facts();
  }

  deltaNet(values: Arguments<"DeltaNetArguments">): TensorFacts {
    const struct = filled("DeltaNetArguments", values);
    check(native().strata_graph_delta_net(this.handle, struct.bytes, this.out.bytes));
    return this.facts();
  }

  wkv6(values: Arguments<"Wkv6Arguments">): TensorFacts {
    const struct = filled("Wkv6Arguments", values);
    check(native().strata_graph_wkv6(this.handle, struct.bytes, this.out.bytes));
    return this.facts();
  }

  wkv7(values: Arguments<"Wkv7Arguments">): TensorFacts {
    const struct = filled("Wkv7Arguments", values);
    check(native().strata_graph_wkv7(this.handle, struct.bytes, this.out.bytes));
    return this.facts();
  }

  linearRecurrence(memory: number, state: number, a: number, x: number): TensorFacts {
    check(native().strata_graph_linear_recurrence(this.handle, memory, state, a, x, this.out.bytes));
    return this.facts();
  }

  previous(memory: number, state: number, x: number): TensorFacts {
    check(native().strata_graph_previous(this.handle, memory, state, x, this.out.bytes));
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
    const { number, type, shape, strides } = this;
    return { number: number[0] as number, type: type[0] as number, shape: four(shape), strides: four(strides) };
  }
}

function four(sizes: Float64Array): readonly [number, number, number, number] {
  return [sizes[0] as number, sizes[1] as number, sizes[2] as number, sizes[3] as number];
}

function filled<S extends StructName>(name: S, values: Arguments<S>): Struct<S> {
  const struct = new Struct(name);
  for (const field of Object.keys(values) as FieldName<S>[]) struct.set(field, values[field]);
  return struct;
}
