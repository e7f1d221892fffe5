//! Weights, and the thread that loads them.

const std = @import("std");
const status = @import("../status.zig");
const structs = @import("structs.zig");
const objects = @import("objects.zig");
const model_file = @import("../model.zig");
const SharedModel = model_file.SharedModel;
const SharedQueue = @import("../engine.zig").SharedQueue;
const gpa = objects.gpa;

pub fn new(file: u32, weights: u32, out: *u32) status.Error!void {
    const owner = try objects.files.get(file);
    const model = SharedModel.create(gpa, try .init(gpa, owner, weights)) catch |err| {
        owner.release();
        return err;
    };
    errdefer model.release();
    out.* = try objects.models.add(gpa, model);
}

pub fn free(handle: u32) status.Error!void {
    const model = try objects.models.remove(handle);
    model.value.progress.cancelled.store(true, .monotonic);
    model.release();
}

pub fn add_weight(handle: u32, tensor: u32, use: i32, out: *i32) status.Error!void {
    const model = try objects.models.get(handle);
    const checked = std.enums.fromInt(model_file.Use, use) orelse {
        return status.fail(error.InvalidArgument, "a weight has no use {d}", .{use});
    };
    out.* = @intCast(try model.value.add(tensor, checked));
}

pub fn info(handle: u32, out: *structs.ModelInfo) status.Error!void {
    const model = &(try objects.models.get(handle)).value;
    out.* = .{
        .mapped_bytes = @floatFromInt(model.count_mapped()),
        .repacked_bytes = @floatFromInt(if (model.loaded) model.repacked_bytes else model.count_repacked()),
    };
}

pub fn load(handle: u32, queue_handle: u32) status.Error!void {
    const model = (try objects.models.get(handle)).retain();
    errdefer model.release();
    const queue = (try objects.queues.get(queue_handle)).retain();
    errdefer queue.release();
    const thread = std.Thread.spawn(.{}, load_main, .{ model, queue, handle }) catch |err| {
        return status.fail(error.OutOfMemory, "the loading thread could not be started ({t})", .{err});
    };
    thread.detach();
}

fn load_main(model: *SharedModel, queue: *SharedQueue, handle: u32) void {
    model.value.progress_to = .{ .queue = &queue.value, .source = handle };
    const result = model.value.load();
    const result_code = status.code(result);
    queue.value.post(
        .{ .kind = .done, .source = handle, .job = 0, .status = result_code },
        if (result_code == 0) "" else status.message(),
    );
    model.release();
    queue.release();
}

pub fn cancel(handle: u32) status.Error!void {
    (try objects.models.get(handle)).value.progress.cancelled.store(true, .monotonic);
}
