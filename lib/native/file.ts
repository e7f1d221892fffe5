import { checkPath } from "../arguments.ts";
import { check, native } from "./library.ts";
import { Struct } from "./struct.ts";

/** Where a metadata value lies in the header. */
export interface ValueLocation {
  readonly key: string;
  readonly type: number;
  readonly elementType: number;
  readonly count: number;
  readonly offset: number;
  readonly bytes: number;
}

export interface FileTensor {
  readonly name: string;
  /** ggml's number of the element type. */
  readonly type: number;
  /** Elements in each dimension, fastest first, as many as the file gives. */
  readonly shape: readonly number[];
  readonly bytes: number;
}

/** An open model file of the library: mapped, its header checked. */
export class NativeFile {
  readonly handle: number;
  readonly parts: number;
  readonly fileBytes: number;
  readonly tensorBytes: number;
  readonly valueCount: number;
  readonly tensorCount: number;
  private closed = false;

  constructor(readonly path: string) {
    checkPath("model file", path);
    const bytes = new TextEncoder().encode(path);
    const handle = new Uint32Array(1);
    check(native().strata_file_open(bytes, bytes.length, handle));
    this.handle = handle[0] as number;
    const info = new Struct("FileInfo");
    check(native().strata_file_info(this.handle, info.bytes));
    this.parts = info.get("parts");
    this.fileBytes = info.get("fileBytes");
    this.tensorBytes = info.get("tensorBytes");
    this.valueCount = info.get("values");
    this.tensorCount = info.get("tensors");
  }

  /** A copy of the header's bytes. */
  read(offset: number, bytes: number): Uint8Array<ArrayBuffer> {
    const out = new Uint8Array(Math.max(bytes, 1));
    check(native().strata_file_read(this.handle, offset, out, bytes));
    return out.subarray(0, bytes);
  }

  values(): ValueLocation[] {
    const info = new Struct("ValueInfo");
    return Array.from({ length: this.valueCount }, (_, index) => {
      check(native().strata_file_value(this.handle, index, info.bytes));
      return {
        key: new TextDecoder().decode(this.read(info.get("keyOffset"), info.get("keyBytes"))),
        type: info.get("type"),
        elementType: info.get("elementType"),
        count: info.get("count"),
        offset: info.get("offset"),
        bytes: info.get("sizeBytes"),
      };
    });
  }

  tensors(): FileTensor[] {
    const info = new Struct("FileTensorInfo");
    return Array.from({ length: this.tensorCount }, (_, index) => {
      check(native().strata_file_tensor(this.handle, index, info.bytes));
      return {
        name: info.text("name"),
        type: info.get("type"),
        shape: info.array("ne").slice(0, info.get("dims")),
        bytes: info.get("sizeBytes"),
      };
    });
  }

  close(): void {
    if (this.closed) return;
    this.closed = true;
    check(native().strata_file_close(this.handle));
  }
}
