//! Model files: header, metadata, tensor table.

const status = @import("../status.zig");
const structs = @import("structs.zig");
const objects = @import("objects.zig");
const gguf = @import("../gguf.zig");
const SharedFile = @import("../model.zig").SharedFile;
const gpa = objects.gpa;

pub fn open(path: []const u8, out: *u32) status.Error!void {
    const inner = try gguf.File.open(gpa, path);
    const file = SharedFile.create(gpa, .{ .inner = inner }) catch |err| {
        inner.close();
        return err;
    };
    errdefer file.release();
    out.* = try objects.files.add(gpa, file);
}

pub fn close(handle: u32) status.Error!void {
    (try objects.files.remove(handle)).release();
}

pub fn info(handle: u32, out: *structs.FileInfo) status.Error!void {
    const file = (try objects.files.get(handle)).value.inner;
    out.* = .{
        .parts = @intCast(file.parts.items.len),
        .values = file.value_count(),
        .tensors = file.tensor_count(),
        .file_bytes = @floatFromInt(file.size_bytes),
        .tensor_bytes = @floatFromInt(file.tensor_bytes),
    };
}

pub fn describe_value(handle: u32, index: u32, out: *structs.ValueInfo) status.Error!void {
    const file = (try objects.files.get(handle)).value.inner;
    if (index >= file.value_count()) {
        return status.fail(error.NotFound, "the file has {d} metadata values, and number {d} was asked for", .{ file.value_count(), index });
    }
    const value = file.value(index);
    out.* = .{
        .type = @backingInt(value.type),
        .element_type = @backingInt(value.element_type),
        .key_offset = @floatFromInt(@intFromPtr(value.key.ptr) - @intFromPtr(file.parts.items[0].bytes.ptr)),
        .key_bytes = @floatFromInt(value.key.len),
        .offset = @floatFromInt(value.offset),
        .size_bytes = @floatFromInt(value.size_bytes),
        .count = @floatFromInt(value.count),
    };
}

pub fn read(handle: u32, offset: f64, out: []u8) status.Error!void {
    const file = (try objects.files.get(handle)).value.inner;
    const header_bytes = file.parts.items[0].header_bytes;
    if (!(offset >= 0) or offset > @as(f64, @floatFromInt(header_bytes))) {
        return status.fail(error.InvalidArgument, "offset {d} lies outside the header", .{offset});
    }
    const from: u64 = @trunc(offset);
    if (out.len > header_bytes - from) {
        return status.fail(error.InvalidArgument, "{d} bytes at {d} reach past the header", .{ out.len, from });
    }
    @memcpy(out, file.bytes(from, out.len).?);
}

pub fn describe_tensor(handle: u32, index: u32, out: *structs.FileTensorInfo) status.Error!void {
    const file = (try objects.files.get(handle)).value.inner;
    if (index >= file.tensor_count()) {
        return status.fail(error.NotFound, "the file has {d} tensors, and number {d} was asked for", .{ file.tensor_count(), index });
    }
    const tensor = file.tensor(index);
    out.* = .{
        .name = @splat(0),
        .type = @intCast(tensor.type),
        .dims = @intCast(tensor.n_dims),
        .ne = undefined,
        .size_bytes = @floatFromInt(tensor.size_bytes),
    };
    @memcpy(out.name[0..tensor.name.len], tensor.name);
    for (&out.ne, tensor.ne) |*to, from| to.* = @floatFromInt(from);
}
