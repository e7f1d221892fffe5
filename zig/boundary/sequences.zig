//! Sequences of an engine, between its jobs.

const status = @import("../status.zig");
const structs = @import("structs.zig");
const objects = @import("objects.zig");

pub fn read_bounds(handle: u32, sequence: i32, out: *structs.Bounds) status.Error!void {
    const engine = try objects.engines.get(handle);
    try engine.lock_memory(&.{});
    defer engine.unlock_memory();
    const bounds = try engine.memory.bounds(sequence);
    out.* = .{ .min = bounds.min, .end = bounds.end };
}

pub fn clear(handle: u32, sequence: i32) status.Error!void {
    const engine = try objects.engines.get(handle);
    try engine.lock_memory(&.{sequence});
    defer engine.unlock_memory();
    try engine.memory.clear(sequence);
}

pub fn remove(handle: u32, sequence: i32, from: i32, to: i32) status.Error!void {
    const engine = try objects.engines.get(handle);
    try engine.lock_memory(&.{sequence});
    defer engine.unlock_memory();
    try engine.memory.remove(sequence, from, to);
}

/// Makes `destination` hold positions `[from, to)` of `source`.
pub fn copy(handle: u32, source: i32, destination: i32, from: i32, to: i32) status.Error!void {
    const engine = try objects.engines.get(handle);
    try engine.lock_memory(&.{ source, destination });
    defer engine.unlock_memory();
    try engine.memory.copy(source, destination, from, to);
}

/// Empties all sequences but one.
pub fn keep(handle: u32, sequence: i32) status.Error!void {
    const engine = try objects.engines.get(handle);
    try engine.lock_others(sequence);
    defer engine.unlock_memory();
    try engine.memory.keep(sequence);
}

/// Finds the longest beginning that a sequence can go on from, and copies the name of what kept it from more.
pub fn find_resumable(
    handle: u32,
    sequence: i32,
    position: i32,
    snapshots: []const u32,
    out: *structs.Resumable,
    name: []u8,
) status.Error!void {
    const engine = try objects.engines.get(handle);
    try engine.lock_memory(&.{});
    defer engine.unlock_memory();
    const found = try engine.memory.resumable(sequence, position, snapshots);
    var buffer: [64]u8 = undefined;
    const text = if (found.limit) |pool| pool.describe(&buffer) else "";
    const length = @min(text.len, name.len);
    @memcpy(name[0..length], text[0..length]);
    out.* = .{
        .position = found.position,
        .snapshot = if (found.snapshot) |index| @intCast(index) else -1,
        .name_length = @intCast(length),
    };
}

/// Copies the tokens that a sequence was fed, as far as there is room; `count` is how many there are.
pub fn tokens(handle: u32, sequence: i32, out: []i32, count: *u32) status.Error!void {
    const engine = try objects.engines.get(handle);
    try engine.lock_memory(&.{});
    defer engine.unlock_memory();
    const history = &engine.memory.histories[try engine.memory.check_sequence(sequence)];
    const all = history.tokens();
    const some = @min(out.len, all.len);
    @memcpy(out[0..some], all[0..some]);
    count.* = @intCast(all.len);
}
