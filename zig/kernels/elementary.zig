//! Elementary functions of single numbers, to the bit as llama.cpp has them on Linux: glibc's.

const std = @import("std");

const steps = 32;

/// 2 to the power of i / 32, for every i.
const table: [steps]f64 = powers: {
    @setEvalBranchQuota(100_000);
    var step: f128 = 2;
    for (0..5) |_| step = @sqrt(step);
    var list: [steps]f64 = undefined;
    var power: f128 = 1;
    for (&list) |*value| {
        value.* = @floatCast(power);
        power *= step;
    }
    break :powers list;
};

/// e to the power of `x`, as glibc's `expf`: x * 32 / ln 2 is split into a whole
/// number, whose power of two is looked up, and a rest, for which a cubic does.
/// Source: S. Nagy, ARM optimized routines, `expf`; the coefficients are from there.
pub fn exp(x: f32) f32 {
    // Below, glibc underflows by and by; in no sum does that make a difference.
    if (x < -87) return 0;
    if (x > 88.7) return if (x > 88.72283) std.math.inf(f32) else @floatCast(@exp(@as(f64, x)));
    const rounder = 0x1.8p52;
    const scaled = @as(f64, x) * (steps * std.math.log2e);
    const shifted = scaled + rounder;
    const r = scaled - (shifted - rounder);
    const n: i64 = @as(i32, @truncate(@as(i64, @bitCast(shifted))));
    const power: i64 = @bitCast(table[@intCast(n & (steps - 1))]);
    const s: f64 = @bitCast(power +% (n >> 5 << 52));
    const c3 = 0x1.c6af84b912394p-5 / @as(f64, steps * steps * steps);
    const c2 = 0x1.ebfce50fac4f3p-3 / @as(f64, steps * steps);
    const c1 = 0x1.62e42ff0c52d6p-1 / @as(f64, steps);
    return @floatCast(((c3 * r + c2) * (r * r) + (c1 * r + 1)) * s);
}

/// The system's (see ggml/libm.zig).
extern fn strata_logf(x: f32) f32;

/// log(1 + e^x), as ggml's scan has it.
pub fn softplus(x: f32) f32 {
    return if (x > 20) x else strata_logf(1 + exp(x));
}

test "the exponential is correctly rounded nearly always" {
    var wrong: usize = 0;
    const count = 100_000;
    for (0..count) |i| {
        const x: f32 = -80 * @as(f32, @floatFromInt(i)) / count;
        const exact: f32 = @floatCast(@exp(@as(f64, x)));
        if (exp(x) != exact) wrong += 1;
    }
    try std.testing.expect(wrong < count / 100);
    try std.testing.expectEqual(1, exp(0));
    try std.testing.expectEqual(0, exp(-std.math.inf(f32)));
    try std.testing.expect(std.math.isNan(exp(std.math.nan(f32))));
}
