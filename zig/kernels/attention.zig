//! Attention through lists of cells: softmax(scale * q k^T) v, where the keys and values of a sequence lie in any
//! cells of a pool, and a row of the batch sees a range of positions.
//!
//! Runs of rows of one sequence are worked off in tiles of queries and cells (`attention_tiles.zig`), few rows head
//! by head (`attention_rows.zig`). Which way a run goes, and every sum on the way, depends on its own sequence only: not
//! on the number of threads, the other sequences of the batch, or where cells lie.

const std = @import("std");
const vector = @import("vector.zig");
const element = @import("element.zig");
const rows_path = @import("attention_rows.zig");
const tiles_path = @import("attention_tiles.zig");
const halves_path = @import("attention_halves.zig");

const assert = std.debug.assert;

pub const Type = element.Type;

/// Cells that lie one after another and hold consecutive positions.
pub const Span = extern struct { first_cell: u32, count: u32, first_position: i32 };

/// A token of the batch: its sequence, and the positions it sees, `low` to `high` inclusive.
pub const Row = extern struct { sequence: u32, low: i32, high: i32 };

/// Query strides count floats, cell strides bytes. The vectors of a head are contiguous; within a cell, the heads lie
/// one after another.
pub const Args = struct {
    /// `[key_dim, heads, rows]`.
    q: [*]const f32,
    q_token_stride: usize,
    q_head_stride: usize,
    /// `[value_dim, heads, rows]`.
    out: [*]f32,
    out_token_stride: usize,
    out_head_stride: usize,
    k_data: [*]const u8,
    k_cell_bytes: usize,
    k_type: Type,
    v_data: [*]const u8,
    v_cell_bytes: usize,
    v_type: Type,
    /// Head h reads head `h / (heads / kv_heads)` of the cells.
    heads: usize,
    kv_heads: usize,
    /// Multiples of 32 for the quantised types.
    key_dim: usize,
    value_dim: usize,
    /// Elements from one head's value to the next, where values are the beginnings of keys; 0 = `value_dim`.
    value_stride_dim: usize = 0,
    scale: f32,
    /// Whether f16 may be summed up as ggml's flash attention does (`attention_halves.zig`).
    flash: bool = true,
    /// 0, or scores become `softcap * tanh(score / softcap)`.
    softcap: f32 = 0,
    /// A row that sees nothing gives zeros. Between the lowest and the highest position that the rows of a sequence
    /// see, every cell must have been written.
    rows: []const Row,
    /// Sequence s has the spans from `span_offsets[s]` up to `span_offsets[s + 1]`, in the order of their positions,
    /// which do not overlap but may leave gaps.
    spans: []const Span,
    span_offsets: []const u32,

    pub fn group(args: *const Args) usize {
        return args.heads / args.kv_heads;
    }

    pub fn sequence_spans(args: *const Args, sequence: u32) []const Span {
        return args.spans[args.span_offsets[sequence]..args.span_offsets[sequence + 1]];
    }

    pub fn key_head(args: *const Args, kv_head: usize) [*]const u8 {
        return args.k_data + kv_head * element.vector_bytes(args.k_type, args.key_dim);
    }

    pub fn value_head(args: *const Args, kv_head: usize) [*]const u8 {
        const dim = if (args.value_stride_dim > 0) args.value_stride_dim else args.value_dim;
        return args.v_data + kv_head * element.vector_bytes(args.v_type, dim);
    }

    /// The positions that a row sees and its sequence has; empty if the second is less than the first.
    pub fn visible(args: *const Args, row: Row) [2]i32 {
        const spans = args.sequence_spans(row.sequence);
        if (spans.len == 0) return .{ 0, -1 };
        return .{ @max(row.low, spans[0].first_position), @min(row.high, last_position(spans[spans.len - 1])) };
    }
};

pub fn last_position(span: Span) i32 {
    return @intCast(@as(i64, span.first_position) + span.count - 1);
}

/// Bytes of scratch per thread, however many cells there are.
pub fn scratch_bytes(key_dim: usize, value_dim: usize, group: usize) usize {
    return @max(
        rows_path.scratch_bytes(key_dim, value_dim, group),
        tiles_path.scratch_bytes(key_dim, value_dim),
    );
}

/// Thread `ith` of `nth` computes its part of the rows and heads. `scratch` is this thread's own.
pub fn forward(args: *const Args, ith: usize, nth: usize, scratch: []align(64) u8) void {
    assert(ith < nth);
    assert(args.heads % args.kv_heads == 0);
    assert(scratch.len >= scratch_bytes(args.key_dim, args.value_dim, args.group()));
    check_spans(args);
    var cost_total: u64 = 0;
    var runs: Runs = .{ .args = args };
    while (runs.next()) |run| {
        if (!run.in_tiles) cost_total += rows_path.cost_of_run(args, run.first, run.count);
    }
    var share: rows_path.Share = .{
        .begin = cost_total * ith / nth,
        .end = cost_total * (ith + 1) / nth,
    };
    var units: tiles_path.Units = .{ .ith = ith, .nth = nth };
    runs = .{ .args = args };
    while (runs.next()) |run| {
        if (run.in_tiles) {
            tiles_path.run_part(args, run.first, run.count, &units, scratch);
        } else {
            rows_path.run_part(args, run.first, run.count, &share, scratch);
        }
    }
}

fn check_spans(args: *const Args) void {
    if (!std.debug.runtime_safety) return;
    for (0..args.span_offsets.len - 1) |sequence| {
        const spans = args.sequence_spans(@intCast(sequence));
        for (spans, 0..) |span, i| {
            assert(span.count > 0);
            assert(i == 0 or span.first_position > last_position(spans[i - 1]));
        }
    }
}

/// Consecutive rows of one sequence.
const Run = struct { first: usize, count: usize, in_tiles: bool };

const Runs = struct {
    args: *const Args,
    at: usize = 0,

    fn next(runs: *Runs) ?Run {
        const rows = runs.args.rows;
        const first = runs.at;
        if (first == rows.len) return null;
        while (runs.at < rows.len and rows[runs.at].sequence == rows[first].sequence) runs.at += 1;
        const count = runs.at - first;
        const in_tiles = tiles_path.suit(count, runs.args.group(), runs.args.kv_heads) and
            !halves_path.suit(runs.args, first, count);
        return .{ .first = first, .count = count, .in_tiles = in_tiles };
    }
};

/// Takes a piece of scratch. All pieces start on a cache line.
pub fn take(scratch: *[]align(64) u8, comptime T: type, count: usize) [*]align(64) T {
    const bytes = padded(T, count);
    const piece = scratch.*[0..bytes];
    scratch.* = @alignCast(scratch.*[bytes..]);
    return @ptrCast(piece.ptr);
}

pub fn padded(comptime T: type, count: usize) usize {
    return std.mem.alignForward(usize, count * @sizeOf(T), 64);
}

const testing = std.testing;
const reference = @import("attention_reference.zig");

/// A causal run of rows for the positions from `first` on, within a window.
fn causal(comptime count: usize, sequence: u32, first: i32, window: i32) [count]Row {
    var rows: [count]Row = undefined;
    for (&rows, 0..) |*row, i| {
        const position = first + @as(i32, @intCast(i));
        row.* = .{ .sequence = sequence, .low = @max(0, position - window + 1), .high = position };
    }
    return rows;
}

const everything = 1 << 20;

const mixed_sequences = [_]reference.Sequence{
    .{ .first = 0, .count = 230 },
    .{ .first = 0, .count = 131 },
    .{ .first = 90, .count = 111 },
    .{ .first = 0, .count = 0 },
    .{ .first = 3, .count = 250, .gap_first = 60, .gap_count = 150 },
};

/// A prefill, decodes, a window, rows that see nothing, and gaps.
const mixed_rows = causal(50, 0, 180, everything) ++
    causal(1, 1, 130, everything) ++
    causal(45, 2, 156, 37) ++
    [_]Row{
        .{ .sequence = 3, .low = 0, .high = 5 },
        .{ .sequence = 1, .low = 9, .high = 8 },
        .{ .sequence = 1, .low = -5, .high = 0 },
        .{ .sequence = 4, .low = 70, .high = 200 },
        .{ .sequence = 4, .low = 0, .high = 252 },
        .{ .sequence = 0, .low = 229, .high = 1000 },
    } ++
    [_]Row{.{ .sequence = 4, .low = 5, .high = 4 }} ++
    causal(40, 4, 213, 170) ++
    [_]Row{.{ .sequence = 4, .low = 61, .high = 199 }};

test "all types, sizes and kinds of rows match the definition, for any number of threads" {
    const shapes = [_]reference.Shape{
        .{ .key_dim = 8, .value_dim = 8, .heads = 4, .kv_heads = 4 },
        .{ .key_dim = 12, .value_dim = 24, .heads = 6, .kv_heads = 2, .k_type = .f16, .v_type = .f16 },
        .{ .key_dim = 24, .value_dim = 5, .heads = 5, .kv_heads = 1, .k_type = .bf16, .softcap = 3 },
        .{ .key_dim = 64, .value_dim = 64, .heads = 9, .kv_heads = 3, .k_type = .f16, .v_type = .f16 },
        .{ .key_dim = 80, .value_dim = 96, .heads = 2, .kv_heads = 1, .v_type = .bf16 },
        .{ .key_dim = 37, .value_dim = 128, .heads = 7, .kv_heads = 1, .softcap = 5 },
        .{ .key_dim = 32, .value_dim = 64, .heads = 4, .kv_heads = 2, .k_type = .q8_0, .v_type = .q4_0 },
        .{ .key_dim = 96, .value_dim = 32, .heads = 3, .kv_heads = 3, .k_type = .q4_0, .v_type = .q8_0 },
        .{ .key_dim = 16, .value_dim = 16, .heads = 40, .kv_heads = 1, .k_type = .f16 },
        .{ .key_dim = 256, .value_dim = 256, .heads = 2, .kv_heads = 2, .v_type = .f16 },
    };
    for (shapes, 0..) |shape, seed| {
        var arena: std.heap.ArenaAllocator = .init(testing.allocator);
        defer arena.deinit();
        var fixture: reference.Fixture = try .init(
            arena.allocator(),
            shape,
            &mixed_sequences,
            &mixed_rows,
            seed,
            seed,
        );
        const out = try fixture.run(1);
        // Halves are summed up in halves, where there are few.
        const both_halves = shape.k_type == .f16 and shape.v_type == .f16;
        const distance = try fixture.distance(out);
        try testing.expect(distance < if (both_halves) @as(f64, 1e-5) else 1e-12);
        for ([_]usize{ 2, 3, 5, 64 }) |nth| {
            @memset(fixture.args.out[0..out.len], std.math.nan(f32));
            const again = try fixture.run(nth);
            try testing.expect(same_bits(out, again));
        }
    }
}

test "halves are summed up in f32 beyond 256 cells" {
    var arena: std.heap.ArenaAllocator = .init(testing.allocator);
    defer arena.deinit();
    const shape: reference.Shape = .{ .k_type = .f16, .v_type = .f16, .key_dim = 40, .value_dim = 72 };
    const sequences = [_]reference.Sequence{.{ .first = 0, .count = 600 }};
    for ([_]u32{ 255, 256, 599 }, [_]f64{ 1e-5, 1e-12, 1e-12 }) |last, limit| {
        const rows = causal(1, 0, @intCast(last), everything);
        var fixture: reference.Fixture = try .init(arena.allocator(), shape, &sequences, &rows, 8, last);
        const distance = try fixture.distance(try fixture.run(2));
        try testing.expect(distance < limit);
        try testing.expect(distance > limit / 1e5);
    }
}

fn same_bits(a: []const f32, b: []const f32) bool {
    return std.mem.eql(u8, @ptrCast(a), @ptrCast(b));
}

fn expect_same_rows(
    a: *const reference.Fixture,
    a_out: []const f32,
    a_first: usize,
    b: *const reference.Fixture,
    b_out: []const f32,
    b_first: usize,
    count: usize,
) !void {
    for (0..count) |i| for (0..a.args.heads) |head| {
        try testing.expectEqualSlices(
            f32,
            a.head_out(a_out, a_first + i, head),
            b.head_out(b_out, b_first + i, head),
        );
    };
}

test "neighbours and the places of cells change no bit" {
    var arena: std.heap.ArenaAllocator = .init(testing.allocator);
    defer arena.deinit();
    const memory = arena.allocator();
    const shape: reference.Shape = .{ .key_dim = 24, .value_dim = 40, .heads = 6, .kv_heads = 2, .k_type = .f16 };
    var mixed: reference.Fixture = try .init(memory, shape, &mixed_sequences, &mixed_rows, 5, 1);
    var moved: reference.Fixture = try .init(memory, shape, &mixed_sequences, &mixed_rows, 5, 2);
    const out = try mixed.run(2);
    try testing.expect(same_bits(out, try moved.run(3)));
    var alone: reference.Fixture = try .init(memory, shape, &mixed_sequences, mixed_rows[0..50], 5, 3);
    try expect_same_rows(&mixed, out, 0, &alone, try alone.run(2), 0, 50);
    var decode: reference.Fixture = try .init(memory, shape, &mixed_sequences, mixed_rows[50..51], 5, 4);
    try expect_same_rows(&mixed, out, 50, &decode, try decode.run(2), 0, 1);
}

test "a prefill in pieces gives the same bits, token by token nearly" {
    var arena: std.heap.ArenaAllocator = .init(testing.allocator);
    defer arena.deinit();
    const memory = arena.allocator();
    const shape: reference.Shape = .{ .key_dim = 32, .value_dim = 32, .heads = 4, .kv_heads = 2 };
    const sequences = [_]reference.Sequence{.{ .first = 0, .count = 210 }};
    const rows = causal(210, 0, 0, 150);
    var whole: reference.Fixture = try .init(memory, shape, &sequences, &rows, 6, 1);
    const out = try whole.run(1);
    for ([_][2]usize{ .{ 0, 57 }, .{ 57, 20 }, .{ 77, 133 } }) |piece| {
        const part_rows = rows[piece[0]..][0..piece[1]];
        var part: reference.Fixture = try .init(memory, shape, &sequences, part_rows, 6, 2);
        try expect_same_rows(&whole, out, piece[0], &part, try part.run(2), 0, piece[1]);
    }
    var wrong: f64 = 0;
    var size: f64 = 0;
    for (rows, 0..) |_, i| {
        var single: reference.Fixture = try .init(memory, shape, &sequences, rows[i..][0..1], 6, 3);
        const single_out = try single.run(1);
        for (0..shape.heads) |head| {
            for (whole.head_out(out, i, head), single.head_out(single_out, 0, head)) |a, b| {
                wrong += (a - b) * (a - b);
                size += a * a;
            }
        }
    }
    try testing.expect(wrong / size < 1e-12);
}

test "every unit of work is done once, for any number of threads" {
    // Each thread alone writes over NaN; counted over all threads, every output is written exactly once.
    var arena: std.heap.ArenaAllocator = .init(testing.allocator);
    defer arena.deinit();
    const shape: reference.Shape = .{ .heads = 8, .kv_heads = 2 };
    var fixture: reference.Fixture = try .init(arena.allocator(), shape, &mixed_sequences, &mixed_rows, 7, 1);
    for ([_]usize{ 1, 2, 7 }) |nth| {
        const written = try arena.allocator().alloc(u8, mixed_rows.len * shape.heads);
        @memset(written, 0);
        const out = fixture.args.out[0 .. mixed_rows.len * fixture.args.out_token_stride];
        for (0..nth) |ith| {
            @memset(out, std.math.nan(f32));
            forward(&fixture.args, ith, nth, fixture.scratch);
            for (written, 0..) |*count, i| {
                const values = fixture.head_out(out, i / shape.heads, i % shape.heads);
                if (!std.math.isNan(values[0])) count.* += 1;
            }
        }
        for (written) |count| try testing.expectEqual(1, count);
    }
}
