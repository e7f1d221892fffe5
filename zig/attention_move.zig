//! Moving positions in the books of an attention pool. The keys of the cells that move are turned by the memory.

const std = @import("std");
const assert = std.debug.assert;
const attention_pool = @import("attention_pool.zig");
const Move = @import("history.zig").Move;
const AttentionPool = attention_pool.AttentionPool;
const Piece = attention_pool.Piece;
const CellCopy = attention_pool.CellCopy;
const Packer = @import("attention_packer.zig").Packer;
const Parts = @import("attention_packer.zig").Parts;

/// A cell whose key is to be turned by so many positions.
pub const CellTurn = struct { cell: u32, distance: i32 };

/// Why positions `[p0, p1)` cannot be moved; null when they can.
pub fn refusal(pool: *const AttentionPool, holder: u32, _: i32, p0: i32, p1: i32, how: Move) ?[]const u8 {
    const h = &pool.holders[holder];
    // A window may have let go everything, and still ends where the sequence does.
    const is_past = p0 >= h.end or p1 <= h.min;
    if (h.dropped > 0 and (p1 >= h.end or !is_past)) return "positions before its window are gone; load with whole windows to move positions";
    // What was let go can move as well, but not to where it would be seen.
    const out_of_sight = @min(h.whole_from, pool.lowest_seen(h.end));
    if (h.dropped > 0 and how.apply(p1 - 1) >= out_of_sight) return "positions that its window let go would be seen again";
    if (h.min == h.end or is_past) return null;
    if (how == .divide and pool.lets_go()) return "a window cannot be divided";
    const first = @max(p0, h.min);
    const last = @min(p1, h.end) - 1;
    if (how.apply(first) < 0) return "positions would become negative";
    for (h.pieces.items) |piece| {
        if (piece.position < first and @min(piece.end(), first) > how.apply(first)) return "positions would overlap those before";
        if (piece.end() > last + 1 and @max(piece.position, last + 1) <= how.apply(last)) return "positions would overlap those behind";
    }
    return null;
}

/// Whether there is room to make positions `[p0, p1)` the holder's own.
pub fn can_own(pool: *const AttentionPool, holder: u32, p0: i32, p1: i32) error{OutOfMemory}!bool {
    const h = &pool.holders[holder];
    var parts: Parts = try .init(pool.gpa, h.pieces.items);
    defer parts.deinit(pool.gpa);
    var cells: i32 = 0;
    for (h.pieces.items) |piece| if (parts.is_foreign(pool, piece.block)) {
        cells += @max(0, @min(piece.end(), p1) - @max(piece.position, p0));
    };
    return AttentionPool.blocks_for(@intCast(cells)) <= pool.blocks.free_in(pool.region(holder));
}

/// Makes positions `[p0, p1)` the holder's own, since their keys will be turned: what is shared is copied first.
/// `can_own` was asked.
pub fn own_range(
    pool: *AttentionPool,
    holder: u32,
    p0: i32,
    p1: i32,
    copies: *std.ArrayList(CellCopy),
) error{OutOfMemory}!void {
    try split_at(pool, holder, p0);
    try split_at(pool, holder, p1);
    const h = &pool.holders[holder];
    var parts: Parts = try .init(pool.gpa, h.pieces.items);
    defer parts.deinit(pool.gpa);
    var pieces: usize = 0;
    for (h.pieces.items) |piece| pieces += @intFromBool(is_in(piece, p0, p1) and parts.is_foreign(pool, piece.block));
    if (pieces == 0) return;
    var owned: std.ArrayList(Piece) = try .initCapacity(pool.gpa, h.pieces.items.len + pieces);
    errdefer owned.deinit(pool.gpa);
    try copies.ensureUnusedCapacity(pool.gpa, 2 * pieces);
    var packer: Packer = .{};
    for (h.pieces.items) |piece| {
        if (is_in(piece, p0, p1) and parts.is_foreign(pool, piece.block)) {
            const has_room = packer.put(pool, holder, piece, &owned, copies);
            assert(has_room);
        } else owned.appendAssumeCapacity(piece);
    }
    // Only now: whether somebody else owns a block is asked by how often it is owned.
    for (h.pieces.items) |piece| if (is_in(piece, p0, p1) and parts.is_foreign(pool, piece.block)) {
        const part = parts.of.getPtr(piece.block).?;
        part.pieces -= 1;
        pool.blocks.release(piece.block);
    };
    h.pieces.deinit(pool.gpa);
    h.pieces = owned;
}

fn is_in(piece: Piece, p0: i32, p1: i32) bool {
    return piece.position >= p0 and piece.end() <= p1;
}

fn split_at(pool: *AttentionPool, holder: u32, position: i32) error{OutOfMemory}!void {
    const h = &pool.holders[holder];
    for (h.pieces.items, 0..) |piece, i| {
        if (position <= piece.position or position >= piece.end()) continue;
        try h.pieces.insert(pool.gpa, i + 1, piece.part(position, piece.end()));
        h.pieces.items[i] = piece.part(piece.position, position);
        pool.blocks.retain(piece.block);
        return;
    }
}

/// Moves positions `[p0, p1)`; `refusal` was asked and `own_range` called first. Adds the cells to be turned.
pub fn run(
    pool: *AttentionPool,
    holder: u32,
    p0: i32,
    p1: i32,
    how: Move,
    turns: *std.ArrayList(CellTurn),
) error{OutOfMemory}!void {
    const h = &pool.holders[holder];
    var piece_count: usize = 0;
    var turn_count: usize = 0;
    for (h.pieces.items) |piece| {
        const moves = is_in(piece, p0, p1);
        piece_count += if (moves and how == .divide) piece.count else 1;
        turn_count += if (moves) piece.count else 0;
    }
    var moved: std.ArrayList(Piece) = try .initCapacity(pool.gpa, piece_count);
    errdefer moved.deinit(pool.gpa);
    try turns.ensureUnusedCapacity(pool.gpa, turn_count);
    for (h.pieces.items) |piece| {
        if (!is_in(piece, p0, p1)) {
            moved.appendAssumeCapacity(piece);
            continue;
        }
        for (0..piece.count) |i| {
            const position = piece.position + @as(i32, @intCast(i));
            const distance = how.apply(position) - position;
            turns.appendAssumeCapacity(.{ .cell = piece.first_cell() + @as(u32, @intCast(i)), .distance = distance });
        }
        switch (how) {
            .shift => {
                var whole = piece;
                whole.position = how.apply(piece.position);
                moved.appendAssumeCapacity(whole);
            },
            .divide => divide_piece(pool, piece, how, &moved),
        }
    }
    h.pieces.deinit(pool.gpa);
    h.pieces = moved;
    pool.find_ends(h, h.end);
}

/// Each cell becomes a piece of its own; room was reserved.
fn divide_piece(pool: *AttentionPool, piece: Piece, how: Move, pieces: *std.ArrayList(Piece)) void {
    for (0..piece.count) |i| {
        const offset: u32 = @intCast(i);
        pieces.appendAssumeCapacity(.{
            .block = piece.block,
            .offset = piece.offset + offset,
            .count = 1,
            .position = how.apply(piece.position + @as(i32, @intCast(i))),
        });
        if (i > 0) pool.blocks.retain(piece.block);
    }
}

const testing = std.testing;
const batch = @import("batch.zig");
const Row = @import("kernels/attention.zig").Row;
const sample = @import("attention_sample.zig");

test "a middle goes, what follows closes up, and kernels number the cells without gaps" {
    var pool = try sample.pool(.all, 0);
    defer pool.deinit();
    var plan: AttentionPool.Plan = .{};
    defer plan.deinit(testing.allocator);
    const total = pool.blocks.free_count;
    try sample.step(&pool, &plan, &.{.{ .sequence = 0, .first_row = 0, .count = 100, .first_position = 0 }});
    try sample.share(&pool, 0, 1);
    try sample.remove(&pool, 0, 10, 30);
    try testing.expectEqual(100, pool.held(0).end);
    try testing.expect(pool.move_refusal(0, 0, 30, 100, .{ .shift = -21 }) != null);
    try testing.expectEqual(null, pool.move_refusal(0, 0, 30, 100, .{ .shift = -20 }));

    var copies: std.ArrayList(CellCopy) = .empty;
    defer copies.deinit(testing.allocator);
    var turns: std.ArrayList(CellTurn) = .empty;
    defer turns.deinit(testing.allocator);
    try pool.own_range(0, 30, 100, &copies);
    try pool.move(0, 30, 100, .{ .shift = -20 }, &turns);
    try testing.expectEqual(70, turns.items.len);
    try testing.expectEqual(-20, turns.items[0].distance);
    try testing.expectEqual(batch.Range{ .min = 0, .end = 80 }, pool.held(0));
    try testing.expectEqual(100, pool.held(1).end);
    const next: batch.Run = .{ .sequence = 0, .first_row = 0, .count = 1, .first_position = 80 };
    try sample.step(&pool, &plan, &.{next});
    try testing.expectEqual(Row{ .sequence = 0, .low = 0, .high = 80 }, plan.rows.items[0]);
    pool.commit(&plan, &.{next});
    try sample.remove(&pool, 0, 40, -1 + 1000);
    try testing.expectEqual(40, pool.held(0).end);

    copies.clearRetainingCapacity();
    turns.clearRetainingCapacity();
    try pool.own_range(0, 0, 40, &copies);
    try pool.move(0, 0, 40, .{ .divide = 4 }, &turns);
    try testing.expectEqual(batch.Range{ .min = 0, .end = 10 }, pool.held(0));
    const after: batch.Run = .{ .sequence = 0, .first_row = 0, .count = 2, .first_position = 10 };
    try sample.step(&pool, &plan, &.{after});
    try testing.expectEqual(Row{ .sequence = 0, .low = 0, .high = 41 }, plan.rows.items[1]);
    pool.clear(0);
    pool.clear(1);
    try testing.expectEqual(total, pool.blocks.free_count);
}

test "what is divided and shared moves to as few blocks as it fills, or none is taken" {
    for ([_]bool{ true, false }) |has_room| {
        var pool = try sample.pool(.all, 0);
        defer pool.deinit();
        var plan: AttentionPool.Plan = .{};
        defer plan.deinit(testing.allocator);
        var copies: std.ArrayList(CellCopy) = .empty;
        defer copies.deinit(testing.allocator);
        var turns: std.ArrayList(CellTurn) = .empty;
        defer turns.deinit(testing.allocator);
        const first: batch.Run = .{ .sequence = 0, .first_row = 0, .count = 60, .first_position = 0 };
        try sample.step(&pool, &plan, &.{first});
        pool.commit(&plan, &.{first});
        try pool.own_range(0, 0, 60, &copies);
        try pool.move(0, 0, 60, .{ .divide = 2 }, &turns);
        try sample.share(&pool, 0, 1);
        const left: u32 = if (has_room) 1 else 0;
        while (pool.blocks.free_count > left) _ = pool.blocks.take(null).?;
        try testing.expectEqual(has_room, try pool.can_own(1, 0, 30));
        if (has_room) try pool.own_range(1, 0, 30, &copies);
        try testing.expectEqual(0, pool.blocks.free_count);
        try testing.expectEqual(@as(usize, if (has_room) 60 else 0), copies.items.len);
        for (pool.holders[1].pieces.items, 0..) |piece, i| {
            try testing.expectEqual(@as(i32, @intCast(i / 2)), piece.position);
            try testing.expectEqual(i, piece.offset);
        }
    }
}

test "sliding along by cutting and moving takes no more blocks, shared or separate" {
    for ([_]bool{ false, true }) |separate| {
        var pool: AttentionPool = try .init(testing.allocator, .{
            .extent = .all,
            .window = 0,
            .sequences = 2,
            .context = 96,
            .batch = 96,
            .separate = separate,
        });
        defer pool.deinit();
        var plan: AttentionPool.Plan = .{};
        defer plan.deinit(testing.allocator);
        var copies: std.ArrayList(CellCopy) = .empty;
        defer copies.deinit(testing.allocator);
        var turns: std.ArrayList(CellTurn) = .empty;
        defer turns.deinit(testing.allocator);
        const total = pool.blocks.free_count;
        const first: batch.Run = .{ .sequence = 0, .first_row = 0, .count = 90, .first_position = 0 };
        try sample.step(&pool, &plan, &.{first});
        pool.commit(&plan, &.{first});
        for (0..40) |_| {
            try sample.remove(&pool, 0, 4, 14);
            try pool.own_range(0, 14, 90, &copies);
            try pool.move(0, 14, 90, .{ .shift = -10 }, &turns);
            try pool.pack(0, &copies);
            const next: batch.Run = .{ .sequence = 0, .first_row = 0, .count = 10, .first_position = 80 };
            try sample.step(&pool, &plan, &.{next});
            pool.commit(&plan, &.{next});
            try testing.expectEqual(batch.Range{ .min = 0, .end = 90 }, pool.held(0));
        }
        try pool.copy(0, 1, 90, .{}, &copies);
        pool.clear(0);
        pool.clear(1);
        try testing.expectEqual(total, pool.blocks.free_count);
    }
}

test "what a window let go does not move to where it would be seen" {
    var pool = try sample.pool(.sliding, 16);
    defer pool.deinit();
    var plan: AttentionPool.Plan = .{};
    defer plan.deinit(testing.allocator);
    var copies: std.ArrayList(CellCopy) = .empty;
    defer copies.deinit(testing.allocator);
    var turns: std.ArrayList(CellTurn) = .empty;
    defer turns.deinit(testing.allocator);
    const first: batch.Run = .{ .sequence = 0, .first_row = 0, .count = 15, .first_position = 0 };
    try sample.step(&pool, &plan, &.{first});
    pool.commit(&plan, &.{first});
    // Positions 0 to 9, a hole, and 40 to 44, of which a step to 50 leaves those from 40 on.
    try pool.own_range(0, 10, 15, &copies);
    try pool.move(0, 10, 15, .{ .shift = 30 }, &turns);
    const next: batch.Run = .{ .sequence = 0, .first_row = 0, .count = 5, .first_position = 45 };
    try sample.step(&pool, &plan, &.{next});
    pool.commit(&plan, &.{next});
    try testing.expectEqual(batch.Range{ .min = 40, .end = 50 }, pool.held(0));
    try testing.expectEqual(null, pool.move_refusal(0, 0, 0, 10, .{ .shift = 24 }));
    try testing.expect(pool.move_refusal(0, 0, 0, 10, .{ .shift = 26 }) != null);
    try testing.expect(pool.move_refusal(0, 0, 0, 30, .{ .divide = 2 }) == null);
}
