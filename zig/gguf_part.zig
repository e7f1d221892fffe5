//! One file of a model: what its header says, checked against what the file holds.
//!
//! The bytes may come from anywhere. Each count, length and offset is compared with the bytes that
//! are left before it is used, so that no file can make the library read outside of its mapping, or
//! reserve memory by a false number.

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
    /// From the start of the file. A string's own bytes, without their length. An array's first
    /// element: numbers lie side by side, strings each as a u64 length and bytes, arrays each as a
    /// u32 type, a u64 count and elements.
    offset: u64,
    size_bytes: u64,

    /// The value as a number, if it is an integer of any width and not negative. `file` is the
    /// file's bytes.
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

    /// Reads the header of `bytes`: adds its values to `values` and its tensors to `tensors`, as of
    /// part `number`.
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

/// What the reader is at, for its sentences: by name, or by index while the name is not yet known
/// to be good.
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
            "it announces {d} values of type {t} at byte {d}, more than the file's {d} bytes can " ++
                "hold; it is cut off or damaged",
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
fn read_tensor(
    reader: *Reader,
    gpa: std.mem.Allocator,
    index: u64,
    part: u32,
    tensors: *Tensors,
) Error!void {
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
            tensor.type,
            if (gguf_type.tensor_type_removed(tensor.type))
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

const testing = std.testing;
const gguf_sample = @import("gguf_sample.zig");
const Sample = gguf_sample.Sample;

/// Reads a file that is in memory.
const Trial = struct {
    values: Values = .{},
    tensors: Tensors = .{},

    fn read(self: *Trial, bytes: gguf_map.Bytes) Error!Part {
        return .read(testing.allocator, "m.gguf", bytes, 0, &self.values, &self.tensors);
    }

    fn deinit(self: *Trial) void {
        self.values.deinit(testing.allocator);
        self.tensors.deinit(testing.allocator);
    }
};

fn expect_fault(bytes: gguf_map.Bytes, err: Error, sentence: []const u8) !void {
    var trial: Trial = .{};
    defer trial.deinit();
    try testing.expectError(err, trial.read(bytes));
    if (std.mem.find(u8, status.message(), sentence) == null) {
        try testing.expectEqualStrings(sentence, status.message());
    }
    try testing.expect(std.mem.startsWith(u8, status.message(), "m.gguf: "));
}

/// The fault of a file that has one value: `kind` with the bytes `payload`.
fn expect_value_fault(key: []const u8, kind: u32, payload: []const u8, sentence: []const u8) !void {
    var sample: Sample = .{ .gpa = testing.allocator };
    defer sample.deinit();
    try sample.raw(key, kind, payload);
    // Room behind it, so that it is not taken for a file that was cut off.
    try sample.string("last", &@as([64]u8, @splat('x')));
    const bytes = try sample.build();
    defer testing.allocator.free(bytes);
    try expect_fault(bytes, error.BadFormat, sentence);
}

fn expect_tensor_fault(specs: []const gguf_sample.TensorSpec, err: Error, sentence: []const u8) !void {
    var sample: Sample = .{ .gpa = testing.allocator };
    defer sample.deinit();
    for (specs) |spec| try sample.tensor(spec);
    const bytes = try sample.build();
    defer testing.allocator.free(bytes);
    try expect_fault(bytes, err, sentence);
}

test "values and tensors of every kind are found, in versions 2 and 3" {
    for ([_]u32{ 2, 3 }) |version| {
        var sample: Sample = .{ .gpa = testing.allocator, .version = version };
        defer sample.deinit();
        try sample.fill();
        const bytes = try sample.build();
        defer testing.allocator.free(bytes);
        var trial: Trial = .{};
        defer trial.deinit();
        const part = try trial.read(bytes);
        try testing.expectEqual(15, trial.values.items.items.len);
        const nested = trial.values.items.items[trial.values.find("a.nested").?];
        try testing.expectEqual(ValueType.array, nested.element_type);
        try testing.expectEqual(12 + 2 + 12, nested.size_bytes);
        const text = trial.values.items.items[0];
        try testing.expectEqualStrings("llama", bytes[text.offset..][0..text.size_bytes]);
        const tokens = trial.values.items.items[trial.values.find("tokenizer.ggml.tokens").?];
        try testing.expectEqual(5, tokens.count);
        try testing.expectEqualStrings("<s>", bytes[tokens.offset + 8 ..][0..3]);
        const up = trial.tensors.items.items[trial.tensors.find("blk.0.ffn_up.weight").?];
        try testing.expectEqual([4]u64{ 256, 2, 1, 1 }, up.ne);
        try testing.expectEqual(2 * 144, up.data.len);
        try testing.expectEqual(part.bytes.ptr + up.offset, up.data.ptr);
        try testing.expectEqual(0, up.offset % 32);
    }
}

test "unsigned numbers are read from integers of every width" {
    var sample: Sample = .{ .gpa = testing.allocator };
    defer sample.deinit();
    try sample.fill();
    const bytes = try sample.build();
    defer testing.allocator.free(bytes);
    var trial: Trial = .{};
    defer trial.deinit();
    _ = try trial.read(bytes);
    const cases = [_]struct { []const u8, ?u64 }{
        .{ "a.uint8", 200 },
        .{ "a.int8", null },
        .{ "a.uint16", 40_000 },
        .{ "a.int16", null },
        .{ "a.uint32", 4_000_000_000 },
        .{ "a.int32", 7 },
        .{ "a.uint64", 1 << 40 },
        .{ "a.int64", null },
        .{ "a.float32", null },
        .{ "a.bool", null },
        .{ "a.floats", null },
    };
    for (cases) |case| {
        const value = trial.values.items.items[trial.values.find(case[0]).?];
        try testing.expectEqual(case[1], value.unsigned(bytes));
    }
}

test "a file of another format, version or byte order is refused" {
    var sample: Sample = .{ .gpa = testing.allocator };
    defer sample.deinit();
    try sample.fill();
    const bytes = try sample.build();
    defer testing.allocator.free(bytes);
    const version: *align(4) [4]u8 = bytes[gguf_sample.version_offset..][0..4];
    for ([_]u32{ 0, 1, 4 }) |number| {
        std.mem.writeInt(u32, version, number, .little);
        var buffer: [64]u8 = undefined;
        const sentence = try std.fmt.bufPrint(&buffer, "GGUF version {d} is not supported", .{number});
        try expect_fault(bytes, error.Unsupported, sentence);
    }
    std.mem.writeInt(u32, version, 3, .big);
    try expect_fault(bytes, error.Unsupported, "the file is big-endian");
    @memcpy(bytes[0..4], "GGML");
    try expect_fault(bytes, error.BadFormat, "starts with \"GGML\", expected \"GGUF\"");
    try expect_fault(bytes[0..2], error.BadFormat, "starts with \"GG\", expected \"GGUF\"");
}

test "a file that is cut off anywhere is refused" {
    var sample: Sample = .{ .gpa = testing.allocator };
    defer sample.deinit();
    try sample.fill();
    const bytes = try sample.build();
    defer testing.allocator.free(bytes);
    for (0..bytes.len) |size| {
        // A copy, so that reading beyond it is seen.
        const cut = try testing.allocator.alignedAlloc(u8, .fromByteUnits(std.heap.page_size_min), size);
        defer testing.allocator.free(cut);
        @memcpy(cut, bytes[0..size]);
        const sentence = if (size < 4) "this is not a GGUF file" else "the file";
        try expect_fault(cut, error.BadFormat, sentence);
    }
    try expect_fault(bytes[0..20], error.BadFormat, "the header: its metadata count should take 8 bytes");
    try expect_fault(
        bytes[0 .. bytes.len - 1],
        error.BadFormat,
        "tensor \"output_norm.weight\": its 14 bytes at offset",
    );
}

test "counts that the file cannot hold, or nothing should, are refused" {
    var sample: Sample = .{ .gpa = testing.allocator };
    defer sample.deinit();
    try sample.fill();
    const bytes = try sample.build();
    defer testing.allocator.free(bytes);
    const offsets = [_]usize{ gguf_sample.tensor_count_offset, gguf_sample.value_count_offset };
    for (offsets, [_][]const u8{ "tensors", "metadata values" }) |offset, what| {
        const good = bytes[offset..][0..8].*;
        defer bytes[offset..][0..8].* = good;
        for ([_]u64{ bytes.len, 1 << 32, std.math.maxInt(u64) }) |count| {
            std.mem.writeInt(u64, bytes[offset..][0..8], count, .little);
            var buffer: [64]u8 = undefined;
            const sentence = try std.fmt.bufPrint(&buffer, "announces {d} {s}", .{ count, what });
            try expect_fault(bytes, error.BadFormat, sentence);
        }
    }
    const wide = try testing.allocator.alignedAlloc(u8, .fromByteUnits(std.heap.page_size_min), 40 << 20);
    defer testing.allocator.free(wide);
    @memset(wide, 0);
    @memcpy(wide[0..8], bytes[0..8]);
    std.mem.writeInt(u64, wide[8..16], tensors_max + 1, .little);
    try expect_fault(wide, error.BadFormat, "announces 1048577 tensors, expected at most 1048576");
}

test "metadata values that are wrong are named" {
    const head = gguf_sample.array_head;
    const max = std.math.maxInt(u64);
    const one: [4]u8 = .{ 1, 0, 0, 0 };
    const endless: [8]u8 = @splat(0xff);
    const nested = comptime head(9, 1) ++ head(9, 1) ++ head(9, 1) ++ head(9, 1) ++ head(4, 0);
    const cases = [_]struct { []const u8, u32, []const u8, []const u8 }{
        .{ "", 4, &one, "metadata value 0: its key is empty" },
        .{ "a\xffb", 4, &one, "metadata value 0: its key is not text: \"a\\xffb\"" },
        .{ "a\x00b", 4, &one, "metadata value 0: its key is not text: \"a\\x00b\"" },
        .{ &@as([65_536]u8, @splat('k')), 4, &one, "its key has 65536 bytes, expected at most 65535" },
        .{ "last", 4, &one, "key \"last\": it occurs twice, expected once" },
        .{ "a", 13, "", "key \"a\": its type is 13, expected a GGUF value type, 0 to 12" },
        .{ "a", 7, "\x02", "key \"a\": one of its booleans is 2, expected 0 or 1" },
        .{ "a", 8, &endless, "key \"a\": its string should take 18446744073709551615 bytes" },
        .{ "a", 9, &head(77, 1), "its element type is 77" },
        .{ "a", 9, &head(4, max), "announces 18446744073709551615 values of type uint32" },
        .{ "a", 9, &head(4, max / 4 + 2), "announces 4611686018427387905 values of type uint32" },
        .{ "a", 9, &head(8, 1 << 40), "announces 1099511627776 values of type string" },
        .{ "a", 9, &(comptime head(8, 1) ++ endless), "its string should take 18446744073709551615" },
        .{ "a", 9, &(comptime head(7, 2) ++ "\x01\x09".*), "one of its booleans is 9" },
        .{ "a", 9, &nested, "its arrays are nested deeper than 4" },
    };
    for (cases) |case| try expect_value_fault(case[0], case[1], case[2], case[3]);
}

test "a wrong alignment is refused and another one is honoured" {
    const key = "general.alignment";
    try expect_value_fault(key, 10, &@as([8]u8, @splat(1)), "key \"general.alignment\": its type is uint64");
    for ([_]u32{ 0, 4, 48 }) |number| {
        try expect_value_fault(key, 4, std.mem.asBytes(&number), "expected a power of two from 8");
    }
    var sample: Sample = .{ .gpa = testing.allocator, .alignment = 256 };
    defer sample.deinit();
    try sample.scalar(key, .uint32, @as(u32, 256));
    try sample.fill();
    const bytes = try sample.build();
    defer testing.allocator.free(bytes);
    var trial: Trial = .{};
    defer trial.deinit();
    _ = try trial.read(bytes);
    for (trial.tensors.items.items) |tensor| try testing.expectEqual(0, tensor.offset % 256);
}

test "tensors that are wrong are named" {
    const long: [64]u8 = @splat('n');
    const wide = 1 << 32;
    const cases = [_]struct { gguf_sample.TensorSpec, []const u8 }{
        .{ .{ .name = &long }, "tensor 0: its name has 64 bytes, expected at most 63" },
        .{ .{ .name = "" }, "tensor 0: its name is empty" },
        .{ .{ .name = "\xc0" }, "tensor 0: its name is not text: \"\\xc0\", expected UTF-8" },
        .{ .{ .name = "t", .ne = &.{} }, "tensor \"t\": it has 0 dimensions, expected 1 to 4" },
        .{ .{ .name = "t", .ne = &.{ 1, 1, 1, 1, 1 } }, "it has 5 dimensions, expected 1 to 4" },
        .{ .{ .name = "t", .ne = &.{ 4, 0 } }, "dimension 1 is 0, expected at least 1" },
        .{ .{ .name = "t", .ne = &.{ wide, wide } }, "more elements than can be counted" },
        .{ .{ .name = "t", .ne = &.{1 << 62} }, "more bytes than can be counted" },
        .{ .{ .name = "t", .ne = &.{ wide, 1 << 20 } }, "lie beyond the end" },
        .{ .{ .name = "t", .offset = 8 }, "its offset is 8, expected a multiple of 32" },
        .{ .{ .name = "t", .offset = std.math.maxInt(u64) - 31 }, "lie beyond the end" },
        .{
            .{ .name = "t", .ne = &.{100}, .type = 12 },
            "its rows have 100 elements, expected a multiple of 256 for type q4_K",
        },
    };
    for (cases) |case| try expect_tensor_fault(&.{case[0]}, error.BadFormat, case[1]);
    const unknown = "its type is 43, which this version does not know";
    try expect_tensor_fault(&.{.{ .name = "t", .type = 43 }}, error.Unsupported, unknown);
    const removed = "its type is 31, which ggml has removed; quantize the model again";
    try expect_tensor_fault(&.{.{ .name = "t", .type = 31 }}, error.Unsupported, removed);
}

test "tensors that share a name or bytes are refused" {
    const t: gguf_sample.TensorSpec = .{ .name = "t" };
    try expect_tensor_fault(&.{ t, t }, error.BadFormat, "tensor \"t\": it occurs twice in the model");
    const u: gguf_sample.TensorSpec = .{ .name = "u", .offset = 32 };
    const inside = "tensor \"u\": its data starts at byte 160, inside of tensor \"t\" (bytes 128 to 640)";
    try expect_tensor_fault(&.{ t, u }, error.BadFormat, inside);
    try expect_tensor_fault(&.{ u, .{ .name = "t", .offset = 0 } }, error.BadFormat, inside);
}

test "gaps between tensors and any order of them are read" {
    var sample: Sample = .{ .gpa = testing.allocator };
    defer sample.deinit();
    try sample.tensor(.{ .name = "second", .offset = 1024 });
    try sample.tensor(.{ .name = "first", .offset = 0 });
    const bytes = try sample.build();
    defer testing.allocator.free(bytes);
    var trial: Trial = .{};
    defer trial.deinit();
    _ = try trial.read(bytes);
    const tensors = trial.tensors.items.items;
    try testing.expectEqual(1024, tensors[0].offset - tensors[1].offset);
}
