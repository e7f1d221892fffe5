/** How long the graph of a step takes to build: models of 32 layers, as the fixtures have them but for their number. */
import { openModelFile } from "ggstrata";
import { median } from "../../lib/cli/format.ts";
import { buildGraph, declareWeights, memoryHandles } from "../../lib/model/build.ts";
import { layOutMemory } from "../../lib/memory/layout.ts";
import { engineConfig } from "../../lib/model/options.ts";
import { engineFlags, NativeEngine } from "../../lib/native/engine.ts";
import { architectures } from "../../plugins/index.ts";
import { Folder } from "../model/help.ts";
import { makeModel, type Changes } from "../plugins/made-model.ts";

export interface GraphMeasurement {
  readonly architecture: string;
  readonly nodes: number;
  /** The first graph of a process, when nothing of it is compiled yet. */
  readonly first_ms: number;
  /** Any later one: the median. */
  readonly build_ms: number;
}

const layers = 32;
const warmups = 60;
const repetitions = 40;

/** `layers` values: those of a model with fewer layers, again and again. */
function repeated(values: readonly number[]): number[] {
  return Array.from({ length: layers }, (_, i) => values[i % values.length] as number);
}

/** Hybrids of several kinds, and the plainest model; a layer's kind by keys that have a value for each layer. */
const models: readonly (readonly [name: string, changes: Changes, extras?: RegExp])[] = [
  ["llama", {}],
  ["granitehybrid", { "attention.head_count_kv": repeated([0, 0, 2, 0]) }],
  [
    "jamba",
    { "attention.head_count_kv": repeated([0, 0, 2, 0, 0]) },
    /blk\.\d*[02468]\.ffn_[a-z]*\.weight|blk\.\d*[13579]\.ffn_(gate_inp|.*_exps)/,
  ],
  ["qwen3next", { "attention.recurrent_layers": undefined }, /attn_(qkv|gate)/],
  [
    "nemotron_h",
    { feed_forward_length: repeated([0, 96, 0, 0, 96, 0]), "attention.head_count_kv": repeated([0, 0, 0, 2, 0, 0]) },
  ],
  ["kimi-linear", { "attention.head_count_kv": repeated([0, 0, 0, 1]) }],
  ["rwkv7", {}],
];

/** Builds the graph of a decoding step of each model, over and over. */
export async function measureGraphs(onMeasured?: (architecture: string) => void): Promise<GraphMeasurement[]> {
  using folder = new Folder();
  const measured: GraphMeasurement[] = [];
  for (const [name, changes, extras] of models) {
    const path = await makeModel(folder.path, name, { ...changes, block_count: layers }, extras);
    measured.push(await measureOne(name, path));
    onMeasured?.(name);
  }
  return measured;
}

async function measureOne(name: string, path: string): Promise<GraphMeasurement> {
  using file = openModelFile(path);
  const found = architectures.find(({ names }) => names.includes(name));
  if (found === undefined) throw new Error(`no architecture ${name}`);
  const read = found.read(file.metadata);
  const config = engineConfig(read, { context: 128, batch: 2 });
  const layout = layOutMemory(read.memory, "f16", config);
  const { native, weights } = declareWeights(file, read);
  try {
    const engine = new NativeEngine(native, layout.lowered, { ...config, flags: engineFlags.dry });
    try {
      const parts = { engine, read, weights, handles: memoryHandles(layout), architecture: name };
      const build = (rows: number): { nodes: number; ms: number } => {
        const start = performance.now();
        const { nodes } = buildGraph(parts, rows, 1);
        return { nodes, ms: performance.now() - start };
      };
      // An engine keeps its first graph.
      const { nodes, ms: first_ms } = build(1);
      const times = Array.from({ length: warmups + repetitions }, () => {
        const { ms } = build(2);
        engine.dropGraph(2, 1);
        return ms;
      });
      return { architecture: name, nodes, first_ms, build_ms: median(times.slice(warmups)) };
    } finally {
      await engine.close();
    }
  } finally {
    native.free();
  }
}
