// @ts-check
import { which } from "../cli/passthrough.mjs";
import { answerOf } from "./command.mjs";
import { SetupError } from "./errors.mjs";

/**
 * The programs that set-up needs and that a person must install, each with the sentence to say when it is missing.
 *
 * @type {Record<string, { found: () => boolean, missing: string }>}
 */
const programs = {
  npm: {
    found: () => which("npm") !== undefined,
    missing: "npm is missing: install Node.js 20 or newer with npm (on Debian and Ubuntu: apt-get install nodejs npm).",
  },
  git: {
    found: () => which("git") !== undefined,
    missing: "git is missing: install it (on Debian and Ubuntu: apt-get install git).",
  },
  python: {
    found: () => answerOf("python3", ["-c", "import sys; sys.exit(sys.version_info < (3, 7))"]) !== undefined,
    missing:
      "Python 3 is missing: install python3, 3.7 or newer (on Debian and Ubuntu: apt-get install python3 python3-pip).",
  },
  pip: {
    found: () => answerOf("python3", ["-m", "pip", "--version"]) !== undefined,
    missing:
      "Python's pip is missing: install it (on Debian and Ubuntu: apt-get install python3-pip; elsewhere: python3 -m ensurepip).",
  },
};

/**
 * Throws one error that names every program that is missing, a sentence each.
 *
 * @param {("npm" | "git" | "python" | "pip")[]} names
 */
export function requirePrograms(names) {
  /** @type {string[]} */
  const missing = [];
  for (const name of new Set(names)) {
    // Without Python, that pip is missing too says nothing new.
    if (name === "pip" && missing.includes(programs["python"]?.missing ?? "")) continue;
    const program = programs[name];
    if (program && !program.found()) missing.push(program.missing);
  }
  if (missing.length > 0) throw new SetupError(missing.join("\n"));
}
