//! The log of a recurrent memory: what each token put into its states, so that a state can be computed again from an
//! older one. The operations of the graph write their inputs into it; the same kernels read them back.
//!
//! What a scan reads of a convolution's output is not logged: the convolution is computed again as well.

const std = @import("std");
const assert = std.debug.assert;
const c = @import("ggml");
const status = @import("status.zig");
const declaration = @import("declaration.zig");
const tensor_data = @import("tensor_data.zig");
const memory_file = @import("memory.zig");
const recurrent_pool = @import("recurrent_pool.zig");
const convolution = @import("kernels/convolution.zig");
const ssm_scan = @import("kernels/ssm_scan.zig");
const Segment = @import("kernels/segment.zig").Segment;

const Tensor = c.ggml_tensor;
const Memory = memory_file.Memory;
const Replay = recurrent_pool.Replay;

/// Where an operation's input for a token is found again.
pub const Source = union(enum) {
    /// In these columns of the log.
    logged: Columns,
    /// In what the convolution before it gave, from this number on.
    convolved: usize,

    pub const Columns = struct { first: usize, width: usize };
};

pub const Convolve = struct { args: convolution.Args, state: *Tensor, x: Source };
pub const Scan = struct { args: ssm_scan.Args, state: *Tensor, x: Source, dt: Source, b: Source };

/// An operation on a state, as it is done again.
pub const Step = union(enum) { convolve: Convolve, scan: Scan };

/// What is done again for one memory, in the order of its graph.
pub const Recipe = struct {
    steps: std.ArrayList(Step) = .empty,
    /// The node that the convolution made, for the operations that read it.
    convolved: ?*Tensor = null,
    channels: usize = 0,
    columns: usize = 0,

    /// Where an input is found again: in the convolution's output, if it is a view of that, or else in the log.
    pub fn source(recipe: *Recipe, tensor: *const Tensor) Source {
        if (recipe.convolved) |node| {
            const same_rows = tensor.ne[1] == 1 or tensor.nb[1] == node.nb[1];
            if (tensor.view_src == node and same_rows) return .{ .convolved = tensor.view_offs / @sizeOf(f32) };
        }
        const width: usize = @intCast(tensor.ne[0]);
        defer recipe.columns += width;
        return .{ .logged = .{ .first = recipe.columns, .width = width } };
    }

    /// Every memory whose states are to be computed again was declared with the numbers that its operations log.
    pub fn check(recipe: *const Recipe, d: declaration.MemoryDeclaration) status.Error!void {
        if (recipe.columns == @as(usize, @intCast(d.inputs))) return;
        return status.fail(error.InvalidArgument, "layer {d}: its memory was declared with {d} inputs a token, and its operations " ++
            "log {d}; declare that many", .{ d.layer, d.inputs, recipe.columns });
    }
};

/// A weight that is still there when the graph is not: nothing that the graph computes.
pub fn lasting(layer: i32, tensor: *const Tensor, what: []const u8) status.Error![*]const f32 {
    if (tensor.data == null) {
        return status.fail(error.Unsupported, "layer {d}: {s} is computed in the graph, so its states cannot be computed again; " ++
            "declare the memory without inputs", .{ layer, what });
    }
    return tensor_data.base_f32(tensor);
}

/// Copies the rows of `tensor` that belong to the running step's tokens into their places of the log.
pub fn write(pool: *const recurrent_pool.RecurrentPool, logs: []const recurrent_pool.LogRun, log: *Tensor, from: Source, tensor: *const Tensor) void {
    const columns = switch (from) {
        .logged => |columns| columns,
        .convolved => return,
    };
    const stride = tensor.nb[1] / @sizeOf(f32);
    const width: usize = @intCast(log.ne[0]);
    for (logs) |part| for (0..part.count) |i| {
        const slot = pool.slot_of(part.sequence, part.first_position + @as(i32, @intCast(i)));
        const to = tensor_data.base_f32(log) + slot * width + columns.first;
        const row = tensor_data.base_f32(tensor) + (part.first_row + i) * stride;
        @memcpy(to[0..columns.width], row[0..columns.width]);
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
    const convolved = scratch[rows * width ..];
    const segments = [_]Segment{.{
        .first_row = 0,
        .rows = @intCast(rows),
        .read_cell = replay.read_cell,
        .write_cell = @intCast(replay.write_cell),
    }};
    const places: Places = .{ .scratch = scratch.ptr, .width = width, .convolved = convolved.ptr, .channels = recipe.channels };
    for (recipe.steps.items) |step| switch (step) {
        .convolve => |convolve| {
            var args = convolve.args;
            args.x, args.x_row_stride = places.find(convolve.x);
            args.out = convolved.ptr;
            args.out_row_stride = recipe.channels;
            args.state = tensor_data.base_bytes(convolve.state);
            args.segments = &segments;
            convolution.forward(&args, 0, 1);
        },
        .scan => |scan| {
            var args = scan.args;
            args.x, args.x_row_stride = places.find(scan.x);
            args.dt, args.dt_row_stride = places.find(scan.dt);
            args.b, args.b_row_stride = places.find(scan.b);
            args.out = null;
            args.state = tensor_data.base_f32(scan.state);
            args.segments = &segments;
            ssm_scan.forward(&args, 0, 1);
        },
    };
}

const Places = struct {
    scratch: [*]const f32,
    width: usize,
    convolved: [*]const f32,
    channels: usize,

    fn find(places: *const Places, source: Source) struct { [*]const f32, usize } {
        return switch (source) {
            .logged => |columns| .{ places.scratch + columns.first, places.width },
            .convolved => |offset| .{ places.convolved + offset, places.channels },
        };
    }
};
