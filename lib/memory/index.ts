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
export { kvTypes, type KvType, type MemoryKind, type ModelMemory, type PlacedLayer, type PlacedMemory } from "./layout.ts";
