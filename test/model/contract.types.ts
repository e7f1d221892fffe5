/** Mistakes in a definition that the type checker finds: `bun check` fails where one of these lines is no error. */
import {
  attention,
  defineArchitecture,
  matrix,
  optional,
  recurrent,
  table,
  vector,
  type Architecture,
  type Graph,
  type MemoryRecord,
} from "ggstrata";

const parts = {
  apiVersion: 1,
  names: ["typed"],
  config: () => ({ vocabulary: 8, contextLength: 16, width: 4 }),
  memory: () => [{ attn: attention({ heads: 1, keyDim: 4, valueDim: 4 }) }],
  weights: () => ({ embedding: table("embedding", [4, 8]), bias: optional(vector("bias", [4])) }),
  graph: (g: Graph) => g.tokens(),
} as const;

export const right: Architecture = defineArchitecture(parts);

const { apiVersion: _, ...unversioned } = parts;
// @ts-expect-error the version is missing
defineArchitecture(unversioned);
// @ts-expect-error there is no such version
defineArchitecture({ ...parts, apiVersion: 2 });
// @ts-expect-error a name at least
defineArchitecture({ ...parts, names: [] });
// @ts-expect-error it replaces another, or says nothing
defineArchitecture({ ...parts, replaces: false });
// @ts-expect-error the context's length is missing
defineArchitecture({ ...parts, config: () => ({ vocabulary: 8, width: 4 }) });
// @ts-expect-error a configuration is no promise
defineArchitecture({ ...parts, config: async () => ({ vocabulary: 8, contextLength: 16, width: 4 }) });
// @ts-expect-error memories have names
defineArchitecture({ ...parts, memory: () => [attention({ heads: 1, keyDim: 4 })] });
// @ts-expect-error a memory for each layer, in an array
defineArchitecture({ ...parts, memory: () => ({ attn: attention({ heads: 1, keyDim: 4 }) }) });
// @ts-expect-error a weight is declared by what it is used for
defineArchitecture({ ...parts, weights: () => ({ embedding: "token_embd.weight" }) });
// @ts-expect-error names of tensors
defineArchitecture({ ...parts, ignores: () => [5] });
// @ts-expect-error a graph gives a tensor
defineArchitecture({ ...parts, graph: () => undefined });
// @ts-expect-error a graph gives a tensor, and no promise of one
defineArchitecture({ ...parts, graph: async (g: Graph) => g.tokens() });

defineArchitecture({
  ...parts,
  // @ts-expect-error the configuration has no such value
  weights: (c) => ({ embedding: table("embedding", [c.hidden, 8]) }),
});

defineArchitecture({
  ...parts,
  graph: (g, c, w, memory) => {
    const x = g.getRows(w.embedding, g.tokens());
    // @ts-expect-error there is no such weight
    g.add(x, w.head);
    // @ts-expect-error the file may lack this weight
    g.add(x, w.bias);
    // @ts-expect-error the layer has no such memory
    g.convolve(memory[0]?.ssm, x, { state: "conv", weight: w.embedding });
    // @ts-expect-error the configuration has no such value
    g.scale(x, c.scale);
    // @ts-expect-error attention needs queries
    g.attend(memory[0]!.attn, { keys: x });
    // @ts-expect-error there is no such function
    g.unary(x, "swish");
    // @ts-expect-error a number is no tensor
    g.add(x, 1);
    return x;
  },
});

// @ts-expect-error the size of heads is missing
attention({ heads: 2 });
// @ts-expect-error there is no such extent
attention({ heads: 2, keyDim: 4, widow: 8 });
// @ts-expect-error a state's type is f32 or f16
recurrent({ conv: { shape: [4], dtype: "bf16" } });
// @ts-expect-error a matrix has two dimensions
matrix("head", [4]);
// @ts-expect-error a state is reused at its exact position, and "any" is no kind of reuse
export const record: MemoryRecord = { ...recurrent({ s: [4] }), reuse: "any" };
