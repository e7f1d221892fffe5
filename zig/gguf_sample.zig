//! Builds GGUF files for tests: good ones, and ones with any field wrong.

const std = @import("std");
const gguf_type = @import("gguf_type.zig");

const ValueType = gguf_type.ValueType;

pub const TensorSpec = struct {
    name: []const u8,
    ne: []const u64 = &.{ 32, 4 },
    type: u32 = 0,
    /// In the data; null: after the tensor before it.
    offset: ?u64 = null,
};

/// Where the counts lie in a file.
pub const version_offset = 4;
pub const tensor_count_offset = 8;
pub const value_count_offset = 16;

pub const Sample = struct {
    gpa: std.mem.Allocator,
    version: u32 = 3,
    alignment: u64 = 32,
    value_count: u64 = 0,
    tensor_count: u64 = 0,
    values: std.ArrayList(u8) = .empty,
    tensors: std.ArrayList(u8) = .empty,
    data_bytes: u64 = 0,

    pub fn deinit(self: *Sample) void {
        self.values.deinit(self.gpa);
        self.tensors.deinit(self.gpa);
    }

    /// A value whose bytes, lengths and counts included, are the caller's.
    pub fn raw(self: *Sample, key: []const u8, kind: u32, payload: []const u8) !void {
        try put_string(self.gpa, &self.values, key);
        try put(self.gpa, &self.values, kind);
        try self.values.appendSlice(self.gpa, payload);
        self.value_count += 1;
    }

    /// A number or a boolean of the width that its type has.
    pub fn scalar(self: *Sample, key: []const u8, kind: ValueType, payload: anytype) !void {
        std.debug.assert(kind.size_bytes().? == @sizeOf(@TypeOf(payload)));
        try self.raw(key, @backingInt(kind), std.mem.asBytes(&payload));
    }

    pub fn string(self: *Sample, key: []const u8, text: []const u8) !void {
        var payload: std.ArrayList(u8) = .empty;
        defer payload.deinit(self.gpa);
        try put_string(self.gpa, &payload, text);
        try self.raw(key, @backingInt(ValueType.string), payload.items);
    }

    pub fn strings(self: *Sample, key: []const u8, texts: []const []const u8) !void {
        var payload: std.ArrayList(u8) = .empty;
        defer payload.deinit(self.gpa);
        try put(self.gpa, &payload, ValueType.string);
        try put(self.gpa, &payload, @as(u64, texts.len));
        for (texts) |text| try put_string(self.gpa, &payload, text);
        try self.raw(key, @backingInt(ValueType.array), payload.items);
    }

    pub fn tensor(self: *Sample, spec: TensorSpec) !void {
        try put_string(self.gpa, &self.tensors, spec.name);
        try put(self.gpa, &self.tensors, @as(u32, @intCast(spec.ne.len)));
        for (spec.ne) |ne| try put(self.gpa, &self.tensors, ne);
        try put(self.gpa, &self.tensors, spec.type);
        const offset = spec.offset orelse std.mem.alignForward(u64, self.data_bytes, self.alignment);
        try put(self.gpa, &self.tensors, offset);
        self.tensor_count += 1;
        // A tensor that is made to be refused need not have data.
        self.data_bytes = @max(self.data_bytes, (offset +| size_of(spec)) % (1 << 20));
    }

    /// Metadata of every type and tensors of several, all as they should be.
    pub fn fill(self: *Sample) !void {
        try self.string("general.architecture", "llama");
        try self.scalar("a.uint8", .uint8, @as(u8, 200));
        try self.scalar("a.int8", .int8, @as(i8, -2));
        try self.scalar("a.uint16", .uint16, @as(u16, 40_000));
        try self.scalar("a.int16", .int16, @as(i16, -300));
        try self.scalar("a.uint32", .uint32, @as(u32, 4_000_000_000));
        try self.scalar("a.int32", .int32, @as(i32, 7));
        try self.scalar("a.float32", .float32, @as(f32, 1.5));
        try self.scalar("a.bool", .bool, true);
        try self.scalar("a.uint64", .uint64, @as(u64, 1 << 40));
        try self.scalar("a.int64", .int64, @as(i64, -1 << 40));
        try self.scalar("a.float64", .float64, @as(f64, 0.1));
        try self.strings("tokenizer.ggml.tokens", &.{ "<s>", "", "\xff\xfe", "word", "✓" });
        const floats: [8]u8 = @bitCast([2]f32{ 0.5, -1 });
        try self.raw("a.floats", 9, &(array_head(6, 2) ++ floats));
        const booleans = array_head(7, 2) ++ [2]u8{ 0, 1 };
        try self.raw("a.nested", 9, &(array_head(9, 2) ++ booleans ++ array_head(8, 0)));
        try self.tensor(.{ .name = "token_embd.weight", .ne = &.{ 64, 5 } });
        try self.tensor(.{ .name = "blk.0.attn_q.weight", .ne = &.{ 32, 3, 2 }, .type = 8 });
        try self.tensor(.{ .name = "blk.0.ffn_up.weight", .ne = &.{ 256, 2 }, .type = 12 });
        try self.tensor(.{ .name = "output_norm.weight", .ne = &.{7}, .type = 1 });
    }

    /// The file, from the start of a page. The caller frees it.
    pub fn build(self: *const Sample) ![]align(std.heap.page_size_min) u8 {
        var file: std.ArrayList(u8) = .empty;
        defer file.deinit(self.gpa);
        try file.appendSlice(self.gpa, "GGUF");
        try put(self.gpa, &file, self.version);
        try put(self.gpa, &file, self.tensor_count);
        try put(self.gpa, &file, self.value_count);
        try file.appendSlice(self.gpa, self.values.items);
        try file.appendSlice(self.gpa, self.tensors.items);
        if (self.tensor_count > 0) {
            const data_offset = std.mem.alignForward(u64, file.items.len, self.alignment);
            try file.appendNTimes(self.gpa, 0, data_offset - file.items.len);
        }
        for (0..self.data_bytes) |i| try file.append(self.gpa, @truncate(i *% 31 +% i / 256));
        const page = comptime std.mem.Alignment.fromByteUnits(std.heap.page_size_min);
        const result = try self.gpa.alignedAlloc(u8, page, file.items.len);
        @memcpy(result, file.items);
        return result;
    }
};

/// The head of an array: the type and number of its elements.
pub fn array_head(kind: u32, count: u64) [12]u8 {
    return @as([4]u8, @bitCast(kind)) ++ @as([8]u8, @bitCast(count));
}

fn size_of(spec: TensorSpec) u64 {
    const kind = gguf_type.tensor_type(spec.type) orelse return 0;
    var elements: u64 = 1;
    for (spec.ne) |ne| elements *|= ne;
    return elements / kind.block_elements *| kind.block_bytes;
}

fn put(gpa: std.mem.Allocator, list: *std.ArrayList(u8), item: anytype) !void {
    try list.appendSlice(gpa, std.mem.asBytes(&item));
}

fn put_string(gpa: std.mem.Allocator, list: *std.ArrayList(u8), text: []const u8) !void {
    try put(gpa, list, @as(u64, text.len));
    try list.appendSlice(gpa, text);
}
