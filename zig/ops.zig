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
