//! Attention cells of all layers that see the same extent of the past. A cell holds the keys and values of one
//! position; cells come in blocks, and a sequence is a list of blocks that holds consecutive positions.
//!
//! The pool keeps the books; the tensors belong to the memory, which hands them in where bytes must be copied.

const std = @import("std");
const assert = std.debug.assert;
const status = @import("status.zig");
const declaration = @import("declaration.zig");
const Blocks = @import("blocks.zig").Blocks;
const Block = @import("blocks.zig").Block;
const kernel = @import("kernels/attention.zig");

pub const Span = kernel.Span;
pub const Row = kernel.Row;
pub const Run = @import("batch.zig").Run;

/// Cells of one block.
pub const block_cells = 64;

pub const AttentionPool = struct {
    gpa: std.mem.Allocator,
    extent: declaration.Extent,
    /// Positions of the window or chunk; 0 = all.
    window: u32,
    blocks: Blocks,
    sequences: []Sequence,

    /// The cells of one sequence: positions `[min, end)`, the cell of `position` in block
    /// `(position - start) / block_cells`.
    const Sequence = struct {
        list: std.ArrayList(Block) = .empty,
        start: i32 = 0,
        min: i32 = 0,
        end: i32 = 0,

        fn position_past_blocks(sequence: *const Sequence) i32 {
            return sequence.start + @as(i32, @intCast(sequence.list.items.len * block_cells));
        }
    };

    pub const Config = struct {
        extent: declaration.Extent,
        window: u32,
        sequences: u32,
        /// Positions that one sequence may reach.
        context: u32,
        /// Most tokens of one sub-batch.
        batch: u32,
    };

    /// Blocks that serve every sequence at its longest: for a window, the window and one sub-batch, since what a
    /// step pushes out of the window is let go only when the step has succeeded.
    pub fn block_count(config: Config) u32 {
        const positions = if (config.extent == .all)
            config.context
        else
            @min(config.context, config.window + config.batch);
        // The first cell in use may stand anywhere in its block.
        const slack: u32 = if (config.extent == .all) 0 else 1;
        return config.sequences * ((positions + block_cells - 1) / block_cells + slack);
    }

    pub fn init(gpa: std.mem.Allocator, config: Config) error{OutOfMemory}!AttentionPool {
        const sequences = try gpa.alloc(Sequence, config.sequences);
        errdefer gpa.free(sequences);
        @memset(sequences, .{});
        return .{
            .gpa = gpa,
            .extent = config.extent,
            .window = config.window,
            .blocks = try .init(gpa, block_count(config)),
            .sequences = sequences,
        };
    }

    pub fn deinit(pool: *AttentionPool) void {
        for (pool.sequences) |*sequence| sequence.list.deinit(pool.gpa);
        pool.gpa.free(pool.sequences);
        pool.blocks.deinit(pool.gpa);
        pool.* = undefined;
    }

    pub fn cell_count(pool: *const AttentionPool) u32 {
        return pool.blocks.count_total() * block_cells;
    }

    /// The earliest position that a token at `position` sees.
    pub fn lowest_seen(pool: *const AttentionPool, position: i32) i32 {
        const window: i32 = @intCast(pool.window);
        return switch (pool.extent) {
            .all => 0,
            .sliding => @max(0, position - window + 1),
            .chunked => position - @mod(position, window),
        };
    }

    // ---- operations on sequences ----

    /// First and one past the last position held; equal where there is none.
    pub fn held(pool: *const AttentionPool, sequence: u32) struct { min: i32, end: i32 } {
        const s = &pool.sequences[sequence];
        return .{ .min = s.min, .end = s.end };
    }

    /// Why positions `[p0, p1)` cannot be removed; null when they can.
    pub fn remove_refusal(pool: *const AttentionPool, sequence: u32, p0: i32, p1: i32) ?[]const u8 {
        const s = &pool.sequences[sequence];
        if (p0 <= s.min and p1 >= s.end) return null;
        if (p0 >= s.end or p1 <= s.min) return null;
        if (p1 < s.end) {
            return if (p0 > s.min) "a range in the middle would leave a hole" else if (pool.extent == .all)
                null
            else
                "the head of a window cannot be removed";
        }
        if (s.min > pool.lowest_seen(p0)) return "its window no longer reaches back that far";
        return null;
    }

    /// Removes positions `[p0, p1)`; `remove_refusal` was asked first.
    pub fn remove(pool: *AttentionPool, sequence: u32, p0: i32, p1: i32) void {
        assert(pool.remove_refusal(sequence, p0, p1) == null);
        const s = &pool.sequences[sequence];
        if (p0 >= s.end or p1 <= s.min) return;
        if (p0 <= s.min and p1 >= s.end) return pool.clear(sequence);
        if (p1 < s.end) pool.drop_head(s, p1) else pool.truncate(s, p0);
    }

    pub fn clear(pool: *AttentionPool, sequence: u32) void {
        const s = &pool.sequences[sequence];
        for (s.list.items) |block| pool.blocks.release(block);
        s.list.clearRetainingCapacity();
        s.start = 0;
        s.min = 0;
        s.end = 0;
    }

    /// Makes `destination`, which is empty, hold what `source` holds, by sharing its blocks.
    pub fn copy(pool: *AttentionPool, source: u32, destination: u32) error{OutOfMemory}!void {
        const from = &pool.sequences[source];
        const to = &pool.sequences[destination];
        assert(to.list.items.len == 0);
        try to.list.appendSlice(pool.gpa, from.list.items);
        for (from.list.items) |block| pool.blocks.retain(block);
        to.start = from.start;
        to.min = from.min;
        to.end = from.end;
    }

    fn truncate(pool: *AttentionPool, s: *Sequence, end: i32) void {
        assert(end >= s.min and end <= s.end);
        s.end = end;
        while (s.list.items.len > 0 and s.position_past_blocks() - block_cells >= end) {
            pool.blocks.release(s.list.pop().?);
        }
    }

    fn drop_head(pool: *AttentionPool, s: *Sequence, min: i32) void {
        s.min = @max(s.min, min);
        const whole: usize = @intCast(@divFloor(s.min - s.start, block_cells));
        if (whole == 0) return;
        for (s.list.items[0..whole]) |block| pool.blocks.release(block);
        s.list.replaceRangeAssumeCapacity(0, whole, &.{});
        s.start += @intCast(whole * block_cells);
    }

    // ---- batches ----

    /// Counts what the sub-batches of a batch need, one after the other, without touching the pool.
    pub const Estimate = struct {
        free: i64,
        lacking: i64 = 0,
        ends: []i32,
        owned_from: []i32,
        /// Sequences of earlier runs that leave a shared last block to its other owners.
        copied: std.ArrayList(u32) = .empty,

        pub fn deinit(estimate: *Estimate, gpa: std.mem.Allocator) void {
            gpa.free(estimate.ends);
            gpa.free(estimate.owned_from);
            estimate.copied.deinit(gpa);
        }
    };

    pub fn estimate_begin(pool: *const AttentionPool, gpa: std.mem.Allocator) error{OutOfMemory}!Estimate {
        const ends = try gpa.alloc(i32, pool.sequences.len);
        errdefer gpa.free(ends);
        const starts = try gpa.alloc(i32, pool.sequences.len);
        errdefer gpa.free(starts);
        for (pool.sequences, ends, starts) |s, *end, *start| {
            end.* = s.end;
            start.* = s.start;
        }
        return .{
            .free = pool.blocks.free_count,
            .ends = ends,
            .owned_from = starts,
            .copied = try .initCapacity(gpa, pool.sequences.len),
        };
    }

    /// Adds one sub-batch to the estimate.
    pub fn estimate_add(pool: *const AttentionPool, estimate: *Estimate, runs: []const Run) void {
        for (runs) |run| {
            const s = &pool.sequences[run.sequence];
            const end = estimate.ends[run.sequence];
            const count: i32 = @intCast(run.count);
            var needed = blocks_between(estimate.owned_from[run.sequence], end + count) -
                blocks_between(estimate.owned_from[run.sequence], end);
            if (end == s.end and pool.copies_tail(estimate, s)) {
                estimate.copied.appendAssumeCapacity(run.sequence);
                needed += 1;
            }
            estimate.free -= needed;
            estimate.ends[run.sequence] = end + count;
        }
        estimate.lacking = @max(estimate.lacking, -estimate.free);
        if (pool.extent == .all) return;
        for (runs) |run| { // what the step pushes out of the window comes back before the next one
            const keep = pool.lowest_seen(estimate.ends[run.sequence]);
            const start = estimate.owned_from[run.sequence];
            const whole = @divFloor(@max(keep - start, 0), block_cells);
            const s = &pool.sequences[run.sequence];
            for (0..@intCast(whole)) |i| {
                const from_list = @divFloor(start - s.start, block_cells) + @as(i32, @intCast(i));
                const own = from_list >= s.list.items.len or !pool.blocks.is_shared(s.list.items[@intCast(from_list)]);
                if (own) estimate.free += 1;
            }
            estimate.owned_from[run.sequence] = start + whole * block_cells;
        }
    }

    /// Whether a sequence must copy its last block to write on: others own it too, that have not copied it before.
    fn copies_tail(pool: *const AttentionPool, estimate: *const Estimate, s: *const Sequence) bool {
        if (!pool.tail_is_shared(s)) return false;
        const tail = s.list.getLast();
        var owners = pool.blocks.references[tail];
        for (estimate.copied.items) |other| owners -= @intFromBool(pool.sequences[other].list.getLast() == tail);
        return owners > 1;
    }

    fn blocks_between(start: i32, end: i32) i32 {
        return @divFloor(end - start + block_cells - 1, block_cells);
    }

    fn tail_is_shared(pool: *const AttentionPool, s: *const Sequence) bool {
        if (s.list.items.len == 0 or s.position_past_blocks() == s.end) return false;
        return pool.blocks.is_shared(s.list.items[s.list.items.len - 1]);
    }

    /// What one sub-batch does to this pool, and what its kernels read.
    pub const Plan = struct {
        /// The cell that each row writes.
        cells: std.ArrayList(i64) = .empty,
        rows: std.ArrayList(Row) = .empty,
        spans: std.ArrayList(Span) = .empty,
        /// Run `i` reads `spans[span_offsets[i]..span_offsets[i + 1]]`.
        span_offsets: std.ArrayList(u32) = .empty,
        /// Blocks whose cells must be copied before anything is written.
        copies: std.ArrayList(Copy) = .empty,

        pub const Copy = struct { from: Block, to: Block };

        pub fn deinit(plan: *Plan, gpa: std.mem.Allocator) void {
            plan.cells.deinit(gpa);
            plan.rows.deinit(gpa);
            plan.spans.deinit(gpa);
            plan.span_offsets.deinit(gpa);
            plan.copies.deinit(gpa);
        }

        /// Makes room for everything that `apply` will add, so that `apply` cannot fail.
        pub fn reserve(plan: *Plan, gpa: std.mem.Allocator, pool: *AttentionPool, runs: []const Run) error{OutOfMemory}!void {
            var rows: usize = 0;
            var spans: usize = 0;
            for (runs) |run| {
                rows += run.count;
                const s = &pool.sequences[run.sequence];
                const added = run.count / block_cells + 2;
                spans += s.list.items.len + added;
                try s.list.ensureUnusedCapacity(pool.gpa, added);
            }
            plan.cells.clearRetainingCapacity();
            plan.rows.clearRetainingCapacity();
            plan.spans.clearRetainingCapacity();
            plan.span_offsets.clearRetainingCapacity();
            plan.copies.clearRetainingCapacity();
            try plan.cells.ensureTotalCapacity(gpa, rows);
            try plan.rows.ensureTotalCapacity(gpa, rows);
            try plan.spans.ensureTotalCapacity(gpa, spans);
            try plan.span_offsets.ensureTotalCapacity(gpa, runs.len + 1);
            try plan.copies.ensureTotalCapacity(gpa, runs.len);
        }
    };

    /// Makes the runs' tokens part of their sequences. The estimate has shown that there is room, and the plan was
    /// reserved. `commit` or `revert` follows.
    pub fn apply(pool: *AttentionPool, plan: *Plan, runs: []const Run) void {
        plan.span_offsets.appendAssumeCapacity(0);
        for (runs, 0..) |run, i| {
            const s = &pool.sequences[run.sequence];
            assert(run.first_position == s.end);
            if (pool.tail_is_shared(s)) pool.own_tail(plan, s);
            s.end += @intCast(run.count);
            while (s.position_past_blocks() < s.end) {
                s.list.appendAssumeCapacity(pool.blocks.take(s.list.getLastOrNull()).?);
            }
            pool.plan_rows(plan, s, run, @intCast(i));
            pool.plan_spans(plan, s, run);
        }
    }

    fn own_tail(pool: *AttentionPool, plan: *Plan, s: *Sequence) void {
        const last = s.list.items.len - 1;
        const from = s.list.items[last];
        const to = pool.blocks.take(if (last > 0) s.list.items[last - 1] else null).?;
        pool.blocks.release(from);
        s.list.items[last] = to;
        plan.copies.appendAssumeCapacity(.{ .from = from, .to = to });
    }

    fn plan_rows(pool: *AttentionPool, plan: *Plan, s: *const Sequence, run: Run, index: u32) void {
        for (0..run.count) |k| {
            const position = run.first_position + @as(i32, @intCast(k));
            plan.cells.appendAssumeCapacity(cell_of(s, position));
            plan.rows.appendAssumeCapacity(.{
                .sequence = index,
                .low = @max(s.min, pool.lowest_seen(position)),
                .high = position,
            });
        }
    }

    fn plan_spans(pool: *AttentionPool, plan: *Plan, s: *const Sequence, run: Run) void {
        const first = plan.spans.items.len;
        var position = @max(s.min, pool.lowest_seen(run.first_position));
        while (position < s.end) {
            const cell: u32 = @intCast(cell_of(s, position));
            const in_block: i32 = block_cells - @as(i32, @intCast(cell % block_cells));
            const count: u32 = @intCast(@min(in_block, s.end - position));
            const spans = plan.spans.items;
            if (spans.len > first and spans[spans.len - 1].first_cell + spans[spans.len - 1].count == cell) {
                spans[spans.len - 1].count += count;
            } else {
                plan.spans.appendAssumeCapacity(.{ .first_cell = cell, .count = count, .first_position = position });
            }
            position += @intCast(count);
        }
        plan.span_offsets.appendAssumeCapacity(@intCast(plan.spans.items.len));
    }

    fn cell_of(s: *const Sequence, position: i32) i64 {
        const offset: usize = @intCast(position - s.start);
        return @as(i64, s.list.items[offset / block_cells]) * block_cells + @as(i64, @intCast(offset % block_cells));
    }

    /// The sub-batch was computed: what no later token sees is let go.
    pub fn commit(pool: *AttentionPool, plan: *Plan, runs: []const Run) void {
        _ = plan;
        if (pool.extent == .all) return;
        for (runs) |run| {
            const s = &pool.sequences[run.sequence];
            pool.drop_head(s, pool.lowest_seen(s.end));
        }
    }

    /// The sub-batch was not computed: its sequences end where they ended before it.
    pub fn revert(pool: *AttentionPool, plan: *Plan, runs: []const Run) void {
        _ = plan;
        for (runs) |run| {
            const s = &pool.sequences[run.sequence];
            if (run.first_position == 0) pool.clear(run.sequence) else pool.truncate(s, run.first_position);
        }
    }
};

const testing = std.testing;

fn test_pool(extent: declaration.Extent, window: u32) !AttentionPool {
    return .init(testing.allocator, .{ .extent = extent, .window = window, .sequences = 2, .context = 512, .batch = 128 });
}

fn test_step(pool: *AttentionPool, plan: *AttentionPool.Plan, runs: []const Run) !void {
    var estimate = try pool.estimate_begin(testing.allocator);
    defer estimate.deinit(testing.allocator);
    pool.estimate_add(&estimate, runs);
    try testing.expectEqual(0, estimate.lacking);
    try plan.reserve(testing.allocator, pool, runs);
    pool.apply(plan, runs);
}

test "a sequence grows block by block, and what is shared is copied before it is written" {
    var pool = try test_pool(.all, 0);
    defer pool.deinit();
    var plan: AttentionPool.Plan = .{};
    defer plan.deinit(testing.allocator);
    const total = pool.blocks.free_count;

    try test_step(&pool, &plan, &.{.{ .sequence = 0, .first_row = 0, .count = 100, .first_position = 0 }});
    pool.commit(&plan, &.{});
    try testing.expectEqual(total - 2, pool.blocks.free_count);
    try testing.expectEqual(1, plan.spans.items.len);
    try testing.expectEqual(Row{ .sequence = 0, .low = 0, .high = 99 }, plan.rows.items[99]);

    try pool.copy(0, 1);
    try testing.expectEqual(total - 2, pool.blocks.free_count);
    const next: Run = .{ .sequence = 1, .first_row = 0, .count = 1, .first_position = 100 };
    try test_step(&pool, &plan, &.{next});
    try testing.expectEqual(1, plan.copies.items.len);
    try testing.expectEqual(total - 3, pool.blocks.free_count);
    pool.revert(&plan, &.{next});
    try testing.expectEqual(100, pool.held(1).end);

    pool.clear(0);
    pool.clear(1);
    try testing.expectEqual(total, pool.blocks.free_count);
}

test "of two that share their last block, one copies it" {
    var pool: AttentionPool = try .init(testing.allocator, .{
        .extent = .all,
        .window = 0,
        .sequences = 2,
        .context = block_cells,
        .batch = block_cells,
    });
    defer pool.deinit();
    var plan: AttentionPool.Plan = .{};
    defer plan.deinit(testing.allocator);
    try test_step(&pool, &plan, &.{.{ .sequence = 0, .first_row = 0, .count = 10, .first_position = 0 }});
    try pool.copy(0, 1);
    try test_step(&pool, &plan, &.{
        .{ .sequence = 0, .first_row = 0, .count = 1, .first_position = 10 },
        .{ .sequence = 1, .first_row = 1, .count = 1, .first_position = 10 },
    });
    try testing.expectEqual(1, plan.copies.items.len);
    try testing.expectEqual(0, pool.blocks.free_count);
}

test "a window lets go what no later token sees, and only after the step" {
    var pool = try test_pool(.sliding, 64);
    defer pool.deinit();
    var plan: AttentionPool.Plan = .{};
    defer plan.deinit(testing.allocator);
    var position: i32 = 0;
    while (position < 480) : (position += 96) {
        const run: Run = .{ .sequence = 0, .first_row = 0, .count = 96, .first_position = position };
        try test_step(&pool, &plan, &.{run});
        try testing.expectEqual(@max(0, position - 63), plan.rows.items[0].low);
        try testing.expectEqual(@max(0, position - 63), plan.spans.items[0].first_position);
        pool.commit(&plan, &.{run});
    }
    try testing.expectEqual(480 - 63, pool.held(0).min);
    try testing.expect(pool.sequences[0].list.items.len <= 2);
    try testing.expect(pool.remove_refusal(0, 479, 480) != null);
    try testing.expectEqual(null, pool.remove_refusal(0, 0, 480));
}

test "what was not computed is taken back where a chunk has just ended and nothing is seen" {
    for ([_]struct { declaration.Extent, u32 }{ .{ .chunked, 64 }, .{ .sliding, 1 } }) |case| {
        var pool = try test_pool(case[0], case[1]);
        defer pool.deinit();
        var plan: AttentionPool.Plan = .{};
        defer plan.deinit(testing.allocator);
        const first: Run = .{ .sequence = 0, .first_row = 0, .count = 64, .first_position = 0 };
        try test_step(&pool, &plan, &.{first});
        pool.commit(&plan, &.{first});
        try testing.expectEqual(64, pool.held(0).min);
        const next: Run = .{ .sequence = 0, .first_row = 0, .count = 3, .first_position = 64 };
        try test_step(&pool, &plan, &.{next});
        pool.revert(&plan, &.{next});
        try testing.expectEqual(64, pool.held(0).end);
        try test_step(&pool, &plan, &.{next});
        try testing.expectEqual(67, pool.held(0).end);
    }
}

test "a full pool is seen before anything changes" {
    var pool = try test_pool(.all, 0);
    defer pool.deinit();
    var estimate = try pool.estimate_begin(testing.allocator);
    defer estimate.deinit(testing.allocator);
    pool.estimate_add(&estimate, &.{.{ .sequence = 0, .first_row = 0, .count = 1200, .first_position = 0 }});
    try testing.expectEqual(3, estimate.lacking);
    try testing.expectEqual(16, pool.blocks.free_count);
}
