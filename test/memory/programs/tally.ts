/** What became of the operations of random programs, so that a test can see that they did something. */

export interface Tally {
  operations: number;
  done: number;
  refused: number;
  /** Refused, and the contract left it open. */
  declined: number;
  feeds: number;
  rowsCompared: number;
  /** Batches that were cancelled, and those of them that had been computed in part. */
  cancelled: number;
  cancelledInside: number;
  /** Operations on other sequences while a batch was computed, and on its own that were refused for that. */
  meanwhile: number;
  busy: number;
  /** Mistakes that were planted and noticed. */
  noticed: number;
  saved: number;
  loaded: number;
  /** Files of several sequences. */
  savedTogether: number;
  loadedTogether: number;
  /** Saves and loads that were cancelled. */
  filesCancelled: number;
  /** Loaded by a model with other options, and refused by one. */
  elsewhere: number;
  refusedElsewhere: number;
  /** Greatest normalised mean squared error of any row, as a share of what is allowed. */
  worst: number;
}

export function newTally(): Tally {
  return {
    operations: 0,
    done: 0,
    refused: 0,
    declined: 0,
    feeds: 0,
    rowsCompared: 0,
    cancelled: 0,
    cancelledInside: 0,
    meanwhile: 0,
    busy: 0,
    noticed: 0,
    saved: 0,
    loaded: 0,
    savedTogether: 0,
    loadedTogether: 0,
    filesCancelled: 0,
    elsewhere: 0,
    refusedElsewhere: 0,
    worst: 0,
  };
}
