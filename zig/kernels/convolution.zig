//! Depthwise causal convolution over time with a carried state:
//! `y[t, c] = bias[c] + sum_j weight[j, c] * x[t - (taps - 1) + j, c]`, then silu if asked for.
//!
//! The rows of a batch are cut into segments. Each continues a sequence from the state in one cell and leaves the new
//! state in another. A state holds the last `taps - 1` inputs, before bias and activation, **channels fastest**:
//! `[channels, taps - 1]`, the oldest input first.

const std = @import("std");
const vector = @import("vector.zig");

const assert = std.debug.assert;
const lanes = vector.lanes;

/// The shortest filter, which looks back at all, and the longest.
pub const taps_min = 2;
pub const taps_max = 8;

pub const Segment = @import("segment.zig").Segment;

pub const StateType = enum { f32, f16 };

/// Strides count floats.
pub const Args = struct {
    /// One row per token.
    x: [*]const f32,
    x_row_stride: usize,
    /// May be `x` itself.
    out: [*]f32,
    out_row_stride: usize,
    channels: usize,
    taps: usize,
    /// `[taps, channels]`, taps fastest; the last one meets the current token.
    weight: [*]const f32,
    bias: ?[*]const f32 = null,
    silu: bool = false,
    /// The first cell of the pool; the stride counts numbers.
    state: [*]u8,
    state_type: StateType = .f32,
    state_cell_stride: usize,
    segments: []const Segment,
};

/// Thread `ith` of `nth` computes its own channels for all segments, so that no thread waits for another.
pub fn forward(args: *const Args, ith: usize, nth: usize) void {
    assert(args.taps >= taps_min and args.taps <= taps_max);
    assert(args.state_cell_stride >= (args.taps - 1) * args.channels);
    for (args.segments) |segment| segment.check();
    switch (args.taps) {
        inline taps_min...taps_max => |taps| forward_taps(taps, args, ith, nth),
        else => unreachable,
    }
}

fn forward_taps(comptime taps: usize, args: *const Args, ith: usize, nth: usize) void {
    // What is kept in registers between rows: the weights and the last inputs.
    const wide = if (vector.many_registers and taps <= 4) 4 else 2;
    // Threads own whole vectors, the last one also what is left over.
    const vectors = vector.share(args.channels / lanes, ith, nth);
    var channel = vectors[0] * lanes;
    const end = if (ith + 1 == nth) args.channels else vectors[1] * lanes;
    while (channel + wide * lanes <= end) : (channel += wide * lanes) {
        channel_block(taps, lanes, wide, args, channel);
    }
    while (channel + lanes <= end) : (channel += lanes) channel_block(taps, lanes, 1, args, channel);
    while (channel < end) : (channel += 1) channel_block(taps, 1, 1, args, channel);
}

/// All segments for `vectors * width` channels.
fn channel_block(
    comptime taps: usize,
    comptime width: usize,
    comptime vectors: usize,
    args: *const Args,
    channel: usize,
) void {
    const V = @Vector(width, f32);
    var weight: [vectors][taps]V = undefined;
    var bias: [vectors]V = undefined;
    inline for (0..vectors) |v| {
        const first = channel + v * width;
        weight[v] = load_weight(taps, width, args.weight + first * taps);
        bias[v] = if (args.bias) |from| (from + first)[0..width].* else @splat(0);
    }
    for (args.segments) |segment| {
        var history: [taps][vectors]V = undefined;
        inline for (0..taps - 1) |j| inline for (0..vectors) |v| {
            history[j][v] = if (segment.read_cell >= 0)
                load_state(width, args, segment.read_cell, j, channel + v * width)
            else
                @splat(0);
        };
        for (segment.first_row..segment.first_row + segment.rows) |row| {
            const x = args.x + row * args.x_row_stride + channel;
            const out = args.out + row * args.out_row_stride + channel;
            inline for (0..vectors) |v| history[taps - 1][v] = (x + v * width)[0..width].*;
            inline for (0..vectors) |v| {
                var y = weight[v][0] * history[0][v];
                inline for (1..taps) |j| y = vector.fma(weight[v][j], history[j][v], y);
                y += bias[v];
                (out + v * width)[0..width].* = if (args.silu) vector.silu(y) else y;
            }
            inline for (0..taps - 1) |j| history[j] = history[j + 1];
        }
        if (segment.write_cell < 0) continue;
        inline for (0..taps - 1) |j| inline for (0..vectors) |v| {
            store_state(width, args, segment.write_cell, j, channel + v * width, history[j][v]);
        };
    }
}

fn state_index(args: *const Args, cell: i32, j: usize, channel: usize) usize {
    return @as(usize, @intCast(cell)) * args.state_cell_stride + j * args.channels + channel;
}

inline fn load_state(comptime width: usize, args: *const Args, cell: i32, j: usize, channel: usize) @Vector(width, f32) {
    const at = state_index(args, cell, j, channel);
    switch (args.state_type) {
        .f32 => return (@as([*]const f32, @ptrCast(@alignCast(args.state))) + at)[0..width].*,
        .f16 => {
            const halves: @Vector(width, f16) = (@as([*]const f16, @ptrCast(@alignCast(args.state))) + at)[0..width].*;
            return @floatCast(halves);
        },
    }
}

inline fn store_state(comptime width: usize, args: *const Args, cell: i32, j: usize, channel: usize, value: @Vector(width, f32)) void {
    const at = state_index(args, cell, j, channel);
    switch (args.state_type) {
        .f32 => (@as([*]f32, @ptrCast(@alignCast(args.state))) + at)[0..width].* = value,
        .f16 => (@as([*]f16, @ptrCast(@alignCast(args.state))) + at)[0..width].* = @as(@Vector(width, f16), @floatCast(value)),
    }
}

/// Turns `width` channels of `taps` weights each into a vector per tap.
inline fn load_weight(
    comptime taps: usize,
    comptime width: usize,
    from: [*]const f32,
) [taps]@Vector(width, f32) {
    const interleaved: @Vector(taps * width, f32) = from[0 .. taps * width].*;
    return std.simd.deinterlace(taps, interleaved);
}

const testing = std.testing;

/// A batch of random inputs with room for its outputs, compared with the definition in f64.
const Fixture = struct {
    const cells = 7;
    const row_stride_extra = 5;

    arena: std.heap.ArenaAllocator,
    args: Args,
    state_before: []f32,
    rows: usize,

    fn init(random: std.Random, channels: usize, taps: usize, segments: []const Segment) !Fixture {
        var arena: std.heap.ArenaAllocator = .init(testing.allocator);
        const memory = arena.allocator();
        var rows: usize = 0;
        for (segments) |segment| rows = @max(rows, segment.first_row + segment.rows);
        const stride = channels + row_stride_extra;
        const cell_stride = (taps - 1) * channels + 3;
        const state = try numbers(memory, random, cells * cell_stride);
        const args: Args = .{
            .x = (try numbers(memory, random, rows * stride)).ptr,
            .x_row_stride = stride,
            .out = (try numbers(memory, random, rows * stride)).ptr,
            .out_row_stride = stride,
            .channels = channels,
            .taps = taps,
            .weight = (try numbers(memory, random, channels * taps)).ptr,
            .bias = if (random.boolean()) (try numbers(memory, random, channels)).ptr else null,
            .silu = random.boolean(),
            .state = @ptrCast(state.ptr),
            .state_cell_stride = cell_stride,
            .segments = segments,
        };
        const state_before = try memory.dupe(f32, state);
        return .{ .arena = arena, .args = args, .state_before = state_before, .rows = rows };
    }

    fn numbers(memory: std.mem.Allocator, random: std.Random, count: usize) ![]f32 {
        const values = try memory.alloc(f32, count);
        for (values) |*value| value.* = random.floatNorm(f32);
        return values;
    }

    /// Runs with `nth` threads, one after the other, from the same state.
    fn run(fixture: *Fixture, nth: usize) void {
        @memcpy(fixture.state_now(), fixture.state_before);
        for (0..nth) |ith| forward(&fixture.args, ith, nth);
    }

    fn out(fixture: *const Fixture) []f32 {
        return fixture.args.out[0 .. fixture.rows * fixture.args.out_row_stride];
    }

    fn state_now(fixture: *const Fixture) []f32 {
        return @as([*]f32, @ptrCast(@alignCast(fixture.args.state)))[0..fixture.state_before.len];
    }

    /// Compares outputs and states with the definition.
    fn check(fixture: *Fixture) !void {
        const args = &fixture.args;
        const expected_state = try testing.allocator.dupe(f32, fixture.state_before);
        defer testing.allocator.free(expected_state);
        for (0..args.channels) |c| for (args.segments) |segment| {
            var inputs: [64]f32 = @splat(0);
            const kept = args.taps - 1;
            for (0..kept) |j| if (segment.read_cell >= 0) {
                const cell: usize = @intCast(segment.read_cell);
                inputs[j] = expected_state[cell * args.state_cell_stride + j * args.channels + c];
            };
            for (0..segment.rows) |t| {
                const row = segment.first_row + t;
                inputs[kept + t] = args.x[row * args.x_row_stride + c];
                var y: f64 = if (args.bias) |bias| bias[c] else 0;
                for (0..args.taps) |j| y += @as(f64, args.weight[c * args.taps + j]) * inputs[t + j];
                if (args.silu) y /= 1 + @exp(-y);
                try testing.expectApproxEqAbs(y, args.out[row * args.out_row_stride + c], 3e-6);
            }
            for (0..kept) |j| if (segment.write_cell >= 0) {
                const cell: usize = @intCast(segment.write_cell);
                expected_state[cell * args.state_cell_stride + j * args.channels + c] =
                    inputs[segment.rows + j];
            };
        };
        try testing.expectEqualSlices(f32, expected_state, fixture.state_now());
    }
};

test "random shapes match the definition, for any number of threads" {
    var prng: std.Random.DefaultPrng = .init(11);
    const random = prng.random();
    const segments = [_]Segment{
        .{ .first_row = 0, .rows = 1, .read_cell = 0, .write_cell = 1 },
        .{ .first_row = 1, .rows = 2, .read_cell = 0, .write_cell = 2 },
        .{ .first_row = 3, .rows = 9, .read_cell = -1, .write_cell = 3 },
        // Continues the third, as when a snapshot is taken in the middle of a prefill.
        .{ .first_row = 12, .rows = 4, .read_cell = 3, .write_cell = 4 },
        .{ .first_row = 16, .rows = 3, .read_cell = 5, .write_cell = -1 },
    };
    for ([_]usize{ 1, 3, lanes, 2 * lanes + 1, 5 * lanes, 9 * lanes + 7 }) |channels| {
        for (taps_min..taps_max + 1) |taps| {
            var fixture: Fixture = try .init(random, channels, taps, &segments);
            defer fixture.arena.deinit();
            fixture.run(1);
            try fixture.check();
            const out = try testing.allocator.dupe(f32, fixture.out());
            defer testing.allocator.free(out);
            for ([_]usize{ 2, 3, 5 }) |nth| {
                fixture.run(nth);
                try testing.expectEqualSlices(f32, out, fixture.out());
                try fixture.check();
            }
        }
    }
}

test "cut into pieces of any size, with states in place, a sequence gives the same bits" {
    var prng: std.Random.DefaultPrng = .init(12);
    const random = prng.random();
    const whole = [_]Segment{.{ .first_row = 0, .rows = 12, .read_cell = -1, .write_cell = 6 }};
    const pieces = [_]Segment{
        .{ .first_row = 0, .rows = 1, .read_cell = -1, .write_cell = 0 },
        .{ .first_row = 1, .rows = 1, .read_cell = 0, .write_cell = 0 },
        .{ .first_row = 2, .rows = 7, .read_cell = 0, .write_cell = 0 },
        .{ .first_row = 9, .rows = 3, .read_cell = 0, .write_cell = 6 },
    };
    var fixture: Fixture = try .init(random, 3 * lanes + 2, 4, &whole);
    defer fixture.arena.deinit();
    fixture.run(2);
    const out = try testing.allocator.dupe(f32, fixture.out());
    defer testing.allocator.free(out);
    const state = try testing.allocator.dupe(f32, fixture.state_now());
    defer testing.allocator.free(state);
    fixture.args.segments = &pieces;
    fixture.run(2);
    try testing.expectEqualSlices(f32, out, fixture.out());
    const last_cell = 6 * fixture.args.state_cell_stride;
    try testing.expectEqualSlices(f32, state[last_cell..], fixture.state_now()[last_cell..]);
}

test "states that are not read may hold anything" {
    var prng: std.Random.DefaultPrng = .init(13);
    const segments = [_]Segment{.{ .first_row = 0, .rows = 5, .read_cell = -1, .write_cell = 1 }};
    var fixture: Fixture = try .init(prng.random(), 2 * lanes + 3, 4, &segments);
    defer fixture.arena.deinit();
    @memset(fixture.state_before, std.math.nan(f32));
    fixture.run(1);
    for (fixture.out(), 0..) |value, i| {
        if (i % fixture.args.out_row_stride < fixture.args.channels) try testing.expect(std.math.isFinite(value));
    }
    const written = fixture.state_now()[fixture.args.state_cell_stride..][0 .. 3 * fixture.args.channels];
    for (written) |value| try testing.expect(std.math.isFinite(value));
}
