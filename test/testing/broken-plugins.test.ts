/** Mistakes that authors make, planted one by one: the kit finds each, and says which it is. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { readEnvironment } from "../../lib/environment.ts";
import { checkArchitecture } from "ggstrata/testing";
import { toy, toyReference, type Planted } from "./toy.ts";

setDefaultTimeout(120_000);

const reference = "logits = the reference's";
const use = "weights and memories are used";
const chunks = "whole = chunks = one at a time";
const neighbours = "neighbours in a batch change nothing";
const wanted = "logits of the wanted tokens";
const same = "the graph is the same each time";

/** What is planted, the check that must find it, and what its message must name. */
const planted: readonly (readonly [Planted, string, RegExp])[] = [
  ["taps reversed", reference, /the order of taps is wrong/],
  [
    "convolution over the step's rows",
    "graph",
    /layer 0, memory "m": its state "conv" is declared, and no operation advances/,
  ],
  ["previous row of the step", neighbours, /rows of one sequence are mixed with another's; look at concat/],
  ["previous row of the step", "batch = alone", /reads what belongs to its neighbours/],
  [
    "next row of the step",
    "later tokens change nothing before them",
    /position 12 .* sees what comes after it; look at concat/,
  ],
  ["mean over the step", "later tokens change nothing before them", /sees what comes after it; look at transpose/],
  ["window too large", reference, /from position 6 on.* the declared ones are too large by one/],
  ["window too small", reference, /from position 5 on.* the declared ones are too small by one/],
  ["no reset", reference, /the reset at position 0 is missing/],
  ["heads interleaved", reference, /heads are repeated the wrong way/],
  ["rope neox", reference, /`mode` of `rope` .* is wrong/],
  ["no rope", reference, /from position 1 on.* is a rotary embedding missing/],
  ["wrong attention scale", reference, /`scale` of `attend` is wrong/],
  ["rows counted as positions", chunks, /goes from row to row beside the memories; look at cumsum/],
  ["last rows as outputs", wanted, /they are the logits of token 4 of sequence 1; choose rows by `g.selectOutputs`/],
  ["one row for all outputs", wanted, /those of one row are taken for all/],
  ["outputs selected late for one branch", wanted, /no token's logits; choose rows by `g.selectOutputs`/],
  ["memory of another layer", "graph", /layer 3: attend: the memory "m" has been written by another operation/],
  ["memory of another layer read", use, /layer 3 uses the memory "m" of layer 1 without declaring shared/],
  ["read before stored", "graph", /layer 1: attend: the memory "m" is read before .* stored/],
  ["stored twice", "graph", /layer 1: attend: the memory "m" has been written by another operation/],
  ["one state for two operations", "graph", /layer 0: convolve: the state "conv" of the memory "m" has been written/],
  ["logits doubled", reference, /the reference's divided by 0.5: a scale is missing, or one too many/],
  ["gate and up exchanged", reference, /gate and up are the wrong way round/],
  ["no residual", reference, /layer 1: rmsNorm.* is the residual missing/],
  [
    "state said to be reusable",
    "declaration",
    /layer 0, memory "m": reuse is "prefix", and a state stands for exactly one position/,
  ],
  ["state said to be cut off", "declaration", /layer 0, memory "m": rollback is "truncate"/],
  ["window said to be reusable", "declaration", /layer 1, memory "m": reuse is "prefix"/],
  [
    "too few inputs",
    "declared `inputs` are right",
    /layer 0: its memory was declared with 37 inputs .* log 40; declare that many/,
  ],
  ["counts its graphs", "graph", /built other operations .* than the time before/],
  ["other graphs after some time", same, /scale\(t\d+, 1.1\) in the other.* hidden state in JavaScript/],
  ["keeps a tensor", "graph", /layer 3: add: b is a tensor of another graph/],
  [
    "other graph for one token",
    chunks,
    /the graph depends on the number of tokens in a step: where one of 1 calls scale\(t\d+, 0.9\)/,
  ],
  ["bias forgotten", use, /never takes the weight "blk.0.conv.bias"/],
  ["bias added to nothing", use, /makes of the weight "blk.0.conv.bias" does not get into the logits/],
  ["attention dropped", use, /layer 3: attend\(3.m.* is computed and its result is not used/],
  ["recurrence dropped", use, /layer 2: linearRecurrence\(2.m.* is computed and its result is not used/],
  ["memory forgotten", "graph", /layer 2, memory "m": its state "lru" is declared, and no operation advances/],
  ["memory given but not used in the result", "logits are numbers", /no token before a token changes its logits/],
  ["logarithm of negative numbers", "logits are numbers", /NaN or infinite, the very first token's already/],
  ["same token always", "graph", /values could be out of range/],
  ["logits of the wrong width", "graph", /must give logits of the shape \[64, 1\]/],
  ["other memory each time", "declaration", /read a second time from the same file, other memories are declared/],
];

test("without a mistake every check passes", async () => {
  const { passed, checks } = await checkArchitecture(toy("nothing"), { reference: toyReference });
  expect(checks.filter(({ outcome }) => outcome === "failed")).toEqual([]);
  expect(passed).toBe(true);
  // All weights are required.
  expect(checks.flatMap(({ name, outcome }) => (outcome === "skipped" ? [name] : []))).toEqual([
    "weights that a file may lack",
  ]);
  expect(checks.length).toBeGreaterThanOrEqual(20);
});

const isWhole = readEnvironment("STRATA_SOAK") !== undefined;

describe("is found and named", () => {
  test.each(planted)("%s, by the check %s", async (mistake, name, sentence) => {
    const only = isWhole ? undefined : [name];
    const { passed, checks } = await checkArchitecture(toy(mistake), { reference: toyReference, only });
    expect(passed).toBe(false);
    const failed = checks.filter(({ outcome }) => outcome === "failed");
    expect(failed.map((check) => check.name)).toContain(name);
    expect(failed.find((check) => check.name === name)?.message).toMatch(sentence);
  });
});
