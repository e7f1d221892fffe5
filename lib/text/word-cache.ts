/** The tokens of words seen before, since text repeats itself. Bounded: it is emptied when full. */
export class WordCache {
  private readonly words = new Map<string, Int32Array>();
  private without: ReadonlySet<number> | undefined;

  /**
   * Appends a word's tokens.
   * @param without what the tokens depend on besides the word: another set empties the cache
   * @param encode gives the tokens of a word that is not kept
   */
  append(
    word: string,
    tokens: number[],
    without: ReadonlySet<number> | undefined,
    encode: (word: string) => Int32Array,
  ): void {
    if (without !== this.without) {
      this.words.clear();
      this.without = without;
    }
    let ids = this.words.get(word);
    if (ids === undefined) {
      ids = encode(word);
      if (word.length <= longestKept) this.keep(word, ids);
    }
    for (let index = 0; index < ids.length; index += 1) tokens.push(ids[index] as number);
  }

  private keep(word: string, ids: Int32Array): void {
    if (this.words.size >= wordsKept) this.words.clear();
    this.words.set(word, ids);
  }
}

const wordsKept = 16_384;
const longestKept = 32;
