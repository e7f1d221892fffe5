import { expect, test } from "bun:test";
import { ropeFactors, ropeMetadata, roundToBf16, type HuggingFaceConfig } from "ggstrata";
import { Metadata, type MetadataValue } from "../../lib/gguf/metadata.ts";
import { plainMetadata } from "../../lib/gguf/index.ts";

function configOf(values: Readonly<Record<string, MetadataValue>>): HuggingFaceConfig {
  return new Metadata("config.json", Object.keys(values), (key) => values[key]);
}

const llama31 = {
  "rope_scaling.rope_type": "llama3",
  "rope_scaling.factor": 8,
  "rope_scaling.low_freq_factor": 1,
  "rope_scaling.high_freq_factor": 4,
  "rope_scaling.original_max_position_embeddings": 8192,
  rope_theta: 500000,
};

test("Llama 3's scaling: short waves stay, long ones are stretched, between them it is blended", async () => {
  const made = ropeFactors(configOf(llama31), 128)?.make([]);
  expect(made?.shape).toEqual([64]);
  const factors = Array.from((await made?.read(0, 64)) ?? []);
  // As transformers computes the frequencies, which are divided by these factors.
  for (const [i, factor] of factors.entries()) {
    const frequency = 500000 ** ((-2 * i) / 128);
    const wave = (2 * Math.PI) / frequency;
    const blend = (8192 / wave - 1) / (4 - 1);
    const scaled =
      wave > 8192 ? frequency / 8 : wave < 8192 / 4 ? frequency : (1 - blend) * (frequency / 8) + blend * frequency;
    expect(frequency / factor / scaled).toBeCloseTo(1, 6);
  }
  expect([factors[0], factors[28], factors[63]]).toEqual([1, 1, 8]);
  expect(factors.filter((factor) => factor > 1 && factor < 8).length).toBeGreaterThan(3);
});

test("bases and scaling are read from where a checkpoint has them", () => {
  const read = (values: Readonly<Record<string, MetadataValue>>) => {
    const metadata = plainMetadata("x", ropeMetadata(configOf(values), "a"));
    return Object.fromEntries(metadata.keys.map((key) => [key, metadata.get(key)]));
  };
  expect(read({})).toEqual({ "a.rope.freq_base": 10000 });
  expect(read({ rope_theta: 5e5 })).toEqual({ "a.rope.freq_base": 5e5 });
  const linear = { "a.rope.freq_base": 1e6, "a.rope.scaling.type": "linear", "a.rope.scaling.factor": 8 };
  expect(read({ rope_theta: 1e6, "rope_scaling.type": "linear", "rope_scaling.factor": 8 })).toEqual(linear);
  const newer = {
    "rope_parameters.rope_theta": 1e6,
    "rope_parameters.rope_type": "linear",
    "rope_parameters.factor": 8,
  };
  expect(read(newer)).toEqual(linear);
  expect(ropeFactors(configOf({}), 128)).toBeUndefined();
  expect(() => ropeMetadata(configOf(llama31), "a")).toThrow(
    '"llama3" (rope_type) cannot be converted for this architecture',
  );
  expect(() => ropeMetadata(configOf(llama31), "a", true)).not.toThrow();
});

test.each([
  [Math.sqrt(48), 6.9375],
  [Math.sqrt(2560), 50.5],
  [1 + 2 ** -8, 1],
  [1 + 3 * 2 ** -8, 1 + 2 ** -6],
  [-1.5, -1.5],
])("%p in bf16 is %p", (value, expected) => {
  expect(roundToBf16(value)).toBe(expected);
});
