import { StrataError } from "../errors.ts";
import type { Graph } from "./graph.ts";
import type { Operand, Tensor } from "./tensor.ts";

/**
 * What a router makes of its logits: the softmax over all experts, the sigmoid of each, or the softmax over the chosen
 * ones alone.
 */
export type RouterScores = "softmax" | "sigmoid" | "chosenSoftmax";

/** How experts are chosen for a token and how they are weighted. */
export interface RoutingOptions {
  readonly experts: number;
  /** Experts used for each token. */
  readonly used: number;
  readonly scores: RouterScores;
  /**
   * Experts stand in `count` groups of neighbours, and a token's experts come from the `used` best groups: those with the
   * largest sums of their two best scores (DeepSeek-V3, arXiv:2412.19437). Left out: all experts compete.
   */
  readonly groups?: { readonly count: number; readonly used: number } | undefined;
  /** Divides the weights of a token's experts by their sum plus this. Left out: they are the scores. */
  readonly normalize?: number | undefined;
  /** Multiplies the weights. Default 1. */
  readonly scale?: number;
}

export interface RouterWeights {
  /** `[d, experts]` */
  readonly router: Operand;
  /** Added to the scores for choosing, and not for weighting, `[experts]`. */
  readonly routerBias?: Operand | undefined;
}

/** Which experts each token uses. */
export interface Route {
  /** `[used, rows]` i32, the best first. */
  readonly chosen: Tensor;
  /** `[1, used, rows]` */
  readonly weights: Tensor;
}

/** Chooses experts for each token of x `[d, rows]`. */
export function routeToExperts(g: Graph, x: Tensor, w: RouterWeights, options: RoutingOptions): Route {
  const { experts, used, scores: kind, groups, normalize, scale = 1 } = options;
  checkRouting(options);
  const rows = x.shape[1];
  const logits = g.mulMat(w.router, x);
  const scores = kind === "sigmoid" ? g.unary(logits, "sigmoid") : kind === "softmax" ? g.softMax(logits) : logits;
  const biased = w.routerBias === undefined ? scores : g.add(scores, w.routerBias);
  const eligible =
    groups === undefined || groups.used === groups.count ? biased : bestGroups(g, biased, experts, groups);
  const chosen = g.argsortTopK(eligible, used);
  // Rows of one score each, so that the chosen ones can be gathered token by token.
  const kept = g.reshape(g.getRows(g.reshape(scores, 1, experts, rows), chosen), used, rows);
  let weights = kind === "chosenSoftmax" ? g.softMax(kept) : kept;
  if (normalize !== undefined) weights = g.div(weights, g.scale(g.sumRows(weights), 1, normalize));
  return { chosen, weights: g.reshape(g.scale(weights, scale), 1, used, rows) };
}

/** The scores `[experts, rows]`, with minus infinity for the experts of all but a token's best groups. */
function bestGroups(g: Graph, scores: Tensor, experts: number, groups: { count: number; used: number }): Tensor {
  const rows = scores.shape[1];
  const size = experts / groups.count;
  const best = Math.min(2, size);
  const grouped = g.reshape(scores, size, groups.count, rows);
  const places = g.argsortTopK(grouped, best);
  const tops = g.getRows(g.reshape(scores, 1, size, groups.count, rows), places);
  const sums = g.sumRows(g.reshape(tops, best, groups.count, rows));
  const winners = g.argsortTopK(g.reshape(sums, groups.count, rows), groups.used);
  const nothing = g.fill(grouped, -Infinity);
  return g.reshape(g.setRows(nothing, g.getRows(grouped, winners), winners), experts, rows);
}

function checkRouting({ experts, used, groups }: RoutingOptions): void {
  const fail = (sentence: string): never => {
    throw new StrataError("invalid_argument", sentence);
  };
  if (used < 1 || used > experts) fail(`a token cannot use ${used} of ${experts} experts`);
  if (groups === undefined) return;
  if (groups.count < 1 || experts % groups.count !== 0)
    fail(`${experts} experts cannot stand in ${groups.count} groups`);
  if (groups.used < 1 || groups.used > groups.count)
    fail(`a token cannot use ${groups.used} of ${groups.count} groups`);
  const within = (experts / groups.count) * groups.used;
  if (used > within) fail(`a token cannot use ${used} experts of ${groups.used} groups, which hold ${within}`);
}

export interface ExpertWeights {
  /** `[d, width, experts]`; left out: experts without gate, `down(relu(up x)^2)`. */
  readonly gate?: Operand | undefined;
  /** `[d, width, experts]` */
  readonly up: Operand;
  /** `[width, d, experts]` */
  readonly down: Operand;
}

/**
 * Applies to each token its experts and adds their results by weight. Experts are gated MLPs, `down(silu(gate x) * up x)`,
 * or have a squared ReLU and no gate. x `[d, rows]` gives `[d, rows]`.
 */
export function routedExperts(g: Graph, x: Tensor, w: ExpertWeights, route: Route): Tensor {
  const [d, rows] = x.shape;
  const [used] = route.chosen.shape;
  const input = g.reshape(x, d, 1, rows);
  const up = g.mulMatId(w.up, input, route.chosen);
  const hidden =
    w.gate === undefined ? g.sqr(g.unary(up, "relu")) : g.glu(g.mulMatId(w.gate, input, route.chosen), up, "swiglu");
  const weighted = g.mul(g.mulMatId(w.down, hidden, route.chosen), route.weights);
  const [width] = weighted.shape;
  const ofExpert = (i: number) => g.view(weighted, [width, rows], i * weighted.strides[1], [weighted.strides[2]]);
  let sum = ofExpert(0);
  for (let i = 1; i < used; i += 1) sum = g.add(sum, ofExpert(i));
  return used === 1 ? g.cont(sum) : sum;
}
