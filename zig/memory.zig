//! The memory of a model: any number of pools as one. Every operation happens in all pools or in none; a batch is
//! prepared in every pool before it is applied in any. Sequences and snapshots of them are its holders.

const std = @import("std");
const assert = std.debug.assert;
const c = @import("ggml");
const status = @import("status.zig");
const tensor_data = @import("tensor_data.zig");
const declaration = @import("declaration.zig");
const batch_file = @import("batch.zig");
const leaf = @import("leaf.zig");
const memory_layout = @import("memory_layout.zig");
const memory_move = @import("memory_move.zig");
const history_file = @import("history.zig");
const History = history_file.History;
const Stamp = history_file.Stamp;
const Pool = leaf.Pool;
const PoolPlan = leaf.PoolPlan;
const CellCopy = @import("pieces.zig").CellCopy;
const MemoryDeclaration = declaration.MemoryDeclaration;
const Range = batch_file.Range;
const SubBatch = batch_file.SubBatch;
const Batch = batch_file.Batch;
const Tensor = tensor_data.Tensor;
const Config = memory_layout.Config;

/// Tensors of one declared memory: keys and values, or its states. The last dimension counts cells.
pub const Tensors = struct {
    pool: u32,
    items: [declaration.states_max]?*Tensor = @splat(null),
    /// The inputs from which states are computed again, `[inputs, rows]`.
    log: ?*Tensor = null,
    /// The states that snapshots hold, in f16, one row for each.
    halves: [declaration.states_max]?*Tensor = @splat(null),
};

/// A snapshot's slot. Its holder's number is that of the sequences and its index.
const Slot = struct { is_taken: bool = false, generation: u16 = 1 };

pub const Memory = struct {
    gpa: std.mem.Allocator,
    config: Config,
    declarations: []const MemoryDeclaration,
    layout: memory_layout.Layout,
    pools: []Pool,
    tensors: []Tensors,
    /// Of every holder.
    histories: []History,
    slots: []Slot,
    context: *c.ggml_context,
    buffer: c.ggml_backend_buffer_t,
    bytes: usize,
    /// A batch is being computed for which room was counted: nobody else may take any until it has ended.
    is_computing: bool = false,
    /// Gaps of some holder were not closed, since a batch was computed or memory was short.
    has_gaps: bool = false,
    /// Bytes of states that steps have read and written, for whoever measures.
    state_bytes_moved: u64 = 0,

    /// With `allocate` false, only the books: for graphs that are measured and never computed.
    pub fn init(gpa: std.mem.Allocator, declarations: []const MemoryDeclaration, config: Config, allocate: bool) status.Error!Memory {
        var layout: memory_layout.Layout = try .init(gpa, declarations, config);
        errdefer layout.deinit();
        const own = try gpa.dupe(MemoryDeclaration, declarations);
        errdefer gpa.free(own);
        const pools = try gpa.alloc(Pool, layout.pools.len);
        errdefer gpa.free(pools);
        var ready: usize = 0;
        errdefer for (pools[0..ready]) |*pool| pool.deinit();
        for (layout.pools, pools) |pool_config, *pool| {
            pool.* = try .init(gpa, pool_config);
            ready += 1;
        }
        const tensors = try gpa.alloc(Tensors, own.len);
        errdefer gpa.free(tensors);
        const histories = try gpa.alloc(History, config.sequences + layout.snapshots);
        errdefer gpa.free(histories);
        @memset(histories, .{});
        const slots = try gpa.alloc(Slot, layout.snapshots);
        errdefer gpa.free(slots);
        @memset(slots, .{});
        const context = c.ggml_init(.{
            .mem_size = c.ggml_tensor_overhead() * (own.len * (2 * declaration.states_max + 1) + 1),
            .mem_buffer = null,
            .no_alloc = true,
        }) orelse return error.OutOfMemory;
        errdefer c.ggml_free(context);

        var memory: Memory = .{
            .gpa = gpa,
            .config = config,
            .declarations = own,
            .layout = layout,
            .pools = pools,
            .tensors = tensors,
            .histories = histories,
            .slots = slots,
            .context = context,
            .buffer = null,
            .bytes = 0,
        };
        memory.create_tensors();
        try if (allocate) memory.allocate_tensors() else memory.stand_in();
        return memory;
    }

    pub fn deinit(memory: *Memory) void {
        if (memory.buffer) |buffer| c.ggml_backend_buffer_free(buffer);
        c.ggml_free(memory.context);
        for (memory.pools) |*pool| pool.deinit();
        for (memory.histories) |*history| history.deinit(memory.gpa);
        memory.gpa.free(memory.histories);
        memory.gpa.free(memory.slots);
        memory.gpa.free(memory.pools);
        memory.gpa.free(memory.tensors);
        memory.gpa.free(memory.declarations);
        memory.layout.deinit();
        memory.* = undefined;
    }

    fn create_tensors(memory: *Memory) void {
        for (memory.declarations, memory.tensors, memory.layout.pool_of) |d, *tensors, pool| {
            if (d.shared_from >= 0) {
                tensors.* = memory.tensors[@intCast(d.shared_from)];
                continue;
            }
            tensors.* = .{ .pool = pool };
            const cells: i64 = @intCast(memory.layout.pools[pool].cell_count());
            for (leaf.columns(d), 0..) |column, i| {
                if (column.elements == 0) continue;
                tensors.items[i] = c.ggml_new_tensor_2d(memory.context, column.type, column.elements, cells);
            }
            const half_rows = memory.layout.pools[pool].half_rows();
            if (half_rows > 0) for (leaf.columns(d), 0..) |column, i| {
                if (column.elements == 0) continue;
                tensors.halves[i] = c.ggml_new_tensor_2d(memory.context, c.GGML_TYPE_F16, column.elements, half_rows);
            };
            const rows = memory.layout.pools[pool].log_rows();
            if (rows > 0) tensors.log = c.ggml_new_tensor_2d(memory.context, c.GGML_TYPE_F32, d.inputs, rows);
        }
    }

    /// Says that the tensors lie in a buffer, which is empty: a graph that is measured has no room for them.
    fn stand_in(memory: *Memory) status.Error!void {
        const buffer = c.ggml_backend_buft_alloc_buffer(c.ggml_backend_cpu_buffer_type(), 0) orelse return error.OutOfMemory;
        memory.buffer = buffer;
        var tensor = c.ggml_get_first_tensor(memory.context);
        while (tensor) |t| : (tensor = c.ggml_get_next_tensor(memory.context, t)) t.*.buffer = buffer;
    }

    fn allocate_tensors(memory: *Memory) status.Error!void {
        var total: usize = 0;
        var tensor = c.ggml_get_first_tensor(memory.context);
        while (tensor) |t| : (tensor = c.ggml_get_next_tensor(memory.context, t)) {
            total += std.mem.alignForward(usize, c.ggml_nbytes(t), memory_layout.alignment);
        }
        if (total == 0) return;
        const buffer = c.ggml_backend_buft_alloc_buffer(c.ggml_backend_cpu_buffer_type(), total) orelse {
            return status.fail(error.OutOfMemory, "the model's memory needs {d} bytes, which the system refused; use " ++
                "a smaller context, fewer sequences or a smaller type", .{total});
        };
        if (memory.config.poison) tensor_data.poison_buffer(buffer);
        memory.buffer = buffer;
        memory.bytes = total;
        const base: [*]u8 = @ptrCast(c.ggml_backend_buffer_get_base(buffer).?);
        var offset: usize = 0;
        tensor = c.ggml_get_first_tensor(memory.context);
        while (tensor) |t| : (tensor = c.ggml_get_next_tensor(memory.context, t)) {
            assert(c.ggml_backend_tensor_alloc(buffer, t, base + offset) == c.GGML_STATUS_SUCCESS);
            offset += std.mem.alignForward(usize, c.ggml_nbytes(t), memory_layout.alignment);
        }
    }

    // ---- holders ----

    pub fn check_sequence(memory: *const Memory, sequence: i32) status.Error!u32 {
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
    pub fn bounds(memory: *const Memory, sequence: i32) status.Error!Range {
        const index = try memory.check_sequence(sequence);
        var result = memory.bounds_of(index);
        // Of a batch that is computed, attention holds cells already; they count when it has succeeded.
        result.end = @min(result.end, memory.histories[index].end());
        result.min = @min(result.min, result.end);
        return result;
    }

    pub fn bounds_of(memory: *const Memory, holder: u32) Range {
        // Without any memory, a sequence has a length and nothing else.
        if (memory.pools.len == 0) {
            const history = &memory.histories[holder];
            return .{ .min = if (history.len() == 0) 0 else history.positions()[0], .end = history.end() };
        }
        var result: Range = .{ .min = 0, .end = std.math.maxInt(i32) };
        for (memory.pools) |*pool| {
            const range = pool.held(holder);
            result.min = @max(result.min, range.min);
            result.end = @min(result.end, range.end);
        }
        return result;
    }

    /// Removes positions `[p0, p1)` from every pool, or from none. Negative bounds mean the start and the end.
    pub fn remove(memory: *Memory, sequence: i32, from: i32, to: i32) status.Error!void {
        const index = try memory.check_sequence(sequence);
        const p1 = if (to < 0) std.math.maxInt(i32) else to;
        const range = memory.bounds_of(index);
        if (@max(from, 0) >= p1 or from >= range.end) return;
        const is_tail = p1 >= range.end;
        if (is_tail and memory.is_all(index, from)) return memory.clear_all(index);
        // A tail begins right behind what stays, also where there is a hole.
        const p0 = if (is_tail) memory.end_before(index, from) else @max(from, 0);
        for (memory.pools) |*pool| {
            const reason = pool.remove_refusal(index, p0, p1) orelse continue;
            var buffer: [64]u8 = undefined;
            return status.fail(error.Refused, "positions {d} to {d} of sequence {d} cannot be removed: {s}: {s}", .{
                p0, @min(p1, range.end) - 1, index, pool.describe(&buffer), reason,
            });
        }
        for (memory.pools) |*pool| try pool.reserve_remove(index);
        for (memory.pools) |*pool| pool.remove(index, p0, p1);
        const history = &memory.histories[index];
        history.remove(p0, p1);
        for (memory.pools) |*pool| pool.set_stamp(index, history.stamp());
        memory.pack(index);
    }

    pub const Resumable = struct {
        position: i32,
        /// Of the snapshots that were offered, the one to restore; null where the sequence is cut back instead.
        snapshot: ?u32 = null,
        /// The first pool that kept it from more.
        limit: ?*const Pool = null,
    };

    /// The longest beginning of a sequence, of at most `position` positions, that it can go on from: by being cut back, or
    /// by restoring one of these snapshots, which count where they stand for the same beginning.
    pub fn resumable(memory: *const Memory, sequence: i32, position: i32, snapshots: []const u32) status.Error!Resumable {
        const index = try memory.check_sequence(sequence);
        var best = memory.cut_back(index, position);
        const history = &memory.histories[index];
        for (snapshots, 0..) |handle, i| {
            const holder = try memory.snapshot_holder(handle);
            const at = memory.bounds_of(holder).end;
            if (at > position or at <= best.position) continue;
            const other = &memory.histories[holder];
            if (other.len() > history.len() or !other.stamp().eql(history.stamp_at(other.len()))) continue;
            if (!std.mem.eql(i32, other.positions(), history.positions()[0..other.len()])) continue;
            best = .{ .position = at, .snapshot = @intCast(i), .limit = if (at < position) best.limit else null };
        }
        return best;
    }

    fn cut_back(memory: *const Memory, index: u32, position: i32) Resumable {
        const range = memory.bounds_of(index);
        if (position >= range.end) return .{ .position = range.end };
        const history = &memory.histories[index];
        const positions = history.positions();
        var limit: ?*const Pool = null;
        var count = history.count_before(position);
        while (count > 0) : (count -= 1) {
            const at = positions[count - 1] + 1;
            const refusing = for (memory.pools) |*pool| {
                if (pool.remove_refusal(index, at, std.math.maxInt(i32)) != null) break pool;
            } else return .{ .position = at, .limit = limit };
            if (limit == null) limit = refusing;
        }
        return .{ .position = 0, .limit = limit };
    }

    /// Closes the gaps that a cut left in a holder's blocks, now or later.
    pub fn pack(memory: *Memory, holder: u32) void {
        memory.has_gaps = memory.has_gaps or memory.is_computing;
        if (memory.is_computing) return;
        var changes: leaf.Changes = .{};
        defer changes.deinit(memory.gpa);
        for (memory.pools, 0..) |*pool, index| {
            changes.clear();
            pool.pack(holder, &changes) catch |err| switch (err) {
                error.OutOfMemory => memory.has_gaps = true,
            };
            memory.carry_out(@intCast(index), &changes);
        }
    }

    /// Closes gaps that could not be closed when they came to be.
    pub fn pack_missed(memory: *Memory) void {
        if (!memory.has_gaps) return;
        memory.has_gaps = false;
        for (0..memory.config.sequences) |sequence| memory.pack(@intCast(sequence));
    }

    /// One past the last of the positions before another; there is one.
    fn end_before(memory: *const Memory, holder: u32, position: i32) i32 {
        const history = &memory.histories[holder];
        return history.positions()[history.count_before(position) - 1] + 1;
    }

    /// Whether nothing stands before a position.
    fn is_all(memory: *const Memory, holder: u32, p0: i32) bool {
        const positions = memory.histories[holder].positions();
        return positions.len == 0 or p0 <= positions[0];
    }

    /// Empties a sequence. Never fails for one that exists.
    pub fn clear(memory: *Memory, sequence: i32) status.Error!void {
        memory.clear_all(try memory.check_sequence(sequence));
    }

    pub fn clear_all(memory: *Memory, holder: u32) void {
        for (memory.pools) |*pool| pool.clear(holder);
        memory.histories[holder].clear();
    }

    /// Empties all sequences but one.
    pub fn keep(memory: *Memory, sequence: i32) status.Error!void {
        const kept = try memory.check_sequence(sequence);
        for (0..memory.config.sequences) |other| if (other != kept) memory.clear_all(@intCast(other));
    }

    /// Makes `destination` hold what `source` holds at positions `[p0, p1)`; what it held before goes.
    pub fn copy(memory: *Memory, source: i32, destination: i32, p0: i32, p1: i32) status.Error!void {
        const from = try memory.check_sequence(source);
        const to = try memory.check_sequence(destination);
        const range = memory.bounds_of(from);
        const is_whole = memory.is_all(from, @max(p0, 0)) and (p1 < 0 or p1 >= range.end);
        const is_nothing = p1 >= 0 and @max(p0, 0) >= p1 or p0 > 0 and p0 >= range.end;
        if (from == to or is_nothing) return;
        if (!is_whole) try memory.check_part(from, p0, p1);
        try memory.copy_holder(from, to);
        if (is_whole) return;
        errdefer memory.clear_all(to);
        if (p1 >= 0) try memory.remove(destination, p1, -1);
        if (p0 > 0) try memory.remove(destination, 0, p0);
    }

    /// Refuses to copy a part that could not be cut out, before the destination has lost what it held.
    fn check_part(memory: *const Memory, source: u32, p0: i32, p1: i32) status.Error!void {
        const range = memory.bounds_of(source);
        if (p1 >= 0 and memory.is_all(source, p1)) return;
        for (memory.pools) |*pool| {
            const cuts_tail = p1 >= 0 and p1 < range.end and !memory.is_all(source, p1);
            const tail = if (cuts_tail) pool.remove_refusal(source, memory.end_before(source, p1), std.math.maxInt(i32)) else null;
            const head = if (p0 > 0 and p0 < range.end) pool.remove_refusal(source, 0, p0) else null;
            var buffer: [64]u8 = undefined;
            if (pool.part_refusal() orelse tail orelse head) |reason| return status.fail(error.Refused, "a part of sequence {d} cannot be copied: {s}: {s}", .{
                source, pool.describe(&buffer), reason,
            });
        }
    }

    fn copy_holder(memory: *Memory, from: u32, to: u32) status.Error!void {
        memory.clear_all(to);
        errdefer memory.clear_all(to);
        const history = &memory.histories[from];
        try memory.histories[to].assign(memory.gpa, history, history.len());
        var changes: leaf.Changes = .{};
        defer changes.deinit(memory.gpa);
        for (memory.pools, 0..) |*pool, index| {
            changes.clear();
            pool.copy(from, to, &changes) catch |err| return no_room(pool, err);
            memory.carry_out(@intCast(index), &changes);
        }
    }

    /// Does to a pool's tensors what a change in its books asks for.
    pub fn carry_out(memory: *Memory, pool: u32, changes: *const leaf.Changes) void {
        memory.copy_cells(pool, changes.cells.items);
        for (memory.declarations, memory.tensors) |d, tensors| {
            if (d.shared_from >= 0 or tensors.pool != pool) continue;
            if (changes.log) |log| if (tensors.log) |tensor| {
                const rows = memory.layout.pools[pool].log_rows() / memory.config.sequences;
                tensor_data.copy_rows(tensor, log.from * rows, log.to * rows, rows);
            };
            const half = changes.half orelse continue;
            const row = half.snapshot - memory.config.sequences;
            for (tensors.items, tensors.halves) |item, halves| if (item) |tensor| switch (half.way) {
                .to_half => tensor_data.convert_row(tensor, half.cell, halves.?, row),
                .to_cell => tensor_data.convert_row(halves.?, row, tensor, half.cell),
            };
        }
    }

    /// Writes a new snapshot's states down as snapshots hold them.
    pub fn settle_snapshot(memory: *Memory, holder: u32) void {
        for (memory.pools, 0..) |*pool, index| {
            var changes: leaf.Changes = .{};
            pool.settle_snapshot(holder, &changes);
            memory.carry_out(@intCast(index), &changes);
        }
    }

    pub fn no_room(pool: *const Pool, err: error{ OutOfMemory, Full }) status.Error {
        if (err == error.OutOfMemory) return error.OutOfMemory;
        var buffer: [64]u8 = undefined;
        return status.fail(error.Full, "{s} is full: {d} cells are free; end a sequence, drop a snapshot, or load with a larger context", .{
            pool.describe(&buffer), pool.free_cells(),
        });
    }

    // ---- moving positions ----

    pub const begin_move = memory_move.begin;
    pub const move_pool = memory_move.move_pool;

    // ---- snapshots ----

    /// Takes a slot for a snapshot. Its bytes count from now on.
    pub fn reserve_snapshot(memory: *Memory) status.Error!u32 {
        for (memory.slots, 0..) |*slot, index| {
            if (slot.is_taken) continue;
            slot.is_taken = true;
            return @as(u32, slot.generation) << 16 | @as(u32, @intCast(index));
        }
        const each = memory.layout.bytes_per_snapshot;
        if (memory.slots.len == 0) {
            return status.fail(error.Full, "there is no room for snapshots: one takes {d} bytes and {d} were planned for; " ++
                "load with more bytes for snapshots", .{ each, memory.config.snapshot_bytes });
        }
        return status.fail(error.Full, "the budget of {d} bytes for snapshots is used up by {d} of {d} bytes; drop one, or " ++
            "load with more bytes for snapshots", .{ memory.config.snapshot_bytes, memory.slots.len, each });
    }

    /// The holder behind a snapshot's handle.
    pub fn snapshot_holder(memory: *const Memory, handle: u32) status.Error!u32 {
        const index = handle & 0xffff;
        if (index >= memory.slots.len or !memory.slots[index].is_taken or memory.slots[index].generation != handle >> 16) {
            return status.fail(error.NotFound, "this snapshot was dropped", .{});
        }
        return memory.config.sequences + index;
    }

    pub fn drop_snapshot(memory: *Memory, handle: u32) status.Error!void {
        const holder = try memory.snapshot_holder(handle);
        memory.clear_all(holder);
        const slot = &memory.slots[holder - memory.config.sequences];
        slot.is_taken = false;
        slot.generation = if (slot.generation == std.math.maxInt(u16)) 1 else slot.generation + 1;
    }

    pub fn take_snapshot(memory: *Memory, sequence: u32, handle: u32) status.Error!void {
        try memory.copy_holder(sequence, try memory.snapshot_holder(handle));
    }

    pub fn restore_snapshot(memory: *Memory, handle: u32, sequence: u32) status.Error!void {
        try memory.copy_holder(try memory.snapshot_holder(handle), sequence);
    }

    /// Makes the books wrong as a mistake would, for tests: 0 exchanges the states of two sequences, 1 leaves one's a step
    /// behind, 2 gives it the other's, 3 restores the last pool alone from the other.
    pub fn plant_fault(memory: *Memory, kind: i32, a: u32, b: u32) status.Error!void {
        for (memory.pools) |*pool| pool.plant_fault(kind, a, b);
        if (kind != 3 or memory.pools.len == 0) return;
        const last = &memory.pools[memory.pools.len - 1];
        last.clear(a);
        var changes: leaf.Changes = .{};
        defer changes.deinit(memory.gpa);
        last.copy(b, a, &changes) catch |err| return no_room(last, err);
    }

    // ---- batches ----

    /// Cuts requests into sub-batches and makes sure that there is room for them. Changes nothing.
    pub const prepare = @import("memory_prepare.zig").prepare;

    /// Makes sure that what every pool holds of a run's sequence stands for the tokens that the sequence was fed.
    pub fn check_provenance(memory: *const Memory, sub_batch: *const SubBatch) status.Error!void {
        for (sub_batch.runs) |run| for (memory.pools) |*pool| {
            const range = pool.held(run.sequence);
            const stamp = pool.stamp(run.sequence) orelse continue;
            if (range.end == run.first_position and stamp.eql(run.before)) continue;
            var buffer: [64]u8 = undefined;
            const name = pool.describe(&buffer);
            if (range.end != run.first_position) {
                return status.fail(error.Refused, "sequence {d}: {s} stand at position {d} and the sequence goes on at {d}; " ++
                    "clear the sequence", .{ run.sequence, name, range.end, run.first_position });
            }
            if (stamp.count != run.before.count) {
                return status.fail(error.Refused, "sequence {d}: {s} stand for {d} tokens and the sequence has {d}; clear the sequence", .{
                    run.sequence, name, stamp.count, run.before.count,
                });
            }
            return status.fail(error.Refused, "sequence {d}: {s} stand for another text of the same {d} tokens; clear the sequence", .{
                run.sequence, name, stamp.count,
            });
        };
    }

    /// What a sub-batch does to every pool. Kept from step to step for its capacity.
    pub const Plan = struct {
        gpa: std.mem.Allocator,
        pools: []PoolPlan,

        pub fn deinit(plan: *Plan) void {
            for (plan.pools) |*pool| pool.deinit(plan.gpa);
            plan.gpa.free(plan.pools);
        }
    };

    pub fn create_plan(memory: *const Memory, gpa: std.mem.Allocator) error{OutOfMemory}!Plan {
        const pools = try gpa.alloc(PoolPlan, memory.pools.len);
        for (memory.pools, pools) |*pool, *plan| plan.* = .init(pool);
        return .{ .gpa = gpa, .pools = pools };
    }

    /// Makes one prepared sub-batch visible in every pool, or in none. `commit` or `revert` follows.
    pub fn apply(memory: *Memory, plan: *Plan, sub_batch: *const SubBatch) status.Error!void {
        try memory.check_provenance(sub_batch);
        for (sub_batch.runs) |run| {
            const history = &memory.histories[run.sequence];
            try history.reserve(memory.gpa, run.count);
            for (run.marks) |mark| try memory.histories[mark.holder].reserve(memory.gpa, history.len() + run.count);
        }
        for (memory.pools, plan.pools) |*pool, *pool_plan| switch (pool.*) {
            inline else => |*own, tag| try @field(pool_plan, @tagName(tag)).reserve(plan.gpa, own, sub_batch.runs),
        };
        for (memory.pools, plan.pools, 0..) |*pool, *pool_plan, index| {
            switch (pool.*) {
                inline else => |*own, tag| own.apply(&@field(pool_plan, @tagName(tag)), sub_batch.runs),
            }
            memory.copy_cells(@intCast(index), pool_plan.copies());
        }
        if (memory.config.poison) memory.poison_cells(plan);
    }

    /// Fills all cells that the step does not read with NaN.
    fn poison_cells(memory: *Memory, plan: *const Plan) void {
        const Sink = struct {
            tensor: *Tensor,

            pub fn add(sink: @This(), first: usize, count: usize) void {
                tensor_data.poison_rows(sink.tensor, first, count);
            }
        };
        for (memory.declarations, memory.tensors) |d, tensors| {
            if (d.shared_from >= 0) continue;
            for (tensors.items) |item| if (item) |tensor| {
                memory.pools[tensors.pool].for_unread(&plan.pools[tensors.pool], Sink{ .tensor = tensor });
            };
        }
    }

    /// The sub-batch was computed: `tokens` are its.
    pub fn commit(memory: *Memory, plan: *Plan, sub_batch: *const SubBatch, tokens: []const i32) void {
        for (memory.pools, plan.pools, 0..) |*pool, *pool_plan, index| {
            switch (pool.*) {
                inline else => |*own, tag| own.commit(&@field(pool_plan, @tagName(tag)), sub_batch.runs),
            }
            memory.copy_cells(@intCast(index), pool_plan.copies());
        }
        for (sub_batch.runs) |run| {
            const history = &memory.histories[run.sequence];
            for (tokens[run.first_row..][0..run.count], 0..) |token, i| {
                history.append(token, run.first_position + @as(i32, @intCast(i)));
            }
            for (run.marks) |mark| {
                const count = history.count_before(mark.position);
                memory.histories[mark.holder].assign_reserved(history, count);
                memory.settle_snapshot(mark.holder);
            }
        }
    }

    pub fn revert(memory: *Memory, plan: *Plan, sub_batch: *const SubBatch) void {
        for (memory.pools, plan.pools) |*pool, *pool_plan| switch (pool.*) {
            inline else => |*own, tag| own.revert(&@field(pool_plan, @tagName(tag)), sub_batch.runs),
        };
    }

    pub fn copy_cells(memory: *Memory, pool: u32, copies: []const CellCopy) void {
        for (copies) |copied| {
            for (memory.declarations, memory.tensors) |d, tensors| {
                if (tensors.pool != pool or d.shared_from >= 0) continue;
                for (tensors.items) |item| if (item) |tensor| {
                    tensor_data.copy_rows(tensor, copied.from, copied.to, copied.count);
                };
            }
        }
    }
};

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
    for ([_]u32{ 0, 5 }, [_]u64{ 0, 100_000 }) |rollback, snapshot_bytes| {
        var config = test_config;
        config.rollback = rollback;
        config.snapshot_bytes = snapshot_bytes;
        var memory: Memory = try .init(testing.allocator, &test_declarations, config, true);
        defer memory.deinit();
        var shares: [test_declarations.len]memory_layout.Share = undefined;
        const totals = memory.layout.measure(&test_declarations, &shares);
        try testing.expectEqual(@as(f64, @floatFromInt(memory.bytes)), totals.bytes);
        try testing.expectEqual(3, memory.pools.len);
        try testing.expectEqual(memory.tensors[0].items[0], memory.tensors[4].items[0]);
        try testing.expectEqual(shares[0].pool, shares[3].pool);
    }
}

fn test_run_batch(memory: *Memory, plan: *Memory.Plan, batch: *const Batch, succeeds: bool) !void {
    for (batch.sub_batches) |*sub_batch| {
        try memory.apply(plan, sub_batch);
        if (!succeeds) return memory.revert(plan, sub_batch);
        memory.commit(plan, sub_batch, batch.tokens[sub_batch.first_token..][0..sub_batch.row_count]);
    }
}

fn test_request(sequence: i32, count: i32) batch_file.Request {
    return .{ .sequence = sequence, .count = count, .logits = .last, .sampler = 0 };
}

test "all pools or none" {
    var config = test_config;
    config.snapshot_bytes = 1 << 20;
    var memory: Memory = try .init(testing.allocator, &test_declarations, config, true);
    defer memory.deinit();
    var plan = try memory.create_plan(testing.allocator);
    defer plan.deinit();
    const tokens: [100]i32 = @splat(5);
    const requests = [_]batch_file.Request{ test_request(1, 70), test_request(2, 30) };
    const snapshot = try memory.reserve_snapshot();
    const marks = [_]batch_file.MarkRequest{.{ .request = 0, .position = 67, .snapshot = snapshot }};
    var batch = try memory.prepare(testing.allocator, &tokens, &requests, &marks);
    defer batch.deinit();
    try testing.expectEqual(2, batch.sub_batches.len);

    try test_run_batch(&memory, &plan, &batch, false);
    try testing.expectEqual(0, try memory.end(1));
    try test_run_batch(&memory, &plan, &batch, true);
    try testing.expectEqual(70, try memory.end(1));
    try testing.expectEqual(30, try memory.end(2));

    try testing.expectError(error.Refused, memory.remove(1, 60, -1));
    try testing.expectStringStartsWith(status.message(), "positions 60 to 69");
    try testing.expectEqual(70, try memory.end(1));
    try memory.copy(1, 0, 0, -1);
    try testing.expectEqual(70, try memory.end(0));
    try testing.expectError(error.Refused, memory.copy(1, 0, 0, 60));
    try memory.restore_snapshot(snapshot, 0);
    try testing.expectEqual(67, try memory.end(0));
    try testing.expectEqual(67, memory.histories[0].len());
    try memory.drop_snapshot(snapshot);
    try testing.expectError(error.NotFound, memory.restore_snapshot(snapshot, 0));
    try memory.remove(0, 0, -1);
    try testing.expectEqual(0, try memory.end(0));
    try testing.expectError(error.NotFound, memory.clear(3));
    try testing.expectError(error.Full, memory.prepare(testing.allocator, &(tokens ++ tokens), &.{test_request(1, 200)}, &.{}));
}

test "a state of another text is refused by name" {
    var memory: Memory = try .init(testing.allocator, &test_declarations, test_config, true);
    defer memory.deinit();
    var plan = try memory.create_plan(testing.allocator);
    defer plan.deinit();
    const tokens = [_]i32{ 1, 2, 3, 4 };
    {
        var batch = try memory.prepare(testing.allocator, &tokens, &.{ test_request(0, 2), test_request(1, 2) }, &.{});
        defer batch.deinit();
        try test_run_batch(&memory, &plan, &batch, true);
    }
    const pool = &memory.pools[2].recurrent;
    std.mem.swap(?u32, &pool.holders[0].cell, &pool.holders[1].cell);
    var batch = try memory.prepare(testing.allocator, tokens[0..1], &.{test_request(0, 1)}, &.{});
    defer batch.deinit();
    try testing.expectError(error.Refused, memory.apply(&plan, &batch.sub_batches[0]));
    try testing.expectStringStartsWith(status.message(), "sequence 0: the recurrent states stand for another text");
    std.mem.swap(?u32, &pool.holders[0].cell, &pool.holders[1].cell);
    try test_run_batch(&memory, &plan, &batch, true);
}
