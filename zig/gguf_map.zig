//! A whole file as read-only memory, and the sentence for each way in which that can fail.
//!
//! Pages are read when they are first touched and shared with every other process that maps the
//! file. Bytes that another program cuts off or overwrites while a file is mapped are out of this
//! library's hands, as with any mapping.

const std = @import("std");
const status = @import("status.zig");

/// Starts at a page, so that offsets aligned in the file are aligned in memory.
pub const Bytes = []align(std.heap.page_size_min) const u8;

/// Maps the file. The caller gives the bytes to `unmap`; the file descriptor is closed either way.
pub fn map(path: [:0]const u8) status.Error!Bytes {
    const shown: Shown = .path(path);
    // Without NONBLOCK a named pipe would wait for a writer.
    const flags: std.c.O = .{ .ACCMODE = .RDONLY, .CLOEXEC = true, .NONBLOCK = true };
    const fd = std.c.open(path, flags);
    switch (std.c.errno(fd)) {
        .SUCCESS => {},
        .NOENT => return status.fail(error.NotFound, "{f}: there is no such file", .{shown}),
        .NOTDIR => return status.fail(
            error.NotFound,
            "{f}: there is no such file: a part of the path is not a directory",
            .{shown},
        ),
        .ACCES, .PERM => return status.fail(
            error.Io,
            "{f}: this process may not read it; check the permissions of the file and of its folders",
            .{shown},
        ),
        .LOOP => return status.fail(error.Io, "{f}: its symbolic links lead in a circle", .{shown}),
        .NAMETOOLONG => return status.fail(error.Io, "{f}: the path is too long", .{shown}),
        else => |code| return status.fail(error.Io, "{f}: it cannot be opened ({t})", .{ shown, code }),
    }
    // Nothing was written, so closing has nothing to lose; the mapping outlives it.
    defer _ = std.c.close(fd);

    const size = try measure(fd, shown);
    const address = std.c.mmap(null, size, .{ .READ = true }, .{ .TYPE = .SHARED }, fd, 0);
    if (address == std.c.MAP_FAILED) {
        const code = std.c.errno(-1);
        return status.fail(error.Io, "{f}: its {d} bytes cannot be mapped ({t})", .{ shown, size, code });
    }
    const start: [*]align(std.heap.page_size_min) const u8 = @ptrCast(@alignCast(address));
    return start[0..size];
}

pub fn unmap(bytes: Bytes) void {
    std.debug.assert(std.c.munmap(@ptrCast(@constCast(bytes.ptr)), bytes.len) == 0);
}

/// The size of what can be read from the open file: at least 1.
fn measure(fd: std.c.fd_t, shown: Shown) status.Error!usize {
    var probe: [1]u8 = undefined;
    const read = std.c.pread(fd, &probe, probe.len, 0);
    switch (std.c.errno(read)) {
        .SUCCESS => {},
        .ISDIR => return status.fail(
            error.Io,
            "{f}: this is a directory; give the path of a .gguf file in it",
            .{shown},
        ),
        .SPIPE, .NXIO => return status.fail(
            error.Io,
            "{f}: this is a pipe or a device; a model is read from a file",
            .{shown},
        ),
        else => |code| return status.fail(error.Io, "{f}: it cannot be read ({t})", .{ shown, code }),
    }
    const end = std.c.lseek(fd, 0, std.c.SEEK.END);
    if (end < 0) return status.fail(error.Io, "{f}: its size cannot be found", .{shown});
    if (read == 0 or end == 0) {
        return status.fail(error.BadFormat, "{f}: the file is empty, expected a GGUF file", .{shown});
    }
    return @intCast(end);
}

/// Foreign bytes as they can stand in a sentence: on one line, in valid UTF-8, and not too long.
pub const Shown = struct {
    bytes: []const u8,
    bytes_max: usize,
    /// Which end is left out when the bytes are too many.
    cut: enum { start, end },

    /// The end of a path says most.
    pub fn path(bytes: []const u8) Shown {
        return .{ .bytes = bytes, .bytes_max = 800, .cut = .start };
    }

    pub fn name(bytes: []const u8) Shown {
        return .{ .bytes = bytes, .bytes_max = 100, .cut = .end };
    }

    pub fn format(self: Shown, writer: *std.Io.Writer) std.Io.Writer.Error!void {
        const excess = self.bytes.len -| self.bytes_max;
        var kept = switch (self.cut) {
            .start => self.bytes[excess..],
            .end => self.bytes[0 .. self.bytes.len - excess],
        };
        if (excess > 0) kept = trim_partial(kept);
        if (excess > 0 and self.cut == .start) try writer.writeAll("...");
        const valid = std.unicode.utf8ValidateSlice(kept);
        for (kept) |byte| {
            const plain = byte >= 0x20 and byte != 0x7f and (byte < 0x80 or valid);
            if (plain) try writer.writeByte(byte) else try writer.print("\\x{x:0>2}", .{byte});
        }
        if (excess > 0 and self.cut == .end) try writer.writeAll("...");
    }
};

/// Leaves out what a cut may have left of a character at either end.
fn trim_partial(bytes: []const u8) []const u8 {
    var start: usize = 0;
    while (start < @min(3, bytes.len) and bytes[start] & 0xc0 == 0x80) start += 1;
    var end = bytes.len;
    while (end > start and end + 4 > bytes.len and bytes[end - 1] >= 0x80) {
        end -= 1;
        if (bytes[end] >= 0xc0) break;
    }
    // A whole last character is given up too: a sentence that is cut can spare it.
    return bytes[start..end];
}

test "foreign bytes are shown on one line, valid and cut" {
    var buffer: [256]u8 = undefined;
    const cases = [_]struct { Shown, []const u8 }{
        .{ .name("blk.0.weight"), "blk.0.weight" },
        .{ .name("naïve ✓"), "naïve ✓" },
        .{ .name("two\nlines\x7f"), "two\\x0alines\\x7f" },
        .{ .name("bad \xff\xc3"), "bad \\xff\\xc3" },
        .{ .{ .bytes = "abcdef", .bytes_max = 3, .cut = .end }, "abc..." },
        .{ .{ .bytes = "abcdef", .bytes_max = 3, .cut = .start }, "...def" },
        .{ .{ .bytes = "ab✓cd", .bytes_max = 4, .cut = .end }, "ab..." },
        .{ .{ .bytes = "ab✓cd", .bytes_max = 4, .cut = .start }, "...cd" },
    };
    for (cases) |case| {
        try std.testing.expectEqualStrings(case[1], try std.fmt.bufPrint(&buffer, "{f}", .{case[0]}));
    }
}
