//! Checked operations that work element by element or row by row: arithmetic, activations, norms, sums, softmax, rope.

const std = @import("std");
const c = @import("ggml");
const status = @import("status.zig");
const checks = @import("op_checks.zig");

const Context = c.ggml_context;
const Tensor = checks.Tensor;
const Operand = checks.Operand;
const Error = status.Error;

/// Element-wise functions without a parameter, by ggml's numbers.
pub const Unary = enum(i32) {
    abs = c.GGML_UNARY_OP_ABS,
    sgn = c.GGML_UNARY_OP_SGN,
    neg = c.GGML_UNARY_OP_NEG,
    step = c.GGML_UNARY_OP_STEP,
    tanh = c.GGML_UNARY_OP_TANH,
    elu = c.GGML_UNARY_OP_ELU,
    relu = c.GGML_UNARY_OP_RELU,
    sigmoid = c.GGML_UNARY_OP_SIGMOID,
    gelu = c.GGML_UNARY_OP_GELU,
    gelu_quick = c.GGML_UNARY_OP_GELU_QUICK,
    silu = c.GGML_UNARY_OP_SILU,
    hardswish = c.GGML_UNARY_OP_HARDSWISH,
    hardsigmoid = c.GGML_UNARY_OP_HARDSIGMOID,
    exp = c.GGML_UNARY_OP_EXP,
    expm1 = c.GGML_UNARY_OP_EXPM1,
    softplus = c.GGML_UNARY_OP_SOFTPLUS,
    gelu_erf = c.GGML_UNARY_OP_GELU_ERF,
    floor = c.GGML_UNARY_OP_FLOOR,
    ceil = c.GGML_UNARY_OP_CEIL,
    round = c.GGML_UNARY_OP_ROUND,
    trunc = c.GGML_UNARY_OP_TRUNC,
};

/// Gated activations: the first half is activated, the second multiplies it.
pub const Glu = enum(i32) {
    reglu = c.GGML_GLU_OP_REGLU,
    geglu = c.GGML_GLU_OP_GEGLU,
    swiglu = c.GGML_GLU_OP_SWIGLU,
    geglu_erf = c.GGML_GLU_OP_GEGLU_ERF,
    geglu_quick = c.GGML_GLU_OP_GEGLU_QUICK,
};

/// Which pairs rope turns: neighbours, or the two halves of a head.
pub const RopeMode = enum(i32) { normal = 0, neox = c.GGML_ROPE_TYPE_NEOX };

/// Which part of a square matrix stays.
pub const Triangle = enum(i32) { upper_diag = 0, upper = 1, lower_diag = 2, lower = 3 };

pub const SortOrder = enum(i32) { asc = c.GGML_SORT_ORDER_ASC, desc = c.GGML_SORT_ORDER_DESC };

/// More steps than a float can count are not steps.
const arange_steps_max = 1 << 24;

/// b is repeated to the shape of a. The pairs of types are those that ggml has a loop for.
fn check_binary(op: []const u8, a: *Tensor, b: *Tensor) Error!void {
    const left: Operand = try .init(op, "a", a);
    const right: Operand = try .init(op, "b", b);
    try left.of_type(&.{ .f32, .f16, .bf16 });
    try left.unit_rows();
    if (right.t.type != left.t.type and !right.is(.f32)) {
        return right.refuse("must be f32 or of the type of {f}", .{left});
    }
    try checks.fills_all(right, left);
}

/// a may also be quantised: it is decoded, b (of the same shape) is added, and the sum is encoded again.
pub fn add(ctx: *Context, a: *Tensor, b: *Tensor) Error!*Tensor {
    if (c.ggml_is_quantized(a.type)) try check_add_quantized(a, b) else try check_binary("add", a, b);
    return c.ggml_add(ctx, a, b);
}

fn check_add_quantized(a: *Tensor, b: *Tensor) Error!void {
    const left: Operand = try .init("add", "a", a);
    const right: Operand = try .init("add", "b", b);
    try left.unit_rows();
    if (!checks.can_decode(a) or !checks.can_encode(a.type)) {
        return left.refuse("is of a type that a sum cannot be stored in", .{});
    }
    try right.of_type(&.{.f32});
    try right.unit_rows();
    try checks.equal_shapes(left, right);
}

pub fn sub(ctx: *Context, a: *Tensor, b: *Tensor) Error!*Tensor {
    try check_binary("sub", a, b);
    return c.ggml_sub(ctx, a, b);
}

pub fn mul(ctx: *Context, a: *Tensor, b: *Tensor) Error!*Tensor {
    try check_binary("mul", a, b);
    return c.ggml_mul(ctx, a, b);
}

pub fn div(ctx: *Context, a: *Tensor, b: *Tensor) Error!*Tensor {
    try check_binary("div", a, b);
    return c.ggml_div(ctx, a, b);
}

fn check_scale(op: []const u8, a: *Tensor) Error!void {
    const operand: Operand = try .init(op, "a", a);
    try operand.of_type(&.{.f32});
    try operand.natural();
}

pub fn scale(ctx: *Context, a: *Tensor, factor: f32) Error!*Tensor {
    try check_scale("scale", a);
    return c.ggml_scale(ctx, a, factor);
}

pub fn scale_bias(ctx: *Context, a: *Tensor, factor: f32, bias: f32) Error!*Tensor {
    try check_scale("scale_bias", a);
    return c.ggml_scale_bias(ctx, a, factor, bias);
}

fn check_unary(op: []const u8, a: *Tensor) Error!void {
    const operand: Operand = try .init(op, "a", a);
    try operand.of_type(&.{ .f32, .f16, .bf16 });
    try operand.unit_rows();
}

pub fn sqr(ctx: *Context, a: *Tensor) Error!*Tensor {
    try check_unary("sqr", a);
    return c.ggml_sqr(ctx, a);
}

pub fn sqrt(ctx: *Context, a: *Tensor) Error!*Tensor {
    try check_unary("sqrt", a);
    return c.ggml_sqrt(ctx, a);
}

pub fn log(ctx: *Context, a: *Tensor) Error!*Tensor {
    try check_unary("log", a);
    return c.ggml_log(ctx, a);
}

pub fn sin(ctx: *Context, a: *Tensor) Error!*Tensor {
    try check_unary("sin", a);
    return c.ggml_sin(ctx, a);
}

pub fn cos(ctx: *Context, a: *Tensor) Error!*Tensor {
    try check_unary("cos", a);
    return c.ggml_cos(ctx, a);
}

pub fn unary(ctx: *Context, a: *Tensor, op: Unary) Error!*Tensor {
    try check_unary("unary", a);
    switch (op) {
        // These have loops of their own, and none for bf16.
        .gelu, .gelu_erf, .gelu_quick, .silu => try (try Operand.init("unary", "a", a)).of_type(&.{ .f32, .f16 }),
        else => {},
    }
    return c.ggml_unary(ctx, a, @intCast(@backingInt(op)));
}

/// NaN becomes `max`.
pub fn clamp(ctx: *Context, a: *Tensor, min: f32, max: f32) Error!*Tensor {
    const operand: Operand = try .init("clamp", "a", a);
    try operand.of_type(&.{ .f32, .f16 });
    try operand.even_rows();
    return c.ggml_clamp(ctx, a, min, max);
}

fn check_glu(op: []const u8, name: []const u8, t: *Tensor) Error!Operand {
    const operand: Operand = try .init(op, name, t);
    try operand.of_type(&.{ .f32, .f16 });
    try operand.even_rows();
    return operand;
}

/// The two halves of a row; the result has half the first dimension.
pub fn glu(ctx: *Context, a: *Tensor, op: Glu, swapped: bool) Error!*Tensor {
    const operand = try check_glu("glu", "a", a);
    if (@rem(a.ne[0], 2) != 0) return operand.refuse("must have an even first dimension, to be halved", .{});
    return c.ggml_glu(ctx, a, @intCast(@backingInt(op)), swapped);
}

pub fn glu_split(ctx: *Context, a: *Tensor, b: *Tensor, op: Glu) Error!*Tensor {
    const left = try check_glu("glu_split", "a", a);
    const right = try check_glu("glu_split", "b", b);
    try checks.equal_shapes(left, right);
    if (a.type != b.type) return right.refuse("must be of the type of {f}", .{left});
    return c.ggml_glu_split(ctx, a, b, @intCast(@backingInt(op)));
}

fn check_f32(op: []const u8, a: *Tensor) Error!Operand {
    const operand: Operand = try .init(op, "a", a);
    try operand.of_type(&.{.f32});
    return operand;
}

fn check_f32_rows(op: []const u8, a: *Tensor) Error!void {
    const operand = try check_f32(op, a);
    try operand.unit_rows();
}

pub fn norm(ctx: *Context, a: *Tensor, eps: f32) Error!*Tensor {
    _ = try check_f32("norm", a);
    try checks.check_epsilon("norm", eps);
    return c.ggml_norm(ctx, a, eps);
}

pub fn rms_norm(ctx: *Context, a: *Tensor, eps: f32) Error!*Tensor {
    try check_f32_rows("rms_norm", a);
    try checks.check_epsilon("rms_norm", eps);
    return c.ggml_rms_norm(ctx, a, eps);
}

pub fn l2_norm(ctx: *Context, a: *Tensor, eps: f32) Error!*Tensor {
    _ = try check_f32("l2_norm", a);
    try checks.check_epsilon("l2_norm", eps);
    return c.ggml_l2_norm(ctx, a, eps);
}

/// Groups are made along the third dimension.
pub fn group_norm(ctx: *Context, a: *Tensor, groups: i32, eps: f32) Error!*Tensor {
    try check_f32_rows("group_norm", a);
    try checks.at_least("group_norm", "groups", groups, 1);
    try checks.at_most("group_norm", "groups", groups, a.ne[2]);
    try checks.check_epsilon("group_norm", eps);
    return c.ggml_group_norm(ctx, a, groups, eps);
}

pub fn sum(ctx: *Context, a: *Tensor) Error!*Tensor {
    try check_unary("sum", a);
    return c.ggml_sum(ctx, a);
}

pub fn sum_rows(ctx: *Context, a: *Tensor) Error!*Tensor {
    try check_f32_rows("sum_rows", a);
    return c.ggml_sum_rows(ctx, a);
}

pub fn mean(ctx: *Context, a: *Tensor) Error!*Tensor {
    try check_f32_rows("mean", a);
    return c.ggml_mean(ctx, a);
}

pub fn cumsum(ctx: *Context, a: *Tensor) Error!*Tensor {
    try check_f32_rows("cumsum", a);
    return c.ggml_cumsum(ctx, a);
}

/// The mask is added to a row after scaling; `max_bias` above zero turns it into ALiBi's slopes.
pub fn soft_max_ext(ctx: *Context, a: *Tensor, mask: ?*Tensor, factor: f32, max_bias: f32) Error!*Tensor {
    const operand = try check_f32("soft_max_ext", a);
    try operand.contiguous();
    if (mask) |t| {
        const bias: Operand = try .init("soft_max_ext", "mask", t);
        try bias.of_type(&.{ .f16, .f32 });
        try bias.contiguous();
        try checks.equal_dims(bias, 0, operand, 0);
        if (t.ne[1] < a.ne[1]) return bias.refuse("must have at least the rows of {f}", .{operand});
        try checks.fills(bias, 2, operand, 2);
        try checks.fills(bias, 3, operand, 3);
    } else if (max_bias > 0) {
        return operand.refuse("needs a mask where max_bias ({d}) is above zero", .{max_bias});
    }
    return c.ggml_soft_max_ext(ctx, a, mask, factor, max_bias);
}

/// a is [head, heads, tokens], positions are one whole number for each token.
pub fn rope_ext(
    ctx: *Context,
    a: *Tensor,
    positions: *Tensor,
    factors: ?*Tensor,
    n_dims: i32,
    mode: RopeMode,
    n_ctx_orig: i32,
    freq_base: f32,
    freq_scale: f32,
    ext_factor: f32,
    attn_factor: f32,
    beta_fast: f32,
    beta_slow: f32,
) Error!*Tensor {
    const op = "rope_ext";
    const operand: Operand = try .init(op, "a", a);
    try operand.of_type(&.{ .f32, .f16 });
    try operand.unit_rows();
    if (@rem(a.ne[0], 2) != 0) return operand.refuse("must have an even first dimension, to be turned in pairs", .{});
    try checks.at_least(op, "n_dims", n_dims, 2);
    try checks.at_most(op, "n_dims", n_dims, a.ne[0]);
    if (@rem(n_dims, 2) != 0) return operand.refuse("is turned in pairs, so that n_dims ({d}) must be even", .{n_dims});

    const index: Operand = try .init(op, "positions", positions);
    try index.of_type(&.{.i32});
    try index.natural();
    try index.has_shape(.{ a.ne[2], 1, 1, 1 });
    if (factors) |t| {
        const divisors: Operand = try .init(op, "factors", t);
        try divisors.of_type(&.{.f32});
        try divisors.unit_rows();
        // ggml reads one for each pair of the head, the pairs beyond n_dims included.
        if (t.ne[0] < @divExact(a.ne[0], 2)) {
            return divisors.refuse("must have a value for each pair of {f}", .{operand});
        }
    }
    return c.ggml_rope_ext(ctx, a, positions, factors, n_dims, @backingInt(mode), n_ctx_orig, freq_base, //
        freq_scale, ext_factor, attn_factor, beta_fast, beta_slow);
}

/// NaN would lead ggml's sort out of its bounds, so that it takes the place of the largest number.
fn sortable(ctx: *Context, op: []const u8, a: *Tensor) Error!*Tensor {
    const operand = try check_f32(op, a);
    try operand.even_rows();
    return c.ggml_clamp(ctx, a, -std.math.inf(f32), std.math.inf(f32));
}

pub fn argsort(ctx: *Context, a: *Tensor, order: SortOrder) Error!*Tensor {
    return c.ggml_argsort(ctx, try sortable(ctx, "argsort", a), @intCast(@backingInt(order)));
}

fn check_top(op: []const u8, a: *Tensor, k: i32) Error!void {
    try checks.at_least(op, "k", k, 1);
    try checks.at_most(op, "k", k, a.ne[0]);
}

/// The positions of the k largest elements of each row, the largest first.
pub fn argsort_top_k(ctx: *Context, a: *Tensor, k: i32) Error!*Tensor {
    try check_top("argsort_top_k", a, k);
    return c.ggml_argsort_top_k(ctx, try sortable(ctx, "argsort_top_k", a), k);
}

/// The positions of the k largest elements of each row, in no particular order.
pub fn top_k(ctx: *Context, a: *Tensor, k: i32) Error!*Tensor {
    try check_top("top_k", a, k);
    return c.ggml_top_k(ctx, try sortable(ctx, "top_k", a), k);
}

/// start, start + step, ... below stop.
pub fn arange(ctx: *Context, start: f32, stop: f32, step: f32) Error!*Tensor {
    const steps = @ceil((stop - start) / step);
    if (!(stop > start and step > 0 and steps >= 1 and steps <= arange_steps_max)) {
        return status.fail(
            error.InvalidArgument,
            "arange: from {d} to below {d} by {d} must be at least 1 and at most {d} steps",
            .{ start, stop, step, arange_steps_max },
        );
    }
    return c.ggml_arange(ctx, start, stop, step);
}

/// Element (i, j) becomes minus infinity where i > past + j.
pub fn diag_mask_inf(ctx: *Context, a: *Tensor, past: i32) Error!*Tensor {
    const operand = try check_f32("diag_mask_inf", a);
    try operand.unit_rows();
    try operand.contiguous();
    try checks.at_least("diag_mask_inf", "past", past, 0);
    return c.ggml_diag_mask_inf(ctx, a, past);
}

pub fn tri(ctx: *Context, a: *Tensor, kept: Triangle) Error!*Tensor {
    const operand = try check_f32("tri", a);
    try operand.contiguous();
    try checks.equal_dims(operand, 0, operand, 1);
    return c.ggml_tri(ctx, a, @intCast(@backingInt(kept)));
}

/// A tensor of the shape of a, filled with one value.
pub fn fill(ctx: *Context, a: *Tensor, value: f32) Error!*Tensor {
    const operand: Operand = try .init("fill", "a", a);
    try operand.of_type(&.{ .f32, .f16 });
    try operand.contiguous();
    return c.ggml_fill(ctx, a, value);
}
