import { median } from "../../lib/cli/format.ts";
import { Peer } from "../peer/peer.ts";
import { requireModel } from "./models.ts";
import { WorkerProcess } from "./worker-process.ts";

export interface SpeedOptions {
  readonly threads: number;
  readonly promptTokens: number;
  readonly generateTokens: number;
  readonly repetitions: number;
  onRepetition?(done: number): void;
}

/** Speeds of one kind of work, in tokens per second, in the order of the repetitions. */
export interface Samples {
  readonly samples: readonly number[];
  readonly median: number;
}

export interface Comparison {
  readonly strata: Samples;
  readonly libllama: Samples;
  /** Strata's median over libllama's. */
  readonly ratio: number;
}

type Speed = { readonly prefillTokensPerSecond: number; readonly decodeTokensPerSecond: number };

/**
 * Both engines on one model: a prompt, then a generation after it, in turns, each in a process of its own while the
 * other's does not run. Both have done all of it once before that.
 */
export async function compareSpeeds(
  peer: Peer,
  model: string,
  { threads, promptTokens, generateTokens, repetitions, onRepetition }: SpeedOptions,
): Promise<{ prefill: Comparison; decode: Comparison }> {
  requireModel(model);
  const context = promptTokens + generateTokens;
  await using worker = await WorkerProcess.start({ model, context, threads });
  await worker.generate(promptTokens, generateTokens);
  const ours: Speed[] = [];
  const theirs: Speed[] = [];
  for (let repetition = 1; repetition <= repetitions; repetition += 1) {
    worker.resume();
    ours.push(await worker.generate(promptTokens, generateTokens));
    worker.pause();
    // A context of the peer is new each time, so that it holds no thread between; its first sample warms it up.
    const samples = await peer.bench({ model, promptTokens, generateTokens, reps: 2, flashAttention: true, threads });
    theirs.push(samples[1] as Speed);
    onRepetition?.(repetition);
  }
  await peer.unload(model);
  const prefill = ({ prefillTokensPerSecond }: Speed): number => prefillTokensPerSecond;
  const decode = ({ decodeTokensPerSecond }: Speed): number => decodeTokensPerSecond;
  return {
    prefill: compared(ours.map(prefill), theirs.map(prefill)),
    decode: compared(ours.map(decode), theirs.map(decode)),
  };
}

function compared(ours: readonly number[], theirs: readonly number[]): Comparison {
  const strata = { samples: ours, median: median(ours) };
  const libllama = { samples: theirs, median: median(theirs) };
  return { strata, libllama, ratio: strata.median / libllama.median };
}
