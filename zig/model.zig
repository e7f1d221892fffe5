//! The weights of a model: tensors in the mapped file, or, where a kernel wants another order, repacked once while
//! loading, after which the mapped pages are given back.

const std = @import("std");
const assert = std.debug.assert;
const c = @import("ggml");
const gguf = @import("gguf.zig");
const status = @import("status.zig");
const Shared = @import("shared.zig").Shared;
const Queue = @import("queue.zig").Queue;

pub const Tensor = c.ggml_tensor;
pub const SharedFile = Shared(File);
pub const SharedModel = Shared(Model);

/// An open model file, owned together by whoever reads its metadata and whoever computes with its tensors.
pub const File = struct {
    inner: *gguf.File,

    pub fn deinit(file: *File) void {
        file.inner.close();
    }
};

/// What a graph does with a weight; it decides which memory order is best.
pub const Use = enum(i32) {
    /// Rows, or all of it element by element: the file's own order.
    elements = 0,
    /// The left side of `mul_mat`.
    product = 1,
    /// The left side of `mul_mat_id`.
    expert_product = 2,
};

pub const Weight = struct {
    tensor: *Tensor,
    /// Index into the file's tensors.
    source: u32,
    repacked: bool,
};

/// Whom a loading model tells how far it is.
pub const ProgressTarget = struct { queue: *Queue, source: u32 };

pub const Progress = struct {
    done_bytes: u64 = 0,
    total_bytes: u64 = 0,
    reported_bytes: u64 = 0,
    cancelled: std.atomic.Value(bool) = .init(false),
};

/// How many bytes pass between two reports.
const report_bytes = 8 << 20;

pub const Model = struct {
    gpa: std.mem.Allocator,
    file: *SharedFile,
    context: *c.ggml_context,
    weights: std.ArrayList(Weight) = .empty,
    capacity: u32,
    /// One for each file part: the mapping, as ggml sees it.
    mappings: std.ArrayList(c.ggml_backend_buffer_t) = .empty,
    repacked: c.ggml_backend_buffer_t = null,
    repacked_bytes: u64 = 0,
    progress: Progress = .{},
    progress_to: ?ProgressTarget = null,
    loaded: bool = false,
    /// Empty buffers where the weights would lie, for graphs that are measured without them.
    stand_ins: [2]c.ggml_backend_buffer_t = @splat(null),

    pub fn init(gpa: std.mem.Allocator, file: *SharedFile, capacity: u32) status.Error!Model {
        const context = c.ggml_init(.{
            .mem_size = c.ggml_tensor_overhead() * (@as(usize, capacity) + 2),
            .mem_buffer = null,
            .no_alloc = true,
        }) orelse return error.OutOfMemory;
        return .{ .gpa = gpa, .file = file.retain(), .context = context, .capacity = capacity };
    }

    pub fn deinit(model: *Model) void {
        for (model.mappings.items) |mapping| c.ggml_backend_buffer_free(mapping);
        model.mappings.deinit(model.gpa);
        if (model.repacked) |buffer| c.ggml_backend_buffer_free(buffer);
        for (model.stand_ins) |empty| if (empty) |buffer| c.ggml_backend_buffer_free(buffer);
        model.weights.deinit(model.gpa);
        c.ggml_free(model.context);
        model.file.release();
    }

    /// Declares a tensor of the file as a weight. The same tensor may be declared for two uses. Returns its number.
    pub fn add(model: *Model, source: u32, use: Use) status.Error!u32 {
        const file = model.file.value.inner;
        if (model.loaded) return status.fail(error.Refused, "the weights are loaded; declare all of them before", .{});
        if (source >= file.tensor_count()) {
            return status.fail(error.NotFound, "the file has {d} tensors, and number {d} was asked for", .{
                file.tensor_count(), source,
            });
        }
        if (model.weights.items.len == model.capacity) {
            return status.fail(error.Full, "this model was announced with {d} weights", .{model.capacity});
        }
        const info = file.tensor(source);
        var ne: [4]i64 = undefined;
        for (&ne, info.ne) |*to, from| to.* = @intCast(from);
        const tensor: *Tensor = c.ggml_new_tensor(model.context, @intCast(info.type), 4, &ne);
        assert(c.ggml_nbytes(tensor) == info.size_bytes);
        set_name(tensor, info.name);
        try model.weights.append(model.gpa, .{
            .tensor = tensor,
            .source = source,
            .repacked = use != .elements and wants_repack(tensor, use),
        });
        return @intCast(model.weights.items.len - 1);
    }

    /// Maps and repacks; run on a thread that may take its time. `progress` can be watched and cancelled meanwhile.
    pub fn load(model: *Model) status.Error!void {
        assert(!model.loaded);
        if (model.stand_ins[0] != null) {
            return status.fail(error.Refused, "these weights only measure graphs, and cannot be loaded", .{});
        }
        const file = model.file.value.inner;
        for (file.parts.items) |part| {
            const mapping = c.ggml_backend_cpu_buffer_from_ptr(@constCast(part.bytes.ptr), part.bytes.len) orelse
                return error.OutOfMemory;
            // Marked as weights, so that no operation may write to them: the mapping is read-only.
            c.ggml_backend_buffer_set_usage(mapping, c.GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
            model.mappings.append(model.gpa, mapping) catch |err| {
                c.ggml_backend_buffer_free(mapping);
                return err;
            };
        }
        try model.allocate_repacked();
        model.progress.total_bytes = 0;
        for (model.weights.items) |weight| model.progress.total_bytes += file.tensor(weight.source).size_bytes;
        for (model.weights.items) |weight| {
            if (weight.repacked) try model.repack(weight) else try model.map(weight);
        }
        model.loaded = true;
    }

    fn map(model: *Model, weight: Weight) status.Error!void {
        const info = model.file.value.inner.tensor(weight.source);
        const data: [*]u8 = @constCast(info.data.ptr);
        assert(c.ggml_backend_tensor_alloc(model.mappings.items[info.part], weight.tensor, data) == c.GGML_STATUS_SUCCESS);
        // Touching the pages now reads the file here, where progress is shown, and not during the first step.
        const page = std.heap.page_size_min;
        var sum: u8 = 0;
        var offset: usize = 0;
        while (offset < info.data.len) : (offset += page) {
            sum +%= info.data[offset];
            try model.advance(@min(page, info.data.len - offset));
        }
        std.mem.doNotOptimizeAway(sum);
    }

    fn allocate_repacked(model: *Model) status.Error!void {
        const kind = repack_buffer_type() orelse return;
        const alignment = c.ggml_backend_buft_get_alignment(kind);
        const total = model.count_repacked();
        if (total == 0) return;
        const buffer = c.ggml_backend_buft_alloc_buffer(kind, total) orelse {
            return status.fail(error.OutOfMemory, "the repacked weights need {d} bytes, which the system refused", .{total});
        };
        c.ggml_backend_buffer_set_usage(buffer, c.GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
        model.repacked = buffer;
        model.repacked_bytes = total;
        const base: [*]u8 = @ptrCast(c.ggml_backend_buffer_get_base(buffer).?);
        var offset: usize = 0;
        for (model.weights.items) |weight| {
            if (!weight.repacked) continue;
            assert(c.ggml_backend_tensor_alloc(buffer, weight.tensor, base + offset) == c.GGML_STATUS_SUCCESS);
            offset += std.mem.alignForward(usize, c.ggml_backend_buft_get_alloc_size(kind, weight.tensor), alignment);
        }
    }

    /// Bytes of all repacked weights, from what was declared.
    pub fn count_repacked(model: *const Model) usize {
        const kind = repack_buffer_type() orelse return 0;
        const alignment = c.ggml_backend_buft_get_alignment(kind);
        var total: usize = 0;
        for (model.weights.items) |weight| {
            if (!weight.repacked) continue;
            total += std.mem.alignForward(usize, c.ggml_backend_buft_get_alloc_size(kind, weight.tensor), alignment);
        }
        return total;
    }

    /// Bytes of the file that are computed with where they are mapped; a tensor of two uses counts once.
    pub fn count_mapped(model: *const Model) usize {
        const file = model.file.value.inner;
        var total: usize = 0;
        for (model.weights.items, 0..) |weight, i| {
            if (weight.repacked) continue;
            const is_counted = for (model.weights.items[0..i]) |other| {
                if (other.source == weight.source and !other.repacked) break true;
            } else false;
            if (!is_counted) total += file.tensor(weight.source).size_bytes;
        }
        return total;
    }

    /// Says where the weights would lie, so that graphs of them are measured as if they did. They can be loaded no more.
    pub fn stand_in(model: *Model) status.Error!void {
        assert(!model.loaded);
        if (model.stand_ins[0] != null) return;
        model.stand_ins[0] = c.ggml_backend_buft_alloc_buffer(c.ggml_backend_cpu_buffer_type(), 0) orelse return error.OutOfMemory;
        if (repack_buffer_type()) |kind| {
            model.stand_ins[1] = c.ggml_backend_buft_alloc_buffer(kind, 0) orelse return error.OutOfMemory;
        }
        for (model.weights.items) |weight| {
            weight.tensor.buffer = model.stand_ins[@intFromBool(weight.repacked)];
            // The file is mapped; it is not read here.
            if (!weight.repacked) weight.tensor.data = @constCast(model.file.value.inner.tensor(weight.source).data.ptr);
            assert(c.ggml_backend_buffer_init_tensor(weight.tensor.buffer, weight.tensor) == c.GGML_STATUS_SUCCESS);
        }
    }

    fn repack(model: *Model, weight: Weight) status.Error!void {
        const info = model.file.value.inner.tensor(weight.source);
        c.ggml_backend_tensor_set(weight.tensor, info.data.ptr, 0, info.data.len);
        give_back(info.data);
        try model.advance(info.data.len);
    }

    /// Counts bytes, reports now and then, and stops when that is wanted.
    fn advance(model: *Model, bytes: u64) status.Error!void {
        const progress = &model.progress;
        progress.done_bytes += bytes;
        const is_last = progress.done_bytes == progress.total_bytes;
        if (!is_last and progress.done_bytes - progress.reported_bytes < report_bytes) return;
        progress.reported_bytes = progress.done_bytes;
        if (progress.cancelled.load(.monotonic)) return status.fail(error.Cancelled, "loading was cancelled", .{});
        if (model.progress_to) |to| to.queue.post(.{
            .kind = .progress,
            .source = to.source,
            .job = 0,
            .value = @floatFromInt(progress.done_bytes),
            .total = @floatFromInt(progress.total_bytes),
        }, "");
    }
};

/// Tells the system that these mapped bytes are not needed; they can be read again from the file.
fn give_back(data: []const u8) void {
    const page = std.heap.page_size_min;
    const first = std.mem.alignForward(usize, @intFromPtr(data.ptr), page);
    const end = std.mem.alignBackward(usize, @intFromPtr(data.ptr) + data.len, page);
    if (end <= first) return;
    // Advice only: a system that refuses keeps the pages, and nothing else changes.
    _ = std.c.madvise(@ptrFromInt(first), end - first, std.c.MADV.DONTNEED);
}

fn set_name(tensor: *Tensor, name: []const u8) void {
    assert(name.len < tensor.name.len);
    @memset(&tensor.name, 0);
    for (tensor.name[0..name.len], name) |*to, from| to.* = @bitCast(from);
}

/// The buffer type whose tensors ggml reorders for its own matrix kernels; null where the build has none.
fn repack_buffer_type() c.ggml_backend_buffer_type_t {
    const registry = c.ggml_backend_cpu_reg();
    const device = c.ggml_backend_reg_dev_get(registry, 0);
    const address = c.ggml_backend_reg_get_proc_address(registry, "ggml_backend_dev_get_extra_bufts") orelse return null;
    const get: c.ggml_backend_dev_get_extra_bufts_t = @ptrCast(@alignCast(address));
    var list = get.?(device) orelse return null;
    while (list[0]) |kind| : (list += 1) {
        if (std.mem.eql(u8, std.mem.span(c.ggml_backend_buft_name(kind)), "CPU_REPACK")) return kind;
    }
    return null;
}

/// Whether ggml has a better order for this weight on this CPU. It answers for an operation, so one is made up.
fn wants_repack(tensor: *Tensor, use: Use) bool {
    // It ends the process where it is asked for a product with more matrices than one, or than one for each expert.
    const dims: usize = if (use == .expert_product) 3 else 2;
    for (tensor.ne[dims..]) |n| if (n != 1) return false;
    const kind = repack_buffer_type() orelse return false;
    const context = c.ggml_init(.{ .mem_size = c.ggml_tensor_overhead() * 8, .mem_buffer = null, .no_alloc = true }) orelse
        return false;
    defer c.ggml_free(context);
    const empty = c.ggml_backend_buft_alloc_buffer(kind, 0) orelse return false;
    defer c.ggml_backend_buffer_free(empty);
    const before = tensor.buffer;
    tensor.buffer = empty;
    defer tensor.buffer = before;
    const operation = switch (use) {
        .elements => return false,
        .product => c.ggml_mul_mat(context, tensor, c.ggml_new_tensor_2d(context, c.GGML_TYPE_F32, tensor.ne[0], 512)),
        .expert_product => c.ggml_mul_mat_id(
            context,
            tensor,
            c.ggml_new_tensor_3d(context, c.GGML_TYPE_F32, tensor.ne[0], 1, 512),
            c.ggml_new_tensor_2d(context, c.GGML_TYPE_I32, 1, 512),
        ),
    };
    return c.ggml_backend_dev_supports_op(c.ggml_backend_reg_dev_get(c.ggml_backend_cpu_reg(), 0), operation);
}

test "the reader's table of types is ggml's" {
    for (gguf.tensor_types, 0..) |entry, i| {
        const kind = entry orelse continue;
        try std.testing.expectEqualStrings(std.mem.span(c.ggml_type_name(@intCast(i))), kind.name);
        try std.testing.expectEqual(c.ggml_blck_size(@intCast(i)), @as(i64, @intCast(kind.block_elements)));
        try std.testing.expectEqual(c.ggml_type_size(@intCast(i)), kind.block_bytes);
    }
    try std.testing.expectEqual(c.GGML_TYPE_COUNT, gguf.tensor_type_count);
}

test "a stack of more matrices than a product takes is not reordered" {
    const context = c.ggml_init(.{ .mem_size = 1 << 16, .mem_buffer = null, .no_alloc = true }).?;
    defer c.ggml_free(context);
    c.ggml_cpu_init();
    const shapes = [_][4]i64{ .{ 256, 64, 1, 1 }, .{ 256, 64, 2, 1 }, .{ 256, 64, 1, 2 }, .{ 256, 64, 2, 2 } };
    for (shapes) |ne| {
        const weight: *Tensor = c.ggml_new_tensor(context, c.GGML_TYPE_Q4_0, 4, &ne);
        const is_matrix = ne[2] == 1 and ne[3] == 1;
        const is_matrices = ne[3] == 1;
        if (!is_matrix) try std.testing.expect(!wants_repack(weight, .product));
        if (!is_matrices) try std.testing.expect(!wants_repack(weight, .expert_product));
        // The others are asked about, whatever this machine answers.
        if (is_matrix) _ = wants_repack(weight, .product);
        if (is_matrices) _ = wants_repack(weight, .expert_product);
    }
}
