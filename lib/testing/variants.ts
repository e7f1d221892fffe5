/** The same architecture with one thing done in another way, to find out which of them was meant. */
import type { Graph } from "../graph/graph.ts";
import type { AttendOptions, ConvolveOptions, LinearRecurrenceOptions, RopeOptions } from "../graph/options.ts";
import type { MemoryHandle } from "../graph/memory.ts";
import { sequenceStarts } from "../graph/recurrence-blocks.ts";
import type { Operand, Tensor } from "../graph/tensor.ts";
import type { LayerMemory, MemoryRecord, SharedMemory } from "../memory/declaration.ts";
import type { Architecture } from "../model/architecture.ts";

export interface Variant {
  /** What it says of the plugin where it gives the reference's logits. */
  readonly finding: string;
  /** What a plugin must have for it to make a difference: calls of this method of the graph, or "window"s and chunks. */
  readonly needs: string;
  readonly apply: (architecture: Architecture) => Architecture;
}

type Methods = { readonly [K in keyof Graph]?: Graph[K] };

/** With methods of the graph replaced. */
function withMethods(architecture: Architecture, replace: (g: Graph) => Methods): Architecture {
  return {
    ...architecture,
    replaces: true,
    read(metadata) {
      const read = architecture.read(metadata);
      return {
        ...read,
        graph(g, weights, memories) {
          const methods = replace(g) as Readonly<Record<PropertyKey, unknown>>;
          const changed = new Proxy(g, {
            get(target, property): unknown {
              if (Object.hasOwn(methods, property)) return methods[property];
              const value: unknown = Reflect.get(target, property);
              return typeof value === "function" ? (value.bind(target) as unknown) : value;
            },
          });
          return read.graph(changed, weights, memories);
        },
      };
    },
  };
}

/** With every record of the declaration replaced. */
function withMemory(architecture: Architecture, change: (record: MemoryRecord) => MemoryRecord): Architecture {
  const one = (memory: MemoryRecord | SharedMemory | undefined) =>
    memory === undefined || memory.kind === "shared" ? memory : change(memory);
  return {
    ...architecture,
    replaces: true,
    read(metadata) {
      const read = architecture.read(metadata);
      const memory = read.memory.map((layer): LayerMemory =>
        Object.fromEntries(Object.entries(layer).map(([name, record]) => [name, one(record)])),
      );
      return { ...read, memory };
    },
  };
}

function resized(by: number): (architecture: Architecture) => Architecture {
  return (architecture) =>
    withMemory(architecture, (record) => {
      if (record.kind === "recurrent" || !("size" in record.extent)) return record;
      return { ...record, extent: { ...record.extent, size: Math.max(1, record.extent.size + by) } };
    });
}

/** Query heads in the other order: those that share a key head next to each other, or far apart. */
function regrouped(g: Graph, memory: MemoryHandle, options: AttendOptions, from: "blocks" | "interleaved"): Tensor {
  const { record } = memory;
  const kvHeads = record.kind === "attention" ? record.heads : 1;
  const queries = g.cont(options.queries);
  const [dim, heads, rows] = queries.shape;
  const group = heads / kvHeads;
  const swap = (t: Tensor, width: number, inner: number, outer: number) =>
    g.reshape(g.cont(g.permute(g.reshape(t, width, inner, outer, rows), 0, 2, 1, 3)), width, heads, rows);
  const [inner, outer] = from === "blocks" ? [kvHeads, group] : [group, kvHeads];
  const attended = g.attend(memory, { ...options, queries: swap(queries, dim, inner, outer) });
  return swap(attended, attended.shape[0], outer, inner);
}

function reversedTaps(g: Graph, weight: Operand): Tensor {
  const whole = g.cont(weight);
  const taps = Array.from({ length: whole.shape[0] }, (_, i) => g.cont(g.slice(whole, i, 1)));
  return taps.reduceRight((joined, tap) => g.concat(joined, tap, 0));
}

const windowAdvice = "a window counts the token itself";

export const variants: readonly Variant[] = [
  {
    finding: `with windows and chunks one smaller they are: the declared ones are too large by one; ${windowAdvice}`,
    needs: "window",
    apply: resized(-1),
  },
  {
    finding: `with windows and chunks one larger they are: the declared ones are too small by one; ${windowAdvice}`,
    needs: "window",
    apply: resized(1),
  },
  {
    finding:
      "with the taps of convolutions in the other order they are: the order of taps is wrong; the last one is the token's own",
    needs: "convolve",
    apply: (architecture) =>
      withMethods(architecture, (g) => ({
        convolve: (memory: MemoryHandle, x: Operand, options: ConvolveOptions) =>
          g.convolve(memory, x, { ...options, weight: reversedTaps(g, options.weight) }),
      })),
  },
  {
    finding:
      "with SiLU behind convolutions where there is none, and none where there is one, they are: the activation is wrong",
    needs: "convolve",
    apply: (architecture) =>
      withMethods(architecture, (g) => ({
        convolve: (memory: MemoryHandle, x: Operand, options: ConvolveOptions) =>
          g.convolve(memory, x, { ...options, silu: !(options.silu ?? false) }),
      })),
  },
  ...(["blocks", "interleaved"] as const).map((from): Variant => ({
    finding: "with query heads shared out to key heads in the other order they are: heads are repeated the wrong way",
    needs: "attend",
    apply: (architecture) =>
      withMethods(architecture, (g) => ({
        attend: (memory: MemoryHandle, options: AttendOptions) => regrouped(g, memory, options, from),
      })),
  })),
  {
    finding: "with products of queries and keys scaled by 1 / sqrt(keyDim) they are: `scale` of `attend` is wrong",
    needs: "attend",
    apply: (architecture) =>
      withMethods(architecture, (g) => ({
        attend: (memory: MemoryHandle, { scale: _, ...options }: AttendOptions) => g.attend(memory, options),
      })),
  },
  {
    finding: 'with the other mode of rotary embedding they are: `mode` of `rope` ("normal" or "neox") is wrong',
    needs: "rope",
    apply: (architecture) =>
      withMethods(architecture, (g) => ({
        rope: (a: Operand, options: RopeOptions) =>
          g.rope(a, { ...options, mode: options.mode === "neox" ? "normal" : "neox" }),
      })),
  },
  {
    finding: "without rotary embedding they are: keys and queries are turned where they should not be",
    needs: "rope",
    apply: (architecture) => withMethods(architecture, (g) => ({ rope: (a: Operand) => g.scale(g.cont(a), 1) })),
  },
  {
    finding:
      "with a sequence's first token taken in whole by linear recurrences they are: the reset at position 0 is missing " +
      "(see `sequenceStarts`)",
    needs: "linearRecurrence",
    apply: (architecture) =>
      withMethods(architecture, (g) => ({
        linearRecurrence: (memory: MemoryHandle, options: LinearRecurrenceOptions) => {
          const rest = g.scale(g.sqr(options.a), -1, 1);
          const share = g.sqrt(g.clamp(g.add(rest, sequenceStarts(g)), 0, 1));
          const x = g.mul(g.div(options.x, g.sqrt(rest)), share);
          return g.linearRecurrence(memory, { ...options, x });
        },
      })),
  },
  {
    finding: "with the two sides of gated activations exchanged they are: gate and up are the wrong way round",
    needs: "glu",
    apply: (architecture) =>
      withMethods(architecture, (g) => ({
        glu: (a: Operand, b: Operand, fn: Parameters<Graph["glu"]>[2]) => g.glu(b, a, fn),
      })),
  },
];
