/** Counts the work that uses something, so that it is let go of when that has ended. */
export class Work {
  private count = 0;
  private onEnd: (() => void) | undefined;

  /** No work has been asked for that has not ended. */
  get isIdle(): boolean {
    return this.count === 0;
  }

  /** Settles as the work does, when it has been counted out. */
  async during<T>(work: Promise<T>): Promise<T> {
    this.count += 1;
    try {
      return await work;
    } finally {
      this.count -= 1;
      if (this.count === 0) this.onEnd?.();
    }
  }

  /** Does something at once, or when all work has ended. */
  whenIdle(action: () => void): void {
    if (this.isIdle) action();
    else this.onEnd = action;
  }
}
