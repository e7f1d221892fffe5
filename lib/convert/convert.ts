import { basename, resolve } from "node:path";
import { StrataError } from "../errors.ts";
import { GgufWriter, plainMetadata, type GgufMetadata, type WrittenType } from "../gguf/index.ts";
import type { Architecture } from "../model/architecture.ts";
import { readArchitecture, runPart } from "../model/read.ts";
import { Registry, type Plugin } from "../model/registry.ts";
import { shown } from "../shown.ts";
import { Checkpoint } from "./checkpoint.ts";
import { readConfig } from "./config.ts";
import { elementsOf, type LazyTensor } from "./lazy-tensor.ts";
import type { HuggingFaceConfig, HuggingFaceMapping } from "./mapping.ts";
import { encodeNumbers } from "./number-types.ts";
import { makeTensor, partOf, planTensors, type PlannedTensor } from "./plan.ts";
import { readTokenizer } from "./tokenizer.ts";

/** Types that a converted model's matrices can have, and llama.cpp's number of such a file. */
const fileTypes = { f32: 0, f16: 1, bf16: 32, q8_0: 7 } as const satisfies Record<WrittenType, number>;

export const conversionTypes = Object.keys(fileTypes) as readonly WrittenType[];

export interface ConvertOptions {
  /** The type of matrices: what most of the checkpoint's numbers have. Norms and other small tensors are always f32. */
  readonly type?: WrittenType | undefined;
  /** Architectures besides the built-in ones: objects, paths of files, names of packages. */
  readonly plugins?: readonly Plugin[] | undefined;
  /** Whether a file of this name is replaced: false. */
  readonly overwrite?: boolean | undefined;
  /** `general.name`: the name of the checkpoint's folder. */
  readonly name?: string | undefined;
  /** The pre-tokenizer (`tokenizer.ggml.pre`), where it cannot be told from `tokenizer.json`. */
  readonly pre?: string | undefined;
  /** Whether the file gets a tokenizer; without one it takes token ids only: true. */
  readonly tokenizer?: boolean | undefined;
  readonly onProgress?: ((progress: ConvertProgress) => void) | undefined;
  /** Aborts; nothing is left behind. */
  readonly signal?: AbortSignal | undefined;
}

export interface ConvertProgress {
  /** The tensor that is written. */
  readonly tensor: string;
  readonly doneBytes: number;
  readonly totalBytes: number;
}

/** What was converted. */
export interface Conversion {
  readonly path: string;
  /** `general.architecture` of the file. */
  readonly architecture: string;
  readonly type: WrittenType;
  readonly tensors: number;
  readonly bytes: number;
}

/**
 * Converts a Hugging Face checkpoint (a folder of `config.json`, safetensors and `tokenizer.json`) to a GGUF file. Which
 * tensor becomes which is said by the architecture that names the checkpoint's in `huggingFace`. The file has its name
 * only when it is whole. Memory for a few MB of numbers is needed, whatever the model's size.
 * @throws StrataError where the folder is not whole, no architecture converts it, tensors are missing, left over or of
 * other shapes, or its tokenizer cannot be converted
 */
export async function convertModel(folder: string, path: string, options: ConvertOptions = {}): Promise<Conversion> {
  const config = await readConfig(folder);
  const { architecture, mapping } = await findMapping(config, options.plugins ?? []);
  await using checkpoint = await Checkpoint.open(folder, renaming(architecture, mapping, config));
  const type = options.type ?? commonType(checkpoint);
  const metadata = await readMetadata(folder, config, architecture, mapping, type, options);
  const converted = plainMetadata(`${config.file}, as converted`, metadata);
  const name = converted.string("general.architecture");
  const { weights } = readArchitecture(architecture, converted);
  const tensors = planTensors({ architecture: name, weights, mapping, config, checkpoint, type });
  options.signal?.throwIfAborted();
  await using writer = await GgufWriter.create(path, { metadata, tensors, overwrite: options.overwrite ?? false });
  await writeTensors(writer, tensors, checkpoint, options);
  await writer.finish();
  return { path, architecture: name, type, tensors: tensors.length, bytes: writer.fileBytes };
}

interface FoundMapping {
  readonly architecture: Architecture;
  readonly mapping: HuggingFaceMapping;
}

/** The mapping for what the configuration names: the caller's plugins first, then the built-in ones. */
async function findMapping(config: HuggingFaceConfig, plugins: readonly Plugin[]): Promise<FoundMapping> {
  const names = config.strings("architectures");
  const registry = await Registry.open(plugins);
  const known = [...new Set(registry.names.map((name) => registry.get(name) as Architecture))].flatMap((architecture) =>
    (architecture.huggingFace ?? []).map((mapping) => ({ architecture, mapping })),
  );
  const found = known.find(({ mapping }) => mapping.architectures.some((name) => names.includes(name)));
  if (found !== undefined) return found;
  const convertible = known
    .flatMap(({ mapping }) => mapping.architectures)
    .sort()
    .join(", ");
  throw new StrataError(
    "unsupported",
    `${config.file}: no architecture converts "${names.join(", ")}"; convertible are ${convertible}; ` +
      "others by a plugin with huggingFace",
  );
}

/** The names of a mapping for a checkpoint's tensors. */
function renaming({ names }: Architecture, mapping: HuggingFaceMapping, { file }: HuggingFaceConfig) {
  const architecture = names[0] ?? "?";
  return (name: string): string => {
    const renamed: unknown = runPart(architecture, "huggingFace.rename", file, () =>
      mapping.rename === undefined ? name : mapping.rename(name),
    );
    if (typeof renamed === "string") return renamed;
    const sentence = `huggingFace.rename of "${architecture}" gives ${shown(renamed)} for "${name}"; give a name`;
    throw new StrataError("invalid_argument", sentence);
  };
}

function commonType(checkpoint: Checkpoint): WrittenType {
  const { commonType: type } = checkpoint;
  return type === "BF16" ? "bf16" : type === "F16" ? "f16" : "f32";
}

async function readMetadata(
  folder: string,
  config: HuggingFaceConfig,
  { names }: Architecture,
  mapping: HuggingFaceMapping,
  type: WrittenType,
  options: ConvertOptions,
): Promise<GgufMetadata> {
  const own = {
    "general.architecture": names[0],
    "general.type": "model",
    "general.name": options.name ?? basename(resolve(folder)),
    "general.file_type": fileTypes[type],
    "general.quantization_version": 2,
    ...partOf(names[0] ?? "?", "metadata", config, () => mapping.metadata(config)),
  };
  const sizeKey = `${String(own["general.architecture"])}.vocab_size`;
  const size = plainMetadata(config.file, own).count(sizeKey, undefined) ?? config.count("vocab_size");
  if (options.tokenizer === false) return { ...own, [sizeKey]: size, "tokenizer.ggml.model": "none" };
  return { ...own, ...(await readTokenizer(folder, { config, size, pre: options.pre })) };
}

/** Elements that are read, computed and written at a time, at least. */
const chunkElements = 2 ** 20;

async function writeTensors(
  writer: GgufWriter,
  tensors: readonly PlannedTensor[],
  checkpoint: Checkpoint,
  options: ConvertOptions,
): Promise<void> {
  let doneBytes = 0;
  for (const { name, type, recipe } of tensors) {
    const tensor = makeTensor(recipe, checkpoint);
    const encoded = async function* (): AsyncGenerator<Uint8Array> {
      for await (const values of chunksOf(tensor)) {
        options.signal?.throwIfAborted();
        const bytes = encodeNumbers(type, values, name);
        yield bytes;
        doneBytes += bytes.length;
        options.onProgress?.({ tensor: name, doneBytes, totalBytes: writer.fileBytes });
      }
    };
    await writer.write(name, encoded());
  }
}

/** A tensor's numbers in turn, in pieces of whole grains and whole blocks of any type. */
async function* chunksOf(tensor: LazyTensor): AsyncGenerator<Float32Array<ArrayBuffer>> {
  const total = elementsOf(tensor.shape);
  const step = tensor.grain % 32 === 0 ? tensor.grain : tensor.grain * 32;
  const size = Math.ceil(chunkElements / step) * step;
  for (let start = 0; start < total; start += size) yield await tensor.read(start, Math.min(size, total - start));
}
