//! Reference-counted blocks of cells. Sequences and snapshots own lists of blocks; sharing one costs a count, and a
//! block that nobody owns is free again.

const std = @import("std");
const assert = std.debug.assert;

pub const Block = u32;

/// Blocks from `begin` up to `end`.
pub const Region = struct { begin: u32, end: u32 };

pub const Blocks = struct {
    /// Owners of each block; 0 = free.
    references: []u32,
    /// Cells of each block that somebody has written, from its start. Who owns the last of them may write on; others
    /// who share the block up to an earlier cell may not.
    filled: []u32,
    free_count: u32,
    /// Where the next search starts when no neighbour is wanted.
    cursor: u32 = 0,

    pub fn init(gpa: std.mem.Allocator, count: u32) error{OutOfMemory}!Blocks {
        const references = try gpa.alloc(u32, count);
        errdefer gpa.free(references);
        const filled = try gpa.alloc(u32, count);
        @memset(references, 0);
        @memset(filled, 0);
        return .{ .references = references, .filled = filled, .free_count = count };
    }

    pub fn deinit(blocks: *Blocks, gpa: std.mem.Allocator) void {
        gpa.free(blocks.references);
        gpa.free(blocks.filled);
        blocks.* = undefined;
    }

    pub fn count_total(blocks: *const Blocks) u32 {
        return @intCast(blocks.references.len);
    }

    pub fn is_shared(blocks: *const Blocks, block: Block) bool {
        assert(blocks.references[block] > 0);
        return blocks.references[block] > 1;
    }

    pub fn free_in(blocks: *const Blocks, region: Region) u32 {
        if (region.end - region.begin == blocks.count_total()) return blocks.free_count;
        var count: u32 = 0;
        for (blocks.references[region.begin..region.end]) |references| count += @intFromBool(references == 0);
        return count;
    }

    /// Takes a free block, if there is one: the one right after `previous` where possible, since neighbours are read
    /// as one piece.
    pub fn take(blocks: *Blocks, previous: ?Block) ?Block {
        return blocks.take_in(.{ .begin = 0, .end = blocks.count_total() }, previous);
    }

    pub fn take_in(blocks: *Blocks, region: Region, previous: ?Block) ?Block {
        if (blocks.free_count == 0) return null;
        const total = region.end - region.begin;
        const wanted = if (previous) |p| p + 1 else blocks.cursor;
        const first = if (wanted >= region.begin and wanted < region.end) wanted - region.begin else 0;
        for (0..total) |tried| {
            const block = region.begin + (first + @as(u32, @intCast(tried))) % total;
            if (blocks.references[block] != 0) continue;
            blocks.references[block] = 1;
            blocks.filled[block] = 0;
            blocks.free_count -= 1;
            blocks.cursor = (block + 1) % blocks.count_total();
            return block;
        }
        return null;
    }

    pub fn retain(blocks: *Blocks, block: Block) void {
        assert(blocks.references[block] > 0);
        blocks.references[block] += 1;
    }

    pub fn release(blocks: *Blocks, block: Block) void {
        assert(blocks.references[block] > 0);
        blocks.references[block] -= 1;
        if (blocks.references[block] == 0) blocks.free_count += 1;
    }
};

test "blocks are taken side by side and come back" {
    const gpa = std.testing.allocator;
    var blocks: Blocks = try .init(gpa, 4);
    defer blocks.deinit(gpa);
    const a = blocks.take(null).?;
    const b = blocks.take(a).?;
    try std.testing.expectEqual(a + 1, b);
    blocks.retain(a);
    try std.testing.expect(blocks.is_shared(a));
    blocks.release(a);
    try std.testing.expect(!blocks.is_shared(a));
    blocks.release(a);
    try std.testing.expectEqual(3, blocks.free_count);
    _ = blocks.take(b).?;
    _ = blocks.take(null).?;
    _ = blocks.take(null).?;
    try std.testing.expectEqual(null, blocks.take(null));
    try std.testing.expectEqual(0, blocks.free_count);
}

test "a region is kept to" {
    const gpa = std.testing.allocator;
    var blocks: Blocks = try .init(gpa, 6);
    defer blocks.deinit(gpa);
    const region: Region = .{ .begin = 2, .end = 4 };
    try std.testing.expectEqual(2, blocks.take_in(region, null).?);
    try std.testing.expectEqual(1, blocks.free_in(region));
    try std.testing.expectEqual(3, blocks.take_in(region, 5).?);
    try std.testing.expectEqual(null, blocks.take_in(region, 2));
    try std.testing.expectEqual(4, blocks.free_count);
}
