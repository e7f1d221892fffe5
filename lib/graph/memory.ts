import type { LayerMemory, MemoryRecord } from "../memory/declaration.ts";

/** A layer's memory as a graph reaches it: for `attend`, or for the operations that advance its states. */
export interface MemoryHandle {
  readonly layer: number;
  readonly name: string;
  /** The library's number for it. */
  readonly number: number;
  readonly record: MemoryRecord;
  /** It is another layer's: it can be read, not written. */
  readonly isShared: boolean;
  /** The number of the memory that it is; its own, unless it is shared. */
  readonly owner: number;
}

/** The memories of a layer as its graph reaches them: those that its declaration `M` names, in any of its forms. */
export type LayerHandles<M extends LayerMemory = LayerMemory> = {
  readonly [K in M extends unknown ? keyof M : never]: HandleOf<M, K>;
};

type HandleOf<M, K> = M extends unknown ? (K extends keyof M ? Handle<M[K]> : undefined) : never;

type Handle<R> = R extends undefined ? undefined : MemoryHandle;
