import { StrataError } from "../errors.ts";

/** A value of a GGUF file's metadata. 64-bit integers are numbers where exact, otherwise an error when asked for. */
export type MetadataValue = string | number | bigint | boolean | readonly string[] | readonly boolean[] | NumberArray;

/** An array of numbers as the file holds it. */
export type NumberArray =
  | Uint8Array
  | Int8Array
  | Uint16Array
  | Int16Array
  | Uint32Array
  | Int32Array
  | Float32Array
  | BigUint64Array
  | BigInt64Array
  | Float64Array;

/** Typed access to a GGUF file's key-value pairs. Every miss or mismatch is an error that names the file and the key. */
export class Metadata {
  /**
   * @param file name of the file, for error sentences
   * @param read returns a key's value, or undefined; called once a key (large arrays are read when first asked for)
   */
  constructor(
    readonly file: string,
    readonly keys: readonly string[],
    private readonly read: (key: string) => MetadataValue | undefined,
  ) {}

  has(key: string): boolean {
    return this.get(key) !== undefined;
  }

  /** The value as the file holds it, or undefined where the file lacks the key. */
  get(key: string): MetadataValue | undefined {
    return this.read(key);
  }

  string(key: string): string;
  string<T>(key: string, fallback: T): string | T;
  string<T>(key: string, ...fallback: [T?]): string | T {
    return this.typed(key, "a string", (value) => (typeof value === "string" ? value : undefined), fallback);
  }

  number(key: string): number;
  number<T>(key: string, fallback: T): number | T;
  number<T>(key: string, ...fallback: [T?]): number | T {
    return this.typed(key, "a number", toNumber, fallback);
  }

  /** A whole number that is not negative, such as a count or a width. */
  count(key: string): number;
  count<T>(key: string, fallback: T): number | T;
  count<T>(key: string, ...fallback: [T?]): number | T {
    const whole = (value: MetadataValue): number | undefined => {
      const number = toNumber(value);
      return number !== undefined && Number.isSafeInteger(number) && number >= 0 ? number : undefined;
    };
    return this.typed(key, "a whole number that is not negative", whole, fallback);
  }

  boolean(key: string): boolean;
  boolean<T>(key: string, fallback: T): boolean | T;
  boolean<T>(key: string, ...fallback: [T?]): boolean | T {
    return this.typed(key, "true or false", (value) => (typeof value === "boolean" ? value : undefined), fallback);
  }

  strings(key: string): readonly string[];
  strings<T>(key: string, fallback: T): readonly string[] | T;
  strings<T>(key: string, ...fallback: [T?]): readonly string[] | T {
    return this.typed(key, "an array of strings", toStrings, fallback);
  }

  numbers(key: string): ArrayLike<number>;
  numbers<T>(key: string, fallback: T): ArrayLike<number> | T;
  numbers<T>(key: string, ...fallback: [T?]): ArrayLike<number> | T {
    return this.typed(key, "an array of numbers", toNumbers, fallback);
  }

  private typed<V, T>(
    key: string,
    expected: string,
    convert: (value: MetadataValue) => V | undefined,
    fallback: [T?],
  ): V | T {
    const value = this.get(key);
    if (value === undefined) {
      if (fallback.length > 0) return fallback[0] as T;
      throw new StrataError("bad_format", `${this.file}: the metadata lacks the key "${key}" (expected ${expected})`);
    }
    const converted = convert(value);
    if (converted === undefined) {
      throw new StrataError("bad_format", `${this.file}: "${key}" is ${describe(value)}, expected ${expected}`);
    }
    return converted;
  }
}

function toNumber(value: MetadataValue): number | undefined {
  if (typeof value === "number") return value;
  if (typeof value !== "bigint") return undefined;
  const number = Number(value);
  return BigInt(number) === value ? number : undefined;
}

function toStrings(value: MetadataValue): readonly string[] | undefined {
  if (!Array.isArray(value)) return undefined;
  return value.every((item) => typeof item === "string") ? (value as string[]) : undefined;
}

function toNumbers(value: MetadataValue): ArrayLike<number> | undefined {
  if (value instanceof BigUint64Array || value instanceof BigInt64Array) return Array.from(value, Number);
  return ArrayBuffer.isView(value) ? (value as Exclude<NumberArray, BigUint64Array | BigInt64Array>) : undefined;
}

function describe(value: MetadataValue): string {
  if (ArrayBuffer.isView(value)) return `an array of ${value.length} numbers`;
  if (Array.isArray(value)) return `an array of ${value.length} values`;
  return typeof value === "string" ? `the string ${JSON.stringify(value.slice(0, 60))}` : `${typeof value} ${value}`;
}
