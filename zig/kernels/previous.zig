//! The token shift of RWKV: every output row is the input row before it in its sequence, zeros at the start.
//!
//! The rows of a batch are cut into segments. Each continues a sequence from the state in one cell and leaves the new
//! state in another. A state is the last input row, `[channels]`. Nothing is computed, so the bits are the input's.

const std = @import("std");
const vector = @import("vector.zig");

const assert = std.debug.assert;

pub const Segment = @import("segment.zig").Segment;

/// Strides count floats.
pub const Args = struct {
    /// `[channels]` per row, one row per token.
    x: [*]const f32,
    x_row_stride: usize,
    /// `[channels]` per row; not `x` itself. Null advances the states only.
    out: ?[*]f32,
    out_row_stride: usize = 0,
    channels: usize,
    /// The first cell of the pool.
    state: [*]f32,
    state_cell_stride: usize,
    segments: []const Segment,
};

/// Thread `ith` of `nth` moves its own channels for all segments, so that no thread waits for another.
pub fn forward(args: *const Args, ith: usize, nth: usize) void {
    assert(args.state_cell_stride >= args.channels);
    assert(args.out == null or @intFromPtr(args.out.?) != @intFromPtr(args.x));
    for (args.segments) |segment| segment.check();
    // Threads own whole vectors, the last one also what is left over.
    const vectors = vector.share(args.channels / vector.lanes, ith, nth);
    const channel = vectors[0] * vector.lanes;
    const end = if (ith + 1 == nth) args.channels else vectors[1] * vector.lanes;
    if (channel == end) return;
    for (args.segments) |segment| advance_segment(args, segment, channel, end - channel);
}

fn advance_segment(args: *const Args, segment: Segment, channel: usize, count: usize) void {
    const x = args.x + segment.first_row * args.x_row_stride + channel;
    const before: ?[*]const f32 = cell_state(args, segment.read_cell, channel);
    if (args.out) |first| {
        const out = first + segment.first_row * args.out_row_stride + channel;
        for (0..segment.rows) |t| {
            const from = if (t == 0) before else x + (t - 1) * args.x_row_stride;
            copy_row(from, (out + t * args.out_row_stride)[0..count]);
        }
    }
    const to = cell_state(args, segment.write_cell, channel) orelse return;
    const last = if (segment.rows == 0) before else x + (segment.rows - 1) * args.x_row_stride;
    copy_row(last, to[0..count]);
}

fn copy_row(from: ?[*]const f32, to: []f32) void {
    if (from) |source| @memcpy(to, source[0..to.len]) else @memset(to, 0);
}

fn cell_state(args: *const Args, cell: i32, channel: usize) ?[*]f32 {
    if (cell < 0) return null;
    return args.state + @as(usize, @intCast(cell)) * args.state_cell_stride + channel;
}

const testing = std.testing;

const Fixture = struct {
    const cells = 7;
    const gap = 5;

    arena: std.heap.ArenaAllocator,
    args: Args,
    out_buffer: []f32,
    out_before: []f32,
    state_before: []f32,

    fn init(random: std.Random, channels: usize, segments: []const Segment) !Fixture {
        var arena: std.heap.ArenaAllocator = .init(testing.allocator);
        const memory = arena.allocator();
        var rows: usize = 0;
        for (segments) |segment| rows = @max(rows, segment.first_row + segment.rows);
        const out_buffer = try numbers(memory, random, rows * (channels + gap));
        const state = try numbers(memory, random, cells * (channels + 3));
        const args: Args = .{
            .x = (try numbers(memory, random, rows * (channels + 2))).ptr,
            .x_row_stride = channels + 2,
            .out = out_buffer.ptr,
            .out_row_stride = channels + gap,
            .channels = channels,
            .state = state.ptr,
            .state_cell_stride = channels + 3,
            .segments = segments,
        };
        const out_before = try memory.dupe(f32, out_buffer);
        const state_before = try memory.dupe(f32, state);
        return .{
            .arena = arena,
            .args = args,
            .out_buffer = out_buffer,
            .out_before = out_before,
            .state_before = state_before,
        };
    }

    fn numbers(memory: std.mem.Allocator, random: std.Random, count: usize) ![]f32 {
        const values = try memory.alloc(f32, count);
        for (values) |*value| value.* = random.floatNorm(f32);
        return values;
    }

    /// Runs with `nth` threads, one after the other, from the same outputs and states.
    fn run(fixture: *Fixture, nth: usize) void {
        @memcpy(fixture.out_buffer, fixture.out_before);
        @memcpy(fixture.state_now(), fixture.state_before);
        for (0..nth) |ith| forward(&fixture.args, ith, nth);
    }

    fn state_now(fixture: *const Fixture) []f32 {
        return fixture.args.state[0..fixture.state_before.len];
    }

    /// Compares everything with the definition, channel by channel; what is not written must be as before.
    fn compare(fixture: *Fixture) !void {
        const args = &fixture.args;
        const memory = fixture.arena.allocator();
        const out = try memory.dupe(f32, fixture.out_before);
        const states = try memory.dupe(f32, fixture.state_before);
        for (args.segments) |segment| for (0..args.channels) |c| {
            var held: f32 = 0;
            if (segment.read_cell >= 0) held = states[at(args, segment.read_cell, c)];
            for (segment.first_row..segment.first_row + segment.rows) |row| {
                if (args.out != null) out[row * args.out_row_stride + c] = held;
                held = args.x[row * args.x_row_stride + c];
            }
            if (segment.write_cell >= 0) states[at(args, segment.write_cell, c)] = held;
        };
        try testing.expectEqualSlices(f32, out, fixture.out_buffer);
        try testing.expectEqualSlices(f32, states, fixture.state_now());
    }

    fn at(args: *const Args, cell: i32, channel: usize) usize {
        return @as(usize, @intCast(cell)) * args.state_cell_stride + channel;
    }
};

test "rows are those before, for any number of channels and threads, with and without an output" {
    const segments = [_]Segment{
        .{ .first_row = 0, .rows = 1, .read_cell = 0, .write_cell = 1 },
        .{ .first_row = 1, .rows = 2, .read_cell = 0, .write_cell = 2 },
        .{ .first_row = 3, .rows = 9, .read_cell = -1, .write_cell = 3 },
        // Continues the third, as when a snapshot is taken in the middle of a prefill.
        .{ .first_row = 12, .rows = 4, .read_cell = 3, .write_cell = 4 },
        .{ .first_row = 16, .rows = 3, .read_cell = 5, .write_cell = -1 },
        .{ .first_row = 0, .rows = 0, .read_cell = 4, .write_cell = 6 },
        .{ .first_row = 0, .rows = 0, .read_cell = -1, .write_cell = 0 },
    };
    for ([_]usize{ 1, 3, vector.lanes, 2 * vector.lanes + 1, 19 * vector.lanes + 7 }) |channels| {
        var prng: std.Random.DefaultPrng = .init(channels);
        var fixture: Fixture = try .init(prng.random(), channels, &segments);
        defer fixture.arena.deinit();
        for ([_]usize{ 1, 2, 3, 5 }) |nth| {
            fixture.run(nth);
            try fixture.compare();
        }
        fixture.args.out = null;
        fixture.run(2);
        try fixture.compare();
    }
}

test "cut into pieces of any size, with states in place, a sequence gives the same" {
    const whole = [_]Segment{.{ .first_row = 0, .rows = 12, .read_cell = 2, .write_cell = 6 }};
    const pieces = [_]Segment{
        .{ .first_row = 0, .rows = 1, .read_cell = 2, .write_cell = 0 },
        .{ .first_row = 1, .rows = 1, .read_cell = 0, .write_cell = 0 },
        .{ .first_row = 2, .rows = 0, .read_cell = 0, .write_cell = 3 },
        .{ .first_row = 2, .rows = 7, .read_cell = 3, .write_cell = 3 },
        .{ .first_row = 9, .rows = 3, .read_cell = 3, .write_cell = 6 },
    };
    var prng: std.Random.DefaultPrng = .init(12);
    var fixture: Fixture = try .init(prng.random(), 3 * vector.lanes + 2, &whole);
    defer fixture.arena.deinit();
    fixture.run(2);
    const out = try fixture.arena.allocator().dupe(f32, fixture.out_buffer);
    const state = try fixture.arena.allocator().dupe(f32, fixture.state_now());
    fixture.args.segments = &pieces;
    fixture.run(2);
    try testing.expectEqualSlices(f32, out, fixture.out_buffer);
    const last_cell = 6 * fixture.args.state_cell_stride;
    try testing.expectEqualSlices(f32, state[last_cell..], fixture.state_now()[last_cell..]);
}

test "states that are not read may hold anything" {
    const segments = [_]Segment{.{ .first_row = 0, .rows = 3, .read_cell = -1, .write_cell = 1 }};
    var prng: std.Random.DefaultPrng = .init(13);
    const channels = 2 * vector.lanes + 3;
    var fixture: Fixture = try .init(prng.random(), channels, &segments);
    defer fixture.arena.deinit();
    @memset(fixture.state_before, std.math.nan(f32));
    fixture.run(2);
    for (fixture.out_buffer[0..channels]) |value| try testing.expectEqual(0, value);
    const last = fixture.args.x[2 * fixture.args.x_row_stride ..];
    const written = fixture.state_now()[fixture.args.state_cell_stride..];
    try testing.expectEqualSlices(f32, last[0..channels], written[0..channels]);
}
