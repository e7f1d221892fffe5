//! The types that a GGUF file can name: those of metadata values, and those of tensors with the
//! sizes of their blocks.
//!
//! Facts: the GGUF specification and ggml 0.25.1; a test of the library compares the table with the
//! ggml it links.

const std = @import("std");

/// The type of a metadata value, by its number in the file.
pub const ValueType = enum(u32) {
    uint8 = 0,
    int8 = 1,
    uint16 = 2,
    int16 = 3,
    uint32 = 4,
    int32 = 5,
    float32 = 6,
    bool = 7,
    string = 8,
    array = 9,
    uint64 = 10,
    int64 = 11,
    float64 = 12,

    /// Null for a number that names no type.
    pub fn from(number: u32) ?ValueType {
        return std.enums.fromInt(ValueType, number);
    }

    /// Bytes of one value; null for strings and arrays, whose values differ in size.
    pub fn size_bytes(self: ValueType) ?u64 {
        return switch (self) {
            .uint8, .int8, .bool => 1,
            .uint16, .int16 => 2,
            .uint32, .int32, .float32 => 4,
            .uint64, .int64, .float64 => 8,
            .string, .array => null,
        };
    }

    /// The fewest bytes that one value takes: a string has its length, an array its element type
    /// and count.
    pub fn size_bytes_min(self: ValueType) u64 {
        return self.size_bytes() orelse switch (self) {
            .string => 8,
            .array => 12,
            else => unreachable,
        };
    }
};

/// How the elements of a tensor are stored: `block_bytes` bytes for each `block_elements` elements
/// of a row.
pub const TensorType = struct {
    name: []const u8,
    block_elements: u64,
    block_bytes: u64,
};

/// One more than the highest number of a tensor type.
pub const tensor_type_count = 43;

/// By number. Null where ggml has removed the type.
pub const tensor_types: [tensor_type_count]?TensorType = blk: {
    var types: [tensor_type_count]?TensorType = @splat(null);
    for (tensor_type_rows) |row| {
        std.debug.assert(types[row[0]] == null);
        types[row[0]] = .{ .name = row[1], .block_elements = row[2], .block_bytes = row[3] };
    }
    break :blk types;
};

/// Null for a number that names no type of this ggml.
pub fn tensor_type(number: u32) ?TensorType {
    return if (number < tensor_type_count) tensor_types[number] else null;
}

/// Whether ggml once had a type of this number, so that an error can say what to do.
pub fn tensor_type_removed(number: u32) bool {
    return number < tensor_type_count and tensor_types[number] == null;
}

const Row = struct { u32, []const u8, u64, u64 };

const tensor_type_rows = [_]Row{
    .{ 0, "f32", 1, 4 },
    .{ 1, "f16", 1, 2 },
    .{ 2, "q4_0", 32, 18 },
    .{ 3, "q4_1", 32, 20 },
    .{ 6, "q5_0", 32, 22 },
    .{ 7, "q5_1", 32, 24 },
    .{ 8, "q8_0", 32, 34 },
    .{ 9, "q8_1", 32, 36 },
    .{ 10, "q2_K", 256, 84 },
    .{ 11, "q3_K", 256, 110 },
    .{ 12, "q4_K", 256, 144 },
    .{ 13, "q5_K", 256, 176 },
    .{ 14, "q6_K", 256, 210 },
    .{ 15, "q8_K", 256, 292 },
    .{ 16, "iq2_xxs", 256, 66 },
    .{ 17, "iq2_xs", 256, 74 },
    .{ 18, "iq3_xxs", 256, 98 },
    .{ 19, "iq1_s", 256, 50 },
    .{ 20, "iq4_nl", 32, 18 },
    .{ 21, "iq3_s", 256, 110 },
    .{ 22, "iq2_s", 256, 82 },
    .{ 23, "iq4_xs", 256, 136 },
    .{ 24, "i8", 1, 1 },
    .{ 25, "i16", 1, 2 },
    .{ 26, "i32", 1, 4 },
    .{ 27, "i64", 1, 8 },
    .{ 28, "f64", 1, 8 },
    .{ 29, "iq1_m", 256, 56 },
    .{ 30, "bf16", 1, 2 },
    .{ 34, "tq1_0", 256, 54 },
    .{ 35, "tq2_0", 256, 66 },
    .{ 39, "mxfp4", 32, 17 },
    .{ 40, "nvfp4", 64, 36 },
    .{ 41, "q1_0", 128, 18 },
    .{ 42, "q2_0", 64, 18 },
};

test "every number has a type, or is one that was removed" {
    const removed = [_]u32{ 4, 5, 31, 32, 33, 36, 37, 38 };
    for (0..tensor_type_count) |i| {
        const number: u32 = @intCast(i);
        const expected = std.mem.findScalar(u32, &removed, number) != null;
        try std.testing.expectEqual(expected, tensor_type_removed(number));
        try std.testing.expectEqual(expected, tensor_type(number) == null);
    }
    try std.testing.expectEqual(null, tensor_type(tensor_type_count));
    try std.testing.expectEqual(null, tensor_type(std.math.maxInt(u32)));
    try std.testing.expectEqual(144, tensor_type(12).?.block_bytes);
}

test "value types are known by their numbers" {
    try std.testing.expectEqual(ValueType.float64, ValueType.from(12));
    try std.testing.expectEqual(null, ValueType.from(13));
    try std.testing.expectEqual(8, ValueType.float64.size_bytes());
    try std.testing.expectEqual(null, ValueType.string.size_bytes());
    try std.testing.expectEqual(12, ValueType.array.size_bytes_min());
}
