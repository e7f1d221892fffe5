//! Attention for few rows over few cells of f16 keys and values, in the arithmetic of ggml's flash attention.
//!
//! That arithmetic is coarse: queries are rounded to f16, and values are summed up in f16, cell by cell. With quantised
//! weights the smallest difference in an attention's output grows to percents in the probabilities of tokens, so only
//! the same roundings in the same order give the text that llama.cpp gives. Beyond `cells_max` cells, which llama.cpp
//! rounds up to 512, ggml splits the cells that a single row sees by its number of threads, and there is nothing to agree
//! with; then the sums are ours, in f32.
//!
//! Source: `ggml_compute_forward_flash_attn_ext_f16_one_chunk` of ggml 0.25, as GCC compiles it.

const std = @import("std");
const builtin = @import("builtin");
const vector = @import("vector.zig");
const element = @import("element.zig");
const attention = @import("attention.zig");
const elementary = @import("elementary.zig");
const rows_path = @import("attention_rows.zig");

const assert = std.debug.assert;
const lanes = vector.lanes;
const Vec = vector.Vec;
const Args = attention.Args;
const Source = rows_path.Source;

/// ggml takes from this many rows on in tiles, with f32 sums.
const rows_end = 64;
/// Of more, llama.cpp has 512 at least, from which on ggml splits them.
pub const cells_max = 256;

/// Heads that share a vector of keys or values in registers, and vectors of values per pass.
const heads_max = if (vector.many_registers) 4 else 2;
const value_vectors_max = if (vector.many_registers) 4 else 2;

/// ggml's dot product of halves: this many vectors of `dot_lanes` floats a step, summed apart.
const dot_vectors = 4;
const dot_lanes = if (builtin.cpu.arch == .x86_64 and builtin.cpu.has(.x86, .avx512f)) 16 else 8;
const dot_step = dot_vectors * dot_lanes;
const DotVec = @Vector(dot_lanes, f32);

pub fn suit(args: *const Args, first: usize, count: usize) bool {
    if (!args.flash or args.k_type != .f16 or args.v_type != .f16 or count >= rows_end) return false;
    for (args.rows[first..][0..count]) |row| {
        const range = args.visible(row);
        if (@as(i64, range[1]) - range[0] >= cells_max) return false;
    }
    return true;
}

pub const Scratch = struct {
    q: [*]align(64) f32,
    out: [*]align(64) f32,
    /// `[cells_max, heads]`: scores, then weights.
    weights: [*]align(64) f32,
    /// `[cells_max, heads]`: what was summed up before a cell shrinks by this first.
    shrink: [*]align(64) f32,
    cells: [*]align(64) u32,

    pub fn init(bytes: []align(64) u8, key_dim: usize, value_dim: usize, heads: usize) Scratch {
        var rest = bytes;
        return .{
            .q = attention.take(&rest, f32, heads * key_dim),
            .out = attention.take(&rest, f32, heads * element.vector_count(value_dim) * lanes),
            .weights = attention.take(&rest, f32, heads * cells_max),
            .shrink = attention.take(&rest, f32, heads * cells_max),
            .cells = attention.take(&rest, u32, cells_max),
        };
    }

    pub fn bytes_of(key_dim: usize, value_dim: usize, heads: usize) usize {
        return attention.padded(f32, heads * key_dim) +
            attention.padded(f32, heads * element.vector_count(value_dim) * lanes) +
            2 * attention.padded(f32, heads * cells_max) +
            attention.padded(u32, cells_max);
    }
};

/// Computes `heads` heads of a row, from `head` on, which read the same keys and values.
pub fn run(args: *const Args, scratch: *const Scratch, row: usize, head: usize, heads: usize) void {
    const kv_head = head / args.group();
    for (0..heads) |h| {
        const q = args.q + row * args.q_token_stride + (head + h) * args.q_head_stride;
        for (q[0..args.key_dim], scratch.q[h * args.key_dim ..][0..args.key_dim]) |from, *to| {
            to.* = @as(f16, @floatCast(from));
        }
    }
    const range = args.visible(args.rows[row]);
    var walk: rows_path.Walk = .{
        .spans = args.sequence_spans(args.rows[row].sequence),
        .low = range[0],
        .high = range[1],
    };
    const cells = walk.next(scratch.cells[0..cells_max]);
    const keys: Source = .of_keys(args, kv_head, cells);
    const values: Source = .of_values(args, kv_head, cells);
    var h: usize = 0;
    while (h < heads) {
        const q = scratch.q + h * args.key_dim;
        const scores = scratch.weights + h * cells_max;
        switch (@min(heads_max, heads - h)) {
            inline 1...heads_max => |now| {
                score_heads(now, args, keys, q, scores);
                h += now;
            },
            else => unreachable,
        }
    }
    var totals: [rows_path.unit_heads_max]f32 = undefined;
    for (0..heads) |i| {
        const weights = scratch.weights[i * cells_max ..][0..cells.len];
        totals[i] = soften(weights, scratch.shrink[i * cells_max ..][0..cells.len]);
    }
    h = 0;
    while (h < heads) {
        switch (@min(heads_max, heads - h)) {
            inline 1...heads_max => |now| {
                add_heads(now, args, values, scratch, h);
                h += now;
            },
            else => unreachable,
        }
    }
    const stride = element.vector_count(args.value_dim) * lanes;
    for (0..heads) |i| {
        const out = args.out + row * args.out_token_stride + (head + i) * args.out_head_stride;
        rows_path.store_out(args.value_dim, totals[i], out, scratch.out + i * stride);
    }
}

fn half(from: [*]const u8, index: usize) f32 {
    return @as(*align(1) const f16, @ptrCast(from + index * 2)).*;
}

fn halves(from: [*]const u8, index: usize) DotVec {
    const values: @Vector(dot_lanes, f16) = @as(*align(1) const [dot_lanes]f16, @ptrCast(from + index * 2)).*;
    return @floatCast(values);
}

/// Scores of `heads` queries against all cells: whole steps of the dot product in f32, what is left of it in f64.
fn score_heads(comptime heads: usize, args: *const Args, from: Source, q: [*]const f32, scores: [*]f32) void {
    const dim = args.key_dim;
    const whole = dim - dim % dot_step;
    const scale = if (args.softcap == 0) args.scale else args.scale / args.softcap;
    for (0..from.cells.len) |i| {
        const key = from.cell(i);
        var sums: [heads][dot_vectors]DotVec = @splat(@splat(@splat(0)));
        var at: usize = 0;
        while (at < whole) : (at += dot_step) inline for (0..dot_vectors) |v| {
            const k = halves(key, at + v * dot_lanes);
            inline for (0..heads) |h| {
                const query: DotVec = q[h * dim + at + v * dot_lanes ..][0..dot_lanes].*;
                sums[h][v] = vector.fma(k, query, sums[h][v]);
            }
        };
        var rest: [heads]f64 = @splat(0);
        // Products of halves are exact in f32, and sums of a few of them nearly so in f64, in any order.
        for (whole..dim) |d| {
            const k = half(key, d);
            inline for (0..heads) |h| rest[h] += k * q[h * dim + d];
        }
        inline for (0..heads) |h| {
            const first = (sums[h][0] + sums[h][2]) + (sums[h][1] + sums[h][3]);
            const dot: f32 = @floatCast(vector.sum(first) + rest[h]);
            const score = dot * scale;
            scores[h * cells_max + i] = if (args.softcap == 0)
                score
            else
                args.softcap * vector.tanh(@Vector(1, f32){score})[0];
        }
    }
}

/// The running softmax, cell by cell: scores become weights against the largest score so far. Returns their total.
fn soften(weights: []f32, shrink: []f32) f32 {
    var largest = -std.math.inf(f32);
    for (weights, shrink) |*weight, *factor| {
        const score = weight.*;
        factor.* = 1;
        if (score > largest) {
            factor.* = elementary.exp(largest - score);
            largest = score;
        }
        weight.* = score - largest;
    }
    for (weights) |*weight| weight.* = elementary.exp(weight.*);
    var total: f32 = 0;
    for (weights, shrink) |weight, factor| total = total * factor + weight;
    return total;
}

fn round(v: Vec) Vec {
    return @floatCast(@as(@Vector(lanes, f16), @floatCast(v)));
}

/// Sums up the weighted values of all cells for `heads` heads, from head `first` of the scratch on.
fn add_heads(comptime heads: usize, args: *const Args, values: Source, scratch: *const Scratch, first: usize) void {
    const dim = args.value_dim;
    const count = element.vector_count(dim);
    const to = scratch.out + first * count * lanes;
    if (dim < lanes) return add_short(heads, values, scratch, first, to);
    var v: usize = 0;
    while (v < count) switch (@min(value_vectors_max, count - v)) {
        inline 1...value_vectors_max => |vectors| {
            add_vectors(heads, vectors, values, scratch, first, v, to);
            v += vectors;
        },
        else => unreachable,
    };
}

fn add_vectors(
    comptime heads: usize,
    comptime vectors: usize,
    from: Source,
    scratch: *const Scratch,
    first: usize,
    first_vector: usize,
    to: [*]f32,
) void {
    const weights = scratch.weights + first * cells_max;
    const shrink = scratch.shrink + first * cells_max;
    var starts: [vectors]usize = undefined;
    inline for (0..vectors) |v| starts[v] = element.vector_start(first_vector + v, from.dim);
    var sums: [heads][vectors]Vec = @splat(@splat(@splat(0)));
    for (0..from.cells.len) |i| {
        const cell = from.cell(i);
        inline for (0..heads) |h| {
            const factor = shrink[h * cells_max + i];
            if (factor != 1) {
                inline for (0..vectors) |v| sums[h][v] = round(sums[h][v] * vector.splat(factor));
            }
        }
        inline for (0..vectors) |v| {
            const value = element.load(.f16, cell, starts[v]);
            inline for (0..heads) |h| {
                const weight = vector.splat(weights[h * cells_max + i]);
                sums[h][v] = round(vector.fma(value, weight, sums[h][v]));
            }
        }
    }
    const stride = element.vector_count(from.dim) * lanes;
    inline for (0..heads) |h| inline for (0..vectors) |v| {
        vector.store(to + h * stride + (first_vector + v) * lanes, sums[h][v]);
    };
}

/// Values shorter than a register, one number after the other.
fn add_short(comptime heads: usize, from: Source, scratch: *const Scratch, first: usize, to: [*]f32) void {
    for (0..heads) |h| for (0..from.dim) |d| {
        var total: f16 = 0;
        for (0..from.cells.len) |i| {
            const at = (first + h) * cells_max + i;
            total = @floatCast(@as(f32, total) * scratch.shrink[at]);
            total = @floatCast(vector.fma(half(from.cell(i), d), scratch.weights[at], @as(f32, total)));
        }
        to[h * lanes + d] = total;
    };
}
