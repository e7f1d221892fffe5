const float = new Float64Array(1);
const halves = new Int32Array(float.buffer);

/**
 * A running number of what a graph is built of: two graphs of different operations hardly have the same. Operations, their
 * operands and parameters say all: the same ones give results of the same shapes.
 */
export class Fingerprint {
  private hash = 0x811c9dc5 | 0;

  get value(): number {
    return this.hash;
  }

  /** Takes in any number. */
  add(value: number): void {
    float[0] = value;
    this.mix(halves[0] as number);
    this.mix(halves[1] as number);
  }

  addText(text: string): void {
    for (let i = 0; i < text.length; i += 1) this.mix(text.charCodeAt(i));
  }

  /** Takes in a whole number: FNV-1a, on whole numbers instead of bytes. */
  mix(value: number): void {
    this.hash = Math.imul(this.hash ^ value, 0x01000193);
    this.hash ^= this.hash >>> 15;
  }
}
