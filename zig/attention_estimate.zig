//! Counts what the sub-batches of a batch need of an attention pool, one after the other, without touching it.

const std = @import("std");
const attention_pool = @import("attention_pool.zig");
const AttentionPool = attention_pool.AttentionPool;
const Block = @import("blocks.zig").Block;
const Run = @import("batch.zig").Run;

const block_cells = attention_pool.block_cells;

pub const Estimate = struct {
    free: i64,
    lacking: i64 = 0,
    tails: []Tail,
    /// Blocks whose last cell an earlier run has written on from.
    claimed: std.ArrayList(Block) = .empty,

    const Tail = struct {
        touched: bool = false,
        /// Free blocks of the sequence's own, with separate streams.
        free: i64 = 0,
        /// Cells left in the last block.
        room: i32 = 0,
        end: i32 = 0,
        /// The first piece that is still held.
        piece: usize = 0,
        /// Blocks that the estimate has added and not dropped, and the position of the first cell of the first one.
        added: i32 = 0,
        added_from: i32 = 0,
    };

    fn spend(estimate: *Estimate, tail: *Tail, blocks: i64) void {
        estimate.free -= blocks;
        tail.free -= blocks;
    }

    pub fn deinit(estimate: *Estimate, gpa: std.mem.Allocator) void {
        gpa.free(estimate.tails);
        estimate.claimed.deinit(gpa);
    }
};

pub fn begin(pool: *const AttentionPool, gpa: std.mem.Allocator) error{OutOfMemory}!Estimate {
    const tails = try gpa.alloc(Estimate.Tail, pool.config.sequences);
    errdefer gpa.free(tails);
    @memset(tails, .{});
    return .{
        .free = pool.blocks.free_count,
        .tails = tails,
        .claimed = try .initCapacity(gpa, pool.config.sequences),
    };
}

/// Adds one sub-batch to the estimate.
pub fn add(pool: *const AttentionPool, estimate: *Estimate, runs: []const Run) void {
    for (runs) |run| {
        const tail = &estimate.tails[run.sequence];
        if (!tail.touched) begin_tail(pool, estimate, run.sequence);
        const lacking: i32 = @as(i32, @intCast(run.count)) - tail.room;
        if (lacking > 0) {
            const needed = @divFloor(lacking + block_cells - 1, block_cells);
            if (tail.added == 0) tail.added_from = tail.end + tail.room;
            tail.added += needed;
            tail.room += needed * block_cells;
            estimate.spend(tail, needed);
        }
        tail.room -= @intCast(run.count);
        tail.end += @intCast(run.count);
        // Snapshots may keep blocks that the sequence lets go; with streams of their own they copy.
        if (!pool.config.separate) estimate.free -= @intCast(run.marks.len * AttentionPool.snapshot_blocks(pool.config));
        estimate.lacking = @max(estimate.lacking, -if (pool.config.separate) tail.free else estimate.free);
    }
    if (!pool.lets_go()) return;
    for (runs) |run| drop_head(pool, estimate, run.sequence);
}

fn begin_tail(pool: *const AttentionPool, estimate: *Estimate, sequence: u32) void {
    const h = &pool.holders[sequence];
    const tail = &estimate.tails[sequence];
    const own: i64 = if (pool.config.separate) pool.blocks.free_in(pool.region(sequence)) else 0;
    tail.* = .{ .touched = true, .end = h.end, .free = own };
    const last = h.pieces.getLastOrNull() orelse return;
    const used = last.offset + last.count;
    const claimed = std.mem.findScalar(Block, estimate.claimed.items, last.block) != null;
    if (used == pool.blocks.filled[last.block] and !claimed) {
        tail.room = @intCast(block_cells - used);
        estimate.claimed.appendAssumeCapacity(last.block);
    } else if (last.count < block_cells) {
        // It is copied to a block of its own.
        estimate.spend(tail, 1);
        tail.room = @intCast(block_cells - last.count);
    }
}

/// What a step pushes out of the window comes back before the next one.
fn drop_head(pool: *const AttentionPool, estimate: *Estimate, sequence: u32) void {
    const h = &pool.holders[sequence];
    const tail = &estimate.tails[sequence];
    const keep = pool.lowest_kept(tail.end);
    const pieces = h.pieces.items;
    while (tail.piece < pieces.len and pieces[tail.piece].end() <= keep) : (tail.piece += 1) {
        const is_last = tail.piece + 1 == pieces.len;
        // The last one's block may have been written on.
        if (is_last and tail.end > tail.added_from and keep < tail.added_from and tail.added > 0) return;
        if (!pool.blocks.is_shared(pieces[tail.piece].block)) estimate.spend(tail, -1);
    }
    while (tail.added > 0 and tail.piece == pieces.len and tail.added_from + block_cells <= keep) {
        tail.added -= 1;
        tail.added_from += block_cells;
        estimate.spend(tail, -1);
    }
}
