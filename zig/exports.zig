//! The whole boundary: every function that the library exports, and every struct that crosses it. The TypeScript side
//! is generated from this file by reflection (`zig build abi`).
//!
//! A function returns a `Status` and writes its results through pointers; the sentence of a failure is fetched with
//! `strata_last_error` on the same thread. Objects are known by handles.

const std = @import("std");
pub const describe = @import("describe.zig");
pub const ops = @import("ops.zig");
pub const status = @import("status.zig");
pub const queue_file = @import("queue.zig");
pub const declaration = @import("declaration.zig");
pub const batch_file = @import("batch.zig");
pub const recurrent_pool = @import("recurrent_pool.zig");
pub const model_file = @import("model.zig");
pub const graph_file = @import("graph.zig");
pub const ValueType = @import("gguf.zig").ValueType;
pub const structs = @import("boundary/structs.zig");
const library = @import("boundary/library.zig");
const queues = @import("boundary/queues.zig");
const files = @import("boundary/files.zig");
const models = @import("boundary/models.zig");
const engines = @import("boundary/engines.zig");
const sequences = @import("boundary/sequences.zig");
const snapshots = @import("boundary/snapshots.zig");
const states = @import("boundary/states.zig");
const samplers = @import("boundary/samplers.zig");
const graphs = @import("boundary/graphs.zig");

const code = status.code;

pub const functions = struct {
    // ---- the library ----

    /// Facts of the library; the first call, after which ggml's faults are explained.
    pub fn strata_library_info(out: *structs.LibraryInfo) callconv(.c) i32 {
        return code(library.start(out, abi_hash));
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
        return code(library.type_info(kind, out));
    }

    // ---- events ----

    /// Opens an event queue. `read_end` is the descriptor of a pipe that becomes readable when events wait; the caller
    /// closes it.
    pub fn strata_queue_new(out: *u32, read_end: *i32) callconv(.c) i32 {
        return code(queues.new(out, read_end));
    }

    pub fn strata_queue_close(queue: u32) callconv(.c) i32 {
        return code(queues.close(queue));
    }

    /// Takes up to `capacity` events.
    pub fn strata_queue_drain(queue: u32, out: [*]structs.Event, capacity: u32, count: *u32) callconv(.c) i32 {
        return code(queues.drain(queue, out[0..capacity], count));
    }

    /// Fetches an event's sentence, once.
    pub fn strata_queue_message(queue: u32, number: u32, out: [*]u8, capacity: u32, length: *u32) callconv(.c) i32 {
        return code(queues.message(queue, number, out[0..capacity], length));
    }

    // ---- model files ----

    pub fn strata_file_open(path: [*]const u8, length: u32, out: *u32) callconv(.c) i32 {
        return code(files.open(path[0..length], out));
    }

    pub fn strata_file_close(file: u32) callconv(.c) i32 {
        return code(files.close(file));
    }

    pub fn strata_file_info(file: u32, out: *structs.FileInfo) callconv(.c) i32 {
        return code(files.info(file, out));
    }

    pub fn strata_file_value(file: u32, index: u32, out: *structs.ValueInfo) callconv(.c) i32 {
        return code(files.describe_value(file, index, out));
    }

    /// Copies bytes of the first part's header.
    pub fn strata_file_read(file: u32, offset: f64, out: [*]u8, size: u32) callconv(.c) i32 {
        return code(files.read(file, offset, out[0..size]));
    }

    pub fn strata_file_tensor(file: u32, index: u32, out: *structs.FileTensorInfo) callconv(.c) i32 {
        return code(files.describe_tensor(file, index, out));
    }

    // ---- weights ----

    /// Begins a model of up to `weights` weights.
    pub fn strata_model_new(file: u32, weights: u32, out: *u32) callconv(.c) i32 {
        return code(models.new(file, weights, out));
    }

    pub fn strata_model_free(model: u32) callconv(.c) i32 {
        return code(models.free(model));
    }

    /// Declares the file's tensor `tensor` as a weight for one use (`Use`).
    pub fn strata_model_weight(model: u32, tensor: u32, use: i32, out: *i32) callconv(.c) i32 {
        return code(models.add_weight(model, tensor, use, out));
    }

    /// What the declared weights take.
    pub fn strata_model_info(model: u32, out: *structs.ModelInfo) callconv(.c) i32 {
        return code(models.info(model, out));
    }

    /// Loads on a thread of its own; `progress` events follow, then `done`.
    pub fn strata_model_load(model: u32, queue: u32) callconv(.c) i32 {
        return code(models.load(model, queue));
    }

    pub fn strata_model_cancel(model: u32) callconv(.c) i32 {
        return code(models.cancel(model));
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
        return code(engines.new(model, queue, declarations[0..count], config.*, out));
    }

    /// Cancels what runs and ends the engine; a `closed` event follows.
    pub fn strata_engine_close(engine: u32) callconv(.c) i32 {
        return code(engines.close(engine));
    }

    /// Tokens after which a job with several steps ends.
    pub fn strata_engine_stops(engine: u32, tokens: [*]const i32, count: u32) callconv(.c) i32 {
        return code(engines.stops(engine, tokens[0..count]));
    }

    pub fn strata_engine_counters(engine: u32, out: *structs.Counters) callconv(.c) i32 {
        return code(engines.counters(engine, out));
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
        marks: [*]const structs.Mark,
        mark_count: u32,
        steps_max: u32,
        flags: u32,
    ) callconv(.c) i32 {
        const taken = tokens[0..token_count];
        return code(engines.submit(engine, job, taken, requests[0..request_count], marks[0..mark_count], steps_max, flags));
    }

    /// Queues something to be done to a sequence between steps; `done` follows.
    pub fn strata_engine_task(engine: u32, job: u32, task: *const structs.Task) callconv(.c) i32 {
        return code(engines.task(engine, job, task.*));
    }

    /// Ends a job at once (`at_once` = 1) or after its running step.
    pub fn strata_engine_stop(engine: u32, job: u32, at_once: u32) callconv(.c) i32 {
        return code(engines.stop(engine, job, at_once));
    }

    pub fn strata_engine_logits(engine: u32, job: u32, row: u32, out: [*]f32, count: u32) callconv(.c) i32 {
        return code(engines.logits(engine, job, row, out[0..count]));
    }

    // ---- sequences ----

    pub fn strata_sequence_bounds(engine: u32, sequence: i32, out: *structs.Bounds) callconv(.c) i32 {
        return code(sequences.read_bounds(engine, sequence, out));
    }

    pub fn strata_sequence_clear(engine: u32, sequence: i32) callconv(.c) i32 {
        return code(sequences.clear(engine, sequence));
    }

    pub fn strata_sequence_remove(engine: u32, sequence: i32, from: i32, to: i32) callconv(.c) i32 {
        return code(sequences.remove(engine, sequence, from, to));
    }

    pub fn strata_sequence_copy(engine: u32, source: i32, destination: i32, from: i32, to: i32) callconv(.c) i32 {
        return code(sequences.copy(engine, source, destination, from, to));
    }

    /// Empties all sequences but one.
    pub fn strata_sequence_keep(engine: u32, sequence: i32) callconv(.c) i32 {
        return code(sequences.keep(engine, sequence));
    }

    /// The longest beginning, of at most `position` positions, that a sequence can go on from: cut back, or from one of
    /// these snapshots. `name` gets what kept it from more.
    pub fn strata_sequence_resumable(
        engine: u32,
        sequence: i32,
        position: i32,
        offered: [*]const u32,
        count: u32,
        out: *structs.Resumable,
        name: [*]u8,
        capacity: u32,
    ) callconv(.c) i32 {
        return code(sequences.find_resumable(engine, sequence, position, offered[0..count], out, name[0..capacity]));
    }

    /// The tokens that a sequence was fed; `count` is how many there are.
    pub fn strata_sequence_tokens(engine: u32, sequence: i32, out: [*]i32, capacity: u32, count: *u32) callconv(.c) i32 {
        return code(sequences.tokens(engine, sequence, out[0..capacity], count));
    }

    // ---- snapshots ----

    /// Reserves room for a snapshot, whose bytes count from now on.
    pub fn strata_snapshot_new(engine: u32, out: *u32) callconv(.c) i32 {
        return code(snapshots.new(engine, out));
    }

    pub fn strata_snapshot_drop(engine: u32, snapshot: u32) callconv(.c) i32 {
        return code(snapshots.drop(engine, snapshot));
    }

    pub fn strata_snapshot_restore(engine: u32, snapshot: u32, sequence: i32) callconv(.c) i32 {
        return code(snapshots.restore(engine, snapshot, sequence));
    }

    pub fn strata_snapshot_info(engine: u32, snapshot: u32, out: *structs.SnapshotInfo) callconv(.c) i32 {
        return code(snapshots.info(engine, snapshot, out));
    }

    // ---- saved states ----

    /// Writes sequences and snapshots of them to a file, all or nothing; `done` follows.
    pub fn strata_engine_save(
        engine: u32,
        job: u32,
        path: [*]const u8,
        length: u32,
        holders: [*]const structs.HolderRef,
        count: u32,
    ) callconv(.c) i32 {
        return code(states.save(engine, job, path[0..length], holders[0..count]));
    }

    /// Brings a state's holders back to as many empty ones, in its order; `done` follows.
    pub fn strata_engine_restore(engine: u32, job: u32, state: u32, holders: [*]const structs.HolderRef, count: u32) callconv(.c) i32 {
        return code(states.restore(engine, job, state, holders[0..count]));
    }

    pub fn strata_state_open(path: [*]const u8, length: u32, out: *u32) callconv(.c) i32 {
        return code(states.open(path[0..length], out));
    }

    pub fn strata_state_close(state: u32) callconv(.c) i32 {
        return code(states.close(state));
    }

    pub fn strata_state_info(state: u32, out: *structs.StateInfo) callconv(.c) i32 {
        return code(states.info(state, out));
    }

    /// Checks every byte of a state's file.
    pub fn strata_state_verify(state: u32) callconv(.c) i32 {
        return code(states.verify(state));
    }

    pub fn strata_state_holder(state: u32, index: u32, out: *structs.HolderInfo) callconv(.c) i32 {
        return code(states.holder(state, index, out));
    }

    pub fn strata_state_tokens(state: u32, index: u32, out: [*]i32, capacity: u32, count: *u32) callconv(.c) i32 {
        return code(states.tokens(state, index, out[0..capacity], count));
    }

    /// Makes the books of the memory wrong, for tests: what a step then must refuse.
    pub fn strata_debug_fault(engine: u32, kind: i32, first: i32, second: i32) callconv(.c) i32 {
        return code(snapshots.plant_fault(engine, kind, first, second));
    }

    /// Bytes of each declared memory, before anything is allocated.
    pub fn strata_memory_measure(
        declarations: [*]const structs.MemoryDeclaration,
        count: u32,
        config: *const structs.EngineConfig,
        out: [*]structs.MemoryShare,
        totals: *structs.MemoryTotals,
    ) callconv(.c) i32 {
        return code(engines.measure(declarations[0..count], config.*, out[0..count], totals));
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
        return code(samplers.new(vocabulary, config.*, bias_ids[0..bias_count], bias_values[0..bias_count], out));
    }

    pub fn strata_sampler_free(sampler: u32) callconv(.c) i32 {
        return code(samplers.free(sampler));
    }

    /// Lets the penalties see tokens that were not drawn, such as the prompt's.
    pub fn strata_sampler_accept(sampler: u32, tokens: [*]const i32, count: u32) callconv(.c) i32 {
        return code(samplers.accept(sampler, tokens[0..count]));
    }

    // ---- graphs ----

    pub fn strata_graph_new(engine: u32, rows: u32, outputs: u32, nodes_max: u32, out: *u32) callconv(.c) i32 {
        return code(graphs.new(engine, rows, outputs, nodes_max, out));
    }

    /// Frees a graph that was not finished.
    pub fn strata_graph_abandon(graph: u32) callconv(.c) i32 {
        return code(graphs.abandon(graph));
    }

    /// Ends the building and gives the graph to the engine, which keeps it for its shape. The handle ends.
    pub fn strata_graph_finish(engine: u32, graph: u32, logits: i32, out: *structs.GraphInfo) callconv(.c) i32 {
        return code(graphs.finish(engine, graph, logits, out));
    }

    /// Frees the engine's kept graph of a shape.
    pub fn strata_graph_drop(engine: u32, rows: u32, outputs: u32) callconv(.c) i32 {
        return code(graphs.drop(engine, rows, outputs));
    }

    pub fn strata_graph_input(graph: u32, which: i32, out: *structs.TensorInfo) callconv(.c) i32 {
        return code(graphs.add_input(graph, which, out));
    }

    /// Describes a tensor of the graph. The first ones are the model's weights, by the numbers that they were declared with.
    pub fn strata_graph_describe(graph: u32, tensor: i32, out: *structs.TensorInfo) callconv(.c) i32 {
        return code(graphs.describe(graph, tensor, out));
    }

    pub fn strata_graph_op(graph: u32, op: u32, arguments: *const structs.OpArguments, out: *structs.TensorInfo) callconv(.c) i32 {
        return code(graphs.add_op(graph, op, arguments, out));
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
        value_dim: i32,
        out: *structs.TensorInfo,
    ) callconv(.c) i32 {
        const parameters: structs.AttendParameters = .{ .scale = scale, .softcap = softcap, .value_dim = value_dim };
        return code(graphs.attend(graph, memory, queries, keys, values, parameters, out));
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
        return code(graphs.convolve(graph, memory, state, x, weight, bias, silu != 0, out));
    }

    pub fn strata_graph_scan(graph: u32, arguments: *const structs.ScanArguments, out: *structs.TensorInfo) callconv(.c) i32 {
        return code(graphs.scan(graph, arguments, out));
    }

    pub fn strata_graph_scan_mamba1(graph: u32, arguments: *const structs.ScanMamba1Arguments, out: *structs.TensorInfo) callconv(.c) i32 {
        return code(graphs.scan_mamba1(graph, arguments, out));
    }

    pub fn strata_graph_delta_net(graph: u32, arguments: *const structs.DeltaNetArguments, out: *structs.TensorInfo) callconv(.c) i32 {
        return code(graphs.delta_net(graph, arguments, out));
    }

    pub fn strata_graph_wkv6(graph: u32, arguments: *const structs.Wkv6Arguments, out: *structs.TensorInfo) callconv(.c) i32 {
        return code(graphs.wkv6(graph, arguments, out));
    }

    pub fn strata_graph_wkv7(graph: u32, arguments: *const structs.Wkv7Arguments, out: *structs.TensorInfo) callconv(.c) i32 {
        return code(graphs.wkv7(graph, arguments, out));
    }

    pub fn strata_graph_linear_recurrence(graph: u32, memory: i32, state: i32, a: i32, x: i32, out: *structs.TensorInfo) callconv(.c) i32 {
        return code(graphs.linear_recurrence(graph, memory, state, a, x, out));
    }

    pub fn strata_graph_previous(graph: u32, memory: i32, state: i32, x: i32, out: *structs.TensorInfo) callconv(.c) i32 {
        return code(graphs.previous(graph, memory, state, x, out));
    }
};

pub const abi_hash = describe.hash(describe.description(functions, structs));

comptime {
    for (@typeInfo(functions).@"struct".decl_names) |name| @export(&@field(functions, name), .{ .name = name });
}

test {
    std.testing.refAllDecls(@This());
    _ = @import("handles.zig");
    _ = @import("sync.zig");
    _ = @import("shared.zig");
    _ = @import("graph_memory.zig");
    _ = @import("state_file.zig");
    _ = @import("kernels/attention.zig");
    _ = @import("kernels/convolution.zig");
    _ = @import("kernels/ssm_scan.zig");
    _ = @import("kernels/delta_net.zig");
    _ = @import("kernels/wkv.zig");
    _ = @import("kernels/linear_recurrence.zig");
    _ = @import("kernels/previous.zig");
}
