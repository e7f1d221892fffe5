//! Reads a state file: maps it, and refuses what is not whole.
//!
//! Opening checks the header and the table, and so touches few pages; the bytes of a section are checked when the
//! caller asks for it. A file that is replaced by renaming another over it, as our writer does, stays valid for as
//! long as it is mapped. Bytes that another program cuts off or overwrites in the meantime are out of this library's
//! hands, as with any mapping.

const std = @import("std");
const status = @import("status.zig");
const state_file = @import("state_file.zig");
const gguf_map = @import("gguf_map.zig");
const Shown = gguf_map.Shown;

const Error = status.Error;
const Header = state_file.Header;
const Section = state_file.Section;

/// The bytes of a section: they start at a multiple of 64 in memory as well.
pub const Bytes = []align(state_file.alignment) const u8;

pub const Reader = struct {
    gpa: std.mem.Allocator,
    /// As the caller gave it, for sentences.
    path: [:0]const u8,
    mapped: gguf_map.Bytes,
    header: Header,
    /// In the mapping.
    sections: []const Section = &.{},
    index_of: std.AutoHashMapUnmanaged(state_file.Key, u32) = .empty,
    /// What the caller calls its kinds, for sentences; kind 0 first. The caller may set it after `open`.
    kind_names: []const []const u8 = &.{},

    /// Maps the file, or says why it is not a whole state file. The caller ends with `close`.
    pub fn open(gpa: std.mem.Allocator, path: []const u8) Error!Reader {
        if (path.len == 0) return status.fail(error.InvalidArgument, "the path of the state file is empty", .{});
        if (std.mem.findScalar(u8, path, 0) != null) {
            const sentence = "{f}: a path cannot contain a zero byte";
            return status.fail(error.InvalidArgument, sentence, .{Shown.path(path)});
        }
        const owned = try gpa.dupeSentinel(u8, path, 0);
        errdefer gpa.free(owned);
        const mapped = try map(owned);
        errdefer gguf_map.unmap(mapped);
        const header = try read_header(mapped, .path(owned));
        var reader: Reader = .{ .gpa = gpa, .path = owned, .mapped = mapped, .header = header };
        errdefer reader.index_of.deinit(gpa);
        try reader.read_table();
        return reader;
    }

    /// Ends the mapping: all bytes that the reader has handed out are invalid from here on.
    pub fn close(self: *Reader) void {
        self.index_of.deinit(self.gpa);
        gguf_map.unmap(self.mapped);
        self.gpa.free(self.path);
        self.* = undefined;
    }

    pub fn identity(self: *const Reader) state_file.Identity {
        return self.header.identity;
    }

    /// The number of a section in `sections`, which are in the file's order.
    pub fn find(self: *const Reader, kind: u32, index: u32) ?u32 {
        return self.index_of.get(.{ .kind = kind, .index = index });
    }

    /// The mapped bytes, checked only if `verify_section` or `verify_all` was called.
    pub fn section(self: *const Reader, kind: u32, index: u32) ?Bytes {
        return self.section_bytes(self.find(kind, index) orelse return null);
    }

    pub fn section_bytes(self: *const Reader, number: u32) Bytes {
        const entry = self.sections[number];
        return @alignCast(self.mapped[@intCast(entry.offset)..][0..@intCast(entry.size_bytes)]);
    }

    /// Reads the section and the zeros behind it.
    pub fn verify_section(self: *const Reader, number: u32) Error!void {
        const entry = self.sections[number];
        const named: Named = .{ .entry = entry, .kind_names = self.kind_names };
        if (state_file.checksum(self.section_bytes(number)) != entry.checksum) {
            const sentence = "{f}: damaged: section {f} does not match its checksum";
            return status.fail(error.BadFormat, sentence, .{ Shown.path(self.path), named });
        }
        const is_last = number + 1 == self.sections.len;
        const next = if (is_last) self.header.table_offset else self.sections[number + 1].offset;
        if (!self.is_zero(entry.offset + entry.size_bytes, next)) {
            const sentence = "{f}: damaged: the bytes after section {f} are not zero";
            return status.fail(error.BadFormat, sentence, .{ Shown.path(self.path), named });
        }
    }

    /// Reads the whole file.
    pub fn verify_all(self: *const Reader) Error!void {
        for (0..self.sections.len) |number| try self.verify_section(@intCast(number));
    }

    /// The header is right; the file is as long as it says.
    fn read_table(self: *Reader) Error!void {
        const shown: Shown = .path(self.path);
        const start = self.header.table_offset;
        const table = self.mapped[@intCast(start)..];
        if (state_file.checksum(table) != self.header.table_checksum) {
            const sentence = "{f}: damaged: its table of sections does not match its checksum";
            return status.fail(error.BadFormat, sentence, .{shown});
        }
        self.sections = @alignCast(std.mem.bytesAsSlice(Section, table));
        try self.index_of.ensureTotalCapacity(self.gpa, self.header.section_count);
        var end: u64 = @sizeOf(Header);
        for (self.sections, 0..) |entry, number| {
            const place = state_file.align_up(end).?;
            if (entry.offset != place) return self.fail_place(number, entry.offset, place);
            if (entry.size_bytes > start -| place) {
                const sentence = "{f}: damaged: entry {d} of its table has {d} bytes, expected at most {d}";
                const parts = .{ shown, number, entry.size_bytes, start -| place };
                return status.fail(error.BadFormat, sentence, parts);
            }
            end = place + entry.size_bytes;
            const slot = self.index_of.getOrPutAssumeCapacity(entry.key());
            if (slot.found_existing) {
                const sentence = "{f}: damaged: section {d} of kind {d} occurs twice";
                return status.fail(error.BadFormat, sentence, .{ shown, entry.index, entry.kind });
            }
            slot.value_ptr.* = @intCast(number);
        }
        const place = state_file.align_up(end).?;
        if (start != place) {
            const sentence = "{f}: damaged: its table starts at byte {d}, expected {d}";
            return status.fail(error.BadFormat, sentence, .{ shown, start, place });
        }
        if (!self.is_zero(@sizeOf(Header), state_file.align_up(@sizeOf(Header)).?)) {
            return status.fail(error.BadFormat, "{f}: damaged: the bytes after its header are not zero", .{shown});
        }
    }

    /// Each section starts where the one before it ends: so they are in order, aligned, and apart.
    fn fail_place(self: *const Reader, number: usize, offset: u64, expected: u64) Error {
        const sentence = "{f}: damaged: entry {d} of its table starts at byte {d}, expected {d}";
        return status.fail(error.BadFormat, sentence, .{ Shown.path(self.path), number, offset, expected });
    }

    fn is_zero(self: *const Reader, start: u64, end: u64) bool {
        return std.mem.allEqual(u8, self.mapped[@intCast(start)..@intCast(end)], 0);
    }
};

/// "states 3", or the number of a kind that has no name.
const Named = struct {
    entry: Section,
    kind_names: []const []const u8,

    pub fn format(self: Named, writer: *std.Io.Writer) std.Io.Writer.Error!void {
        const kind = self.entry.kind;
        if (kind < self.kind_names.len) {
            try writer.print("{s} {d}", .{ self.kind_names[kind], self.entry.index });
        } else {
            try writer.print("{d} of kind {d}", .{ self.entry.index, kind });
        }
    }
};

/// Checks the header, and that the file is as long as it says: its table ends it.
fn read_header(mapped: gguf_map.Bytes, shown: Shown) Error!Header {
    const magic = &state_file.magic;
    if (!std.mem.startsWith(u8, mapped, magic[0..@min(mapped.len, magic.len)])) {
        return status.fail(error.BadFormat, "{f}: this is not a state file", .{shown});
    }
    if (mapped.len < @sizeOf(Header)) {
        const sentence = "{f}: cut short: {d} of at least {d} bytes";
        return status.fail(error.BadFormat, sentence, .{ shown, mapped.len, @sizeOf(Header) });
    }
    const header: Header = @as(*const Header, @ptrCast(mapped[0..@sizeOf(Header)])).*;
    // First of all: a newer format's header may be another.
    if (header.version > state_file.version) {
        return status.fail(
            error.Unsupported,
            "{f}: the state file was made by a newer version of this library: its format is {d}, this one reads " ++
                "up to {d}",
            .{ shown, header.version, state_file.version },
        );
    }
    if (header.header_checksum != header.compute_checksum()) {
        return status.fail(error.BadFormat, "{f}: damaged: its header does not match its checksum", .{shown});
    }
    if (header.version != state_file.version) {
        const sentence = "{f}: its format {d} is not known, expected {d}";
        return status.fail(error.Unsupported, sentence, .{ shown, header.version, state_file.version });
    }
    if (mapped.len < header.file_bytes) {
        const sentence = "{f}: cut short: {d} of {d} bytes";
        return status.fail(error.BadFormat, sentence, .{ shown, mapped.len, header.file_bytes });
    }
    if (mapped.len > header.file_bytes) {
        const sentence = "{f}: damaged: it has {d} bytes, expected {d}";
        return status.fail(error.BadFormat, sentence, .{ shown, mapped.len, header.file_bytes });
    }
    if (header.section_count > state_file.sections_max) {
        const sentence = "{f}: damaged: its header promises {d} sections, expected at most {d}";
        return status.fail(error.BadFormat, sentence, .{ shown, header.section_count, state_file.sections_max });
    }
    const table_bytes = @as(u64, header.section_count) * @sizeOf(Section);
    if (header.header_bytes != @sizeOf(Header) or header.entry_bytes != @sizeOf(Section) or
        !std.mem.eql(u8, &header.magic, magic) or header.table_offset % state_file.alignment != 0 or
        header.table_offset < @sizeOf(Header) or table_bytes > header.file_bytes or
        header.table_offset != header.file_bytes - table_bytes)
    {
        return status.fail(error.BadFormat, "{f}: damaged: the sizes in its header contradict each other", .{shown});
    }
    return header;
}

/// The whole file as read-only memory.
fn map(path: [:0]const u8) Error!gguf_map.Bytes {
    const shown: Shown = .path(path);
    // Without NONBLOCK a named pipe would wait for a writer.
    const fd = std.c.open(path, .{ .ACCMODE = .RDONLY, .CLOEXEC = true, .NONBLOCK = true });
    if (fd < 0) return fail_reading(shown, std.c.errno(fd));
    // Nothing was written, so closing has nothing to lose; the mapping outlives it.
    defer _ = std.c.close(fd);

    var probe: [1]u8 = undefined;
    const read = std.c.pread(fd, &probe, probe.len, 0);
    if (read < 0) return fail_reading(shown, std.c.errno(read));
    const end = std.c.lseek(fd, 0, std.c.SEEK.END);
    if (end < 0) return fail_reading(shown, std.c.errno(end));
    if (read == 0 or end == 0) {
        return status.fail(error.BadFormat, "{f}: the file is empty, expected a state file", .{shown});
    }
    const size: usize = @intCast(end);
    const address = std.c.mmap(null, size, .{ .READ = true }, .{ .TYPE = .SHARED }, fd, 0);
    if (address == std.c.MAP_FAILED) {
        const code = std.c.errno(-1);
        return status.fail(error.Io, "{f}: its {d} bytes cannot be mapped ({t})", .{ shown, size, code });
    }
    const start: [*]align(std.heap.page_size_min) const u8 = @ptrCast(@alignCast(address));
    return start[0..size];
}

fn fail_reading(shown: Shown, code: std.c.E) Error {
    const reason = switch (code) {
        .NOENT => return status.fail(error.NotFound, "{f}: there is no such file", .{shown}),
        .NOTDIR => return status.fail(
            error.NotFound,
            "{f}: there is no such file: a part of the path is not a folder",
            .{shown},
        ),
        .ACCES, .PERM => "this process may not read it; check the permissions of the file and of its folders",
        .LOOP => "its symbolic links lead in a circle",
        .NAMETOOLONG => "the path is too long",
        .ISDIR => "this is a folder, expected the path of a state file",
        .SPIPE, .NXIO => "this is a pipe or a device, expected the path of a state file",
        .IO => "the disk failed",
        .MFILE, .NFILE => "too many files are open",
        else => "the system refused to read it",
    };
    return status.fail(error.Io, "{f}: {s} ({t})", .{ shown, reason, code });
}

const testing = std.testing;
const sample = @import("state_file_sample.zig");
const Folder = sample.Folder;

/// Opening, or else checking all, refuses the file with a sentence that names it.
fn expect_refused(folder: *Folder, name: []const u8) !void {
    status.set_message("");
    if (folder.open(name)) |opened| {
        var reader = opened;
        defer reader.close();
        try testing.expectError(error.BadFormat, reader.verify_all());
    } else |err| {
        try testing.expect(err == error.BadFormat or err == error.Unsupported);
    }
    try testing.expect(std.mem.find(u8, status.message(), name) != null);
    try testing.expect(status.message().len > name.len + 20);
}

fn expect_fault(folder: *Folder, name: []const u8, err: Error, sentence: []const u8) !void {
    try testing.expectError(err, folder.open(name));
    try testing.expect(std.mem.find(u8, status.message(), name) != null);
    if (std.mem.find(u8, status.message(), sentence) == null) {
        try testing.expectEqualStrings(sentence, status.message());
    }
}

/// Calls `change` on a copy of the sample's header and table, puts their checksums right, and writes it.
fn write_changed(folder: *Folder, change: fn (*Header, []Section) void) !void {
    const bytes = try folder.read("a.state");
    defer testing.allocator.free(bytes);
    var header: Header = undefined;
    @memcpy(std.mem.asBytes(&header), bytes[0..@sizeOf(Header)]);
    const table = bytes[@intCast(header.table_offset)..];
    var sections: [sample.sample_keys.len]Section = undefined;
    @memcpy(std.mem.sliceAsBytes(&sections), table);
    change(&header, &sections);
    @memcpy(table, std.mem.sliceAsBytes(&sections));
    header.table_checksum = state_file.checksum(table);
    header.header_checksum = header.compute_checksum();
    @memcpy(bytes[0..@sizeOf(Header)], std.mem.asBytes(&header));
    try folder.write("changed.state", bytes);
}

test "what was written is read, whatever the pieces" {
    var folder: Folder = .init();
    defer folder.deinit();
    try folder.write_sample("a.state");
    var reader = try folder.open("a.state");
    defer reader.close();
    try reader.verify_all();
    try testing.expectEqual(folder.identity, reader.identity());
    try testing.expectEqual(sample.sample_keys.len, reader.sections.len);
    for (sample.sample_keys, 0..) |key, number| {
        try testing.expectEqual(key, reader.sections[number].key());
        try testing.expectEqual(@as(u32, @intCast(number)), reader.find(key.kind, key.index));
        const bytes = reader.section(key.kind, key.index).?;
        try testing.expectEqualSlices(u8, sample.sample_content(number), bytes);
        try testing.expect(@intFromPtr(bytes.ptr) % 64 == 0);
    }
    try testing.expectEqual(null, reader.section(0, 1));
    try testing.expectEqual(null, reader.section(7, 0));
}

test "large sections, in pieces around the size of the buffer" {
    var folder: Folder = .init();
    defer folder.deinit();
    var random: std.Random.DefaultPrng = .init(testing.random_seed);
    errdefer std.debug.print("seed {d}\n", .{testing.random_seed});
    const content = try testing.allocator.alloc(u8, 5 << 20);
    defer testing.allocator.free(content);
    random.random().bytes(content);
    const steps = [_]usize{ 1 << 20, (1 << 20) - 192, (1 << 20) + 1, 3 << 20, 100_003, 65_536 };
    var writer = try state_file.Writer.create(testing.allocator, try folder.path("a.state"));
    defer writer.abandon();
    for (steps, 0..) |step, index| {
        try writer.begin_section(3, @intCast(index));
        var rest: []const u8 = content;
        while (rest.len > 0) {
            const piece = rest[0..@min(rest.len, step)];
            try writer.write(piece);
            try writer.write(piece[0..0]);
            rest = rest[piece.len..];
        }
        writer.end_section();
    }
    try writer.finish(folder.identity);
    var reader = try folder.open("a.state");
    defer reader.close();
    try reader.verify_all();
    for (0..steps.len) |index| {
        try testing.expect(std.mem.eql(u8, content, reader.section(3, @intCast(index)).?));
    }
}

test "a file without sections" {
    var folder: Folder = .init();
    defer folder.deinit();
    var writer = try state_file.Writer.create(testing.allocator, try folder.path("a.state"));
    defer writer.abandon();
    try writer.finish(folder.identity);
    var reader = try folder.open("a.state");
    defer reader.close();
    try reader.verify_all();
    try testing.expectEqual(192, reader.header.file_bytes);
    try testing.expectEqual(null, reader.section(0, 0));
}

test "what is no readable file gets one sentence" {
    var folder: Folder = .init();
    defer folder.deinit();
    try folder.write("empty", "");
    try folder.write("other", "GGUF and what follows");
    try expect_fault(&folder, "empty", error.BadFormat, "the file is empty, expected a state file");
    try expect_fault(&folder, "other", error.BadFormat, "this is not a state file");
    try expect_fault(&folder, "missing", error.NotFound, "there is no such file");
    try expect_fault(&folder, "empty/m", error.NotFound, "a part of the path is not a folder");
    try folder.temporary.dir.createDir(testing.io, "folder", .default_dir);
    try expect_fault(&folder, "folder", error.Io, "this is a folder, expected the path of a state file");
    try folder.temporary.dir.symLink(testing.io, "circle", "circle", .{});
    try expect_fault(&folder, "circle", error.Io, "its symbolic links lead in a circle");
    const long: [300]u8 = @splat('n');
    try expect_fault(&folder, &long, error.Io, "the path is too long");
    try testing.expectEqual(0, mkfifo(try folder.path("pipe"), 0o600));
    try expect_fault(&folder, "pipe", error.Io, "this is a pipe or a device");
    try testing.expectError(error.InvalidArgument, Reader.open(testing.allocator, ""));
    try testing.expectError(error.InvalidArgument, Reader.open(testing.allocator, "a\x00b"));
    try testing.expectError(error.BadFormat, Reader.open(testing.allocator, "/dev/null"));
}

extern "c" fn mkfifo(path: [*:0]const u8, mode: std.c.mode_t) c_int;

test "a file that the user may not read gets one sentence" {
    var folder: Folder = .init();
    defer folder.deinit();
    try folder.write_sample("a.state");
    try testing.expectEqual(0, std.c.chmod(try folder.path("a.state"), 0));
    // To root, every file is readable.
    const user = std.c.geteuid();
    if (user == 0) try testing.expectEqual(0, std.c.seteuid(65_534));
    defer if (user == 0) std.debug.assert(std.c.seteuid(user) == 0);
    try expect_fault(&folder, "a.state", error.Io, "this process may not read it");
}

test "a cut is found, at every byte of the header and the table and 500 other places" {
    var folder: Folder = .init();
    defer folder.deinit();
    try folder.write_sample("a.state");
    const whole = try folder.read("a.state");
    defer testing.allocator.free(whole);
    var random: std.Random.DefaultPrng = .init(testing.random_seed);
    errdefer std.debug.print("seed {d}\n", .{testing.random_seed});
    const table_bytes = sample.sample_keys.len * @sizeOf(Section);
    var sizes: std.ArrayList(usize) = .empty;
    defer sizes.deinit(testing.allocator);
    for (0..192) |size| try sizes.append(testing.allocator, size);
    for (whole.len - table_bytes..whole.len) |size| try sizes.append(testing.allocator, size);
    for (0..500) |_| {
        try sizes.append(testing.allocator, random.random().intRangeLessThan(usize, 192, whole.len));
    }
    for (sizes.items) |size| {
        errdefer std.debug.print("cut at {d}\n", .{size});
        try folder.write("cut.state", whole[0..size]);
        try testing.expectError(error.BadFormat, folder.open("cut.state"));
        const sentence = if (size == 0) "the file is empty" else "cut short: ";
        try testing.expect(std.mem.find(u8, status.message(), sentence) != null);
    }
    try folder.write("cut.state", whole[0..1000]);
    try expect_fault(&folder, "cut.state", error.BadFormat, "cut short: 1000 of 4416 bytes");
    try testing.expectEqual(4416, whole.len);
    try folder.write("cut.state", whole[0..143]);
    try expect_fault(&folder, "cut.state", error.BadFormat, "cut short: 143 of at least 144 bytes");
}

/// Flips one bit of the file, expects it to be refused, and flips it back.
fn expect_flip_found(folder: *Folder, name: []const u8, file: std.c.fd_t, bit: usize) !void {
    errdefer std.debug.print("bit {d}\n", .{bit});
    var byte: [1]u8 = undefined;
    try testing.expectEqual(1, std.c.pread(file, &byte, 1, @intCast(bit / 8)));
    byte[0] ^= @as(u8, 1) << @intCast(bit % 8);
    try testing.expectEqual(1, std.c.pwrite(file, &byte, 1, @intCast(bit / 8)));
    try expect_refused(folder, name);
    byte[0] ^= @as(u8, 1) << @intCast(bit % 8);
    try testing.expectEqual(1, std.c.pwrite(file, &byte, 1, @intCast(bit / 8)));
}

test "a flipped bit is found, every one around the sections and 2,000 others" {
    var folder: Folder = .init();
    defer folder.deinit();
    try folder.write_sample("a.state");
    const whole = try folder.read("a.state");
    defer testing.allocator.free(whole);
    const file = std.c.open(try folder.path("a.state"), .{ .ACCMODE = .RDWR });
    try testing.expect(file >= 0);
    defer _ = std.c.close(file);
    // Header, table and all that lies between the sections.
    var known = try std.DynamicBitSet.initFull(testing.allocator, whole.len);
    defer known.deinit();
    {
        var reader = try folder.open("a.state");
        defer reader.close();
        for (reader.sections) |entry| {
            const start: usize = @intCast(entry.offset);
            known.setRangeValue(.{ .start = start, .end = start + @as(usize, @intCast(entry.size_bytes)) }, false);
        }
    }
    try testing.expect(known.count() > 144 + 48 + 256);
    var places = known.iterator(.{});
    while (places.next()) |place| {
        for (0..8) |bit| try expect_flip_found(&folder, "a.state", file, place * 8 + bit);
    }
    var random: std.Random.DefaultPrng = .init(testing.random_seed);
    errdefer std.debug.print("seed {d}\n", .{testing.random_seed});
    for (0..2000) |_| {
        const bit = random.random().uintLessThan(usize, whole.len * 8);
        try expect_flip_found(&folder, "a.state", file, bit);
    }
    // It was the flips that were refused.
    var reader = try folder.open("a.state");
    defer reader.close();
    try reader.verify_all();
}

test "damage is named, and is seen where it is" {
    var folder: Folder = .init();
    defer folder.deinit();
    try folder.write_sample("a.state");
    const whole = try folder.read("a.state");
    defer testing.allocator.free(whole);
    // The first byte of the section of kind 1 and index 1, after 1000 bytes and two empty sections.
    whole[192 + 1024] ^= 0x10;
    // Between it and the end of the first.
    whole[192 + 1010] = 1;
    try folder.write("b.state", whole);
    var reader = try folder.open("b.state");
    defer reader.close();
    for (0..reader.sections.len) |number| {
        if (number != 0 and number != 3) try reader.verify_section(@intCast(number));
    }
    try testing.expectError(error.BadFormat, reader.verify_section(3));
    try testing.expect(std.mem.endsWith(u8, status.message(), "section 1 of kind 1 does not match its checksum"));
    reader.kind_names = &.{ "tokens", "states" };
    try testing.expectError(error.BadFormat, reader.verify_section(3));
    const sentence = "b.state: damaged: section states 1 does not match its checksum";
    try testing.expect(std.mem.endsWith(u8, status.message(), sentence));
    try testing.expectError(error.BadFormat, reader.verify_section(0));
    const after = "b.state: damaged: the bytes after section states 0 are not zero";
    try testing.expect(std.mem.endsWith(u8, status.message(), after));
    try testing.expectError(error.BadFormat, reader.verify_all());
}

test "tables with right checksums and wrong places are refused" {
    var folder: Folder = .init();
    defer folder.deinit();
    try folder.write_sample("a.state");
    const changes = struct {
        fn newer(header: *Header, _: []Section) void {
            header.version = 2;
        }
        fn unknown(header: *Header, _: []Section) void {
            header.version = 0;
        }
        fn longer(header: *Header, _: []Section) void {
            header.file_bytes += 1;
        }
        fn shorter(header: *Header, _: []Section) void {
            header.file_bytes -= 1;
        }
        fn more(header: *Header, _: []Section) void {
            header.section_count = std.math.maxInt(u32);
        }
        fn one_more(header: *Header, _: []Section) void {
            header.section_count += 1;
        }
        fn fewer(header: *Header, _: []Section) void {
            header.section_count -= 1;
        }
        fn earlier_table(header: *Header, _: []Section) void {
            header.table_offset -= 64;
            header.section_count += 2;
        }
        fn shifted(_: *Header, sections: []Section) void {
            sections[4].offset += 1;
        }
        fn over(_: *Header, sections: []Section) void {
            sections[4].offset = sections[3].offset;
        }
        fn exchanged(_: *Header, sections: []Section) void {
            std.mem.swap(Section, &sections[3], &sections[5]);
        }
        fn huge(_: *Header, sections: []Section) void {
            sections[4].size_bytes = std.math.maxInt(u64) - 100;
        }
        fn swollen(_: *Header, sections: []Section) void {
            sections[7].size_bytes += 64;
        }
        fn shrunk(_: *Header, sections: []Section) void {
            sections[7].size_bytes -= 64;
        }
        fn twice(_: *Header, sections: []Section) void {
            sections[6].kind = sections[1].kind;
            sections[6].index = sections[1].index;
        }
        fn none(_: *Header, _: []Section) void {}
    };
    inline for (.{
        .{ changes.newer, "made by a newer version of this library: its format is 2, this one reads up to 1" },
        .{ changes.unknown, "its format 0 is not known, expected 1" },
        .{ changes.longer, "cut short: 4416 of 4417 bytes" },
        .{ changes.shorter, "damaged: it has 4416 bytes, expected 4415" },
        .{ changes.more, "its header promises 4294967295 sections, expected at most 16777216" },
        .{ changes.one_more, "the sizes in its header contradict each other" },
        .{ changes.fewer, "the sizes in its header contradict each other" },
        .{ changes.earlier_table, "its table of sections does not match its checksum" },
        .{ changes.shifted, "entry 4 of its table starts at byte 1281, expected 1280" },
        .{ changes.over, "entry 4 of its table starts at byte 1216, expected 1280" },
        .{ changes.exchanged, "entry 3 of its table starts at byte 1344, expected 1216" },
        .{ changes.huge, "entry 4 of its table has 18446744073709551515 bytes, expected at most 2880" },
        .{ changes.swollen, "entry 7 of its table has 193 bytes, expected at most 192" },
        .{ changes.shrunk, "its table starts at byte 4160, expected 4096" },
        .{ changes.twice, "section 7 of kind 0 occurs twice" },
    }) |change| {
        try write_changed(&folder, change[0]);
        const is_version = change[0] == changes.newer or change[0] == changes.unknown;
        const err: Error = if (is_version) error.Unsupported else error.BadFormat;
        try expect_fault(&folder, "changed.state", err, change[1]);
    }
    try write_changed(&folder, changes.none);
    var reader = try folder.open("changed.state");
    reader.close();
}

test "a file that is replaced while it is mapped stays valid" {
    var folder: Folder = .init();
    defer folder.deinit();
    try folder.write_sample("a.state");
    var reader = try folder.open("a.state");
    defer reader.close();
    var writer = try state_file.Writer.create(testing.allocator, try folder.path("a.state"));
    defer writer.abandon();
    try writer.finish(folder.identity);
    try reader.verify_all();
    try testing.expectEqualSlices(u8, sample.sample_content(5), reader.section(2, std.math.maxInt(u32)).?);
    var newer = try folder.open("a.state");
    defer newer.close();
    try testing.expectEqual(0, newer.sections.len);
}

test "memory that runs out while opening" {
    var folder: Folder = .init();
    defer folder.deinit();
    try folder.write_sample("a.state");
    try testing.checkAllAllocationFailures(testing.allocator, open_and_close, .{try folder.path("a.state")});
}

fn open_and_close(gpa: std.mem.Allocator, path: []const u8) !void {
    var reader = try Reader.open(gpa, path);
    reader.close();
}
