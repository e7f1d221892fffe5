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
    return .{
        .placements = try planner.placements.toOwnedSlice(gpa),
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

    /// A source whose place the node can take over, since the node is the last to read it and reads it element by
    /// element.
    fn reusable(planner: *const Planner, node: *Tensor, index: u32) ?*Use {
        if (!works_in_place(node.op)) return null;
        for (node.src) |source| {
            const s: *Tensor = source orelse continue;
            if (s.view_src != null or s.flags & c.GGML_TENSOR_FLAG_INPUT != 0) continue;
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

/// Operations that read each element before they write the same one.
fn works_in_place(op: c.ggml_op) bool {
    return switch (op) {
        c.GGML_OP_ADD,
        c.GGML_OP_SUB,
        c.GGML_OP_MUL,
        c.GGML_OP_DIV,
        c.GGML_OP_SCALE,
        c.GGML_OP_SQR,
        c.GGML_OP_SQRT,
        c.GGML_OP_LOG,
        c.GGML_OP_CLAMP,
        c.GGML_OP_UNARY,
        c.GGML_OP_ROPE,
        c.GGML_OP_RMS_NORM,
        c.GGML_OP_SOFT_MAX,
        => true,
        else => false,
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
