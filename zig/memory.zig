//! The memory of a model: any number of pools as one. Every operation happens in all pools or in none; a batch is
//! prepared in every pool before it is applied in any.

const std = @import("std");
const assert = std.debug.assert;
const c = @import("ggml");
const status = @import("status.zig");
const tensor_data = @import("tensor_data.zig");
const declaration = @import("declaration.zig");
const batch_file = @import("batch.zig");
const attention_pool = @import("attention_pool.zig");
const recurrent_pool = @import("recurrent_pool.zig");
const AttentionPool = attention_pool.AttentionPool;
const RecurrentPool = recurrent_pool.RecurrentPool;
const MemoryDeclaration = declaration.MemoryDeclaration;
const Run = batch_file.Run;
const SubBatch = batch_file.SubBatch;
const Batch = batch_file.Batch;
const Tensor = tensor_data.Tensor;

/// A kind of leaf. Each answers the same calls; adding one adds a case here.
pub const Pool = union(enum) {
    attention: AttentionPool,
    recurrent: RecurrentPool,

    fn deinit(pool: *Pool) void {
        switch (pool.*) {
            inline else => |*leaf| leaf.deinit(),
        }
    }

    fn held(pool: *const Pool, sequence: u32) Held {
        switch (pool.*) {
            inline else => |*leaf| {
                const range = leaf.held(sequence);
                return .{ .min = range.min, .end = range.end };
            },
        }
    }

    /// What a person calls it in a refusal.
    fn describe(pool: *const Pool, buffer: *[64]u8) []const u8 {
        return switch (pool.*) {
            .recurrent => "the recurrent states",
            .attention => |leaf| switch (leaf.extent) {
                .all => "full attention",
                else => std.fmt.bufPrint(buffer, "attention with {t} window {d}", .{ leaf.extent, leaf.window }) catch "windowed attention",
            },
        };
    }
};

pub const PoolPlan = union(enum) {
    attention: AttentionPool.Plan,
    recurrent: RecurrentPool.Plan,
};

const Held = struct { min: i32, end: i32 };

pub const Config = struct {
    sequences: u32,
    /// Positions that one sequence may reach.
    context: u32,
    /// Most tokens of one sub-batch.
    batch: u32,
};

/// Tensors of one declared memory: keys and values, or its states. The last dimension counts cells.
pub const Tensors = struct {
    pool: u32,
    items: [declaration.states_max]?*Tensor = @splat(null),
};

/// What one declared memory takes, for the plan that is shown before anything is allocated.
pub const Share = extern struct {
    pool: i32,
    cells: i32,
    bytes_per_cell: f64,
    bytes: f64,
};

const alignment = 64;

pub const Memory = struct {
    gpa: std.mem.Allocator,
    config: Config,
    declarations: []const MemoryDeclaration,
    pools: []Pool,
    tensors: []Tensors,
    context: *c.ggml_context,
    buffer: c.ggml_backend_buffer_t,
    bytes: usize,

    pub fn init(gpa: std.mem.Allocator, declarations: []const MemoryDeclaration, config: Config) status.Error!Memory {
        try declaration.check(declarations);
        const own = try gpa.dupe(MemoryDeclaration, declarations);
        errdefer gpa.free(own);
        const pool_of = try gpa.alloc(u32, own.len);
        defer gpa.free(pool_of);
        const pool_count = assign_pools(own, pool_of);

        const pools = try gpa.alloc(Pool, pool_count);
        errdefer gpa.free(pools);
        var ready: usize = 0;
        errdefer for (pools[0..ready]) |*pool| pool.deinit();
        for (own, pool_of) |d, index| {
            if (index != ready) continue;
            pools[index] = try init_pool(gpa, d, config);
            ready += 1;
        }
        assert(ready == pool_count);

        const tensors = try gpa.alloc(Tensors, own.len);
        errdefer gpa.free(tensors);
        const context = c.ggml_init(.{
            .mem_size = c.ggml_tensor_overhead() * (own.len * declaration.states_max + 1),
            .mem_buffer = null,
            .no_alloc = true,
        }) orelse return error.OutOfMemory;
        errdefer c.ggml_free(context);

        var memory: Memory = .{
            .gpa = gpa,
            .config = config,
            .declarations = own,
            .pools = pools,
            .tensors = tensors,
            .context = context,
            .buffer = null,
            .bytes = 0,
        };
        memory.create_tensors(pool_of);
        try memory.allocate();
        return memory;
    }

    pub fn deinit(memory: *Memory) void {
        if (memory.buffer) |buffer| c.ggml_backend_buffer_free(buffer);
        c.ggml_free(memory.context);
        for (memory.pools) |*pool| pool.deinit();
        memory.gpa.free(memory.pools);
        memory.gpa.free(memory.tensors);
        memory.gpa.free(memory.declarations);
        memory.* = undefined;
    }

    fn create_tensors(memory: *Memory, pool_of: []const u32) void {
        for (memory.declarations, memory.tensors, pool_of) |d, *tensors, pool| {
            if (d.shared_from >= 0) {
                tensors.* = memory.tensors[@intCast(d.shared_from)];
                continue;
            }
            tensors.* = .{ .pool = pool };
            const cells: i64 = cell_count(&memory.pools[pool]);
            for (columns(d), 0..) |column, i| {
                if (column.elements == 0) continue;
                tensors.items[i] = c.ggml_new_tensor_2d(memory.context, @intCast(column.type), column.elements, cells);
            }
        }
    }

    fn allocate(memory: *Memory) status.Error!void {
        var total: usize = 0;
        var tensor = c.ggml_get_first_tensor(memory.context);
        while (tensor) |t| : (tensor = c.ggml_get_next_tensor(memory.context, t)) {
            total += std.mem.alignForward(usize, c.ggml_nbytes(t), alignment);
        }
        if (total == 0) return;
        const buffer = c.ggml_backend_buft_alloc_buffer(c.ggml_backend_cpu_buffer_type(), total) orelse {
            return status.fail(error.OutOfMemory, "the model's memory needs {d} bytes, which the system refused; use " ++
                "a smaller context, fewer sequences or a smaller type", .{total});
        };
        memory.buffer = buffer;
        memory.bytes = total;
        const base: [*]u8 = @ptrCast(c.ggml_backend_buffer_get_base(buffer).?);
        var offset: usize = 0;
        tensor = c.ggml_get_first_tensor(memory.context);
        while (tensor) |t| : (tensor = c.ggml_get_next_tensor(memory.context, t)) {
            assert(c.ggml_backend_tensor_alloc(buffer, t, base + offset) == c.GGML_STATUS_SUCCESS);
            offset += std.mem.alignForward(usize, c.ggml_nbytes(t), alignment);
        }
    }

    // ---- operations on sequences ----

    fn check_sequence(memory: *const Memory, sequence: i32) status.Error!u32 {
        if (sequence < 0 or sequence >= memory.config.sequences) {
            return status.fail(error.NotFound, "there is no sequence {d}: this model holds {d}, numbered from 0", .{
                sequence, memory.config.sequences,
            });
        }
        return @intCast(sequence);
    }

    /// The position that the sequence's next token takes: the least of all pools'. 0 where it is empty.
    pub fn end(memory: *const Memory, sequence: i32) status.Error!i32 {
        return (try memory.bounds(sequence)).end;
    }

    /// The positions at which every pool still holds something: `min` the greatest minimum, `end` one past the least
    /// maximum.
    pub fn bounds(memory: *const Memory, sequence: i32) status.Error!Held {
        const index = try memory.check_sequence(sequence);
        var result: Held = .{ .min = 0, .end = std.math.maxInt(i32) };
        for (memory.pools) |*pool| {
            const range = pool.held(index);
            result.min = @max(result.min, range.min);
            result.end = @min(result.end, range.end);
        }
        if (memory.pools.len == 0) result.end = 0;
        return result;
    }

    /// Removes positions `[p0, p1)` from every pool, or from none. Negative bounds mean the start and the end.
    pub fn remove(memory: *Memory, sequence: i32, from: i32, to: i32) status.Error!void {
        const index = try memory.check_sequence(sequence);
        const p0 = @max(from, 0);
        const p1 = if (to < 0) std.math.maxInt(i32) else to;
        if (p0 >= p1) return;
        for (memory.pools) |*pool| {
            const reason = switch (pool.*) {
                inline else => |*leaf| leaf.remove_refusal(index, p0, p1),
            } orelse continue;
            var buffer: [64]u8 = undefined;
            return status.fail(error.Refused, "positions {d} to {d} of sequence {d} cannot be removed: {s}: {s}", .{
                p0, p1 - 1, index, pool.describe(&buffer), reason,
            });
        }
        for (memory.pools) |*pool| switch (pool.*) {
            inline else => |*leaf| leaf.remove(index, p0, p1),
        };
    }

    /// Empties a sequence. Never fails for one that exists.
    pub fn clear(memory: *Memory, sequence: i32) status.Error!void {
        memory.clear_all(try memory.check_sequence(sequence));
    }

    fn clear_all(memory: *Memory, sequence: u32) void {
        for (memory.pools) |*pool| switch (pool.*) {
            inline else => |*leaf| leaf.clear(sequence),
        };
    }

    /// Makes `destination` hold what `source` holds; what it held before goes.
    pub fn copy(memory: *Memory, source: i32, destination: i32) status.Error!void {
        const from = try memory.check_sequence(source);
        const to = try memory.check_sequence(destination);
        if (from == to) return;
        try memory.clear(destination);
        errdefer memory.clear_all(to);
        for (memory.pools) |*pool| switch (pool.*) {
            inline else => |*leaf| try leaf.copy(from, to),
        };
    }

    // ---- batches ----

    /// Cuts the requests into sub-batches and makes sure that every pool has room for all of them. Changes nothing.
    pub fn prepare(
        memory: *const Memory,
        gpa: std.mem.Allocator,
        tokens: []const i32,
        requests: []const batch_file.Request,
    ) status.Error!Batch {
        const positions = try gpa.alloc(i32, requests.len);
        defer gpa.free(positions);
        try memory.check_requests(tokens, requests, positions);
        var batch: Batch = try .split(gpa, tokens, requests, positions, memory.config.batch);
        errdefer batch.deinit();
        for (memory.pools) |*pool| try check_room(pool, gpa, &batch);
        return batch;
    }

    fn check_requests(
        memory: *const Memory,
        tokens: []const i32,
        requests: []const batch_file.Request,
        positions: []i32,
    ) status.Error!void {
        var total: usize = 0;
        for (requests, positions, 0..) |request, *position, i| {
            const sequence = try memory.check_sequence(request.sequence);
            if (request.count < 1) {
                return status.fail(error.InvalidArgument, "sequence {d} was given {d} tokens; give at least one", .{
                    sequence, request.count,
                });
            }
            for (requests[0..i]) |other| if (other.sequence == request.sequence) {
                return status.fail(error.InvalidArgument, "sequence {d} stands twice in one batch", .{sequence});
            };
            position.* = try memory.end(request.sequence);
            const count: u32 = @intCast(request.count);
            if (@as(u64, @intCast(position.*)) + count > memory.config.context) {
                return status.fail(error.Full, "sequence {d} holds {d} tokens and was given {d} more, but the context " ++
                    "is {d}", .{ sequence, position.*, count, memory.config.context });
            }
            total += count;
        }
        if (total != tokens.len) {
            return status.fail(error.InvalidArgument, "the requests take {d} tokens and {d} were given", .{ total, tokens.len });
        }
    }

    fn check_room(pool: *const Pool, gpa: std.mem.Allocator, batch: *const Batch) status.Error!void {
        switch (pool.*) {
            inline else => |*leaf| {
                var estimate = try leaf.estimate_begin(gpa);
                defer estimate.deinit(gpa);
                for (batch.sub_batches) |sub_batch| leaf.estimate_add(&estimate, sub_batch.runs);
                if (estimate.lacking == 0) return;
                var buffer: [64]u8 = undefined;
                return status.fail(error.Full, "{s} is full: {d} more blocks are needed than are free; end a sequence " ++
                    "or load with a larger context", .{ pool.describe(&buffer), estimate.lacking });
            },
        }
    }

    /// What a sub-batch does to every pool. Kept from step to step for its capacity.
    pub const Plan = struct {
        gpa: std.mem.Allocator,
        pools: []PoolPlan,

        pub fn deinit(plan: *Plan) void {
            for (plan.pools) |*pool| switch (pool.*) {
                inline else => |*leaf| leaf.deinit(plan.gpa),
            };
            plan.gpa.free(plan.pools);
        }
    };

    pub fn create_plan(memory: *const Memory, gpa: std.mem.Allocator) error{OutOfMemory}!Plan {
        const pools = try gpa.alloc(PoolPlan, memory.pools.len);
        for (memory.pools, pools) |*pool, *plan| plan.* = switch (pool.*) {
            .attention => .{ .attention = .{} },
            .recurrent => .{ .recurrent = .{} },
        };
        return .{ .gpa = gpa, .pools = pools };
    }

    /// Makes one prepared sub-batch visible in every pool, or in none. `commit` or `revert` follows.
    pub fn apply(memory: *Memory, plan: *Plan, sub_batch: *const SubBatch) error{OutOfMemory}!void {
        for (memory.pools, plan.pools) |*pool, *pool_plan| switch (pool.*) {
            inline else => |*leaf, tag| try @field(pool_plan, @tagName(tag)).reserve(plan.gpa, leaf, sub_batch.runs),
        };
        for (memory.pools, plan.pools, 0..) |*pool, *pool_plan, index| switch (pool.*) {
            inline else => |*leaf, tag| {
                leaf.apply(&@field(pool_plan, @tagName(tag)), sub_batch.runs);
                if (tag == .attention) memory.copy_blocks(@intCast(index), pool_plan.attention.copies.items);
            },
        };
    }

    pub fn commit(memory: *Memory, plan: *Plan, sub_batch: *const SubBatch) void {
        for (memory.pools, plan.pools) |*pool, *pool_plan| switch (pool.*) {
            inline else => |*leaf, tag| leaf.commit(&@field(pool_plan, @tagName(tag)), sub_batch.runs),
        };
    }

    pub fn revert(memory: *Memory, plan: *Plan, sub_batch: *const SubBatch) void {
        for (memory.pools, plan.pools) |*pool, *pool_plan| switch (pool.*) {
            inline else => |*leaf, tag| leaf.revert(&@field(pool_plan, @tagName(tag)), sub_batch.runs),
        };
    }

    fn copy_blocks(memory: *Memory, pool: u32, copies: []const AttentionPool.Plan.Copy) void {
        const cells = attention_pool.block_cells;
        for (copies) |copied| {
            for (memory.declarations, memory.tensors) |d, tensors| {
                if (tensors.pool != pool or d.shared_from >= 0) continue;
                for (tensors.items) |item| if (item) |tensor| {
                    tensor_data.copy_rows(tensor, copied.from * cells, copied.to * cells, cells);
                };
            }
        }
    }
};

/// Bytes of every declared memory, before anything is allocated: the same figures that `Memory.init` allocates by.
pub fn measure(declarations: []const MemoryDeclaration, config: Config, gpa: std.mem.Allocator, shares: []Share) status.Error!void {
    try declaration.check(declarations);
    const pool_of = try gpa.alloc(u32, declarations.len);
    defer gpa.free(pool_of);
    _ = assign_pools(declarations, pool_of);
    for (declarations, pool_of, shares) |d, pool, *share| {
        const cells = pool_cells(d, config);
        share.* = .{ .pool = @intCast(pool), .cells = @intCast(cells), .bytes_per_cell = 0, .bytes = 0 };
        if (d.shared_from >= 0) continue;
        for (columns(d)) |column| {
            if (column.elements == 0) continue;
            const row = c.ggml_row_size(@intCast(column.type), column.elements);
            share.bytes_per_cell += @floatFromInt(row);
            share.bytes += @floatFromInt(std.mem.alignForward(usize, row * cells, alignment));
        }
    }
}

const Column = struct { type: i32 = 0, elements: i64 = 0 };

/// The tensors of a declaration: what one cell of each holds.
fn columns(d: MemoryDeclaration) [declaration.states_max]Column {
    var result: [declaration.states_max]Column = @splat(.{});
    switch (d.kind) {
        .attention => {
            result[0] = .{ .type = d.key_type, .elements = @as(i64, d.heads) * d.key_dim };
            result[1] = .{ .type = d.value_type, .elements = @as(i64, d.heads) * d.value_dim };
        },
        .recurrent => for (result[0..@intCast(d.state_count)], d.state_elements[0..@intCast(d.state_count)]) |*column, elements| {
            column.* = .{ .type = c.GGML_TYPE_F32, .elements = elements };
        },
    }
    return result;
}

/// Memories that keep the same positions share a pool. Returns the number of pools, in the order of their first use.
fn assign_pools(declarations: []const MemoryDeclaration, pool_of: []u32) u32 {
    var count: u32 = 0;
    for (declarations, 0..) |d, i| {
        if (d.shared_from >= 0) {
            pool_of[i] = pool_of[@intCast(d.shared_from)];
            continue;
        }
        pool_of[i] = for (declarations[0..i], pool_of[0..i]) |other, pool| {
            if (other.shared_from < 0 and same_pool(d, other)) break pool;
        } else blk: {
            count += 1;
            break :blk count - 1;
        };
    }
    return count;
}

fn same_pool(a: MemoryDeclaration, b: MemoryDeclaration) bool {
    return a.kind == b.kind and a.extent == b.extent and a.window == b.window;
}

fn attention_config(d: MemoryDeclaration, config: Config) AttentionPool.Config {
    return .{
        .extent = d.extent,
        .window = @intCast(d.window),
        .sequences = config.sequences,
        .context = config.context,
        .batch = config.batch,
    };
}

fn init_pool(gpa: std.mem.Allocator, d: MemoryDeclaration, config: Config) error{OutOfMemory}!Pool {
    return switch (d.kind) {
        .attention => .{ .attention = try .init(gpa, attention_config(d, config)) },
        .recurrent => .{ .recurrent = try .init(gpa, .{ .sequences = config.sequences }) },
    };
}

fn cell_count(pool: *const Pool) u32 {
    return switch (pool.*) {
        inline else => |*leaf| leaf.cell_count(),
    };
}

fn pool_cells(d: MemoryDeclaration, config: Config) u32 {
    return switch (d.kind) {
        .attention => AttentionPool.block_count(attention_config(d, config)) * attention_pool.block_cells,
        .recurrent => RecurrentPool.cell_count_for(.{ .sequences = config.sequences }),
    };
}

const testing = std.testing;

const test_declarations = [_]MemoryDeclaration{
    .{ .layer = 0, .kind = .attention, .heads = 2, .key_dim = 8, .value_dim = 16 },
    .{ .layer = 1, .kind = .attention, .heads = 1, .key_dim = 8, .value_dim = 8, .extent = .sliding, .window = 32 },
    .{ .layer = 2, .kind = .recurrent, .state_count = 2, .state_elements = .{ 12, 64, 0, 0, 0, 0, 0, 0 } },
    .{ .layer = 3, .kind = .attention, .heads = 4, .key_dim = 4, .value_dim = 4 },
    .{ .layer = 4, .kind = .attention, .shared_from = 0 },
};
const test_config: Config = .{ .sequences = 3, .context = 256, .batch = 64 };

test "planned bytes are allocated bytes" {
    var memory: Memory = try .init(testing.allocator, &test_declarations, test_config);
    defer memory.deinit();
    var shares: [test_declarations.len]Share = undefined;
    try measure(&test_declarations, test_config, testing.allocator, &shares);
    var total: f64 = 0;
    for (shares) |share| total += share.bytes;
    try testing.expectEqual(@as(f64, @floatFromInt(memory.bytes)), total);
    try testing.expectEqual(3, memory.pools.len);
    try testing.expectEqual(memory.tensors[0].items[0], memory.tensors[4].items[0]);
    try testing.expectEqual(shares[0].pool, shares[3].pool);
}

test "all pools or none" {
    var memory: Memory = try .init(testing.allocator, &test_declarations, test_config);
    defer memory.deinit();
    var plan = try memory.create_plan(testing.allocator);
    defer plan.deinit();
    const tokens: [100]i32 = @splat(5);
    const requests = [_]batch_file.Request{
        .{ .sequence = 1, .count = 70, .logits = .last, .sampler = 0 },
        .{ .sequence = 2, .count = 30, .logits = .none, .sampler = 0 },
    };
    var batch = try memory.prepare(testing.allocator, &tokens, &requests);
    defer batch.deinit();
    try testing.expectEqual(2, batch.sub_batches.len);

    try memory.apply(&plan, &batch.sub_batches[0]);
    memory.revert(&plan, &batch.sub_batches[0]);
    try testing.expectEqual(0, try memory.end(1));
    for (batch.sub_batches) |*sub_batch| {
        try memory.apply(&plan, sub_batch);
        memory.commit(&plan, sub_batch);
    }
    try testing.expectEqual(70, try memory.end(1));
    try testing.expectEqual(30, try memory.end(2));

    try testing.expectError(error.Refused, memory.remove(1, 60, -1));
    try testing.expectStringStartsWith(status.message(), "positions 60 to");
    try testing.expectEqual(70, try memory.end(1));
    try memory.copy(1, 0);
    try testing.expectEqual(70, try memory.end(0));
    try memory.remove(0, 0, -1);
    try testing.expectEqual(0, try memory.end(0));
    try testing.expectError(error.NotFound, memory.clear(3));
    try testing.expectError(error.Full, memory.prepare(testing.allocator, &(tokens ++ tokens), &.{
        .{ .sequence = 1, .count = 200, .logits = .last, .sampler = 0 },
    }));
}
