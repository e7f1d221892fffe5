//! State cells of recurrent layers. A sequence's newest state is one cell; a step reads it and writes another, and
//! success switches the sequence over. A cell is never written while anyone else owns it, so sharing one needs no copy.
//!
//! To take tokens back, a pool keeps either the states before each of them, or an older state (the base) and what the
//! tokens since then put in (the log), from which the state at any of them is computed again. Since that also brings
//! back the state before a step that failed, such a pool's steps write the cell that they read. The cell which that
//! spares holds the state that will be the next base, so that decoding on computes nothing twice.
//!
//! What a step does to the pool is in `recurrent_step.zig`, and what is computed again in `recurrent_replay.zig`.

const std = @import("std");
const assert = std.debug.assert;
const Blocks = @import("blocks.zig").Blocks;
const Block = @import("blocks.zig").Block;
const Stamp = @import("history.zig").Stamp;
const batch = @import("batch.zig");
const c = @import("ggml");
const declaration = @import("declaration.zig");
const memory_layout = @import("memory_layout.zig");
const leaf = @import("leaf.zig");
const status = @import("status.zig");
const CellCopy = @import("pieces.zig").CellCopy;
const Move = @import("history.zig").Move;
const replay_file = @import("recurrent_replay.zig");
const step_file = @import("recurrent_step.zig");
const MemoryDeclaration = declaration.MemoryDeclaration;

pub const Segment = @import("kernels/segment.zig").Segment;
pub const Run = batch.Run;

pub const Method = enum(i32) { none = 0, kept = 1, log = 2 };

/// Rows whose inputs go into the log: row `first_row + i` to slot `slot_of(sequence, first_position + i)`.
pub const LogRun = struct { sequence: u32, first_row: u32, count: u32, first_position: i32 };

pub const Replay = replay_file.Replay;

pub const RecurrentPool = struct {
    gpa: std.mem.Allocator,
    config: Config,
    /// A block is one cell here: the states of all layers at one position of a sequence.
    cells: Blocks,
    /// What each cell stands for.
    stamps: []Stamp,
    holders: []Holder,

    pub const Kept = struct { cell: ?Block, end: i32 };

    pub const Holder = struct {
        /// The newest state; null = zeros, or not computed again yet (`pending`).
        cell: ?Block = null,
        /// One past the position that the state stands for.
        end: i32 = 0,
        pending: bool = false,
        /// Of a snapshot: its state is held in f16, and stands for this.
        half: ?Stamp = null,
        /// States before the newest one, oldest first.
        kept: std.ArrayList(Kept) = .empty,
        /// The state from which the log goes on; null cell = zeros.
        base: ?Kept = null,
        /// A state after it, which becomes the base when it is as old as tokens can be taken back.
        next_base: ?Kept = null,
        /// The cell before the newest one, which tests bring back to see that it is noticed.
        previous: ?Block = null,
    };

    pub const Config = struct {
        sequences: u32,
        snapshots: u32 = 0,
        method: Method = .none,
        /// Tokens that can be taken back.
        rollback: u32 = 0,
        /// Snapshots hold their states in f16, elsewhere; cells are there for those that a batch is taking.
        half_snapshots: bool = false,
        /// Bytes of one cell of each memory.
        cell_bytes: usize = 0,

        pub fn check(d: MemoryDeclaration) status.Error!void {
            if (d.state_count < 1 or d.state_count > declaration.states_max) {
                return status.fail(error.InvalidArgument, "layer {d}: a recurrent memory has 1 to {d} states, not {d}", .{
                    d.layer, declaration.states_max, d.state_count,
                });
            }
            for (d.state_elements[0..@intCast(d.state_count)]) |elements| {
                if (elements <= 0) {
                    return status.fail(error.InvalidArgument, "layer {d}: a state needs at least one element, not {d}", .{
                        d.layer, elements,
                    });
                }
            }
            for (d.state_types[0..@intCast(d.state_count)]) |kind| switch (kind) {
                c.GGML_TYPE_F32, c.GGML_TYPE_F16 => {},
                else => return status.fail(error.Unsupported, "layer {d}: a state is f32, or f16 for a convolution's " ++
                    "inputs, not ggml type {d}", .{ d.layer, kind }),
            };
            if (d.inputs < 0) {
                return status.fail(error.InvalidArgument, "layer {d}: {d} numbers a token cannot be logged", .{ d.layer, d.inputs });
            }
        }

        pub fn columns(d: MemoryDeclaration) declaration.Columns {
            var result: declaration.Columns = @splat(.{});
            const count: usize = @intCast(d.state_count);
            for (result[0..count], d.state_elements[0..count], d.state_types[0..count]) |*column, elements, kind| {
                column.* = .{ .type = @intCast(kind), .elements = elements };
            }
            return result;
        }

        pub fn init(d: MemoryDeclaration, config: memory_layout.Config) Config {
            return .{
                .sequences = config.sequences,
                .method = choose_method(d, config.rollback),
                .rollback = config.rollback,
                .half_snapshots = config.half_snapshots,
                .cell_bytes = memory_layout.cell_bytes(d),
            };
        }

        pub fn is_same(config: Config, other: Config) bool {
            return config.cell_bytes == other.cell_bytes;
        }

        /// States can always be kept, and not every memory can log.
        pub fn join(config: *Config, other: Config) void {
            if (other.method == .kept) config.method = .kept;
        }

        pub fn cell_count(config: Config) u64 {
            return cell_count_for(config);
        }

        pub fn snapshot_bytes(config: Config, d: MemoryDeclaration) usize {
            return if (config.half_snapshots) 2 * @as(usize, @intCast(d.elements_per_cell())) else memory_layout.cell_bytes(d);
        }

        pub fn without_rollback(config: Config) Config {
            var other = config;
            other.method = .none;
            return other;
        }

        pub fn log_rows(config: Config) u32 {
            return rows_of_log(config) * config.sequences;
        }

        pub fn half_rows(config: Config) u32 {
            return if (config.half_snapshots) config.snapshots else 0;
        }

        pub fn method_number(config: Config) i32 {
            return @backingInt(config.method);
        }
    };

    /// Whichever takes less: the states themselves, or one state and a log of two rows for each token to be taken back.
    fn choose_method(d: MemoryDeclaration, rollback: u32) Method {
        if (rollback == 0) return .none;
        const state = memory_layout.cell_bytes(d);
        const log = state + 2 * rollback * @as(usize, @intCast(d.inputs)) * @sizeOf(f32);
        const exact = for (d.state_types[0..@intCast(d.state_count)]) |kind| {
            if (kind != c.GGML_TYPE_F32) break false;
        } else true;
        return if (d.inputs > 0 and exact and log < rollback * state) .log else .kept;
    }

    /// Snapshots that one sub-batch can take where they are held in f16.
    pub const marks_max = 8;

    /// One cell to read and one to write for each sequence, what a rollback needs, and one for each snapshot.
    pub fn cell_count_for(config: Config) u64 {
        const each: u64 = 2 + switch (config.method) {
            .none => 0,
            .kept => config.rollback,
            .log => 1,
        };
        const snapshots = if (config.half_snapshots) @min(config.snapshots, marks_max) else config.snapshots;
        return config.sequences * each + snapshots;
    }

    /// Rows of the log for each sequence: as many as can be taken back, and as many again before the base moves on.
    pub fn rows_of_log(config: Config) u32 {
        return if (config.method == .log) 2 * config.rollback else 0;
    }

    pub fn init(gpa: std.mem.Allocator, config: Config) error{OutOfMemory}!RecurrentPool {
        const holders = try gpa.alloc(Holder, config.sequences + config.snapshots);
        errdefer gpa.free(holders);
        @memset(holders, .{});
        const count: u32 = @intCast(cell_count_for(config));
        const stamps = try gpa.alloc(Stamp, count);
        errdefer gpa.free(stamps);
        @memset(stamps, .{});
        return .{ .gpa = gpa, .config = config, .cells = try .init(gpa, count), .stamps = stamps, .holders = holders };
    }

    pub fn deinit(pool: *RecurrentPool) void {
        for (pool.holders) |*holder| holder.kept.deinit(pool.gpa);
        pool.gpa.free(pool.holders);
        pool.gpa.free(pool.stamps);
        pool.cells.deinit(pool.gpa);
        pool.* = undefined;
    }

    pub fn slot_of(pool: *const RecurrentPool, sequence: u32, position: i32) u32 {
        const rows = rows_of_log(pool.config);
        return sequence * rows + @as(u32, @intCast(position)) % rows;
    }

    // ---- operations on holders ----

    /// Both ends are the last position: a state stands for everything before it and can resume nowhere else.
    pub fn held(pool: *const RecurrentPool, holder: u32) batch.Range {
        const end = pool.holders[holder].end;
        return .{ .min = @max(end - 1, 0), .end = end };
    }

    /// What the newest state stands for; that of a pending one is known when it is computed.
    pub fn stamp(pool: *const RecurrentPool, holder: u32) ?Stamp {
        const h = &pool.holders[holder];
        if (h.pending) return null;
        return if (h.cell) |cell| pool.stamps[cell] else .{};
    }

    pub fn set_stamp(_: *RecurrentPool, _: u32, _: Stamp) void {
        // The stamp belongs to the cell, which did not change.
    }

    /// Why positions `[p0, p1)`, which are not all, cannot be removed; null when they can.
    pub fn remove_refusal(pool: *const RecurrentPool, holder: u32, p0: i32, p1: i32) ?[]const u8 {
        const h = &pool.holders[holder];
        if (p0 >= h.end) return null;
        if (p1 < h.end) return "a state cannot forget a range before its end";
        if (pool.config.method == .none) return "the state before that position is not kept; load with a rollback, or restore a snapshot";
        if (pool.can_go_back(h, p0)) return null;
        return "the state before that position is not kept any more";
    }

    fn can_go_back(pool: *const RecurrentPool, h: *const Holder, end: i32) bool {
        return switch (pool.config.method) {
            .none => false,
            .kept => for (h.kept.items) |kept| {
                if (kept.end == end) break true;
            } else false,
            .log => if (h.base) |base| base.end <= end and h.end - end <= pool.config.rollback else false,
        };
    }

    pub fn reserve_remove(_: *RecurrentPool, _: u32) error{OutOfMemory}!void {
        // Cells only go.
    }

    /// Removes positions `[p0, p1)`; `remove_refusal` was asked first.
    pub fn remove(pool: *RecurrentPool, holder: u32, p0: i32, p1: i32) void {
        assert(pool.remove_refusal(holder, p0, p1) == null);
        const h = &pool.holders[holder];
        if (p0 >= h.end) return;
        pool.release(h.cell);
        h.cell = null;
        h.pending = false;
        h.end = p0;
        switch (pool.config.method) {
            .none => unreachable,
            .kept => while (h.kept.pop()) |kept| {
                if (kept.end == p0) {
                    h.cell = kept.cell;
                    break;
                }
                pool.release(kept.cell);
            },
            .log => {
                if (h.next_base) |next| if (next.end > p0) pool.forget_next_base(h);
                const base = latest_base(h);
                if (base.end == p0) h.cell = pool.retained(base.cell) else h.pending = true;
            },
        }
    }

    pub fn latest_base(h: *const Holder) Kept {
        return h.next_base orelse h.base.?;
    }

    pub fn release(pool: *RecurrentPool, cell: ?Block) void {
        if (cell) |owned| pool.cells.release(owned);
    }

    pub fn retained(pool: *RecurrentPool, cell: ?Block) ?Block {
        if (cell) |owned| pool.cells.retain(owned);
        return cell;
    }

    pub fn clear(pool: *RecurrentPool, holder: u32) void {
        const h = &pool.holders[holder];
        pool.release(h.cell);
        pool.forget(h);
        h.* = .{ .kept = h.kept };
    }

    /// Lets go what tokens could be taken back with.
    pub fn forget(pool: *RecurrentPool, h: *Holder) void {
        for (h.kept.items) |kept| pool.release(kept.cell);
        h.kept.clearRetainingCapacity();
        if (h.base) |base| pool.release(base.cell);
        h.base = null;
        pool.forget_next_base(h);
    }

    /// Lets go the kept states before a position.
    pub fn forget_before(pool: *RecurrentPool, h: *Holder, position: i32) void {
        while (h.kept.items.len > 0 and h.kept.items[0].end < position) pool.release(h.kept.orderedRemove(0).cell);
    }

    pub fn forget_next_base(pool: *RecurrentPool, h: *Holder) void {
        if (h.next_base) |next| pool.release(next.cell);
        h.next_base = null;
    }

    pub fn move_to_next_base(pool: *RecurrentPool, h: *Holder) void {
        pool.release(h.base.?.cell);
        h.base = h.next_base;
        h.next_base = null;
    }

    /// Makes `destination`, which is empty, stand for what `source` stands for, by sharing its cells. What can be taken
    /// back of the source can be taken back of the copy, if the memory copies the log too.
    pub fn copy(pool: *RecurrentPool, source: u32, destination: u32) error{OutOfMemory}!void {
        const from = &pool.holders[source];
        const to = &pool.holders[destination];
        assert(to.cell == null and to.base == null and to.kept.items.len == 0);
        assert(from.half == null);
        to.end = from.end;
        const is_snapshot = @max(source, destination) >= pool.config.sequences;
        assert(!(is_snapshot and from.pending));
        if (!is_snapshot) {
            try to.kept.ensureTotalCapacity(pool.gpa, from.kept.items.len);
            for (from.kept.items) |kept| to.kept.appendAssumeCapacity(.{ .cell = pool.retained(kept.cell), .end = kept.end });
            if (from.base) |base| to.base = .{ .cell = pool.retained(base.cell), .end = base.end };
            if (from.next_base) |next| to.next_base = .{ .cell = pool.retained(next.cell), .end = next.end };
            to.pending = from.pending;
        }
        to.cell = pool.retained(from.cell);
    }

    /// Makes `destination`, which is empty, stand for what `source` stands for. The tensors follow as `changes` says.
    pub fn copy_holder(pool: *RecurrentPool, source: u32, destination: u32, changes: *leaf.Changes) error{OutOfMemory}!void {
        if (pool.holders[source].half != null) {
            changes.half = .{ .snapshot = source, .cell = pool.take_half(source, destination), .way = .to_cell };
            return;
        }
        try pool.copy(source, destination);
        if (@max(source, destination) < pool.config.sequences) changes.log = .{ .from = source, .to = destination };
        pool.settle_snapshot(destination, changes);
    }

    /// A snapshot's state is written down in f16, where that was chosen, and its cell is free again.
    pub fn settle_snapshot(pool: *RecurrentPool, holder: u32, changes: *leaf.Changes) void {
        if (!pool.config.half_snapshots or holder < pool.config.sequences) return;
        const h = &pool.holders[holder];
        const cell = h.cell orelse return;
        changes.half = .{ .snapshot = holder, .cell = cell, .way = .to_half };
        h.half = pool.stamps[cell];
        pool.cells.release(cell);
        h.cell = null;
    }

    pub fn part_refusal(_: *const RecurrentPool) ?[]const u8 {
        return "they stand for all of it";
    }

    pub fn pack(_: *RecurrentPool, _: u32, _: *std.ArrayList(CellCopy)) error{OutOfMemory}!void {
        // A state has no gaps.
    }

    /// Why positions `[p0, p1)` of a holder, whose positions begin at `first`, cannot move; null when they can.
    pub fn move_refusal(pool: *const RecurrentPool, holder: u32, first: i32, p0: i32, p1: i32, how: Move) ?[]const u8 {
        if (how == .divide) return "a state has one position, which cannot be divided";
        const end = pool.holders[holder].end;
        return if ((p0 > first and p0 < end) or p1 < end) "a state moves as a whole" else null;
    }

    pub fn can_own(_: *const RecurrentPool, _: u32, _: i32, _: i32) error{OutOfMemory}!bool {
        return true;
    }

    pub fn own_range(_: *RecurrentPool, _: u32, _: i32, _: i32, _: *std.ArrayList(CellCopy)) error{OutOfMemory}!void {
        // Where a state stands is in the books alone.
    }

    pub fn free_cells(pool: *const RecurrentPool) u32 {
        return pool.cells.free_count;
    }

    pub fn describe(_: *const RecurrentPool, _: *[64]u8) []const u8 {
        return "the recurrent states";
    }

    /// Those that nobody owns, and those that the step will write and not read.
    pub fn for_unread(pool: *const RecurrentPool, plan: *const Plan, sink: anytype) void {
        for (pool.cells.references, 0..) |owners, cell| if (owners == 0) sink.add(cell, 1);
        for (plan.cuts.items) |cut| if (!plan.courses.items[cut.run].in_place) sink.add(cut.cell, 1);
    }

    /// Gives an empty sequence a cell for the state of a snapshot that is held in f16.
    fn take_half(pool: *RecurrentPool, source: u32, destination: u32) Block {
        const from = &pool.holders[source];
        const to = &pool.holders[destination];
        // An empty sequence owns none of the cells that are there for it.
        const cell = pool.cells.take(null).?;
        pool.stamps[cell] = from.half.?;
        to.cell = cell;
        to.end = from.end;
        return cell;
    }

    /// Positions move; what could be taken back stood at others.
    pub fn move(pool: *RecurrentPool, holder: u32, distance: i32) void {
        const h = &pool.holders[holder];
        assert(!h.pending);
        pool.forget(h);
        h.end += distance;
    }

    /// Makes an empty holder own a cell that somebody owns, or zeros.
    pub fn adopt(pool: *RecurrentPool, holder: u32, cell: ?Block, end: i32, value: Stamp) void {
        const h = &pool.holders[holder];
        assert(h.cell == null and h.end == 0);
        h.cell = pool.retained(cell);
        h.end = end;
        if (cell) |own| pool.stamps[own] = value;
    }

    // ---- mistakes that tests plant ----

    pub fn plant_fault(pool: *RecurrentPool, kind: i32, a: u32, b: u32) void {
        switch (kind) {
            0 => pool.exchange(a, b),
            1 => pool.go_back_unnoticed(a),
            2 => pool.steal(a, b),
            else => {},
        }
    }

    fn exchange(pool: *RecurrentPool, a: u32, b: u32) void {
        std.mem.swap(?Block, &pool.holders[a].cell, &pool.holders[b].cell);
    }

    fn go_back_unnoticed(pool: *RecurrentPool, holder: u32) void {
        const h = &pool.holders[holder];
        const previous = h.previous orelse return;
        if (pool.cells.references[previous] != 0) return;
        pool.release(h.cell);
        pool.cells.references[previous] = 1;
        pool.cells.free_count -= 1;
        h.cell = previous;
    }

    fn steal(pool: *RecurrentPool, holder: u32, from: u32) void {
        const h = &pool.holders[holder];
        pool.release(h.cell);
        h.cell = pool.retained(pool.holders[from].cell);
    }

    // ---- the log ----

    pub fn fits_log(pool: *const RecurrentPool, base: Kept, end: i32) bool {
        return end - base.end <= 2 * @as(i32, @intCast(pool.config.rollback));
    }

    /// Whether the log can go on from the next base up to `end`, and as many tokens as ever can then be taken back.
    pub fn can_move_base(pool: *const RecurrentPool, h: *const Holder, end: i32) bool {
        const next = h.next_base orelse return false;
        return pool.fits_log(next, end) and end - next.end >= pool.config.rollback;
    }

    pub const plan_replays = replay_file.plan;
    pub const plan_pending = replay_file.plan_pending;
    pub const finish_replay = replay_file.finish;
    pub const abandon_replay = replay_file.abandon;

    // ---- batches ----

    /// Every sequence has the cells that its steps need, and so has every snapshot: there is always room.
    pub const Estimate = struct {
        lacking: i64 = 0,

        pub fn deinit(_: *Estimate, _: std.mem.Allocator) void {}
    };

    pub fn estimate_begin(_: *const RecurrentPool, _: std.mem.Allocator) error{OutOfMemory}!Estimate {
        return .{};
    }

    pub fn estimate_add(_: *const RecurrentPool, _: std.mem.Allocator, _: *Estimate, _: []const Run) error{OutOfMemory}!void {}

    pub const Plan = step_file.Plan;
    pub const apply = step_file.apply;
    pub const commit = step_file.commit;
    pub const revert = step_file.revert;
};
