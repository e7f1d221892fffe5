import { StrataError } from "../errors.ts";
import { Metadata, type MetadataValue, type NumberArray } from "./metadata.ts";
import { ValueType } from "../native/abi.ts";
import type { ByteSink } from "./bytes.ts";

/** A number that is written with the type that its maker names. */
export class TypedNumber {
  constructor(
    readonly type: NumberType,
    readonly value: number | bigint,
  ) {}
}

/** GGUF's types of numbers. */
export type NumberType = Exclude<keyof typeof ValueType, "bool" | "string" | "array">;

/**
 * A value of a GGUF file's metadata, to be written. An array of numbers has the type that its elements' type in memory
 * has. A plain number is written as uint32 (int32 below 0, uint64 or int64 where that is too small) where it is whole,
 * otherwise as float32: write `float32(10000)` where a reader expects a float.
 */
export type GgufValue = string | boolean | number | TypedNumber | readonly string[] | readonly boolean[] | NumberArray;

/** Values by key, in the order in which they are written. What is `undefined` is left out. */
export type GgufMetadata = Readonly<Record<string, GgufValue | undefined>>;

/** A value that is written as a float32, whole or not: a base, an epsilon, a scale. */
export function float32(value: number): TypedNumber {
  return new TypedNumber("float32", value);
}

/** A value that is written with the type that you name. */
export function typedNumber(type: NumberType, value: number | bigint): TypedNumber {
  return new TypedNumber(type, value);
}

/**
 * Values to be written as a reader of the file would find them.
 * @param file the file's name, for error sentences
 */
export function plainMetadata(file: string, values: GgufMetadata): Metadata {
  const keys = Object.keys(values).filter((key) => values[key] !== undefined);
  return new Metadata(file, keys, (key) => {
    const value = Object.hasOwn(values, key) ? values[key] : undefined;
    return (value instanceof TypedNumber ? value.value : value) as MetadataValue | undefined;
  });
}

/**
 * Appends a value with its type in front, as it lies in a file.
 * @throws StrataError `invalid_argument` where a number does not fit its type, or a value is none of GGUF's
 */
export function writeValue(out: ByteSink, key: string, value: GgufValue): void {
  if (typeof value === "string") {
    out.uint32(ValueType.string);
    out.string(value);
  } else if (typeof value === "boolean") {
    out.uint32(ValueType.bool);
    out.bytes(Uint8Array.of(Number(value)));
  } else if (typeof value === "number" || value instanceof TypedNumber) {
    const typed = value instanceof TypedNumber ? value : new TypedNumber(typeOf(value), value);
    out.uint32(ValueType[typed.type]);
    out.bytes(numberBytes(key, typed));
  } else if (Array.isArray(value)) {
    writeList(out, key, value);
  } else if (ArrayBuffer.isView(value)) {
    writeNumbers(out, key, value as NumberArray);
  } else {
    throw invalid(key, `is ${describe(value)}`);
  }
}

function writeList(out: ByteSink, key: string, list: readonly unknown[]): void {
  const isStrings = list.every((item) => typeof item === "string");
  if (!isStrings && !list.every((item) => typeof item === "boolean")) {
    throw invalid(key, "is an array of mixed values; give strings, booleans, or numbers in a typed array");
  }
  writeArrayHead(out, isStrings ? ValueType.string : ValueType.bool, list.length);
  if (isStrings) for (const item of list) out.string(item);
  else out.bytes(Uint8Array.from(list, Number));
}

const elementTypes: readonly (readonly [new () => NumberArray, NumberType])[] = [
  [Uint8Array, "uint8"],
  [Int8Array, "int8"],
  [Uint16Array, "uint16"],
  [Int16Array, "int16"],
  [Uint32Array, "uint32"],
  [Int32Array, "int32"],
  [Float32Array, "float32"],
  [BigUint64Array, "uint64"],
  [BigInt64Array, "int64"],
  [Float64Array, "float64"],
];

function writeNumbers(out: ByteSink, key: string, numbers: NumberArray): void {
  const type = elementTypes.find(([constructor]) => numbers instanceof constructor)?.[1];
  if (type === undefined) throw invalid(key, "is an array of a type that GGUF has not");
  writeArrayHead(out, ValueType[type], numbers.length);
  // Every machine that the library is built for is little-endian, as the format is.
  out.bytes(new Uint8Array(numbers.buffer, numbers.byteOffset, numbers.byteLength));
}

function writeArrayHead(out: ByteSink, type: number, count: number): void {
  out.uint32(ValueType.array);
  out.uint32(type);
  out.uint64(count);
}

function typeOf(value: number): NumberType {
  if (!Number.isInteger(value)) return "float32";
  if (value < 0) return value >= -(2 ** 31) ? "int32" : "int64";
  return value < 2 ** 32 ? "uint32" : "uint64";
}

/** What holds one number of each type. */
const holders: Readonly<Record<NumberType, (value: number | bigint) => NumberArray>> = {
  uint8: (value) => Uint8Array.of(Number(value)),
  int8: (value) => Int8Array.of(Number(value)),
  uint16: (value) => Uint16Array.of(Number(value)),
  int16: (value) => Int16Array.of(Number(value)),
  uint32: (value) => Uint32Array.of(Number(value)),
  int32: (value) => Int32Array.of(Number(value)),
  float32: (value) => Float32Array.of(Number(value)),
  uint64: (value) => BigUint64Array.of(BigInt(value)),
  int64: (value) => BigInt64Array.of(BigInt(value)),
  float64: (value) => Float64Array.of(Number(value)),
};

function numberBytes(key: string, { type, value }: TypedNumber): Uint8Array {
  const isFloat = type === "float32" || type === "float64";
  if (!isFloat && typeof value === "number" && !Number.isSafeInteger(value)) {
    throw invalid(key, `is ${value}, which is no exact ${type}`);
  }
  const held = holders[type](value);
  if (!isFloat && BigInt(held[0] as number | bigint) !== BigInt(value)) {
    throw invalid(key, `is ${value}, which does not fit ${type}`);
  }
  return new Uint8Array(held.buffer);
}

function describe(value: unknown): string {
  return value === null ? "null" : Array.isArray(value) ? "an array" : `a value of the type ${typeof value}`;
}

function invalid(key: string, problem: string): StrataError {
  return new StrataError("invalid_argument", `the metadata value "${key}" ${problem}, so it cannot be written as GGUF`);
}
