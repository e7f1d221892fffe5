//! The time mixing of RWKV-6 and RWKV-7, read from and written to state cells. `S` is one head's state.
//!
//! RWKV-6, `S` key by value: `y = r^T (S + diag(u) k v^T)`, then `S = diag(w) S + k v^T`.
//! RWKV-7, `S` value by key: `S = S diag(w) + (S a) b^T + v k^T`, then `y = S r`; `S a` is of the state before. A model
//! passes its normalised removal key negated as `a`, and the same key times its learning rate as `b`.
//!
//! The layouts of the states and the order of every sum are those of ggml's `rwkv_wkv6` and `rwkv_wkv7`, so that the
//! results are theirs to the bit where they are right (`rwkv_wkv7` is not where a head is no multiple of its step).
//!
//! Tokens are taken in tiles, and within a tile a few rows of the state stay in registers over all its tokens. What
//! is computed for a token does not depend on how the tokens are cut into tiles, segments or threads: a prompt in
//! pieces gives the same bits as the whole.

const std = @import("std");
const vector = @import("vector.zig");

const assert = std.debug.assert;
const lanes = vector.lanes;
const Vec = vector.Vec;

pub const Segment = @import("segment.zig").Segment;

/// The largest head: its rows have to fit on the stack between two tiles of tokens.
pub const head_size_max = 256;

/// One input: a row per token, `[head_size, heads]` in each. The stride counts floats.
pub const Rows = struct {
    first: [*]const f32,
    stride: usize,
};

/// Strides count floats.
pub const Args = struct {
    /// The receptance. Not read where `out` is null.
    r: Rows,
    /// The decay, a factor (not its logarithm), per channel of the key.
    w: Rows,
    k: Rows,
    v: Rows,
    /// RWKV-6: the bonus of the current token, `[head_size, heads]`.
    u: ?[*]const f32 = null,
    /// RWKV-7: what is taken out of the state, and where it goes.
    a: ?Rows = null,
    b: ?Rows = null,
    /// `[head_size, heads]` per row, no input. Null advances the states only, which come out the same to the bit.
    out: ?[*]f32,
    out_row_stride: usize = 0,
    /// The first cell of the pool; a cell is `[head_size, head_size, heads]`: in RWKV-6 the value fastest, then the
    /// key, in RWKV-7 the key fastest, then the value.
    state: [*]f32,
    state_cell_stride: usize,
    head_size: usize,
    heads: usize,
    segments: []const Segment,
};

/// A thread takes a head in parts of so many values.
const part_values = struct {
    const v6 = 64;
    const v7 = 32;
};

/// Tokens per tile, fewer where heads are large: the inputs of a tile stay in the nearest cache.
const tile_tokens_max = 16;
const tile_floats = 1024;

/// Vectors are summed up in this many sums, as ggml does.
const sums_max = 4;

/// The inputs of some tokens and one head. Where there are several tokens they are copied together, because rows lie a
/// power of two apart more often than not and would drive each other out of the cache. A copy ends in zeros that fill
/// up its last vector.
fn Tile(comptime inputs: usize) type {
    return struct {
        const Self = @This();

        first_row: usize,
        rows: usize,
        /// From a token to the next.
        stride: usize,
        at: [inputs][*]const f32,
        copies: [inputs][tile_floats]f32 align(64),

        fn fill(tile: *Self, sources: [inputs]Rows, column: usize, size: usize, padded: usize) void {
            assert(tile.rows * padded <= tile_floats);
            tile.stride = padded;
            for (sources, &tile.at, &tile.copies) |source, *at, *copy| {
                const first = source.first + tile.first_row * source.stride + column;
                if (tile.rows == 1 and size == padded) {
                    at.* = first;
                    continue;
                }
                at.* = copy;
                for (0..tile.rows) |t| {
                    const to = copy[t * padded ..][0..padded];
                    @memcpy(to[0..size], (first + t * source.stride)[0..size]);
                    @memset(to[size..], 0);
                }
            }
        }
    };
}

/// A part of one head, and where its state comes from and goes to.
const Part = struct {
    head: usize,
    /// The first value of the head that belongs to this part, and how many do.
    first: usize,
    count: usize,
    from: ?[*]const f32,
    to: ?[*]f32,

    /// `fastest` says whether values are the fastest dimension of the state.
    fn init(args: *const Args, segment: Segment, at: usize, comptime values: usize, comptime fastest: bool) Part {
        const size = args.head_size;
        const parts_per_head = parts_of(size, values);
        const head = at / parts_per_head;
        const first = at % parts_per_head * values;
        const offset = (head * size + if (fastest) 0 else first) * size + if (fastest) first else 0;
        return .{
            .head = head,
            .first = first,
            .count = @min(values, size - first),
            .from = cell_state(args, segment.read_cell, offset),
            .to = cell_state(args, segment.write_cell, offset),
        };
    }
};

fn parts_of(size: usize, values: usize) usize {
    return (size + values - 1) / values;
}

fn cell_state(args: *const Args, cell: i32, offset: usize) ?[*]f32 {
    if (cell < 0) return null;
    return args.state + @as(usize, @intCast(cell)) * args.state_cell_stride + offset;
}

fn check(args: *const Args) void {
    assert(args.head_size >= 1 and args.head_size <= head_size_max);
    assert(args.state_cell_stride >= args.head_size * args.head_size * args.heads);
    for (args.segments) |segment| segment.check();
}

fn copy_state(from: ?[*]const f32, to: ?[*]f32, count: usize) void {
    const target = (to orelse return)[0..count];
    if (from) |source| @memcpy(target, source[0..count]) else @memset(target, 0);
}

/// RWKV-6. Thread `ith` of `nth` advances its own columns of the states through all segments, so that no thread waits
/// for another.
pub fn forward_v6(args: *const Args, ith: usize, nth: usize) void {
    check(args);
    assert(args.u != null and args.a == null and args.b == null);
    const parts = vector.share(args.heads * parts_of(args.head_size, part_values.v6), ith, nth);
    var work: WorkV6 = undefined;
    work.args = args;
    for (args.segments) |segment| for (parts[0]..parts[1]) |at| {
        const part: Part = .init(args, segment, at, part_values.v6, true);
        if (segment.rows == 0) {
            for (0..args.head_size) |i| {
                const row = i * args.head_size;
                const from = if (part.from) |from| from + row else null;
                copy_state(from, if (part.to) |to| to + row else null, part.count);
            }
        } else if (args.out != null) {
            advance_v6(true, &work, part, segment);
        } else if (part.to != null) {
            advance_v6(false, &work, part, segment);
        }
    };
}

/// Vectors of values and rows of keys that are in registers together.
const block_vectors = if (vector.many_registers) 4 else 2;
const block_rows = 4;

const WorkV6 = struct {
    args: *const Args,
    tile: Tile(4),
    y: [tile_tokens_max][part_values.v6]f32 align(64),
    /// Between tiles of tokens a state that no cell receives waits here.
    held: [head_size_max * part_values.v6]f32 align(64),
    part: Part,
    source: ?[*]const f32,
    source_stride: usize,
    target: [*]f32,
    target_stride: usize,
};

fn advance_v6(comptime emit: bool, work: *WorkV6, part: Part, segment: Segment) void {
    const args = work.args;
    const size = args.head_size;
    const padded = (size + lanes - 1) / lanes * lanes;
    const tile = &work.tile;
    work.part = part;
    work.target = part.to orelse &work.held;
    work.target_stride = if (part.to != null) size else part_values.v6;
    work.source = part.from;
    work.source_stride = size;
    var done: usize = 0;
    while (done < segment.rows) : (done += tile.rows) {
        tile.first_row = segment.first_row + done;
        tile.rows = @min(tile_tokens_max, tile_floats / padded, segment.rows - done);
        tile.fill(.{ if (emit) args.r else args.w, args.w, args.k, args.v }, part.head * size, size, padded);
        if (emit) @memset(work.y[0..tile.rows], @splat(0));
        var key: usize = 0;
        while (key + block_rows <= size) : (key += block_rows) advance_keys(emit, block_rows, work, key);
        while (key < size) : (key += 1) advance_keys(emit, 1, work, key);
        work.source = work.target;
        work.source_stride = work.target_stride;
        if (!emit) continue;
        for (work.y[0..tile.rows], tile.first_row..) |*y, row| {
            const out = args.out.? + row * args.out_row_stride + part.head * size + part.first;
            @memcpy(out[0..part.count], y[0..part.count]);
        }
    }
}

/// All columns of `rows` rows, so that memory is read in one piece. The sums over the keys grow from call to call.
fn advance_keys(comptime emit: bool, comptime rows: usize, work: *WorkV6, key: usize) void {
    const count = work.part.count;
    var column: usize = 0;
    while (column + block_vectors * lanes <= count) : (column += block_vectors * lanes) {
        advance_block(emit, rows, block_vectors, false, work, key, column);
    }
    while (column + lanes <= count) : (column += lanes) {
        advance_block(emit, rows, 1, false, work, key, column);
    }
    if (column < count) advance_block(emit, rows, 1, true, work, key, column);
}

/// Keeps `rows * vectors` vectors of state in registers over all tokens of the tile.
fn advance_block(
    comptime emit: bool,
    comptime rows: usize,
    comptime vectors: usize,
    comptime partial: bool,
    work: *WorkV6,
    key: usize,
    column: usize,
) void {
    const tile = &work.tile;
    const part = &work.part;
    const left = part.count - column;
    var s: [rows][vectors]Vec = @splat(@splat(@splat(0)));
    if (work.source) |source| inline for (0..rows) |i| inline for (0..vectors) |v| {
        const from = source + (key + i) * work.source_stride + column + v * lanes;
        s[i][v] = if (partial) vector.load_part(from, left) else vector.load(from);
    };
    const u = work.args.u.? + part.head * work.args.head_size + key;
    for (0..tile.rows) |t| {
        const r, const w, const k, _ = tile.at;
        const keys_at = t * tile.stride + key;
        const value_at = t * tile.stride + part.first + column;
        var value: [vectors]Vec = undefined;
        var y: [vectors]Vec = undefined;
        inline for (0..vectors) |v| {
            value[v] = vector.load(tile.at[3] + value_at + v * lanes);
            if (emit) y[v] = vector.load(work.y[t][column + v * lanes ..].ptr);
        }
        inline for (0..rows) |i| inline for (0..vectors) |v| {
            const kv = value[v] * vector.splat(k[keys_at + i]);
            if (emit) {
                const seen = vector.fma(kv, vector.splat(u[i]), s[i][v]);
                y[v] = vector.fma(seen, vector.splat(r[keys_at + i]), y[v]);
            }
            s[i][v] = vector.fma(s[i][v], vector.splat(w[keys_at + i]), kv);
        };
        if (emit) inline for (0..vectors) |v| vector.store(work.y[t][column + v * lanes ..].ptr, y[v]);
    }
    inline for (0..rows) |i| inline for (0..vectors) |v| {
        const to = work.target + (key + i) * work.target_stride + column + v * lanes;
        if (partial) vector.store_part(to, s[i][v], left) else vector.store(to, s[i][v]);
    };
}

/// RWKV-7. Thread `ith` of `nth` advances its own rows of the states through all segments, so that no thread waits for
/// another.
pub fn forward_v7(args: *const Args, ith: usize, nth: usize) void {
    check(args);
    assert(args.u == null and args.a != null and args.b != null);
    const powers = comptime std.math.log2_int(usize, head_size_max / lanes) + 1;
    inline for (0..powers) |power| {
        const vectors = 1 << power;
        if (args.head_size <= vectors * lanes) {
            return if (args.out != null)
                forward_rows(true, vectors, args, ith, nth)
            else
                forward_rows(false, vectors, args, ith, nth);
        }
    }
    unreachable;
}

/// The rows of `vectors` vectors that are taken together: what registers hold. A single token takes two at most, which
/// was measured to be a quarter faster where its states come from memory rather than from a cache.
fn rows_together(comptime vectors: usize) usize {
    const held = if (vector.many_registers) 16 else 8;
    return @min(4, @max(1, held / vectors));
}

const WorkV7 = struct {
    args: *const Args,
    tile: Tile(6),
    held: [head_size_max * part_values.v7]f32 align(64),
    part: Part,
    source: ?[*]const f32,
    target: [*]f32,
};

/// With rows of the state that fill up to `vectors` vectors.
fn forward_rows(
    comptime emit: bool,
    comptime vectors: usize,
    args: *const Args,
    ith: usize,
    nth: usize,
) void {
    const parts = vector.share(args.heads * parts_of(args.head_size, part_values.v7), ith, nth);
    var work: WorkV7 = undefined;
    work.args = args;
    for (args.segments) |segment| for (parts[0]..parts[1]) |at| {
        const part: Part = .init(args, segment, at, part_values.v7, false);
        if (segment.rows == 0) {
            copy_state(part.from, part.to, part.count * args.head_size);
        } else if (emit or part.to != null) {
            advance_v7(emit, vectors, &work, part, segment);
        }
    };
}

fn advance_v7(comptime emit: bool, comptime vectors: usize, work: *WorkV7, part: Part, segment: Segment) void {
    const args = work.args;
    const size = args.head_size;
    const padded = vectors * lanes;
    const together = comptime rows_together(vectors);
    const tile = &work.tile;
    work.part = part;
    work.target = part.to orelse &work.held;
    work.source = part.from;
    var done: usize = 0;
    while (done < segment.rows) : (done += tile.rows) {
        tile.first_row = segment.first_row + done;
        tile.rows = @min(tile_tokens_max, tile_floats / padded, segment.rows - done);
        tile.fill(.{ if (emit) args.r else args.w, args.w, args.k, args.v, args.a.?, args.b.? }, part.head * size, size, padded);
        if (tile.rows == 1) {
            advance_part(emit, @min(2, together), vectors, work);
        } else {
            advance_part(emit, together, vectors, work);
        }
        work.source = work.target;
    }
}

fn advance_part(comptime emit: bool, comptime rows: usize, comptime vectors: usize, work: *WorkV7) void {
    var at: usize = 0;
    while (at + rows <= work.part.count) : (at += rows) advance_rows(emit, rows, vectors, work, at);
    while (at < work.part.count) : (at += 1) advance_rows(emit, 1, vectors, work, at);
}

/// Keeps `rows` rows of state in registers over all tokens of the tile.
fn advance_rows(
    comptime emit: bool,
    comptime rows: usize,
    comptime vectors: usize,
    work: *WorkV7,
    at: usize,
) void {
    @setEvalBranchQuota(1000 + 10 * rows * vectors);
    const args = work.args;
    const size = args.head_size;
    const tile = &work.tile;
    const r, const w, const k, const v, const a, const b = tile.at;
    const value_at = work.part.first + at;
    var s: [rows][vectors]Vec = @splat(@splat(@splat(0)));
    if (work.source) |source| inline for (0..rows) |i| {
        s[i] = load_row(vectors, source + (at + i) * size, size);
    };
    for (0..tile.rows) |t| {
        const token = t * tile.stride;
        const taken = dot_rows(rows, vectors, &s, a + token);
        const value = (v + token + value_at)[0..rows];
        inline for (0..vectors) |n| {
            const w_n = vector.load(w + token + n * lanes);
            const k_n = vector.load(k + token + n * lanes);
            const b_n = vector.load(b + token + n * lanes);
            inline for (0..rows) |i| {
                s[i][n] = vector.fma(s[i][n], w_n, vector.splat(value[i]) * k_n);
                s[i][n] = vector.fma(vector.splat(taken[i]), b_n, s[i][n]);
            }
        }
        if (!emit) continue;
        const out = args.out.? + (tile.first_row + t) * args.out_row_stride + work.part.head * size;
        (out + value_at)[0..rows].* = dot_rows(rows, vectors, &s, r + token);
    }
    inline for (0..rows) |i| store_row(vectors, work.target + (at + i) * size, &s[i], size);
}

/// The products of rows of the state with a vector.
inline fn dot_rows(
    comptime rows: usize,
    comptime vectors: usize,
    s: *const [rows][vectors]Vec,
    x: [*]const f32,
) [rows]f32 {
    var whole: [4]Vec = @splat(@splat(0));
    inline for (0..rows) |i| {
        var sums: [sums_max]Vec = @splat(@splat(0));
        inline for (0..vectors) |n| {
            sums[n % sums_max] = vector.fma(s[i][n], vector.load(x + n * lanes), sums[n % sums_max]);
        }
        whole[i] = (sums[0] + sums[2]) + (sums[1] + sums[3]);
    }
    const all: [4]f32 = vector.sum_four(whole);
    return all[0..rows].*;
}

/// `size` floats, and zeros behind.
inline fn load_row(comptime vectors: usize, from: [*]const f32, size: usize) [vectors]Vec {
    var row: [vectors]Vec = undefined;
    if (size == vectors * lanes) {
        inline for (&row, 0..) |*to, n| to.* = vector.load(from + n * lanes);
    } else {
        for (&row, 0..) |*to, n| {
            const first = @min(n * lanes, size);
            to.* = vector.load_part(from + first, @min(lanes, size - first));
        }
    }
    return row;
}

inline fn store_row(comptime vectors: usize, to: [*]f32, row: *const [vectors]Vec, size: usize) void {
    if (size == vectors * lanes) {
        inline for (row, 0..) |values, n| vector.store(to + n * lanes, values);
    } else {
        for (row, 0..) |values, n| {
            const first = @min(n * lanes, size);
            vector.store_part(to + first, values, @min(lanes, size - first));
        }
    }
}

const testing = std.testing;

const Form = enum { v6, v7 };

/// A batch of random inputs with room for its outputs, compared with the definition in f64. What lies between rows and
/// between cells is not a number.
const Fixture = struct {
    const cells = 7;
    const gap = 5;

    arena: std.heap.ArenaAllocator,
    form: Form,
    args: Args,
    out_buffer: []f32,
    state_before: []f32,

    fn init(
        random: std.Random,
        form: Form,
        head_size: usize,
        heads: usize,
        segments: []const Segment,
    ) !Fixture {
        var arena: std.heap.ArenaAllocator = .init(testing.allocator);
        const memory = arena.allocator();
        var rows: usize = 0;
        for (segments) |segment| rows = @max(rows, segment.first_row + segment.rows);
        const width = head_size * heads;
        const cell = head_size * width;
        const state = try numbers(memory, random, cells, cell, 1);
        const w = try numbers(memory, random, rows, width, 1);
        for (w) |*value| value.* = @exp(-@exp(value.* - 1));
        // Of length about 1, so that the state neither grows nor goes.
        const short = 0.7 / @sqrt(@as(f32, @floatFromInt(head_size)));
        const stride = width + gap;
        const out_buffer = try numbers(memory, random, rows, width, 1);
        const args: Args = .{
            .r = .{ .first = (try numbers(memory, random, rows, width, 1)).ptr, .stride = stride },
            .w = .{ .first = w.ptr, .stride = stride },
            .k = .{ .first = (try numbers(memory, random, rows, width, 1)).ptr, .stride = stride },
            .v = .{ .first = (try numbers(memory, random, rows, width, 1)).ptr, .stride = stride },
            .u = if (form == .v6) (try numbers(memory, random, 1, width, 1)).ptr else null,
            .a = if (form == .v7) .{
                .first = (try numbers(memory, random, rows, width, short)).ptr,
                .stride = stride,
            } else null,
            .b = if (form == .v7) .{
                .first = (try numbers(memory, random, rows, width, short)).ptr,
                .stride = stride,
            } else null,
            .out = out_buffer.ptr,
            .out_row_stride = stride,
            .state = state.ptr,
            .state_cell_stride = cell + gap,
            .head_size = head_size,
            .heads = heads,
            .segments = segments,
        };
        const state_before = try memory.dupe(f32, state);
        return .{
            .arena = arena,
            .form = form,
            .args = args,
            .out_buffer = out_buffer,
            .state_before = state_before,
        };
    }

    fn numbers(
        memory: std.mem.Allocator,
        random: std.Random,
        rows: usize,
        width: usize,
        scale: f32,
    ) ![]f32 {
        const values = try memory.alloc(f32, rows * (width + gap));
        for (values, 0..) |*value, i| {
            const in_gap = i % (width + gap) >= width;
            value.* = if (in_gap) std.math.nan(f32) else scale * random.floatNorm(f32);
        }
        return values;
    }

    /// Runs with `nth` threads, one after the other, from the same state.
    fn run(fixture: *Fixture, nth: usize) void {
        @memcpy(fixture.state_now(), fixture.state_before);
        for (0..nth) |ith| switch (fixture.form) {
            .v6 => forward_v6(&fixture.args, ith, nth),
            .v7 => forward_v7(&fixture.args, ith, nth),
        };
    }

    fn state_now(fixture: *const Fixture) []f32 {
        return fixture.args.state[0..fixture.state_before.len];
    }

    fn copy(fixture: *Fixture, values: []const f32) ![]f32 {
        return fixture.arena.allocator().dupe(f32, values);
    }

    fn input(rows: Rows, row: usize, channel: usize) f64 {
        return rows.first[row * rows.stride + channel];
    }

    /// One token by the definition; `s` is `[values][keys]` here in both forms.
    fn step(fixture: *const Fixture, s: []f64, y: []f64, head: usize, row: usize) void {
        const args = &fixture.args;
        const size = args.head_size;
        const base = head * size;
        for (y, 0..) |*sum, i| {
            const mine = s[i * size ..][0..size];
            const v = input(args.v, row, base + i);
            sum.* = 0;
            var taken: f64 = 0;
            if (args.a) |a| for (mine, base..) |value, j| {
                taken += value * input(a, row, j);
            };
            for (mine, base..) |*value, j| {
                const kv = input(args.k, row, j) * v;
                const r = input(args.r, row, j);
                if (args.u) |u| sum.* += r * (value.* + u[j] * kv);
                value.* = value.* * input(args.w, row, j) + kv;
                if (args.b) |b| {
                    value.* += taken * input(b, row, j);
                    sum.* += r * value.*;
                }
            }
        }
    }

    /// The states and outputs by the definition, compared with what was computed.
    fn compare(fixture: *Fixture) !void {
        const args = &fixture.args;
        const memory = fixture.arena.allocator();
        const size = args.head_size;
        const states = try memory.alloc(f64, fixture.state_before.len);
        for (states, fixture.state_before) |*to, from| to.* = from;
        const s = try memory.alloc(f64, size * size);
        const y = try memory.alloc(f64, size);
        var distance: Distance = .{};
        for (args.segments) |segment| for (0..args.heads) |head| {
            for (s, 0..) |*value, at| {
                value.* = if (segment.read_cell < 0) 0 else states[fixture.place(segment.read_cell, head, at)];
            }
            for (segment.first_row..segment.first_row + segment.rows) |row| {
                fixture.step(s, y, head, row);
                const out = args.out.?[row * args.out_row_stride + head * size ..];
                for (y, out) |expected, actual| distance.add(expected, actual);
            }
            if (segment.write_cell < 0) continue;
            for (s, 0..) |value, at| states[fixture.place(segment.write_cell, head, at)] = value;
        };
        try testing.expect(distance.relative() < 1e-12);
        distance = .{};
        for (states, fixture.state_now(), 0..) |expected, actual, i| {
            const in_gap = i % args.state_cell_stride >= args.state_cell_stride - gap;
            if (in_gap) try testing.expect(std.math.isNan(actual)) else distance.add(expected, actual);
        }
        try testing.expect(distance.relative() < 1e-12);
        for (fixture.out_buffer, 0..) |value, i| {
            if (i % args.out_row_stride >= args.out_row_stride - gap) try testing.expect(std.math.isNan(value));
        }
    }

    /// Where a cell has the number at `[value][key]`, counted through.
    fn place(fixture: *const Fixture, cell: i32, head: usize, at: usize) usize {
        const size = fixture.args.head_size;
        const within = switch (fixture.form) {
            .v6 => at % size * size + at / size,
            .v7 => at,
        };
        return @as(usize, @intCast(cell)) * fixture.args.state_cell_stride + head * size * size + within;
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

fn expect_same_bits(expected: []const f32, actual: []const f32) !void {
    try testing.expectEqualSlices(u32, @ptrCast(expected), @ptrCast(actual));
}

const mixed_segments = [_]Segment{
    .{ .first_row = 0, .rows = 1, .read_cell = 0, .write_cell = 1 },
    .{ .first_row = 1, .rows = 2, .read_cell = 0, .write_cell = 2 },
    .{ .first_row = 3, .rows = 2 * tile_tokens_max + 5, .read_cell = -1, .write_cell = 3 },
    // Continues the third, as when a snapshot is taken in the middle of a prefill.
    .{ .first_row = 2 * tile_tokens_max + 8, .rows = tile_tokens_max, .read_cell = 3, .write_cell = 4 },
    .{ .first_row = 3 * tile_tokens_max + 8, .rows = tile_tokens_max + 1, .read_cell = 5, .write_cell = -1 },
    .{ .first_row = 0, .rows = 0, .read_cell = 4, .write_cell = 6 },
};

test "heads of any size match the definition, for any number of threads, with and without an output" {
    const shapes = [_][2]usize{
        .{ 1, 3 },         .{ 2, 1 },         .{ 3, 5 },         .{ lanes, 2 }, .{ 21, 3 },
        .{ lanes + 1, 2 }, .{ 2 * lanes, 3 }, .{ 47, 1 },        .{ 64, 2 },    .{ 65, 2 },
        .{ 80, 1 },        .{ 128, 1 },       .{ 8 * lanes, 1 }, .{ 97, 1 },    .{ 131, 1 },
        .{ 255, 1 },       .{ 256, 1 },
    };
    for ([_]Form{ .v6, .v7 }) |form| for (shapes, 0..) |shape, i| {
        var prng: std.Random.DefaultPrng = .init(i);
        var fixture: Fixture = try .init(prng.random(), form, shape[0], shape[1], &mixed_segments);
        defer fixture.arena.deinit();
        fixture.run(1);
        try fixture.compare();
        const out = try fixture.copy(fixture.out_buffer);
        const state = try fixture.copy(fixture.state_now());
        for ([_]usize{ 2, 3, 5 }) |nth| {
            fixture.run(nth);
            try expect_same_bits(out, fixture.out_buffer);
            try expect_same_bits(state, fixture.state_now());
        }
        fixture.args.out = null;
        fixture.run(2);
        try expect_same_bits(state, fixture.state_now());
        try expect_same_bits(out, fixture.out_buffer);
    };
}

test "copied inputs end in zeros, whatever was there" {
    const size = lanes + 1;
    var numbers: [3 * (size + 4)]f32 = undefined;
    for (&numbers, 1..) |*number, i| number.* = @floatFromInt(i);
    const source: Rows = .{ .first = &numbers, .stride = size + 4 };
    for ([_]usize{ 1, 2 }) |rows| {
        var tile: Tile(1) = undefined;
        tile.copies = @splat(@splat(std.math.nan(f32)));
        tile.first_row = 1;
        tile.rows = rows;
        tile.fill(.{source}, 2, size, 2 * lanes);
        for (0..rows) |t| for (0..2 * lanes) |i| {
            const expected = if (i < size) numbers[(t + 1) * (size + 4) + 2 + i] else 0;
            try testing.expectEqual(expected, tile.at[0][t * tile.stride + i]);
        };
    }
}

test "cut into pieces of any size, with states in place, a sequence gives the same bits" {
    const rows = 3 * tile_tokens_max + 2;
    const whole = [_]Segment{.{ .first_row = 0, .rows = rows, .read_cell = 2, .write_cell = 6 }};
    const rest = tile_tokens_max + 5;
    const pieces = [_]Segment{
        .{ .first_row = 0, .rows = 1, .read_cell = 2, .write_cell = 0 },
        .{ .first_row = 1, .rows = 1, .read_cell = 0, .write_cell = 0 },
        .{ .first_row = 2, .rows = 0, .read_cell = 0, .write_cell = 3 },
        .{ .first_row = 2, .rows = tile_tokens_max + 3, .read_cell = 3, .write_cell = 3 },
        .{ .first_row = rest, .rows = rows - rest, .read_cell = 3, .write_cell = 6 },
    };
    for ([_]Form{ .v6, .v7 }) |form| for ([_]usize{ 19, 64, 128, 200 }) |size| {
        var prng: std.Random.DefaultPrng = .init(size);
        var fixture: Fixture = try .init(prng.random(), form, size, 2, &whole);
        defer fixture.arena.deinit();
        fixture.run(2);
        const out = try fixture.copy(fixture.out_buffer);
        const state = try fixture.copy(fixture.state_now());
        fixture.args.segments = &pieces;
        @memset(fixture.out_buffer[0 .. fixture.out_buffer.len - Fixture.gap], 0);
        fixture.run(3);
        for (0..rows) |row| {
            const first = row * fixture.args.out_row_stride;
            try expect_same_bits(out[first..][0 .. size * 2], fixture.out_buffer[first..][0 .. size * 2]);
        }
        const last_cell = 6 * fixture.args.state_cell_stride;
        try expect_same_bits(state[last_cell..], fixture.state_now()[last_cell..]);
    };
}

test "states that are not read may hold anything" {
    const segments = [_]Segment{
        .{ .first_row = 0, .rows = tile_tokens_max + 1, .read_cell = -1, .write_cell = 1 },
        .{ .first_row = tile_tokens_max + 1, .rows = 0, .read_cell = -1, .write_cell = 2 },
        .{ .first_row = tile_tokens_max + 1, .rows = tile_tokens_max + 1, .read_cell = -1, .write_cell = -1 },
    };
    for ([_]Form{ .v6, .v7 }) |form| for ([_]usize{ 5, 64 }) |size| {
        var prng: std.Random.DefaultPrng = .init(8);
        var fixture: Fixture = try .init(prng.random(), form, size, 1, &segments);
        defer fixture.arena.deinit();
        @memset(fixture.state_before, std.math.nan(f32));
        fixture.run(1);
        for (fixture.out_buffer, 0..) |value, i| {
            if (i % fixture.args.out_row_stride < size) try testing.expect(std.math.isFinite(value));
        }
        const stride = fixture.args.state_cell_stride;
        for (fixture.state_now(), 0..) |value, i| {
            const written = i % stride < size * size and (i / stride == 1 or i / stride == 2);
            try testing.expectEqual(written, std.math.isFinite(value));
            if (written and i / stride == 2) try testing.expectEqual(0, value);
        }
    };
}
