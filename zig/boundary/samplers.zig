//! Sampling chains.

const status = @import("../status.zig");
const structs = @import("structs.zig");
const objects = @import("objects.zig");
const sampler_file = @import("../sampler.zig");
const SharedSampler = @import("../engine.zig").SharedSampler;
const gpa = objects.gpa;

pub fn new(vocabulary: u32, config: structs.SamplerConfig, ids: []const u32, values: []const f32, out: *u32) status.Error!void {
    var value: sampler_file.Sampler = try .init(gpa, vocabulary, config, ids, values);
    const sampler = SharedSampler.create(gpa, value) catch |err| {
        value.deinit();
        return err;
    };
    errdefer sampler.release();
    out.* = try objects.samplers.add(gpa, sampler);
}

pub fn free(handle: u32) status.Error!void {
    (try objects.samplers.remove(handle)).release();
}

pub fn accept(handle: u32, tokens: []const i32) status.Error!void {
    const sampler = try objects.samplers.get(handle);
    for (tokens) |token| {
        if (token < 0) return status.fail(error.InvalidArgument, "token {d} does not exist", .{token});
        try sampler.value.accept(@intCast(token));
    }
}
