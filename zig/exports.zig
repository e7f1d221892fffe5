//! Every exported function of the library.
const std = @import("std");
const c = @import("ggml");
pub const status = @import("status.zig");

pub export fn strata_ggml_types() i32 {
    return c.GGML_TYPE_COUNT;
}
comptime {
    _ = &c.ggml_backend_cpu_init;
}
pub export fn strata_probe() ?*anyopaque {
    return @ptrCast(c.ggml_backend_cpu_init());
}
test {
    _ = status;
}
