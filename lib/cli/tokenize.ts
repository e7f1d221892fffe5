import { openModelFile } from "../index.ts";
import { createTokenizer } from "../text/index.ts";
import { defineCommand } from "./command.ts";
import { openPlugins } from "./open.ts";
import { flag, modelOption, requiredText } from "./options.ts";
import { textOf } from "./text-source.ts";

export const tokenize = defineCommand({
  name: "tokenize",
  summary: "Turn text into token ids. Only the file's header is read.",
  usage: "-m FILE -p TEXT",
  options: {
    ...modelOption,
    prompt: requiredText("the text, as it is"),
    special: flag("the text of special tokens becomes those tokens"),
    "no-bos": flag("no BOS in front, also where the file asks for one"),
  },
  notes: `
Prints the ids with commas between them, as --tokens of other commands takes them.
JSON: {"tokens": [1, 2, 3]}`,
  async run({ values, output }) {
    await openPlugins(values);
    using file = openModelFile(values.model);
    const tokenizer = createTokenizer(file.metadata);
    const text = await textOf(values.prompt, output);
    const tokens = tokenizer.encode(text, { special: values.special, ...(values["no-bos"] ? { bos: false } : {}) });
    await (values.json ? output.document({ tokens }) : output.write(`${tokens.join(",")}\n`));
    return 0;
  },
});
