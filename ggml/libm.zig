//! The system's elementary functions for ggml (see libm.h), found by name when first called: Zig's own functions of the
//! same names are linked into the library, where they would be taken first.

const std = @import("std");
const builtin = @import("builtin");

const Function = fn (f32) callconv(.c) f32;

comptime {
    for (.{ "cosf", "expf", "logf", "sinf" }) |name| {
        const wrapper = struct {
            var found: ?*const Function = null;

            fn call(x: f32) callconv(.c) f32 {
                // Threads that come here together find the same.
                const known = @atomicLoad(?*const Function, &found, .monotonic);
                return (known orelse find())(x);
            }

            fn find() *const Function {
                @branchHint(.cold);
                const symbol = std.c.dlsym(default_handle, name);
                // Where nothing can be looked up, whatever was linked.
                const function: *const Function = if (symbol) |address|
                    @ptrCast(@alignCast(address))
                else
                    @extern(*const Function, .{ .name = name });
                @atomicStore(?*const Function, &found, function, .monotonic);
                return function;
            }
        };
        @export(&wrapper.call, .{ .name = "strata_" ++ name, .visibility = .hidden });
    }
}

/// All libraries of the process, `RTLD_DEFAULT`.
const default_handle: ?*anyopaque = if (builtin.os.tag.isDarwin())
    @ptrFromInt(std.math.maxInt(usize) - 1)
else
    null;
