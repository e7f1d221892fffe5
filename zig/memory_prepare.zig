//! Preparing a batch: its requests are checked, cut into sub-batches, and every pool is asked whether it has room for all
//! of them. Nothing changes.

const std = @import("std");
const status = @import("status.zig");
const batch_file = @import("batch.zig");
const attention_pool = @import("attention_pool.zig");
const memory_file = @import("memory.zig");
const RecurrentPool = @import("recurrent_pool.zig").RecurrentPool;
const Stamp = @import("history.zig").Stamp;
const Memory = memory_file.Memory;
const Pool = @import("leaf.zig").Pool;
const Batch = batch_file.Batch;

/// Cuts the requests into sub-batches and makes sure that every pool has room for all of them. Changes nothing.
pub fn prepare(
    memory: *const Memory,
    gpa: std.mem.Allocator,
    tokens: []const i32,
    requests: []const batch_file.Request,
    marks: []const batch_file.MarkRequest,
) status.Error!Batch {
    const positions = try gpa.alloc(i32, requests.len);
    defer gpa.free(positions);
    try check_requests(memory, tokens, requests, positions);
    var batch: Batch = try .split(gpa, tokens, requests, positions, memory.config.batch);
    errdefer batch.deinit();
    try stamp_runs(memory, &batch, requests);
    try add_marks(memory, &batch, requests, positions, marks);
    for (memory.pools) |*pool| try check_room(pool, gpa, &batch);
    return batch;
}

fn check_requests(
    memory: *const Memory,
    tokens: []const i32,
    requests: []const batch_file.Request,
    positions: []i32,
) status.Error!void {
    var total: usize = 0;
    for (requests, positions, 0..) |request, *position, i| {
        const sequence = try memory.check_sequence(request.sequence);
        if (request.count < 1) {
            return status.fail(error.InvalidArgument, "sequence {d} was given {d} tokens; give at least one", .{
                sequence, request.count,
            });
        }
        for (requests[0..i]) |other| if (other.sequence == request.sequence) {
            return status.fail(error.InvalidArgument, "sequence {d} stands twice in one batch", .{sequence});
        };
        position.* = try memory.end(request.sequence);
        const count: u32 = @intCast(request.count);
        if (@as(u64, @intCast(position.*)) + count > memory.config.context) {
            return status.fail(error.Full, "sequence {d} holds {d} tokens and was given {d} more, but the context " ++
                "is {d}", .{ sequence, position.*, count, memory.config.context });
        }
        if (request.position >= 0 and request.position != position.*) {
            return status.fail(error.Refused, "sequence {d} goes on at position {d}, and tokens from position {d} were given", .{
                sequence, position.*, request.position,
            });
        }
        total += count;
    }
    if (total != tokens.len) {
        return status.fail(error.InvalidArgument, "the requests take {d} tokens and {d} were given", .{ total, tokens.len });
    }
}

/// Works out what every sequence stands for after each of its tokens.
fn stamp_runs(memory: *const Memory, batch: *Batch, requests: []const batch_file.Request) error{OutOfMemory}!void {
    const running = try batch.arena.allocator().alloc(Stamp, requests.len);
    for (running, requests) |*stamp, request| stamp.* = memory.histories[@intCast(request.sequence)].stamp();
    for (batch.sub_batches) |*sub_batch| {
        for (sub_batch.runs, sub_batch.requests) |*run, request| {
            const stamps = try batch.arena.allocator().alloc(Stamp, run.count);
            run.before = running[request];
            for (stamps, batch.tokens[sub_batch.first_token + run.first_row ..][0..run.count]) |*stamp, token| {
                running[request] = running[request].after(token);
                stamp.* = running[request];
            }
            run.stamps = stamps;
        }
    }
}

fn add_marks(
    memory: *const Memory,
    batch: *Batch,
    requests: []const batch_file.Request,
    positions: []const i32,
    marks: []const batch_file.MarkRequest,
) status.Error!void {
    for (marks, 0..) |mark, i| {
        if (mark.request < 0 or mark.request >= requests.len) {
            return status.fail(error.InvalidArgument, "a snapshot was wanted of request {d}, and there are {d}", .{ mark.request, requests.len });
        }
        const index: usize = @intCast(mark.request);
        const request = requests[index];
        const first = positions[index];
        if (mark.position < first or mark.position > first + request.count) {
            return status.fail(error.InvalidArgument, "a snapshot was wanted at position {d} of sequence {d}, which this " ++
                "batch takes from {d} to {d}", .{ mark.position, request.sequence, first, first + request.count });
        }
        const holder = try memory.snapshot_holder(mark.snapshot);
        if (memory.histories[holder].len() > 0) {
            return status.fail(error.Refused, "this snapshot is taken already", .{});
        }
        for (marks[0..i]) |other| if (other.snapshot == mark.snapshot) {
            return status.fail(error.InvalidArgument, "one snapshot was wanted at two positions", .{});
        };
        try place_mark(batch, mark, holder);
    }
    if (memory.config.half_snapshots) for (batch.sub_batches) |sub_batch| {
        var count: usize = 0;
        for (sub_batch.runs) |run| count += run.marks.len;
        if (count > RecurrentPool.marks_max) {
            return status.fail(error.Refused, "{d} snapshots were wanted within one step, and {d} can be taken at once where they " ++
                "are held in f16", .{ count, RecurrentPool.marks_max });
        }
    };
}

fn place_mark(batch: *Batch, mark: batch_file.MarkRequest, holder: u32) error{OutOfMemory}!void {
    for (batch.sub_batches) |*sub_batch| for (sub_batch.runs, sub_batch.requests) |*run, request| {
        if (request != mark.request or mark.position > run.first_position + @as(i32, @intCast(run.count))) continue;
        const marks = try batch.arena.allocator().alloc(batch_file.Mark, run.marks.len + 1);
        var at: usize = 0;
        while (at < run.marks.len and run.marks[at].position <= mark.position) at += 1;
        @memcpy(marks[0..at], run.marks[0..at]);
        @memcpy(marks[at + 1 ..], run.marks[at..]);
        marks[at] = .{
            .position = mark.position,
            .holder = holder,
            .stamp = run.stamp_after(@intCast(mark.position - run.first_position)),
        };
        run.marks = marks;
        return;
    };
    unreachable; // its position was checked
}

fn check_room(pool: *const Pool, gpa: std.mem.Allocator, batch: *const Batch) status.Error!void {
    switch (pool.*) {
        inline else => |*leaf| {
            var estimate = try leaf.estimate_begin(gpa);
            defer estimate.deinit(gpa);
            for (batch.sub_batches) |sub_batch| try leaf.estimate_add(gpa, &estimate, sub_batch.runs);
            if (estimate.lacking <= 0) return;
            var buffer: [64]u8 = undefined;
            return status.fail(error.Full, "{s} is full: {d} cells more are needed than are free; end a sequence, drop a " ++
                "snapshot, or load with a larger context", .{ pool.describe(&buffer), estimate.lacking * attention_pool.block_cells });
        },
    }
}
