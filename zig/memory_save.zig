//! Saving holders of a memory to a file (`memory_state.zig` says what stands in it), so that nobody waits for a disk: the
//! books are copied and what they name is held on to in one go, and is written while others use the memory.

const std = @import("std");
const assert = std.debug.assert;
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

/// What the file takes from a pool.
const Part = struct {
    /// Its blocks or cells in the order of the file.
    numbers: Numbers = .{},
    /// How far each of them was filled.
    filled: std.ArrayList(u32) = .empty,

    fn deinit(part: *Part, gpa: std.mem.Allocator) void {
        part.numbers.deinit(gpa);
        part.filled.deinit(gpa);
    }
};

/// A file on its way: `open`, `hold`, `write_cells`, `let_go`, `finish`. Whatever fails, the old file stays; `deinit` ends it,
/// after `let_go`.
pub const Saving = struct {
    gpa: std.mem.Allocator,
    memory: *Memory,
    writer: Writer,
    parts: []Part,
    counts: Counts = .{ .sequences = 0, .snapshots = 0 },
    is_holding: bool = false,
    /// Looked at between sections.
    cancel: *const std.atomic.Value(bool),

    pub fn open(gpa: std.mem.Allocator, memory: *Memory, path: []const u8, cancel: *const std.atomic.Value(bool)) status.Error!Saving {
        const parts = try gpa.alloc(Part, memory.pools.len);
        errdefer gpa.free(parts);
        @memset(parts, .{});
        return .{ .gpa = gpa, .memory = memory, .writer = try .create(gpa, path), .parts = parts, .cancel = cancel };
    }

    pub fn deinit(saving: *Saving) void {
        assert(!saving.is_holding);
        saving.writer.abandon();
        for (saving.parts) |*part| part.deinit(saving.gpa);
        saving.gpa.free(saving.parts);
    }

    /// Writes the books of the holders, and makes the file one more owner of what they own: until `let_go`, nobody writes
    /// or frees that.
    pub fn hold(saving: *Saving, holders: []const Saved) status.Error!void {
        if (holders.len > memory_state.max_holders) {
            return status.fail(error.InvalidArgument, "a state holds up to {d} sequences and snapshots, and {d} were to be saved", .{
                memory_state.max_holders, holders.len,
            });
        }
        try saving.write_books(holders);
        for (saving.memory.pools, saving.parts) |*pool, part| for (part.numbers.order.items) |place| switch (pool.*) {
            .attention => |*leaf| leaf.blocks.retain(place),
            .recurrent => |*leaf| if (place & half_place == 0) leaf.cells.retain(place),
        };
        saving.is_holding = true;
    }

    pub fn let_go(saving: *Saving) void {
        assert(saving.is_holding);
        for (saving.memory.pools, saving.parts) |*pool, part| for (part.numbers.order.items) |place| switch (pool.*) {
            .attention => |*leaf| leaf.blocks.release(place),
            .recurrent => |*leaf| if (place & half_place == 0) leaf.cells.release(place),
        };
        saving.is_holding = false;
    }

    /// Reads tensors alone, no books. A snapshot's row in f16 is written by the thread that calls this, and by no other.
    pub fn write_cells(saving: *Saving) status.Error!void {
        assert(saving.is_holding);
        for (saving.memory.declarations, 0..) |d, index| if (d.shared_from < 0) try saving.write_memory(index);
    }

    /// Brings the file to the disk and into its place.
    pub fn finish(saving: *Saving, fingerprint: [16]u8) status.Error!void {
        try saving.writer.finish(.{
            .fingerprint = fingerprint,
            .declaration = memory_state.declaration_hash(saving.memory.declarations),
            .caller = std.mem.toBytes(saving.counts),
        });
    }

    fn begin(saving: *Saving, kind: Kind, index: usize) status.Error!void {
        if (saving.cancel.load(.monotonic)) return status.fail(error.Cancelled, "cancelled; the file is as it was", .{});
        try saving.writer.begin_section(@backingInt(kind), @intCast(index));
    }

    fn write_books(saving: *Saving, holders: []const Saved) status.Error!void {
        const pools = saving.memory.pools;
        try saving.begin(.holders, 0);
        for (holders) |saved| {
            try saving.writer.write(std.mem.asBytes(&saved.info));
            const count = if (saved.info.is_snapshot != 0) &saving.counts.snapshots else &saving.counts.sequences;
            count.* += 1;
        }
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
        for (pools, saving.parts, 0..) |*pool, *part, p| {
            try part.filled.ensureTotalCapacity(saving.gpa, part.numbers.order.items.len);
            for (part.numbers.order.items) |place| part.filled.appendAssumeCapacity(switch (pool.*) {
                .attention => |*leaf| leaf.blocks.filled[place],
                .recurrent => 1,
            });
            try saving.begin(.blocks, p);
            try saving.writer.write(std.mem.sliceAsBytes(part.filled.items));
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
                .block = try saving.parts[p].numbers.number(saving.gpa, piece.block),
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
        const number: i32 = if (place) |thing| @intCast(try saving.parts[p].numbers.number(saving.gpa, thing)) else -1;
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
    fn write_memory(saving: *Saving, index: usize) status.Error!void {
        const tensors = saving.memory.tensors[index];
        const part = &saving.parts[tensors.pool];
        for (tensors.items, 0..) |item, t| if (item) |tensor| {
            try saving.begin(.cells, index * declaration.states_max + t);
            const row = tensor.nb[1];
            for (part.numbers.order.items, part.filled.items) |place, filled| switch (saving.memory.pools[tensors.pool]) {
                .attention => {
                    try saving.writer.write(tensor_data.read_rows(tensor, place * block_cells, filled));
                    try saving.write_zeros((block_cells - filled) * row);
                },
                .recurrent => if (place & half_place == 0) {
                    try saving.writer.write(tensor_data.read_rows(tensor, place, 1));
                } else try saving.write_half(tensor, tensors.halves[t].?, place & ~half_place),
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

const testing = std.testing;
const batch_file = @import("batch.zig");
const sample = @import("state_file_sample.zig");

const test_declarations = [_]declaration.MemoryDeclaration{
    .{ .layer = 0, .kind = .attention, .heads = 2, .key_dim = 8, .value_dim = 16 },
    .{ .layer = 1, .kind = .attention, .heads = 1, .key_dim = 8, .value_dim = 8, .extent = .sliding, .window = 32 },
    .{ .layer = 2, .kind = .recurrent, .state_count = 2, .state_elements = .{ 12, 64, 0, 0, 0, 0, 0, 0 } },
};

fn test_feed(memory: *Memory, plan: *Memory.Plan, request: batch_file.Request, marks: []const batch_file.MarkRequest) !void {
    const tokens: [60]i32 = @splat(5);
    var batch = try memory.prepare(testing.allocator, tokens[0..@intCast(request.count)], &.{request}, marks);
    defer batch.deinit();
    for (batch.sub_batches) |*sub_batch| {
        try memory.apply(plan, sub_batch);
        memory.commit(plan, sub_batch, batch.tokens[sub_batch.first_token..][0..sub_batch.row_count]);
    }
}

/// Every row gets a number of its own.
fn test_fill(memory: *Memory) void {
    var next: u8 = 0;
    for (memory.tensors) |tensors| for (tensors.items ++ tensors.halves) |item| if (item) |tensor| {
        for (0..@intCast(tensor.ne[1])) |row| {
            next +%= 7;
            @memset(@constCast(tensor_data.read_rows(tensor, row, 1)), next);
        }
    };
}

test "what is written is what stood there when it was held, whatever others do meanwhile" {
    for ([_]bool{ false, true }) |half_snapshots| {
        var folder: sample.Folder = .init();
        defer folder.deinit();
        var memory: Memory = try .init(testing.allocator, &test_declarations, .{
            .sequences = 3,
            .context = 256,
            .batch = 64,
            .snapshot_bytes = 1 << 20,
            .half_snapshots = half_snapshots,
            .poison = true,
        }, true);
        defer memory.deinit();
        var plan = try memory.create_plan(testing.allocator);
        defer plan.deinit();
        const free = memory.pools[0].free_cells();
        const snapshot = try memory.reserve_snapshot();
        const mark: batch_file.MarkRequest = .{ .request = 0, .position = 41, .snapshot = snapshot };
        try test_feed(&memory, &plan, .{ .sequence = 1, .count = 60, .logits = .none, .sampler = 0 }, &.{mark});
        test_fill(&memory);
        const holders = [_]Saved{
            .{ .holder = 1, .info = .{ .is_snapshot = 0, .of = 0, .position = 60, .tokens = 60 } },
            .{ .holder = try memory.snapshot_holder(snapshot), .info = .{ .is_snapshot = 1, .of = 0, .position = 41, .tokens = 41 } },
        };
        const cancel: std.atomic.Value(bool) = .init(false);
        var contents: [2][]const u8 = undefined;
        for ([_][]const u8{ "quiet", "busy" }, &contents) |name, *content| {
            const path = try folder.path(name);
            var saving: Saving = try .open(testing.allocator, &memory, path, &cancel);
            defer saving.deinit();
            try saving.hold(&holders);
            if (std.mem.eql(u8, name, "busy")) {
                try memory.drop_snapshot(snapshot);
                try memory.clear(1);
                // Poisons all cells that nobody owns.
                for (0..3) |sequence| try test_feed(&memory, &plan, .{ .sequence = @intCast(sequence), .count = 60, .logits = .none, .sampler = 0 }, &.{});
            }
            try saving.write_cells();
            saving.let_go();
            try saving.finish(@splat(3));
            content.* = try folder.read(name);
        }
        defer for (contents) |content| testing.allocator.free(content);
        try testing.expectEqualSlices(u8, contents[0], contents[1]);
        for (0..3) |sequence| try memory.clear(@intCast(sequence));
        try testing.expectEqual(free, memory.pools[0].free_cells());
    }
}
