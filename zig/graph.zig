//! A graph: the whole model for one number of rows and outputs, built once from the foreign side and kept.

const std = @import("std");
const assert = std.debug.assert;
const c = @import("ggml");
const status = @import("status.zig");
const graph_memory = @import("graph_memory.zig");
const memory_ops = @import("memory_ops.zig");
const memory_log = @import("memory_log.zig");
const memory_turn = @import("memory_turn.zig");
const tensor_data = @import("tensor_data.zig");
const ops = @import("ops.zig");
const Memory = @import("memory.zig").Memory;
const Weight = @import("model.zig").Weight;
const SubBatch = @import("batch.zig").SubBatch;

const Tensor = c.ggml_tensor;

/// What the engine fills in before each step.
pub const Input = enum(i32) {
    /// Token ids, `[rows]` i32.
    tokens = 0,
    /// Positions in their sequences, `[rows]` i32.
    positions = 1,
    /// The rows whose logits are wanted, `[outputs]` i32.
    outputs = 2,
};

/// The shape by which an engine finds a kept graph.
pub const Shape = struct { rows: u32, outputs: u32 };

/// Nodes that one operation may add at most.
const nodes_per_operation = 8;

pub const Graph = struct {
    gpa: std.mem.Allocator,
    arena: std.heap.ArenaAllocator,
    shape: Shape,
    context: *c.ggml_context,
    cgraph: *c.ggml_cgraph,
    /// By the numbers that the foreign side knows them by; the first are the model's weights, by their own numbers.
    tensors: std.ArrayList(*Tensor) = .empty,
    inputs: [3]?*Tensor = @splat(null),
    /// For each pool, the cells that the rows write; null where the graph does not write that pool.
    cells: []?*Tensor,
    builder: memory_ops.Builder,
    nodes_max: u32,
    finished: ?Finished = null,

    const Finished = struct {
        logits: *Tensor,
        layout: graph_memory.Layout,
        plan: c.ggml_cplan,
        /// The engine's compute buffer that the tensors point into.
        bound: c.ggml_backend_buffer_t = null,
    };

    pub const Options = struct {
        memory: *Memory,
        step: *const memory_ops.Step,
        weights: []const Weight,
        shape: Shape,
        nodes_max: u32,
        threads: u32,
        flash: bool,
    };

    pub fn create(gpa: std.mem.Allocator, options: Options) status.Error!*Graph {
        const self = try gpa.create(Graph);
        errdefer gpa.destroy(self);
        const context = c.ggml_init(.{
            .mem_size = c.ggml_tensor_overhead() * options.nodes_max + c.ggml_graph_overhead_custom(options.nodes_max, false),
            .mem_buffer = null,
            .no_alloc = true,
        }) orelse return error.OutOfMemory;
        errdefer c.ggml_free(context);
        var tensors: std.ArrayList(*Tensor) = try .initCapacity(gpa, options.weights.len + options.nodes_max);
        errdefer tensors.deinit(gpa);
        for (options.weights) |weight| tensors.appendAssumeCapacity(weight.tensor);
        const cells = try gpa.alloc(?*Tensor, options.memory.pools.len);
        errdefer gpa.free(cells);
        @memset(cells, null);
        self.* = .{
            .gpa = gpa,
            .arena = .init(gpa),
            .shape = options.shape,
            .context = context,
            .cgraph = c.ggml_new_graph_custom(context, options.nodes_max, false).?,
            .tensors = tensors,
            .cells = cells,
            .builder = undefined,
            .nodes_max = options.nodes_max,
        };
        errdefer self.arena.deinit();
        const arena = self.arena.allocator();
        const recipes = try arena.alloc(memory_log.Recipe, options.memory.declarations.len);
        @memset(recipes, .{});
        const turns = try arena.alloc(memory_turn.Turn, options.memory.declarations.len);
        @memset(turns, .none);
        self.builder = .{
            .context = context,
            .graph = self.cgraph,
            .arena = arena,
            .memory = options.memory,
            .step = options.step,
            .rows = options.shape.rows,
            .threads = options.threads,
            .recipes = recipes,
            .turns = turns,
            .flash = options.flash,
        };
        return self;
    }

    pub fn destroy(self: *Graph) void {
        if (self.finished) |*finished| finished.layout.deinit(self.gpa);
        self.tensors.deinit(self.gpa);
        self.gpa.free(self.cells);
        self.arena.deinit();
        c.ggml_free(self.context);
        self.gpa.destroy(self);
    }

    // ---- building ----

    /// Takes a tensor into the graph's table and returns its number.
    pub fn add(self: *Graph, tensor: *Tensor) status.Error!i32 {
        try self.tensors.append(self.gpa, tensor);
        return @intCast(self.tensors.items.len - 1);
    }

    pub fn get(self: *const Graph, number: i32) status.Error!*Tensor {
        if (number < 0 or number >= self.tensors.items.len) {
            return status.fail(error.NotFound, "this graph has no tensor {d}; a tensor belongs to the graph that made it", .{number});
        }
        return self.tensors.items[@intCast(number)];
    }

    /// Like `get`; a negative number stands for a tensor that is left out.
    pub fn get_optional(self: *const Graph, number: i32) status.Error!?*Tensor {
        return if (number < 0) null else try self.get(number);
    }

    /// Refuses to go on where the graph is finished or has no room for another operation.
    pub fn check_open(self: *const Graph) status.Error!void {
        if (self.finished != null) return status.fail(error.Refused, "this graph is finished; build another", .{});
        const used: u32 = @intCast(c.ggml_used_mem(self.context) / c.ggml_tensor_overhead());
        if (used + nodes_per_operation > self.nodes_max or
            c.ggml_graph_n_nodes(self.cgraph) + nodes_per_operation > self.nodes_max)
        {
            return status.fail(error.Full, "this graph has no room for more than {d} nodes", .{self.nodes_max});
        }
    }

    pub fn input(self: *Graph, which: Input) status.Error!i32 {
        try self.check_open();
        const slot = &self.inputs[@intCast(@backingInt(which))];
        if (slot.* == null) slot.* = self.new_input(c.GGML_TYPE_I32, switch (which) {
            .tokens, .positions => self.shape.rows,
            .outputs => self.shape.outputs,
        });
        return self.add(slot.*.?);
    }

    fn new_input(self: *Graph, kind: c.ggml_type, count: u32) *Tensor {
        const tensor: *Tensor = c.ggml_new_tensor_1d(self.context, kind, count);
        c.ggml_set_input(tensor);
        return tensor;
    }

    pub fn attend(
        self: *Graph,
        memory: i32,
        queries: i32,
        keys: i32,
        values: i32,
        parameters: memory_ops.AttendParameters,
    ) status.Error!i32 {
        try self.check_open();
        _, const tensors = try self.builder.find(memory, .attention);
        const cells = &self.cells[tensors.pool];
        if (cells.* == null) cells.* = self.new_input(c.GGML_TYPE_I64, self.shape.rows);
        return self.add(try memory_ops.attend(
            &self.builder,
            memory,
            try self.get(queries),
            try self.get_optional(keys),
            try self.get_optional(values),
            cells.*.?,
            parameters,
        ));
    }

    /// Ends the building: the graph computes `logits`, `[vocabulary, outputs]` f32.
    pub fn finish(self: *Graph, logits: i32, vocabulary: u32) status.Error!void {
        try self.check_open();
        const tensor = try self.get(logits);
        if (tensor.type != c.GGML_TYPE_F32 or tensor.ne[0] != vocabulary or tensor.ne[1] != self.shape.outputs or
            tensor.ne[2] != 1 or tensor.ne[3] != 1 or !c.ggml_is_contiguous(tensor) or tensor.op == c.GGML_OP_NONE)
        {
            return status.fail(error.InvalidArgument, "the graph must give logits of the shape [{d}, {d}] (vocabulary, " ++
                "outputs) in f32, not {any}", .{ vocabulary, self.shape.outputs, tensor.ne });
        }
        const base: *Tensor = if (tensor.view_src != null) tensor.view_src else tensor;
        c.ggml_set_output(base);
        c.ggml_set_output(tensor);
        c.ggml_build_forward_expand(self.cgraph, tensor);
        try self.check_input(.tokens, vocabulary, "token ids");
        try self.check_input(.positions, self.builder.memory.config.context, "positions");
        try self.check_input(.outputs, self.shape.rows, "output rows");
        for (self.builder.memory.declarations, self.builder.memory.tensors, self.builder.recipes) |d, tensors, *recipe| {
            if (d.shared_from < 0 and tensors.log != null) try recipe.check(d);
        }
        var inputs: std.ArrayList(*Tensor) = .empty;
        defer inputs.deinit(self.gpa);
        for (self.inputs) |slot| if (slot) |t| try inputs.append(self.gpa, t);
        for (self.cells) |slot| if (slot) |t| try inputs.append(self.gpa, t);
        self.finished = .{
            .logits = tensor,
            .layout = try graph_memory.plan(self.gpa, self.context, self.cgraph, inputs.items),
            .plan = c.ggml_graph_plan(self.cgraph, @intCast(self.builder.threads), null),
        };
    }

    /// An input that picks rows of a table may hold any value below `limit`, so the table must have that many.
    fn check_input(self: *const Graph, which: Input, limit: u32, what: []const u8) status.Error!void {
        const tensor = self.inputs[@intCast(@backingInt(which))] orelse return;
        const bound = ops.input_bound(self.cgraph, tensor) orelse return;
        if (bound >= limit) return;
        return status.fail(error.InvalidArgument, "the {s} go up to {d}, and a table that the graph looks them up in has " ++
            "{d} rows", .{ what, limit - 1, bound });
    }

    // ---- running ----

    pub fn fill(self: *const Graph, sub_batch: *const SubBatch, tokens: []const i32, plan: *const Memory.Plan) void {
        if (self.inputs[@backingInt(Input.tokens)]) |t| tensor_data.set(t, 0, std.mem.sliceAsBytes(tokens));
        if (self.inputs[@backingInt(Input.outputs)]) |t| tensor_data.set(t, 0, std.mem.sliceAsBytes(sub_batch.outputs));
        if (self.inputs[@backingInt(Input.positions)]) |t| {
            for (sub_batch.runs) |run| for (0..run.count) |k| {
                const position = run.first_position + @as(i32, @intCast(k));
                tensor_data.set(t, (run.first_row + k) * @sizeOf(i32), std.mem.asBytes(&position));
            };
        }
        for (self.cells, plan.pools) |slot, *pool| if (slot) |t| {
            tensor_data.set(t, 0, std.mem.sliceAsBytes(pool.attention.cells.items));
        };
    }
};
