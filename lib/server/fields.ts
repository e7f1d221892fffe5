import { invalid } from "./errors.ts";

/**
 * A JSON object of a request, read field by field. A field that is null counts as left out, as with OpenAI; one of
 * another type or range is a {@link RequestError} that names it.
 */
export class Fields {
  private constructor(
    private readonly values: Readonly<Record<string, unknown>>,
    private readonly path: string,
  ) {}

  /** @param path where the object is in the request, empty for all of it */
  static of(value: unknown, path = ""): Fields {
    if (isObject(value)) return new Fields(value, path === "" ? "" : `${path}.`);
    throw invalid(path === "" ? "body" : path, `is ${show(value)}; give a JSON object`);
  }

  /** The field's name as errors have it. */
  name(field: string): string {
    return this.path + field;
  }

  get(field: string): unknown {
    return this.values[field] ?? undefined;
  }

  /** The object as it came. */
  get all(): Readonly<Record<string, unknown>> {
    return this.values;
  }

  real(field: string, low: number, high: number): number | undefined {
    const value = this.get(field);
    if (value === undefined) return undefined;
    if (typeof value === "number" && value >= low && value <= high) return value;
    throw this.wrong(field, `a number from ${low} to ${high}`);
  }

  integer(field: string, low: number, high: number): number | undefined {
    const value = this.get(field);
    if (value === undefined) return undefined;
    if (typeof value === "number" && Number.isInteger(value) && value >= low && value <= high) return value;
    throw this.wrong(field, `an integer from ${low} to ${high}`);
  }

  flag(field: string): boolean | undefined {
    const value = this.get(field);
    if (value === undefined || typeof value === "boolean") return value;
    throw this.wrong(field, "true or false");
  }

  text(field: string): string | undefined {
    const value = this.get(field);
    if (value === undefined || typeof value === "string") return value;
    throw this.wrong(field, "a string");
  }

  object(field: string): Fields | undefined {
    const value = this.get(field);
    return value === undefined ? undefined : Fields.of(value, this.name(field));
  }

  array(field: string): readonly unknown[] | undefined {
    const value = this.get(field);
    if (value === undefined || Array.isArray(value)) return value;
    throw this.wrong(field, "an array");
  }

  wrong(field: string, allowed: string): Error {
    const value = this.get(field);
    return invalid(
      this.name(field),
      value === undefined ? `is missing; give ${allowed}` : `is ${show(value)}; give ${allowed}`,
    );
  }
}

/** A value in an error's sentence. */
export function show(value: unknown): string {
  if (value === undefined) return "missing";
  if (typeof value === "string") return JSON.stringify(value.length > 40 ? `${value.slice(0, 40)}...` : value);
  if (Array.isArray(value)) return "an array";
  return typeof value === "object" && value !== null ? "an object" : String(value);
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
