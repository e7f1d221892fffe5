// What the peer uses of node-llama-cpp's bindings, which the package keeps to itself.

export interface Addon {
  readonly AddonModel: new (file: string, options: object) => AddonModel;
  readonly AddonContext: new (model: AddonModel, options: object) => AddonContext;
  readonly AddonSampler: new (model: AddonModel) => AddonSampler;
  systemInfo(): string;
}

export interface AddonModel {
  init(): Promise<boolean>;
  dispose(): Promise<void>;
  tokenize(text: string, special: boolean): Uint32Array;
  detokenize(ids: Uint32Array, special: boolean): string;
  /** Token ids are negative where there is none. */
  tokenBos(): number;
  tokenEos(): number;
  eotToken(): number;
  shouldPrependBosToken(): boolean;
  shouldAppendEosToken(): boolean;
  getTokenAttributes(id: number): number;
  isEogToken(id: number): boolean;
}

export interface AddonContext {
  init(): Promise<boolean>;
  dispose(): Promise<void>;
  initBatch(size: number): void;
  /** Gives the batch indexes of the tokens at the wanted indexes of `tokens`. */
  addToBatch(sequence: number, position: number, tokens: Uint32Array, wanted: Uint32Array): Uint32Array;
  decodeBatch(): Promise<void>;
  disposeSequence(sequence: number): void;
  sampleToken(index: number, sampler: AddonSampler): Promise<number>;
  /** Lists alternate ids and values, the highest value first. */
  sampleToken(
    index: number,
    sampler: AddonSampler,
    probabilities: boolean,
    confidence?: boolean,
    logits?: boolean,
  ): Promise<[token: number, probabilities?: number[], confidence?: number, logits?: number[]]>;
}

export interface AddonSampler {
  applyConfig(config: { temperature: number }): void;
  dispose(): void;
}
