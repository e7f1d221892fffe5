//! Saving holders of a memory to a file (`memory_state.zig` says what stands in it).

const std = @import("std");
const status = @import("status.zig");
const state_file = @import("state_file.zig");
const tensor_data = @import("tensor_data.zig");
const declaration = @import("declaration.zig");
const attention_pool = @import("attention_pool.zig");
const memory_state = @import("memory_state.zig");
const Memory = @import("memory.zig").Memory;
const AttentionPool = attention_pool.AttentionPool;
const RecurrentPool = @import("recurrent_pool.zig").RecurrentPool;
const Stamp = @import("history.zig").Stamp;
const Writer = state_file.Writer;
const Counts = memory_state.Counts;
const HolderInfo = memory_state.HolderInfo;
const Kind = memory_state.Kind;
const PieceRecord = memory_state.PieceRecord;
const PoolRecord = memory_state.PoolRecord;

const block_cells = attention_pool.block_cells;

/// Marks the row of a snapshot's states in f16 among the cells.
const half_place: u32 = 1 << 31;

/// Numbers things in the order in which they are first met.
const Numbers = struct {
    order: std.ArrayList(u32) = .empty,
    of: std.AutoHashMapUnmanaged(u32, u32) = .empty,

    fn deinit(numbers: *Numbers, gpa: std.mem.Allocator) void {
        numbers.order.deinit(gpa);
        numbers.of.deinit(gpa);
    }

    fn number(numbers: *Numbers, gpa: std.mem.Allocator, thing: u32) error{OutOfMemory}!u32 {
        const entry = try numbers.of.getOrPut(gpa, thing);
        if (!entry.found_existing) {
            entry.value_ptr.* = @intCast(numbers.order.items.len);
            try numbers.order.append(gpa, thing);
        }
        return entry.value_ptr.*;
    }
};

pub const Saved = struct { holder: u32, info: HolderInfo };

/// Writes the holders to `path`, all or nothing. `cancel` is looked at between sections.
pub fn run(
    gpa: std.mem.Allocator,
    memory: *const Memory,
    path: []const u8,
    fingerprint: [16]u8,
    holders: []const Saved,
    cancel: *const std.atomic.Value(bool),
) status.Error!void {
    var saving: Saving = .{
        .gpa = gpa,
        .memory = memory,
        .writer = try .create(gpa, path),
        .numbers = try gpa.alloc(Numbers, memory.pools.len),
        .cancel = cancel,
    };
    @memset(saving.numbers, .{});
    defer saving.deinit();
    try saving.write_books(holders);
    for (memory.declarations, 0..) |d, index| if (d.shared_from < 0) try saving.write_cells(index);
    var counts: Counts = .{ .sequences = 0, .snapshots = 0 };
    for (holders) |saved| if (saved.info.is_snapshot != 0) {
        counts.snapshots += 1;
    } else {
        counts.sequences += 1;
    };
    try saving.writer.finish(.{
        .fingerprint = fingerprint,
        .declaration = memory_state.declaration_hash(memory.declarations),
        .caller = std.mem.toBytes(counts),
    });
}

const Saving = struct {
    gpa: std.mem.Allocator,
    memory: *const Memory,
    writer: Writer,
    /// Of each pool, its blocks or cells in the order of the file.
    numbers: []Numbers,
    cancel: *const std.atomic.Value(bool),

    fn deinit(saving: *Saving) void {
        saving.writer.abandon();
        for (saving.numbers) |*numbers| numbers.deinit(saving.gpa);
        saving.gpa.free(saving.numbers);
    }

    fn begin(saving: *Saving, kind: Kind, index: usize) status.Error!void {
        if (saving.cancel.load(.monotonic)) return status.fail(error.Cancelled, "cancelled; the file is as it was", .{});
        try saving.writer.begin_section(@backingInt(kind), @intCast(index));
    }

    fn write_books(saving: *Saving, holders: []const Saved) status.Error!void {
        const pools = saving.memory.pools;
        try saving.begin(.holders, 0);
        for (holders) |saved| try saving.writer.write(std.mem.asBytes(&saved.info));
        saving.writer.end_section();
        for (holders, 0..) |saved, index| {
            const history = &saving.memory.histories[saved.holder];
            try saving.begin(.tokens, index);
            try saving.writer.write(std.mem.sliceAsBytes(history.tokens()));
            try saving.writer.write(std.mem.sliceAsBytes(history.positions()));
            saving.writer.end_section();
            for (pools, 0..) |*pool, p| {
                try saving.begin(.pieces, index * pools.len + p);
                switch (pool.*) {
                    .attention => |*leaf| try saving.write_pieces(leaf, saved.holder, p),
                    .recurrent => |*leaf| try saving.write_state(leaf, saved.holder, p),
                }
                saving.writer.end_section();
            }
        }
        for (pools, saving.numbers, 0..) |*pool, numbers, p| {
            try saving.begin(.blocks, p);
            for (numbers.order.items) |block| {
                const filled: u32 = switch (pool.*) {
                    .attention => |leaf| leaf.blocks.filled[block],
                    .recurrent => 1,
                };
                try saving.writer.write(std.mem.asBytes(&filled));
            }
            saving.writer.end_section();
        }
    }

    fn write_pieces(saving: *Saving, pool: *const AttentionPool, holder: u32, p: usize) status.Error!void {
        const h = &pool.holders[holder];
        try saving.writer.write(std.mem.asBytes(&PoolRecord{
            .min = h.min,
            .end = h.end,
            .dropped = h.dropped,
            .cell = -1,
            .stamp_count = h.stamp.count,
            .piece_count = @intCast(h.pieces.items.len),
            .stamp_hash = h.stamp.hash,
        }));
        for (h.pieces.items) |piece| {
            try saving.writer.write(std.mem.asBytes(&PieceRecord{
                .block = try saving.numbers[p].number(saving.gpa, piece.block),
                .offset = piece.offset,
                .count = piece.count,
                .position = piece.position,
            }));
        }
    }

    fn write_state(saving: *Saving, pool: *const RecurrentPool, holder: u32, p: usize) status.Error!void {
        const h = &pool.holders[holder];
        const stamp: Stamp = if (h.cell) |cell| pool.stamps[cell] else h.half orelse .{};
        const place: ?u32 = h.cell orelse if (h.half != null) half_place | (holder - saving.memory.config.sequences) else null;
        const number: i32 = if (place) |thing| @intCast(try saving.numbers[p].number(saving.gpa, thing)) else -1;
        try saving.writer.write(std.mem.asBytes(&PoolRecord{
            .min = @max(h.end - 1, 0),
            .end = h.end,
            .dropped = 0,
            .cell = number,
            .stamp_count = stamp.count,
            .piece_count = 0,
            .stamp_hash = stamp.hash,
        }));
    }

    /// All tensors of one memory: of each block the cells that are filled and zeros for the rest, or of each state.
    fn write_cells(saving: *Saving, index: usize) status.Error!void {
        const tensors = saving.memory.tensors[index];
        const pool = &saving.memory.pools[tensors.pool];
        for (tensors.items, 0..) |item, t| if (item) |tensor| {
            try saving.begin(.cells, index * declaration.states_max + t);
            const row = tensor.nb[1];
            for (saving.numbers[tensors.pool].order.items) |block| switch (pool.*) {
                .attention => |leaf| {
                    const filled = leaf.blocks.filled[block];
                    try saving.writer.write(tensor_data.read_rows(tensor, block * block_cells, filled));
                    try saving.write_zeros((block_cells - filled) * row);
                },
                .recurrent => if (block & half_place == 0) {
                    try saving.writer.write(tensor_data.read_rows(tensor, block, 1));
                } else try saving.write_half(tensor, tensors.halves[t].?, block & ~half_place),
            };
            saving.writer.end_section();
        };
    }

    /// A state that is held in f16 is written as its cells are: files are the same whichever was chosen.
    fn write_half(saving: *Saving, tensor: *const tensor_data.Tensor, half: *const tensor_data.Tensor, row: u32) status.Error!void {
        const elements: usize = @intCast(tensor.ne[0]);
        if (tensor.type == half.type) return saving.writer.write(tensor_data.read_rows(half, row, 1));
        const numbers = try saving.gpa.alloc(f32, elements);
        defer saving.gpa.free(numbers);
        tensor_data.widen_row(half, row, numbers);
        try saving.writer.write(std.mem.sliceAsBytes(numbers));
    }

    fn write_zeros(saving: *Saving, count: usize) status.Error!void {
        const zeros: [4096]u8 = @splat(0);
        var left = count;
        while (left > 0) {
            const some = @min(left, zeros.len);
            try saving.writer.write(zeros[0..some]);
            left -= some;
        }
    }
};
