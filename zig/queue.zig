//! Events for the foreign side: a bounded ring, and a pipe that becomes readable when the ring was empty and is not.
//! A producer waits while the ring is full, so a consumer that sleeps loses nothing.

const std = @import("std");
const builtin = @import("builtin");
const status = @import("status.zig");
const sync = @import("sync.zig");

pub const EventKind = enum(i32) {
    /// A token was drawn: `sequence`, `token`, `position` (of the token before it), `value` its log probability. Where
    /// none could be, `status` and `message` say why.
    token = 0,
    /// A job ended: `status`, and `message` where it failed.
    done = 1,
    /// An engine's or a loader's thread has ended; nothing more comes from this source.
    closed = 2,
    /// Loading went on: `value` = bytes done, `total` = bytes in all.
    progress = 3,
};

/// Crosses the ABI.
pub const Event = extern struct {
    kind: EventKind,
    /// Handle of the engine or model that it comes from.
    source: u32,
    job: u32,
    sequence: i32 = -1,
    token: i32 = -1,
    position: i32 = -1,
    status: i32 = 0,
    /// Number of the sentence to fetch with `take_message`; 0 = none.
    message: u32 = 0,
    value: f64 = 0,
    total: f64 = 0,
    /// Milliseconds of a clock that only goes forward.
    time_ms: f64 = 0,
};

pub const ring_events = 4096;

pub const Queue = struct {
    gpa: std.mem.Allocator,
    mutex: sync.Mutex = .{},
    space: sync.Condition = .{},
    ring: []Event,
    first: usize = 0,
    count: usize = 0,
    closed: bool = false,
    /// A byte is in the pipe.
    signalled: bool = false,
    messages: std.AutoHashMapUnmanaged(u32, []u8) = .empty,
    message_next: u32 = 1,
    read_end: std.c.fd_t,
    write_end: std.c.fd_t,

    pub fn init(gpa: std.mem.Allocator) status.Error!Queue {
        const ring = try gpa.alloc(Event, ring_events);
        errdefer gpa.free(ring);
        var ends: [2]std.c.fd_t = undefined;
        if (!open_pipe(&ends)) {
            return status.fail(error.Io, "no pipe could be opened; the process may have too many open files", .{});
        }
        return .{ .gpa = gpa, .ring = ring, .read_end = ends[0], .write_end = ends[1] };
    }

    /// The read end belongs to the consumer, which closes it.
    pub fn deinit(queue: *Queue) void {
        _ = std.c.close(queue.write_end);
        var messages = queue.messages.valueIterator();
        while (messages.next()) |message| queue.gpa.free(message.*);
        queue.messages.deinit(queue.gpa);
        queue.gpa.free(queue.ring);
    }

    /// The consumer is gone: producers no longer wait for it.
    pub fn close(queue: *Queue) void {
        queue.mutex.lock();
        defer queue.mutex.unlock();
        queue.closed = true;
        queue.space.broadcast();
    }

    /// Adds an event; waits for room.
    pub fn post(queue: *Queue, event: Event, message: []const u8) void {
        queue.mutex.lock();
        defer queue.mutex.unlock();
        while (queue.count == queue.ring.len and !queue.closed) queue.space.wait(&queue.mutex);
        if (queue.closed) return;
        var own = event;
        own.time_ms = now_ms();
        if (message.len > 0) own.message = queue.keep_message(message);
        queue.ring[(queue.first + queue.count) % queue.ring.len] = own;
        queue.count += 1;
        if (queue.signalled) return;
        queue.signalled = true;
        const byte = [1]u8{1};
        // The pipe holds at most this one byte, so the write neither blocks nor is cut short.
        _ = std.c.write(queue.write_end, &byte, 1);
    }

    fn keep_message(queue: *Queue, message: []const u8) u32 {
        const own = queue.gpa.dupe(u8, message) catch return 0; // the status alone must do then
        const number = queue.message_next;
        queue.messages.put(queue.gpa, number, own) catch {
            queue.gpa.free(own);
            return 0;
        };
        queue.message_next = if (number == std.math.maxInt(u32)) 1 else number + 1;
        return number;
    }

    /// Takes up to `out.len` events. The consumer has read the pipe's byte before; it calls again until none come.
    pub fn drain(queue: *Queue, out: []Event) usize {
        queue.mutex.lock();
        defer queue.mutex.unlock();
        const count = @min(out.len, queue.count);
        for (out[0..count], 0..) |*event, i| event.* = queue.ring[(queue.first + i) % queue.ring.len];
        queue.first = (queue.first + count) % queue.ring.len;
        queue.count -= count;
        if (queue.count == 0) queue.signalled = false;
        queue.space.broadcast();
        return count;
    }

    /// Copies a sentence out and forgets it. Returns its whole length.
    pub fn take_message(queue: *Queue, number: u32, out: []u8) usize {
        queue.mutex.lock();
        defer queue.mutex.unlock();
        const entry = queue.messages.fetchRemove(number) orelse return 0;
        defer queue.gpa.free(entry.value);
        const length = @min(out.len, entry.value.len);
        @memcpy(out[0..length], entry.value[0..length]);
        return length;
    }
};

/// A pipe that child processes do not inherit.
fn open_pipe(ends: *[2]std.c.fd_t) bool {
    if (builtin.os.tag == .linux) return std.c.pipe2(ends, .{ .CLOEXEC = true }) == 0;
    if (std.c.pipe(ends) != 0) return false;
    for (ends) |end| _ = std.c.fcntl(end, std.c.F.SETFD, @as(c_int, std.c.FD_CLOEXEC));
    return true;
}

pub fn now_ms() f64 {
    var time: std.c.timespec = undefined;
    std.debug.assert(std.c.clock_gettime(.MONOTONIC, &time) == 0);
    return @as(f64, @floatFromInt(time.sec)) * 1e3 + @as(f64, @floatFromInt(time.nsec)) / 1e6;
}

test "events come out in order, with their sentences" {
    var queue: Queue = try .init(std.testing.allocator);
    defer queue.deinit();
    defer _ = std.c.close(queue.read_end);
    queue.post(.{ .kind = .token, .source = 1, .job = 1, .token = 42 }, "");
    queue.post(.{ .kind = .done, .source = 1, .job = 1, .status = -3 }, "no memory");
    var byte: [8]u8 = undefined;
    try std.testing.expectEqual(1, std.c.read(queue.read_end, &byte, byte.len));
    var events: [8]Event = undefined;
    try std.testing.expectEqual(2, queue.drain(&events));
    try std.testing.expectEqual(42, events[0].token);
    var text: [64]u8 = undefined;
    const length = queue.take_message(events[1].message, &text);
    try std.testing.expectEqualStrings("no memory", text[0..length]);
    try std.testing.expectEqual(0, queue.take_message(events[1].message, &text));
    try std.testing.expectEqual(0, queue.drain(&events));
}

test "a producer waits for room and goes on after a drain" {
    var queue: Queue = try .init(std.testing.allocator);
    defer queue.deinit();
    defer _ = std.c.close(queue.read_end);
    const Producer = struct {
        fn run(q: *Queue) void {
            for (0..ring_events + 100) |i| q.post(.{ .kind = .token, .source = 1, .job = 1, .token = @intCast(i) }, "");
        }
    };
    const thread = try std.Thread.spawn(.{}, Producer.run, .{&queue});
    var next: i32 = 0;
    var events: [256]Event = undefined;
    while (next < ring_events + 100) {
        for (events[0..queue.drain(&events)]) |event| {
            try std.testing.expectEqual(next, event.token);
            next += 1;
        }
    }
    thread.join();
}
