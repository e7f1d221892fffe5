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
