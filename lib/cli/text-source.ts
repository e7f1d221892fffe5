import { readFile } from "node:fs/promises";
import { fileError } from "./files.ts";
import type { Output } from "./output.ts";
import { StrataError } from "../errors.ts";

/**
 * A text from the command line: itself, or with `-` all of standard input, exactly as it comes.
 * @throws StrataError `io` where it cannot be read, `bad_format` where it is not UTF-8
 */
export async function textOf(given: string, output: Output): Promise<string> {
  return given === "-" ? decode("standard input", await readStandardInput(output)) : given;
}

/**
 * The text of a file, or with `-` of standard input.
 * @throws StrataError `io` where it cannot be read, `bad_format` where it is not UTF-8
 */
export async function textOfFile(path: string, output: Output): Promise<string> {
  if (path === "-") return textOf("-", output);
  try {
    return decode(path, await readFile(path));
  } catch (error) {
    throw fileError(error, path, "read");
  }
}

async function readStandardInput(output: Output): Promise<Uint8Array> {
  if (process.stdin.isTTY) await output.note("Type the text, then Ctrl-D on a line of its own:");
  try {
    return await Bun.stdin.bytes();
  } catch (error) {
    throw fileError(error, "standard input", "read");
  }
}

function decode(source: string, bytes: Uint8Array): string {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch (cause) {
    throw new StrataError("bad_format", `${source}: the text is not UTF-8; convert it first`, { cause });
  }
}
