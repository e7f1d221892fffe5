import { open, type FileHandle } from "node:fs/promises";
import { basename, join } from "node:path";
import { StrataError } from "../errors.ts";
import { isObject, parseJson, readJson, type Json } from "./config.ts";
import { elementsOf, type LazyTensor } from "./lazy-tensor.ts";
import { decodeNumbers, readableTypes, type ReadableType } from "./number-types.ts";

/** A tensor of a safetensors file, as its header has it. */
interface CheckpointTensor {
  readonly file: SafetensorsFile;
  readonly type: string;
  readonly shape: readonly number[];
  /** From the start of the file. */
  readonly offset: number;
}

/** The tensors of a checkpoint's folder: `model.safetensors`, or the files that its index names. */
export class Checkpoint implements AsyncDisposable {
  private constructor(
    private readonly folder: string,
    private readonly files: readonly SafetensorsFile[],
    private readonly tensors: ReadonlyMap<string, CheckpointTensor>,
  ) {}

  /**
   * Opens the files and reads their headers.
   * @param rename gives the name by which a tensor is known from here on
   * @throws StrataError `not_found` where a file is missing, `bad_format` where one is damaged
   */
  static async open(folder: string, rename: (name: string) => string): Promise<Checkpoint> {
    const names = await fileNames(folder);
    const files: SafetensorsFile[] = [];
    const tensors = new Map<string, CheckpointTensor>();
    try {
      for (const name of names) {
        const file = await SafetensorsFile.open(join(folder, name));
        files.push(file);
        for (const [tensor, found] of await file.tensors()) tensors.set(rename(tensor), found);
      }
      return new Checkpoint(folder, files, tensors);
    } catch (error) {
      for (const file of files) await file.close();
      throw error;
    }
  }

  get names(): readonly string[] {
    return [...this.tensors.keys()];
  }

  has(name: string): boolean {
    return this.tensors.has(name);
  }

  /** The type that most of the numbers have, such as "BF16". */
  get commonType(): string {
    const counts = new Map<string, number>();
    for (const { type, shape } of this.tensors.values()) counts.set(type, (counts.get(type) ?? 0) + elementsOf(shape));
    return [...counts].sort(([, a], [, b]) => b - a)[0]?.[0] ?? "F32";
  }

  /** @throws StrataError `unsupported` where its numbers are of a type that cannot be read */
  tensor(name: string): LazyTensor {
    const found = this.tensors.get(name);
    if (found === undefined) throw new StrataError("not_found", `${this.folder}: there is no tensor "${name}"`);
    const { file, type, shape, offset } = found;
    if (!isReadable(type)) {
      const known = Object.keys(readableTypes).join(", ");
      throw new StrataError(
        "unsupported",
        `${file.path}: the tensor "${name}" has numbers of the type ${type}; ${known} can be read`,
      );
    }
    const width = readableTypes[type];
    return {
      name,
      shape,
      grain: 1,
      read: async (start, count) => decodeNumbers(type, await file.read(offset + start * width, count * width)),
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const file of this.files) await file.close();
  }
}

const single = "model.safetensors";
const index = "model.safetensors.index.json";

async function fileNames(folder: string): Promise<readonly string[]> {
  const list = await readJson(join(folder, index));
  if (list === undefined) {
    if (await Bun.file(join(folder, single)).exists()) return [single];
    throw new StrataError(
      "not_found",
      `${folder}: there is neither ${single} nor ${index} in it; only safetensors are read`,
    );
  }
  const map = list["weight_map"];
  const names = isObject(map) ? [...new Set(Object.values(map))] : [];
  const isList = names.length > 0 && names.every((name) => typeof name === "string" && name === basename(name));
  if (isList) return names as string[];
  throw new StrataError("bad_format", `${join(folder, index)}: "weight_map" does not name the file of each tensor`);
}

function isReadable(type: string): type is ReadableType {
  return Object.hasOwn(readableTypes, type);
}

/** Far above any header's; a damaged length would otherwise be believed. */
const longestHeader = 100e6;

class SafetensorsFile {
  private constructor(
    readonly path: string,
    private readonly handle: FileHandle,
    private readonly size: number,
  ) {}

  static async open(path: string): Promise<SafetensorsFile> {
    try {
      const handle = await open(path, "r");
      return new SafetensorsFile(path, handle, (await handle.stat()).size);
    } catch (cause) {
      const reason =
        cause instanceof Error && "code" in cause && cause.code === "ENOENT" ? "there is no such file" : String(cause);
      throw new StrataError("not_found", `${path}: cannot be read (${reason}); the checkpoint is not whole`, { cause });
    }
  }

  /** Reads the header: eight bytes of length, then a JSON object of tensors. */
  async tensors(): Promise<Map<string, CheckpointTensor>> {
    const length = this.size < 8 ? -1 : Number(new DataView((await this.read(0, 8)).buffer).getBigUint64(0, true));
    if (length < 2 || length > longestHeader || 8 + length > this.size)
      throw this.damaged("its header has no whole JSON");
    const header = parseJson(new TextDecoder().decode(await this.read(8, length)), this.path);
    const entries = Object.entries(header).filter(([name]) => name !== "__metadata__");
    return new Map(entries.map(([name, entry]) => [name, this.tensor(name, entry, 8 + length)]));
  }

  async read(offset: number, count: number): Promise<Uint8Array<ArrayBuffer>> {
    const bytes = new Uint8Array(count);
    for (let done = 0; done < count;) {
      const { bytesRead } = await this.handle.read(bytes, done, count - done, offset + done);
      if (bytesRead === 0) throw this.damaged("it became shorter while it was read");
      done += bytesRead;
    }
    return bytes;
  }

  close(): Promise<void> {
    return this.handle.close();
  }

  private tensor(name: string, entry: Json, start: number): CheckpointTensor {
    const { dtype, shape, data_offsets: offsets } = isObject(entry) ? entry : {};
    const isCounts = (value: Json | undefined): value is readonly number[] =>
      Array.isArray(value) && value.every((n) => typeof n === "number" && Number.isSafeInteger(n) && n >= 0);
    if (typeof dtype !== "string" || !isCounts(shape) || !isCounts(offsets) || offsets.length !== 2) {
      throw this.damaged(`its header does not describe the tensor "${name}"`);
    }
    const [from, to] = offsets as readonly [number, number];
    const expected = isReadable(dtype) ? elementsOf(shape) * readableTypes[dtype] : to - from;
    if (start + to > this.size) {
      throw this.damaged(`it has ${this.size} bytes, and the tensor "${name}" ends at ${start + to}; is it cut off?`);
    }
    if (to - from !== expected) {
      throw this.damaged(
        `the tensor "${name}" of shape (${shape.join(", ")}) and type ${dtype} has ${to - from} bytes at ${from}`,
      );
    }
    return { file: this, type: dtype, shape, offset: start + from };
  }

  private damaged(problem: string): StrataError {
    return new StrataError("bad_format", `${this.path}: the file is damaged: ${problem}`);
  }
}
