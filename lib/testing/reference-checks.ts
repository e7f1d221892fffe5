/** Whether logits are those of another implementation, and where not, what the mistake looks like. */
import { loadModel } from "../model/model.ts";
import type { Architecture } from "../model/architecture.ts";
import { defineCheck, type Check } from "./check.ts";
import { difference, nmse, sizeOf, type Difference } from "./compare.ts";
import { recordOne, short } from "./declaration-checks.ts";
import type { Recording } from "./recorder.ts";
import { readReference, type Reference } from "./reference.ts";
import { afresh, Mistake, NothingToCheck, type Subject } from "./subject.ts";
import { variants } from "./variants.ts";

interface Compared {
  readonly tokens: readonly number[];
  readonly rows: readonly Float32Array[];
  readonly expected: readonly Float32Array[];
}

/** The check against a reference. */
export function referenceCheck(reference: Reference | undefined): Check {
  return defineCheck("logits = the reference's", async (subject) => {
    if (reference === undefined) throw new NothingToCheck("no reference was given");
    const path = await subject.path();
    const { config } = await subject.read();
    const texts = [await subject.tokens(29, 50), await subject.tokens(1, 51)];
    const sequences = await readReference(reference, texts, { path, config, weights: subject.weights });
    const context = Math.max(256, ...sequences.map(({ tokens }) => tokens.length));
    await using model = await subject.load({ context });
    let worst = 0;
    for (const [i, { tokens, rows: expected }] of sequences.entries()) {
      const rows = await afresh(model, tokens);
      const found = difference(rows, expected, await subject.tolerance());
      worst = Math.max(worst, nmseOf(rows, expected));
      if (found === undefined) continue;
      const compared = { tokens, rows, expected };
      throw new Mistake(
        `logits of sequence ${i} are not the reference's from position ${found.row} on, ${found.count} of ` +
          `${tokens.length} (${sizeOf(found)}): ${await diagnose(subject, compared, found)}`,
      );
    }
    return `${sequences.length} sequences, NMSE at most ${worst.toExponential(1)}`;
  });
}

function nmseOf(rows: readonly Float32Array[], expected: readonly Float32Array[]): number {
  return rows.reduce((most, row, i) => Math.max(most, nmse(row, expected[i] ?? row)), 0);
}

/** What the difference looks like, in the order from what is certain to what is likely. */
async function diagnose(subject: Subject, compared: Compared, found: Difference): Promise<string> {
  const { rows, expected } = compared;
  const factor = scaleOf(rows, expected);
  if (factor !== undefined) {
    return `they are the reference's divided by ${Number(factor.toPrecision(4))}: a scale is missing, or one too many`;
  }
  for (const [by, words] of [
    [1, "next"],
    [-1, "one before"],
  ] as const) {
    const pairs = rows.flatMap((row, i) =>
      expected[i + by] === undefined ? [] : [nmse(row, expected[i + by] as Float32Array)],
    );
    if (pairs.length > 0 && pairs.every((error) => error < 1e-6)) return `each token has the logits of the ${words}`;
  }
  const recording = await recordOne(subject, 7);
  const variant = await findVariant(subject, recording, compared);
  if (variant !== undefined) return variant;
  const residual = found.row === 0 ? missingResidual(recording) : undefined;
  if (residual !== undefined) return residual;
  return place(subject, compared, found, recording);
}

/** By what logits must be multiplied to be the expected ones, if that makes them so. */
function scaleOf(rows: readonly Float32Array[], expected: readonly Float32Array[]): number | undefined {
  let product = 0;
  let power = 0;
  for (const [i, row] of rows.entries()) {
    for (const [j, value] of row.entries()) {
      product += value * (expected[i]?.[j] ?? 0);
      power += value * value;
    }
  }
  const factor = product / power;
  if (!Number.isFinite(factor) || factor === 0) return undefined;
  const scaled = rows.map((row) => row.map((value) => value * factor));
  return difference(scaled, expected, 1e-6) === undefined ? factor : undefined;
}

/** Does one thing after the other in another way, and sees whether that gives the reference's logits. */
async function findVariant(subject: Subject, recording: Recording, compared: Compared): Promise<string | undefined> {
  const methods = new Set(recording.calls.map(({ method }) => method));
  const { memory } = await subject.read();
  const hasWindow = memory.some((layer) =>
    Object.values(layer).some((record) => record?.kind === "attention" && "size" in record.extent),
  );
  for (const { finding, needs, apply } of variants) {
    if (needs === "window" ? !hasWindow : !methods.has(needs)) continue;
    const rows = await runVariant(subject, apply(subject.architecture), compared.tokens);
    if (rows !== undefined && difference(rows, compared.expected, 1e-6) === undefined) return finding;
  }
  return undefined;
}

/** The logits of a variant; undefined where it cannot be. */
async function runVariant(
  subject: Subject,
  architecture: Architecture,
  tokens: readonly number[],
): Promise<Float32Array[] | undefined> {
  try {
    const context = Math.max(256, tokens.length);
    await using model = await loadModel(await subject.path(), {
      context,
      kv: "f32",
      threads: 2,
      plugins: [architecture],
    });
    return await afresh(model, tokens);
  } catch {
    // What an architecture is changed to for a try may well be impossible; then it is not what was meant.
    return undefined;
  }
}

/** A norm within a layer that is all that takes the stream going through the layers. */
function missingResidual({ calls }: Recording): string | undefined {
  const uses = new Map<string, number>();
  for (const { text } of calls) {
    for (const [tensor] of text.matchAll(/\bt\d+\b/g)) uses.set(tensor, (uses.get(tensor) ?? 0) + 1);
  }
  const streams = new Set<string>();
  for (const { layer, method, text, result } of calls) {
    if (result !== undefined && ["add", "getRows", "scale", "mulMat"].includes(method)) streams.add(result);
    const [input] = /\bt\d+\b/.exec(text) ?? [];
    const isNorm = method === "rmsNorm" || method === "norm";
    if (layer === undefined || !isNorm || input === undefined || uses.get(input) !== 1) continue;
    if (streams.has(input)) {
      return `layer ${layer}: ${short(text)} is all that takes its input: is the residual missing, the sum of a layer's input and output?`;
    }
  }
  return undefined;
}

/** What the first wrong position tells. */
async function place(subject: Subject, compared: Compared, { row }: Difference, recording: Recording): Promise<string> {
  const { rows, expected } = compared;
  const errors = rows.map((own, i) => nmse(own, expected[i] ?? own));
  const [first = 0] = errors;
  const last = errors.slice(-3).reduce((sum, error) => sum + error, 0) / 3;
  if (row === 0 && errors.length > 8 && last < first / 100) {
    return (
      "the difference is largest at position 0 and fades: a sequence's first token is treated as if others had been " +
      "before it (a missing reset, see `sequenceStarts`)"
    );
  }
  if (row === 0) {
    return (
      "the first token already differs, which sees no other: embedding, norms, projections, activations, scales, residuals, " +
      "or the order of taps and heads"
    );
  }
  const methods = new Set(recording.calls.map(({ method }) => method));
  const sizes = (await subject.read()).memory.flatMap((layer) =>
    Object.values(layer).flatMap((record) =>
      record?.kind === "attention" && "size" in record.extent ? [record.extent.size] : [],
    ),
  );
  const near = sizes.find((size) => Math.abs(size - row) <= 1);
  if (near !== undefined) return `it begins where the window or chunk of ${near} tokens ends`;
  if (methods.has("attend") && !methods.has("rope")) {
    return "a token alone is right, and keys and queries are not turned by positions: is a rotary embedding missing?";
  }
  return "a token alone is right: look at what it takes of those before it (positions, decays, earlier taps, the order of states)";
}
