/** Checks of what an architecture's `weights` returns. */
import { StrataError } from "../errors.ts";
import { checkShape } from "../memory/check.ts";
import { WeightUse } from "../native/abi.ts";
import { isRecord, shown } from "../shown.ts";
import type { WeightSpec, WeightTree } from "./weights.ts";

/** Far above any model's. */
const leavesMax = 1 << 20;
const depthMax = 64;
const elementsMax = 2 ** 40;

/**
 * Throws unless `tree` is records and arrays of weights, naming the architecture, the place in the tree and, where the
 * place has a number in it, the layer.
 */
export function checkWeights(architecture: string, tree: unknown): asserts tree is WeightTree {
  new TreeCheck(architecture).visit(tree, "weights", 0);
}

class TreeCheck {
  /** What a branch is part of, with their places. */
  private readonly above = new Map<object, string>();
  private readonly byName = new Map<string, { readonly spec: object; readonly place: string }>();
  private visited = 0;

  constructor(private readonly architecture: string) {}

  visit(tree: unknown, place: string, depth: number): void {
    this.visited += 1;
    if (this.visited > leavesMax) throw this.fault(place, `there are more than ${leavesMax} weights`);
    if (tree === undefined) return;
    if (isSpecLike(tree)) return this.checkSpec(tree, place);
    if (!Array.isArray(tree) && !isRecord(tree)) {
      const sentence = "write matrix(), vector(), table() or experts(), records and arrays of them, or undefined";
      throw this.fault(place, `it is ${shown(tree)}; ${sentence}`);
    }
    const above = this.above.get(tree);
    if (above !== undefined) throw this.fault(place, `it leads back to ${above}`);
    if (depth > depthMax) throw this.fault(place, `the tree is more than ${depthMax} levels deep`);
    this.above.set(tree, place);
    if (Array.isArray(tree)) tree.forEach((branch, i) => this.visit(branch, `${place}[${i}]`, depth + 1));
    else for (const [key, branch] of Object.entries(tree)) this.visit(branch, `${place}.${key}`, depth + 1);
    this.above.delete(tree);
  }

  private checkSpec(spec: Readonly<Record<string, unknown>>, place: string): void {
    const { name, use, tied, isOptional } = spec;
    if (typeof name !== "string" || name === "")
      throw this.fault(place, `its name is ${shown(name)}; give the tensor's`);
    if (typeof use !== "string" || !Object.hasOwn(WeightUse, use)) {
      throw this.fault(place, `its use is ${shown(use)}; it is one of ${Object.keys(WeightUse).join(", ")}`);
    }
    if (tied !== undefined && (typeof tied !== "string" || tied === name)) {
      throw this.fault(place, `it is tied to ${shown(tied)}; give the name of another tensor`);
    }
    if (typeof isOptional !== "boolean") throw this.fault(place, `isOptional is ${shown(isOptional)}; use optional()`);
    checkShape(this.where(place, name), spec["shape"], elementsMax);
    const other = this.byName.get(name);
    if (other === undefined) this.byName.set(name, { spec, place });
    else if (other.spec !== spec) {
      const remedy = "give each the name of its own tensor, or use one declaration in both places";
      throw this.fault(place, `${other.place} has the tensor "${name}" too; ${remedy}`, name);
    }
  }

  private where(place: string, name?: string): string {
    const [, layer] = /\[(\d+)\]/.exec(place) ?? [];
    const at = layer === undefined ? this.architecture : `${this.architecture}, layer ${layer}`;
    return `${at}, ${place}${name === undefined ? "" : ` ("${name}")`}`;
  }

  private fault(place: string, sentence: string, name?: string): StrataError {
    return new StrataError("invalid_argument", `${this.where(place, name)}: ${sentence}`);
  }
}

function isSpecLike(tree: unknown): tree is Readonly<Record<string, unknown>> {
  return isRecord(tree) && ("use" in tree || "isOptional" in tree) && "name" in tree && "shape" in tree;
}

/** Whether a branch of a checked tree is a weight's declaration. */
export function isSpec(tree: WeightTree): tree is WeightSpec {
  return isSpecLike(tree);
}
