//! Counts what the sub-batches of a batch need of an attention pool, one after the other, without touching it.

const std = @import("std");
const attention_pool = @import("attention_pool.zig");
const AttentionPool = attention_pool.AttentionPool;
const Block = @import("blocks.zig").Block;
const Run = @import("batch.zig").Run;

const block_cells = attention_pool.block_cells;

pub const Estimate = struct {
    free: i64,
    /// Blocks that are missing at the worst moment so far; where there are enough, those left over, as a negative number.
    lacking: i64 = std.math.minInt(i32),
    tails: []Tail,
    /// Blocks whose last cell an earlier run has written on from.
    claimed: std.ArrayList(Block) = .empty,
    /// How many owners of a shared block have let go of it.
    dropped: std.AutoHashMapUnmanaged(Block, u32) = .empty,

    const Tail = struct {
        touched: bool = false,
        /// Free blocks of the sequence's own, with separate streams.
        free: i64 = 0,
        /// Cells left in the last block.
        room: i32 = 0,
        end: i32 = 0,
        /// The first piece that is still held.
        piece: usize = 0,
        /// Where the last piece ends by now: it grows as far as its block has room.
        last_end: i32 = 0,
        /// It was copied to a block of the sequence's own.
        is_copied: bool = false,
        /// Blocks that the estimate has added and not dropped, and the position of the first cell of the first one.
        added: i32 = 0,
        added_from: i32 = 0,
    };

    fn spend(estimate: *Estimate, pool: *const AttentionPool, tail: *Tail, blocks: i64) void {
        estimate.free -= blocks;
        tail.free -= blocks;
        estimate.lacking = @max(estimate.lacking, -if (pool.config.separate) tail.free else estimate.free);
    }

    fn give_back(estimate: *Estimate, tail: *Tail) void {
        estimate.free += 1;
        tail.free += 1;
    }

    /// A block is free when all of its owners have let go of it.
    fn release(estimate: *Estimate, pool: *const AttentionPool, gpa: std.mem.Allocator, tail: *Tail, block: Block) error{OutOfMemory}!void {
        if (pool.blocks.is_shared(block)) {
            const entry = try estimate.dropped.getOrPutValue(gpa, block, 0);
            entry.value_ptr.* += 1;
            if (entry.value_ptr.* < pool.blocks.references[block]) return;
        }
        estimate.give_back(tail);
    }

    pub fn deinit(estimate: *Estimate, gpa: std.mem.Allocator) void {
        gpa.free(estimate.tails);
        estimate.claimed.deinit(gpa);
        estimate.dropped.deinit(gpa);
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
pub fn add(pool: *const AttentionPool, gpa: std.mem.Allocator, estimate: *Estimate, runs: []const Run) error{OutOfMemory}!void {
    for (runs) |run| {
        const tail = &estimate.tails[run.sequence];
        if (!tail.touched) try begin_tail(pool, gpa, estimate, run.sequence);
        const count: i32 = @intCast(run.count);
        if (tail.added == 0) tail.last_end += @min(count, tail.room);
        const lacking = count - tail.room;
        if (lacking > 0) {
            const needed = @divFloor(lacking + block_cells - 1, block_cells);
            if (tail.added == 0) tail.added_from = tail.end + tail.room;
            tail.added += needed;
            tail.room += needed * block_cells;
            estimate.spend(pool, tail, needed);
        }
        tail.room -= count;
        tail.end += count;
        // Snapshots may keep blocks that the sequence lets go; with streams of their own they copy.
        const kept: i64 = if (pool.config.separate) 0 else @intCast(run.marks.len * AttentionPool.snapshot_blocks(pool.config));
        estimate.spend(pool, tail, kept);
    }
    if (!pool.lets_go()) return;
    for (runs) |run| try drop_head(pool, gpa, estimate, run.sequence);
}

fn begin_tail(pool: *const AttentionPool, gpa: std.mem.Allocator, estimate: *Estimate, sequence: u32) error{OutOfMemory}!void {
    const h = &pool.holders[sequence];
    const tail = &estimate.tails[sequence];
    const own: i64 = if (pool.config.separate) pool.blocks.free_in(pool.region(sequence)) else 0;
    tail.* = .{ .touched = true, .end = h.end, .free = own };
    const last = h.pieces.getLastOrNull() orelse return;
    tail.last_end = last.end();
    const used = last.offset + last.count;
    if (used == block_cells) return;
    const claimed = std.mem.findScalar(Block, estimate.claimed.items, last.block) != null;
    if (used == pool.blocks.filled[last.block] and !claimed) {
        tail.room = @intCast(block_cells - used);
        estimate.claimed.appendAssumeCapacity(last.block);
    } else if (last.count < block_cells) {
        tail.is_copied = true;
        estimate.spend(pool, tail, 1);
        try estimate.release(pool, gpa, tail, last.block);
        tail.room = @intCast(block_cells - last.count);
    }
}

/// What a step pushes out of the window comes back before the next one.
fn drop_head(pool: *const AttentionPool, gpa: std.mem.Allocator, estimate: *Estimate, sequence: u32) error{OutOfMemory}!void {
    const tail = &estimate.tails[sequence];
    const keep = pool.lowest_kept(tail.end);
    const pieces = pool.holders[sequence].pieces.items;
    while (tail.piece < pieces.len) : (tail.piece += 1) {
        const is_last = tail.piece + 1 == pieces.len;
        if ((if (is_last) tail.last_end else pieces[tail.piece].end()) > keep) return;
        if (is_last and tail.is_copied) estimate.give_back(tail) else try estimate.release(pool, gpa, tail, pieces[tail.piece].block);
    }
    while (tail.added > 0 and @min(tail.added_from + block_cells, tail.end) <= keep) {
        tail.added -= 1;
        tail.added_from += block_cells;
        estimate.give_back(tail);
    }
    // What comes next begins a block of its own.
    if (tail.added == 0) tail.room = 0;
}

const testing = std.testing;
const declaration = @import("declaration.zig");
const sample = @import("attention_sample.zig");

/// Of a pool that never fills, the fewest free blocks while sub-batches run, each after the other.
fn test_run(pool: *AttentionPool, plan: *AttentionPool.Plan, sub_batches: []const []const Run) !struct { least: i64, copies: i64 } {
    var least: i64 = pool.blocks.free_count;
    var copies: i64 = 0;
    for (sub_batches) |runs| {
        try plan.reserve(testing.allocator, pool, runs);
        pool.apply(plan, runs);
        least = @min(least, pool.blocks.free_count);
        copies += @intCast(plan.copies.items.len);
        pool.commit(plan, runs);
    }
    return .{ .least = least, .copies = copies };
}

test "the estimate is what steps then take, whatever they share and let go" {
    var random: std.Random.DefaultPrng = .init(testing.random_seed);
    const r = random.random();
    for (0..300) |_| {
        var pool: AttentionPool = try .init(testing.allocator, .{
            .extent = r.enumValue(declaration.Extent),
            .window = r.intRangeAtMost(u32, 1, 200),
            .rollback = r.uintLessThan(u32, 40),
            .sequences = 3,
            .snapshots = 2,
            .context = 4096,
            .batch = 128,
        });
        defer pool.deinit();
        var plan: AttentionPool.Plan = .{};
        defer plan.deinit(testing.allocator);
        for (0..12) |_| {
            var arena: std.heap.ArenaAllocator = .init(testing.allocator);
            defer arena.deinit();
            const steps = try arena.allocator().alloc([]const Run, r.intRangeAtMost(usize, 1, 4));
            var ends: [3]i32 = undefined;
            for (&ends, 0..) |*end, sequence| end.* = pool.held(@intCast(sequence)).end;
            for (steps) |*runs| {
                var list: std.ArrayList(Run) = .empty;
                for (0..3) |sequence| if (list.items.len == 0 or r.boolean()) {
                    const count = r.intRangeAtMost(u32, 1, 70);
                    try list.append(arena.allocator(), .{ .sequence = @intCast(sequence), .first_row = 0, .count = count, .first_position = ends[sequence] });
                    ends[sequence] += @intCast(count);
                };
                runs.* = list.items;
            }
            if (std.mem.max(i32, &ends) > 4096) break;
            var estimate = try pool.estimate_begin(testing.allocator);
            defer estimate.deinit(testing.allocator);
            for (steps) |runs| try pool.estimate_add(testing.allocator, &estimate, runs);
            const real = try test_run(&pool, &plan, steps);
            // A block that is copied has two places for a moment.
            try testing.expect(-estimate.lacking <= real.least);
            try testing.expect(-estimate.lacking >= real.least - real.copies);
            const from = r.uintLessThan(u32, 3);
            const to = (from + 1) % 3;
            pool.clear(to);
            try sample.share(&pool, from, to);
        }
    }
}

test "a window's last block that grows is not free when its old part is out of sight" {
    var pool: AttentionPool = try .init(testing.allocator, .{
        .extent = .sliding,
        .window = 8,
        .sequences = 1,
        .context = 256,
        .batch = 16,
        .cells = 64,
    });
    defer pool.deinit();
    var plan: AttentionPool.Plan = .{};
    defer plan.deinit(testing.allocator);
    const first: Run = .{ .sequence = 0, .first_row = 0, .count = 10, .first_position = 0 };
    try sample.step(&pool, &plan, &.{first});
    pool.commit(&plan, &.{first});
    var estimate = try pool.estimate_begin(testing.allocator);
    defer estimate.deinit(testing.allocator);
    for ([_]u32{ 16, 16, 16, 12 }, [_]i32{ 10, 26, 42, 58 }) |count, position| {
        try pool.estimate_add(testing.allocator, &estimate, &.{.{ .sequence = 0, .first_row = 0, .count = count, .first_position = position }});
    }
    try testing.expectEqual(1, estimate.lacking);
}
