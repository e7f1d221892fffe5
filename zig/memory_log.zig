//! The log of a recurrent memory: what each token put into its states, so that a state can be computed again from an
//! older one. The operations of the graph write their inputs into it; the same kernels read them back.
//!
//! What an operation reads of a convolution's output is not logged: the convolution is computed again as well.

const std = @import("std");
const assert = std.debug.assert;
const c = @import("ggml");
const status = @import("status.zig");
const declaration = @import("declaration.zig");
const tensor_data = @import("tensor_data.zig");
const memory_file = @import("memory.zig");
const recurrent_pool = @import("recurrent_pool.zig");
const Segment = @import("kernels/segment.zig").Segment;

const Tensor = c.ggml_tensor;
const Memory = memory_file.Memory;
const Replay = recurrent_pool.Replay;

/// Where an operation's input for a token is found again.
pub const Source = union(enum) {
    /// In these columns of the log.
    logged: Columns,
    /// In what the convolutions before it gave, from this column on.
    convolved: usize,

    pub const Columns = struct { first: usize, width: usize };
};

/// An input of an operation: a row for each token, `width` floats that lie together, and `stride` floats on the next.
pub const Rows = struct { tensor: *const Tensor, width: usize, stride: usize };

/// An operation on a state, as it is done again.
pub const Step = struct {
    operation: *const anyopaque,
    run: *const fn (operation: *const anyopaque, again: *const Again) void,
};

/// A convolution whose output later operations may read: its node, and its place among all convolutions' channels.
const Convolution = struct { node: *const Tensor, first: usize };

/// What is done again for one memory, in the order of its graph.
pub const Recipe = struct {
    steps: std.ArrayList(Step) = .empty,
    convolutions: std.ArrayList(Convolution) = .empty,
    /// Of all convolutions, and of the log.
    channels: usize = 0,
    columns: usize = 0,
    /// One bit for each state that an operation advances; each state has one operation.
    advanced: std.bit_set.Integer(declaration.states_max) = .empty,

    /// Where an input is found again: in a convolution's output, if it is a part of that, or else in the log.
    pub fn source(recipe: *Recipe, rows: Rows) Source {
        for (recipe.convolutions.items) |convolution| {
            const node = convolution.node;
            const is_part = rows.tensor == node or rows.tensor.view_src == node;
            const same_rows = node.ne[1] == 1 or rows.stride * @sizeOf(f32) == node.nb[1];
            if (!is_part or !same_rows) continue;
            const offset = if (rows.tensor == node) 0 else rows.tensor.view_offs / @sizeOf(f32);
            assert(offset + rows.width <= @as(usize, @intCast(node.ne[0])));
            return .{ .convolved = convolution.first + offset };
        }
        defer recipe.columns += rows.width;
        return .{ .logged = .{ .first = recipe.columns, .width = rows.width } };
    }

    /// Says that later operations may read this convolution's output; returns its first column among all.
    pub fn add_convolution(recipe: *Recipe, arena: std.mem.Allocator, node: *const Tensor) error{OutOfMemory}!usize {
        const first = recipe.channels;
        try recipe.convolutions.append(arena, .{ .node = node, .first = first });
        recipe.channels += @intCast(node.ne[0]);
        return first;
    }

    /// Every memory whose states are to be computed again was declared with the numbers that its operations log.
    pub fn check(recipe: *const Recipe, d: declaration.MemoryDeclaration) status.Error!void {
        if (recipe.columns == @as(usize, @intCast(d.inputs))) return;
        return status.fail(error.InvalidArgument, "layer {d}: its memory was declared with {d} inputs a token, and its operations " ++
            "log {d}; declare that many", .{ d.layer, d.inputs, recipe.columns });
    }
};

/// Copies the rows that belong to the running step's tokens into their places of the log.
pub fn write(pool: *const recurrent_pool.RecurrentPool, logs: []const recurrent_pool.LogRun, log: *Tensor, to: Source, rows: Rows) void {
    const columns = switch (to) {
        .logged => |columns| columns,
        .convolved => return,
    };
    assert(columns.width == rows.width);
    const width: usize = @intCast(log.ne[0]);
    for (logs) |part| for (0..part.count) |i| {
        const slot = pool.slot_of(part.sequence, part.first_position + @as(i32, @intCast(i)));
        const place = tensor_data.base_f32(log) + slot * width + columns.first;
        const row = tensor_data.base_f32(rows.tensor) + (part.first_row + i) * rows.stride;
        @memcpy(place[0..columns.width], row[0..columns.width]);
    };
}

/// Numbers of scratch that one thread needs to compute a state of this memory again.
pub fn scratch_count(recipe: *const Recipe, rows: usize) usize {
    return rows * (recipe.columns + recipe.channels);
}

/// Computes one state of one memory again, by one thread.
pub fn run(memory: *const Memory, index: usize, recipe: *const Recipe, replay: Replay, scratch: []f32) void {
    const tensors = memory.tensors[index];
    const pool = &memory.pools[tensors.pool].recurrent;
    const log = tensors.log.?;
    const rows: usize = @intCast(replay.to - replay.from);
    const width = recipe.columns;
    assert(scratch.len >= scratch_count(recipe, rows));
    for (0..rows) |i| {
        const slot = pool.slot_of(replay.sequence, replay.from + @as(i32, @intCast(i)));
        @memcpy(scratch[i * width ..][0..width], (tensor_data.base_f32(log) + slot * width)[0..width]);
    }
    const again: Again = .{
        .logged = scratch.ptr,
        .columns = width,
        .convolved = scratch.ptr + rows * width,
        .channels = recipe.channels,
        .segments = &.{.{
            .first_row = 0,
            .rows = @intCast(rows),
            .read_cell = replay.read_cell,
            .write_cell = @intCast(replay.write_cell),
        }},
    };
    for (recipe.steps.items) |step| step.run(step.operation, &again);
}

/// Where the operations that are done again find their inputs, and what they advance.
pub const Again = struct {
    logged: [*]const f32,
    columns: usize,
    convolved: [*]f32,
    channels: usize,
    segments: []const Segment,

    /// The first row of an input, and floats from row to row.
    pub fn find(again: *const Again, source: Source) struct { [*]const f32, usize } {
        return switch (source) {
            .logged => |columns| .{ again.logged + columns.first, again.columns },
            .convolved => |column| .{ again.convolved + column, again.channels },
        };
    }
};
