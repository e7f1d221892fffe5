//! Checked operations that move, select or look at elements: views, copies, rows, concatenation.

const std = @import("std");
const c = @import("ggml");
const status = @import("status.zig");
const checks = @import("op_checks.zig");

const Context = c.ggml_context;
const Tensor = checks.Tensor;
const Operand = checks.Operand;
const Type = checks.Type;
const Error = status.Error;

pub fn repeat(ctx: *Context, a: *Tensor, like: *Tensor) Error!*Tensor {
    try check_repeat("repeat", a, like.ne);
    return c.ggml_repeat(ctx, a, like);
}

pub fn repeat_4d(ctx: *Context, a: *Tensor, n0: i32, n1: i32, n2: i32, n3: i32) Error!*Tensor {
    try check_repeat("repeat_4d", a, .{ n0, n1, n2, n3 });
    return c.ggml_repeat_4d(ctx, a, n0, n1, n2, n3);
}

fn check_repeat(op: []const u8, a: *Tensor, shape: [4]i64) Error!void {
    const operand: Operand = try .init(op, "a", a);
    try operand.of_type(&.{ .f32, .f16, .bf16, .i16, .i32 });
    try operand.unit_rows();
    try checks.result_shape(op, shape);
    for (a.ne, shape) |from, to| {
        if (@rem(to, from) != 0) return operand.refuse("cannot be repeated to [{d}, {d}, {d}, {d}]", .{
            shape[0], shape[1], shape[2], shape[3],
        });
    }
}

pub fn concat(ctx: *Context, a: *Tensor, b: *Tensor, dim: i32) Error!*Tensor {
    const op = "concat";
    const left: Operand = try .init(op, "a", a);
    const right: Operand = try .init(op, "b", b);
    if (a.type != b.type) return right.refuse("must be of the type of {f}", .{left});
    try checks.at_least(op, "dim", dim, 0);
    try checks.at_most(op, "dim", dim, 3);
    var shape = a.ne;
    for (0..4) |i| {
        if (i == dim) shape[i] += b.ne[i] else try checks.equal_dims(left, i, right, i);
    }
    try checks.result_shape(op, shape);
    switch (Type.of(a)) {
        .f32, .f16, .bf16, .i8, .i16, .i32 => {},
        // The others are copied by whole rows.
        else => {
            try left.unit_rows();
            try right.unit_rows();
        },
    }
    return c.ggml_concat(ctx, a, b, dim);
}

/// Zeros are appended to each dimension.
pub fn pad(ctx: *Context, a: *Tensor, p0: i32, p1: i32, p2: i32, p3: i32) Error!*Tensor {
    const operand: Operand = try .init("pad", "a", a);
    try operand.of_type(&.{.f32});
    var shape = a.ne;
    for ([_]i64{ p0, p1, p2, p3 }, &shape) |extra, *n| {
        try checks.at_least("pad", "the padding", extra, 0);
        n.* += extra;
    }
    try checks.result_shape("pad", shape);
    return c.ggml_pad(ctx, a, p0, p1, p2, p3);
}

/// Each dimension is rotated; a shift is smaller than its dimension.
pub fn roll(ctx: *Context, a: *Tensor, s0: i32, s1: i32, s2: i32, s3: i32) Error!*Tensor {
    const operand: Operand = try .init("roll", "a", a);
    try operand.of_type(&.{.f32});
    try operand.unit_rows();
    for ([_]i64{ s0, s1, s2, s3 }, a.ne) |shift, n| {
        if (@abs(shift) >= n) {
            return operand.refuse("has a dimension of {d}, too small for a shift by {d}", .{ n, shift });
        }
    }
    return c.ggml_roll(ctx, a, s0, s1, s2, s3);
}

/// Rows of a, by the whole numbers in b: the result is [a.ne0, b.ne0, b.ne1, b.ne2], f32 (i32 where a is).
pub fn get_rows(ctx: *Context, a: *Tensor, b: *Tensor) Error!*Tensor {
    const op = "get_rows";
    const table: Operand = try .large(op, "a", a);
    const indices: Operand = try .init(op, "b", b);
    if (!table.is(.i32) and !checks.can_decode(a)) {
        return table.refuse("is of a type that ggml cannot decode", .{});
    }
    try table.unit_rows();
    try indices.of_type(&.{.i32});
    try checks.equal_dims(table, 2, indices, 1);
    try checks.equal_dims(table, 3, indices, 2);
    if (b.ne[3] != 1) return indices.refuse("must have at most three dimensions", .{});
    try checks.result_shape(op, .{ a.ne[0], b.ne[0], b.ne[1], b.ne[2] });
    try checks.check_indices(indices, a.ne[1]);
    return c.ggml_get_rows(ctx, a, b);
}

/// Writes the rows of b into a, at the rows that c names; the result is a.
pub fn set_rows(ctx: *Context, a: *Tensor, b: *Tensor, rows: *Tensor) Error!*Tensor {
    const op = "set_rows";
    const target: Operand = try .large(op, "a", a);
    const source: Operand = try .init(op, "b", b);
    const indices: Operand = try .init(op, "c", rows);
    try target.writable();
    try target.unit_rows();
    try source.of_type(&.{ .f32, .f16 });
    try source.unit_rows();
    // From f16, ggml converts through scratch memory that it reserves for one thread only.
    if (source.is(.f16) and !target.is(.f16)) return source.refuse("must be f32 where {f} is not f16", .{target});
    if (!checks.can_encode(a.type)) return target.refuse("is of a type that ggml cannot encode", .{});
    try checks.equal_dims(target, 0, source, 0);
    try checks.equal_dims(target, 2, source, 2);
    try checks.equal_dims(target, 3, source, 3);
    try indices.of_type(&.{ .i32, .i64 });
    try checks.equal_dims(indices, 0, source, 1);
    try checks.fills(indices, 1, source, 2);
    try checks.fills(indices, 2, source, 3);
    if (rows.ne[3] != 1) return indices.refuse("must have at most three dimensions", .{});
    try checks.check_indices(indices, a.ne[1]);
    return c.ggml_set_rows(ctx, a, b, rows);
}

/// The type of one can be converted to the other.
fn check_conversion(from: Operand, to: c.ggml_type) Error!void {
    if (from.t.type == to) return;
    const allowed = switch (Type.of(from.t)) {
        .f32, .f16, .bf16 => switch (to) {
            c.GGML_TYPE_F32, c.GGML_TYPE_F16, c.GGML_TYPE_BF16 => true,
            c.GGML_TYPE_I32 => from.is(.f32),
            else => c.ggml_is_quantized(to) and checks.can_encode(to) and from.has_unit_rows(),
        },
        .i32 => to == c.GGML_TYPE_F32,
        else => to == c.GGML_TYPE_F32 and c.ggml_is_quantized(from.t.type) and checks.can_decode(from.t),
    };
    if (allowed) return;
    return from.refuse("cannot be converted to {s}", .{std.mem.span(c.ggml_type_name(to))});
}

/// Quantised rows are copied as blocks: ggml counts them right only row by row, or all at once.
fn check_block_copy(from: Operand) Error!void {
    if (c.ggml_is_quantized(from.t.type)) try from.unit_rows();
}

/// Copies a into the memory of b, converting; the result is b.
pub fn cpy(ctx: *Context, a: *Tensor, b: *Tensor) Error!*Tensor {
    const source: Operand = try .init("cpy", "a", a);
    const target: Operand = try .init("cpy", "b", b);
    if (c.ggml_nelements(a) != c.ggml_nelements(b)) {
        return source.refuse("must have as many elements as {f}", .{target});
    }
    try target.writable();
    try check_conversion(source, b.type);
    try check_block_copy(source);
    try check_block_copy(target);
    const same_shape = std.mem.eql(i64, &a.ne, &b.ne);
    const both_natural = c.ggml_is_contiguous(a) and c.ggml_is_contiguous(b);
    if (a.type == b.type) {
        if (c.ggml_is_quantized(a.type) and !same_shape and !both_natural) {
            return source.refuse("must have the shape of {f}, or both must be contiguous", .{target});
        }
    } else if (c.ggml_is_quantized(b.type)) {
        try target.natural();
        try checks.equal_dims(source, 0, target, 0);
    } else if (c.ggml_is_quantized(a.type)) {
        try target.unit_rows();
        if (@rem(b.ne[0], c.ggml_blck_size(a.type)) != 0) try target.contiguous();
    }
    return c.ggml_cpy(ctx, a, b);
}

pub fn cast(ctx: *Context, a: *Tensor, to: Type) Error!*Tensor {
    const source: Operand = try .init("cast", "a", a);
    try check_conversion(source, to.raw());
    try check_block_copy(source);
    try checks.whole_blocks("cast", to.raw(), a.ne[0]);
    return c.ggml_cast(ctx, a, to.raw());
}

pub fn cont(ctx: *Context, a: *Tensor) Error!*Tensor {
    try check_block_copy(try .init("cont", "a", a));
    return c.ggml_cont(ctx, a);
}

pub fn dup(ctx: *Context, a: *Tensor) Error!*Tensor {
    try check_block_copy(try .init("dup", "a", a));
    return c.ggml_dup(ctx, a);
}

pub fn reshape(ctx: *Context, a: *Tensor, n0: i32, n1: i32, n2: i32, n3: i32) Error!*Tensor {
    const operand: Operand = try .large("reshape", "a", a);
    try operand.contiguous();
    try operand.viewable();
    var total: i64 = 1;
    for ([_]i64{ n0, n1, n2, n3 }) |n| {
        try checks.at_least("reshape", "a dimension", n, 1);
        total = std.math.mul(i64, total, n) catch std.math.maxInt(i64);
    }
    if (total != c.ggml_nelements(a)) {
        return operand.refuse("cannot take the shape [{d}, {d}, {d}, {d}]", .{ n0, n1, n2, n3 });
    }
    try checks.whole_blocks("reshape", a.type, n0);
    return c.ggml_reshape_4d(ctx, a, n0, n1, n2, n3);
}

/// A window into the memory of a. Strides and the offset are in bytes, counted from where a starts; the stride of a
/// dimension of 1 means nothing and may be 0.
pub fn view(
    ctx: *Context,
    a: *Tensor,
    n0: i32,
    n1: i32,
    n2: i32,
    n3: i32,
    stride1: i32,
    stride2: i32,
    stride3: i32,
    offset: i32,
) Error!*Tensor {
    const op = "view";
    const operand: Operand = try .large(op, "a", a);
    const unit: i64 = @intCast(c.ggml_type_size(a.type));
    const ne = [4]i64{ n0, n1, n2, n3 };
    try checks.result_shape(op, ne);
    try checks.whole_blocks(op, a.type, n0);
    if (@rem(offset, unit) != 0 or offset < 0) {
        return operand.refuse("cannot be viewed from byte {d}, which is no multiple of {d}", .{ offset, unit });
    }
    const row_bytes: i64 = @intCast(c.ggml_row_size(a.type, n0));
    var natural = row_bytes;
    var end = offset + row_bytes;
    var strides = [3]i64{ stride1, stride2, stride3 };
    for (&strides, ne[1..]) |*stride, n| {
        if (n == 1) stride.* = natural;
        if (@rem(stride.*, unit) != 0 or stride.* < 0) {
            return operand.refuse("cannot be viewed with a stride of {d}, which is no multiple of {d}", .{
                stride.*, unit,
            });
        }
        end += (n - 1) * stride.*;
        natural = stride.* * n;
    }
    const bytes: i64 = @intCast(c.ggml_nbytes(a));
    if (end > bytes) return operand.refuse("has {d} bytes, and the view would reach to byte {d}", .{ bytes, end });

    // ggml also demands room for the same shape without gaps or overlaps.
    const base: *Tensor = if (a.view_src) |source| source else a;
    const start = a.view_offs + @as(usize, @intCast(offset));
    if (start + checks.natural_bytes(a.type, ne) > c.ggml_nbytes(base)) {
        return operand.refuse("is too small for a view of overlapping rows with {d} x {d} x {d} x {d} elements", .{
            n0, n1, n2, n3,
        });
    }
    return c.ggml_view_4d(ctx, a, n0, n1, n2, n3, @intCast(strides[0]), @intCast(strides[1]), //
        @intCast(strides[2]), @intCast(offset));
}

/// Dimension i of a becomes dimension axis i of the result.
pub fn permute(ctx: *Context, a: *Tensor, axis0: i32, axis1: i32, axis2: i32, axis3: i32) Error!*Tensor {
    const operand: Operand = try .large("permute", "a", a);
    try operand.viewable();
    var seen: [4]bool = @splat(false);
    for ([_]i32{ axis0, axis1, axis2, axis3 }) |axis| {
        if (axis < 0 or axis > 3 or seen[@intCast(axis)]) {
            return operand.refuse("cannot be permuted by {d}, {d}, {d}, {d}: each of 0 to 3 must occur once", .{
                axis0, axis1, axis2, axis3,
            });
        }
        seen[@intCast(axis)] = true;
    }
    if (axis0 != 0 and c.ggml_blck_size(a.type) != 1) {
        return operand.refuse("is made of blocks along its first dimension, which must stay first", .{});
    }
    return c.ggml_permute(ctx, a, axis0, axis1, axis2, axis3);
}

/// Swaps the first two dimensions.
pub fn transpose(ctx: *Context, a: *Tensor) Error!*Tensor {
    const operand: Operand = try .large("transpose", "a", a);
    try operand.viewable();
    if (c.ggml_blck_size(a.type) != 1) {
        return operand.refuse("is made of blocks along its first dimension, which must stay first", .{});
    }
    return c.ggml_transpose(ctx, a);
}
