//! The kinds of leaf memories. A kind is a file of its own, with a pool that keeps its books and answers what memories ask
//! of every pool; adding one adds its file, and its lines here.

const std = @import("std");
const declaration = @import("declaration.zig");
const status = @import("status.zig");
const memory_layout = @import("memory_layout.zig");
const AttentionPool = @import("attention_pool.zig").AttentionPool;
const RecurrentPool = @import("recurrent_pool.zig").RecurrentPool;
const CellCopy = @import("pieces.zig").CellCopy;
const Move = @import("history.zig").Move;
const Range = @import("batch.zig").Range;
const Stamp = @import("history.zig").Stamp;
const MemoryDeclaration = declaration.MemoryDeclaration;
const Columns = declaration.Columns;

pub const Pool = union(declaration.Kind) {
    attention: AttentionPool,
    recurrent: RecurrentPool,

    pub fn init(gpa: std.mem.Allocator, config: PoolConfig) error{OutOfMemory}!Pool {
        switch (config) {
            inline else => |own, tag| return @unionInit(Pool, @tagName(tag), try .init(gpa, own)),
        }
    }

    pub fn deinit(pool: *Pool) void {
        switch (pool.*) {
            inline else => |*leaf| leaf.deinit(),
        }
    }

    /// First and one past the last position that a holder can be said to hold.
    pub fn held(pool: *const Pool, holder: u32) Range {
        switch (pool.*) {
            inline else => |*leaf| return leaf.held(holder),
        }
    }

    /// What a holder stands for; null where that is known only when its state is computed.
    pub fn stamp(pool: *const Pool, holder: u32) ?Stamp {
        switch (pool.*) {
            inline else => |*leaf| return leaf.stamp(holder),
        }
    }

    pub fn set_stamp(pool: *Pool, holder: u32, value: Stamp) void {
        switch (pool.*) {
            inline else => |*leaf| leaf.set_stamp(holder, value),
        }
    }

    pub fn clear(pool: *Pool, holder: u32) void {
        switch (pool.*) {
            inline else => |*leaf| leaf.clear(holder),
        }
    }

    /// Why positions `[p0, p1)`, which are not all, cannot be removed; null when they can.
    pub fn remove_refusal(pool: *const Pool, holder: u32, p0: i32, p1: i32) ?[]const u8 {
        switch (pool.*) {
            inline else => |*leaf| return leaf.remove_refusal(holder, p0, p1),
        }
    }

    /// Makes room for what `remove` needs, so that it cannot fail.
    pub fn reserve_remove(pool: *Pool, holder: u32) error{OutOfMemory}!void {
        switch (pool.*) {
            inline else => |*leaf| try leaf.reserve_remove(holder),
        }
    }

    /// Removes positions `[p0, p1)`; `remove_refusal` was asked first, and room reserved.
    pub fn remove(pool: *Pool, holder: u32, p0: i32, p1: i32) void {
        switch (pool.*) {
            inline else => |*leaf| leaf.remove(holder, p0, p1),
        }
    }

    /// Closes the gaps that a cut left in what a holder owns.
    pub fn pack(pool: *Pool, holder: u32, changes: *Changes) error{OutOfMemory}!void {
        switch (pool.*) {
            inline else => |*leaf| try leaf.pack(holder, &changes.cells),
        }
    }

    /// Makes `destination`, which is empty, stand for what `source` stands for.
    pub fn copy(pool: *Pool, source: u32, destination: u32, changes: *Changes) error{ OutOfMemory, Full }!void {
        switch (pool.*) {
            inline else => |*leaf| try leaf.copy_holder(source, destination, changes),
        }
    }

    /// Why a holder cannot be copied in part; null where it can be cut after it was copied.
    pub fn part_refusal(pool: *const Pool) ?[]const u8 {
        switch (pool.*) {
            inline else => |*leaf| return leaf.part_refusal(),
        }
    }

    /// A batch gave a snapshot its cells: what its tensors are to do for it.
    pub fn settle_snapshot(pool: *Pool, holder: u32, changes: *Changes) void {
        switch (pool.*) {
            inline else => |*leaf| leaf.settle_snapshot(holder, changes),
        }
    }

    /// Why positions `[p0, p1)` of a holder, whose positions begin at `first`, cannot move; null when they can.
    pub fn move_refusal(pool: *const Pool, holder: u32, first: i32, p0: i32, p1: i32, how: Move) ?[]const u8 {
        switch (pool.*) {
            inline else => |*leaf| return leaf.move_refusal(holder, first, p0, p1, how),
        }
    }

    /// Whether there is room to make positions `[p0, p1)` the holder's own.
    pub fn can_own(pool: *const Pool, holder: u32, p0: i32, p1: i32) error{OutOfMemory}!bool {
        switch (pool.*) {
            inline else => |*leaf| return leaf.can_own(holder, p0, p1),
        }
    }

    /// Makes what moves the holder's own. `can_own` was asked first.
    pub fn own_range(pool: *Pool, holder: u32, p0: i32, p1: i32, changes: *Changes) error{OutOfMemory}!void {
        switch (pool.*) {
            inline else => |*leaf| try leaf.own_range(holder, p0, p1, &changes.cells),
        }
    }

    pub fn free_cells(pool: *const Pool) u32 {
        switch (pool.*) {
            inline else => |*leaf| return leaf.free_cells(),
        }
    }

    /// What a person calls it in a refusal.
    pub fn describe(pool: *const Pool, buffer: *[64]u8) []const u8 {
        switch (pool.*) {
            inline else => |*leaf| return leaf.describe(buffer),
        }
    }

    /// Gives `sink` the cells that hold nothing that this step reads.
    pub fn for_unread(pool: *const Pool, plan: *const PoolPlan, sink: anytype) void {
        switch (pool.*) {
            inline else => |*leaf, tag| leaf.for_unread(&@field(plan, @tagName(tag)), sink),
        }
    }

    /// A mistake of `Memory.plant_fault`, for tests.
    pub fn plant_fault(pool: *Pool, kind: i32, a: u32, b: u32) void {
        switch (pool.*) {
            inline else => |*leaf| leaf.plant_fault(kind, a, b),
        }
    }
};

/// What one sub-batch does to a pool.
pub const PoolPlan = union(declaration.Kind) {
    attention: AttentionPool.Plan,
    recurrent: RecurrentPool.Plan,

    pub fn init(pool: *const Pool) PoolPlan {
        switch (pool.*) {
            inline else => |_, tag| return @unionInit(PoolPlan, @tagName(tag), .{}),
        }
    }

    pub fn deinit(plan: *PoolPlan, gpa: std.mem.Allocator) void {
        switch (plan.*) {
            inline else => |*own| own.deinit(gpa),
        }
    }

    /// Cells to be copied: those that `apply` asks for, and then those that `commit` does.
    pub fn copies(plan: *const PoolPlan) []const CellCopy {
        switch (plan.*) {
            inline else => |*own| return own.cell_copies(),
        }
    }
};

/// How large a pool is, and what for.
pub const PoolConfig = union(declaration.Kind) {
    attention: AttentionPool.Config,
    recurrent: RecurrentPool.Config,

    pub fn init(d: MemoryDeclaration, config: memory_layout.Config) PoolConfig {
        switch (d.kind) {
            inline else => |kind| return @unionInit(PoolConfig, @tagName(kind), .init(d, config)),
        }
    }

    /// Whether memories of these two share a pool. It depends on declarations alone: a saved state is read by pools that
    /// go back in other ways.
    pub fn is_same(config: PoolConfig, other: PoolConfig) bool {
        if (std.meta.activeTag(config) != std.meta.activeTag(other)) return false;
        switch (config) {
            inline else => |own, tag| return own.is_same(@field(other, @tagName(tag))),
        }
    }

    /// Makes a pool serve the memories of another that is the same.
    pub fn join(config: *PoolConfig, other: PoolConfig) void {
        switch (config.*) {
            inline else => |*own, tag| own.join(@field(other, @tagName(tag))),
        }
    }

    pub fn cell_count(config: PoolConfig) u64 {
        switch (config) {
            inline else => |own| return own.cell_count(),
        }
    }

    /// Bytes of a memory that one snapshot may come to hold alone.
    pub fn snapshot_bytes(config: PoolConfig, d: MemoryDeclaration) usize {
        switch (config) {
            inline else => |own| return own.snapshot_bytes(d),
        }
    }

    /// Rows of the log of each memory, over all sequences.
    pub fn log_rows(config: PoolConfig) u32 {
        switch (config) {
            inline else => |own| return own.log_rows(),
        }
    }

    /// Rows of the states in f16 that snapshots hold.
    pub fn half_rows(config: PoolConfig) u32 {
        switch (config) {
            inline else => |own| return own.half_rows(),
        }
    }

    /// How tokens are taken back, as a number that crosses the ABI; 0 where cells are just cut off.
    pub fn method_number(config: PoolConfig) i32 {
        switch (config) {
            inline else => |own| return own.method_number(),
        }
    }

    pub fn set_snapshots(config: *PoolConfig, count: u32) void {
        switch (config.*) {
            inline else => |*own| own.snapshots = count,
        }
    }

    pub fn without_snapshots(config: PoolConfig) PoolConfig {
        var other = config;
        other.set_snapshots(0);
        return other;
    }

    /// Cells that are there only so that tokens can be taken back of sequences; those of snapshots count as theirs.
    pub fn rollback_cells(config: PoolConfig) u64 {
        switch (config.without_snapshots()) {
            inline else => |own| return own.cell_count() - own.without_rollback().cell_count(),
        }
    }
};

/// The tensors of a declaration: what one cell of each holds.
pub fn columns(d: MemoryDeclaration) Columns {
    switch (d.kind) {
        inline else => |kind| return @FieldType(PoolConfig, @tagName(kind)).columns(d),
    }
}

/// Refuses what cannot be allocated or computed, naming layer and fault.
pub fn check(d: MemoryDeclaration) status.Error!void {
    switch (d.kind) {
        inline else => |kind| return @FieldType(PoolConfig, @tagName(kind)).check(d),
    }
}

/// What a change in the books of a pool asks of its tensors.
pub const Changes = struct {
    cells: std.ArrayList(CellCopy) = .empty,
    /// The log of one sequence becomes another's too.
    log: ?struct { from: u32, to: u32 } = null,
    /// The states of a cell are written down in f16 in a snapshot's row, or come back from there.
    half: ?struct { snapshot: u32, cell: u32, way: enum { to_half, to_cell } } = null,

    pub fn deinit(changes: *Changes, gpa: std.mem.Allocator) void {
        changes.cells.deinit(gpa);
    }

    pub fn clear(changes: *Changes) void {
        changes.cells.clearRetainingCapacity();
        changes.log = null;
        changes.half = null;
    }
};
