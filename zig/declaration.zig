//! What a layer remembers, as the plugin declared it: plain data that crosses the boundary.

const std = @import("std");
const c = @import("ggml");
const status = @import("status.zig");
const leaf = @import("leaf.zig");

pub const Kind = enum(i32) { attention = 0, recurrent = 1 };

/// Which earlier positions a token of an attention memory sees.
pub const Extent = enum(i32) {
    /// Every earlier one.
    all = 0,
    /// Those less than `window` positions back, itself included.
    sliding = 1,
    /// Those in its own chunk of `window` positions.
    chunked = 2,
    /// Those no further than half of `window` away, before or behind; a token computed in its turn has none behind it.
    symmetric = 3,
};

pub const states_max = 8;

/// One memory of one layer. Crosses the ABI; TypeScript fills it from a declaration record.
pub const MemoryDeclaration = extern struct {
    layer: i32,
    kind: Kind,
    /// The memory whose cells this one reads instead of having its own, as an index into the declarations; -1 = own.
    shared_from: i32 = -1,
    extent: Extent = .all,
    /// Positions of a window or chunk; 0 where the extent is `all`.
    window: i32 = 0,
    /// Key and value heads.
    heads: i32 = 0,
    /// Elements of one head's key.
    key_dim: i32 = 0,
    /// Elements of one head's value; 0 = keys without values.
    value_dim: i32 = 0,
    /// ggml types of keys and values.
    key_type: i32 = 0,
    value_type: i32 = 0,
    /// Named states of a recurrent memory.
    state_count: i32 = 0,
    /// Elements of each state.
    state_elements: [states_max]i32 = @splat(0),
    /// ggml type of each state: f32, or f16 for the inputs of a convolution.
    state_types: [states_max]i32 = @splat(0),
    /// Numbers for each token from which the states can be computed again; 0 = they cannot.
    inputs: i32 = 0,

    pub fn elements_per_cell(d: *const MemoryDeclaration) i64 {
        var total: i64 = 0;
        for (d.state_elements[0..@intCast(d.state_count)]) |elements| total += elements;
        return total;
    }
};

/// One tensor of a memory: what a cell of it holds.
pub const Column = struct {
    type: c.ggml_type = c.GGML_TYPE_F32,
    elements: i64 = 0,

    pub fn bytes(column: Column) usize {
        return if (column.elements == 0) 0 else c.ggml_row_size(column.type, column.elements);
    }
};

pub const Columns = [states_max]Column;

/// Refuses what cannot be allocated or computed, naming layer and fault.
pub fn check(declarations: []const MemoryDeclaration) status.Error!void {
    for (declarations, 0..) |d, i| {
        if (d.shared_from >= 0) try check_shared(declarations, d, i) else try leaf.check(d);
    }
}

fn check_shared(declarations: []const MemoryDeclaration, d: MemoryDeclaration, index: usize) status.Error!void {
    if (d.shared_from >= index) {
        return status.fail(error.InvalidArgument, "layer {d}: a memory can be shared only from an earlier layer", .{d.layer});
    }
    const source = declarations[@intCast(d.shared_from)];
    if (source.shared_from >= 0 or source.kind != d.kind) {
        return status.fail(error.InvalidArgument, "layer {d}: the memory shared from layer {d} must be that layer's " ++
            "own, and of the same kind", .{ d.layer, source.layer });
    }
}

test "what cannot be computed is refused by name" {
    const good: MemoryDeclaration = .{ .layer = 3, .kind = .attention, .heads = 2, .key_dim = 24, .value_dim = 24 };
    try check(&.{good});
    var quantised = good;
    quantised.key_type = c.GGML_TYPE_Q8_0;
    try std.testing.expectError(error.Unsupported, check(&.{quantised}));
    try std.testing.expectStringStartsWith(status.message(), "layer 3: keys of 24 elements");
    var window = good;
    window.window = 16;
    try std.testing.expectError(error.InvalidArgument, check(&.{window}));
    const shared: MemoryDeclaration = .{ .layer = 4, .kind = .attention, .shared_from = 0 };
    try check(&.{ good, shared });
    try std.testing.expectError(error.InvalidArgument, check(&.{shared}));
    const none: MemoryDeclaration = .{ .layer = 0, .kind = .recurrent };
    try std.testing.expectError(error.InvalidArgument, check(&.{none}));
}
