/**
 * Random programs of the operations on sequences, run against the real memory and the naive one at once. After every
 * operation both must say the same, and after every feed the logits must be those that are computed from token lists.
 */
import { join } from "node:path";
import { loadModel, type Model } from "ggstrata";
import type { Declared } from "../declarations.ts";
import { context, type MadeUpModel } from "../made-up-architecture.ts";
import { Naive } from "../naive.ts";
import { Reference } from "../reference.ts";
import { names, type Operation } from "./operations.ts";
import { perform } from "./perform.ts";
import { newTally } from "./tally.ts";
import { toleranceOf, variantsOf, type Options } from "./variants.ts";
import { World } from "./world.ts";

/** A declaration's model, loaded once and used by many programs. */
export class Bench implements AsyncDisposable {
  readonly tally = newTally();
  readonly naive: Naive;
  readonly reference: Reference;
  /** How far logits may be from exact ones. */
  readonly tolerance: number;
  readonly variants: readonly Options[];
  private model: Model | undefined;
  private readonly others = new Map<Options, Model>();

  constructor(
    readonly declared: Declared,
    private readonly path: string,
    /** Where programs save sequences. */
    readonly folder: string,
    private readonly madeUp: MadeUpModel,
  ) {
    const { layers, options } = declared;
    this.naive = new Naive(layers, options);
    this.reference = new Reference(madeUp, 2 * this.naive.context);
    this.tolerance = toleranceOf(layers, options);
    this.variants = variantsOf(layers, options);
  }

  statePath(file: number): string {
    return join(this.folder, `${file}.state`);
  }

  /** The model with other options; loaded once. */
  async variant(options: Options): Promise<Model> {
    const model = this.others.get(options) ?? (await this.load(options));
    this.others.set(options, model);
    return model;
  }

  /** Runs one program. After a failure the next one gets models that were loaded anew. */
  async run(operations: readonly Operation[]): Promise<void> {
    const model = this.model ?? (await this.loadPoisoned());
    this.model = undefined;
    const world = new World(this, model);
    try {
      for (const [i, one] of operations.entries()) {
        world.where = `operation ${i}, ${JSON.stringify(one)}`;
        this.tally.operations += 1;
        await perform(world, one);
        world.compareAll();
      }
      world.end();
    } catch (error) {
      await model.dispose();
      await this[Symbol.asyncDispose]();
      throw error;
    }
    this.model = model;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.model?.dispose();
    this.model = undefined;
    for (const model of this.others.values()) await model.dispose();
    this.others.clear();
  }

  /** What nobody has written holds NaN: whatever reads it shows. The same model elsewhere has none. */
  private async loadPoisoned(): Promise<Model> {
    const before = process.env["STRATA_POISON"];
    process.env["STRATA_POISON"] = "1";
    try {
      return await this.load(this.declared.options);
    } finally {
      if (before === undefined) delete process.env["STRATA_POISON"];
      else process.env["STRATA_POISON"] = before;
    }
  }

  private load(options: Options): Promise<Model> {
    const plugins = [this.madeUp.plugin];
    return loadModel(this.path, { context, sequences: names + 1, threads: 1, ...options, plugins });
  }
}
