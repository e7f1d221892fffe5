export {
  attention,
  recurrent,
  shared,
  type AttentionMemory,
  type AttentionOptions,
  type Extent,
  type LayerMemory,
  type MemoryRecord,
  type MemoryTensor,
  type RecurrentMemory,
  type RecurrentOptions,
  type Reuse,
  type Rollback,
  type SharedMemory,
  type StateSpec,
} from "./declaration.ts";
export { kvTypes, type KvType } from "./layout.ts";
export type { MemoryKind, ModelMemory, PlacedLayer, PlacedMemory } from "./placed.ts";
