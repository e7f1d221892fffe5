import type { MemoryRecord, Rollback } from "./declaration.ts";

/** The name the field has for a model's mix of memories. */
export type MemoryKind = "unified" | "sliding" | "iswa" | "recurrent" | "hybrid" | "none";

/** One declared memory, where it stands, and what it takes. */
export interface PlacedMemory {
  readonly name: string;
  readonly kind: "attention" | "recurrent";
  /** What it remembers, in words. */
  readonly description: string;
  /** The layer whose memory this is, where it is shared. */
  readonly sharedFrom: number | undefined;
  /** Bytes over all sequences; 0 where it is shared. */
  readonly bytes: number;
  /** Cells over all sequences: positions for attention, states for recurrent memories. */
  readonly cells: number;
  readonly bytesPerCell: number;
  /** Of `bytes`, what taking tokens back needs, and how it is done. */
  readonly rollbackBytes: number;
  readonly rollback: Rollback;
  /** Of `bytes`, what is there for snapshots. */
  readonly snapshotBytes: number;
  readonly record: MemoryRecord;
}

export interface PlacedLayer {
  readonly index: number;
  readonly memories: readonly PlacedMemory[];
}

/** The memory of a model, answered from its declaration. */
export interface ModelMemory {
  readonly kind: MemoryKind;
  readonly isRecurrent: boolean;
  readonly isHybrid: boolean;
  /** Bytes of all memories, exactly as allocated. */
  readonly bytes: number;
  /** What one snapshot is counted as, and how many there is room for. */
  readonly bytesPerSnapshot: number;
  readonly snapshots: number;
  readonly layers: readonly PlacedLayer[];
}
