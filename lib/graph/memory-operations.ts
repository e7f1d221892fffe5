/** The operations on memories, as `Graph` offers them: what they are given is checked and handed to the library. */
import type { Construction } from "./construction.ts";
import type { MemoryHandle } from "./memory.ts";
import type {
  AttendOptions,
  ConvolveOptions,
  DeltaNetOptions,
  LinearRecurrenceOptions,
  ScanMamba1Options,
  ScanOptions,
  Wkv6Options,
  Wkv7Options,
  WkvOptions,
} from "./options.ts";
import type { Operand, Tensor } from "./tensor.ts";

const mappings = { blocks: 0, interleaved: 1 } as const;

export function attend(build: Construction, memory: MemoryHandle, options: AttendOptions): Tensor {
  const { record } = build.known("attend", memory);
  if (record.kind !== "attention") {
    throw build.error("attend", `the memory "${memory.name}" is ${record.kind}, and attention was expected`);
  }
  const { queries, keys, values, scale = 1 / Math.sqrt(record.keyDim), softcap = 0, valueDim = 0 } = options;
  const operands = {
    queries: build.given("attend", "queries", queries),
    keys: build.optional("attend", "keys", keys),
    values: build.optional("attend", "values", values),
  };
  if (values !== undefined && keys === undefined) {
    throw build.error("attend", "values were given without keys; they are stored together or not at all");
  }
  build.checkFloats("attend", [scale, softcap]);
  build.checkWholes("attend", [valueDim]);
  build.fingerprint.mix(memory.number);
  build.use("attend", keys === undefined ? build.uses.read(memory) : build.uses.write(memory));
  return build.make("attend", () => build.native.attend(memory.number, operands, { scale, softcap, valueDim }));
}

export function convolve(build: Construction, memory: MemoryHandle, x: Operand, options: ConvolveOptions): Tensor {
  const state = build.state("convolve", memory, options.state);
  const input = build.given("convolve", "x", x);
  const weight = build.given("convolve", "weight", options.weight);
  const bias = build.optional("convolve", "bias", options.bias);
  const silu = options.silu ?? false;
  build.fingerprint.mix(silu ? 1 : 0);
  return build.make("convolve", () => build.native.convolve(memory.number, state, input, weight, bias, silu));
}

export function scan(build: Construction, memory: MemoryHandle, options: ScanOptions): Tensor {
  const { headDim, heads, groups, stateSize } = options;
  build.checkWholes("scan", [headDim, heads, groups, stateSize]);
  const operands = scanOperands(build, "scan", memory, options);
  return build.make("scan", () => build.native.scan(operands, options));
}

export function scanMamba1(build: Construction, memory: MemoryHandle, options: ScanMamba1Options): Tensor {
  const operands = scanOperands(build, "scanMamba1", memory, options);
  return build.make("scanMamba1", () => build.native.scanMamba1(operands));
}

function scanOperands(build: Construction, operation: string, memory: MemoryHandle, options: ScanMamba1Options) {
  return {
    state: build.state(operation, memory, options.state),
    memory: memory.number,
    x: build.given(operation, "x", options.x),
    dt: build.given(operation, "dt", options.dt),
    dtBias: build.optional(operation, "dtBias", options.dtBias),
    a: build.given(operation, "a", options.a),
    b: build.given(operation, "b", options.b),
    c: build.given(operation, "c", options.c),
    d: build.optional(operation, "d", options.d),
  };
}

export function deltaNet(build: Construction, memory: MemoryHandle, options: DeltaNetOptions): Tensor {
  const { keyDim, valueDim, keyHeads, valueHeads, mapping = "blocks" } = options;
  const { scale = 1 / Math.sqrt(keyDim), normalize = -1 } = options;
  const interleaved = build.choose("deltaNet", mappings, mapping);
  const betaSigmoid = options.betaSigmoid ? 1 : 0;
  build.checkWholes("deltaNet", [keyDim, valueDim, keyHeads, valueHeads, interleaved, betaSigmoid]);
  build.checkFloats("deltaNet", [scale, normalize]);
  const operands = {
    state: build.state("deltaNet", memory, options.state),
    memory: memory.number,
    q: build.given("deltaNet", "q", options.q),
    k: build.given("deltaNet", "k", options.k),
    v: build.given("deltaNet", "v", options.v),
    g: build.given("deltaNet", "g", options.g),
    beta: build.given("deltaNet", "beta", options.beta),
    keyDim,
    valueDim,
    keyHeads,
    valueHeads,
    interleaved,
    scale,
    normalize,
    betaSigmoid,
  };
  return build.make("deltaNet", () => build.native.deltaNet(operands));
}

export function wkv6(build: Construction, memory: MemoryHandle, options: Wkv6Options): Tensor {
  const operands = wkvOperands(build, "wkv6", memory, options);
  const u = build.given("wkv6", "u", options.u);
  return build.make("wkv6", () => build.native.wkv6({ ...operands, u }));
}

export function wkv7(build: Construction, memory: MemoryHandle, options: Wkv7Options): Tensor {
  const operands = wkvOperands(build, "wkv7", memory, options);
  const a = build.given("wkv7", "a", options.a);
  const b = build.given("wkv7", "b", options.b);
  return build.make("wkv7", () => build.native.wkv7({ ...operands, a, b }));
}

function wkvOperands(build: Construction, operation: string, memory: MemoryHandle, options: WkvOptions) {
  const { headSize, heads } = options;
  build.checkWholes(operation, [headSize, heads]);
  return {
    state: build.state(operation, memory, options.state),
    memory: memory.number,
    r: build.given(operation, "r", options.r),
    w: build.given(operation, "w", options.w),
    k: build.given(operation, "k", options.k),
    v: build.given(operation, "v", options.v),
    headSize,
    heads,
  };
}

export function linearRecurrence(build: Construction, memory: MemoryHandle, options: LinearRecurrenceOptions): Tensor {
  const state = build.state("linearRecurrence", memory, options.state);
  const a = build.given("linearRecurrence", "a", options.a);
  const x = build.given("linearRecurrence", "x", options.x);
  return build.make("linearRecurrence", () => build.native.linearRecurrence(memory.number, state, a, x));
}

export function previous(build: Construction, memory: MemoryHandle, x: Operand, state: string): Tensor {
  const index = build.state("previous", memory, state);
  const input = build.given("previous", "x", x);
  return build.make("previous", () => build.native.previous(memory.number, index, input));
}
