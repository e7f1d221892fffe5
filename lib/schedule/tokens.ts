import { StrataError } from "../errors.ts";
import { isWhole, shown } from "../shown.ts";

interface Limits {
  readonly context: number;
  readonly vocabulary: number;
}

/** A copy of tokens that can be fed: what becomes of the caller's array afterwards changes nothing. */
export function copyTokens(tokens: readonly number[], { context, vocabulary }: Limits): number[] {
  if (!Array.isArray(tokens)) {
    const sentence = "tokens are an array of token ids; `model.tokenizer.encode(text)` makes them";
    throw new StrataError("invalid_argument", sentence);
  }
  if (tokens.length > context) {
    throw new StrataError(
      "invalid_argument",
      `the prompt has ${tokens.length} tokens and the context is ${context}; ` +
        "shorten it or load the model with a larger context",
    );
  }
  const own: number[] = [...(tokens as readonly number[])];
  for (const token of own) {
    if (isWhole(token, 0, vocabulary - 1)) continue;
    const sentence = `token ${shown(token)} does not exist; the vocabulary has ${vocabulary} tokens`;
    throw new StrataError("invalid_argument", sentence);
  }
  return own;
}

/** A copy of tokens that something can follow. */
export function copyPrompt(tokens: readonly number[], limits: Limits): number[] {
  const own = copyTokens(tokens, limits);
  if (own.length > 0) return own;
  throw new StrataError("invalid_argument", "the prompt is empty; give at least one token");
}
