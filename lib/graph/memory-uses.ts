import type { LayerHandles, MemoryHandle } from "./memory.ts";

/**
 * What a graph does with the memories of its model. Every state must be advanced once, and every memory of keys and values
 * be stored to once before it is read: a memory that was left out would silently remember nothing.
 */
export class MemoryUses {
  private readonly handles = new Map<number, MemoryHandle>();
  /** Keys of memories and of states. */
  private readonly written = new Set<number>();
  private readonly isRead = new Set<number>();

  constructor(layers: readonly LayerHandles[]) {
    for (const layer of layers) {
      for (const handle of Object.values(layer)) if (handle !== undefined) this.handles.set(handle.number, handle);
    }
  }

  has(handle: MemoryHandle): boolean {
    return typeof handle === "object" && handle !== null && this.handles.get(handle.number) === handle;
  }

  /** What is wrong with writing a memory (or the state of this index) here; undefined where nothing is. */
  write(handle: MemoryHandle, state?: number): string | undefined {
    const { name, number, record, isShared } = handle;
    if (isShared) return `the memory "${name}" is another layer's, and can only be read`;
    const key = keyOf(number, state);
    if (this.written.has(key)) {
      const stateName =
        record.kind === "recurrent" && state !== undefined ? Object.keys(record.tensors)[state] : undefined;
      const what =
        stateName === undefined ? `the memory "${name}"` : `the state "${stateName}" of the memory "${name}"`;
      return `${what} has been written by another operation of this step; a second one needs a memory of its own`;
    }
    this.written.add(key);
    return undefined;
  }

  /** The same of reading keys and values. */
  read(handle: MemoryHandle): string | undefined {
    this.isRead.add(handle.number);
    if (this.written.has(keyOf(handle.owner))) return undefined;
    const owner = this.handles.get(handle.owner);
    const whose = handle.isShared ? `layer ${owner?.layer}` : "this layer";
    return `the memory "${handle.name}" is read before ${whose} has stored this step's keys; attend with keys first`;
  }

  /** The first memory that was declared and not used. */
  missing(): string | undefined {
    for (const { layer, name, number, record, isShared } of this.handles.values()) {
      const where = `layer ${layer}, memory "${name}"`;
      if (isShared) {
        if (!this.isRead.has(number)) return `${where}: it is declared as shared, and the graph never reads it`;
      } else if (record.kind === "attention") {
        if (!this.written.has(keyOf(number))) return `${where}: it is declared, and the graph never stores keys in it`;
      } else {
        const state = Object.keys(record.tensors).find((_, i) => !this.written.has(keyOf(number, i)));
        if (state !== undefined) return `${where}: its state "${state}" is declared, and no operation advances it`;
      }
    }
    return undefined;
  }
}

/** More than the states of a memory, with its keys and values as one more. */
const keysPerMemory = 16;

function keyOf(number: number, state = -1): number {
  return number * keysPerMemory + state + 1;
}
