import { wrong } from "../arguments.ts";

/** Throws on a signal that is none, and the reason of one that has been aborted. */
export function heedSignal(signal: AbortSignal | undefined): void {
  checkSignal(signal);
  signal?.throwIfAborted();
}

/** Throws on a signal that is none. */
export function checkSignal(signal: unknown): void {
  if (signal !== undefined && !(signal instanceof AbortSignal)) throw wrong("signal", signal, "an AbortSignal");
}
