/**
 * The memory that the real one is compared with: a list of tokens and positions for each sequence and snapshot, and the
 * contract's word on what may be done with it. It knows nothing of cells, blocks and states, only what an exact answer
 * would need.
 */
import type { MemoryOptions } from "ggstrata";
import { context, type AttentionPart, type Layer } from "./made-up-architecture.ts";
import { lowestSeen, type Pair } from "./reference.ts";

/**
 * Whether the real memory has to do something, has to refuse it, or is free to choose: the contract says of much that it
 * is "exact or refused".
 */
export type Verdict = "must" | "may" | "refuse";

/** What a sequence or a snapshot holds. Never changed: operations give another. */
export interface Held {
  /** In the order of their positions, which may have holes, and after a division come twice. */
  readonly pairs: readonly Pair[];
  /** Of each kind of window, how many pairs from the first it has let go. */
  readonly lost: readonly number[];
  /** Positions from the end that certainly can be taken back of windows and states. */
  readonly sure: number;
}

export interface Outcome {
  readonly verdict: Verdict;
  /** What is held if it is done. */
  readonly held: Held;
}

/** How positions move. */
export type Move = { readonly shift: number } | { readonly divide: number };

export interface Bounds {
  readonly position: number;
  readonly min: number;
  readonly max: number;
}

function worst(...verdicts: readonly Verdict[]): Verdict {
  if (verdicts.includes("refuse")) return "refuse";
  return verdicts.includes("may") ? "may" : "must";
}

export class Naive {
  readonly rollback: number;
  readonly batch: number;
  /** Positions that a sequence may reach. */
  readonly context: number;
  readonly hasAttention: boolean;
  readonly hasStates: boolean;
  readonly hasMemory: boolean;
  private readonly windows: readonly AttentionPart[];
  /** Windows let go what is no longer seen. */
  private readonly letsGo: boolean;
  /** Keys that were changed behind their rotary embedding cannot be turned on. */
  private readonly cannotTurn: boolean;

  constructor(layers: readonly Layer[], options: MemoryOptions) {
    const parts = layers.flat();
    const attentions = parts.filter((part) => part.kind === "attention");
    const bounded = attentions.filter(({ window, chunk, symmetric }) => window ?? chunk ?? symmetric);
    this.windows = bounded;
    this.letsGo = !options.wholeWindows;
    this.hasAttention = attentions.length > 0;
    this.hasStates = parts.some(({ kind }) => kind === "recurrent");
    this.hasMemory = parts.length > 0;
    this.cannotTurn = attentions.some(({ keyScale, rope }) => keyScale !== undefined && rope !== undefined);
    this.rollback = options.rollback ?? 0;
    this.context = options.context ?? context;
    this.batch = Math.min(options.batch ?? this.context, this.context);
  }

  get empty(): Held {
    return { pairs: [], lost: this.windows.map(() => 0), sure: 0 };
  }

  /** The position that the next token takes. */
  position({ pairs }: Held): number {
    return (pairs.at(-1)?.position ?? -1) + 1;
  }

  /**
   * `min` is the greatest of the first positions that the memories hold: of full attention the first of all, of a window
   * the first that it has not let go (the end, where that is none), of states the last.
   */
  bounds(held: Held): Bounds {
    const position = this.position(held);
    const [first] = held.pairs;
    if (first === undefined) return { position: 0, min: -1, max: -1 };
    const mins = held.lost.map((lost) => held.pairs[lost]?.position ?? position);
    if (this.hasStates) mins.push(position - 1);
    return { position, min: this.hasMemory ? Math.max(first.position, ...mins) : first.position, max: position - 1 };
  }

  // ---- batches ----

  /** How many tokens of each request each sub-batch takes: as many as fit, in order. */
  subBatches(counts: readonly number[]): Map<number, number>[] {
    const all: Map<number, number>[] = [];
    let room = 0;
    for (const [request, count] of counts.entries()) {
      for (let left = count; left > 0;) {
        if (room === 0) {
          all.push(new Map());
          room = this.batch;
        }
        const taken = Math.min(left, room);
        all.at(-1)?.set(request, taken);
        left -= taken;
        room -= taken;
      }
    }
    return all;
  }

  /** After a sub-batch that had these tokens for the sequence, alone or with others. */
  fed(held: Held, tokens: readonly number[]): Held {
    const first = this.position(held);
    const pairs = [...held.pairs, ...tokens.map((token, i) => ({ token, position: first + i }))];
    const sure = Math.min(this.rollback, held.sure + tokens.length);
    return this.letGo({ pairs, lost: held.lost, sure }, this.rollback);
  }

  /** What a snapshot holds that is taken of what `before` becomes, at a position of its next tokens. */
  marked(before: Held, after: Held, position: number): Held {
    const pairs = after.pairs.filter((pair, i) => i < before.pairs.length || pair.position < position);
    return this.snapped({ pairs, lost: before.lost, sure: 0 });
  }

  /** A snapshot resumes, and is not taken back. */
  snapped(held: Held): Held {
    return { ...this.letGo(held, 0), sure: 0 };
  }

  /** What comes back from a file is all that was held; only what tokens are taken back by is not saved. */
  saved(held: Held): Held {
    return { ...held, sure: 0 };
  }

  /** Windows let go what no later token sees, even after so many have been taken back. */
  private letGo(held: Held, rollback: number): Held {
    if (!this.letsGo) return held;
    const back = Math.max(0, this.position(held) - rollback);
    const lost = this.windows.map((window, i) => {
      const low = lowestSeen(window, back);
      const gone = held.pairs.findIndex(({ position }) => position >= low);
      return Math.max(held.lost[i] ?? 0, gone < 0 ? held.pairs.length : gone);
    });
    return { ...held, lost };
  }

  // ---- copies ----

  /** What `target` holds after it was given a range of what `held` stands for; of nothing, it stays as it is. */
  copy(held: Held, target: Held, p0: number, p1: number): Outcome {
    if ((p1 >= 0 && Math.max(p0, 0) >= p1) || (p0 > 0 && p0 >= this.position(held)))
      return { verdict: "must", held: target };
    const first = held.pairs[0]?.position ?? 0;
    if (p0 <= first && (p1 < 0 || p1 >= this.position(held))) return { verdict: "must", held };
    const cut: Outcome = p1 < 0 ? { verdict: "must", held } : this.remove(held, p1, -1);
    const rest: Outcome = p0 <= 0 ? { verdict: "must", held: cut.held } : this.remove(cut.held, 0, p0);
    // A state stands for all of a sequence. Of a range in which nothing stands, the ends may count as if something did.
    const isNothing = rest.held.pairs.length === 0;
    const states = isNothing ? "may" : this.hasStates ? "refuse" : "must";
    return { verdict: worst(cut.verdict, rest.verdict, states), held: rest.held };
  }

  // ---- removing ----

  remove(held: Held, from: number, to: number): Outcome {
    const end = this.position(held);
    const [p0, p1] = [Math.max(from, 0), to < 0 ? Infinity : to];
    if (p0 >= p1 || p0 >= end) return { verdict: "must", held };
    const stays = ({ position }: Pair) => position < p0 || position >= p1;
    const pairs = held.pairs.filter(stays);
    if (pairs.length === 0) return { verdict: "must", held: this.empty };
    const isTail = (pairs.at(-1) as Pair).position < p0;
    const lost = held.lost.map((count) => held.pairs.slice(0, count).filter(stays).length);
    const back = isTail ? end - (pairs.at(-1) as Pair).position - 1 : 0;
    const result = { pairs, lost, sure: Math.max(0, held.sure - back) };
    if (pairs.length === held.pairs.length) return { verdict: "may", held };
    const verdict = worst(
      this.removeStates(held, isTail, back),
      this.removeOfWindows(held, isTail, back),
      this.exact(result),
    );
    return { verdict, held: result };
  }

  private removeStates(held: Held, isTail: boolean, back: number): Verdict {
    if (!this.hasStates) return "must";
    if (!isTail || back > this.rollback) return "refuse";
    return back <= held.sure ? "must" : "may";
  }

  private removeOfWindows(held: Held, isTail: boolean, back: number): Verdict {
    if (held.lost.every((count) => count === 0)) return "must";
    return isTail && back <= held.sure ? "must" : "may";
  }

  /** Nothing that a window has let go may be seen by a later token. */
  private exact(held: Held): Verdict {
    const end = this.position(held);
    const isSeen = this.windows.some((window, i) => {
      const last = held.pairs[(held.lost[i] ?? 0) - 1];
      return last !== undefined && last.position >= lowestSeen(window, end);
    });
    return isSeen ? "refuse" : "must";
  }

  // ---- moving ----

  move(held: Held, from: number, to: number, how: Move): Outcome {
    const end = this.position(held);
    const [p0, p1] = [Math.max(from, 0), to < 0 ? end : Math.min(to, end)];
    const apply = (position: number) => ("shift" in how ? position + how.shift : Math.floor(position / how.divide));
    if (p0 >= p1 || apply(p1 - 1) === p1 - 1) return { verdict: "must", held };
    const before = held.pairs.filter(({ position }) => position < p0);
    const inside = held.pairs.filter(({ position }) => position >= p0 && position < p1);
    const behind = held.pairs.filter(({ position }) => position >= p1);
    const moved = inside.map(({ token, position }) => ({ token, position: apply(position) }));
    const result = { pairs: [...before, ...moved, ...behind], lost: held.lost, sure: 0 };
    const fits = (first: number, last: number) =>
      first >= 0 &&
      last < this.context &&
      (before.length === 0 || (before.at(-1) as Pair).position < first) &&
      (behind.length === 0 || (behind[0] as Pair).position > last);
    if (inside.length === 0) return { verdict: "may", held: result };
    const cells = fits((moved[0] as Pair).position, (moved.at(-1) as Pair).position);
    // Of a range that begins or ends in a hole, the ends may count as if something stood there.
    const range = fits(apply(Math.max(p0, (held.pairs[0] as Pair).position)), apply(p1 - 1));
    const isWhole = inside.length === held.pairs.length;
    const states = this.hasStates && ("divide" in how || !isWhole) ? "refuse" : "must";
    const windows =
      held.lost.some((count) => count > 0) || (this.letsGo && this.windows.length > 0 && "divide" in how)
        ? "may"
        : "must";
    const verdict = worst(
      !cells ? "refuse" : range ? "must" : "may",
      states,
      windows,
      this.cannotTurn ? "may" : "must",
      this.exact(result),
    );
    return { verdict, held: result };
  }
}
