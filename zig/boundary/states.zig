//! Saved states: files of sequences and their snapshots.

const status = @import("../status.zig");
const structs = @import("structs.zig");
const objects = @import("objects.zig");
const engine_file = @import("../engine.zig");
const memory_state = @import("../memory_state.zig");
const state_file = @import("../state_file.zig");
const Job = engine_file.Job;
const SharedState = engine_file.SharedState;
const gpa = objects.gpa;

pub fn open(path: []const u8, out: *u32) status.Error!void {
    var inner: memory_state.State = try .open(gpa, path);
    const state = SharedState.create(gpa, inner) catch |err| {
        inner.deinit();
        return err;
    };
    errdefer state.release();
    out.* = try objects.states.add(gpa, state);
}

pub fn close(handle: u32) status.Error!void {
    (try objects.states.remove(handle)).release();
}

pub fn info(handle: u32, out: *structs.StateInfo) status.Error!void {
    const state = &(try objects.states.get(handle)).value;
    const identity = state.reader.identity();
    var snapshots: u32 = 0;
    for (state.holders) |one| snapshots += one.is_snapshot;
    out.* = .{
        .version = state_file.version,
        .sequences = @intCast(state.holders.len - snapshots),
        .snapshots = snapshots,
        .sections = @intCast(state.reader.sections.len),
        .bytes = @floatFromInt(state.reader.mapped.len),
        .fingerprint = identity.fingerprint,
        .declaration_low = @truncate(identity.declaration),
        .declaration_high = @truncate(identity.declaration >> 32),
    };
}

/// Checks every byte of the file.
pub fn verify(handle: u32) status.Error!void {
    try (try objects.states.get(handle)).value.verify();
}

pub fn holder(handle: u32, index: u32, out: *structs.HolderInfo) status.Error!void {
    const state = &(try objects.states.get(handle)).value;
    if (index >= state.holders.len) {
        return status.fail(error.NotFound, "the state has {d} sequences and snapshots, and number {d} was asked for", .{ state.holders.len, index });
    }
    out.* = state.holders[index];
}

pub fn tokens(handle: u32, index: u32, out: []i32, count: *u32) status.Error!void {
    var of: structs.HolderInfo = undefined;
    try holder(handle, index, &of);
    const state = &(try objects.states.get(handle)).value;
    const all = (try state.history(index)).tokens;
    const some = @min(out.len, all.len);
    @memcpy(out[0..some], all[0..some]);
    count.* = @intCast(all.len);
}

pub fn save(handle: u32, id: u32, path: []const u8, holders: []const structs.HolderRef) status.Error!void {
    const engine = try objects.engines.get(handle);
    const own = try gpa.dupe(structs.HolderRef, holders);
    const copy = gpa.dupe(u8, path) catch |err| {
        gpa.free(own);
        return err;
    };
    try submit(engine, id, .{ .holders = own, .action = .{ .save = copy } });
}

pub fn restore(handle: u32, id: u32, state: u32, holders: []const structs.HolderRef) status.Error!void {
    const engine = try objects.engines.get(handle);
    const shared = try objects.states.get(state);
    const own = try gpa.dupe(structs.HolderRef, holders);
    try submit(engine, id, .{ .holders = own, .action = .{ .restore = shared.retain() } });
}

/// Takes over the work, also when it fails.
fn submit(engine: *engine_file.Engine, id: u32, work: engine_file.StateWork) status.Error!void {
    const job = gpa.create(Job) catch |err| {
        var refused = work;
        refused.deinit(gpa);
        return err;
    };
    job.* = .{
        .id = id,
        .tokens = .empty,
        .requests = &.{},
        .samplers = &.{},
        .state = work,
        .steps_max = 1,
        .ignore_stops = true,
    };
    try engine.submit(job);
}
