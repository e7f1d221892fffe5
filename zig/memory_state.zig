//! Saved holders of a memory (sequences and their snapshots): what stands in such a file, and an open one. What holders
//! share is written once: blocks of attention cells and state cells are numbered within the file, and holders refer to
//! them. `memory_save.zig` writes such files, `memory_restore.zig` brings their holders back.

const std = @import("std");
const status = @import("status.zig");
const state_file = @import("state_file.zig");
const declaration = @import("declaration.zig");
const block_cells = @import("attention_pool.zig").block_cells;
const Reader = state_file.Reader;

pub const Saved = @import("memory_save.zig").Saved;
pub const Saving = @import("memory_save.zig").Saving;
pub const restore = @import("memory_restore.zig").run;

/// The sections of a file; what an index counts is said with each.
pub const Kind = enum(u32) {
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

pub const max_holders = 1 << 17;

/// Counts that the header carries, for whoever lists files.
pub const Counts = extern struct { sequences: u32, snapshots: u32, padding: [56]u8 = @splat(0) };

/// What a holder has in a pool; of attention, pieces follow.
pub const PoolRecord = extern struct {
    min: i32,
    end: i32,
    dropped: i32,
    /// The state's number in the file; -1 = none.
    cell: i32,
    stamp_count: u32,
    piece_count: u32,
    stamp_hash: u64,
};

pub const PieceRecord = extern struct { block: u32, offset: u32, count: u32, position: i32 };

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
            const positions = (try state.history(@intCast(index))).positions;
            const end = if (positions.len == 0) 0 else positions[positions.len - 1] + 1;
            if (holder.position != end) return damaged(own, "a sequence does not end where its tokens do");
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

pub fn damaged(path: []const u8, what: []const u8) status.Error {
    return status.fail(error.BadFormat, "{s}: this state cannot be restored: {s}", .{ path, what });
}
