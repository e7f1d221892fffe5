import { bits, type Vocabulary } from "./vocabulary.ts";

/** A piece of a text: a special token that was found in it, or the text between such tokens. */
export type Fragment = number | string;

/** Finds tokens that are matched as a whole before anything else is cut: longest first, then leftmost, as llama.cpp. */
export class SpecialTokens {
  /** Candidates by the first two UTF-16 units of their text, or by the only one. */
  private readonly byStart = new Map<number, Candidates>();
  /** Marks the UTF-16 units with which a candidate's text begins. */
  private readonly firstUnits = new Uint8Array(65_536);

  constructor(
    private readonly vocabulary: Vocabulary,
    isWanted: (id: number) => boolean,
  ) {
    for (let id = 0; id < vocabulary.size; id += 1) {
      if (isWanted(id)) this.add(id);
    }
  }

  /** Cuts a text at the special tokens in it. Empty texts are left out. */
  split(text: string): Fragment[] {
    let fragments: Fragment[] = text === "" ? [] : [text];
    if (this.byStart.size === 0) return fragments;
    for (const id of this.presentIn(text)) {
      fragments = fragments.flatMap((fragment) => (typeof fragment === "string" ? this.cut(fragment, id) : [fragment]));
    }
    return fragments;
  }

  private add(id: number): void {
    const text = this.vocabulary.texts[id] ?? "";
    const key = startKey(text, 0, text.length === 1);
    this.firstUnits[text.charCodeAt(0)] = 1;
    const known = this.byStart.get(key);
    const candidates: Candidates = known ?? { lengths: [], ids: new Map() };
    if (known === undefined) this.byStart.set(key, candidates);
    candidates.ids.set(text, id);
    if (!candidates.lengths.includes(text.length)) candidates.lengths.push(text.length);
  }

  /** Tokens whose text occurs, in the order in which they cut: by length in bytes, the longest first. */
  private presentIn(text: string): number[] {
    const present = new Set<number>();
    for (let index = 0; index < text.length; index += 1) {
      if (this.firstUnits[text.charCodeAt(index)] === 0) continue;
      this.collect(text, index, startKey(text, index, false), present);
      this.collect(text, index, startKey(text, index, true), present);
    }
    const size = (id: number): number => Buffer.byteLength(this.vocabulary.texts[id] ?? "");
    return [...present].sort((a, b) => size(b) - size(a) || a - b);
  }

  private collect(text: string, index: number, key: number, present: Set<number>): void {
    const candidates = this.byStart.get(key);
    if (candidates === undefined) return;
    for (const length of candidates.lengths) {
      const id = candidates.ids.get(text.slice(index, index + length));
      if (id !== undefined) present.add(id);
    }
  }

  private cut(text: string, id: number): Fragment[] {
    const special = this.vocabulary.texts[id] ?? "";
    const fragments: Fragment[] = [];
    let start = 0;
    for (let found = text.indexOf(special); found >= 0; found = text.indexOf(special, start)) {
      let left = text.slice(start, found);
      if (this.vocabulary.has(id, bits.stripLeft)) left = left.replace(/[\t-\r ]+$/, "");
      if (left !== "") fragments.push(left);
      fragments.push(id);
      start = found + special.length;
      if (this.vocabulary.has(id, bits.stripRight)) {
        while (start < text.length && /[\t-\r ]/.test(text.charAt(start))) start += 1;
      }
    }
    if (start < text.length) fragments.push(text.slice(start));
    return fragments;
  }
}

interface Candidates {
  readonly lengths: number[];
  readonly ids: Map<string, number>;
}

/** Two UTF-16 units as one number; a text of one unit has a key of its own. */
function startKey(text: string, index: number, single: boolean): number {
  const first = text.charCodeAt(index);
  return single || index + 1 >= text.length ? first : (first + 1) * 65_536 + text.charCodeAt(index + 1);
}
