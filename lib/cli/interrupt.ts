import { StrataError } from "../errors.ts";

const exitCodes = { SIGINT: 130, SIGTERM: 143, SIGHUP: 129 } as const;

/** Exit codes by signal, as shells count them. */
export type HandledSignal = keyof typeof exitCodes;

/** Why work was cancelled: a signal came. */
export class Interrupted extends Error {
  override readonly name = "Interrupted";

  constructor(readonly by: HandledSignal) {
    super(`stopped by ${by}`);
  }

  get exitCode(): number {
    return exitCodes[this.by];
  }
}

/**
 * Does work that a signal (Ctrl-C) cancels through `signal`, so that it can free what it holds and give what it has so
 * far. A second signal ends the process at once.
 *
 * @returns the exit code: 0, or the signal's
 */
export async function interruptible(work: (signal: AbortSignal) => Promise<void>): Promise<number> {
  const controller = new AbortController();
  const names = Object.keys(exitCodes) as HandledSignal[];
  const stop = (by: HandledSignal): void => {
    if (controller.signal.aborted) process.exit(exitCodes[by]);
    controller.abort(new Interrupted(by));
  };
  for (const name of names) process.on(name, stop);
  try {
    await work(controller.signal);
  } catch (error) {
    if (!isCancellation(error, controller.signal)) throw error;
  } finally {
    for (const name of names) process.off(name, stop);
  }
  const { reason } = controller.signal;
  return reason instanceof Interrupted ? reason.exitCode : 0;
}

function isCancellation(error: unknown, signal: AbortSignal): boolean {
  if (!signal.aborted) return false;
  return error === signal.reason || (error instanceof StrataError && error.code === "cancelled");
}
