//! Attention for many rows of one sequence: blocks of queries against tiles of cells.
//!
//! The lanes of a vector are queries (rows and the heads that share keys, stacked), so that keys and values are used
//! as they lie and nothing is summed across lanes. With `Q^T` of a block laid out once, a tile takes two products,
//! `S^T = K Q^T` and `O^T += V^T P^T`, whose left sides are single numbers spread over a register.
//!
//! Tiles and sums are those of ggml's tiled flash attention, for the reason that `attention_halves.zig` gives.
//!
//! Tiles start at multiples of `tile_cells` positions and lanes do not mix: a row gives the same bits in any block.

const std = @import("std");
const vector = @import("vector.zig");
const element = @import("element.zig");
const attention = @import("attention.zig");
const elementary = @import("elementary.zig");

const assert = std.debug.assert;
const lanes = vector.lanes;
const Vec = vector.Vec;
const Args = attention.Args;
const Type = element.Type;

/// Whether tiles are faster than going head by head: from about three quarters of a vector of stacked queries on. Where
/// all share one head of keys, from two vectors on, since a vector cannot be shared out to two threads.
pub fn suit(rows: usize, group: usize, kv_heads: usize) bool {
    const queries_min: usize = if (kv_heads > 1) lanes * 3 / 4 else lanes * 2;
    return rows * group >= queries_min;
}

const tile_cells = 64;
/// Weights are summed up as trees of this many cells, and those sums in f64.
const tree_cells = if (lanes == 16) 16 else 8;
const block_queries_max = 64;
const block_vectors_max = block_queries_max / lanes;

/// The register block of the products: numbers of the left side times vectors of the right.
const product_rows = 6;
const product_vectors = if (vector.many_registers) 4 else 2;

const no_cell = std.math.maxInt(u32);

/// Deals out blocks to threads, back and forth, because blocks come in order of falling cost.
pub const Units = struct {
    ith: usize,
    nth: usize,
    next: usize = 0,

    fn mine(units: *Units) bool {
        const turn = units.next % (2 * units.nth);
        units.next += 1;
        return units.ith == if (turn < units.nth) turn else 2 * units.nth - 1 - turn;
    }
};

const Scratch = struct {
    q: [*]align(64) f32,
    scores: [*]align(64) f32,
    out: [*]align(64) f32,
    cells_data: [*]align(64) f32,
    cells: [*]align(64) u32,

    fn init(bytes: []align(64) u8, key_dim: usize, value_dim: usize) Scratch {
        var rest = bytes;
        return .{
            .q = attention.take(&rest, f32, key_dim * block_queries_max),
            .scores = attention.take(&rest, f32, tile_cells * block_queries_max),
            .out = attention.take(&rest, f32, value_dim * block_queries_max),
            .cells_data = attention.take(&rest, f32, tile_cells * @max(key_dim, value_dim)),
            .cells = attention.take(&rest, u32, tile_cells),
        };
    }
};

pub fn scratch_bytes(key_dim: usize, value_dim: usize) usize {
    return attention.padded(f32, key_dim * block_queries_max) +
        attention.padded(f32, tile_cells * block_queries_max) +
        attention.padded(f32, value_dim * block_queries_max) +
        attention.padded(f32, tile_cells * @max(key_dim, value_dim)) +
        attention.padded(u32, tile_cells);
}

/// Computes this thread's blocks of a run of `count` rows.
pub fn run_part(
    args: *const Args,
    first: usize,
    count: usize,
    units: *Units,
    bytes: []align(64) u8,
) void {
    const scratch: Scratch = .init(bytes, args.key_dim, args.value_dim);
    const queries = count * args.group();
    const size = block_size(queries, args.kv_heads, units.nth);
    var block = (queries + size - 1) / size;
    // Later rows see more, so they go first.
    while (block > 0) {
        block -= 1;
        for (0..args.kv_heads) |kv_head| if (units.mine()) {
            var unit: Block = .{
                .args = args,
                .scratch = &scratch,
                .first_row = first,
                .kv_head = kv_head,
                .begin = block * size,
                .queries = @min(size, queries - block * size),
                .vectors = undefined,
            };
            unit.run();
        };
    }
}

/// The largest block with which every thread still gets a few.
fn block_size(queries: usize, kv_heads: usize, nth: usize) usize {
    var size: usize = block_queries_max;
    while (size > 2 * lanes and (queries + size - 1) / size * kv_heads < 4 * nth) size /= 2;
    while (size > lanes and (queries + size - 1) / size * kv_heads < nth) size /= 2;
    return size;
}

const Block = struct {
    args: *const Args,
    scratch: *const Scratch,
    first_row: usize,
    kv_head: usize,
    /// The first of the stacked queries of the run, and how many.
    begin: usize,
    queries: usize,
    vectors: usize,
    low: [block_queries_max]i32 = undefined,
    high: [block_queries_max]i32 = undefined,
    largest: [block_vectors_max]Vec = undefined,
    total: [block_vectors_max]Vec = undefined,
    /// By how much what was summed up so far shrinks, since a larger score has come up.
    shrink: [block_vectors_max]Vec = undefined,

    /// Floats from one row of queries, scores or outputs to the next.
    fn stride(block: *const Block) usize {
        return block.vectors * lanes;
    }

    fn run(block: *Block) void {
        const args = block.args;
        block.vectors = element.vector_count(block.queries);
        @memset(&block.largest, @splat(-std.math.inf(f32)));
        @memset(&block.total, @splat(0));
        @memset(block.scratch.out[0 .. args.value_dim * block.stride()], 0);
        block.load_queries();
        const seen = block.extremes();
        const spans = args.sequence_spans(args.rows[block.first_row].sequence);
        var span: usize = 0;
        var begin = @divFloor(seen.low_min, tile_cells) * tile_cells;
        while (begin <= seen.high_max) : (begin += tile_cells) {
            var tile: Tile = .{
                .low = @max(begin, seen.low_min),
                .high = @min(begin + tile_cells - 1, seen.high_max),
                .edge = undefined,
            };
            while (span < spans.len and attention.last_position(spans[span]) < tile.low) span += 1;
            const missing = list_cells(spans[span..], tile, block.scratch.cells);
            if (missing == tile.count()) continue;
            tile.edge = missing > 0 or tile.low < seen.low_max or tile.high > seen.high_min;
            block.add_tile(tile);
        }
        block.store_out();
    }

    const Seen = struct { low_min: i64, low_max: i64, high_min: i64, high_max: i64 };

    /// The extremes of what the queries see.
    fn extremes(block: *Block) Seen {
        var all: Seen = .{
            .low_min = std.math.maxInt(i32),
            .low_max = std.math.minInt(i32),
            .high_min = std.math.maxInt(i32),
            .high_max = std.math.minInt(i32),
        };
        for (block.low[0..block.queries], block.high[0..block.queries]) |low, high| {
            // A row without a cell is never visible, so that every tile is an edge.
            if (low <= high) {
                all.low_min = @min(all.low_min, low);
                all.high_max = @max(all.high_max, high);
            }
            all.low_max = @max(all.low_max, low);
            all.high_min = @min(all.high_min, high);
        }
        return all;
    }

    /// Lays the queries out as `[queries, key_dim]`, with zeros in the lanes that are left over.
    fn load_queries(block: *Block) void {
        const args = block.args;
        const group = args.group();
        for (0..block.stride()) |lane| {
            const to = block.scratch.q + lane;
            if (lane >= block.queries) {
                block.low[lane] = std.math.maxInt(i32);
                block.high[lane] = std.math.minInt(i32);
                for (0..args.key_dim) |d| to[d * block.stride()] = 0;
                continue;
            }
            const row = block.first_row + (block.begin + lane) / group;
            const head = block.kv_head * group + (block.begin + lane) % group;
            const range = args.visible(args.rows[row]);
            block.low[lane] = range[0];
            block.high[lane] = range[1];
            const q = args.q + row * args.q_token_stride + head * args.q_head_stride;
            for (0..args.key_dim) |d| to[d * block.stride()] = q[d];
        }
    }

    fn add_tile(block: *Block, tile: Tile) void {
        const args = block.args;
        const scratch = block.scratch;
        const cells = scratch.cells[0..tile.count()];
        const data = scratch.cells_data;
        const keys = args.key_head(block.kv_head);
        const values = args.value_head(block.kv_head);
        unpack_cells(args.k_type, keys, args.k_cell_bytes, cells, args.key_dim, data);
        product(.keys, .{
            .rows = cells.len,
            .depth = args.key_dim,
            .vectors = block.vectors,
            .left = data,
            .left_stride = args.key_dim,
            .right = scratch.q,
            .to = scratch.scores,
            .factor = .{ .all = vector.splat(if (args.softcap == 0) args.scale else args.scale / args.softcap) },
        });
        if (args.softcap != 0) block.cap_scores(cells.len);
        if (tile.edge) block.hide(tile);
        const before: usize = @intCast(@mod(tile.low, tile_cells));
        for (0..block.vectors) |v| block.soften(v, before, cells.len);
        unpack_cells(args.v_type, values, args.v_cell_bytes, cells, args.value_dim, data);
        product(.values, .{
            .rows = args.value_dim,
            .depth = cells.len,
            .vectors = block.vectors,
            .left = data,
            .left_stride = args.value_dim,
            .right = scratch.scores,
            .to = scratch.out,
            .factor = .{ .each = &block.shrink },
        });
    }

    fn cap_scores(block: *Block, count: usize) void {
        const cap = vector.splat(block.args.softcap);
        for (0..count * block.vectors) |i| {
            const at = block.scratch.scores + i * lanes;
            vector.store(at, cap * vector.tanh(vector.load(at)));
        }
    }

    /// Gives what a query does not see a score of minus infinity.
    fn hide(block: *Block, tile: Tile) void {
        const Positions = @Vector(lanes, i32);
        for (0..tile.count()) |j| {
            const cell = block.scratch.cells[j];
            // Absent cells lie outside of what any query sees.
            const position = if (cell == no_cell) std.math.minInt(i32) else tile.low + @as(i64, @intCast(j));
            const here: Positions = @splat(@intCast(position));
            for (0..block.vectors) |v| {
                const at = block.scratch.scores + j * block.stride() + v * lanes;
                const low: Positions = block.low[v * lanes ..][0..lanes].*;
                const high: Positions = block.high[v * lanes ..][0..lanes].*;
                const before = @select(f32, here < low, vector.splat(-std.math.inf(f32)), vector.load(at));
                vector.store(at, @select(f32, here > high, vector.splat(-std.math.inf(f32)), before));
            }
        }
    }

    /// One step of the running softmax: scores become weights. The tile's cells begin with the one numbered `before`.
    fn soften(block: *Block, v: usize, before: usize, count: usize) void {
        const infinity = vector.splat(std.math.inf(f32));
        const scores = block.scratch.scores + v * lanes;
        var largest = block.largest[v];
        for (0..count) |j| largest = vector.max(vector.load(scores + j * block.stride()), largest);
        // Where every score is minus infinity, any finite number does.
        const origin = @select(f32, largest == -infinity, vector.splat(0), largest);
        var total: @Vector(lanes, f64) = @splat(0);
        var j: usize = 0;
        while (j < count) {
            var tree: [tree_cells]Vec = @splat(@splat(0));
            const first = (before + j) % tree_cells;
            const end = @min(tree_cells, first + count - j);
            for (first..end) |leaf| {
                const at = scores + j * block.stride();
                tree[leaf] = vector.exp(vector.load(at) - origin);
                vector.store(at, tree[leaf]);
                j += 1;
            }
            comptime var half = tree_cells / 2;
            inline while (half > 0) : (half /= 2) {
                for (tree[0..half], tree[half..][0..half]) |*low, high| low.* += high;
            }
            total += @as(@Vector(lanes, f64), @floatCast(tree[0]));
        }
        var shrink = vector.splat(1);
        if (@reduce(.Or, origin != block.largest[v])) {
            var powers: [lanes]f32 = block.largest[v] - origin;
            for (&powers) |*power| power.* = elementary.exp(power.*);
            shrink = powers;
        }
        const shrunk: @Vector(lanes, f64) = @floatCast(block.total[v] * shrink);
        block.total[v] = @floatCast(shrunk + total);
        block.shrink[v] = shrink;
        block.largest[v] = largest;
    }

    fn store_out(block: *Block) void {
        const args = block.args;
        const group = args.group();
        var factors: [block_queries_max]f32 = undefined;
        for (0..block.vectors) |v| {
            const total = block.total[v];
            // Nothing was seen, or nothing with a weight.
            const factor = @select(f32, total == vector.splat(0), total, vector.splat(1) / total);
            vector.store(factors[v * lanes ..].ptr, factor);
        }
        for (0..block.queries) |lane| {
            const row = block.first_row + (block.begin + lane) / group;
            const head = block.kv_head * group + (block.begin + lane) % group;
            const to = args.out + row * args.out_token_stride + head * args.out_head_stride;
            const from = block.scratch.out + lane;
            for (0..args.value_dim) |d| to[d] = from[d * block.stride()] * factors[lane];
        }
    }
};

/// The positions of a tile that some query sees.
const Tile = struct {
    low: i64,
    high: i64,
    /// Whether some query does not see all of it.
    edge: bool,

    fn count(tile: Tile) usize {
        return @intCast(tile.high - tile.low + 1);
    }
};

/// Lists the cells of a tile's positions and returns how many are missing.
fn list_cells(spans: []const attention.Span, tile: Tile, cells: [*]u32) usize {
    var position = tile.low;
    var missing: usize = 0;
    for (spans) |span| {
        if (span.first_position > tile.high) break;
        while (position < span.first_position) : (position += 1) {
            cells[@intCast(position - tile.low)] = no_cell;
            missing += 1;
        }
        const end = @min(tile.high + 1, @as(i64, span.first_position) + span.count);
        while (position < end) : (position += 1) {
            const within: u32 = @intCast(position - span.first_position);
            cells[@intCast(position - tile.low)] = span.first_cell + within;
        }
    }
    while (position <= tile.high) : (position += 1) {
        cells[@intCast(position - tile.low)] = no_cell;
        missing += 1;
    }
    return missing;
}

/// Turns keys or values into floats, `[dim, cells]`; those of absent cells are zeros.
fn unpack_cells(
    element_type: Type,
    base: [*]const u8,
    cell_bytes: usize,
    cells: []const u32,
    dim: usize,
    to: [*]f32,
) void {
    switch (element_type) {
        inline else => |comptime_type| for (cells, 0..) |cell, i| {
            const out = to + i * dim;
            if (cell == no_cell) {
                @memset(out[0..dim], 0);
            } else {
                element.unpack(comptime_type, base + cell * cell_bytes, dim, out);
            }
        },
    }
}

/// Both products: `.keys` has its left side as `[depth, rows]`, replaces what is there, and multiplies it with a factor;
/// `.values` has it as `[rows, depth]` and adds to what is there, multiplied with a factor for each column.
const Side = enum { keys, values };

const Product = struct {
    rows: usize,
    depth: usize,
    vectors: usize,
    left: [*]const f32,
    left_stride: usize,
    /// `[vectors * lanes, depth]`.
    right: [*]const f32,
    /// `[vectors * lanes, rows]`.
    to: [*]f32,
    factor: union { all: Vec, each: [*]const Vec },
};

fn product(comptime side: Side, sizes: Product) void {
    var v: usize = 0;
    while (v + product_vectors <= sizes.vectors) : (v += product_vectors) {
        product_columns(side, product_vectors, sizes, v);
    }
    if (product_vectors > 2) while (v + 2 <= sizes.vectors) : (v += 2) product_columns(side, 2, sizes, v);
    while (v < sizes.vectors) : (v += 1) product_columns(side, 1, sizes, v);
}

fn product_columns(comptime side: Side, comptime vectors: usize, sizes: Product, v: usize) void {
    var row: usize = 0;
    while (row + product_rows <= sizes.rows) : (row += product_rows) {
        product_block(side, product_rows, vectors, sizes, row, v);
    }
    inline for (.{ 4, 2, 1 }) |rows| {
        if (row + rows <= sizes.rows) {
            product_block(side, rows, vectors, sizes, row, v);
            row += rows;
        }
    }
    assert(row == sizes.rows);
}

/// `rows * vectors` vectors of the result, kept in registers.
fn product_block(
    comptime side: Side,
    comptime rows: usize,
    comptime vectors: usize,
    sizes: Product,
    row: usize,
    v: usize,
) void {
    const stride = sizes.vectors * lanes;
    const to = sizes.to + row * stride + v * lanes;
    var sums: [rows][vectors]Vec = @splat(@splat(@splat(0)));
    if (side == .values) inline for (0..rows) |r| inline for (0..vectors) |i| {
        sums[r][i] = vector.load(to + r * stride + i * lanes) * sizes.factor.each[v + i];
    };
    var right = sizes.right + v * lanes;
    const left = switch (side) {
        .keys => sizes.left + row * sizes.left_stride,
        .values => sizes.left + row,
    };
    for (0..sizes.depth) |k| {
        var columns: [vectors]Vec = undefined;
        inline for (0..vectors) |i| columns[i] = vector.load(right + i * lanes);
        right += stride;
        inline for (0..rows) |r| {
            const number = vector.splat(switch (side) {
                .keys => left[r * sizes.left_stride + k],
                .values => left[k * sizes.left_stride + r],
            });
            inline for (0..vectors) |i| sums[r][i] = vector.fma(number, columns[i], sums[r][i]);
        }
    }
    inline for (0..rows) |r| inline for (0..vectors) |i| {
        vector.store(to + r * stride + i * lanes, switch (side) {
            .keys => sums[r][i] * sizes.factor.all,
            .values => sums[r][i],
        });
    };
}
