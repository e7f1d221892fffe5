//! The objects that foreigners hold handles of, by the nouns that users know: a model that is loaded is an engine here.

const std = @import("std");
const handles = @import("../handles.zig");
const engine_file = @import("../engine.zig");
const model_file = @import("../model.zig");
const Graph = @import("../graph.zig").Graph;

pub const gpa = std.heap.c_allocator;

pub var files: handles.Table(model_file.SharedFile, "model file") = .{};
pub var models: handles.Table(model_file.SharedModel, "model") = .{};
pub var queues: handles.Table(engine_file.SharedQueue, "event queue") = .{};
pub var samplers: handles.Table(engine_file.SharedSampler, "sampler") = .{};
pub var engines: handles.Table(engine_file.Engine, "model") = .{};
pub var graphs: handles.Table(Graph, "graph") = .{};
pub var states: handles.Table(engine_file.SharedState, "saved state") = .{};
