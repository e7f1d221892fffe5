//! The selective scans of Mamba-2 (`forward`) and Mamba-1 (`forward_mamba1`), read from and written to state cells.
//!
//! Mamba-2, per head, with `dt = softplus(dt + dt_bias)`:
//! `S = exp(dt * a) * S + dt * x (outer) b`, `y = S c + d * x`. Mamba-1 has its own decay for every number of the
//! state.
//!
//! Tokens are taken in tiles, and within a tile a few rows of the state stay in registers over all its tokens. What
//! is computed for a token does not depend on how the tokens are cut into tiles, segments or threads: a prompt in
//! pieces gives the same bits as the whole.

const std = @import("std");
const vector = @import("vector.zig");
const elementary = @import("elementary.zig");

const assert = std.debug.assert;
const lanes = vector.lanes;
const Vec = vector.Vec;

pub const Segment = @import("segment.zig").Segment;

/// The largest state per channel: its tile of channels has to fit on the stack between two tiles of tokens.
pub const state_size_max = 512;

/// Channels of one head that are taken together, and tokens. Their states, `b` and `c` stay in the nearest cache.
const tile_channels = 16;
const tile_tokens = 16;

/// Strides count floats. A row holds what belongs to one token.
pub const Args = struct {
    /// `[head_dim * heads]` per row.
    x: [*]const f32,
    x_row_stride: usize,
    /// Before bias and softplus. `[heads]` per row; Mamba-1: `[head_dim * heads]`.
    dt: [*]const f32,
    dt_row_stride: usize,
    dt_bias: ?[*]const f32 = null,
    /// Negative. `[heads]`; Mamba-1: `[state_size, head_dim * heads]`, state fastest.
    a: [*]const f32,
    /// `[state_size, groups]` per row; head h uses group `h / (heads / groups)`.
    b: [*]const f32,
    b_row_stride: usize,
    c: [*]const f32,
    c_row_stride: usize,
    /// The skip. `[heads]`; Mamba-1: `[head_dim * heads]`.
    d: ?[*]const f32 = null,
    /// `[head_dim * heads]` per row; null = only the states are wanted, and `c` and `d` are not read.
    out: ?[*]f32,
    out_row_stride: usize,
    /// The first cell of the pool; a cell is `[state_size, head_dim, heads]`, state fastest.
    state: [*]f32,
    state_cell_stride: usize,
    /// Mamba-1: the number of channels, with one head and one group.
    head_dim: usize,
    heads: usize,
    groups: usize,
    state_size: usize,
    segments: []const Segment,
};

/// Vectors of state in registers: of two channels where the state is long, which reads memory in longer pieces, or else
/// of four.
const long_vectors = if (vector.many_registers) 8 else 4;

fn short_vectors(form: Form) usize {
    return switch (form) {
        // The decays of Mamba-1 need registers too.
        .mamba1 => long_vectors / 4,
        .mamba2 => long_vectors / 2,
    };
}

/// Vectors are summed up in this many sums, as ggml's scan does, whose results these are to the bit where the state is
/// a multiple of so many vectors long (llama.cpp's text depends on last digits: see attention_halves.zig).
const sums_max = 4;

const Form = enum { mamba1, mamba2 };

/// Thread `ith` of `nth` advances its own channels through all segments, so that no thread waits for another.
pub fn forward(args: *const Args, ith: usize, nth: usize) void {
    forward_form(.mamba2, args, ith, nth);
}

pub fn forward_mamba1(args: *const Args, ith: usize, nth: usize) void {
    assert(args.heads == 1 and args.groups == 1);
    forward_form(.mamba1, args, ith, nth);
}

fn forward_form(comptime form: Form, args: *const Args, ith: usize, nth: usize) void {
    assert(args.state_size >= 1 and args.state_size <= state_size_max);
    assert(args.heads % args.groups == 0);
    assert(args.state_cell_stride >= args.state_size * args.head_dim * args.heads);
    for (args.segments) |segment| segment.check();
    const tiles_per_head = (args.head_dim + tile_channels - 1) / tile_channels;
    const tiles = vector.share(args.heads * tiles_per_head, ith, nth);
    var tile: Tile = undefined;
    for (args.segments) |segment| {
        tile.steps_of = null;
        for (tiles[0]..tiles[1]) |at| {
            const head = at / tiles_per_head;
            const first = at % tiles_per_head * tile_channels;
            const count = @min(tile_channels, args.head_dim - first);
            advance_segment(form, args, &tile, segment, head, head * args.head_dim + first, count);
        }
    }
}

/// What a tile of tokens needs besides `b` and `c`, computed once for all its states.
const Tile = struct {
    const Row = @Vector(tile_channels, f32);

    first_row: usize,
    rows: usize,
    /// softplus(dt); Mamba-1 only.
    step: [tile_tokens][tile_channels]f32,
    /// softplus(dt) and exp(dt * a) per token, and the row and head they belong to; Mamba-2 only.
    steps: [tile_tokens]f32,
    decay: [tile_tokens]f32,
    steps_of: ?struct { row: usize, head: usize },
    /// dt * x.
    input: [tile_tokens][tile_channels]f32,
    /// The output, summed up over the state.
    y: [tile_tokens][tile_channels]f32,
};

/// Takes `count` channels from `channel` on, all of one head, through the rows of a segment.
fn advance_segment(
    comptime form: Form,
    args: *const Args,
    tile: *Tile,
    segment: Segment,
    head: usize,
    channel: usize,
    count: usize,
) void {
    const offset = channel * args.state_size;
    const from = cell_state(args, segment.read_cell, offset);
    const to = cell_state(args, segment.write_cell, offset);
    if (segment.rows == 0) return copy_state(from, to, count * args.state_size);
    // Between tiles of tokens the states wait here; a segment of one tile goes from cell to cell directly.
    var held: [tile_channels * state_size_max]f32 align(64) = undefined;
    var done: usize = 0;
    while (done < segment.rows) : (done += tile.rows) {
        tile.first_row = segment.first_row + done;
        tile.rows = @min(tile_tokens, segment.rows - done);
        fill_tile(form, args, tile, head, channel, count);
        const source: ?[*]const f32 = if (done == 0) from else &held;
        const last = done + tile.rows == segment.rows;
        const target: [*]f32 = if (last and to != null) to.? else &held;
        const group = head / (args.heads / args.groups);
        if (args.out) |out| {
            advance_all(form, true, args, tile, group, channel, count, source, target);
            write_out(form, args, out, tile, head, channel, count);
        } else advance_all(form, false, args, tile, group, channel, count, source, target);
    }
}

/// Takes all channels through the tile's tokens; their outputs are summed up only where they are wanted.
fn advance_all(
    comptime form: Form,
    comptime outputs: bool,
    args: *const Args,
    tile: *Tile,
    group: usize,
    channel: usize,
    count: usize,
    source: ?[*]const f32,
    target: [*]f32,
) void {
    const long = form == .mamba2 and args.state_size >= long_vectors * lanes;
    var at: usize = 0;
    while (long and at + 2 <= count) : (at += 2) {
        advance_channels(form, outputs, 2, long_vectors, args, tile, group, channel, at, source, target);
    }
    while (!long and at + 4 <= count) : (at += 4) {
        advance_channels(form, outputs, 4, short_vectors(form), args, tile, group, channel, at, source, target);
    }
    while (at < count) : (at += 1) {
        advance_channels(form, outputs, 1, long_vectors, args, tile, group, channel, at, source, target);
    }
}

fn cell_state(args: *const Args, cell: i32, offset: usize) ?[*]f32 {
    if (cell < 0) return null;
    return args.state + @as(usize, @intCast(cell)) * args.state_cell_stride + offset;
}

fn copy_state(from: ?[*]const f32, to: ?[*]f32, count: usize) void {
    const target = (to orelse return)[0..count];
    if (from) |source| @memcpy(target, source[0..count]) else @memset(target, 0);
}

/// `count` floats, and zeros behind.
inline fn load_row(from: [*]const f32, count: usize) Tile.Row {
    if (count == tile_channels) return from[0..tile_channels].*;
    var row: [tile_channels]f32 = @splat(0);
    @memcpy(row[0..count], from[0..count]);
    return row;
}

fn fill_tile(
    comptime form: Form,
    args: *const Args,
    tile: *Tile,
    head: usize,
    channel: usize,
    count: usize,
) void {
    if (form == .mamba2) fill_steps(args, tile, head);
    for (0..tile.rows) |t| {
        const row = tile.first_row + t;
        const steps: Tile.Row = switch (form) {
            .mamba1 => steps: {
                var dt = load_row(args.dt + row * args.dt_row_stride + channel, count);
                if (args.dt_bias) |bias| dt += load_row(bias + channel, count);
                tile.step[t] = vector.softplus(dt);
                break :steps tile.step[t];
            },
            .mamba2 => @splat(tile.steps[t]),
        };
        tile.input[t] = load_row(args.x + row * args.x_row_stride + channel, count) * steps;
        tile.y[t] = @splat(0);
    }
}

/// Steps and decays of one head, unless the channels before had the same.
fn fill_steps(args: *const Args, tile: *Tile, head: usize) void {
    if (tile.steps_of) |of| if (of.row == tile.first_row and of.head == head) return;
    tile.steps_of = .{ .row = tile.first_row, .head = head };
    var dt: [tile_tokens]f32 = undefined;
    for (dt[0..tile.rows], tile.first_row..) |*step, row| {
        step.* = args.dt[row * args.dt_row_stride + head];
        if (args.dt_bias) |bias| step.* += bias[head];
    }
    for (tile.steps[0..tile.rows], tile.decay[0..tile.rows], dt[0..tile.rows]) |*step, *decay, value| {
        step.* = elementary.softplus(value);
        decay.* = elementary.exp(step.* * args.a[head]);
    }
}

/// Advances the states of `channels` channels, a piece of the state at a time.
fn advance_channels(
    comptime form: Form,
    comptime outputs: bool,
    comptime channels: usize,
    comptime wide: usize,
    args: *const Args,
    tile: *Tile,
    group: usize,
    channel: usize,
    at: usize,
    source: ?[*]const f32,
    target: [*]f32,
) void {
    var piece: Piece = .{
        .args = args,
        .tile = tile,
        .group = group,
        .channel = channel,
        .at = at,
        .source = source,
        .target = target,
        .n = 0,
        .count = lanes,
    };
    while (piece.n + wide * lanes <= args.state_size) : (piece.n += wide * lanes) {
        advance_piece(form, outputs, channels, wide, false, &piece);
    }
    while (piece.n + lanes <= args.state_size) : (piece.n += lanes) {
        advance_piece(form, outputs, channels, 1, false, &piece);
    }
    if (piece.n == args.state_size) return;
    piece.count = args.state_size - piece.n;
    advance_piece(form, outputs, channels, 1, true, &piece);
}

/// Which numbers of the states are to be advanced.
const Piece = struct {
    args: *const Args,
    tile: *Tile,
    group: usize,
    /// The first channel of the tile, and the first of this piece relative to it.
    channel: usize,
    at: usize,
    source: ?[*]const f32,
    target: [*]f32,
    /// The first number of the state, and how many there are in a vector that is not full.
    n: usize,
    count: usize,

    inline fn load(piece: *const Piece, comptime partial: bool, from: [*]const f32) Vec {
        return if (partial) vector.load_part(from, piece.count) else vector.load(from);
    }
};

/// Keeps `channels * vectors` vectors of state in registers over all tokens of the tile.
fn advance_piece(
    comptime form: Form,
    comptime outputs: bool,
    comptime channels: usize,
    comptime vectors: usize,
    comptime partial: bool,
    piece: *const Piece,
) void {
    const args = piece.args;
    const tile = piece.tile;
    const size = args.state_size;
    const state_at = piece.at * size + piece.n;
    var s: [channels][vectors]Vec = undefined;
    var a: [channels][vectors]Vec = undefined;
    inline for (0..channels) |i| inline for (0..vectors) |v| {
        const offset = i * size + v * lanes;
        s[i][v] = if (piece.source) |from| piece.load(partial, from + state_at + offset) else @splat(0);
        if (form == .mamba1) {
            a[i][v] = piece.load(partial, args.a + piece.channel * size + state_at + offset);
        }
    };
    const shared = piece.group * size + piece.n;
    for (0..tile.rows) |t| {
        const row = tile.first_row + t;
        const b = args.b + row * args.b_row_stride + shared;
        const c = if (outputs) args.c + row * args.c_row_stride + shared else undefined;
        var y: [channels][sums_max]Vec = @splat(@splat(@splat(0)));
        inline for (0..vectors) |v| {
            const b_v = piece.load(partial, b + v * lanes);
            const c_v = if (outputs) piece.load(partial, c + v * lanes) else undefined;
            inline for (0..channels) |i| {
                const decay: Vec = switch (form) {
                    .mamba1 => vector.exp(vector.splat(tile.step[t][piece.at + i]) * a[i][v]),
                    .mamba2 => @splat(tile.decay[t]),
                };
                const input = vector.splat(tile.input[t][piece.at + i]) * b_v;
                s[i][v] = vector.fma(s[i][v], decay, input);
                if (outputs) y[i][v % sums_max] = vector.fma(s[i][v], c_v, y[i][v % sums_max]);
            }
        }
        if (!outputs) continue;
        var whole: [4]Vec = @splat(@splat(0));
        inline for (0..channels) |i| whole[i] = (y[i][0] + y[i][2]) + (y[i][1] + y[i][3]);
        const sums: [4]f32 = vector.sum_four(whole);
        inline for (0..channels) |i| tile.y[t][piece.at + i] += sums[i];
    }
    inline for (0..channels) |i| inline for (0..vectors) |v| {
        const to = piece.target + state_at + i * size + v * lanes;
        if (partial) vector.store_part(to, s[i][v], piece.count) else vector.store(to, s[i][v]);
    };
}

fn write_out(
    comptime form: Form,
    args: *const Args,
    to: [*]f32,
    tile: *const Tile,
    head: usize,
    channel: usize,
    count: usize,
) void {
    const skip: Tile.Row = if (args.d) |d| switch (form) {
        .mamba1 => load_row(d + channel, count),
        .mamba2 => @splat(d[head]),
    } else @splat(0);
    for (0..tile.rows) |t| {
        const row = tile.first_row + t;
        const x = load_row(args.x + row * args.x_row_stride + channel, count);
        const out = to + row * args.out_row_stride + channel;
        const y: Tile.Row = tile.y[t];
        const all: [tile_channels]f32 = if (args.d != null) y + skip * x else y;
        if (count == tile_channels) {
            out[0..tile_channels].* = all;
        } else {
            @memcpy(out[0..count], all[0..count]);
        }
    }
}

const testing = std.testing;

const Shape = struct { head_dim: usize, heads: usize, groups: usize, state_size: usize };

/// A batch of random inputs with room for its outputs, compared with the definition in f64.
const Fixture = struct {
    const cells = 7;

    arena: *std.heap.ArenaAllocator,
    args: Args,
    form: Form,
    state_before: []f32,
    rows: usize,

    fn init(
        arena: *std.heap.ArenaAllocator,
        random: std.Random,
        form: Form,
        shape: Shape,
        segments: []const Segment,
    ) !Fixture {
        var rows: usize = 0;
        for (segments) |segment| rows = @max(rows, segment.first_row + segment.rows);
        const width = shape.head_dim * shape.heads;
        const steps = if (form == .mamba1) width else shape.heads;
        const shared = shape.state_size * shape.groups;
        const cell_stride = shape.state_size * width + 3;
        const memory = arena.allocator();
        const state = try numbers(memory, random, cells * cell_stride);
        const a = try numbers(memory, random, if (form == .mamba1) width * shape.state_size else shape.heads);
        for (a) |*value| value.* = -@abs(value.*);
        const args: Args = .{
            .x = (try numbers(memory, random, rows * (width + 5))).ptr,
            .x_row_stride = width + 5,
            .dt = (try numbers(memory, random, rows * (steps + 1))).ptr,
            .dt_row_stride = steps + 1,
            .dt_bias = if (random.boolean()) (try numbers(memory, random, steps)).ptr else null,
            .a = a.ptr,
            .b = (try numbers(memory, random, rows * (shared + 2))).ptr,
            .b_row_stride = shared + 2,
            .c = (try numbers(memory, random, rows * (shared + 3))).ptr,
            .c_row_stride = shared + 3,
            .d = if (random.boolean()) (try numbers(memory, random, steps)).ptr else null,
            .out = (try numbers(memory, random, rows * (width + 1))).ptr,
            .out_row_stride = width + 1,
            .state = state.ptr,
            .state_cell_stride = cell_stride,
            .head_dim = shape.head_dim,
            .heads = shape.heads,
            .groups = shape.groups,
            .state_size = shape.state_size,
            .segments = segments,
        };
        const state_before = try memory.dupe(f32, state);
        return .{ .arena = arena, .args = args, .form = form, .state_before = state_before, .rows = rows };
    }

    fn numbers(memory: std.mem.Allocator, random: std.Random, count: usize) ![]f32 {
        const values = try memory.alloc(f32, count);
        for (values) |*value| value.* = random.floatNorm(f32);
        return values;
    }

    /// Runs with `nth` threads, one after the other, from the same state.
    fn run(fixture: *Fixture, nth: usize) void {
        @memcpy(fixture.args.state[0..fixture.state_before.len], fixture.state_before);
        for (0..nth) |ith| switch (fixture.form) {
            .mamba1 => forward_mamba1(&fixture.args, ith, nth),
            .mamba2 => forward(&fixture.args, ith, nth),
        };
    }

    fn out(fixture: *const Fixture) []f32 {
        return fixture.args.out.?[0 .. fixture.rows * fixture.args.out_row_stride];
    }

    fn state_now(fixture: *const Fixture) []f32 {
        return fixture.args.state[0..fixture.state_before.len];
    }

    fn copy(fixture: *Fixture, values: []const f32) ![]f32 {
        return fixture.arena.allocator().dupe(f32, values);
    }

    /// The states and outputs by the definition, compared with what was computed.
    fn check(fixture: *Fixture) !void {
        const args = &fixture.args;
        const size = args.state_size;
        const states = try fixture.arena.allocator().alloc(f64, fixture.state_before.len);
        for (states, fixture.state_before) |*to, from| to.* = from;
        const current = try fixture.arena.allocator().alloc(f64, size);
        var distance: Distance = .{};
        for (args.segments) |segment| for (0..args.head_dim * args.heads) |channel| {
            const head = channel / args.head_dim;
            const step_at = if (fixture.form == .mamba1) channel else head;
            const shared = head / (args.heads / args.groups) * size;
            for (current, 0..) |*s, n| {
                s.* = if (segment.read_cell < 0) 0 else states[cell_at(args, segment.read_cell, channel) + n];
            }
            for (segment.first_row..segment.first_row + segment.rows) |row| {
                const x: f64 = args.x[row * args.x_row_stride + channel];
                var dt: f64 = args.dt[row * args.dt_row_stride + step_at];
                if (args.dt_bias) |bias| dt += bias[step_at];
                dt = @max(dt, 0) + std.math.log1p(@exp(-@abs(dt)));
                var y: f64 = if (args.d) |d| d[step_at] * x else 0;
                for (current, 0..) |*s, n| {
                    const a: f64 = args.a[if (fixture.form == .mamba1) channel * size + n else head];
                    s.* = @exp(dt * a) * s.* + dt * x * args.b[row * args.b_row_stride + shared + n];
                    y += s.* * args.c[row * args.c_row_stride + shared + n];
                }
                distance.add(y, args.out.?[row * args.out_row_stride + channel]);
            }
            if (segment.write_cell < 0) continue;
            @memcpy(states[cell_at(args, segment.write_cell, channel)..][0..size], current);
        };
        try testing.expect(distance.relative() < 1e-12);
        distance = .{};
        for (states, fixture.state_now()) |expected, actual| distance.add(expected, actual);
        try testing.expect(distance.relative() < 1e-12);
    }

    fn cell_at(args: *const Args, cell: i32, channel: usize) usize {
        return @as(usize, @intCast(cell)) * args.state_cell_stride + channel * args.state_size;
    }
};

/// Squared error over squared size.
const Distance = struct {
    wrong: f64 = 0,
    size: f64 = 0,

    fn add(distance: *Distance, expected: f64, actual: f64) void {
        distance.wrong += (actual - expected) * (actual - expected);
        distance.size += expected * expected;
    }

    fn relative(distance: Distance) f64 {
        return distance.wrong / distance.size;
    }
};

const mixed_segments = [_]Segment{
    .{ .first_row = 0, .rows = 1, .read_cell = 0, .write_cell = 1 },
    .{ .first_row = 1, .rows = 2, .read_cell = 0, .write_cell = 2 },
    .{ .first_row = 3, .rows = 2 * tile_tokens + 5, .read_cell = -1, .write_cell = 3 },
    // Continues the third, as when a snapshot is taken in the middle of a prefill.
    .{ .first_row = 2 * tile_tokens + 8, .rows = tile_tokens, .read_cell = 3, .write_cell = 4 },
    .{ .first_row = 3 * tile_tokens + 8, .rows = tile_tokens + 1, .read_cell = 5, .write_cell = -1 },
};

fn check_shape(form: Form, shape: Shape, seed: u64) !void {
    var prng: std.Random.DefaultPrng = .init(seed);
    var arena: std.heap.ArenaAllocator = .init(testing.allocator);
    defer arena.deinit();
    var fixture: Fixture = try .init(&arena, prng.random(), form, shape, &mixed_segments);
    fixture.run(1);
    try fixture.check();
    const out = try fixture.copy(fixture.out());
    const state = try fixture.copy(fixture.state_now());
    for ([_]usize{ 2, 3, 5 }) |nth| {
        fixture.run(nth);
        try testing.expectEqualSlices(f32, out, fixture.out());
        try testing.expectEqualSlices(f32, state, fixture.state_now());
    }
}

test "Mamba-2 matches the definition, for any number of threads" {
    const shapes = [_]Shape{
        .{ .head_dim = 8, .heads = 4, .groups = 1, .state_size = 16 },
        .{ .head_dim = 16, .heads = 4, .groups = 2, .state_size = 2 * lanes },
        .{ .head_dim = 64, .heads = 2, .groups = 1, .state_size = 128 },
        .{ .head_dim = 21, .heads = 3, .groups = 3, .state_size = 5 * lanes + 3 },
        .{ .head_dim = 1, .heads = 6, .groups = 3, .state_size = 1 },
        .{ .head_dim = 18, .heads = 1, .groups = 1, .state_size = state_size_max },
    };
    for (shapes, 0..) |shape, i| {
        for (0..4) |variant| try check_shape(.mamba2, shape, 100 * i + variant);
    }
}

test "Mamba-1 matches the definition, for any number of threads" {
    for ([_]usize{ 4, 16, 3 * lanes + 1, state_size_max }, 0..) |state_size, i| {
        for ([_]usize{ 1, 24, 67 }) |channels| {
            const shape: Shape = .{ .head_dim = channels, .heads = 1, .groups = 1, .state_size = state_size };
            for (0..2) |variant| try check_shape(.mamba1, shape, 1000 + 100 * i + variant);
        }
    }
}

test "cut into pieces of any size, with states in place, a sequence gives the same bits" {
    const rows = 3 * tile_tokens + 2;
    const whole = [_]Segment{.{ .first_row = 0, .rows = rows, .read_cell = 2, .write_cell = 6 }};
    const pieces = [_]Segment{
        .{ .first_row = 0, .rows = 1, .read_cell = 2, .write_cell = 0 },
        .{ .first_row = 1, .rows = 1, .read_cell = 0, .write_cell = 0 },
        .{ .first_row = 2, .rows = 0, .read_cell = 0, .write_cell = 3 },
        .{ .first_row = 2, .rows = tile_tokens + 3, .read_cell = 3, .write_cell = 3 },
        .{ .first_row = tile_tokens + 5, .rows = rows - tile_tokens - 5, .read_cell = 3, .write_cell = 6 },
    };
    for ([_]Form{ .mamba1, .mamba2 }) |form| {
        var prng: std.Random.DefaultPrng = .init(7);
        var arena: std.heap.ArenaAllocator = .init(testing.allocator);
        defer arena.deinit();
        const shape: Shape = .{ .head_dim = 19, .heads = 1, .groups = 1, .state_size = 4 * lanes + 1 };
        var fixture: Fixture = try .init(&arena, prng.random(), form, shape, &whole);
        fixture.run(2);
        const out = try fixture.copy(fixture.out());
        const state = try fixture.copy(fixture.state_now());
        fixture.args.segments = &pieces;
        fixture.run(2);
        try testing.expectEqualSlices(f32, out, fixture.out());
        const last_cell = 6 * fixture.args.state_cell_stride;
        try testing.expectEqualSlices(f32, state[last_cell..], fixture.state_now()[last_cell..]);
    }
}

test "states that are not read may hold anything" {
    const segments = [_]Segment{
        .{ .first_row = 0, .rows = tile_tokens + 1, .read_cell = -1, .write_cell = 1 },
        .{ .first_row = tile_tokens + 1, .rows = 0, .read_cell = -1, .write_cell = 2 },
    };
    for ([_]Form{ .mamba1, .mamba2 }) |form| {
        var prng: std.Random.DefaultPrng = .init(8);
        var arena: std.heap.ArenaAllocator = .init(testing.allocator);
        defer arena.deinit();
        const shape: Shape = .{ .head_dim = 5, .heads = 1, .groups = 1, .state_size = 16 };
        var fixture: Fixture = try .init(&arena, prng.random(), form, shape, &segments);
        @memset(fixture.state_before, std.math.nan(f32));
        fixture.run(1);
        for (fixture.out(), 0..) |value, i| {
            if (i % fixture.args.out_row_stride < 5) try testing.expect(std.math.isFinite(value));
        }
        for ([_]usize{ 1, 2 }) |cell| {
            const written = fixture.state_now()[cell * fixture.args.state_cell_stride ..][0 .. 5 * 16];
            for (written) |value| try testing.expect(std.math.isFinite(value));
        }
    }
}
