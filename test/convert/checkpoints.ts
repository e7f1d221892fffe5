/** Checkpoints as Hugging Face keeps them, written by the tests. */
import { cpSync, mkdirSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";

/** A tensor as PyTorch has it, slowest dimension first. */
export interface WrittenTensor {
  readonly type: string;
  readonly shape: readonly number[];
  readonly bytes: Uint8Array;
}

export function f32(shape: readonly number[], values: ArrayLike<number>): WrittenTensor {
  return { type: "F32", shape, bytes: new Uint8Array(Float32Array.from(values).buffer) };
}

export function writeSafetensors(path: string, tensors: Readonly<Record<string, WrittenTensor>>): void {
  let offset = 0;
  const entries = Object.entries(tensors).map(([name, { type, shape, bytes }]) => {
    const from = offset;
    offset += bytes.length;
    return [name, { dtype: type, shape, data_offsets: [from, offset] }] as const;
  });
  const header = new TextEncoder().encode(
    JSON.stringify({ __metadata__: { format: "pt" }, ...Object.fromEntries(entries) }),
  );
  const length = new Uint8Array(BigUint64Array.of(BigInt(header.length)).buffer);
  writeFileSync(path, Buffer.concat([length, header, ...Object.values(tensors).map(({ bytes }) => bytes)]));
}

/** The tensors of a safetensors file. */
export function readSafetensors(path: string): Record<string, WrittenTensor> {
  const file = readFileSync(path);
  const start = 8 + Number(file.readBigUInt64LE(0));
  type Entry = { dtype: string; shape: number[]; data_offsets: [number, number] };
  const header = JSON.parse(file.toString("utf8", 8, start)) as Record<string, Entry>;
  const entries = Object.entries(header).filter(([name]) => name !== "__metadata__");
  return Object.fromEntries(
    entries.map(
      ([
        name,
        {
          dtype,
          shape,
          data_offsets: [from, to],
        },
      ]) => {
        return [name, { type: dtype, shape, bytes: new Uint8Array(file.subarray(start + from, start + to)) }];
      },
    ),
  );
}

export function fixtureFolder(name: string): string {
  return resolve(import.meta.dir, "../fixtures", name, "hf");
}

export function readJsonFile(path: string): Record<string, unknown> {
  return JSON.parse(readFileSync(path, "utf8")) as Record<string, unknown>;
}

/** A temporary folder for checkpoints and what they become. */
export class Workshop {
  readonly folder = mkdtempSync(join(tmpdir(), "strata-convert-"));
  private count = 0;

  /** A name that no other has. */
  path(end = ".gguf"): string {
    this.count += 1;
    return join(this.folder, `${this.count}${end}`);
  }

  /** A copy of a fixture's checkpoint, to be changed. */
  copy(name: string): string {
    const path = this.path("");
    cpSync(fixtureFolder(name), path, { recursive: true });
    return path;
  }

  /** A folder with these files; objects become JSON. */
  make(files: Readonly<Record<string, unknown>>, tensors?: Readonly<Record<string, WrittenTensor>>): string {
    const path = this.path("");
    mkdirSync(path);
    for (const [name, content] of Object.entries(files)) {
      writeFileSync(join(path, name), typeof content === "string" ? content : JSON.stringify(content));
    }
    if (tensors !== undefined) writeSafetensors(join(path, "model.safetensors"), tensors);
    return path;
  }

  /** Changes keys of a JSON file of a checkpoint; `undefined` removes one. */
  change(folder: string, file: string, changes: Readonly<Record<string, unknown>>): void {
    const path = join(folder, file);
    writeFileSync(path, JSON.stringify({ ...readJsonFile(path), ...changes }));
  }
}
