import { readFileSync } from "node:fs";
import { Metadata, type MetadataValue } from "../../lib/model/metadata.ts";

/** A file's metadata, read without the native library: these tests are about text alone. */
export function readHeader(file: string): Metadata {
  const reader = new HeaderReader(readFileSync(file));
  const values = reader.read();
  return metadataOf(file, values);
}

export function metadataOf(file: string, values: ReadonlyMap<string, MetadataValue>): Metadata {
  return new Metadata(file, [...values.keys()], (key) => values.get(key));
}

class HeaderReader {
  private offset = 8;

  constructor(private readonly bytes: Buffer) {
    if (bytes.toString("latin1", 0, 4) !== "GGUF") throw new Error("not a GGUF file");
  }

  read(): Map<string, MetadataValue> {
    this.size();
    const count = this.size();
    const values = new Map<string, MetadataValue>();
    for (let index = 0; index < count; index += 1) {
      const key = this.string();
      values.set(key, this.value(this.uint32()));
    }
    return values;
  }

  private value(type: number): MetadataValue {
    if (type === 9) return this.array();
    if (type === 8) return this.string();
    const value = this.number(type);
    return type === 7 ? value !== 0 : value;
  }

  private array(): MetadataValue {
    const type = this.uint32();
    const count = this.size();
    if (type === 8) return Array.from({ length: count }, () => this.string());
    const numbers = Array.from({ length: count }, () => this.number(type));
    if (type === 7) return numbers.map((value) => value !== 0);
    return type === 6 ? Float32Array.from(numbers) : Float64Array.from(numbers);
  }

  private number(type: number): number {
    const [size, read] = numberReaders[type] ?? fail(`value type ${type}`);
    const value = read(this.bytes, this.offset);
    this.offset += size;
    return value;
  }

  private string(): string {
    const length = this.size();
    this.offset += length;
    return this.bytes.toString("utf8", this.offset - length, this.offset);
  }

  private size(): number {
    this.offset += 8;
    return Number(this.bytes.readBigUInt64LE(this.offset - 8));
  }

  private uint32(): number {
    this.offset += 4;
    return this.bytes.readUInt32LE(this.offset - 4);
  }
}

const numberReaders: Record<number, readonly [size: number, read: (bytes: Buffer, offset: number) => number]> = {
  0: [1, (bytes, offset) => bytes.readUInt8(offset)],
  1: [1, (bytes, offset) => bytes.readInt8(offset)],
  2: [2, (bytes, offset) => bytes.readUInt16LE(offset)],
  3: [2, (bytes, offset) => bytes.readInt16LE(offset)],
  4: [4, (bytes, offset) => bytes.readUInt32LE(offset)],
  5: [4, (bytes, offset) => bytes.readInt32LE(offset)],
  6: [4, (bytes, offset) => bytes.readFloatLE(offset)],
  7: [1, (bytes, offset) => bytes.readUInt8(offset)],
  10: [8, (bytes, offset) => Number(bytes.readBigUInt64LE(offset))],
  11: [8, (bytes, offset) => Number(bytes.readBigInt64LE(offset))],
  12: [8, (bytes, offset) => bytes.readDoubleLE(offset)],
};

function fail(what: string): never {
  throw new Error(`the header has an unknown ${what}`);
}
