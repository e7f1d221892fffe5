/**
 * A child process of `mutants.test.ts`: loads damaged model files and computes with those that load. Arguments: seed,
 * first case, number of cases. Before each case its number and the kind of damage go to stderr, so that a death can be
 * traced; the counts go to stdout as JSON.
 */
import { join } from "node:path";
import { writeFileSync } from "node:fs";
import { loadModel, StrataError } from "ggstrata";
import { Gguf, GgufType, numbers, type GgufValue } from "./gguf.ts";
import { fixtureNames, fixturePath, Folder, generated, randomOf } from "./help.ts";

type Random = () => number;

const extremes = [0, 1, 2, 3, 7, 31, 255, 65_536, 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 1] as const;
const extremes64 = [
  0n,
  1n,
  31n,
  2n ** 16n,
  2n ** 31n,
  2n ** 32n,
  2n ** 61n,
  2n ** 63n - 1n,
  2n ** 63n,
  2n ** 64n - 1n,
] as const;

const below = (random: Random, n: number) => Math.floor(random() * n);
const pick = <T>(random: Random, list: readonly T[]): T => list[below(random, list.length)] as T;

/** What can happen to the bytes of a file; `header` is where the tensors' data begin. */
const byteDamage: Record<string, (bytes: Uint8Array, header: number, random: Random) => Uint8Array> = {
  "bits of the header flipped": (bytes, header, random) => flipped(bytes, 0, header, random),
  "bits of the data flipped": (bytes, header, random) => flipped(bytes, header, bytes.length, random),
  "cut off": (bytes, header, random) => bytes.subarray(0, below(random, random() < 0.5 ? header : bytes.length)),
  "bytes overwritten": (bytes, header, random) => {
    const out = bytes.slice();
    const at = below(random, header);
    const filler = pick(random, [0, 255, -1]);
    for (let i = at; i < Math.min(header, at + 1 + below(random, 16)); i += 1) {
      out[i] = filler < 0 ? below(random, 256) : filler;
    }
    return out;
  },
  "a count or an offset overwritten": (bytes, header, random) => {
    const out = bytes.slice();
    const at = random() < 0.2 ? 8 + 8 * below(random, 2) : below(random, header - 8);
    new DataView(out.buffer).setBigUint64(at, pick(random, extremes64), true);
    return out;
  },
};

/** What can be wrong with a file that is well-formed. */
const meaningDamage: Record<string, (file: Gguf, random: Random) => void> = {
  "a value of another type, its bytes kept": (file, random) => {
    pick(random, file.values).type = below(random, 14);
  },
  "a value of another type": (file, random) => {
    const value = pick(random, file.values);
    const type = pick(
      random,
      Object.values(GgufType).filter((kind) => kind !== GgufType.array && kind !== GgufType.string),
    );
    Object.assign(value, {
      type,
      bytes: new Uint8Array({ 0: 1, 1: 1, 2: 2, 3: 2, 7: 1, 10: 8, 11: 8, 12: 8 }[type as 0] ?? 4).fill(1),
    });
  },
  "a number changed": (file, random) => setNumber(pick(random, file.values.filter(isNumber)), random),
  "two numbers changed": (file, random) => {
    for (const _ of [1, 2]) setNumber(pick(random, file.values.filter(isNumber)), random);
  },
  "a value gone or twice": (file, random) => {
    const index = below(random, file.values.length);
    file.values.splice(
      index,
      1,
      ...(random() < 0.8 ? [] : [file.values[index] as GgufValue, file.values[index] as GgufValue]),
    );
  },
  "a list cut short": (file, random) => {
    const value = pick(
      random,
      file.values.filter(({ type }) => type === GgufType.array),
    );
    const view = new DataView(value.bytes.buffer, value.bytes.byteOffset);
    view.setBigUint64(4, BigInt(below(random, Number(view.getBigUint64(4, true)))), true);
    if (value.key.includes("tokens"))
      file.setStrings(
        value.key,
        Array.from({ length: below(random, 384) }, (_, i) => `t${i}`),
      );
  },
  "a tensor renamed": (file, random) => {
    const tensor = pick(random, file.tensors);
    tensor.name = random() < 0.5 ? pick(random, file.tensors).name : `${tensor.name}x`;
  },
  "a tensor reshaped": (file, random) => {
    const tensor = pick(random, file.tensors);
    const { shape } = tensor;
    const change = below(random, 4);
    if (change === 0) shape.reverse();
    else if (change === 1) shape[below(random, shape.length)] = pick(random, extremes);
    else if (change === 2) tensor.shape = [shape.reduce((product, n) => product * n, 1)];
    else tensor.shape = [...shape, 1, pick(random, [1, 2, 2 ** 20])].slice(0, 1 + below(random, 5));
  },
  "a tensor of another type": (file, random) => {
    pick(random, file.tensors).type = below(random, 42);
  },
  "several tensors of another type": (file, random) => {
    const type = pick(random, [1, 8, 24, 26, 27, 28, 30]);
    for (const tensor of file.tensors) if (random() < 0.4) tensor.type = type;
  },
  "a tensor gone or twice": (file, random) => {
    const index = below(random, file.tensors.length);
    const tensor = file.tensors[index] as Gguf["tensors"][number];
    file.tensors.splice(index, 1, ...(random() < 0.7 ? [] : [tensor, tensor]));
  },
  "data of noise": (file, random) => {
    for (const tensor of file.tensors) if (random() < 0.3) tensor.data = tensor.data.map(() => below(random, 256));
  },
};

function flipped(bytes: Uint8Array, from: number, to: number, random: Random): Uint8Array {
  const out = bytes.slice();
  for (let n = 1 + below(random, 8); n > 0; n -= 1) {
    const at = from + below(random, to - from);
    out[at] = (out[at] as number) ^ (1 << below(random, 8));
  }
  return out;
}

function isNumber({ type }: GgufValue): boolean {
  return type !== GgufType.string && type !== GgufType.array && type !== GgufType.bool;
}

function setNumber(value: GgufValue, random: Random): void {
  const size = value.bytes.length;
  value.bytes = numbers(size, (view) => {
    if (value.type === GgufType.float32) view.setFloat32(0, pick(random, [0, -1, 1e38, NaN, Infinity, 1e-45]), true);
    else if (size === 4) view.setUint32(0, pick(random, extremes), true);
    else for (let i = 0; i < size; i += 1) view.setUint8(i, below(random, 256));
  });
}

function damaged(random: Random): { kind: string; bytes: Uint8Array } {
  const file = Gguf.read(fixturePath(pick(random, fixtureNames)));
  const kind = pick(random, [...Object.keys(byteDamage), ...Object.keys(meaningDamage)]);
  const change = meaningDamage[kind];
  if (change !== undefined) {
    change(file, random);
    return { kind, bytes: file.write() };
  }
  const bytes = file.write();
  const header = bytes.length - file.tensors.reduce((sum, { data }) => sum + Math.ceil(data.length / 32) * 32, 0);
  return { kind, bytes: byteDamage[kind]?.(bytes, header, random) ?? bytes };
}

interface Counts {
  loaded: number;
  computed: number;
  refused: number;
  faults: string[];
}

async function attempt(path: string, counts: Counts, told: (sentence: string) => void): Promise<void> {
  let model;
  try {
    model = await loadModel(path, { threads: 1, context: 64, sequences: 2 });
  } catch (error) {
    counts.refused += 1;
    if (!(error instanceof StrataError)) told(`loading threw ${String(error)}`);
    else if (!error.message.includes(path)) told(`the error does not name the file: ${error.message}`);
    else if (error.message.includes("\n")) told(`the error has more lines than one: ${error.message}`);
    return;
  }
  counts.loaded += 1;
  try {
    const { tokens } = await generated(model, [5, 6, 7, 8], { maxTokens: 3 });
    if (tokens.length === 3) counts.computed += 1;
    else told(`it computed ${tokens.length} tokens`);
  } catch (error) {
    if (!(error instanceof StrataError)) told(`computing threw ${String(error)}`);
    else if (!error.message.includes(path) && !/step|token/.test(error.message))
      told(`computing threw: ${error.message}`);
  } finally {
    await model.dispose();
  }
}

const [seed = 0, first = 0, count = 1] = process.argv.slice(2).map(Number);
const counts: Counts = { loaded: 0, computed: 0, refused: 0, faults: [] };
using folder = new Folder();
const path = join(folder.path, "mutant.gguf");
for (let index = first; index < first + count; index += 1) {
  const { kind, bytes } = damaged(randomOf(seed + index * 7919));
  process.stderr.write(`case ${index}: ${kind}\n`);
  writeFileSync(path, bytes);
  const start = performance.now();
  await attempt(path, counts, (sentence) => counts.faults.push(`case ${index} (${kind}): ${sentence}`));
  const ms = performance.now() - start;
  if (ms > 5000) counts.faults.push(`case ${index} (${kind}): it took ${ms.toFixed(0)} ms`);
}
process.stdout.write(JSON.stringify(counts));
