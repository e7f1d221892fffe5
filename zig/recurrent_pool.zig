//! State cells of all recurrent layers. A sequence's newest state is one cell; a step reads it and writes another, and
//! success switches the sequence over. A cell is never written while anyone owns it, so sharing one needs no copy.

const std = @import("std");
const assert = std.debug.assert;
const Blocks = @import("blocks.zig").Blocks;
const Block = @import("blocks.zig").Block;
const convolution = @import("kernels/convolution.zig");

pub const Segment = convolution.Segment;
pub const Run = @import("batch.zig").Run;

pub const RecurrentPool = struct {
    gpa: std.mem.Allocator,
    /// A block is one cell here: the states of all layers at one position of a sequence.
    cells: Blocks,
    sequences: []Sequence,

    const Sequence = struct {
        cell: ?Block = null,
        /// One past the position that the cell stands for.
        end: i32 = 0,
    };

    pub const Config = struct { sequences: u32 };

    /// One cell to read and one to write for each sequence.
    pub fn cell_count_for(config: Config) u32 {
        return 2 * config.sequences;
    }

    pub fn init(gpa: std.mem.Allocator, config: Config) error{OutOfMemory}!RecurrentPool {
        const sequences = try gpa.alloc(Sequence, config.sequences);
        errdefer gpa.free(sequences);
        @memset(sequences, .{});
        return .{ .gpa = gpa, .cells = try .init(gpa, cell_count_for(config)), .sequences = sequences };
    }

    pub fn deinit(pool: *RecurrentPool) void {
        pool.gpa.free(pool.sequences);
        pool.cells.deinit(pool.gpa);
        pool.* = undefined;
    }

    pub fn cell_count(pool: *const RecurrentPool) u32 {
        return pool.cells.count_total();
    }

    /// Both ends are the last position: a state stands for everything before it and can resume nowhere else.
    pub fn held(pool: *const RecurrentPool, sequence: u32) struct { min: i32, end: i32 } {
        const end = pool.sequences[sequence].end;
        return .{ .min = @max(end - 1, 0), .end = end };
    }

    /// Why positions `[p0, p1)` cannot be removed; null when they can.
    pub fn remove_refusal(pool: *const RecurrentPool, sequence: u32, p0: i32, p1: i32) ?[]const u8 {
        const s = &pool.sequences[sequence];
        if (p0 <= 0 and p1 >= s.end) return null;
        if (p0 >= s.end) return null;
        if (p1 < s.end) return "a state cannot forget a range before its end";
        return "the state before that position is not kept";
    }

    pub fn remove(pool: *RecurrentPool, sequence: u32, p0: i32, p1: i32) void {
        assert(pool.remove_refusal(sequence, p0, p1) == null);
        if (p0 >= pool.sequences[sequence].end) return;
        pool.clear(sequence);
    }

    pub fn clear(pool: *RecurrentPool, sequence: u32) void {
        const s = &pool.sequences[sequence];
        if (s.cell) |cell| pool.cells.release(cell);
        s.* = .{};
    }

    /// Makes `destination`, which is empty, stand for what `source` stands for, by sharing its cell.
    pub fn copy(pool: *RecurrentPool, source: u32, destination: u32) error{OutOfMemory}!void {
        assert(pool.sequences[destination].cell == null);
        pool.sequences[destination] = pool.sequences[source];
        if (pool.sequences[source].cell) |cell| pool.cells.retain(cell);
    }

    /// Counts what the sub-batches of a batch need, one after the other, without touching the pool.
    pub const Estimate = struct {
        free: i64,
        lacking: i64 = 0,
        /// Whether the sequence's cell is its own, so that a step gives it back.
        own: []bool,

        pub fn deinit(estimate: *Estimate, gpa: std.mem.Allocator) void {
            gpa.free(estimate.own);
        }
    };

    pub fn estimate_begin(pool: *const RecurrentPool, gpa: std.mem.Allocator) error{OutOfMemory}!Estimate {
        const own = try gpa.alloc(bool, pool.sequences.len);
        for (pool.sequences, own) |s, *o| o.* = if (s.cell) |cell| !pool.cells.is_shared(cell) else false;
        return .{ .free = pool.cells.free_count, .own = own };
    }

    pub fn estimate_add(pool: *const RecurrentPool, estimate: *Estimate, runs: []const Run) void {
        _ = pool;
        estimate.free -= @intCast(runs.len);
        estimate.lacking = @max(estimate.lacking, -estimate.free);
        for (runs) |run| {
            if (estimate.own[run.sequence]) estimate.free += 1;
            estimate.own[run.sequence] = true;
        }
    }

    /// What one sub-batch does to this pool, and what its kernels read.
    pub const Plan = struct {
        segments: std.ArrayList(Segment) = .empty,

        pub fn deinit(plan: *Plan, gpa: std.mem.Allocator) void {
            plan.segments.deinit(gpa);
        }

        pub fn reserve(plan: *Plan, gpa: std.mem.Allocator, pool: *RecurrentPool, runs: []const Run) error{OutOfMemory}!void {
            _ = pool;
            plan.segments.clearRetainingCapacity();
            try plan.segments.ensureTotalCapacity(gpa, runs.len);
        }
    };

    /// Chooses the cell that each run writes. `commit` or `revert` follows.
    pub fn apply(pool: *RecurrentPool, plan: *Plan, runs: []const Run) void {
        for (runs) |run| {
            const s = &pool.sequences[run.sequence];
            assert(run.first_position == s.end);
            plan.segments.appendAssumeCapacity(.{
                .first_row = run.first_row,
                .rows = run.count,
                .read_cell = if (s.cell) |cell| @intCast(cell) else -1,
                .write_cell = @intCast(pool.cells.take(null).?),
            });
        }
    }

    pub fn commit(pool: *RecurrentPool, plan: *Plan, runs: []const Run) void {
        for (runs, plan.segments.items) |run, segment| {
            const s = &pool.sequences[run.sequence];
            if (s.cell) |cell| pool.cells.release(cell);
            s.cell = @intCast(segment.write_cell);
            s.end += @intCast(run.count);
        }
    }

    pub fn revert(pool: *RecurrentPool, plan: *Plan, runs: []const Run) void {
        _ = runs;
        for (plan.segments.items) |segment| pool.cells.release(@intCast(segment.write_cell));
    }
};

const testing = std.testing;

test "success switches the cell, failure leaves it, and a shared cell is never written" {
    var pool: RecurrentPool = try .init(testing.allocator, .{ .sequences = 2 });
    defer pool.deinit();
    var plan: RecurrentPool.Plan = .{};
    defer plan.deinit(testing.allocator);

    const first = [_]Run{.{ .sequence = 0, .first_row = 0, .count = 5, .first_position = 0 }};
    try plan.reserve(testing.allocator, &pool, &first);
    pool.apply(&plan, &first);
    try testing.expectEqual(-1, plan.segments.items[0].read_cell);
    pool.commit(&plan, &first);
    try testing.expectEqual(5, pool.held(0).end);
    const cell = pool.sequences[0].cell.?;

    try pool.copy(0, 1);
    const both = [_]Run{
        .{ .sequence = 0, .first_row = 0, .count = 1, .first_position = 5 },
        .{ .sequence = 1, .first_row = 1, .count = 1, .first_position = 5 },
    };
    try plan.reserve(testing.allocator, &pool, &both);
    pool.apply(&plan, &both);
    for (plan.segments.items) |segment| {
        try testing.expectEqual(@as(i32, @intCast(cell)), segment.read_cell);
        try testing.expect(segment.write_cell != segment.read_cell);
    }
    pool.revert(&plan, &both);
    try testing.expectEqual(cell, pool.sequences[0].cell.?);
    try testing.expectEqual(3, pool.cells.free_count);

    try testing.expect(pool.remove_refusal(0, 3, 5) != null);
    try testing.expectEqual(null, pool.remove_refusal(0, 0, 5));
    pool.clear(0);
    pool.clear(1);
    try testing.expectEqual(4, pool.cells.free_count);
}
