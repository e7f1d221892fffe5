export { Sequence, type FeedOptions, type FeedRequest, type FeedResult, type Resumable } from "./sequence.ts";
export { Snapshot } from "./snapshot.ts";
export { describeState, type StateDescription } from "./state.ts";
