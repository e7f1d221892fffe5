//! A segment: the unit in which a recurrent op works through a batch.

const assert = @import("std").debug.assert;

/// Consecutive rows of one sequence, which continue from the state in one cell and leave the new state in another.
/// Several segments may read the same cell. A segment may read the cell that an earlier one of the same batch wrote.
pub const Segment = extern struct {
    first_row: u32,
    rows: u32,
    /// Where the state comes from; -1 starts from zeros.
    read_cell: i32,
    /// Where the new state goes; -1 drops it. It may be the cell that is read, if no other segment reads that one.
    write_cell: i32,

    pub fn check(segment: Segment) void {
        assert(segment.read_cell < 0 or segment.read_cell != segment.write_cell or segment.rows > 0);
    }
};
