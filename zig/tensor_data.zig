//! The bytes of tensors: where they lie, and how they are set, copied and converted. It takes them to lie in the CPU's
//! memory, as all of the engine does that asks it where.

const std = @import("std");
const assert = std.debug.assert;
const c = @import("ggml");

pub const Tensor = c.ggml_tensor;

pub fn set(tensor: *Tensor, offset: usize, data: []const u8) void {
    assert(offset + data.len <= c.ggml_nbytes(tensor));
    c.ggml_backend_tensor_set(tensor, data.ptr, offset, data.len);
}

/// Into a tensor that a context of ggml's own holds, without a backend.
pub fn write(tensor: *Tensor, offset: usize, data: []const u8) void {
    assert(offset + data.len <= c.ggml_nbytes(tensor));
    const base: [*]u8 = @ptrCast(tensor.data.?);
    @memcpy(base[offset..][0..data.len], data);
}

/// Copies `rows` consecutive rows of the last dimension within a tensor.
pub fn copy_rows(tensor: *Tensor, from: usize, to: usize, rows: usize) void {
    const row_bytes = tensor.nb[1];
    assert((@max(from, to) + rows) * row_bytes <= c.ggml_nbytes(tensor));
    const base: [*]u8 = @ptrCast(tensor.data.?);
    @memcpy(base[to * row_bytes ..][0 .. rows * row_bytes], base[from * row_bytes ..][0 .. rows * row_bytes]);
}

/// The bytes of consecutive rows of the last dimension, to be read.
pub fn read_rows(tensor: *const Tensor, first: usize, count: usize) []const u8 {
    const row_bytes = tensor.nb[1];
    assert((first + count) * row_bytes <= c.ggml_nbytes(tensor));
    const base: [*]const u8 = @ptrCast(tensor.data.?);
    return base[first * row_bytes ..][0 .. count * row_bytes];
}

/// Copies a row of f32 or f16 to a row of f16, or the other way round.
pub fn convert_row(from: *const Tensor, from_row: usize, to: *Tensor, to_row: usize) void {
    assert(from.ne[0] == to.ne[0]);
    const count: usize = @intCast(from.ne[0]);
    const source = base_bytes(from) + from_row * from.nb[1];
    const target = base_bytes(to) + to_row * to.nb[1];
    if (from.type == to.type) {
        @memcpy(target[0..to.nb[1]], source[0..to.nb[1]]);
    } else if (from.type == c.GGML_TYPE_F32) {
        c.ggml_cpu_fp32_to_fp16(@ptrCast(@alignCast(source)), @ptrCast(@alignCast(target)), @intCast(count));
    } else {
        c.ggml_cpu_fp16_to_fp32(@ptrCast(@alignCast(source)), @ptrCast(@alignCast(target)), @intCast(count));
    }
}

/// A row of f16 as floats.
pub fn widen_row(from: *const Tensor, row: usize, out: []f32) void {
    assert(from.type == c.GGML_TYPE_F16 and from.ne[0] == out.len);
    const source = base_bytes(from) + row * from.nb[1];
    c.ggml_cpu_fp16_to_fp32(@ptrCast(@alignCast(source)), out.ptr, @intCast(out.len));
}

/// Bytes that are NaN in every type: whatever is read before it is written shows.
const poison: u8 = 0xff;

pub fn poison_rows(tensor: *Tensor, first: usize, count: usize) void {
    const row_bytes = tensor.nb[1];
    assert((first + count) * row_bytes <= c.ggml_nbytes(tensor));
    const base: [*]u8 = @ptrCast(tensor.data.?);
    @memset(base[first * row_bytes ..][0 .. count * row_bytes], poison);
}

pub fn poison_buffer(buffer: c.ggml_backend_buffer_t) void {
    if (buffer != null) c.ggml_backend_buffer_clear(buffer, poison);
}

/// The values of a contiguous f32 tensor, for kernels and samplers that run on the CPU.
pub fn values_f32(tensor: *const Tensor) []const f32 {
    assert(tensor.type == c.GGML_TYPE_F32 and c.ggml_is_contiguous(tensor));
    const base: [*]const f32 = @ptrCast(@alignCast(tensor.data.?));
    return base[0..@intCast(c.ggml_nelements(tensor))];
}

/// Where a tensor's f32 elements begin, for kernels of our own that run on the CPU.
pub fn base_f32(tensor: *const Tensor) [*]f32 {
    assert(tensor.type == c.GGML_TYPE_F32);
    return @ptrCast(@alignCast(tensor.data.?));
}

/// Where a tensor's bytes begin, for kernels that decode them themselves.
pub fn base_bytes(tensor: *const Tensor) [*]u8 {
    return @ptrCast(tensor.data.?);
}
