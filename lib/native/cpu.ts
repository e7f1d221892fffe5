import { existsSync, readFileSync } from "node:fs";

/** Linux's names for CPU features, where they differ from the compiler's. */
const kernelNames: Record<string, string> = {
  bmi: "bmi1",
  lzcnt: "abm",
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
  ...["avx", "avx2", "fma", "f16c", "bmi2", "movbe", "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"],
  ...["avx512ifma", "avx512vbmi", ...Object.keys(kernelNames)],
]);

/** A CPU's features by Linux's names; undefined where the system does not list them. */
export type CpuFlags = ReadonlySet<string> | undefined;

/** The features of this CPU. */
export function cpuFlags(): CpuFlags {
  if (process.platform !== "linux" || !existsSync("/proc/cpuinfo")) return undefined;
  const line = /^flags\s*:(.*)$/m.exec(readFileSync("/proc/cpuinfo", "utf8"));
  return line === null ? undefined : new Set((line[1] ?? "").trim().split(/\s+/));
}

/**
 * Which of the features that a library was built for a CPU lacks, by the compiler's names. A CPU of which nothing is
 * known may lack all of them.
 */
export function missingFeatures(built: readonly string[], present: CpuFlags): string[] {
  return built.filter((name) => checkedFeatures.has(name) && !present?.has(kernelNames[name] ?? name));
}

/** Whether the C library of this process is musl, which the libraries of the packages are not built for. */
export function isMusl(): boolean {
  return process.platform === "linux" && /\/ld-musl-|\/libc\.musl-/.test(readFileSync("/proc/self/maps", "utf8"));
}
