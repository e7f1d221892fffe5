//! The tokens that a sampler's penalties look back on, counted: the last so many, or all.

const std = @import("std");
const assert = std.debug.assert;
const Allocator = std.mem.Allocator;

pub const TokenHistory = struct {
    counts: std.array_hash_map.Auto(u32, u32) = .empty,
    /// The tokens of the window, a ring; empty when the history is unlimited.
    window: []u32 = &.{},
    /// Tokens pushed into the ring since the start.
    pushed: u64 = 0,

    /// `last_n` -1 is unlimited.
    pub fn reserve(self: *TokenHistory, gpa: Allocator, last_n: i32) Allocator.Error!void {
        assert(last_n != 0);
        if (last_n < 0) return;
        self.window = try gpa.alloc(u32, @intCast(last_n));
        try self.counts.ensureTotalCapacity(gpa, self.window.len);
    }

    pub fn deinit(self: *TokenHistory, gpa: Allocator) void {
        self.counts.deinit(gpa);
        gpa.free(self.window);
    }

    pub fn clear(self: *TokenHistory) void {
        self.counts.clearRetainingCapacity();
        self.pushed = 0;
    }

    /// Becomes equal to `other`, which was reserved for as many.
    pub fn assign(
        self: *TokenHistory,
        gpa: Allocator,
        other: *const TokenHistory,
    ) Allocator.Error!void {
        assert(self.window.len == other.window.len);
        self.clear();
        try self.counts.ensureTotalCapacity(gpa, other.counts.count());
        for (other.counts.keys(), other.counts.values()) |id, count| {
            self.counts.putAssumeCapacity(id, count);
        }
        @memcpy(self.window, other.window);
        self.pushed = other.pushed;
    }

    pub fn push(self: *TokenHistory, gpa: Allocator, token: u32) Allocator.Error!void {
        if (self.window.len > 0) {
            const slot = &self.window[@intCast(self.pushed % self.window.len)];
            if (self.pushed >= self.window.len) self.forget(slot.*);
            slot.* = token;
        }
        // Allocates only where the history is unlimited: a window reserved its own.
        const entry = try self.counts.getOrPutValue(gpa, token, 0);
        entry.value_ptr.* += 1;
        self.pushed += 1;
    }

    fn forget(self: *TokenHistory, token: u32) void {
        const count = self.counts.getPtr(token).?;
        count.* -= 1;
        if (count.* == 0) _ = self.counts.swapRemove(token);
    }
};

const testing = std.testing;

test "counts equal those of the last tokens, for any window" {
    const gpa = testing.allocator;
    var prng: std.Random.Xoshiro256 = .init(6);
    const random = prng.random();
    for ([_]i32{ 1, 2, 7, 64, -1 }) |last_n| {
        var history: TokenHistory = .{};
        defer history.deinit(gpa);
        try history.reserve(gpa, last_n);
        var tokens: [300]u32 = undefined;
        for (&tokens, 1..) |*token, n| {
            token.* = random.uintLessThan(u32, 20);
            try history.push(gpa, token.*);
            const kept: usize = if (last_n < 0) n else @min(n, @as(usize, @intCast(last_n)));
            for (0..20) |id| {
                const expected = std.mem.countScalar(u32, tokens[n - kept .. n], @intCast(id));
                try testing.expectEqual(expected, history.counts.get(@intCast(id)) orelse 0);
            }
        }
    }
}

test "a window allocates nothing after it is reserved" {
    var buffer: [4096]u8 = undefined;
    var fixed: std.heap.FixedBufferAllocator = .init(&buffer);
    var history: TokenHistory = .{};
    try history.reserve(fixed.allocator(), 64);
    for (0..1000) |token| try history.push(testing.failing_allocator, @intCast(token));
    try testing.expectEqual(64, history.counts.count());
}
