//! What a sub-batch does to an attention pool: the cells that its rows write and see, and how it ends, computed or not.

const std = @import("std");
const assert = std.debug.assert;
const attention_pool = @import("attention_pool.zig");
const batch = @import("batch.zig");
const kernel = @import("kernels/attention.zig");
const AttentionPool = attention_pool.AttentionPool;
const Piece = attention_pool.Piece;
const CellCopy = attention_pool.CellCopy;
const Block = @import("blocks.zig").Block;
const Cursor = @import("pieces.zig").Cursor;
const Run = batch.Run;
const Span = kernel.Span;
const Row = kernel.Row;

const block_cells = attention_pool.block_cells;

/// What one sub-batch does to this pool, and what its kernels read.
pub const Plan = struct {
    /// The cell that each row writes.
    cells: std.ArrayList(i64) = .empty,
    rows: std.ArrayList(Row) = .empty,
    spans: std.ArrayList(Span) = .empty,
    /// Run `i` reads `spans[span_offsets[i]..span_offsets[i + 1]]`.
    span_offsets: std.ArrayList(u32) = .empty,
    /// Cells that must be copied before anything is written.
    copies: std.ArrayList(CellCopy) = .empty,
    /// Of each run, the block that it writes on in and how far that was filled before.
    tails: std.ArrayList(?Filled) = .empty,

    const Filled = struct { block: Block, filled: u32 };

    pub fn cell_copies(plan: *const Plan) []const CellCopy {
        return plan.copies.items;
    }

    pub fn deinit(plan: *Plan, gpa: std.mem.Allocator) void {
        inline for (@typeInfo(Plan).@"struct".field_names) |name| @field(plan, name).deinit(gpa);
    }

    /// Makes room for everything that `apply` and `commit` will add, so that they cannot fail.
    pub fn reserve(plan: *Plan, gpa: std.mem.Allocator, pool: *AttentionPool, runs: []const Run) error{OutOfMemory}!void {
        var rows: usize = 0;
        var spans: usize = 0;
        var copies: usize = runs.len;
        for (runs) |run| {
            rows += run.count;
            const h = &pool.holders[run.sequence];
            const added = run.count / block_cells + 2;
            spans += h.pieces.items.len + added;
            try h.pieces.ensureUnusedCapacity(pool.gpa, added);
            for (run.marks) |mark| {
                const pieces = pool.pieces_when_copied(h) + 2 * added;
                try pool.holders[mark.holder].pieces.ensureTotalCapacity(pool.gpa, pieces);
                if (pool.config.separate) copies += pieces;
            }
        }
        inline for (@typeInfo(Plan).@"struct".field_names) |name| @field(plan, name).clearRetainingCapacity();
        try plan.cells.ensureTotalCapacity(gpa, rows);
        try plan.rows.ensureTotalCapacity(gpa, rows);
        try plan.spans.ensureTotalCapacity(gpa, spans);
        try plan.span_offsets.ensureTotalCapacity(gpa, runs.len + 1);
        try plan.copies.ensureTotalCapacity(gpa, copies);
        try plan.tails.ensureTotalCapacity(gpa, runs.len);
    }
};

/// Makes the runs' tokens part of their sequences. The estimate has shown that there is room, and the plan was
/// reserved. `commit` or `revert` follows.
pub fn apply(pool: *AttentionPool, plan: *Plan, runs: []const Run) void {
    plan.span_offsets.appendAssumeCapacity(0);
    for (runs, 0..) |run, i| {
        const h = &pool.holders[run.sequence];
        assert(run.first_position == h.end);
        own_tail(pool, plan, run.sequence);
        extend(pool, run.sequence, run.count);
        plan_rows(pool, plan, h, run, @intCast(i));
    }
}

/// Makes sure that the sequence's last block, if it is not full, can be written on.
fn own_tail(pool: *AttentionPool, plan: *Plan, sequence: u32) void {
    const h = &pool.holders[sequence];
    plan.tails.appendAssumeCapacity(null);
    if (h.pieces.items.len == 0) return;
    const last = &h.pieces.items[h.pieces.items.len - 1];
    const used = last.offset + last.count;
    if (used == pool.blocks.filled[last.block]) {
        if (used < block_cells) plan.tails.items[plan.tails.items.len - 1] = .{ .block = last.block, .filled = used };
        return;
    }
    if (last.count == block_cells) return;
    const block = pool.blocks.take_in(pool.region(sequence), last.block).?;
    pool.blocks.filled[block] = last.count;
    const own: Piece = .{ .block = block, .offset = 0, .count = last.count, .position = last.position };
    plan.copies.appendAssumeCapacity(.{ .from = last.first_cell(), .to = own.first_cell(), .count = last.count });
    pool.blocks.release(last.block);
    last.* = own;
}

fn extend(pool: *AttentionPool, sequence: u32, total: u32) void {
    const h = &pool.holders[sequence];
    if (h.pieces.items.len == 0) h.min = h.end;
    var left = total;
    if (h.pieces.items.len > 0) {
        const last = &h.pieces.items[h.pieces.items.len - 1];
        const used = last.offset + last.count;
        if (used == pool.blocks.filled[last.block]) {
            const count = @min(left, block_cells - used);
            last.count += count;
            pool.blocks.filled[last.block] = used + count;
            left -= count;
        }
    }
    var position = h.end + @as(i32, @intCast(total - left));
    while (left > 0) {
        const count = @min(left, block_cells);
        const previous = if (h.pieces.getLastOrNull()) |last| last.block else null;
        const block = pool.blocks.take_in(pool.region(sequence), previous).?;
        pool.blocks.filled[block] = count;
        h.pieces.appendAssumeCapacity(.{ .block = block, .offset = 0, .count = count, .position = position });
        position += @intCast(count);
        left -= count;
    }
    h.end += @intCast(total);
}

/// Of each row its cell and what it sees, and the spans of cells from the first one that any row sees.
fn plan_rows(pool: *const AttentionPool, plan: *Plan, h: *const AttentionPool.Holder, run: Run, index: u32) void {
    const pieces = h.pieces.items;
    var seen: Cursor = .{ .pieces = pieces, .number = h.dropped };
    seen.seek(pool.lowest_seen(run.first_position));
    plan_spans(plan, pieces, seen);
    var own = seen;
    own.seek(run.first_position);
    for (0..run.count) |k| {
        const position = run.first_position + @as(i32, @intCast(k));
        seen.seek(pool.lowest_seen(position));
        own.seek(position);
        const at = pieces[own.index];
        plan.cells.appendAssumeCapacity(at.first_cell() + @as(u32, @intCast(position - at.position)));
        plan.rows.appendAssumeCapacity(.{
            .sequence = index,
            .low = seen.at(pool.lowest_seen(position)),
            .high = own.at(position),
        });
    }
}

fn plan_spans(plan: *Plan, pieces: []const Piece, from: Cursor) void {
    const first = plan.spans.items.len;
    var number = from.number;
    for (pieces[from.index..], from.index..) |piece, i| {
        var skipped: u32 = 0;
        if (i == from.index and from.low > piece.position) skipped = @intCast(from.low - piece.position);
        number += @intCast(skipped);
        const cell = piece.first_cell() + skipped;
        const count = piece.count - skipped;
        const spans = plan.spans.items;
        if (spans.len > first and spans[spans.len - 1].first_cell + spans[spans.len - 1].count == cell) {
            spans[spans.len - 1].count += count;
        } else {
            plan.spans.appendAssumeCapacity(.{ .first_cell = cell, .count = count, .first_position = number });
        }
        number += @intCast(count);
    }
    plan.span_offsets.appendAssumeCapacity(@intCast(plan.spans.items.len));
}

/// The sub-batch was computed: marks become snapshots, and what no later token sees is let go. The plan then lists
/// the cells that must be copied for the snapshots.
pub fn commit(pool: *AttentionPool, plan: *Plan, runs: []const Run) void {
    plan.copies.clearRetainingCapacity();
    for (runs) |run| {
        for (run.marks) |mark| {
            // The plan was reserved for them, and snapshots have blocks of their own.
            pool.copy_reserved(run.sequence, mark.holder, mark.position, mark.stamp, &plan.copies);
        }
        const h = &pool.holders[run.sequence];
        h.stamp = run.stamp();
        if (pool.lets_go()) drop_head(pool, h, pool.lowest_kept(h.end));
    }
}

fn drop_head(pool: *AttentionPool, h: *AttentionPool.Holder, min: i32) void {
    var gone: usize = 0;
    for (h.pieces.items) |*piece| {
        if (piece.end() <= min) {
            pool.blocks.release(piece.block);
            h.dropped += @intCast(piece.count);
            h.whole_from = min;
            gone += 1;
        } else if (piece.position < min) {
            h.dropped += min - piece.position;
            h.whole_from = min;
            piece.* = piece.part(min, piece.end());
        } else break;
    }
    h.pieces.replaceRangeAssumeCapacity(0, gone, &.{});
    h.min = if (h.pieces.items.len > 0) h.pieces.items[0].position else h.end;
}

/// The sub-batch was not computed: its sequences end where they ended before it.
pub fn revert(pool: *AttentionPool, plan: *Plan, runs: []const Run) void {
    for (runs, plan.tails.items) |run, tail| {
        const h = &pool.holders[run.sequence];
        while (h.pieces.getLastOrNull()) |last| {
            if (last.position < run.first_position) break;
            pool.blocks.release(last.block);
            _ = h.pieces.pop();
        }
        if (h.pieces.items.len > 0) {
            const last = &h.pieces.items[h.pieces.items.len - 1];
            if (last.end() > run.first_position) last.* = last.part(last.position, run.first_position);
            if (tail) |filled| pool.blocks.filled[filled.block] = filled.filled else pool.lower_fill(last.*, last.end());
        }
        h.end = run.first_position;
        if (h.pieces.items.len == 0) h.min = h.end;
    }
}

const testing = std.testing;
const sample = @import("attention_sample.zig");

test "a sequence grows block by block, and the second to write on in a shared block copies it" {
    var pool = try sample.pool(.all, 0);
    defer pool.deinit();
    var plan: Plan = .{};
    defer plan.deinit(testing.allocator);
    const total = pool.blocks.free_count;

    try sample.step(&pool, &plan, &.{.{ .sequence = 0, .first_row = 0, .count = 100, .first_position = 0 }});
    pool.commit(&plan, &.{.{ .sequence = 0, .first_row = 0, .count = 100, .first_position = 0 }});
    try testing.expectEqual(total - 2, pool.blocks.free_count);
    try testing.expectEqual(1, plan.spans.items.len);
    try testing.expectEqual(Row{ .sequence = 0, .low = 0, .high = 99 }, plan.rows.items[99]);

    try sample.share(&pool, 0, 1);
    try testing.expectEqual(total - 2, pool.blocks.free_count);
    // One of the two writes on in place, the other in a copy.
    const both = [_]Run{
        .{ .sequence = 1, .first_row = 0, .count = 1, .first_position = 100 },
        .{ .sequence = 0, .first_row = 1, .count = 1, .first_position = 100 },
    };
    try sample.step(&pool, &plan, &both);
    try testing.expectEqual(1, plan.copies.items.len);
    try testing.expectEqual(36, plan.copies.items[0].count);
    try testing.expectEqual(total - 3, pool.blocks.free_count);
    pool.revert(&plan, &both);
    try testing.expectEqual(100, pool.held(1).end);
    // Again the first of them may write on in place.
    try sample.step(&pool, &plan, both[0..1]);
    try testing.expectEqual(0, plan.copies.items.len);

    pool.clear(0);
    pool.clear(1);
    try testing.expectEqual(total, pool.blocks.free_count);
}

test "a window lets go what no later token sees, and only after the step" {
    var pool = try sample.pool(.sliding, 64);
    defer pool.deinit();
    var plan: Plan = .{};
    defer plan.deinit(testing.allocator);
    var position: i32 = 0;
    while (position < 480) : (position += 96) {
        const marks = [_]batch.Mark{.{ .position = position + 90, .holder = 2 }};
        const run: Run = .{ .sequence = 0, .first_row = 0, .count = 96, .first_position = position, .marks = &marks };
        pool.clear(2);
        try sample.step(&pool, &plan, &.{run});
        try testing.expectEqual(@max(0, position - 63), plan.rows.items[0].low);
        try testing.expectEqual(@max(0, position - 63), plan.spans.items[0].first_position);
        pool.commit(&plan, &.{run});
        try testing.expectEqual(batch.Range{ .min = @max(0, position + 27), .end = position + 90 }, pool.held(2));
    }
    try testing.expectEqual(480 - 63, pool.held(0).min);
    try testing.expect(pool.holders[0].pieces.items.len <= 2);
    try testing.expect(pool.remove_refusal(0, 479, 480) != null);
}

test "a window keeps what a rollback needs" {
    var pool: AttentionPool = try .init(testing.allocator, .{
        .extent = .sliding,
        .window = 16,
        .sequences = 1,
        .context = 512,
        .batch = 8,
        .rollback = 5,
    });
    defer pool.deinit();
    var plan: Plan = .{};
    defer plan.deinit(testing.allocator);
    var position: i32 = 0;
    while (position < 400) : (position += 8) {
        const run: Run = .{ .sequence = 0, .first_row = 0, .count = 8, .first_position = position };
        try sample.step(&pool, &plan, &.{run});
        pool.commit(&plan, &.{run});
    }
    try testing.expectEqual(null, pool.remove_refusal(0, 395, 400));
    try testing.expect(pool.remove_refusal(0, 394, 400) != null);
    try sample.remove(&pool, 0, 395, 400);
    try testing.expectEqual(batch.Range{ .min = 380, .end = 395 }, pool.held(0));
}
