/** Whether what a plugin declares can be, is what its graph uses, and stays the same. */
import { StrataError } from "../errors.ts";
import type { Model } from "../model/model.ts";
import { defineCheck } from "./check.ts";
import { specsOf } from "./made-model.ts";
import { firstDivergence, liveCalls, liveWeights, type Recording } from "./recorder.ts";
import { Mistake, NothingToCheck, type Subject } from "./subject.ts";

/** What the longest texts of the checks need. */
const contextMin = 96;

export const declaration = defineCheck(
  "declaration",
  async (subject) => {
    // Reading checks all that can be said of one reading.
    const { config, memory, weights } = await subject.read();
    const again = subject.readFile(await subject.path());
    if (!Bun.deepEquals(memory, again.memory) || !Bun.deepEquals(weights, again.weights)) {
      const what = Bun.deepEquals(weights, again.weights) ? "memories" : "weights";
      throw new Mistake(
        `read a second time from the same file, other ${what} are declared; they must follow from it alone`,
      );
    }
    const { contextLength } = config;
    if (contextLength < contextMin) {
      throw new Mistake(
        `the context length is ${contextLength}; give a model, or an \`example\`, of at least ${contextMin}`,
      );
    }
    const count = memory.flatMap((memories) => Object.values(memories)).filter((record) => record !== undefined).length;
    return `${memory.length} layers, ${count} memories, ${specsOf(weights).length} weights`;
  },
  { gates: true },
);

export const graph = defineCheck(
  "graph",
  async (subject) => {
    await using model = await subject.load();
    const { vocabularySize } = model;
    const shapes = [
      [7, "all"],
      [7, "last"],
      [1, "none"],
      [1, "last"],
    ] as const;
    for (const [count, logits] of shapes) {
      using sequence = model.sequence();
      await sequence.feed(await subject.tokens(count), { logits });
    }
    return `builds for steps of 1 and 7 tokens, logits of ${vocabularySize} tokens`;
  },
  { gates: true },
);

export const missingWeights = defineCheck("weights that a file may lack", async (subject) => {
  if (subject.options.model !== undefined)
    throw new NothingToCheck("it is done with made-up weights, and a model was given");
  const kinds = await lackingKinds(subject);
  if (kinds.length === 0) throw new NothingToCheck("every weight is required");
  let refused = 0;
  for (const kind of kinds) if (!(await runWithout(subject, kind))) refused += 1;
  const others = refused === 0 ? "" : `, and says of ${refused} more that others need them`;
  return `runs without each of ${kinds.length - refused} kinds of them${others}`;
});

/** The kinds of weights that a file may lack: names in which the layers' numbers are left out. */
async function lackingKinds(subject: Subject): Promise<string[]> {
  const { weights } = await subject.read();
  const names = specsOf(weights).filter(({ isOptional, tied }) => isOptional || tied !== undefined);
  return [...new Set(names.map(({ name }) => kindOf(name)))];
}

function kindOf(name: string): string {
  return name.replaceAll(/\.\d+\./g, ".N.");
}

/**
 * Runs a file without the weights of a kind. Some may be missing only together: false where the plugin refuses the file and
 * names one of them.
 */
async function runWithout(subject: Subject, kind: string): Promise<boolean> {
  const path = await subject.make("lacking.gguf", ({ name }) => kindOf(name) !== kind);
  try {
    await using model = await subject.load({}, path);
    using sequence = model.sequence();
    const { logits } = await sequence.feed(await subject.tokens(7), { logits: "all" });
    if (logits.every((row) => row.every(Number.isFinite))) return true;
    throw new Mistake(`without the weights "${kind}", some logits are NaN or infinite`);
  } catch (error) {
    if (error instanceof Mistake) throw error;
    if (error instanceof StrataError && error.code === "bad_format") {
      const named = [...error.message.matchAll(/"([^"]+)"/g)].map(([, name = ""]) => kindOf(name));
      if (named.includes(kind)) return false;
    }
    throw new Mistake(
      `a file without the weights "${kind}" cannot be run: ${error instanceof Error ? error.message : String(error)}`,
    );
  }
}

export const use = defineCheck("weights and memories are used", async (subject) => {
  const recording = await recordOne(subject, 7);
  const used = liveWeights(recording);
  let unused = [...recording.given].filter((name) => !used.has(name));
  if (unused.length > 0 && subject.options.model === undefined) {
    // Of weights that stand for one another, each is taken where the others are not there.
    for (const kind of await lackingKinds(subject)) {
      const before = subject.recordings.length;
      await runWithout(subject, kind);
      const others = subject.recordings.slice(before).map(liveWeights);
      unused = unused.filter((name) => !others.some((weights) => weights.has(name)));
    }
  }
  const taken = new Set(recording.calls.flatMap(({ weights }) => weights));
  const untaken = unused.filter((name) => !taken.has(name));
  if (untaken.length > 0) {
    throw new Mistake(`the graph never takes the weight ${quoted(untaken)}: what it is for is left out`);
  }
  const wrong = memoryMistakes(recording);
  if (wrong.length > 0) throw new Mistake(wrong.join("; "));
  if (unused.length > 0) {
    throw new Mistake(`what the graph makes of the weight ${quoted(unused)} does not get into the logits`);
  }
  return `${used.size} weights, ${recording.calls.filter(({ memory }) => memory !== undefined).length} operations on memories`;
});

/** Operations of a layer on another layer's memory that it does not declare to share, and those that change no logits. */
function memoryMistakes(recording: Recording): string[] {
  const live = liveCalls(recording);
  return recording.calls.flatMap((call) => {
    const { layer, memory, text } = call;
    if (memory === undefined) return [];
    const place = layer === undefined ? "" : `layer ${layer}: `;
    if (!live.has(call)) return [`${place}${short(text)} is computed and its result is not used`];
    if (layer === undefined || layer === memory.layer) return [];
    return [
      `layer ${layer} uses the memory "${memory.name}" of layer ${memory.layer} without declaring shared(...): ${short(text)}`,
    ];
  });
}

export const repeatable = defineCheck(
  "the graph is the same each time",
  async (subject) => {
    const shapes = [3, 1, 3, 5, 3] as const;
    const built = async (model: Model, rows: number): Promise<Recording> => {
      const before = subject.recordings.length;
      using sequence = model.sequence();
      await sequence.feed(await subject.tokens(rows));
      // Loading builds the graph of one token, and one of a shape that is kept is not built again.
      const found = subject.recordings.slice(rows === 1 ? 0 : before).findLast((recording) => recording.rows === rows);
      return found as Recording;
    };
    const first = new Map<number, Recording>();
    for (let load = 0; load < 2; load += 1) {
      await using model = await subject.load();
      for (const rows of new Set(load === 0 ? shapes : shapes.toReversed())) {
        const recording = await built(model, rows);
        const other = first.get(rows);
        const parts = other && firstDivergence(other, recording, ({ text }) => text);
        if (parts !== undefined) {
          throw new Mistake(
            `two graphs for steps of ${rows} tokens differ: ${short(parts[0])} in one, ${short(parts[1])} in the other. ` +
              "`graph` must give the same each time it is called; it keeps hidden state in JavaScript",
          );
        }
        first.set(rows, recording);
      }
    }
    return "two models, graphs of 1, 3 and 5 tokens";
  },
  { gates: true },
);

/** The building of a graph for `rows` tokens with all their logits. */
export async function recordOne(subject: Subject, rows: number): Promise<Recording> {
  const found = () => subject.recordings.find((one) => one.rows === rows && one.outputs === rows);
  if (found() === undefined) {
    await using model = await subject.load();
    using sequence = model.sequence();
    await sequence.feed(await subject.tokens(rows), { logits: "all" });
  }
  return found() as Recording;
}

export function short(text: string): string {
  return text.length <= 100 ? text : `${text.slice(0, 97)}...`;
}

function quoted(names: readonly string[]): string {
  const shown = names.slice(0, 3).map((name) => `"${name}"`);
  return names.length > 3 ? `${shown.join(", ")} and ${names.length - 3} more` : shown.join(", ");
}
