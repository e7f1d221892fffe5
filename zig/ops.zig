//! Every graph operation that can be asked for from outside: one table of checked wrappers of ggml's constructors,
//! the call by number over it, and its description for the generated bindings.
//!
//! An operation that succeeds here can be computed on the CPU: whatever ggml would assert, or do wrong without asking,
//! is refused before a node exists. Two promises are the engine's: it marks the tensors whose values it sets itself
//! with `ggml_set_input`, and it checks the values of those that are indices against `input_bound` before it computes.

const std = @import("std");
const c = @import("ggml");
const status = @import("status.zig");
const checks = @import("op_checks.zig");
const elementwise = @import("op_elementwise.zig");
const layout = @import("op_layout.zig");
const matrix = @import("op_matrix.zig");
const recurrent = @import("op_recurrent.zig");

pub const Tensor = checks.Tensor;
pub const Type = checks.Type;
pub const Unary = elementwise.Unary;
pub const Glu = elementwise.Glu;
pub const RopeMode = elementwise.RopeMode;
pub const Triangle = elementwise.Triangle;
pub const SortOrder = elementwise.SortOrder;
pub const input_bound = checks.input_bound;

/// The operations. Their order is their number; after the context, a parameter is a tensor (optional or not), an i32,
/// an f32, a bool or an enum of i32.
pub const table = struct {
    pub const add = elementwise.add;
    pub const sub = elementwise.sub;
    pub const mul = elementwise.mul;
    pub const div = elementwise.div;
    pub const scale = elementwise.scale;
    pub const scale_bias = elementwise.scale_bias;
    pub const sqr = elementwise.sqr;
    pub const sqrt = elementwise.sqrt;
    pub const log = elementwise.log;
    pub const sin = elementwise.sin;
    pub const cos = elementwise.cos;
    pub const unary = elementwise.unary;
    pub const clamp = elementwise.clamp;
    pub const glu = elementwise.glu;
    pub const glu_split = elementwise.glu_split;
    pub const norm = elementwise.norm;
    pub const rms_norm = elementwise.rms_norm;
    pub const l2_norm = elementwise.l2_norm;
    pub const group_norm = elementwise.group_norm;
    pub const sum = elementwise.sum;
    pub const sum_rows = elementwise.sum_rows;
    pub const mean = elementwise.mean;
    pub const cumsum = elementwise.cumsum;
    pub const soft_max_ext = elementwise.soft_max_ext;
    pub const rope_ext = elementwise.rope_ext;
    pub const argsort = elementwise.argsort;
    pub const argsort_top_k = elementwise.argsort_top_k;
    pub const top_k = elementwise.top_k;
    pub const arange = elementwise.arange;
    pub const diag_mask_inf = elementwise.diag_mask_inf;
    pub const tri = elementwise.tri;
    pub const fill = elementwise.fill;
    pub const repeat = layout.repeat;
    pub const repeat_4d = layout.repeat_4d;
    pub const concat = layout.concat;
    pub const pad = layout.pad;
    pub const roll = layout.roll;
    pub const get_rows = layout.get_rows;
    pub const set_rows = layout.set_rows;
    pub const cpy = layout.cpy;
    pub const cast = layout.cast;
    pub const cont = layout.cont;
    pub const dup = layout.dup;
    pub const reshape = layout.reshape;
    pub const view = layout.view;
    pub const permute = layout.permute;
    pub const transpose = layout.transpose;
    pub const mul_mat = matrix.mul_mat;
    pub const mul_mat_id = matrix.mul_mat_id;
    pub const out_prod = matrix.out_prod;
    pub const solve_tri = matrix.solve_tri;
    pub const flash_attn_ext = matrix.flash_attn_ext;
    pub const ssm_conv = recurrent.ssm_conv;
    pub const ssm_scan = recurrent.ssm_scan;
    pub const rwkv_wkv6 = recurrent.rwkv_wkv6;
    pub const rwkv_wkv7 = recurrent.rwkv_wkv7;
    pub const gated_linear_attn = recurrent.gated_linear_attn;
    pub const gated_delta_net = recurrent.gated_delta_net;
};

pub const names = @typeInfo(table).@"struct".decl_names;

/// The most tensors that one operation adds to a context.
pub const nodes_max = 3;

pub const Field = struct { name: []const u8, value: i32 };

pub const Param = union(enum) {
    tensor,
    optional_tensor,
    int,
    float,
    boolean,
    enumeration: struct { name: []const u8, fields: []const Field },
};

pub const Signature = struct { name: []const u8, params: []const Param };

/// What each operation takes after the context, in the order of the table.
pub const signatures: [names.len]Signature = blk: {
    @setEvalBranchQuota(20_000);
    var all: [names.len]Signature = undefined;
    for (names, &all) |name, *signature| {
        const types = param_types(name);
        var params: [types.len]Param = undefined;
        for (types, &params) |T, *param| param.* = describe(T.?);
        const fixed = params;
        signature.* = .{ .name = name, .params = &fixed };
    }
    break :blk all;
};

fn param_types(comptime name: []const u8) []const ?type {
    return @typeInfo(@TypeOf(@field(table, name))).@"fn".param_types[1..];
}

fn describe(comptime T: type) Param {
    return switch (T) {
        *Tensor => .tensor,
        ?*Tensor => .optional_tensor,
        i32 => .int,
        f32 => .float,
        bool => .boolean,
        else => blk: {
            const info = @typeInfo(T).@"enum";
            var fields: [info.field_names.len]Field = undefined;
            for (info.field_names, info.field_values, &fields) |name, value, *field| {
                field.* = .{ .name = name, .value = value };
            }
            const fixed = fields;
            const full = @typeName(T);
            const start = std.mem.findScalarLast(u8, full, '.').? + 1;
            break :blk .{ .enumeration = .{ .name = full[start..], .fields = &fixed } };
        },
    };
}

/// Calls the operation number `code`: its tensor parameters are taken from `tensors`, f32 ones from `floats`, all
/// others from `ints`, each in their order.
pub fn dispatch(
    ctx: *c.ggml_context,
    code: u32,
    tensors: []const ?*Tensor,
    ints: []const i32,
    floats: []const f32,
) status.Error!*Tensor {
    try check_room(ctx);
    inline for (names, 0..) |name, index| {
        if (code == index) {
            const args: Arguments = .{ .op = name, .tensors = tensors, .ints = ints, .floats = floats };
            return args.call(name, ctx);
        }
    }
    return status.fail(error.InvalidArgument, "there is no graph operation number {d}, only 0 to {d}", .{
        code, names.len - 1,
    });
}

/// ggml ends the process when a context has no room for one more tensor.
fn check_room(ctx: *c.ggml_context) status.Error!void {
    if (!c.ggml_get_no_alloc(ctx)) {
        return status.fail(error.Internal, "a graph's context must not hold the data of its tensors", .{});
    }
    const needed = nodes_max * c.ggml_tensor_overhead();
    const size = c.ggml_get_mem_size(ctx);
    if (c.ggml_used_mem(ctx) + needed <= size) return;
    return status.fail(error.Full, "the graph is full: its context of {d} bytes has no room for another node", .{size});
}

const Arguments = struct {
    op: []const u8,
    tensors: []const ?*Tensor,
    ints: []const i32,
    floats: []const f32,

    fn call(self: Arguments, comptime name: []const u8, ctx: *c.ggml_context) status.Error!*Tensor {
        const function = @field(table, name);
        var rest = self;
        var args: std.meta.ArgsTuple(@TypeOf(function)) = undefined;
        args[0] = ctx;
        inline for (comptime param_types(name), 1..) |T, i| args[i] = try rest.next(T.?);
        if (rest.tensors.len + rest.ints.len + rest.floats.len != 0) {
            return status.fail(
                error.InvalidArgument,
                "{s}: {d} tensors, {d} whole numbers and {d} numbers are given beyond what it takes",
                .{ name, rest.tensors.len, rest.ints.len, rest.floats.len },
            );
        }
        return @call(.auto, function, args);
    }

    fn next(self: *Arguments, comptime T: type) status.Error!T {
        switch (T) {
            ?*Tensor => return self.take(?*Tensor, &self.tensors, "tensor"),
            *Tensor => return try self.take(?*Tensor, &self.tensors, "tensor") orelse
                status.fail(error.InvalidArgument, "{s}: a tensor that must be given is null", .{self.op}),
            f32 => return self.take(f32, &self.floats, "number"),
            i32 => return self.take(i32, &self.ints, "whole number"),
            bool => return try self.take(i32, &self.ints, "whole number") != 0,
            else => {
                const value = try self.take(i32, &self.ints, "whole number");
                inline for (@typeInfo(T).@"enum".field_values) |known| {
                    if (value == known) return @fromBackingInt(known);
                }
                return status.fail(error.InvalidArgument, "{s}: {d} is no value of {s}", .{
                    self.op, value, comptime describe(T).enumeration.name,
                });
            },
        }
    }

    fn take(self: *Arguments, comptime T: type, from: *[]const T, kind: []const u8) status.Error!T {
        if (from.len == 0) {
            return status.fail(error.InvalidArgument, "{s}: a {s} is missing", .{ self.op, kind });
        }
        defer from.* = from.*[1..];
        return from.*[0];
    }
};

const testing = std.testing;

fn test_context() *c.ggml_context {
    return c.ggml_init(.{ .mem_size = 1 << 16, .mem_buffer = null, .no_alloc = true }).?;
}

fn expect_refusal(sentence: []const u8, result: status.Error!*Tensor) !void {
    try testing.expectError(error.InvalidArgument, result);
    try testing.expectEqualStrings(sentence, status.message());
}

fn code_of(comptime name: []const u8) u32 {
    inline for (names, 0..) |known, code| {
        if (comptime std.mem.eql(u8, name, known)) return code;
    }
    unreachable;
}

test "a refusal names the operation, the operands and what was expected" {
    const ctx = test_context();
    defer c.ggml_free(ctx);
    const a: *Tensor = c.ggml_new_tensor_2d(ctx, c.GGML_TYPE_F32, 64, 16);
    const b: *Tensor = c.ggml_new_tensor_2d(ctx, c.GGML_TYPE_F32, 48, 5);
    try expect_refusal(
        "mul_mat: the first dimension of a ([64, 16] f32) and of b ([48, 5] f32) must be equal",
        table.mul_mat(ctx, a, b),
    );
    const ids: *Tensor = c.ggml_new_tensor_1d(ctx, c.GGML_TYPE_I32, 4);
    try expect_refusal("sqr: a ([4] i32) must be of type f32, f16 or bf16; cast it first", table.sqr(ctx, ids));
    try expect_refusal("scale: a ([16, 64] f32, strides 256 4 4096 4096 bytes) must be contiguous with natural " ++
        "strides; apply cont first", table.scale(ctx, try table.transpose(ctx, a), 2));
}

test "an operation is called by its number, with the arguments of each kind in order" {
    const ctx = test_context();
    defer c.ggml_free(ctx);
    const a: *Tensor = c.ggml_new_tensor_2d(ctx, c.GGML_TYPE_F32, 64, 16);
    const view = try dispatch(ctx, code_of("view"), &.{a}, &.{ 32, 4, 1, 1, 256, 0, 0, 128 }, &.{});
    try testing.expectEqual([4]i64{ 32, 4, 1, 1 }, view.ne);
    try testing.expectEqual(128, view.view_offs);
    const soft = try dispatch(ctx, code_of("soft_max_ext"), &.{ a, null }, &.{}, &.{ 0.5, 0 });
    try testing.expect(soft.op == c.GGML_OP_SOFT_MAX);
    const gelu = try dispatch(ctx, code_of("unary"), &.{a}, &.{@backingInt(Unary.gelu)}, &.{});
    try testing.expect(c.ggml_get_unary_op(gelu) == c.GGML_UNARY_OP_GELU);
}

test "arguments that do not fit an operation are refused" {
    const ctx = test_context();
    defer c.ggml_free(ctx);
    const a: *Tensor = c.ggml_new_tensor_2d(ctx, c.GGML_TYPE_F32, 64, 16);
    const add = code_of("add");
    try expect_refusal("add: a tensor is missing", dispatch(ctx, add, &.{a}, &.{}, &.{}));
    try expect_refusal("add: a tensor that must be given is null", dispatch(ctx, add, &.{ a, null }, &.{}, &.{}));
    try expect_refusal(
        "add: 1 tensors, 0 whole numbers and 2 numbers are given beyond what it takes",
        dispatch(ctx, add, &.{ a, a, a }, &.{}, &.{ 1, 2 }),
    );
    try expect_refusal("unary: 99 is no value of Unary", dispatch(ctx, code_of("unary"), &.{a}, &.{99}, &.{}));
    try testing.expectError(error.InvalidArgument, dispatch(ctx, names.len, &.{}, &.{}, &.{}));
}

test "a full context refuses instead of ending the process" {
    const ctx = test_context();
    defer c.ggml_free(ctx);
    const a: *Tensor = c.ggml_new_tensor_1d(ctx, c.GGML_TYPE_F32, 8);
    var made: usize = 0;
    while (dispatch(ctx, code_of("sqr"), &.{a}, &.{}, &.{})) |_| made += 1 else |err| {
        try testing.expectEqual(error.Full, err);
    }
    try testing.expect(made > 10);
}

test "signatures describe what dispatch takes" {
    const rope = signatures[code_of("rope_ext")];
    try testing.expectEqual(12, rope.params.len);
    try testing.expect(rope.params[0] == .tensor and rope.params[2] == .optional_tensor);
    try testing.expectEqualStrings("RopeMode", rope.params[4].enumeration.name);
    try testing.expectEqualStrings("neox", rope.params[4].enumeration.fields[1].name);
    try testing.expect(signatures[code_of("glu")].params[2] == .boolean);
}

test "sorting puts NaN in its place first" {
    const ctx = test_context();
    defer c.ggml_free(ctx);
    const a: *Tensor = c.ggml_new_tensor_1d(ctx, c.GGML_TYPE_F32, 8);
    const order = try table.argsort(ctx, a, .desc);
    try testing.expect(order.src[0].*.op == c.GGML_OP_CLAMP);
}

test "a view stays inside its tensor" {
    const ctx = test_context();
    defer c.ggml_free(ctx);
    const a: *Tensor = c.ggml_new_tensor_2d(ctx, c.GGML_TYPE_Q8_0, 64, 4);
    _ = try table.view(ctx, a, 32, 4, 1, 1, 68, 0, 0, 34);
    try expect_refusal(
        "view: a ([64, 4] q8_0) has 272 bytes, and the view would reach to byte 306",
        table.view(ctx, a, 64, 4, 1, 1, 68, 0, 0, 34),
    );
    try testing.expectError(error.InvalidArgument, table.view(ctx, a, 32, 4, 1, 1, 67, 0, 0, 0));
    try testing.expectError(error.InvalidArgument, table.view(ctx, a, 16, 4, 1, 1, 68, 0, 0, 0));
    try testing.expectError(error.InvalidArgument, table.view(ctx, a, 32, 2, 1, 1, -68, 0, 0, 0));
}

test "no operation writes to weights or indices" {
    const ctx = test_context();
    defer c.ggml_free(ctx);
    const a: *Tensor = c.ggml_new_tensor_1d(ctx, c.GGML_TYPE_F32, 8);
    const b: *Tensor = c.ggml_new_tensor_1d(ctx, c.GGML_TYPE_F32, 8);
    const ids: *Tensor = c.ggml_new_tensor_1d(ctx, c.GGML_TYPE_I32, 8);
    const buffer = c.ggml_backend_alloc_ctx_tensors_from_buft(ctx, c.ggml_backend_cpu_buffer_type()).?;
    defer c.ggml_backend_buffer_free(buffer);
    _ = try table.cpy(ctx, a, b);
    try testing.expectError(error.InvalidArgument, table.cpy(ctx, a, ids));
    c.ggml_backend_buffer_set_usage(buffer, c.GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
    try expect_refusal("cpy: b ([8] f32) is a weight and cannot be written to", table.cpy(ctx, a, b));
}
