/** What is being checked: an architecture with a model file, and the ways in which checks run it. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { StrataError } from "../errors.ts";
import type { Architecture, ReadArchitecture } from "../model/architecture.ts";
import { openModelFile } from "../model/file.ts";
import { loadModel, type Model } from "../model/model.ts";
import type { LoadOptions } from "../model/options.ts";
import { planMemory, type MemoryPlan } from "../model/plan.ts";
import { readArchitecture } from "../model/read.ts";
import type { Sequence } from "../sequence/sequence.ts";
import { difference, randomOf, sizeOf, type Difference } from "./compare.ts";
import { madeUpMetadata, makeWeights, writeMadeUpModel, type MadeWeight, type WeightNumbers } from "./made-model.ts";
import { recordGraphs, type Recording } from "./recorder.ts";

/** What a check finds wrong. The message names what was done, what came of it, and where to look. */
export class Mistake extends Error {
  override readonly name = "Mistake";
}

/** Nothing that a check could look at. */
export class NothingToCheck extends Error {
  override readonly name = "NothingToCheck";
}

export interface SubjectOptions {
  readonly model?: string | undefined;
  readonly weights?: WeightNumbers | undefined;
  readonly tolerance?: number | undefined;
}

/** Loading options of a check, those of the kit filled in. */
export type CheckLoadOptions = LoadOptions & { readonly poison?: boolean };

const defaults = { context: 256, sequences: 6, batch: 64, threads: 2, kv: "f32" } as const satisfies LoadOptions;

export class Subject implements Disposable {
  readonly folder = mkdtempSync(join(tmpdir(), "strata-check-"));
  readonly recordings: readonly Recording[];
  /** Of a model that was made; empty where a file was given. */
  readonly weights = new Map<string, { readonly shape: readonly number[]; readonly values: Float32Array }>();
  private readonly recorded: Architecture;
  private madePath: string | undefined;
  private readResult: ReadArchitecture | undefined;

  constructor(
    readonly architecture: Architecture,
    readonly options: SubjectOptions,
  ) {
    const { architecture: recorded, recordings } = recordGraphs(architecture);
    this.recorded = recorded;
    this.recordings = recordings;
  }

  get name(): string {
    return this.architecture.names[0] ?? "";
  }

  /** The file that was given, or is made now. */
  async path(): Promise<string> {
    const given = this.options.model;
    if (given !== undefined) return given;
    this.madePath ??= await this.make("made.gguf", () => true);
    return this.madePath;
  }

  /** Writes a model with random weights, those that `isKept` says, and gives its path. */
  async make(file: string, isKept: (weight: MadeWeight) => boolean): Promise<string> {
    const metadata = madeUpMetadata(this.architecture);
    const path = join(this.folder, file);
    await writeMadeUpModel(path, metadata, []);
    const weights = makeWeights(this.readFile(path).weights, this.options.weights);
    for (const { name, shape, values } of weights) this.weights.set(name, { shape, values });
    await writeMadeUpModel(path, metadata, weights.filter(isKept));
    return path;
  }

  /** The declaration with the file's configuration. */
  async read(): Promise<ReadArchitecture> {
    this.readResult ??= this.readFile(await this.path());
    return this.readResult;
  }

  /** The declaration with the configuration of any file. */
  readFile(path: string): ReadArchitecture {
    using file = openModelFile(path);
    const found = file.metadata.string("general.architecture");
    if (!this.architecture.names.includes(found)) {
      throw new StrataError(
        "invalid_argument",
        `${path}: its model is of the architecture "${found}", not "${this.name}"`,
      );
    }
    const read = readArchitecture(this.architecture, file.metadata);
    // Metadata are read from the file when they are asked for, and it is closed now.
    return { ...read, config: { ...read.config }, memory: [...read.memory] };
  }

  /** In f32 sums are equal up to their order. With other weights and states numbers are rounded, on edges either way. */
  async tolerance(): Promise<number> {
    if (this.options.tolerance !== undefined) return this.options.tolerance;
    using file = openModelFile(await this.path());
    const types = new Set<string>(file.tensors.map(({ type }) => type));
    for (const record of (await this.read()).memory.flatMap((layer) => Object.values(layer))) {
      if (record?.kind !== "recurrent") continue;
      for (const { dtype } of Object.values(record.tensors)) types.add(dtype);
    }
    types.delete("f32");
    if (types.size === 0) return 1e-8;
    types.delete("f16");
    types.delete("bf16");
    return types.size === 0 ? 1e-5 : 1e-2;
  }

  /** Loads the model for a check. Poisoned, free cells and unused buffers hold NaN. */
  async load({ poison = false, ...options }: CheckLoadOptions = {}, path?: string): Promise<Model> {
    const file = path ?? (await this.path());
    const load = async () => {
      const { contextLength } = (await this.read()).config;
      const context = Math.min(defaults.context, contextLength);
      return loadModel(file, { ...defaults, context, ...options, plugins: [this.recorded] });
    };
    if (!poison) return load();
    const before = process.env["STRATA_POISON"];
    process.env["STRATA_POISON"] = "1";
    try {
      return await load();
    } finally {
      if (before === undefined) delete process.env["STRATA_POISON"];
      else process.env["STRATA_POISON"] = before;
    }
  }

  /** What the model would take, with the options of `load`. */
  async plan(options: LoadOptions): Promise<MemoryPlan> {
    const { contextLength } = (await this.read()).config;
    const context = Math.min(defaults.context, contextLength);
    return planMemory(await this.path(), { ...defaults, context, ...options, plugins: [this.recorded] });
  }

  /** Random tokens of the vocabulary, the same for the same seed. */
  async tokens(count: number, seed = 1): Promise<number[]> {
    const { vocabulary } = (await this.read()).config;
    const random = randomOf(seed);
    return Array.from({ length: count }, () => Math.floor(random() * vocabulary));
  }

  /** Throws a `Mistake` where logits are not as expected. */
  async expectEqual(
    actual: readonly Float32Array[],
    expected: readonly Float32Array[],
    sentence: string,
    hint?: (found: Difference) => string | undefined,
  ): Promise<void> {
    const found = difference(actual, expected, await this.tolerance());
    if (found === undefined) return;
    const text = hint?.(found);
    throw new Mistake(`${sentence} (${sizeOf(found)})${text === undefined ? "" : `: ${text}`}`);
  }

  [Symbol.dispose](): void {
    rmSync(this.folder, { recursive: true, force: true });
  }
}

/** Feeds tokens in pieces of `chunk` and gives the logits of every one. */
export async function feedAll(
  sequence: Sequence,
  tokens: readonly number[],
  chunk = tokens.length,
): Promise<Float32Array[]> {
  const rows: Float32Array[] = [];
  for (let at = 0; at < tokens.length; at += chunk) {
    rows.push(...(await sequence.feed(tokens.slice(at, at + chunk), { logits: "all" })).logits);
  }
  return rows;
}

/** The logits of every token, computed afresh in a sequence of its own. */
export async function afresh(model: Model, tokens: readonly number[], chunk?: number): Promise<Float32Array[]> {
  using sequence = model.sequence();
  return await feedAll(sequence, tokens, chunk);
}
