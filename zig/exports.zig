//! The whole boundary: every function that the library exports, and every struct that crosses it. The TypeScript side
//! is generated from this file by reflection (`zig build abi`).
//!
//! A function returns a `Status` and writes its results through pointers; the sentence of a failure is fetched with
//! `strata_last_error` on the same thread. Objects are known by handles.

const std = @import("std");
const builtin = @import("builtin");
const c = @import("ggml");
pub const describe = @import("describe.zig");
pub const ops = @import("ops.zig");
pub const status = @import("status.zig");
pub const queue_file = @import("queue.zig");
pub const declaration = @import("declaration.zig");
pub const batch_file = @import("batch.zig");
pub const model_file = @import("model.zig");
pub const graph_file = @import("graph.zig");
const gguf = @import("gguf.zig");
const handles = @import("handles.zig");
const memory_file = @import("memory.zig");
const memory_ops = @import("memory_ops.zig");
const engine_file = @import("engine.zig");
const sampler_file = @import("sampler.zig");
const Shared = @import("shared.zig").Shared;
const Engine = engine_file.Engine;
const Graph = graph_file.Graph;
const SharedFile = model_file.SharedFile;
const SharedModel = model_file.SharedModel;
const SharedQueue = engine_file.SharedQueue;
const SharedSampler = engine_file.SharedSampler;

const gpa = std.heap.c_allocator;

var files: handles.Table(SharedFile, "model file") = .{};
var models: handles.Table(SharedModel, "model") = .{};
var queues: handles.Table(SharedQueue, "event queue") = .{};
var samplers: handles.Table(SharedSampler, "sampler") = .{};
var engines: handles.Table(Engine, "engine") = .{};
var graphs: handles.Table(Graph, "graph") = .{};

/// Structs that cross the boundary.
pub const structs = struct {
    pub const LibraryInfo = extern struct {
        abi_hash: u32,
        /// 1 where assertions of the Zig code are compiled in.
        is_debug: u32,
        ggml_version: [16]u8,
    };

    pub const FileInfo = extern struct {
        parts: u32,
        values: u32,
        tensors: u32,
        padding: u32 = 0,
        /// Of all parts together.
        file_bytes: f64,
        tensor_bytes: f64,
        fingerprint: [16]u8,
    };

    /// A metadata value: where its bytes lie in the first part.
    pub const ValueInfo = extern struct {
        type: u32,
        element_type: u32,
        key_offset: f64,
        key_bytes: f64,
        offset: f64,
        size_bytes: f64,
        count: f64,
    };

    pub const FileTensorInfo = extern struct {
        name: [64]u8,
        type: i32,
        dims: i32,
        ne: [4]f64,
        size_bytes: f64,
    };

    /// A tensor of a graph under construction. f64 holds every size a tensor can have.
    pub const TensorInfo = extern struct {
        number: i32,
        type: i32,
        ne: [4]f64,
        nb: [4]f64,
    };

    /// Operands of `strata_graph_op`, each kind in the order of the operation's parameters; tensor -1 = left out.
    pub const OpArguments = extern struct {
        tensors: [8]i32,
        ints: [10]i32,
        floats: [8]f32,
    };

    pub const ScanArguments = extern struct {
        memory: i32,
        state: i32,
        x: i32,
        dt: i32,
        dt_bias: i32,
        a: i32,
        b: i32,
        c: i32,
        d: i32,
        shape_head_dim: i32,
        shape_heads: i32,
        shape_groups: i32,
        shape_state_size: i32,
    };

    pub const GraphInfo = extern struct {
        nodes: i32,
        padding: i32 = 0,
        compute_bytes: f64,
    };

    pub const LoadInfo = extern struct {
        weights: u32,
        repacked: u32,
        repacked_bytes: f64,
    };

    pub const Bounds = extern struct { min: i32, end: i32 };
    pub const TypeInfo = extern struct { block_elements: i32, block_bytes: i32, name: [16]u8 };
    pub const Event = queue_file.Event;
    pub const MemoryDeclaration = declaration.MemoryDeclaration;
    pub const MemoryShare = memory_file.Share;
    pub const Request = batch_file.Request;
    pub const EngineConfig = engine_file.Config;
    pub const SamplerConfig = sampler_file.Config;
    pub const Counters = engine_file.Counters;
};

/// Turns a function's error into its status code.
fn code(result: status.Error!void) i32 {
    return @backingInt(if (result) |_| status.Status.ok else |err| status.from_error(err));
}

pub const functions = struct {
    // ---- the library ----

    pub fn strata_library_info(out: *structs.LibraryInfo) callconv(.c) i32 {
        out.* = .{ .abi_hash = abi_hash, .is_debug = @intFromBool(builtin.mode == .debug or builtin.mode == .safe), .ggml_version = @splat(0) };
        const version = std.mem.span(c.ggml_version());
        const length = @min(version.len, out.ggml_version.len - 1);
        @memcpy(out.ggml_version[0..length], version[0..length]);
        c.ggml_log_set(log_faults, null);
        _ = c.ggml_set_abort_callback(explain_abort);
        return code({});
    }

    /// The sentence of this thread's last failure; its whole length goes to `length`.
    pub fn strata_last_error(out: [*]u8, capacity: u32, length: *u32) callconv(.c) i32 {
        const text = status.message();
        @memcpy(out[0..@min(capacity, text.len)], text[0..@min(capacity, text.len)]);
        length.* = @intCast(text.len);
        return code({});
    }

    /// Milliseconds of the clock that events are stamped with.
    pub fn strata_clock(out: *f64) callconv(.c) i32 {
        out.* = queue_file.now_ms();
        return code({});
    }

    /// Facts of a ggml type.
    pub fn strata_type_info(kind: i32, out: *structs.TypeInfo) callconv(.c) i32 {
        return code(type_info(kind, out));
    }

    // ---- events ----

    /// Opens an event queue. `read_end` is the descriptor of a pipe that becomes readable when events wait; the caller
    /// closes it.
    pub fn strata_queue_new(out: *u32, read_end: *i32) callconv(.c) i32 {
        return code(queue_new(out, read_end));
    }

    pub fn strata_queue_close(queue: u32) callconv(.c) i32 {
        return code(queue_close(queue));
    }

    /// Takes up to `capacity` events.
    pub fn strata_queue_drain(queue: u32, out: [*]structs.Event, capacity: u32, count: *u32) callconv(.c) i32 {
        return code(queue_drain(queue, out[0..capacity], count));
    }

    /// Fetches an event's sentence, once.
    pub fn strata_queue_message(queue: u32, number: u32, out: [*]u8, capacity: u32, length: *u32) callconv(.c) i32 {
        return code(queue_message(queue, number, out[0..capacity], length));
    }

    // ---- model files ----

    pub fn strata_file_open(path: [*]const u8, length: u32, out: *u32) callconv(.c) i32 {
        return code(file_open(path[0..length], out));
    }

    pub fn strata_file_close(file: u32) callconv(.c) i32 {
        return code(file_close(file));
    }

    pub fn strata_file_info(file: u32, out: *structs.FileInfo) callconv(.c) i32 {
        return code(file_info(file, out));
    }

    pub fn strata_file_value(file: u32, index: u32, out: *structs.ValueInfo) callconv(.c) i32 {
        return code(file_value(file, index, out));
    }

    /// Copies bytes of the first part's header.
    pub fn strata_file_read(file: u32, offset: f64, out: [*]u8, size: u32) callconv(.c) i32 {
        return code(file_read(file, offset, out[0..size]));
    }

    pub fn strata_file_tensor(file: u32, index: u32, out: *structs.FileTensorInfo) callconv(.c) i32 {
        return code(file_tensor(file, index, out));
    }

    // ---- weights ----

    /// Begins a model of up to `weights` weights.
    pub fn strata_model_new(file: u32, weights: u32, out: *u32) callconv(.c) i32 {
        return code(model_new(file, weights, out));
    }

    pub fn strata_model_free(model: u32) callconv(.c) i32 {
        return code(model_free(model));
    }

    /// Declares the file's tensor `tensor` as a weight for one use (`Use`).
    pub fn strata_model_weight(model: u32, tensor: u32, use: i32, out: *i32) callconv(.c) i32 {
        return code(model_weight(model, tensor, use, out));
    }

    /// Loads on a thread of its own; `progress` events follow, then `done`.
    pub fn strata_model_load(model: u32, queue: u32) callconv(.c) i32 {
        return code(model_load(model, queue));
    }

    pub fn strata_model_cancel(model: u32) callconv(.c) i32 {
        return code(model_cancel(model));
    }

    pub fn strata_model_info(model: u32, out: *structs.LoadInfo) callconv(.c) i32 {
        return code(model_info(model, out));
    }

    // ---- engines ----

    pub fn strata_engine_new(
        model: u32,
        queue: u32,
        declarations: [*]const structs.MemoryDeclaration,
        count: u32,
        config: *const structs.EngineConfig,
        out: *u32,
    ) callconv(.c) i32 {
        return code(engine_new(model, queue, declarations[0..count], config.*, out));
    }

    /// Cancels what runs and ends the engine; a `closed` event follows.
    pub fn strata_engine_close(engine: u32) callconv(.c) i32 {
        return code(engine_close(engine));
    }

    /// Tokens after which a job with several steps ends.
    pub fn strata_engine_stops(engine: u32, tokens: [*]const i32, count: u32) callconv(.c) i32 {
        return code(engine_stops(engine, tokens[0..count]));
    }

    pub fn strata_engine_counters(engine: u32, out: *structs.Counters) callconv(.c) i32 {
        return code(engine_counters(engine, out));
    }

    /// Queues a job: `requests` take the tokens in order. It runs its batch and then, with samplers, up to
    /// `steps_max - 1` steps of one token each. Flag 1: stop tokens do not end it.
    pub fn strata_engine_submit(
        engine: u32,
        job: u32,
        tokens: [*]const i32,
        token_count: u32,
        requests: [*]const structs.Request,
        request_count: u32,
        steps_max: u32,
        flags: u32,
    ) callconv(.c) i32 {
        return code(engine_submit(engine, job, tokens[0..token_count], requests[0..request_count], steps_max, flags));
    }

    /// Ends a job at once (`at_once` = 1) or after its running step.
    pub fn strata_engine_stop(engine: u32, job: u32, at_once: u32) callconv(.c) i32 {
        return code(engine_stop(engine, job, at_once));
    }

    pub fn strata_engine_logits(engine: u32, job: u32, row: u32, out: [*]f32, count: u32) callconv(.c) i32 {
        return code(engine_logits(engine, job, row, out[0..count]));
    }

    // ---- sequences ----

    pub fn strata_sequence_bounds(engine: u32, sequence: i32, out: *structs.Bounds) callconv(.c) i32 {
        return code(sequence_bounds(engine, sequence, out));
    }

    pub fn strata_sequence_clear(engine: u32, sequence: i32) callconv(.c) i32 {
        return code(sequence_clear(engine, sequence));
    }

    pub fn strata_sequence_remove(engine: u32, sequence: i32, from: i32, to: i32) callconv(.c) i32 {
        return code(sequence_remove(engine, sequence, from, to));
    }

    pub fn strata_sequence_copy(engine: u32, source: i32, destination: i32) callconv(.c) i32 {
        return code(sequence_copy(engine, source, destination));
    }

    /// Bytes of each declared memory, before anything is allocated.
    pub fn strata_memory_measure(
        declarations: [*]const structs.MemoryDeclaration,
        count: u32,
        config: *const structs.EngineConfig,
        out: [*]structs.MemoryShare,
    ) callconv(.c) i32 {
        return code(memory_measure(declarations[0..count], config.*, out[0..count]));
    }

    // ---- samplers ----

    pub fn strata_sampler_new(
        vocabulary: u32,
        config: *const structs.SamplerConfig,
        bias_ids: [*]const u32,
        bias_values: [*]const f32,
        bias_count: u32,
        out: *u32,
    ) callconv(.c) i32 {
        return code(sampler_new(vocabulary, config.*, bias_ids[0..bias_count], bias_values[0..bias_count], out));
    }

    pub fn strata_sampler_free(sampler: u32) callconv(.c) i32 {
        return code(sampler_free(sampler));
    }

    /// Lets the penalties see tokens that were not drawn, such as the prompt's.
    pub fn strata_sampler_accept(sampler: u32, tokens: [*]const i32, count: u32) callconv(.c) i32 {
        return code(sampler_accept(sampler, tokens[0..count]));
    }

    // ---- graphs ----

    pub fn strata_graph_new(engine: u32, rows: u32, outputs: u32, nodes_max: u32, out: *u32) callconv(.c) i32 {
        return code(graph_new(engine, rows, outputs, nodes_max, out));
    }

    /// Frees a graph that was not finished.
    pub fn strata_graph_abandon(graph: u32) callconv(.c) i32 {
        return code(graph_abandon(graph));
    }

    /// Ends the building and gives the graph to the engine, which keeps it for its shape. The handle ends.
    pub fn strata_graph_finish(engine: u32, graph: u32, logits: i32, out: *structs.GraphInfo) callconv(.c) i32 {
        return code(graph_finish(engine, graph, logits, out));
    }

    /// Frees the engine's kept graph of a shape.
    pub fn strata_graph_drop(engine: u32, rows: u32, outputs: u32) callconv(.c) i32 {
        return code(graph_drop(engine, rows, outputs));
    }

    pub fn strata_graph_input(graph: u32, which: i32, out: *structs.TensorInfo) callconv(.c) i32 {
        return code(graph_input(graph, which, out));
    }

    pub fn strata_graph_weight(engine: u32, graph: u32, weight: i32, out: *structs.TensorInfo) callconv(.c) i32 {
        return code(graph_weight(engine, graph, weight, out));
    }

    pub fn strata_graph_op(graph: u32, op: u32, arguments: *const structs.OpArguments, out: *structs.TensorInfo) callconv(.c) i32 {
        return code(graph_op(graph, op, arguments, out));
    }

    /// Stores keys and values in a memory (unless they are -1) and attends to what each token's sequence holds.
    pub fn strata_graph_attend(
        graph: u32,
        memory: i32,
        queries: i32,
        keys: i32,
        values: i32,
        scale: f32,
        softcap: f32,
        out: *structs.TensorInfo,
    ) callconv(.c) i32 {
        return code(graph_attend(graph, memory, queries, keys, values, .{ .scale = scale, .softcap = softcap }, out));
    }

    pub fn strata_graph_convolve(
        graph: u32,
        memory: i32,
        state: i32,
        x: i32,
        weight: i32,
        bias: i32,
        silu: u32,
        out: *structs.TensorInfo,
    ) callconv(.c) i32 {
        return code(graph_convolve(graph, memory, state, x, weight, bias, silu != 0, out));
    }

    pub fn strata_graph_scan(graph: u32, arguments: *const structs.ScanArguments, out: *structs.TensorInfo) callconv(.c) i32 {
        return code(graph_scan(graph, arguments, out));
    }
};

pub const abi_hash = describe.hash(describe.description(functions, structs));

comptime {
    for (@typeInfo(functions).@"struct".decl_names) |name| @export(&@field(functions, name), .{ .name = name });
}

// ---- behind the functions, in their order ----

fn log_faults(level: c.ggml_log_level, text: ?[*:0]const u8, data: ?*anyopaque) callconv(.c) void {
    _ = data;
    if (level == c.GGML_LOG_LEVEL_ERROR) std.debug.print("ggml: {s}", .{text orelse ""});
}

fn explain_abort(text: ?[*:0]const u8) callconv(.c) void {
    std.debug.print("strata: ggml gave up, which ends the process: {s}\nThis is a fault of Strata or of a plugin: a " ++
        "check before this operation is missing. Please report it with the model's name.\n", .{text orelse ""});
}

fn type_info(kind: i32, out: *structs.TypeInfo) status.Error!void {
    const entry = gguf.tensor_type(if (kind < 0) std.math.maxInt(u32) else @intCast(kind)) orelse {
        return status.fail(error.NotFound, "ggml has no type {d}", .{kind});
    };
    out.* = .{ .block_elements = @intCast(entry.block_elements), .block_bytes = @intCast(entry.block_bytes), .name = @splat(0) };
    @memcpy(out.name[0..entry.name.len], entry.name);
}

fn queue_new(out: *u32, read_end: *i32) status.Error!void {
    const queue = try SharedQueue.create(gpa, try .init(gpa));
    errdefer {
        _ = std.c.close(queue.value.read_end);
        queue.release();
    }
    out.* = try queues.add(gpa, queue);
    read_end.* = queue.value.read_end;
}

fn queue_close(handle: u32) status.Error!void {
    const queue = try queues.remove(handle);
    queue.value.close();
    queue.release();
}

fn queue_drain(handle: u32, out: []structs.Event, count: *u32) status.Error!void {
    const queue = try queues.get(handle);
    count.* = @intCast(queue.value.drain(out));
}

fn queue_message(handle: u32, number: u32, out: []u8, length: *u32) status.Error!void {
    const queue = try queues.get(handle);
    length.* = @intCast(queue.value.take_message(number, out));
}

fn file_open(path: []const u8, out: *u32) status.Error!void {
    const inner = try gguf.File.open(gpa, path);
    const file = SharedFile.create(gpa, .{ .inner = inner }) catch |err| {
        inner.close();
        return err;
    };
    errdefer file.release();
    out.* = try files.add(gpa, file);
}

fn file_close(handle: u32) status.Error!void {
    (try files.remove(handle)).release();
}

fn file_info(handle: u32, out: *structs.FileInfo) status.Error!void {
    const file = (try files.get(handle)).value.inner;
    out.* = .{
        .parts = @intCast(file.parts.items.len),
        .values = file.value_count(),
        .tensors = file.tensor_count(),
        .file_bytes = @floatFromInt(file.size_bytes),
        .tensor_bytes = @floatFromInt(file.tensor_bytes),
        .fingerprint = file.fingerprint(),
    };
}

fn file_value(handle: u32, index: u32, out: *structs.ValueInfo) status.Error!void {
    const file = (try files.get(handle)).value.inner;
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

fn file_read(handle: u32, offset: f64, out: []u8) status.Error!void {
    const file = (try files.get(handle)).value.inner;
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

fn file_tensor(handle: u32, index: u32, out: *structs.FileTensorInfo) status.Error!void {
    const file = (try files.get(handle)).value.inner;
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

fn model_new(file: u32, weights: u32, out: *u32) status.Error!void {
    const owner = try files.get(file);
    const model = SharedModel.create(gpa, try .init(gpa, owner, weights)) catch |err| {
        owner.release();
        return err;
    };
    errdefer model.release();
    out.* = try models.add(gpa, model);
}

fn model_free(handle: u32) status.Error!void {
    const model = try models.remove(handle);
    model.value.progress.cancelled.store(true, .monotonic);
    model.release();
}

fn model_weight(handle: u32, tensor: u32, use: i32, out: *i32) status.Error!void {
    const model = try models.get(handle);
    const checked = std.enums.fromInt(model_file.Use, use) orelse {
        return status.fail(error.InvalidArgument, "a weight has no use {d}", .{use});
    };
    out.* = @intCast(try model.value.add(tensor, checked));
}

fn model_load(handle: u32, queue_handle: u32) status.Error!void {
    const model = (try models.get(handle)).retain();
    errdefer model.release();
    const queue = (try queues.get(queue_handle)).retain();
    errdefer queue.release();
    const thread = std.Thread.spawn(.{}, load_main, .{ model, queue, handle }) catch |err| {
        return status.fail(error.OutOfMemory, "the loading thread could not be started ({t})", .{err});
    };
    thread.detach();
}

fn load_main(model: *SharedModel, queue: *SharedQueue, handle: u32) void {
    model.value.progress_to = .{ .queue = &queue.value, .source = handle };
    const result = model.value.load();
    const result_code = code(result);
    queue.value.post(
        .{ .kind = .done, .source = handle, .job = 0, .status = result_code },
        if (result_code == 0) "" else status.message(),
    );
    model.release();
    queue.release();
}

fn model_cancel(handle: u32) status.Error!void {
    (try models.get(handle)).value.progress.cancelled.store(true, .monotonic);
}

fn model_info(handle: u32, out: *structs.LoadInfo) status.Error!void {
    const model = &(try models.get(handle)).value;
    var repacked: u32 = 0;
    for (model.weights.items) |weight| repacked += @intFromBool(weight.repacked);
    out.* = .{
        .weights = @intCast(model.weights.items.len),
        .repacked = repacked,
        .repacked_bytes = @floatFromInt(model.repacked_bytes),
    };
}

fn engine_new(
    model: u32,
    queue: u32,
    declarations: []const structs.MemoryDeclaration,
    config: structs.EngineConfig,
    out: *u32,
) status.Error!void {
    const engine = try Engine.create(gpa, try models.get(model), try queues.get(queue), declarations, config);
    errdefer engine.destroy();
    engine.handle = try engines.add(gpa, engine);
    errdefer _ = engines.remove(engine.handle) catch unreachable; // it was just added
    try engine.start();
    out.* = engine.handle;
}

fn engine_close(handle: u32) status.Error!void {
    (try engines.remove(handle)).close();
}

fn engine_stops(handle: u32, tokens: []const i32) status.Error!void {
    const engine = try engines.get(handle);
    for (tokens) |token| if (token < 0 or token >= engine.config.vocabulary) {
        return status.fail(error.InvalidArgument, "token {d} does not exist; the vocabulary has {d} tokens", .{ token, engine.config.vocabulary });
    };
    @memset(engine.is_stop, false);
    for (tokens) |token| engine.is_stop[@intCast(token)] = true;
}

fn engine_counters(handle: u32, out: *structs.Counters) status.Error!void {
    out.* = (try engines.get(handle)).read_counters();
}

fn engine_submit(
    handle: u32,
    id: u32,
    tokens: []const i32,
    requests: []const structs.Request,
    steps_max: u32,
    flags: u32,
) status.Error!void {
    const engine = try engines.get(handle);
    const job = try gpa.create(engine_file.Job);
    job.* = .{
        .id = id,
        .tokens = .empty,
        .requests = &.{},
        .samplers = &.{},
        .steps_max = @max(steps_max, 1),
        .ignore_stops = flags & 1 != 0,
    };
    fill_job(job, tokens, requests) catch |err| {
        job.destroy(gpa);
        return err;
    };
    try engine.submit(job);
}

fn fill_job(job: *engine_file.Job, tokens: []const i32, requests: []const structs.Request) status.Error!void {
    try job.tokens.appendSlice(gpa, tokens);
    job.requests = try gpa.dupe(structs.Request, requests);
    job.samplers = try gpa.alloc(?*SharedSampler, requests.len);
    @memset(job.samplers, null);
    for (requests, job.samplers) |request, *sampler| {
        if (std.enums.fromInt(batch_file.Logits, @backingInt(request.logits)) == null) {
            return status.fail(error.InvalidArgument, "logits can be wanted of none, the last or all tokens", .{});
        }
        if (request.sampler != 0) sampler.* = (try samplers.get(request.sampler)).retain();
    }
}

fn engine_stop(handle: u32, job: u32, at_once: u32) status.Error!void {
    (try engines.get(handle)).stop(job, at_once != 0);
}

fn engine_logits(handle: u32, job: u32, row: u32, out: []f32) status.Error!void {
    try (try engines.get(handle)).read_logits(job, row, out);
}

fn sequence_bounds(handle: u32, sequence: i32, out: *structs.Bounds) status.Error!void {
    const engine = try engines.get(handle);
    try engine.lock_memory(&.{});
    defer engine.unlock_memory();
    const bounds = try engine.memory.bounds(sequence);
    out.* = .{ .min = bounds.min, .end = bounds.end };
}

fn sequence_clear(handle: u32, sequence: i32) status.Error!void {
    const engine = try engines.get(handle);
    try engine.lock_memory(&.{sequence});
    defer engine.unlock_memory();
    try engine.memory.clear(sequence);
}

fn sequence_remove(handle: u32, sequence: i32, from: i32, to: i32) status.Error!void {
    const engine = try engines.get(handle);
    try engine.lock_memory(&.{sequence});
    defer engine.unlock_memory();
    try engine.memory.remove(sequence, from, to);
}

fn sequence_copy(handle: u32, source: i32, destination: i32) status.Error!void {
    const engine = try engines.get(handle);
    try engine.lock_memory(&.{ source, destination });
    defer engine.unlock_memory();
    try engine.memory.copy(source, destination);
}

fn memory_measure(declarations: []const structs.MemoryDeclaration, config: structs.EngineConfig, out: []structs.MemoryShare) status.Error!void {
    try config.check();
    try memory_file.measure(declarations, .{
        .sequences = @intCast(config.sequences),
        .context = @intCast(config.context),
        .batch = @intCast(config.batch),
    }, gpa, out);
}

fn sampler_new(vocabulary: u32, config: structs.SamplerConfig, ids: []const u32, values: []const f32, out: *u32) status.Error!void {
    var value: sampler_file.Sampler = try .init(gpa, vocabulary, config, ids, values);
    const sampler = SharedSampler.create(gpa, value) catch |err| {
        value.deinit();
        return err;
    };
    errdefer sampler.release();
    out.* = try samplers.add(gpa, sampler);
}

fn sampler_free(handle: u32) status.Error!void {
    (try samplers.remove(handle)).release();
}

fn sampler_accept(handle: u32, tokens: []const i32) status.Error!void {
    const sampler = try samplers.get(handle);
    for (tokens) |token| {
        if (token < 0) return status.fail(error.InvalidArgument, "token {d} does not exist", .{token});
        try sampler.value.accept(@intCast(token));
    }
}

fn graph_new(handle: u32, rows: u32, outputs: u32, nodes_max: u32, out: *u32) status.Error!void {
    const engine = try engines.get(handle);
    if (rows < 1 or rows > engine.config.batch or outputs < 1 or outputs > rows) {
        return status.fail(error.InvalidArgument, "a graph of {d} rows and {d} outputs cannot be: a sub-batch has 1 to {d} " ++
            "rows, and 1 output to one for each row", .{ rows, outputs, engine.config.batch });
    }
    if (nodes_max < 16 or nodes_max > 1 << 20) {
        return status.fail(error.InvalidArgument, "a graph has room for 16 to {d} nodes, not {d}", .{ 1 << 20, nodes_max });
    }
    const graph = try Graph.create(gpa, .{
        .memory = &engine.memory,
        .step = &engine.step,
        .shape = .{ .rows = rows, .outputs = outputs },
        .nodes_max = nodes_max,
        .threads = @intCast(engine.config.threads),
    });
    errdefer graph.destroy();
    out.* = try graphs.add(gpa, graph);
}

fn graph_abandon(handle: u32) status.Error!void {
    (try graphs.remove(handle)).destroy();
}

fn graph_finish(engine_handle: u32, handle: u32, logits: i32, out: *structs.GraphInfo) status.Error!void {
    const engine = try engines.get(engine_handle);
    const graph = try graphs.get(handle);
    try graph.finish(logits, @intCast(engine.config.vocabulary));
    try engine.keep_graph(graph);
    _ = try graphs.remove(handle);
    out.* = .{
        .nodes = c.ggml_graph_n_nodes(graph.cgraph),
        .compute_bytes = @floatFromInt(graph.finished.?.layout.bytes),
    };
}

fn graph_drop(handle: u32, rows: u32, outputs: u32) status.Error!void {
    try (try engines.get(handle)).drop_graph(.{ .rows = rows, .outputs = outputs });
}

fn describe_tensor(graph: *Graph, number: i32, out: *structs.TensorInfo) status.Error!void {
    const tensor = try graph.get(number);
    out.number = number;
    out.type = @intCast(tensor.type);
    for (&out.ne, tensor.ne) |*to, from| to.* = @floatFromInt(from);
    for (&out.nb, tensor.nb) |*to, from| to.* = @floatFromInt(from);
}

fn graph_input(handle: u32, which: i32, out: *structs.TensorInfo) status.Error!void {
    const graph = try graphs.get(handle);
    const checked = std.enums.fromInt(graph_file.Input, which) orelse {
        return status.fail(error.InvalidArgument, "a graph has no input {d}", .{which});
    };
    try describe_tensor(graph, try graph.input(checked), out);
}

fn graph_weight(engine_handle: u32, handle: u32, weight: i32, out: *structs.TensorInfo) status.Error!void {
    const engine = try engines.get(engine_handle);
    const graph = try graphs.get(handle);
    const weights = engine.model.value.weights.items;
    if (weight < 0 or weight >= weights.len) {
        return status.fail(error.NotFound, "the model has {d} weights, and number {d} was asked for", .{ weights.len, weight });
    }
    try describe_tensor(graph, try graph.add(weights[@intCast(weight)].tensor), out);
}

/// How many operands of each kind an operation takes.
const OperandCounts = struct { tensors: usize = 0, ints: usize = 0, floats: usize = 0 };
const operand_counts: [ops.signatures.len]OperandCounts = blk: {
    var counts: [ops.signatures.len]OperandCounts = @splat(.{});
    for (ops.signatures, &counts) |signature, *count| for (signature.params) |param| switch (param) {
        .tensor, .optional_tensor => count.tensors += 1,
        .float => count.floats += 1,
        .int, .boolean, .enumeration => count.ints += 1,
    };
    break :blk counts;
};

fn graph_op(handle: u32, op: u32, arguments: *const structs.OpArguments, out: *structs.TensorInfo) status.Error!void {
    const graph = try graphs.get(handle);
    try graph.check_open();
    if (op >= operand_counts.len) return status.fail(error.NotFound, "there is no graph operation {d}", .{op});
    const counts = operand_counts[op];
    var tensors: [arguments.tensors.len]?*ops.Tensor = undefined;
    for (&tensors, arguments.tensors) |*to, number| to.* = try graph.get_optional(number);
    const result = try ops.dispatch(
        graph.context,
        op,
        tensors[0..counts.tensors],
        arguments.ints[0..counts.ints],
        arguments.floats[0..counts.floats],
    );
    try describe_tensor(graph, try graph.add(result), out);
}

fn graph_attend(
    handle: u32,
    memory: i32,
    queries: i32,
    keys: i32,
    values: i32,
    parameters: memory_ops.AttendParameters,
    out: *structs.TensorInfo,
) status.Error!void {
    const graph = try graphs.get(handle);
    try describe_tensor(graph, try graph.attend(memory, queries, keys, values, parameters), out);
}

fn graph_convolve(
    handle: u32,
    memory: i32,
    state: i32,
    x: i32,
    weight: i32,
    bias: i32,
    silu: bool,
    out: *structs.TensorInfo,
) status.Error!void {
    const graph = try graphs.get(handle);
    try graph.check_open();
    const result = try memory_ops.convolve(
        &graph.builder,
        memory,
        state,
        try graph.get(x),
        try graph.get(weight),
        try graph.get_optional(bias),
        silu,
    );
    try describe_tensor(graph, try graph.add(result), out);
}

fn graph_scan(handle: u32, a: *const structs.ScanArguments, out: *structs.TensorInfo) status.Error!void {
    const graph = try graphs.get(handle);
    try graph.check_open();
    const tensors: memory_ops.ScanTensors = .{
        .x = try graph.get(a.x),
        .dt = try graph.get(a.dt),
        .dt_bias = try graph.get(a.dt_bias),
        .a = try graph.get(a.a),
        .b = try graph.get(a.b),
        .c = try graph.get(a.c),
        .d = try graph.get(a.d),
    };
    const result = try memory_ops.scan(&graph.builder, a.memory, a.state, tensors, .{
        .head_dim = a.shape_head_dim,
        .heads = a.shape_heads,
        .groups = a.shape_groups,
        .state_size = a.shape_state_size,
    });
    try describe_tensor(graph, try graph.add(result), out);
}

test {
    std.testing.refAllDecls(@This());
    _ = @import("handles.zig");
    _ = @import("sync.zig");
    _ = @import("shared.zig");
    _ = @import("graph_memory.zig");
    _ = @import("kernels/attention.zig");
    _ = @import("kernels/convolution.zig");
    _ = @import("kernels/ssm_scan.zig");
}
