//! State cells of recurrent layers. A sequence's newest state is one cell; a step reads it and writes another, and
//! success switches the sequence over. A cell is never written while anyone else owns it, so sharing one needs no copy.
//!
//! To take tokens back, a pool keeps either the states before each of them, or an older state (the base) and what the
//! tokens since then put in (the log), from which the state at any of them is computed again. Since that also brings
//! back the state before a step that failed, such a pool's steps write the cell that they read. The cell which that
//! spares holds the state that will be the next base, so that decoding on computes nothing twice.

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
const MemoryDeclaration = declaration.MemoryDeclaration;

pub const Segment = @import("kernels/segment.zig").Segment;
pub const Run = batch.Run;

pub const Method = enum(i32) { none = 0, kept = 1, log = 2 };

/// Rows whose inputs go into the log: row `first_row + i` to slot `slot_of(sequence, first_position + i)`.
pub const LogRun = struct { sequence: u32, first_row: u32, count: u32, first_position: i32 };

/// A state to be computed again: from a cell that stands for `from` positions, through the log up to `to`.
pub const Replay = struct { sequence: u32, read_cell: i32, write_cell: u32, from: i32, to: i32 };

pub const RecurrentPool = struct {
    gpa: std.mem.Allocator,
    config: Config,
    /// A block is one cell here: the states of all layers at one position of a sequence.
    cells: Blocks,
    /// What each cell stands for.
    stamps: []Stamp,
    holders: []Holder,

    const Kept = struct { cell: ?Block, end: i32 };

    const Holder = struct {
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

        pub fn cell_count(config: Config) u32 {
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
    pub fn cell_count_for(config: Config) u32 {
        const each: u32 = 2 + switch (config.method) {
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
        const count = cell_count_for(config);
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

    pub fn cell_count(pool: *const RecurrentPool) u32 {
        return pool.cells.count_total();
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

    /// Removes positions `[p0, p1)`; `remove_refusal` was asked first.
    pub fn remove(pool: *RecurrentPool, holder: u32, p0: i32, p1: i32) error{OutOfMemory}!void {
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

    fn latest_base(h: *const Holder) Kept {
        return h.next_base orelse h.base.?;
    }

    fn release(pool: *RecurrentPool, cell: ?Block) void {
        if (cell) |owned| pool.cells.release(owned);
    }

    fn retained(pool: *RecurrentPool, cell: ?Block) ?Block {
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
    fn forget(pool: *RecurrentPool, h: *Holder) void {
        for (h.kept.items) |kept| pool.release(kept.cell);
        h.kept.clearRetainingCapacity();
        if (h.base) |base| pool.release(base.cell);
        h.base = null;
        pool.forget_next_base(h);
    }

    fn forget_next_base(pool: *RecurrentPool, h: *Holder) void {
        if (h.next_base) |next| pool.release(next.cell);
        h.next_base = null;
    }

    fn move_to_next_base(pool: *RecurrentPool, h: *Holder) void {
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

    pub fn own_range(_: *RecurrentPool, _: u32, _: i32, _: i32, _: *std.ArrayList(CellCopy)) error{ OutOfMemory, Full }!void {
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

    // ---- computing states again ----

    /// What must be computed before these runs: pending states, and bases that the log has no room to leave behind.
    /// Fails only where memory is short.
    pub fn plan_replays(pool: *RecurrentPool, gpa: std.mem.Allocator, runs: []const Run, out: *std.ArrayList(Replay)) error{OutOfMemory}!void {
        if (pool.config.method != .log) return;
        try out.ensureUnusedCapacity(gpa, 2 * runs.len);
        for (runs) |run| {
            const h = &pool.holders[run.sequence];
            const is_left_behind = pool.leaves_base_behind(h, run);
            // Its cell is where the base moves to.
            if (is_left_behind) pool.forget_next_base(h);
            if (h.pending) pool.replay_live(run.sequence, out);
            if (!is_left_behind) continue;
            const base = h.base.?;
            const cell = pool.cells.take(null) orelse continue;
            out.appendAssumeCapacity(.{
                .sequence = run.sequence,
                .read_cell = if (base.cell) |from| @intCast(from) else -1,
                .write_cell = cell,
                .from = base.end,
                .to = h.end - @as(i32, @intCast(pool.config.rollback)),
            });
        }
    }

    /// Whether the log has no room for a run, and would not start anew with it.
    fn leaves_base_behind(pool: *const RecurrentPool, h: *const Holder, run: Run) bool {
        const base = h.base orelse return false;
        if (run.count >= pool.config.rollback) return false;
        const end = h.end + @as(i32, @intCast(run.count));
        return !pool.fits_log(base, end) and !pool.can_move_base(h, end);
    }

    /// The pending state of one holder, if it is.
    pub fn plan_pending(pool: *RecurrentPool, gpa: std.mem.Allocator, holder: u32, out: *std.ArrayList(Replay)) error{OutOfMemory}!void {
        if (!pool.holders[holder].pending) return;
        try out.ensureUnusedCapacity(gpa, 1);
        pool.replay_live(holder, out);
    }

    fn fits_log(pool: *const RecurrentPool, base: Kept, end: i32) bool {
        return end - base.end <= 2 * @as(i32, @intCast(pool.config.rollback));
    }

    /// Whether the log can go on from the next base up to `end`, and as many tokens as ever can then be taken back.
    fn can_move_base(pool: *const RecurrentPool, h: *const Holder, end: i32) bool {
        const next = h.next_base orelse return false;
        return pool.fits_log(next, end) and end - next.end >= pool.config.rollback;
    }

    fn replay_live(pool: *RecurrentPool, holder: u32, out: *std.ArrayList(Replay)) void {
        const h = &pool.holders[holder];
        const base = latest_base(h);
        // A pending sequence has given its own cell back.
        const cell = pool.cells.take(null).?;
        out.appendAssumeCapacity(.{
            .sequence = holder,
            .read_cell = if (base.cell) |from| @intCast(from) else -1,
            .write_cell = cell,
            .from = base.end,
            .to = h.end,
        });
    }

    /// A replay was computed: its cell stands for `value`.
    pub fn finish_replay(pool: *RecurrentPool, replay: Replay, value: Stamp) void {
        const h = &pool.holders[replay.sequence];
        pool.stamps[replay.write_cell] = value;
        if (replay.to == h.end and h.pending) {
            h.cell = replay.write_cell;
            h.pending = false;
            return;
        }
        pool.release(h.base.?.cell);
        h.base = .{ .cell = replay.write_cell, .end = replay.to };
    }

    // ---- batches ----

    /// Every sequence has the cells that its steps need, and so has every snapshot: there is always room.
    pub const Estimate = struct {
        lacking: i64 = 0,

        pub fn deinit(_: *Estimate, _: std.mem.Allocator) void {}
    };

    pub fn estimate_begin(_: *const RecurrentPool, _: std.mem.Allocator) error{OutOfMemory}!Estimate {
        return .{};
    }

    pub fn estimate_add(_: *const RecurrentPool, _: *Estimate, _: []const Run) void {}

    /// What one sub-batch does to this pool, and what its kernels read.
    pub const Plan = struct {
        segments: std.ArrayList(Segment) = .empty,
        /// The states that the segments leave, in their order.
        cuts: std.ArrayList(Cut) = .empty,
        logs: std.ArrayList(LogRun) = .empty,
        courses: std.ArrayList(Course) = .empty,

        const Cut = struct { run: u32, end: i32, cell: Block };

        /// What a run does besides going on.
        const Course = struct {
            /// It writes the cell that it reads.
            in_place: bool = false,
            /// The state that it reads becomes the next base.
            leaves_base: bool = false,
            /// Where its log goes on from, if that starts anew.
            base: ?i32 = null,
        };

        pub fn cell_copies(_: *const Plan) []const CellCopy {
            return &.{};
        }

        pub fn deinit(plan: *Plan, gpa: std.mem.Allocator) void {
            inline for (@typeInfo(Plan).@"struct".field_names) |name| @field(plan, name).deinit(gpa);
        }

        pub fn reserve(plan: *Plan, gpa: std.mem.Allocator, pool: *RecurrentPool, runs: []const Run) error{OutOfMemory}!void {
            inline for (@typeInfo(Plan).@"struct".field_names) |name| @field(plan, name).clearRetainingCapacity();
            var cuts: usize = 0;
            for (runs) |run| {
                cuts += run.marks.len + 2 + if (pool.config.method == .kept) pool.config.rollback else 0;
                try pool.holders[run.sequence].kept.ensureTotalCapacity(pool.gpa, 2 * pool.config.rollback + 2);
            }
            try plan.segments.ensureTotalCapacity(gpa, cuts);
            try plan.cuts.ensureTotalCapacity(gpa, cuts);
            try plan.logs.ensureTotalCapacity(gpa, runs.len);
            try plan.courses.ensureTotalCapacity(gpa, runs.len);
        }
    };

    /// Chooses the cells that each run writes. `commit` or `revert` follows.
    pub fn apply(pool: *RecurrentPool, plan: *Plan, runs: []const Run) void {
        // What marks and the ends of later runs will need; a rollback gets what is left.
        // Meanwhile a snapshot that is held in f16 may be restored to any other sequence, which takes a cell.
        var reserved: u32 = if (pool.config.half_snapshots) pool.config.sequences - @as(u32, @intCast(runs.len)) else 0;
        for (runs) |run| {
            const h = &pool.holders[run.sequence];
            assert(run.first_position == h.end and !h.pending);
            const course = pool.choose_course(h, run);
            plan.courses.appendAssumeCapacity(course);
            reserved += @intCast(run.marks.len + @intFromBool(!course.in_place));
        }
        if (pool.cells.free_count < reserved) for (runs, plan.courses.items) |run, course| {
            if (!course.in_place) pool.forget_next_base(&pool.holders[run.sequence]);
        };
        for (runs, plan.courses.items, 0..) |run, *course, index| {
            const h = &pool.holders[run.sequence];
            const end = h.end + @as(i32, @intCast(run.count));
            const wanted = pool.plan_rollback(plan, course, run, end, reserved);
            pool.cut_run(plan, run, @intCast(index), wanted, end);
            reserved -= @intCast(run.marks.len + @intFromBool(!course.in_place));
        }
    }

    fn choose_course(pool: *RecurrentPool, h: *Holder, run: Run) Plan.Course {
        if (pool.config.method != .log) return .{};
        if (h.base == null and h.cell == null) h.base = .{ .cell = null, .end = 0 };
        const end = h.end + @as(i32, @intCast(run.count));
        const base = h.base orelse return .{};
        if (!pool.fits_log(base, end)) {
            if (!pool.can_move_base(h, end)) return .{};
            pool.move_to_next_base(h);
        }
        const cell = h.cell orelse return .{};
        if (h.next_base == null and h.end - h.base.?.end >= pool.config.rollback) return .{ .leaves_base = true };
        return .{ .in_place = run.marks.len == 0 and pool.cells.references[cell] == 1 };
    }

    /// The positions at which a run leaves states for a rollback: `[from, to)`.
    const Wanted = struct { from: i32, to: i32 };

    fn plan_rollback(pool: *RecurrentPool, plan: *Plan, course: *Plan.Course, run: Run, end: i32, reserved: u32) Wanted {
        const h = &pool.holders[run.sequence];
        const rollback: i32 = @intCast(pool.config.rollback);
        const none: Wanted = .{ .from = end, .to = end };
        switch (pool.config.method) {
            .none => return none,
            .kept => {
                const from = @max(h.end + 1, end - rollback);
                const needed: u32 = @intCast(@max(0, end - from));
                if (pool.cells.free_count < reserved + needed) pool.forget(h);
                if (pool.cells.free_count < reserved + needed) return none;
                return .{ .from = from, .to = end };
            },
            .log => {
                const fits = if (h.base) |base| pool.fits_log(base, end) else false;
                if (fits) {
                    plan.logs.appendAssumeCapacity(.{
                        .sequence = run.sequence,
                        .first_row = run.first_row,
                        .count = run.count,
                        .first_position = h.end,
                    });
                    return none;
                }
                // The log starts anew, as far back as a rollback reaches.
                const base = @max(h.end, end - rollback);
                if (base > h.end and pool.cells.free_count < reserved + 1) pool.forget(h);
                if (base > h.end and pool.cells.free_count < reserved + 1) {
                    course.base = end;
                    return none;
                }
                course.base = base;
                const skipped: u32 = @intCast(base - h.end);
                plan.logs.appendAssumeCapacity(.{
                    .sequence = run.sequence,
                    .first_row = run.first_row + skipped,
                    .count = run.count - skipped,
                    .first_position = base,
                });
                return if (base > h.end) .{ .from = base, .to = base + 1 } else none;
            },
        }
    }

    /// Cuts a run into segments after every position whose state is wanted.
    fn cut_run(pool: *RecurrentPool, plan: *Plan, run: Run, index: u32, wanted: Wanted, end: i32) void {
        const h = &pool.holders[run.sequence];
        var at = h.end;
        var cell: i32 = if (h.cell) |own| @intCast(own) else -1;
        var mark: usize = 0;
        while (at < end) {
            while (mark < run.marks.len and run.marks[mark].position <= at) mark += 1;
            var next = end;
            if (mark < run.marks.len) next = @min(next, run.marks[mark].position);
            const state = @max(at + 1, wanted.from);
            if (state < wanted.to) next = @min(next, state);
            const in_place = plan.courses.items[index].in_place;
            const to = if (in_place) h.cell.? else pool.cells.take(null).?;
            plan.segments.appendAssumeCapacity(.{
                .first_row = run.first_row + @as(u32, @intCast(at - h.end)),
                .rows = @intCast(next - at),
                .read_cell = cell,
                .write_cell = @intCast(to),
            });
            plan.cuts.appendAssumeCapacity(.{ .run = index, .end = next, .cell = to });
            cell = @intCast(to);
            at = next;
        }
    }

    pub fn commit(pool: *RecurrentPool, plan: *Plan, runs: []const Run) void {
        for (runs, plan.courses.items, 0..) |run, course, index| {
            pool.commit_run(plan, run, course, @intCast(index));
            pool.forget_old(&pool.holders[run.sequence]);
        }
    }

    fn commit_run(pool: *RecurrentPool, plan: *Plan, run: Run, course: Plan.Course, index: u32) void {
        const h = &pool.holders[run.sequence];
        const begin = h.end;
        const end = begin + @as(i32, @intCast(run.count));
        const old: Kept = .{ .cell = h.cell, .end = begin };
        h.end = end;
        if (course.in_place) {
            pool.stamps[old.cell.?] = run.stamp_after(run.count);
            return;
        }
        for (run.marks) |mark| if (mark.position == begin) pool.give_snapshot(mark, old.cell);
        if (course.base) |at| {
            pool.forget(h);
            if (at == begin) h.base = .{ .cell = pool.retained(old.cell), .end = begin };
        }
        if (course.leaves_base) h.next_base = .{ .cell = pool.retained(old.cell), .end = begin };
        if (pool.config.method == .kept) h.kept.appendAssumeCapacity(.{ .cell = pool.retained(old.cell), .end = begin });
        pool.release(old.cell);
        for (plan.cuts.items) |cut| {
            if (cut.run != index) continue;
            pool.stamps[cut.cell] = run.stamp_after(@intCast(cut.end - begin));
            for (run.marks) |mark| if (mark.position == cut.end) pool.give_snapshot(mark, cut.cell);
            if (course.base) |at| if (at == cut.end) {
                h.base = .{ .cell = pool.retained(cut.cell), .end = at };
            };
            if (cut.end == end) {
                h.cell = cut.cell;
            } else if (pool.config.method == .kept and cut.end >= end - @as(i32, @intCast(pool.config.rollback))) {
                h.kept.appendAssumeCapacity(.{ .cell = cut.cell, .end = cut.end });
            } else {
                h.previous = cut.cell;
                pool.cells.release(cut.cell);
            }
        }
        if (old.cell) |cell| h.previous = cell;
    }

    fn give_snapshot(pool: *RecurrentPool, mark: batch.Mark, cell: ?Block) void {
        const snapshot = &pool.holders[mark.holder];
        assert(snapshot.cell == null);
        snapshot.cell = pool.retained(cell);
        snapshot.end = mark.position;
    }

    /// Lets go what is older than a rollback can need.
    fn forget_old(pool: *RecurrentPool, h: *Holder) void {
        const reach = h.end - @as(i32, @intCast(pool.config.rollback));
        while (h.kept.items.len > 0 and h.kept.items[0].end < reach) pool.release(h.kept.orderedRemove(0).cell);
        if (h.next_base) |next| if (next.end <= reach) pool.move_to_next_base(h);
    }

    pub fn revert(pool: *RecurrentPool, plan: *Plan, runs: []const Run) void {
        for (plan.cuts.items) |cut| pool.cells.release(cut.cell);
        for (runs, plan.courses.items) |run, course| {
            const h = &pool.holders[run.sequence];
            if (course.in_place) {
                h.cell = null;
                h.pending = true;
            }
            if (course.base == null) continue;
            // What was logged before may have been written over.
            pool.forget(h);
            h.base = .{ .cell = pool.retained(h.cell), .end = h.end };
        }
    }
};

const testing = std.testing;

fn test_step(pool: *RecurrentPool, plan: *RecurrentPool.Plan, runs: []const Run) !void {
    try plan.reserve(testing.allocator, pool, runs);
    pool.apply(plan, runs);
}

fn test_run(sequence: u32, position: i32, count: u32) Run {
    return .{ .sequence = sequence, .first_row = 0, .count = count, .first_position = position };
}

test "success switches the cell, failure leaves it, and a shared cell is never written" {
    var pool: RecurrentPool = try .init(testing.allocator, .{ .sequences = 2 });
    defer pool.deinit();
    var plan: RecurrentPool.Plan = .{};
    defer plan.deinit(testing.allocator);

    const first = [_]Run{test_run(0, 0, 5)};
    try test_step(&pool, &plan, &first);
    try testing.expectEqual(-1, plan.segments.items[0].read_cell);
    pool.commit(&plan, &first);
    try testing.expectEqual(5, pool.held(0).end);
    const cell = pool.holders[0].cell.?;

    try pool.copy(0, 1);
    const both = [_]Run{ test_run(0, 5, 1), test_run(1, 5, 1) };
    try test_step(&pool, &plan, &both);
    for (plan.segments.items) |segment| {
        try testing.expectEqual(@as(i32, @intCast(cell)), segment.read_cell);
        try testing.expect(segment.write_cell != segment.read_cell);
    }
    pool.revert(&plan, &both);
    try testing.expectEqual(cell, pool.holders[0].cell.?);
    try testing.expectEqual(3, pool.cells.free_count);

    try testing.expect(pool.remove_refusal(0, 3, 5) != null);
    pool.clear(0);
    pool.clear(1);
    try testing.expectEqual(4, pool.cells.free_count);
}

test "marks cut the segments, not the batch" {
    var pool: RecurrentPool = try .init(testing.allocator, .{ .sequences = 1, .snapshots = 3 });
    defer pool.deinit();
    var plan: RecurrentPool.Plan = .{};
    defer plan.deinit(testing.allocator);
    const marks = [_]batch.Mark{ .{ .position = 0, .holder = 1 }, .{ .position = 7, .holder = 2 }, .{ .position = 12, .holder = 3 } };
    var run = test_run(0, 0, 12);
    run.marks = &marks;
    try test_step(&pool, &plan, &.{run});
    try testing.expectEqual(2, plan.segments.items.len);
    try testing.expectEqual(Segment{ .first_row = 7, .rows = 5, .read_cell = plan.segments.items[0].write_cell, .write_cell = plan.segments.items[1].write_cell }, plan.segments.items[1]);
    pool.commit(&plan, &.{run});
    try testing.expectEqual(null, pool.holders[1].cell);
    try testing.expectEqual(7, pool.held(2).end);
    try testing.expectEqual(pool.holders[0].cell, pool.holders[3].cell);
    for (0..4) |holder| pool.clear(@intCast(holder));
    try testing.expectEqual(5, pool.cells.free_count);
}

test "kept states go back to each of the last tokens, and to none before" {
    var pool: RecurrentPool = try .init(testing.allocator, .{ .sequences = 1, .method = .kept, .rollback = 3 });
    defer pool.deinit();
    var plan: RecurrentPool.Plan = .{};
    defer plan.deinit(testing.allocator);
    try test_step(&pool, &plan, &.{test_run(0, 0, 8)});
    try testing.expectEqual(4, plan.segments.items.len);
    try testing.expectEqual(5, plan.segments.items[0].rows);
    const states = plan.cuts;
    const wanted = [_]Block{ states.items[0].cell, states.items[1].cell, states.items[2].cell, states.items[3].cell };
    pool.commit(&plan, &.{test_run(0, 0, 8)});
    try testing.expect(pool.remove_refusal(0, 4, 8) != null);
    try testing.expectEqual(null, pool.remove_refusal(0, 5, 8));
    try pool.remove(0, 7, 8);
    try testing.expectEqual(wanted[2], pool.holders[0].cell.?);
    try test_step(&pool, &plan, &.{test_run(0, 7, 1)});
    pool.commit(&plan, &.{test_run(0, 7, 1)});
    try pool.remove(0, 5, 8);
    try testing.expectEqual(wanted[0], pool.holders[0].cell.?);
    pool.clear(0);
    try testing.expectEqual(5, pool.cells.free_count);
}

test "a log goes back from its base, which moves on by replays and with long runs" {
    const gpa = testing.allocator;
    var pool: RecurrentPool = try .init(gpa, .{ .sequences = 1, .method = .log, .rollback = 4 });
    defer pool.deinit();
    var plan: RecurrentPool.Plan = .{};
    defer plan.deinit(gpa);
    var replays: std.ArrayList(Replay) = .empty;
    defer replays.deinit(gpa);
    var position: i32 = 0;
    for ([_]u32{ 1, 1, 3, 2, 1, 1, 1, 9, 1, 1, 1, 1, 1, 1 }) |count| {
        const run = test_run(0, position, count);
        replays.clearRetainingCapacity();
        try pool.plan_replays(gpa, &.{run}, &replays);
        for (replays.items) |replay| {
            try testing.expect(replay.to - replay.from <= 8 and replay.to == position - 4);
            pool.finish_replay(replay, .{});
        }
        try test_step(&pool, &plan, &.{run});
        pool.commit(&plan, &.{run});
        position += @intCast(count);
        if (position >= 4) try testing.expectEqual(null, pool.remove_refusal(0, position - 4, position));
        try testing.expect(pool.remove_refusal(0, position - 5, position) != null);
        const base = pool.holders[0].base.?;
        try testing.expect(position - base.end <= 8);
    }
    try pool.remove(0, position - 2, position);
    try pool.remove(0, position - 3, position - 2);
    try testing.expectEqual(null, pool.stamp(0));
    replays.clearRetainingCapacity();
    try pool.plan_pending(gpa, 0, &replays);
    try testing.expectEqual(position - 3, replays.items[0].to);
    pool.finish_replay(replays.items[0], .{});
    pool.clear(0);
    try testing.expectEqual(3, pool.cells.free_count);
}

test "decoding on writes in place, changes bases without a replay, and comes back when it fails" {
    const gpa = testing.allocator;
    const rollback = 4;
    var pool: RecurrentPool = try .init(gpa, .{ .sequences = 2, .method = .log, .rollback = rollback });
    defer pool.deinit();
    var plan: RecurrentPool.Plan = .{};
    defer plan.deinit(gpa);
    var replays: std.ArrayList(Replay) = .empty;
    defer replays.deinit(gpa);
    var in_place: u32 = 0;
    for (0..40) |at| {
        const run = test_run(0, @intCast(at), 1);
        try pool.plan_replays(gpa, &.{run}, &replays);
        try testing.expectEqual(0, replays.items.len);
        try test_step(&pool, &plan, &.{run});
        const segment = plan.segments.items[0];
        in_place += @intFromBool(segment.read_cell == @as(i32, @intCast(segment.write_cell)));
        pool.commit(&plan, &.{run});
        if (at + 1 >= rollback) try testing.expectEqual(null, pool.remove_refusal(0, @intCast(at + 1 - rollback), @intCast(at + 1)));
    }
    try testing.expectEqual(40 - 1 - 9, in_place);

    // Whoever shares the cell keeps it.
    try pool.copy(0, 1);
    const both = [_]Run{ test_run(0, 40, 1), test_run(1, 40, 1) };
    try test_step(&pool, &plan, &both);
    for (plan.segments.items) |segment| try testing.expect(segment.read_cell != @as(i32, @intCast(segment.write_cell)));
    pool.commit(&plan, &both);

    // What a failed step wrote over is computed again, from the newest base.
    try test_step(&pool, &plan, &.{test_run(0, 41, 2)});
    try testing.expectEqual(plan.segments.items[0].read_cell, @as(i32, @intCast(plan.segments.items[0].write_cell)));
    pool.revert(&plan, &.{test_run(0, 41, 2)});
    try testing.expectEqual(41, pool.held(0).end);
    try pool.plan_pending(gpa, 0, &replays);
    try testing.expectEqual(1, replays.items.len);
    try testing.expectEqual(40, replays.items[0].from);
    try testing.expectEqual(41, replays.items[0].to);
    pool.finish_replay(replays.items[0], .{});
    try testing.expectEqual(null, pool.remove_refusal(0, 41 - rollback, 41));
    pool.clear(0);
    pool.clear(1);
    try testing.expectEqual(6, pool.cells.free_count);
}
