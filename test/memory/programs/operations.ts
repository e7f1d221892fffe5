/** What random programs are made of: operations on a few sequences, as plain data that fast-check draws and shrinks. */
import fc from "fast-check";

/** Sequences that a program names; one more is there for copies that are only looked at. */
export const names = 3;
/** Files that a program saves to, over and over. */
export const fileCount = 2;
/** Cells of a block: what happens at its ends is worth more tries than chance would give it. */
export const blockCells = 64;

/** What one sequence is fed. */
export interface FeedPart {
  readonly slot: number;
  readonly count: number;
  /** Instead of `count`: up to a token before the end of a block, to its end, a token beyond, or the end of the context. */
  readonly upTo: "count" | "before" | "end" | "behind" | "context";
  readonly seed: number;
  readonly logits: "none" | "last" | "all";
  /** Where snapshots are taken, in thousandths of the way. */
  readonly marks: readonly number[];
}

/**
 * How a batch is made to fail: by the position that one of its sequences claims, an unknown token, a snapshot behind or
 * before it, no tokens, more than the context, a sequence that stands twice or was disposed of, too many snapshots.
 */
export type Fault =
  "none" | "position" | "token" | "behind" | "before" | "nothing" | "long" | "twice" | "disposed" | "snapshots";

/** A moment of a batch that is being computed: so many turns of the event loop, or steps, after it was asked for. */
export interface Moment {
  readonly of: "turns" | "steps";
  readonly count: number;
}

/** What is done to the other sequences meanwhile. `own` is to one of the batch's own, which must not be possible. */
export interface Meddling {
  readonly what: "remove" | "copy" | "restore" | "drop" | "clear" | "keep" | "own";
  readonly slot: number;
  readonly to: number;
  readonly which: number;
  readonly range: Range;
}

/** A range in thousandths of a sequence and a little beyond; `snaps` to the ends of blocks. */
export interface Range {
  readonly a: number;
  readonly b: number;
  readonly snaps: boolean;
}

export interface Feed {
  readonly op: "feed";
  readonly parts: readonly FeedPart[];
  readonly fault: Fault;
  /** Which of the parts is at fault. */
  readonly faulty: number;
  readonly moment: Moment | null;
  /** At that moment: what is meddled with, or null where the batch is cancelled. */
  readonly meanwhile: readonly Meddling[] | null;
}

export type Operation =
  | Feed
  | {
      readonly op: "remove";
      readonly slot: number;
      readonly range: Range;
      readonly what: "whole" | "tail" | "head" | "range" | "empty";
    }
  /** Takes back `count`, or to the last end of a block. */
  | { readonly op: "rollback"; readonly slot: number; readonly count: number | "block" }
  | {
      readonly op: "copy";
      readonly slot: number;
      readonly to: number;
      readonly range: Range;
      readonly what: "whole" | "tail" | "head" | "range";
    }
  | { readonly op: "keep"; readonly slot: number }
  | {
      readonly op: "shift";
      readonly slot: number;
      readonly range: Range;
      readonly what: "whole" | "tail" | "range";
      readonly distance: number;
    }
  /** Moves what stands behind the first hole up to it. */
  | { readonly op: "close"; readonly slot: number }
  /** Makes room as chats do: again and again what stands behind a beginning goes, the rest closes up, and goes on. */
  | {
      readonly op: "slide";
      readonly slot: number;
      readonly keep: number;
      readonly count: number;
      readonly times: number;
    }
  /** Divides, and goes on behind it with so many tokens. */
  | {
      readonly op: "divide";
      readonly slot: number;
      readonly range: Range;
      readonly what: "whole" | "tail" | "range";
      readonly divisor: number;
      readonly more: number;
    }
  | { readonly op: "snapshot"; readonly slot: number }
  /** Takes snapshots until there is no room for more, tries a batch that wants one, and drops them in an order of its own. */
  | { readonly op: "hoard"; readonly slot: number; readonly order: number }
  | { readonly op: "restore"; readonly slot: number; readonly which: number }
  | { readonly op: "drop"; readonly which: number }
  /** Disposes of a sequence, twice, and of one that is being computed before that has ended. */
  | { readonly op: "leave"; readonly slot: number; readonly isBusy: boolean }
  /** Takes all sequences that are left: neither another nor a copy can be had. */
  | { readonly op: "crowd"; readonly slot: number }
  /** Makes the books wrong as a mistake would: what notices it must refuse, and by name. */
  | {
      readonly op: "corrupt";
      readonly slot: number;
      readonly other: number;
      readonly kind: "exchange" | "behind" | "other" | "alone";
    }
  /**
   * Saves a sequence, or all, with their snapshots, `back` tokens after they were taken back: states may be pending then.
   * With `cancels`, that is cancelled so many turns of the event loop later.
   */
  | {
      readonly op: "save";
      readonly slot: number;
      readonly all: boolean;
      readonly back: number;
      readonly file: number;
      readonly cancels: number | null;
    }
  /**
   * Brings saved sequences back and gives them the places of others: before that with `clears`, else when they are back;
   * `isCrowded` is while all sequences are in use.
   */
  | {
      readonly op: "load";
      readonly slot: number;
      readonly file: number;
      readonly isCrowded: boolean;
      readonly clears: boolean;
      readonly cancels: number | null;
    }
  /** Brings saved sequences back to the same model that was loaded with other options. */
  | { readonly op: "elsewhere"; readonly file: number; readonly variant: number };

// ---- drawing them ----

const slot = fc.nat(names - 1);
const file = fc.nat(fileCount - 1);
const range: fc.Arbitrary<Range> = fc.record({ a: fc.nat(999), b: fc.nat(999), snaps: rarely(false, true) });
const cancels = fc.oneof({ weight: 6, arbitrary: fc.constant(null) }, { weight: 1, arbitrary: fc.nat(6) });

/** Mostly one; now and then one of the others. */
function rarely<T>(usual: T, ...others: readonly T[]): fc.Arbitrary<T> {
  return fc.oneof({ weight: 10, arbitrary: fc.constant(usual) }, { weight: 1, arbitrary: fc.constantFrom(...others) });
}

/** An operation of a kind, its fields drawn one by one. */
function kind<Op extends Operation["op"]>(
  op: Op,
  fields: {
    [K in Exclude<keyof Extract<Operation, { op: Op }>, "op">]: fc.Arbitrary<Extract<Operation, { op: Op }>[K]>;
  },
): fc.Arbitrary<Operation> {
  return fc.record({ op: fc.constant(op), ...fields } as never) as fc.Arbitrary<Operation>;
}

function feed(context: number): fc.Arbitrary<Operation> {
  const part: fc.Arbitrary<FeedPart> = fc.record({
    slot,
    count: fc.oneof(
      { weight: 4, arbitrary: fc.constant(1) },
      { weight: 4, arbitrary: fc.integer({ min: 1, max: 8 }) },
      { weight: 3, arbitrary: fc.integer({ min: 1, max: Math.floor(context * 0.4) }) },
    ),
    upTo: fc.oneof(
      { weight: 16, arbitrary: fc.constant("count" as const) },
      { weight: 3, arbitrary: fc.constantFrom("before", "end", "behind") },
      { weight: 1, arbitrary: fc.constant("context" as const) },
    ),
    seed: fc.nat(9999),
    logits: fc.constantFrom("last", "last", "all", "none"),
    marks: fc.oneof(
      { weight: 4, arbitrary: fc.constant([]) },
      { weight: 1, arbitrary: fc.array(fc.nat(1000), { maxLength: 4 }) },
    ),
  });
  const meddling: fc.Arbitrary<Meddling> = fc.record({
    what: fc.constantFrom("remove", "copy", "restore", "drop", "clear", "keep", "own"),
    slot,
    to: slot,
    which: fc.nat(9),
    range,
  });
  return kind("feed", {
    parts: fc.oneof(
      { weight: 3, arbitrary: fc.tuple(part) },
      { weight: 1, arbitrary: fc.uniqueArray(part, { minLength: 2, maxLength: names, selector: (p) => p.slot }) },
    ),
    fault: rarely<Fault>(
      "none",
      ...(["position", "token", "behind", "before", "nothing", "long", "twice", "disposed", "snapshots"] as const),
    ),
    faulty: fc.nat(names - 1),
    moment: fc.oneof(
      { weight: 8, arbitrary: fc.constant(null) },
      { weight: 1, arbitrary: fc.record({ of: fc.constant("turns" as const), count: fc.nat(12) }) },
      { weight: 1, arbitrary: fc.record({ of: fc.constant("steps" as const), count: fc.nat(4) }) },
    ),
    meanwhile: fc.oneof(
      { weight: 1, arbitrary: fc.constant(null) },
      { weight: 1, arbitrary: fc.array(meddling, { minLength: 1, maxLength: 4 }) },
    ),
  });
}

function operation(context: number): fc.Arbitrary<Operation> {
  const distance = fc.oneof(
    { weight: 3, arbitrary: fc.integer({ min: -20, max: 20 }) },
    { weight: 1, arbitrary: fc.integer({ min: -context - 1, max: context + 1 }) },
    { weight: 1, arbitrary: fc.constantFrom(-blockCells, blockCells, -(2 ** 31 - 1), 2 ** 31 - 1) },
  );
  const part = fc.constantFrom("whole" as const, "tail" as const, "range" as const);
  const all: readonly [weight: number, arbitrary: fc.Arbitrary<Operation>][] = [
    [15, feed(context)],
    [
      5,
      kind("remove", {
        slot,
        range,
        what: fc.constantFrom("tail", "tail", "head", "range", "range", "empty", "whole"),
      }),
    ],
    [
      4,
      kind("rollback", {
        slot,
        count: rarely<fc.Arbitrary<number | "block">>(fc.integer({ min: 0, max: 10 }), fc.constant("block")).chain(
          (one) => one,
        ),
      }),
    ],
    [3, kind("copy", { slot, to: slot, range, what: fc.constantFrom("whole", "whole", "tail", "head", "range") })],
    [1, kind("keep", { slot })],
    [2, kind("shift", { slot, range, what: part, distance })],
    [2, kind("close", { slot })],
    [
      1,
      kind("slide", {
        slot,
        keep: fc.integer({ min: 1, max: 8 }),
        count: fc.integer({ min: 1, max: 12 }),
        times: fc.integer({ min: 1, max: 12 }),
      }),
    ],
    [
      2,
      kind("divide", {
        slot,
        range,
        what: part,
        divisor: fc.integer({ min: 1, max: 4 }),
        more: fc.constantFrom(0, 0, 1, 5),
      }),
    ],
    [2, kind("snapshot", { slot })],
    [1, kind("hoard", { slot, order: fc.nat(999) })],
    [3, kind("restore", { slot, which: fc.nat(9) })],
    [1, kind("drop", { which: fc.nat(9) })],
    [1, kind("leave", { slot, isBusy: rarely(false, true) })],
    [1, kind("crowd", { slot })],
    [1, kind("corrupt", { slot, other: slot, kind: fc.constantFrom("exchange", "behind", "other", "alone") })],
    [
      3,
      kind("save", {
        slot,
        all: fc.constantFrom(false, false, true),
        back: fc.constantFrom(0, 0, 1, 2, 3, 5),
        file,
        cancels,
      }),
    ],
    [
      3,
      kind("load", {
        slot,
        file,
        isCrowded: rarely(false, true),
        clears: fc.constantFrom(false, false, true),
        cancels,
      }),
    ],
    [1, kind("elsewhere", { file, variant: fc.nat(99) })],
  ];
  return fc.oneof(...all.map(([weight, arbitrary]) => ({ weight, arbitrary })));
}

/** Programs for sequences of up to `context` positions. */
export function programs(context: number): fc.Arbitrary<Operation[]> {
  return fc.array(operation(context), { minLength: 1, maxLength: 40, size: "max" });
}
