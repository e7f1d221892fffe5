//! Attention cells of all layers that see the same extent of the past. A cell holds the keys and values of one
//! position; cells come in blocks. A sequence, or a snapshot of one, is a holder: a list of pieces of blocks, in the
//! order of their positions.
//!
//! The pool keeps the books; the tensors belong to the memory, which copies and turns cells where the books say so.
//! What a step does to it is in `attention_step.zig`, moving positions in `attention_move.zig`, and copying cells closer
//! together in `attention_packer.zig`.

const std = @import("std");
const assert = std.debug.assert;
const c = @import("ggml");
const declaration = @import("declaration.zig");
const memory_layout = @import("memory_layout.zig");
const leaf = @import("leaf.zig");
const status = @import("status.zig");
const blocks_file = @import("blocks.zig");
const Blocks = blocks_file.Blocks;
const Block = blocks_file.Block;
const Stamp = @import("history.zig").Stamp;
const batch = @import("batch.zig");
const pieces_file = @import("pieces.zig");
const estimate_file = @import("attention_estimate.zig");
const move_file = @import("attention_move.zig");
const packer_file = @import("attention_packer.zig");
const step_file = @import("attention_step.zig");
const Packer = packer_file.Packer;
const MemoryDeclaration = declaration.MemoryDeclaration;

pub const block_cells = pieces_file.block_cells;

pub const Piece = pieces_file.Piece;
pub const CellCopy = pieces_file.CellCopy;
pub const CellTurn = move_file.CellTurn;

pub const AttentionPool = struct {
    gpa: std.mem.Allocator,
    config: Config,
    blocks: Blocks,
    holders: []Holder,

    pub const Holder = struct {
        pieces: std.ArrayList(Piece) = .empty,
        /// Cells that stood before the first one and were let go. Kernels number cells from there, without the gaps
        /// that positions may have.
        dropped: i32 = 0,
        /// Positions from which on nothing was let go.
        whole_from: i32 = 0,
        /// Positions `[min, end)`; equal where nothing is held.
        min: i32 = 0,
        end: i32 = 0,
        stamp: Stamp = .{},
    };

    pub const Config = struct {
        extent: declaration.Extent,
        window: u32,
        sequences: u32,
        /// Holders beyond the sequences.
        snapshots: u32 = 0,
        /// Positions that one sequence may reach.
        context: u32,
        /// Most tokens of one sub-batch.
        batch: u32,
        /// Tokens that can be taken back from the end of a window.
        rollback: u32 = 0,
        /// Cells of all sequences together, where that is fewer than what each could hold; 0 = not limited.
        cells: u32 = 0,
        /// Each holder has blocks of its own, and copies instead of sharing.
        separate: bool = false,
        /// A window keeps all positions and only masks.
        whole: bool = false,

        pub fn check(d: MemoryDeclaration) status.Error!void {
            const elements_max = 1 << 20;
            if (d.heads < 1 or d.heads > 4096 or d.key_dim < 1 or d.value_dim < 0 or
                @as(i64, d.heads) * @max(d.key_dim, d.value_dim) > elements_max)
            {
                return status.fail(error.InvalidArgument, "layer {d}: attention with {d} heads of {d} (keys) and {d} (values)", .{
                    d.layer, d.heads, d.key_dim, d.value_dim,
                });
            }
            if ((d.extent == .all) != (d.window == 0) or d.window < 0) {
                return status.fail(error.InvalidArgument, "layer {d}: a window of {d} does not fit the extent {t}", .{
                    d.layer, d.window, d.extent,
                });
            }
            try check_type(d, "keys", d.key_type, d.key_dim);
            if (d.value_dim > 0) try check_type(d, "values", d.value_type, d.value_dim);
        }

        fn check_type(d: MemoryDeclaration, what: []const u8, kind: i32, dim: i32) status.Error!void {
            switch (kind) {
                c.GGML_TYPE_F32, c.GGML_TYPE_F16, c.GGML_TYPE_BF16 => {},
                c.GGML_TYPE_Q8_0, c.GGML_TYPE_Q4_0 => if (@mod(dim, 32) != 0) {
                    return status.fail(error.Unsupported, "layer {d}: {s} of {d} elements a head cannot be {s}, whose blocks " ++
                        "hold 32; use f16", .{ d.layer, what, dim, if (kind == c.GGML_TYPE_Q8_0) "q8_0" else "q4_0" });
                },
                else => return status.fail(error.Unsupported, "layer {d}: {s} can be f32, f16, bf16, q8_0 or q4_0, not ggml " ++
                    "type {d}", .{ d.layer, what, kind }),
            }
        }

        pub fn columns(d: MemoryDeclaration) declaration.Columns {
            var result: declaration.Columns = @splat(.{});
            result[0] = .{ .type = @intCast(d.key_type), .elements = @as(i64, d.heads) * d.key_dim };
            result[1] = .{ .type = @intCast(d.value_type), .elements = @as(i64, d.heads) * d.value_dim };
            return result;
        }

        pub fn init(d: MemoryDeclaration, config: memory_layout.Config) Config {
            return .{
                .extent = d.extent,
                .window = @intCast(d.window),
                .sequences = config.sequences,
                .context = config.context,
                .batch = config.batch,
                .rollback = config.rollback,
                .cells = config.cells,
                .separate = config.separate,
                .whole = config.whole_windows,
            };
        }

        /// Of those of one model, the rest is the same.
        pub fn is_same(config: Config, other: Config) bool {
            return config.extent == other.extent and config.window == other.window;
        }

        pub fn join(_: *Config, _: Config) void {
            // They are the same in everything.
        }

        pub fn cell_count(config: Config) u64 {
            return block_count(config) * block_cells;
        }

        pub fn snapshot_bytes(config: Config, d: MemoryDeclaration) usize {
            return snapshot_blocks(config) * block_cells * memory_layout.cell_bytes(d);
        }

        pub fn without_rollback(config: Config) Config {
            var other = config;
            other.rollback = 0;
            return other;
        }

        pub fn log_rows(_: Config) u32 {
            return 0;
        }

        pub fn half_rows(_: Config) u32 {
            return 0;
        }

        pub fn method_number(_: Config) i32 {
            return 0;
        }
    };

    /// Blocks of one sequence at its longest: for a window, the window, what can be taken back, and one sub-batch, since
    /// what a step pushes out of the window is let go only when the step has succeeded. Where ranges were cut out, up to
    /// one block more than needed is left as it is (`pack`), and what is added then begins anywhere: two blocks more.
    fn sequence_blocks(config: Config) u32 {
        const bounded = config.extent != .all and !config.whole;
        const positions = if (bounded)
            @min(config.context, config.window + config.rollback + config.batch)
        else
            config.context;
        return blocks_for(positions) + 2;
    }

    /// Blocks that a snapshot may come to hold alone: a window's tail, or of what only grows the last block.
    pub fn snapshot_blocks(config: Config) u32 {
        if (config.separate) return sequence_blocks(config);
        if (config.extent == .all or config.whole) return 1;
        return blocks_for(@min(config.context, config.window + config.rollback)) + 1;
    }

    pub fn block_count(config: Config) u64 {
        const each = @as(u64, config.sequences) * sequence_blocks(config);
        const shared = if (config.cells > 0 and !config.separate) @min(each, blocks_for(config.cells)) else each;
        return shared + @as(u64, config.snapshots) * snapshot_blocks(config);
    }

    pub fn blocks_for(cells: u32) u32 {
        return (cells + block_cells - 1) / block_cells;
    }

    pub fn init(gpa: std.mem.Allocator, config: Config) error{OutOfMemory}!AttentionPool {
        const holders = try gpa.alloc(Holder, config.sequences + config.snapshots);
        errdefer gpa.free(holders);
        @memset(holders, .{});
        return .{ .gpa = gpa, .config = config, .blocks = try .init(gpa, @intCast(block_count(config))), .holders = holders };
    }

    pub fn deinit(pool: *AttentionPool) void {
        for (pool.holders) |*holder| holder.pieces.deinit(pool.gpa);
        pool.gpa.free(pool.holders);
        pool.blocks.deinit(pool.gpa);
        pool.* = undefined;
    }

    /// Whether cells are let go that no later token sees.
    pub fn lets_go(pool: *const AttentionPool) bool {
        return pool.config.extent != .all and !pool.config.whole;
    }

    /// The earliest position that a token at `position` sees.
    pub fn lowest_seen(pool: *const AttentionPool, position: i32) i32 {
        const window: i32 = @intCast(pool.config.window);
        return switch (pool.config.extent) {
            .all => 0,
            .sliding => @max(0, position - window + 1),
            .chunked => position - @mod(position, window),
            // Half of it lies ahead, where a token that is computed in its turn sees nothing yet.
            .symmetric => @max(0, position - @divFloor(window, 2)),
        };
    }

    /// The earliest position that may still be seen, also after taking back what can be taken back.
    pub fn lowest_kept(pool: *const AttentionPool, end: i32) i32 {
        return pool.lowest_seen(@max(0, end - @as(i32, @intCast(pool.config.rollback))));
    }

    // ---- operations on holders ----

    /// First and one past the last position held; equal where there is none.
    pub fn held(pool: *const AttentionPool, holder: u32) batch.Range {
        const h = &pool.holders[holder];
        return .{ .min = h.min, .end = h.end };
    }

    pub fn stamp(pool: *const AttentionPool, holder: u32) Stamp {
        return pool.holders[holder].stamp;
    }

    /// After an operation that changed which tokens a holder stands for.
    pub fn set_stamp(pool: *AttentionPool, holder: u32, value: Stamp) void {
        pool.holders[holder].stamp = value;
    }

    /// Why positions `[p0, p1)`, which are not all, cannot be removed; null when they can.
    pub fn remove_refusal(pool: *const AttentionPool, holder: u32, p0: i32, p1: i32) ?[]const u8 {
        const h = &pool.holders[holder];
        if (p0 >= h.end) return null;
        if (p1 < h.end) {
            if (h.dropped > 0) return "positions before its window are gone, so what follows cannot close up";
            return null;
        }
        if (h.whole_from > pool.lowest_seen(p0)) return "its window no longer reaches back that far";
        return null;
    }

    /// At most one piece is cut in two.
    pub fn reserve_remove(pool: *AttentionPool, holder: u32) error{OutOfMemory}!void {
        try pool.holders[holder].pieces.ensureUnusedCapacity(pool.gpa, 1);
    }

    /// Removes positions `[p0, p1)`; `remove_refusal` was asked first, and room reserved.
    pub fn remove(pool: *AttentionPool, holder: u32, p0: i32, p1: i32) void {
        assert(pool.remove_refusal(holder, p0, p1) == null);
        const h = &pool.holders[holder];
        if (p0 >= h.end or p1 <= h.min) return;
        const old_end = h.end;
        var i: usize = 0;
        while (i < h.pieces.items.len) {
            const piece = h.pieces.items[i];
            const from = @max(p0, piece.position);
            const to = @min(p1, piece.end());
            if (from >= to) {
                i += 1;
                continue;
            }
            const has_left = from > piece.position;
            const has_right = to < piece.end();
            if (has_left) {
                h.pieces.items[i] = piece.part(piece.position, from);
                i += 1;
                if (has_right) {
                    pool.blocks.retain(piece.block);
                    h.pieces.insertAssumeCapacity(i, piece.part(to, piece.end()));
                } else pool.lower_fill(piece, from);
            } else if (has_right) {
                h.pieces.items[i] = piece.part(to, piece.end());
            } else {
                pool.blocks.release(piece.block);
                _ = h.pieces.orderedRemove(i);
            }
        }
        pool.find_ends(h, if (p1 >= old_end) @max(p0, 0) else old_end);
    }

    /// What was cut off is free again, if nobody else owns the block.
    pub fn lower_fill(pool: *AttentionPool, piece: Piece, end: i32) void {
        if (pool.blocks.is_shared(piece.block)) return;
        pool.blocks.filled[piece.block] = piece.offset + @as(u32, @intCast(end - piece.position));
    }

    pub fn find_ends(pool: *const AttentionPool, h: *Holder, end: i32) void {
        const pieces = h.pieces.items;
        if (pieces.len > 0) {
            h.min = pieces[0].position;
            h.end = pieces[pieces.len - 1].end();
        } else {
            // A window may have let go everything, and still ends where its sequence does.
            h.min = if (pool.lets_go() or h.dropped > 0) end else 0;
            h.end = h.min;
        }
    }

    pub fn clear(pool: *AttentionPool, holder: u32) void {
        const h = &pool.holders[holder];
        for (h.pieces.items) |piece| pool.blocks.release(piece.block);
        h.pieces.clearRetainingCapacity();
        h.* = .{ .pieces = h.pieces };
    }

    /// Makes `destination`, which is empty, hold what `source` holds up to position `end`, by sharing its blocks; with
    /// separate streams by copies, which are added to `copies`. Fails where there is no room for them.
    pub fn copy(
        pool: *AttentionPool,
        source: u32,
        destination: u32,
        end: i32,
        value: Stamp,
        copies: *std.ArrayList(CellCopy),
    ) error{ OutOfMemory, Full }!void {
        const pieces = pieces_when_copied(pool, &pool.holders[source]);
        try pool.holders[destination].pieces.ensureTotalCapacity(pool.gpa, pieces);
        if (pool.config.separate) {
            try copies.ensureUnusedCapacity(pool.gpa, pieces);
            if (blocks_for(pool.cells_from(source, destination, end)) > pool.blocks.free_in(pool.region(destination))) return error.Full;
        }
        pool.copy_reserved(source, destination, end, value, copies);
    }

    /// Makes `destination`, which is empty, hold all that `source` holds.
    pub fn copy_holder(pool: *AttentionPool, source: u32, destination: u32, changes: *leaf.Changes) error{ OutOfMemory, Full }!void {
        return pool.copy(source, destination, pool.held(source).end, pool.stamp(source), &changes.cells);
    }

    /// A part is what is left when the rest is cut off.
    pub fn part_refusal(_: *const AttentionPool) ?[]const u8 {
        return null;
    }

    pub fn settle_snapshot(_: *AttentionPool, _: u32, _: *leaf.Changes) void {
        // It owns its pieces already.
    }

    pub fn free_cells(pool: *const AttentionPool) u32 {
        return pool.blocks.free_count * block_cells;
    }

    pub fn describe(pool: *const AttentionPool, buffer: *[64]u8) []const u8 {
        return switch (pool.config.extent) {
            .all => "full attention",
            else => |extent| std.fmt.bufPrint(buffer, "attention with {t} window {d}", .{ extent, pool.config.window }) catch "windowed attention",
        };
    }

    /// Those that nobody has written, and those that the step will write.
    pub fn for_unread(pool: *const AttentionPool, plan: *const Plan, sink: anytype) void {
        for (pool.blocks.references, pool.blocks.filled, 0..) |owners, filled, block| {
            const used = if (owners > 0) filled else 0;
            sink.add(block * block_cells + used, block_cells - used);
        }
        for (plan.cells.items) |cell| sink.add(@intCast(cell), 1);
    }

    pub fn plant_fault(_: *AttentionPool, _: i32, _: u32, _: u32) void {
        // The mistakes are those of states.
    }

    /// As `copy`, where there is room for what it adds.
    pub fn copy_reserved(
        pool: *AttentionPool,
        source: u32,
        destination: u32,
        end: i32,
        value: Stamp,
        copies: *std.ArrayList(CellCopy),
    ) void {
        const from = &pool.holders[source];
        const to = &pool.holders[destination];
        assert(to.pieces.items.len == 0);
        const low = pool.lowest_copied(source, destination, end);
        to.* = .{ .pieces = to.pieces, .dropped = from.dropped, .whole_from = from.whole_from, .min = low, .end = end, .stamp = value };
        var packer: Packer = .{};
        for (from.pieces.items) |piece| {
            if (piece.position >= end) break;
            const until = @min(end, piece.end());
            // At the end of a chunk nothing is seen any more.
            if (until <= low) {
                to.dropped += until - piece.position;
                to.whole_from = low;
                continue;
            }
            const part = piece.part(@max(low, piece.position), until);
            if (part.position > piece.position) to.whole_from = low;
            to.dropped += part.position - piece.position;
            if (!pool.config.separate) {
                pool.blocks.retain(part.block);
                to.pieces.appendAssumeCapacity(part);
            } else {
                const has_room = packer.put(pool, destination, part, &to.pieces, copies);
                assert(has_room);
            }
        }
        pool.find_ends(to, end);
    }

    /// The first position that a copy holds. A snapshot resumes; a copy can also be taken back as far as its source.
    fn lowest_copied(pool: *const AttentionPool, source: u32, destination: u32, end: i32) i32 {
        const min = pool.holders[source].min;
        const is_snapshot = destination >= pool.config.sequences;
        return if (is_snapshot and pool.lets_go()) @max(min, pool.lowest_seen(end)) else min;
    }

    /// Cells that a copy holds.
    fn cells_from(pool: *const AttentionPool, source: u32, destination: u32, end: i32) u32 {
        const low = pool.lowest_copied(source, destination, end);
        var cells: i32 = 0;
        for (pool.holders[source].pieces.items) |piece| {
            cells += @max(0, @min(end, piece.end()) - @max(low, piece.position));
        }
        return @intCast(cells);
    }

    /// A piece that is copied may come to lie in two blocks.
    pub fn pieces_when_copied(pool: *const AttentionPool, h: *const Holder) usize {
        return if (pool.config.separate) 2 * h.pieces.items.len else h.pieces.items.len;
    }

    /// The blocks that a holder may take.
    pub fn region(pool: *const AttentionPool, holder: u32) blocks_file.Region {
        if (!pool.config.separate) return .{ .begin = 0, .end = pool.blocks.count_total() };
        const each = sequence_blocks(pool.config);
        return .{ .begin = holder * each, .end = (holder + 1) * each };
    }

    pub const pack = packer_file.pack;

    // ---- moving positions ----

    pub const move_refusal = move_file.refusal;
    pub const can_own = move_file.can_own;
    pub const own_range = move_file.own_range;
    pub const move = move_file.run;

    // ---- batches ----

    pub const Estimate = estimate_file.Estimate;
    pub const estimate_begin = estimate_file.begin;
    pub const estimate_add = estimate_file.add;

    pub const Plan = step_file.Plan;
    pub const apply = step_file.apply;
    pub const commit = step_file.commit;
    pub const revert = step_file.revert;

    // ---- restoring ----

    /// A block to be filled from elsewhere: any, or with separate streams one of a holder's own.
    pub fn take_block(pool: *AttentionPool, holder: ?u32) ?Block {
        return pool.blocks.take_in(if (holder) |h| pool.region(h) else .{ .begin = 0, .end = pool.blocks.count_total() }, null);
    }

    /// Makes an empty holder own pieces of blocks that somebody owns.
    pub fn adopt(pool: *AttentionPool, holder: u32, pieces: []const Piece, dropped: i32, end: i32, value: Stamp) error{OutOfMemory}!void {
        const h = &pool.holders[holder];
        assert(h.pieces.items.len == 0);
        try h.pieces.appendSlice(pool.gpa, pieces);
        for (pieces) |piece| pool.blocks.retain(piece.block);
        h.dropped = dropped;
        h.stamp = value;
        h.end = end;
        pool.find_ends(h, end);
        if (dropped > 0) h.whole_from = h.min;
    }
};

const testing = std.testing;
const sample = @import("attention_sample.zig");

test "a window that let go everything ends where it did, also where it comes to a pool that keeps all" {
    var pool: AttentionPool = try .init(testing.allocator, .{
        .extent = .chunked,
        .window = 8,
        .sequences = 1,
        .context = 64,
        .batch = 8,
        .whole = true,
    });
    defer pool.deinit();
    var plan: AttentionPool.Plan = .{};
    defer plan.deinit(testing.allocator);
    try pool.adopt(0, &.{}, 16, 16, .{});
    try testing.expectEqual(batch.Range{ .min = 16, .end = 16 }, pool.held(0));
    const next: batch.Run = .{ .sequence = 0, .first_row = 0, .count = 1, .first_position = 16 };
    try sample.step(&pool, &plan, &.{next});
    pool.commit(&plan, &.{next});
    try testing.expectEqual(batch.Range{ .min = 16, .end = 17 }, pool.held(0));
    try testing.expectEqual(16, plan.rows.items[0].low);
}

test "a full pool is seen before anything changes" {
    var pool = try sample.pool(.all, 0);
    defer pool.deinit();
    var estimate = try pool.estimate_begin(testing.allocator);
    defer estimate.deinit(testing.allocator);
    const free = pool.blocks.free_count;
    try pool.estimate_add(testing.allocator, &estimate, &.{.{ .sequence = 0, .first_row = 0, .count = 1500, .first_position = 0 }});
    try testing.expectEqual(24 - @as(i64, free), estimate.lacking);
    try testing.expectEqual(free, pool.blocks.free_count);
}

test "what was not computed is taken back where a chunk has just ended and nothing is seen" {
    for ([_]struct { declaration.Extent, u32 }{ .{ .chunked, 64 }, .{ .sliding, 1 } }) |case| {
        var pool = try sample.pool(case[0], case[1]);
        defer pool.deinit();
        var plan: AttentionPool.Plan = .{};
        defer plan.deinit(testing.allocator);
        const first: batch.Run = .{ .sequence = 0, .first_row = 0, .count = 64, .first_position = 0 };
        try sample.step(&pool, &plan, &.{first});
        pool.commit(&plan, &.{first});
        try testing.expectEqual(64, pool.held(0).min);
        const next: batch.Run = .{ .sequence = 0, .first_row = 0, .count = 3, .first_position = 64 };
        try sample.step(&pool, &plan, &.{next});
        pool.revert(&plan, &.{next});
        try testing.expectEqual(64, pool.held(0).end);
        try sample.step(&pool, &plan, &.{next});
        try testing.expectEqual(67, pool.held(0).end);
        pool.commit(&plan, &.{next});
        if (case[0] == .chunked) {
            try sample.remove(&pool, 0, 64, 67);
            try testing.expectEqual(batch.Range{ .min = 64, .end = 64 }, pool.held(0));
        }
    }
}
