import { conversionTypes, convertModel } from "../convert/index.ts";
import { defineCommand } from "./command.ts";
import { counted, formatBytes } from "./format.ts";
import { interruptible } from "./interrupt.ts";
import { choice, flag, name, requiredName } from "./options.ts";
import { Progress } from "./output.ts";
import { UsageError } from "./usage.ts";

export const convert = defineCommand({
  name: "convert",
  summary: "Convert a Hugging Face checkpoint to a GGUF file.",
  usage: "DIR -o FILE [--type TYPE]",
  options: {
    out: requiredName("FILE", "the GGUF file to write", "o"),
    type: choice(conversionTypes, "type of matrices, default what the checkpoint has"),
    force: flag("replace FILE where it exists"),
    name: name("TEXT", "the model's name in the file; default the folder's"),
    pre: name("NAME", "the pre-tokenizer (tokenizer.ggml.pre), where it is not found out"),
    "no-tokenizer": flag("write a model that takes token ids only"),
  },
  positionals: ["DIR"],
  notes: `
DIR holds config.json, model.safetensors (or several files and their index) and tokenizer.json. The architecture that
names the checkpoint's in its huggingFace says which tensor becomes which; --plugin brings others. Every tensor must
find its place. Only matrices of products and the embeddings have TYPE: norms, biases, convolutions and routers are
f32, and with q8_0 a matrix whose rows are no multiple of 32 is f16.
JSON: {"path", "architecture", "type", "tensors": count, "bytes"}

  strata convert ./granite-4.0-h-tiny -o granite.gguf --type q8_0`,
  async run({ values, positionals, output }) {
    const [folder] = positionals;
    if (folder === undefined || folder === "") throw new UsageError("DIR is empty; give the folder of a checkpoint");
    return await interruptible(async (signal) => {
      using progress = new Progress(output);
      const conversion = await convertModel(folder, values.out, {
        plugins: values.plugin,
        type: values.type,
        overwrite: values.force,
        name: values.name,
        pre: values.pre,
        tokenizer: !values["no-tokenizer"],
        signal,
        onProgress: ({ doneBytes, totalBytes }) => {
          const percent = Math.floor((100 * doneBytes) / totalBytes);
          progress.update(`Writing ${values.out}: ${percent} % of ${formatBytes(totalBytes)}`);
        },
      });
      progress.clear();
      if (output.json) return output.document(conversion);
      const { architecture, type, tensors, bytes } = conversion;
      await output.write(
        `${values.out}: ${architecture}, ${counted(tensors, "tensor")}, ${type}, ${formatBytes(bytes)}\n`,
      );
    });
  },
});
