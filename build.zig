//! The task runner of the native library.
//!
//!   zig build [lib]      the shared library, in zig-out/lib
//!   zig build release    the libraries of the packages, one for each kind of CPU, in zig-out/release
//!   zig build cross      compiles the library for other machines, installs nothing
//!   zig build check      compiles everything, runs and installs nothing
//!   zig build test       the unit tests
//!   zig build fuzz       the fuzzer of graph operations, in zig-out/bin
//!   zig build abi        writes lib/native/abi.ts from the exported functions
//!   zig build fmt        formats the Zig sources
//!
//! `-Dggml=DIR` is the unpacked source of ggml (ggml/manifest.json names it); set-up passes it. With `-Dpoison` free
//! cells and fresh buffers always hold NaN, as they do in any build where STRATA_POISON is set.

const std = @import("std");
const builtin = @import("builtin");
const ggml_sources = @import("ggml/sources.zig");

const zig_version = "0.17.1";

comptime {
    if (!std.mem.eql(u8, builtin.zig_version_string, zig_version)) {
        @compileError("Strata builds with Zig " ++ zig_version ++ ", and this is Zig " ++
            builtin.zig_version_string ++ ". Run `npm test` or `npm run demo`, which fetch the right one.");
    }
}

pub fn build(b: *std.Build) void {
    const target = b.standardTargetOptions(.{});
    const optimize = b.standardOptimizeOption(.{});
    const ggml_path = b.option([]const u8, "ggml", "the folder of ggml's unpacked source") orelse ".cache/ggml";

    const fmt_step = b.step("fmt", "format the Zig sources");
    fmt_step.dependOn(&b.addFmt(.{ .paths = b.pathList(&.{ "build.zig", "zig", "ggml" }) }).step);

    // A debug build of ggml is 50 times slower and checks nothing of ours.
    const ggml: Ggml = .init(b, target, ggml_path, .fast);
    const core = core_module(b, target, optimize, ggml);
    const options = b.addOptions();
    options.addOption(bool, "poison", b.option(bool, "poison", "free cells and fresh buffers always hold NaN") orelse false);
    core.addOptions("options", options);
    const plain_options = b.addOptions();
    plain_options.addOption(bool, "poison", false);

    const library = b.addLibrary(.{ .name = "strata", .linkage = .dynamic, .root_module = core });
    const lib_step = b.step("lib", "build the shared library (the default)");
    lib_step.dependOn(&b.addInstallArtifact(library, .{}).step);
    lib_step.dependOn(&b.addInstallLibFile(features_file(b, target), "libstrata.features").step);
    b.getInstallStep().dependOn(lib_step);

    const release_step = b.step("release", "build the libraries of the packages, in zig-out/release");
    for (release_builds) |build_of| {
        const other = b.resolveTargetQuery(build_of.query());
        const other_core = core_module(b, other, .fast, .init(b, other, ggml_path, .fast));
        other_core.addOptions("options", plain_options);
        other_core.strip = true;
        const other_library = b.addLibrary(.{ .name = "strata", .linkage = .dynamic, .root_module = other_core });
        const folder = b.fmt("release/{s}", .{build_of.name});
        const install = b.addInstallArtifact(other_library, .{ .dest_dir = .{ .override = .{ .custom = folder } } });
        release_step.dependOn(&install.step);
        const record = b.addInstallFile(features_file(b, other), b.fmt("{s}/libstrata.features", .{folder}));
        release_step.dependOn(&record.step);
    }

    const cross_step = b.step("cross", "compile the library for the other machines that it supports");
    for (cross_targets) |query| {
        const other = b.resolveTargetQuery(query);
        const other_ggml: Ggml = .init(b, other, ggml_path, .debug);
        const other_core = core_module(b, other, .debug, other_ggml);
        other_core.addOptions("options", plain_options);
        const other_library = b.addLibrary(.{ .name = "strata", .linkage = .dynamic, .root_module = other_core });
        cross_step.dependOn(&other_library.step);
    }

    const tests = b.addTest(.{ .name = "strata-test", .root_module = core });
    const run_tests = b.addRunArtifact(tests);
    // Whoever counts the tests wants to see them run, also when nothing has changed.
    run_tests.has_side_effects = true;
    const test_step = b.step("test", "run the unit tests");
    test_step.dependOn(&run_tests.step);

    const generator = b.addExecutable(.{
        .name = "strata-abi",
        .root_module = b.createModule(.{
            .root_source_file = b.path("zig/abi.zig"),
            .target = target,
            .optimize = .debug,
            .link_libc = true,
            .imports = &.{.{ .name = "exports", .module = core }},
        }),
    });
    const run_generator = b.addRunArtifact(generator);
    const update = b.addUpdateSourceFiles();
    update.addCopyFileToSource(run_generator.captureStdOut(.{}), "lib/native/abi.ts");
    const abi_step = b.step("abi", "write lib/native/abi.ts");
    abi_step.dependOn(&update.step);

    const fuzzer = b.addExecutable(.{
        .name = "strata-fuzz-ops",
        .root_module = b.createModule(.{
            .root_source_file = b.path("zig/fuzz_ops.zig"),
            .target = target,
            .optimize = .safe,
            .link_libc = true,
            .imports = &.{.{ .name = "ggml", .module = ggml.api }},
        }),
    });
    fuzzer.root_module.linkLibrary(ggml.library);
    const fuzz_step = b.step("fuzz", "build the fuzzer of graph operations, in zig-out/bin");
    fuzz_step.dependOn(&b.addInstallArtifact(fuzzer, .{}).step);

    const check_step = b.step("check", "compile everything");
    check_step.dependOn(&library.step);
    check_step.dependOn(&tests.step);
    check_step.dependOn(&generator.step);
    check_step.dependOn(&fuzzer.step);
}

/// A library that runs on every machine of a platform whose CPU has certain features.
const ReleaseBuild = struct {
    name: []const u8,
    cpu: *const std.Target.Cpu.Model,
    add: []const std.Target.x86.Feature = &.{},
    subtract: []const std.Target.x86.Feature = &.{},

    fn query(build_of: ReleaseBuild) std.Target.Query {
        return .{
            .cpu_arch = .x86_64,
            .os_tag = .linux,
            .abi = .gnu,
            // The oldest that Bun itself runs on.
            .glibc_version = .{ .major = 2, .minor = 17, .patch = 0 },
            .cpu_model = .{ .explicit = build_of.cpu },
            .cpu_features_add = std.Target.x86.featureSet(build_of.add),
            .cpu_features_sub = std.Target.x86.featureSet(build_of.subtract),
        };
    }
};

/// Bun needs level 2 itself. ggml's quantised products ask for VNNI, which every CPU with AVX-512 since 2019 has.
const release_builds = [_]ReleaseBuild{
    .{ .name = "linux-x64-baseline", .cpu = &std.Target.x86.cpu.x86_64_v2 },
    .{ .name = "linux-x64-avx2", .cpu = &std.Target.x86.cpu.x86_64_v3 },
    .{
        .name = "linux-x64-avx512vnni",
        .cpu = &std.Target.x86.cpu.x86_64_v4,
        .add = &.{.avx512vnni},
        // The kernels are laid out for whole registers.
        .subtract = &.{.prefer_256_bit},
    },
};

/// The 64-bit ARM of servers and of Apple; the release builds are for x86_64.
const cross_targets = [_]std.Target.Query{
    .{ .cpu_arch = .aarch64, .os_tag = .linux, .abi = .gnu },
    .{ .cpu_arch = .aarch64, .os_tag = .macos },
};

/// The CPU features that the library uses, for whoever loads it: it cannot be asked on a CPU that lacks one.
fn features_file(b: *std.Build, target: std.Build.ResolvedTarget) std.Build.LazyPath {
    const cpu = target.result.cpu;
    var names: std.ArrayList(u8) = .empty;
    for (cpu.arch.allFeaturesList(), 0..) |feature, index| {
        if (!cpu.features.isEnabled(@intCast(index))) continue;
        names.print(b.allocator, "{s}\n", .{feature.name}) catch @panic("out of memory");
    }
    return b.addWriteFiles().add("libstrata.features", names.items);
}

/// ggml compiled once, as a static library, and its C API as a Zig module.
const Ggml = struct {
    library: *std.Build.Step.Compile,
    api: *std.Build.Module,

    fn init(b: *std.Build, target: std.Build.ResolvedTarget, folder: []const u8, optimize: std.builtin.Optimize) Ggml {
        const root: std.Build.LazyPath = .{ .cwd_relative = folder };
        const include = root.path(b, "include");
        const source = root.path(b, "src");
        const os = target.result.os.tag;

        const module = b.createModule(.{
            .root_source_file = b.path("ggml/libm.zig"),
            .target = target,
            .optimize = optimize,
            .link_libc = true,
            .link_libcpp = true,
            .pic = true,
            .sanitize_c = .off,
        });
        const version_header = b.addWriteFiles();
        _ = version_header.add("ggml-version.h", "#pragma once\n#define GGML_VERSION \"" ++
            ggml_sources.version ++ "\"\n#define GGML_COMMIT \"strata\"\n");
        module.addIncludePath(version_header.getDirectory());
        module.addIncludePath(include);
        module.addIncludePath(source);
        module.addIncludePath(source.path(b, "ggml-cpu"));
        add_sources(module, source, &ggml_sources.base, os);
        add_sources(module, source, &ggml_sources.cpu, os);
        switch (target.result.cpu.arch) {
            .x86_64 => add_sources(module, source, &ggml_sources.cpu_x86, os),
            .aarch64 => add_sources(module, source, &ggml_sources.cpu_arm, os),
            else => |arch| std.debug.panic("Strata builds for x86_64 and aarch64, not for {t}", .{arch}),
        }
        const library = b.addLibrary(.{ .name = "ggml", .linkage = .static, .root_module = module });

        const translate = b.addTranslateC(.{
            .root_source_file = b.path("ggml/c.h"),
            .target = target,
            .optimize = .fast,
        });
        translate.addIncludePath(include);
        return .{ .library = library, .api = translate.createModule() };
    }

    fn add_sources(
        module: *std.Build.Module,
        root: std.Build.LazyPath,
        files: []const []const u8,
        os: std.Target.Os.Tag,
    ) void {
        for (files) |file| {
            const is_c = std.mem.endsWith(u8, file, ".c");
            const flags = if (is_c) ggml_sources.c_flags(os, file) else ggml_sources.cpp_flags(os);
            module.addCSourceFiles(.{ .root = root, .files = &.{file}, .flags = flags });
        }
    }
};

fn core_module(
    b: *std.Build,
    target: std.Build.ResolvedTarget,
    optimize: std.builtin.Optimize,
    ggml: Ggml,
) *std.Build.Module {
    const core = b.createModule(.{
        .root_source_file = b.path("zig/exports.zig"),
        .target = target,
        .optimize = optimize,
        .link_libc = true,
        .link_libcpp = true,
        .pic = true,
        .imports = &.{.{ .name = "ggml", .module = ggml.api }},
    });
    core.linkLibrary(ggml.library);
    return core;
}
