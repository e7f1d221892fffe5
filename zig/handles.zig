//! Handles: what foreigners hold instead of pointers. A handle is a slot and the slot's generation, so that one used
//! after its object was freed is recognised, and never another object.

const std = @import("std");
const status = @import("status.zig");
const Mutex = @import("sync.zig").Mutex;

/// Zero is never a handle.
pub const Handle = u32;

const slot_bits = 12;
const slots_max = 1 << slot_bits;
const generation_max = std.math.maxInt(u32) >> slot_bits;

/// Handles of one kind of object. `noun` names the kind in error sentences. The objects are owned by the caller.
pub fn Table(comptime T: type, comptime noun: []const u8) type {
    return struct {
        const Self = @This();
        const Slot = struct { object: ?*T = null, generation: u32 = 0 };

        mutex: Mutex = .{},
        slots: std.ArrayList(Slot) = .empty,

        pub fn add(table: *Self, gpa: std.mem.Allocator, object: *T) status.Error!Handle {
            table.mutex.lock();
            defer table.mutex.unlock();
            const index = for (table.slots.items, 0..) |slot, i| {
                if (slot.object == null and slot.generation < generation_max) break i;
            } else blk: {
                if (table.slots.items.len == slots_max) {
                    return status.fail(error.Full, "{d} {s}s are open; dispose of some", .{ slots_max, noun });
                }
                try table.slots.append(gpa, .{});
                break :blk table.slots.items.len - 1;
            };
            const slot = &table.slots.items[index];
            slot.* = .{ .object = object, .generation = slot.generation + 1 };
            return slot.generation << slot_bits | @as(u32, @intCast(index));
        }

        pub fn get(table: *Self, handle: Handle) status.Error!*T {
            table.mutex.lock();
            defer table.mutex.unlock();
            const slot = table.find(handle) orelse return closed();
            return slot.object.?;
        }

        /// Takes the object out: from now on the handle is refused.
        pub fn remove(table: *Self, handle: Handle) status.Error!*T {
            table.mutex.lock();
            defer table.mutex.unlock();
            const slot = table.find(handle) orelse return closed();
            const object = slot.object.?;
            slot.object = null;
            return object;
        }

        pub fn count(table: *Self) u32 {
            table.mutex.lock();
            defer table.mutex.unlock();
            var open: u32 = 0;
            for (table.slots.items) |slot| open += @intFromBool(slot.object != null);
            return open;
        }

        fn find(table: *Self, handle: Handle) ?*Slot {
            const index = handle & (slots_max - 1);
            if (index >= table.slots.items.len) return null;
            const slot = &table.slots.items[index];
            if (slot.object == null or slot.generation != handle >> slot_bits) return null;
            return slot;
        }

        fn closed() status.Error {
            return status.fail(error.Closed, "this {s} was disposed of", .{noun});
        }
    };
}

test "a handle outlives its object as an error" {
    const gpa = std.testing.allocator;
    var table: Table(u8, "byte") = .{};
    defer table.slots.deinit(gpa);
    var a: u8 = 1;
    var b: u8 = 2;
    const first = try table.add(gpa, &a);
    try std.testing.expectEqual(&a, try table.get(first));
    _ = try table.remove(first);
    const second = try table.add(gpa, &b);
    try std.testing.expect(first != second);
    try std.testing.expectError(error.Closed, table.get(first));
    try std.testing.expectError(error.Closed, table.remove(0));
    try std.testing.expectEqual(&b, try table.get(second));
    try std.testing.expectEqual(1, table.count());
}
