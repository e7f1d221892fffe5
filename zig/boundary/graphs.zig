//! Graphs under construction.

const std = @import("std");
const c = @import("ggml");
const status = @import("../status.zig");
const structs = @import("structs.zig");
const objects = @import("objects.zig");
const ops = @import("../ops.zig");
const graph_file = @import("../graph.zig");
const memory_ops = @import("../memory_ops.zig");
const memory_recurrences = @import("../memory_recurrences.zig");
const Graph = graph_file.Graph;
const gpa = objects.gpa;

pub fn new(handle: u32, rows: u32, outputs: u32, nodes_max: u32, out: *u32) status.Error!void {
    const engine = try objects.engines.get(handle);
    if (rows < 1 or rows > engine.config.batch or outputs < 1 or outputs > rows) {
        return status.fail(error.InvalidArgument, "a graph of {d} rows and {d} outputs cannot be: a sub-batch has 1 to {d} " ++
            "rows, and 1 output to one for each row", .{ rows, outputs, engine.config.batch });
    }
    if (nodes_max < 16 or nodes_max > 1 << 20) {
        return status.fail(error.InvalidArgument, "a graph has room for 16 to {d} nodes, not {d}", .{ 1 << 20, nodes_max });
    }
    const graph = try Graph.create(gpa, .{
        .memory = &engine.memory,
        .step = &engine.step,
        .weights = engine.model.value.weights.items,
        .shape = .{ .rows = rows, .outputs = outputs },
        .nodes_max = nodes_max,
        .threads = @intCast(engine.config.threads),
        .flash = !engine.config.has(structs.EngineConfig.Flags.no_flash),
    });
    errdefer graph.destroy();
    out.* = try objects.graphs.add(gpa, graph);
}

pub fn abandon(handle: u32) status.Error!void {
    (try objects.graphs.remove(handle)).destroy();
}

pub fn finish(engine_handle: u32, handle: u32, logits: i32, out: *structs.GraphInfo) status.Error!void {
    const engine = try objects.engines.get(engine_handle);
    const graph = try objects.graphs.get(handle);
    try graph.finish(logits, @intCast(engine.config.vocabulary));
    try engine.keep_graph(graph);
    _ = try objects.graphs.remove(handle);
    out.* = .{
        .nodes = c.ggml_graph_n_nodes(graph.cgraph),
        .compute_bytes = @floatFromInt(graph.finished.?.layout.bytes),
        .work_bytes = @floatFromInt(graph.finished.?.plan.work_size),
        .scratch_bytes = @floatFromInt(graph.builder.scratch_bytes * graph.builder.threads),
    };
}

pub fn drop(handle: u32, rows: u32, outputs: u32) status.Error!void {
    try (try objects.engines.get(handle)).drop_graph(.{ .rows = rows, .outputs = outputs });
}

pub fn describe(handle: u32, number: i32, out: *structs.TensorInfo) status.Error!void {
    try describe_tensor(try objects.graphs.get(handle), number, out);
}

fn describe_tensor(graph: *Graph, number: i32, out: *structs.TensorInfo) status.Error!void {
    const tensor = try graph.get(number);
    out.number = number;
    out.type = @intCast(tensor.type);
    for (&out.ne, tensor.ne) |*to, from| to.* = @floatFromInt(from);
    for (&out.nb, tensor.nb) |*to, from| to.* = @floatFromInt(from);
}

pub fn add_input(handle: u32, which: i32, out: *structs.TensorInfo) status.Error!void {
    const graph = try objects.graphs.get(handle);
    const checked = std.enums.fromInt(graph_file.Input, which) orelse {
        return status.fail(error.InvalidArgument, "a graph has no input {d}", .{which});
    };
    try describe_tensor(graph, try graph.input(checked), out);
}

/// How many operands of each kind an operation takes.
const OperandCounts = struct { tensors: usize = 0, ints: usize = 0, floats: usize = 0 };

const operand_counts: [ops.signatures.len]OperandCounts = blk: {
    var counts: [ops.signatures.len]OperandCounts = @splat(.{});
    for (ops.signatures, &counts) |signature, *count| for (signature.params) |param| switch (param) {
        .tensor, .optional_tensor => count.tensors += 1,
        .float => count.floats += 1,
        .int, .boolean, .enumeration => count.ints += 1,
    };
    break :blk counts;
};

pub fn add_op(handle: u32, op: u32, arguments: *const structs.OpArguments, out: *structs.TensorInfo) status.Error!void {
    const graph = try objects.graphs.get(handle);
    try graph.check_open();
    if (op >= operand_counts.len) return status.fail(error.NotFound, "there is no graph operation {d}", .{op});
    const counts = operand_counts[op];
    var tensors: [arguments.tensors.len]?*ops.Tensor = undefined;
    for (tensors[0..counts.tensors], arguments.tensors[0..counts.tensors]) |*to, number| to.* = try graph.get_optional(number);
    const result = try ops.dispatch(
        graph.context,
        op,
        tensors[0..counts.tensors],
        arguments.ints[0..counts.ints],
        arguments.floats[0..counts.floats],
    );
    try describe_tensor(graph, try graph.add(result), out);
}

pub fn attend(
    handle: u32,
    memory: i32,
    queries: i32,
    keys: i32,
    values: i32,
    parameters: memory_ops.AttendParameters,
    out: *structs.TensorInfo,
) status.Error!void {
    const graph = try objects.graphs.get(handle);
    try describe_tensor(graph, try graph.attend(memory, queries, keys, values, parameters), out);
}

pub fn convolve(
    handle: u32,
    memory: i32,
    state: i32,
    x: i32,
    weight: i32,
    bias: i32,
    silu: bool,
    out: *structs.TensorInfo,
) status.Error!void {
    const graph = try objects.graphs.get(handle);
    try graph.check_open();
    const result = try memory_recurrences.convolve(
        &graph.builder,
        memory,
        state,
        try graph.get(x),
        try graph.get(weight),
        try graph.get_optional(bias),
        silu,
    );
    try describe_tensor(graph, try graph.add(result), out);
}

pub fn scan(handle: u32, a: *const structs.ScanArguments, out: *structs.TensorInfo) status.Error!void {
    const graph = try objects.graphs.get(handle);
    try graph.check_open();
    const result = try memory_recurrences.scan(&graph.builder, a.memory, a.state, try scan_tensors(graph, a), .{
        .head_dim = a.shape_head_dim,
        .heads = a.shape_heads,
        .groups = a.shape_groups,
        .state_size = a.shape_state_size,
    });
    try describe_tensor(graph, try graph.add(result), out);
}

pub fn scan_mamba1(handle: u32, a: *const structs.ScanMamba1Arguments, out: *structs.TensorInfo) status.Error!void {
    const graph = try objects.graphs.get(handle);
    try graph.check_open();
    const result = try memory_recurrences.scan_mamba1(&graph.builder, a.memory, a.state, try scan_tensors(graph, a));
    try describe_tensor(graph, try graph.add(result), out);
}

fn scan_tensors(graph: *Graph, a: anytype) status.Error!memory_recurrences.ScanTensors {
    return .{
        .x = try graph.get(a.x),
        .dt = try graph.get(a.dt),
        .dt_bias = try graph.get_optional(a.dt_bias),
        .a = try graph.get(a.a),
        .b = try graph.get(a.b),
        .c = try graph.get(a.c),
        .d = try graph.get_optional(a.d),
    };
}

pub fn delta_net(handle: u32, a: *const structs.DeltaNetArguments, out: *structs.TensorInfo) status.Error!void {
    const graph = try objects.graphs.get(handle);
    try graph.check_open();
    const tensors: memory_recurrences.DeltaNetTensors = .{
        .q = try graph.get(a.q),
        .k = try graph.get(a.k),
        .v = try graph.get(a.v),
        .g = try graph.get(a.g),
        .beta = try graph.get(a.beta),
    };
    const result = try memory_recurrences.delta_net(&graph.builder, a.memory, a.state, tensors, .{
        .key_dim = a.key_dim,
        .value_dim = a.value_dim,
        .key_heads = a.key_heads,
        .value_heads = a.value_heads,
        .interleaved = a.interleaved != 0,
        .normalize = if (a.normalize >= 0) a.normalize else null,
        .beta_sigmoid = a.beta_sigmoid != 0,
        .scale = a.scale,
    });
    try describe_tensor(graph, try graph.add(result), out);
}

pub fn wkv6(handle: u32, a: *const structs.Wkv6Arguments, out: *structs.TensorInfo) status.Error!void {
    const graph = try objects.graphs.get(handle);
    try graph.check_open();
    const u = try graph.get(a.u);
    const shape: memory_recurrences.WkvShape = .{ .head_size = a.head_size, .heads = a.heads };
    const result = try memory_recurrences.wkv6(&graph.builder, a.memory, a.state, try wkv_tensors(graph, a), u, shape);
    try describe_tensor(graph, try graph.add(result), out);
}

pub fn wkv7(handle: u32, a: *const structs.Wkv7Arguments, out: *structs.TensorInfo) status.Error!void {
    const graph = try objects.graphs.get(handle);
    try graph.check_open();
    const removed = try graph.get(a.a);
    const placed = try graph.get(a.b);
    const shape: memory_recurrences.WkvShape = .{ .head_size = a.head_size, .heads = a.heads };
    const result = try memory_recurrences.wkv7(&graph.builder, a.memory, a.state, try wkv_tensors(graph, a), removed, placed, shape);
    try describe_tensor(graph, try graph.add(result), out);
}

fn wkv_tensors(graph: *Graph, a: anytype) status.Error!memory_recurrences.WkvTensors {
    return .{ .r = try graph.get(a.r), .w = try graph.get(a.w), .k = try graph.get(a.k), .v = try graph.get(a.v) };
}

pub fn linear_recurrence(handle: u32, memory: i32, state: i32, a: i32, x: i32, out: *structs.TensorInfo) status.Error!void {
    const graph = try objects.graphs.get(handle);
    try graph.check_open();
    const result = try memory_recurrences.linear_recurrence(&graph.builder, memory, state, try graph.get(a), try graph.get(x));
    try describe_tensor(graph, try graph.add(result), out);
}

pub fn previous(handle: u32, memory: i32, state: i32, x: i32, out: *structs.TensorInfo) status.Error!void {
    const graph = try objects.graphs.get(handle);
    try graph.check_open();
    const result = try memory_recurrences.previous(&graph.builder, memory, state, try graph.get(x));
    try describe_tensor(graph, try graph.add(result), out);
}
