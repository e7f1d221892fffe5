//! Writes the TypeScript side of the boundary: the symbol table for `dlopen`, the layout of every struct, the enums,
//! and the table of graph operations. Run by `zig build abi`; the output is committed and compared in the tests.

const std = @import("std");
const exports = @import("exports");
const describe = exports.describe;
const Writer = std.Io.Writer;

const enums = struct {
    pub const Status = exports.status.Status;
    pub const EventKind = exports.queue_file.EventKind;
    pub const MemoryKind = exports.declaration.Kind;
    pub const Extent = exports.declaration.Extent;
    pub const Logits = exports.batch_file.Logits;
    pub const WeightUse = exports.model_file.Use;
    pub const GraphInput = exports.graph_file.Input;
    pub const ValueType = exports.ValueType;
    pub const Method = exports.recurrent_pool.Method;
    pub const TaskKind = exports.structs.Task.Kind;
};

pub fn main(init: std.process.Init) !void {
    var buffer: [4096]u8 = undefined;
    var file: std.Io.File.Writer = .init(.stdout(), init.io, &buffer);
    const out = &file.interface;
    try out.print(
        \\// Generated from zig/exports.zig by `zig build abi`. Do not edit.
        \\
        \\/** Differs whenever a function or a struct of the boundary does. */
        \\export const abiHash = 0x{x:0>8};
        \\
        \\
    , .{exports.abi_hash});
    try write_symbols(out);
    try write_structs(out);
    try write_enums(out);
    try write_operations(out);
    try out.flush();
}

fn write_symbols(out: *Writer) !void {
    try out.writeAll("/** Every exported function, as `dlopen` wants it. */\nexport const symbols = {\n");
    inline for (@typeInfo(exports.functions).@"struct".decl_names) |name| {
        const info = @typeInfo(@TypeOf(@field(exports.functions, name))).@"fn";
        comptime std.debug.assert(info.return_type.? == i32);
        try out.print("  {s}: {{ args: [", .{name});
        inline for (info.param_types, 0..) |parameter, i| {
            try out.print("{s}\"{s}\"", .{ if (i > 0) ", " else "", ffi_name(comptime describe.kind_of(parameter.?)) });
        }
        try out.writeAll("], returns: \"i32\" },\n");
    }
    try out.writeAll("} as const;\n\n");
}

/// bun:ffi's word for it. A pointer is the start of a typed array.
fn ffi_name(kind: describe.Kind) []const u8 {
    return switch (kind) {
        .pointer => "buffer",
        else => @tagName(kind),
    };
}

fn write_structs(out: *Writer) !void {
    try out.writeAll("/** Byte layout of the structs that cross the boundary; `count` > 1 is an array. */\nexport const layouts = {\n");
    inline for (@typeInfo(exports.structs).@"struct".decl_names) |name| {
        const T = @field(exports.structs, name);
        const info = @typeInfo(T).@"struct";
        try out.print("  {s}: {{\n    size: {d},\n    fields: {{\n", .{ name, @sizeOf(T) });
        inline for (info.field_names, info.field_types) |field, F| {
            try out.print("      {f}: {{ type: \"{t}\", offset: {d}, count: {d} }},\n", .{
                camel(field), comptime describe.kind_of(describe.element_of(F)), @offsetOf(T, field), comptime describe.count_of(F),
            });
        }
        try out.writeAll("    },\n  },\n");
    }
    try out.writeAll("} as const;\n\n");
}

fn write_enums(out: *Writer) !void {
    inline for (@typeInfo(enums).@"struct".decl_names) |name| {
        const info = @typeInfo(@field(enums, name)).@"enum";
        try out.print("export const {s} = {{\n", .{name});
        inline for (info.field_names, info.field_values) |field, value| {
            try out.print("  {f}: {d},\n", .{ camel(field), value });
        }
        try out.writeAll("} as const;\n\n");
    }
}

fn write_operations(out: *Writer) !void {
    try out.writeAll("/** The graph operations: their numbers and the kinds of their parameters. */\nexport const operations = {\n");
    for (exports.ops.signatures, 0..) |signature, code| {
        try out.print("  {s}: {{ code: {d}, params: [", .{ signature.name, code });
        for (signature.params, 0..) |param, i| {
            try out.print("{s}\"{s}\"", .{ if (i > 0) ", " else "", switch (param) {
                .tensor => "tensor",
                .optional_tensor => "optionalTensor",
                .int => "int",
                .float => "float",
                .boolean => "boolean",
                .enumeration => |e| e.name,
            } });
        }
        try out.writeAll("] },\n");
    }
    try out.writeAll("} as const;\n");
    for (exports.ops.signatures, 0..) |signature, i| for (signature.params, 0..) |param, k| {
        const e = switch (param) {
            .enumeration => |e| e,
            else => continue,
        };
        if (is_repeated(i, k, e.name)) continue;
        try out.print("\nexport const {s} = {{\n", .{e.name});
        for (e.fields) |field| try out.print("  {s}: {d},\n", .{ field.name, field.value });
        try out.writeAll("} as const;\n");
    };
}

fn is_repeated(signature: usize, parameter: usize, name: []const u8) bool {
    for (exports.ops.signatures[0 .. signature + 1], 0..) |earlier, i| {
        for (earlier.params, 0..) |param, k| {
            if (i == signature and k == parameter) return false;
            switch (param) {
                .enumeration => |e| if (std.mem.eql(u8, e.name, name)) return true,
                else => {},
            }
        }
    }
    return false;
}

/// snake_case as camelCase.
fn camel(name: []const u8) std.fmt.Alt([]const u8, print_camel) {
    return .{ .data = name };
}

fn print_camel(name: []const u8, out: *Writer) Writer.Error!void {
    var upper = false;
    for (name) |byte| {
        if (byte == '_') {
            upper = true;
            continue;
        }
        try out.writeByte(if (upper) std.ascii.toUpper(byte) else byte);
        upper = false;
    }
}
