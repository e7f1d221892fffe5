import { planMemory, type MemoryPlan, type PlannedMemory } from "../index.ts";
import { defineCommand } from "./command.ts";
import { counted, formatBytes, formatTable } from "./format.ts";
import {
  bytes,
  choice,
  contextOption,
  countFrom,
  flag,
  kvOption,
  rollbackOption,
  threadsOption,
  whole,
} from "./options.ts";
import { UsageError } from "./usage.ts";

const headings = [
  ...["layer", "memory", "remembers", "cells", "each", "bytes"],
  ...["sequences", "rollback", "by", "snapshots", "padding"],
];

function layerRows(layers: MemoryPlan["layers"]): string[][] {
  return layers.flatMap(({ index, memories }) => {
    if (memories.length === 0) return [[String(index), "-", "nothing"]];
    return memories.map((memory, place) => [place === 0 ? String(index) : "", ...memoryRow(memory)]);
  });
}

function memoryRow(memory: PlannedMemory): string[] {
  const { name, description, cells, bytesPerCell, sequenceBytes, rollbackBytes, rollback, snapshotBytes } = memory;
  if (memory.sharedFrom !== null) return [name, description];
  const parts = [formatBytes(sequenceBytes), formatBytes(rollbackBytes), rollback, formatBytes(snapshotBytes)];
  const numbers = [String(cells), formatBytes(bytesPerCell), formatBytes(memory.bytes)];
  return [name, description, ...numbers, ...parts, formatBytes(memory.paddingBytes)];
}

function totalRows(plan: MemoryPlan): string[][] {
  const { weights } = plan;
  const row = (name: string, amount: number, note = ""): string[] => [name, formatBytes(amount), note];
  return [
    row("memories", plan.memoryBytes),
    row("results of a step", plan.computeBytes, `the largest of ${stepText(plan)}`),
    row("work of a step", plan.workBytes + plan.scratchBytes, counted(plan.options.threads, "thread")),
    row("repacked weights", weights.repackedBytes),
    row("allocated", plan.allocatedBytes),
    row("mapped weights", weights.mappedBytes, `of a file of ${formatBytes(weights.fileBytes)}`),
    row("in all", plan.totalBytes),
  ];
}

function stepText({ steps }: MemoryPlan): string {
  const shapes = steps.map(({ rows, outputs, computeBytes }) => `${rows} x ${outputs}: ${formatBytes(computeBytes)}`);
  return `${shapes.join(", ")} (tokens x logits)`;
}

function optionText({ options }: MemoryPlan): string {
  const { context, sequences, batch, kv, rollback, streams, wholeWindows, flashAttention } = options;
  const { snapshotBytes, snapshotType, cells } = options;
  const half = snapshotType === "f16" ? " with states in f16" : "";
  const parts = [
    `${counted(sequences, "sequence")} of ${context}, batches of ${batch}, keys and values ${kv}`,
    `rollback ${rollback}, ${formatBytes(snapshotBytes)} for snapshots${half}, ${streams} streams`,
    ...(cells > 0 ? [`at most ${counted(cells, "position")} together`] : []),
    ...(wholeWindows ? ["whole windows"] : []),
    ...(flashAttention ? [] : ["no flash attention"]),
  ];
  return parts.join(", ");
}

function snapshotText({ snapshots, smallestReusablePrefix: prefix }: MemoryPlan): string {
  const { bytesEach, budgetBytes, count } = snapshots;
  const room = `Snapshots: ${count} of ${formatBytes(bytesEach)} each fit in ${formatBytes(budgetBytes)}.`;
  const smallest = prefix === null ? "none, since no snapshot fits" : counted(prefix, "token");
  return `${room}\nSmallest reusable prefix: ${smallest}.\n`;
}

function text(plan: MemoryPlan): string {
  const { path, architecture, kind, layers } = plan;
  return [
    `${path}: ${architecture}, ${kind} memory\n${optionText(plan)}\n`,
    formatTable([headings, ...layerRows(layers)], [0, 3, 4, 5, 6, 7, 9, 10]),
    formatTable(totalRows(plan), [1]),
    snapshotText(plan),
  ].join("\n");
}

export const plan = defineCommand({
  name: "plan",
  summary: "Plan the memory that a model would take. Only its header is read.",
  usage: "FILE [--ctx N --seqs N --kv TYPE --snapshots BYTES --rollback N]",
  options: {
    ...contextOption,
    seqs: whole("N", "sequences to hold and compute at once; default 1", countFrom(1)),
    ...kvOption,
    snapshots: bytes("what snapshots of sequences may take together; default 0"),
    "snapshot-type": choice(["f32", "f16"] as const, "type of the states that snapshots hold, default f32"),
    ...rollbackOption,
    cells: whole("N", "positions of all sequences together; default: as many as each may reach", countFrom(0)),
    batch: whole("N", "most tokens of one step; default 512", countFrom(1)),
    streams: choice(["shared", "separate"] as const, "whether sequences share attention cells, default shared", "HOW"),
    "whole-windows": flag("windows keep every position and only mask"),
    "no-flash": flag("attention without the rounding of ggml's flash attention"),
    ...threadsOption,
  },
  positionals: ["FILE"],
  notes: `
Bytes of a memory are those of its sequences (of states, both the one that a step reads and the one it writes), of what
a rollback needs, of snapshots, and padding. Graphs of steps are built to know what they take. What cannot be is refused.
JSON: {"path", "architecture", "kind", "options": {...}, "layers": [{"index": 0, "memories": [{"name", "kind",
  "description", "reuse", "rollback", "cells", "bytesPerCell", "bytes", "sequenceBytes", "rollbackBytes",
  "snapshotBytes", "paddingBytes", ...}]}], "memoryBytes", "computeBytes", "workBytes", "scratchBytes",
  "steps": [{"rows", "outputs", "nodes", "computeBytes", ...}], "weights": {"fileBytes", "mappedBytes",
  "repackedBytes"}, "snapshots": {"bytesEach", "budgetBytes", "count"}, "smallestReusablePrefix": tokens or null,
  "allocatedBytes", "totalBytes", "warnings": [...]}

  strata plan model.gguf --ctx 8192 --seqs 4 --snapshots 512MiB --rollback 16`,
  async run({ values, positionals, output }) {
    const [path] = positionals;
    if (path === undefined || path === "") throw new UsageError("FILE is empty; give the name of a model file");
    const planned = await planMemory(path, {
      plugins: values.plugin,
      context: values.ctx,
      sequences: values.seqs,
      kv: values.kv,
      snapshotBytes: values.snapshots,
      snapshotType: values["snapshot-type"],
      rollback: values.rollback,
      cells: values.cells,
      batch: values.batch,
      streams: values.streams,
      wholeWindows: values["whole-windows"],
      flashAttention: !values["no-flash"],
      threads: values.threads,
    });
    for (const warning of planned.warnings) await output.note(`strata: warning: ${warning}`);
    await (output.json ? output.document(planned) : output.write(text(planned)));
    return 0;
  },
});
