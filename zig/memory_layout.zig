//! What a declaration takes, before anything is allocated: which memories share a pool, how many cells each pool has and
//! what for, and bytes. `Memory` allocates by these figures, so they are exact.

const std = @import("std");
const assert = std.debug.assert;
const c = @import("ggml");
const status = @import("status.zig");
const declaration = @import("declaration.zig");
const leaf = @import("leaf.zig");
const recurrent_pool = @import("recurrent_pool.zig");
const PoolConfig = leaf.PoolConfig;
const MemoryDeclaration = declaration.MemoryDeclaration;

pub const Config = struct {
    sequences: u32,
    /// Positions that one sequence may reach.
    context: u32,
    /// Most tokens of one sub-batch.
    batch: u32,
    /// Tokens that can be taken back from the end of any sequence.
    rollback: u32 = 0,
    /// What snapshots may take.
    snapshot_bytes: u64 = 0,
    /// Attention cells of all sequences together; 0 = as many as each could fill.
    cells: u32 = 0,
    /// Each sequence has cells of its own, and copies instead of sharing.
    separate: bool = false,
    /// Windows keep all positions and only mask.
    whole_windows: bool = false,
    /// Cells that nobody has written hold NaN.
    poison: bool = false,
    /// Snapshots hold states in f16.
    half_snapshots: bool = false,
};

/// What one declared memory takes. Crosses the ABI.
pub const Share = extern struct {
    pool: i32,
    /// How tokens are taken back of a recurrent memory (`Method`); 0 for attention, which cuts cells off.
    method: i32,
    cells: i32,
    padding: i32 = 0,
    bytes_per_cell: f64,
    /// All of it; the next two are parts of this.
    bytes: f64,
    rollback_bytes: f64,
    snapshot_bytes: f64,
};

/// What all memories take together. Crosses the ABI.
pub const Totals = extern struct {
    bytes: f64,
    /// What one snapshot is counted as, and how many there is room for.
    bytes_per_snapshot: f64,
    snapshots: f64,
};

/// Every tensor starts on a cache line.
pub const alignment = 64;

const snapshots_max = 1 << 14;
/// Cells of a pool are numbered in 32 bits.
const cells_max = 1 << 31;

pub const Layout = struct {
    gpa: std.mem.Allocator,
    /// Of each declared memory, its pool.
    pool_of: []u32,
    pools: []PoolConfig,
    snapshots: u32,
    bytes_per_snapshot: u64,

    pub fn init(gpa: std.mem.Allocator, declarations: []const MemoryDeclaration, config: Config) status.Error!Layout {
        try declaration.check(declarations);
        const pool_of = try gpa.alloc(u32, declarations.len);
        errdefer gpa.free(pool_of);
        var pools: std.ArrayList(PoolConfig) = .empty;
        errdefer pools.deinit(gpa);
        for (declarations, 0..) |d, i| {
            if (d.shared_from >= 0) {
                pool_of[i] = pool_of[@intCast(d.shared_from)];
                continue;
            }
            const wanted: PoolConfig = .init(d, config);
            pool_of[i] = for (pools.items, 0..) |*pool, index| {
                if (!pool.is_same(wanted)) continue;
                pool.join(wanted);
                break @intCast(index);
            } else added: {
                try pools.append(gpa, wanted);
                break :added @intCast(pools.items.len - 1);
            };
        }
        var layout: Layout = .{
            .gpa = gpa,
            .pool_of = pool_of,
            .pools = try pools.toOwnedSlice(gpa),
            .snapshots = 0,
            .bytes_per_snapshot = 0,
        };
        errdefer gpa.free(layout.pools);
        layout.count_snapshots(declarations, config.snapshot_bytes);
        for (layout.pools) |pool| if (pool.cell_count() > cells_max) {
            return status.fail(error.InvalidArgument, "{d} sequences of {d} positions and {d} snapshots need {d} cells of one kind, and " ++
                "{d} can be numbered; use fewer, a smaller context, or fewer bytes for snapshots", .{
                config.sequences, config.context, layout.snapshots, pool.cell_count(), cells_max,
            });
        };
        return layout;
    }

    pub fn deinit(layout: *Layout) void {
        layout.gpa.free(layout.pool_of);
        layout.gpa.free(layout.pools);
        layout.* = undefined;
    }

    fn count_snapshots(layout: *Layout, declarations: []const MemoryDeclaration, budget: u64) void {
        for (declarations, layout.pool_of) |d, pool| {
            if (d.shared_from >= 0) continue;
            layout.bytes_per_snapshot += layout.pools[pool].snapshot_bytes(d);
        }
        // Of a model without memories, a snapshot is its tokens.
        const room = if (layout.bytes_per_snapshot > 0) budget / layout.bytes_per_snapshot else if (budget > 0) @as(u64, snapshots_max) else 0;
        layout.snapshots = @intCast(@min(snapshots_max, room));
        for (layout.pools) |*pool| pool.set_snapshots(layout.snapshots);
    }

    /// Bytes of every declared memory.
    pub fn measure(layout: *const Layout, declarations: []const MemoryDeclaration, shares: []Share) Totals {
        var total: f64 = 0;
        for (declarations, layout.pool_of, shares) |d, index, *share| {
            const pool = layout.pools[index];
            const cells = pool.cell_count();
            share.* = .{
                .pool = @intCast(index),
                .method = pool.method_number(),
                .cells = @intCast(cells),
                .bytes_per_cell = 0,
                .bytes = 0,
                .rollback_bytes = 0,
                .snapshot_bytes = 0,
            };
            if (d.shared_from >= 0) continue;
            const each: f64 = @floatFromInt(cell_bytes(d));
            share.bytes_per_cell = each;
            for (leaf.columns(d)) |column| share.bytes += @floatFromInt(aligned(column.bytes() * cells));
            const log: f64 = @floatFromInt(aligned(layout.log_bytes(d, index)));
            const half: f64 = @floatFromInt(layout.half_snapshot_bytes(d, index));
            share.bytes += log + half;
            share.rollback_bytes = @as(f64, @floatFromInt(pool.rollback_cells())) * each + log;
            const snapshot_cells: f64 = @floatFromInt(cells - pool.without_snapshots().cell_count());
            share.snapshot_bytes = snapshot_cells * each + half;
            total += share.bytes;
        }
        return .{
            .bytes = total,
            .bytes_per_snapshot = @floatFromInt(layout.bytes_per_snapshot),
            .snapshots = @floatFromInt(layout.snapshots),
        };
    }

    fn half_snapshot_bytes(layout: *const Layout, d: MemoryDeclaration, pool: u32) usize {
        var total: usize = 0;
        const rows = layout.pools[pool].half_rows();
        for (leaf.columns(d)) |column| total += aligned(2 * @as(usize, @intCast(column.elements)) * rows);
        return total;
    }

    fn log_bytes(layout: *const Layout, d: MemoryDeclaration, pool: u32) usize {
        return @as(usize, layout.pools[pool].log_rows()) * @as(usize, @intCast(d.inputs)) * @sizeOf(f32);
    }
};

fn aligned(bytes: usize) usize {
    return std.mem.alignForward(usize, bytes, alignment);
}

/// Bytes of one cell of a memory, in all its tensors.
pub fn cell_bytes(d: MemoryDeclaration) usize {
    var total: usize = 0;
    for (leaf.columns(d)) |column| total += column.bytes();
    return total;
}

test "what a rollback takes is chosen by size and listed" {
    const gpa = std.testing.allocator;
    var declarations = [_]MemoryDeclaration{
        .{ .layer = 0, .kind = .recurrent, .state_count = 2, .state_elements = .{ 30, 640, 0, 0, 0, 0, 0, 0 }, .inputs = 12 },
        .{ .layer = 1, .kind = .recurrent, .state_count = 1, .state_elements = .{ 30, 0, 0, 0, 0, 0, 0, 0 }, .inputs = 30 },
        .{ .layer = 2, .kind = .attention, .heads = 2, .key_dim = 8, .value_dim = 8, .extent = .sliding, .window = 32 },
    };
    var shares: [3]Share = undefined;
    var layout: Layout = try .init(gpa, &declarations, .{ .sequences = 2, .context = 256, .batch = 32, .rollback = 16, .snapshot_bytes = 50_000 });
    defer layout.deinit();
    const totals = layout.measure(&declarations, &shares);
    try std.testing.expectEqual(3, layout.pools.len);
    try std.testing.expectEqual(@backingInt(recurrent_pool.Method.log), shares[0].method);
    try std.testing.expectEqual(@backingInt(recurrent_pool.Method.kept), shares[1].method);
    // One state and 32 rows for each of two sequences.
    try std.testing.expectEqual(2 * (670 + 32 * 12) * 4, shares[0].rollback_bytes);
    try std.testing.expectEqual(2 * 16 * 30 * 4, shares[1].rollback_bytes);
    try std.testing.expectEqual(@floor(50_000 / totals.bytes_per_snapshot), totals.snapshots);
    // A window's cells are those of its sequences, of the rollback and of snapshots, each counted once.
    const cell = 2 * 2 * 8 * 4;
    try std.testing.expectEqual(2 * 1 * 64 * cell, shares[2].rollback_bytes);
    try std.testing.expectEqual(totals.snapshots * 2 * 64 * cell, shares[2].snapshot_bytes);
    try std.testing.expectEqual(2 * 3 * 64 * cell, shares[2].bytes - shares[2].rollback_bytes - shares[2].snapshot_bytes);
    try std.testing.expectEqual(totals.bytes, shares[0].bytes + shares[1].bytes + shares[2].bytes);
}
