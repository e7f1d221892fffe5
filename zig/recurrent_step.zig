//! What a sub-batch does to a recurrent pool: the cells that its runs read and write, what is logged, and how it ends,
//! computed or not.

const std = @import("std");
const assert = std.debug.assert;
const batch = @import("batch.zig");
const recurrent_pool = @import("recurrent_pool.zig");
const RecurrentPool = recurrent_pool.RecurrentPool;
const Block = @import("blocks.zig").Block;
const CellCopy = @import("pieces.zig").CellCopy;
const Segment = recurrent_pool.Segment;
const Run = recurrent_pool.Run;
const LogRun = recurrent_pool.LogRun;

/// What one sub-batch does to this pool, and what its kernels read.
pub const Plan = struct {
    segments: std.ArrayList(Segment) = .empty,
    /// The states that the segments leave, in their order.
    cuts: std.ArrayList(Cut) = .empty,
    logs: std.ArrayList(LogRun) = .empty,
    courses: std.ArrayList(Course) = .empty,

    const Cut = struct { run: u32, end: i32, cell: Block };

    /// The positions at which a run leaves states for a rollback: `[from, to)`.
    const Wanted = struct { from: i32, to: i32 };

    /// What a run does besides going on.
    const Course = struct {
        /// It writes the cell that it reads.
        in_place: bool = false,
        /// The state that it reads becomes the next base.
        leaves_base: bool = false,
        /// Where its log goes on from, if that starts anew.
        base: ?i32 = null,
        /// The first position whose inputs are logged, if any are.
        logs_from: ?i32 = null,
        wanted: Wanted,
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
///
/// A sequence owns no more cells than the pool has for it, the new ones included, if it first lets go what the step
/// makes needless. Where cells are short it does; should the step then fail, what can be taken back is less than before.
pub fn apply(pool: *RecurrentPool, plan: *Plan, runs: []const Run) void {
    var needed: usize = 0;
    for (runs) |run| {
        const h = &pool.holders[run.sequence];
        assert(run.first_position == h.end and !h.pending);
        const course = choose_course(pool, h, run);
        plan.courses.appendAssumeCapacity(course);
        const wanted = course.wanted;
        needed += run.marks.len + @intFromBool(!course.in_place) + @as(u32, @intCast(wanted.to - wanted.from));
    }
    if (pool.cells.free_count < needed) for (runs, plan.courses.items) |run, course| let_go_needless(pool, run, course);
    for (runs, plan.courses.items, 0..) |run, course, index| {
        if (course.logs_from) |from| {
            const skipped: u32 = @intCast(from - run.first_position);
            plan.logs.appendAssumeCapacity(.{
                .sequence = run.sequence,
                .first_row = run.first_row + skipped,
                .count = run.count - skipped,
                .first_position = from,
            });
        }
        cut_run(pool, plan, run, @intCast(index));
    }
}

fn choose_course(pool: *RecurrentPool, h: *RecurrentPool.Holder, run: Run) Plan.Course {
    const end = h.end + @as(i32, @intCast(run.count));
    const reach = end - @as(i32, @intCast(pool.config.rollback));
    const none: Plan.Wanted = .{ .from = end, .to = end };
    switch (pool.config.method) {
        .none => return .{ .wanted = none },
        .kept => return .{ .wanted = .{ .from = @max(h.end + 1, reach), .to = end } },
        .log => {},
    }
    if (h.base == null and h.cell == null) h.base = .{ .cell = null, .end = 0 };
    if (h.base) |base| if (!pool.fits_log(base, end) and pool.can_move_base(h, end)) pool.move_to_next_base(h);
    if (h.base == null or !pool.fits_log(h.base.?, end)) {
        // The log starts anew, as far back as a rollback reaches.
        const base = @max(h.end, reach);
        return .{ .base = base, .logs_from = base, .wanted = if (base > h.end) .{ .from = base, .to = base + 1 } else none };
    }
    const cell = h.cell orelse return .{ .logs_from = h.end, .wanted = none };
    if (h.next_base == null and h.end - h.base.?.end >= pool.config.rollback) {
        return .{ .leaves_base = true, .logs_from = h.end, .wanted = none };
    }
    return .{
        .in_place = run.marks.len == 0 and pool.cells.references[cell] == 1,
        .logs_from = h.end,
        .wanted = none,
    };
}

/// What no rollback needs when the run has been computed, and what only spares work.
fn let_go_needless(pool: *RecurrentPool, run: Run, course: Plan.Course) void {
    const h = &pool.holders[run.sequence];
    switch (pool.config.method) {
        .none => {},
        .kept => pool.forget_before(h, h.end + @as(i32, @intCast(run.count)) - @as(i32, @intCast(pool.config.rollback))),
        .log => if (course.base != null) pool.forget(h) else if (!course.in_place) pool.forget_next_base(h),
    }
}

/// Cuts a run into segments after every position whose state is wanted.
fn cut_run(pool: *RecurrentPool, plan: *Plan, run: Run, index: u32) void {
    const h = &pool.holders[run.sequence];
    const course = plan.courses.items[index];
    const wanted = course.wanted;
    const end = h.end + @as(i32, @intCast(run.count));
    var at = h.end;
    var cell: i32 = if (h.cell) |own| @intCast(own) else -1;
    var mark: usize = 0;
    while (at < end) {
        while (mark < run.marks.len and run.marks[mark].position <= at) mark += 1;
        var next = end;
        if (mark < run.marks.len) next = @min(next, run.marks[mark].position);
        const state = @max(at + 1, wanted.from);
        if (state < wanted.to) next = @min(next, state);
        const to = if (course.in_place) h.cell.? else pool.cells.take(null).?;
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
        commit_run(pool, plan, run, course, @intCast(index));
        forget_old(pool, &pool.holders[run.sequence]);
    }
}

fn commit_run(pool: *RecurrentPool, plan: *Plan, run: Run, course: Plan.Course, index: u32) void {
    const h = &pool.holders[run.sequence];
    const begin = h.end;
    const end = begin + @as(i32, @intCast(run.count));
    const old: RecurrentPool.Kept = .{ .cell = h.cell, .end = begin };
    h.end = end;
    if (course.in_place) {
        pool.stamps[old.cell.?] = run.stamp_after(run.count);
        return;
    }
    for (run.marks) |mark| if (mark.position == begin) give_snapshot(pool, mark, old.cell);
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
        for (run.marks) |mark| if (mark.position == cut.end) give_snapshot(pool, mark, cut.cell);
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
fn forget_old(pool: *RecurrentPool, h: *RecurrentPool.Holder) void {
    const reach = h.end - @as(i32, @intCast(pool.config.rollback));
    pool.forget_before(h, reach);
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
    pool.remove(0, 7, 8);
    try testing.expectEqual(wanted[2], pool.holders[0].cell.?);
    try test_step(&pool, &plan, &.{test_run(0, 7, 1)});
    pool.commit(&plan, &.{test_run(0, 7, 1)});
    pool.remove(0, 5, 8);
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
    var replays: std.ArrayList(recurrent_pool.Replay) = .empty;
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
    pool.remove(0, position - 2, position);
    pool.remove(0, position - 3, position - 2);
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
    var replays: std.ArrayList(recurrent_pool.Replay) = .empty;
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

test "as much as was asked for can be taken back, whatever was fed before and beside" {
    const gpa = testing.allocator;
    var random: std.Random.DefaultPrng = .init(testing.random_seed);
    const r = random.random();
    for (0..400) |round| {
        const rollback = r.intRangeAtMost(u32, 1, 5);
        var pool: RecurrentPool = try .init(gpa, .{
            .sequences = 3,
            .snapshots = 2,
            .method = if (round % 2 == 0) .kept else .log,
            .rollback = rollback,
        });
        defer pool.deinit();
        var plan: RecurrentPool.Plan = .{};
        defer plan.deinit(gpa);
        var replays: std.ArrayList(recurrent_pool.Replay) = .empty;
        defer replays.deinit(gpa);
        // What can be taken back of each reaches no further: it was restored there, or taken back from a later end.
        var since: [3]i32 = @splat(0);
        for (0..60) |_| {
            var runs: [3]Run = undefined;
            var count: usize = 0;
            var marks: [2]batch.Mark = undefined;
            var marked: usize = 0;
            for (0..3) |sequence| if (r.boolean()) {
                const end = pool.held(@intCast(sequence)).end;
                runs[count] = test_run(@intCast(sequence), end, if (r.boolean()) 1 else r.intRangeAtMost(u32, 1, 12));
                if (marked < 2 and r.boolean()) {
                    const holder: u32 = @intCast(3 + marked);
                    pool.clear(holder);
                    marks[marked] = .{ .position = end + r.intRangeAtMost(i32, 0, @intCast(runs[count].count)), .holder = holder };
                    runs[count].marks = marks[marked..][0..1];
                    marked += 1;
                }
                count += 1;
            };
            replays.clearRetainingCapacity();
            try pool.plan_replays(gpa, runs[0..count], &replays);
            for (replays.items) |replay| pool.finish_replay(replay, .{});
            try test_step(&pool, &plan, runs[0..count]);
            pool.commit(&plan, runs[0..count]);
            for (0..3) |sequence| {
                const end = pool.held(@intCast(sequence)).end;
                var back: i32 = 1;
                while (back <= rollback and end - back >= @max(since[sequence], 1)) : (back += 1) {
                    try testing.expectEqual(null, pool.remove_refusal(@intCast(sequence), end - back, end));
                }
            }
            const one = r.uintLessThan(u32, 3);
            const end = pool.held(one).end;
            switch (r.uintLessThan(u32, 6)) {
                0 => if (end > since[one] + 1) {
                    pool.remove(one, end - 1, end);
                    since[one] = @max(since[one], end - @as(i32, @intCast(rollback)));
                },
                1 => {
                    pool.clear(one);
                    try pool.copy(3, one);
                    since[one] = pool.held(one).end;
                },
                2 => {
                    const other = (one + 1) % 3;
                    pool.clear(other);
                    try pool.copy(one, other);
                    since[other] = since[one];
                },
                else => {},
            }
        }
        for (0..5) |holder| pool.clear(@intCast(holder));
        try testing.expectEqual(pool.cells.count_total(), pool.cells.free_count);
    }
}
