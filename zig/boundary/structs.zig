//! The structs that cross the boundary. Their layout is generated for the other side; every field has four or eight
//! bytes, or is an array of bytes.

const queue_file = @import("../queue.zig");
const declaration = @import("../declaration.zig");
const batch_file = @import("../batch.zig");
const memory_layout = @import("../memory_layout.zig");
const engine_file = @import("../engine.zig");
const memory_ops = @import("../memory_ops.zig");
const sampler_file = @import("../sampler.zig");

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

/// Of Mamba-1; the shape is that of `a`. `dt_bias` and `d` may be left out.
pub const ScanMamba1Arguments = extern struct {
    memory: i32,
    state: i32,
    x: i32,
    dt: i32,
    dt_bias: i32,
    a: i32,
    b: i32,
    c: i32,
    d: i32,
};

pub const DeltaNetArguments = extern struct {
    memory: i32,
    state: i32,
    q: i32,
    k: i32,
    v: i32,
    g: i32,
    beta: i32,
    key_dim: i32,
    value_dim: i32,
    key_heads: i32,
    value_heads: i32,
    /// 1: value head h reads key head `h % key_heads`; 0: consecutive value heads share one.
    interleaved: i32,
    beta_sigmoid: i32,
    scale: f32,
    /// What is added to the squares of `q` and `k` before they are normalised; negative takes them as they are.
    normalize: f32,
};

pub const Wkv6Arguments = extern struct {
    memory: i32,
    state: i32,
    r: i32,
    w: i32,
    k: i32,
    v: i32,
    u: i32,
    head_size: i32,
    heads: i32,
};

pub const Wkv7Arguments = extern struct {
    memory: i32,
    state: i32,
    r: i32,
    w: i32,
    k: i32,
    v: i32,
    a: i32,
    b: i32,
    head_size: i32,
    heads: i32,
};

pub const GraphInfo = extern struct {
    nodes: i32,
    padding: i32 = 0,
    compute_bytes: f64,
    /// What ggml's operations, and our kernels on all threads, work in.
    work_bytes: f64,
    scratch_bytes: f64,
};

/// What the weights of a model take, loaded or only declared.
pub const ModelInfo = extern struct {
    /// Bytes of the file that are computed with where they are mapped.
    mapped_bytes: f64,
    /// Bytes of those that are put in another order, in memory of their own.
    repacked_bytes: f64,
};

pub const Bounds = extern struct { min: i32, end: i32 };

/// `snapshot` is an index of those that were offered, or -1; `name_length` that of the limiting memory's name, 0 = none.
pub const Resumable = extern struct { position: i32, snapshot: i32, name_length: u32 };
pub const TypeInfo = extern struct { block_elements: i32, block_bytes: i32, name: [16]u8 };
pub const Event = queue_file.Event;
pub const MemoryDeclaration = declaration.MemoryDeclaration;
pub const MemoryShare = memory_layout.Share;
pub const MemoryTotals = memory_layout.Totals;
pub const Mark = batch_file.MarkRequest;
pub const Task = engine_file.Task;
pub const SnapshotInfo = extern struct { position: i32, tokens: i32, bytes: f64 };
pub const Request = batch_file.Request;
pub const EngineConfig = engine_file.Config;
pub const SamplerConfig = sampler_file.Config;
pub const Counters = engine_file.Counters;
pub const AttendParameters = memory_ops.AttendParameters;
pub const HolderInfo = @import("../memory_state.zig").HolderInfo;
pub const HolderRef = engine_file.HolderRef;

/// A saved state.
pub const StateInfo = extern struct {
    version: u32,
    sequences: u32,
    snapshots: u32,
    sections: u32,
    /// Of the whole file.
    bytes: f64,
    fingerprint: [16]u8,
    declaration_low: u32,
    declaration_high: u32,
};
