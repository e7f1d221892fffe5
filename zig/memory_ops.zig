//! What the operations share through which a graph reads and writes memories, and attention; those on states are in
//! memory_recurrences.zig. They are ggml nodes that run our kernels. What they do with which cell is decided by the step's
//! plan, not by the graph, so one graph serves every step of its shape.

const std = @import("std");
const assert = std.debug.assert;
const c = @import("ggml");
const status = @import("status.zig");
const declaration = @import("declaration.zig");
const tensor_data = @import("tensor_data.zig");
const memory_file = @import("memory.zig");
const attention = @import("kernels/attention.zig");
const memory_log = @import("memory_log.zig");
const memory_turn = @import("memory_turn.zig");

const Tensor = c.ggml_tensor;
const Memory = memory_file.Memory;
const MemoryDeclaration = declaration.MemoryDeclaration;

/// What the kernels of a running step read besides tensors.
pub const Step = struct {
    memory: *Memory,
    plan: *Memory.Plan,
    /// One piece for each thread.
    scratch: []const []align(64) u8,
};

/// Where a graph's memory operations are put and what they belong to.
pub const Builder = struct {
    context: *c.ggml_context,
    graph: *c.ggml_cgraph,
    arena: std.mem.Allocator,
    memory: *Memory,
    step: *const Step,
    rows: i64,
    threads: u32,
    /// Grows to what the largest operation needs for each thread.
    scratch_bytes: usize = 0,
    /// Of each memory: how its states are computed again, and how its keys were turned.
    recipes: []memory_log.Recipe,
    turns: []memory_turn.Turn,
    /// Whether attention may round as ggml's flash attention does.
    flash: bool,

    pub fn custom(builder: *Builder, shape: [3]i64, sources: []const ?*Tensor, run: c.ggml_custom_op_t, data: *anyopaque) *Tensor {
        var arguments: [c.GGML_MAX_SRC]?*Tensor = @splat(null);
        var count: usize = 0;
        for (sources) |source| if (source) |s| {
            arguments[count] = s;
            count += 1;
        };
        const node: *Tensor = c.ggml_custom_4d(
            builder.context,
            c.GGML_TYPE_F32,
            shape[0],
            shape[1],
            shape[2],
            1,
            @ptrCast(&arguments),
            @intCast(count),
            run,
            c.GGML_N_TASKS_MAX,
            data,
        );
        // The node changes a memory, so it runs even if nobody reads its result.
        c.ggml_build_forward_expand(builder.graph, node);
        return node;
    }

    pub fn find(builder: *const Builder, index: i32, kind: declaration.Kind) status.Error!struct { MemoryDeclaration, memory_file.Tensors } {
        const memory = builder.memory;
        if (index < 0 or index >= memory.declarations.len) {
            return status.fail(error.NotFound, "there is no memory {d}: the declaration has {d}", .{ index, memory.declarations.len });
        }
        var d = memory.declarations[@intCast(index)];
        if (d.shared_from >= 0) d = memory.declarations[@intCast(d.shared_from)];
        if (d.kind != kind) {
            return status.fail(error.InvalidArgument, "layer {d}: this memory is {t}, and {t} was expected", .{ d.layer, d.kind, kind });
        }
        return .{ d, memory.tensors[@intCast(index)] };
    }

    pub fn check_f32(builder: *const Builder, tensor: *const Tensor, what: []const u8) status.Error!void {
        _ = builder;
        if (tensor.type != c.GGML_TYPE_F32 or tensor.nb[0] != @sizeOf(f32)) {
            return status.fail(error.InvalidArgument, "{s} must be f32 with contiguous rows, not {s} {any}", .{
                what, std.mem.span(c.ggml_type_name(tensor.type)), tensor.ne,
            });
        }
    }

    pub fn check_vector(builder: *const Builder, tensor: *const Tensor, what: []const u8, elements: i64) status.Error!void {
        try builder.check_f32(tensor, what);
        if (c.ggml_nelements(tensor) != elements or !c.ggml_is_contiguous(tensor)) {
            return status.fail(error.InvalidArgument, "{s} must have {d} contiguous elements, not the shape {any}", .{
                what, elements, tensor.ne,
            });
        }
    }

    pub fn check_rows(builder: *const Builder, tensor: *const Tensor, what: []const u8, width: i64) status.Error!void {
        try builder.check_f32(tensor, what);
        if (tensor.ne[0] != width or tensor.ne[1] != builder.rows or tensor.ne[2] != 1 or tensor.ne[3] != 1) {
            return status.fail(error.InvalidArgument, "{s} must be [{d}, {d}], not {any}", .{
                what, width, builder.rows, tensor.ne,
            });
        }
    }

    pub fn check_heads(builder: *const Builder, tensor: *const Tensor, what: []const u8, dim: i64, heads: i64) status.Error!void {
        try builder.check_f32(tensor, what);
        if (tensor.ne[0] != dim or tensor.ne[1] != heads or tensor.ne[2] != builder.rows or tensor.ne[3] != 1) {
            return status.fail(error.InvalidArgument, "{s} must be [{d}, {d}, {d}] (head size, heads, tokens), not {any}", .{
                what, dim, heads, builder.rows, tensor.ne,
            });
        }
    }
};

// ---- attention ----

pub const AttendParameters = extern struct {
    /// Multiplies the products of queries and keys.
    scale: f32,
    /// 0 = none; otherwise products become `softcap * tanh(product / softcap)`.
    softcap: f32,
    /// Of a memory of keys without values: the first so many elements of a key are the value.
    value_dim: i32 = 0,
};

const AttendOp = struct {
    step: *const Step,
    pool: u32,
    keys: *Tensor,
    values: *Tensor,
    value_dim: usize,
    declared: MemoryDeclaration,
    parameters: AttendParameters,
    flash: bool,
};

/// Adds `keys` and `values` to the memory, unless they are null (then the memory is only read), and lets every query
/// look back over what its sequence holds. `cells` are the cells that the rows write, `[rows]` i64.
/// Shapes: queries `[key_dim, heads, rows]`, keys `[key_dim, kv_heads, rows]`, values `[value_dim, kv_heads, rows]`;
/// the result is `[value_dim, heads, rows]`.
pub fn attend(
    builder: *Builder,
    index: i32,
    queries: *Tensor,
    keys: ?*Tensor,
    values: ?*Tensor,
    cells: *Tensor,
    parameters: AttendParameters,
) status.Error!*Tensor {
    const d, const tensors = try builder.find(index, .attention);
    const heads = queries.ne[1];
    try builder.check_heads(queries, "the queries", d.key_dim, heads);
    if (@mod(heads, d.heads) != 0) {
        return status.fail(error.InvalidArgument, "layer {d}: {d} query heads cannot share {d} key heads evenly", .{
            d.layer, heads, d.heads,
        });
    }
    const value_dim = if (d.value_dim > 0) d.value_dim else parameters.value_dim;
    if (value_dim < 1 or (d.value_dim == 0 and value_dim > d.key_dim)) {
        return status.fail(error.InvalidArgument, "layer {d}: its memory has keys without values; say how many of the {d} elements " ++
            "of a key are its value", .{ d.layer, d.key_dim });
    }
    if (d.value_dim == 0 and c.ggml_is_quantized(@intCast(d.key_type)) and @mod(value_dim, 32) != 0) {
        return status.fail(error.InvalidArgument, "layer {d}: values of {d} elements are no whole blocks of quantised keys; use f16", .{ d.layer, value_dim });
    }
    if (values != null and d.value_dim == 0) {
        return status.fail(error.InvalidArgument, "layer {d}: values were given, and its memory has only keys", .{d.layer});
    }
    const are_together = if (keys == null) values == null else (values == null) == (d.value_dim == 0);
    if (!are_together) {
        return status.fail(error.InvalidArgument, "layer {d}: keys and values are stored together or not at all", .{d.layer});
    }
    if (keys) |k| try builder.check_heads(k, "the keys", d.key_dim, d.heads);
    if (values) |v| try builder.check_heads(v, "the values", d.value_dim, d.heads);
    var key_source = tensors.items[0].?;
    var value_source = if (d.value_dim > 0) tensors.items[1].? else key_source;
    if (keys) |k| {
        builder.turns[@intCast(index)] = .of_keys(k);
        key_source = store(builder, key_source, k, cells);
        value_source = if (values) |v| store(builder, value_source, v, cells) else key_source;
    }
    const op = try builder.arena.create(AttendOp);
    op.* = .{
        .step = builder.step,
        .pool = tensors.pool,
        .keys = tensors.items[0].?,
        .values = if (d.value_dim > 0) tensors.items[1].? else tensors.items[0].?,
        .value_dim = @intCast(value_dim),
        .declared = d,
        .parameters = parameters,
        .flash = builder.flash,
    };
    const group: usize = @intCast(@divExact(heads, d.heads));
    builder.scratch_bytes = @max(builder.scratch_bytes, attention.scratch_bytes(@intCast(d.key_dim), @intCast(value_dim), group));
    return builder.custom(.{ value_dim, heads, builder.rows }, &.{ queries, key_source, value_source }, run_attend, op);
}

fn store(builder: *Builder, memory: *Tensor, heads: *Tensor, cells: *Tensor) *Tensor {
    const whole = if (c.ggml_is_contiguous(heads)) heads else c.ggml_cont(builder.context, heads);
    const rows = c.ggml_reshape_2d(builder.context, whole, memory.ne[0], builder.rows);
    const stored: *Tensor = c.ggml_set_rows(builder.context, memory, rows, cells);
    c.ggml_build_forward_expand(builder.graph, stored);
    return stored;
}

fn run_attend(dst: ?*Tensor, ith: c_int, nth: c_int, data: ?*anyopaque) callconv(.c) void {
    const op: *const AttendOp = @ptrCast(@alignCast(data.?));
    const out = dst.?;
    const queries: *const Tensor = out.src[0];
    const plan = &op.step.plan.pools[op.pool].attention;
    const d = op.declared;
    const args: attention.Args = .{
        .q = tensor_data.base_f32(queries),
        .q_token_stride = queries.nb[2] / @sizeOf(f32),
        .q_head_stride = queries.nb[1] / @sizeOf(f32),
        .out = tensor_data.base_f32(out),
        .out_token_stride = out.nb[2] / @sizeOf(f32),
        .out_head_stride = out.nb[1] / @sizeOf(f32),
        .k_data = tensor_data.base_bytes(op.keys),
        .v_data = tensor_data.base_bytes(op.values),
        .k_cell_bytes = op.keys.nb[1],
        .v_cell_bytes = op.values.nb[1],
        .k_type = kernel_type(op.keys.type),
        .v_type = kernel_type(op.values.type),
        .heads = @intCast(queries.ne[1]),
        .kv_heads = @intCast(d.heads),
        .key_dim = @intCast(d.key_dim),
        .value_dim = op.value_dim,
        .value_stride_dim = if (d.value_dim > 0) op.value_dim else @intCast(d.key_dim),
        .scale = op.parameters.scale,
        .flash = op.flash,
        .softcap = op.parameters.softcap,
        .rows = plan.rows.items,
        .spans = plan.spans.items,
        .span_offsets = plan.span_offsets.items,
    };
    attention.forward(&args, @intCast(ith), @intCast(nth), op.step.scratch[@intCast(ith)]);
}

fn kernel_type(kind: c.ggml_type) attention.Type {
    return switch (kind) {
        c.GGML_TYPE_F32 => .f32,
        c.GGML_TYPE_F16 => .f16,
        c.GGML_TYPE_BF16 => .bf16,
        c.GGML_TYPE_Q8_0 => .q8_0,
        c.GGML_TYPE_Q4_0 => .q4_0,
        else => unreachable, // declaration.check refused the others
    };
}
