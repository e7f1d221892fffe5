//! A batch: tokens of several sequences, cut into sub-batches by the limit alone. Nothing in here belongs to a memory.

const std = @import("std");
const assert = std.debug.assert;
const Stamp = @import("history.zig").Stamp;

/// Consecutive tokens of one sequence in a sub-batch.
pub const Run = struct {
    sequence: u32,
    /// The run's first row of the sub-batch.
    first_row: u32,
    count: u32,
    first_position: i32,
    /// Where snapshots are taken, ascending.
    marks: []const Mark = &.{},
    /// What the sequence stands for before the run, and after each of its tokens.
    before: Stamp = .{},
    stamps: []const Stamp = &.{},

    /// What the sequence stands for after the run's first `count` tokens.
    pub fn stamp_after(run: Run, count: u32) Stamp {
        if (run.stamps.len == 0) return .{};
        return if (count == 0) run.before else run.stamps[count - 1];
    }

    pub fn stamp(run: Run) Stamp {
        return run.stamp_after(run.count);
    }
};

/// A snapshot to be taken within a batch: after the token before `position`.
pub const Mark = struct {
    position: i32,
    /// The holder that takes it.
    holder: u32,
    stamp: Stamp = .{},
};

/// Positions `[min, end)` that a holder holds in a pool; equal where there is none.
pub const Range = struct { min: i32, end: i32 };

pub const Logits = enum(i32) { none = 0, last = 1, all = 2 };

/// What the caller asks for one sequence: `count` of the batch's tokens, in order. Crosses the ABI.
pub const Request = extern struct {
    sequence: i32,
    count: i32,
    /// Of which tokens the logits are wanted.
    logits: Logits,
    /// Handle of the sampler that draws the next token from the last token's logits; 0 = none.
    sampler: u32,
    /// Where the caller believes the sequence to go on; -1 = wherever it does.
    position: i32 = -1,
};

/// A mark as it is asked for. Crosses the ABI.
pub const MarkRequest = extern struct {
    /// Index of the request whose sequence it is.
    request: i32,
    position: i32,
    /// Handle of the snapshot that takes it.
    snapshot: u32,
};

/// Tokens that one graph computes at once.
pub const SubBatch = struct {
    runs: []Run,
    /// Of each run, the request it came from.
    requests: []const u32,
    first_token: u32,
    row_count: u32,
    /// Rows whose logits are computed, ascending: those wanted, or the last one where none is.
    outputs: []const i32,
    /// Of each output, the request it belongs to; -1 = nobody wanted it.
    output_requests: []const i32,
};

/// The sub-batches of a batch, in an arena of their own.
pub const Batch = struct {
    arena: std.heap.ArenaAllocator,
    tokens: []const i32,
    sub_batches: []SubBatch,

    pub fn deinit(batch: *Batch) void {
        batch.arena.deinit();
        batch.* = undefined;
    }

    /// `positions[i]` is the position of request `i`'s first token.
    pub fn split(
        gpa: std.mem.Allocator,
        tokens: []const i32,
        requests: []const Request,
        positions: []const i32,
        rows_max: u32,
    ) error{OutOfMemory}!Batch {
        assert(rows_max > 0 and requests.len == positions.len);
        var arena: std.heap.ArenaAllocator = .init(gpa);
        errdefer arena.deinit();
        const allocator = arena.allocator();
        var sub_batches: std.ArrayList(SubBatch) = .empty;
        var builder: Builder = .{};
        var token: u32 = 0;
        for (requests, positions, 0..) |request, position, index| {
            var done: u32 = 0;
            const total: u32 = @intCast(request.count);
            while (done < total) {
                if (builder.rows == rows_max) {
                    try sub_batches.append(allocator, try builder.finish(allocator, token));
                    builder = .{};
                }
                const count = @min(total - done, rows_max - builder.rows);
                try builder.add(allocator, request, @intCast(index), position + @as(i32, @intCast(done)), count, done + count == total);
                done += count;
                token += count;
            }
        }
        if (builder.rows > 0) try sub_batches.append(allocator, try builder.finish(allocator, token));
        assert(token == tokens.len);
        return .{
            .tokens = try allocator.dupe(i32, tokens),
            .sub_batches = try sub_batches.toOwnedSlice(allocator),
            .arena = arena,
        };
    }

    const Builder = struct {
        rows: u32 = 0,
        runs: std.ArrayList(Run) = .empty,
        requests: std.ArrayList(u32) = .empty,
        outputs: std.ArrayList(i32) = .empty,
        output_requests: std.ArrayList(i32) = .empty,

        fn add(
            builder: *Builder,
            allocator: std.mem.Allocator,
            request: Request,
            index: u32,
            position: i32,
            count: u32,
            ends: bool,
        ) error{OutOfMemory}!void {
            try builder.runs.append(allocator, .{
                .sequence = @intCast(request.sequence),
                .first_row = builder.rows,
                .count = count,
                .first_position = position,
            });
            try builder.requests.append(allocator, index);
            const first_output: u32 = switch (request.logits) {
                .none => count,
                .last => if (ends) count - 1 else count,
                .all => 0,
            };
            for (first_output..count) |k| {
                try builder.outputs.append(allocator, @intCast(builder.rows + k));
                try builder.output_requests.append(allocator, @intCast(index));
            }
            builder.rows += count;
        }

        fn finish(builder: *Builder, allocator: std.mem.Allocator, token_end: u32) error{OutOfMemory}!SubBatch {
            // A graph always computes some logits: one with an empty output would be another graph.
            if (builder.outputs.items.len == 0) {
                try builder.outputs.append(allocator, @intCast(builder.rows - 1));
                try builder.output_requests.append(allocator, -1);
            }
            return .{
                .runs = builder.runs.items,
                .requests = builder.requests.items,
                .first_token = token_end - builder.rows,
                .row_count = builder.rows,
                .outputs = builder.outputs.items,
                .output_requests = builder.output_requests.items,
            };
        }
    };
};

test "only the limit cuts, in order" {
    const requests = [_]Request{
        .{ .sequence = 3, .count = 1, .logits = .last, .sampler = 0 },
        .{ .sequence = 0, .count = 10, .logits = .last, .sampler = 0 },
        .{ .sequence = 1, .count = 2, .logits = .all, .sampler = 0 },
    };
    const tokens: [13]i32 = @splat(7);
    var batch: Batch = try .split(std.testing.allocator, &tokens, &requests, &.{ 40, 0, 5 }, 6);
    defer batch.deinit();
    try std.testing.expectEqual(3, batch.sub_batches.len);
    const first, const second, const third = batch.sub_batches[0..3].*;
    try std.testing.expectEqual(6, first.row_count);
    try std.testing.expectEqualSlices(i32, &.{0}, first.outputs);
    try std.testing.expectEqual(Run{ .sequence = 0, .first_row = 0, .count = 5, .first_position = 5 }, second.runs[0]);
    try std.testing.expectEqualSlices(i32, &.{ 4, 5 }, second.outputs);
    try std.testing.expectEqualSlices(i32, &.{ 1, 2 }, second.output_requests);
    try std.testing.expectEqual(12, third.first_token);
    try std.testing.expectEqual(6, third.runs[0].first_position);
}

test "a sub-batch that nobody wants logits of has one output" {
    const tokens: [4]i32 = @splat(1);
    var batch: Batch = try .split(std.testing.allocator, &tokens, &.{
        .{ .sequence = 0, .count = 4, .logits = .none, .sampler = 0 },
    }, &.{0}, 8);
    defer batch.deinit();
    try std.testing.expectEqualSlices(i32, &.{3}, batch.sub_batches[0].outputs);
    try std.testing.expectEqualSlices(i32, &.{-1}, batch.sub_batches[0].output_requests);
}
