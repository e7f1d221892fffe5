import { StrataError } from "../errors.ts";
import { Weight } from "../graph/tensor.ts";
import type { Use } from "../native/model.ts";
import type { ModelFile } from "./file.ts";
import { isSpec } from "./weight-tree.ts";

/** A weight that an architecture expects in the file. `R` is what the graph gets. */
export interface WeightSpec<R extends Weight | undefined = Weight | undefined> {
  /** Name in the file. */
  readonly name: string;
  /** Elements in each dimension, fastest first; dimensions of 1 at the end may be left out. */
  readonly shape: readonly number[];
  readonly use: Use;
  readonly isOptional: boolean;
  /** The tensor to use where the file has none of this name. */
  readonly tied?: string | undefined;
  /** Only for the type checker: what the graph gets. */
  readonly result?: R;
}

/** A tree of weight specs: records and arrays of specs, as deep as an architecture likes. */
export type WeightTree = WeightSpec | undefined | { readonly [key: string]: WeightTree } | readonly WeightTree[];

/** The same tree with weights in place of specs. */
export type BoundWeights<T> = T extends undefined
  ? undefined
  : T extends WeightSpec<infer R>
    ? R
    : T extends readonly (infer E)[]
      ? readonly BoundWeights<E>[]
      : { readonly [K in keyof T]: BoundWeights<T[K]> };

type Options = { readonly tied?: string };

function spec(name: string, shape: readonly number[], use: Use, options: Options = {}): WeightSpec<Weight> {
  return { name, shape, use, isOptional: false, tied: options.tied };
}

/** Weights used element by element: norms, biases, convolutions. */
export function vector(name: string, shape: readonly number[]): WeightSpec<Weight> {
  return spec(name, shape, "elements");
}

/** A table whose rows are looked up: `[width, rows]`. */
export function table(name: string, shape: readonly [number, number]): WeightSpec<Weight> {
  return spec(name, shape, "elements");
}

/** The left side of `mulMat`: `[in, out]`. `tied` names the tensor to use where the file has none of this name. */
export function matrix(name: string, shape: readonly [number, number], options: Options = {}): WeightSpec<Weight> {
  return spec(name, shape, "product", options);
}

/** The left side of `mulMatId`: `[in, out, experts]`. */
export function experts(name: string, shape: readonly [number, number, number]): WeightSpec<Weight> {
  return spec(name, shape, "expertProduct");
}

/** A weight that the file may lack; the graph then gets `undefined`. */
export function optional(required: WeightSpec<Weight>): WeightSpec<Weight | undefined> {
  return { name: required.name, shape: required.shape, use: required.use, tied: required.tied, isOptional: true };
}

/** A spec and the file's tensor for it. */
export interface ResolvedWeight {
  readonly spec: WeightSpec;
  readonly index: number;
}

/**
 * Finds every spec of a tree in the file, in order. Throws where a tensor is missing or has another shape, naming the
 * file and the tensor.
 */
export function resolveWeights(tree: WeightTree, file: ModelFile): ResolvedWeight[] {
  const found = new Map<WeightSpec, number>();
  visit(tree, (leaf) => {
    const index = found.get(leaf) ?? findTensor(leaf, file);
    if (index >= 0) found.set(leaf, index);
  });
  return Array.from(found, ([spec, index]) => ({ spec, index }));
}

/**
 * Throws where a file has tensors that an architecture neither uses nor ignores: the model would be computed without
 * them, which is another model.
 */
export function checkUnused(
  architecture: string,
  file: ModelFile,
  used: readonly ResolvedWeight[],
  ignores: readonly string[] = [],
): void {
  const known = new Set(used.map(({ index }) => index));
  const unused = file.tensors.filter(({ name }, index) => !known.has(index) && !isIgnored(name, ignores));
  if (unused.length === 0) return;
  const some = unused.slice(0, 4).map(({ name }) => `"${name}"`);
  const rest = unused.length > some.length ? ` and ${unused.length - some.length} more` : "";
  throw new StrataError(
    "unsupported",
    `${file.path}: the file has tensors that the architecture "${architecture}" does not declare: ${some.join(", ")}${rest}; ` +
      "without them it would be another model. Either it is a variant that the architecture does not compute, or its " +
      "weights must name them (ignores, where no step needs them)",
  );
}

function isIgnored(name: string, ignores: readonly string[]): boolean {
  return ignores.some((ignored) => (ignored.endsWith("*") ? name.startsWith(ignored.slice(0, -1)) : name === ignored));
}

/** Puts weights in place of their specs, given the library's handle of their model and its number of each. */
export function bindWeights<T>(tree: T, model: number, numbers: ReadonlyMap<WeightSpec, number>): BoundWeights<T> {
  return bind(tree as WeightTree, (spec) => {
    const number = numbers.get(spec);
    return number === undefined ? undefined : new Weight(spec.name, spec.shape, number, model);
  }) as BoundWeights<T>;
}

function visit(tree: WeightTree, found: (spec: WeightSpec) => void): void {
  if (tree === undefined) return;
  if (isSpec(tree)) return found(tree);
  for (const branch of Object.values(tree as { [key: string]: WeightTree })) visit(branch, found);
}

type Bound = Weight | undefined | { readonly [key: string]: Bound } | readonly Bound[];

function bind(tree: WeightTree, weightOf: (spec: WeightSpec) => Weight | undefined): Bound {
  if (tree === undefined) return undefined;
  if (isSpec(tree)) return weightOf(tree);
  if (Array.isArray(tree)) return (tree as readonly WeightTree[]).map((branch) => bind(branch, weightOf));
  const branches = Object.entries(tree as { [key: string]: WeightTree });
  return Object.fromEntries(branches.map(([key, branch]) => [key, bind(branch, weightOf)]));
}

/** Names of tensors that files of other layouts have for this one and its neighbours. */
function fusedNames(name: string): readonly string[] {
  return fusions.map(([part, whole]) => name.replace(part, whole)).filter((fused) => fused !== name);
}

const fusions = [
  [/(?<=\.attn_)[qkv](?=\.)/, "qkv"],
  [/(?<=\.attn_)[kv](?=_b\.)/, "kv"],
  [/(?<=\.ffn_)(gate|up)(?=_exps\.)/, "gate_up"],
] as const;

function findTensor(spec: WeightSpec, file: ModelFile): number {
  let index = file.indexOf(spec.name);
  if (index < 0 && spec.tied !== undefined) index = file.indexOf(spec.tied);
  if (index < 0) {
    if (spec.isOptional) return -1;
    const expected = `expected [${spec.shape.join(", ")}]`;
    const fused = fusedNames(spec.name).find((name) => file.indexOf(name) >= 0);
    if (fused !== undefined) {
      const sentence = `the file has the tensor "${fused}", of which "${spec.name}" (${expected}) is a part; only such that are split can be computed`;
      throw new StrataError("unsupported", `${file.path}: ${sentence}`);
    }
    throw new StrataError("bad_format", `${file.path}: the tensor "${spec.name}" is missing (${expected})`);
  }
  const tensor = file.tensors[index];
  const shape = tensor?.shape ?? [];
  if (!sameShape(shape, spec.shape)) {
    throw new StrataError(
      "bad_format",
      `${file.path}: the tensor "${tensor?.name}" has the shape [${shape.join(", ")}], ` +
        `expected [${spec.shape.join(", ")}]`,
    );
  }
  return index;
}

/** Equal up to dimensions of 1 at the end. */
function sameShape(a: readonly number[], b: readonly number[]): boolean {
  for (let i = 0; i < Math.max(a.length, b.length); i += 1) {
    if ((a[i] ?? 1) !== (b[i] ?? 1)) return false;
  }
  return true;
}
