//! Vector helpers the kernels share: loads and stores, sums, and the functions `exp`, `silu`, `softplus`, `tanh`.
//!
//! Every function works lane by lane with the same operations whatever the width, so that a value does not depend on
//! the lane it was computed in. The kernels rely on this to give the same result for any number of threads.

const std = @import("std");
const builtin = @import("builtin");

/// Floats per vector: what the machine's registers hold, between 4 and 16.
pub const lanes: comptime_int = @min(16, @max(4, std.simd.suggestVectorLength(f32) orelse 4));
pub const Vec = @Vector(lanes, f32);

/// True where 32 vector registers exist, which decides how large a register block may be.
pub const many_registers = switch (builtin.cpu.arch) {
    .x86_64 => lanes == 16,
    .aarch64, .aarch64_be => true,
    else => false,
};

const has_fma = switch (builtin.cpu.arch) {
    .x86_64 => builtin.cpu.has(.x86, .fma),
    .aarch64, .aarch64_be => true,
    else => false,
};

/// `a * b + c`, fused where the machine can do that in one instruction (elsewhere it would be a library call).
pub inline fn fma(a: anytype, b: @TypeOf(a), c: @TypeOf(a)) @TypeOf(a) {
    return if (has_fma) @mulAdd(@TypeOf(a), a, b, c) else a * b + c;
}

pub inline fn splat(value: f32) Vec {
    return @splat(value);
}

pub inline fn load(from: [*]const f32) Vec {
    return from[0..lanes].*;
}

pub inline fn store(to: [*]f32, value: Vec) void {
    to[0..lanes].* = value;
}

/// The first `count` floats, the other lanes zero. For edges: it goes one by one, and never reads past the end.
pub fn load_part(from: [*]const f32, count: usize) Vec {
    std.debug.assert(count <= lanes);
    var buffer: [lanes]f32 = @splat(0);
    for (buffer[0..count], from[0..count]) |*to, value| to.* = value;
    return buffer;
}

pub fn store_part(to: [*]f32, value: Vec, count: usize) void {
    std.debug.assert(count <= lanes);
    const buffer: [lanes]f32 = value;
    for (to[0..count], buffer[0..count]) |*out, v| out.* = v;
}

/// The larger of each pair of lanes; the second where they cannot be compared.
pub inline fn max(a: anytype, b: @TypeOf(a)) @TypeOf(a) {
    return @select(f32, a > b, a, b);
}

const Operation = enum { add, max };

/// Combines the upper half of the lanes with the lower, unless `width` lanes are all there are.
inline fn fold_once(
    comptime operation: Operation,
    comptime width: comptime_int,
    v: anytype,
) @Vector(@max(width, @typeInfo(@TypeOf(v)).vector.len / 2), f32) {
    const half = @typeInfo(@TypeOf(v)).vector.len / 2;
    if (half < width) return v;
    const indices = comptime std.simd.iota(i32, half);
    const low = @shuffle(f32, v, undefined, indices);
    const high = @shuffle(f32, v, undefined, indices + @as(@Vector(half, i32), @splat(half)));
    return switch (operation) {
        .add => low + high,
        .max => max(low, high),
    };
}

/// Folds a vector of up to 16 lanes to `width` lanes, as a tree.
inline fn fold(
    comptime operation: Operation,
    comptime width: comptime_int,
    v: anytype,
) @Vector(width, f32) {
    const once = fold_once(operation, width, v);
    const twice = fold_once(operation, width, once);
    const thrice = fold_once(operation, width, twice);
    return fold_once(operation, width, thrice);
}

/// In the order of ggml's reductions (see `sum_four`).
pub inline fn sum(v: anytype) f32 {
    if (@typeInfo(@TypeOf(v)).vector.len == 16) return fold(.add, 1, v)[0];
    const four: [4]f32 = fold(.add, 4, v);
    return (four[0] + four[1]) + (four[2] + four[3]);
}

pub inline fn max_lane(v: anytype) f32 {
    return fold(.max, 1, v)[0];
}

/// The sums of four vectors at once, each in the order of ggml's reductions: halves are added until four lanes are left,
/// and those as (0 + 2) + (1 + 3) where registers hold 16 floats, else as (0 + 1) + (2 + 3).
pub inline fn sum_four(v: [4]Vec) @Vector(4, f32) {
    const first: [4]i32 = if (lanes == 16) .{ 0, 1, ~@as(i32, 0), ~@as(i32, 1) } else .{ 0, 2, ~@as(i32, 0), ~@as(i32, 2) };
    const second: [4]i32 = if (lanes == 16) .{ 2, 3, ~@as(i32, 2), ~@as(i32, 3) } else .{ 1, 3, ~@as(i32, 1), ~@as(i32, 3) };
    const even: [4]i32 = .{ 0, 2, ~@as(i32, 0), ~@as(i32, 2) };
    const odd: [4]i32 = .{ 1, 3, ~@as(i32, 1), ~@as(i32, 3) };
    var four: [4]@Vector(4, f32) = undefined;
    inline for (&four, v) |*to, from| to.* = fold(.add, 4, from);
    const ab = @shuffle(f32, four[0], four[1], first) + @shuffle(f32, four[0], four[1], second);
    const cd = @shuffle(f32, four[2], four[3], first) + @shuffle(f32, four[2], four[3], second);
    return @shuffle(f32, ab, cd, even) + @shuffle(f32, ab, cd, odd);
}

inline fn constant(comptime V: type, comptime value: f32) V {
    return @splat(value);
}

/// Whether the machine multiplies by powers of two in one instruction, which changes how the polynomial ends.
const scales_by_powers = builtin.cpu.arch == .x86_64 and builtin.cpu.has(.x86, .avx512dq);

/// e to the power of every lane, to 2.5 ulp, with the polynomial that ggml uses, so that sums of such powers agree with
/// ggml's. Results below the smallest normal float are 0; NaN stays NaN.
/// Source: ARM optimized routines, `expf` for vectors; the coefficients are from there.
pub inline fn exp(x: anytype) @TypeOf(x) {
    return exp_ending(scales_by_powers, x);
}

/// `exp` with either end of the polynomial, so that tests reach both on any machine.
inline fn exp_ending(comptime adds_one_first: bool, x: anytype) @TypeOf(x) {
    const V = @TypeOf(x);
    const Bits = @Vector(@typeInfo(V).vector.len, u32);
    // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
    const rounder = constant(V, 0x1.8p23);
    const rounded = fma(x, constant(V, 0x1.715476p+0), rounder);
    const n = rounded - rounder;
    const r = fma(-n, constant(V, 0x1.7f7d1cp-20), fma(-n, constant(V, 0x1.62e4p-1), x));
    const square = r * r;
    const high = fma(constant(V, 0x1.0e4020p-7), r, constant(V, 0x1.573e2ep-5));
    const low = fma(constant(V, 0x1.555e66p-3), r, constant(V, 0x1.fffdb6p-2));
    const middle = fma(high, square, low);
    const exponent = @as(Bits, @bitCast(rounded)) << @splat(23);
    const p = if (adds_one_first)
        fma(middle, square, fma(constant(V, 0x1.ffffecp-1), r, constant(V, 1)))
    else
        fma(middle, square, constant(V, 0x1.ffffecp-1) * r) + constant(V, 1);
    // Where the power itself would be infinite, 2^128, p is below 1 and the sum of the exponents still fits.
    const scaled: V = @bitCast(@as(Bits, @bitCast(p)) +% exponent);
    const small = @select(f32, x < constant(V, -87.33654), constant(V, 0), scaled);
    // Also taken by NaN, which compares false: NaN plus infinity is NaN.
    return @select(f32, x <= constant(V, 88.72283), small, x + constant(V, std.math.inf(f32)));
}

pub inline fn silu(x: anytype) @TypeOf(x) {
    return x / (constant(@TypeOf(x), 1) + exp(-x));
}

/// log(1 + e^x), accurate for very negative x too, where it is nearly e^x.
pub inline fn softplus(x: anytype) @TypeOf(x) {
    const V = @TypeOf(x);
    const e = exp(-@abs(x));
    // log(1 + e) = 2 atanh(s) with s = e / (2 + e) at most 1/3, where the series in s^2 converges fast.
    const s = e / (constant(V, 2) + e);
    const z = s * s;
    var p = constant(V, 2.0 / 17.0);
    inline for (.{ 15, 13, 11, 9, 7, 5, 3 }) |odd| p = fma(p, z, constant(V, 2.0 / @as(f32, odd)));
    const log = fma(p * z, s, s + s);
    // The comparison is false for NaN, whose logarithm is NaN already.
    return @select(f32, x > constant(V, 0), x, constant(V, 0)) + log;
}

pub inline fn tanh(x: anytype) @TypeOf(x) {
    const V = @TypeOf(x);
    const one = constant(V, 1);
    const z = x * x;
    var p = constant(V, -5.70498872745e-3);
    p = fma(p, z, constant(V, 2.06390887954e-2));
    p = fma(p, z, constant(V, -5.37397155531e-2));
    p = fma(p, z, constant(V, 1.33314422036e-1));
    p = fma(p, z, constant(V, -3.33332819422e-1));
    const near_zero = fma(p * z, x, x);
    const far = one - constant(V, 2) / (exp(x + x) + one);
    return @select(f32, @abs(x) < constant(V, 0.625), near_zero, far);
}

/// The part `[begin, end)` of `count` things that thread `ith` of `nth` takes.
pub fn share(count: usize, ith: usize, nth: usize) [2]usize {
    std.debug.assert(ith < nth);
    return .{ count * ith / nth, count * (ith + 1) / nth };
}

/// The largest error of `function` against `exact` over [low, high], in units in the last place; infinite where it gives
/// NaN.
fn worst_ulp(comptime function: anytype, exact: *const fn (f64) f64, low: f64, high: f64) f64 {
    const steps = 40_000;
    var worst: f64 = 0;
    var step: usize = 0;
    while (step < steps) : (step += lanes) {
        var input: [lanes]f32 = undefined;
        for (&input, step..) |*value, i| {
            value.* = @floatCast(low + (high - low) * @as(f64, @floatFromInt(i)) / steps);
        }
        const output: [lanes]f32 = function(@as(Vec, input));
        for (input, output) |x, y| {
            const expected = exact(x);
            const as_float: f32 = @floatCast(expected);
            const next = std.math.nextAfter(f32, @abs(as_float), std.math.inf(f32));
            const unit = @as(f64, next) - @abs(@as(f64, as_float));
            worst = if (std.math.isNan(y)) std.math.inf(f64) else @max(worst, @abs(y - expected) / unit);
        }
    }
    return worst;
}

const exact_functions = struct {
    fn exp(x: f64) f64 {
        return @exp(x);
    }
    fn softplus(x: f64) f64 {
        return @max(x, 0) + std.math.log1p(@exp(-@abs(x)));
    }
    fn silu(x: f64) f64 {
        return x / (1 + @exp(-x));
    }
    fn tanh(x: f64) f64 {
        return std.math.tanh(x);
    }
};

test "the functions are accurate to a few units in the last place" {
    try std.testing.expect(worst_ulp(softplus, exact_functions.softplus, -80, 80) < 4);
    try std.testing.expect(worst_ulp(silu, exact_functions.silu, -80, 80) < 4);
    try std.testing.expect(worst_ulp(tanh, exact_functions.tanh, -60, 60) < 4);
    try std.testing.expect(worst_ulp(tanh, exact_functions.tanh, -0.7, 0.7) < 4);
}

test "both ends of the exponential's polynomial reach from the smallest to the largest float" {
    inline for (.{ false, true }) |adds_one_first| {
        const ending = struct {
            fn exp(x: Vec) Vec {
                return exp_ending(adds_one_first, x);
            }
        };
        try std.testing.expect(worst_ulp(ending.exp, exact_functions.exp, -87.33654, 88.72283) < 2.5);
        try std.testing.expect(worst_ulp(ending.exp, exact_functions.exp, 88.37, 88.72283) < 2.5);
        try std.testing.expect(worst_ulp(ending.exp, exact_functions.exp, -1, 1) < 2.5);
        const largest: [lanes]f32 = ending.exp(splat(88.72283));
        try std.testing.expect(std.math.isFinite(largest[0]));
    }
}

test "functions of the exponential stay finite where it ends" {
    var x: f32 = -100;
    while (x <= 100) : (x += 0.01) {
        const wide: f64 = x;
        const activated: [lanes]f32 = silu(splat(x));
        // Below -88.7 the exponential is infinite, and the result 0 instead of some 1e-37.
        try expect_near(exact_functions.silu(wide), activated[0]);
        const bent: [lanes]f32 = tanh(splat(0.6 * x));
        try expect_near(exact_functions.tanh(@as(f32, 0.6 * x)), bent[0]);
    }
}

/// False for NaN.
fn expect_near(expected: f64, actual: f32) !void {
    errdefer std.debug.print("{d} is not {d}\n", .{ actual, expected });
    try std.testing.expect(@abs(actual - expected) <= 1e-6 * @abs(expected) + 1e-36);
}

test "the ends of the functions" {
    const inf = std.math.inf(f32);
    const One = @Vector(1, f32);
    try std.testing.expectEqual(@as(One, .{0}), exp(One{-inf}));
    try std.testing.expectEqual(@as(One, .{0}), exp(One{-1e30}));
    try std.testing.expectEqual(@as(One, .{0}), exp(One{-88}));
    try std.testing.expectEqual(@as(One, .{1}), exp(One{0}));
    try std.testing.expectEqual(@as(One, .{inf}), exp(One{89}));
    try std.testing.expectEqual(@as(One, .{inf}), exp(One{inf}));
    // A NaN of any payload, as in a buffer filled with ones.
    for ([_]u32{ 0x7FC00000, 0xFFFFFFFF, 0x7FC00001 }) |bits| {
        const nan: One = @bitCast(@as(@Vector(1, u32), .{bits}));
        inline for (.{ exp, softplus, silu, tanh }) |function| {
            try std.testing.expect(std.math.isNan(function(nan)[0]));
        }
    }
    try std.testing.expectEqual(@as(One, .{inf}), softplus(One{inf}));
    try std.testing.expectEqual(@as(One, .{0}), softplus(One{-inf}));
    try std.testing.expectEqual(@as(One, .{1}), tanh(One{inf}));
    try std.testing.expectEqual(@as(One, .{-1}), tanh(One{-inf}));
}

test "sums, parts and shares" {
    var values: [4][lanes]f32 = undefined;
    for (&values, 0..) |*row, r| for (row, 0..) |*value, i| {
        value.* = @floatFromInt(r * 100 + i);
    };
    const sums: [4]f32 = sum_four(.{ values[0], values[1], values[2], values[3] });
    for (values, sums) |row, total| {
        var expected: f32 = 0;
        for (row) |value| expected += value;
        try std.testing.expectEqual(expected, total);
        try std.testing.expectEqual(expected, sum(@as(Vec, row)));
        try std.testing.expectEqual(row[lanes - 1], max_lane(@as(Vec, row)));
    }
    const part: [lanes]f32 = load_part(&values[1], 3);
    for (part, 0..) |value, i| try std.testing.expectEqual(if (i < 3) values[1][i] else 0, value);
    store_part(&values[0], splat(-1), 2);
    try std.testing.expectEqual(-1, values[0][1]);
    try std.testing.expectEqual(2, values[0][2]);
    var next: usize = 0;
    for (0..5) |ith| {
        const range = share(13, ith, 5);
        try std.testing.expectEqual(next, range[0]);
        next = range[1];
    }
    try std.testing.expectEqual(13, next);
}
