import { basename } from "node:path";
import { loadModel, loadPlugin, type Architecture, type LoadOptions, type Model } from "../index.ts";
import { formatBytes } from "./format.ts";
import { Progress, type Output } from "./output.ts";

/** The architectures that `--plugin` brought. */
export async function openPlugins(values: { readonly plugin: readonly string[] }): Promise<Architecture[]> {
  const lists = await Promise.all(values.plugin.map((plugin) => loadPlugin(plugin)));
  return lists.flat();
}

/** What all commands that run a model are told. */
interface ModelValues {
  readonly model: string;
  readonly plugin: readonly string[];
}

/** Loads the model of `-m`, saying on stderr how far it is. */
export async function openModel(
  values: ModelValues,
  options: LoadOptions,
  output: Output,
  signal: AbortSignal,
): Promise<Model> {
  using progress = new Progress(output);
  const name = basename(values.model);
  return await loadModel(values.model, {
    ...options,
    plugins: values.plugin,
    signal,
    onProgress: ({ doneBytes, totalBytes }) => {
      const percent = totalBytes === 0 ? 100 : Math.floor((100 * doneBytes) / totalBytes);
      progress.update(`Loading ${name}: ${percent} % of ${formatBytes(totalBytes)}`);
    },
  });
}
