import { NativeState, type StateHolderFacts } from "../native/state.ts";

/** What a saved state holds. */
export interface StateDescription {
  readonly path: string;
  /** Of the file's format. */
  readonly version: number;
  /** Of the whole file. */
  readonly bytes: number;
  /** Of the model file that the state belongs to. */
  readonly fingerprint: string;
  /** Of the memories that it was saved with: their shapes and types. */
  readonly declaration: string;
  /** Sequences and their snapshots, with the tokens that they stand for. */
  readonly holders: readonly (StateHolderFacts & { readonly tokens: readonly number[] })[];
}

/**
 * Reads a saved state and checks every byte of it: on the calling thread, for as long as reading the file takes. Throws
 * where the file is no state, cut short or damaged.
 */
export function describeState(path: string): StateDescription {
  using state = new NativeState(path);
  state.verify();
  const { version, bytes, fingerprint, declaration } = state.facts();
  const holders = state.holders().map((holder, index) => ({ ...holder, tokens: state.tokens(index) }));
  return { path, version, bytes, fingerprint, declaration, holders };
}
