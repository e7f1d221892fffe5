//! The container of saved memory states: named sections of bytes behind a header, with a checksum for each part.
//!
//! What the sections mean is the caller's matter: a section has a kind and an index, and bytes. In the file come, in
//! this order, the header, the sections in the order in which they were written, and the table of the sections. Each
//! starts at the first multiple of 64 after the one before it, and the bytes left between them are zero. So every
//! byte of a file is either checked against a checksum or known, and no damage goes unseen. Numbers are
//! little-endian.
//!
//! `state_file_writer.zig` makes such files, all or nothing, by way of a temporary one (`state_file_temporary.zig`);
//! `state_file_reader.zig` maps them.

const std = @import("std");

pub const Writer = @import("state_file_writer.zig").Writer;
pub const Reader = @import("state_file_reader.zig").Reader;

pub const magic = "STRATAST".*;
pub const version = 1;

/// Where the header, each section and the table start, so that a mapped section can be read as numbers of any width.
pub const alignment = 64;

/// Many more than sequences and snapshots can need.
pub const sections_max = 1 << 24;

/// What the caller puts into the header: what the states belong to, and what it wants to know before reading a section.
pub const Identity = extern struct {
    /// Of the model file.
    fingerprint: [16]u8,
    /// Hash of what the plugin declared about its memories.
    declaration: u64,
    /// The caller's own; not interpreted here.
    caller: [64]u8 = @splat(0),
};

pub const Header = extern struct {
    magic: [8]u8 = magic,
    version: u32 = version,
    header_bytes: u32 = @sizeOf(Header),
    file_bytes: u64,
    table_offset: u64,
    section_count: u32,
    /// Of one entry of the table.
    entry_bytes: u32 = @sizeOf(Section),
    identity: Identity,
    table_checksum: u64,
    /// Of all bytes of the header before it.
    header_checksum: u64 = 0,

    pub fn compute_checksum(header: *const Header) u64 {
        return checksum(std.mem.asBytes(header)[0..@offsetOf(Header, "header_checksum")]);
    }
};

/// An entry of the table.
pub const Section = extern struct {
    kind: u32,
    index: u32,
    offset: u64,
    size_bytes: u64,
    checksum: u64,

    pub fn key(section: Section) Key {
        return .{ .kind = section.kind, .index = section.index };
    }
};

/// The name of a section; no two sections of a file have the same.
pub const Key = struct { kind: u32, index: u32 };

comptime {
    // The structs are the file's bytes: no padding, and this machine's byte order.
    std.debug.assert(@import("builtin").cpu.arch.endian() == .little);
    std.debug.assert(@sizeOf(Identity) == 16 + 8 + 64);
    std.debug.assert(@sizeOf(Header) == 8 + 4 + 4 + 8 + 8 + 4 + 4 + 88 + 8 + 8);
    std.debug.assert(@sizeOf(Section) == 4 + 4 + 8 + 8 + 8);
    std.debug.assert(alignment % @alignOf(Header) == 0 and alignment % @alignOf(Section) == 0);
}

/// XXH64. Zig's XXH3 was measured at a sixtieth of its speed.
pub const Hash = std.hash.XxHash64;

pub fn checksum(bytes: []const u8) u64 {
    return Hash.hash(0, bytes);
}

/// The first place at or after `offset` where something may start; null if there is none below 2^64.
pub fn align_up(offset: u64) ?u64 {
    const moved = std.math.add(u64, offset, alignment - 1) catch return null;
    return moved & ~@as(u64, alignment - 1);
}

test {
    _ = @import("state_file_writer.zig");
    _ = @import("state_file_reader.zig");
    _ = @import("state_file_temporary.zig");
}

test "a place is the next multiple of 64" {
    try std.testing.expectEqual(0, align_up(0));
    try std.testing.expectEqual(64, align_up(1));
    try std.testing.expectEqual(192, align_up(@sizeOf(Header)));
    try std.testing.expectEqual(null, align_up(std.math.maxInt(u64) - 62));
    const last: u64 = std.math.maxInt(u64) - 63;
    try std.testing.expectEqual(last, align_up(last));
}

test "the checksum does not depend on how the bytes are cut" {
    var bytes: [3000]u8 = undefined;
    var random: std.Random.DefaultPrng = .init(std.testing.random_seed);
    errdefer std.debug.print("seed {d}\n", .{std.testing.random_seed});
    random.random().bytes(&bytes);
    for (0..300) |size| {
        const whole = bytes[0 .. size * 10];
        var hash: Hash = .init(0);
        var rest: []const u8 = whole;
        while (rest.len > 0) {
            const piece = rest[0..random.random().intRangeAtMost(usize, 0, @min(rest.len, 100))];
            hash.update(piece);
            rest = rest[piece.len..];
        }
        try std.testing.expectEqual(checksum(whole), hash.final());
    }
}
