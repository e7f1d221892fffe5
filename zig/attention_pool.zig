//! Attention cells of all layers that see the same extent of the past. A cell holds the keys and values of one
//! position; cells come in blocks. A sequence, or a snapshot of one, is a holder: a list of pieces of blocks, in the
//! order of their positions.
//!
//! The pool keeps the books; the tensors belong to the memory, which copies and turns cells where the books say so.

const std = @import("std");
const assert = std.debug.assert;
const declaration = @import("declaration.zig");
const blocks_file = @import("blocks.zig");
const Blocks = blocks_file.Blocks;
const Block = blocks_file.Block;
const Stamp = @import("history.zig").Stamp;
const Move = @import("history.zig").Move;
const batch = @import("batch.zig");
const pieces_file = @import("pieces.zig");
const estimate_file = @import("attention_estimate.zig");
const Cursor = pieces_file.Cursor;
const kernel = @import("kernels/attention.zig");

pub const Span = kernel.Span;
pub const Row = kernel.Row;
pub const Run = batch.Run;

pub const block_cells = pieces_file.block_cells;

pub const Piece = pieces_file.Piece;
pub const CellCopy = pieces_file.CellCopy;

/// A cell whose key is to be turned by so many positions.
pub const CellTurn = struct { cell: u32, distance: i32 };

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

    pub fn block_count(config: Config) u32 {
        const each = config.sequences * sequence_blocks(config);
        const shared = if (config.cells > 0 and !config.separate) @min(each, blocks_for(config.cells)) else each;
        return shared + config.snapshots * snapshot_blocks(config);
    }

    fn blocks_for(cells: u32) u32 {
        return (cells + block_cells - 1) / block_cells;
    }

    pub fn init(gpa: std.mem.Allocator, config: Config) error{OutOfMemory}!AttentionPool {
        const holders = try gpa.alloc(Holder, config.sequences + config.snapshots);
        errdefer gpa.free(holders);
        @memset(holders, .{});
        return .{ .gpa = gpa, .config = config, .blocks = try .init(gpa, block_count(config)), .holders = holders };
    }

    pub fn deinit(pool: *AttentionPool) void {
        for (pool.holders) |*holder| holder.pieces.deinit(pool.gpa);
        pool.gpa.free(pool.holders);
        pool.blocks.deinit(pool.gpa);
        pool.* = undefined;
    }

    pub fn cell_count(pool: *const AttentionPool) u32 {
        return pool.blocks.count_total() * block_cells;
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

    /// Removes positions `[p0, p1)`; `remove_refusal` was asked first.
    pub fn remove(pool: *AttentionPool, holder: u32, p0: i32, p1: i32) error{OutOfMemory}!void {
        assert(pool.remove_refusal(holder, p0, p1) == null);
        const h = &pool.holders[holder];
        if (p0 >= h.end or p1 <= h.min) return;
        // At most one piece is cut in two.
        try h.pieces.ensureUnusedCapacity(pool.gpa, 1);
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
    fn lower_fill(pool: *AttentionPool, piece: Piece, end: i32) void {
        if (pool.blocks.is_shared(piece.block)) return;
        pool.blocks.filled[piece.block] = piece.offset + @as(u32, @intCast(end - piece.position));
    }

    fn find_ends(pool: *AttentionPool, h: *Holder, end: i32) void {
        const pieces = h.pieces.items;
        if (pieces.len > 0) {
            h.min = pieces[0].position;
            h.end = pieces[pieces.len - 1].end();
        } else {
            h.min = if (pool.lets_go()) end else 0;
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
        const from = &pool.holders[source];
        const to = &pool.holders[destination];
        assert(to.pieces.items.len == 0);
        try to.pieces.ensureTotalCapacity(pool.gpa, pieces_when_copied(pool, from));
        // A snapshot resumes; a copy can also be taken back as far as its source.
        const is_snapshot = destination >= pool.config.sequences;
        const low = if (is_snapshot and pool.lets_go()) @max(from.min, pool.lowest_seen(end)) else from.min;
        errdefer pool.clear(destination);
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
            } else try packer.put(pool, destination, part, &to.pieces, copies);
        }
        pool.find_ends(to, end);
    }

    /// A piece that is copied may come to lie in two blocks.
    fn pieces_when_copied(pool: *const AttentionPool, h: *const Holder) usize {
        return if (pool.config.separate) 2 * h.pieces.items.len else h.pieces.items.len;
    }

    /// Copies pieces to blocks of a holder's own, one after the other without gaps.
    const Packer = struct {
        block: ?Block = null,
        used: u32 = block_cells,

        fn put(
            packer: *Packer,
            pool: *AttentionPool,
            holder: u32,
            piece: Piece,
            pieces: *std.ArrayList(Piece),
            copies: *std.ArrayList(CellCopy),
        ) error{ OutOfMemory, Full }!void {
            var rest = piece;
            while (true) {
                try pieces.ensureUnusedCapacity(pool.gpa, 1);
                try copies.ensureUnusedCapacity(pool.gpa, 1);
                if (packer.used == block_cells) {
                    packer.block = pool.blocks.take_in(pool.region(holder), packer.block) orelse return error.Full;
                    packer.used = 0;
                } else pool.blocks.retain(packer.block.?);
                const count = @min(rest.count, block_cells - packer.used);
                const own: Piece = .{ .block = packer.block.?, .offset = packer.used, .count = count, .position = rest.position };
                copies.appendAssumeCapacity(.{ .from = rest.first_cell(), .to = own.first_cell(), .count = count });
                pieces.appendAssumeCapacity(own);
                packer.used += count;
                pool.blocks.filled[own.block] = packer.used;
                if (count == rest.count) return;
                rest = rest.part(rest.position + @as(i32, @intCast(count)), rest.end());
            }
        }
    };

    /// After cells were cut out: makes the holder take no more blocks than it needs, as far as there is room to copy.
    /// Adds the cells that must be copied, in this order.
    pub fn pack(pool: *AttentionPool, holder: u32, copies: *std.ArrayList(CellCopy)) error{OutOfMemory}!void {
        const h = &pool.holders[holder];
        var cells: u32 = 0;
        var blocks: u32 = 0;
        for (h.pieces.items, 0..) |piece, i| {
            cells += piece.count;
            blocks += @intFromBool(i == 0 or h.pieces.items[i - 1].block != piece.block);
        }
        if (blocks <= blocks_for(cells) + 1) return;
        var dense: std.ArrayList(Piece) = try .initCapacity(pool.gpa, 3 * h.pieces.items.len);
        try copies.ensureUnusedCapacity(pool.gpa, 2 * h.pieces.items.len);
        var packer: Packer = .{};
        var room = true;
        for (h.pieces.items) |piece| {
            // Full blocks at the start stay where they are.
            const stays = packer.block == null and piece.count == block_cells;
            if (!stays and room) {
                const before = dense.items.len;
                if (packer.put(pool, holder, piece, &dense, copies)) {
                    pool.blocks.release(piece.block);
                    continue;
                } else |_| {
                    // Of this piece, what was copied is let go again.
                    room = false;
                    while (dense.items.len > before) pool.blocks.release(dense.pop().?.block);
                }
            }
            dense.appendAssumeCapacity(piece);
        }
        h.pieces.deinit(pool.gpa);
        h.pieces = dense;
    }

    /// The blocks that a holder may take.
    pub fn region(pool: *const AttentionPool, holder: u32) blocks_file.Region {
        if (!pool.config.separate) return .{ .begin = 0, .end = pool.blocks.count_total() };
        const each = sequence_blocks(pool.config);
        return .{ .begin = holder * each, .end = (holder + 1) * each };
    }

    // ---- moving positions ----

    /// Why positions `[p0, p1)` cannot be moved; null when they can.
    pub fn move_refusal(pool: *const AttentionPool, holder: u32, p0: i32, p1: i32, how: Move) ?[]const u8 {
        const h = &pool.holders[holder];
        // A window may have let go everything, and still ends where the sequence does.
        const is_past = p0 >= h.end or p1 <= h.min;
        if (h.dropped > 0 and (p1 >= h.end or !is_past)) return "positions before its window are gone; load with whole windows to move positions";
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

    /// Cells whose keys must be turned when positions `[p0, p1)` move, after making all of them the holder's own: what
    /// is shared is copied first. Fails where there is no room for that, and has changed nothing that shows.
    pub fn own_range(
        pool: *AttentionPool,
        holder: u32,
        p0: i32,
        p1: i32,
        copies: *std.ArrayList(CellCopy),
    ) error{ OutOfMemory, Full }!void {
        try pool.split_at(holder, p0);
        try pool.split_at(holder, p1);
        const h = &pool.holders[holder];
        for (h.pieces.items, 0..) |*piece, i| {
            if (piece.position < p0 or piece.end() > p1 or !pool.is_foreign(h, i)) continue;
            try copies.ensureUnusedCapacity(pool.gpa, 1);
            const block = pool.blocks.take_in(pool.region(holder), piece.block) orelse return error.Full;
            pool.blocks.filled[block] = piece.count;
            const own: Piece = .{ .block = block, .offset = 0, .count = piece.count, .position = piece.position };
            copies.appendAssumeCapacity(.{ .from = piece.first_cell(), .to = own.first_cell(), .count = piece.count });
            pool.blocks.release(piece.block);
            piece.* = own;
        }
    }

    /// Whether somebody else owns the block of a piece.
    fn is_foreign(pool: *const AttentionPool, h: *const Holder, index: usize) bool {
        const block = h.pieces.items[index].block;
        var own: u32 = 0;
        for (h.pieces.items) |piece| own += @intFromBool(piece.block == block);
        return pool.blocks.references[block] > own;
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

    /// Moves positions `[p0, p1)`; `move_refusal` was asked and `own_range` called first. Adds the cells to be turned.
    pub fn move(
        pool: *AttentionPool,
        holder: u32,
        p0: i32,
        p1: i32,
        how: Move,
        turns: *std.ArrayList(CellTurn),
    ) error{OutOfMemory}!void {
        const h = &pool.holders[holder];
        var moved: std.ArrayList(Piece) = .empty;
        errdefer moved.deinit(pool.gpa);
        for (h.pieces.items) |piece| {
            const inside = piece.position >= p0 and piece.end() <= p1;
            const cells: u32 = if (inside and how == .divide) piece.count else 1;
            try moved.ensureUnusedCapacity(pool.gpa, cells);
            if (!inside) {
                moved.appendAssumeCapacity(piece);
                continue;
            }
            try turns.ensureUnusedCapacity(pool.gpa, piece.count);
            for (0..piece.count) |i| {
                const position = piece.position + @as(i32, @intCast(i));
                const distance = how.apply(position) - position;
                turns.appendAssumeCapacity(.{ .cell = piece.first_cell() + @as(u32, @intCast(i)), .distance = distance });
                if (how == .divide) moved.appendAssumeCapacity(.{
                    .block = piece.block,
                    .offset = piece.offset + @as(u32, @intCast(i)),
                    .count = 1,
                    .position = how.apply(position),
                });
            }
            if (how == .shift) {
                var whole = piece;
                whole.position = how.apply(piece.position);
                moved.appendAssumeCapacity(whole);
            } else for (1..piece.count) |_| pool.blocks.retain(piece.block);
        }
        h.pieces.deinit(pool.gpa);
        h.pieces = moved;
        pool.find_ends(h, h.end);
    }

    // ---- batches ----

    pub const Estimate = estimate_file.Estimate;
    pub const estimate_begin = estimate_file.begin;
    pub const estimate_add = estimate_file.add;

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
                    const pieces = pieces_when_copied(pool, h) + 2 * added;
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
            pool.own_tail(plan, run.sequence);
            pool.extend(run.sequence, run.count);
            pool.plan_rows(plan, h, run, @intCast(i));
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
    fn plan_rows(pool: *AttentionPool, plan: *Plan, h: *const Holder, run: Run, index: u32) void {
        const pieces = h.pieces.items;
        var seen: Cursor = .{ .pieces = pieces, .number = h.dropped };
        seen.seek(pool.lowest_seen(run.first_position));
        pool.plan_spans(plan, pieces, seen);
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

    fn plan_spans(_: *AttentionPool, plan: *Plan, pieces: []const Piece, from: Cursor) void {
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
                // Its pieces and copies were reserved, and snapshots have blocks of their own.
                pool.copy(run.sequence, mark.holder, mark.position, mark.stamp, &plan.copies) catch unreachable;
            }
            const h = &pool.holders[run.sequence];
            h.stamp = run.stamp();
            if (pool.lets_go()) pool.drop_head(h, pool.lowest_kept(h.end));
        }
    }

    fn drop_head(pool: *AttentionPool, h: *Holder, min: i32) void {
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

fn test_pool(extent: declaration.Extent, window: u32) !AttentionPool {
    return .init(testing.allocator, .{
        .extent = extent,
        .window = window,
        .sequences = 2,
        .snapshots = 2,
        .context = 512,
        .batch = 128,
    });
}

fn test_step(pool: *AttentionPool, plan: *AttentionPool.Plan, runs: []const Run) !void {
    var estimate = try pool.estimate_begin(testing.allocator);
    defer estimate.deinit(testing.allocator);
    pool.estimate_add(&estimate, runs);
    try testing.expectEqual(0, estimate.lacking);
    try plan.reserve(testing.allocator, pool, runs);
    pool.apply(plan, runs);
}

fn share(pool: *AttentionPool, source: u32, destination: u32) !void {
    var copies: std.ArrayList(CellCopy) = .empty;
    defer copies.deinit(testing.allocator);
    try pool.copy(source, destination, pool.held(source).end, pool.stamp(source), &copies);
    try testing.expectEqual(0, copies.items.len);
}

test "a sequence grows block by block, and the second to write on in a shared block copies it" {
    var pool = try test_pool(.all, 0);
    defer pool.deinit();
    var plan: AttentionPool.Plan = .{};
    defer plan.deinit(testing.allocator);
    const total = pool.blocks.free_count;

    try test_step(&pool, &plan, &.{.{ .sequence = 0, .first_row = 0, .count = 100, .first_position = 0 }});
    pool.commit(&plan, &.{.{ .sequence = 0, .first_row = 0, .count = 100, .first_position = 0 }});
    try testing.expectEqual(total - 2, pool.blocks.free_count);
    try testing.expectEqual(1, plan.spans.items.len);
    try testing.expectEqual(Row{ .sequence = 0, .low = 0, .high = 99 }, plan.rows.items[99]);

    try share(&pool, 0, 1);
    try testing.expectEqual(total - 2, pool.blocks.free_count);
    // One of the two writes on in place, the other in a copy.
    const both = [_]Run{
        .{ .sequence = 1, .first_row = 0, .count = 1, .first_position = 100 },
        .{ .sequence = 0, .first_row = 1, .count = 1, .first_position = 100 },
    };
    try test_step(&pool, &plan, &both);
    try testing.expectEqual(1, plan.copies.items.len);
    try testing.expectEqual(36, plan.copies.items[0].count);
    try testing.expectEqual(total - 3, pool.blocks.free_count);
    pool.revert(&plan, &both);
    try testing.expectEqual(100, pool.held(1).end);
    // Again the first of them may write on in place.
    try test_step(&pool, &plan, both[0..1]);
    try testing.expectEqual(0, plan.copies.items.len);

    pool.clear(0);
    pool.clear(1);
    try testing.expectEqual(total, pool.blocks.free_count);
}

test "a middle goes, what follows closes up, and kernels number the cells without gaps" {
    var pool = try test_pool(.all, 0);
    defer pool.deinit();
    var plan: AttentionPool.Plan = .{};
    defer plan.deinit(testing.allocator);
    const total = pool.blocks.free_count;
    try test_step(&pool, &plan, &.{.{ .sequence = 0, .first_row = 0, .count = 100, .first_position = 0 }});
    try share(&pool, 0, 1);
    try pool.remove(0, 10, 30);
    try testing.expectEqual(100, pool.held(0).end);
    try testing.expect(pool.move_refusal(0, 30, 100, .{ .shift = -21 }) != null);
    try testing.expectEqual(null, pool.move_refusal(0, 30, 100, .{ .shift = -20 }));

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
    const next: Run = .{ .sequence = 0, .first_row = 0, .count = 1, .first_position = 80 };
    try test_step(&pool, &plan, &.{next});
    try testing.expectEqual(Row{ .sequence = 0, .low = 0, .high = 80 }, plan.rows.items[0]);
    pool.commit(&plan, &.{next});
    try pool.remove(0, 40, -1 + 1000);
    try testing.expectEqual(40, pool.held(0).end);

    copies.clearRetainingCapacity();
    turns.clearRetainingCapacity();
    try pool.own_range(0, 0, 40, &copies);
    try pool.move(0, 0, 40, .{ .divide = 4 }, &turns);
    try testing.expectEqual(batch.Range{ .min = 0, .end = 10 }, pool.held(0));
    const after: Run = .{ .sequence = 0, .first_row = 0, .count = 2, .first_position = 10 };
    try test_step(&pool, &plan, &.{after});
    try testing.expectEqual(Row{ .sequence = 0, .low = 0, .high = 41 }, plan.rows.items[1]);
    pool.clear(0);
    pool.clear(1);
    try testing.expectEqual(total, pool.blocks.free_count);
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
        const first: Run = .{ .sequence = 0, .first_row = 0, .count = 90, .first_position = 0 };
        try test_step(&pool, &plan, &.{first});
        pool.commit(&plan, &.{first});
        for (0..40) |_| {
            try pool.remove(0, 4, 14);
            try pool.own_range(0, 14, 90, &copies);
            try pool.move(0, 14, 90, .{ .shift = -10 }, &turns);
            try pool.pack(0, &copies);
            const next: Run = .{ .sequence = 0, .first_row = 0, .count = 10, .first_position = 80 };
            try test_step(&pool, &plan, &.{next});
            pool.commit(&plan, &.{next});
            try testing.expectEqual(batch.Range{ .min = 0, .end = 90 }, pool.held(0));
        }
        try pool.copy(0, 1, 90, .{}, &copies);
        pool.clear(0);
        pool.clear(1);
        try testing.expectEqual(total, pool.blocks.free_count);
    }
}

test "a window lets go what no later token sees, and only after the step" {
    var pool = try test_pool(.sliding, 64);
    defer pool.deinit();
    var plan: AttentionPool.Plan = .{};
    defer plan.deinit(testing.allocator);
    var position: i32 = 0;
    while (position < 480) : (position += 96) {
        const marks = [_]batch.Mark{.{ .position = position + 90, .holder = 2 }};
        const run: Run = .{ .sequence = 0, .first_row = 0, .count = 96, .first_position = position, .marks = &marks };
        pool.clear(2);
        try test_step(&pool, &plan, &.{run});
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
    var plan: AttentionPool.Plan = .{};
    defer plan.deinit(testing.allocator);
    var position: i32 = 0;
    while (position < 400) : (position += 8) {
        const run: Run = .{ .sequence = 0, .first_row = 0, .count = 8, .first_position = position };
        try test_step(&pool, &plan, &.{run});
        pool.commit(&plan, &.{run});
    }
    try testing.expectEqual(null, pool.remove_refusal(0, 395, 400));
    try testing.expect(pool.remove_refusal(0, 394, 400) != null);
    try pool.remove(0, 395, 400);
    try testing.expectEqual(batch.Range{ .min = 380, .end = 395 }, pool.held(0));
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
        pool.commit(&plan, &.{next});
        if (case[0] == .chunked) {
            try pool.remove(0, 64, 67);
            try testing.expectEqual(batch.Range{ .min = 64, .end = 64 }, pool.held(0));
        }
    }
}

test "a full pool is seen before anything changes" {
    var pool = try test_pool(.all, 0);
    defer pool.deinit();
    var estimate = try pool.estimate_begin(testing.allocator);
    defer estimate.deinit(testing.allocator);
    const free = pool.blocks.free_count;
    pool.estimate_add(&estimate, &.{.{ .sequence = 0, .first_row = 0, .count = 1500, .first_position = 0 }});
    try testing.expectEqual(24 - @as(i64, free), estimate.lacking);
    try testing.expectEqual(free, pool.blocks.free_count);
}
