//! Errors as they leave the library: a status code for the caller to branch on, and a sentence for a person to read.
//!
//! Inside the library a failing function stores its sentence with `fail` and returns the error; the exported wrapper
//! turns the error into a `Status`. The sentence belongs to the thread that failed.

const std = @import("std");

/// What every exported function returns. Zero is success; the others are negative and never renumbered.
pub const Status = enum(i32) {
    ok = 0,
    invalid_argument = -1,
    not_found = -2,
    out_of_memory = -3,
    io = -4,
    bad_format = -5,
    unsupported = -6,
    busy = -7,
    cancelled = -8,
    full = -9,
    closed = -10,
    refused = -11,
    internal = -12,
};

pub const Error = error{
    InvalidArgument,
    NotFound,
    OutOfMemory,
    Io,
    BadFormat,
    Unsupported,
    Busy,
    Cancelled,
    Full,
    Closed,
    Refused,
    Internal,
};

pub const message_bytes_max = 2048;

threadlocal var message_buffer: [message_bytes_max]u8 = undefined;
threadlocal var message_length: usize = 0;
/// Whose sentence it is, until the error has left the library.
threadlocal var message_of: ?Error = null;

/// Stores the sentence and returns `err`, so that a check reads `return status.fail(error.X, "...", .{...})`.
pub fn fail(err: Error, comptime format: []const u8, args: anytype) Error {
    message_of = err;
    var writer: std.Io.Writer = .fixed(&message_buffer);
    // A sentence longer than the buffer is cut; what fitted is still worth reading.
    writer.print(format, args) catch {
        message_length = writer.end;
        return err;
    };
    message_length = writer.end;
    return err;
}

/// The sentence of this thread's last failure. Valid until its next one.
pub fn message() []const u8 {
    return message_buffer[0..message_length];
}

/// Takes over the sentence of another thread's failure.
pub fn set_message(text: []const u8) void {
    message_length = @min(text.len, message_bytes_max);
    @memmove(message_buffer[0..message_length], text[0..message_length]);
}

/// The code of an error. Running out of memory needs no sentence of its own at every allocation.
pub fn from_error(err: Error) Status {
    defer message_of = null;
    return switch (err) {
        error.InvalidArgument => .invalid_argument,
        error.NotFound => .not_found,
        error.OutOfMemory => blk: {
            const has_sentence = if (message_of) |failed| failed == error.OutOfMemory else false;
            if (!has_sentence) set_message("the system has no memory left");
            break :blk .out_of_memory;
        },
        error.Io => .io,
        error.BadFormat => .bad_format,
        error.Unsupported => .unsupported,
        error.Busy => .busy,
        error.Cancelled => .cancelled,
        error.Full => .full,
        error.Closed => .closed,
        error.Refused => .refused,
        error.Internal => .internal,
    };
}

/// What a function's result is to the caller: zero, or the error's code.
pub fn code(result: Error!void) i32 {
    return @backingInt(if (result) |_| Status.ok else |err| from_error(err));
}

test "a failure keeps its sentence and its code" {
    const err = fail(error.BadFormat, "{s}: wrong magic", .{"model.gguf"});
    try std.testing.expectEqual(Status.bad_format, from_error(err));
    try std.testing.expectEqualStrings("model.gguf: wrong magic", message());
}

test "memory that ran out has a sentence of its own, or the common one" {
    const large = fail(error.OutOfMemory, "{d} bytes were refused", .{1 << 40});
    try std.testing.expectEqual(Status.out_of_memory, from_error(large));
    try std.testing.expectEqualStrings("1099511627776 bytes were refused", message());
    try std.testing.expectEqual(Status.out_of_memory, from_error(error.OutOfMemory));
    try std.testing.expectEqualStrings("the system has no memory left", message());
}

test "a sentence that is too long is cut" {
    const long: [message_bytes_max * 2]u8 = @splat('x');
    try std.testing.expectEqual(error.Io, fail(error.Io, "{s}", .{&long}));
    try std.testing.expectEqual(message_bytes_max, message().len);
}
