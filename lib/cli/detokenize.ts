import { openModelFile } from "../index.ts";
import { createTokenizer } from "../text/index.ts";
import { defineCommand } from "./command.ts";
import { openPlugins } from "./open.ts";
import { flag, modelOption, readTokens, requiredTokens } from "./options.ts";
import { textOf } from "./text-source.ts";

export const detokenize = defineCommand({
  name: "detokenize",
  summary: "Turn token ids into text. Only the file's header is read.",
  usage: "-m FILE --tokens 1,2,3",
  options: {
    ...modelOption,
    tokens: requiredTokens,
    special: flag("write special tokens out as their text"),
  },
  notes: `
Prints the text and a line feed; --json gives it exactly.
JSON: {"text": "..."}`,
  async run({ values, output }) {
    await openPlugins(values);
    using file = openModelFile(values.model);
    const tokens = readTokens(await textOf(values.tokens, output), "--tokens");
    const text = createTokenizer(file.metadata).decode(tokens, { special: values.special });
    await (values.json ? output.document({ text }) : output.write(`${text}\n`));
    return 0;
  },
});
