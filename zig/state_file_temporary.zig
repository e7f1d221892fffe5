//! The file that a state is written to until it is whole: beside its target, under a name that says what it is, locked
//! for as long as its writer lives.
//!
//! The lock (flock) is what tells a temporary file in use from one that a killed process left: the system lets go of it
//! with the process, and nobody else can have it before. Where a file system has no locks, nothing is ever removed.

const std = @import("std");
const builtin = @import("builtin");
const state_file = @import("state_file.zig");

const assert = std.debug.assert;
const Error = std.c.E;

/// The longest name that file systems take.
const name_bytes_max = 255;
/// What makes a name temporary: the target's, this process, and a number that nobody else has.
const mark = ".tmp-";
const pid_digits_max = 10;
const number_digits = 16;
const extra_bytes_max = mark.len + pid_digits_max + "-".len + number_digits;
/// A free name is found at the first try, unless someone else plays with such names.
const tries_max = 100;

pub const Temporary = struct {
    /// In the target's folder.
    name: [name_bytes_max:0]u8 = @splat(0),
    file: std.c.fd_t = -1,

    /// Creates and locks a file that only this user can read. The caller owns it and the folder, and ends with `close`.
    pub fn create(self: *Temporary, folder: std.c.fd_t, target: []const u8) Error {
        assert(self.file < 0);
        const flags: std.c.O = .{ .ACCMODE = .WRONLY, .CREAT = true, .EXCL = true, .CLOEXEC = true };
        for (0..tries_max) |_| {
            if (!self.choose_name(target)) return .NAMETOOLONG;
            const fd = std.c.openat(folder, &self.name, flags, @as(c_uint, 0o600));
            const code = std.c.errno(fd);
            if (code == .EXIST or code == .INTR) continue;
            if (code != .SUCCESS) return code;
            // Whoever looks for leftovers may have taken it for one before it was locked.
            if (lock(fd) != .held and still_named(fd)) {
                self.file = fd;
                return .SUCCESS;
            }
            _ = std.c.close(fd);
        }
        return .EXIST;
    }

    /// The lock goes with it.
    pub fn close(self: *Temporary) void {
        assert(self.file >= 0);
        // What closing might report was reported when syncing, or matters no longer.
        _ = std.c.close(self.file);
        self.file = -1;
    }

    pub fn remove(self: *Temporary, folder: std.c.fd_t) void {
        // Nothing better can be done with a file that cannot be removed than to leave it. It is removed while it is
        // locked, and so by nobody else.
        _ = std.c.unlinkat(folder, &self.name, 0);
        self.close();
    }

    /// False where it does not fit.
    fn choose_name(self: *Temporary, target: []const u8) bool {
        var time: std.c.timespec = undefined;
        assert(std.c.clock_gettime(.MONOTONIC, &time) == 0);
        const pid = std.c.getpid();
        const salt = [_]i64{ pid, @intCast(time.sec), @intCast(time.nsec), @bitCast(@intFromPtr(self)) };
        const number = state_file.checksum(std.mem.asBytes(&salt));
        self.name = @splat(0);
        const parts = .{ target[0..kept_bytes(target)], mark, @as(u32, @intCast(pid)), number };
        return if (std.fmt.bufPrint(&self.name, "{s}{s}{d}-{x:0>16}", parts)) |_| true else |_| false;
    }
};

/// A name near the limit is cut, between two characters.
fn kept_bytes(target: []const u8) usize {
    var kept = @min(target.len, name_bytes_max - extra_bytes_max);
    while (kept < target.len and kept > 0 and target[kept] & 0xc0 == 0x80) kept -= 1;
    return kept;
}

const Lock = enum { taken, held, unknown };

/// Without waiting.
fn lock(fd: std.c.fd_t) Lock {
    while (true) switch (std.c.errno(std.c.flock(fd, std.c.LOCK.EX | std.c.LOCK.NB))) {
        .SUCCESS => return .taken,
        .INTR => {},
        .AGAIN => return .held,
        // This file system has none.
        else => return .unknown,
    };
}

fn still_named(fd: std.c.fd_t) bool {
    var facts: Facts = undefined;
    return facts.read(fd, "") != .SUCCESS or facts.links > 0;
}

/// Removes what killed processes left of writing to a target in an open folder. Never fails: what cannot be looked at or
/// removed stays.
pub fn remove_leftovers(folder: std.c.fd_t, target: []const u8) void {
    const own = std.c.openat(folder, ".", .{ .ACCMODE = .RDONLY, .DIRECTORY = true, .CLOEXEC = true });
    if (own < 0) return;
    const entries = std.c.fdopendir(own) orelse {
        _ = std.c.close(own);
        return;
    };
    defer _ = std.c.closedir(entries);
    while (std.c.readdir(entries)) |entry| {
        const name: [*:0]const u8 = @ptrCast(&entry.name);
        if (is_temporary(std.mem.span(name), target)) remove_leftover(folder, name);
    }
}

/// Whether a name is one that is chosen for a target.
fn is_temporary(name: []const u8, target: []const u8) bool {
    const kept = target[0..kept_bytes(target)];
    if (!std.mem.startsWith(u8, name, kept) or !std.mem.startsWith(u8, name[kept.len..], mark)) return false;
    const rest = name[kept.len + mark.len ..];
    const dash = std.mem.findScalar(u8, rest, '-') orelse return false;
    if (dash < 1 or dash > pid_digits_max or rest.len - dash - 1 != number_digits) return false;
    for (rest[0..dash]) |digit| if (!std.ascii.isDigit(digit)) return false;
    for (rest[dash + 1 ..]) |digit| if (!std.ascii.isHex(digit)) return false;
    return true;
}

fn remove_leftover(folder: std.c.fd_t, name: [*:0]const u8) void {
    const fd = std.c.openat(folder, name, .{ .ACCMODE = .WRONLY, .NOFOLLOW = true, .NONBLOCK = true, .CLOEXEC = true });
    if (fd < 0) return;
    defer _ = std.c.close(fd);
    var facts: Facts = undefined;
    if (facts.read(fd, "") != .SUCCESS or !std.c.S.ISREG(facts.mode)) return;
    if (lock(fd) == .taken) _ = std.c.unlinkat(folder, name, 0);
}

/// What the system says of a file.
pub const Facts = struct {
    mode: std.c.mode_t,
    user: std.c.uid_t,
    group: std.c.gid_t,
    links: u64,

    /// Of a name in an open folder, links followed, or of an open file itself where the name is empty.
    pub fn read(self: *Facts, file: std.c.fd_t, name: [:0]const u8) Error {
        const is_linux = builtin.os.tag == .linux;
        var found: if (is_linux) std.os.linux.Statx else std.c.Stat = undefined;
        const code = std.c.errno(if (is_linux)
            std.c.statx(file, name, if (name.len == 0) std.os.linux.AT.EMPTY_PATH else 0, .{
                .TYPE = true,
                .MODE = true,
                .NLINK = true,
                .UID = true,
                .GID = true,
            }, &found)
        else if (name.len == 0)
            std.c.fstat(file, &found)
        else
            std.c.fstatat(file, name, &found, 0));
        if (code == .SUCCESS) self.* = .{ .mode = found.mode, .user = found.uid, .group = found.gid, .links = found.nlink };
        return code;
    }
};

const testing = std.testing;
const Folder = @import("state_file_sample.zig").Folder;

fn open_folder(folder: *Folder) !std.c.fd_t {
    const fd = std.c.open(try folder.path(""), .{ .ACCMODE = .RDONLY, .DIRECTORY = true, .CLOEXEC = true });
    try testing.expect(fd >= 0);
    return fd;
}

test "only what nobody writes any more is a leftover, and only of the same target" {
    var folder: Folder = .init();
    defer folder.deinit();
    const fd = try open_folder(&folder);
    defer _ = std.c.close(fd);
    const left = [_][]const u8{ "a.state.tmp-4194304-00000000deadbeef", "a.state.tmp-1-0123456789abcdef" };
    const others = [_][]const u8{
        "a.state",
        "a.state.tmp",
        "a.state.tmp-",
        "a.state.tmp-12",
        "a.state.tmp-x2-0123456789abcdef",
        "a.state.tmp--0123456789abcdef",
        "a.state.tmp-12-0123456789abcde",
        "a.state.tmp-12-0123456789abcdeg",
        "a.state.tmp-12-0123456789abcdef0",
        "a.state.tmp-12345678901-0123456789abcdef",
        "b.state.tmp-12-0123456789abcdef",
        "xa.state.tmp-12-0123456789abcdef",
        "a.state2.tmp-12-0123456789abcdef",
    };
    for (left ++ others) |name| try folder.write(name, "bytes");
    try folder.temporary.dir.createDir(testing.io, "a.state.tmp-2-0123456789abcdef", .default_dir);
    try folder.temporary.dir.symLink(testing.io, "a.state", "a.state.tmp-3-0123456789abcdef", .{});
    var living: Temporary = .{};
    try testing.expectEqual(Error.SUCCESS, living.create(fd, "a.state"));
    for (0..2) |_| {
        remove_leftovers(fd, "a.state");
        try testing.expectEqual(others.len + 3, try folder.count());
    }
    living.close();
    remove_leftovers(fd, "a.state");
    try testing.expectEqual(others.len + 2, try folder.count());
    const content = try folder.read("a.state");
    defer testing.allocator.free(content);
    try testing.expectEqualStrings("bytes", content);
}

test "what a killed process was writing is removed, and not before it is dead" {
    var folder: Folder = .init();
    defer folder.deinit();
    const fd = try open_folder(&folder);
    defer _ = std.c.close(fd);
    var pipes: [2]std.c.fd_t = undefined;
    try testing.expectEqual(0, std.c.pipe(&pipes));
    defer for (pipes) |end| {
        _ = std.c.close(end);
    };
    const child = std.c.fork();
    try testing.expect(child >= 0);
    if (child == 0) {
        var temporary: Temporary = .{};
        const fine = temporary.create(fd, "a.state") == .SUCCESS;
        _ = std.c.write(pipes[1], if (fine) "y" else "n", 1);
        while (true) _ = std.c.nanosleep(&.{ .sec = 1000, .nsec = 0 }, null);
    }
    errdefer _ = std.c.kill(child, .KILL);
    var answer: [1]u8 = undefined;
    try testing.expectEqual(1, std.c.read(pipes[0], &answer, 1));
    try testing.expectEqual('y', answer[0]);
    remove_leftovers(fd, "a.state");
    try testing.expectEqual(1, try folder.count());
    try testing.expectEqual(0, std.c.kill(child, .KILL));
    try testing.expectEqual(child, std.c.waitpid(child, null, 0));
    remove_leftovers(fd, "a.state");
    try testing.expectEqual(0, try folder.count());
}

test "the longest names have leftovers too" {
    var folder: Folder = .init();
    defer folder.deinit();
    const fd = try open_folder(&folder);
    defer _ = std.c.close(fd);
    const marks: [85][3]u8 = @splat("\u{2713}".*);
    var temporary: Temporary = .{};
    try testing.expectEqual(Error.SUCCESS, temporary.create(fd, std.mem.asBytes(&marks)));
    try testing.expect(std.unicode.utf8ValidateSlice(std.mem.sliceTo(&temporary.name, 0)));
    temporary.close();
    remove_leftovers(fd, std.mem.asBytes(&marks));
    try testing.expectEqual(0, try folder.count());
}
