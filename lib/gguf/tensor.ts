import { StrataError } from "../errors.ts";

/** Element types of tensors that Strata writes: ggml's number, elements in a block, and bytes of one. */
const layouts = {
  f32: { number: 0, block: 1, bytes: 4 },
  f16: { number: 1, block: 1, bytes: 2 },
  q8_0: { number: 8, block: 32, bytes: 34 },
  bf16: { number: 30, block: 1, bytes: 2 },
} as const;

/** An element type of a tensor that Strata can write. */
export type WrittenType = keyof typeof layouts;

/** A tensor of a file that is to be written. */
export interface TensorHead {
  readonly name: string;
  readonly type: WrittenType;
  /** Elements in each dimension, fastest first; up to four. */
  readonly shape: readonly number[];
}

/** ggml's number of an element type. */
export function typeNumber(type: WrittenType): number {
  return layouts[type].number;
}

/** Elements that are stored together: rows must be a multiple of it. */
export function blockElements(type: WrittenType): number {
  return layouts[type].block;
}

/**
 * Bytes of a tensor's data.
 * @throws StrataError `invalid_argument` where the shape is none, or its rows are no whole blocks of the type
 */
export function tensorBytes({ name, type, shape }: TensorHead): number {
  const isShape = shape.length >= 1 && shape.length <= 4 && shape.every((n) => Number.isSafeInteger(n) && n > 0);
  const layout = layouts[type];
  const problem = !isShape
    ? "which is no shape: one to four dimensions of at least 1"
    : (shape[0] as number) % layout.block !== 0
      ? `whose rows are no multiple of ${layout.block} as ${type} needs`
      : undefined;
  if (problem !== undefined) {
    throw new StrataError("invalid_argument", `the tensor "${name}" has the shape [${shape.join(", ")}], ${problem}`);
  }
  return (shape.reduce((product, n) => product * n, 1) / layout.block) * layout.bytes;
}
