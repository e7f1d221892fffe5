/**
 * GGUF files as the tests need them: read whole, changed, written again. It shares nothing with the library's reader,
 * and writes nonsense where it is given nonsense.
 */
import { readFileSync } from "node:fs";

export const GgufType = {
  uint8: 0,
  int8: 1,
  uint16: 2,
  int16: 3,
  uint32: 4,
  int32: 5,
  float32: 6,
  bool: 7,
  string: 8,
  array: 9,
  uint64: 10,
  int64: 11,
  float64: 12,
} as const;

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

export interface GgufValue {
  key: string;
  type: number;
  /** As it lies in the file, behind the type. */
  bytes: Uint8Array;
}

export interface GgufTensor {
  name: string;
  /** ggml's number: 0 f32, 1 f16, 8 q8_0, ... */
  type: number;
  shape: number[];
  data: Uint8Array;
}

export class Gguf {
  version = 3;
  readonly alignment = 32;

  constructor(
    readonly values: GgufValue[],
    readonly tensors: GgufTensor[],
  ) {}

  static read(path: string): Gguf {
    return new Reader(readFileSync(path)).file();
  }

  /** Sets a value of any type; the key's place is kept. */
  set(key: string, type: number, bytes: Uint8Array): this {
    const found = this.values.find((value) => value.key === key);
    if (found === undefined) this.values.push({ key, type, bytes });
    else Object.assign(found, { type, bytes });
    return this;
  }

  setCount(key: string, count: number): this {
    return this.set(
      key,
      GgufType.uint32,
      numbers(4, (view) => view.setUint32(0, count, true)),
    );
  }

  setString(key: string, text: string): this {
    return this.set(key, GgufType.string, ggufString(text));
  }

  setStrings(key: string, texts: readonly string[]): this {
    const head = numbers(12, (view) => {
      view.setUint32(0, GgufType.string, true);
      view.setBigUint64(4, BigInt(texts.length), true);
    });
    return this.set(key, GgufType.array, Buffer.concat([head, ...texts.map(ggufString)]));
  }

  delete(key: string): this {
    const index = this.values.findIndex((value) => value.key === key);
    if (index < 0) throw new Error(`the file has no key ${key}`);
    this.values.splice(index, 1);
    return this;
  }

  tensor(name: string): GgufTensor {
    const found = this.tensors.find((tensor) => tensor.name === name);
    if (found === undefined) throw new Error(`the file has no tensor ${name}`);
    return found;
  }

  /** The bytes of the file. */
  write(): Uint8Array {
    const pieces: Uint8Array[] = [
      new TextEncoder().encode("GGUF"),
      numbers(20, (view) => {
        view.setUint32(0, this.version, true);
        view.setBigUint64(4, BigInt(this.tensors.length), true);
        view.setBigUint64(12, BigInt(this.values.length), true);
      }),
    ];
    for (const { key, type, bytes } of this.values) {
      pieces.push(
        ggufString(key),
        numbers(4, (view) => view.setUint32(0, type, true)),
        bytes,
      );
    }
    let offset = 0;
    for (const { name, type, shape, data } of this.tensors) {
      pieces.push(
        ggufString(name),
        numbers(4 + 8 * shape.length + 12, (view) => {
          view.setUint32(0, shape.length, true);
          shape.forEach((n, i) => view.setBigUint64(4 + 8 * i, BigInt(n), true));
          view.setUint32(4 + 8 * shape.length, type, true);
          view.setBigUint64(8 + 8 * shape.length, BigInt(offset), true);
        }),
      );
      offset += aligned(data.length, this.alignment);
    }
    const header = Buffer.concat(pieces);
    const body = this.tensors.map(({ data }) => padded(data, this.alignment));
    return Buffer.concat([padded(header, this.alignment), ...body]);
  }

  /** The same model in `count` files: metadata in the first, tensors in turn. */
  split(count: number): Uint8Array[] {
    return Array.from({ length: count }, (_, part) => {
      const own = new Gguf(
        part === 0 ? [...this.values] : [],
        this.tensors.filter((_, index) => index % count === part),
      );
      const uint16 = (n: number) => numbers(2, (view) => view.setUint16(0, n, true));
      own.set("split.no", GgufType.uint16, uint16(part));
      own.set("split.count", GgufType.uint16, uint16(count));
      own.set(
        "split.tensors.count",
        GgufType.int32,
        numbers(4, (view) => view.setInt32(0, this.tensors.length, true)),
      );
      return own.write();
    });
  }
}

/** The path of part `index` (from 0) of a model in several files. */
export function partPath(prefix: string, index: number, count: number): string {
  const digits = (n: number) => String(n).padStart(5, "0");
  return `${prefix}-${digits(index + 1)}-of-${digits(count)}.gguf`;
}

export function numbers(size: number, write: (view: DataView) => void): Uint8Array {
  const bytes = new Uint8Array(size);
  write(new DataView(bytes.buffer));
  return bytes;
}

export function ggufString(text: string): Uint8Array {
  const bytes = new TextEncoder().encode(text);
  return Buffer.concat([numbers(8, (view) => view.setBigUint64(0, BigInt(bytes.length), true)), bytes]);
}

function aligned(size: number, alignment: number): number {
  return Math.ceil(size / alignment) * alignment;
}

function padded(bytes: Uint8Array, alignment: number): Uint8Array {
  const out = new Uint8Array(aligned(bytes.length, alignment));
  out.set(bytes);
  return out;
}

class Reader {
  private offset = 0;
  private readonly view: DataView;

  constructor(private readonly bytes: Uint8Array) {
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  file(): Gguf {
    this.offset = 8;
    const tensorCount = this.uint64();
    const valueCount = this.uint64();
    const values = Array.from({ length: valueCount }, () => this.value());
    const tensors = Array.from({ length: tensorCount }, () => this.tensor());
    const start = aligned(this.offset, 32);
    const ends = tensors.map(({ offset }) => offset).sort((a, b) => a - b);
    return new Gguf(
      values,
      tensors.map(({ name, type, shape, offset }) => {
        const next = ends.find((end) => end > offset) ?? this.bytes.length - start;
        return { name, type, shape, data: this.bytes.slice(start + offset, start + next) };
      }),
    );
  }

  private value(): GgufValue {
    const key = this.string();
    const type = this.uint32();
    const start = this.offset;
    this.pass(type);
    return { key, type, bytes: this.bytes.slice(start, this.offset) };
  }

  private pass(type: number): void {
    const width = widths[type];
    if (width !== undefined) this.offset += width;
    else if (type === GgufType.string) this.string();
    else {
      const element = this.uint32();
      const count = this.uint64();
      for (let i = 0; i < count; i += 1) this.pass(element);
    }
  }

  private tensor(): { name: string; type: number; shape: number[]; offset: number } {
    const name = this.string();
    const shape = Array.from({ length: this.uint32() }, () => this.uint64());
    const type = this.uint32();
    return { name, type, shape, offset: this.uint64() };
  }

  private uint32(): number {
    this.offset += 4;
    return this.view.getUint32(this.offset - 4, true);
  }

  private uint64(): number {
    this.offset += 8;
    return Number(this.view.getBigUint64(this.offset - 8, true));
  }

  private string(): string {
    const length = this.uint64();
    this.offset += length;
    return new TextDecoder().decode(this.bytes.subarray(this.offset - length, this.offset));
  }
}
