import { StrataError } from "../errors.ts";

interface Waiting {
  readonly resolve: (sequence: number) => void;
  readonly reject: (error: unknown) => void;
}

/** Which sequences are free, who has the others, and who waits for one. */
export class Lending {
  private readonly free: number[];
  /** For as long as somebody wants them; all others come back by themselves. */
  private readonly byHand = new Set<number>();
  private readonly lent = new Set<number>();
  private readonly waiting: Waiting[] = [];
  private closedBy: StrataError | undefined;

  constructor(private readonly count: number) {
    this.free = Array.from({ length: count }, (_, i) => i);
  }

  get freeCount(): number {
    return this.free.length;
  }

  /** Nobody has one from `acquire`. */
  get isQuiet(): boolean {
    return this.lent.size === 0;
  }

  /** A free sequence at once, for someone who holds it until `release`. */
  take(): number {
    this.checkOpen();
    const sequence = this.free.shift();
    if (sequence === undefined) throw this.full("in use");
    this.byHand.add(sequence);
    return sequence;
  }

  /** Who held a sequence by hand has no more use for it; it is released when its work has ended. */
  leave(sequence: number): void {
    this.byHand.delete(sequence);
  }

  /** Waits for a free sequence; those who came first get one first. Throws "full" where none will come by itself. */
  async acquire(signal?: AbortSignal): Promise<number> {
    this.checkOpen();
    signal?.throwIfAborted();
    const sequence = this.free.shift();
    if (sequence !== undefined) {
      this.lent.add(sequence);
      return sequence;
    }
    if (this.byHand.size === this.count) throw this.full("held by hand");
    const lent = await this.next(signal);
    if (signal?.aborted || this.closedBy !== undefined) {
      // It happened between the handing over and here.
      this.release(lent);
      this.checkOpen();
      signal?.throwIfAborted();
    }
    return lent;
  }

  private async next(signal: AbortSignal | undefined): Promise<number> {
    const { promise, resolve, reject } = Promise.withResolvers<number>();
    const entry = { resolve, reject };
    this.waiting.push(entry);
    const leave = () => {
      const index = this.waiting.indexOf(entry);
      if (index < 0) return;
      this.waiting.splice(index, 1);
      reject(signal?.reason);
    };
    signal?.addEventListener("abort", leave, { once: true });
    try {
      return await promise;
    } finally {
      signal?.removeEventListener("abort", leave);
    }
  }

  /** Gives a sequence back, or to who has waited longest. */
  release(sequence: number): void {
    this.byHand.delete(sequence);
    this.lent.delete(sequence);
    const next = this.waiting.shift();
    if (next === undefined) {
      this.free.push(sequence);
      return;
    }
    this.lent.add(sequence);
    next.resolve(sequence);
  }

  /** Those who wait are refused, and who comes later. */
  close(error: StrataError): void {
    this.closedBy = error;
    for (const { reject } of this.waiting.splice(0)) reject(error);
  }

  private checkOpen(): void {
    if (this.closedBy !== undefined) throw this.closedBy;
  }

  private full(where: string): StrataError {
    const sentence = `all ${this.count} sequences are ${where}; dispose of one, or load the model with more`;
    return new StrataError("full", sentence);
  }
}
