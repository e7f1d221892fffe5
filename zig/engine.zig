//! The engine: one thread that prepares batches, runs graphs, samples, and reports. The foreign side submits jobs and
//! reads events; it never computes and never waits.

const std = @import("std");
const c = @import("ggml");
const status = @import("status.zig");
const sync = @import("sync.zig");
const batch_file = @import("batch.zig");
const job_file = @import("job.zig");
const queue_file = @import("queue.zig");
const memory_file = @import("memory.zig");
const memory_log = @import("memory_log.zig");
const memory_turn = @import("memory_turn.zig");
const memory_state = @import("memory_state.zig");
const memory_ops = @import("memory_ops.zig");
const tensor_data = @import("tensor_data.zig");
const graph_file = @import("graph.zig");
const Shared = @import("shared.zig").Shared;
const Move = @import("history.zig").Move;
const Replay = @import("recurrent_pool.zig").Replay;
const CellTurn = @import("attention_pool.zig").CellTurn;
const Choice = @import("sampler.zig").Choice;
const Sampler = @import("sampler.zig").Sampler;
const SharedModel = @import("model.zig").SharedModel;
const MemoryDeclaration = @import("declaration.zig").MemoryDeclaration;
const Graph = graph_file.Graph;
const Memory = memory_file.Memory;
const SubBatch = batch_file.SubBatch;

pub const SharedSampler = Shared(Sampler);
pub const SharedQueue = Shared(queue_file.Queue);

pub const Config = job_file.Config;
pub const Counters = job_file.Counters;
pub const Task = job_file.Task;
pub const HolderRef = job_file.HolderRef;
pub const StateWork = job_file.StateWork;
pub const SharedState = job_file.SharedState;
pub const Job = job_file.Job;

/// A token that was drawn, or why none could be.
const Drawn = struct { event: queue_file.Event, sentence: []const u8 = "" };

pub const Engine = struct {
    gpa: std.mem.Allocator,
    handle: u32 = 0,
    config: Config,
    model: *SharedModel,
    queue: *SharedQueue,
    memory: Memory,
    /// Held for a moment whenever the books of the memory are read or changed; for longer only while keys are turned and
    /// while a state's cells come back.
    memory_mutex: sync.Mutex = .{},
    /// Sequences of submitted jobs: nobody else may change them.
    busy: []u32,
    is_stop: []bool,

    threadpool: *c.ggml_threadpool,
    compute: c.ggml_backend_buffer_t = null,
    work: []align(64) u8 = &.{},
    scratch: [][]align(64) u8,
    plan: Memory.Plan,
    step: memory_ops.Step,
    /// How states are computed again and keys turned, as the first graph had it.
    recipes: ?*Graph = null,
    replays: std.ArrayList(Replay) = .empty,

    graphs_mutex: sync.Mutex = .{},
    graphs: std.AutoHashMapUnmanaged(graph_file.Shape, *Graph) = .empty,
    last_graph: ?*Graph = null,
    counters: Counters = .{},

    jobs_mutex: sync.Mutex = .{},
    jobs_changed: sync.Condition = .{},
    jobs: std.ArrayList(*Job) = .empty,
    running: u32 = 0,
    closing: bool = false,
    cancel: std.atomic.Value(bool) = .init(false),
    interrupt: std.atomic.Value(bool) = .init(false),

    /// What was drawn from the running sub-batch, reported once it is committed.
    drawn: std.ArrayList(Drawn) = .empty,

    logits_mutex: sync.Mutex = .{},
    logits_job: u32 = 0,
    logits: std.ArrayList(f32) = .empty,

    pub fn create(
        gpa: std.mem.Allocator,
        model: *SharedModel,
        queue: *SharedQueue,
        declarations: []const MemoryDeclaration,
        config: Config,
    ) status.Error!*Engine {
        try config.check();
        const is_dry = config.has(Config.Flags.dry);
        if (!model.value.loaded and !is_dry) return status.fail(error.Refused, "the model's weights are not loaded yet", .{});
        if (config.has(Config.Flags.no_flash)) try refuse_quantised(declarations);
        if (is_dry and !model.value.loaded) try model.value.stand_in();
        const self = try gpa.create(Engine);
        errdefer gpa.destroy(self);
        var memory: Memory = try .init(gpa, declarations, config.memory(), !is_dry);
        errdefer memory.deinit();
        var plan = try memory.create_plan(gpa);
        errdefer plan.deinit();
        const threads: u32 = @intCast(config.threads);
        const busy = try gpa.alloc(u32, @intCast(config.sequences));
        errdefer gpa.free(busy);
        @memset(busy, 0);
        const is_stop = try gpa.alloc(bool, @intCast(config.vocabulary));
        errdefer gpa.free(is_stop);
        @memset(is_stop, false);
        const scratch = try gpa.alloc([]align(64) u8, threads);
        errdefer gpa.free(scratch);
        @memset(scratch, &.{});

        var parameters = c.ggml_threadpool_params_default(if (is_dry) 1 else config.threads);
        parameters.poll = @intCast(config.poll);
        const threadpool = c.ggml_threadpool_new(&parameters) orelse {
            return status.fail(error.OutOfMemory, "{d} compute threads could not be started", .{threads});
        };
        self.* = .{
            .gpa = gpa,
            .config = config,
            .model = model.retain(),
            .queue = queue.retain(),
            .memory = memory,
            .busy = busy,
            .is_stop = is_stop,
            .threadpool = threadpool,
            .scratch = scratch,
            .plan = plan,
            .step = undefined,
        };
        self.step = .{ .memory = &self.memory, .plan = &self.plan, .scratch = scratch };
        return self;
    }

    fn refuse_quantised(declarations: []const MemoryDeclaration) status.Error!void {
        for (declarations) |d| {
            if (d.shared_from >= 0 or d.kind != .attention) continue;
            if (!c.ggml_is_quantized(@intCast(d.key_type)) and !c.ggml_is_quantized(@intCast(d.value_type))) continue;
            return status.fail(error.Unsupported, "layer {d}: quantised keys and values need flash attention; leave it on, or use f16", .{d.layer});
        }
    }

    /// Starts the thread; from now on the engine is ended by `close`, and frees itself.
    pub fn start(self: *Engine) status.Error!void {
        const thread = std.Thread.spawn(.{}, main, .{self}) catch |err| {
            return status.fail(error.OutOfMemory, "the engine's thread could not be started ({t})", .{err});
        };
        thread.detach();
    }

    /// Cancels what runs and ends the thread, which then frees everything. Returns at once.
    pub fn close(self: *Engine) void {
        self.jobs_mutex.lock();
        defer self.jobs_mutex.unlock();
        self.closing = true;
        self.cancel.store(true, .monotonic);
        self.jobs_changed.signal();
    }

    pub fn destroy(self: *Engine) void {
        const gpa = self.gpa;
        for (self.jobs.items) |job| job.destroy(gpa);
        self.jobs.deinit(gpa);
        var graphs = self.graphs.valueIterator();
        while (graphs.next()) |graph| graph.*.destroy();
        self.graphs.deinit(gpa);
        c.ggml_threadpool_free(self.threadpool);
        if (self.compute) |buffer| c.ggml_backend_buffer_free(buffer);
        gpa.free(self.work);
        for (self.scratch) |piece| gpa.free(piece);
        gpa.free(self.scratch);
        self.plan.deinit();
        self.memory.deinit();
        self.logits.deinit(gpa);
        self.replays.deinit(gpa);
        self.forget_drawn();
        self.drawn.deinit(gpa);
        gpa.free(self.busy);
        gpa.free(self.is_stop);
        self.model.release();
        self.queue.release();
        gpa.destroy(self);
    }

    // ---- called from the foreign side ----

    /// Takes over the job, also when it fails.
    pub fn submit(self: *Engine, job: *Job) status.Error!void {
        errdefer job.destroy(self.gpa);
        try self.check_job(job);
        self.jobs_mutex.lock();
        defer self.jobs_mutex.unlock();
        if (self.closing) return status.fail(error.Closed, "this model was disposed of", .{});
        try self.jobs.append(self.gpa, job);
        self.memory_mutex.lock();
        self.mark_busy(job, true);
        self.memory_mutex.unlock();
        self.jobs_changed.signal();
    }

    fn mark_busy(self: *Engine, job: *const Job, is_busy: bool) void {
        for (job.requests) |request| self.add_busy(request.sequence, is_busy);
        if (job.task) |task| self.add_busy(task.sequence, is_busy);
        if (job.state) |state| for (state.holders) |holder| {
            if (holder.is_snapshot == 0) self.add_busy(@intCast(holder.number), is_busy);
        };
    }

    fn add_busy(self: *Engine, sequence: i32, is_busy: bool) void {
        const count = &self.busy[@intCast(sequence)];
        if (is_busy) count.* += 1 else count.* -= 1;
    }

    fn check_job(self: *const Engine, job: *const Job) status.Error!void {
        if (self.config.has(Config.Flags.dry)) return status.fail(error.Refused, "this engine only measures", .{});
        if (job.task) |task| return self.check_task(task);
        if (job.state) |state| return self.check_holders(state.holders);
        if (job.requests.len == 0) return status.fail(error.InvalidArgument, "a batch needs at least one sequence", .{});
        for (job.requests, job.samplers) |request, sampler| {
            if (request.sequence < 0 or request.sequence >= self.config.sequences) {
                return status.fail(error.NotFound, "there is no sequence {d}: this model holds {d}, numbered from 0", .{
                    request.sequence, self.config.sequences,
                });
            }
            if (job.steps_max > 1 and sampler == null) {
                return status.fail(error.InvalidArgument, "sequence {d} has no sampler, so only one step can run", .{request.sequence});
            }
            if (sampler != null and request.logits != .last) {
                return status.fail(error.InvalidArgument, "sequence {d} has a sampler, which draws from the last token's " ++
                    "logits, and {t} were asked for", .{ request.sequence, request.logits });
            }
            if (sampler) |s| if (s.value.vocabulary_size != self.config.vocabulary) {
                return status.fail(error.InvalidArgument, "the sampler was made for {d} tokens and the model has {d}", .{
                    s.value.vocabulary_size, self.config.vocabulary,
                });
            };
        }
        for (job.tokens.items) |token| if (token < 0 or token >= self.config.vocabulary) {
            return status.fail(error.InvalidArgument, "token {d} does not exist; the vocabulary has {d} tokens", .{
                token, self.config.vocabulary,
            });
        };
    }

    fn check_task(self: *const Engine, task: Task) status.Error!void {
        if (std.enums.fromInt(Task.Kind, @backingInt(task.kind)) == null or task.kind == .none) {
            return status.fail(error.InvalidArgument, "there is no such task", .{});
        }
        _ = try self.memory.check_sequence(task.sequence);
        if (task.kind == .divide and task.amount < 1) {
            return status.fail(error.InvalidArgument, "positions cannot be divided by {d}; give a whole number from 1 up", .{task.amount});
        }
    }

    fn check_holders(self: *const Engine, holders: []const HolderRef) status.Error!void {
        if (holders.len == 0) return status.fail(error.InvalidArgument, "a state needs at least one sequence", .{});
        for (holders) |holder| {
            if (holder.is_snapshot == 0) _ = try self.memory.check_sequence(@intCast(@min(holder.number, std.math.maxInt(i32))));
            if (holder.of >= holders.len or holders[holder.of].is_snapshot != 0) {
                return status.fail(error.InvalidArgument, "a snapshot of a state belongs to one of its sequences", .{});
            }
        }
    }

    /// Stops a job: at the next node of the graph, or, when not `at_once`, after the running step.
    pub fn stop(self: *Engine, id: u32, at_once: bool) void {
        self.jobs_mutex.lock();
        defer self.jobs_mutex.unlock();
        if (self.running == id) {
            if (at_once) self.cancel.store(true, .monotonic) else self.interrupt.store(true, .monotonic);
            return;
        }
        for (self.jobs.items) |job| {
            if (job.id != id) continue;
            // Interrupted before it began, it has run none of its steps; the caller wanted at least the batch itself.
            if (!at_once) {
                job.steps_max = 1;
                return;
            }
            // Reporting it here could wait for room in the queue, which only this thread makes.
            job.is_cancelled = true;
            return;
        }
    }

    /// Locks the memory for an operation on a sequence that no job uses.
    pub fn lock_memory(self: *Engine, sequences: []const i32) status.Error!void {
        self.memory_mutex.lock();
        for (sequences) |sequence| {
            if (sequence >= 0 and sequence < self.busy.len and self.busy[@intCast(sequence)] > 0) {
                self.memory_mutex.unlock();
                return status.fail(error.Busy, "sequence {d} is being computed; wait for it, or cancel it", .{sequence});
            }
        }
    }

    /// Locks the memory where no job uses any sequence but this one.
    pub fn lock_others(self: *Engine, sequence: i32) status.Error!void {
        self.memory_mutex.lock();
        for (self.busy, 0..) |count, other| if (count > 0 and other != sequence) {
            self.memory_mutex.unlock();
            return status.fail(error.Busy, "sequence {d} is being computed; wait for it, or cancel it", .{other});
        };
    }

    pub fn unlock_memory(self: *Engine) void {
        self.memory_mutex.unlock();
    }

    pub fn keep_graph(self: *Engine, graph: *Graph) status.Error!void {
        self.graphs_mutex.lock();
        defer self.graphs_mutex.unlock();
        const entry = try self.graphs.getOrPut(self.gpa, graph.shape);
        if (entry.found_existing) {
            return status.fail(error.Refused, "a graph of {d} rows and {d} outputs is kept already", .{
                graph.shape.rows, graph.shape.outputs,
            });
        }
        entry.value_ptr.* = graph;
        if (self.recipes == null) self.recipes = graph;
        self.counters.graphs_built += 1;
    }

    /// Frees a kept graph. Refused while any job is queued or running.
    pub fn drop_graph(self: *Engine, shape: graph_file.Shape) status.Error!void {
        self.jobs_mutex.lock();
        defer self.jobs_mutex.unlock();
        if (self.running != 0 or self.jobs.items.len > 0) {
            return status.fail(error.Busy, "graphs are dropped between jobs", .{});
        }
        self.graphs_mutex.lock();
        defer self.graphs_mutex.unlock();
        if (self.recipes) |first| if (std.meta.eql(first.shape, shape)) {
            return status.fail(error.Refused, "the first graph stays: it says how states are computed again", .{});
        };
        const removed = self.graphs.fetchRemove(shape) orelse {
            return status.fail(error.NotFound, "no graph of {d} rows and {d} outputs is kept", .{ shape.rows, shape.outputs });
        };
        if (self.last_graph == removed.value) self.last_graph = null;
        removed.value.destroy();
    }

    pub fn read_counters(self: *Engine) Counters {
        self.memory_mutex.lock();
        defer self.memory_mutex.unlock();
        var result = self.counters;
        result.memory_bytes = @floatFromInt(self.memory.bytes);
        for (self.memory.pools) |*pool| switch (pool.*) {
            .attention => |leaf| result.free_blocks += @floatFromInt(leaf.blocks.free_count),
            .recurrent => |leaf| result.free_cells += @floatFromInt(leaf.cells.free_count),
        };
        result.state_bytes_moved = @floatFromInt(self.memory.state_bytes_moved);
        for (self.memory.slots) |slot| result.snapshots += @floatFromInt(@intFromBool(slot.is_taken));
        result.snapshots_max = @floatFromInt(self.memory.slots.len);
        return result;
    }

    /// Copies one row of the logits that `job` left. They stay until another job leaves some.
    pub fn read_logits(self: *Engine, job: u32, row: u32, out: []f32) status.Error!void {
        self.logits_mutex.lock();
        defer self.logits_mutex.unlock();
        const width: usize = @intCast(self.config.vocabulary);
        if (job != self.logits_job or (@as(usize, row) + 1) * width > self.logits.items.len) {
            return status.fail(error.NotFound, "job {d} left no row {d} of logits, or a later job replaced them", .{ job, row });
        }
        if (out.len != width) return status.fail(error.InvalidArgument, "a row of logits has {d} numbers, not {d}", .{ width, out.len });
        @memcpy(out, self.logits.items[row * width ..][0..width]);
    }

    // ---- the engine's thread ----

    fn main(self: *Engine) void {
        while (self.next_job()) |job| {
            const result = self.run(job);
            self.jobs_mutex.lock();
            self.running = 0;
            self.free_sequences(job);
            const is_closing = self.closing;
            self.jobs_mutex.unlock();
            if (result) |_| self.report(job, null, "") else |err| {
                if (is_closing and err == error.Cancelled) self.report_closed(job) else self.report(job, err, status.message());
            }
            job.destroy(self.gpa);
        }
        const queue = self.queue.retain();
        const handle = self.handle;
        for (self.jobs.items) |job| self.report_closed(job);
        self.destroy();
        queue.value.post(.{ .kind = .closed, .source = handle, .job = 0 }, "");
        queue.release();
    }

    fn next_job(self: *Engine) ?*Job {
        self.jobs_mutex.lock();
        defer self.jobs_mutex.unlock();
        while (self.jobs.items.len == 0 and !self.closing) self.jobs_changed.wait(&self.jobs_mutex);
        if (self.closing) return null;
        const job = self.jobs.orderedRemove(0);
        self.running = job.id;
        self.cancel.store(false, .monotonic);
        self.interrupt.store(false, .monotonic);
        return job;
    }

    fn free_sequences(self: *Engine, job: *const Job) void {
        self.memory_mutex.lock();
        defer self.memory_mutex.unlock();
        self.mark_busy(job, false);
    }

    fn report(self: *Engine, job: *const Job, failure: ?status.Error, message: []const u8) void {
        const code: status.Status = if (failure) |err| status.from_error(err) else .ok;
        const text = if (failure == null) "" else if (code == .out_of_memory) status.message() else message;
        self.queue.value.post(.{
            .kind = .done,
            .source = self.handle,
            .job = job.id,
            .status = @backingInt(code),
        }, text);
    }

    fn report_closed(self: *Engine, job: *const Job) void {
        self.report(job, error.Closed, "this model was disposed of");
    }

    fn run(self: *Engine, job: *Job) status.Error!void {
        if (job.is_cancelled) return status.fail(error.Cancelled, "cancelled before it began", .{});
        if (job.task) |task| return self.run_task(task);
        if (job.state) |*state| return self.run_state(state);
        self.begin_logits(job);
        var step: u32 = 0;
        while (true) {
            try self.run_batch(job);
            step += 1;
            // A sequence that no token could be drawn for has nothing to go on with.
            if (job.tokens.items.len < job.requests.len) return;
            if (step >= job.steps_max or self.interrupt.load(.monotonic)) return;
            if (!job.ignore_stops) for (job.tokens.items) |token| if (self.is_stop[@intCast(token)]) return;
            for (job.requests) |*request| {
                request.count = 1;
                request.position = -1;
            }
            self.gpa.free(job.marks);
            job.marks = &.{};
        }
    }

    fn begin_logits(self: *Engine, job: *const Job) void {
        for (job.requests, job.samplers) |request, sampler| {
            if (request.logits == .none or sampler != null) continue;
            self.logits_mutex.lock();
            defer self.logits_mutex.unlock();
            self.logits_job = job.id;
            self.logits.clearRetainingCapacity();
            return;
        }
    }

    /// One batch. Afterwards the job's tokens are those that were drawn, in the order of its requests.
    fn run_batch(self: *Engine, job: *Job) status.Error!void {
        self.memory_mutex.lock();
        var batch = self.memory.prepare(self.gpa, job.tokens.items, job.requests, job.marks) catch |err| {
            self.memory_mutex.unlock();
            return err;
        };
        self.memory.is_computing = true;
        self.memory_mutex.unlock();
        defer batch.deinit();
        defer self.end_computing();
        job.tokens.clearRetainingCapacity();
        try job.tokens.ensureTotalCapacity(self.gpa, job.requests.len);
        for (batch.sub_batches) |*sub_batch| try self.run_sub_batch(job, &batch, sub_batch);
    }

    fn end_computing(self: *Engine) void {
        self.memory_mutex.lock();
        defer self.memory_mutex.unlock();
        self.memory.is_computing = false;
        self.memory.pack_missed();
    }

    fn run_sub_batch(self: *Engine, job: *Job, batch: *const batch_file.Batch, sub_batch: *const SubBatch) status.Error!void {
        if (self.cancel.load(.monotonic)) return status.fail(error.Cancelled, "cancelled", .{});
        const graph = try self.find_graph(.{ .rows = sub_batch.row_count, .outputs = @intCast(sub_batch.outputs.len) });
        try self.catch_up(sub_batch);
        self.memory_mutex.lock();
        self.memory.apply(&self.plan, sub_batch) catch |err| {
            self.memory_mutex.unlock();
            return err;
        };
        self.memory_mutex.unlock();

        self.forget_drawn();
        const result = self.compute_and_read(job, batch, sub_batch, graph);
        self.end_sub_batch(batch, sub_batch, if (result) |_| true else |_| false);
        try result;
        for (self.drawn.items) |drawn| {
            if (drawn.event.status == 0) job.tokens.appendAssumeCapacity(drawn.event.token);
            self.queue.value.post(drawn.event, drawn.sentence);
        }
    }

    fn forget_drawn(self: *Engine) void {
        for (self.drawn.items) |drawn| self.gpa.free(drawn.sentence);
        self.drawn.clearRetainingCapacity();
    }

    fn end_sub_batch(self: *Engine, batch: *const batch_file.Batch, sub_batch: *const SubBatch, computed: bool) void {
        self.memory_mutex.lock();
        defer self.memory_mutex.unlock();
        if (!computed) return self.memory.revert(&self.plan, sub_batch);
        self.memory.commit(&self.plan, sub_batch, batch.tokens[sub_batch.first_token..][0..sub_batch.row_count]);
        self.counters.steps += 1;
        self.counters.rows += @floatFromInt(sub_batch.row_count);
    }

    // ---- states that are computed again ----

    /// Computes what the sub-batch's sequences lack: states that were taken back to, and the bases of full logs.
    fn catch_up(self: *Engine, sub_batch: *const SubBatch) status.Error!void {
        for (self.memory.pools, 0..) |*pool, index| if (pool.* == .recurrent) {
            self.memory_mutex.lock();
            defer self.memory_mutex.unlock();
            self.replays.clearRetainingCapacity();
            try pool.recurrent.plan_replays(self.gpa, sub_batch.runs, &self.replays);
            try self.replay(@intCast(index));
        };
    }

    /// Computes the planned states of a pool again, and enters them in its books, which are let go of meanwhile: the cells
    /// are taken, and nobody else may change the sequences of this job.
    fn replay(self: *Engine, pool: u32) status.Error!void {
        if (self.replays.items.len == 0) return;
        const leaf = &self.memory.pools[pool].recurrent;
        errdefer for (self.replays.items) |one| leaf.abandon_replay(one);
        const recipes = (self.recipes orelse return status.fail(error.Internal, "no graph has said how states are computed", .{})).builder.recipes;
        var rows: usize = 0;
        var numbers: usize = 0;
        for (self.replays.items) |one| rows = @max(rows, @as(usize, @intCast(one.to - one.from)));
        for (recipes) |*recipe| numbers = @max(numbers, memory_log.scratch_count(recipe, rows));
        const scratch = try self.gpa.alloc(f32, numbers * self.scratch.len);
        defer self.gpa.free(scratch);
        const context = c.ggml_init(.{
            .mem_size = 4 * c.ggml_tensor_overhead() + c.ggml_graph_overhead_custom(4, false),
            .mem_buffer = null,
            .no_alloc = false,
        }) orelse return error.OutOfMemory;
        defer c.ggml_free(context);
        var work: ReplayWork = .{ .engine = self, .pool = pool, .recipes = recipes, .scratch = scratch };
        const graph = c.ggml_new_graph_custom(context, 4, false).?;
        const node = c.ggml_custom_4d(context, c.GGML_TYPE_F32, 1, 1, 1, 1, null, 0, ReplayWork.run, c.GGML_N_TASKS_MAX, &work);
        c.ggml_build_forward_expand(graph, node);
        self.memory_mutex.unlock();
        const computed = self.compute_now().run(self.gpa, graph);
        self.memory_mutex.lock();
        try computed;
        for (self.replays.items) |one| {
            const history = &self.memory.histories[one.sequence];
            leaf.finish_replay(one, history.stamp_at(history.count_before(one.to)));
        }
    }

    fn compute_now(self: *Engine) memory_turn.Compute {
        return .{ .threadpool = self.threadpool, .threads = @intCast(self.scratch.len) };
    }

    const ReplayWork = struct {
        engine: *Engine,
        pool: u32,
        recipes: []const memory_log.Recipe,
        scratch: []f32,

        /// Memories and replays are dealt out to the threads.
        fn run(_: ?*c.ggml_tensor, ith: c_int, nth: c_int, data: ?*anyopaque) callconv(.c) void {
            const work: *const ReplayWork = @ptrCast(@alignCast(data.?));
            const memory = &work.engine.memory;
            const thread: usize = @intCast(ith);
            const each = work.scratch.len / work.engine.scratch.len;
            const scratch = work.scratch[thread * each ..][0..each];
            var turn: usize = 0;
            for (memory.declarations, memory.tensors, 0..) |d, tensors, index| {
                if (d.shared_from >= 0 or tensors.pool != work.pool or tensors.log == null) continue;
                for (work.engine.replays.items) |one| {
                    defer turn += 1;
                    if (turn % @as(usize, @intCast(nth)) == thread) memory_log.run(memory, index, &work.recipes[index], one, scratch);
                }
            }
        }
    };

    // ---- tasks ----

    fn run_task(self: *Engine, task: Task) status.Error!void {
        self.memory_mutex.lock();
        defer self.memory_mutex.unlock();
        const sequence: u32 = @intCast(task.sequence);
        try self.resolve(sequence);
        switch (task.kind) {
            .none => unreachable,
            .shift => try self.move(sequence, task.from, task.to, .{ .shift = task.amount }),
            .divide => try self.move(sequence, task.from, task.to, .{ .divide = task.amount }),
            .take_snapshot => try self.memory.take_snapshot(sequence, task.snapshot),
        }
    }

    fn run_state(self: *Engine, work: *const StateWork) status.Error!void {
        const fingerprint = self.model.value.file.value.inner.fingerprint();
        switch (work.action) {
            .save => |path| try self.save(path, fingerprint, work.holders),
            .restore => |state| try self.restore(&state.value, fingerprint, work.holders),
        }
    }

    /// The books are held only for as long as they are read: others need not wait for the disk.
    fn save(self: *Engine, path: []const u8, fingerprint: [16]u8, holders: []const HolderRef) status.Error!void {
        var saving: memory_state.Saving = try .open(self.gpa, &self.memory, path, &self.cancel);
        defer saving.deinit();
        try self.hold_saved(&saving, holders);
        const written = saving.write_cells();
        self.memory_mutex.lock();
        saving.let_go();
        self.memory_mutex.unlock();
        try written;
        try saving.finish(fingerprint);
    }

    fn hold_saved(self: *Engine, saving: *memory_state.Saving, holders: []const HolderRef) status.Error!void {
        const saved = try self.gpa.alloc(memory_state.Saved, holders.len);
        defer self.gpa.free(saved);
        self.memory_mutex.lock();
        defer self.memory_mutex.unlock();
        for (holders) |ref| if (ref.is_snapshot == 0) try self.resolve(ref.number);
        for (holders, saved, 0..) |ref, *one, index| {
            const holder = try self.holder_of(ref);
            one.* = .{ .holder = holder, .info = .{
                .is_snapshot = ref.is_snapshot,
                .of = if (ref.is_snapshot == 0) @intCast(index) else ref.of,
                .position = self.memory.bounds_of(holder).end,
                .tokens = self.memory.histories[holder].len(),
            } };
        }
        try saving.hold(saved);
    }

    fn restore(self: *Engine, state: *const memory_state.State, fingerprint: [16]u8, holders: []const HolderRef) status.Error!void {
        try state.verify();
        const targets = try self.gpa.alloc(u32, holders.len);
        defer self.gpa.free(targets);
        self.memory_mutex.lock();
        defer self.memory_mutex.unlock();
        for (holders, targets) |ref, *target| {
            target.* = try self.holder_of(ref);
            if (self.memory.histories[target.*].len() > 0) return status.fail(error.Refused, "a state is restored to empty sequences", .{});
        }
        try memory_state.restore(self.gpa, &self.memory, state, fingerprint, @intCast(self.config.vocabulary), targets);
    }

    fn holder_of(self: *const Engine, ref: HolderRef) status.Error!u32 {
        return if (ref.is_snapshot == 0) ref.number else self.memory.snapshot_holder(ref.number);
    }

    /// Makes a sequence's states be what they stand for, if they were only taken back to.
    pub fn resolve(self: *Engine, sequence: u32) status.Error!void {
        for (self.memory.pools, 0..) |*pool, index| if (pool.* == .recurrent) {
            self.replays.clearRetainingCapacity();
            try pool.recurrent.plan_pending(self.gpa, sequence, &self.replays);
            try self.replay(@intCast(index));
        };
    }

    fn move(self: *Engine, sequence: u32, from: i32, to: i32, how: Move) status.Error!void {
        const range = self.memory.bounds_of(sequence);
        const p0 = @max(from, 0);
        const p1 = if (to < 0) range.end else @min(to, range.end);
        if (p0 >= p1 or how.apply(p1 - 1) == p1 - 1) return;
        const turns = (self.recipes orelse return status.fail(error.Internal, "no graph has said how keys are turned", .{})).builder.turns;
        for (turns, self.memory.declarations) |turn, d| if (turn == .unknown) {
            return status.fail(error.Refused, "positions {d} to {d} of sequence {d} cannot move: layer {d} turns its keys in a " ++
                "way that cannot be gone on with: changed afterwards, twice, or by factors that its graph computes", .{ p0, p1 - 1, sequence, d.layer });
        };
        try self.memory.begin_move(sequence, p0, p1, how);
        for (self.memory.pools, 0..) |*pool, index| {
            var cells: std.ArrayList(CellTurn) = .empty;
            defer cells.deinit(self.gpa);
            try memory_file.Memory.move_pool(pool, sequence, p0, p1, how, &cells);
            for (turns, self.memory.declarations, self.memory.tensors, 0..) |turn, d, tensors, memory| {
                if (d.shared_from >= 0 or tensors.pool != index) continue;
                try memory_turn.run(self.gpa, &self.memory, memory, turn, cells.items, self.compute_now());
            }
        }
        self.memory.histories[sequence].move(p0, p1, how);
        self.memory.pack(sequence);
    }

    fn find_graph(self: *Engine, shape: graph_file.Shape) status.Error!*Graph {
        self.graphs_mutex.lock();
        defer self.graphs_mutex.unlock();
        const graph = self.graphs.get(shape) orelse {
            return status.fail(error.NotFound, "no graph of {d} rows and {d} outputs was built", .{ shape.rows, shape.outputs });
        };
        if (self.last_graph == graph) self.counters.graphs_reused += 1;
        self.last_graph = graph;
        return graph;
    }

    fn compute_and_read(
        self: *Engine,
        job: *Job,
        batch: *const batch_file.Batch,
        sub_batch: *const SubBatch,
        graph: *Graph,
    ) status.Error!void {
        try self.bind(graph);
        if (self.config.is_poisoned()) tensor_data.poison_buffer(self.compute);
        graph.fill(sub_batch, batch.tokens[sub_batch.first_token..][0..sub_batch.row_count], &self.plan);
        const finished = &graph.finished.?;
        var plan = finished.plan;
        plan.work_data = self.work.ptr;
        plan.threadpool = self.threadpool;
        plan.abort_callback = is_cancelled;
        plan.abort_callback_data = self;
        switch (c.ggml_graph_compute(graph.cgraph, &plan)) {
            c.GGML_STATUS_SUCCESS => {},
            c.GGML_STATUS_ABORTED => return status.fail(error.Cancelled, "cancelled", .{}),
            else => |code| return status.fail(error.Internal, "ggml could not compute the graph (status {d})", .{code}),
        }
        try self.read_outputs(job, sub_batch, tensor_data.values_f32(finished.logits));
    }

    fn is_cancelled(data: ?*anyopaque) callconv(.c) bool {
        const self: *Engine = @ptrCast(@alignCast(data.?));
        return self.cancel.load(.monotonic);
    }

    /// Makes the shared buffers large enough for the graph and points its tensors into them.
    fn bind(self: *Engine, graph: *Graph) status.Error!void {
        const finished = &graph.finished.?;
        const layout = &finished.layout;
        const have = if (self.compute) |buffer| c.ggml_backend_buffer_get_size(buffer) else 0;
        if (have < layout.bytes) {
            const larger = c.ggml_backend_buft_alloc_buffer(c.ggml_backend_cpu_buffer_type(), layout.bytes) orelse {
                return status.fail(error.OutOfMemory, "{d} bytes for the results of a step were refused", .{layout.bytes});
            };
            if (self.compute) |buffer| c.ggml_backend_buffer_free(buffer);
            self.compute = larger;
            self.counters.compute_bytes = @floatFromInt(layout.bytes);
            self.graphs_mutex.lock();
            defer self.graphs_mutex.unlock();
            var others = self.graphs.valueIterator();
            while (others.next()) |other| other.*.finished.?.bound = null;
        }
        if (finished.bound != self.compute) {
            layout.bind(self.compute);
            finished.bound = self.compute;
        }
        if (self.work.len < finished.plan.work_size) {
            self.gpa.free(self.work);
            self.work = &.{};
            self.work = try self.gpa.alignedAlloc(u8, .@"64", finished.plan.work_size);
            self.counters.work_bytes = @floatFromInt(self.work.len);
        }
        for (self.scratch) |*piece| {
            if (piece.len >= graph.builder.scratch_bytes) continue;
            self.gpa.free(piece.*);
            piece.* = &.{};
            piece.* = try self.gpa.alignedAlloc(u8, .@"64", graph.builder.scratch_bytes);
            self.counters.scratch_bytes = @floatFromInt(self.scratch.len * piece.len);
        }
    }

    fn read_outputs(self: *Engine, job: *Job, sub_batch: *const SubBatch, logits: []const f32) status.Error!void {
        const width: usize = @intCast(self.config.vocabulary);
        for (sub_batch.outputs, sub_batch.output_requests, 0..) |row, request_index, i| {
            if (request_index < 0) continue;
            const index: u32 = @intCast(request_index);
            const part = for (sub_batch.runs, sub_batch.requests) |part, request| {
                if (request == index) break part;
            } else unreachable;
            const position = part.first_position + (row - @as(i32, @intCast(part.first_row)));
            const numbers = logits[i * width ..][0..width];
            if (job.samplers[index]) |sampler| {
                try self.draw(job, index, &sampler.value, numbers, position);
            } else {
                self.logits_mutex.lock();
                defer self.logits_mutex.unlock();
                try self.logits.appendSlice(self.gpa, numbers);
            }
        }
    }

    /// Draws for one request. What is wrong with its logits or its sampler is told to it alone: the others' tokens count.
    fn draw(self: *Engine, job: *Job, request: u32, sampler: *Sampler, logits: []const f32, position: i32) status.Error!void {
        var event: queue_file.Event = .{
            .kind = .token,
            .source = self.handle,
            .job = job.id,
            .sequence = job.requests[request].sequence,
            .position = position,
        };
        try self.drawn.ensureUnusedCapacity(self.gpa, 1);
        if (take_choice(sampler, logits, position)) |choice| {
            event.token = @intCast(choice.token);
            event.value = choice.log_probability;
            self.drawn.appendAssumeCapacity(.{ .event = event });
        } else |err| {
            event.status = @backingInt(status.from_error(err));
            self.drawn.appendAssumeCapacity(.{ .event = event, .sentence = try self.gpa.dupe(u8, status.message()) });
        }
    }
};

fn take_choice(sampler: *Sampler, logits: []const f32, position: i32) status.Error!Choice {
    const choice = try sampler.sample(logits, @intCast(position));
    try sampler.accept(choice.token);
    return choice;
}
