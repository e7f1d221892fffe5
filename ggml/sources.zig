//! What of ggml is compiled, and how. Nothing of ggml is committed: the build is given its unpacked source
//! (`-Dggml=DIR`, see manifest.json) and compiles the files listed here, unedited.

const std = @import("std");

pub const version = "0.25.1";

/// The tensor library, its allocator and the backend interface.
pub const base = [_][]const u8{
    "ggml.c",
    "ggml.cpp",
    "ggml-alloc.c",
    "ggml-backend.cpp",
    "ggml-backend-meta.cpp",
    "ggml-opt.cpp",
    "ggml-quants.c",
    "ggml-threading.cpp",
};

/// The CPU backend. llamafile's matrix products and the repacked weight layouts are on.
pub const cpu = [_][]const u8{
    "ggml-cpu/ggml-cpu.c",
    "ggml-cpu/ggml-cpu.cpp",
    "ggml-cpu/amx/amx.cpp",
    "ggml-cpu/amx/mmq.cpp",
    "ggml-cpu/binary-ops.cpp",
    "ggml-cpu/hbm.cpp",
    "ggml-cpu/iqp.cpp",
    "ggml-cpu/llamafile/sgemm.cpp",
    "ggml-cpu/ops.cpp",
    "ggml-cpu/quants.c",
    "ggml-cpu/repack.cpp",
    "ggml-cpu/traits.cpp",
    "ggml-cpu/unary-ops.cpp",
    "ggml-cpu/vec.cpp",
};

pub const cpu_x86 = [_][]const u8{ "ggml-cpu/arch/x86/quants.c", "ggml-cpu/arch/x86/repack.cpp" };
pub const cpu_arm = [_][]const u8{ "ggml-cpu/arch/arm/quants.c", "ggml-cpu/arch/arm/repack.cpp" };

/// The file whose threads wait for each other; it is compiled with relax.h before it.
pub const thread_pool = "ggml-cpu/ggml-cpu.c";

const flags_common = [_][]const u8{
    "-DNDEBUG",
    "-DGGML_USE_CPU",
    "-DGGML_USE_LLAMAFILE",
    "-DGGML_USE_CPU_REPACK",
    "-D_XOPEN_SOURCE=600",
    "-fno-sanitize=undefined",
    "-fno-math-errno",
    "-Wno-everything",
    "-include",
    "ggml/libm.h",
};
const flags_linux = flags_common ++ [_][]const u8{"-D_GNU_SOURCE"};
const flags_macos = flags_common ++ [_][]const u8{"-D_DARWIN_C_SOURCE"};

const relax = [_][]const u8{ "-std=c11", "-include", "ggml/relax.h" };

pub fn c_flags(os: std.Target.Os.Tag, file: []const u8) []const []const u8 {
    if (std.mem.eql(u8, file, thread_pool)) return if (os == .macos) &(flags_macos ++ relax) else &(flags_linux ++ relax);
    return if (os == .macos) &(flags_macos ++ .{"-std=c11"}) else &(flags_linux ++ .{"-std=c11"});
}

pub fn cpp_flags(os: std.Target.Os.Tag) []const []const u8 {
    return if (os == .macos) &(flags_macos ++ .{"-std=c++17"}) else &(flags_linux ++ .{"-std=c++17"});
}
