import { StrataError } from "../errors.ts";
import { WeightUse } from "./abi.ts";
import { eventPump } from "./events.ts";
import type { NativeFile } from "./file.ts";
import { check, native } from "./library.ts";
import { Struct } from "./struct.ts";

export type Use = keyof typeof WeightUse;

/** How far the weights are read. */
export interface LoadProgress {
  /** Bytes of weights that are ready; grows to `totalBytes`. */
  readonly doneBytes: number;
  /** Bytes of all weights that the architecture declares, as they are in the file. */
  readonly totalBytes: number;
}

/** The weights of a model in the library. */
export class NativeModel {
  readonly handle: number;
  private freed = false;

  constructor(file: NativeFile, weights: number) {
    const handle = new Uint32Array(1);
    check(native().strata_model_new(file.handle, weights, handle));
    this.handle = handle[0] as number;
  }

  /** Declares tensor `index` of the file as a weight; returns the weight's number. */
  weight(index: number, use: Use): number {
    const number = new Int32Array(1);
    check(native().strata_model_weight(this.handle, index, WeightUse[use], number));
    return number[0] as number;
  }

  /** What the declared weights take, loaded or not: bytes that stay mapped, and bytes in another order in memory. */
  measure(): { readonly mappedBytes: number; readonly repackedBytes: number } {
    const info = new Struct("ModelInfo");
    check(native().strata_model_info(this.handle, info.bytes));
    return { mappedBytes: info.get("mappedBytes"), repackedBytes: info.get("repackedBytes") };
  }

  /** Reads, maps and repacks the weights on a thread of the library. */
  load(onProgress?: (progress: LoadProgress) => void, signal?: AbortSignal): Promise<void> {
    const pump = eventPump();
    const cancel = () => check(native().strata_model_cancel(this.handle));
    let thrown: { readonly cause: unknown } | undefined;
    const report = (progress: LoadProgress) => {
      try {
        if (thrown === undefined) onProgress?.(progress);
      } catch (cause) {
        thrown = { cause };
        cancel();
      }
    };
    return new Promise<void>((resolve, reject) => {
      pump.listen(-this.handle, (event) => {
        if (event.kind === "progress") report({ doneBytes: event.done, totalBytes: event.total });
        if (event.kind !== "done") return;
        pump.forget(-this.handle);
        signal?.removeEventListener("abort", cancel);
        // A small file is loaded before a wish to cancel arrives; it holds all the same.
        if (thrown !== undefined) reject(thrown.cause);
        else if (signal?.aborted) reject(signal.reason);
        else if (event.error === undefined) resolve();
        else reject(event.error);
      });
      check(native().strata_model_load(this.handle, pump.handle));
      pump.expect();
      if (signal?.aborted) cancel();
      else signal?.addEventListener("abort", cancel, { once: true });
    });
  }

  free(): void {
    if (this.freed) return;
    this.freed = true;
    check(native().strata_model_free(this.handle));
  }
}

export interface TypeFacts {
  readonly name: string;
  readonly blockElements: number;
  readonly blockBytes: number;
}

const types = new Map<number, TypeFacts>();

/** Facts of a ggml element type. */
export function typeFacts(type: number): TypeFacts {
  let facts = types.get(type);
  if (facts === undefined) {
    const info = new Struct("TypeInfo");
    check(native().strata_type_info(type, info.bytes));
    facts = { name: info.text("name"), blockElements: info.get("blockElements"), blockBytes: info.get("blockBytes") };
    types.set(type, facts);
  }
  return facts;
}

/** ggml's number of a type by its name. */
export function typeNumber(name: string): number {
  for (let type = 0; type < 64; type += 1) {
    try {
      if (typeFacts(type).name === name) return type;
    } catch (error) {
      if (!(error instanceof StrataError && error.code === "not_found")) throw error;
    }
  }
  throw new StrataError("not_found", `ggml has no type "${name}"`);
}
