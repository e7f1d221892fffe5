//! Attention for few rows: one row and a few of its heads at a time, keys and values read once for those heads.
//!
//! Heads are independent of each other, so any split of them over threads gives the same bits.

const std = @import("std");
const vector = @import("vector.zig");
const element = @import("element.zig");
const attention = @import("attention.zig");
const halves_path = @import("attention_halves.zig");

const assert = std.debug.assert;
const lanes = vector.lanes;
const Vec = vector.Vec;
const Args = attention.Args;
const Type = element.Type;

/// Cells per step of the running softmax.
const tile_cells = 64;

const cache_line = 64;

/// Heads that share a vector of keys in registers, and vectors of values per pass.
const heads_max = if (vector.many_registers) 4 else 2;
const value_vectors_max = 4;

/// Heads of one unit of work.
pub const unit_heads_max = 32;

/// The part of all costs that belongs to this thread; `at` moves on as runs are passed.
pub const Share = struct { begin: u64, end: u64, at: u64 = 0 };

/// What a head of a row costs, in cells.
fn cost_per_head(args: *const Args, row: attention.Row) u64 {
    const range = args.visible(row);
    return @intCast(@max(0, @as(i64, range[1]) - range[0] + 1) + 16);
}

pub fn cost_of_run(args: *const Args, first: usize, count: usize) u64 {
    var total: u64 = 0;
    for (args.rows[first..][0..count]) |row| total += cost_per_head(args, row) * args.heads;
    return total;
}

const Scratch = struct {
    q: [*]align(64) f32,
    out: [*]align(64) f32,
    scores: [*]align(64) f32,
    /// The cells of two tiles: the one being worked on, and the one after it.
    cells: [2][*]align(64) u32,
    /// Keys or values of a tile, where their vectors are shorter than a register.
    short: [*]align(64) f32,
    short_cells: [*]align(64) u32,

    fn init(bytes: []align(64) u8, key_dim: usize, value_dim: usize, heads: usize) Scratch {
        var rest = bytes;
        return .{
            .q = attention.take(&rest, f32, heads * element.vector_count(key_dim) * lanes),
            .out = attention.take(&rest, f32, heads * element.vector_count(value_dim) * lanes),
            .scores = attention.take(&rest, f32, heads * tile_cells),
            .cells = .{
                attention.take(&rest, u32, tile_cells),
                attention.take(&rest, u32, tile_cells),
            },
            .short = attention.take(&rest, f32, tile_cells * lanes),
            .short_cells = attention.take(&rest, u32, tile_cells),
        };
    }
};

pub fn scratch_bytes(key_dim: usize, value_dim: usize, group: usize) usize {
    const heads: usize = @min(group, unit_heads_max);
    const bytes = attention.padded(f32, heads * element.vector_count(key_dim) * lanes) +
        attention.padded(f32, heads * element.vector_count(value_dim) * lanes) +
        attention.padded(f32, heads * tile_cells) +
        attention.padded(f32, tile_cells * lanes) +
        3 * attention.padded(u32, tile_cells);
    return @max(bytes, halves_path.Scratch.bytes_of(key_dim, value_dim, heads));
}

/// Computes what lies in this thread's share of `count` rows.
pub fn run_part(
    args: *const Args,
    first: usize,
    count: usize,
    share: *Share,
    bytes: []align(64) u8,
) void {
    const group = args.group();
    const unit_heads: usize = @min(group, unit_heads_max);
    const scratch: Scratch = .init(bytes, args.key_dim, args.value_dim, unit_heads);
    const halves: ?halves_path.Scratch = if (halves_path.suit(args, first, count))
        .init(bytes, args.key_dim, args.value_dim, unit_heads)
    else
        null;
    for (first..first + count) |row| {
        const cost = cost_per_head(args, args.rows[row]);
        // A head belongs to the share in which its first cell lies.
        var head = @min(args.heads, ceil_steps(share.begin, share.at, cost));
        const end = @min(args.heads, ceil_steps(share.end, share.at, cost));
        while (head < end) {
            const kv_head = head / group;
            const stop = @min(end, (kv_head + 1) * group, head + unit_heads);
            if (halves) |*other| {
                halves_path.run(args, other, row, head, stop - head);
            } else {
                var unit: Unit = .{ .args = args, .scratch = &scratch, .kv_head = kv_head, .heads = stop - head };
                unit.run(row, head);
            }
            head = stop;
        }
        share.at += cost * args.heads;
    }
}

/// How many steps from `at` on start before `limit`.
fn ceil_steps(limit: u64, at: u64, step: u64) usize {
    return @intCast((limit -| at + step - 1) / step);
}

/// Some heads of a row that read the same keys and values.
const Unit = struct {
    args: *const Args,
    scratch: *const Scratch,
    kv_head: usize,
    heads: usize,
    largest: [unit_heads_max]f32 = undefined,
    total: [unit_heads_max]f32 = undefined,
    /// By how much what was summed up so far shrinks, since a larger score has come up.
    shrink: [unit_heads_max]f32 = undefined,

    fn run(unit: *Unit, row: usize, head: usize) void {
        const args = unit.args;
        const scratch = unit.scratch;
        unit.load_queries(row, head);
        const value_stride = element.vector_count(args.value_dim) * lanes;
        @memset(scratch.out[0 .. unit.heads * value_stride], 0);
        @memset(unit.largest[0..unit.heads], -std.math.inf(f32));
        @memset(unit.total[0..unit.heads], 0);
        const range = args.visible(args.rows[row]);
        var walk: Walk = .{
            .spans = args.sequence_spans(args.rows[row].sequence),
            .low = range[0],
            .high = range[1],
        };
        var cells = walk.next(scratch.cells[0][0..tile_cells]);
        unit.fetch_all(cells);
        var other: usize = 1;
        while (cells.len > 0) {
            const next = walk.next(scratch.cells[other][0..tile_cells]);
            other = 1 - other;
            const keys: Source = .of_keys(args, unit.kv_head, cells);
            const values: Source = .of_values(args, unit.kv_head, cells);
            unit.score(keys, .of(values, args.v_type));
            for (0..unit.heads) |i| unit.soften(i, cells.len);
            unit.add_values(values, .of(.of_keys(args, unit.kv_head, next), args.k_type));
            cells = next;
        }
        for (0..unit.heads) |i| {
            const out = args.out + row * args.out_token_stride + (head + i) * args.out_head_stride;
            store_out(args.value_dim, unit.total[i], out, scratch.out + i * value_stride);
        }
    }

    /// Copies the queries, scaled. Vector i of a query meets vector i of a key, and since the last of those overlaps
    /// the one before, the query has zeros where they overlap.
    fn load_queries(unit: *Unit, row: usize, head: usize) void {
        const args = unit.args;
        const dim = args.key_dim;
        const count = element.vector_count(dim);
        for (0..unit.heads) |i| {
            const q = args.q + row * args.q_token_stride + (head + i) * args.q_head_stride;
            const to = unit.scratch.q[i * count * lanes ..][0 .. count * lanes];
            @memset(to, 0);
            for (q[0..dim], 0..) |value, d| {
                const in_last = d >= (count - 1) * lanes;
                const moved = if (in_last and dim >= lanes) count * lanes - dim else 0;
                to[d + moved] = value * args.scale;
            }
        }
    }

    /// For the first tile, which no tile before it has fetched.
    fn fetch_all(unit: *const Unit, cells: []const u32) void {
        const keys: Ahead = .of(.of_keys(unit.args, unit.kv_head, cells), unit.args.k_type);
        for (0..cells.len) |i| keys.fetch(i);
    }

    fn score(unit: *Unit, from: Source, ahead: Ahead) void {
        switch (unit.args.k_type) {
            inline else => |key_type| {
                if (from.dim >= lanes) return unit.score_with(key_type, from, ahead);
                return unit.score_with(.f32, from.lengthen(key_type, unit.scratch), ahead);
            },
        }
    }

    fn score_with(unit: *Unit, comptime key_type: Type, from: Source, ahead: Ahead) void {
        const query_stride = element.vector_count(from.dim) * lanes;
        var i: usize = 0;
        while (i < unit.heads) {
            const count = @min(heads_max, unit.heads - i);
            const q = unit.scratch.q + i * query_stride;
            const scores = unit.scratch.scores + i * tile_cells;
            switch (count) {
                inline 1...heads_max => |heads| score_heads(key_type, heads, from, ahead.only_if(i == 0), q, scores),
                else => unreachable,
            }
            i += count;
        }
    }

    /// One step of the running softmax: scores become weights.
    fn soften(unit: *Unit, i: usize, count: usize) void {
        const softcap = unit.args.softcap;
        const scores = unit.scratch.scores + i * tile_cells;
        const vectors = element.vector_count(count);
        @memset(scores[count .. vectors * lanes], -std.math.inf(f32));
        var largest: Vec = @splat(unit.largest[i]);
        for (0..vectors) |v| {
            var s = vector.load(scores + v * lanes);
            if (softcap != 0) {
                const capped = vector.splat(softcap) * vector.tanh(s / vector.splat(softcap));
                // What fills up the last vector stays at minus infinity.
                s = @select(f32, s == vector.splat(-std.math.inf(f32)), s, capped);
                vector.store(scores + v * lanes, s);
            }
            largest = vector.max(s, largest);
        }
        const new = vector.max_lane(largest);
        // Where every score is minus infinity, any finite number does.
        const origin = if (new == -std.math.inf(f32)) 0 else new;
        var total: Vec = @splat(0);
        for (0..vectors) |v| {
            const weights = vector.exp(vector.load(scores + v * lanes) - vector.splat(origin));
            vector.store(scores + v * lanes, weights);
            total += weights;
        }
        const shrink = vector.exp(@Vector(1, f32){unit.largest[i] - origin})[0];
        unit.total[i] = unit.total[i] * shrink + vector.sum(total);
        unit.shrink[i] = shrink;
        unit.largest[i] = new;
    }

    fn add_values(unit: *Unit, from: Source, ahead: Ahead) void {
        switch (unit.args.v_type) {
            inline else => |value_type| {
                if (from.dim >= lanes) return unit.add_values_with(value_type, from, ahead);
                return unit.add_values_with(.f32, from.lengthen(value_type, unit.scratch), ahead);
            },
        }
    }

    fn add_values_with(unit: *Unit, comptime value_type: Type, from: Source, ahead: Ahead) void {
        const count = element.vector_count(from.dim);
        var i: usize = 0;
        while (i < unit.heads) {
            const heads_now = @min(heads_max, unit.heads - i);
            const to = unit.scratch.out + i * count * lanes;
            const weights = unit.scratch.scores + i * tile_cells;
            const shrink = unit.shrink[i..];
            switch (heads_now) {
                inline 1...heads_max => |heads| {
                    var v: usize = 0;
                    while (v + value_vectors_max <= count) : (v += value_vectors_max) {
                        const now = ahead.only_if(i + v == 0);
                        add_heads(value_type, heads, value_vectors_max, from, now, v, weights, shrink.ptr, to);
                    }
                    while (v < count) : (v += 1) {
                        const now = ahead.only_if(i + v == 0);
                        add_heads(value_type, heads, 1, from, now, v, weights, shrink.ptr, to);
                    }
                },
                else => unreachable,
            }
            i += heads_now;
        }
    }
};

/// Divides what was summed up by the total of the weights.
pub fn store_out(dim: usize, total: f32, to: [*]f32, from: [*]const f32) void {
    // Nothing was seen, or nothing with a weight.
    const factor = vector.splat(if (total == 0) 0 else 1 / total);
    if (dim < lanes) return vector.store_part(to, vector.load(from) * factor, dim);
    for (0..element.vector_count(dim)) |v| {
        vector.store(to + element.vector_start(v, dim), vector.load(from + v * lanes) * factor);
    }
}

/// Where the keys or values of a head lie, for some cells.
pub const Source = struct {
    base: [*]const u8,
    cell_bytes: usize,
    cells: []const u32,
    dim: usize,

    pub fn of_keys(args: *const Args, kv_head: usize, cells: []const u32) Source {
        const base = args.key_head(kv_head);
        return .{ .base = base, .cell_bytes = args.k_cell_bytes, .cells = cells, .dim = args.key_dim };
    }

    pub fn of_values(args: *const Args, kv_head: usize, cells: []const u32) Source {
        const base = args.value_head(kv_head);
        return .{ .base = base, .cell_bytes = args.v_cell_bytes, .cells = cells, .dim = args.value_dim };
    }

    pub inline fn cell(source: Source, i: usize) [*]const u8 {
        return source.base + source.cells[i] * source.cell_bytes;
    }

    /// Copies vectors shorter than a register into registers' length, zeros behind.
    fn lengthen(source: Source, comptime element_type: Type, scratch: *const Scratch) Source {
        for (0..source.cells.len) |i| {
            const to = scratch.short + i * lanes;
            @memset(to[0..lanes], 0);
            element.unpack(element_type, source.cell(i), source.dim, to);
            scratch.short_cells[i] = @intCast(i);
        }
        return .{
            .base = @ptrCast(scratch.short),
            .cell_bytes = lanes * @sizeOf(f32),
            .cells = scratch.short_cells[0..source.cells.len],
            .dim = lanes,
        };
    }
};

/// What is needed next, fetched on the way: cells lie too far apart for the machine to guess.
const Ahead = struct {
    source: Source,
    lines: usize,

    fn of(source: Source, element_type: Type) Ahead {
        const bytes = element.vector_bytes(element_type, source.dim);
        return .{ .source = source, .lines = (bytes + cache_line - 1) / cache_line };
    }

    fn only_if(ahead: Ahead, condition: bool) Ahead {
        return .{ .source = ahead.source, .lines = if (condition) ahead.lines else 0 };
    }

    inline fn fetch(ahead: Ahead, i: usize) void {
        if (i >= ahead.source.cells.len) return;
        const cell = ahead.source.cell(i);
        for (0..ahead.lines) |line| @prefetch(cell + line * cache_line, .{ .locality = 2 });
    }
};

/// Scores of `heads` queries against all cells, four cells at a time.
fn score_heads(
    comptime key_type: Type,
    comptime heads: usize,
    from: Source,
    ahead: Ahead,
    q: [*]const f32,
    scores: [*]f32,
) void {
    const step = element.vector_step(key_type);
    const count = element.vector_count(from.dim);
    var i: usize = 0;
    while (i < from.cells.len) : (i += 4) {
        var keys: [4][*]const u8 = undefined;
        // Behind the last cell, that one again; those scores are overwritten.
        inline for (0..4) |c| keys[c] = from.cell(@min(i + c, from.cells.len - 1));
        inline for (0..4) |c| ahead.fetch(i + c);
        var sums: [heads][4]Vec = @splat(@splat(@splat(0)));
        for (0..count / step) |block| inline for (0..step) |s| {
            const v = block * step + s;
            const start = if (step > 1) v * lanes else element.vector_start(v, from.dim);
            var key: [4]Vec = undefined;
            inline for (0..4) |c| key[c] = element.load(key_type, keys[c], start);
            inline for (0..heads) |h| {
                const query = vector.load(q + (h * count + v) * lanes);
                inline for (0..4) |c| sums[h][c] = vector.fma(query, key[c], sums[h][c]);
            }
        };
        inline for (0..heads) |h| {
            scores[h * tile_cells + i ..][0..4].* = vector.sum_four(sums[h]);
        }
    }
}

/// Adds the weighted values of all cells to `heads` outputs, for `vectors` vectors from vector `first` on.
fn add_heads(
    comptime value_type: Type,
    comptime heads: usize,
    comptime vectors: usize,
    from: Source,
    ahead: Ahead,
    first: usize,
    weights: [*]const f32,
    shrink: [*]const f32,
    to: [*]f32,
) void {
    var starts: [vectors]usize = undefined;
    inline for (0..vectors) |v| starts[v] = element.vector_start(first + v, from.dim);
    var sums: [heads][vectors]Vec = @splat(@splat(@splat(0)));
    for (0..from.cells.len) |i| {
        const cell = from.cell(i);
        ahead.fetch(i);
        inline for (0..vectors) |v| {
            const value = element.load(value_type, cell, starts[v]);
            inline for (0..heads) |h| {
                sums[h][v] = vector.fma(vector.splat(weights[h * tile_cells + i]), value, sums[h][v]);
            }
        }
    }
    const stride = element.vector_count(from.dim) * lanes;
    inline for (0..heads) |h| inline for (0..vectors) |v| {
        const out = to + h * stride + (first + v) * lanes;
        vector.store(out, vector.fma(vector.load(out), vector.splat(shrink[h]), sums[h][v]));
    };
}

/// Lists the cells of a range of positions, in their order.
pub const Walk = struct {
    spans: []const attention.Span,
    low: i64,
    high: i64,

    pub fn next(walk: *Walk, buffer: []u32) []u32 {
        var count: usize = 0;
        while (walk.spans.len > 0 and count < buffer.len and walk.low <= walk.high) {
            const span = walk.spans[0];
            const end = @as(i64, span.first_position) + span.count;
            if (end <= walk.low) {
                walk.spans = walk.spans[1..];
                continue;
            }
            const begin = @max(walk.low, span.first_position);
            const room: i64 = @intCast(buffer.len - count);
            const taken: usize = @intCast(@max(0, @min(end, walk.high + 1, begin + room) - begin));
            const first = span.first_cell + @as(u32, @intCast(begin - span.first_position));
            for (buffer[count..][0..taken], first..) |*cell, i| cell.* = @intCast(i);
            count += taken;
            walk.low = begin + @as(i64, @intCast(taken));
            if (taken == 0) break;
        }
        return buffer[0..count];
    }
};

test "a walk lists cells by position" {
    const spans = [_]attention.Span{
        .{ .first_cell = 50, .count = 3, .first_position = 2 },
        .{ .first_cell = 10, .count = 2, .first_position = 5 },
        .{ .first_cell = 90, .count = 4, .first_position = 20 },
    };
    var buffer: [4]u32 = undefined;
    var walk: Walk = .{ .spans = &spans, .low = 3, .high = 21 };
    try std.testing.expectEqualSlices(u32, &.{ 51, 52, 10, 11 }, walk.next(&buffer));
    try std.testing.expectEqualSlices(u32, &.{ 90, 91 }, walk.next(&buffer));
    try std.testing.expectEqual(0, walk.next(&buffer).len);
    walk = .{ .spans = &spans, .low = 7, .high = 19 };
    try std.testing.expectEqual(0, walk.next(&buffer).len);
    walk = .{ .spans = &spans, .low = 0, .high = -1 };
    try std.testing.expectEqual(0, walk.next(&buffer).len);
}
