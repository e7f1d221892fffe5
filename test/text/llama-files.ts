import { join } from "node:path";
import { readStamp, replaceFolder, sha256Of, writeStamp } from "../../lib/setup/files.mjs";
import { withSourceTree } from "../../lib/setup/ggml.mjs";
import { pathsOf } from "../../lib/setup/paths.mjs";
import { ggmlManifest } from "../../lib/setup/pins.mjs";

// What llama.cpp keeps of tokenizers and chat templates beside its source. It is in the archive that ggml's source is
// unpacked from.

const wanted = ["models/ggml-vocab-*", "models/templates"];

/** The folder of llama.cpp's vocabularies and, in `templates`, chat templates: 80 MB, unpacked when first asked for. */
export async function llamaFiles(): Promise<string> {
  const paths = pathsOf();
  const folder = join(paths.cache, "llama-files");
  const stamp = join(folder, "strata.json");
  const key = sha256Of(ggmlManifest.commit, ggmlManifest.bundleSha256, ...wanted);
  if (readStamp(stamp)?.["source"] === key) return folder;
  await withSourceTree(paths, wanted, (tree) => {
    writeStamp(join(tree, "models", "strata.json"), { source: key });
    replaceFolder(join(tree, "models"), folder);
  });
  return folder;
}
