//! Bringing saved holders of a memory back from a file (`memory_state.zig` says what stands in it), all or nothing.
//!
//! A file is checked whole before a holder takes anything from it: its checksums, that it belongs to this model and
//! declaration, and that its books hold together. Who made a file to deceive can make sequences of any text and any
//! numbers with it, which are refused or go on like others; it can neither crash nor touch what lives.

const std = @import("std");
const assert = std.debug.assert;
const status = @import("status.zig");
const tensor_data = @import("tensor_data.zig");
const declaration = @import("declaration.zig");
const attention_pool = @import("attention_pool.zig");
const memory_state = @import("memory_state.zig");
const Memory = @import("memory.zig").Memory;
const AttentionPool = attention_pool.AttentionPool;
const Piece = attention_pool.Piece;
const Stamp = @import("history.zig").Stamp;
const Kind = memory_state.Kind;
const PieceRecord = memory_state.PieceRecord;
const PoolRecord = memory_state.PoolRecord;
const State = memory_state.State;

const block_cells = attention_pool.block_cells;

/// Of a file's block: the holder that is restored has nothing in it.
const not_taken = std.math.maxInt(u32);

/// Gives the file's holders to `targets`, which are empty, one for each in the file's order. All or nothing. The file was
/// verified: that reads all of it, and needs no memory.
pub fn run(
    gpa: std.mem.Allocator,
    memory: *Memory,
    state: *const State,
    fingerprint: [16]u8,
    vocabulary: u32,
    targets: []const u32,
) status.Error!void {
    const identity = state.reader.identity();
    if (!std.mem.eql(u8, &identity.fingerprint, &fingerprint)) {
        return status.fail(error.Refused, "{s}: this state belongs to another model file", .{state.path});
    }
    if (identity.declaration != memory_state.declaration_hash(memory.declarations)) {
        return status.fail(error.Refused, "{s}: this state was saved with other memories: another type of keys and values, or " ++
            "another version of the architecture's plugin", .{state.path});
    }
    if (targets.len != state.holders.len) {
        return status.fail(error.InvalidArgument, "{s}: {d} sequences and snapshots are in this state, and {d} were given to take them", .{
            state.path, state.holders.len, targets.len,
        });
    }
    for (targets, state.holders) |target, holder| if ((target >= memory.config.sequences) != (holder.is_snapshot != 0)) {
        return status.fail(error.InvalidArgument, "{s}: a sequence of this state was given a snapshot to take it, or the other " ++
            "way round", .{state.path});
    };
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
        if (history.len() > 0) {
            return status.fail(error.InvalidArgument, "{s}: a sequence or snapshot was given twice to take this state", .{restoring.state.path});
        }
        try history.reserve(memory.gpa, saved.tokens.len);
        for (saved.tokens, saved.positions) |token, position| {
            if (token < 0 or token >= restoring.vocabulary) return memory_state.damaged(restoring.state.path, "a token is not in the vocabulary");
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
        try restoring.check_filled(filled, 1);
        const leaf = &restoring.memory.pools[p].recurrent;
        for (targets, 0..) |target, index| {
            const cell = leaf.cells.take(null) orelse return status.fail(error.Full, "{s}: no state cell is free", .{restoring.state.path});
            defer leaf.cells.release(cell);
            @memset(own, cell);
            try restoring.fill_from(p, try restoring.state_number(p, @intCast(index)), cell);
            try restoring.adopt(p, target, @intCast(index), own, filled);
            restoring.memory.settle_snapshot(target);
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
        return memory_state.damaged(restoring.state.path, what);
    }

    fn check_filled(restoring: *const Restoring, filled: []const u32, most: u32) status.Error!void {
        for (filled) |count| if (count < 1 or count > most) return restoring.odd("a block is filled further than it is long");
    }

    /// Takes a block or cell for each of the file's that is not marked, and fills it.
    fn take_all(restoring: *Restoring, p: u32, filled: []const u32, own: []u32, holder: ?u32) status.Error!void {
        const pool = &restoring.memory.pools[p];
        var taken: usize = 0;
        errdefer restoring.release_all(p, own[0..taken]);
        const most: u32 = if (pool.* == .attention) block_cells else 1;
        try restoring.check_filled(filled, most);
        for (filled, own) |count, *block| {
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
                const cell = if (record.cell < 0) null else own[@intCast(record.cell)];
                if (cell) |shared| if (leaf.cells.is_shared(shared) and !leaf.stamps[shared].eql(stamp)) {
                    return restoring.odd("a state stands for two texts");
                };
                leaf.adopt(target, cell, record.end, stamp);
            },
            .attention => |*leaf| {
                if (rest.len != @as(usize, record.piece_count) * @sizeOf(PieceRecord)) return restoring.odd("its pieces are odd");
                var pieces: std.ArrayList(Piece) = try .initCapacity(restoring.gpa, record.piece_count);
                defer pieces.deinit(restoring.gpa);
                for (0..record.piece_count) |i| {
                    const piece = std.mem.bytesToValue(PieceRecord, rest[i * @sizeOf(PieceRecord) ..][0..@sizeOf(PieceRecord)]);
                    pieces.appendAssumeCapacity(try restoring.check_piece(piece, own, filled, &record));
                }
                try restoring.check_positions(leaf, memory.histories[target].positions(), &record, pieces.items);
                try leaf.adopt(target, pieces.items, record.dropped, record.end, stamp);
            },
        }
        if (memory.pools[p].held(target).min != record.min) return restoring.odd("a pool does not begin where it says");
    }

    fn check_piece(
        restoring: *Restoring,
        piece: PieceRecord,
        own: []const u32,
        filled: []const u32,
        record: *const PoolRecord,
    ) status.Error!Piece {
        if (piece.block >= own.len or piece.count < 1 or piece.offset > block_cells or piece.count > block_cells or
            piece.offset + piece.count > filled[piece.block] or piece.position < 0 or
            @as(i64, piece.position) + piece.count > record.end)
        {
            return restoring.odd("its pieces are odd");
        }
        return .{ .block = own[piece.block], .offset = piece.offset, .count = piece.count, .position = piece.position };
    }

    /// A cell stands for each token, in their order, but for the first ones, which no later token sees.
    fn check_positions(
        restoring: *Restoring,
        pool: *const AttentionPool,
        positions: []const i32,
        record: *const PoolRecord,
        pieces: []const Piece,
    ) status.Error!void {
        if (record.dropped < 0 or record.dropped > positions.len) return restoring.odd("it let go more than it had");
        const dropped: usize = @intCast(record.dropped);
        if (dropped > 0 and positions[dropped - 1] >= pool.lowest_seen(record.end)) {
            return restoring.odd("positions that are still seen are missing");
        }
        var rest = positions[dropped..];
        for (pieces) |piece| {
            if (piece.count > rest.len) return restoring.odd("it has cells of no token");
            for (rest[0..piece.count], 0..) |position, i| {
                if (position != piece.position + @as(i32, @intCast(i))) return restoring.odd("its cells stand at other positions than its tokens");
            }
            rest = rest[piece.count..];
        }
        if (rest.len > 0) return restoring.odd("a token has no cell");
    }
};
