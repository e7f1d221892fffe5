/** What the tests of models share: fixtures, generating, errors, a folder that goes with the test. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { StrataError, type GenerateOptions, type GenerationEvent, type Model } from "ggstrata";

export const root = resolve(import.meta.dir, "../..");
export const fixtureNames = ["llama", "gemma3", "mamba2", "granitehybrid", "granitehybrid-moe", "bamba"] as const;
/** All fixtures, for the tests of what memories do; the six above stand for them where a test takes long. */
export const allFixtureNames = [
  ...fixtureNames,
  "falcon-h1",
  "falcon-mamba",
  "jamba",
  "kimi-linear",
  "lfm2",
  "lfm2moe",
  "mamba",
  "nemotron-h",
  "nemotron-h-moe",
  "plamo2",
  "qwen3",
  "qwen35",
  "qwen3next",
  "recurrentgemma",
  "rwkv6",
  "rwkv7",
] as const;
export type FixtureName = (typeof allFixtureNames)[number];

export function fixturePath(name: FixtureName): string {
  return join(root, "test/fixtures", name, "model.gguf");
}

/** The trained model that comes with the repository. */
export const tinyHybrid = join(root, "test/fixtures/tiny-hybrid/model.gguf");

/**
 * Token ids without pattern, the same for the same seed. The fixtures have 320 tokens or more, the first 3 of them special.
 */
export function someTokens(count: number, seed = 1): number[] {
  const random = randomOf(seed);
  return Array.from({ length: count }, () => 3 + Math.floor(random() * 317));
}

/** Uniform numbers from 0 to 1 (mulberry32). */
export function randomOf(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

export type EndEvent = Extract<GenerationEvent, { type: "end" }>;

export interface Generated {
  tokens: number[];
  text: string;
  end: EndEvent;
}

/** Runs a generation to its end: greedy and past end tokens unless the options say otherwise. */
export async function generated(
  model: Model,
  prompt: string | readonly number[],
  options: GenerateOptions = {},
  onEvent?: (event: GenerationEvent) => void,
): Promise<Generated> {
  const tokens: number[] = [];
  let text = "";
  let end: EndEvent | undefined;
  for await (const event of model.events(prompt, { temperature: 0, ignoreEnd: true, ...options })) {
    onEvent?.(event);
    if (event.type === "token") tokens.push(event.token);
    if (event.type === "token" || event.type === "end") text += event.text;
    if (event.type === "end") end = event;
  }
  if (end === undefined) throw new Error("the generation had no end event");
  return { tokens, text, end };
}

/** The error that a promise rejects with; fails where it does not, or where the error is none of Strata's. */
export async function refusal(promise: Promise<unknown>): Promise<StrataError> {
  let value: unknown;
  try {
    value = await promise;
  } catch (error) {
    if (error instanceof StrataError) return error;
    throw new Error("an error that is no StrataError", { cause: error });
  }
  throw new Error(`an error was expected, and there was ${String(value)}`);
}

/** What a call throws, likewise. */
export function thrown(call: () => unknown): StrataError {
  try {
    call();
  } catch (error) {
    if (error instanceof StrataError) return error;
    throw new Error("an error that is no StrataError", { cause: error });
  }
  throw new Error("an error was expected, and there was none");
}

/** A folder that is deleted at the end of its scope. */
export class Folder implements Disposable {
  readonly path = mkdtempSync(join(tmpdir(), "strata-test-"));

  write(name: string, content: Uint8Array | string): string {
    const path = join(this.path, name);
    writeFileSync(path, content);
    return path;
  }

  [Symbol.dispose](): void {
    rmSync(this.path, { recursive: true, force: true });
  }
}

/** Waits until something holds, at most 10 s. */
export async function until(holds: () => boolean): Promise<void> {
  const end = Date.now() + 10_000;
  while (!holds()) {
    if (Date.now() > end) throw new Error("it did not come to hold in 10 s");
    await Bun.sleep(2);
  }
}

/** Blocks and cells that nobody holds: `{ freeBlocks, freeCells }`. */
export function free(model: Model): { freeBlocks: number; freeCells: number } {
  const { freeBlocks, freeCells } = model.counters();
  return { freeBlocks, freeCells };
}

/** Waits until as much is free as before: what a generation held is let go when its last step has ended. */
export async function freeAgain(model: Model, before: ReturnType<typeof free>): Promise<void> {
  await until(() => Bun.deepEquals(free(model), before));
}
