import { existsSync } from "node:fs";
import { join, resolve } from "node:path";
import { checkout, pathsOf } from "../../lib/setup/paths.mjs";

/** The models that are compared with libllama: two real ones, and the hybrid that comes with the checkout. */
export const comparedModels = [
  { name: "tiny-hybrid", path: join(checkout, "test/fixtures/tiny-hybrid/model.gguf") },
  { name: "SmolLM2-135M", path: join(pathsOf().models, "SmolLM2-135M-Instruct.Q4_1.gguf") },
  { name: "gemma-3-270m", path: join(pathsOf().models, "gemma-3-270m-q4_k_m.gguf") },
] as const;

/** Throws where a model was not fetched yet. */
export function requireModel(path: string): void {
  if (!existsSync(path)) throw new Error(`${path} is missing: run npm run models`);
}

/** The models of these names, or files of these paths; all of them where none is named. */
export function chooseModels(names: readonly string[]): { name: string; path: string }[] {
  if (names.length === 0) return [...comparedModels];
  return names.map((name) => {
    const known = comparedModels.find((model) => model.name.toLowerCase() === name.toLowerCase());
    if (known !== undefined) return known;
    if (name.endsWith(".gguf")) return { name, path: resolve(name) };
    throw new Error(
      `there is no model "${name}": give ${comparedModels.map((model) => model.name).join(", ")} or a file`,
    );
  });
}
