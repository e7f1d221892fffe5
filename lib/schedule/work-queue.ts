import type { StrataError } from "../errors.ts";

interface Entry {
  readonly run: () => Promise<void>;
  readonly refuse: (error: unknown) => void;
}

/** Work that has the engine to itself, between the steps of tasks. Those who came first are served first. */
export class WorkQueue {
  private readonly waiting: Entry[] = [];
  private isRunning = false;
  private closedBy: StrataError | undefined;

  get isEmpty(): boolean {
    return this.waiting.length === 0;
  }

  /** Nothing waits, and nothing runs. */
  get isQuiet(): boolean {
    return this.isEmpty && !this.isRunning;
  }

  /** Resolves to what the work does, when its turn has come. Until then, its signal takes it out of the queue. */
  add<T>(work: () => Promise<T>, signal: AbortSignal | undefined): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      if (this.closedBy !== undefined) throw this.closedBy;
      signal?.throwIfAborted();
      const leave = () => {
        this.waiting.splice(this.waiting.indexOf(entry), 1);
        reject(signal?.reason);
      };
      const stay = () => signal?.removeEventListener("abort", leave);
      const entry: Entry = {
        run: () => {
          stay();
          // What a closing engine cancels fails since the model is gone.
          return work().then(resolve, (error: unknown) => reject(this.closedBy ?? error));
        },
        refuse: (error) => {
          stay();
          reject(error);
        },
      };
      this.waiting.push(entry);
      signal?.addEventListener("abort", leave, { once: true });
    });
  }

  /** Does what has waited longest, if anything waits. */
  async runNext(): Promise<void> {
    const next = this.waiting.shift();
    if (next === undefined) return;
    this.isRunning = true;
    await next.run();
    this.isRunning = false;
  }

  /** What waits is refused, and what comes later. */
  close(error: StrataError): void {
    this.closedBy = error;
    for (const { refuse } of this.waiting.splice(0)) refuse(error);
  }
}
