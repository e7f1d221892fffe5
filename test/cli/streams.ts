import { Output, type OutputStream } from "../../lib/cli/output.ts";

/** A stream that keeps what is written to it, or fails from some write on. */
export class KeptStream implements OutputStream {
  text = "";
  failure: Error | undefined;

  constructor(readonly isTTY = false) {}

  write(text: string, done: (error?: Error | null) => void): void {
    if (this.failure === undefined) this.text += text;
    const { failure } = this;
    queueMicrotask(() => done(failure ?? null));
  }

  on(): void {}
}

/** An output whose two streams can be read afterwards. */
export function keptOutput({ json = false, isWatched = false } = {}) {
  const stdout = new KeptStream();
  const stderr = new KeptStream(isWatched);
  const output = new Output(stdout, stderr);
  output.json = json;
  return { output, stdout, stderr };
}
