//! Engines and their jobs.

const std = @import("std");
const status = @import("../status.zig");
const structs = @import("structs.zig");
const objects = @import("objects.zig");
const batch_file = @import("../batch.zig");
const engine_file = @import("../engine.zig");
const memory_layout = @import("../memory_layout.zig");
const Engine = engine_file.Engine;
const SharedSampler = @import("../engine.zig").SharedSampler;
const gpa = objects.gpa;

pub fn new(
    model: u32,
    queue: u32,
    declarations: []const structs.MemoryDeclaration,
    config: structs.EngineConfig,
    out: *u32,
) status.Error!void {
    const engine = try Engine.create(gpa, try objects.models.get(model), try objects.queues.get(queue), declarations, config);
    errdefer engine.destroy();
    engine.handle = try objects.engines.add(gpa, engine);
    engine.start() catch |err| {
        _ = try objects.engines.remove(engine.handle);
        return err;
    };
    out.* = engine.handle;
}

pub fn close(handle: u32) status.Error!void {
    (try objects.engines.remove(handle)).close();
}

pub fn stops(handle: u32, tokens: []const i32) status.Error!void {
    const engine = try objects.engines.get(handle);
    for (tokens) |token| if (token < 0 or token >= engine.config.vocabulary) {
        return status.fail(error.InvalidArgument, "token {d} does not exist; the vocabulary has {d} tokens", .{ token, engine.config.vocabulary });
    };
    @memset(engine.is_stop, false);
    for (tokens) |token| engine.is_stop[@intCast(token)] = true;
}

pub fn counters(handle: u32, out: *structs.Counters) status.Error!void {
    out.* = (try objects.engines.get(handle)).read_counters();
}

pub fn submit(
    handle: u32,
    id: u32,
    tokens: []const i32,
    requests: []const structs.Request,
    marks: []const structs.Mark,
    steps_max: u32,
    flags: u32,
) status.Error!void {
    const engine = try objects.engines.get(handle);
    const job = try gpa.create(engine_file.Job);
    job.* = .{
        .id = id,
        .tokens = .empty,
        .requests = &.{},
        .samplers = &.{},
        .steps_max = @max(steps_max, 1),
        .ignore_stops = flags & 1 != 0,
    };
    fill_job(job, tokens, requests, marks) catch |err| {
        job.destroy(gpa);
        return err;
    };
    try engine.submit(job);
}

/// Queues something to be done to a sequence between steps.
pub fn task(handle: u32, id: u32, what: structs.Task) status.Error!void {
    const engine = try objects.engines.get(handle);
    const job = try gpa.create(engine_file.Job);
    job.* = .{
        .id = id,
        .tokens = .empty,
        .requests = &.{},
        .samplers = &.{},
        .task = what,
        .steps_max = 1,
        .ignore_stops = true,
    };
    try engine.submit(job);
}

fn fill_job(
    job: *engine_file.Job,
    tokens: []const i32,
    requests: []const structs.Request,
    marks: []const structs.Mark,
) status.Error!void {
    try job.tokens.appendSlice(gpa, tokens);
    job.requests = try gpa.dupe(structs.Request, requests);
    job.marks = try gpa.dupe(structs.Mark, marks);
    job.samplers = try gpa.alloc(?*SharedSampler, requests.len);
    @memset(job.samplers, null);
    for (requests, job.samplers) |request, *sampler| {
        if (std.enums.fromInt(batch_file.Logits, @backingInt(request.logits)) == null) {
            return status.fail(error.InvalidArgument, "logits can be wanted of none, the last or all tokens", .{});
        }
        if (request.sampler != 0) sampler.* = (try objects.samplers.get(request.sampler)).retain();
    }
}

pub fn stop(handle: u32, job: u32, at_once: u32) status.Error!void {
    (try objects.engines.get(handle)).stop(job, at_once != 0);
}

pub fn logits(handle: u32, job: u32, row: u32, out: []f32) status.Error!void {
    try (try objects.engines.get(handle)).read_logits(job, row, out);
}

pub fn measure(
    declarations: []const structs.MemoryDeclaration,
    config: structs.EngineConfig,
    out: []structs.MemoryShare,
    totals: *structs.MemoryTotals,
) status.Error!void {
    try config.check();
    var layout: memory_layout.Layout = try .init(gpa, declarations, config.memory());
    defer layout.deinit();
    totals.* = layout.measure(declarations, out);
}
