/**
 * A GGUF file with one more entry in its metadata. Tensor offsets count from the end of the header, so the header
 * grows and what follows it moves.
 */
export function withEntry(file: Uint8Array, key: string, value: string | boolean): Uint8Array {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  const reader = new Reader(view);
  const end = reader.headerEnd();
  const typed = typeof value === "string" ? [number32(stringType), text(value)] : [number32(boolType), bool(value)];
  const entry = concatenated([text(key), ...typed]);
  const header = concatenated([file.subarray(0, firstEntry), entry, file.subarray(firstEntry, end)]);
  new DataView(header.buffer).setBigUint64(16, view.getBigUint64(16, true) + 1n, true);
  const { alignment } = reader;
  const padding = new Uint8Array((alignment - (header.length % alignment)) % alignment);
  return concatenated([header, padding, file.subarray(Math.ceil(end / alignment) * alignment)]);
}

/** Behind magic, version, and the counts of tensors and of metadata. */
const firstEntry = 24;
const boolType = 7;
const stringType = 8;
const arrayType = 9;
const widths: Readonly<Record<number, number>> = {
  0: 1,
  1: 1,
  2: 2,
  3: 2,
  4: 4,
  5: 4,
  6: 4,
  7: 1,
  10: 8,
  11: 8,
  12: 8,
};

/** Walks over a header to find where it ends. */
class Reader {
  alignment = 32;
  private offset = firstEntry;

  constructor(private readonly view: DataView) {}

  headerEnd(): number {
    const [tensors, entries] = [this.view.getBigUint64(8, true), this.view.getBigUint64(16, true)];
    for (let index = 0n; index < entries; index += 1n) this.passEntry();
    for (let index = 0n; index < tensors; index += 1n) this.passTensor();
    return this.offset;
  }

  private passEntry(): void {
    const key = this.string();
    const type = this.uint32();
    if (key === "general.alignment") this.alignment = this.view.getUint32(this.offset, true);
    this.passValue(type);
  }

  private passValue(type: number): void {
    const width = widths[type];
    if (width !== undefined) this.offset += width;
    else if (type === stringType) this.string();
    else if (type === arrayType) {
      const element = this.uint32();
      const count = this.uint64();
      for (let index = 0; index < count; index += 1) this.passValue(element);
    } else throw new Error(`a value of type ${type} at byte ${this.offset}`);
  }

  private passTensor(): void {
    this.string();
    const dimensions = this.uint32();
    this.offset += 8 * dimensions + 4 + 8;
  }

  private string(): string {
    const length = this.uint64();
    const bytes = new Uint8Array(this.view.buffer, this.view.byteOffset + this.offset, length);
    this.offset += length;
    return new TextDecoder().decode(bytes);
  }

  private uint32(): number {
    this.offset += 4;
    return this.view.getUint32(this.offset - 4, true);
  }

  private uint64(): number {
    this.offset += 8;
    return Number(this.view.getBigUint64(this.offset - 8, true));
  }
}

function text(value: string): Uint8Array {
  const bytes = new TextEncoder().encode(value);
  const length = new Uint8Array(8);
  new DataView(length.buffer).setBigUint64(0, BigInt(bytes.length), true);
  return concatenated([length, bytes]);
}

function bool(value: boolean): Uint8Array {
  return Uint8Array.of(value ? 1 : 0);
}

function number32(value: number): Uint8Array {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setUint32(0, value, true);
  return bytes;
}

function concatenated(parts: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  const whole = new Uint8Array(parts.reduce((length, part) => length + part.length, 0));
  let offset = 0;
  for (const part of parts) {
    whole.set(part, offset);
    offset += part.length;
  }
  return whole;
}
