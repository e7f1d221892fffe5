//! One file of a model: what its header says, checked against what the file holds.
//!
//! The bytes may come from anywhere. Each count, length and offset is compared with the bytes that are left before it
//! is used, so that no file can make the library read outside of its mapping, or reserve memory by a false number.

const std = @import("std");
const status = @import("status.zig");
const gguf_map = @import("gguf_map.zig");
const gguf_type = @import("gguf_type.zig");

const Error = status.Error;
const Shown = gguf_map.Shown;
const ValueType = gguf_type.ValueType;

comptime {
    // Numbers are used as they lie in the file, and a file offset is an index of its mapping.
    std.debug.assert(@import("builtin").cpu.arch.endian() == .little);
    std.debug.assert(@sizeOf(usize) == 8);
}

pub const alignment_default = 32;
/// The specification's: offsets suit every type up to 8 bytes.
pub const alignment_min = 8;
pub const array_depth_max = 4;
pub const dims_max = 4;
pub const key_bytes_max = 65_535;
/// ggml keeps 64 bytes for a name and its final zero.
pub const name_bytes_max = 63;
/// Far above any model's; they bound the memory that a hostile header can ask for.
pub const values_max = 1 << 20;
pub const tensors_max = 1 << 20;

const header_bytes_min = 24;
const value_bytes_min = 8 + 1 + 4 + 1;
const tensor_bytes_min = 8 + 1 + 4 + 8 + 4 + 8;

/// One metadata value, and where its bytes lie.
pub const Value = struct {
    /// Valid UTF-8, not empty.
    key: []const u8,
    type: ValueType,
    /// Of an array: its elements' type. Otherwise the same as `type`.
    element_type: ValueType,
    /// Elements of an array; 1 for any other value.
    count: u64,
    /// From the start of the file. A string's own bytes, without their length. An array's first element: numbers
    /// lie side by side, strings each as a u64 length and bytes, arrays each as a u32 type, a u64 count and elements.
    offset: u64,
    size_bytes: u64,

    /// The value as a number, if it is an integer of any width and not negative. `file` is the file's bytes.
    pub fn unsigned(self: Value, file: []const u8) ?u64 {
        const bytes = file[self.offset..][0..self.size_bytes];
        return switch (self.type) {
            inline .uint8, .int8, .uint16, .int16, .uint32, .int32, .uint64, .int64 => |kind| blk: {
                const Number = switch (kind) {
                    .uint8 => u8,
                    .int8 => i8,
                    .uint16 => u16,
                    .int16 => i16,
                    .uint32 => u32,
                    .int32 => i32,
                    .uint64 => u64,
                    .int64 => i64,
                    else => unreachable,
                };
                const number = std.mem.readInt(Number, bytes[0..@sizeOf(Number)], .little);
                break :blk std.math.cast(u64, number);
            },
            else => null,
        };
    }
};

pub const Tensor = struct {
    /// Valid UTF-8, 1 to 63 bytes, none of them zero.
    name: []const u8,
    /// An index of `gguf_type.tensor_types` that has a type.
    type: u32,
    n_dims: u32,
    /// Elements in each dimension, fastest first; 1 beyond `n_dims`.
    ne: [dims_max]u64,
    /// Which of the model's files holds it.
    part: u32,
    /// From the start of that file.
    offset: u64,
    size_bytes: u64,
    data: []const u8,
};

/// Items in the file's order, and an index of their names. The names are the mapping's own bytes.
pub fn Table(comptime Item: type) type {
    return struct {
        items: std.ArrayList(Item) = .empty,
        index: std.StringHashMapUnmanaged(u32) = .empty,

        const Self = @This();

        pub fn deinit(self: *Self, gpa: std.mem.Allocator) void {
            self.items.deinit(gpa);
            self.index.deinit(gpa);
        }

        pub fn find(self: *const Self, name: []const u8) ?u32 {
            return self.index.get(name);
        }

        /// False, and nothing added, if the name is taken.
        pub fn add(self: *Self, gpa: std.mem.Allocator, name: []const u8, item: Item) error{OutOfMemory}!bool {
            try self.items.ensureUnusedCapacity(gpa, 1);
            const entry = try self.index.getOrPut(gpa, name);
            if (entry.found_existing) return false;
            entry.value_ptr.* = @intCast(self.items.items.len);
            self.items.appendAssumeCapacity(item);
            return true;
        }
    };
}

pub const Values = Table(Value);
pub const Tensors = Table(Tensor);

/// A mapped file with its header read.
pub const Part = struct {
    path: [:0]const u8,
    bytes: gguf_map.Bytes,
    /// Header, metadata and tensor table.
    header_bytes: u64,

    /// Reads the header of `bytes`: adds its values to `values` and its tensors to `tensors`, as of part `number`.
    pub fn read(
        gpa: std.mem.Allocator,
        path: [:0]const u8,
        bytes: gguf_map.Bytes,
        number: u32,
        values: *Values,
        tensors: *Tensors,
    ) Error!Part {
        var reader: Reader = .{ .path = path, .bytes = bytes };
        const counts = try read_counts(&reader);
        for (0..counts.values) |i| try read_value(&reader, gpa, i, values);
        const alignment = try read_alignment(&reader, values);
        const first = tensors.items.items.len;
        for (0..counts.tensors) |i| try read_tensor(&reader, gpa, i, number, tensors);
        const own = tensors.items.items[first..];
        try place(&reader, own, alignment);
        try check_overlap(&reader, gpa, own);
        return .{ .path = path, .bytes = bytes, .header_bytes = reader.position };
    }
};

/// What the reader is at, for its sentences: by name, or by index while the name is not yet known to be good.
const Subject = union(enum) {
    header,
    value_at: u64,
    value: []const u8,
    tensor_at: u64,
    tensor: []const u8,

    pub fn format(self: Subject, writer: *std.Io.Writer) std.Io.Writer.Error!void {
        switch (self) {
            .header => try writer.writeAll("the header"),
            .value_at => |index| try writer.print("metadata value {d}", .{index}),
            .value => |key| try writer.print("key \"{f}\"", .{Shown.name(key)}),
            .tensor_at => |index| try writer.print("tensor {d}", .{index}),
            .tensor => |name| try writer.print("tensor \"{f}\"", .{Shown.name(name)}),
        }
    }
};

const Reader = struct {
    path: []const u8,
    bytes: []const u8,
    position: u64 = 0,
    subject: Subject = .header,

    fn remaining(self: *const Reader) u64 {
        std.debug.assert(self.position <= self.bytes.len);
        return self.bytes.len - self.position;
    }

    /// A sentence about the subject: `format` goes on after "FILE: SUBJECT: ".
    fn wrong(self: *const Reader, comptime format: []const u8, args: anytype) Error {
        return self.refuse(error.BadFormat, format, args);
    }

    fn refuse(self: *const Reader, err: Error, comptime format: []const u8, args: anytype) Error {
        return status.fail(err, "{f}: {f}: " ++ format, .{ Shown.path(self.path), self.subject } ++ args);
    }

    fn take(self: *Reader, size: u64, what: []const u8) Error![]const u8 {
        if (size > self.remaining()) {
            return self.wrong(
                "its {s} should take {d} bytes from byte {d}, but the file ends at byte {d}; " ++
                    "it is cut off or damaged",
                .{ what, size, self.position, self.bytes.len },
            );
        }
        defer self.position += size;
        return self.bytes[self.position..][0..size];
    }

    fn number(self: *Reader, comptime T: type, what: []const u8) Error!T {
        const bytes = try self.take(@sizeOf(T), what);
        return std.mem.readInt(T, bytes[0..@sizeOf(T)], .little);
    }

    fn string(self: *Reader, what: []const u8) Error![]const u8 {
        const size = try self.number(u64, what);
        return self.take(size, what);
    }

    /// A key or a tensor's name.
    fn name(self: *Reader, what: []const u8, bytes_max: u64) Error![]const u8 {
        const size = try self.number(u64, what);
        if (size == 0) return self.wrong("its {s} is empty", .{what});
        if (size > bytes_max) {
            return self.wrong("its {s} has {d} bytes, expected at most {d}", .{ what, size, bytes_max });
        }
        const text = try self.take(size, what);
        const zero = std.mem.findScalar(u8, text, 0) != null;
        if (zero or !std.unicode.utf8ValidateSlice(text)) {
            return self.wrong("its {s} is not text: \"{f}\", expected UTF-8", .{ what, Shown.name(text) });
        }
        return text;
    }
};

const Counts = struct { tensors: u64, values: u64 };

fn read_counts(reader: *Reader) Error!Counts {
    const magic = reader.bytes[0..@min(4, reader.bytes.len)];
    if (!std.mem.eql(u8, magic, "GGUF")) {
        return status.fail(
            error.BadFormat,
            "{f}: this is not a GGUF file: it starts with \"{f}\", expected \"GGUF\"",
            .{ Shown.path(reader.path), Shown.name(magic) },
        );
    }
    _ = try reader.take(4, "magic");
    const version = try reader.number(u32, "version");
    switch (version) {
        2, 3 => {},
        @byteSwap(@as(u32, 2)), @byteSwap(@as(u32, 3)) => return reader.refuse(
            error.Unsupported,
            "the file is big-endian, expected little-endian; convert the model for this machine",
            .{},
        ),
        else => return reader.refuse(
            error.Unsupported,
            "GGUF version {d} is not supported, expected 2 or 3; convert the model again",
            .{version},
        ),
    }
    const tensors = try reader.number(u64, "tensor count");
    const values = try reader.number(u64, "metadata count");
    std.debug.assert(reader.position == header_bytes_min);
    try check_count(reader, tensors, "tensors", tensor_bytes_min, tensors_max);
    try check_count(reader, values, "metadata values", value_bytes_min, values_max);
    return .{ .tensors = tensors, .values = values };
}

fn check_count(reader: *Reader, count: u64, what: []const u8, bytes_min: u64, count_max: u64) Error!void {
    if (count > reader.remaining() / bytes_min) {
        return reader.wrong(
            "it announces {d} {s}, more than the file's {d} bytes can hold; it is cut off or damaged",
            .{ count, what, reader.bytes.len },
        );
    }
    if (count > count_max) {
        return reader.wrong("it announces {d} {s}, expected at most {d}", .{ count, what, count_max });
    }
}

fn read_value(reader: *Reader, gpa: std.mem.Allocator, index: u64, values: *Values) Error!void {
    reader.subject = .{ .value_at = index };
    const key = try reader.name("key", key_bytes_max);
    reader.subject = .{ .value = key };
    var value: Value = .{
        .key = key,
        .type = try read_type(reader, "type"),
        .element_type = undefined,
        .count = 1,
        .offset = undefined,
        .size_bytes = undefined,
    };
    value.element_type = value.type;
    switch (value.type) {
        .array => {
            value.element_type = try read_type(reader, "element type");
            value.count = try reader.number(u64, "element count");
            value.offset = reader.position;
            try skip(reader, value.element_type, value.count, 1);
            value.size_bytes = reader.position - value.offset;
        },
        .string => {
            const text = try reader.string("string");
            value.offset = reader.position - text.len;
            value.size_bytes = text.len;
        },
        else => {
            value.offset = reader.position;
            try skip(reader, value.type, 1, 0);
            value.size_bytes = reader.position - value.offset;
        },
    }
    if (!try values.add(gpa, key, value)) {
        return reader.wrong("it occurs twice, expected once", .{});
    }
}

fn read_type(reader: *Reader, what: []const u8) Error!ValueType {
    const number = try reader.number(u32, what);
    return ValueType.from(number) orelse
        reader.wrong("its {s} is {d}, expected a GGUF value type, 0 to 12", .{ what, number });
}

/// Passes over `count` values of one type that lie side by side, `depth` arrays deep.
fn skip(reader: *Reader, kind: ValueType, count: u64, depth: u32) Error!void {
    if (count > reader.remaining() / kind.size_bytes_min()) {
        return reader.wrong(
            "it announces {d} values of type {t} at byte {d}, more than the file's {d} bytes can hold; " ++
                "it is cut off or damaged",
            .{ count, kind, reader.position, reader.bytes.len },
        );
    }
    switch (kind) {
        .string => for (0..count) |_| {
            _ = try reader.string("string");
        },
        .array => {
            if (depth == array_depth_max) {
                return reader.wrong("its arrays are nested deeper than {d}", .{array_depth_max});
            }
            for (0..count) |_| {
                const element_type = try read_type(reader, "element type");
                const element_count = try reader.number(u64, "element count");
                try skip(reader, element_type, element_count, depth + 1);
            }
        },
        .bool => for (try reader.take(count, "value")) |byte| {
            if (byte > 1) return reader.wrong("one of its booleans is {d}, expected 0 or 1", .{byte});
        },
        else => _ = try reader.take(count * kind.size_bytes().?, "value"),
    }
}

fn read_alignment(reader: *Reader, values: *const Values) Error!u64 {
    const index = values.find("general.alignment") orelse return alignment_default;
    const value = values.items.items[index];
    reader.subject = .{ .value = value.key };
    if (value.type != .uint32) {
        return reader.wrong("its type is {t}, expected uint32", .{value.type});
    }
    const alignment = value.unsigned(reader.bytes).?;
    if (alignment < alignment_min or !std.math.isPowerOfTwo(alignment)) {
        return reader.wrong("it is {d}, expected a power of two from {d}", .{ alignment, alignment_min });
    }
    return alignment;
}

/// Adds a tensor whose offset still counts from the start of the data; `place` moves it.
fn read_tensor(reader: *Reader, gpa: std.mem.Allocator, index: u64, part: u32, tensors: *Tensors) Error!void {
    reader.subject = .{ .tensor_at = index };
    const name = try reader.name("name", name_bytes_max);
    reader.subject = .{ .tensor = name };
    var tensor: Tensor = .{
        .name = name,
        .type = undefined,
        .n_dims = try reader.number(u32, "dimension count"),
        .ne = @splat(1),
        .part = part,
        .offset = undefined,
        .size_bytes = undefined,
        .data = &.{},
    };
    if (tensor.n_dims == 0 or tensor.n_dims > dims_max) {
        return reader.wrong("it has {d} dimensions, expected 1 to {d}", .{ tensor.n_dims, dims_max });
    }
    for (tensor.ne[0..tensor.n_dims]) |*ne| ne.* = try reader.number(u64, "shape");
    tensor.type = try reader.number(u32, "type");
    tensor.offset = try reader.number(u64, "offset");
    tensor.size_bytes = try measure(reader, &tensor);
    if (!try tensors.add(gpa, name, tensor)) {
        return reader.wrong("it occurs twice in the model, expected once", .{});
    }
}

/// The bytes that a tensor of this shape and type takes.
fn measure(reader: *const Reader, tensor: *const Tensor) Error!u64 {
    const kind = gguf_type.tensor_type(tensor.type) orelse return reader.refuse(
        error.Unsupported,
        "its type is {d}, {s}",
        .{
            tensor.type, if (gguf_type.tensor_type_removed(tensor.type))
                @as([]const u8, "which ggml has removed; quantize the model again")
            else
                "which this version does not know",
        },
    );
    var elements: u64 = 1;
    for (tensor.ne, 0..) |ne, dim| {
        if (ne == 0) return reader.wrong("dimension {d} is 0, expected at least 1", .{dim});
        const product = std.math.mul(u64, elements, ne) catch std.math.maxInt(u64);
        if (product > std.math.maxInt(i64)) {
            return reader.wrong("its shape {any} has more elements than can be counted", .{tensor.ne});
        }
        elements = product;
    }
    if (tensor.ne[0] % kind.block_elements != 0) {
        return reader.wrong(
            "its rows have {d} elements, expected a multiple of {d} for type {s}",
            .{ tensor.ne[0], kind.block_elements, kind.name },
        );
    }
    return std.math.mul(u64, elements / kind.block_elements, kind.block_bytes) catch
        reader.wrong("its shape {any} has more bytes than can be counted", .{tensor.ne});
}

/// Turns offsets into the data into offsets into the file, and takes the slices.
fn place(reader: *Reader, tensors: []Tensor, alignment: u64) Error!void {
    const data_offset = std.mem.alignForward(u64, reader.position, alignment);
    for (tensors) |*tensor| {
        reader.subject = .{ .tensor = tensor.name };
        if (tensor.offset % alignment != 0) {
            return reader.wrong("its offset is {d}, expected a multiple of {d}", .{ tensor.offset, alignment });
        }
        const size = reader.bytes.len;
        const available = size -| data_offset;
        if (tensor.offset > available or tensor.size_bytes > available - tensor.offset) {
            return reader.wrong(
                "its {d} bytes at offset {d} of the data (which starts at byte {d}) lie beyond the end " ++
                    "of the file at byte {d}; the file is cut off or damaged",
                .{ tensor.size_bytes, tensor.offset, data_offset, size },
            );
        }
        tensor.offset += data_offset;
        tensor.data = reader.bytes[tensor.offset..][0..tensor.size_bytes];
    }
}

/// Two tensors that share bytes cannot both be what was trained. Gaps and any order are harmless.
fn check_overlap(reader: *Reader, gpa: std.mem.Allocator, tensors: []const Tensor) Error!void {
    const order = try gpa.alloc(u32, tensors.len);
    defer gpa.free(order);
    for (order, 0..) |*slot, i| slot.* = @intCast(i);
    std.mem.sortUnstable(u32, order, tensors, before);
    for (1..@max(1, order.len)) |i| {
        const previous = tensors[order[i - 1]];
        const tensor = tensors[order[i]];
        if (previous.offset + previous.size_bytes > tensor.offset) {
            reader.subject = .{ .tensor = tensor.name };
            return reader.wrong(
                "its data starts at byte {d}, inside of tensor \"{f}\" (bytes {d} to {d})",
                .{
                    tensor.offset,   Shown.name(previous.name),
                    previous.offset, previous.offset + previous.size_bytes,
                },
            );
        }
    }
}

fn before(tensors: []const Tensor, a: u32, b: u32) bool {
    return tensors[a].offset < tensors[b].offset;
}
