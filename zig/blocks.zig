//! Reference-counted blocks of cells. Sequences and snapshots own lists of blocks; sharing one costs a count, and a
//! block that nobody owns is free again.

const std = @import("std");
const assert = std.debug.assert;

pub const Block = u32;

pub const Blocks = struct {
    /// Owners of each block; 0 = free.
    references: []u32,
    free_count: u32,
    /// Where the next search starts when no neighbour is wanted.
    cursor: u32 = 0,

    pub fn init(gpa: std.mem.Allocator, count: u32) error{OutOfMemory}!Blocks {
        const references = try gpa.alloc(u32, count);
        @memset(references, 0);
        return .{ .references = references, .free_count = count };
    }

    pub fn deinit(blocks: *Blocks, gpa: std.mem.Allocator) void {
        gpa.free(blocks.references);
        blocks.* = undefined;
    }

    pub fn count_total(blocks: *const Blocks) u32 {
        return @intCast(blocks.references.len);
    }

    pub fn is_shared(blocks: *const Blocks, block: Block) bool {
        assert(blocks.references[block] > 0);
        return blocks.references[block] > 1;
    }

    /// Takes a free block, if there is one: the one right after `previous` where possible, since neighbours are read
    /// as one piece.
    pub fn take(blocks: *Blocks, previous: ?Block) ?Block {
        if (blocks.free_count == 0) return null;
        const total = blocks.count_total();
        const wanted = if (previous) |p| p + 1 else blocks.cursor;
        var tried: u32 = 0;
        while (tried < total) : (tried += 1) {
            const block = (wanted + tried) % total;
            if (blocks.references[block] != 0) continue;
            blocks.references[block] = 1;
            blocks.free_count -= 1;
            blocks.cursor = (block + 1) % total;
            return block;
        }
        unreachable; // free_count counts the zeros of references
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
