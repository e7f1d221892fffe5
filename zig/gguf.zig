//! A model file in the GGUF format, version 2 or 3: its metadata and its tensors, read from memory-mapped bytes.
//!
//! Opening walks the header only; it allocates per value and per tensor, not per array element, and touches no page of
//! a tensor's data. A model in several files is read as one: the metadata of the first, the tensors of all.
//! Whatever the bytes are, opening gives a file whose every slice lies inside its mapping, or an error whose sentence
//! names the file, the key or the tensor, and what was expected.

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
        if (path.len == 0) return status.fail(error.InvalidArgument, "the path of the model file is empty", .{});
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

    /// Tells models apart, for what is stored beside them: the first 16 bytes of the BLAKE3 hash of, for each part, its
    /// size (u64, little-endian) and its bytes up to the end of the tensor table, then for each tensor the first,
    /// middle and last 64 bytes of its data (all of it, if it has at most 192). A change of a few weights can escape
    /// it. It depends on how a model is divided into files, not on their names. Reads up to three pages per tensor.
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
    fn parse(path: []const u8) ?SplitName {
        if (path.len < suffix_bytes) return null;
        const suffix = path[path.len - suffix_bytes ..];
        const form = suffix[0] == '-' and std.mem.eql(u8, suffix[6..10], "-of-") and
            std.mem.eql(u8, suffix[15..], ".gguf");
        if (!form) return null;
        const number = parse_digits(suffix[1..6]) orelse return null;
        const count = parse_digits(suffix[10..15]) orelse return null;
        if (number < 1 or number > count) return null;
        return .{ .prefix = path[0 .. path.len - suffix_bytes], .number = number - 1, .count = count };
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
    return status.fail(
        error.BadFormat,
        "{f}: this is part {d} of {d} of a model, but its name does not end in -{d:0>5}-of-{d:0>5}.gguf, " ++
            "so that the other parts cannot be found; give it back its own name",
        .{ Shown.path(path), (split.number orelse 0) +| 1, split.count, (split.number orelse 0) +| 1, split.count },
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

test {
    _ = gguf_map;
    _ = gguf_part;
    _ = gguf_type;
    _ = @import("gguf_fault_test.zig");
    _ = @import("gguf_test.zig");
}
