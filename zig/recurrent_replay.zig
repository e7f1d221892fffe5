//! States of a recurrent pool that are computed again from its log: those that were taken back to, and bases that the log
//! has no room to leave behind.

const std = @import("std");
const recurrent_pool = @import("recurrent_pool.zig");
const RecurrentPool = recurrent_pool.RecurrentPool;
const Stamp = @import("history.zig").Stamp;
const Run = recurrent_pool.Run;

/// A state to be computed again: from a cell that stands for `from` positions, through the log up to `to`.
pub const Replay = struct { sequence: u32, read_cell: i32, write_cell: u32, from: i32, to: i32 };

/// What must be computed before these runs: pending states, and bases that the log has no room to leave behind.
/// Fails only where memory is short.
pub fn plan(pool: *RecurrentPool, gpa: std.mem.Allocator, runs: []const Run, out: *std.ArrayList(Replay)) error{OutOfMemory}!void {
    if (pool.config.method != .log) return;
    try out.ensureUnusedCapacity(gpa, 2 * runs.len);
    for (runs) |run| {
        const h = &pool.holders[run.sequence];
        const is_left_behind = leaves_base_behind(pool, h, run);
        // Its cell is where the base moves to.
        if (is_left_behind) pool.forget_next_base(h);
        if (h.pending) replay_live(pool, run.sequence, out);
        if (!is_left_behind) continue;
        const base = h.base.?;
        const cell = pool.cells.take(null) orelse continue;
        out.appendAssumeCapacity(.{
            .sequence = run.sequence,
            .read_cell = if (base.cell) |from| @intCast(from) else -1,
            .write_cell = cell,
            .from = base.end,
            .to = h.end - @as(i32, @intCast(pool.config.rollback)),
        });
    }
}

/// Whether the log has no room for a run, and would not start anew with it.
fn leaves_base_behind(pool: *const RecurrentPool, h: *const RecurrentPool.Holder, run: Run) bool {
    const base = h.base orelse return false;
    if (run.count >= pool.config.rollback) return false;
    const end = h.end + @as(i32, @intCast(run.count));
    return !pool.fits_log(base, end) and !pool.can_move_base(h, end);
}

/// The pending state of one holder, if it is.
pub fn plan_pending(pool: *RecurrentPool, gpa: std.mem.Allocator, holder: u32, out: *std.ArrayList(Replay)) error{OutOfMemory}!void {
    if (!pool.holders[holder].pending) return;
    try out.ensureUnusedCapacity(gpa, 1);
    replay_live(pool, holder, out);
}

fn replay_live(pool: *RecurrentPool, holder: u32, out: *std.ArrayList(Replay)) void {
    const h = &pool.holders[holder];
    const base = RecurrentPool.latest_base(h);
    // A pending sequence has given its own cell back.
    const cell = pool.cells.take(null).?;
    out.appendAssumeCapacity(.{
        .sequence = holder,
        .read_cell = if (base.cell) |from| @intCast(from) else -1,
        .write_cell = cell,
        .from = base.end,
        .to = h.end,
    });
}

/// A replay could not be computed: its cell is free again.
pub fn abandon(pool: *RecurrentPool, replay: Replay) void {
    pool.cells.release(replay.write_cell);
}

/// A replay was computed: its cell stands for `value`.
pub fn finish(pool: *RecurrentPool, replay: Replay, value: Stamp) void {
    const h = &pool.holders[replay.sequence];
    pool.stamps[replay.write_cell] = value;
    if (replay.to == h.end and h.pending) {
        h.cell = replay.write_cell;
        h.pending = false;
        return;
    }
    pool.release(h.base.?.cell);
    h.base = .{ .cell = replay.write_cell, .end = replay.to };
}
