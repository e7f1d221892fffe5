import { describeMemory, openModelFile, type MemoryOptions, type ModelFile, type ModelMemory } from "../index.ts";
import type { Metadata, MetadataValue } from "../gguf/metadata.ts";
import { Registry, type Plugin } from "../model/registry.ts";
import { defineCommand } from "./command.ts";
import { counted, formatBytes, formatTable } from "./format.ts";
import { contextOption, kvOption, rollbackOption } from "./options.ts";
import { UsageError } from "./usage.ts";

/** What `strata inspect --json` prints. */
export interface Inspection {
  file: { path: string; bytes: number; parts: number };
  /** The file's `general.architecture`. */
  architecture: string | null;
  /** Null where no plugin declares the architecture. */
  memory: Omit<ModelMemory, "layers"> | null;
  layers: ModelMemory["layers"];
  /** Long arrays are shortened to `{length, first}`. */
  metadata: Record<string, unknown>;
  tensors: ModelFile["tensors"];
}

/** What the file and its architecture's declaration say, as plain data. */
export async function inspectFile(
  file: ModelFile,
  plugins: readonly Plugin[],
  options: Pick<MemoryOptions, "context" | "kv" | "rollback">,
): Promise<Inspection> {
  const architecture = file.metadata.string("general.architecture", undefined) ?? null;
  const registry = await Registry.open(plugins);
  const isKnown = architecture !== null && registry.get(architecture) !== undefined;
  const described = isKnown ? await describeMemory(file, { ...options, plugins }) : undefined;
  const { layers = [], ...memory } = described ?? {};
  return {
    file: { path: file.path, bytes: file.fileBytes, parts: file.parts },
    architecture,
    memory: described === undefined ? null : (memory as Omit<ModelMemory, "layers">),
    layers,
    metadata: plainMetadata(file.metadata),
    tensors: file.tensors,
  };
}

const longest = 16;
const shown = 8;

function plainMetadata(metadata: Metadata): Record<string, unknown> {
  return Object.fromEntries(metadata.keys.map((key) => [key, plainValue(metadata.get(key))]));
}

function plainValue(value: MetadataValue | undefined): unknown {
  if (!isArray(value)) return plainScalar(value);
  const items = Array.from<unknown, unknown>(value.slice(0, value.length > longest ? shown : longest), plainScalar);
  return value.length > longest ? { length: value.length, first: items } : items;
}

type ArrayValue = Exclude<MetadataValue, string | number | bigint | boolean>;

function isArray(value: MetadataValue | undefined): value is ArrayValue {
  return Array.isArray(value) || ArrayBuffer.isView(value);
}

/** JSON has neither integers beyond 2^53 nor NaN and infinities: those become text. */
function plainScalar(value: unknown): unknown {
  if (typeof value === "bigint") return Number.isSafeInteger(Number(value)) ? Number(value) : String(value);
  return typeof value === "number" && !Number.isFinite(value) ? String(value) : value;
}

/** Layers and what each remembers, as rows of a table; the first has the headings. Two columns more show rollbacks. */
export function layerRows(layers: ModelMemory["layers"], showsRollback = false): string[][] {
  const rows = layers.flatMap(({ index, memories }) => {
    if (memories.length === 0) return [[String(index), "-", "nothing", "", ""]];
    return memories.map(({ name, kind, description, bytes, rollback, rollbackBytes }, place) => {
      const row = [place === 0 ? String(index) : "", name, kind, description, formatBytes(bytes)];
      return showsRollback ? [...row, rollback, formatBytes(rollbackBytes)] : row;
    });
  });
  const headings = ["layer", "memory", "kind", "remembers", "bytes"];
  return [showsRollback ? [...headings, "rollback", "of that"] : headings, ...rows];
}

function text(inspection: Inspection, showsRollback: boolean): string {
  const { file, architecture, memory, layers, metadata, tensors } = inspection;
  const parts = file.parts > 1 ? ` in ${file.parts} parts` : "";
  const head = `${file.path}: ${formatBytes(file.bytes)}${parts}, architecture ${architecture ?? "not named"}\n`;
  const values = Object.entries(metadata).map(([key, value]) => [`  ${key}`, short(value)]);
  const rows = tensors.map(({ name, type, shape, bytes }) => [
    `  ${name}`,
    type,
    shape.join(" x "),
    formatBytes(bytes),
  ]);
  return [
    head,
    memory === null ? `Memory: unknown, ${unknown(architecture)}\n` : memoryText(memory, layers, showsRollback),
    `Metadata (${counted(values.length, "key")}):\n${formatTable(values)}`,
    `Tensors (${tensors.length}):\n${formatTable(rows, [3])}`,
  ].join("\n");
}

function memoryText(
  memory: NonNullable<Inspection["memory"]>,
  layers: ModelMemory["layers"],
  showsRollback: boolean,
): string {
  const head = `Memory: ${memory.kind}, ${formatBytes(memory.bytes)} in ${counted(layers.length, "layer")}\n`;
  return head + formatTable(layerRows(layers, showsRollback), [0, 4, 6]);
}

function unknown(architecture: string | null): string {
  if (architecture === null) return "since the file names no architecture (general.architecture)";
  return `since no plugin declares the architecture "${architecture}"; give one with --plugin PLUGIN`;
}

function short(value: unknown): string {
  const long = value !== null && typeof value === "object" && "length" in value && !Array.isArray(value);
  if (long && "first" in value) return `${JSON.stringify(value.first).slice(0, -1)},...] (${String(value.length)})`;
  const line = typeof value === "string" ? value.replaceAll(/\s+/g, " ") : JSON.stringify(value);
  return line.length > 80 ? `${line.slice(0, 77)}... (${counted(line.length, "character")})` : line;
}

export const inspect = defineCommand({
  name: "inspect",
  summary: "Show what a model file holds and what each layer remembers. Only its header is read.",
  usage: "FILE [--ctx N --kv TYPE --rollback N]",
  options: { ...contextOption, ...kvOption, ...rollbackOption },
  positionals: ["FILE"],
  notes: `
Bytes are those of one sequence; with --rollback, how each memory takes tokens back, and what of its bytes that
needs. strata plan says more. A file whose architecture no plugin declares is shown without its memories.
JSON: {"file": {"path", "bytes", "parts"}, "architecture": "...", "memory": {"kind", "isRecurrent",
  "isHybrid", "bytes", "bytesPerSnapshot", "snapshots"}, "layers": [{"index": 0, "memories": [{"name", "kind", "description", "bytes", ...}]}],
  "metadata": {...}, "tensors": [{"name", "type", "shape", "bytes"}]}
Kinds: unified, sliding, iswa, recurrent, hybrid, none. Arrays of more than ${longest} values become {"length", "first"}.

  strata inspect model.gguf --json`,
  async run({ values, positionals, output }) {
    const [path] = positionals;
    if (path === undefined || path === "") throw new UsageError("FILE is empty; give the name of a model file");
    using file = openModelFile(path);
    const { ctx: context, kv, rollback } = values;
    const inspection = await inspectFile(file, values.plugin, { context, kv, rollback });
    if (output.json && inspection.memory === null) {
      await output.note(`strata: the memories are not known, ${unknown(inspection.architecture)}`);
    }
    await (output.json ? output.document(inspection) : output.write(text(inspection, rollback !== undefined)));
    return 0;
  },
});
