import { GraphInput, operations, type layouts } from "./abi.ts";
import type { NativeEngine } from "./engine.ts";
import { check, native } from "./library.ts";
import { Struct, type FieldName, type StructName } from "./struct.ts";

export type OperationName = keyof typeof operations;

/** The library's number of an operation. */
export function operationCode(name: OperationName): number {
  return operations[name].code;
}

/** What the engine fills in before each step. */
export type InputName = keyof typeof GraphInput;

type Four = readonly [number, number, number, number];

/** What a graph function returned: a tensor that belongs to its graph. Most are asked for nothing but their number. */
export class TensorFacts {
  constructor(
    readonly number: number,
    readonly type: number,
    private readonly n0: number,
    private readonly n1: number,
    private readonly n2: number,
    private readonly n3: number,
    private readonly b0: number,
    private readonly b1: number,
    private readonly b2: number,
    private readonly b3: number,
  ) {}

  get shape(): Four {
    return [this.n0, this.n1, this.n2, this.n3];
  }

  get strides(): Four {
    return [this.b0, this.b1, this.b2, this.b3];
  }
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

// What every call hands over, and what it gets back: a call is over before the next one writes here.
const out = new Struct("TensorInfo");
const outNumber = out.elements("number");
const outType = out.elements("type");
const outShape = out.elements("ne");
const outStrides = out.elements("nb");
const operands = new Struct("OpArguments");
const operandTensors = operands.elements("tensors");
const operandInts = operands.elements("ints");
const operandFloats = operands.elements("floats");
const scanArguments = new Struct("ScanArguments");
const scanMamba1Arguments = new Struct("ScanMamba1Arguments");
const deltaNetArguments = new Struct("DeltaNetArguments");
const wkv6Arguments = new Struct("Wkv6Arguments");
const wkv7Arguments = new Struct("Wkv7Arguments");

/** A graph under construction in the library. Tensors are numbers; -1 is one that is left out. */
export class NativeGraph {
  private readonly handle: number;
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

  input(which: InputName): TensorFacts {
    check(native().strata_graph_input(this.handle, GraphInput[which], out.bytes));
    return facts();
  }

  /** A tensor by its number. The first ones are the model's weights, by the numbers that they were declared with. */
  describe(number: number): TensorFacts {
    check(native().strata_graph_describe(this.handle, number, out.bytes));
    return facts();
  }

  operation(
    name: OperationName,
    tensors: readonly number[],
    ints: readonly number[],
    floats: readonly number[],
  ): TensorFacts {
    for (let i = 0; i < operandTensors.length; i += 1) operandTensors[i] = tensors[i] ?? -1;
    for (let i = 0; i < ints.length; i += 1) operandInts[i] = ints[i] as number;
    for (let i = 0; i < floats.length; i += 1) operandFloats[i] = floats[i] as number;
    check(native().strata_graph_op(this.handle, operations[name].code, operands.bytes, out.bytes));
    return facts();
  }

  attend(
    memory: number,
    operands: { readonly queries: number; readonly keys: number; readonly values: number },
    parameters: { readonly scale: number; readonly softcap: number; readonly valueDim: number },
  ): TensorFacts {
    const { handle } = this;
    const { queries, keys, values } = operands;
    const { scale, softcap, valueDim } = parameters;
    check(native().strata_graph_attend(handle, memory, queries, keys, values, scale, softcap, valueDim, out.bytes));
    return facts();
  }

  convolve(memory: number, state: number, x: number, weight: number, bias: number, silu: boolean): TensorFacts {
    const { handle } = this;
    check(native().strata_graph_convolve(handle, memory, state, x, weight, bias, silu ? 1 : 0, out.bytes));
    return facts();
  }

  scan(operands: Readonly<Record<ScanField, number>>, shape: ScanShape): TensorFacts {
    fill(scanArguments, {
      ...operands,
      shapeHeadDim: shape.headDim,
      shapeHeads: shape.heads,
      shapeGroups: shape.groups,
      shapeStateSize: shape.stateSize,
    });
    check(native().strata_graph_scan(this.handle, scanArguments.bytes, out.bytes));
    return facts();
  }

  scanMamba1(values: Arguments<"ScanMamba1Arguments">): TensorFacts {
    fill(scanMamba1Arguments, values);
    check(native().strata_graph_scan_mamba1(this.handle, scanMamba1Arguments.bytes, out.bytes));
    return facts();
  }

  deltaNet(values: Arguments<"DeltaNetArguments">): TensorFacts {
    fill(deltaNetArguments, values);
    check(native().strata_graph_delta_net(this.handle, deltaNetArguments.bytes, out.bytes));
    return facts();
  }

  wkv6(values: Arguments<"Wkv6Arguments">): TensorFacts {
    fill(wkv6Arguments, values);
    check(native().strata_graph_wkv6(this.handle, wkv6Arguments.bytes, out.bytes));
    return facts();
  }

  wkv7(values: Arguments<"Wkv7Arguments">): TensorFacts {
    fill(wkv7Arguments, values);
    check(native().strata_graph_wkv7(this.handle, wkv7Arguments.bytes, out.bytes));
    return facts();
  }

  linearRecurrence(memory: number, state: number, a: number, x: number): TensorFacts {
    check(native().strata_graph_linear_recurrence(this.handle, memory, state, a, x, out.bytes));
    return facts();
  }

  previous(memory: number, state: number, x: number): TensorFacts {
    check(native().strata_graph_previous(this.handle, memory, state, x, out.bytes));
    return facts();
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
}

function facts(): TensorFacts {
  const [ne, nb] = [outShape, outStrides] as const;
  return new TensorFacts(
    outNumber[0] as number,
    outType[0] as number,
    ne[0] as number,
    ne[1] as number,
    ne[2] as number,
    ne[3] as number,
    nb[0] as number,
    nb[1] as number,
    nb[2] as number,
    nb[3] as number,
  );
}

function fill<S extends StructName>(struct: Struct<S>, values: Arguments<S>): void {
  for (const field of Object.keys(values) as FieldName<S>[]) struct.set(field, values[field]);
}
