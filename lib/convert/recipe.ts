import { StrataError } from "../errors.ts";
import {
  concatenate,
  elementsOf,
  fromNumbers,
  mapElements,
  part,
  reorderRows,
  reshape,
  transpose,
  type LazyTensor,
} from "./lazy-tensor.ts";

/** How a tensor of a GGUF file is made of tensors of a checkpoint. The functions below make such recipes. */
export class TensorRecipe {
  constructor(
    /** Names in the checkpoint. */
    readonly sources: readonly string[],
    /** The tensor from those of `sources`. */
    readonly make: (inputs: readonly LazyTensor[]) => LazyTensor,
  ) {}
}

/** A tensor as the checkpoint has it, by its name there, or a recipe. */
export type TensorSource = string | TensorRecipe;

/** The recipe of a source. */
export function recipeOf(source: TensorSource): TensorRecipe {
  if (typeof source !== "string") return source;
  return new TensorRecipe([source], ([tensor]) => tensor as LazyTensor);
}

/**
 * Rows of queries or keys for rotary embedding of neighbours: the checkpoint rotates entry `i` of a head with entry
 * `i + dims / 2`, llama.cpp entry `2i` with `2i + 1`. Takes a weight `(heads * headDim, width)` or its bias.
 * @param dims entries of each head that are rotated: all
 */
export function permuteRope(source: TensorSource, heads: number, dims?: number): TensorRecipe {
  return then(source, (tensor) => {
    const [rows = 0] = tensor.shape;
    const headDim = rows / heads;
    const rotated = dims ?? headDim;
    if (!Number.isInteger(headDim)) throw unfit(tensor, `cannot be shared by ${heads} heads`);
    if (rotated % 2 !== 0 || rotated > headDim) {
      throw unfit(tensor, `has ${headDim} rows for each head, and ${rotated} of them cannot be rotated in pairs`);
    }
    const source = (row: number): number => (row >= rotated ? row : (row >> 1) + (row % 2) * (rotated / 2));
    return reorderRows(tensor, headDim, source);
  });
}

/** `-exp(x)` of each number: decays, which checkpoints keep as the logarithm of their opposite (`A_log`). */
export function negativeExp(source: TensorSource): TensorRecipe {
  return mapped(source, (x) => -Math.exp(x));
}

/** `x + 1` of each number: weights of norms that a checkpoint keeps as their difference from 1. */
export function plusOne(source: TensorSource): TensorRecipe {
  return mapped(source, (x) => x + 1);
}

/** A function of each number. */
export function mapped(source: TensorSource, change: (value: number) => number): TensorRecipe {
  return then(source, (tensor) => mapElements(tensor, change));
}

/** The same numbers in another shape, slowest dimension first. Dimensions of 1 need no recipe. */
export function reshaped(source: TensorSource, shape: readonly number[]): TensorRecipe {
  return then(source, (tensor) => {
    if (elementsOf(shape) !== elementsOf(tensor.shape)) throw unfit(tensor, `cannot become (${shape.join(", ")})`);
    return reshape(tensor, shape);
  });
}

/** The last two dimensions exchanged. */
export function transposed(source: TensorSource): TensorRecipe {
  return then(source, (tensor) => {
    if (tensor.shape.length < 2) throw unfit(tensor, "has no two dimensions to exchange");
    return transpose(tensor);
  });
}

/**
 * One of several equal parts, such as the gate of a fused gate and up: part `index` of `parts`.
 * @param axis the dimension that is divided, from the last: -2, the rows
 */
export function split(source: TensorSource, index: number, parts: number, axis = -2): TensorRecipe {
  return then(source, (tensor) => {
    const place = tensor.shape.length + axis;
    const size = tensor.shape[place];
    if (size === undefined || size % parts !== 0) throw unfit(tensor, `has no dimension ${axis} of ${parts} parts`);
    return part(tensor, index, parts, place);
  });
}

/** Tensors of one shape as one, in a new slowest dimension: experts that a checkpoint keeps apart. */
export function stacked(count: number, source: (index: number) => TensorSource): TensorRecipe {
  const recipes = Array.from({ length: count }, (_, index) => recipeOf(source(index)));
  return new TensorRecipe(
    recipes.flatMap(({ sources }) => sources),
    (inputs) => {
      let used = 0;
      const tensors = recipes.map(({ sources, make }) => make(inputs.slice(used, (used += sources.length))));
      const odd = tensors.find(({ shape }) => shape.join() !== tensors[0]?.shape.join());
      if (odd !== undefined) throw unfit(odd, "has another shape than the first of those beside it");
      return concatenate(tensors);
    },
  );
}

/** Numbers that the configuration gives and no tensor holds. */
export function computed(values: ArrayLike<number>): TensorRecipe {
  return new TensorRecipe([], () => fromNumbers(values));
}

/** A recipe with its checkpoint's names changed. */
export function renamed(source: TensorSource, rename: (name: string) => string): TensorRecipe {
  const { sources, make } = recipeOf(source);
  return new TensorRecipe(sources.map(rename), make);
}

function then(source: TensorSource, change: (tensor: LazyTensor) => LazyTensor): TensorRecipe {
  const { sources, make } = recipeOf(source);
  return new TensorRecipe(sources, (inputs) => change(make(inputs)));
}

function unfit({ name, shape }: LazyTensor, problem: string): StrataError {
  return new StrataError("bad_format", `the tensor "${name}" of shape (${shape.join(", ")}) ${problem}`);
}
