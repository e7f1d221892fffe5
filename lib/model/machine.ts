import { totalmem } from "node:os";

/** Bytes of memory that this process can have at most. */
export function machineBytes(): number {
  return Math.min(totalmem(), process.constrainedMemory() || Infinity);
}
