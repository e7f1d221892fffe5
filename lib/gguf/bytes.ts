/** Bytes that grow at their end; numbers are little-endian. */
export class ByteSink {
  private buffer = new Uint8Array(4096);
  private view = new DataView(this.buffer.buffer);
  private used = 0;

  get length(): number {
    return this.used;
  }

  uint32(value: number): void {
    // Making room may replace the view.
    const at = this.room(4);
    this.view.setUint32(at, value, true);
  }

  /** A whole number up to 2^53. */
  uint64(value: number): void {
    const at = this.room(8);
    this.view.setBigUint64(at, BigInt(value), true);
  }

  /** A length in bytes, then UTF-8. */
  string(text: string): void {
    const bytes = utf8.encode(text);
    this.uint64(bytes.length);
    this.bytes(bytes);
  }

  bytes(bytes: Uint8Array): void {
    const at = this.room(bytes.length);
    this.buffer.set(bytes, at);
  }

  /** Zeros up to the next multiple of `alignment`. */
  align(alignment: number): void {
    this.room(alignedTo(this.used, alignment) - this.used);
  }

  /** All so far; valid until more is appended. */
  written(): Uint8Array {
    return this.buffer.subarray(0, this.used);
  }

  /** Makes room at the end and gives its offset. */
  private room(bytes: number): number {
    const at = this.used;
    this.used += bytes;
    if (this.used > this.buffer.length) {
      const larger = new Uint8Array(2 ** Math.ceil(Math.log2(this.used)));
      larger.set(this.buffer.subarray(0, at));
      this.buffer = larger;
      this.view = new DataView(larger.buffer);
    }
    return at;
  }
}

const utf8 = new TextEncoder();

/** The next multiple of `alignment` from `size` on. */
export function alignedTo(size: number, alignment: number): number {
  return Math.ceil(size / alignment) * alignment;
}
