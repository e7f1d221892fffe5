//! A model file in the GGUF format, version 2 or 3: its metadata and its tensors, read from
//! memory-mapped bytes.
//!
//! Opening walks the header only; it allocates per value and per tensor, not per array element, and
//! touches no page of a tensor's data. A model in several files is read as one: the metadata of the
//! first, the tensors of all. Whatever the bytes are, opening gives a file whose every slice lies
//! inside its mapping, or an error whose sentence names the file, the key or the tensor, and what
//! was expected.

const std = @import("std");
const status = @import("status.zig");
const gguf_map = @import("gguf_map.zig");
const gguf_part = @import("gguf_part.zig");
const gguf_type = @import("gguf_type.zig");

const Error = status.Error;
const Part = gguf_part.Part;
const Shown = gguf_map.Shown;
const Values = gguf_part.Values;
const Tensors = gguf_part.Tensors;

pub const Value = gguf_part.Value;
pub const Tensor = gguf_part.Tensor;
pub const ValueType = gguf_type.ValueType;
pub const TensorType = gguf_type.TensorType;
pub const tensor_type_count = gguf_type.tensor_type_count;
pub const tensor_types = gguf_type.tensor_types;
pub const tensor_type = gguf_type.tensor_type;

/// Bytes of a fingerprint.
pub const fingerprint_bytes = 16;
/// Bytes taken from the start, the middle and the end of each tensor for the fingerprint.
const sample_bytes = 64;

/// Any number of threads may read an open file.
pub const File = struct {
    gpa: std.mem.Allocator,
    /// In the model's order; the first holds the metadata.
    parts: std.ArrayList(Part) = .empty,
    values: Values = .{},
    tensors: Tensors = .{},
    /// Of all tensors' data.
    tensor_bytes: u64 = 0,
    /// Of all parts.
    size_bytes: u64 = 0,

    /// Opens a model by the path of its file, or of the first of its files.
    pub fn open(gpa: std.mem.Allocator, path: []const u8) Error!*File {
        if (path.len == 0) {
            return status.fail(error.InvalidArgument, "the path of the model file is empty", .{});
        }
        if (std.mem.findScalar(u8, path, 0) != null) {
            return status.fail(
                error.InvalidArgument,
                "{f}: a path cannot contain a zero byte",
                .{Shown.path(path)},
            );
        }
        const self = try gpa.create(File);
        self.* = .{ .gpa = gpa };
        errdefer self.close();
        try self.open_part(try gpa.dupeSentinel(u8, path, 0), &self.values);
        try self.open_siblings();
        for (self.tensors.items.items) |item| self.tensor_bytes += item.size_bytes;
        for (self.parts.items) |part| self.size_bytes += part.bytes.len;
        return self;
    }

    /// Ends the mapping: every slice that the file has handed out is invalid from here on.
    pub fn close(self: *File) void {
        for (self.parts.items) |part| {
            gguf_map.unmap(part.bytes);
            self.gpa.free(part.path);
        }
        self.parts.deinit(self.gpa);
        self.values.deinit(self.gpa);
        self.tensors.deinit(self.gpa);
        self.gpa.destroy(self);
    }

    pub fn value_count(self: *const File) u32 {
        return @intCast(self.values.items.items.len);
    }

    /// The metadata value of an index below `value_count`, in the file's order.
    pub fn value(self: *const File, index: u32) Value {
        return self.values.items.items[index];
    }

    /// The index of the value with this key.
    pub fn find(self: *const File, key: []const u8) ?u32 {
        return self.values.find(key);
    }

    /// Bytes of the first part, which holds the metadata; null if they do not all lie inside of it.
    pub fn bytes(self: *const File, offset: u64, size: u64) ?[]const u8 {
        const all = self.parts.items[0].bytes;
        if (offset > all.len or size > all.len - offset) return null;
        return all[offset..][0..size];
    }

    pub fn tensor_count(self: *const File) u32 {
        return @intCast(self.tensors.items.items.len);
    }

    /// The tensor of an index below `tensor_count`, in the files' order.
    pub fn tensor(self: *const File, index: u32) Tensor {
        return self.tensors.items.items[index];
    }

    /// The index of the tensor with this name.
    pub fn find_tensor(self: *const File, name: []const u8) ?u32 {
        return self.tensors.find(name);
    }

    /// Tells models apart, for what is stored beside them: the first 16 bytes of the BLAKE3 hash
    /// of, for each part, its size (u64, little-endian) and its bytes up to the end of the tensor
    /// table, then for each tensor the first, middle and last 64 bytes of its data (all of it, if
    /// it has at most 192). A change of a few weights can escape it. It depends on how a model is
    /// divided into files, not on their names. Reads up to three pages per tensor.
    pub fn fingerprint(self: *const File) [fingerprint_bytes]u8 {
        var hash: std.crypto.hash.Blake3 = .init(.{});
        for (self.parts.items) |part| {
            const size: u64 = part.bytes.len;
            hash.update(std.mem.asBytes(&size));
            hash.update(part.bytes[0..part.header_bytes]);
        }
        for (self.tensors.items.items) |item| {
            const data = item.data;
            if (data.len <= 3 * sample_bytes) {
                hash.update(data);
            } else {
                hash.update(data[0..sample_bytes]);
                hash.update(data[(data.len - sample_bytes) / 2 ..][0..sample_bytes]);
                hash.update(data[data.len - sample_bytes ..]);
            }
        }
        var result: [fingerprint_bytes]u8 = undefined;
        hash.final(&result);
        return result;
    }

    /// Maps and reads one more part, and takes over `path`.
    fn open_part(self: *File, path: [:0]const u8, values: *Values) Error!void {
        errdefer self.gpa.free(path);
        try self.parts.ensureUnusedCapacity(self.gpa, 1);
        const mapping = try gguf_map.map(path);
        errdefer gguf_map.unmap(mapping);
        const number: u32 = @intCast(self.parts.items.len);
        self.parts.appendAssumeCapacity(try .read(self.gpa, path, mapping, number, values, &self.tensors));
    }

    /// Opens the other parts of a model whose first part is open, if it has any.
    fn open_siblings(self: *File) Error!void {
        const first = self.parts.items[0];
        const split: Split = try .read(first, &self.values);
        const name: SplitName = SplitName.parse(first.path) orelse
            if (split.count > 1) return fail_name(first.path, split) else return;
        try check_first(self.gpa, first.path, split, name);
        if (name.count == 1) return;
        for (1..name.count) |i| try self.open_sibling(name, @intCast(i));
        if (split.tensors) |expected| if (expected != self.tensor_count()) return status.fail(
            error.BadFormat,
            "{f}: key \"split.tensors.count\": the {d} parts have {d} tensors, expected {d}; " ++
                "a part belongs to another model",
            .{ Shown.path(first.path), name.count, self.tensor_count(), expected },
        );
    }

    fn open_sibling(self: *File, name: SplitName, number: u32) Error!void {
        const path = try name.path(self.gpa, number);
        // Only its own numbers are of interest: the model's metadata is the first part's.
        var values: Values = .{};
        defer values.deinit(self.gpa);
        self.open_part(path, &values) catch |err| switch (err) {
            error.NotFound => return fail_missing(self.parts.items[0].path, name, number),
            else => return err,
        };
        const split: Split = try .read(self.parts.items[number], &values);
        if (split.number) |own| if (own != number) return status.fail(
            error.BadFormat,
            "{f}: key \"split.no\" is {d}, expected {d} by the file's name",
            .{ Shown.path(self.parts.items[number].path), own, number },
        );
        if (split.present and split.count != name.count) return status.fail(
            error.BadFormat,
            "{f}: key \"split.count\" is {d}, expected {d} by the file's name",
            .{ Shown.path(self.parts.items[number].path), split.count, name.count },
        );
    }
};

/// What a part's metadata says of the model's division into files.
const Split = struct {
    /// Whether the number of parts is given.
    present: bool,
    /// At least 1.
    count: u64,
    /// From 0.
    number: ?u64,
    /// In all parts together.
    tensors: ?u64,

    fn read(part: Part, values: *const Values) Error!Split {
        const count = try number_of(part, values, "split.count");
        return .{
            .present = count != null,
            // A model that was merged from parts has 0.
            .count = @max(1, count orelse 1),
            .number = try number_of(part, values, "split.no"),
            .tensors = try number_of(part, values, "split.tensors.count"),
        };
    }

    fn number_of(part: Part, values: *const Values, key: []const u8) Error!?u64 {
        const value = values.items.items[values.find(key) orelse return null];
        return value.unsigned(part.bytes) orelse status.fail(
            error.BadFormat,
            "{f}: key \"{s}\": its type is {t}, expected an integer that is not negative",
            .{ Shown.path(part.path), key, value.type },
        );
    }
};

/// A path that ends in -00001-of-00003.gguf.
const SplitName = struct {
    prefix: []const u8,
    /// From 0, unlike in the name.
    number: u32,
    count: u32,

    const suffix_bytes = "-00001-of-00003.gguf".len;

    /// Null if the path has no such end, or one that counts wrongly.
    fn parse(name: []const u8) ?SplitName {
        if (name.len < suffix_bytes) return null;
        const suffix = name[name.len - suffix_bytes ..];
        const form = suffix[0] == '-' and std.mem.eql(u8, suffix[6..10], "-of-") and
            std.mem.eql(u8, suffix[15..], ".gguf");
        if (!form) return null;
        const number = parse_digits(suffix[1..6]) orelse return null;
        const count = parse_digits(suffix[10..15]) orelse return null;
        if (number < 1 or number > count) return null;
        return .{ .prefix = name[0 .. name.len - suffix_bytes], .number = number - 1, .count = count };
    }

    fn parse_digits(digits: *const [5]u8) ?u32 {
        var result: u32 = 0;
        for (digits) |digit| {
            if (!std.ascii.isDigit(digit)) return null;
            result = result * 10 + (digit - '0');
        }
        return result;
    }

    /// The path of the part of a number from 0.
    fn path(self: SplitName, gpa: std.mem.Allocator, number: u32) error{OutOfMemory}![:0]u8 {
        const form = "{s}-{d:0>5}-of-{d:0>5}.gguf";
        return std.fmt.allocPrintSentinel(gpa, form, .{ self.prefix, number + 1, self.count }, 0);
    }
};

/// The name and the metadata of the opened part must agree, and say that it is the first.
fn check_first(gpa: std.mem.Allocator, path: []const u8, split: Split, name: SplitName) Error!void {
    if (split.present and split.count != name.count) return status.fail(
        error.BadFormat,
        "{f}: the file's name says that the model has {d} parts, its key \"split.count\" says {d}; " ++
            "give it back its own name",
        .{ Shown.path(path), name.count, split.count },
    );
    if (name.number != 0) {
        const first = try name.path(gpa, 0);
        defer gpa.free(first);
        return status.fail(
            error.InvalidArgument,
            "{f}: this is part {d} of {d}; open the first part, {f}",
            .{ Shown.path(path), name.number + 1, name.count, Shown.path(first) },
        );
    }
    const number = split.number orelse 0;
    if (number != 0) return status.fail(
        error.BadFormat,
        "{f}: key \"split.no\" is {d}, expected 0 by the file's name",
        .{ Shown.path(path), number },
    );
}

fn fail_name(path: []const u8, split: Split) Error {
    const number = (split.number orelse 0) +| 1;
    return status.fail(
        error.BadFormat,
        "{f}: this is part {d} of {d} of a model, but its name does not end in " ++
            "-{d:0>5}-of-{d:0>5}.gguf, so that the other parts cannot be found; give it back its own name",
        .{ Shown.path(path), number, split.count, number, split.count },
    );
}

fn fail_missing(first: []const u8, name: SplitName, number: u32) Error {
    const base = std.fs.path.basename(name.prefix);
    return status.fail(
        error.NotFound,
        "{f}: part {d} of {d} is missing: expected {f}-{d:0>5}-of-{d:0>5}.gguf in the same folder",
        .{ Shown.path(first), number + 1, name.count, Shown.path(base), number + 1, name.count },
    );
}

const testing = std.testing;
const gguf_sample = @import("gguf_sample.zig");
const Sample = gguf_sample.Sample;

test {
    _ = gguf_map;
    _ = gguf_part;
    _ = gguf_type;
}

/// A folder of files that goes with the test.
const Folder = struct {
    temporary: testing.TmpDir,
    path_buffer: [512]u8 = undefined,

    fn init() Folder {
        return .{ .temporary = testing.tmpDir(.{}) };
    }

    fn deinit(self: *Folder) void {
        self.temporary.cleanup();
    }

    fn write(self: *Folder, name: []const u8, content: []const u8) !void {
        try self.temporary.dir.writeFile(testing.io, .{ .sub_path = name, .data = content });
    }

    fn path(self: *Folder, name: []const u8) ![:0]const u8 {
        const form = ".zig-cache/tmp/{s}/{s}";
        return std.fmt.bufPrintSentinel(&self.path_buffer, form, .{ self.temporary.sub_path, name }, 0);
    }

    fn open(self: *Folder, name: []const u8) !*File {
        return File.open(testing.allocator, try self.path(name));
    }

    fn expect_fault(self: *Folder, name: []const u8, err: Error, sentence: []const u8) !void {
        try testing.expectError(err, self.open(name));
        if (std.mem.find(u8, status.message(), sentence) == null) {
            try testing.expectEqualStrings(sentence, status.message());
        }
        try testing.expect(std.mem.find(u8, status.message(), name) != null);
    }

    /// Part `number` of three, with one tensor; its numbers can be set wrongly.
    fn write_part(self: *Folder, name: []const u8, number: u16, count: u16, tensors: i32) !void {
        var sample: Sample = .{ .gpa = testing.allocator };
        defer sample.deinit();
        try sample.scalar("split.no", .uint16, number);
        try sample.scalar("split.count", .uint16, count);
        try sample.scalar("split.tensors.count", .int32, tensors);
        const tensor_names = [_][]const u8{ "zero", "one", "two" };
        try sample.tensor(.{ .name = tensor_names[number % 3] });
        const content = try sample.build();
        defer testing.allocator.free(content);
        try self.write(name, content);
    }
};

fn expect_end(sentence: []const u8) !void {
    if (std.mem.endsWith(u8, status.message(), sentence)) return;
    try testing.expectEqualStrings(sentence, status.message());
}

/// Every slice lies in the mapping that it is said to lie in, and every page of it can be read.
fn expect_inside(file: *const File) !void {
    const first = file.parts.items[0];
    for (0..file.value_count()) |i| {
        const item = file.value(@intCast(i));
        try testing.expect(is_inside(item.key, first.bytes));
        const content = file.bytes(item.offset, item.size_bytes) orelse return error.TestUnexpectedResult;
        try testing.expect(is_inside(content, first.bytes));
        try testing.expectEqual(@as(u32, @intCast(i)), file.find(item.key));
    }
    for (0..file.tensor_count()) |i| {
        const item = file.tensor(@intCast(i));
        const part = file.parts.items[item.part];
        try testing.expect(is_inside(item.name, part.bytes));
        try testing.expect(is_inside(item.data, part.bytes));
        try testing.expectEqual(item.size_bytes, item.data.len);
        try testing.expectEqual(part.bytes.ptr + item.offset, item.data.ptr);
        try testing.expectEqual(@as(u32, @intCast(i)), file.find_tensor(item.name));
    }
}

fn is_inside(slice: []const u8, mapping: []const u8) bool {
    const start = @intFromPtr(slice.ptr);
    const begin = @intFromPtr(mapping.ptr);
    return start >= begin and start - begin <= mapping.len and slice.len <= mapping.len - (start - begin);
}

fn build_full() ![]align(std.heap.page_size_min) u8 {
    var sample: Sample = .{ .gpa = testing.allocator };
    defer sample.deinit();
    try sample.fill();
    return sample.build();
}

test "a file is opened, and its values, tensors and sizes are there" {
    var folder: Folder = .init();
    defer folder.deinit();
    const content = try build_full();
    defer testing.allocator.free(content);
    try folder.write("model.gguf", content);
    const file = try folder.open("model.gguf");
    defer file.close();
    try expect_inside(file);
    try testing.expectEqual(15, file.value_count());
    try testing.expectEqual(4, file.tensor_count());
    try testing.expectEqual(content.len, file.size_bytes);
    try testing.expectEqual(64 * 5 * 4 + 6 * 34 + 2 * 144 + 7 * 2, file.tensor_bytes);
    try testing.expectEqual(null, file.find("no such key"));
    try testing.expectEqual(null, file.find_tensor("no such tensor"));
    const scalar = file.value(file.find("a.float64").?);
    const number: f64 = @bitCast(file.bytes(scalar.offset, scalar.size_bytes).?[0..8].*);
    try testing.expectEqual(0.1, number);
    try testing.expectEqual(null, file.bytes(content.len, 1));
    try testing.expectEqual(null, file.bytes(8, std.math.maxInt(u64)));
    try testing.expectEqual(0, file.bytes(content.len, 0).?.len);
}

test "what is no readable file gets one sentence" {
    var folder: Folder = .init();
    defer folder.deinit();
    try folder.write("empty.gguf", "");
    try folder.expect_fault("empty.gguf", error.BadFormat, "the file is empty, expected a GGUF file");
    try folder.expect_fault("missing.gguf", error.NotFound, "there is no such file");
    try folder.expect_fault("empty.gguf/m", error.NotFound, "a part of the path is not a directory");
    try folder.temporary.dir.createDir(testing.io, "folder", .default_dir);
    try folder.expect_fault("folder", error.Io, "this is a directory; give the path of a .gguf");
    try folder.temporary.dir.symLink(testing.io, "circle.gguf", "circle.gguf", .{});
    try folder.expect_fault("circle.gguf", error.Io, "its symbolic links lead in a circle");
    const long: [300]u8 = @splat('n');
    try folder.expect_fault(&long, error.Io, "the path is too long");
    try testing.expectError(error.InvalidArgument, File.open(testing.allocator, ""));
    try testing.expectError(error.InvalidArgument, File.open(testing.allocator, "a\x00b"));
    try testing.expectError(error.BadFormat, File.open(testing.allocator, "/dev/null"));
}

test "a file that the user may not read gets one sentence" {
    var folder: Folder = .init();
    defer folder.deinit();
    try folder.write("secret.gguf", "GGUF");
    try testing.expectEqual(0, std.c.chmod(try folder.path("secret.gguf"), 0));
    // To root, every file is readable.
    const user = std.c.geteuid();
    if (user == 0) try testing.expectEqual(0, std.c.seteuid(65_534));
    defer if (user == 0) std.debug.assert(std.c.seteuid(user) == 0);
    try folder.expect_fault("secret.gguf", error.Io, "this process may not read it");
}

test "a named pipe does not make the reader wait" {
    var folder: Folder = .init();
    defer folder.deinit();
    try testing.expectEqual(0, mkfifo(try folder.path("pipe.gguf"), 0o600));
    try folder.expect_fault("pipe.gguf", error.Io, "this is a pipe or a device");
}

extern "c" fn mkfifo(path: [*:0]const u8, mode: std.c.mode_t) c_int;

test "parts are read as one" {
    var folder: Folder = .init();
    defer folder.deinit();
    try folder.write_part("m-00001-of-00003.gguf", 0, 3, 3);
    try folder.write_part("m-00002-of-00003.gguf", 1, 3, 3);
    try folder.expect_fault(
        "m-00001-of-00003.gguf",
        error.NotFound,
        "part 3 of 3 is missing: expected m-00003-of-00003.gguf in the same folder",
    );
    try folder.write_part("m-00003-of-00003.gguf", 2, 3, 3);
    const file = try folder.open("m-00001-of-00003.gguf");
    defer file.close();
    try expect_inside(file);
    try testing.expectEqual(3, file.value_count());
    try testing.expectEqual(3, file.tensor_count());
    for ([_][]const u8{ "zero", "one", "two" }, 0..) |name, part| {
        try testing.expectEqual(part, file.tensor(file.find_tensor(name).?).part);
    }
    try testing.expectEqual(3 * 32 * 4 * 4, file.tensor_bytes);
    const other = "m-00002-of-00003.gguf";
    try folder.expect_fault(other, error.InvalidArgument, "this is part 2 of 3; open the first part");
    try expect_end("/m-00001-of-00003.gguf");
}

test "parts that do not belong together are refused" {
    var folder: Folder = .init();
    defer folder.deinit();
    const first = "m-00001-of-00002.gguf";
    const second = "m-00002-of-00002.gguf";
    try folder.write_part(first, 0, 2, 2);
    try folder.write_part(second, 2, 2, 2);
    try testing.expectError(error.BadFormat, folder.open(first));
    try expect_end(second ++ ": key \"split.no\" is 2, expected 1 by the file's name");
    try folder.write_part(second, 1, 5, 2);
    try testing.expectError(error.BadFormat, folder.open(first));
    try expect_end(second ++ ": key \"split.count\" is 5, expected 2 by the file's name");
    try folder.write_part(second, 1, 2, 2);
    (try folder.open(first)).close();
    try folder.write_part(first, 0, 2, 9);
    try folder.expect_fault(first, error.BadFormat, "the 2 parts have 2 tensors, expected 9");
    try folder.write_part(first, 0, 4, 2);
    try folder.expect_fault(first, error.BadFormat, "has 2 parts, its key \"split.count\" says 4");
    try folder.write_part(first, 1, 2, 2);
    try folder.expect_fault(first, error.BadFormat, "key \"split.no\" is 1, expected 0");
    try folder.write_part("renamed.gguf", 0, 2, 2);
    try folder.expect_fault("renamed.gguf", error.BadFormat, "does not end in -00001-of-00002.gguf");
    try folder.write_part("merged.gguf", 0, 0, 2);
    (try folder.open("merged.gguf")).close();
}

test "parts that only their names tell are read, and a tensor twice in them is refused" {
    var folder: Folder = .init();
    defer folder.deinit();
    const content = try build_full();
    defer testing.allocator.free(content);
    try folder.write("n-00001-of-00002.gguf", content);
    try folder.write("n-00002-of-00002.gguf", content);
    try testing.expectError(error.BadFormat, folder.open("n-00001-of-00002.gguf"));
    const twice = "tensor \"token_embd.weight\": it occurs twice in the model, expected once";
    try expect_end("n-00002-of-00002.gguf: " ++ twice);
    var sample: Sample = .{ .gpa = testing.allocator };
    defer sample.deinit();
    try sample.tensor(.{ .name = "another" });
    const other = try sample.build();
    defer testing.allocator.free(other);
    try folder.write("n-00002-of-00002.gguf", other);
    const file = try folder.open("n-00001-of-00002.gguf");
    defer file.close();
    try testing.expectEqual(5, file.tensor_count());
    try folder.write("o-00003-of-00002.gguf", content);
    (try folder.open("o-00003-of-00002.gguf")).close();
    try testing.expectEqual(null, SplitName.parse("-0000a-of-00002.gguf"));
    try testing.expectEqual(null, SplitName.parse("m-00001-of-00002.bin"));
}

test "a split key of the wrong type is named" {
    var folder: Folder = .init();
    defer folder.deinit();
    var sample: Sample = .{ .gpa = testing.allocator };
    defer sample.deinit();
    try sample.string("split.count", "two");
    const content = try sample.build();
    defer testing.allocator.free(content);
    try folder.write("m.gguf", content);
    try folder.expect_fault("m.gguf", error.BadFormat, "key \"split.count\": its type is string");
}

test "the fingerprint changes with metadata and weights, and only with them" {
    var folder: Folder = .init();
    defer folder.deinit();
    const content = try build_full();
    defer testing.allocator.free(content);
    var prints: [5][fingerprint_bytes]u8 = undefined;
    // The same twice; then a changed token, the first and the last byte of the last tensor.
    const token = std.mem.find(u8, content, "word").?;
    const changes = [_]?usize{ null, null, token, content.len - 14, content.len - 1 };
    for (changes, &prints) |change, *print| {
        if (change) |offset| content[offset] ^= 1;
        defer if (change) |offset| {
            content[offset] ^= 1;
        };
        try folder.write("model.gguf", content);
        const file = try folder.open("model.gguf");
        defer file.close();
        print.* = file.fingerprint();
    }
    try testing.expectEqual(prints[0], prints[1]);
    for (1..prints.len) |i| for (0..i) |j| {
        if (i == 1) continue;
        try testing.expect(!std.mem.eql(u8, &prints[i], &prints[j]));
    };
}

fn open_and_close(gpa: std.mem.Allocator, path: []const u8) !void {
    const file = try File.open(gpa, path);
    file.close();
}

test "running out of memory at any allocation leaks nothing" {
    var folder: Folder = .init();
    defer folder.deinit();
    try folder.write_part("m-00001-of-00002.gguf", 0, 2, 2);
    try folder.write_part("m-00002-of-00002.gguf", 1, 2, 2);
    const path = try folder.path("m-00001-of-00002.gguf");
    try testing.checkAllAllocationFailures(testing.allocator, open_and_close, .{path});
}

/// Spoils a copy of a good file in one to three ways.
fn mutate(random: std.Random, list: *std.ArrayList(u8), content: []const u8) !void {
    list.clearRetainingCapacity();
    try list.appendSlice(testing.allocator, content);
    for (0..random.intRangeAtMost(usize, 1, 3)) |_| {
        const size = list.items.len;
        if (size < 16) return;
        const place = random.uintLessThan(usize, size - 8);
        const number = odd_number(random, size);
        switch (random.uintLessThan(u32, 5)) {
            0 => list.items[place] ^= @as(u8, 1) << random.int(u3),
            1 => list.shrinkRetainingCapacity(random.uintLessThan(usize, size)),
            2 => std.mem.writeInt(u32, list.items[place..][0..4], @truncate(number), .little),
            3 => std.mem.writeInt(u64, list.items[place..][0..8], number, .little),
            else => {
                const from = random.uintLessThan(usize, content.len - 64);
                const piece = content[from..][0..random.uintLessThan(usize, 64)];
                try list.insertSlice(testing.allocator, place, piece);
            },
        }
    }
}

/// A number at an edge, or any.
fn odd_number(random: std.Random, size: u64) u64 {
    const edges = [_]u64{ 0, 1, 0x7f, 0xff, 1 << 31, 1 << 32, 1 << 63, std.math.maxInt(u64), size, size + 1 };
    return if (random.boolean()) edges[random.uintLessThan(usize, edges.len)] else random.int(u64);
}

test "2,000 spoiled files each open or get a sentence" {
    var folder: Folder = .init();
    defer folder.deinit();
    const content = try build_full();
    defer testing.allocator.free(content);
    var list: std.ArrayList(u8) = .empty;
    defer list.deinit(testing.allocator);
    var random: std.Random.DefaultPrng = .init(testing.random_seed);
    errdefer std.debug.print("seed {d}\n", .{testing.random_seed});
    var opened: u32 = 0;
    for (0..2000) |_| {
        try mutate(random.random(), &list, content);
        try folder.write("spoiled.gguf", list.items);
        status.set_message("");
        const file = folder.open("spoiled.gguf") catch {
            try testing.expect(status.message().len > 20);
            try testing.expect(std.mem.find(u8, status.message(), "spoiled.gguf: ") != null);
            try testing.expect(std.unicode.utf8ValidateSlice(status.message()));
            continue;
        };
        defer file.close();
        opened += 1;
        try expect_inside(file);
        const print = file.fingerprint();
        try testing.expectEqual(print, file.fingerprint());
    }
    // Both ends are met, or the changes would prove little.
    try testing.expect(opened > 50 and opened < 1900);
}
