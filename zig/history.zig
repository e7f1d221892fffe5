//! What a sequence was fed: its tokens, their positions, and after each a rolling hash of all tokens up to there. By
//! that hash a state can be told from one that stands for another text of the same length.

const std = @import("std");
const assert = std.debug.assert;

/// What a state or a list of cells stands for.
pub const Stamp = struct {
    /// Tokens from the start of the sequence.
    count: u32 = 0,
    hash: u64 = seed,

    pub fn eql(a: Stamp, b: Stamp) bool {
        return a.count == b.count and a.hash == b.hash;
    }

    pub fn after(stamp: Stamp, token: i32) Stamp {
        const mixed = (stamp.hash ^ @as(u32, @bitCast(token))) *% 0x9e3779b97f4a7c15;
        return .{ .count = stamp.count + 1, .hash = mixed ^ (mixed >> 29) };
    }
};

const seed = 0x5bd1e9955bd1e995;

pub const History = struct {
    entries: std.MultiArrayList(Entry) = .empty,

    const Entry = struct { token: i32, position: i32, hash: u64 };

    pub fn deinit(history: *History, gpa: std.mem.Allocator) void {
        history.entries.deinit(gpa);
        history.* = undefined;
    }

    pub fn len(history: *const History) u32 {
        return @intCast(history.entries.len);
    }

    pub fn tokens(history: *const History) []const i32 {
        return history.entries.items(.token);
    }

    pub fn positions(history: *const History) []const i32 {
        return history.entries.items(.position);
    }

    /// One past the last position; 0 where there is none.
    pub fn end(history: *const History) i32 {
        const all = history.positions();
        return if (all.len == 0) 0 else all[all.len - 1] + 1;
    }

    pub fn stamp(history: *const History) Stamp {
        return history.stamp_at(history.len());
    }

    /// What the first `count` tokens are known by.
    pub fn stamp_at(history: *const History, count: u32) Stamp {
        if (count == 0) return .{};
        return .{ .count = count, .hash = history.entries.items(.hash)[count - 1] };
    }

    /// How many tokens stand before a position.
    pub fn count_before(history: *const History, position: i32) u32 {
        return @intCast(std.sort.lowerBound(i32, history.positions(), position, struct {
            fn order(wanted: i32, item: i32) std.math.Order {
                return std.math.order(wanted, item);
            }
        }.order));
    }

    pub fn reserve(history: *History, gpa: std.mem.Allocator, count: usize) error{OutOfMemory}!void {
        try history.entries.ensureUnusedCapacity(gpa, count);
    }

    /// Adds a token; room was reserved.
    pub fn append(history: *History, token: i32, position: i32) void {
        const next = history.stamp().after(token);
        history.entries.appendAssumeCapacity(.{ .token = token, .position = position, .hash = next.hash });
    }

    pub fn clear(history: *History) void {
        history.entries.clearRetainingCapacity();
    }

    pub fn truncate(history: *History, count: u32) void {
        history.entries.shrinkRetainingCapacity(count);
    }

    /// Takes out the tokens of positions `[p0, p1)`.
    pub fn remove(history: *History, p0: i32, p1: i32) void {
        const first = history.count_before(p0);
        const last = history.count_before(p1);
        if (first == last) return;
        const rest = history.len() - last;
        for (0..rest) |i| history.entries.set(first + i, history.entries.get(last + i));
        history.truncate(first + rest);
        history.hash_from(first);
    }

    /// Moves positions `[p0, p1)`: each to `move(position)`, which keeps their order.
    pub fn move(history: *History, p0: i32, p1: i32, how: Move) void {
        const first = history.count_before(p0);
        const last = history.count_before(p1);
        for (history.entries.items(.position)[first..last]) |*position| position.* = how.apply(position.*);
    }

    /// Makes this the first `count` tokens of another.
    pub fn assign(history: *History, gpa: std.mem.Allocator, other: *const History, count: u32) error{OutOfMemory}!void {
        try history.entries.ensureTotalCapacity(gpa, count);
        history.assign_reserved(other, count);
    }

    /// As `assign`, where there is room for so many.
    pub fn assign_reserved(history: *History, other: *const History, count: u32) void {
        assert(count <= other.len() and count <= history.entries.capacity);
        history.entries.len = count;
        inline for (.{ .token, .position, .hash }) |field| {
            @memcpy(history.entries.items(field), other.entries.items(field)[0..count]);
        }
    }

    fn hash_from(history: *History, first: u32) void {
        var running = history.stamp_at(first);
        for (history.tokens()[first..], history.entries.items(.hash)[first..]) |token, *hash| {
            running = running.after(token);
            hash.* = running.hash;
        }
    }
};

/// How positions move.
pub const Move = union(enum) {
    /// By so many.
    shift: i32,
    /// To their quotient by so many.
    divide: i32,

    /// Further than numbers reach is as far as they do: no context goes there.
    pub fn apply(how: Move, position: i32) i32 {
        return switch (how) {
            .shift => |distance| position +| distance,
            .divide => |divisor| @divFloor(position, divisor),
        };
    }
};

test "the same tokens have the same stamp, however they came there" {
    const gpa = std.testing.allocator;
    var a: History = .{};
    defer a.deinit(gpa);
    var b: History = .{};
    defer b.deinit(gpa);
    try a.reserve(gpa, 8);
    for ([_]i32{ 5, 0, 7, 7, 9 }, 0..) |token, position| a.append(token, @intCast(position));
    try b.assign(gpa, &a, 3);
    try std.testing.expect(b.stamp().eql(a.stamp_at(3)));
    try std.testing.expect(!b.stamp().eql(a.stamp()));
    a.remove(1, 2);
    a.move(2, 5, .{ .shift = -1 });
    try std.testing.expectEqualSlices(i32, &.{ 5, 7, 7, 9 }, a.tokens());
    try std.testing.expectEqualSlices(i32, &.{ 0, 1, 2, 3 }, a.positions());
    b.clear();
    try b.reserve(gpa, 4);
    for ([_]i32{ 5, 7, 7, 9 }, 0..) |token, position| b.append(token, @intCast(position));
    try std.testing.expect(b.stamp().eql(a.stamp()));
    try std.testing.expectEqual(2, b.count_before(2));
}
