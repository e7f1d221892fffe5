//! Moving positions in the books of all pools, or of none. The keys of the cells are turned by the engine
//! (`memory_turn.zig`).

const std = @import("std");
const status = @import("status.zig");
const attention_pool = @import("attention_pool.zig");
const memory_file = @import("memory.zig");
const Move = @import("history.zig").Move;
const Memory = memory_file.Memory;
const Pool = memory_file.Pool;

/// Makes sure that positions `[p0, p1)` can move in every pool, and makes their attention cells the sequence's own.
pub fn begin(memory: *Memory, sequence: u32, p0: i32, p1: i32, how: Move) status.Error!void {
    const range = memory.bounds_of(sequence);
    for (memory.pools) |*pool| {
        const reason: ?[]const u8 = switch (pool.*) {
            .attention => |*leaf| leaf.move_refusal(sequence, p0, p1, how),
            .recurrent => recurrent: {
                if (how == .divide) break :recurrent "a state has one position, which cannot be divided";
                if (p0 > first_position(memory, sequence) and p0 < range.end) break :recurrent "a state moves as a whole";
                break :recurrent if (p1 < range.end) "a state moves as a whole" else null;
            },
        };
        var buffer: [64]u8 = undefined;
        if (reason) |why| return status.fail(error.Refused, "positions {d} to {d} of sequence {d} cannot move: {s}: {s}", .{
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
    var copies: std.ArrayList(attention_pool.CellCopy) = .empty;
    defer copies.deinit(memory.gpa);
    for (memory.pools, 0..) |*pool, index| if (pool.* == .attention) {
        copies.clearRetainingCapacity();
        const result = pool.attention.own_range(sequence, p0, p1, &copies);
        memory.copy_cells(@intCast(index), copies.items);
        result catch |err| return memory.no_room(pool, err);
    };
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
    memory: *Memory,
    pool: *Pool,
    sequence: u32,
    p0: i32,
    p1: i32,
    how: Move,
    turns: *std.ArrayList(attention_pool.CellTurn),
) status.Error!void {
    switch (pool.*) {
        .attention => |*leaf| try leaf.move(sequence, p0, p1, how, turns),
        .recurrent => |*leaf| leaf.move(sequence, how.shift),
    }
    _ = memory;
}
