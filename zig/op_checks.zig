//! What ggml asserts, asked beforehand: the checks that every wrapper of a graph operation is made of.
//!
//! ggml kills the process over a shape it cannot handle, some of its kernels read past a row instead, and neither
//! says so before computing. An `Operand` is a tensor with the operation and the name it has there, so that each
//! check can refuse it with a sentence.

const std = @import("std");
const c = @import("ggml");
const status = @import("status.zig");

pub const Tensor = c.ggml_tensor;
pub const Error = status.Error;

/// ggml's kernels count rows and elements of one tensor in 32 bits.
pub const count_max: i64 = std.math.maxInt(i32);
/// Weights of all experts of a layer may hold more elements; no kernel counts them in one go.
const weight_count_max: i64 = 1 << 40;

/// The types of ggml, by ggml's numbers.
pub const Type = enum(i32) {
    f32 = 0,
    f16 = 1,
    q4_0 = 2,
    q4_1 = 3,
    q5_0 = 6,
    q5_1 = 7,
    q8_0 = 8,
    q8_1 = 9,
    q2_k = 10,
    q3_k = 11,
    q4_k = 12,
    q5_k = 13,
    q6_k = 14,
    q8_k = 15,
    iq2_xxs = 16,
    iq2_xs = 17,
    iq3_xxs = 18,
    iq1_s = 19,
    iq4_nl = 20,
    iq3_s = 21,
    iq2_s = 22,
    iq4_xs = 23,
    i8 = 24,
    i16 = 25,
    i32 = 26,
    i64 = 27,
    f64 = 28,
    iq1_m = 29,
    bf16 = 30,
    tq1_0 = 34,
    tq2_0 = 35,
    mxfp4 = 39,
    nvfp4 = 40,
    q1_0 = 41,
    q2_0 = 42,

    pub fn raw(self: Type) c.ggml_type {
        return @intCast(@backingInt(self));
    }

    pub fn of(tensor: *const Tensor) Type {
        return @fromBackingInt(@intCast(tensor.type));
    }
};

/// An operand is written `a ([64, 16] f32)`, with its strides where they are not the natural ones.
pub const Operand = struct {
    op: []const u8,
    name: []const u8,
    t: *Tensor,

    /// Every operand but a weight. Its elements can be counted in 32 bits and lie in ggml's own order.
    pub fn init(op: []const u8, name: []const u8, t: *Tensor) Error!Operand {
        const self: Operand = .{ .op = op, .name = name, .t = t };
        try self.check_counts(count_max);
        if (t.extra != null) {
            return self.refuse("was repacked for matrix products and can serve only as their first operand", .{});
        }
        return self;
    }

    /// The first operand of a matrix product: it may be large, and repacked.
    pub fn weight(op: []const u8, name: []const u8, t: *Tensor) Error!Operand {
        const self: Operand = .{ .op = op, .name = name, .t = t };
        try self.check_counts(weight_count_max);
        return self;
    }

    /// A table of rows, or what is only looked at another way: it may be large.
    pub fn large(op: []const u8, name: []const u8, t: *Tensor) Error!Operand {
        const self = try weight(op, name, t);
        if (t.extra != null) {
            return self.refuse("was repacked for matrix products and can serve only as their first operand", .{});
        }
        return self;
    }

    fn check_counts(self: Operand, limit: i64) Error!void {
        var total: i64 = 1;
        for (self.t.ne) |n| {
            if (n < 1) return self.refuse("has no elements", .{});
            if (n > count_max) return self.refuse("has a dimension beyond {d}", .{count_max});
            total = std.math.mul(i64, total, n) catch limit + 1;
            if (total > limit) return self.refuse("has more than {d} elements", .{limit});
        }
    }

    pub fn refuse(self: Operand, comptime format_text: []const u8, args: anytype) Error {
        return status.fail(error.InvalidArgument, "{s}: {f} " ++ format_text, .{ self.op, self } ++ args);
    }

    pub fn format(self: Operand, writer: *std.Io.Writer) std.Io.Writer.Error!void {
        const t = self.t;
        const rank: usize = @intCast(c.ggml_n_dims(t));
        try writer.print("{s} ([", .{self.name});
        for (t.ne[0..rank], 0..) |n, i| try writer.print("{s}{d}", .{ if (i == 0) "" else ", ", n });
        try writer.print("] {s}", .{type_name(t)});
        if (!c.ggml_is_contiguous(t)) {
            try writer.print(", strides {d} {d} {d} {d} bytes", .{ t.nb[0], t.nb[1], t.nb[2], t.nb[3] });
        }
        try writer.writeAll(")");
    }

    pub fn is(self: Operand, kind: Type) bool {
        return self.t.type == kind.raw();
    }

    pub fn of_type(self: Operand, comptime allowed: []const Type) Error!void {
        comptime var text: []const u8 = "";
        inline for (allowed, 0..) |kind, i| {
            if (self.is(kind)) return;
            const glue = if (i == 0) "" else if (i + 1 == allowed.len) " or " else ", ";
            text = text ++ glue ++ @tagName(kind);
        }
        return self.refuse("must be of type " ++ text ++ "; cast it first", .{});
    }

    /// The blocks of a row are adjacent in memory.
    pub fn unit_rows(self: Operand) Error!void {
        if (!self.has_unit_rows()) {
            return self.refuse("must have the elements of a row adjacent in memory; apply cont first", .{});
        }
    }

    pub fn has_unit_rows(self: Operand) bool {
        return self.t.nb[0] == c.ggml_type_size(self.t.type);
    }

    /// All rows have the same distance, so that row i lies i strides from the first.
    pub fn even_rows(self: Operand) Error!void {
        try self.unit_rows();
        if (!c.ggml_is_contiguous_1(self.t)) {
            return self.refuse("must have evenly spaced rows; apply cont first", .{});
        }
    }

    pub fn contiguous(self: Operand) Error!void {
        if (!c.ggml_is_contiguous(self.t)) {
            return self.refuse("must be contiguous; apply cont first", .{});
        }
    }

    /// Contiguous, and with the natural stride even where a dimension is 1: the kernel steps by strides that it
    /// never checks.
    pub fn natural(self: Operand) Error!void {
        if (!self.is_natural()) {
            return self.refuse("must be contiguous with natural strides; apply cont first", .{});
        }
    }

    pub fn is_natural(self: Operand) bool {
        const t = self.t;
        var stride = c.ggml_type_size(t.type);
        if (t.nb[0] != stride) return false;
        stride *= @intCast(@divTrunc(t.ne[0], c.ggml_blck_size(t.type)));
        for (1..4) |i| {
            if (t.nb[i] != stride) return false;
            stride *= @intCast(t.ne[i]);
        }
        return true;
    }

    pub fn has_shape(self: Operand, shape: [4]i64) Error!void {
        if (!std.mem.eql(i64, &self.t.ne, &shape)) {
            return self.refuse("must have the shape [{d}, {d}, {d}, {d}]", .{ shape[0], shape[1], shape[2], shape[3] });
        }
    }

    /// A view of the tensor can be made: its elements, were they contiguous, would still lie inside the memory that it
    /// belongs to. ggml demands that even of a view with overlapping rows.
    pub fn viewable(self: Operand) Error!void {
        const t = self.t;
        if (natural_bytes(t.type, t.ne) + t.view_offs > c.ggml_nbytes(root(t))) {
            return self.refuse("has overlapping rows and cannot be viewed; apply cont first", .{});
        }
    }

    /// The tensor may be written to. Weights may lie in a file mapped for reading, and whole numbers may be indices
    /// that were checked before.
    pub fn writable(self: Operand) Error!void {
        const buffer = root(self.t).buffer;
        if (buffer != null and c.ggml_backend_buffer_get_usage(buffer) == c.GGML_BACKEND_BUFFER_USAGE_WEIGHTS) {
            return self.refuse("is a weight and cannot be written to", .{});
        }
        switch (Type.of(self.t)) {
            .i8, .i16, .i32, .i64 => return self.refuse("holds whole numbers, which no operation may overwrite", .{}),
            else => {},
        }
        try self.viewable();
    }
};

/// The tensor whose memory `t` is a view of, or `t` itself.
fn root(t: *Tensor) *Tensor {
    return if (t.view_src) |source| source else t;
}

pub fn type_name(t: *const Tensor) []const u8 {
    return std.mem.span(c.ggml_type_name(t.type));
}

/// The bytes of a contiguous tensor of this type and shape.
pub fn natural_bytes(kind: c.ggml_type, ne: [4]i64) usize {
    var bytes = c.ggml_row_size(kind, ne[0]);
    for (ne[1..]) |n| bytes *= @intCast(n);
    return bytes;
}

pub fn can_decode(t: *const Tensor) bool {
    const traits: *const c.struct_ggml_type_traits = c.ggml_get_type_traits(t.type);
    return t.type == c.GGML_TYPE_F32 or traits.to_float != null;
}

pub fn can_encode(kind: c.ggml_type) bool {
    const traits: *const c.struct_ggml_type_traits_cpu = c.ggml_get_type_traits_cpu(kind);
    return traits.from_float != null;
}

/// The type that the second operand of a product with `t` is converted to; none where ggml has no product.
pub fn product_type(t: *const Tensor) ?c.ggml_type {
    const traits: *const c.struct_ggml_type_traits_cpu = c.ggml_get_type_traits_cpu(t.type);
    return if (traits.vec_dot == null) null else traits.vec_dot_type;
}

const ordinals = [_][]const u8{ "first", "second", "third", "fourth" };

pub fn equal_dims(a: Operand, i: usize, b: Operand, j: usize) Error!void {
    if (a.t.ne[i] == b.t.ne[j]) return;
    return if (i == j) status.fail(error.InvalidArgument, "{s}: the {s} dimension of {f} and of {f} must be equal", .{
        a.op, ordinals[i], a, b,
    }) else status.fail(error.InvalidArgument, "{s}: the {s} dimension of {f} must equal the {s} of {f}", .{
        a.op, ordinals[i], a, ordinals[j], b,
    });
}

pub fn equal_shapes(a: Operand, b: Operand) Error!void {
    if (std.mem.eql(i64, &a.t.ne, &b.t.ne)) return;
    return status.fail(error.InvalidArgument, "{s}: {f} and {f} must have the same shape", .{ a.op, a, b });
}

/// Dimension i of `a` is repeated to fill dimension j of `b`.
pub fn fills(a: Operand, i: usize, b: Operand, j: usize) Error!void {
    if (@rem(b.t.ne[j], a.t.ne[i]) == 0) return;
    return status.fail(error.InvalidArgument, "{s}: the {s} dimension of {f} must be a multiple of the {s} of {f}", .{
        a.op, ordinals[j], b, ordinals[i], a,
    });
}

pub fn fills_all(a: Operand, b: Operand) Error!void {
    for (0..4) |i| try fills(a, i, b, i);
}

/// The shape of a result: no dimension below 1, and countable.
pub fn result_shape(op: []const u8, ne: [4]i64) Error!void {
    var total: i64 = 1;
    for (ne) |n| {
        const product = if (n < 1 or n > count_max) count_max + 1 else total * n;
        if (product > count_max) {
            return status.fail(
                error.InvalidArgument,
                "{s}: the result's shape [{d}, {d}, {d}, {d}] must have dimensions from 1 and at most {d} elements",
                .{ op, ne[0], ne[1], ne[2], ne[3], count_max },
            );
        }
        total = product;
    }
}

/// A row of `n` elements of this type is made of whole blocks.
pub fn whole_blocks(op: []const u8, kind: c.ggml_type, n: i64) Error!void {
    const block = c.ggml_blck_size(kind);
    if (@rem(n, block) == 0) return;
    return status.fail(
        error.InvalidArgument,
        "{s}: the first dimension ({d}) must be a multiple of {d}, the block of {s}",
        .{ op, n, block, std.mem.span(c.ggml_type_name(kind)) },
    );
}

pub fn at_least(op: []const u8, name: []const u8, value: i64, least: i64) Error!void {
    if (value >= least) return;
    return status.fail(error.InvalidArgument, "{s}: {s} is {d} and must be at least {d}", .{ op, name, value, least });
}

pub fn at_most(op: []const u8, name: []const u8, value: i64, most: i64) Error!void {
    if (value <= most) return;
    return status.fail(error.InvalidArgument, "{s}: {s} is {d} and must be at most {d}", .{ op, name, value, most });
}

/// An epsilon is zero or more, and a number.
pub fn check_epsilon(op: []const u8, eps: f32) Error!void {
    if (eps >= 0) return;
    return status.fail(error.InvalidArgument, "{s}: eps is {d} and must be zero or more", .{ op, eps });
}

/// Row indices are data, and ggml ends the process over one that is out of range. So they may only come from where
/// their range is known: sorted positions, or an input of the graph, whose values the engine checks (`input_bound`)
/// before it computes.
pub fn check_indices(indices: Operand, limit: i64) Error!void {
    var t = indices.t;
    while (true) switch (t.op) {
        c.GGML_OP_ARGSORT, c.GGML_OP_TOP_K => {
            const bound = t.src[0].*.ne[0];
            if (bound <= limit) return;
            return indices.refuse("holds positions below {d}, and there are only {d} rows", .{ bound, limit });
        },
        c.GGML_OP_NONE => {
            if (t.view_src == null and t.flags & c.GGML_TENSOR_FLAG_INPUT != 0) return;
            return indices.refuse("is neither an input of the graph nor the result of a sort", .{});
        },
        c.GGML_OP_CONCAT => {
            try check_indices(.{ .op = indices.op, .name = indices.name, .t = t.src[1] }, limit);
            t = t.src[0];
        },
        else => t = index_source(t) orelse
            return indices.refuse("is computed, so that its values could be out of range", .{}),
    };
}

/// The tensor whose values an operation passes on unchanged.
fn index_source(t: *Tensor) ?*Tensor {
    return switch (t.op) {
        c.GGML_OP_VIEW,
        c.GGML_OP_RESHAPE,
        c.GGML_OP_PERMUTE,
        c.GGML_OP_TRANSPOSE,
        c.GGML_OP_CONT,
        c.GGML_OP_DUP,
        c.GGML_OP_CPY,
        c.GGML_OP_REPEAT,
        c.GGML_OP_GET_ROWS,
        => if (t.src[0].*.type == t.type) t.src[0] else null,
        else => null,
    };
}

fn reaches(start: *Tensor, input: *const Tensor) bool {
    var t = start;
    while (t != input) {
        if (t.op == c.GGML_OP_CONCAT and reaches(t.src[1], input)) return true;
        t = if (t.op == c.GGML_OP_CONCAT) t.src[0] else index_source(t) orelse return false;
    }
    return true;
}

/// The values of `input` must be from 0 to below this number for the graph to be computed: the rows of the smallest
/// table that it is an index of. Null where it indexes nothing.
pub fn input_bound(graph: *c.ggml_cgraph, input: *const Tensor) ?i64 {
    var bound: ?i64 = null;
    const count: usize = @intCast(c.ggml_graph_n_nodes(graph));
    for (0..count) |i| {
        const node: *Tensor = c.ggml_graph_node(graph, @intCast(i));
        const use: struct { indices: *Tensor, rows: i64 } = switch (node.op) {
            c.GGML_OP_GET_ROWS => .{ .indices = node.src[1], .rows = node.src[0].*.ne[1] },
            c.GGML_OP_SET_ROWS => .{ .indices = node.src[1], .rows = node.ne[1] },
            c.GGML_OP_MUL_MAT_ID => .{ .indices = node.src[2], .rows = node.src[0].*.ne[2] },
            c.GGML_OP_SSM_SCAN => .{ .indices = node.src[6], .rows = node.src[0].*.ne[3] },
            else => continue,
        };
        if (reaches(use.indices, input)) bound = @min(bound orelse use.rows, use.rows);
    }
    return bound;
}

const testing = std.testing;

test "indices come from sorts and inputs, and their bounds are known" {
    const ctx = c.ggml_init(.{ .mem_size = 1 << 16, .mem_buffer = null, .no_alloc = true }).?;
    defer c.ggml_free(ctx);
    const table: *Tensor = c.ggml_new_tensor_2d(ctx, c.GGML_TYPE_F32, 4, 10);
    const ids: *Tensor = c.ggml_new_tensor_1d(ctx, c.GGML_TYPE_I32, 6);
    const operand: Operand = .{ .op = "get_rows", .name = "b", .t = ids };
    try testing.expectError(error.InvalidArgument, check_indices(operand, 10));
    c.ggml_set_input(ids);
    try check_indices(operand, 10);
    const slice: *Tensor = c.ggml_view_1d(ctx, ids, 3, 0);
    try check_indices(.{ .op = "get_rows", .name = "b", .t = slice }, 10);

    const order: *Tensor = c.ggml_argsort(ctx, table, c.GGML_SORT_ORDER_ASC);
    const both: *Tensor = c.ggml_concat(ctx, c.ggml_view_1d(ctx, order, 2, 0), slice, 0);
    try check_indices(.{ .op = "get_rows", .name = "b", .t = both }, 4);
    try testing.expectError(error.InvalidArgument, check_indices(.{ .op = "get_rows", .name = "b", .t = both }, 3));
    const computed: *Tensor = c.ggml_cast(ctx, table, c.GGML_TYPE_I32);
    const cast: Operand = .{ .op = "get_rows", .name = "b", .t = computed };
    try testing.expectError(error.InvalidArgument, check_indices(cast, 99));

    const graph = c.ggml_new_graph_custom(ctx, 16, false).?;
    c.ggml_build_forward_expand(graph, c.ggml_get_rows(ctx, table, ids));
    try testing.expectEqual(10, input_bound(graph, ids));
    const shorter: *Tensor = c.ggml_new_tensor_2d(ctx, c.GGML_TYPE_F32, 4, 7);
    c.ggml_build_forward_expand(graph, c.ggml_get_rows(ctx, shorter, both));
    try testing.expectEqual(7, input_bound(graph, ids));
    try testing.expectEqual(null, input_bound(graph, table));
}
