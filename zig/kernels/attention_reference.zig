//! For the tests of attention: random pools with cells in any order, and attention by its definition in f64.

const std = @import("std");
const element = @import("element.zig");
const attention = @import("attention.zig");

const Allocator = std.mem.Allocator;
const Span = attention.Span;
const Row = attention.Row;
const Args = attention.Args;

/// The positions of one sequence: `[first, first + count)`, without the `gap_count` ones from `gap_first` on.
pub const Sequence = struct { first: i32, count: u32, gap_first: i32 = 0, gap_count: u32 = 0 };

pub const Shape = struct {
    k_type: element.Type = .f32,
    v_type: element.Type = .f32,
    heads: usize = 4,
    kv_heads: usize = 2,
    key_dim: usize = 16,
    value_dim: usize = 16,
    softcap: f32 = 0,
};

/// Memory for a batch and its sequences. Keys and values depend on the seed, the sequence and the position alone.
pub const Fixture = struct {
    arena: Allocator,
    args: Args,
    sequences: []const Sequence,
    seed: u64,
    scratch: []align(64) u8,

    /// `order` seeds the places of the cells.
    pub fn init(
        arena: Allocator,
        shape: Shape,
        sequences: []const Sequence,
        rows: []const Row,
        seed: u64,
        order: u64,
    ) !Fixture {
        const key_bytes = element.vector_bytes(shape.k_type, shape.key_dim) * shape.kv_heads + 6;
        const value_bytes = element.vector_bytes(shape.v_type, shape.value_dim) * shape.kv_heads + 2;
        const places = try place(arena, sequences, order);
        const keys = try arena.alloc(u8, places.cells * key_bytes);
        const values = try arena.alloc(u8, places.cells * value_bytes);
        // Whatever is read and was not written shows up as NaN.
        @memset(keys, 0xFF);
        @memset(values, 0xFF);
        const q_head = shape.key_dim + 1;
        const out_head = shape.value_dim + 3;
        const q = try arena.alloc(f32, rows.len * shape.heads * q_head);
        const out = try arena.alloc(f32, rows.len * shape.heads * out_head);
        @memset(out, std.math.nan(f32));
        for (rows, 0..) |row, i| for (0..shape.heads) |head| {
            const to = q[(i * shape.heads + head) * q_head ..][0..shape.key_dim];
            fill(to, seed, .{ 2, row.sequence, row.high, @intCast(head) });
        };
        const fixture: Fixture = .{
            .arena = arena,
            .sequences = sequences,
            .seed = seed,
            .scratch = try arena.alignedAlloc(u8, .@"64", attention.scratch_bytes(
                shape.key_dim,
                shape.value_dim,
                shape.heads / shape.kv_heads,
            )),
            .args = .{
                .q = q.ptr,
                .q_token_stride = shape.heads * q_head,
                .q_head_stride = q_head,
                .out = out.ptr,
                .out_token_stride = shape.heads * out_head,
                .out_head_stride = out_head,
                .k_data = keys.ptr,
                .k_cell_bytes = key_bytes,
                .k_type = shape.k_type,
                .v_data = values.ptr,
                .v_cell_bytes = value_bytes,
                .v_type = shape.v_type,
                .heads = shape.heads,
                .kv_heads = shape.kv_heads,
                .key_dim = shape.key_dim,
                .value_dim = shape.value_dim,
                .scale = 1 / @sqrt(@as(f32, @floatFromInt(shape.key_dim))),
                .softcap = shape.softcap,
                .rows = rows,
                .spans = places.spans,
                .span_offsets = places.offsets,
            },
        };
        for (0..sequences.len) |sequence| try fixture.write_cells(@intCast(sequence), keys, values);
        return fixture;
    }

    fn write_cells(fixture: *const Fixture, sequence: u32, keys: []u8, values: []u8) !void {
        const args = &fixture.args;
        const key_bytes = element.vector_bytes(args.k_type, args.key_dim);
        const value_bytes = element.vector_bytes(args.v_type, args.value_dim);
        for (args.sequence_spans(sequence)) |span| for (0..span.count) |i| {
            const cell = span.first_cell + i;
            const position = span.first_position + @as(i32, @intCast(i));
            for (0..args.kv_heads) |head| {
                const key = keys[cell * args.k_cell_bytes + head * key_bytes ..][0..key_bytes];
                const value = values[cell * args.v_cell_bytes + head * value_bytes ..][0..value_bytes];
                _ = try fixture.make(.key, sequence, position, head, key);
                _ = try fixture.make(.value, sequence, position, head, value);
            }
        };
    }

    const Side = enum { key, value };

    /// A key or value: writes its bytes and returns what they stand for.
    fn make(
        fixture: *const Fixture,
        side: Side,
        sequence: u32,
        position: i32,
        head: usize,
        bytes: []u8,
    ) ![]f32 {
        const args = &fixture.args;
        const values = try fixture.arena.alloc(f32, if (side == .key) args.key_dim else args.value_dim);
        fill(values, fixture.seed, .{ @backingInt(side), sequence, position, @intCast(head) });
        encode(if (side == .key) args.k_type else args.v_type, values, bytes);
        return values;
    }

    /// Runs with `nth` threads, one after the other, and returns a copy of the outputs.
    pub fn run(fixture: *Fixture, nth: usize) ![]f32 {
        const count = fixture.args.rows.len * fixture.args.out_token_stride;
        for (0..nth) |ith| {
            @memset(fixture.scratch, 0xFF);
            attention.forward(&fixture.args, ith, nth, fixture.scratch);
        }
        return fixture.arena.dupe(f32, fixture.args.out[0..count]);
    }

    /// The output of one head, in what `run` returned.
    pub fn head_out(fixture: *const Fixture, out: []const f32, row: usize, head: usize) []const f32 {
        const args = &fixture.args;
        return out[row * args.out_token_stride + head * args.out_head_stride ..][0..args.value_dim];
    }

    /// Squared error over squared size of all outputs, against the definition.
    pub fn distance(fixture: *const Fixture, out: []const f32) !f64 {
        const args = &fixture.args;
        var wrong: f64 = 0;
        var size: f64 = 0;
        const expected = try fixture.arena.alloc(f64, args.value_dim);
        for (args.rows, 0..) |row, i| for (0..args.heads) |head| {
            const q = args.q[i * args.q_token_stride + head * args.q_head_stride ..][0..args.key_dim];
            try fixture.define(row, head / args.group(), q, expected);
            for (expected, fixture.head_out(out, i, head)) |e, actual| {
                wrong += (actual - e) * (actual - e);
                size += e * e;
            }
        };
        return if (size == 0 and wrong == 0) 0 else wrong / size;
    }

    fn has(fixture: *const Fixture, row: Row, position: i32) bool {
        const sequence = fixture.sequences[row.sequence];
        if (position < row.low or position > row.high) return false;
        return position < sequence.gap_first or position >= sequence.gap_first + @as(i32, @intCast(sequence.gap_count));
    }

    fn define(fixture: *const Fixture, row: Row, kv_head: usize, q: []const f32, out: []f64) !void {
        var arena: std.heap.ArenaAllocator = .init(std.testing.allocator);
        defer arena.deinit();
        var own = fixture.*;
        own.arena = arena.allocator();
        const args = &fixture.args;
        const sequence = fixture.sequences[row.sequence];
        const bytes = try own.arena.alloc(u8, 4 * @max(args.key_dim, args.value_dim));
        const scores = try own.arena.alloc(f64, sequence.count);
        for (scores, 0..) |*score, i| {
            const position = sequence.first + @as(i32, @intCast(i));
            score.* = -std.math.inf(f64);
            if (!fixture.has(row, position)) continue;
            var dot: f64 = 0;
            for (try own.make(.key, row.sequence, position, kv_head, bytes), q) |k, x| dot += @as(f64, k) * x;
            dot *= args.scale;
            score.* = if (args.softcap == 0) dot else args.softcap * std.math.tanh(dot / args.softcap);
        }
        @memset(out, 0);
        const largest = if (scores.len == 0) 0 else std.mem.max(f64, scores);
        if (largest == -std.math.inf(f64)) return;
        var total: f64 = 0;
        for (scores) |score| total += @exp(score - largest);
        for (scores, 0..) |score, i| {
            const weight = @exp(score - largest) / total;
            if (weight == 0) continue;
            const position = sequence.first + @as(i32, @intCast(i));
            for (try own.make(.value, row.sequence, position, kv_head, bytes), out) |v, *o| o.* += weight * v;
        }
    }
};

fn fill(values: []f32, seed: u64, key: [4]i64) void {
    var hash: std.hash.Wyhash = .init(seed);
    hash.update(std.mem.asBytes(&key));
    var prng: std.Random.DefaultPrng = .init(hash.final());
    for (values) |*value| value.* = 1.5 * prng.random().floatNorm(f32);
}

/// Writes `values` as `element_type` and replaces them by what was written.
fn encode(element_type: element.Type, values: []f32, bytes: []u8) void {
    switch (element_type) {
        .f32 => for (values, 0..) |value, i| {
            bytes[i * 4 ..][0..4].* = @bitCast(value);
        },
        .f16 => for (values, 0..) |*value, i| {
            const half: f16 = @floatCast(value.*);
            bytes[i * 2 ..][0..2].* = @bitCast(half);
            value.* = half;
        },
        .bf16 => for (values, 0..) |*value, i| {
            const high: u16 = @truncate(@as(u32, @bitCast(value.*)) >> 16);
            bytes[i * 2 ..][0..2].* = @bitCast(high);
            value.* = @bitCast(@as(u32, high) << 16);
        },
        .q8_0 => for (0..values.len / 32) |block| {
            const part = values[block * 32 ..][0..32];
            const scale: f16 = @floatCast(largest_of(part) / 127);
            bytes[block * 34 ..][0..2].* = @bitCast(scale);
            for (part, 0..) |*value, i| {
                const rounded: i8 = @intFromFloat(std.math.clamp(@round(value.* / scale), -127, 127));
                bytes[block * 34 + 2 + i] = @bitCast(rounded);
                value.* = @as(f32, @floatFromInt(rounded)) * scale;
            }
        },
        .q4_0 => for (0..values.len / 32) |block| {
            const part = values[block * 32 ..][0..32];
            const scale: f16 = @floatCast(largest_of(part) / 7);
            bytes[block * 18 ..][0..2].* = @bitCast(scale);
            @memset(bytes[block * 18 + 2 ..][0..16], 0);
            for (part, 0..) |*value, i| {
                const rounded: i8 = @intFromFloat(std.math.clamp(@round(value.* / scale), -8, 7));
                const nibble: u8 = @intCast(rounded + 8);
                bytes[block * 18 + 2 + i % 16] |= if (i < 16) nibble else nibble << 4;
                value.* = @as(f32, @floatFromInt(rounded)) * scale;
            }
        },
    }
}

fn largest_of(values: []const f32) f32 {
    var largest: f32 = 0;
    for (values) |value| largest = @max(largest, @abs(value));
    return largest;
}

const Places = struct { spans: []Span, offsets: []u32, cells: usize };

/// Cuts the sequences into spans and scatters these over a pool.
fn place(arena: Allocator, sequences: []const Sequence, order: u64) !Places {
    var prng: std.Random.DefaultPrng = .init(order);
    const random = prng.random();
    var spans: std.ArrayList(Span) = .empty;
    const offsets = try arena.alloc(u32, sequences.len + 1);
    for (sequences, 0..) |sequence, i| {
        offsets[i] = @intCast(spans.items.len);
        var position = sequence.first;
        const end = sequence.first + @as(i32, @intCast(sequence.count));
        while (position < end) {
            if (sequence.gap_count > 0 and position == sequence.gap_first) {
                position += @intCast(sequence.gap_count);
                continue;
            }
            const limit = if (sequence.gap_count > 0 and position < sequence.gap_first) sequence.gap_first else end;
            const count = random.intRangeAtMost(i32, 1, @min(70, limit - position));
            try spans.append(arena, .{ .first_cell = 0, .count = @intCast(count), .first_position = position });
            position += count;
        }
    }
    offsets[sequences.len] = @intCast(spans.items.len);
    const places = try arena.alloc(usize, spans.items.len);
    for (places, 0..) |*at, i| at.* = i;
    random.shuffle(usize, places);
    var cell: u32 = 0;
    for (places) |i| {
        cell += random.uintAtMost(u32, 3);
        spans.items[i].first_cell = cell;
        cell += spans.items[i].count;
    }
    return .{ .spans = spans.items, .offsets = offsets, .cells = cell + 1 };
}
