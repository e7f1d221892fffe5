//! Checked operations that multiply matrices: products, expert products, attention, triangular systems.

const c = @import("ggml");
const status = @import("status.zig");
const checks = @import("op_checks.zig");

const Context = c.ggml_context;
const Tensor = checks.Tensor;
const Operand = checks.Operand;
const Error = status.Error;

/// ggml reserves scratch memory for a tile of 64 heads; far beyond any model's head.
const head_size_max = 8192;
/// ggml lists every token under every expert before it multiplies.
const expert_list_max: i64 = 1 << 28;

/// What both kinds of products ask of a weight and of what it is multiplied with.
fn check_product(a: Operand, b: Operand) Error!void {
    const converted = checks.product_type(a.t) orelse
        return a.refuse("is of a type that ggml does not multiply", .{});
    try a.unit_rows();
    try b.unit_rows();
    if (c.ggml_is_transposed(a.t)) return a.refuse("is transposed; apply cont first", .{});
    try checks.equal_dims(a, 0, b, 0);
    const alike = b.t.type == converted and a.t.extra == null;
    if (!b.is(.f32) and !alike) return b.refuse("must be f32, to be multiplied with {f}", .{a});
}

/// [k, m] and [k, n] give [m, n]; a is repeated along the third and fourth dimension of b.
pub fn mul_mat(ctx: *Context, a: *Tensor, b: *Tensor) Error!*Tensor {
    const op = "mul_mat";
    const left: Operand = try .weight(op, "a", a);
    const right: Operand = try .init(op, "b", b);
    // f16 is widened where a is f32, which the product with experts cannot do.
    if (left.is(.f32) and right.is(.f16)) {
        try left.unit_rows();
        try right.unit_rows();
        if (c.ggml_is_transposed(a)) return left.refuse("is transposed; apply cont first", .{});
        try checks.equal_dims(left, 0, right, 0);
    } else try check_product(left, right);
    try checks.fills(left, 2, right, 2);
    try checks.fills(left, 3, right, 3);
    if (a.extra != null) {
        if (c.ggml_n_dims(a) != 2 or b.ne[3] != 1) return right.refuse("must be a batch of matrices for {f}", .{left});
        try right.contiguous();
    }
    try checks.result_shape(op, .{ a.ne[1], b.ne[1], b.ne[2], b.ne[3] });
    return c.ggml_mul_mat(ctx, a, b);
}

/// experts [k, m, experts], b [k, used or 1, tokens], ids [used, tokens] give [m, used, tokens].
pub fn mul_mat_id(ctx: *Context, experts: *Tensor, b: *Tensor, ids: *Tensor) Error!*Tensor {
    const op = "mul_mat_id";
    const left: Operand = try .weight(op, "experts", experts);
    const right: Operand = try .init(op, "b", b);
    const indices: Operand = try .init(op, "ids", ids);
    try check_product(left, right);
    if (experts.extra != null) try right.contiguous();
    if (experts.ne[3] != 1) return left.refuse("must have at most three dimensions", .{});
    if (b.ne[3] != 1) return right.refuse("must have at most three dimensions", .{});
    try indices.of_type(&.{.i32});
    if (ids.ne[2] != 1 or ids.ne[3] != 1) return indices.refuse("must have at most two dimensions", .{});
    try checks.equal_dims(indices, 1, right, 2);
    try checks.fills(right, 1, indices, 0);
    if (ids.ne[0] * ids.ne[1] > @divTrunc(expert_list_max, experts.ne[2])) {
        return indices.refuse("chooses too often among the experts of {f} for one step", .{left});
    }
    try checks.result_shape(op, .{ experts.ne[1], ids.ne[0], b.ne[2], 1 });
    try checks.check_indices(indices, experts.ne[2]);
    return c.ggml_mul_mat_id(ctx, experts, b, ids);
}

/// [m, k] and [n, k] give [m, n].
pub fn out_prod(ctx: *Context, a: *Tensor, b: *Tensor) Error!*Tensor {
    const op = "out_prod";
    const left: Operand = try .init(op, "a", a);
    const right: Operand = try .init(op, "b", b);
    try left.of_type(&.{.f32});
    try right.of_type(&.{.f32});
    try left.unit_rows();
    if (c.ggml_is_transposed(a)) return left.refuse("is transposed; apply cont first", .{});
    try checks.equal_dims(left, 1, right, 1);
    try checks.fills(left, 2, right, 2);
    try checks.fills(left, 3, right, 3);
    try checks.result_shape(op, .{ a.ne[0], b.ne[0], b.ne[2], b.ne[3] });
    return c.ggml_out_prod(ctx, a, b);
}

/// Solves a x = b, where a is a lower triangle with its diagonal.
pub fn solve_tri(ctx: *Context, a: *Tensor, b: *Tensor) Error!*Tensor {
    const op = "solve_tri";
    const left: Operand = try .init(op, "a", a);
    const right: Operand = try .init(op, "b", b);
    for ([_]Operand{ left, right }) |operand| {
        try operand.of_type(&.{.f32});
        try operand.contiguous();
    }
    try checks.equal_dims(left, 0, left, 1);
    for (1..4) |i| try checks.equal_dims(left, i, right, i);
    return c.ggml_solve_tri(ctx, a, b, true, true, false);
}

/// q [head, queries, heads, sequences], k and v [head, keys, key heads, sequences], mask f16 [keys, queries or more];
/// the result is [head of v, heads, queries, sequences].
pub fn flash_attn_ext(
    ctx: *Context,
    q: *Tensor,
    k: *Tensor,
    v: *Tensor,
    mask: ?*Tensor,
    factor: f32,
    max_bias: f32,
    softcap: f32,
) Error!*Tensor {
    const op = "flash_attn_ext";
    const query: Operand = try .init(op, "q", q);
    const key: Operand = try .init(op, "k", k);
    const value: Operand = try .init(op, "v", v);
    try query.of_type(&.{.f32});
    for ([_]Operand{ query, key, value }) |operand| {
        try operand.unit_rows();
        if (operand.t.ne[0] > head_size_max) return operand.refuse("has a head larger than {d}", .{head_size_max});
    }
    if (checks.product_type(k) == null) return key.refuse("is of a type that ggml does not multiply", .{});
    if (!checks.can_decode(v)) return value.refuse("is of a type that ggml cannot decode", .{});
    if (c.ggml_is_transposed(k)) return key.refuse("is transposed; apply cont first", .{});
    try checks.equal_dims(query, 0, key, 0);
    try checks.equal_dims(value, 1, key, 1);
    for ([_]Operand{ key, value }) |operand| {
        try checks.fills(operand, 2, query, 2);
        try checks.equal_dims(operand, 3, query, 3);
    }
    if (mask) |t| {
        try check_attention_mask(try .init(op, "mask", t), query, key);
    } else if (max_bias > 0) {
        return query.refuse("needs a mask where max_bias ({d}) is above zero", .{max_bias});
    }
    try checks.result_shape(op, .{ v.ne[0], q.ne[2], q.ne[1], q.ne[3] });
    return c.ggml_flash_attn_ext(ctx, q, k, v, mask, factor, max_bias, softcap);
}

fn check_attention_mask(mask: Operand, query: Operand, key: Operand) Error!void {
    try mask.of_type(&.{.f16});
    try mask.contiguous();
    try checks.equal_dims(mask, 0, key, 1);
    if (mask.t.ne[1] < query.t.ne[1]) return mask.refuse("must have a row for each query of {f}", .{query});
    try checks.fills(mask, 2, query, 2);
    try checks.fills(mask, 3, query, 3);
}
