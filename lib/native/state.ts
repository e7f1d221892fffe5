import { checkPath } from "../arguments.ts";
import { check, native } from "./library.ts";
import { Struct } from "./struct.ts";

/** One sequence or snapshot of a saved state. */
export interface StateHolderFacts {
  readonly kind: "sequence" | "snapshot";
  /** Index of a snapshot's sequence; a sequence's own. */
  readonly of: number;
  readonly position: number;
  readonly tokenCount: number;
}

/** A saved state in the library: an open, mapped file. */
export class NativeState implements Disposable {
  readonly handle: number;
  private closed = false;

  constructor(path: string) {
    checkPath("state", path);
    const bytes = new TextEncoder().encode(path);
    const handle = new Uint32Array(1);
    check(native().strata_state_open(bytes, bytes.length, handle));
    this.handle = handle[0] as number;
  }

  facts(): {
    readonly version: number;
    readonly sequences: number;
    readonly snapshots: number;
    readonly sections: number;
    /** Of the whole file. */
    readonly bytes: number;
    readonly fingerprint: string;
    readonly declaration: string;
  } {
    const out = new Struct("StateInfo");
    check(native().strata_state_info(this.handle, out.bytes));
    const half = (field: "declarationLow" | "declarationHigh") => out.get(field).toString(16).padStart(8, "0");
    return {
      version: out.get("version"),
      sequences: out.get("sequences"),
      snapshots: out.get("snapshots"),
      sections: out.get("sections"),
      bytes: out.get("bytes"),
      fingerprint: out.hex("fingerprint"),
      declaration: half("declarationHigh") + half("declarationLow"),
    };
  }

  /** All sequences and snapshots, in the file's order. */
  holders(): StateHolderFacts[] {
    const { sequences, snapshots } = this.facts();
    const out = new Struct("HolderInfo");
    return Array.from({ length: sequences + snapshots }, (_, index) => {
      check(native().strata_state_holder(this.handle, index, out.bytes));
      return {
        kind: out.get("isSnapshot") === 0 ? "sequence" : "snapshot",
        of: out.get("of"),
        position: out.get("position"),
        tokenCount: out.get("tokens"),
      };
    });
  }

  tokens(index: number): number[] {
    const count = new Uint32Array(1);
    check(native().strata_state_tokens(this.handle, index, new Int32Array(1), 0, count));
    const out = new Int32Array(Math.max(count[0] ?? 0, 1));
    check(native().strata_state_tokens(this.handle, index, out, out.length, count));
    return Array.from(out.subarray(0, count[0]));
  }

  /** Throws where any byte of the file is not as it was written. */
  verify(): void {
    check(native().strata_state_verify(this.handle));
  }

  [Symbol.dispose](): void {
    if (this.closed) return;
    this.closed = true;
    check(native().strata_state_close(this.handle));
  }
}
