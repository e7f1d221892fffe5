import { at } from "./merge.ts";

/**
 * Numbers the pairs of integers that are put in, from 0 on, and finds them again. What is known about a pair is kept
 * by its number, in arrays of the caller's. Open addressing in typed arrays: half a million pairs are 8 MiB.
 */
export class PairTable {
  private readonly mask: number;
  private readonly slots: Int32Array;
  private readonly pairs: Int32Array;
  private count = 0;

  /** @param capacity the most pairs that will be put in */
  constructor(capacity: number) {
    const room = 2 ** Math.ceil(Math.log2(Math.max(2, capacity * 2)));
    this.mask = room - 1;
    this.slots = new Int32Array(room).fill(-1);
    this.pairs = new Int32Array(2 * capacity);
  }

  get size(): number {
    return this.count;
  }

  /** The number of a pair, which is put in where it is not there yet. */
  add(left: number, right: number): number {
    let slot = hash(left, right) & this.mask;
    for (; at(this.slots, slot) >= 0; slot = (slot + 1) & this.mask) {
      if (this.holds(at(this.slots, slot), left, right)) return at(this.slots, slot);
    }
    const number = this.count;
    this.slots[slot] = number;
    this.pairs[2 * number] = left;
    this.pairs[2 * number + 1] = right;
    this.count += 1;
    return number;
  }

  /** The number of a pair, or -1 where it is not there. */
  find(left: number, right: number): number {
    for (let slot = hash(left, right) & this.mask; ; slot = (slot + 1) & this.mask) {
      const number = at(this.slots, slot);
      if (number < 0 || this.holds(number, left, right)) return number;
    }
  }

  left(number: number): number {
    return at(this.pairs, 2 * number);
  }

  right(number: number): number {
    return at(this.pairs, 2 * number + 1);
  }

  private holds(number: number, left: number, right: number): boolean {
    return at(this.pairs, 2 * number) === left && at(this.pairs, 2 * number + 1) === right;
  }
}

function hash(left: number, right: number): number {
  const mixed = Math.imul(left, 0x9e3779b1) ^ Math.imul(right, 0x85ebca6b);
  return mixed ^ (mixed >>> 15);
}
