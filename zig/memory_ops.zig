//! The operations through which a graph reads and writes memories, as ggml nodes that run our kernels. What they do
//! with which cell is decided by the step's plan, not by the graph, so one graph serves every step of its shape.

const std = @import("std");
const assert = std.debug.assert;
const c = @import("ggml");
const status = @import("status.zig");
const declaration = @import("declaration.zig");
const tensor_data = @import("tensor_data.zig");
const memory_file = @import("memory.zig");
const attention = @import("kernels/attention.zig");
const convolution = @import("kernels/convolution.zig");
const ssm_scan = @import("kernels/ssm_scan.zig");
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

    /// After an operation on a state: counts the bytes that it read and wrote, and logs its inputs.
    fn count_and_log(
        step: *const Step,
        pool: u32,
        state: *const Tensor,
        log: ?*Tensor,
        inputs: []const struct { memory_log.Source, *const Tensor },
    ) void {
        const plan = &step.plan.pools[pool].recurrent;
        for (plan.segments.items) |segment| {
            step.memory.state_bytes_moved += state.nb[1] * (1 + @as(u64, @intFromBool(segment.read_cell >= 0)));
        }
        const to = log orelse return;
        for (inputs) |input| memory_log.write(&step.memory.pools[pool].recurrent, plan.logs.items, to, input[0], input[1]);
    }
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

    fn custom(builder: *Builder, shape: [3]i64, sources: []const ?*Tensor, run: c.ggml_custom_op_t, data: *anyopaque) *Tensor {
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

    fn find(builder: *const Builder, index: i32, kind: declaration.Kind) status.Error!struct { MemoryDeclaration, memory_file.Tensors } {
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

    /// The recipe of a memory whose states are computed again from a log; null where they are not.
    fn recipe(builder: *const Builder, index: i32) ?*memory_log.Recipe {
        return if (builder.memory.tensors[@intCast(index)].log == null) null else &builder.recipes[@intCast(index)];
    }

    fn find_state(builder: *const Builder, index: i32, state: i32, elements: i64) status.Error!struct { MemoryDeclaration, u32, *Tensor } {
        const d, const tensors = try builder.find(index, .recurrent);
        if (state < 0 or state >= d.state_count) {
            return status.fail(error.NotFound, "layer {d}: its memory has {d} states, and number {d} was asked for", .{
                d.layer, d.state_count, state,
            });
        }
        const declared = d.state_elements[@intCast(state)];
        if (declared != elements) {
            return status.fail(error.InvalidArgument, "layer {d}: state {d} was declared with {d} elements, and this " ++
                "operation needs {d}", .{ d.layer, state, declared, elements });
        }
        return .{ d, tensors.pool, tensors.items[@intCast(state)].? };
    }

    fn check_f32(builder: *const Builder, tensor: *const Tensor, what: []const u8) status.Error!void {
        _ = builder;
        if (tensor.type != c.GGML_TYPE_F32 or tensor.nb[0] != @sizeOf(f32)) {
            return status.fail(error.InvalidArgument, "{s} must be f32 with contiguous rows, not {s} {any}", .{
                what, std.mem.span(c.ggml_type_name(tensor.type)), tensor.ne,
            });
        }
    }

    fn check_vector(builder: *const Builder, tensor: *const Tensor, what: []const u8, elements: i64) status.Error!void {
        try builder.check_f32(tensor, what);
        if (c.ggml_nelements(tensor) != elements or !c.ggml_is_contiguous(tensor)) {
            return status.fail(error.InvalidArgument, "{s} must have {d} contiguous elements, not the shape {any}", .{
                what, elements, tensor.ne,
            });
        }
    }

    fn check_rows(builder: *const Builder, tensor: *const Tensor, what: []const u8, width: i64) status.Error!void {
        try builder.check_f32(tensor, what);
        if (tensor.ne[0] != width or tensor.ne[1] != builder.rows or tensor.ne[2] != 1 or tensor.ne[3] != 1) {
            return status.fail(error.InvalidArgument, "{s} must be [{d}, {d}], not {any}", .{
                what, width, builder.rows, tensor.ne,
            });
        }
    }

    fn check_heads(builder: *const Builder, tensor: *const Tensor, what: []const u8, dim: i64, heads: i64) status.Error!void {
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
    if (keys != null and (values == null) != (d.value_dim == 0)) {
        return status.fail(error.InvalidArgument, "layer {d}: keys and values are stored together or not at all", .{d.layer});
    }
    var key_source = tensors.items[0].?;
    var value_source = if (d.value_dim > 0) tensors.items[1].? else key_source;
    if (keys) |k| {
        try builder.check_heads(k, "the keys", d.key_dim, d.heads);
        builder.turns[@intCast(index)] = .of_keys(k);
        key_source = store(builder, key_source, k, cells);
        if (values) |v| {
            try builder.check_heads(v, "the values", d.value_dim, d.heads);
            value_source = store(builder, value_source, v, cells);
        } else value_source = key_source;
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

// ---- convolution ----

const ConvolveOp = struct {
    step: *const Step,
    pool: u32,
    state: *Tensor,
    log: ?*Tensor,
    logged: memory_log.Source = .{ .convolved = 0 },
    taps: u32,
    silu: bool,
    has_bias: bool,
};

/// Depthwise causal convolution of `x` `[channels, rows]` with `weight` `[taps, channels]`, plus `bias` `[channels]`,
/// then SiLU if asked for. State `state` of the memory holds the last `taps - 1` inputs, `[channels, taps - 1]`.
pub fn convolve(
    builder: *Builder,
    index: i32,
    state: i32,
    x: *Tensor,
    weight: *Tensor,
    bias: ?*Tensor,
    silu: bool,
) status.Error!*Tensor {
    const taps = weight.ne[0];
    const channels = weight.ne[1];
    if (taps < 2 or taps > convolution.taps_max) {
        return status.fail(error.Unsupported, "a convolution of 2 to {d} taps was expected, and its weight is {any}", .{
            convolution.taps_max, weight.ne,
        });
    }
    try builder.check_rows(x, "the convolution's input", channels);
    try builder.check_vector(weight, "the convolution's weight", taps * channels);
    if (bias) |b| try builder.check_vector(b, "the convolution's bias", channels);
    const d, const pool, const tensor = try builder.find_state(index, state, (taps - 1) * channels);
    const op = try builder.arena.create(ConvolveOp);
    op.* = .{
        .step = builder.step,
        .pool = pool,
        .state = tensor,
        .log = builder.memory.tensors[@intCast(index)].log,
        .taps = @intCast(taps),
        .silu = silu,
        .has_bias = bias != null,
    };
    const node = builder.custom(.{ channels, builder.rows, 1 }, &.{ x, weight, bias }, run_convolve, op);
    const recipe = builder.recipe(index) orelse return node;
    if (recipe.convolved != null) {
        return status.fail(error.Unsupported, "layer {d}: a memory whose states are computed again has one convolution", .{d.layer});
    }
    op.logged = recipe.source(x);
    recipe.convolved = node;
    recipe.channels = @intCast(channels);
    try recipe.steps.append(builder.arena, .{ .convolve = .{
        .args = .{
            .x = undefined,
            .x_row_stride = 0,
            .out = undefined,
            .out_row_stride = 0,
            .channels = @intCast(channels),
            .taps = @intCast(taps),
            .weight = try memory_log.lasting(d.layer, weight, "the convolution's weight"),
            .bias = if (bias) |b| try memory_log.lasting(d.layer, b, "the convolution's bias") else null,
            .silu = silu,
            .state = undefined,
            .state_type = state_type(tensor),
            .state_cell_stride = @intCast(tensor.ne[0]),
            .segments = &.{},
        },
        .state = tensor,
        .x = op.logged,
    } });
    return node;
}

fn state_type(tensor: *const Tensor) convolution.StateType {
    return if (tensor.type == c.GGML_TYPE_F16) .f16 else .f32;
}

fn run_convolve(dst: ?*Tensor, ith: c_int, nth: c_int, data: ?*anyopaque) callconv(.c) void {
    const op: *const ConvolveOp = @ptrCast(@alignCast(data.?));
    const out = dst.?;
    const x: *const Tensor = out.src[0];
    const args: convolution.Args = .{
        .x = tensor_data.base_f32(x),
        .x_row_stride = x.nb[1] / @sizeOf(f32),
        .out = tensor_data.base_f32(out),
        .out_row_stride = out.nb[1] / @sizeOf(f32),
        .channels = @intCast(x.ne[0]),
        .taps = op.taps,
        .weight = tensor_data.base_f32(out.src[1]),
        .bias = if (op.has_bias) tensor_data.base_f32(out.src[2]) else null,
        .silu = op.silu,
        .state = tensor_data.base_bytes(op.state),
        .state_type = state_type(op.state),
        .state_cell_stride = @intCast(op.state.ne[0]),
        .segments = op.step.plan.pools[op.pool].recurrent.segments.items,
    };
    convolution.forward(&args, @intCast(ith), @intCast(nth));
    if (ith == 0) op.step.count_and_log(op.pool, op.state, op.log, &.{.{ op.logged, x }});
}

// ---- selective scan ----

/// The shape of a scan.
pub const ScanShape = extern struct {
    /// Channels of one head.
    head_dim: i32,
    heads: i32,
    /// Groups of heads that share B and C.
    groups: i32,
    state_size: i32,
};

const ScanOp = struct {
    step: *const Step,
    pool: u32,
    state: *Tensor,
    log: ?*Tensor,
    shape: ScanShape,
    x: memory_log.Source = .{ .convolved = 0 },
    dt: memory_log.Source = .{ .convolved = 0 },
    b: memory_log.Source = .{ .convolved = 0 },
};

/// Tensors of a Mamba-2 scan. Rows are the step's tokens.
pub const ScanTensors = struct {
    /// `[head_dim * heads, rows]`
    x: *Tensor,
    /// `[heads, rows]`, before bias and softplus.
    dt: *Tensor,
    /// `[heads]`
    dt_bias: *Tensor,
    /// `[heads]`, negative.
    a: *Tensor,
    /// `[state_size * groups, rows]`
    b: *Tensor,
    c: *Tensor,
    /// `[heads]`, the skip.
    d: *Tensor,
};

/// The Mamba-2 selective scan over state `state` of the memory, `[state_size, head_dim, heads]`. The result is
/// `[head_dim * heads, rows]`.
pub fn scan(builder: *Builder, index: i32, state: i32, tensors: ScanTensors, shape: ScanShape) status.Error!*Tensor {
    if (shape.head_dim < 1 or shape.heads < 1 or shape.groups < 1 or shape.state_size < 1 or
        shape.state_size > ssm_scan.state_size_max or @mod(shape.heads, shape.groups) != 0)
    {
        return status.fail(error.InvalidArgument, "a scan of {d} heads of {d}, {d} groups and state size {d} cannot be", .{
            shape.heads, shape.head_dim, shape.groups, shape.state_size,
        });
    }
    const channels = @as(i64, shape.head_dim) * shape.heads;
    const width = @as(i64, shape.state_size) * shape.groups;
    try builder.check_rows(tensors.x, "the scan's input", channels);
    try builder.check_rows(tensors.dt, "the scan's time steps", shape.heads);
    try builder.check_vector(tensors.dt_bias, "the time steps' bias", shape.heads);
    try builder.check_vector(tensors.a, "the decay", shape.heads);
    try builder.check_rows(tensors.b, "the scan's B", width);
    try builder.check_rows(tensors.c, "the scan's C", width);
    try builder.check_vector(tensors.d, "the skip", shape.heads);
    const d, const pool, const tensor = try builder.find_state(index, state, channels * shape.state_size);
    try builder.check_f32(tensor, "the scan's state");
    const op = try builder.arena.create(ScanOp);
    op.* = .{ .step = builder.step, .pool = pool, .state = tensor, .log = builder.memory.tensors[@intCast(index)].log, .shape = shape };
    if (builder.recipe(index)) |recipe| {
        op.x = recipe.source(tensors.x);
        op.dt = recipe.source(tensors.dt);
        op.b = recipe.source(tensors.b);
        try recipe.steps.append(builder.arena, .{ .scan = .{
            .args = .{
                .x = undefined,
                .x_row_stride = 0,
                .dt = undefined,
                .dt_row_stride = 0,
                .dt_bias = try memory_log.lasting(d.layer, tensors.dt_bias, "the time steps' bias"),
                .a = try memory_log.lasting(d.layer, tensors.a, "the decay"),
                .b = undefined,
                .b_row_stride = 0,
                .c = undefined,
                .c_row_stride = 0,
                .out = null,
                .out_row_stride = 0,
                .state = undefined,
                .state_cell_stride = tensor.nb[1] / @sizeOf(f32),
                .head_dim = @intCast(shape.head_dim),
                .heads = @intCast(shape.heads),
                .groups = @intCast(shape.groups),
                .state_size = @intCast(shape.state_size),
                .segments = &.{},
            },
            .state = tensor,
            .x = op.x,
            .dt = op.dt,
            .b = op.b,
        } });
    }
    const sources = [_]?*Tensor{ tensors.x, tensors.dt, tensors.dt_bias, tensors.a, tensors.b, tensors.c, tensors.d };
    return builder.custom(.{ channels, builder.rows, 1 }, &sources, run_scan, op);
}

fn run_scan(dst: ?*Tensor, ith: c_int, nth: c_int, data: ?*anyopaque) callconv(.c) void {
    const op: *const ScanOp = @ptrCast(@alignCast(data.?));
    const out = dst.?;
    const stride = struct {
        fn of(tensor: *const Tensor) usize {
            return tensor.nb[1] / @sizeOf(f32);
        }
    }.of;
    const args: ssm_scan.Args = .{
        .x = tensor_data.base_f32(out.src[0]),
        .x_row_stride = stride(out.src[0]),
        .dt = tensor_data.base_f32(out.src[1]),
        .dt_row_stride = stride(out.src[1]),
        .dt_bias = tensor_data.base_f32(out.src[2]),
        .a = tensor_data.base_f32(out.src[3]),
        .b = tensor_data.base_f32(out.src[4]),
        .b_row_stride = stride(out.src[4]),
        .c = tensor_data.base_f32(out.src[5]),
        .c_row_stride = stride(out.src[5]),
        .d = tensor_data.base_f32(out.src[6]),
        .out = tensor_data.base_f32(out),
        .out_row_stride = stride(out),
        .state = tensor_data.base_f32(op.state),
        .state_cell_stride = stride(op.state),
        .head_dim = @intCast(op.shape.head_dim),
        .heads = @intCast(op.shape.heads),
        .groups = @intCast(op.shape.groups),
        .state_size = @intCast(op.shape.state_size),
        .segments = op.step.plan.pools[op.pool].recurrent.segments.items,
    };
    ssm_scan.forward(&args, @intCast(ith), @intCast(nth));
    if (ith == 0) op.step.count_and_log(op.pool, op.state, op.log, &.{
        .{ op.x, out.src[0] },
        .{ op.dt, out.src[1] },
        .{ op.b, out.src[4] },
    });
}
