//! The operations on states: convolutions, scans and other recurrences, as ggml nodes that run our kernels. Each keeps
//! its kernel's arguments, to which a step, or a state that is computed again, adds where operands and cells lie.

const std = @import("std");
const assert = std.debug.assert;
const c = @import("ggml");
const status = @import("status.zig");
const tensor_data = @import("tensor_data.zig");
const memory_log = @import("memory_log.zig");
const memory_ops = @import("memory_ops.zig");
const recurrent_pool = @import("recurrent_pool.zig");
const convolution = @import("kernels/convolution.zig");
const ssm_scan = @import("kernels/ssm_scan.zig");
const delta_net_kernel = @import("kernels/delta_net.zig");
const wkv = @import("kernels/wkv.zig");
const linear_recurrence_kernel = @import("kernels/linear_recurrence.zig");
const previous_kernel = @import("kernels/previous.zig");
const Segment = @import("kernels/segment.zig").Segment;

const Tensor = c.ggml_tensor;
const Builder = memory_ops.Builder;

/// An operand of a kernel, under the name that it has there.
const Operand = struct {
    name: []const u8,
    /// A row for each token, or the same for all.
    kind: enum { rows, weight } = .rows,
    /// The state goes on from it. What only the result needs is left out where a state is computed again.
    advances: bool = true,
};

/// A tensor that was checked to serve as an operand; null is one that is left out.
const Given = struct {
    tensor: ?*Tensor,
    /// Of rows: floats in each, and from one to the next.
    width: usize = 0,
    stride: usize = 0,

    fn weight(tensor: ?*Tensor) Given {
        return .{ .tensor = tensor };
    }

    fn rows(given: Given) memory_log.Rows {
        return .{ .tensor = given.tensor.?, .width = given.width, .stride = given.stride };
    }
};

/// The state that an operation advances.
const State = struct {
    layer: i32,
    number: u32,
    pool: u32,
    tensor: *Tensor,
    log: ?*Tensor,
    recipe: *memory_log.Recipe,

    fn find(builder: *const Builder, index: i32, number: i32, elements: i64) status.Error!State {
        const d, const tensors = try builder.find(index, .recurrent);
        const memory: usize = @intCast(index);
        if (builder.memory.declarations[memory].shared_from >= 0) {
            return status.fail(error.InvalidArgument, "layer {d}: states are advanced by the layer that owns them, not by one that " ++
                "shares them", .{d.layer});
        }
        if (number < 0 or number >= d.state_count) {
            return status.fail(error.NotFound, "layer {d}: its memory has {d} states, and number {d} was asked for", .{
                d.layer, d.state_count, number,
            });
        }
        const declared = d.state_elements[@intCast(number)];
        if (declared != elements) {
            return status.fail(error.InvalidArgument, "layer {d}: state {d} was declared with {d} elements, and this " ++
                "operation needs {d}", .{ d.layer, number, declared, elements });
        }
        const recipe = &builder.recipes[memory];
        if (recipe.advanced.isSet(@intCast(number))) {
            return status.fail(error.InvalidArgument, "layer {d}: state {d} has its operation already; a second one needs a state " ++
                "of its own", .{ d.layer, number });
        }
        return .{
            .layer = d.layer,
            .number = @intCast(number),
            .pool = tensors.pool,
            .tensor = tensors.items[@intCast(number)].?,
            .log = tensors.log,
            .recipe = recipe,
        };
    }

    fn find_f32(builder: *const Builder, index: i32, number: i32, elements: i64) status.Error!State {
        const state: State = try .find(builder, index, number, elements);
        try builder.check_f32(state.tensor, "the state");
        return state;
    }
};

/// A kernel as an operation on a state. `Args` are what it takes; among them are `out`, `state`, `segments`, and for
/// every operand a field of its name, and if it is rows a stride.
fn Operation(
    comptime Args: type,
    comptime forward: fn (args: *const Args, ith: usize, nth: usize) void,
    comptime operands: []const Operand,
) type {
    return struct {
        const Self = @This();

        /// What it gives is computed again too, for the operations that read it.
        const always_gives = @FieldType(Args, "out") == [*]f32;

        step: *const memory_ops.Step,
        state: State,
        /// Without what differs from step to step.
        args: Args,
        given: [operands.len]Given,
        /// Where rows that the state goes on from are found again.
        sources: [operands.len]memory_log.Source = undefined,
        /// Where what it gives lies among all convolutions' channels.
        column: usize = 0,

        /// Makes the node, `[width, rows]`. `shape` has the arguments that are the same for every step.
        fn add(builder: *Builder, state: State, width: i64, shape: anytype, given: [operands.len]Given) status.Error!*Tensor {
            if (state.log != null) for (operands, given) |operand, one| {
                if (operand.kind == .weight and operand.advances) try check_lasting(state.layer, one.tensor, operand.name);
            };
            const op = try builder.arena.create(Self);
            op.* = .{ .step = builder.step, .state = state, .args = arguments(shape), .given = given };
            var tensors: [operands.len]?*Tensor = undefined;
            for (&tensors, given) |*to, one| to.* = one.tensor;
            const node = builder.custom(.{ width, builder.rows, 1 }, &tensors, compute, op);
            state.recipe.advanced.set(state.number);
            if (state.log == null) return node;
            for (operands, given, &op.sources) |operand, one, *source| {
                if (operand.kind == .rows and operand.advances) source.* = state.recipe.source(one.rows());
            }
            if (always_gives) op.column = try state.recipe.add_convolution(builder.arena, node);
            try state.recipe.steps.append(builder.arena, .{ .operation = op, .run = compute_again });
            return node;
        }

        /// `shape`, and the defaults of the rest; what a step brings is not set.
        fn arguments(shape: anytype) Args {
            var args: Args = undefined;
            const info = @typeInfo(Args).@"struct";
            inline for (info.field_names, info.field_types, info.field_attrs) |name, Field, attributes| {
                if (@hasField(@TypeOf(shape), name)) {
                    @field(args, name) = @field(shape, name);
                } else if (comptime attributes.defaultValue(Field)) |value| {
                    @field(args, name) = value;
                } else if (comptime !is_brought(name)) {
                    @compileError(@typeName(Args) ++ " needs " ++ name);
                }
            }
            return args;
        }

        fn is_brought(comptime name: []const u8) bool {
            for ([_][]const u8{ "out", "out_row_stride", "state", "state_cell_stride", "segments" }) |own| {
                if (std.mem.eql(u8, name, own)) return true;
            }
            for (operands) |operand| {
                if (std.mem.eql(u8, name, operand.name) or std.mem.eql(u8, name, operand.name ++ "_row_stride")) return true;
            }
            return false;
        }

        fn set_rows(args: *Args, comptime name: []const u8, first: [*]const f32, stride: usize) void {
            if (@hasField(Args, name ++ "_row_stride")) {
                @field(args, name) = first;
                @field(args, name ++ "_row_stride") = stride;
            } else {
                @field(args, name) = .{ .first = first, .stride = stride };
            }
        }

        fn set_state(op: *const Self, args: *Args, segments: []const Segment) void {
            const tensor = op.state.tensor;
            args.state = if (@FieldType(Args, "state") == [*]u8) tensor_data.base_bytes(tensor) else tensor_data.base_f32(tensor);
            args.state_cell_stride = @intCast(tensor.ne[0]);
            args.segments = segments;
        }

        fn compute(dst: ?*Tensor, ith: c_int, nth: c_int, data: ?*anyopaque) callconv(.c) void {
            const op: *const Self = @ptrCast(@alignCast(data.?));
            const out = dst.?;
            const plan = &op.step.plan.pools[op.state.pool].recurrent;
            var args = op.args;
            inline for (operands, op.given) |operand, given| if (given.tensor) |tensor| switch (operand.kind) {
                .rows => set_rows(&args, operand.name, tensor_data.base_f32(tensor), given.stride),
                .weight => @field(args, operand.name) = tensor_data.base_f32(tensor),
            };
            args.out = tensor_data.base_f32(out);
            args.out_row_stride = out.nb[1] / @sizeOf(f32);
            op.set_state(&args, plan.segments.items);
            forward(&args, @intCast(ith), @intCast(nth));
            if (ith == 0) op.count_and_log(plan);
        }

        /// Counts the bytes of state that were read and written, and logs what the state went on from.
        fn count_and_log(op: *const Self, plan: *const recurrent_pool.RecurrentPool.Plan) void {
            const memory = op.step.memory;
            for (plan.segments.items) |segment| {
                memory.state_bytes_moved += op.state.tensor.nb[1] * (1 + @as(u64, @intFromBool(segment.read_cell >= 0)));
            }
            const log = op.state.log orelse return;
            const pool = &memory.pools[op.state.pool].recurrent;
            inline for (operands, op.given, op.sources) |operand, given, source| {
                if (operand.kind == .rows and operand.advances) memory_log.write(pool, plan.logs.items, log, source, given.rows());
            }
        }

        fn compute_again(operation: *const anyopaque, again: *const memory_log.Again) void {
            const op: *const Self = @ptrCast(@alignCast(operation));
            var args = op.args;
            inline for (operands, op.given, op.sources) |operand, given, source| if (operand.advances) switch (operand.kind) {
                .rows => {
                    const first, const stride = again.find(source);
                    set_rows(&args, operand.name, first, stride);
                },
                .weight => if (given.tensor) |tensor| {
                    @field(args, operand.name) = tensor_data.base_f32(tensor);
                },
            };
            args.out = if (always_gives) again.convolved + op.column else null;
            args.out_row_stride = again.channels;
            op.set_state(&args, again.segments);
            forward(&args, 0, 1);
        }
    };
}

/// A weight is still there when the graph is not; what the graph computes is not.
fn check_lasting(layer: i32, tensor: ?*const Tensor, name: []const u8) status.Error!void {
    const weight = tensor orelse return;
    if (weight.data != null) return;
    return status.fail(error.Unsupported, "layer {d}: the operand {s} is computed in the graph, so its states cannot be computed " ++
        "again; declare the memory without inputs", .{ layer, name });
}

// ---- operands ----

/// `[width, rows]`.
fn rows_of(builder: *const Builder, tensor: *Tensor, what: []const u8, width: i64) status.Error!Given {
    try builder.check_rows(tensor, what, width);
    return .{ .tensor = tensor, .width = @intCast(width), .stride = tensor.nb[1] / @sizeOf(f32) };
}

/// `[size * heads, rows]`, or `[size, heads, rows]` where the heads of a token lie together.
fn heads_of(builder: *const Builder, tensor: *Tensor, what: []const u8, size: i64, heads: i64) status.Error!Given {
    try builder.check_f32(tensor, what);
    const width = size * heads;
    if (rows_stride(builder, tensor, size, heads)) |stride| return .{ .tensor = tensor, .width = @intCast(width), .stride = stride };
    return status.fail(error.InvalidArgument, "{s} must be [{d}, {d}], or [{d}, {d}, {d}] with the heads of a token next to each " ++
        "other, not {any}", .{ what, width, builder.rows, size, heads, builder.rows, tensor.ne });
}

/// Floats from row to row of a tensor that has the shape of heads; null where it has not.
fn rows_stride(builder: *const Builder, tensor: *const Tensor, size: i64, heads: i64) ?usize {
    const ne = tensor.ne;
    if (ne[3] != 1) return null;
    if (ne[0] == size * heads and ne[1] == builder.rows and ne[2] == 1) return tensor.nb[1] / @sizeOf(f32);
    const together = heads == 1 or tensor.nb[1] == @as(usize, @intCast(size)) * @sizeOf(f32);
    if (ne[0] == size and ne[1] == heads and ne[2] == builder.rows and together) return tensor.nb[2] / @sizeOf(f32);
    return null;
}

fn vector_of(builder: *const Builder, tensor: ?*Tensor, what: []const u8, elements: i64) status.Error!Given {
    if (tensor) |given| try builder.check_vector(given, what, elements);
    return .weight(tensor);
}

// ---- convolution ----

const Convolve = Operation(convolution.Args, convolution.forward, &.{
    .{ .name = "x" },
    .{ .name = "weight", .kind = .weight },
    .{ .name = "bias", .kind = .weight },
});

/// Depthwise causal convolution of `x` `[channels, rows]` with `weight` `[taps, channels]`, plus `bias` `[channels]`,
/// then SiLU if asked for. State `number` of the memory holds the last `taps - 1` inputs, `[channels, taps - 1]`.
pub fn convolve(
    builder: *Builder,
    memory: i32,
    number: i32,
    x: *Tensor,
    weight: *Tensor,
    bias: ?*Tensor,
    silu: bool,
) status.Error!*Tensor {
    const taps, const channels = try convolution_shape(weight);
    const given = [_]Given{
        try rows_of(builder, x, "the convolution's input", channels),
        try vector_of(builder, weight, "the convolution's weight", taps * channels),
        try vector_of(builder, bias, "the convolution's bias", channels),
    };
    const state: State = try .find(builder, memory, number, (taps - 1) * channels);
    const shape = .{
        .channels = @as(usize, @intCast(channels)),
        .taps = @as(usize, @intCast(taps)),
        .silu = silu,
        .state_type = if (state.tensor.type == c.GGML_TYPE_F16) convolution.StateType.f16 else .f32,
    };
    return Convolve.add(builder, state, channels, shape, given);
}

/// The taps and channels of a weight `[taps, channels]`, which a file may give as `[taps, 1, channels]`.
fn convolution_shape(weight: *const Tensor) status.Error!struct { i64, i64 } {
    const taps = weight.ne[0];
    const channels = weight.ne[1] * weight.ne[2] * weight.ne[3];
    const is_plain = weight.ne[1] == channels or (weight.ne[1] == 1 and weight.ne[2] == channels);
    if (taps < 2 or taps > convolution.taps_max or !is_plain) {
        return status.fail(error.Unsupported, "a convolution of 2 to {d} taps was expected, and its weight is {any}", .{
            convolution.taps_max, weight.ne,
        });
    }
    return .{ taps, channels };
}

// ---- selective scans ----

const scan_operands = [_]Operand{
    .{ .name = "x" },
    .{ .name = "dt" },
    .{ .name = "dt_bias", .kind = .weight },
    .{ .name = "a", .kind = .weight },
    .{ .name = "b" },
    .{ .name = "c", .advances = false },
    .{ .name = "d", .kind = .weight, .advances = false },
};

const Scan = Operation(ssm_scan.Args, ssm_scan.forward, &scan_operands);
const ScanMamba1 = Operation(ssm_scan.Args, ssm_scan.forward_mamba1, &scan_operands);

/// The shape of a scan.
pub const ScanShape = struct {
    /// Channels of one head.
    head_dim: i32,
    heads: i32,
    /// Groups of heads that share B and C.
    groups: i32,
    state_size: i32,
};

/// Tensors of a Mamba-2 scan. Rows are the step's tokens.
pub const ScanTensors = struct {
    /// `[head_dim * heads, rows]`
    x: *Tensor,
    /// `[heads, rows]`, before bias and softplus.
    dt: *Tensor,
    /// `[heads]`
    dt_bias: ?*Tensor,
    /// `[heads]`, negative.
    a: *Tensor,
    /// `[state_size * groups, rows]`
    b: *Tensor,
    c: *Tensor,
    /// `[heads]`, the skip.
    d: ?*Tensor,
};

/// The Mamba-2 selective scan over state `number` of the memory, `[state_size, head_dim, heads]`. The result is
/// `[head_dim * heads, rows]`.
pub fn scan(builder: *Builder, memory: i32, number: i32, tensors: ScanTensors, shape: ScanShape) status.Error!*Tensor {
    if (shape.head_dim < 1 or shape.heads < 1 or shape.groups < 1 or shape.state_size < 1 or
        shape.state_size > ssm_scan.state_size_max or @mod(shape.heads, shape.groups) != 0)
    {
        return status.fail(error.InvalidArgument, "a scan of {d} heads of {d}, {d} groups and state size {d} cannot be", .{
            shape.heads, shape.head_dim, shape.groups, shape.state_size,
        });
    }
    const channels = @as(i64, shape.head_dim) * shape.heads;
    const given = [_]Given{
        try heads_of(builder, tensors.x, "the scan's input", shape.head_dim, shape.heads),
        try rows_of(builder, tensors.dt, "the scan's time steps", shape.heads),
        try vector_of(builder, tensors.dt_bias, "the time steps' bias", shape.heads),
        try vector_of(builder, tensors.a, "the decay", shape.heads),
        try heads_of(builder, tensors.b, "the scan's B", shape.state_size, shape.groups),
        try heads_of(builder, tensors.c, "the scan's C", shape.state_size, shape.groups),
        try vector_of(builder, tensors.d, "the skip", shape.heads),
    };
    const state: State = try .find_f32(builder, memory, number, channels * shape.state_size);
    return Scan.add(builder, state, channels, .{
        .head_dim = @as(usize, @intCast(shape.head_dim)),
        .heads = @as(usize, @intCast(shape.heads)),
        .groups = @as(usize, @intCast(shape.groups)),
        .state_size = @as(usize, @intCast(shape.state_size)),
    }, given);
}

/// The Mamba-1 selective scan over state `number` of the memory, `[state_size, channels]`: every number of the state has
/// its own decay. `a` is `[state_size, channels]` and says the shape; `dt` is `[channels, rows]`, `dt_bias` and `d`
/// `[channels]`, `b` and `c` `[state_size, rows]`. The result is `[channels, rows]`.
pub fn scan_mamba1(builder: *Builder, memory: i32, number: i32, tensors: ScanTensors) status.Error!*Tensor {
    const state_size = tensors.a.ne[0];
    const channels = tensors.a.ne[1];
    if (state_size > ssm_scan.state_size_max) {
        return status.fail(error.InvalidArgument, "a scan of state size {d} cannot be; the largest is {d}", .{
            state_size, ssm_scan.state_size_max,
        });
    }
    const given = [_]Given{
        try rows_of(builder, tensors.x, "the scan's input", channels),
        try rows_of(builder, tensors.dt, "the scan's time steps", channels),
        try vector_of(builder, tensors.dt_bias, "the time steps' bias", channels),
        try vector_of(builder, tensors.a, "the decay", state_size * channels),
        try rows_of(builder, tensors.b, "the scan's B", state_size),
        try rows_of(builder, tensors.c, "the scan's C", state_size),
        try vector_of(builder, tensors.d, "the skip", channels),
    };
    const state: State = try .find_f32(builder, memory, number, state_size * channels);
    return ScanMamba1.add(builder, state, channels, .{
        .head_dim = @as(usize, @intCast(channels)),
        .heads = 1,
        .groups = 1,
        .state_size = @as(usize, @intCast(state_size)),
    }, given);
}

// ---- gated delta nets ----

const DeltaNet = Operation(delta_net_kernel.Args, delta_net_kernel.forward, &.{
    .{ .name = "q", .advances = false },
    .{ .name = "k" },
    .{ .name = "v" },
    .{ .name = "g" },
    .{ .name = "beta" },
});

pub const DeltaNetShape = struct {
    key_dim: i32,
    value_dim: i32,
    key_heads: i32,
    value_heads: i32,
    /// Value head h reads key head `h % key_heads`, or else `h / (value_heads / key_heads)`.
    interleaved: bool,
    /// `q` and `k` of each head are divided by `sqrt(sum of squares + normalize)`; null takes them as they are.
    normalize: ?f32,
    /// `beta` is raw: its sigmoid is to be taken.
    beta_sigmoid: bool,
    /// Multiplies the result.
    scale: f32,
};

/// Tensors of a gated delta net. Rows are the step's tokens; a size times heads may also be two dimensions.
pub const DeltaNetTensors = struct {
    /// `[key_dim * key_heads, rows]`
    q: *Tensor,
    k: *Tensor,
    /// `[value_dim * value_heads, rows]`
    v: *Tensor,
    /// The logarithm of the decay, one per head `[value_heads, rows]`, or per key channel `[key_dim * value_heads, rows]`.
    g: *Tensor,
    /// `[value_heads, rows]`
    beta: *Tensor,
};

/// The gated delta rule over state `number` of the memory, `[key_dim, value_dim, value_heads]`. The result is
/// `[value_dim * value_heads, rows]`.
pub fn delta_net(builder: *Builder, memory: i32, number: i32, tensors: DeltaNetTensors, shape: DeltaNetShape) status.Error!*Tensor {
    if (shape.key_dim < 1 or shape.key_dim > delta_net_kernel.key_dim_max or shape.value_dim < 1 or shape.key_heads < 1 or
        shape.value_heads < 1 or @mod(shape.value_heads, shape.key_heads) != 0)
    {
        return status.fail(error.InvalidArgument, "a delta net of {d} key heads of {d} and {d} value heads of {d} cannot be", .{
            shape.key_heads, shape.key_dim, shape.value_heads, shape.value_dim,
        });
    }
    try builder.check_f32(tensors.g, "the decay");
    const per_head = rows_stride(builder, tensors.g, 1, shape.value_heads) != null;
    const given = [_]Given{
        try heads_of(builder, tensors.q, "the queries", shape.key_dim, shape.key_heads),
        try heads_of(builder, tensors.k, "the keys", shape.key_dim, shape.key_heads),
        try heads_of(builder, tensors.v, "the values", shape.value_dim, shape.value_heads),
        try heads_of(builder, tensors.g, "the decay", if (per_head) 1 else shape.key_dim, shape.value_heads),
        try heads_of(builder, tensors.beta, "beta", 1, shape.value_heads),
    };
    const width = @as(i64, shape.value_dim) * shape.value_heads;
    const state: State = try .find_f32(builder, memory, number, width * shape.key_dim);
    const key_dim: usize = @intCast(shape.key_dim);
    return DeltaNet.add(builder, state, width, .{
        .q_head_stride = key_dim,
        .k_head_stride = key_dim,
        .normalize = shape.normalize,
        .decay = if (per_head) delta_net_kernel.Decay.head else .channel,
        .beta_sigmoid = shape.beta_sigmoid,
        .scale = shape.scale,
        .key_dim = key_dim,
        .value_dim = @as(usize, @intCast(shape.value_dim)),
        .key_heads = @as(usize, @intCast(shape.key_heads)),
        .value_heads = @as(usize, @intCast(shape.value_heads)),
        .mapping = if (shape.interleaved) delta_net_kernel.Mapping.interleaved else .blocks,
    }, given);
}

// ---- RWKV ----

const wkv_operands = [_]Operand{
    .{ .name = "r", .advances = false },
    .{ .name = "w" },
    .{ .name = "k" },
    .{ .name = "v" },
};
const Wkv6 = Operation(wkv.Args, wkv.forward_v6, &wkv_operands ++ [_]Operand{.{ .name = "u", .kind = .weight }});
const Wkv7 = Operation(wkv.Args, wkv.forward_v7, &wkv_operands ++ [_]Operand{ .{ .name = "a" }, .{ .name = "b" } });

pub const WkvShape = struct { head_size: i32, heads: i32 };

/// Tensors of RWKV's time mixing. Rows are the step's tokens, `[head_size * heads, rows]` or `[head_size, heads, rows]`.
pub const WkvTensors = struct {
    r: *Tensor,
    /// The decay, a factor.
    w: *Tensor,
    k: *Tensor,
    v: *Tensor,
};

fn given_wkv(builder: *const Builder, tensors: WkvTensors, shape: WkvShape) status.Error![4]Given {
    const size, const heads = .{ shape.head_size, shape.heads };
    if (size < 1 or size > wkv.head_size_max or heads < 1) {
        return status.fail(error.InvalidArgument, "time mixing with {d} heads of {d} cannot be; a head has 1 to {d} elements", .{
            heads, size, wkv.head_size_max,
        });
    }
    return .{
        try heads_of(builder, tensors.r, "the receptance", size, heads),
        try heads_of(builder, tensors.w, "the decay", size, heads),
        try heads_of(builder, tensors.k, "the keys", size, heads),
        try heads_of(builder, tensors.v, "the values", size, heads),
    };
}

fn wkv_state(builder: *const Builder, memory: i32, number: i32, shape: WkvShape) status.Error!State {
    return .find_f32(builder, memory, number, @as(i64, shape.head_size) * shape.head_size * shape.heads);
}

fn wkv_arguments(shape: WkvShape) struct { head_size: usize, heads: usize } {
    return .{ .head_size = @intCast(shape.head_size), .heads = @intCast(shape.heads) };
}

/// The time mixing of RWKV-6 over state `number` of the memory, `[head_size, head_size, heads]` with values fastest;
/// `u` is the bonus of the current token, `[head_size * heads]`. The result is `[head_size * heads, rows]`.
pub fn wkv6(builder: *Builder, memory: i32, number: i32, tensors: WkvTensors, u: *Tensor, shape: WkvShape) status.Error!*Tensor {
    const given = try given_wkv(builder, tensors, shape);
    const width = @as(i64, shape.head_size) * shape.heads;
    const bonus = [_]Given{try vector_of(builder, u, "the bonus", width)};
    return Wkv6.add(builder, try wkv_state(builder, memory, number, shape), width, wkv_arguments(shape), given ++ bonus);
}

/// The time mixing of RWKV-7 over state `number` of the memory, `[head_size, head_size, heads]` with keys fastest; `a`
/// says what is taken out of the state, and `b` where it goes. The result is `[head_size * heads, rows]`.
pub fn wkv7(
    builder: *Builder,
    memory: i32,
    number: i32,
    tensors: WkvTensors,
    a: *Tensor,
    b: *Tensor,
    shape: WkvShape,
) status.Error!*Tensor {
    const given = try given_wkv(builder, tensors, shape);
    const width = @as(i64, shape.head_size) * shape.heads;
    const removal = [_]Given{
        try heads_of(builder, a, "the removal key", shape.head_size, shape.heads),
        try heads_of(builder, b, "the replacement key", shape.head_size, shape.heads),
    };
    return Wkv7.add(builder, try wkv_state(builder, memory, number, shape), width, wkv_arguments(shape), given ++ removal);
}

// ---- channel by channel ----

const LinearRecurrence = Operation(linear_recurrence_kernel.Args, linear_recurrence_kernel.forward, &.{ .{ .name = "a" }, .{ .name = "x" } });

/// `h = a * h + x` for every channel; both are `[channels, rows]`, and state `number` of the memory is `[channels]`. The
/// result is `h` after each token, `[channels, rows]`.
pub fn linear_recurrence(builder: *Builder, memory: i32, number: i32, a: *Tensor, x: *Tensor) status.Error!*Tensor {
    const channels = x.ne[0];
    const given = [_]Given{
        try rows_of(builder, a, "the decay", channels),
        try rows_of(builder, x, "the recurrence's input", channels),
    };
    const state: State = try .find_f32(builder, memory, number, channels);
    return LinearRecurrence.add(builder, state, channels, .{ .channels = @as(usize, @intCast(channels)) }, given);
}

const Previous = Operation(previous_kernel.Args, previous_kernel.forward, &.{.{ .name = "x" }});

/// Every row is the row of `x` `[channels, rows]` before it in its sequence, zeros at the start. State `number` of the
/// memory, `[channels]`, is the last row.
pub fn previous(builder: *Builder, memory: i32, number: i32, x: *Tensor) status.Error!*Tensor {
    const channels = x.ne[0];
    const given = [_]Given{try rows_of(builder, x, "the input", channels)};
    const state: State = try .find_f32(builder, memory, number, channels);
    return Previous.add(builder, state, channels, .{ .channels = @as(usize, @intCast(channels)) }, given);
}
