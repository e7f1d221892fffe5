import { constants } from "node:fs";
import { open, rename, stat, unlink, type FileHandle } from "node:fs/promises";
import { StrataError } from "../errors.ts";
import { defineCommand } from "./command.ts";
import { fileError } from "./files.ts";
import { counted, formatBytes } from "./format.ts";
import { interruptible } from "./interrupt.ts";
import { openModel } from "./open.ts";
import {
  countFrom,
  kvOptionOf,
  modelOption,
  readTokens,
  requiredName,
  requiredTokens,
  threadsOption,
  whole,
} from "./options.ts";
import { Progress } from "./output.ts";
import { textOf } from "./text-source.ts";
import { UsageError } from "./usage.ts";

/**
 * A file of float32 rows, little-endian. It is written under another name beside its own and only gets its own when it
 * is whole; something that is no regular file, such as a pipe, is written directly.
 */
export class FloatFile implements AsyncDisposable {
  private isKept = false;

  private constructor(
    private readonly path: string,
    private readonly written: string,
    private readonly handle: FileHandle,
  ) {}

  /** @throws StrataError `io` where the file cannot be written */
  static async create(path: string): Promise<FloatFile> {
    try {
      const exists = await stat(path).catch(unlessMissing);
      if (exists?.isDirectory()) throw Object.assign(new Error(), { code: "EISDIR" });
      const isDirect = exists !== undefined && !exists.isFile();
      const written = isDirect ? path : `${path}.${process.pid}.part`;
      const { O_WRONLY, O_CREAT, O_EXCL } = constants;
      return new FloatFile(path, written, await open(written, isDirect ? O_WRONLY : O_WRONLY | O_CREAT | O_EXCL));
    } catch (error) {
      throw fileError(error, path, "written");
    }
  }

  /** @throws StrataError `io` where the row cannot be written */
  async write(row: Float32Array): Promise<void> {
    // Every machine that the library is built for is little-endian.
    const bytes = new Uint8Array(row.buffer, row.byteOffset, row.byteLength);
    try {
      for (let done = 0; done < bytes.length;) done += (await this.handle.write(bytes, done)).bytesWritten;
    } catch (error) {
      throw fileError(error, this.path, "written");
    }
  }

  /** Gives the file its name: it is whole. */
  async keep(): Promise<void> {
    try {
      if (this.written !== this.path) await rename(this.written, this.path);
    } catch (error) {
      throw fileError(error, this.path, "written");
    }
    this.isKept = true;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.handle.close();
    if (!this.isKept && this.written !== this.path) await unlink(this.written);
  }
}

function unlessMissing(error: unknown): undefined {
  if (error instanceof Error && "code" in error && error.code === "ENOENT") return undefined;
  throw error;
}

/** Tokens a step, unless `--chunk` says it. */
const defaultChunk = 512;

export const logits = defineCommand({
  name: "logits",
  summary: "Write a model's logits at every position to a file.",
  usage: "-m FILE --tokens 1,2,3 --out FILE [--chunk N]",
  options: {
    ...modelOption,
    tokens: requiredTokens,
    out: requiredName("FILE", "where the logits go"),
    chunk: whole("N", `tokens read in one step; default ${defaultChunk}`, countFrom(1)),
    ...kvOptionOf("f32"),
    ...threadsOption,
  },
  notes: `
The file holds float32 numbers, little-endian: a row as wide as the vocabulary for each token, what the model expects
after it. The tokens are taken as they are, with no BOS added. Keys and values are f32 unless --kv says otherwise.
JSON: {"tokens": rows, "vocab": columns}

  strata logits -m model.gguf --tokens 1,2,3 --out logits.f32`,
  async run({ values, output }) {
    const tokens = readTokens(await textOf(values.tokens, output), "--tokens");
    if (tokens.length === 0)
      throw new UsageError("--tokens has no token in it; give at least one, such as --tokens 1,2");
    const chunk = Math.min(values.chunk ?? defaultChunk, tokens.length);
    const loading = { context: tokens.length, batch: chunk, kv: values.kv ?? "f32", threads: values.threads };
    return await interruptible(async (signal) => {
      await using file = await FloatFile.create(values.out);
      await using model = await openModel(values, loading, output, signal);
      const vocab = model.vocabularySize;
      using progress = new Progress(output);
      let rows = 0;
      for await (const { position, logits: row } of model.logits(tokens, { chunk, signal })) {
        if (position !== rows || row.length !== vocab) {
          throw new StrataError("internal", `row ${rows} came as position ${position} with ${row.length} logits`);
        }
        await file.write(row);
        rows += 1;
        progress.update(`Position ${rows} of ${tokens.length}`);
      }
      await file.keep();
      progress.clear();
      if (output.json) return output.document({ tokens: rows, vocab });
      const size = formatBytes(rows * vocab * Float32Array.BYTES_PER_ELEMENT);
      await output.write(`${values.out}: ${counted(rows, "token")} x ${vocab} logits, ${size}\n`);
    });
  },
});
