import { randomBytes } from "node:crypto";
import { open, rename, stat, unlink, type FileHandle } from "node:fs/promises";
import { dirname } from "node:path";
import { StrataError } from "../errors.ts";
import { encodeHeader, type GgufContents, type GgufHeader } from "./header.ts";
import type { TensorHead } from "./tensor.ts";

export interface GgufWriterOptions extends GgufContents {
  /** Whether a file of this name is replaced; otherwise it is an error: false. */
  readonly overwrite?: boolean;
}

/** Data of a tensor, in pieces of any size: all of it is never in memory unless you hold it. */
export type Pieces = Iterable<Uint8Array> | AsyncIterable<Uint8Array>;

/**
 * Writes a GGUF file. The file has another name until `finish`, so what has its own name is whole, on disk, and never
 * half of one; `await using` removes what was not finished.
 *
 * ```ts
 * await using writer = await GgufWriter.create("model.gguf", { metadata, tensors });
 * for (const { name } of tensors) await writer.write(name, pieces(name));
 * await writer.finish();
 * ```
 */
export class GgufWriter implements AsyncDisposable {
  private readonly missing: Set<string>;
  private isFinished = false;

  private constructor(
    readonly path: string,
    private readonly temporary: string,
    private readonly handle: FileHandle,
    private readonly header: GgufHeader,
  ) {
    this.missing = new Set(header.places.keys());
  }

  /**
   * Starts a file with its header.
   * @throws StrataError `invalid_argument` for what the format cannot say, or where the file exists already; `io` where
   * it cannot be written
   */
  static async create(path: string, options: GgufWriterOptions): Promise<GgufWriter> {
    const header = encodeHeader(options);
    await checkTarget(path, options.overwrite ?? false);
    const temporary = `${path}.${randomBytes(4).toString("hex")}.part`;
    const handle = await open(temporary, "wx").catch((error: unknown) => {
      throw unwritable(path, error);
    });
    const writer = new GgufWriter(path, temporary, handle, header);
    try {
      await writer.put(header.bytes, 0);
      // Room for all is taken now, so padding reads as zeros.
      await handle.truncate(header.fileBytes);
      return writer;
    } catch (error) {
      await writer[Symbol.asyncDispose]();
      throw unwritable(path, error);
    }
  }

  /** Bytes of the whole file. */
  get fileBytes(): number {
    return this.header.fileBytes;
  }

  /**
   * Writes the data of one tensor, in any order of tensors.
   * @throws StrataError `invalid_argument` where the pieces are not as many bytes as the tensor has; `io` where they
   * cannot be written
   */
  async write(name: string, pieces: Pieces): Promise<void> {
    const place = this.header.places.get(name);
    if (place === undefined) throw new StrataError("invalid_argument", `the file's header has no tensor "${name}"`);
    let done = 0;
    for await (const piece of pieces) {
      if (done + piece.length > place.bytes) throw wrongSize(name, done + piece.length, place.bytes);
      await this.put(piece, place.offset + done);
      done += piece.length;
    }
    if (done !== place.bytes) throw wrongSize(name, done, place.bytes);
    this.missing.delete(name);
  }

  /** Waits until all is on disk and gives the file its name. */
  async finish(): Promise<void> {
    const [lacking] = this.missing;
    if (lacking !== undefined) {
      throw new StrataError("invalid_argument", `the data of the tensor "${lacking}" were not written`);
    }
    try {
      await this.handle.sync();
      await rename(this.temporary, this.path);
      this.isFinished = true;
      await syncFolder(dirname(this.path));
    } catch (error) {
      throw unwritable(this.path, error);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.handle.close();
    if (!this.isFinished) await unlink(this.temporary);
  }

  private async put(bytes: Uint8Array, position: number): Promise<void> {
    try {
      for (let done = 0; done < bytes.length;) {
        done += (await this.handle.write(bytes, done, bytes.length - done, position + done)).bytesWritten;
      }
    } catch (error) {
      throw unwritable(this.path, error);
    }
  }
}

/** A tensor with its data in memory. */
export interface TensorData extends TensorHead {
  readonly data: Uint8Array;
}

/** Writes a file whose tensors are in memory, as `GgufWriter` does. */
export async function writeGguf(
  path: string,
  contents: Omit<GgufWriterOptions, "tensors"> & { readonly tensors: readonly TensorData[] },
): Promise<void> {
  await using writer = await GgufWriter.create(path, contents);
  for (const { name, data } of contents.tensors) await writer.write(name, [data]);
  await writer.finish();
}

async function checkTarget(path: string, overwrite: boolean): Promise<void> {
  const found = await stat(path).catch((error: unknown) => {
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return undefined;
    throw unwritable(path, error);
  });
  if (found === undefined || (overwrite && found.isFile())) return;
  const problem = found.isFile()
    ? "the file exists already; give another name, or say that it is to be replaced (--force)"
    : "something that is no file has this name; give another name";
  throw new StrataError("invalid_argument", `${path}: ${problem}`);
}

/** A name is on disk when its folder is. */
async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, "r");
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}

function wrongSize(name: string, given: number, expected: number): StrataError {
  const count = given > expected ? `${given} bytes or more` : `${given} bytes`;
  return new StrataError("invalid_argument", `the tensor "${name}" was given ${count}, and it has ${expected}`);
}

const reasons: Readonly<Record<string, string>> = {
  ENOENT: "its folder does not exist",
  ENOTDIR: "a part of the path is no folder",
  EACCES: "permission denied",
  EPERM: "permission denied",
  EROFS: "the file system is read-only",
  ENOSPC: "the disk is full",
};

function unwritable(path: string, error: unknown): unknown {
  if (error instanceof StrataError || !(error instanceof Error) || !("code" in error)) return error;
  const reason = reasons[String(error.code)] ?? error.message;
  return new StrataError("io", `${path}: cannot be written (${reason})`, { cause: error });
}
