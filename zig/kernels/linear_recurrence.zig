//! An element-wise linear recurrence with a carried state, `h = a * h + x` per channel, as in the RG-LRU of Griffin
//! (there `a` is the gated decay and `x` the gated and scaled input). The output of a token is `h` after it.
//!
//! The rows of a batch are cut into segments. Each continues a sequence from the state in one cell and leaves the new
//! state in another. A state is the last `h`, `[channels]`.

const std = @import("std");
const vector = @import("vector.zig");

const assert = std.debug.assert;
const lanes = vector.lanes;

pub const Segment = @import("segment.zig").Segment;

/// Strides count floats.
pub const Args = struct {
    /// The decay, `[channels]` per row.
    a: [*]const f32,
    a_row_stride: usize,
    /// The input, `[channels]` per row.
    x: [*]const f32,
    x_row_stride: usize,
    /// `[channels]` per row; may be `x` itself. Null advances the states only, which come out the same to the bit.
    out: ?[*]f32,
    out_row_stride: usize = 0,
    channels: usize,
    /// The first cell of the pool.
    state: [*]f32,
    state_cell_stride: usize,
    segments: []const Segment,
};

/// Vectors of channels that go through the rows together, because each waits for its own last result.
const block_vectors = 8;

/// Thread `ith` of `nth` computes its own channels for all segments, so that no thread waits for another.
pub fn forward(args: *const Args, ith: usize, nth: usize) void {
    assert(args.state_cell_stride >= args.channels);
    for (args.segments) |segment| segment.check();
    // Threads own whole vectors, the last one also what is left over.
    const vectors = vector.share(args.channels / lanes, ith, nth);
    var channel = vectors[0] * lanes;
    const end = if (ith + 1 == nth) args.channels else vectors[1] * lanes;
    while (channel + block_vectors * lanes <= end) : (channel += block_vectors * lanes) {
        channel_block(lanes, block_vectors, args, channel);
    }
    while (channel + lanes <= end) : (channel += lanes) channel_block(lanes, 1, args, channel);
    while (channel < end) : (channel += 1) channel_block(1, 1, args, channel);
}

/// All segments for `vectors * width` channels.
fn channel_block(comptime width: usize, comptime vectors: usize, args: *const Args, channel: usize) void {
    const V = @Vector(width, f32);
    for (args.segments) |segment| {
        if (args.out == null and segment.write_cell < 0) continue;
        var h: [vectors]V = @splat(@splat(0));
        if (segment.read_cell >= 0) {
            const from = cell_state(args, segment.read_cell, channel);
            inline for (&h, 0..) |*to, v| to.* = (from + v * width)[0..width].*;
        }
        for (segment.first_row..segment.first_row + segment.rows) |row| {
            const a = args.a + row * args.a_row_stride + channel;
            const x = args.x + row * args.x_row_stride + channel;
            inline for (&h, 0..) |*to, v| {
                const decay: V = (a + v * width)[0..width].*;
                to.* = vector.fma(decay, to.*, @as(V, (x + v * width)[0..width].*));
            }
            if (args.out) |first| {
                const out = first + row * args.out_row_stride + channel;
                inline for (h, 0..) |value, v| (out + v * width)[0..width].* = value;
            }
        }
        if (segment.write_cell < 0) continue;
        const to = cell_state(args, segment.write_cell, channel);
        inline for (h, 0..) |value, v| (to + v * width)[0..width].* = value;
    }
}

fn cell_state(args: *const Args, cell: i32, channel: usize) [*]f32 {
    return args.state + @as(usize, @intCast(cell)) * args.state_cell_stride + channel;
}

const testing = std.testing;

/// A batch of random inputs with room for its outputs, compared with the definition in f64.
const Fixture = struct {
    const cells = 7;
    const gap = 5;

    arena: std.heap.ArenaAllocator,
    args: Args,
    out_buffer: []f32,
    state_before: []f32,

    fn init(random: std.Random, channels: usize, segments: []const Segment) !Fixture {
        var arena: std.heap.ArenaAllocator = .init(testing.allocator);
        const memory = arena.allocator();
        var rows: usize = 0;
        for (segments) |segment| rows = @max(rows, segment.first_row + segment.rows);
        const stride = channels + gap;
        const a = try numbers(memory, random, rows * stride);
        for (a) |*value| value.* = @exp(-@exp(value.* - 2));
        const state = try numbers(memory, random, cells * (channels + 3));
        const out_buffer = try numbers(memory, random, rows * stride);
        const args: Args = .{
            .a = a.ptr,
            .a_row_stride = stride,
            .x = (try numbers(memory, random, rows * stride)).ptr,
            .x_row_stride = stride,
            .out = out_buffer.ptr,
            .out_row_stride = stride,
            .channels = channels,
            .state = state.ptr,
            .state_cell_stride = channels + 3,
            .segments = segments,
        };
        const state_before = try memory.dupe(f32, state);
        return .{ .arena = arena, .args = args, .out_buffer = out_buffer, .state_before = state_before };
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

    fn state_now(fixture: *const Fixture) []f32 {
        return fixture.args.state[0..fixture.state_before.len];
    }

    fn copy(fixture: *Fixture, values: []const f32) ![]f32 {
        return fixture.arena.allocator().dupe(f32, values);
    }

    /// Compares outputs and states with the definition. What is between rows and cells must be untouched.
    fn compare(fixture: *Fixture, out_before: []const f32) !void {
        const args = &fixture.args;
        const states = try fixture.arena.allocator().alloc(f64, fixture.state_before.len);
        for (states, fixture.state_before) |*to, from| to.* = from;
        const out = try fixture.arena.allocator().alloc(f64, out_before.len);
        for (out, out_before) |*to, from| to.* = from;
        for (args.segments) |segment| for (0..args.channels) |c| {
            var h: f64 = 0;
            if (segment.read_cell >= 0) h = states[at(args, segment.read_cell, c)];
            for (segment.first_row..segment.first_row + segment.rows) |row| {
                h = args.a[row * args.a_row_stride + c] * h + args.x[row * args.x_row_stride + c];
                out[row * args.out_row_stride + c] = h;
            }
            if (segment.write_cell >= 0) states[at(args, segment.write_cell, c)] = h;
        };
        for (out, fixture.out_buffer) |y, actual| try testing.expectApproxEqAbs(y, actual, 1e-5);
        for (states, fixture.state_now()) |h, actual| try testing.expectApproxEqAbs(h, actual, 1e-5);
    }

    fn at(args: *const Args, cell: i32, channel: usize) usize {
        return @as(usize, @intCast(cell)) * args.state_cell_stride + channel;
    }
};

test "any number of channels matches the definition, for any number of threads, with and without an output" {
    const segments = [_]Segment{
        .{ .first_row = 0, .rows = 1, .read_cell = 0, .write_cell = 1 },
        .{ .first_row = 1, .rows = 2, .read_cell = 0, .write_cell = 2 },
        .{ .first_row = 3, .rows = 9, .read_cell = -1, .write_cell = 3 },
        // Continues the third, as when a snapshot is taken in the middle of a prefill.
        .{ .first_row = 12, .rows = 4, .read_cell = 3, .write_cell = 4 },
        .{ .first_row = 16, .rows = 3, .read_cell = 5, .write_cell = -1 },
        .{ .first_row = 0, .rows = 0, .read_cell = 4, .write_cell = 6 },
    };
    for ([_]usize{ 1, 3, lanes, 2 * lanes + 1, 8 * lanes, 19 * lanes + 7 }) |channels| for (0..4) |seed| {
        var prng: std.Random.DefaultPrng = .init(seed);
        var fixture: Fixture = try .init(prng.random(), channels, &segments);
        defer fixture.arena.deinit();
        const out_before = try fixture.copy(fixture.out_buffer);
        fixture.run(1);
        try fixture.compare(out_before);
        const out = try fixture.copy(fixture.out_buffer);
        const state = try fixture.copy(fixture.state_now());
        for ([_]usize{ 2, 3, 5 }) |nth| {
            fixture.run(nth);
            try testing.expectEqualSlices(f32, out, fixture.out_buffer);
            try testing.expectEqualSlices(f32, state, fixture.state_now());
        }
        fixture.args.out = null;
        fixture.run(2);
        try testing.expectEqualSlices(f32, out, fixture.out_buffer);
        try testing.expectEqualSlices(f32, state, fixture.state_now());
    };
}

test "cut into pieces of any size, with states and inputs in place, a sequence gives the same bits" {
    const whole = [_]Segment{.{ .first_row = 0, .rows = 12, .read_cell = 2, .write_cell = 6 }};
    const pieces = [_]Segment{
        .{ .first_row = 0, .rows = 1, .read_cell = 2, .write_cell = 0 },
        .{ .first_row = 1, .rows = 1, .read_cell = 0, .write_cell = 0 },
        .{ .first_row = 2, .rows = 7, .read_cell = 0, .write_cell = 0 },
        .{ .first_row = 9, .rows = 3, .read_cell = 0, .write_cell = 6 },
    };
    var prng: std.Random.DefaultPrng = .init(12);
    const channels = 11 * lanes + 2;
    var fixture: Fixture = try .init(prng.random(), channels, &whole);
    defer fixture.arena.deinit();
    fixture.run(2);
    const out = try fixture.copy(fixture.out_buffer);
    const state = try fixture.copy(fixture.state_now());
    fixture.args.segments = &pieces;
    // The inputs take the outputs' place.
    @memcpy(fixture.out_buffer, fixture.args.x);
    fixture.args.x = fixture.out_buffer.ptr;
    fixture.run(2);
    for (0..12) |row| {
        const first = row * fixture.args.out_row_stride;
        try testing.expectEqualSlices(f32, out[first..][0..channels], fixture.out_buffer[first..][0..channels]);
    }
    const last_cell = 6 * fixture.args.state_cell_stride;
    try testing.expectEqualSlices(f32, state[last_cell..], fixture.state_now()[last_cell..]);
}

test "states that are not read may hold anything" {
    const segments = [_]Segment{
        .{ .first_row = 0, .rows = 5, .read_cell = -1, .write_cell = 1 },
        .{ .first_row = 5, .rows = 0, .read_cell = -1, .write_cell = 2 },
    };
    var prng: std.Random.DefaultPrng = .init(13);
    const channels = 2 * lanes + 3;
    var fixture: Fixture = try .init(prng.random(), channels, &segments);
    defer fixture.arena.deinit();
    @memset(fixture.state_before, std.math.nan(f32));
    fixture.run(1);
    const stride = fixture.args.state_cell_stride;
    // From zeros, the first output is the input itself.
    try testing.expectEqualSlices(f32, fixture.args.x[0..channels], fixture.out_buffer[0..channels]);
    for (fixture.state_now()[stride..][0..channels]) |h| try testing.expect(std.math.isFinite(h));
    for (fixture.state_now()[2 * stride ..][0..channels]) |h| try testing.expectEqual(0, h);
    try testing.expect(std.math.isNan(fixture.state_now()[3 * stride]));
}
