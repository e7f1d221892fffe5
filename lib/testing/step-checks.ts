/** Whether a token's logits depend on the tokens before it in its sequence, and on nothing else. */
import type { Model } from "../model/model.ts";
import { defineCheck } from "./check.ts";
import { difference, nmse } from "./compare.ts";
import { recordOne, short } from "./declaration-checks.ts";
import { firstDivergence, type Call, type Recording } from "./recorder.ts";
import { afresh, feedAll, Mistake, type Subject } from "./subject.ts";

/** Tokens of the texts of checks: longer than the windows and chunks of tiny models. */
export const textLength = 61;

export const numbers = defineCheck(
  "logits are numbers",
  async (subject) => {
    await using model = await subject.load();
    const text = await subject.tokens(textLength);
    const rows = await afresh(model, text);
    const bad = rows.findIndex((row) => !row.every(Number.isFinite));
    if (bad >= 0) {
      const cause = bad === 0 ? "the very first token's already" : `those of position ${bad} are the first`;
      throw new Mistake(
        `some logits are NaN or infinite, ${cause}: a division by zero, a logarithm or root of a negative number, a ` +
          "decay that grows, or a memory that is read where nothing was written",
      );
    }
    const [first = new Float32Array(0)] = rows;
    const isSame = (other: Float32Array | undefined) => other !== undefined && nmse(other, first) < 1e-12;
    const others = await Promise.all(
      [1, 2, 3].map((step) => afresh(model, [((text[0] ?? 0) + step) % model.vocabularySize])),
    );
    if (model.vocabularySize > 3 && others.every(([row]) => isSame(row))) {
      throw new Mistake("four different tokens have the same logits: the graph does not look at `g.tokens()`");
    }
    const hasMemory = model.memory.layers.some(({ memories }) => memories.length > 0);
    if (hasMemory && rows.length > 1) {
      const last = text.at(-1) ?? 0;
      const [alone] = await afresh(model, [last]);
      if (alone !== undefined && nmse(rows.at(-1) ?? first, alone) < 1e-12) {
        throw new Mistake(
          "memories are declared, and no token before a token changes its logits: what they give is not used",
        );
      }
    }
    return `finite over ${textLength} positions, and other for other tokens`;
  },
  { gates: true },
);

export const causal = defineCheck("later tokens change nothing before them", async (subject) => {
  await using model = await subject.load();
  const text = await subject.tokens(24);
  const other = [...text.slice(0, 13), ...(await subject.tokens(11, 2))];
  const [one, two] = [await afresh(model, text), await afresh(model, other)];
  const recording = await recordOne(subject, 7);
  await subject.expectEqual(
    two.slice(0, 13),
    one.slice(0, 13),
    "tokens from position 13 on were changed, and so did logits before them",
    ({ row }) => `those of position ${row} are the first. A token sees what comes after it${suspects(recording)}`,
  );
  return "24 tokens, of which the last 11 were changed";
});

export const wanted = defineCheck("logits of the wanted tokens", async (subject) => {
  await using model = await subject.load();
  const texts = [await subject.tokens(9, 3), await subject.tokens(6, 4), await subject.tokens(1, 5)];
  const run = async (kinds: readonly ("all" | "last" | "none")[]) => {
    const sequences = texts.map(() => model.sequence());
    const results = await model.feed(
      sequences.map((sequence, i) => ({ sequence, tokens: texts[i] ?? [], logits: kinds[i] ?? "none" })),
    );
    for (const sequence of sequences) sequence.dispose();
    return results.map(({ logits }) => logits);
  };
  const all = await run(["all", "all", "all"]);
  const [first = new Float32Array(0), ...others] = all.flat();
  if (others.every((row) => nmse(row, first) < 1e-12)) {
    throw new Mistake("all tokens of a step have the same logits: those of one row are taken for all");
  }
  const combinations = [
    ["last", "last", "last"],
    ["none", "last", "none"],
    ["all", "none", "last"],
    ["last", "all", "none"],
  ] as const;
  for (const kinds of combinations) {
    const results = await run(kinds);
    for (const [i, logits] of results.entries()) {
      const rows = all[i] ?? [];
      const expected = kinds[i] === "all" ? rows : kinds[i] === "last" ? rows.slice(-1) : [];
      await subject.expectEqual(
        logits,
        expected,
        `of sequences of 9, 6 and 1 tokens fed together, logits of ${kinds.join(", ")} were wanted, and those of sequence ${i} are ` +
          "other than where all were wanted",
        () => rowHint(logits[0], all),
      );
    }
  }
  return "all, last or none of three sequences in a batch";
});

/** Whose logits were given in place of those that were wanted. */
function rowHint(given: Float32Array | undefined, all: readonly (readonly Float32Array[])[]): string {
  const advice = "choose rows by `g.selectOutputs`, once, on everything that goes on";
  for (const [sequence, rows] of all.entries()) {
    const row = rows.findIndex((expected) => given !== undefined && nmse(given, expected) < 1e-6);
    if (row >= 0) return `they are the logits of token ${row} of sequence ${sequence}; ${advice}`;
  }
  return `they are no token's logits; ${advice}`;
}

export const chunks = defineCheck("whole = chunks = one at a time", async (subject) => {
  await using model = await subject.load();
  const text = await subject.tokens(textLength);
  const whole = await afresh(model, text);
  for (const chunk of [1, 5, 16]) {
    const rows = await afresh(model, text, chunk);
    const found = difference(rows, whole, await subject.tolerance());
    if (found === undefined) continue;
    const size = chunk === 1 ? "one at a time" : `in chunks of ${chunk}`;
    throw new Mistake(
      `${textLength} tokens have other logits ${size} than all at once, from position ${found.row} on ` +
        `(NMSE ${found.nmse.toExponential(1)}): ${await chunkHint(subject, model, text, rows, found.row, chunk)}`,
    );
  }
  // A prefill, and decoding behind it.
  using sequence = model.sequence();
  const rows = [...(await feedAll(sequence, text.slice(0, 40))), ...(await feedAll(sequence, text.slice(40), 1))];
  await subject.expectEqual(
    rows,
    whole,
    "40 tokens at once and the rest one by one give other logits than all at once",
  );
  return `${textLength} tokens, at once, in chunks of 1, 5 and 16, and 40 before single ones`;
});

async function chunkHint(
  subject: Subject,
  model: Model,
  text: readonly number[],
  rows: readonly Float32Array[],
  row: number,
  chunk: number,
): Promise<string> {
  const [small, large] = [await recordOne(subject, chunk), await recordOne(subject, textLength)];
  const parts = firstDivergence(small, large, ({ layer, method }) => `${layer} ${method}`);
  if (parts !== undefined) {
    const calls = `where one of ${chunk} calls ${short(parts[0])}, one of ${textLength} calls ${short(parts[1])}`;
    return `the graph depends on the number of tokens in a step: ${calls}`;
  }
  const begin = row - (row % chunk);
  const alone = await afresh(model, text.slice(begin, begin + chunk));
  const isAlone =
    begin > 0 && difference(rows.slice(begin, begin + chunk), alone, await subject.tolerance()) === undefined;
  if (isAlone) {
    return (
      "a chunk gives what it would at the beginning of a sequence. A state is not carried on: what a token needs of " +
      `those before it must come out of a memory${suspects(large)}`
    );
  }
  if (row < chunk) return `already the first chunk differs, so a token's logits depend on later ones${suspects(large)}`;
  const asksForPositions = large.calls.some(({ method }) => method === "positions" || method === "rope");
  const positions = asksForPositions
    ? ""
    : ", or positions are counted in the step (the graph never asks for `g.positions()`)";
  return (
    `it begins in chunk ${Math.floor(row / chunk) + 1}. A memory is not written, not read, or written by another ` +
    `operation too, or something goes from row to row beside the memories${positions}${suspects(large)}`
  );
}

/** Calls that can let rows of a step see each other without a memory, for a hint. */
function suspects({ calls }: Recording): string {
  const crossing = ["cumsum", "concat", "setRows", "transpose", "pad", "view"];
  const crosses = ({ method, text }: Call, wanted: string) =>
    method === wanted && !(method === "concat" && text.endsWith(", 0)"));
  const [first] = crossing.flatMap((method) => calls.find((call) => crosses(call, method)) ?? []);
  if (first === undefined) return "";
  const layer = first.layer === undefined ? "" : `, layer ${first.layer}`;
  return `; look at ${short(first.text)}${layer}`;
}

export const batches = defineCheck("batch = alone", async (subject) => {
  await using model = await subject.load();
  const lengths = [17, 1, 30, 8];
  const texts: number[][] = [];
  for (const [i, length] of lengths.entries()) texts.push(await subject.tokens(length, 20 + i));
  const alone: Float32Array[][] = [];
  for (const text of texts) alone.push(await afresh(model, text));
  for (const order of [
    [0, 1, 2, 3],
    [3, 2, 1, 0],
    [2, 0, 3, 1],
  ]) {
    const runs = order.map((i) => ({
      i,
      at: 0,
      text: texts[i] ?? [],
      sequence: model.sequence(),
      rows: [] as Float32Array[],
    }));
    // They join and leave: the second round begins when the first has given each some tokens.
    for (let round = 0; runs.some(({ at, text }) => at < text.length); round += 1) {
      const parts = runs.flatMap((run, place) => {
        if (place > round) return [];
        const tokens = run.text.slice(run.at, run.at + 1 + ((7 * round + 5 * run.i) % 11));
        run.at += tokens.length;
        return tokens.length === 0 ? [] : [{ run, sequence: run.sequence, tokens, logits: "all" as const }];
      });
      const results = await model.feed(parts);
      for (const [j, { run }] of parts.entries()) run.rows.push(...(results[j]?.logits ?? []));
    }
    for (const { sequence } of runs) sequence.dispose();
    for (const { i, rows } of runs) {
      await subject.expectEqual(
        rows,
        alone[i] ?? [],
        `sequences ${order.join(", ")} were computed together, and sequence ${i} has other logits than alone`,
        ({ row }) => `from its position ${row} on. It reads what belongs to its neighbours in the step`,
      );
    }
  }
  return "four sequences of 1 to 30 tokens, in three orders, joining and leaving";
});

export const neighbours = defineCheck("neighbours in a batch change nothing", async (subject) => {
  await using model = await subject.load();
  const text = await subject.tokens(12, 6);
  const expected = await afresh(model, text);
  const large = await recordOne(subject, 7);
  for (const place of [0, 1, 2]) {
    const sequences = [0, 1, 2].map(() => model.sequence());
    const others = [await subject.tokens(5, 7 + place), await subject.tokens(5, 11 + place)];
    const texts = others.toSpliced(place, 0, text);
    const results = await model.feed(
      sequences.map((sequence, i) => ({ sequence, tokens: texts[i] ?? [], logits: "all" as const })),
    );
    for (const sequence of sequences) sequence.dispose();
    const behind = place === 0 ? "before two others" : place === 1 ? "between two others" : "behind two others";
    await subject.expectEqual(
      results[place]?.logits ?? [],
      expected,
      `a sequence ${behind} in one step has other logits than alone`,
      ({ row }) => `from its position ${row} on, rows of one sequence are mixed with another's${suspects(large)}`,
    );
  }
  return "before, between and behind others";
});

export const cleared = defineCheck("cleared = fresh", async (subject) => {
  await using model = await subject.load();
  const text = await subject.tokens(20, 8);
  const expected = await afresh(model, text);
  using sequence = model.sequence();
  for (const [length, seed] of [
    [33, 9],
    [5, 10],
  ] as const) {
    await sequence.feed(await subject.tokens(length, seed));
    sequence.clear();
    const rows = await feedAll(sequence, text);
    await subject.expectEqual(
      rows,
      expected,
      `a sequence that held ${length} other tokens and was cleared gives other logits than a fresh one`,
      ({ row }) => `from position ${row} on. Something is left of what was before: a missing reset`,
    );
    sequence.clear();
  }
  return "after 33 and after 5 other tokens";
});

export const models = defineCheck("two models in one process", async (subject) => {
  const text = await subject.tokens(26, 12);
  const pieces = [text.slice(0, 9), text.slice(9, 20), text.slice(20)];
  const options = { sequences: 2, context: 64, batch: 32 };
  const expected: Float32Array[] = [];
  {
    await using alone = await subject.load();
    using sequence = alone.sequence();
    for (const piece of pieces) expected.push(...(await feedAll(sequence, piece)));
  }
  await using first = await subject.load();
  using one = first.sequence();
  await using second = await subject.load(options);
  using two = second.sequence();
  const [rows, others]: [Float32Array[], Float32Array[]] = [[], []];
  for (const piece of pieces) {
    rows.push(...(await feedAll(one, piece)));
    others.push(...(await feedAll(two, piece)));
  }
  const why = () => "the plugin keeps something in JavaScript that both models share";
  await subject.expectEqual(
    rows,
    expected,
    "the first of two models, used in turns, gives other logits than alone",
    why,
  );
  await subject.expectEqual(
    others,
    expected,
    "the second of two models, used in turns, gives other logits than alone",
    why,
  );
  return "used in turns";
});
