/** Milliseconds of the monotonic clock that the native library stamps its events with. */
export function nowMs(): number {
  return Number(process.hrtime.bigint()) / 1e6;
}
