//! Copying pieces of attention cells closer together: into blocks of a holder's own, without gaps.

const std = @import("std");
const assert = std.debug.assert;
const attention_pool = @import("attention_pool.zig");
const AttentionPool = attention_pool.AttentionPool;
const Piece = attention_pool.Piece;
const CellCopy = attention_pool.CellCopy;
const Block = @import("blocks.zig").Block;

const block_cells = attention_pool.block_cells;

/// Copies pieces to blocks of a holder's own, one after the other.
pub const Packer = struct {
    block: ?Block = null,
    used: u32 = block_cells,

    /// Adds the copy of a piece to `pieces`, and its cells to `copies`; there is room for two more of each. Changes
    /// nothing and returns false where no block is free.
    pub fn put(
        packer: *Packer,
        pool: *AttentionPool,
        holder: u32,
        piece: Piece,
        pieces: *std.ArrayList(Piece),
        copies: *std.ArrayList(CellCopy),
    ) bool {
        assert(piece.count <= block_cells);
        const here = @min(piece.count, block_cells - packer.used);
        const next: ?Block = if (here == piece.count)
            null
        else
            pool.blocks.take_in(pool.region(holder), packer.block) orelse return false;
        const border = piece.position + @as(i32, @intCast(here));
        if (here > 0) {
            pool.blocks.retain(packer.block.?);
            packer.add(pool, piece.part(piece.position, border), pieces, copies);
        }
        if (next) |block| {
            packer.block = block;
            packer.used = 0;
            packer.add(pool, piece.part(border, piece.end()), pieces, copies);
        }
        return true;
    }

    /// To the block at hand, which has one owner more by now.
    fn add(packer: *Packer, pool: *AttentionPool, piece: Piece, pieces: *std.ArrayList(Piece), copies: *std.ArrayList(CellCopy)) void {
        const own: Piece = .{ .block = packer.block.?, .offset = packer.used, .count = piece.count, .position = piece.position };
        copies.appendAssumeCapacity(.{ .from = piece.first_cell(), .to = own.first_cell(), .count = piece.count });
        pieces.appendAssumeCapacity(own);
        packer.used += piece.count;
        pool.blocks.filled[own.block] = packer.used;
    }
};

/// What a holder has of each of its blocks.
pub const Parts = struct {
    const Part = struct { pieces: u32 = 0, cells: u32 = 0 };

    of: std.AutoHashMapUnmanaged(Block, Part) = .empty,

    pub fn init(gpa: std.mem.Allocator, pieces: []const Piece) error{OutOfMemory}!Parts {
        var parts: Parts = .{};
        errdefer parts.deinit(gpa);
        for (pieces) |piece| {
            const entry = try parts.of.getOrPutValue(gpa, piece.block, .{});
            entry.value_ptr.pieces += 1;
            entry.value_ptr.cells += piece.count;
        }
        return parts;
    }

    pub fn deinit(parts: *Parts, gpa: std.mem.Allocator) void {
        parts.of.deinit(gpa);
    }

    /// Whether somebody else owns a block too.
    pub fn is_foreign(parts: *const Parts, pool: *const AttentionPool, block: Block) bool {
        return pool.blocks.references[block] > parts.of.get(block).?.pieces;
    }
};

/// After cells were cut out: makes the holder take no more blocks than it needs, as far as there is room to copy. What
/// others own too stays, since copying it would free nothing. Adds the cells that must be copied, in this order.
pub fn pack(pool: *AttentionPool, holder: u32, copies: *std.ArrayList(CellCopy)) error{OutOfMemory}!void {
    const h = &pool.holders[holder];
    var cells: u32 = 0;
    for (h.pieces.items) |piece| cells += piece.count;
    // Pieces are at least as many as blocks.
    if (h.pieces.items.len <= AttentionPool.blocks_for(cells) + 1) return;
    var parts: Parts = try .init(pool.gpa, h.pieces.items);
    defer parts.deinit(pool.gpa);
    var loose_blocks: u32 = 0;
    var loose_cells: u32 = 0;
    var each = parts.of.iterator();
    while (each.next()) |part| if (is_loose(&parts, pool, part.key_ptr.*)) {
        loose_blocks += 1;
        loose_cells += part.value_ptr.cells;
    };
    if (loose_blocks <= AttentionPool.blocks_for(loose_cells) + 1) return;
    var dense: std.ArrayList(Piece) = try .initCapacity(pool.gpa, 2 * h.pieces.items.len);
    errdefer dense.deinit(pool.gpa);
    try copies.ensureUnusedCapacity(pool.gpa, 2 * h.pieces.items.len);
    var packer: Packer = .{};
    var has_room = true;
    for (h.pieces.items) |piece| {
        const moves = has_room and is_loose(&parts, pool, piece.block);
        if (moves) has_room = packer.put(pool, holder, piece, &dense, copies);
        if (moves and has_room) pool.blocks.release(piece.block) else dense.appendAssumeCapacity(piece);
    }
    h.pieces.deinit(pool.gpa);
    h.pieces = dense;
}

/// Whether a block is the holder's alone, and not full of its cells.
fn is_loose(parts: *const Parts, pool: *const AttentionPool, block: Block) bool {
    return !parts.is_foreign(pool, block) and parts.of.get(block).?.cells < block_cells;
}

const testing = std.testing;
const batch = @import("batch.zig");
const sample = @import("attention_sample.zig");

test "pieces are packed as far as blocks are free" {
    for (0..4) |free| {
        var pool = try sample.pool(.all, 0);
        defer pool.deinit();
        var plan: AttentionPool.Plan = .{};
        defer plan.deinit(testing.allocator);
        var copies: std.ArrayList(CellCopy) = .empty;
        defer copies.deinit(testing.allocator);
        const total = pool.blocks.free_count;
        try sample.step(&pool, &plan, &.{.{ .sequence = 0, .first_row = 0, .count = 320, .first_position = 0 }});
        pool.commit(&plan, &.{.{ .sequence = 0, .first_row = 0, .count = 320, .first_position = 0 }});
        // The first block stays whole; 20 cells are left of each of the four behind it.
        for (1..5) |block| {
            const begin: i32 = @intCast(64 * block);
            try sample.remove(&pool, 0, begin, begin + 30);
            try sample.remove(&pool, 0, begin + 50, begin + 64);
        }
        var taken: std.ArrayList(Block) = .empty;
        defer taken.deinit(testing.allocator);
        while (pool.blocks.free_count > free) try taken.append(testing.allocator, pool.blocks.take(null).?);
        try pool.pack(0, &copies);
        var copied: u32 = 0;
        for (copies.items) |one| copied += one.count;
        // 80 cells fill one block and a part of another; what is let go on the way is room again.
        try testing.expectEqual(@as(u32, if (free == 0) 0 else 80), copied);
        try testing.expectEqual(batch.Range{ .min = 0, .end = 306 }, pool.held(0));
        var cells: u32 = 0;
        for (pool.holders[0].pieces.items) |piece| cells += piece.count;
        try testing.expectEqual(144, cells);
        for (taken.items) |block| pool.blocks.release(block);
        pool.clear(0);
        try testing.expectEqual(total, pool.blocks.free_count);
    }
}

test "what others own too is not copied: that would free nothing" {
    var pool = try sample.pool(.all, 0);
    defer pool.deinit();
    var plan: AttentionPool.Plan = .{};
    defer plan.deinit(testing.allocator);
    var copies: std.ArrayList(CellCopy) = .empty;
    defer copies.deinit(testing.allocator);
    const total = pool.blocks.free_count;
    const run: batch.Run = .{ .sequence = 0, .first_row = 0, .count = 320, .first_position = 0 };
    try sample.step(&pool, &plan, &.{run});
    pool.commit(&plan, &.{run});
    try sample.share(&pool, 0, 2);
    for (0..5) |block| {
        const begin: i32 = @intCast(64 * block);
        try sample.remove(&pool, 0, begin + 1, begin + 60);
    }
    try pool.pack(0, &copies);
    try testing.expectEqual(0, copies.items.len);
    pool.clear(2);
    try pool.pack(0, &copies);
    try testing.expectEqual(total - 1, pool.blocks.free_count);
    pool.clear(0);
    try testing.expectEqual(total, pool.blocks.free_count);
}
