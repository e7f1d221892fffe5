import { dlopen } from "bun:ffi";
import { existsSync, readFileSync } from "node:fs";
import { resolve } from "node:path";
import { StrataError, type ErrorCode } from "../errors.ts";
import { readEnvironment } from "../environment.ts";
import { abiHash, Status, symbols } from "./abi.ts";
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

/** Where the library lies: `STRATA_LIBRARY`, or where set-up builds it. */
export function libraryPath(): string {
  const given = readEnvironment("STRATA_LIBRARY");
  if (given !== undefined) return resolve(given);
  const suffix = process.platform === "darwin" ? "dylib" : "so";
  return resolve(import.meta.dir, "../../zig-out/lib", `libstrata.${suffix}`);
}

function load(): Symbols {
  const path = libraryPath();
  if (!existsSync(path)) {
    throw new StrataError("not_found", `${path}: the native library is missing; run \`npm run build\` to build it`);
  }
  checkFeatures(path);
  let library: Symbols;
  try {
    library = dlopen(path, symbols).symbols;
  } catch (cause) {
    const sentence = `${path}: the native library cannot be loaded (${(cause as Error).message}); run \`npm run build\``;
    throw new StrataError("unsupported", sentence, { cause });
  }
  const info = new Struct("LibraryInfo");
  library.strata_library_info(info.bytes);
  if (info.get("abiHash") !== abiHash) {
    throw new StrataError(
      "unsupported",
      `${path}: the native library was built from other sources than this SDK; run \`npm run build\` to rebuild it`,
    );
  }
  return readEnvironment("STRATA_TRACE") === undefined ? library : trace(library);
}

/** Linux's names for CPU features, where they differ from the compiler's. */
const kernelNames: Record<string, string> = {
  avx512vnni: "avx512_vnni",
  avx512bf16: "avx512_bf16",
  avx512vbmi2: "avx512_vbmi2",
  avx512bitalg: "avx512_bitalg",
  avx512vpopcntdq: "avx512_vpopcntdq",
  avxvnni: "avx_vnni",
  amx_tile: "amx_tile",
  amx_int8: "amx_int8",
  amx_bf16: "amx_bf16",
};

/** Features worth naming: those whose absence ends the process with an illegal instruction. */
const checkedFeatures = new Set([
  ...["avx", "avx2", "fma", "f16c", "bmi1", "bmi2", "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"],
  ...["avx512ifma", "avx512vbmi", ...Object.keys(kernelNames)],
]);

/**
 * Refuses a library that was built for a CPU with features that this one lacks. Its record lies beside it, since asking
 * the library itself would already run its code.
 */
function checkFeatures(path: string): void {
  const record = path.replace(/\.(so|dylib)$/, ".features");
  if (!existsSync(record) || process.platform !== "linux") return;
  const cpu = /^flags\s*:(.*)$/m.exec(readFileSync("/proc/cpuinfo", "utf8"));
  if (cpu === null) return;
  const present = new Set((cpu[1] ?? "").trim().split(/\s+/));
  const built = readFileSync(record, "utf8").trim().split(/\s+/);
  const missing = built.filter((name) => checkedFeatures.has(name) && !present.has(kernelNames[name] ?? name));
  if (missing.length === 0) return;
  throw new StrataError(
    "unsupported",
    `${path}: the native library was built for a CPU with ${missing.join(", ")}, which this one lacks; ` +
      "run `npm run build` to rebuild it here",
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
