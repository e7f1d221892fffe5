//! What concerns the library as a whole.

const std = @import("std");
const builtin = @import("builtin");
const c = @import("ggml");
const gguf = @import("../gguf.zig");
const status = @import("../status.zig");
const structs = @import("structs.zig");

/// Describes the library, and has ggml's faults explained from now on.
pub fn start(out: *structs.LibraryInfo, abi_hash: u32) status.Error!void {
    out.* = .{
        .abi_hash = abi_hash,
        .is_debug = @intFromBool(builtin.mode == .debug or builtin.mode == .safe),
        .ggml_version = @splat(0),
    };
    const version = std.mem.span(c.ggml_version());
    const length = @min(version.len, out.ggml_version.len - 1);
    @memcpy(out.ggml_version[0..length], version[0..length]);
    c.ggml_log_set(log_faults, null);
    _ = c.ggml_set_abort_callback(explain_abort);
}

fn log_faults(level: c.ggml_log_level, text: ?[*:0]const u8, data: ?*anyopaque) callconv(.c) void {
    _ = data;
    if (level == c.GGML_LOG_LEVEL_ERROR) std.debug.print("ggml: {s}", .{text orelse ""});
}

fn explain_abort(text: ?[*:0]const u8) callconv(.c) void {
    std.debug.print("strata: ggml gave up, which ends the process: {s}\nThis is a fault of Strata or of a plugin: a " ++
        "check before this operation is missing. Please report it with the model's name.\n", .{text orelse ""});
}

pub fn type_info(kind: i32, out: *structs.TypeInfo) status.Error!void {
    const entry = gguf.tensor_type(if (kind < 0) std.math.maxInt(u32) else @intCast(kind)) orelse {
        return status.fail(error.NotFound, "ggml has no type {d}", .{kind});
    };
    out.* = .{ .block_elements = @intCast(entry.block_elements), .block_bytes = @intCast(entry.block_bytes), .name = @splat(0) };
    @memcpy(out.name[0..entry.name.len], entry.name);
}
