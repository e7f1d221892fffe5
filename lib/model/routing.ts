import { StrataError } from "../errors.ts";
import type { RouterScores, RoutingOptions } from "../graph/routing-blocks.ts";
import type { Metadata } from "../gguf/metadata.ts";

/** What `<architecture>.expert_gating_func` numbers mean. */
const scoresOfKey: Readonly<Record<number, RouterScores>> = { 1: "softmax", 2: "sigmoid", 3: "chosenSoftmax" };

/** What an architecture does where its files say nothing. */
export interface RoutingDefaults {
  readonly scores: RouterScores;
  /** Whether weights are divided by their sum, and what is added to that. */
  readonly normalizes: boolean;
  readonly epsilon: number;
  /** Experts used by a token, where the architecture's files have a number for each layer. Default: the key's. */
  readonly used?: number;
}

/**
 * Reads how experts are chosen and weighted: `<architecture>.expert_count`, `expert_used_count`, `expert_gating_func`,
 * `expert_group_count`, `expert_group_used_count`, `expert_weights_norm` and `expert_weights_scale`; a function or scale of
 * 0 says nothing. Throws on what cannot be computed.
 */
export function expertRouting(metadata: Metadata, architecture: string, defaults: RoutingDefaults): RoutingOptions {
  const key = (name: string) => `${architecture}.${name}`;
  const experts = metadata.count(key("expert_count"));
  const used = defaults.used ?? metadata.count(key("expert_used_count"));
  const fail = (name: string, value: number, expected: string): never => {
    throw new StrataError("bad_format", `${metadata.file}: "${key(name)}" is number ${value}, expected ${expected}`);
  };
  if (experts < 1) fail("expert_count", experts, "at least 1");
  if (used < 1 || used > experts) fail("expert_used_count", used, `1 to ${experts} experts`);

  const count = Math.max(1, metadata.count(key("expert_group_count"), 1));
  if (experts % count !== 0) fail("expert_group_count", count, `a divisor of ${experts} experts`);
  const usedGroups = count === 1 ? 1 : metadata.count(key("expert_group_used_count"));
  if (usedGroups > count || (usedGroups * experts) / count < used) {
    fail("expert_group_used_count", usedGroups, `at most ${count} groups that hold at least ${used} experts`);
  }
  return {
    experts,
    used,
    scores: routerScores(metadata, key("expert_gating_func"), defaults.scores),
    groups: count === 1 ? undefined : { count, used: usedGroups },
    normalize: metadata.boolean(key("expert_weights_norm"), defaults.normalizes) ? defaults.epsilon : undefined,
    scale: metadata.number(key("expert_weights_scale"), 0) || 1,
  };
}

function routerScores(metadata: Metadata, key: string, fallback: RouterScores): RouterScores {
  const number = metadata.count(key, 0);
  if (number === 0) return fallback;
  const scores = scoresOfKey[number];
  if (scores !== undefined) return scores;
  const known = "1 (softmax), 2 (sigmoid) and 3 (softmax of the chosen)";
  throw new StrataError("unsupported", `${metadata.file}: "${key}" is ${number}; ${known} can be computed`);
}
