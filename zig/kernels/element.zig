//! The element types of keys and values in cells, and how vectors of them become floats.

const std = @import("std");
const vector = @import("vector.zig");

const assert = std.debug.assert;
const lanes = vector.lanes;
const Vec = vector.Vec;

/// The block layouts of the quantised types are ggml's: per 32 elements an f16 scale, then 32 bytes (`q8_0`), or 16
/// bytes with elements 0 to 15 in the low halves and 16 to 31 in the high halves, 8 standing for zero (`q4_0`).
pub const Type = enum(u8) { f32, f16, bf16, q8_0, q4_0 };

pub const block_elements = 32;

pub inline fn is_quantised(element_type: Type) bool {
    return element_type == .q8_0 or element_type == .q4_0;
}

/// Bytes of one head's vector. Quantised vectors must be whole blocks.
pub fn vector_bytes(element_type: Type, dim: usize) usize {
    assert(!is_quantised(element_type) or dim % block_elements == 0);
    return switch (element_type) {
        .f32 => dim * 4,
        .f16, .bf16 => dim * 2,
        .q8_0 => dim / block_elements * 34,
        .q4_0 => dim / block_elements * 18,
    };
}

inline fn read(comptime T: type, from: [*]const u8) T {
    return @as(*align(1) const T, @ptrCast(from)).*;
}

/// `lanes` elements from element `index` on, which for a quantised type is a multiple of `lanes`.
pub inline fn load(comptime element_type: Type, from: [*]const u8, index: usize) Vec {
    switch (element_type) {
        .f32 => return read([lanes]f32, from + index * 4),
        .f16 => {
            const half: @Vector(lanes, f16) = read([lanes]f16, from + index * 2);
            return @floatCast(half);
        },
        .bf16 => {
            const high: @Vector(lanes, u16) = read([lanes]u16, from + index * 2);
            return @bitCast(@as(@Vector(lanes, u32), high) << @splat(16));
        },
        .q8_0 => {
            const block = from + index / block_elements * 34;
            const values: @Vector(lanes, i8) = read([lanes]i8, block + 2 + index % block_elements);
            return @as(Vec, @floatFromInt(values)) * vector.splat(read(f16, block));
        },
        .q4_0 => {
            const block = from + index / block_elements * 18;
            const within = index % block_elements;
            const pairs: @Vector(lanes, u8) = read([lanes]u8, block + 2 + within % 16);
            const shift: @Vector(lanes, u3) = @splat(if (within < 16) 0 else 4);
            const values: @Vector(lanes, i32) = (pairs >> shift) & @as(@Vector(lanes, u8), @splat(15));
            const centred = values - @as(@Vector(lanes, i32), @splat(8));
            return @as(Vec, @floatFromInt(centred)) * vector.splat(read(f16, block));
        },
    }
}

/// One element, for vectors shorter than `lanes`.
inline fn load_one(comptime element_type: Type, from: [*]const u8, index: usize) f32 {
    return switch (element_type) {
        .f32 => read(f32, from + index * 4),
        .f16 => read(f16, from + index * 2),
        .bf16 => @bitCast(@as(u32, read(u16, from + index * 2)) << 16),
        .q8_0, .q4_0 => unreachable,
    };
}

/// How many vectors cover `dim` elements.
pub fn vector_count(dim: usize) usize {
    return (dim + lanes - 1) / lanes;
}

/// How many vectors the loops over a type take at once: a whole block, whose scale is then read once.
pub inline fn vector_step(comptime element_type: Type) comptime_int {
    return if (is_quantised(element_type)) block_elements / lanes else 1;
}

/// Where the vector `i` of `dim` elements starts. The last one is moved back to end at the end: it overlaps the one
/// before rather than reading further. Needs `dim >= lanes`.
pub inline fn vector_start(i: usize, dim: usize) usize {
    return @min(i * lanes, dim - lanes);
}

/// Writes `dim` elements as floats.
pub inline fn unpack(comptime element_type: Type, from: [*]const u8, dim: usize, to: [*]f32) void {
    if (dim < lanes) {
        // Blocks are longer than any vector.
        assert(!is_quantised(element_type));
        for (to[0..dim], 0..) |*value, i| value.* = load_one(element_type, from, i);
        return;
    }
    const step = vector_step(element_type);
    for (0..vector_count(dim) / step) |i| inline for (0..step) |s| {
        const start = vector_start(i * step + s, dim);
        vector.store(to + start, load(element_type, from, start));
    };
}

fn bytes_of(comptime T: type, values: []const T) []const u8 {
    return @ptrCast(values);
}

test "elements of every type become floats" {
    const dim = 64;
    var floats: [dim]f32 = undefined;
    var halves: [dim]f16 = undefined;
    var brains: [dim]u16 = undefined;
    var bytes: [2 * 34]u8 = undefined;
    var nibbles: [2 * 18]u8 = undefined;
    const scales = [2]f16{ 0.5, -2 };
    for (scales, 0..) |scale, block| {
        bytes[block * 34 ..][0..2].* = @bitCast(scale);
        nibbles[block * 18 ..][0..2].* = @bitCast(scale);
        for (0..16) |i| nibbles[block * 18 + 2 + i] = @intCast(i | (15 - i) << 4);
    }
    for (0..dim) |i| {
        const signed = @as(i32, @intCast(i)) - 32;
        floats[i] = @as(f32, @floatFromInt(signed)) / 4;
        halves[i] = @floatCast(floats[i]);
        brains[i] = @truncate(@as(u32, @bitCast(floats[i])) >> 16);
        bytes[i / 32 * 34 + 2 + i % 32] = @bitCast(@as(i8, @intCast(3 * signed)));
    }
    var out: [dim]f32 = undefined;
    inline for (.{ .f32, .f16, .bf16 }, .{
        bytes_of(f32, &floats),
        bytes_of(f16, &halves),
        bytes_of(u16, &brains),
    }) |element_type, from| {
        for ([_]usize{ 1, 3, 8, 12, lanes, lanes + 1, 40, dim }) |count| {
            @memset(&out, -1000);
            unpack(element_type, from.ptr, count, &out);
            try std.testing.expectEqualSlices(f32, floats[0..count], out[0..count]);
            for (out[count..]) |untouched| try std.testing.expectEqual(-1000, untouched);
        }
    }
    unpack(.q8_0, &bytes, dim, &out);
    for (out, floats, 0..) |value, float, i| try std.testing.expectEqual(12 * float * scales[i / 32], value);
    unpack(.q4_0, &nibbles, dim, &out);
    for (out, 0..) |value, i| {
        const nibble: f32 = @floatFromInt(if (i % 32 < 16) i % 16 else 15 - i % 16);
        try std.testing.expectEqual((nibble - 8) * scales[i / 32], value);
    }
}
