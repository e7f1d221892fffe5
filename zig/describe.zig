//! The boundary as data: every exported function and every struct that crosses it, by reflection. Its hash goes into
//! the library and into the generated TypeScript, and the two are compared when the library is loaded.

const std = @import("std");

/// What a foreign caller must know of a parameter or field.
pub const Kind = enum { i32, u32, u8, f32, f64, pointer };

pub fn kind_of(comptime T: type) Kind {
    return switch (@typeInfo(T)) {
        .int => if (T == i32) .i32 else if (T == u32) .u32 else if (T == u8) .u8 else @compileError(@typeName(T) ++ " does not cross the boundary"),
        .float => |float| switch (float.bits) {
            32 => .f32,
            64 => .f64,
            else => @compileError("this float does not cross the boundary"),
        },
        .@"enum" => |info| kind_of(info.tag_type),
        .pointer => .pointer,
        else => @compileError(@typeName(T) ++ " does not cross the boundary"),
    };
}

/// The element of an array field, or the field itself.
pub fn element_of(comptime T: type) type {
    return switch (@typeInfo(T)) {
        .array => |array| array.child,
        else => T,
    };
}

pub fn count_of(comptime T: type) usize {
    return switch (@typeInfo(T)) {
        .array => |array| array.len,
        else => 1,
    };
}

/// One line for each function and each field, in order.
pub fn description(comptime functions: type, comptime structs: type) []const u8 {
    @setEvalBranchQuota(200_000);
    comptime var text: []const u8 = "";
    inline for (@typeInfo(functions).@"struct".decl_names) |name| {
        text = text ++ name ++ "(";
        const info = @typeInfo(@TypeOf(@field(functions, name))).@"fn";
        inline for (info.param_types) |parameter| text = text ++ @tagName(kind_of(parameter.?)) ++ ",";
        text = text ++ ")\n";
    }
    inline for (@typeInfo(structs).@"struct".decl_names) |name| {
        const T = @field(structs, name);
        const info = @typeInfo(T).@"struct";
        if (info.layout != .@"extern") @compileError(name ++ " must be extern");
        text = text ++ name ++ std.fmt.comptimePrint(":{d}\n", .{@sizeOf(T)});
        inline for (info.field_names, info.field_types) |field, F| {
            text = text ++ std.fmt.comptimePrint(" {s}@{d}:{t}x{d}\n", .{
                field, @offsetOf(T, field), kind_of(element_of(F)), count_of(F),
            });
        }
    }
    return text;
}

/// FNV-1a, 32 bits: enough to notice that two builds differ, and short enough to be read by a person.
pub fn hash(comptime text: []const u8) u32 {
    @setEvalBranchQuota(1_000_000);
    comptime var value: u32 = 2166136261;
    inline for (text) |byte| value = (value ^ byte) *% 16777619;
    return value;
}
