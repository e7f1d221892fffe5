import { dlopen } from "bun:ffi";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join, resolve } from "node:path";
import { StrataError, type ErrorCode } from "../errors.ts";
import { readEnvironment } from "../environment.ts";
import { abiHash, Status, symbols } from "./abi.ts";
import { cpuFlags, missingFeatures } from "./cpu.ts";
import { packagedLibrary } from "./platform-package.ts";
import { Struct } from "./struct.ts";

type Symbols = ReturnType<typeof dlopen<typeof symbols>>["symbols"];

const errorCodes: Record<number, ErrorCode> = {
  [Status.invalidArgument]: "invalid_argument",
  [Status.notFound]: "not_found",
  [Status.outOfMemory]: "out_of_memory",
  [Status.io]: "io",
  [Status.badFormat]: "bad_format",
  [Status.unsupported]: "unsupported",
  [Status.busy]: "busy",
  [Status.cancelled]: "cancelled",
  [Status.full]: "full",
  [Status.closed]: "closed",
  [Status.refused]: "refused",
  [Status.internal]: "internal",
};

/** The error code that a status of the library stands for. */
export function errorCode(status: number): ErrorCode {
  return errorCodes[status] ?? "internal";
}

let loaded: Symbols | undefined;

/** The native library's functions; the first call loads it. Throws where it is missing or was built for another SDK. */
export function native(): Symbols {
  loaded ??= load();
  return loaded;
}

/** Throws the library's own sentence unless `status` is success. */
export function check(status: number): void {
  if (status !== Status.ok) throw lastError(status);
}

function lastError(status: number): StrataError {
  const text = new Uint8Array(2048);
  const length = new Uint32Array(1);
  native().strata_last_error(text, text.length, length);
  const sentence = new TextDecoder().decode(text.subarray(0, Math.min(length[0] ?? 0, text.length)));
  return new StrataError(errorCode(status), sentence);
}

/** The checkout that this file belongs to; undefined in a package and in a bundled program. */
function checkout(): string | undefined {
  const root = resolve(import.meta.dir, "../..");
  const here = resolve(root, "lib/native/library.ts") === import.meta.path;
  return here && existsSync(resolve(root, "build.zig")) ? root : undefined;
}

/**
 * Where the library lies: `STRATA_LIBRARY`, or where a checkout's set-up builds it, or the platform package's for this CPU.
 * @throws StrataError where no package can be had
 */
export function libraryPath(): string {
  return find().path;
}

/** Where a compiled program keeps the files inside it. */
const embeddedFolder = "/$bunfs/";

/** A library, and what to do when it does not fit. */
interface Found {
  readonly path: string;
  readonly repair: string;
}

function find(): Found {
  const given = readEnvironment("STRATA_LIBRARY");
  const root = checkout();
  const rebuild = "run `npm run build` to build it here";
  if (given !== undefined) {
    return { path: resolve(given), repair: root === undefined ? "unset STRATA_LIBRARY, which names it" : rebuild };
  }
  if (root === undefined) {
    const path = packagedLibrary();
    const unloadable = "set TMPDIR to a folder that libraries may be loaded from";
    return { path, repair: path.startsWith(embeddedFolder) ? unloadable : "install ggstrata again, all of it" };
  }
  const suffix = process.platform === "darwin" ? "dylib" : "so";
  return { path: resolve(root, "zig-out/lib", `libstrata.${suffix}`), repair: rebuild };
}

function load(): Symbols {
  const { path, repair } = find();
  if (!existsSync(path)) throw new StrataError("not_found", `${path}: the native library is missing; ${repair}`);
  checkFeatures(path, repair);
  let library: Symbols;
  try {
    library = onDisk(path, (file) => dlopen(file, symbols).symbols);
  } catch (cause) {
    const sentence = `${path}: the native library cannot be loaded (${(cause as Error).message}); ${repair}`;
    throw new StrataError("unsupported", sentence, { cause });
  }
  const info = new Struct("LibraryInfo");
  library.strata_library_info(info.bytes);
  if (info.get("abiHash") !== abiHash) {
    const sentence = `${path}: the native library was built from other sources than this SDK; ${repair}`;
    throw new StrataError("unsupported", sentence);
  }
  return readEnvironment("STRATA_TRACE") === undefined ? library : trace(library);
}

/**
 * Opens a library, which must lie on disk: one inside a compiled program is written to a folder that only this user can
 * read, and removed as soon as it is open, so that nothing stays behind and nobody else can have put it there.
 */
function onDisk<T>(path: string, open: (file: string) => T): T {
  if (!path.startsWith(embeddedFolder)) return open(path);
  const folder = mkdtempSync(join(tmpdir(), "strata-"));
  try {
    const file = join(folder, basename(path));
    writeFileSync(file, readFileSync(path), { mode: 0o600 });
    return open(file);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/**
 * Refuses a library that was built for a CPU with features that this one lacks. Its record lies beside it, since asking
 * the library itself would already run its code.
 */
function checkFeatures(path: string, repair: string): void {
  const record = path.replace(/\.(so|dylib)$/, ".features");
  const flags = cpuFlags();
  if (flags === undefined || !existsSync(record)) return;
  const missing = missingFeatures(readFileSync(record, "utf8").trim().split(/\s+/), flags);
  if (missing.length === 0) return;
  throw new StrataError(
    "unsupported",
    `${path}: the native library was built for a CPU with ${missing.join(", ")}, which this one lacks; ${repair}`,
  );
}

/** Every call on stderr: name, arguments, status, microseconds. */
function trace(library: Symbols): Symbols {
  const traced: Record<string, (...args: unknown[]) => number> = {};
  for (const [name, call] of Object.entries(library)) {
    traced[name] = (...args) => {
      const start = performance.now();
      const status = (call as unknown as (...args: unknown[]) => number)(...args);
      const micros = ((performance.now() - start) * 1000).toFixed(1);
      process.stderr.write(`${name}(${args.map(showArgument).join(", ")}) = ${status} (${micros} us)\n`);
      return status;
    };
  }
  return traced as unknown as Symbols;
}

function showArgument(value: unknown): string {
  return ArrayBuffer.isView(value) ? `${value.byteLength} bytes` : String(value);
}
