//! Snapshots of an engine's sequences.

const status = @import("../status.zig");
const structs = @import("structs.zig");
const objects = @import("objects.zig");

pub fn new(handle: u32, out: *u32) status.Error!void {
    const engine = try objects.engines.get(handle);
    try engine.lock_memory(&.{});
    defer engine.unlock_memory();
    out.* = try engine.memory.reserve_snapshot();
}

pub fn drop(handle: u32, snapshot: u32) status.Error!void {
    const engine = try objects.engines.get(handle);
    try engine.lock_memory(&.{});
    defer engine.unlock_memory();
    try engine.memory.drop_snapshot(snapshot);
}

pub fn restore(handle: u32, snapshot: u32, sequence: i32) status.Error!void {
    const engine = try objects.engines.get(handle);
    try engine.lock_memory(&.{sequence});
    defer engine.unlock_memory();
    try engine.memory.restore_snapshot(snapshot, try engine.memory.check_sequence(sequence));
}

pub fn info(handle: u32, snapshot: u32, out: *structs.SnapshotInfo) status.Error!void {
    const engine = try objects.engines.get(handle);
    try engine.lock_memory(&.{});
    defer engine.unlock_memory();
    const holder = try engine.memory.snapshot_holder(snapshot);
    out.* = .{
        .position = engine.memory.bounds_of(holder).end,
        .tokens = @intCast(engine.memory.histories[holder].len()),
        .bytes = @floatFromInt(engine.memory.layout.bytes_per_snapshot),
    };
}

/// For tests of provenance: makes the books wrong in a way that a step must notice.
pub fn plant_fault(handle: u32, kind: i32, first: i32, second: i32) status.Error!void {
    const engine = try objects.engines.get(handle);
    try engine.lock_memory(&.{ first, second });
    defer engine.unlock_memory();
    const a = try engine.memory.check_sequence(first);
    const b = try engine.memory.check_sequence(second);
    try engine.memory.plant_fault(kind, a, b);
}
