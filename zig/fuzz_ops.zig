//! The fuzzer of graph operations, a program of its own because ggml ends the process where a check is missing:
//!
//!   strata-fuzz-ops list                            prints the names of the operations
//!   strata-fuzz-ops <op|all> <seed> <first> <count> builds and computes that many random cases of each
//!
//! Each case depends on the seed, the operation and its number only. The case about to run is written to the error
//! stream beforehand, so that a death can be attributed. Data ends at a page that cannot be touched: an access beyond
//! a tensor ends the process as well, where it would go unseen in ordinary memory.

const std = @import("std");
const c = @import("ggml");
const ops = @import("ops.zig");
const status = @import("status.zig");
const drafts = @import("fuzz_drafts.zig");

const Tensor = ops.Tensor;
const Spec = drafts.Spec;

/// A result beyond this is built and not computed.
const bytes_max = 256 << 20;
const context_bytes = 1 << 20;
const threads = 3;
/// Every eighth case is also computed with several threads. They wait for each other by spinning, which takes
/// milliseconds where there are fewer cores than threads.
const threads_every = 8;
const page_bytes = std.heap.page_size_max;

pub fn main(init: std.process.Init) !void {
    const args = try init.minimal.args.toSlice(init.arena.allocator());
    var buffer: [4096]u8 = undefined;
    var file: std.Io.File.Writer = .initStreaming(.stdout(), init.io, &buffer);
    const out = &file.interface;
    if (args.len == 2 and std.mem.eql(u8, args[1], "list")) {
        for (ops.names) |name| try out.print("{s}\n", .{name});
        return out.flush();
    }
    if (args.len != 5) {
        std.debug.print("usage: strata-fuzz-ops list | strata-fuzz-ops <op|all> <seed> <first> <count>\n", .{});
        std.process.exit(2);
    }
    const seed = try std.fmt.parseInt(u64, args[2], 10);
    const first = try std.fmt.parseInt(u64, args[3], 10);
    const count = try std.fmt.parseInt(u64, args[4], 10);
    var fuzzer: Fuzzer = try .init(seed);
    defer fuzzer.deinit();
    var known = false;
    inline for (ops.names, 0..) |name, code| {
        if (std.mem.eql(u8, args[1], "all") or std.mem.eql(u8, args[1], name)) {
            known = true;
            fuzzer.accepted = 0;
            for (first..first + count) |number| try fuzzer.run(name, code, number);
            try out.print("{s} ok={d} refused={d}\n", .{ name, fuzzer.accepted, count - fuzzer.accepted });
            try out.flush();
        }
    }
    if (!known) {
        std.debug.print("there is no operation {s}; `strata-fuzz-ops list` names them\n", .{args[1]});
        std.process.exit(2);
    }
}

const Fuzzer = struct {
    seed: u64,
    accepted: u64 = 0,
    pool: *c.struct_ggml_threadpool,
    memory: Memory = .{},

    fn init(seed: u64) !Fuzzer {
        c.ggml_cpu_init();
        var params = c.ggml_threadpool_params_default(threads);
        // Waiting threads sleep: a machine with fewer cores would spend its time on those that spin.
        params.poll = 0;
        return .{ .seed = seed, .pool = c.ggml_threadpool_new(&params) orelse return error.NoThreads };
    }

    fn deinit(self: *Fuzzer) void {
        c.ggml_threadpool_free(self.pool);
    }

    fn run(self: *Fuzzer, comptime name: []const u8, code: u32, number: u64) !void {
        std.debug.print("{s} {d}\n", .{ name, number });
        var hash: std.hash.Wyhash = .init(self.seed);
        hash.update(name);
        hash.update(std.mem.asBytes(&number));
        var prng: std.Random.DefaultPrng = .init(hash.final());
        const draft: drafts.Draft = .init(name, prng.random());

        const ctx = c.ggml_init(.{ .mem_size = context_bytes, .mem_buffer = null, .no_alloc = true }) orelse
            return error.OutOfMemory;
        defer c.ggml_free(ctx);
        const case: Case = .{ .ctx = ctx, .random = prng.random() };
        if (try case.build(code, &draft)) |result| {
            self.accepted += 1;
            defer self.memory.release();
            try self.compute(case, result, if (number % threads_every == 0) threads else 1);
        }
    }

    fn compute(self: *Fuzzer, case: Case, result: *Tensor, threads_max: c_int) !void {
        const graph = c.ggml_new_graph(case.ctx).?;
        // ggml calls every operation with all threads as soon as one of the graph asks for them: this one does.
        const companion: *Tensor = c.ggml_dup(case.ctx, c.ggml_new_tensor_1d(case.ctx, c.GGML_TYPE_F32, 8));
        c.ggml_build_forward_expand(graph, companion);
        c.ggml_build_forward_expand(graph, result);
        // A norm and a product with it are computed as one, by a loop of its own.
        if (result.op == c.GGML_OP_RMS_NORM) {
            const weight: *Tensor = c.ggml_new_tensor_1d(case.ctx, c.GGML_TYPE_F32, result.ne[0]);
            const product = try ops.table.mul(case.ctx, result, weight);
            c.ggml_build_forward_expand(graph, product);
        }
        if (case.total_bytes() > bytes_max) return;
        try case.place(&self.memory, graph);
        for ([_]c_int{ 1, threads_max }) |count| {
            var plan = c.ggml_graph_plan(graph, count, self.pool);
            if (plan.work_size > bytes_max) return;
            plan.work_data = (try self.memory.take(std.mem.alignForward(usize, plan.work_size, 16))).ptr;
            if (c.ggml_graph_compute(graph, &plan) != c.GGML_STATUS_SUCCESS) return error.ComputeFailed;
        }
    }
};

/// Memory that ends where nothing may be touched.
const Memory = struct {
    maps: [64][]align(std.heap.page_size_min) u8 = undefined,
    count: usize = 0,

    fn take(self: *Memory, bytes: usize) ![]u8 {
        const data_bytes = std.mem.alignForward(usize, @max(1, bytes), page_bytes);
        const map = try std.posix.mmap(null, data_bytes + page_bytes, .{ .READ = true, .WRITE = true }, .{
            .TYPE = .PRIVATE,
            .ANONYMOUS = true,
        }, -1, 0);
        self.maps[self.count] = map;
        self.count += 1;
        const guard: *align(std.heap.page_size_min) anyopaque = @ptrCast(@alignCast(map.ptr + data_bytes));
        if (std.c.mprotect(guard, page_bytes, .{}) != 0) return error.MprotectFailed;
        return map[data_bytes - bytes .. data_bytes];
    }

    fn release(self: *Memory) void {
        for (self.maps[0..self.count]) |map| std.posix.munmap(map);
        self.count = 0;
    }
};

const Case = struct {
    ctx: *c.ggml_context,
    random: std.Random,

    /// The result of the operation, or null where the draft was refused.
    fn build(self: Case, code: u32, draft: *const drafts.Draft) !?*Tensor {
        var operands: [draft.tensors.len]?*Tensor = undefined;
        for (draft.tensors[0..draft.tensor_count], 0..) |spec, i| {
            operands[i] = if (spec.absent) null else if (spec.same_as) |j| operands[j] else self.make(spec);
        }
        const result = ops.dispatch(
            self.ctx,
            code,
            operands[0..draft.tensor_count],
            draft.ints[0..draft.int_count],
            draft.floats[0..draft.float_count],
        ) catch |err| {
            if (err != error.InvalidArgument) return err;
            if (!std.unicode.utf8ValidateSlice(status.message()) or status.message().len < 10) return error.NoSentence;
            return null;
        };
        return result;
    }

    fn make(self: Case, spec: Spec) *Tensor {
        if (spec.sorted > 0 and spec.kind == .i32 and spec.ne[0] <= spec.sorted) return self.make_sorted(spec);
        const whole = switch (spec.layout) {
            .natural => return self.flag(self.leaf(spec.kind, spec.ne), spec),
            .permuted => return self.make_permuted(spec),
            .offset => self.leaf(spec.kind, .{ spec.ne[0], spec.ne[1] * spec.ne[2] * spec.ne[3] + 2, 1, 1 }),
            .gaps => self.leaf(spec.kind, .{
                spec.ne[0] + c.ggml_blck_size(spec.kind.raw()),
                spec.ne[1] + 1,
                spec.ne[2] + @intFromBool(self.random.boolean()),
                spec.ne[3],
            }),
            .overlapping => self.leaf(spec.kind, spec.ne),
        };
        const base = self.flag(whole, spec);
        const unit = base.nb[0];
        var nb = [3]usize{ base.nb[1], base.nb[2], base.nb[3] };
        var offset: usize = 0;
        switch (spec.layout) {
            .offset => {
                for (spec.ne[1..3], 0..) |n, i| nb[i + 1] = nb[i] * @as(usize, @intCast(n));
                offset = base.nb[1] * self.random.uintAtMost(usize, 2);
            },
            .gaps => offset = unit * self.random.uintAtMost(usize, 1),
            else => for (&nb) |*stride| {
                stride.* = self.random.uintAtMost(usize, stride.* / unit) * unit;
            },
        }
        return c.ggml_view_4d(self.ctx, base, spec.ne[0], spec.ne[1], spec.ne[2], spec.ne[3], //
            nb[0], nb[1], nb[2], offset);
    }

    fn leaf(self: Case, kind: ops.Type, ne: [4]i64) *Tensor {
        return c.ggml_new_tensor(self.ctx, kind.raw(), 4, &ne);
    }

    fn flag(_: Case, tensor: *Tensor, spec: Spec) *Tensor {
        if (spec.input) c.ggml_set_input(tensor);
        return tensor;
    }

    fn make_permuted(self: Case, spec: Spec) *Tensor {
        var axes = [4]u8{ 0, 1, 2, 3 };
        const fixed: usize = if (c.ggml_blck_size(spec.kind.raw()) > 1) 1 else 0;
        self.random.shuffle(u8, axes[fixed..]);
        var ne: [4]i64 = undefined;
        for (axes, &ne) |axis, *n| n.* = spec.ne[axis];
        const base = self.flag(self.leaf(spec.kind, ne), spec);
        return c.ggml_permute(self.ctx, base, axes[0], axes[1], axes[2], axes[3]);
    }

    fn make_sorted(self: Case, spec: Spec) *Tensor {
        const keys = self.leaf(.f32, .{ spec.sorted, spec.ne[1], spec.ne[2], spec.ne[3] });
        const order = ops.table.argsort(self.ctx, keys, .desc) catch return self.leaf(spec.kind, spec.ne);
        return c.ggml_view_4d(self.ctx, order, spec.ne[0], spec.ne[1], spec.ne[2], spec.ne[3], //
            order.nb[1], order.nb[2], order.nb[3], 0);
    }

    fn total_bytes(self: Case) usize {
        var total: usize = 0;
        var next: ?*Tensor = c.ggml_get_first_tensor(self.ctx);
        while (next) |tensor| : (next = c.ggml_get_next_tensor(self.ctx, tensor)) {
            if (tensor.view_src == null) total +|= c.ggml_nbytes(tensor);
        }
        return total;
    }

    /// Gives every tensor its memory, and random values.
    fn place(self: Case, memory: *Memory, graph: *c.ggml_cgraph) !void {
        var next: ?*Tensor = c.ggml_get_first_tensor(self.ctx);
        while (next) |tensor| : (next = c.ggml_get_next_tensor(self.ctx, tensor)) {
            if (tensor.view_src != null) continue;
            const data = try memory.take(c.ggml_nbytes(tensor));
            tensor.data = data.ptr;
            if (tensor.op == c.GGML_OP_NONE) self.fill(tensor, data, ops.input_bound(graph, tensor));
        }
        next = c.ggml_get_first_tensor(self.ctx);
        while (next) |tensor| : (next = c.ggml_get_next_tensor(self.ctx, tensor)) {
            if (tensor.view_src) |base| tensor.data = @as([*]u8, @ptrCast(base.*.data.?)) + tensor.view_offs;
        }
    }

    /// Any bits are a value of any type, save that indices the engine sets are in range. Most floats are ordinary.
    fn fill(self: Case, tensor: *const Tensor, data: []u8, bound: ?i64) void {
        self.random.bytes(data);
        const kind = ops.Type.of(tensor);
        const is_input = tensor.flags & c.GGML_TENSOR_FLAG_INPUT != 0;
        if (is_input and bound != null and kind == .i32) {
            const limit: i32 = @intCast(bound.?);
            for (std.mem.bytesAsSlice(i32, data)) |*value| value.* = self.random.intRangeLessThan(i32, 0, limit);
        } else if (is_input and bound != null) {
            for (std.mem.bytesAsSlice(i64, data)) |*value| value.* = self.random.intRangeLessThan(i64, 0, bound.?);
        } else if (kind == .f32 and self.random.uintLessThan(u32, 4) != 0) {
            for (std.mem.bytesAsSlice(f32, data)) |*value| value.* = self.random.float(f32) * 2 - 1;
            if (data.len > 0 and self.random.boolean()) {
                const values = std.mem.bytesAsSlice(f32, data);
                values[self.random.uintLessThan(usize, values.len)] = std.math.nan(f32);
            }
        }
    }
};
