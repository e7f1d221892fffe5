/** A model's memory as a table for people. */
import { counted, formatBytes, formatTable } from "../format.ts";
import type { ModelMemory, PlacedMemory } from "./placed.ts";

/** Lets `console.log` print a memory as a table; to JSON, and to whoever lists its properties, it stays as it is. */
export function readable(memory: ModelMemory): ModelMemory {
  return Object.defineProperty(memory, Bun.inspect.custom, { value: () => memoryTable(memory) });
}

/** What a model remembers, in a few lines: layers that remember the same share one. */
function memoryTable(memory: ModelMemory): string {
  const groups = new Map<string, { layers: number[]; placed: PlacedMemory | undefined; bytes: number }>();
  for (const { index, memories } of memory.layers) {
    for (const placed of memories.length > 0 ? memories : [undefined]) {
      const { name = "-", description = "nothing", bytes = 0 } = placed ?? {};
      const key = JSON.stringify([name, description, placed?.bytes, placed?.rollback]);
      const group = groups.get(key) ?? { layers: [], placed, bytes: 0 };
      group.layers.push(index);
      group.bytes += bytes;
      groups.set(key, group);
    }
  }
  const rows = Array.from(groups.values(), ({ layers, placed, bytes }) => [
    ranges(layers),
    placed?.name ?? "-",
    placed?.description ?? "nothing",
    placed?.rollback ?? "",
    formatBytes(bytes),
  ]);
  const head = `${memory.kind} memory, ${formatBytes(memory.bytes)} in ${counted(memory.layers.length, "layer")}`;
  const room =
    memory.bytesPerSnapshot > 0
      ? `snapshots of ${formatBytes(memory.bytesPerSnapshot)}, room for ${memory.snapshots}\n`
      : "";
  return `${head}\n${formatTable([["layers", "memory", "remembers", "rollback", "bytes"], ...rows], [4])}${room}`.trimEnd();
}

/** Ascending numbers with their runs drawn together: "0-2, 5". */
function ranges(numbers: readonly number[]): string {
  const runs: { first: number; last: number }[] = [];
  for (const number of numbers) {
    const run = runs.at(-1);
    if (run !== undefined && run.last === number - 1) run.last = number;
    else runs.push({ first: number, last: number });
  }
  return runs.map(({ first, last }) => (first === last ? `${first}` : `${first}-${last}`)).join(", ");
}
