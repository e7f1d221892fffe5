import { StrataError } from "../errors.ts";
import type { Architecture } from "../model/architecture.ts";
import type { Check, CheckResult } from "./check.ts";
import { declaration, graph, missingWeights, repeatable, use } from "./declaration-checks.ts";
import type { WeightNumbers } from "./made-model.ts";
import { plan, poison, properties } from "./memory-checks.ts";
import { referenceCheck } from "./reference-checks.ts";
import type { Reference } from "./reference.ts";
import { copies, files, replays, rollbacks, snapshots } from "./resume-checks.ts";
import { batches, causal, chunks, cleared, models, neighbours, numbers, wanted } from "./step-checks.ts";
import { Subject } from "./subject.ts";

export interface CheckOptions {
  /**
   * A model file of the architecture. Left out: a tiny model is made, with the metadata of the architecture's `example` (or
   * what usual keys are usually worth) and random weights.
   */
  readonly model?: string | undefined;
  /** What logits should be. Left out: they are compared with each other only. */
  readonly reference?: Reference | undefined;
  /** Numbers for weights of a model that is made, where random ones would not do: a decay of an unusual name, say. */
  readonly weights?: WeightNumbers | undefined;
  /** Largest normalised mean squared error. Default: 1e-8 for weights in f32, 1e-5 in f16 and bf16, 1e-2 quantised. */
  readonly tolerance?: number | undefined;
  /** Names of the checks to run, beside those that all others need. Default: all. */
  readonly only?: readonly string[] | undefined;
  /** Called before each check with its name. */
  readonly onCheck?: ((name: string) => void) | undefined;
}

/** What the kit found. */
export interface CheckReport {
  /** The architecture's name. */
  readonly architecture: string;
  /** The model file, or null where one was made. */
  readonly model: string | null;
  /** Whether no check failed. */
  readonly passed: boolean;
  readonly checks: readonly CheckResult[];
}

/** All checks, from what explains most to what is seen at the end. */
export function allChecks(reference: Reference | undefined): readonly Check[] {
  return [
    ...[declaration, graph, repeatable, missingWeights, use, numbers],
    ...[causal, wanted, chunks, neighbours, batches, cleared, models],
    ...[snapshots, copies, files, rollbacks, replays],
    ...[poison, plan, properties, referenceCheck(reference)],
  ];
}

/**
 * Checks an architecture: that a token's logits depend on the tokens before it and on nothing else, however they are computed
 * and resumed, that memories are what is declared, and that logits are a reference's. It does not throw for what the
 * architecture does.
 */
export async function checkArchitecture(architecture: Architecture, options: CheckOptions = {}): Promise<CheckReport> {
  const { reference, onCheck, only, ...own } = options;
  using subject = new Subject(architecture, own);
  const checks: CheckResult[] = [];
  let failed: string | undefined;
  for (const check of chosenChecks(reference, only)) {
    if (failed !== undefined) {
      checks.push({ name: check.name, outcome: "skipped", message: notRun(failed) });
      continue;
    }
    onCheck?.(check.name);
    const result = await check.run(subject);
    checks.push(result);
    if (check.gates && result.outcome === "failed") failed = check.name;
  }
  const passed = checks.every(({ outcome }) => outcome !== "failed");
  return { architecture: subject.name, model: options.model ?? null, passed, checks };
}

/** The checks of these names and those that all others need. */
export function chosenChecks(reference: Reference | undefined, only: CheckOptions["only"]): readonly Check[] {
  const all = allChecks(reference);
  if (only === undefined) return all;
  const names = all.map(({ name }) => name);
  const unknown = only.find((name) => !names.includes(name));
  if (unknown !== undefined) {
    throw new StrataError(
      "invalid_argument",
      `only: there is no check "${unknown}"; there are "${names.join('", "')}"`,
    );
  }
  return all.filter(({ gates, name }) => gates || only.includes(name));
}

/** Why a check is not run behind a failed one. */
export function notRun(failed: string): string {
  return `not run, since the check "${failed}" failed`;
}
