/** The conformance kit for authors of architectures. */
export type { CheckResult } from "./check.ts";
export { checkArchitecture, type CheckOptions, type CheckReport } from "./kit.ts";
export type { WeightNumbers } from "./made-model.ts";
export type { Reference, ReferenceFunction, ReferenceModel, ReferenceSequence } from "./reference.ts";
export { testArchitecture } from "./test.ts";
