import { layouts } from "./abi.ts";

type Layouts = typeof layouts;
export type StructName = keyof Layouts;
export type FieldName<S extends StructName> = keyof Layouts[S]["fields"] & string;
interface Field {
  readonly type: "i32" | "u32" | "u8" | "f32" | "f64";
  readonly offset: number;
  readonly count: number;
}

const utf8 = new TextDecoder();

const views = { i32: Int32Array, u32: Uint32Array, u8: Uint8Array, f32: Float32Array, f64: Float64Array } as const;
type Elements<S extends StructName, F extends FieldName<S>> = Layouts[S]["fields"][F] extends { readonly type: infer T }
  ? InstanceType<(typeof views)[T & keyof typeof views]>
  : never;

/** One or more structs of the boundary in a buffer of their own, read and written by the generated layout. */
export class Struct<S extends StructName> {
  readonly bytes: Uint8Array;
  readonly size: number;
  private readonly view: DataView;
  private readonly fields: Record<string, Field>;

  constructor(
    name: S,
    readonly count = 1,
  ) {
    this.size = layouts[name].size;
    this.fields = layouts[name].fields;
    // A buffer of length 0 would reach the library as a null pointer.
    this.bytes = new Uint8Array(Math.max(this.size * count, 1));
    this.view = new DataView(this.bytes.buffer);
  }

  /** A number field of struct `index`; `element` picks from an array field. */
  get(field: FieldName<S>, index = 0, element = 0): number {
    const { type, offset } = this.field(field);
    const at = index * this.size + offset;
    switch (type) {
      case "i32":
        return this.view.getInt32(at + element * 4, true);
      case "u32":
        return this.view.getUint32(at + element * 4, true);
      case "f32":
        return this.view.getFloat32(at + element * 4, true);
      case "f64":
        return this.view.getFloat64(at + element * 8, true);
      case "u8":
        return this.view.getUint8(at + element);
    }
  }

  set(field: FieldName<S>, value: number, index = 0, element = 0): void {
    const { type, offset } = this.field(field);
    const at = index * this.size + offset;
    switch (type) {
      case "i32":
        return this.view.setInt32(at + element * 4, value, true);
      case "u32":
        return this.view.setUint32(at + element * 4, value, true);
      case "f32":
        return this.view.setFloat32(at + element * 4, value, true);
      case "f64":
        return this.view.setFloat64(at + element * 8, value, true);
      case "u8":
        return this.view.setUint8(at + element, value);
    }
  }

  /** All elements of an array field. */
  array(field: FieldName<S>, index = 0): number[] {
    return Array.from({ length: this.field(field).count }, (_, element) => this.get(field, index, element));
  }

  /** The elements of a field of the first struct, read and written in place: for what is called thousands of times. */
  elements<F extends FieldName<S>>(field: F): Elements<S, F> {
    const { type, offset, count } = this.field(field);
    return new views[type](this.bytes.buffer as ArrayBuffer, offset, count) as Elements<S, F>;
  }

  /** A byte array field as text, up to its first zero. */
  text(field: FieldName<S>, index = 0): string {
    const { offset, count } = this.field(field);
    const start = index * this.size + offset;
    const all = this.bytes.subarray(start, start + count);
    const end = all.indexOf(0);
    return utf8.decode(end < 0 ? all : all.subarray(0, end));
  }

  /** A byte array field in hexadecimal. */
  hex(field: FieldName<S>, index = 0): string {
    return this.array(field, index)
      .map((byte) => byte.toString(16).padStart(2, "0"))
      .join("");
  }

  private field(name: string): Field {
    return this.fields[name] as Field;
  }
}
