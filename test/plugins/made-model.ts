/** Models of any shapes, with random weights: an architecture says which tensors a file with such metadata has. */
import { join } from "node:path";
import { writeFileSync } from "node:fs";
import { openModelFile, type WeightSpec, type WeightTree } from "ggstrata";
import { architectures } from "../../plugins/index.ts";
import { Gguf, GgufType, numbers, type GgufTensor } from "../model/gguf.ts";
import { randomOf } from "../model/help.ts";
import { readFixture } from "./reference.ts";

/** Values by key, without the architecture's name before them; an array has numbers or flags. */
export type Changes = Readonly<
  Record<string, number | boolean | string | readonly number[] | readonly boolean[] | undefined>
>;

/** Keys whose values are f32 even where they are whole. */
const isFloat = /rope\.(freq_base|scal)|_scale$|attention\.scale/;

/**
 * Writes a model like the fixture `name` with changed keys (`undefined` removes one) and returns its path. Of the weights
 * that a file may lack it has those whose names `extras` matches.
 */
export async function makeModel(folder: string, name: string, changes: Changes, extras?: RegExp): Promise<string> {
  const path = writeHeader(folder, name, changes, extras?.source);
  const { values } = Gguf.read(path);
  using header = openModelFile(path);
  const architecture = architectures.find(({ names }) => names.includes(name));
  if (architecture === undefined) throw new Error(`no architecture ${name}`);
  const { weights } = architecture.read(header.metadata);
  const random = randomOf(7);
  writeFileSync(
    path,
    new Gguf(
      values,
      specsOf(weights)
        .filter((spec) => !spec.isOptional || extras?.test(spec.name) === true)
        .map((spec) => randomTensor(spec, random)),
    ).write(),
  );
  return path;
}

/** The same file without its tensors. Files of other changes, or of another `mark`, have other paths. */
export function writeHeader(folder: string, name: string, changes: Changes, mark = ""): string {
  // Folders of fixtures have no underscores.
  const gguf = Gguf.read(readFixture(name.replaceAll("_", "-")).model);
  for (const [key, value] of Object.entries(changes)) change(gguf, `${name}.${key}`, value);
  const path = join(folder, `${name}-${Bun.hash([...Object.entries(changes), mark].join(";")).toString(16)}.gguf`);
  writeFileSync(path, new Gguf(gguf.values, []).write());
  return path;
}

function change(gguf: Gguf, key: string, value: Changes[string]): void {
  if (value === undefined) gguf.delete(key);
  else if (typeof value === "boolean") gguf.set(key, GgufType.bool, Uint8Array.of(Number(value)));
  else if (typeof value === "string") gguf.setString(key, value);
  else if (typeof value === "number") {
    if (Number.isInteger(value) && !(isFloat.test(key) && !key.endsWith("_length"))) gguf.setCount(key, value);
    else gguf.set(key, GgufType.float32, new Uint8Array(Float32Array.of(value).buffer));
  } else {
    const isFlags = typeof value[0] === "boolean";
    const head = numbers(12, (view) => {
      view.setUint32(0, isFlags ? GgufType.bool : GgufType.uint32, true);
      view.setBigUint64(4, BigInt(value.length), true);
    });
    const list = value.map(Number);
    const body = isFlags ? Uint8Array.from(list) : new Uint8Array(Uint32Array.from(list).buffer);
    gguf.set(key, GgufType.array, Buffer.concat([head, body]));
  }
}

function specsOf(tree: WeightTree): WeightSpec[] {
  if (tree === undefined) return [];
  if ("use" in tree && typeof tree.name === "string") return [tree as WeightSpec];
  return Object.values(tree as Readonly<Record<string, WeightTree>>).flatMap(specsOf);
}

/** Numbers as a trained model might have them: norms near 1, decays below 0, rows of products near unit length. */
function randomTensor({ name, shape }: WeightSpec, random: () => number): GgufTensor {
  const count = shape.reduce((a, b) => a * b, 1);
  const symmetric = () => Math.sqrt(3) * (2 * random() - 1);
  const next = name.endsWith("norm.weight")
    ? () => 1 + 0.2 * symmetric()
    : name === "rope_freqs.weight"
      ? () => 1 + 7 * random()
      : name.endsWith("ssm_a")
        ? () => -0.05 - random()
        : name.endsWith(".bias")
          ? () => 0.3 * symmetric()
          : () => (1.5 * symmetric()) / Math.sqrt(shape[0] as number);
  const data = Float32Array.from({ length: count }, next);
  return { name, type: 0, shape: [...shape], data: new Uint8Array(data.buffer) };
}
