//! Pieces of blocks: what a holder of attention cells owns, in the order of their positions.

const std = @import("std");
const assert = std.debug.assert;
const Block = @import("blocks.zig").Block;

/// Cells of one block.
pub const block_cells = 64;

/// Consecutive cells of a block that hold consecutive positions.
pub const Piece = struct {
    block: Block,
    /// The first cell, within the block.
    offset: u32,
    count: u32,
    position: i32,

    pub fn end(piece: Piece) i32 {
        return piece.position + @as(i32, @intCast(piece.count));
    }

    pub fn first_cell(piece: Piece) u32 {
        return piece.block * block_cells + piece.offset;
    }

    pub fn part(piece: Piece, from: i32, to: i32) Piece {
        assert(from >= piece.position and to <= piece.end() and from < to);
        return .{
            .block = piece.block,
            .offset = piece.offset + @as(u32, @intCast(from - piece.position)),
            .count = @intCast(to - from),
            .position = from,
        };
    }
};

pub const CellCopy = struct { from: u32, to: u32, count: u32 };

/// Walks along pieces in the order of positions and counts cells.
pub const Cursor = struct {
    pieces: []const Piece,
    index: usize = 0,
    /// The number of the first cell of the piece.
    number: i32,
    low: i32 = 0,

    /// Goes on to the first piece that ends behind a position.
    pub fn seek(cursor: *Cursor, position: i32) void {
        cursor.low = position;
        while (cursor.index < cursor.pieces.len and cursor.pieces[cursor.index].end() <= position) {
            cursor.number += @intCast(cursor.pieces[cursor.index].count);
            cursor.index += 1;
        }
    }

    /// The number of the first cell at or behind a position of this piece.
    pub fn at(cursor: *const Cursor, position: i32) i32 {
        return cursor.number + @max(0, position - cursor.pieces[cursor.index].position);
    }
};
