/** Where the symbols of a text are merged in pairs, best pair first, as both SentencePiece and BPE do. */
export abstract class PairMerger {
  /** A symbol's token or symbol id; meaningful where `length` is not 0. */
  protected ids = new Int32Array(64);
  /** A symbol's length in units of the text; 0 once it has been merged into the one before it. */
  protected lengths = new Int32Array(64);
  protected nexts = new Int32Array(64);
  private previous = new Int32Array(64);

  // A binary heap in columns. Its order is (rank, index of the left symbol), held as one number.
  private keys = new Float64Array(64);
  private sizes = new Int32Array(64);
  private results = new Int32Array(64);
  private queued = 0;

  /** Finds whether the symbols at `left` and `right` make a pair, and if so calls `propose`. */
  protected abstract consider(left: number, right: number): void;

  /** Makes room for `count` symbols and chains them; the caller then sets `ids` and `lengths`. */
  protected chain(count: number): void {
    if (this.ids.length < count) {
      const room = 2 ** Math.ceil(Math.log2(count));
      this.ids = new Int32Array(room);
      this.lengths = new Int32Array(room);
      this.nexts = new Int32Array(room);
      this.previous = new Int32Array(room);
    }
    for (let index = 0; index < count; index += 1) {
      this.previous[index] = index - 1;
      this.nexts[index] = index + 1 < count ? index + 1 : -1;
    }
  }

  /** Merges until no pair is left. Symbol 0 is always alive afterwards: walk from it by `nexts`. */
  protected mergeAll(count: number): void {
    this.queued = 0;
    for (let index = 1; index < count; index += 1) this.consider(index - 1, index);
    while (this.queued > 0) {
      const left = at(this.keys, 0) % leftLimit;
      const size = at(this.sizes, 0);
      const result = at(this.results, 0);
      this.removeFirst();
      const right = at(this.nexts, left);
      // A pair is stale when a symbol of it has been merged away or has grown: the sizes tell.
      if (at(this.lengths, left) === 0 || right < 0 || at(this.lengths, left) + at(this.lengths, right) !== size) {
        continue;
      }
      this.ids[left] = result;
      this.lengths[left] = size;
      this.lengths[right] = 0;
      const after = at(this.nexts, right);
      this.nexts[left] = after;
      if (after >= 0) {
        this.previous[after] = left;
        this.consider(left, after);
      }
      const before = at(this.previous, left);
      if (before >= 0) this.consider(before, left);
    }
  }

  /** Queues a pair: lower ranks merge first. */
  protected propose(rank: number, left: number, size: number, result: number): void {
    if (this.queued === this.keys.length) this.growQueue();
    const key = rank * leftLimit + left;
    let hole = this.queued;
    this.queued += 1;
    while (hole > 0) {
      const parent = (hole - 1) >> 1;
      if (at(this.keys, parent) <= key) break;
      this.move(parent, hole);
      hole = parent;
    }
    this.place(hole, key, size, result);
  }

  private removeFirst(): void {
    this.queued -= 1;
    const last = this.queued;
    if (last === 0) return;
    const key = at(this.keys, last);
    let hole = 0;
    for (;;) {
      let child = 2 * hole + 1;
      if (child >= last) break;
      if (child + 1 < last && at(this.keys, child + 1) < at(this.keys, child)) child += 1;
      if (at(this.keys, child) >= key) break;
      this.move(child, hole);
      hole = child;
    }
    this.place(hole, key, at(this.sizes, last), at(this.results, last));
  }

  private move(from: number, to: number): void {
    this.place(to, at(this.keys, from), at(this.sizes, from), at(this.results, from));
  }

  private place(index: number, key: number, size: number, result: number): void {
    this.keys[index] = key;
    this.sizes[index] = size;
    this.results[index] = result;
  }

  private growQueue(): void {
    const room = this.keys.length * 2;
    const keys = new Float64Array(room);
    const sizes = new Int32Array(room);
    const results = new Int32Array(room);
    keys.set(this.keys);
    sizes.set(this.sizes);
    results.set(this.results);
    this.keys = keys;
    this.sizes = sizes;
    this.results = results;
  }
}

/** More than a text has symbols; ranks times this stay exact in a double. */
const leftLimit = 2 ** 31;

/** An element of an array at an index that is known to be inside. */
export function at(array: { readonly [index: number]: number | undefined }, index: number): number {
  return array[index] as number;
}
