import { describe, expect, test } from "bun:test";
import { StrataError } from "../../lib/errors.ts";
import { resolveSampling, samplingDefaults, seedHalves } from "../../lib/sample/index.ts";

function refusal(options: unknown, vocabularySize = 100): string {
  try {
    // Callers in JavaScript pass what the types forbid.
    resolveSampling(options as Parameters<typeof resolveSampling>[0], vocabularySize);
  } catch (error) {
    expect(error).toBeInstanceOf(StrataError);
    if (error instanceof StrataError) {
      expect(error.code).toBe("invalid_argument");
      return error.message;
    }
  }
  throw new Error(`accepted ${Bun.inspect(options)}`);
}

describe("resolveSampling", () => {
  test("fills in the defaults", () => {
    const { seed, logitBias, ...rest } = resolveSampling({}, 100);
    expect(rest).toEqual(samplingDefaults);
    expect(logitBias).toEqual({ ids: new Uint32Array(), values: new Float32Array() });
    expect(seed).toBeInteger();
  });

  test("takes undefined for left out", () => {
    const { seed, ...rest } = resolveSampling({ temperature: undefined, topK: undefined, seed: undefined }, 100);
    expect(rest).toMatchObject(samplingDefaults);
    expect(seed).toBeInteger();
  });

  test("keeps what is given, up to the bounds", () => {
    const low = {
      temperature: 0,
      topK: 1,
      topP: 1e-6,
      minP: 0,
      seed: 0,
      repetitionPenalty: 0.01,
      frequencyPenalty: -100,
      presencePenalty: -100,
      penaltyLastN: 0,
    };
    expect(resolveSampling(low, 100)).toMatchObject(low);
    const high = {
      temperature: 1000,
      topK: 2147483647,
      topP: 1,
      minP: 1,
      seed: Number.MAX_SAFE_INTEGER,
      repetitionPenalty: 100,
      frequencyPenalty: 100,
      presencePenalty: 100,
      penaltyLastN: 1048576,
    };
    expect(resolveSampling(high, 100)).toMatchObject(high);
    expect(resolveSampling({ topK: -1, penaltyLastN: -1 }, 100)).toMatchObject({ topK: 0, penaltyLastN: -1 });
  });

  test("draws another seed each time, also for -1", () => {
    const seeds = new Set([{}, {}, { seed: -1 }, { seed: -1 }].map((options) => resolveSampling(options, 100).seed));
    // Four equal draws of 32 bits happen once in 2^96 runs.
    expect(seeds.size).toBeGreaterThan(1);
    for (const seed of seeds) expect(seed).toBeWithin(0, 2 ** 32);
  });

  test("sorts a bias by token, from an object and from a Map alike", () => {
    const expected = { ids: Uint32Array.of(0, 7, 99), values: Float32Array.of(1.5, -Infinity, -2) };
    const entries: [number, number][] = [
      [99, -2],
      [0, 1.5],
      [7, -Infinity],
    ];
    expect(resolveSampling({ logitBias: Object.fromEntries(entries) }, 100).logitBias).toEqual(expected);
    expect(resolveSampling({ logitBias: new Map(entries) }, 100).logitBias).toEqual(expected);
  });

  test.each([
    [{ temperature: NaN }, "sampling: temperature is NaN; give a number from 0 to 1000"],
    [{ temperature: -0.1 }, "sampling: temperature is -0.1; give a number from 0 to 1000"],
    [{ temperature: Infinity }, "sampling: temperature is Infinity; give a number from 0 to 1000"],
    [{ temperature: "0.5" }, 'sampling: temperature is "0.5"; give a number from 0 to 1000'],
    [{ temperature: null }, "sampling: temperature is null; give a number from 0 to 1000"],
    [{ topP: 0 }, "sampling: topP is 0; give a number above 0, up to 1"],
    [{ topP: 1e-50 }, "sampling: topP is 1e-50; give a number above 0, up to 1"],
    [{ topP: 1.01 }, "sampling: topP is 1.01; give a number above 0, up to 1"],
    [{ minP: -1 }, "sampling: minP is -1; give a number from 0 to 1"],
    [{ minP: [0.1] }, "sampling: minP is an array; give a number from 0 to 1"],
    [{ topK: 1.5 }, "sampling: topK is 1.5; give an integer from 1 up, or 0 to keep every token"],
    [{ topK: -2 }, "sampling: topK is -2; give an integer from 1 up, or 0 to keep every token"],
    [{ topK: 2 ** 31 }, "sampling: topK is 2147483648; give an integer from 1 up, or 0 to keep every token"],
    [{ repetitionPenalty: 0 }, "sampling: repetitionPenalty is 0; give a number from 0.01 to 100"],
    [{ frequencyPenalty: NaN }, "sampling: frequencyPenalty is NaN; give a number from -100 to 100"],
    [{ presencePenalty: 101 }, "sampling: presencePenalty is 101; give a number from -100 to 100"],
    [
      { penaltyLastN: 2 ** 20 + 1 },
      "sampling: penaltyLastN is 1048577; give an integer from 0 to 1048576, or -1 to look back on every token",
    ],
    [
      { seed: 2 ** 53 },
      "sampling: seed is 9007199254740992; give an integer from 0 to 9007199254740991, or leave it out to have one drawn",
    ],
    [
      { seed: 5n },
      "sampling: seed is 5n; give an integer from 0 to 9007199254740991, or leave it out to have one drawn",
    ],
    [{ logitBias: { 100: 1 } }, 'sampling: logitBias names token "100"; give token ids from 0 to 99'],
    [{ logitBias: { "07": 1 } }, 'sampling: logitBias names token "07"; give token ids from 0 to 99'],
    [{ logitBias: { "": 1 } }, 'sampling: logitBias names token ""; give token ids from 0 to 99'],
    [{ logitBias: new Map([[-1, 1]]) }, "sampling: logitBias names token -1; give token ids from 0 to 99"],
    [{ logitBias: new Map([[0.5, 1]]) }, "sampling: logitBias names token 0.5; give token ids from 0 to 99"],
    [{ logitBias: [1, 2] }, "sampling: logitBias is an array; give an object or a Map from token ids to numbers"],
    [
      { logitBias: { 3: NaN } },
      "sampling: logitBias of token 3 is NaN; give a number from -1000000000 to 1000000000, or -Infinity to ban the token",
    ],
    [
      { logitBias: { 3: Infinity } },
      "sampling: logitBias of token 3 is Infinity; give a number from -1000000000 to 1000000000, or -Infinity to ban the token",
    ],
  ])("refuses %p", (options, sentence) => {
    expect(refusal(options)).toBe(sentence);
  });
});

test("a seed's halves make the seed", () => {
  for (const seed of [0, 1, 2 ** 32 - 1, 2 ** 32, 2 ** 32 + 5, Number.MAX_SAFE_INTEGER]) {
    const { low, high } = seedHalves(seed);
    expect(BigInt(high) * 2n ** 32n + BigInt(low)).toBe(BigInt(seed));
  }
});
