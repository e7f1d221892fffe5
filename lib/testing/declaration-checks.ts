/** Whether what a plugin declares can be, is what its graph uses, and stays the same. */
import type { MemoryRecord, Reuse, Rollback } from "../memory/declaration.ts";
import type { Model } from "../model/model.ts";
import { defineCheck } from "./check.ts";
import { specsOf } from "./made-model.ts";
import { firstDivergence, type Recording } from "./recorder.ts";
import { Mistake, NothingToCheck, type Subject } from "./subject.ts";

export const declaration = defineCheck("declaration", async (subject) => {
  const { names } = subject.architecture;
  if (names.length === 0 || names.some((name) => typeof name !== "string" || name === "")) {
    throw new Mistake("`names` lacks the `general.architecture` of the files that this plugin is for");
  }
  const { config, memory, weights } = await subject.read();
  for (const [key, value] of Object.entries({ vocabulary: config.vocabulary, contextLength: config.contextLength })) {
    if (!Number.isSafeInteger(value) || value < 1)
      throw new Mistake(`the configuration's ${key} is ${value}; give a count`);
  }
  for (const [layer, memories] of memory.entries()) {
    for (const [name, record] of Object.entries(memories)) {
      if (record !== undefined && record.kind !== "shared") checkRecord(`layer ${layer}, memory "${name}"`, record);
    }
  }
  const shapes = new Map<string, string>();
  for (const { name, shape } of specsOf(weights)) {
    const text = `[${shape.join(", ")}]`;
    const other = shapes.get(name);
    if (other !== undefined && other !== text) {
      throw new Mistake(`the weight "${name}" is declared twice, with the shapes ${other} and ${text}`);
    }
    shapes.set(name, text);
  }
  const count = memory.flatMap((memories) => Object.values(memories)).filter((record) => record !== undefined).length;
  return `${memory.length} layers, ${count} memories, ${shapes.size} weights`;
});

/** What a record says of itself must be what its kind can do. */
function checkRecord(where: string, record: MemoryRecord): void {
  const isState = record.kind === "recurrent";
  const { extent, reuse, rollback } = record;
  if (isState !== (extent.kind === "state")) {
    const sentence = isState ? "a state stands for everything before it" : "keys and values are of positions, no state";
    throw new Mistake(`${where}: its extent is "${extent.kind}", and ${sentence}`);
  }
  const trueReuse: Reuse = isState ? "exact" : extent.kind === "all" ? "prefix" : "window";
  if (reuse !== trueReuse) {
    const why = isState
      ? "a state can be resumed only at the position that it stands for"
      : `keys and values of the extent "${extent.kind}" can be resumed ${trueReuse === "window" ? "while the window's tail is held" : "at any prefix"}`;
    throw new Mistake(`${where}: it declares reuse "${reuse}", and ${why}; write reuse: "${trueReuse}"`);
  }
  const trueRollback: Rollback = !isState ? "truncate" : record.inputs > 0 ? "replay" : "snapshot";
  if (rollback === trueRollback || (isState && rollback === "snapshot") || rollback === "none") return;
  const why = isState
    ? rollback === "replay"
      ? "it says of no `inputs` from which a state could be computed again"
      : "nothing can be cut off a state"
    : "cells of keys and values are cut off";
  throw new Mistake(`${where}: it declares rollback "${rollback}", and ${why}; write rollback: "${trueRollback}"`);
}

export const graph = defineCheck("graph", async (subject) => {
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
});

export const missingWeights = defineCheck("weights that a file may lack", async (subject) => {
  if (subject.options.model !== undefined)
    throw new NothingToCheck("it is done with made-up weights, and a model was given");
  const kinds = await lackingKinds(subject);
  if (kinds.length === 0) throw new NothingToCheck("every weight is required");
  for (const kind of kinds) await runWithout(subject, kind);
  return `runs without each of ${kinds.length} kinds of them`;
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

async function runWithout(subject: Subject, kind: string): Promise<void> {
  const path = await subject.make("lacking.gguf", ({ name }) => kindOf(name) !== kind);
  try {
    await using model = await subject.load({}, path);
    using sequence = model.sequence();
    const { logits } = await sequence.feed(await subject.tokens(7), { logits: "all" });
    if (logits.every((row) => row.every(Number.isFinite))) return;
    throw new Mistake(`without the weights "${kind}", some logits are NaN or infinite`);
  } catch (error) {
    if (error instanceof Mistake) throw error;
    throw new Mistake(
      `a file without the weights "${kind}" cannot be run: ${error instanceof Error ? error.message : String(error)}`,
    );
  }
}

export const use = defineCheck("weights and memories are used", async (subject) => {
  const recording = await recordOne(subject, 7);
  let unread = [...recording.given].filter((name) => !recording.weights.has(name));
  if (unread.length > 0 && subject.options.model === undefined) {
    // Of weights that stand for one another, each is taken where the others are not there.
    for (const kind of await lackingKinds(subject)) {
      const before = subject.recordings.length;
      await runWithout(subject, kind);
      const taken = subject.recordings.slice(before).map(({ weights }) => weights);
      unread = unread.filter((name) => !taken.some((weights) => weights.has(name)));
    }
  }
  if (unread.length > 0) {
    throw new Mistake(`the graph never takes the weight ${quoted(unread)}: what it is for is left out`);
  }
  const wrong = memoryMistakes(recording);
  if (wrong.length > 0) throw new Mistake(wrong.join("; "));
  return `${recording.weights.size} weights, ${recording.calls.filter(({ memory }) => memory !== undefined).length} operations on memories`;
});

/** Memories that are left out, used by another layer, or read before they are written. */
function memoryMistakes({ calls, memories }: Recording): string[] {
  const wrong: string[] = [];
  const touched = new Map<string, { stores: number; reads: number }>();
  for (const { layer, memory, text } of calls) {
    if (memory === undefined) continue;
    const { handle, state, stores } = memory;
    const key = `${handle.layer}.${handle.name}.${state ?? ""}`;
    const seen = touched.get(key) ?? { stores: 0, reads: 0 };
    if (layer !== undefined && layer !== handle.layer) {
      wrong.push(`layer ${layer} uses the memory "${handle.name}" of layer ${handle.layer}: ${short(text)}`);
    } else if (stores && seen.stores > 0) {
      wrong.push(`layer ${handle.layer}: the memory "${handle.name}" is written twice in a step: ${short(text)}`);
    } else if (!stores && seen.stores === 0 && !handle.isShared) {
      wrong.push(
        `layer ${handle.layer}: the memory "${handle.name}" is read before the step's keys are stored in it: ${short(text)}`,
      );
    }
    touched.set(key, { stores: seen.stores + Number(stores), reads: seen.reads + 1 });
  }
  for (const handle of memories.flatMap((layer) => Object.values(layer))) {
    if (handle === undefined) continue;
    const states = handle.record.kind === "recurrent" && !handle.isShared ? Object.keys(handle.record.tensors) : [""];
    for (const state of states) {
      if (touched.has(`${handle.layer}.${handle.name}.${state}`)) continue;
      const what = state === "" ? `the memory "${handle.name}"` : `the state "${state}" of the memory "${handle.name}"`;
      wrong.push(`layer ${handle.layer}: ${what} is declared, and no operation reads or writes it`);
    }
  }
  return wrong;
}

export const repeatable = defineCheck("the graph is the same each time", async (subject) => {
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
      const [foreign] = recording.foreign;
      if (foreign !== undefined) {
        throw new Mistake(
          `${where(foreign.layer)}a tensor of another graph is used: ${short(foreign.text)}. ` +
            "Tensors belong to the graph that made them; keep none between two calls of `graph`",
        );
      }
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
});

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

function where(layer: number | undefined): string {
  return layer === undefined ? "" : `layer ${layer}: `;
}

export function short(text: string): string {
  return text.length <= 100 ? text : `${text.slice(0, 97)}...`;
}

function quoted(names: readonly string[]): string {
  const shown = names.slice(0, 3).map((name) => `"${name}"`);
  return names.length > 3 ? `${shown.join(", ")} and ${names.length - 3} more` : shown.join(", ");
}
