//! Saving holders of a memory (sequences and their snapshots) to a file and bringing them back. What they share is
//! written once: blocks of attention cells and state cells are numbered within the file, and holders refer to them.
//!
//! A file is checked whole before anything changes: its checksums, that it belongs to this model and declaration, and
//! that its books hold together, so that also one that was made to deceive cannot crash.

const std = @import("std");
const assert = std.debug.assert;
const status = @import("status.zig");
const state_file = @import("state_file.zig");
const tensor_data = @import("tensor_data.zig");
const declaration = @import("declaration.zig");
const attention_pool = @import("attention_pool.zig");
const history_file = @import("history.zig");
const Memory = @import("memory.zig").Memory;
const AttentionPool = attention_pool.AttentionPool;
const RecurrentPool = @import("recurrent_pool.zig").RecurrentPool;
const Stamp = history_file.Stamp;
const Writer = state_file.Writer;
const Reader = state_file.Reader;

const block_cells = attention_pool.block_cells;

/// The sections of a file; what an index counts is said with each.
const Kind = enum(u32) {
    /// All holders.
    holders = 0,
    /// Tokens and positions; holder.
    tokens = 1,
    /// What a holder has in a pool; holder * pools + pool.
    pieces = 2,
    /// How far each block is filled; pool.
    blocks = 3,
    /// Keys, values or states; memory * states_max + tensor.
    cells = 4,
};

/// As errors name the sections.
pub const kind_names = [_][]const u8{ "holders", "tokens", "pieces", "blocks", "cells" };

/// What a holder is. In the file, and as the boundary tells it.
pub const HolderInfo = extern struct {
    /// 0 = a sequence.
    is_snapshot: u32,
    /// The snapshot's sequence, as an index into the holders; its own for a sequence.
    of: u32,
    position: i32,
    tokens: u32,
};

const max_holders = 1 << 15;

/// Counts that the header carries, for whoever lists files.
pub const Counts = extern struct { sequences: u32, snapshots: u32, padding: [56]u8 = @splat(0) };

const PoolRecord = extern struct {
    min: i32,
    end: i32,
    dropped: i32,
    /// The state's number in the file; -1 = none.
    cell: i32,
    stamp_count: u32,
    piece_count: u32,
    stamp_hash: u64,
};

const PieceRecord = extern struct { block: u32, offset: u32, count: u32, position: i32 };

/// What a memory must have in common with the one that saved it: everything that says what its bytes mean.
pub fn declaration_hash(declarations: []const declaration.MemoryDeclaration) u64 {
    var hasher: std.hash.XxHash64 = .init(block_cells);
    for (declarations) |d| {
        inline for (@typeInfo(declaration.MemoryDeclaration).@"struct".field_names) |name| {
            // What states can be computed again from is not saved.
            if (comptime !std.mem.eql(u8, name, "inputs")) hasher.update(std.mem.asBytes(&@field(d, name)));
        }
    }
    return hasher.final();
}

/// Of a file's block: the holder that is restored has nothing in it.
const not_taken = std.math.maxInt(u32);

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

/// Writes the holders to `path`, all or nothing. `is_cancelled` is asked between sections.
pub fn save(
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
        .declaration = declaration_hash(memory.declarations),
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

// ---- reading ----

/// An open file. Its lists of sequences and tokens were checked; its cells are when it is restored.
pub const State = struct {
    reader: Reader,
    path: []u8,
    gpa: std.mem.Allocator,
    holders: []const HolderInfo,

    pub fn open(gpa: std.mem.Allocator, path: []const u8) status.Error!State {
        const own = try gpa.dupe(u8, path);
        errdefer gpa.free(own);
        var reader: Reader = try .open(gpa, path);
        errdefer reader.close();
        reader.kind_names = &kind_names;
        for (reader.sections, 0..) |section, number| {
            if (section.kind != @backingInt(Kind.cells)) try reader.verify_section(@intCast(number));
        }
        const bytes = reader.section(@backingInt(Kind.holders), 0) orelse return damaged(own, "it lists no sequences");
        if (bytes.len == 0 or bytes.len % @sizeOf(HolderInfo) != 0 or bytes.len / @sizeOf(HolderInfo) > max_holders) {
            return damaged(own, "its list of sequences is odd");
        }
        const state: State = .{ .reader = reader, .path = own, .gpa = gpa, .holders = std.mem.bytesAsSlice(HolderInfo, bytes) };
        for (state.holders, 0..) |holder, index| {
            if (holder.is_snapshot > 1 or holder.of >= state.holders.len or state.holders[holder.of].is_snapshot != 0 or
                (holder.is_snapshot == 0) != (holder.of == index))
            {
                return damaged(own, "its list of sequences is odd");
            }
            _ = try state.history(@intCast(index));
        }
        return state;
    }

    pub fn deinit(state: *State) void {
        state.reader.close();
        state.gpa.free(state.path);
        state.* = undefined;
    }

    /// Checks every byte of the file.
    pub fn verify(state: *const State) status.Error!void {
        try state.reader.verify_all();
    }

    pub const Tokens = struct { tokens: []const i32, positions: []const i32 };

    pub fn history(state: *const State, holder: u32) status.Error!Tokens {
        const count = state.holders[holder].tokens;
        const bytes = state.reader.section(@backingInt(Kind.tokens), holder) orelse return damaged(state.path, "tokens are missing");
        if (bytes.len != @as(usize, count) * 8) return damaged(state.path, "a list of tokens has another length");
        const numbers = std.mem.bytesAsSlice(i32, bytes);
        const positions = numbers[count..];
        for (positions, 0..) |position, i| {
            if (position < 0 or position > 1 << 28 or (i > 0 and position < positions[i - 1])) {
                return damaged(state.path, "its positions are not in order");
            }
        }
        return .{ .tokens = numbers[0..count], .positions = positions };
    }
};

fn damaged(path: []const u8, what: []const u8) status.Error {
    return status.fail(error.BadFormat, "{s}: this state cannot be restored: {s}", .{ path, what });
}

/// Gives the file's holders to `targets`, which are empty, one for each in the file's order. All or nothing.
pub fn restore(
    gpa: std.mem.Allocator,
    memory: *Memory,
    state: *const State,
    fingerprint: [16]u8,
    vocabulary: u32,
    targets: []const u32,
) status.Error!void {
    try state.verify();
    const identity = state.reader.identity();
    if (!std.mem.eql(u8, &identity.fingerprint, &fingerprint)) {
        return status.fail(error.Refused, "{s}: this state belongs to another model file", .{state.path});
    }
    if (identity.declaration != declaration_hash(memory.declarations)) {
        return status.fail(error.Refused, "{s}: this state was saved with other memories: another type of keys and values, or " ++
            "another version of the architecture's plugin", .{state.path});
    }
    if (targets.len != state.holders.len) {
        return status.fail(error.InvalidArgument, "{s}: {d} sequences and snapshots are in this state, and {d} were given to take them", .{
            state.path, state.holders.len, targets.len,
        });
    }
    var restoring: Restoring = .{ .gpa = gpa, .memory = memory, .state = state, .vocabulary = vocabulary };
    errdefer for (targets) |target| memory.clear_all(target);
    for (targets, 0..) |target, index| try restoring.restore_history(target, @intCast(index));
    for (0..memory.pools.len) |pool| try restoring.restore_pool(@intCast(pool), targets);
}

const Restoring = struct {
    gpa: std.mem.Allocator,
    memory: *Memory,
    state: *const State,
    vocabulary: u32,

    fn restore_history(restoring: *Restoring, target: u32, index: u32) status.Error!void {
        const memory = restoring.memory;
        const saved = try restoring.state.history(index);
        const holder = restoring.state.holders[index];
        if (holder.position < 0 or holder.position > memory.config.context) {
            return status.fail(error.Refused, "{s}: a sequence of this state goes up to position {d}, and the context is {d}; load " ++
                "the model with a larger one", .{ restoring.state.path, holder.position, memory.config.context });
        }
        const history = &memory.histories[target];
        assert(history.len() == 0);
        try history.reserve(memory.gpa, saved.tokens.len);
        for (saved.tokens, saved.positions) |token, position| {
            if (token < 0 or token >= restoring.vocabulary) return damaged(restoring.state.path, "a token is not in the vocabulary");
            history.append(token, position);
        }
    }

    fn restore_pool(restoring: *Restoring, p: u32, targets: []const u32) status.Error!void {
        const memory = restoring.memory;
        const filled_bytes = restoring.state.reader.section(@backingInt(Kind.blocks), p) orelse return restoring.odd("blocks are missing");
        if (filled_bytes.len % 4 != 0) return restoring.odd("its blocks are odd");
        const filled = std.mem.bytesAsSlice(u32, filled_bytes);
        const own = try restoring.gpa.alloc(u32, filled.len);
        defer restoring.gpa.free(own);
        const separate = memory.config.separate and memory.pools[p] == .attention;
        if (memory.config.half_snapshots and memory.pools[p] == .recurrent) return restoring.restore_one_by_one(p, filled, own, targets);
        if (!separate) {
            @memset(own, 0);
            try restoring.take_all(p, filled, own, null);
            defer restoring.release_all(p, own);
            for (targets, 0..) |target, index| try restoring.adopt(p, target, @intCast(index), own, filled);
            return;
        }
        for (targets, 0..) |target, index| {
            try restoring.choose(p, @intCast(index), own);
            try restoring.take_all(p, filled, own, target);
            defer restoring.release_all(p, own);
            try restoring.adopt(p, target, @intCast(index), own, filled);
        }
    }

    /// Marks the blocks of the file that a holder has no piece of: in a stream of its own there is no room for those.
    fn choose(restoring: *Restoring, p: u32, index: u32, own: []u32) status.Error!void {
        const number: u32 = index * @as(u32, @intCast(restoring.memory.pools.len)) + p;
        const bytes = restoring.state.reader.section(@backingInt(Kind.pieces), number) orelse return restoring.odd("pieces are missing");
        if (bytes.len < @sizeOf(PoolRecord)) return restoring.odd("a record is cut short");
        const rest = bytes[@sizeOf(PoolRecord)..];
        if (rest.len % @sizeOf(PieceRecord) != 0) return restoring.odd("its pieces are odd");
        @memset(own, not_taken);
        for (0..rest.len / @sizeOf(PieceRecord)) |i| {
            const piece = std.mem.bytesToValue(PieceRecord, rest[i * @sizeOf(PieceRecord) ..][0..@sizeOf(PieceRecord)]);
            if (piece.block >= own.len) return restoring.odd("its pieces are odd");
            own[piece.block] = 0;
        }
    }

    /// Where snapshots are held in f16, there are not cells for all of them at once.
    fn restore_one_by_one(restoring: *Restoring, p: u32, filled: []const u32, own: []u32, targets: []const u32) status.Error!void {
        const leaf = &restoring.memory.pools[p].recurrent;
        for (targets, 0..) |target, index| {
            const cell = leaf.cells.take(null) orelse return status.fail(error.Full, "{s}: no state cell is free", .{restoring.state.path});
            defer leaf.cells.release(cell);
            @memset(own, cell);
            try restoring.fill_from(p, try restoring.state_number(p, @intCast(index)), cell);
            try restoring.adopt(p, target, @intCast(index), own, filled);
            restoring.memory.halve(target);
        }
    }

    /// The number in the file of a holder's state; -1 = none.
    fn state_number(restoring: *Restoring, p: u32, index: u32) status.Error!i32 {
        const number: u32 = index * @as(u32, @intCast(restoring.memory.pools.len)) + p;
        const bytes = restoring.state.reader.section(@backingInt(Kind.pieces), number) orelse return restoring.odd("pieces are missing");
        if (bytes.len < @sizeOf(PoolRecord)) return restoring.odd("a record is cut short");
        return std.mem.bytesToValue(PoolRecord, bytes[0..@sizeOf(PoolRecord)]).cell;
    }

    fn fill_from(restoring: *Restoring, p: u32, number: i32, cell: u32) status.Error!void {
        if (number < 0) return;
        for (restoring.memory.declarations, restoring.memory.tensors, 0..) |d, tensors, index| {
            if (d.shared_from >= 0 or tensors.pool != p) continue;
            for (tensors.items, 0..) |item, t| if (item) |tensor| {
                const section: u32 = @intCast(index * declaration.states_max + t);
                const bytes = restoring.state.reader.section(@backingInt(Kind.cells), section) orelse return restoring.odd("cells are missing");
                const size = tensor.nb[1];
                const first = @as(usize, @intCast(number)) * size;
                if (first + size > bytes.len) return restoring.odd("its cells have another size");
                tensor_data.set(tensor, cell * size, bytes[first..][0..size]);
            };
        }
    }

    fn odd(restoring: *const Restoring, what: []const u8) status.Error {
        return damaged(restoring.state.path, what);
    }

    /// Takes a block or cell for each of the file's that is not marked, and fills it.
    fn take_all(restoring: *Restoring, p: u32, filled: []const u32, own: []u32, holder: ?u32) status.Error!void {
        const pool = &restoring.memory.pools[p];
        var taken: usize = 0;
        errdefer restoring.release_all(p, own[0..taken]);
        for (filled, own) |count, *block| {
            const most: u32 = if (pool.* == .attention) block_cells else 1;
            if (count < 1 or count > most) return restoring.odd("a block is filled further than it is long");
            if (block.* == not_taken) {
                taken += 1;
                continue;
            }
            const found = switch (pool.*) {
                .attention => |*leaf| leaf.take_block(holder),
                .recurrent => |*leaf| leaf.cells.take(null),
            };
            block.* = found orelse {
                var buffer: [64]u8 = undefined;
                return status.fail(error.Full, "{s}: {s} is full: this state needs {d} cells and {d} are free", .{
                    restoring.state.path, pool.describe(&buffer), filled.len * most, taken * most,
                });
            };
            if (pool.* == .attention) pool.attention.blocks.filled[block.*] = count;
            taken += 1;
        }
        for (restoring.memory.declarations, 0..) |d, index| {
            if (d.shared_from < 0 and restoring.memory.tensors[index].pool == p) try restoring.fill(index, own);
        }
    }

    fn fill(restoring: *Restoring, index: usize, own: []const u32) status.Error!void {
        const tensors = restoring.memory.tensors[index];
        const rows: usize = if (restoring.memory.pools[tensors.pool] == .attention) block_cells else 1;
        for (tensors.items, 0..) |item, t| if (item) |tensor| {
            const number: u32 = @intCast(index * declaration.states_max + t);
            const bytes = restoring.state.reader.section(@backingInt(Kind.cells), number) orelse return restoring.odd("cells are missing");
            const size = rows * tensor.nb[1];
            if (bytes.len != size * own.len) return restoring.odd("its cells have another size");
            for (own, 0..) |block, i| {
                if (block != not_taken) tensor_data.set(tensor, block * size, bytes[i * size ..][0..size]);
            }
        };
    }

    fn release_all(restoring: *Restoring, p: u32, own: []const u32) void {
        for (own) |block| if (block != not_taken) switch (restoring.memory.pools[p]) {
            .attention => |*leaf| leaf.blocks.release(block),
            .recurrent => |*leaf| leaf.cells.release(block),
        };
    }

    /// Makes a holder own what its record says.
    fn adopt(restoring: *Restoring, p: u32, target: u32, index: u32, own: []const u32, filled: []const u32) status.Error!void {
        const memory = restoring.memory;
        const number: u32 = index * @as(u32, @intCast(memory.pools.len)) + p;
        const bytes = restoring.state.reader.section(@backingInt(Kind.pieces), number) orelse return restoring.odd("pieces are missing");
        if (bytes.len < @sizeOf(PoolRecord)) return restoring.odd("a record is cut short");
        const record = std.mem.bytesToValue(PoolRecord, bytes[0..@sizeOf(PoolRecord)]);
        const stamp: Stamp = .{ .count = record.stamp_count, .hash = record.stamp_hash };
        if (!stamp.eql(memory.histories[target].stamp())) return restoring.odd("what it holds stands for another text than its tokens");
        if (record.end != restoring.state.holders[index].position) return restoring.odd("its pools end at different positions");
        const rest = bytes[@sizeOf(PoolRecord)..];
        switch (memory.pools[p]) {
            .recurrent => |*leaf| {
                if (rest.len != 0 or record.cell < -1 or record.cell >= own.len) return restoring.odd("a state is missing");
                if ((record.cell < 0) != (record.stamp_count == 0)) return restoring.odd("a state is missing");
                leaf.adopt(target, if (record.cell < 0) null else own[@intCast(record.cell)], record.end, stamp);
            },
            .attention => |*leaf| {
                if (rest.len != @as(usize, record.piece_count) * @sizeOf(PieceRecord)) return restoring.odd("its pieces are odd");
                var pieces: std.ArrayList(attention_pool.Piece) = try .initCapacity(restoring.gpa, record.piece_count);
                defer pieces.deinit(restoring.gpa);
                for (0..record.piece_count) |i| {
                    const piece = std.mem.bytesToValue(PieceRecord, rest[i * @sizeOf(PieceRecord) ..][0..@sizeOf(PieceRecord)]);
                    pieces.appendAssumeCapacity(try restoring.check_piece(piece, own, filled, &record, pieces.getLastOrNull()));
                }
                const last = pieces.getLastOrNull();
                if (last != null and last.?.end() != record.end) return restoring.odd("its pieces are odd");
                if (record.dropped < 0 or record.dropped > 1 << 28) return restoring.odd("its pieces are odd");
                try leaf.adopt(target, pieces.items, record.dropped, record.end, stamp);
            },
        }
    }

    fn check_piece(
        restoring: *Restoring,
        piece: PieceRecord,
        own: []const u32,
        filled: []const u32,
        record: *const PoolRecord,
        before: ?attention_pool.Piece,
    ) status.Error!attention_pool.Piece {
        if (piece.block >= own.len or piece.count < 1 or piece.offset > block_cells or piece.count > block_cells or
            piece.offset + piece.count > filled[piece.block] or piece.position < 0 or
            @as(i64, piece.position) + piece.count > record.end)
        {
            return restoring.odd("its pieces are odd");
        }
        // Positions that were divided may stand twice.
        if (before) |b| if (piece.position < b.end() - 1) return restoring.odd("its pieces are odd");
        return .{ .block = own[piece.block], .offset = piece.offset, .count = piece.count, .position = piece.position };
    }
};
