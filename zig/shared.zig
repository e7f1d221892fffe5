//! An object that several owners keep alive, on any threads. The last one to let go frees it.

const std = @import("std");
const assert = std.debug.assert;

/// `T` must have `deinit(*T) void`.
pub fn Shared(comptime T: type) type {
    return struct {
        const Self = @This();

        gpa: std.mem.Allocator,
        references: std.atomic.Value(u32),
        value: T,

        pub fn create(gpa: std.mem.Allocator, value: T) error{OutOfMemory}!*Self {
            const self = try gpa.create(Self);
            self.* = .{ .gpa = gpa, .references = .init(1), .value = value };
            return self;
        }

        pub fn retain(self: *Self) *Self {
            assert(self.references.fetchAdd(1, .monotonic) > 0);
            return self;
        }

        pub fn release(self: *Self) void {
            const before = self.references.fetchSub(1, .acq_rel);
            assert(before > 0);
            if (before > 1) return;
            self.value.deinit();
            self.gpa.destroy(self);
        }
    };
}

test "the last owner frees" {
    const Counter = struct {
        freed: *u32,

        fn deinit(counter: *@This()) void {
            counter.freed.* += 1;
        }
    };
    var freed: u32 = 0;
    const shared = try Shared(Counter).create(std.testing.allocator, .{ .freed = &freed });
    const second = shared.retain();
    shared.release();
    try std.testing.expectEqual(0, freed);
    second.release();
    try std.testing.expectEqual(1, freed);
}
