//! Moving positions in the books of all pools, or of none. The keys of the cells are turned by the engine
//! (`memory_turn.zig`).

const std = @import("std");
const status = @import("status.zig");
const attention_pool = @import("attention_pool.zig");
const leaf = @import("leaf.zig");
const memory_file = @import("memory.zig");
const Move = @import("history.zig").Move;
const Memory = memory_file.Memory;
const Pool = leaf.Pool;

/// Makes sure that positions `[p0, p1)` can move in every pool, and makes their attention cells the sequence's own.
pub fn begin(memory: *Memory, sequence: u32, p0: i32, p1: i32, how: Move) status.Error!void {
    const range = memory.bounds_of(sequence);
    for (memory.pools) |*pool| {
        var buffer: [64]u8 = undefined;
        if (pool.move_refusal(sequence, first_position(memory, sequence), p0, p1, how)) |why| return status.fail(error.Refused, "positions {d} to {d} of sequence {d} cannot move: {s}: {s}", .{
            p0, @min(p1, range.end) - 1, sequence, pool.describe(&buffer), why,
        });
    }
    if (disorder(memory, sequence, p0, p1, how)) |reason| {
        return status.fail(error.Refused, "positions {d} to {d} of sequence {d} cannot move: {s}", .{
            p0, @min(p1, range.end) - 1, sequence, reason,
        });
    }
    const last = how.apply(@min(p1, range.end) - 1);
    if (last >= memory.config.context) {
        return status.fail(error.Refused, "position {d} would become {d}, beyond the context of {d}", .{
            @min(p1, range.end) - 1, last, memory.config.context,
        });
    }
    for (memory.pools) |*pool| if (!try pool.can_own(sequence, p0, p1)) return Memory.no_room(pool, error.Full);
    var changes: leaf.Changes = .{};
    defer changes.deinit(memory.gpa);
    for (memory.pools, 0..) |*pool, index| {
        changes.clear();
        try pool.own_range(sequence, p0, p1, &changes);
        memory.carry_out(@intCast(index), &changes);
    }
}

/// Why positions `[p0, p1)` cannot move, whatever remembers them; null when they can.
fn disorder(memory: *const Memory, holder: u32, p0: i32, p1: i32, how: Move) ?[]const u8 {
    const history = &memory.histories[holder];
    const positions = history.positions();
    const first = history.count_before(p0);
    const last = history.count_before(p1);
    if (first == last) return null;
    if (how.apply(positions[first]) < 0) return "positions would become negative";
    if (first > 0 and positions[first - 1] >= how.apply(positions[first])) return "positions would overlap those before";
    if (last < positions.len and positions[last] <= how.apply(positions[last - 1])) return "positions would overlap those behind";
    return null;
}

fn first_position(memory: *const Memory, holder: u32) i32 {
    const positions = memory.histories[holder].positions();
    return if (positions.len == 0) 0 else positions[0];
}

/// Moves positions in the books of one pool; the cells to be turned are added to `turns`.
pub fn move_pool(
    pool: *Pool,
    sequence: u32,
    p0: i32,
    p1: i32,
    how: Move,
    turns: *std.ArrayList(attention_pool.CellTurn),
) status.Error!void {
    switch (pool.*) {
        .attention => |*own| try own.move(sequence, p0, p1, how, turns),
        .recurrent => |*own| own.move(sequence, how.shift),
    }
}
