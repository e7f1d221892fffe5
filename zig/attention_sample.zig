//! Small attention pools for tests, and what tests do with them.

const std = @import("std");
const declaration = @import("declaration.zig");
const attention_pool = @import("attention_pool.zig");
const AttentionPool = attention_pool.AttentionPool;
const CellCopy = attention_pool.CellCopy;
const Run = @import("batch.zig").Run;

const testing = std.testing;

/// Of two sequences and two snapshots.
pub fn pool(extent: declaration.Extent, window: u32) !AttentionPool {
    return .init(testing.allocator, .{
        .extent = extent,
        .window = window,
        .sequences = 2,
        .snapshots = 2,
        .context = 512,
        .batch = 128,
    });
}

/// Applies the runs as one sub-batch; the caller commits or reverts.
pub fn step(in: *AttentionPool, plan: *AttentionPool.Plan, runs: []const Run) !void {
    var estimate = try in.estimate_begin(testing.allocator);
    defer estimate.deinit(testing.allocator);
    try in.estimate_add(testing.allocator, &estimate, runs);
    try testing.expect(estimate.lacking <= 0);
    try plan.reserve(testing.allocator, in, runs);
    in.apply(plan, runs);
}

/// Lets one holder share all that another holds.
pub fn share(in: *AttentionPool, source: u32, destination: u32) !void {
    var copies: std.ArrayList(CellCopy) = .empty;
    defer copies.deinit(testing.allocator);
    try in.copy(source, destination, in.held(source).end, in.stamp(source), &copies);
    try testing.expectEqual(0, copies.items.len);
}

pub fn remove(in: *AttentionPool, holder: u32, p0: i32, p1: i32) !void {
    try in.reserve_remove(holder);
    in.remove(holder, p0, p1);
}
