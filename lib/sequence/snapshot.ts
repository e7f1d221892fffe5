import { StrataError } from "../errors.ts";
import type { NativeEngine } from "../native/engine.ts";
import { Work } from "./work.ts";

/**
 * What a sequence held at one position: shared attention cells, a window's tail, states. Its bytes count against the
 * budget that the model was loaded with (`snapshotBytes`) until it is disposed of.
 */
export class Snapshot implements Disposable {
  private number: number | undefined;
  private readonly work = new Work();

  /** For the SDK; use `sequence.snapshot()` or `feed` with `snapshots`. Throws "full" where the budget is used up. */
  constructor(private readonly engine: NativeEngine) {
    this.number = engine.newSnapshot();
  }

  /** The snapshot's number in the library. */
  get handle(): number {
    if (this.number === undefined) throw new StrataError("closed", "this snapshot was disposed of");
    return this.number;
  }

  /** The position that the next token takes after it. */
  get position(): number {
    return this.engine.describeSnapshot(this.handle).position;
  }

  /** What it counts as against the budget. */
  get bytes(): number {
    return this.engine.describeSnapshot(this.handle).bytes;
  }

  /** For the SDK: throws where this is no snapshot of the engine that is to work with it. */
  check(engine: NativeEngine): void {
    if (engine !== this.engine) throw new StrataError("invalid_argument", "this snapshot belongs to another model");
  }

  get isDisposed(): boolean {
    return this.number === undefined;
  }

  /** For the SDK: does work that must end before the snapshot is dropped. */
  hold<T>(work: Promise<T>): Promise<T> {
    return this.work.during(work);
  }

  /** Frees what it holds: at once, or when it has been saved where that was asked for before. */
  dispose(): void {
    const { number } = this;
    if (number === undefined) return;
    this.number = undefined;
    this.work.whenIdle(() => this.drop(number));
  }

  private drop(number: number): void {
    try {
      this.engine.dropSnapshot(number);
    } catch (error) {
      // With its model it is gone already.
      if (!(error instanceof StrataError) || (error.code !== "not_found" && error.code !== "closed")) throw error;
    }
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}
