/** Files of any shapes for any architecture, with random weights, and the weights for a plain forward pass. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { openModelFile, type Architecture, type WeightSpec, type WeightTree } from "ggstrata";
import { Gguf, GgufType, numbers, type GgufTensor } from "../model/gguf.ts";
import { randomOf, root, type Folder } from "../model/help.ts";
import { Tensors } from "./scalar.ts";

/** Values of metadata by key, without the architecture's name in front: whole numbers, lists of them, f32 or booleans. */
export type Values = Readonly<
  Record<string, number | boolean | string | readonly number[] | readonly string[] | undefined>
>;

/** Keys whose values are f32 even where they are whole. */
const isFloat = /eps|epsilon|freq_base|factor/;

function setValue(file: Gguf, key: string, value: NonNullable<Values[string]>): void {
  const float = (n: number) => numbers(4, (view) => view.setFloat32(0, n, true));
  if (typeof value === "number" && isFloat.test(key)) file.set(key, GgufType.float32, float(value));
  else if (typeof value === "number") file.setCount(key, value);
  else if (typeof value === "boolean") file.set(key, GgufType.bool, Uint8Array.of(Number(value)));
  else if (typeof value === "string") file.setString(key, value);
  else if (value.every((item) => typeof item === "string")) file.setStrings(key, value);
  else {
    const list = numbers(12 + 4 * value.length, (view) => {
      view.setUint32(0, GgufType.uint32, true);
      view.setBigUint64(4, BigInt(value.length), true);
      value.forEach((n, i) => view.setUint32(12 + 4 * i, n, true));
    });
    file.set(key, GgufType.array, list);
  }
}

function specsOf(tree: WeightTree): WeightSpec[] {
  if (tree === undefined) return [];
  if ("use" in tree && "name" in tree && typeof tree.name === "string") return [tree as WeightSpec];
  return Object.values(tree as Readonly<Record<string, WeightTree>>).flatMap(specsOf);
}

/** Weights that leave no part of a model without effect and let no state grow. */
function randomTensor({ name, shape }: WeightSpec, random: () => number): GgufTensor {
  const [input = 1] = shape;
  const draw = (): number => {
    const r = 2 * random() - 1;
    if (/norm/.test(name)) return 1 + 0.4 * r;
    if (/ssm_a$/.test(name)) return -0.8 + 0.6 * r;
    if (/ssm_dt\.bias/.test(name)) return -1 + r;
    if (/bias|ssm_d$|token_embd|conv1d/.test(name)) return r;
    return (2 * r) / Math.sqrt(input);
  };
  const values = Float32Array.from({ length: shape.reduce((product, n) => product * n, 1) }, draw);
  return { name, type: 0, shape: [...shape], data: new Uint8Array(values.buffer) };
}

export interface Made {
  readonly path: string;
  readonly weights: Tensors;
}

/**
 * A file with these values and random weights but those that `isLeftOut`, and with the vocabulary of the architecture's
 * fixture where it has one.
 */
export async function make(
  folder: Folder,
  architecture: Architecture,
  values: Values,
  isLeftOut: (name: string) => boolean = () => false,
): Promise<Made> {
  const [name = ""] = architecture.names;
  const fixture = join(root, "test/fixtures", name, "model.gguf");
  const own = existsSync(fixture) ? Gguf.read(fixture).values : [];
  const file = new Gguf(
    own.filter(({ key }) => !key.startsWith(`${name}.`)),
    [],
  ).setString("general.architecture", name);
  for (const [key, value] of Object.entries(values)) {
    if (value !== undefined) setValue(file, `${name}.${key}`, value);
  }
  using header = await openModelFile(folder.write("header.gguf", file.write()));
  const { weights } = architecture.read(header.metadata);
  const random = randomOf(7);
  const tensors = specsOf(weights).filter((spec) => !isLeftOut(spec.name));
  file.tensors.push(...tensors.map((spec) => randomTensor(spec, random)));
  return { path: folder.write("model.gguf", file.write()), weights: new Tensors(file) };
}
