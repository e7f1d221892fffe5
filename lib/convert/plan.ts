import { StrataError } from "../errors.ts";
import type { TensorHead, WrittenType } from "../gguf/index.ts";
import { runPart } from "../model/read.ts";
import type { WeightSpec, WeightTree } from "../model/weights.ts";
import { isRecord, shown } from "../shown.ts";
import type { Checkpoint } from "./checkpoint.ts";
import type { LazyTensor } from "./lazy-tensor.ts";
import type { HuggingFaceConfig, HuggingFaceMapping } from "./mapping.ts";
import { recipeOf, TensorRecipe } from "./recipe.ts";

/** The table of embeddings, which is the head too where a configuration ties the two. */
const embeddings = "token_embd.weight";

/** A tensor that is to be written, and how it is made. */
export interface PlannedTensor extends TensorHead {
  readonly recipe: TensorRecipe;
}

/** What a plan is made from. */
export interface PlanInput {
  /** The architecture's name, for errors. */
  readonly architecture: string;
  readonly weights: WeightTree;
  readonly mapping: HuggingFaceMapping;
  readonly config: HuggingFaceConfig;
  readonly checkpoint: Checkpoint;
  readonly type: WrittenType;
}

/**
 * The tensors of the file: those of the mapping that the checkpoint has, checked against what the architecture declares.
 * @throws StrataError `bad_format` where a tensor is missing, left over or of another shape; `invalid_argument` where
 * the mapping and the declaration disagree
 */
export function planTensors(input: PlanInput): PlannedTensor[] {
  const { mapping, config, checkpoint } = input;
  const specs = new Map(leavesOf(input.weights).map((spec) => [spec.name, spec]));
  const tensors = partOf(input.architecture, "tensors", config, () => mapping.tensors(config));
  const table = Object.entries(tensors).filter(([, source]) => source !== undefined);
  checkNames(input, specs, new Set(table.map(([name]) => name)));
  const used = new Set<string>();
  const planned: PlannedTensor[] = [];
  for (const [name, source] of table) {
    const spec = specs.get(name) as WeightSpec;
    if (typeof source !== "string" && !(source instanceof TensorRecipe)) {
      const sentence = `huggingFace.tensors of "${input.architecture}" gives ${shown(source)} for "${name}"`;
      throw new StrataError("invalid_argument", `${sentence}; give a name or a recipe`);
    }
    const recipe = recipeOf(source);
    for (const from of recipe.sources) used.add(from);
    if (isWanted(spec, recipe, input)) planned.push(plan(spec, recipe, input));
  }
  const ignored = [...(mapping.unused ?? []), /\.rotary_emb\.inv_freq$/];
  const left = checkpoint.names.filter((name) => !used.has(name) && !ignored.some((pattern) => pattern.test(name)));
  if (left.length === 0) return planned;
  const listed = left.slice(0, 5).join(", ") + (left.length > 5 ? ` and ${left.length - 5} more` : "");
  throw new StrataError(
    "bad_format",
    `${config.file}: the checkpoint has tensors that "${input.architecture}" does not know what to do with: ${listed}`,
  );
}

/** What one function of a mapping gives: a record, or an error that names the architecture and the function. */
export function partOf<T extends object>(
  architecture: string,
  part: "metadata" | "tensors",
  { file }: HuggingFaceConfig,
  run: () => T,
): T {
  const name = `huggingFace.${part}`;
  const result = runPart(architecture, name, file, run);
  if (isRecord(result)) return result;
  throw new StrataError("invalid_argument", `${name} of "${architecture}" gives ${shown(result)}; give an object`);
}

/** The tensors that a recipe is made of, and what it makes. */
export function makeTensor(recipe: TensorRecipe, checkpoint: Checkpoint): LazyTensor {
  return recipe.make(recipe.sources.map((name) => checkpoint.tensor(name)));
}

function leavesOf(tree: WeightTree): WeightSpec[] {
  if (tree === undefined) return [];
  if ("use" in tree && typeof tree.name === "string") return [tree as WeightSpec];
  return Object.values(tree as Readonly<Record<string, WeightTree>>).flatMap(leavesOf);
}

/** The mapping must name what is declared, and nothing else. */
function checkNames(input: PlanInput, specs: ReadonlyMap<string, WeightSpec>, mapped: ReadonlySet<string>): void {
  const { architecture } = input;
  for (const name of mapped) {
    if (specs.has(name)) continue;
    const sentence = `the architecture "${architecture}" maps a tensor "${name}", which is none of its weights`;
    throw new StrataError("invalid_argument", `${sentence}; declare it there or take it out of huggingFace.tensors`);
  }
  for (const { name, isOptional, tied } of specs.values()) {
    if (mapped.has(name) || isOptional || tied !== undefined) continue;
    const sentence = `the architecture "${architecture}" needs a tensor "${name}" and does not say which one of the checkpoint's`;
    throw new StrataError("invalid_argument", `${sentence} it is; add it to huggingFace.tensors`);
  }
}

/** Whether the tensor goes into the file. It need not where it is optional, or is another one by the configuration. */
function isWanted(spec: WeightSpec, recipe: TensorRecipe, { config, checkpoint }: PlanInput): boolean {
  const isHead = spec.tied === embeddings;
  const isTied = isHead ? config.boolean("tie_word_embeddings", undefined) : undefined;
  if (isTied === true) return false;
  const missing = recipe.sources.filter((name) => !checkpoint.has(name));
  if (missing.length === 0) return true;
  const mayLack = spec.isOptional || (spec.tied !== undefined && isTied === undefined);
  if (mayLack && missing.length === recipe.sources.length) return false;
  throw new StrataError(
    "bad_format",
    `${config.file}: the checkpoint has no tensor "${missing[0]}", of which "${spec.name}" is made`,
  );
}

function plan(spec: WeightSpec, recipe: TensorRecipe, { config, checkpoint, type }: PlanInput): PlannedTensor {
  const made = makeTensor(recipe, checkpoint).shape.toReversed();
  const { name, shape } = spec;
  if (!sameButForOnes(made, shape)) {
    const from = recipe.sources.length === 0 ? "what is computed" : `"${recipe.sources[0]}"`;
    throw new StrataError(
      "bad_format",
      `${config.file}: "${name}", made of ${from}, has the shape [${made.join(", ")}], expected [${shape.join(", ")}]`,
    );
  }
  return { name, shape, recipe, type: typeOf(spec, type) };
}

function sameButForOnes(a: readonly number[], b: readonly number[]): boolean {
  const wide = (shape: readonly number[]): string => shape.filter((n) => n !== 1).join();
  return wide(a) === wide(b);
}

/** Small matrices that llama.cpp keeps in f32, since much hangs on each of their numbers. */
const kept = /\.(ffn_gate_inp(_shexp)?|time_mix_(decay_)?w[12])\.weight$/;

/**
 * The type of a tensor in a file of a type. Only matrices of products and the table of embeddings have the file's type;
 * all else is f32: norms, biases, convolutions, decays, routers. q8_0 needs rows of whole blocks of 32; other matrices
 * are f16 then, as llama.cpp has it.
 */
function typeOf(spec: WeightSpec, type: WrittenType): WrittenType {
  const isMatrix = spec.use !== "elements" || spec.name === embeddings;
  if (!isMatrix || kept.test(spec.name)) return "f32";
  return type === "q8_0" && (spec.shape[0] ?? 0) % 32 !== 0 ? "f16" : type;
}
