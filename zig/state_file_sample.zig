//! A folder for tests of state files, and a small state file of which every byte is known.

const std = @import("std");
const state_file = @import("state_file.zig");

const testing = std.testing;

pub const Folder = struct {
    temporary: testing.TmpDir,
    path_buffer: [512]u8 = undefined,
    identity: state_file.Identity = .{
        .fingerprint = "0123456789abcdef".*,
        .declaration = 0xfeed_face_dead_beef,
        .caller = @splat(0x42),
    },

    pub fn init() Folder {
        return .{ .temporary = testing.tmpDir(.{ .iterate = true }) };
    }

    pub fn deinit(self: *Folder) void {
        self.temporary.cleanup();
    }

    /// Valid until the next call.
    pub fn path(self: *Folder, name: []const u8) ![:0]const u8 {
        const form = ".zig-cache/tmp/{s}/{s}";
        return std.fmt.bufPrintSentinel(&self.path_buffer, form, .{ self.temporary.sub_path, name }, 0);
    }

    pub fn write(self: *Folder, name: []const u8, content: []const u8) !void {
        try self.temporary.dir.writeFile(testing.io, .{ .sub_path = name, .data = content });
    }

    /// The caller frees the bytes.
    pub fn read(self: *Folder, name: []const u8) ![]u8 {
        return self.temporary.dir.readFileAlloc(testing.io, name, testing.allocator, .unlimited);
    }

    pub fn open(self: *Folder, name: []const u8) !state_file.Reader {
        return state_file.Reader.open(testing.allocator, try self.path(name));
    }

    /// Of the files and folders in it.
    pub fn count(self: *Folder) !usize {
        var iterator = self.temporary.dir.iterate();
        var found: usize = 0;
        while (try iterator.next(testing.io)) |_| found += 1;
        return found;
    }

    pub fn expect_only(self: *Folder, name: []const u8, content: []const u8) !void {
        const found = try self.read(name);
        defer testing.allocator.free(found);
        try testing.expectEqualSlices(u8, content, found);
        try testing.expectEqual(1, try self.count());
    }

    pub fn write_sample(self: *Folder, name: []const u8) !void {
        var writer = try state_file.Writer.create(testing.allocator, try self.path(name));
        defer writer.abandon();
        for (sample_keys, 0..) |key, number| {
            try writer.begin_section(key.kind, key.index);
            try writer.write(sample_content(number));
            writer.end_section();
        }
        try writer.finish(self.identity);
    }
};

/// Out of order on purpose; some sections are empty, some next to each other.
pub const sample_keys = [_]state_file.Key{
    .{ .kind = 1, .index = 0 },
    .{ .kind = 0, .index = 7 },
    .{ .kind = 1, .index = 2 },
    .{ .kind = 1, .index = 1 },
    .{ .kind = 2, .index = 0 },
    .{ .kind = 2, .index = std.math.maxInt(u32) },
    .{ .kind = std.math.maxInt(u32), .index = 0 },
    .{ .kind = 0, .index = 0 },
};

const sample_sizes = [sample_keys.len]u16{ 1000, 0, 0, 64, 1, 2500, 63, 129 };

pub fn sample_content(number: usize) []const u8 {
    return sample_bytes[number * 100 ..][0..sample_sizes[number]];
}

const sample_bytes = blk: {
    @setEvalBranchQuota(20_000);
    var bytes: [4000]u8 = undefined;
    for (&bytes, 0..) |*byte, i| byte.* = @truncate((i *% 167 +% 13) ^ (i >> 3));
    break :blk bytes;
};
