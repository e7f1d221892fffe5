//! Moving positions: keys that were turned by their positions (rotary embedding) are turned on by the difference. How
//! keys are turned is read off the graph that stores them.

const std = @import("std");
const c = @import("ggml");
const status = @import("status.zig");
const tensor_data = @import("tensor_data.zig");
const memory_file = @import("memory.zig");
const CellTurn = @import("attention_pool.zig").CellTurn;

const Tensor = c.ggml_tensor;
const Memory = memory_file.Memory;

/// Cells that are turned at once.
const cells_max = 256;

/// How the keys of one memory were turned before they were stored.
pub const Turn = union(enum) {
    /// By nothing: no graph has stored any yet, or their positions do not show in them.
    none,
    rope: Rope,
    /// By a rotary embedding that is no more what was stored last, or that cannot be done once more by itself.
    unknown,

    pub fn of_keys(keys: *const Tensor) Turn {
        var tensor = keys;
        while (true) switch (tensor.op) {
            c.GGML_OP_RESHAPE, c.GGML_OP_CONT => tensor = tensor.src[0] orelse return .none,
            c.GGML_OP_VIEW => {
                if (c.ggml_nelements(tensor) != c.ggml_nelements(tensor.src[0])) return if (has_rope(tensor, 8)) .unknown else .none;
                tensor = tensor.src[0] orelse return .none;
            },
            c.GGML_OP_ROPE => return .of_rope(tensor),
            else => return if (has_rope(tensor, 8)) .unknown else .none,
        };
    }

    fn of_rope(tensor: *const Tensor) Turn {
        // What was turned twice is moved by turning it twice.
        if (has_rope(tensor.src[0], 8)) return .unknown;
        // Factors that a graph computes are only there while it runs.
        if (tensor.src[2]) |factors| if (factors.*.data == null) return .unknown;
        return .{ .rope = .of(tensor) };
    }

    fn has_rope(tensor: *const Tensor, depth: u32) bool {
        if (tensor.op == c.GGML_OP_ROPE) return true;
        // Behind a product, positions of a layer before no longer are this key's.
        if (depth == 0 or tensor.op == c.GGML_OP_MUL_MAT) return false;
        for (tensor.src) |source| if (source) |s| {
            if (has_rope(s, depth - 1)) return true;
        };
        return false;
    }
};

const Rope = struct {
    dims: i32,
    mode: i32,
    context: i32,
    base: f32,
    scale: f32,
    extension: f32,
    beta_fast: f32,
    beta_slow: f32,
    /// A weight or a view of one, or none.
    factors: ?*Tensor,

    fn of(tensor: *const Tensor) Rope {
        const numbers: [*]const f32 = @ptrCast(&tensor.op_params);
        return .{
            .dims = tensor.op_params[1],
            .mode = tensor.op_params[2],
            .context = tensor.op_params[4],
            .base = numbers[5],
            .scale = numbers[6],
            .extension = numbers[7],
            .beta_fast = numbers[9],
            .beta_slow = numbers[10],
            .factors = if (tensor.src[2]) |factors| @constCast(factors) else null,
        };
    }
};

/// How a graph is computed here: by the engine's threads.
pub const Compute = struct {
    threadpool: *c.ggml_threadpool,
    threads: u32,

    pub fn run(compute: Compute, gpa: std.mem.Allocator, graph: *c.ggml_cgraph) status.Error!void {
        var plan = c.ggml_graph_plan(graph, @intCast(compute.threads), compute.threadpool);
        const work = try gpa.alignedAlloc(u8, .@"64", @max(plan.work_size, 1));
        defer gpa.free(work);
        plan.work_data = work.ptr;
        const code = c.ggml_graph_compute(graph, &plan);
        if (code != c.GGML_STATUS_SUCCESS) return status.fail(error.Internal, "ggml could not compute (status {d})", .{code});
    }
};

/// Turns the keys of the given cells in one memory.
pub fn run(
    gpa: std.mem.Allocator,
    memory: *const Memory,
    index: usize,
    turn: Turn,
    cells: []const CellTurn,
    compute: Compute,
) status.Error!void {
    const rope = switch (turn) {
        .none => return,
        .rope => |rope| rope,
        .unknown => unreachable, // refused before anything moved
    };
    var rest = cells;
    while (rest.len > 0) {
        const count = @min(cells_max, rest.len);
        try turn_some(gpa, memory, index, rope, rest[0..count], compute);
        rest = rest[count..];
    }
}

fn turn_some(
    gpa: std.mem.Allocator,
    memory: *const Memory,
    index: usize,
    rope: Rope,
    cells: []const CellTurn,
    compute: Compute,
) status.Error!void {
    const d = memory.declarations[index];
    const keys = memory.tensors[index].items[0].?;
    const count: i64 = @intCast(cells.len);
    const width = keys.ne[0];
    const numbers: usize = @intCast(3 * width * count + 8 * count);
    const context = c.ggml_init(.{
        .mem_size = numbers * @sizeOf(f32) + 32 * c.ggml_tensor_overhead() + c.ggml_graph_overhead(),
        .mem_buffer = null,
        .no_alloc = false,
    }) orelse return error.OutOfMemory;
    defer c.ggml_free(context);
    const rows: *Tensor = c.ggml_new_tensor_1d(context, c.GGML_TYPE_I32, count);
    const places: *Tensor = c.ggml_new_tensor_1d(context, c.GGML_TYPE_I64, count);
    const distances: *Tensor = c.ggml_new_tensor_1d(context, c.GGML_TYPE_I32, count);
    for (cells, 0..) |cell, i| {
        const row: i32 = @intCast(cell.cell);
        const place: i64 = cell.cell;
        tensor_data.write(rows, i * 4, std.mem.asBytes(&row));
        tensor_data.write(places, i * 8, std.mem.asBytes(&place));
        tensor_data.write(distances, i * 4, std.mem.asBytes(&cell.distance));
    }
    const stored = c.ggml_get_rows(context, keys, rows);
    const heads = c.ggml_reshape_3d(context, stored, d.key_dim, d.heads, count);
    // The length was changed when the key was first turned: not again.
    const turned = c.ggml_rope_ext(
        context,
        heads,
        distances,
        rope.factors,
        rope.dims,
        rope.mode,
        rope.context,
        rope.base,
        rope.scale,
        rope.extension,
        length_of(rope),
        rope.beta_fast,
        rope.beta_slow,
    );
    const graph = c.ggml_new_graph(context).?;
    const whole = c.ggml_reshape_2d(context, turned, width, count);
    c.ggml_build_forward_expand(graph, c.ggml_set_rows(context, keys, whole, places));
    try compute.run(gpa, graph);
}

/// What makes ggml's rotary embedding keep lengths: with an extension (YaRN) it multiplies by this and a logarithm.
fn length_of(rope: Rope) f32 {
    return if (rope.extension == 0) 1 else 1 / (1 + 0.1 * @log(1 / rope.scale));
}
