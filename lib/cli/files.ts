import { StrataError } from "../errors.ts";

const reasons: Readonly<Record<string, string>> = {
  ENOENT: "no such file or folder",
  ENOTDIR: "a part of the path is no folder",
  EISDIR: "it is a folder",
  EACCES: "permission denied",
  EPERM: "permission denied",
  EROFS: "the file system is read-only",
  ENOSPC: "the disk is full",
};

/** The system's error on a file as one sentence; any other error as it is. */
export function fileError(error: unknown, path: string, action: "read" | "written"): unknown {
  if (!(error instanceof Error) || !("code" in error) || error instanceof StrataError) return error;
  const reason = reasons[String(error.code)] ?? error.message;
  return new StrataError("io", `${path}: cannot be ${action} (${reason}); give another file`, { cause: error });
}
