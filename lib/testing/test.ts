import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import type { Architecture } from "../model/architecture.ts";
import { chosenChecks, notRun, type CheckOptions } from "./kit.ts";
import { Subject } from "./subject.ts";

const timeout_ms = 60_000;

/**
 * Registers the conformance kit's checks as tests of `bun test`, in a block of the architecture's name. With no model, a tiny
 * one with random weights is made from the declaration itself.
 *
 * ```ts
 * import { testArchitecture } from "ggstrata/testing";
 * import { mine } from "./mine.ts";
 *
 * testArchitecture(mine, { reference: (tokens, { weights }) => plainForward(tokens, weights) });
 * ```
 */
export function testArchitecture(architecture: Architecture, options: Omit<CheckOptions, "onCheck"> = {}): void {
  const { reference, only, ...own } = options;
  setDefaultTimeout(timeout_ms);
  describe(architecture.names[0] ?? "an architecture without a name", () => {
    let subject: Subject;
    let failed: string | undefined;
    beforeAll(() => {
      subject = new Subject(architecture, own);
    });
    afterAll(() => subject[Symbol.dispose]());

    for (const check of chosenChecks(reference, only)) {
      test(check.name, async () => {
        if (failed !== undefined) throw new Error(notRun(failed));
        const { outcome, message } = await check.run(subject);
        if (check.gates && outcome === "failed") failed = check.name;
        expect(outcome === "failed" ? message : "").toBe("");
      });
    }
  });
}
