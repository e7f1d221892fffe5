import { StrataError } from "../errors.ts";
import { ValueType } from "../native/abi.ts";
import { NativeFile, type FileTensor, type ValueLocation } from "../native/file.ts";
import { typeFacts } from "../native/model.ts";
import { Metadata, type MetadataValue, type NumberArray } from "../gguf/metadata.ts";

export interface TensorInfo {
  readonly name: string;
  /** Element type, such as "f32" or "q4_K". */
  readonly type: string;
  /** Elements in each dimension, fastest first (ggml's order). */
  readonly shape: readonly number[];
  /** What its elements take in the file, packed as its type has them. */
  readonly bytes: number;
}

/**
 * An open GGUF file: header checked, metadata and tensors listed, data mapped and not read. A split model is opened by
 * its first part and reads as one.
 */
export class ModelFile implements Disposable {
  /** For the SDK: the library's file. */
  readonly native: NativeFile;
  readonly metadata: Metadata;
  readonly tensors: readonly TensorInfo[];
  private readonly fileTensors: readonly FileTensor[];

  constructor(readonly path: string) {
    this.native = new NativeFile(path);
    this.metadata = readMetadata(this.native);
    this.fileTensors = this.native.tensors();
    this.tensors = this.fileTensors.map(({ name, type, shape, bytes }) => ({
      name,
      type: typeFacts(type).name,
      shape,
      bytes,
    }));
  }

  /** Bytes of all parts together. */
  get fileBytes(): number {
    return this.native.fileBytes;
  }

  /** How many files the model is split into. */
  get parts(): number {
    return this.native.parts;
  }

  /** Number of the tensor of this name; -1 where the file has none. */
  indexOf(name: string): number {
    this.indices ??= new Map(this.fileTensors.map((tensor, index) => [tensor.name, index]));
    return this.indices.get(name) ?? -1;
  }

  private indices: Map<string, number> | undefined;

  dispose(): void {
    this.native.close();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** Opens a model file and checks its header. Throws a `StrataError` of one sentence where that fails. */
export function openModelFile(path: string): ModelFile {
  return new ModelFile(path);
}

const numberArrays: Readonly<Record<number, new (buffer: ArrayBuffer) => NumberArray>> = {
  [ValueType.uint8]: Uint8Array,
  [ValueType.int8]: Int8Array,
  [ValueType.uint16]: Uint16Array,
  [ValueType.int16]: Int16Array,
  [ValueType.uint32]: Uint32Array,
  [ValueType.int32]: Int32Array,
  [ValueType.float32]: Float32Array,
  [ValueType.uint64]: BigUint64Array,
  [ValueType.int64]: BigInt64Array,
  [ValueType.float64]: Float64Array,
};

function readMetadata(file: NativeFile): Metadata {
  const locations = new Map(file.values().map((value) => [value.key, value]));
  const values = new Map<string, MetadataValue>();
  return new Metadata(file.path, [...locations.keys()], (key) => {
    const location = locations.get(key);
    if (location === undefined) return undefined;
    let value = values.get(key);
    if (value === undefined) {
      value = decode(file, location);
      values.set(key, value);
    }
    return value;
  });
}

function decode(file: NativeFile, location: ValueLocation): MetadataValue {
  const bytes = file.read(location.offset, location.bytes);
  if (location.type === ValueType.string) return new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes);
  if (location.type === ValueType.array) return decodeArray(file, location, bytes);
  const numbers = decodeNumbers(location.type, bytes);
  const value = numbers?.[0];
  if (value === undefined) throw unknownType(file, location);
  if (location.type === ValueType.bool) return value !== 0;
  return typeof value === "bigint" && Number.isSafeInteger(Number(value)) ? Number(value) : value;
}

function decodeArray(file: NativeFile, location: ValueLocation, bytes: Uint8Array<ArrayBuffer>): MetadataValue {
  const type = location.elementType;
  if (type === ValueType.string) return decodeStrings(location.count, bytes);
  if (type === ValueType.bool) return Array.from(bytes, (byte) => byte !== 0);
  const numbers = decodeNumbers(type, bytes);
  if (numbers === undefined) throw unknownType(file, location);
  return numbers;
}

function decodeNumbers(type: number, bytes: Uint8Array<ArrayBuffer>): NumberArray | undefined {
  if (type === ValueType.bool) return bytes;
  const NumberArray = numberArrays[type];
  // A fresh copy starts aligned.
  return NumberArray === undefined ? undefined : new NumberArray(bytes.slice().buffer);
}

function decodeStrings(count: number, bytes: Uint8Array): string[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const utf8 = new TextDecoder("utf-8", { ignoreBOM: true });
  const strings = new Array<string>(count);
  let offset = 0;
  for (let i = 0; i < count; i += 1) {
    // The library has checked the lengths, so the low half is all of one.
    const length = view.getUint32(offset, true);
    strings[i] = utf8.decode(bytes.subarray(offset + 8, offset + 8 + length));
    offset += 8 + length;
  }
  return strings;
}

function unknownType(file: NativeFile, location: ValueLocation): StrataError {
  return new StrataError("unsupported", `${file.path}: the metadata value "${location.key}" is an array of arrays`);
}
