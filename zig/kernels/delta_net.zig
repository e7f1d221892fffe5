//! The recurrence of gated delta nets, read from and written to state cells. Per value head, with the state `S` of
//! `key_dim` x `value_dim` numbers and one decay per head (Qwen3-Next, Qwen3.5) or one per key channel (Kimi Linear):
//! `S = diag(exp(g)) S`, `delta = beta * (v - S^T k)`, `S = S + k (outer) delta`, `y = scale * S^T q`.
//!
//! A column of the state, one per number of `v`, needs nothing from the other columns. Two of them at a time stay in
//! registers, or the nearest cache, over a tile of tokens. What is computed for a token does not depend on how the
//! tokens are cut into tiles, segments or threads: a prompt in pieces gives the same bits as the whole.
//!
//! Products, sums and roundings come in the order of ggml's op, whose results these are to the bit where `key_dim` is a
//! multiple of `sums_max` vectors.

const std = @import("std");
const vector = @import("vector.zig");
const elementary = @import("elementary.zig");

const assert = std.debug.assert;
const lanes = vector.lanes;
const Vec = vector.Vec;

pub const Segment = @import("segment.zig").Segment;

/// The longest column: a tile of tokens and some columns have to fit on the stack.
pub const key_dim_max = 512;

/// Tokens that are taken together.
const tile_tokens = 16;

/// Columns that one thread takes at least: a cache line of the output.
const block_columns = 16;

/// The floats of state that wait between two tiles of tokens: a head of 128 x 128.
const held_max = 128 * 128;

/// Columns that one pass over `k` serves, or else their sums would not fit in registers, and columns that are taken
/// together: while the sums of one pair are added up, which takes long, the next pair is on its way.
const pair = 2;
const together = 2 * pair;

/// Every dot product is summed up in this many sums, as in ggml.
const sums_max = 4;

/// Columns are taken in groups of so many numbers, padded with zeros.
const group_size = sums_max * lanes;

comptime {
    assert(key_dim_max % group_size == 0);
}

pub const Decay = enum {
    /// `g` is `[value_heads]` per row.
    head,
    /// `g` is `[key_dim, value_heads]` per row.
    channel,
};

/// Which key head a value head reads.
pub const Mapping = enum {
    /// Consecutive value heads share a key head: h reads `h / (value_heads / key_heads)` (Qwen3-Next).
    blocks,
    /// h reads `h % key_heads` (Qwen3.5 in GGUF).
    interleaved,
};

/// Strides count floats. A row holds what belongs to one token.
pub const Args = struct {
    /// `[key_dim, key_heads]` per row. Not read where `out` is null.
    q: [*]const f32,
    q_row_stride: usize,
    q_head_stride: usize,
    k: [*]const f32,
    k_row_stride: usize,
    k_head_stride: usize,
    /// Where set, `q` and `k` of each head are divided by `sqrt(sum of squares + normalize)`.
    normalize: ?f32 = null,
    /// `[value_dim, value_heads]` per row.
    v: [*]const f32,
    v_row_stride: usize,
    /// The logarithm of the decay, at most 0 in a stable model.
    g: [*]const f32,
    g_row_stride: usize,
    decay: Decay,
    /// `[value_heads]` per row.
    beta: [*]const f32,
    beta_row_stride: usize,
    /// `beta` is raw: its sigmoid is to be taken.
    beta_sigmoid: bool = false,
    /// What `y` is multiplied by; usually `1 / sqrt(key_dim)`.
    scale: f32,
    /// `[value_dim, value_heads]` per row; null only advances the states, which end in the same bits.
    out: ?[*]f32,
    out_row_stride: usize,
    /// The first cell of the pool; a cell is `[key_dim, value_dim, value_heads]`, key fastest, as in ggml.
    state: [*]f32,
    state_cell_stride: usize,
    key_dim: usize,
    value_dim: usize,
    key_heads: usize,
    value_heads: usize,
    mapping: Mapping,
    segments: []const Segment,

    fn key_head(args: *const Args, head: usize) usize {
        return switch (args.mapping) {
            .blocks => head / (args.value_heads / args.key_heads),
            .interleaved => head % args.key_heads,
        };
    }

    /// The column of a head in a cell; null is no cell.
    fn cell_column(args: *const Args, cell: i32, head: usize, column: usize) ?[*]f32 {
        if (cell < 0) return null;
        const offset = (head * args.value_dim + column) * args.key_dim;
        return args.state + @as(usize, @intCast(cell)) * args.state_cell_stride + offset;
    }
};

/// Thread `ith` of `nth` advances its own columns through all segments, so that no thread waits for another.
pub fn forward(args: *const Args, ith: usize, nth: usize) void {
    assert(args.key_dim >= 1 and args.key_dim <= key_dim_max);
    assert(args.key_heads >= 1 and args.value_heads % args.key_heads == 0);
    assert(args.state_cell_stride >= args.key_dim * args.value_dim * args.value_heads);
    for (args.segments) |segment| segment.check();
    const blocks_per_head = (args.value_dim + block_columns - 1) / block_columns;
    const blocks = vector.share(args.value_heads * blocks_per_head, ith, nth);
    var work: Work = undefined;
    work.args = args;
    for (args.segments) |segment| {
        var block = blocks[0];
        while (block < blocks[1]) {
            const head = block / blocks_per_head;
            const next = @min(blocks[1], (head + 1) * blocks_per_head);
            const first = block % blocks_per_head * block_columns;
            const end = @min(args.value_dim, first + (next - block) * block_columns);
            work.head = head;
            work.advance(segment, first, end);
            block = next;
        }
    }
}

/// Some columns of one head on their way through a segment.
const Work = struct {
    args: *const Args,
    head: usize,
    /// The columns from `column` on are read from `source`, zeros if null, and written to `target`.
    column: usize,
    source: ?[*]const f32,
    target: [*]f32,
    tile: Tile,
    /// Between tiles of tokens columns wait here; a segment of one tile goes from cell to cell directly.
    held: [held_max]f32 align(64),

    /// Takes the columns from `first` to `end` through the rows of a segment.
    fn advance(work: *Work, segment: Segment, first: usize, end: usize) void {
        const args = work.args;
        const step = held_max / args.key_dim;
        var column = first;
        while (column < end) : (column += step) {
            const count = @min(step, end - column);
            const from = args.cell_column(segment.read_cell, work.head, column);
            const to = args.cell_column(segment.write_cell, work.head, column);
            work.column = column;
            if (segment.rows == 0) {
                copy_state(from, to, count * args.key_dim);
            } else {
                work.advance_rows(segment, from, to, count);
            }
        }
    }

    fn advance_rows(work: *Work, segment: Segment, from: ?[*]const f32, to: ?[*]f32, count: usize) void {
        var done: usize = 0;
        while (done < segment.rows) {
            const rows = @min(tile_tokens, segment.rows - done);
            work.tile.fill(work.args, work.head, segment.first_row + done, rows);
            work.source = if (done == 0) from else &work.held;
            done += rows;
            work.target = if (done == segment.rows and to != null) to.? else &work.held;
            switch (work.args.decay) {
                inline else => |decay| work.advance_tile(decay, count),
            }
        }
    }

    /// One token goes column by column, which reads memory as it lies; more have the columns near anyhow.
    fn advance_tile(work: *const Work, comptime decay: Decay, count: usize) void {
        var at: usize = 0;
        while (work.tile.rows > 1 and at + together <= count) : (at += together) {
            work.advance_columns(decay, together, at);
        }
        while (at < count) : (at += 1) work.advance_columns(decay, 1, at);
    }

    /// Takes `columns` columns through the rows of the tile.
    fn advance_columns(work: *const Work, comptime decay: Decay, comptime columns: usize, at: usize) void {
        const args = work.args;
        const tile = &work.tile;
        @setEvalBranchQuota(10_000);
        const to = work.target + at * args.key_dim;
        if (work.source == null) @memset(to[0 .. columns * args.key_dim], 0);
        var some: Columns(decay, columns) = .{
            .from = if (work.source) |source| source + at * args.key_dim else to,
            .to = to,
            .key_dim = args.key_dim,
            .decays = undefined,
            .k = undefined,
        };
        const offset = work.head * args.value_dim + work.column + at;
        for (0..tile.rows) |t| {
            const row = tile.first_row + t;
            some.decays = if (decay == .channel) tile.decay[t * tile.stride ..].ptr else tile.decay[t..].ptr;
            some.k = tile.k[t * tile.stride ..].ptr;
            const read = some.read();
            const v = args.v + row * args.v_row_stride + offset;
            var delta: [columns]f32 = undefined;
            inline for (&delta, read, 0..) |*d, known, i| d.* = (v[i] - known) * tile.beta[t];
            if (args.out) |out| {
                const y = some.update(true, delta, tile.q[t * tile.stride ..].ptr);
                inline for (y, 0..) |sum, i| out[row * args.out_row_stride + offset + i] = sum * args.scale;
            } else {
                _ = some.update(false, delta, undefined);
            }
            some.from = to;
        }
    }
};

/// A few columns of a state on their way through a token.
fn Columns(comptime decay: Decay, comptime columns: usize) type {
    return struct {
        const Some = @This();
        const width = @min(pair, columns);
        const Sums = [width][sums_max]Vec;
        /// Whether what has decayed is stored in between, which is done once, or not, which moves fewer bytes.
        const stored = columns > 1;

        from: [*]const f32,
        to: [*]f32,
        key_dim: usize,
        decays: [*]const f32,
        k: [*]const f32,

        /// `lanes` numbers of column `i`.
        inline fn load(some: *const Some, comptime full: bool, from: [*]const f32, i: usize, n: usize) Vec {
            const at = from + i * some.key_dim + n;
            return if (full or n + lanes <= some.key_dim) vector.load(at) else vector.load_part(at, some.key_dim - n);
        }

        inline fn decayed(some: *const Some, comptime full: bool, i: usize, n: usize) Vec {
            const factor = if (decay == .channel) vector.load(some.decays + n) else vector.splat(some.decays[0]);
            return some.load(full, some.from, i, n) * factor;
        }

        inline fn store(some: *const Some, comptime full: bool, i: usize, n: usize, s: Vec) void {
            const to = some.to + i * some.key_dim + n;
            if (full or n + lanes <= some.key_dim) vector.store(to, s) else vector.store_part(to, s, some.key_dim - n);
        }

        /// S^T k, where S has decayed.
        inline fn read(some: *const Some) [columns]f32 {
            var all: [columns]f32 = undefined;
            comptime var first = 0;
            inline while (first < columns) : (first += width) {
                var sums: Sums = @splat(@splat(@splat(0)));
                var n: usize = 0;
                while (n + group_size <= some.key_dim) : (n += group_size) some.read_group(true, first, n, &sums);
                if (n < some.key_dim) some.read_group(false, first, n, &sums);
                all[first..][0..width].* = total(sums);
            }
            return all;
        }

        inline fn read_group(
            some: *const Some,
            comptime full: bool,
            comptime first: usize,
            n: usize,
            sums: *Sums,
        ) void {
            inline for (0..sums_max) |j| {
                const at = n + j * lanes;
                if (full or at < some.key_dim) {
                    const k = vector.load(some.k + at);
                    inline for (sums, first..) |*sum, i| {
                        const s = some.decayed(full, i, at);
                        if (stored) some.store(full, i, at, s);
                        sum[j] = vector.fma(s, k, sum[j]);
                    }
                }
            }
        }

        /// S = S + k (outer) delta, where S has decayed; then S^T q, if that is wanted.
        inline fn update(some: *const Some, comptime wanted: bool, delta: [columns]f32, q: [*]const f32) [columns]f32 {
            var all: [columns]f32 = undefined;
            comptime var first = 0;
            inline while (first < columns) : (first += width) {
                var sums: Sums = @splat(@splat(@splat(0)));
                const deltas = delta[first..][0..width];
                const reads = if (wanted) q else null;
                var n: usize = 0;
                while (n + group_size <= some.key_dim) : (n += group_size) {
                    some.update_group(true, first, n, deltas, reads, &sums);
                }
                if (n < some.key_dim) some.update_group(false, first, n, deltas, reads, &sums);
                if (wanted) all[first..][0..width].* = total(sums);
            }
            return all;
        }

        inline fn update_group(
            some: *const Some,
            comptime full: bool,
            comptime first: usize,
            n: usize,
            delta: *const [width]f32,
            q: anytype,
            sums: *Sums,
        ) void {
            inline for (0..sums_max) |j| {
                const at = n + j * lanes;
                if (full or at < some.key_dim) {
                    const k = vector.load(some.k + at);
                    inline for (sums, delta, first..) |*sum, d, i| {
                        const before = if (stored) some.load(full, some.to, i, at) else some.decayed(full, i, at);
                        const s = vector.fma(k, vector.splat(d), before);
                        some.store(full, i, at, s);
                        if (@TypeOf(q) != @TypeOf(null)) sum[j] = vector.fma(s, vector.load(q + at), sum[j]);
                    }
                }
            }
        }

        inline fn total(sums: Sums) [width]f32 {
            var whole: [4]Vec = @splat(@splat(0));
            inline for (sums, whole[0..width]) |sum, *to| to.* = (sum[0] + sum[2]) + (sum[1] + sum[3]);
            const all: [4]f32 = vector.sum_four(whole);
            return all[0..width].*;
        }
    };
}

fn copy_state(from: ?[*]const f32, to: ?[*]f32, count: usize) void {
    const target = (to orelse return)[0..count];
    if (from) |source| @memcpy(target, source[0..count]) else @memset(target, 0);
}

/// What some tokens bring to all columns of a head.
const Tile = struct {
    const Rows = [tile_tokens * key_dim_max]f32;

    first_row: usize,
    rows: usize,
    /// Of the arrays that follow, from row to row: `key_dim`, padded with zeros to whole groups.
    stride: usize,
    k: Rows align(64),
    q: Rows align(64),
    /// exp(g): per row and channel, or one per row.
    decay: Rows align(64),
    beta: [tile_tokens]f32,

    fn fill(tile: *Tile, args: *const Args, head: usize, first_row: usize, rows: usize) void {
        const key_dim = args.key_dim;
        const key_head = args.key_head(head);
        tile.first_row = first_row;
        tile.rows = rows;
        tile.stride = (key_dim + group_size - 1) / group_size * group_size;
        for (0..rows, first_row..) |t, row| {
            const k = args.k + row * args.k_row_stride + key_head * args.k_head_stride;
            tile.fill_row(&tile.k, t, args.normalize, k[0..key_dim]);
            if (args.out != null) {
                const q = args.q + row * args.q_row_stride + key_head * args.q_head_stride;
                tile.fill_row(&tile.q, t, args.normalize, q[0..key_dim]);
            }
            const g = args.g + row * args.g_row_stride;
            switch (args.decay) {
                .head => tile.decay[t] = elementary.exp(g[head]),
                .channel => {
                    const decays = tile.decay[t * tile.stride ..][0..tile.stride];
                    for (decays[0..key_dim], g[head * key_dim ..][0..key_dim]) |*to, from| to.* = elementary.exp(from);
                    @memset(decays[key_dim..], 0);
                },
            }
            const beta = args.beta[row * args.beta_row_stride + head];
            tile.beta[t] = if (args.beta_sigmoid) 1 / (1 + elementary.exp(-beta)) else beta;
        }
    }

    inline fn fill_row(tile: *const Tile, rows: *Rows, t: usize, normalize: ?f32, from: []const f32) void {
        const to = rows[t * tile.stride ..][0..tile.stride];
        @memcpy(to[0..from.len], from);
        @memset(to[from.len..], 0);
        if (normalize) |epsilon| normalize_row(to, from.len, epsilon);
    }
};

/// Divides by sqrt(sum of squares + epsilon), in the steps and roundings of llama.cpp, which calls its RMS norm here
/// and takes the root of the size out again. (ggml_l2_norm is another thing: it divides by the larger of the length and
/// epsilon.)
fn normalize_row(padded: []f32, size: usize, epsilon: f32) void {
    var sums: @Vector(lanes, f64) = @splat(0);
    var at: usize = 0;
    while (at < padded.len) : (at += lanes) {
        const x = vector.load(padded[at..].ptr);
        sums += @as(@Vector(lanes, f64), @floatCast(x * x));
    }
    const count: f32 = @floatFromInt(size);
    const mean: f32 = @floatCast(@reduce(.Add, sums) / count);
    const factor = 1 / @sqrt(mean + epsilon / count);
    const root = 1 / @sqrt(count);
    at = 0;
    while (at < padded.len) : (at += lanes) {
        const x = vector.load(padded[at..].ptr);
        vector.store(padded[at..].ptr, x * vector.splat(factor) * vector.splat(root));
    }
}

const testing = std.testing;

const Shape = struct {
    key_dim: usize,
    value_dim: usize,
    key_heads: usize = 1,
    value_heads: usize = 1,
    mapping: Mapping = .blocks,
};

/// A batch of random inputs with room for its outputs, compared with the definition in f64.
const Fixture = struct {
    const cells = 7;

    arena: *std.heap.ArenaAllocator,
    args: Args,
    out: []f32,
    state: []f32,
    state_before: []f32,

    fn init(
        arena: *std.heap.ArenaAllocator,
        random: std.Random,
        decay: Decay,
        shape: Shape,
        segments: []const Segment,
    ) !Fixture {
        var rows: usize = 0;
        for (segments) |segment| rows = @max(rows, segment.first_row + segment.rows);
        const keys = (shape.key_dim + 1) * shape.key_heads;
        const values = shape.value_dim * shape.value_heads;
        const decays = shape.value_heads * if (decay == .channel) shape.key_dim else 1;
        const memory = arena.allocator();
        const state = try numbers(memory, random, cells * (shape.key_dim * values + 3));
        const g = try numbers(memory, random, rows * (decays + 1));
        for (g) |*value| value.* = -@abs(value.*);
        const beta = try numbers(memory, random, rows * (shape.value_heads + 2));
        const k = try numbers(memory, random, rows * (keys + 2));
        const normalize = random.boolean();
        const beta_sigmoid = random.boolean();
        // As layers have them before: keys no longer than 1, shares between 0 and 1.
        const length = @sqrt(@as(f32, @floatFromInt(shape.key_dim)));
        if (!normalize) for (k) |*value| {
            value.* = std.math.clamp(value.*, -1, 1) / length;
        };
        if (!beta_sigmoid) for (beta) |*value| {
            value.* = @min(1, @abs(value.*));
        };
        const out = try numbers(memory, random, rows * (values + 1));
        const args: Args = .{
            .q = (try numbers(memory, random, rows * (keys + 5))).ptr,
            .q_row_stride = keys + 5,
            .q_head_stride = shape.key_dim + 1,
            .k = k.ptr,
            .k_row_stride = keys + 2,
            .k_head_stride = shape.key_dim,
            .normalize = if (normalize) 1e-3 else null,
            .v = (try numbers(memory, random, rows * (values + 3))).ptr,
            .v_row_stride = values + 3,
            .g = g.ptr,
            .g_row_stride = decays + 1,
            .decay = decay,
            .beta = beta.ptr,
            .beta_row_stride = shape.value_heads + 2,
            .beta_sigmoid = beta_sigmoid,
            .scale = 1 / length,
            .out = out.ptr,
            .out_row_stride = values + 1,
            .state = state.ptr,
            .state_cell_stride = shape.key_dim * values + 3,
            .key_dim = shape.key_dim,
            .value_dim = shape.value_dim,
            .key_heads = shape.key_heads,
            .value_heads = shape.value_heads,
            .mapping = shape.mapping,
            .segments = segments,
        };
        const state_before = try memory.dupe(f32, state);
        return .{ .arena = arena, .args = args, .out = out, .state = state, .state_before = state_before };
    }

    fn numbers(memory: std.mem.Allocator, random: std.Random, count: usize) ![]f32 {
        const values = try memory.alloc(f32, count);
        for (values) |*value| value.* = random.floatNorm(f32);
        return values;
    }

    /// Runs with `nth` threads, one after the other, from the same state.
    fn run(fixture: *Fixture, nth: usize) void {
        @memcpy(fixture.state, fixture.state_before);
        for (0..nth) |ith| forward(&fixture.args, ith, nth);
    }

    fn copy(fixture: *Fixture, values: []const f32) ![]f32 {
        return fixture.arena.allocator().dupe(f32, values);
    }

    /// The states and outputs by the definition, compared with what was computed.
    fn check(fixture: *Fixture) !void {
        const args = &fixture.args;
        const memory = fixture.arena.allocator();
        const states = try memory.alloc(f64, fixture.state.len);
        for (states, fixture.state_before) |*to, from| to.* = from;
        const column = try memory.alloc(f64, args.key_dim);
        var distance: Distance = .{};
        for (args.segments) |segment| for (0..args.value_heads * args.value_dim) |value| {
            for (column, 0..) |*s, i| {
                s.* = if (segment.read_cell < 0) 0 else states[cell_at(args, segment.read_cell, value) + i];
            }
            for (segment.first_row..segment.first_row + segment.rows) |row| {
                const y = advance_exactly(args, row, value, column);
                distance.add(y, args.out.?[row * args.out_row_stride + value]);
            }
            if (segment.write_cell < 0) continue;
            @memcpy(states[cell_at(args, segment.write_cell, value)..][0..args.key_dim], column);
        };
        try testing.expect(distance.relative() < 1e-12);
        distance = .{};
        for (states, fixture.state) |expected, actual| distance.add(expected, actual);
        try testing.expect(distance.relative() < 1e-12);
    }

    /// One token for one column; returns y.
    fn advance_exactly(args: *const Args, row: usize, value: usize, column: []f64) f64 {
        const head = value / args.value_dim;
        const ratio = args.value_heads / args.key_heads;
        const key_head = if (args.mapping == .blocks) head / ratio else head % args.key_heads;
        const q = args.q[row * args.q_row_stride + key_head * args.q_head_stride ..][0..args.key_dim];
        const k = args.k[row * args.k_row_stride + key_head * args.k_head_stride ..][0..args.key_dim];
        const g = args.g + row * args.g_row_stride;
        var beta: f64 = args.beta[row * args.beta_row_stride + head];
        if (args.beta_sigmoid) beta = 1 / (1 + @exp(-beta));
        const k_length = length_of(args, k);
        var known: f64 = 0;
        for (column, k, 0..) |*s, key, i| {
            s.* *= @exp(@as(f64, if (args.decay == .channel) g[head * args.key_dim + i] else g[head]));
            known += s.* * key / k_length;
        }
        const delta = beta * (args.v[row * args.v_row_stride + value] - known);
        var y: f64 = 0;
        for (column, k, q) |*s, key, query| {
            s.* += key / k_length * delta;
            y += s.* * query / length_of(args, q) * args.scale;
        }
        return y;
    }

    fn length_of(args: *const Args, values: []const f32) f64 {
        var sum: f64 = args.normalize orelse return 1;
        for (values) |value| sum += @as(f64, value) * value;
        return @sqrt(sum);
    }

    fn cell_at(args: *const Args, cell: i32, value: usize) usize {
        return @as(usize, @intCast(cell)) * args.state_cell_stride + value * args.key_dim;
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
    .{ .first_row = 3, .rows = tile_tokens + 3, .read_cell = -1, .write_cell = 3 },
    // Continues the third, as when a snapshot is taken in the middle of a prefill.
    .{ .first_row = tile_tokens + 6, .rows = tile_tokens, .read_cell = 3, .write_cell = 4 },
    .{ .first_row = 2 * tile_tokens + 6, .rows = 1, .read_cell = -1, .write_cell = 6 },
    .{ .first_row = 2 * tile_tokens + 7, .rows = tile_tokens + 1, .read_cell = 5, .write_cell = -1 },
};

fn check_shape(decay: Decay, shape: Shape, seed: u64) !void {
    var prng: std.Random.DefaultPrng = .init(seed);
    var arena: std.heap.ArenaAllocator = .init(testing.allocator);
    defer arena.deinit();
    var fixture: Fixture = try .init(&arena, prng.random(), decay, shape, &mixed_segments);
    fixture.run(1);
    try fixture.check();
    const out = try fixture.copy(fixture.out);
    const state = try fixture.copy(fixture.state);
    for ([_]usize{ 2, 3, 7 }) |nth| {
        fixture.run(nth);
        try testing.expectEqualSlices(f32, out, fixture.out);
        try testing.expectEqualSlices(f32, state, fixture.state);
    }
    // Without an output the states come out the same, and the queries are left alone.
    fixture.args.out = null;
    fixture.args.q = undefined;
    fixture.run(2);
    try testing.expectEqualSlices(f32, state, fixture.state);
}

test "the recurrence matches the definition, for any number of threads, with and without output" {
    const shapes = [_]Shape{
        .{ .key_dim = 16, .value_dim = 16, .key_heads = 2, .value_heads = 4 },
        .{ .key_dim = 16, .value_dim = 16, .key_heads = 2, .value_heads = 4, .mapping = .interleaved },
        .{ .key_dim = 128, .value_dim = 128, .value_heads = 2 },
        .{ .key_dim = group_size, .value_dim = 33, .key_heads = 3, .value_heads = 6, .mapping = .interleaved },
        .{ .key_dim = group_size + lanes, .value_dim = 6, .key_heads = 3, .value_heads = 6 },
        .{ .key_dim = 2 * group_size + 2 * lanes + 3, .value_dim = 19 },
        .{ .key_dim = 5, .value_dim = 1, .key_heads = 5, .value_heads = 5 },
        .{ .key_dim = 1, .value_dim = 7 },
        // More columns than can wait between two tiles.
        .{ .key_dim = key_dim_max, .value_dim = held_max / key_dim_max + 5 },
    };
    for (shapes, 0..) |shape, i| for ([_]Decay{ .head, .channel }) |decay| {
        for (0..4) |variant| try check_shape(decay, shape, 100 * i + variant);
    };
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
    for ([_]Decay{ .head, .channel }) |decay| for ([_]usize{ group_size, 4 * lanes + 1, 3 }) |key_dim| {
        var prng: std.Random.DefaultPrng = .init(7);
        var arena: std.heap.ArenaAllocator = .init(testing.allocator);
        defer arena.deinit();
        const shape: Shape = .{ .key_dim = key_dim, .value_dim = 19, .value_heads = 2 };
        var fixture: Fixture = try .init(&arena, prng.random(), decay, shape, &whole);
        fixture.run(2);
        const out = try fixture.copy(fixture.out);
        const state = try fixture.copy(fixture.state);
        fixture.args.segments = &pieces;
        fixture.run(2);
        try testing.expectEqualSlices(f32, out, fixture.out);
        const last_cell = 6 * fixture.args.state_cell_stride;
        try testing.expectEqualSlices(f32, state[last_cell..], fixture.state[last_cell..]);
    };
}

test "states that are not read may hold anything" {
    const segments = [_]Segment{
        .{ .first_row = 0, .rows = tile_tokens + 1, .read_cell = -1, .write_cell = 1 },
        .{ .first_row = tile_tokens + 1, .rows = 0, .read_cell = -1, .write_cell = 2 },
        .{ .first_row = tile_tokens + 1, .rows = 1, .read_cell = -1, .write_cell = -1 },
    };
    for ([_]Decay{ .head, .channel }) |decay| {
        var prng: std.Random.DefaultPrng = .init(8);
        var arena: std.heap.ArenaAllocator = .init(testing.allocator);
        defer arena.deinit();
        var fixture: Fixture = try .init(&arena, prng.random(), decay, .{ .key_dim = 20, .value_dim = 5 }, &segments);
        @memset(fixture.state_before, std.math.nan(f32));
        fixture.run(1);
        for (fixture.out) |value| try testing.expect(std.math.isFinite(value));
        for (0..Fixture.cells) |cell| {
            const values = fixture.state[cell * fixture.args.state_cell_stride ..][0 .. 20 * 5];
            for (values) |value| try testing.expectEqual(cell == 1 or cell == 2, std.math.isFinite(value));
        }
    }
}

/// A dot product as ggml takes it, of whole groups.
fn dot_in_order(a: []const f32, b: []const f32) f32 {
    var sums: [sums_max]Vec = @splat(@splat(0));
    var n: usize = 0;
    while (n < a.len) : (n += lanes) {
        const sum = &sums[n / lanes % sums_max];
        sum.* = vector.fma(vector.load(a[n..].ptr), vector.load(b[n..].ptr), sum.*);
    }
    return vector.sum((sums[0] + sums[2]) + (sums[1] + sums[3]));
}

test "steps and roundings come in ggml's order" {
    const rows = 3;
    const size = 2 * group_size;
    const segments = [_]Segment{.{ .first_row = 0, .rows = rows, .read_cell = 0, .write_cell = 1 }};
    for ([_]Decay{ .head, .channel }) |decay| {
        var prng: std.Random.DefaultPrng = .init(9);
        var arena: std.heap.ArenaAllocator = .init(testing.allocator);
        defer arena.deinit();
        var fixture: Fixture = try .init(&arena, prng.random(), decay, .{ .key_dim = size, .value_dim = 5 }, &segments);
        const args = &fixture.args;
        args.normalize = null;
        args.beta_sigmoid = false;
        fixture.run(1);
        for (0..5) |j| {
            const s = fixture.state_before[j * size ..][0..size];
            for (0..rows) |row| {
                const q = args.q[row * args.q_row_stride ..][0..size];
                const k = args.k[row * args.k_row_stride ..][0..size];
                const g = args.g + row * args.g_row_stride;
                for (s, 0..) |*value, i| value.* *= elementary.exp(if (decay == .channel) g[i] else g[0]);
                const beta = args.beta[row * args.beta_row_stride];
                const delta = (args.v[row * args.v_row_stride + j] - dot_in_order(s, k)) * beta;
                for (s, k) |*value, key| value.* = vector.fma(key, delta, value.*);
                const y = dot_in_order(s, q) * args.scale;
                try testing.expectEqual(y, fixture.out[row * args.out_row_stride + j]);
            }
            try testing.expectEqualSlices(f32, s, fixture.state[args.state_cell_stride + j * size ..][0..size]);
        }
    }
}
