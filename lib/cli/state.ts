import { describeState, type StateDescription } from "../index.ts";
import { defineCommand } from "./command.ts";
import { counted, formatBytes, formatTable } from "./format.ts";
import { UsageError } from "./usage.ts";

const tokensShown = 8;

function text({ path, version, bytes, fingerprint, declaration, holders }: StateDescription): string {
  const count = (kind: "sequence" | "snapshot") => holders.filter((holder) => holder.kind === kind).length;
  const rows = holders.map(({ kind, of, position, tokens }, index) => {
    const last = tokens.slice(-tokensShown).join(" ");
    const name = kind === "sequence" ? `sequence ${index}` : `  snapshot of sequence ${of}`;
    return [name, String(position), String(tokens.length), tokens.length > tokensShown ? `... ${last}` : last];
  });
  return [
    `${path}: a saved state, ${formatBytes(bytes)}, format ${version}; every byte is as it was written`,
    `${counted(count("sequence"), "sequence")}, ${counted(count("snapshot"), "snapshot")}`,
    `model ${fingerprint}, memories ${declaration}\n`,
    formatTable([["", "position", "tokens", "the last of them"], ...rows], [1, 2]),
  ].join("\n");
}

export const state = defineCommand({
  name: "state",
  summary: "Show what a saved state holds, and check every byte of it.",
  usage: "FILE",
  options: {},
  positionals: ["FILE"],
  notes: `
A state is what sequence.save(path) and model.save(path, sequences) write. It can be restored to the model file and the
types of keys and values that it was saved with.
JSON: {"path", "version", "bytes", "fingerprint", "declaration", "holders": [{"kind", "of", "position", "tokenCount", "tokens"}]}

  strata state chat.state --json`,
  async run({ positionals, output }) {
    const [path] = positionals;
    if (path === undefined || path === "") throw new UsageError("FILE is empty; give the name of a saved state");
    const report = describeState(path);
    await (output.json ? output.document(report) : output.write(text(report)));
    return 0;
  },
});
