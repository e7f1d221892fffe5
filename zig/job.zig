//! What an engine is given to do, and by what settings; and what it counts.

const std = @import("std");
const options = @import("options");
const c = @import("ggml");
const status = @import("status.zig");
const batch_file = @import("batch.zig");
const memory_layout = @import("memory_layout.zig");
const memory_state = @import("memory_state.zig");
const Shared = @import("shared.zig").Shared;
const SharedSampler = Shared(@import("sampler.zig").Sampler);

/// Positions of all sequences together: cells, with those that only fill up blocks, are numbered by 32 bits.
const positions_max = 1 << 30;

/// Crosses the ABI.
pub const Config = extern struct {
    threads: i32,
    sequences: i32,
    /// Positions that one sequence may reach.
    context: i32,
    /// Most tokens of one sub-batch.
    batch: i32,
    vocabulary: i32,
    /// 0 to 100: how long idle compute threads spin before they sleep.
    poll: i32,
    /// Tokens that can be taken back from the end of every sequence.
    rollback: i32 = 0,
    /// Attention cells of all sequences together; 0 = as many as each could fill.
    cells: i32 = 0,
    flags: u32 = 0,
    /// What snapshots may take.
    snapshot_bytes: f64 = 0,

    pub const Flags = struct {
        /// Each sequence has attention cells of its own, and copies instead of sharing.
        pub const separate: u32 = 1;
        /// Windows keep all positions and only mask.
        pub const whole_windows: u32 = 2;
        /// Attention does not round as ggml's flash attention does, and takes no quantised keys and values.
        pub const no_flash: u32 = 4;
        /// Only graphs are built and measured: no memory is allocated and nothing is computed.
        pub const dry: u32 = 8;
        /// Free cells and unused buffers hold NaN, so that whatever reads them shows.
        pub const poison: u32 = 16;
        /// Snapshots hold states in f16.
        pub const half_snapshots: u32 = 32;
    };

    pub fn has(config: Config, flag: u32) bool {
        return config.flags & flag != 0;
    }

    pub fn is_poisoned(config: Config) bool {
        return config.has(Flags.poison) or options.poison;
    }

    pub fn memory(config: Config) memory_layout.Config {
        return .{
            .sequences = @intCast(config.sequences),
            .context = @intCast(config.context),
            .batch = @intCast(config.batch),
            .rollback = @intCast(config.rollback),
            .snapshot_bytes = @intFromFloat(config.snapshot_bytes),
            .cells = @intCast(config.cells),
            .separate = config.has(Flags.separate),
            .whole_windows = config.has(Flags.whole_windows),
            .poison = config.is_poisoned(),
            .half_snapshots = config.has(Flags.half_snapshots),
        };
    }

    pub fn check(config: Config) status.Error!void {
        const Bound = struct { []const u8, i32, i32, i32 };
        const bounds = [_]Bound{
            .{ "threads", config.threads, 1, c.GGML_MAX_N_THREADS },
            .{ "sequences", config.sequences, 1, 1 << 16 },
            .{ "context", config.context, 1, 1 << 28 },
            .{ "batch", config.batch, 1, 1 << 16 },
            .{ "vocabulary", config.vocabulary, 1, 1 << 28 },
            .{ "poll", config.poll, 0, 100 },
            .{ "rollback", config.rollback, 0, 1 << 10 },
            .{ "cells", config.cells, 0, positions_max },
        };
        if (!(config.snapshot_bytes >= 0 and config.snapshot_bytes <= 1 << 50)) {
            return status.fail(error.InvalidArgument, "the bytes for snapshots are {d}; give a number from 0 to 2^50", .{config.snapshot_bytes});
        }
        for (bounds) |bound| {
            const name, const value, const least, const most = bound;
            if (value < least or value > most) {
                return status.fail(error.InvalidArgument, "{s} is {d}; give a number from {d} to {d}", .{ name, value, least, most });
            }
        }
        if (@as(i64, config.sequences) * config.context > positions_max) {
            return status.fail(error.InvalidArgument, "{d} sequences of {d} positions are more than the {d} positions that " ++
                "can be numbered; use fewer or a smaller context", .{ config.sequences, config.context, positions_max });
        }
    }
};

/// What the engine has done since it began. Crosses the ABI.
pub const Counters = extern struct {
    steps: f64 = 0,
    rows: f64 = 0,
    graphs_built: f64 = 0,
    graphs_reused: f64 = 0,
    memory_bytes: f64 = 0,
    compute_bytes: f64 = 0,
    /// What ggml's operations, and our kernels on all threads, have to work in.
    work_bytes: f64 = 0,
    scratch_bytes: f64 = 0,
    /// Attention blocks and recurrent cells that nobody owns.
    free_blocks: f64 = 0,
    free_cells: f64 = 0,
    /// Bytes of recurrent states that steps have read and written.
    state_bytes_moved: f64 = 0,
    /// Snapshots that are taken, and there is room for.
    snapshots: f64 = 0,
    snapshots_max: f64 = 0,
};

/// Something that is done to a sequence between steps, on the engine's thread. Crosses the ABI.
pub const Task = extern struct {
    kind: Kind,
    sequence: i32,
    /// Positions `[from, to)` to be moved, by `amount` or to their quotient by it.
    from: i32,
    to: i32,
    amount: i32,
    snapshot: u32,

    pub const Kind = enum(i32) { none = 0, shift = 1, divide = 2, take_snapshot = 3 };
};

/// A holder by its number for foreigners. Crosses the ABI.
pub const HolderRef = extern struct {
    /// 0 = a sequence.
    is_snapshot: u32,
    /// The sequence's number, or the snapshot's handle.
    number: u32,
    /// Of a snapshot: the index of its sequence in the list.
    of: u32,
};

/// A state to be written or read by the engine's thread.
pub const StateWork = struct {
    holders: []const HolderRef,
    action: union(enum) { save: []const u8, restore: *SharedState },

    pub fn deinit(work: *StateWork, gpa: std.mem.Allocator) void {
        gpa.free(work.holders);
        switch (work.action) {
            .save => |path| gpa.free(path),
            .restore => |state| state.release(),
        }
    }
};

pub const SharedState = Shared(memory_state.State);

pub const Job = struct {
    id: u32,
    tokens: std.ArrayList(i32),
    requests: []batch_file.Request,
    /// Snapshots to be taken within the first batch.
    marks: []const batch_file.MarkRequest = &.{},
    /// Instead of a batch.
    task: ?Task = null,
    state: ?StateWork = null,
    samplers: []?*SharedSampler,
    /// Steps to run: the batch itself, then one token for each sequence, until this many, a stop token or an interrupt.
    steps_max: u32,
    ignore_stops: bool,
    /// Stopped before it began; the engine's thread reports that in its turn.
    is_cancelled: bool = false,

    pub fn destroy(job: *Job, gpa: std.mem.Allocator) void {
        for (job.samplers) |sampler| if (sampler) |s| s.release();
        gpa.free(job.samplers);
        gpa.free(job.requests);
        gpa.free(job.marks);
        if (job.state) |*state| state.deinit(gpa);
        job.tokens.deinit(gpa);
        gpa.destroy(job);
    }
};
