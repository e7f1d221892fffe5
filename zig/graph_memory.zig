//! Where the results of a graph lie. Each gets a place in one buffer that is free for as long as the result is used,
//! so that all kept graphs share a buffer as large as the largest of them.

const std = @import("std");
const assert = std.debug.assert;
const c = @import("ggml");

const Tensor = c.ggml_tensor;
const alignment = 64;

pub const Placement = struct { tensor: *Tensor, offset: usize };

/// Offsets of all results of a graph, and of its inputs, which nothing overwrites.
pub const Layout = struct {
    placements: []Placement,
    /// Views, in the order in which their base is known.
    views: []*Tensor,
    bytes: usize,

    pub fn deinit(layout: *Layout, gpa: std.mem.Allocator) void {
        gpa.free(layout.placements);
        gpa.free(layout.views);
    }

    /// Points the graph's tensors into `buffer`, which holds at least `bytes`.
    pub fn bind(layout: *const Layout, buffer: c.ggml_backend_buffer_t) void {
        const base: [*]u8 = @ptrCast(c.ggml_backend_buffer_get_base(buffer).?);
        for (layout.placements) |placement| {
            placement.tensor.buffer = buffer;
            placement.tensor.data = base + placement.offset;
        }
        for (layout.views) |view| {
            const root = view.view_src;
            view.buffer = root.*.buffer;
            view.data = @as([*]u8, @ptrCast(root.*.data.?)) + view.view_offs;
        }
    }
};

/// Plans `graph`, whose own tensors are those of `context`; others (weights, memories) lie elsewhere already and stay.
/// `inputs` keep their places throughout.
pub fn plan(
    gpa: std.mem.Allocator,
    context: *c.ggml_context,
    graph: *c.ggml_cgraph,
    inputs: []const *Tensor,
) error{OutOfMemory}!Layout {
    var planner: Planner = .{ .gpa = gpa, .uses = try .init(gpa, context) };
    defer planner.deinit();
    for (inputs) |input| try planner.place(input);
    planner.find_uses(graph);
    const count: usize = @intCast(c.ggml_graph_n_nodes(graph));
    for (0..count) |i| try planner.step(c.ggml_graph_node(graph, @intCast(i)), @intCast(i));
    const placements = try planner.placements.toOwnedSlice(gpa);
    errdefer gpa.free(placements);
    return .{
        .placements = placements,
        .views = try planner.views.toOwnedSlice(gpa),
        .bytes = std.mem.alignForward(usize, planner.end, alignment),
    };
}

const Hole = struct { offset: usize, bytes: usize };

const Use = struct {
    /// The last node that reads a base tensor.
    last: ?u32 = null,
    /// Where it lies, for as long as it does.
    offset: ?usize = null,
};

/// What is known of each tensor of a context, found by its place there: a hash of pointers takes several times as long.
const Uses = struct {
    all: []Use,
    start: usize,
    /// Two tensors of a context lie at least so many bytes apart.
    stride: usize,

    fn init(gpa: std.mem.Allocator, context: *c.ggml_context) error{OutOfMemory}!Uses {
        const stride = c.ggml_tensor_overhead();
        const all = try gpa.alloc(Use, c.ggml_used_mem(context) / stride + 1);
        @memset(all, .{});
        return .{ .all = all, .start = @intFromPtr(c.ggml_get_mem_buffer(context)), .stride = stride };
    }

    /// Null for a tensor of another context.
    fn of(uses: Uses, tensor: *const Tensor) ?*Use {
        const address = @intFromPtr(tensor);
        if (address < uses.start) return null;
        const index = (address - uses.start) / uses.stride;
        return if (index < uses.all.len) &uses.all[index] else null;
    }
};

const Planner = struct {
    gpa: std.mem.Allocator,
    placements: std.ArrayList(Placement) = .empty,
    views: std.ArrayList(*Tensor) = .empty,
    uses: Uses,
    /// Free ranges, ascending, never touching.
    holes: std.ArrayList(Hole) = .empty,
    end: usize = 0,

    fn deinit(planner: *Planner) void {
        planner.placements.deinit(planner.gpa);
        planner.views.deinit(planner.gpa);
        planner.gpa.free(planner.uses.all);
        planner.holes.deinit(planner.gpa);
    }

    fn find_uses(planner: *const Planner, graph: *c.ggml_cgraph) void {
        const count: u32 = @intCast(c.ggml_graph_n_nodes(graph));
        for (0..count) |i| {
            const node: *Tensor = c.ggml_graph_node(graph, @intCast(i));
            planner.read(node, @intCast(i));
            for (node.src) |source| if (source) |s| planner.read(s, @intCast(i));
        }
        for (0..count) |i| {
            const node: *Tensor = c.ggml_graph_node(graph, @intCast(i));
            if (node.flags & c.GGML_TENSOR_FLAG_OUTPUT != 0) planner.read(node, std.math.maxInt(u32));
        }
    }

    fn read(planner: *const Planner, tensor: *Tensor, index: u32) void {
        if (planner.uses.of(base_of(tensor))) |use| use.last = index;
    }

    fn is_placed(planner: *const Planner, tensor: *const Tensor) bool {
        return if (planner.uses.of(tensor)) |use| use.offset != null else false;
    }

    fn step(planner: *Planner, node: *Tensor, index: u32) error{OutOfMemory}!void {
        if (node.view_src != null) {
            // A view of a weight was pointed there when it was made.
            if (node.buffer == null) try planner.views.append(planner.gpa, node);
            try planner.place_leaf(base_of(node));
        } else if (node.buffer == null and !planner.is_placed(node)) {
            if (planner.reusable(node, index)) |source| {
                const offset = source.offset.?;
                source.offset = null;
                try planner.put(node, offset);
            } else try planner.place(node);
        }
        for (node.src) |source| if (source) |s| {
            try planner.place_leaf(base_of(s));
            try planner.release_after(base_of(s), index);
        };
        try planner.release_after(base_of(node), index);
    }

    /// Some operations make a tensor to write into that is no node of its own.
    fn place_leaf(planner: *Planner, base: *Tensor) error{OutOfMemory}!void {
        if (base.op != c.GGML_OP_NONE or base.buffer != null or planner.is_placed(base)) return;
        try planner.place(base);
    }

    /// A source whose place the node can take over: the node is the last to read it, and reads it only where it writes,
    /// element by element or row by row.
    fn reusable(planner: *const Planner, node: *Tensor, index: u32) ?*Use {
        for (node.src[0..sources_in_place(node.op)], 0..) |source, slot| {
            const s: *Tensor = source orelse continue;
            if (s.view_src != null or s.flags & c.GGML_TENSOR_FLAG_INPUT != 0) continue;
            if (is_read_twice(node, slot)) continue;
            const use = planner.uses.of(s) orelse continue;
            if (use.offset == null or use.last.? != index) continue;
            if (s.type == node.type and c.ggml_are_same_shape(s, node) and c.ggml_are_same_stride(s, node)) return use;
        }
        return null;
    }

    fn place(planner: *Planner, tensor: *Tensor) error{OutOfMemory}!void {
        const bytes = std.mem.alignForward(usize, @max(c.ggml_nbytes(tensor), 1), alignment);
        var best: ?usize = null;
        for (planner.holes.items, 0..) |hole, i| {
            if (hole.bytes < bytes) continue;
            if (best == null or hole.bytes < planner.holes.items[best.?].bytes) best = i;
        }
        if (best) |i| {
            const hole = &planner.holes.items[i];
            const offset = hole.offset;
            hole.offset += bytes;
            hole.bytes -= bytes;
            if (hole.bytes == 0) _ = planner.holes.orderedRemove(i);
            return planner.put(tensor, offset);
        }
        // The last hole, where it reaches the end, is grown.
        const holes = planner.holes.items;
        const grows = holes.len > 0 and holes[holes.len - 1].offset + holes[holes.len - 1].bytes == planner.end;
        const offset = if (grows) planner.holes.pop().?.offset else planner.end;
        planner.end = offset + bytes;
        try planner.put(tensor, offset);
    }

    fn put(planner: *Planner, tensor: *Tensor, offset: usize) error{OutOfMemory}!void {
        planner.uses.of(tensor).?.offset = offset;
        try planner.placements.append(planner.gpa, .{ .tensor = tensor, .offset = offset });
    }

    fn release_after(planner: *Planner, base: *Tensor, index: u32) error{OutOfMemory}!void {
        if (base.flags & c.GGML_TENSOR_FLAG_INPUT != 0) return;
        const use = planner.uses.of(base) orelse return;
        if (use.last != index) return;
        const offset = use.offset orelse return;
        use.offset = null;
        const bytes = std.mem.alignForward(usize, @max(c.ggml_nbytes(base), 1), alignment);
        try planner.add_hole(.{ .offset = offset, .bytes = bytes });
    }

    fn add_hole(planner: *Planner, hole: Hole) error{OutOfMemory}!void {
        const holes = &planner.holes;
        const at = for (holes.items, 0..) |other, i| {
            if (other.offset > hole.offset) break i;
        } else holes.items.len;
        try holes.insert(planner.gpa, at, hole);
        if (at + 1 < holes.items.len and hole.offset + hole.bytes == holes.items[at + 1].offset) {
            holes.items[at].bytes += holes.orderedRemove(at + 1).bytes;
        }
        if (at > 0 and holes.items[at - 1].offset + holes.items[at - 1].bytes == hole.offset) {
            holes.items[at - 1].bytes += holes.orderedRemove(at).bytes;
        }
    }
};

fn base_of(tensor: *Tensor) *Tensor {
    const base: *Tensor = if (tensor.view_src != null) tensor.view_src else tensor;
    assert(base.view_src == null);
    return base;
}

/// Whether another source of the node lies on the same base as this one. It may show other elements where this one shows
/// those that are written: a view of the first row, read for every row, would read what the node made of it.
fn is_read_twice(node: *const Tensor, slot: usize) bool {
    for (node.src, 0..) |source, other| if (source) |s| {
        if (other != slot and base_of(s) == node.src[slot]) return true;
    };
    return false;
}

/// Of how many sources an operation reads each element, or row, only before it writes the same one.
fn sources_in_place(op: c.ggml_op) usize {
    return switch (op) {
        c.GGML_OP_ADD,
        c.GGML_OP_SUB,
        c.GGML_OP_MUL,
        c.GGML_OP_DIV,
        c.GGML_OP_SOFT_MAX, // its mask has a row for each
        => 2,
        c.GGML_OP_SCALE,
        c.GGML_OP_SQR,
        c.GGML_OP_SQRT,
        c.GGML_OP_LOG,
        c.GGML_OP_CLAMP,
        c.GGML_OP_UNARY,
        c.GGML_OP_ROPE, // its factors are read again for every token
        c.GGML_OP_RMS_NORM,
        => 1,
        else => 0,
    };
}

test "results that are used together never overlap" {
    const gpa = std.testing.allocator;
    const context = c.ggml_init(.{ .mem_size = 1 << 20, .mem_buffer = null, .no_alloc = true }).?;
    defer c.ggml_free(context);
    const x: *Tensor = c.ggml_new_tensor_2d(context, c.GGML_TYPE_F32, 64, 8);
    c.ggml_set_input(x);
    const weight: *Tensor = c.ggml_new_tensor_2d(context, c.GGML_TYPE_F32, 64, 32);
    c.ggml_set_input(weight);
    const graph = c.ggml_new_graph(context).?;
    const product = c.ggml_mul_mat(context, weight, x);
    const silu = c.ggml_silu(context, product);
    const square = c.ggml_sqr(context, silu);
    const sum = c.ggml_add(context, square, silu);
    c.ggml_set_output(sum);
    c.ggml_build_forward_expand(graph, sum);

    var layout = try plan(gpa, context, graph, &.{ x, weight });
    defer layout.deinit(gpa);
    var offsets: std.AutoHashMapUnmanaged(*Tensor, usize) = .empty;
    defer offsets.deinit(gpa);
    for (layout.placements) |placement| try offsets.put(gpa, placement.tensor, placement.offset);
    try std.testing.expectEqual(offsets.get(product), offsets.get(silu)); // in place: read once
    try std.testing.expect(offsets.get(square).? != offsets.get(silu).?); // still needed by the sum
    const input_bytes = c.ggml_nbytes(x) + c.ggml_nbytes(weight);
    try std.testing.expectEqual(input_bytes + 2 * c.ggml_nbytes(product), layout.bytes);
}

const testing = std.testing;

/// A context with a graph, for tests.
const Sketch = struct {
    context: *c.ggml_context,
    graph: *c.ggml_cgraph,

    fn init() Sketch {
        const context = c.ggml_init(.{ .mem_size = 1 << 20, .mem_buffer = null, .no_alloc = true }).?;
        return .{ .context = context, .graph = c.ggml_new_graph(context).? };
    }

    fn deinit(sketch: Sketch) void {
        c.ggml_free(sketch.context);
    }

    fn input(sketch: Sketch, ne: [4]i64) *Tensor {
        const tensor: *Tensor = c.ggml_new_tensor(sketch.context, c.GGML_TYPE_F32, 4, &ne);
        c.ggml_set_input(tensor);
        return tensor;
    }

    fn expand(sketch: Sketch, output: *Tensor) void {
        c.ggml_set_output(output);
        c.ggml_build_forward_expand(sketch.graph, output);
    }

    /// Plans, and says whether two results were given the same place.
    fn share_place(sketch: Sketch, inputs: []const *Tensor, a: *Tensor, b: *Tensor) !bool {
        var layout = try plan(testing.allocator, sketch.context, sketch.graph, inputs);
        defer layout.deinit(testing.allocator);
        var place_a: ?usize = null;
        var place_b: ?usize = null;
        for (layout.placements) |placement| {
            if (placement.tensor == a) place_a = placement.offset;
            if (placement.tensor == b) place_b = placement.offset;
        }
        return place_a.? == place_b.?;
    }
};

test "nothing is computed in place over what the same node reads through a view" {
    const Case = enum { none, first_row, reversed, permuted, transposed, whole, itself };
    for (std.enums.values(Case)) |case| for ([_]bool{ false, true }) |swapped| {
        const sketch: Sketch = .init();
        defer sketch.deinit();
        const ctx = sketch.context;
        const input = sketch.input(if (case == .first_row) .{ 4, 3, 1, 1 } else .{ 3, 3, 3, 1 });
        const x: *Tensor = c.ggml_sqr(ctx, input);
        const other: *Tensor = switch (case) {
            .none => input,
            .first_row => c.ggml_view_2d(ctx, x, 4, 1, x.nb[1], 0),
            .reversed => c.ggml_permute(ctx, c.ggml_permute(ctx, x, 2, 1, 0, 3), 0, 2, 1, 3),
            .permuted => c.ggml_permute(ctx, x, 0, 2, 1, 3),
            .transposed => c.ggml_transpose(ctx, x),
            .whole => c.ggml_reshape_3d(ctx, x, 3, 3, 3),
            .itself => x,
        };
        if (swapped and other.nb[0] != @sizeOf(f32) or swapped and case == .first_row) continue;
        const y: *Tensor = if (swapped) c.ggml_sub(ctx, other, x) else c.ggml_sub(ctx, x, other);
        sketch.expand(y);
        try testing.expectEqual(case == .none, try sketch.share_place(&.{input}, x, y));
    };
}

test "keys are not turned in place over the factors they are turned by" {
    const sketch: Sketch = .init();
    defer sketch.deinit();
    const ctx = sketch.context;
    const input = sketch.input(.{ 8, 2, 3, 1 });
    const positions: *Tensor = c.ggml_new_tensor_1d(ctx, c.GGML_TYPE_I32, 3);
    c.ggml_set_input(positions);
    const factors: *Tensor = c.ggml_sqr(ctx, input);
    const keys: *Tensor = c.ggml_sqrt(ctx, input);
    // Another reads the keys later, so that only the factors could be given up.
    const turned: *Tensor = c.ggml_rope_ext(ctx, keys, positions, factors, 8, 0, 0, 10000, 1, 0, 1, 0, 0);
    const both: *Tensor = c.ggml_concat(ctx, turned, keys, 0);
    sketch.expand(both);
    try testing.expect(!try sketch.share_place(&.{ input, positions }, factors, turned));
}

test "a plan that runs out of memory leaves none behind" {
    const sketch: Sketch = .init();
    defer sketch.deinit();
    const input = sketch.input(.{ 8, 4, 1, 1 });
    const half = c.ggml_view_2d(sketch.context, c.ggml_sqr(sketch.context, input), 4, 4, 32, 0);
    sketch.expand(c.ggml_mul_mat(sketch.context, half, half));
    const plan_once = struct {
        fn plan_once(gpa: std.mem.Allocator, from: *const Sketch, inputs: []const *Tensor) !void {
            var layout = try plan(gpa, from.context, from.graph, inputs);
            layout.deinit(gpa);
        }
    }.plan_once;
    try testing.checkAllAllocationFailures(testing.allocator, plan_once, .{ &sketch, &.{input} });
}

/// Random graphs of operations that the planner may compute in place, over each other's results and views of them.
const RandomGraph = struct {
    const width = 6;
    const steps = 24;

    sketch: Sketch,
    random: std.Random,
    input: *Tensor,
    positions: *Tensor,
    /// All results so far, `[width, width, width]`, so that any permutation has the shape of any other.
    results: [steps + 1]*Tensor = undefined,
    count: usize = 0,

    fn init(random: std.Random) RandomGraph {
        const sketch: Sketch = .init();
        const positions: *Tensor = c.ggml_new_tensor_1d(sketch.context, c.GGML_TYPE_I32, width);
        c.ggml_set_input(positions);
        var self: RandomGraph = .{
            .sketch = sketch,
            .random = random,
            .input = sketch.input(.{ width, width, width, 1 }),
            .positions = positions,
        };
        self.add(self.input);
        for (0..steps) |_| self.add(self.operation());
        for (self.results[1..]) |result| if (random.uintLessThan(u32, 8) == 0) sketch.expand(result);
        sketch.expand(self.results[steps]);
        return self;
    }

    fn add(self: *RandomGraph, tensor: *Tensor) void {
        self.results[self.count] = tensor;
        self.count += 1;
    }

    /// One of the last results, so that most of them are read once.
    fn any(self: *RandomGraph) *Tensor {
        return self.results[self.count - 1 - self.random.uintLessThan(usize, @min(3, self.count))];
    }

    /// Something of the shape of all results, or that repeats to it.
    fn other(self: *RandomGraph) *Tensor {
        const ctx = self.sketch.context;
        const from = self.any();
        return switch (self.random.uintLessThan(u32, 8)) {
            0, 1 => from,
            2 => c.ggml_view_3d(ctx, from, width, 1, 1, from.nb[1], from.nb[2], self.random.uintLessThan(usize, width) * from.nb[1]),
            3 => c.ggml_view_3d(ctx, from, 1, width, width, from.nb[1], from.nb[2], 4 * self.random.uintLessThan(usize, width)),
            4 => c.ggml_permute(ctx, from, 0, 2, 1, 3),
            5 => c.ggml_transpose(ctx, from),
            6 => c.ggml_permute(ctx, c.ggml_transpose(ctx, from), 2, 1, 0, 3),
            else => c.ggml_reshape_3d(ctx, c.ggml_reshape_2d(ctx, from, width * width, width), width, width, width),
        };
    }

    fn operation(self: *RandomGraph) *Tensor {
        const ctx = self.sketch.context;
        const first = if (self.random.boolean()) self.any() else c.ggml_permute(ctx, self.any(), 0, 2, 1, 3);
        return switch (self.random.uintLessThan(u32, 9)) {
            0, 1 => c.ggml_add(ctx, first, self.other()),
            2, 3 => c.ggml_sub(ctx, first, self.other()),
            4 => c.ggml_mul(ctx, c.ggml_tanh(ctx, first), self.other()),
            5 => c.ggml_scale(ctx, self.any(), 0.7),
            // Computed as one with the product.
            6 => c.ggml_mul(ctx, c.ggml_rms_norm(ctx, first, 1e-5), self.other()),
            7 => c.ggml_soft_max_ext(ctx, self.any(), self.any(), 0.3, 0),
            8 => c.ggml_rope_ext(ctx, first, self.positions, self.any(), width, 0, 0, 10000, 1, 0, 1, 0, 0),
            else => unreachable,
        };
    }

    /// Computes, and returns what the outputs hold, one after the other.
    fn compute(self: *const RandomGraph, gpa: std.mem.Allocator, threads: c_int) ![]const f32 {
        const input: [*]f32 = @ptrCast(@alignCast(self.input.data.?));
        for (input[0 .. width * width * width], 0..) |*value, i| value.* = @sin(@as(f32, @floatFromInt(i * i)));
        const positions: [*]i32 = @ptrCast(@alignCast(self.positions.data.?));
        for (positions[0..width], 0..) |*value, i| value.* = @intCast(i);
        var todo = c.ggml_graph_plan(self.sketch.graph, threads, null);
        const work = try gpa.alignedAlloc(u8, .@"64", @max(todo.work_size, 1));
        defer gpa.free(work);
        todo.work_data = work.ptr;
        try testing.expectEqual(c.GGML_STATUS_SUCCESS, c.ggml_graph_compute(self.sketch.graph, &todo));
        var values: std.ArrayList(f32) = .empty;
        errdefer values.deinit(gpa);
        for (self.results) |result| if (result.flags & c.GGML_TENSOR_FLAG_OUTPUT != 0) {
            const data: [*]const f32 = @ptrCast(@alignCast(result.data.?));
            try values.appendSlice(gpa, data[0 .. width * width * width]);
        };
        return values.toOwnedSlice(gpa);
    }
};

test "random graphs give what they give where every result has a place of its own" {
    const gpa = testing.allocator;
    c.ggml_cpu_init();
    for (0..200) |seed| {
        errdefer std.debug.print("seed {d}\n", .{seed});
        var values: [2][]const f32 = undefined;
        var bytes: [2]usize = undefined;
        for (&values, &bytes, [_]bool{ true, false }) |*to, *size, is_planned| {
            var prng: std.Random.DefaultPrng = .init(seed);
            const made: RandomGraph = .init(prng.random());
            defer made.sketch.deinit();
            const cpu = c.ggml_backend_cpu_buffer_type();
            if (is_planned) {
                var layout = try plan(gpa, made.sketch.context, made.sketch.graph, &.{ made.input, made.positions });
                defer layout.deinit(gpa);
                const buffer = c.ggml_backend_buft_alloc_buffer(cpu, layout.bytes).?;
                defer c.ggml_backend_buffer_free(buffer);
                layout.bind(buffer);
                size.* = layout.bytes;
                to.* = try made.compute(gpa, if (seed % 2 == 0) 1 else 3);
            } else {
                const buffer = c.ggml_backend_alloc_ctx_tensors_from_buft(made.sketch.context, cpu).?;
                defer c.ggml_backend_buffer_free(buffer);
                size.* = c.ggml_backend_buffer_get_size(buffer);
                to.* = try made.compute(gpa, 1);
            }
        }
        defer for (values) |list| gpa.free(list);
        try testing.expectEqualSlices(u32, @ptrCast(values[1]), @ptrCast(values[0]));
        // The planner does give places to several.
        try testing.expect(bytes[0] < bytes[1]);
    }
}
