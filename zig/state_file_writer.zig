//! Writes a state file, all or nothing.
//!
//! The bytes go to a temporary file in the folder of the target, which takes the target's place only when it is whole
//! and on the disk. Until then the old file is untouched; a failure removes the temporary file. A process that is
//! killed leaves its temporary file behind, which the next one that writes to the same target removes, but never a part
//! of a file under the target's name.

const std = @import("std");
const builtin = @import("builtin");
const status = @import("status.zig");
const state_file = @import("state_file.zig");
const temporary_file = @import("state_file_temporary.zig");
const Shown = @import("gguf_map.zig").Shown;

const assert = std.debug.assert;
const Error = status.Error;

const buffer_bytes = 1 << 20;
/// Of a resolved path: PATH_MAX of the systems that we build for.
const path_bytes_max = 4096;
/// As many as the systems follow.
const links_max = 40;

/// Belongs to one thread at a time. A call that fails abandons the file.
pub const Writer = struct {
    gpa: std.mem.Allocator,
    is_open: bool = true,
    /// As the caller gave it, for sentences.
    path: [:0]const u8,
    /// The finished file's name in its folder.
    target: [:0]const u8,
    /// What is written until then, in the same folder.
    temporary: temporary_file.Temporary = .{},
    buffer: []u8,
    buffered: usize = 0,
    /// Names are looked up in this open folder, so that it does not matter if the process changes its own.
    folder: std.c.fd_t = -1,
    /// In the file, of the next byte; those in the buffer are counted.
    offset: u64 = 0,
    sections: std.array_hash_map.Auto(state_file.Key, state_file.Section) = .empty,
    hash: state_file.Hash = .init(0),
    is_in_section: bool = false,

    /// Opens a temporary file beside `path`. A symbolic link is followed: what it leads to is replaced, not the link.
    /// The caller puts `abandon` into a `defer`.
    pub fn create(gpa: std.mem.Allocator, path: []const u8) Error!Writer {
        if (path.len == 0) return status.fail(error.InvalidArgument, "the path of the state file is empty", .{});
        if (std.mem.findScalar(u8, path, 0) != null) {
            const sentence = "{f}: a path cannot contain a zero byte";
            return status.fail(error.InvalidArgument, sentence, .{Shown.path(path)});
        }
        var writer = try allocate(gpa, path);
        errdefer writer.abandon();
        try writer.open_folder();
        const replaced = try writer.target_facts();
        if (replaced) |facts| try writer.refuse_odd_target(facts);
        temporary_file.remove_leftovers(writer.folder, writer.target);
        const created = writer.temporary.create(writer.folder, writer.target);
        if (created != .SUCCESS) return writer.fail(created);
        if (replaced) |facts| writer.keep_permissions(facts);
        // The header's place, which is filled at the end.
        try writer.put(&@as([@sizeOf(state_file.Header)]u8, @splat(0)));
        return writer;
    }

    /// Starts a section. No two sections of a file have both the same kind and the same index.
    pub fn begin_section(self: *Writer, kind: u32, index: u32) Error!void {
        assert(self.is_open and !self.is_in_section);
        errdefer self.abandon();
        try self.pad();
        const entry = try self.sections.getOrPut(self.gpa, .{ .kind = kind, .index = index });
        if (entry.found_existing) {
            const sentence = "{f}: section {d} of kind {d} was written twice";
            return status.fail(error.Internal, sentence, .{ Shown.path(self.path), index, kind });
        }
        entry.value_ptr.* = .{
            .kind = kind,
            .index = index,
            .offset = self.offset,
            .size_bytes = 0,
            .checksum = 0,
        };
        self.hash = .init(0);
        self.is_in_section = true;
    }

    /// Appends to the section.
    pub fn write(self: *Writer, bytes: []const u8) Error!void {
        assert(self.is_open and self.is_in_section);
        errdefer self.abandon();
        var rest = bytes;
        while (rest.len > 0) {
            // In pieces, so that what was hashed is still in the processor's cache when it is copied.
            const piece = rest[0..@min(rest.len, buffer_bytes)];
            self.hash.update(piece);
            try self.put(piece);
            rest = rest[piece.len..];
        }
    }

    pub fn end_section(self: *Writer) void {
        assert(self.is_open and self.is_in_section);
        const sections = self.sections.values();
        const section = &sections[sections.len - 1];
        section.size_bytes = self.offset - section.offset;
        section.checksum = self.hash.final();
        self.is_in_section = false;
    }

    /// Brings the whole file onto the disk and then into its place. The writer ends.
    pub fn finish(self: *Writer, identity: state_file.Identity) Error!void {
        assert(self.is_open and !self.is_in_section);
        errdefer self.abandon();
        try self.put_table(identity);
        const synced = sync(self.temporary.file);
        if (synced != .SUCCESS) return self.fail(synced);
        const moved = std.c.renameat(self.folder, &self.temporary.name, self.folder, self.target);
        if (moved != 0) return self.fail(std.c.errno(moved));
        self.temporary.close();

        switch (sync(self.folder)) {
            // File systems that cannot sync a folder say so.
            .SUCCESS, .INVAL, .OPNOTSUPP => self.release(),
            else => |code| return status.fail(
                error.Io,
                "{f}: the state is saved, but its folder cannot be synced ({t}): after a power failure the old file " ++
                    "may be back",
                .{ Shown.path(self.path), code },
            ),
        }
    }

    /// Removes the temporary file. Does nothing after `finish`, after a failure, or a second time.
    pub fn abandon(self: *Writer) void {
        if (!self.is_open) return;
        if (self.temporary.file >= 0) self.temporary.remove(self.folder);
        self.release();
    }

    fn allocate(gpa: std.mem.Allocator, path: []const u8) Error!Writer {
        const given = try gpa.dupeSentinel(u8, path, 0);
        errdefer gpa.free(given);
        const target = try resolve(gpa, given);
        errdefer gpa.free(target);
        const buffer = try gpa.alloc(u8, buffer_bytes);
        return .{ .gpa = gpa, .path = given, .target = target, .buffer = buffer };
    }

    fn release(self: *Writer) void {
        assert(self.is_open and self.temporary.file < 0);
        if (self.folder >= 0) _ = std.c.close(self.folder);
        self.sections.deinit(self.gpa);
        self.gpa.free(self.buffer);
        self.gpa.free(self.target);
        self.gpa.free(self.path);
        self.is_open = false;
    }

    /// Splits the target's path: from here on it is a name in an open folder.
    fn open_folder(self: *Writer) Error!void {
        const name = std.fs.path.basenamePosix(self.target);
        const folder_path = std.fs.path.dirnamePosix(self.target) orelse ".";
        const folder = try self.gpa.dupeSentinel(u8, folder_path, 0);
        defer self.gpa.free(folder);
        const target = try self.gpa.dupeSentinel(u8, name, 0);
        self.gpa.free(self.target);
        self.target = target;
        self.folder = std.c.open(folder, .{ .ACCMODE = .RDONLY, .DIRECTORY = true, .CLOEXEC = true });
        if (self.folder < 0) return self.fail(std.c.errno(self.folder));
    }

    /// Null if there is no such file yet.
    fn target_facts(self: *Writer) Error!?temporary_file.Facts {
        var facts: temporary_file.Facts = undefined;
        return switch (facts.read(self.folder, self.target)) {
            .SUCCESS => facts,
            .NOENT => null,
            else => |code| self.fail(code),
        };
    }

    /// Renaming would put the new file even into the place of a device.
    fn refuse_odd_target(self: *Writer, facts: temporary_file.Facts) Error!void {
        if (std.c.S.ISREG(facts.mode)) return;
        if (std.c.S.ISDIR(facts.mode)) return self.fail(.ISDIR);
        const sentence = "{f}: the state cannot be saved: this is a pipe or a device";
        return status.fail(error.Io, sentence, .{Shown.path(self.path)});
    }

    /// Lets those read and write the new file who may the old one, and nobody else.
    fn keep_permissions(self: *Writer, replaced: temporary_file.Facts) void {
        const file = self.temporary.file;
        var mode = replaced.mode & 0o777;
        // Who is not root may give a file only to groups of its own: another group gets no right.
        const is_given = std.c.fchown(file, replaced.user, replaced.group) == 0 or
            std.c.fchown(file, std.math.maxInt(std.c.uid_t), replaced.group) == 0;
        if (!is_given) mode &= 0o707;
        // File systems without permissions refuse; there is nothing to keep.
        _ = std.c.fchmod(file, mode);
    }

    /// Ends with the table; the header goes to the start.
    fn put_table(self: *Writer, identity: state_file.Identity) Error!void {
        try self.pad();
        const table = std.mem.sliceAsBytes(self.sections.values());
        var header: state_file.Header = .{
            .file_bytes = self.offset + table.len,
            .table_offset = self.offset,
            .section_count = @intCast(self.sections.count()),
            .identity = identity,
            .table_checksum = state_file.checksum(table),
        };
        header.header_checksum = header.compute_checksum();
        try self.put(table);
        try self.flush();
        assert(self.offset == header.file_bytes);
        try self.write_at(std.mem.asBytes(&header), 0);
    }

    /// Zeros up to the next place where something may start.
    fn pad(self: *Writer) Error!void {
        const zeros: [state_file.alignment]u8 = @splat(0);
        const next = state_file.align_up(self.offset).?;
        try self.put(zeros[0..@intCast(next - self.offset)]);
    }

    fn put(self: *Writer, bytes: []const u8) Error!void {
        if (bytes.len > self.buffer.len - self.buffered) try self.flush();
        if (bytes.len >= self.buffer.len) {
            try self.write_at(bytes, self.offset);
        } else {
            @memcpy(self.buffer[self.buffered..][0..bytes.len], bytes);
            self.buffered += bytes.len;
        }
        self.offset += bytes.len;
    }

    fn flush(self: *Writer) Error!void {
        try self.write_at(self.buffer[0..self.buffered], self.offset - self.buffered);
        self.buffered = 0;
    }

    fn write_at(self: *Writer, bytes: []const u8, offset: u64) Error!void {
        var written: usize = 0;
        while (written < bytes.len) {
            const rest = bytes[written..];
            const count = std.c.pwrite(self.temporary.file, rest.ptr, rest.len, @intCast(offset + written));
            switch (std.c.errno(count)) {
                .SUCCESS => {
                    // A file takes some of the bytes or fails; who takes none would keep us here for ever.
                    if (count == 0) return self.fail(.IO);
                    written += @intCast(count);
                },
                .INTR => {},
                else => |code| return self.fail(code),
            }
        }
    }

    fn fail(self: *const Writer, code: std.c.E) Error {
        return fail_saving(self.path, code);
    }
};

/// The path with symbolic links followed, also where the last one leads to a name that no file has yet.
fn resolve(gpa: std.mem.Allocator, path: [:0]const u8) Error![:0]const u8 {
    // Only a folder can be meant, whether it exists or not.
    if (path[path.len - 1] == '/') return fail_saving(path, .ISDIR);
    var at = try gpa.dupeSentinel(u8, path, 0);
    errdefer gpa.free(at);
    for (0..links_max) |_| {
        var buffer: [path_bytes_max]u8 = undefined;
        const found = std.c.realpath(at, &buffer);
        const code = std.c.errno(if (found == null) @as(c_int, -1) else 0);
        if (found == null and code != .NOENT) return fail_saving(path, code);
        const next = if (found) |whole| std.mem.span(whole) else read_link(at, &buffer) orelse return at;
        const folder = std.fs.path.dirnamePosix(at) orelse ".";
        const parts: []const []const u8 = if (next[0] == '/') &.{next} else &.{ folder, "/", next };
        const followed = try std.mem.concatWithSentinel(gpa, u8, parts, 0);
        gpa.free(at);
        at = followed;
        if (found != null) return at;
    }
    return fail_saving(path, .LOOP);
}

/// What a symbolic link leads to; null where it is none.
fn read_link(path: [:0]const u8, buffer: []u8) ?[]const u8 {
    const bytes = std.c.readlink(path, buffer.ptr, buffer.len);
    return if (bytes > 0) buffer[0..@intCast(bytes)] else null;
}

fn fail_saving(path: []const u8, code: std.c.E) Error {
    const reason = switch (code) {
        .NOSPC => "the disk is full",
        .DQUOT => "the disk quota is used up",
        .FBIG => "it is larger than this process or the file system allows",
        .ROFS => "the file system is read-only",
        .ACCES, .PERM => "this process may not write in its folder",
        .NOENT => "there is no such folder",
        .NOTDIR => "a part of the path is not a folder",
        .ISDIR => "this is a folder, expected the path of a file",
        .LOOP => "its symbolic links lead in a circle",
        .NAMETOOLONG => "the path is too long",
        .IO => "the disk failed",
        .MFILE, .NFILE => "too many files are open",
        else => "the system refused",
    };
    return status.fail(error.Io, "{f}: the state cannot be saved: {s} ({t})", .{ Shown.path(path), reason, code });
}

/// Returns when the bytes are on the disk.
fn sync(fd: std.c.fd_t) std.c.E {
    if (builtin.os.tag.isDarwin()) {
        // There, fsync leaves them in the drive's own memory. Not all file systems know the better call.
        if (std.c.fcntl(fd, std.c.F.FULLFSYNC) == 0) return .SUCCESS;
    }
    while (true) {
        const code = std.c.errno(std.c.fsync(fd));
        if (code != .INTR) return code;
    }
}

const testing = std.testing;
const Folder = @import("state_file_sample.zig").Folder;

/// Begins to replace the file with another, which it leaves to the caller to end.
fn start_other(folder: *Folder, name: []const u8, bytes: usize) !Writer {
    const content = try testing.allocator.alloc(u8, bytes);
    defer testing.allocator.free(content);
    @memset(content, 0x77);
    var writer = try Writer.create(testing.allocator, try folder.path(name));
    errdefer writer.abandon();
    try writer.begin_section(9, 9);
    try writer.write(content);
    return writer;
}

fn expect_sentence(name: []const u8, sentence: []const u8) !void {
    try testing.expect(std.mem.find(u8, status.message(), name) != null);
    if (std.mem.find(u8, status.message(), sentence) == null) {
        try testing.expectEqualStrings(sentence, status.message());
    }
}

test "an abandoned file leaves the old one, and nothing else" {
    var folder: Folder = .init();
    defer folder.deinit();
    try folder.write_sample("a.state");
    const old = try folder.read("a.state");
    defer testing.allocator.free(old);
    // Both what lies in the buffer and what was written is given up.
    for ([_]usize{ 10, 3 * buffer_bytes + 5 }) |bytes| {
        var writer = try start_other(&folder, "a.state", bytes);
        try testing.expectEqual(2, try folder.count());
        writer.abandon();
        writer.abandon();
        try folder.expect_only("a.state", old);
    }
    var other = try start_other(&folder, "a.state", 10);
    other.end_section();
    try other.finish(folder.identity);
    other.abandon();
    try testing.expectEqual(1, try folder.count());
    const new = try folder.read("a.state");
    defer testing.allocator.free(new);
    try testing.expect(!std.mem.eql(u8, old, new));
}

test "a target that cannot be written gets one sentence, and no file" {
    var folder: Folder = .init();
    defer folder.deinit();
    try folder.write_sample("a.state");
    const old = try folder.read("a.state");
    defer testing.allocator.free(old);
    const long: [256]u8 = @splat('n');
    const cases = [_]struct { []const u8, []const u8 }{
        .{ "missing/b.state", "there is no such folder" },
        .{ "a.state/b.state", "a part of the path is not a folder" },
        .{ "folder/", "this is a folder, expected the path of a file" },
        .{ "folder", "this is a folder, expected the path of a file" },
        .{ "circle", "its symbolic links lead in a circle" },
        .{ &long, "the path is too long" },
    };
    const dir = folder.temporary.dir;
    try dir.createDir(testing.io, "folder", .default_dir);
    try dir.symLink(testing.io, "circle", "circle", .{});
    for (cases) |case| {
        try testing.expectError(error.Io, Writer.create(testing.allocator, try folder.path(case[0])));
        try expect_sentence(case[0], case[1]);
    }
    try testing.expectError(error.Io, Writer.create(testing.allocator, "/dev/null"));
    try expect_sentence("/dev/null", "this is a pipe or a device");
    try testing.expectError(error.InvalidArgument, Writer.create(testing.allocator, ""));
    try testing.expectError(error.InvalidArgument, Writer.create(testing.allocator, "a\x00b"));
    try dir.deleteFile(testing.io, "circle");
    try dir.deleteDir(testing.io, "folder");
    try folder.expect_only("a.state", old);
}

test "a folder where the user may not write gets one sentence, and the old file stays" {
    var folder: Folder = .init();
    defer folder.deinit();
    try folder.write_sample("a.state");
    const old = try folder.read("a.state");
    defer testing.allocator.free(old);
    try testing.expectEqual(0, std.c.chmod(try folder.path(""), 0o555));
    {
        // To root, every folder is writable.
        const user = std.c.geteuid();
        if (user == 0) try testing.expectEqual(0, std.c.seteuid(65_534));
        defer if (user == 0) assert(std.c.seteuid(user) == 0);
        try testing.expectError(error.Io, Writer.create(testing.allocator, try folder.path("a.state")));
        try expect_sentence("a.state", "this process may not write in its folder");
    }
    try testing.expectEqual(0, std.c.chmod(try folder.path(""), 0o755));
    try folder.expect_only("a.state", old);
}

test "what appears under the target's name in the meantime is kept" {
    var folder: Folder = .init();
    defer folder.deinit();
    var writer = try start_other(&folder, "a.state", 10);
    defer writer.abandon();
    writer.end_section();
    try folder.temporary.dir.createDir(testing.io, "a.state", .default_dir);
    try testing.expectError(error.Io, writer.finish(folder.identity));
    try expect_sentence("a.state", "this is a folder");
    try testing.expectEqual(1, try folder.count());
}

test "a limit on the size of files ends the writing, and the old file stays" {
    var folder: Folder = .init();
    defer folder.deinit();
    try folder.write_sample("a.state");
    const old = try folder.read("a.state");
    defer testing.allocator.free(old);
    const ignore: std.c.Sigaction = .{
        .handler = .{ .handler = std.c.SIG.IGN },
        .mask = std.mem.zeroes(std.c.sigset_t),
        .flags = 0,
    };
    var handled: std.c.Sigaction = undefined;
    var limit: std.c.rlimit = undefined;
    try testing.expectEqual(0, std.c.getrlimit(.FSIZE, &limit));
    {
        // Without a handler the signal would end the process.
        try testing.expectEqual(0, std.c.sigaction(.XFSZ, &ignore, &handled));
        defer assert(std.c.sigaction(.XFSZ, &handled, null) == 0);
        var small = limit;
        small.cur = 2 * buffer_bytes + 100;
        try testing.expectEqual(0, std.c.setrlimit(.FSIZE, &small));
        defer assert(std.c.setrlimit(.FSIZE, &limit) == 0);
        try testing.expectError(error.Io, start_other(&folder, "a.state", 3 * buffer_bytes));
    }
    try expect_sentence("a.state", "it is larger than this process or the file system allows");
    try folder.expect_only("a.state", old);
}

/// From here on the writer's bytes go to a disk without space.
fn fill_disk(writer: *Writer) !void {
    const full = std.c.open("/dev/full", .{ .ACCMODE = .WRONLY });
    try testing.expect(full >= 0);
    defer _ = std.c.close(full);
    try testing.expectEqual(writer.temporary.file, std.c.dup2(full, writer.temporary.file));
}

test "a full disk is reported by whichever call meets it, and the old file stays" {
    if (builtin.os.tag != .linux) return error.SkipZigTest;
    var folder: Folder = .init();
    defer folder.deinit();
    try folder.write_sample("a.state");
    const old = try folder.read("a.state");
    defer testing.allocator.free(old);
    const block = try testing.allocator.alloc(u8, 2 * buffer_bytes);
    defer testing.allocator.free(block);
    @memset(block, 1);
    {
        var writer = try start_other(&folder, "a.state", 10);
        defer writer.abandon();
        try fill_disk(&writer);
        try testing.expectError(error.Io, writer.write(block));
        try expect_sentence("a.state", "the disk is full");
        try folder.expect_only("a.state", old);
    }
    {
        // All but one byte of the buffer is taken: the zeros before the next section have no room.
        var writer = try start_other(&folder, "a.state", 10);
        defer writer.abandon();
        try writer.write(block[0..buffer_bytes]);
        try writer.write(block[0 .. buffer_bytes - 1]);
        writer.end_section();
        try testing.expectEqual(buffer_bytes - 1, writer.buffered);
        try fill_disk(&writer);
        try testing.expectError(error.Io, writer.begin_section(1, 1));
        try expect_sentence("a.state", "the disk is full");
        try folder.expect_only("a.state", old);
    }
    {
        var writer = try start_other(&folder, "a.state", 10);
        defer writer.abandon();
        writer.end_section();
        try fill_disk(&writer);
        try testing.expectError(error.Io, writer.finish(folder.identity));
        try expect_sentence("a.state", "the disk is full");
        try folder.expect_only("a.state", old);
    }
}

test "a symbolic link stays, and what it leads to is replaced" {
    var folder: Folder = .init();
    defer folder.deinit();
    const dir = folder.temporary.dir;
    try dir.createDir(testing.io, "real", .default_dir);
    try dir.symLink(testing.io, "real/a.state", "link", .{});
    try folder.write("real/a.state", "old");
    try folder.write_sample("link");
    try folder.write_sample("b.state");
    const through = try folder.read("real/a.state");
    defer testing.allocator.free(through);
    const direct = try folder.read("b.state");
    defer testing.allocator.free(direct);
    try testing.expectEqualSlices(u8, direct, through);
    var target: [64]u8 = undefined;
    const bytes = std.c.readlink(try folder.path("link"), &target, target.len);
    try testing.expectEqualStrings("real/a.state", target[0..@intCast(bytes)]);
    // The link, its folder, and b.state: no temporary file.
    try testing.expectEqual(3, try folder.count());
}

test "a process that changes its folder while it writes does not lose the file" {
    var folder: Folder = .init();
    defer folder.deinit();
    var writer = try start_other(&folder, "a.state", 10);
    defer writer.abandon();
    writer.end_section();
    const here = std.c.open(".", .{ .DIRECTORY = true });
    try testing.expect(here >= 0);
    defer _ = std.c.close(here);
    {
        try testing.expectEqual(0, std.c.chdir("/"));
        defer assert(std.c.fchdir(here) == 0);
        try writer.finish(folder.identity);
    }
    var reader = try folder.open("a.state");
    defer reader.close();
    try testing.expectEqual(10, reader.section(9, 9).?.len);
    try testing.expectEqual(1, try folder.count());
}

test "a section that is written twice is refused" {
    var folder: Folder = .init();
    defer folder.deinit();
    var writer = try start_other(&folder, "a.state", 10);
    defer writer.abandon();
    writer.end_section();
    try writer.begin_section(9, 8);
    writer.end_section();
    try testing.expectError(error.Internal, writer.begin_section(9, 9));
    try expect_sentence("a.state", "section 9 of kind 9 was written twice");
    try testing.expectEqual(0, try folder.count());
}

test "the longest names are written" {
    var folder: Folder = .init();
    defer folder.deinit();
    const long: [255]u8 = @splat('n');
    try folder.write_sample(&long);
    const marks: [85][3]u8 = @splat("\u{2713}".*);
    try folder.write_sample(std.mem.asBytes(&marks));
    try testing.expectEqual(2, try folder.count());
}

fn expect_mode(folder: *Folder, name: []const u8, mode: std.c.mode_t) !void {
    var facts: temporary_file.Facts = undefined;
    const here = std.c.open(".", .{ .DIRECTORY = true });
    defer _ = std.c.close(here);
    try testing.expectEqual(std.c.E.SUCCESS, facts.read(here, try folder.path(name)));
    try testing.expectEqual(mode, facts.mode & 0o777);
}

test "a new file is its user's alone, and one that is replaced keeps its permissions" {
    var folder: Folder = .init();
    defer folder.deinit();
    const mask = std.c.umask(0o022);
    defer _ = std.c.umask(mask);
    try folder.write_sample("a.state");
    try expect_mode(&folder, "a.state", 0o600);
    for ([_]std.c.mode_t{ 0o664, 0o640, 0o604, 0o400 }) |mode| {
        try testing.expectEqual(0, std.c.chmod(try folder.path("a.state"), mode));
        try folder.write_sample("a.state");
        try expect_mode(&folder, "a.state", mode);
    }
}

test "a replaced file's group stays, or loses its right" {
    // Only root can make a file of another group.
    if (std.c.geteuid() != 0) return error.SkipZigTest;
    var folder: Folder = .init();
    defer folder.deinit();
    try folder.write_sample("a.state");
    const path = try folder.path("a.state");
    try testing.expectEqual(0, std.c.fchownat(std.c.AT.FDCWD, path, 65_534, 12_345, 0));
    try testing.expectEqual(0, std.c.chmod(path, 0o664));
    try folder.write_sample("a.state");
    try expect_mode(&folder, "a.state", 0o664);
    try testing.expectEqual(0, std.c.chmod(try folder.path(""), 0o777));
    {
        try testing.expectEqual(0, std.c.seteuid(65_534));
        defer assert(std.c.seteuid(0) == 0);
        try folder.write_sample("a.state");
    }
    // The process still is of root's group.
    try expect_mode(&folder, "a.state", 0o604);
}

test "the next writer removes what a killed one left, and not what another writes" {
    var folder: Folder = .init();
    defer folder.deinit();
    try folder.write("a.state.tmp-4194304-0123456789abcdef", "a part");
    var first = try start_other(&folder, "a.state", 10);
    defer first.abandon();
    var second = try start_other(&folder, "a.state", 10);
    defer second.abandon();
    try testing.expectEqual(2, try folder.count());
    for ([_]*Writer{ &first, &second }) |writer| {
        writer.end_section();
        try writer.finish(folder.identity);
    }
    try testing.expectEqual(1, try folder.count());
}

test "a symbolic link to a file that is not there yet stays" {
    var folder: Folder = .init();
    defer folder.deinit();
    const dir = folder.temporary.dir;
    try dir.createDir(testing.io, "real", .default_dir);
    try dir.symLink(testing.io, "real/first", "link", .{});
    try dir.symLink(testing.io, "a.state", "real/first", .{});
    try folder.write_sample("link");
    const content = try folder.read("real/a.state");
    defer testing.allocator.free(content);
    for ([_][]const u8{ "link", "real/first" }) |name| {
        var buffer: [64]u8 = undefined;
        try testing.expect(std.c.readlink(try folder.path(name), &buffer, buffer.len) > 0);
    }
    try testing.expectEqual(2, try folder.count());
    try dir.symLink(testing.io, "missing/a.state", "lost", .{});
    try testing.expectError(error.Io, Writer.create(testing.allocator, try folder.path("lost")));
    try expect_sentence("lost", "there is no such folder");
}

test "memory that runs out leaves no file" {
    var folder: Folder = .init();
    defer folder.deinit();
    try testing.checkAllAllocationFailures(testing.allocator, write_and_delete, .{&folder});
}

fn write_and_delete(gpa: std.mem.Allocator, folder: *Folder) !void {
    write_many(gpa, folder) catch |err| return if (try folder.count() == 0) err else error.FileLeft;
    try testing.expectEqual(1, try folder.count());
    try folder.temporary.dir.deleteFile(testing.io, "a.state");
}

/// So many sections that their table grows while the file is written.
fn write_many(gpa: std.mem.Allocator, folder: *Folder) !void {
    var writer = try Writer.create(gpa, try folder.path("a.state"));
    defer writer.abandon();
    for (0..30) |index| {
        try writer.begin_section(0, @intCast(index));
        try writer.write("content");
        writer.end_section();
    }
    try writer.finish(folder.identity);
}
