//! Arithmetic on one row of logits: its greatest value, its softmax, the probability of one token.
//!
//! The vector width is fixed, not the CPU's own, and no product is fused: both decide how floats
//! round, and the same logits shall give the same sums on every CPU.

const std = @import("std");
const assert = std.debug.assert;
const inf = std.math.inf(f32);

pub const lanes = 16;
pub const Vec = @Vector(lanes, f32);
/// `mass` sums, and a draw searches, this many values at a time.
pub const block_length = 1024;

/// Sixteen values from `start`; beyond the end, -infinity, which weighs nothing.
pub inline fn load(values: []const f32, start: usize) Vec {
    if (start + lanes <= values.len) return values[start..][0..lanes].*;
    var padded: [lanes]f32 = @splat(-inf);
    @memcpy(padded[0 .. values.len - start], values[start..]);
    return padded;
}

pub const Peak = struct {
    max: f32,
    /// The lowest token that has it.
    token: u32,
    nan: bool,
};

/// One pass: the greatest value, where, and whether any is NaN.
pub fn peak(values: []const f32) Peak {
    var best: f32 = -inf;
    var best_start: usize = 0;
    var magnitude: @Vector(lanes, u32) = @splat(0);
    var start: usize = 0;
    while (start < values.len) : (start += block_length) {
        const block = values[start..@min(start + block_length, values.len)];
        var maxima: [4]Vec = @splat(@splat(-inf));
        var i: usize = 0;
        while (i < block.len) : (i += 4 * lanes) {
            inline for (&maxima, 0..) |*max, part| if (i + part * lanes < block.len) {
                const value = load(block, i + part * lanes);
                max.* = @select(f32, value > max.*, value, max.*);
                // Without its sign, a NaN's pattern is above infinity's.
                magnitude = @max(magnitude, @as(@Vector(lanes, u32), @bitCast(value)) << @splat(1));
            };
        }
        const block_best = @reduce(.Max, @max(@max(maxima[0], maxima[1]), @max(maxima[2], maxima[3])));
        if (block_best > best) {
            best = block_best;
            best_start = start;
        }
    }
    const offset = std.mem.findScalar(f32, values[best_start..], best) orelse 0;
    return .{
        .max = best,
        .token = @intCast(best_start + offset),
        .nan = @reduce(.Max, magnitude) > @as(u32, @bitCast(inf)) << 1,
    };
}

/// e^x for x <= 0, within 3e-7 of its value; 0 below -87, where float32 ends.
inline fn exponential(x: Vec) Vec {
    const lowest: Vec = @splat(-87);
    const clamped = @select(f32, x > lowest, x, lowest);
    // x = n ln 2 + r. Adding 1.5 x 2^23 rounds to the integer n and leaves it in the low bits.
    const magic: Vec = @splat(12582912);
    const shifted = clamped * @as(Vec, @splat(std.math.log2e)) + magic;
    const n = shifted - magic;
    // ln 2 in two parts, the first short enough that its product with n is exact.
    const r = (clamped - n * @as(Vec, @splat(0.693359375))) - n * @as(Vec, @splat(-2.12194440e-4));
    // The Taylor series to r^7 / 7!: |r| <= 0.35, so the rest is below 1e-8.
    var sum: Vec = @splat(1.0 / 5040.0);
    inline for (.{ 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0 }) |coefficient| {
        sum = sum * r + @as(Vec, @splat(coefficient));
    }
    const bits: @Vector(lanes, u32) = @bitCast(shifted);
    const power: Vec = @bitCast((bits << @splat(23)) +% @as(@Vector(lanes, u32), @splat(0x3f800000)));
    return @select(f32, x < lowest, @as(Vec, @splat(0)), sum * power);
}

/// e^((value - max) scale) of each.
pub fn exponentials(values: []const f32, max: f32, scale: f32, out: []f32) void {
    assert(values.len == out.len);
    var start: usize = 0;
    while (start < values.len) : (start += lanes) {
        const below = load(values, start) - @as(Vec, @splat(max));
        const weights: [lanes]f32 = exponential(below * @as(Vec, @splat(scale)));
        const n = @min(lanes, values.len - start);
        @memcpy(out[start..][0..n], weights[0..n]);
    }
}

/// The sum of e^((value - max) scale); `block_sums` gets each block's, or is empty when nobody
/// wants them.
pub fn mass(values: []const f32, max: f32, scale: f32, block_sums: []f64) f64 {
    var total: f64 = 0;
    var start: usize = 0;
    while (start < values.len) : (start += block_length) {
        const block = values[start..@min(start + block_length, values.len)];
        var sums: [2]Vec = @splat(@splat(0));
        var i: usize = 0;
        while (i < block.len) : (i += 2 * lanes) {
            inline for (&sums, 0..) |*sum, part| if (i + part * lanes < block.len) {
                const value = load(block, i + part * lanes);
                sum.* += exponential((value - @as(Vec, @splat(max))) * @as(Vec, @splat(scale)));
            };
        }
        const block_sum: f64 = @reduce(.Add, sums[0] + sums[1]);
        if (block_sums.len > 0) block_sums[start / block_length] = block_sum;
        total += block_sum;
    }
    return total;
}

pub fn log_probability(logits: []const f32, max: f32, token: u32) f32 {
    return @floatCast(@as(f64, logits[token]) - max - @log(mass(logits, max, 1, &.{})));
}

/// The candidate at which the running sum of weights exceeds `target`; past the end, the last that
/// weighs something.
pub fn pick(values: []const f32, max: f32, scale: f32, target: f64) usize {
    var buffer: [block_length]f32 = undefined;
    const weights = buffer[0..values.len];
    exponentials(values, max, scale, weights);
    var left = target;
    var last: usize = 0;
    for (weights, 0..) |weight, i| {
        if (weight == 0) continue;
        if (left < weight) return i;
        left -= weight;
        last = i;
    }
    assert(weights[last] > 0);
    return last;
}

const testing = std.testing;

test "the vector exponential is within 3e-7" {
    var x: f32 = 0;
    while (x > -87) : (x -= 0.0137) {
        const actual: f64 = exponential(@splat(x))[0];
        try testing.expectApproxEqRel(@exp(@as(f64, x)), actual, 3e-7);
    }
    for ([_]f32{ -87.5, -1e30, -inf }) |low| try testing.expectEqual(0, exponential(@splat(low))[5]);
}

test "a peak is the first greatest value, and NaN is seen in every place" {
    const size = 2 * block_length + 21;
    var values: [size]f32 = @splat(-3);
    for (0..size) |at| {
        values[at] = 2;
        values[size - 1] = 2;
        defer values[at] = -3;
        const found = peak(&values);
        try testing.expectEqual(Peak{ .max = 2, .token = @intCast(at), .nan = false }, found);
        values[at] = std.math.nan(f32);
        try testing.expect(peak(&values).nan);
        values[at] = -inf;
        try testing.expect(!peak(&values).nan);
    }
}

test "the mass of a row is the sum of its blocks and of its exponentials" {
    var prng: std.Random.Xoshiro256 = .init(8);
    var values: [3 * block_length + 5]f32 = undefined;
    for ([_]usize{ 1, 15, 16, 17, block_length, block_length + 1, values.len }) |size| {
        for (values[0..size]) |*value| value.* = prng.random().floatNorm(f32) * 4;
        const max = peak(values[0..size]).max;
        var sums: [4]f64 = @splat(0);
        const actual = mass(values[0..size], max, 0.5, &sums);
        var expected: f64 = 0;
        for (values[0..size]) |value| expected += @exp((@as(f64, value) - max) * 0.5);
        try testing.expectApproxEqRel(expected, actual, 1e-6);
        try testing.expectEqual(actual, sums[0] + sums[1] + sums[2] + sums[3]);
    }
}
