//! Event queues.

const std = @import("std");
const status = @import("../status.zig");
const structs = @import("structs.zig");
const objects = @import("objects.zig");
const SharedQueue = @import("../engine.zig").SharedQueue;
const gpa = objects.gpa;

pub fn new(out: *u32, read_end: *i32) status.Error!void {
    const queue = try SharedQueue.create(gpa, try .init(gpa));
    errdefer {
        _ = std.c.close(queue.value.read_end);
        queue.release();
    }
    out.* = try objects.queues.add(gpa, queue);
    read_end.* = queue.value.read_end;
}

pub fn close(handle: u32) status.Error!void {
    const queue = try objects.queues.remove(handle);
    queue.value.close();
    queue.release();
}

pub fn drain(handle: u32, out: []structs.Event, count: *u32) status.Error!void {
    const queue = try objects.queues.get(handle);
    count.* = @intCast(queue.value.drain(out));
}

pub fn message(handle: u32, number: u32, out: []u8, length: *u32) status.Error!void {
    const queue = try objects.queues.get(handle);
    length.* = @intCast(queue.value.take_message(number, out));
}
