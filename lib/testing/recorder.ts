/** What a plugin's graph function does, written down: which operations it calls, on what. */
import { Tensor, Weight } from "../graph/tensor.ts";
import type { Graph } from "../graph/graph.ts";
import type { MemoryHandle } from "../graph/memory.ts";
import type { Architecture } from "../model/architecture.ts";

/** One call of a method of `Graph`. */
export interface Call {
  readonly method: string;
  /** The layer being built, where the plugin walks them by `g.layers`. */
  readonly layer: number | undefined;
  /** The call with its arguments: tensors by their number in this record, weights and memories by name. */
  readonly text: string;
  /** Tensors that it took, by their numbers as in `text`. */
  readonly tensors: readonly string[];
  /** Names of the weights that it took. */
  readonly weights: readonly string[];
  /** The number of the tensor that it gave, as in `text`. */
  readonly result: string | undefined;
  /** The memory that it is about. */
  readonly memory?: MemoryHandle;
}

/** The building of one graph. */
export interface Recording {
  readonly rows: number;
  readonly outputs: number;
  readonly calls: readonly Call[];
  /** The number of the tensor that the plugin returned; undefined where it threw. */
  readonly logits: string | undefined;
  /** Names of the weights that the plugin was given. */
  readonly given: ReadonlySet<string>;
}

/** The calls that the logits come from. Keys that are stored in a memory matter to all that reads it. */
export function liveCalls({ calls, logits }: Recording): ReadonlySet<Call> {
  const live = new Set<Call>();
  const tensors = new Set([logits]);
  const read = new Set<number>();
  for (const call of calls.toReversed()) {
    const { method, memory, result } = call;
    const isStored = method === "attend" && memory !== undefined && !memory.isShared && read.has(memory.number);
    if (!isStored && (result === undefined || !tensors.has(result))) continue;
    live.add(call);
    for (const tensor of call.tensors) tensors.add(tensor);
    if (method === "attend" && memory !== undefined) read.add(memory.owner);
  }
  return live;
}

/** Names of the weights that the logits come from. */
export function liveWeights(recording: Recording): ReadonlySet<string> {
  return new Set([...liveCalls(recording)].flatMap(({ weights }) => weights));
}

/** An architecture whose graphs are written down as they are built. */
export interface RecordedArchitecture {
  readonly architecture: Architecture;
  readonly recordings: readonly Recording[];
}

/** The same architecture, in place of any other of its names, with every graph's building recorded. */
export function recordGraphs(architecture: Architecture): RecordedArchitecture {
  const recordings: Recording[] = [];
  return {
    recordings,
    architecture: {
      ...architecture,
      replaces: true,
      read(metadata) {
        const read = architecture.read(metadata);
        return {
          ...read,
          graph(g, weights, memories) {
            const recorder = new Recorder(g, weightNames(weights));
            // Before it is built, so that one that throws is kept too.
            recordings.push(recorder);
            return recorder.finish(read.graph(recorder.graph, weights, memories));
          },
        };
      },
    },
  };
}

function weightNames(tree: unknown): Set<string> {
  if (tree instanceof Weight) return new Set([tree.name]);
  if (typeof tree !== "object" || tree === null) return new Set();
  return new Set(Object.values(tree).flatMap((branch) => [...weightNames(branch)]));
}

class Recorder implements Recording {
  readonly rows: number;
  readonly outputs: number;
  readonly calls: Call[] = [];
  logits: string | undefined;
  /** Looks like the graph, and writes down what is called. */
  readonly graph: Graph;
  private layer: number | undefined;
  private readonly numbers = new Map<Tensor, number>();

  constructor(
    g: Graph,
    readonly given: ReadonlySet<string>,
  ) {
    this.rows = g.rows;
    this.outputs = g.outputs;
    this.graph = new Proxy(g, {
      get: (target, property): unknown => {
        const value: unknown = Reflect.get(target, property);
        if (typeof value !== "function" || typeof property !== "string") return value;
        if (property === "layers") return (...args: Parameters<Graph["layers"]>) => this.walk(target.layers(...args));
        return (...args: unknown[]): unknown => this.call(property, args, value.bind(target) as AnyFunction);
      },
    });
  }

  /** Writes down what the plugin returned, which may be anything. */
  finish(logits: Tensor): Tensor {
    const number = this.numbers.get(logits);
    this.logits = number === undefined ? undefined : `t${number}`;
    return logits;
  }

  private *walk<T extends { readonly index: number }>(layers: Iterable<T>): Generator<T> {
    for (const layer of layers) {
      this.layer = layer.index;
      yield layer;
    }
    this.layer = undefined;
  }

  private call(method: string, args: readonly unknown[], run: AnyFunction): unknown {
    const tensors: string[] = [];
    const weights: string[] = [];
    const show = (value: unknown): string => {
      if (value instanceof Tensor) {
        const number = this.numbers.get(value);
        if (number === undefined) return "a tensor of another graph";
        tensors.push(`t${number}`);
        return `t${number}`;
      }
      if (value instanceof Weight) {
        weights.push(value.name);
        return value.name;
      }
      if (isHandle(value)) return `${value.layer}.${value.name}`;
      if (typeof value !== "object" || value === null) return String(value);
      const parts = Object.entries(value).filter(([, part]) => part !== undefined);
      return `{${parts.map(([key, part]) => `${key}: ${show(part)}`).join(", ")}}`;
    };
    const text = `${method}(${args.map(show).join(", ")})`;
    const [first] = args;
    const tensor = run(...args);
    if (tensor instanceof Tensor && !this.numbers.has(tensor)) this.numbers.set(tensor, this.numbers.size);
    const call: Call = {
      ...{ method, layer: this.layer, text, tensors, weights },
      result: tensor instanceof Tensor ? `t${this.numbers.get(tensor)}` : undefined,
      ...(isHandle(first) ? { memory: first } : {}),
    };
    this.calls.push(call);
    return tensor;
  }
}

type AnyFunction = (...args: readonly unknown[]) => unknown;

function isHandle(value: unknown): value is MemoryHandle {
  return typeof value === "object" && value !== null && "record" in value && "isShared" in value;
}

/** Where the building of two graphs parts, leaving out the sizes that follow from rows; undefined where nowhere. */
export function firstDivergence(
  a: Recording,
  b: Recording,
  part: (call: Call) => string,
): [string, string] | undefined {
  const count = Math.max(a.calls.length, b.calls.length);
  for (let i = 0; i < count; i += 1) {
    const [one, other] = [a.calls[i], b.calls[i]];
    if (one === undefined || other === undefined || part(one) !== part(other)) {
      return [one?.text ?? "nothing more", other?.text ?? "nothing more"];
    }
  }
  return undefined;
}
