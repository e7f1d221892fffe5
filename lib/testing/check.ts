import { Mistake, NothingToCheck, type Subject } from "./subject.ts";

/** What one check came to. */
export interface CheckResult {
  readonly name: string;
  /** "skipped" where there was nothing to look at, or an earlier failure makes it meaningless. */
  readonly outcome: "passed" | "failed" | "skipped";
  /** What was seen; of a failure what was done, what came of it, and where to look. */
  readonly message: string;
}

/** One check of the kit. */
export interface Check {
  readonly name: string;
  /** Where it fails, the checks behind it would only say what follows from that, and are not run. */
  readonly gates: boolean;
  run(subject: Subject): Promise<CheckResult>;
}

/** A check from what it does: it returns what it saw, and throws a `Mistake` for what is wrong. */
export function defineCheck(
  name: string,
  look: (subject: Subject) => Promise<string>,
  { gates = false }: { readonly gates?: boolean } = {},
): Check {
  return {
    name,
    gates,
    run: async (subject) => {
      try {
        return { name, outcome: "passed", message: await look(subject) };
      } catch (error) {
        if (error instanceof NothingToCheck) return { name, outcome: "skipped", message: error.message };
        const sentence = error instanceof Error ? error.message : String(error);
        // A made-up model's file says nothing to anyone.
        const message = sentence.startsWith(subject.folder) ? sentence.slice(sentence.indexOf(": ") + 2) : sentence;
        // What the plugin or the library throws is its author's to read as it is.
        return { name, outcome: "failed", message: error instanceof Mistake ? message : `it threw: ${message}` };
      }
    },
  };
}
