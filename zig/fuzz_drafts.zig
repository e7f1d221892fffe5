//! Drafts of graph operations for the fuzzer: for each, operands that fit it, and ways to spoil them.

const std = @import("std");
const c = @import("ggml");
const ops = @import("ops.zig");

const Type = ops.Type;

pub const Layout = enum { natural, offset, gaps, permuted, overlapping };

/// An operand to be made.
pub const Spec = struct {
    kind: Type = .f32,
    ne: [4]i64 = .{ 1, 1, 1, 1 },
    layout: Layout = .natural,
    /// Marked as the engine marks its inputs; their values are in range when they are indices.
    input: bool = false,
    /// Positions of a sort over this many elements instead of a leaf.
    sorted: i64 = 0,
    absent: bool = false,
    /// The same tensor as an earlier operand.
    same_as: ?usize = null,
};

const elements_max = 200_000;
const float_kinds = [_]Type{ .f32, .f16, .bf16 };
const kinds = std.enums.values(Type);

pub const Draft = struct {
    random: std.Random,
    tensors: [9]Spec = undefined,
    tensor_count: usize = 0,
    ints: [10]i32 = undefined,
    int_count: usize = 0,
    floats: [8]f32 = undefined,
    float_count: usize = 0,

    /// A valid draft of this operation, spoiled in no, one or two places.
    pub fn init(comptime name: []const u8, random: std.Random) Draft {
        var draft: Draft = .{ .random = random };
        @field(recipes, name)(&draft);
        const spoils = random.uintLessThan(u32, 20);
        if (spoils >= 10) draft.spoil();
        if (spoils >= 16) draft.spoil();
        for (draft.tensors[0..draft.tensor_count]) |*spec| fit(spec);
        return draft;
    }

    fn tensor(self: *Draft, spec: Spec) void {
        self.tensors[self.tensor_count] = spec;
        self.tensor_count += 1;
    }

    fn int(self: *Draft, value: i64) void {
        self.ints[self.int_count] = @intCast(value);
        self.int_count += 1;
    }

    fn float(self: *Draft, value: f32) void {
        self.floats[self.float_count] = value;
        self.float_count += 1;
    }

    fn chance(self: *Draft, one_in: u32) bool {
        return self.random.uintLessThan(u32, one_in) == 0;
    }

    fn below(self: *Draft, n: i64) i64 {
        return self.random.intRangeLessThan(i64, 0, n);
    }

    fn dim(self: *Draft) i64 {
        return switch (self.random.uintLessThan(u32, 8)) {
            0, 1 => 1,
            2, 3, 4 => 1 + self.below(6),
            5, 6 => 1 + self.below(40),
            else => 32 * (1 + self.below(3)),
        };
    }

    fn small(self: *Draft) i64 {
        return 1 + self.below(4);
    }

    fn pick(self: *Draft, comptime T: type, options: []const T) T {
        return options[self.random.uintLessThan(usize, options.len)];
    }

    fn any_kind(self: *Draft) Type {
        return self.pick(Type, kinds);
    }

    fn shape(self: *Draft) [4]i64 {
        return .{ self.dim(), self.dim(), self.small(), self.small() };
    }

    /// A shape whose rows are whole blocks of this type.
    fn shape_of(self: *Draft, kind: Type) [4]i64 {
        const block = c.ggml_blck_size(kind.raw());
        var ne = self.shape();
        if (block > 1) ne[0] = block * (1 + self.below(if (block > 64) 2 else 6));
        return ne;
    }

    /// A layout with the elements of a row adjacent.
    fn rows_layout(self: *Draft) Layout {
        return self.pick(Layout, &.{ .natural, .natural, .natural, .offset, .gaps });
    }

    /// A layout without gaps.
    fn whole_layout(self: *Draft) Layout {
        return self.pick(Layout, &.{ .natural, .offset });
    }

    fn float_kind(self: *Draft) Type {
        return self.pick(Type, &.{ .f32, .f16 });
    }

    fn spoil(self: *Draft) void {
        const choice = self.random.uintLessThan(u32, 12);
        if (choice < 7 and self.tensor_count > 0) return self.spoil_tensor(choice);
        if (choice < 9 and self.int_count > 0) {
            const i = self.random.uintLessThan(usize, self.int_count);
            const near = self.ints[i] +% @as(i32, @intCast(self.below(5) - 2));
            const limits = [_]i32{ std.math.maxInt(i32), std.math.minInt(i32) };
            self.ints[i] = self.pick(i32, &.{ 0, -1, 1, 7, 64, near, near, limits[0], limits[1] });
        } else if (choice < 11 and self.float_count > 0) {
            const i = self.random.uintLessThan(usize, self.float_count);
            const inf = std.math.inf(f32);
            self.floats[i] = self.pick(f32, &.{ 0, -1, 1, std.math.nan(f32), inf, -inf, 1e30, -1e-30 });
        } else self.spoil_counts();
    }

    fn spoil_counts(self: *Draft) void {
        switch (self.random.uintLessThan(u32, 6)) {
            0 => self.tensor_count -|= 1,
            1 => self.int_count -|= 1,
            2 => self.float_count -|= 1,
            3 => self.tensor(.{}),
            4 => self.int(1),
            else => self.float(1),
        }
    }

    fn spoil_tensor(self: *Draft, choice: u32) void {
        const index = self.random.uintLessThan(usize, self.tensor_count);
        const spec = &self.tensors[index];
        switch (choice) {
            0 => spec.kind = self.any_kind(),
            1, 2 => {
                const n = &spec.ne[self.random.uintLessThan(usize, 4)];
                n.* = self.pick(i64, &.{ n.* + 1, n.* - 1, n.* * 2, 1, 0, self.dim(), 256, 1 + self.below(1000) });
            },
            3, 4, 5 => spec.layout = self.random.enumValue(Layout),
            else => switch (self.random.uintLessThan(u32, 5)) {
                0 => spec.absent = true,
                1 => spec.input = !spec.input,
                2 => spec.sorted = if (spec.sorted == 0) self.dim() else spec.sorted + 1,
                3 => std.mem.swap(i64, &spec.ne[0], &spec.ne[1]),
                else => if (index > 0) {
                    spec.same_as = self.random.uintLessThan(usize, index);
                },
            },
        }
    }
};

/// Keeps an operand small, and its rows whole blocks: nothing else can be made with ggml at all.
fn fit(spec: *Spec) void {
    const block = c.ggml_blck_size(spec.kind.raw());
    spec.ne[0] = @divFloor(spec.ne[0] + block - 1, block) * block;
    var total: i64 = 1;
    for (&spec.ne) |*n| {
        if (n.* < 0 or total * n.* > elements_max) n.* = 1;
        if (n == &spec.ne[0] and n.* == 1) n.* = block;
        total *= @max(1, n.*);
    }
}

/// One recipe for each operation, under its name.
const recipes = struct {
    pub fn add(d: *Draft) void {
        if (!d.chance(4)) return binary(d);
        const kind = d.any_kind();
        const ne = d.shape_of(kind);
        d.tensor(.{ .kind = kind, .ne = ne, .layout = d.rows_layout() });
        d.tensor(.{ .ne = ne, .layout = d.rows_layout() });
    }
    pub const sub = binary;
    pub const mul = binary;
    pub const div = binary;
    pub const scale = float_rows_one;
    pub fn scale_bias(d: *Draft) void {
        scale(d);
        d.float(0.5);
    }
    pub const sqr = any_float;
    pub const sqrt = any_float;
    pub const log = any_float;
    pub const sin = any_float;
    pub const cos = any_float;
    pub fn unary(d: *Draft) void {
        d.tensor(.{ .kind = d.float_kind(), .ne = d.shape(), .layout = d.rows_layout() });
        d.int(@backingInt(d.random.enumValue(ops.Unary)));
    }
    pub fn clamp(d: *Draft) void {
        d.tensor(.{ .kind = d.float_kind(), .ne = d.shape(), .layout = d.whole_layout() });
        d.float(-1);
        d.float(1);
    }
    pub fn glu(d: *Draft) void {
        var ne = d.shape();
        ne[0] *= 2;
        d.tensor(.{ .kind = d.float_kind(), .ne = ne, .layout = d.whole_layout() });
        d.int(@backingInt(d.random.enumValue(ops.Glu)));
        d.int(d.below(2));
    }
    pub fn glu_split(d: *Draft) void {
        const kind = d.float_kind();
        const ne = d.shape();
        for (0..2) |_| d.tensor(.{ .kind = kind, .ne = ne, .layout = d.whole_layout() });
        d.int(@backingInt(d.random.enumValue(ops.Glu)));
    }
    pub fn norm(d: *Draft) void {
        d.tensor(.{ .ne = d.shape(), .layout = d.random.enumValue(Layout) });
        d.float(1e-5);
    }
    pub fn rms_norm(d: *Draft) void {
        d.tensor(.{ .ne = d.shape(), .layout = d.rows_layout() });
        d.float(1e-5);
    }
    pub const l2_norm = norm;
    pub fn group_norm(d: *Draft) void {
        d.tensor(.{ .ne = .{ d.dim(), d.dim(), d.dim(), d.small() }, .layout = d.rows_layout() });
        d.int(1 + d.below(d.tensors[0].ne[2]));
        d.float(1e-5);
    }
    pub const sum = any_float;
    pub const sum_rows = f32_rows;
    pub const mean = f32_rows;
    pub const cumsum = f32_rows;
    pub fn soft_max_ext(d: *Draft) void {
        const ne = [4]i64{ d.dim(), d.dim(), d.small() * 2, d.small() };
        d.tensor(.{ .ne = ne, .layout = d.whole_layout() });
        const repeats = d.pick(i64, &.{ 1, 2, ne[2] });
        const mask_ne = [4]i64{ ne[0], ne[1] + d.below(3), repeats, d.pick(i64, &.{ 1, ne[3] }) };
        d.tensor(.{ .kind = d.pick(Type, &.{ .f16, .f32 }), .ne = mask_ne, .input = true, .absent = d.chance(3) });
        d.float(0.125);
        d.float(if (d.tensors[1].absent) 0 else d.pick(f32, &.{ 0, 8 }));
    }
    pub fn rope_ext(d: *Draft) void {
        const ne = [4]i64{ 2 * (1 + d.below(64)), d.dim(), d.dim(), d.small() };
        d.tensor(.{ .kind = d.float_kind(), .ne = ne, .layout = d.rows_layout() });
        d.tensor(.{ .kind = .i32, .ne = .{ ne[2], 1, 1, 1 }, .input = true });
        d.tensor(.{ .ne = .{ @divExact(ne[0], 2), 1, 1, 1 }, .absent = d.chance(2) });
        d.int(2 * (1 + d.below(@divExact(ne[0], 2))));
        d.int(@backingInt(d.random.enumValue(ops.RopeMode)));
        d.int(4096);
        for ([_]f32{ 10000, 0.5, if (d.chance(2)) 0 else 1, 1, 32, 1 }) |value| d.float(value);
    }
    pub fn argsort(d: *Draft) void {
        sortable(d);
        d.int(d.below(2));
    }
    pub fn argsort_top_k(d: *Draft) void {
        sortable(d);
        d.int(1 + d.below(d.tensors[0].ne[0]));
    }
    pub const top_k = argsort_top_k;
    pub fn arange(d: *Draft) void {
        const start: f32 = @floatFromInt(d.below(100) - 50);
        d.float(start);
        d.float(start + @as(f32, @floatFromInt(1 + d.below(500))));
        d.float(d.pick(f32, &.{ 1, 0.5, 0.3, 7 }));
    }
    pub fn diag_mask_inf(d: *Draft) void {
        d.tensor(.{ .ne = d.shape(), .layout = d.whole_layout() });
        d.int(d.below(10));
    }
    pub fn tri(d: *Draft) void {
        const n = d.dim();
        d.tensor(.{ .ne = .{ n, n, d.small(), d.small() }, .layout = d.whole_layout() });
        d.int(d.below(4));
    }
    pub fn fill(d: *Draft) void {
        d.tensor(.{ .kind = d.float_kind(), .ne = d.shape(), .layout = d.whole_layout() });
        d.float(3);
    }
    pub fn repeat(d: *Draft) void {
        repeatable(d);
        d.tensor(.{ .kind = d.any_kind(), .ne = multiple(d, d.tensors[0].ne), .layout = d.random.enumValue(Layout) });
    }
    pub fn repeat_4d(d: *Draft) void {
        repeatable(d);
        for (multiple(d, d.tensors[0].ne)) |n| d.int(n);
    }
    pub fn concat(d: *Draft) void {
        const kind = if (d.chance(2)) d.any_kind() else d.pick(Type, &float_kinds);
        const ne = d.shape_of(kind);
        const axis = d.random.uintLessThan(usize, 4);
        var other = ne;
        other[axis] = d.shape_of(kind)[axis];
        d.tensor(.{ .kind = kind, .ne = ne, .layout = d.rows_layout() });
        d.tensor(.{ .kind = kind, .ne = other, .layout = d.rows_layout() });
        d.int(@intCast(axis));
    }
    pub fn pad(d: *Draft) void {
        d.tensor(.{ .ne = d.shape(), .layout = d.random.enumValue(Layout) });
        for (0..4) |_| d.int(d.below(4));
    }
    pub fn roll(d: *Draft) void {
        d.tensor(.{ .ne = d.shape(), .layout = d.rows_layout() });
        for (d.tensors[0].ne) |n| d.int(d.below(2 * n - 1) - n + 1);
    }
    pub fn get_rows(d: *Draft) void {
        const kind = d.any_kind();
        const ne = d.shape_of(kind);
        d.tensor(.{ .kind = kind, .ne = ne, .layout = d.rows_layout() });
        indices(d, .{ d.dim(), ne[2], ne[3], 1 }, ne[1]);
    }
    pub fn set_rows(d: *Draft) void {
        const kind = if (d.chance(2)) d.any_kind() else d.pick(Type, &.{ .f32, .f16, .bf16, .q8_0, .q4_0, .iq4_nl });
        const ne = d.shape_of(kind);
        const rows = d.dim();
        const half = if (kind == .f16) d.chance(2) else d.chance(8);
        d.tensor(.{ .kind = kind, .ne = ne, .layout = d.rows_layout() });
        const source_ne = [4]i64{ ne[0], rows, ne[2], ne[3] };
        d.tensor(.{ .kind = if (half) .f16 else .f32, .ne = source_ne, .layout = d.rows_layout() });
        indices(d, .{ rows, d.pick(i64, &.{ 1, ne[2] }), d.pick(i64, &.{ 1, ne[3] }), 1 }, ne[1]);
        if (d.tensors[2].input and d.chance(2)) d.tensors[2].kind = .i64;
    }
    pub fn cpy(d: *Draft) void {
        const from = if (d.chance(2)) d.any_kind() else d.pick(Type, &float_kinds);
        const to = d.pick(Type, &.{ .f32, .f16, .bf16, from, .q8_0, .q4_k, .iq4_nl });
        var ne = d.shape_of(from);
        if (from == .f32 or from == .f16 or from == .bf16) ne = d.shape_of(to);
        d.tensor(.{ .kind = from, .ne = ne, .layout = d.rows_layout() });
        var target = ne;
        if (d.chance(4)) {
            target[1] = ne[1] * ne[2] * ne[3];
            target[2] = 1;
            target[3] = 1;
        } else if (d.chance(4)) std.mem.swap(i64, &target[1], &target[2]);
        d.tensor(.{ .kind = to, .ne = target, .layout = d.rows_layout() });
    }
    pub fn cast(d: *Draft) void {
        const from = if (d.chance(2)) d.any_kind() else d.pick(Type, &float_kinds);
        const to = if (from == .f32 or from == .f16 or from == .bf16) d.any_kind() else d.pick(Type, &.{ .f32, from });
        const ne = d.shape_of(if (c.ggml_blck_size(from.raw()) > 1) from else to);
        d.tensor(.{ .kind = from, .ne = ne, .layout = d.rows_layout() });
        d.int(@backingInt(to));
    }
    pub fn cont(d: *Draft) void {
        const kind = d.any_kind();
        d.tensor(.{ .kind = kind, .ne = d.shape_of(kind), .layout = d.random.enumValue(Layout) });
    }
    pub const dup = cont;
    pub fn reshape(d: *Draft) void {
        const kind = d.any_kind();
        const ne = d.shape_of(kind);
        d.tensor(.{ .kind = kind, .ne = ne, .layout = d.whole_layout() });
        for ([_]i64{ ne[0], ne[2], ne[1] * ne[3], 1 }) |n| d.int(n);
    }
    pub fn view(d: *Draft) void {
        const kind = d.any_kind();
        const ne = d.shape_of(kind);
        const block = c.ggml_blck_size(kind.raw());
        const unit: i64 = @intCast(c.ggml_type_size(kind.raw()));
        d.tensor(.{ .kind = kind, .ne = ne, .layout = d.rows_layout() });
        var n: [4]i64 = undefined;
        for (ne, &n) |whole, *part| part.* = 1 + d.below(whole);
        n[0] = @max(1, @divFloor(n[0], block)) * block;
        for (n) |part| d.int(part);
        var stride = @divExact(ne[0], block) * unit;
        for (ne[1..]) |whole| {
            d.int(stride);
            stride *= whole;
        }
        d.int(if (d.chance(2)) 0 else unit * d.below(@divExact(ne[0] - n[0], block) + 1));
    }
    pub fn permute(d: *Draft) void {
        cont(d);
        var axes = [4]i32{ 0, 1, 2, 3 };
        const fixed: usize = if (c.ggml_blck_size(d.tensors[0].kind.raw()) > 1) 1 else 0;
        d.random.shuffle(i32, axes[fixed..]);
        for (axes) |axis| d.int(axis);
    }
    pub fn transpose(d: *Draft) void {
        const kind = d.pick(Type, &.{ .f32, .f16, .i32, .bf16 });
        d.tensor(.{ .kind = kind, .ne = d.shape(), .layout = d.random.enumValue(Layout) });
    }
    pub fn mul_mat(d: *Draft) void {
        const kind = d.any_kind();
        const ne = d.shape_of(kind);
        d.tensor(.{ .kind = kind, .ne = ne, .layout = d.rows_layout() });
        const other = [4]i64{ ne[0], d.dim(), ne[2] * d.small(), ne[3] * d.small() };
        d.tensor(.{ .kind = second_kind(d, kind), .ne = other, .layout = d.rows_layout() });
    }
    pub fn mul_mat_id(d: *Draft) void {
        const kind = d.any_kind();
        const ne = d.shape_of(kind);
        const experts = 1 + d.below(12);
        const used = 1 + d.below(experts);
        const tokens = d.dim();
        d.tensor(.{ .kind = kind, .ne = .{ ne[0], ne[1], experts, 1 }, .layout = d.rows_layout() });
        const other = [4]i64{ ne[0], d.pick(i64, &.{ 1, used }), tokens, 1 };
        d.tensor(.{ .kind = second_kind(d, kind), .ne = other, .layout = d.rows_layout() });
        indices(d, .{ used, tokens, 1, 1 }, experts);
    }
    pub fn out_prod(d: *Draft) void {
        const ne = d.shape();
        d.tensor(.{ .ne = ne, .layout = d.rows_layout() });
        const other = [4]i64{ d.dim(), ne[1], ne[2] * d.small(), ne[3] * d.small() };
        d.tensor(.{ .ne = other, .layout = d.random.enumValue(Layout) });
    }
    pub fn solve_tri(d: *Draft) void {
        const ne = d.shape();
        d.tensor(.{ .ne = .{ ne[1], ne[1], ne[2], ne[3] }, .layout = d.whole_layout() });
        d.tensor(.{ .ne = ne, .layout = d.whole_layout() });
    }
    pub fn flash_attn_ext(d: *Draft) void {
        const key_kind = d.pick(Type, &.{ .f32, .f16, .f16, .bf16, .q8_0, .q4_0, d.any_kind() });
        const value_kind = if (d.chance(2)) key_kind else d.pick(Type, &.{ .f32, .f16, .q8_0, d.any_kind() });
        const key_head = d.shape_of(key_kind)[0];
        const value_head = d.shape_of(value_kind)[0];
        const queries = if (d.chance(4)) 64 + d.below(80) else d.dim();
        const keys = if (d.chance(6)) 512 + d.below(60) else d.dim();
        const key_heads = d.small();
        const heads = key_heads * d.small();
        const sequences = if (d.chance(3)) d.small() else 1;
        d.tensor(.{ .ne = .{ key_head, queries, heads, sequences }, .layout = d.rows_layout() });
        const key_ne = [4]i64{ key_head, keys, key_heads, sequences };
        d.tensor(.{ .kind = key_kind, .ne = key_ne, .layout = d.rows_layout() });
        const value_ne = [4]i64{ value_head, keys, d.pick(i64, &.{ key_heads, 1 }), sequences };
        d.tensor(.{ .kind = value_kind, .ne = value_ne, .layout = d.rows_layout() });
        const mask_heads = d.pick(i64, &.{ 1, heads });
        const mask_ne = [4]i64{ keys, queries + d.below(3), mask_heads, d.pick(i64, &.{ 1, sequences }) };
        d.tensor(.{ .kind = .f16, .ne = mask_ne, .input = true, .absent = d.chance(3) });
        d.float(0.125);
        d.float(if (d.tensors[3].absent) 0 else d.pick(f32, &.{ 0, 8 }));
        d.float(d.pick(f32, &.{ 0, 30 }));
    }
    pub fn ssm_conv(d: *Draft) void {
        const kernel = d.small();
        const channels = d.dim();
        d.tensor(.{ .ne = .{ kernel - 1 + d.dim(), channels, d.small(), 1 }, .layout = d.whole_layout() });
        d.tensor(.{ .ne = .{ kernel, channels, 1, 1 }, .layout = d.whole_layout() });
    }
    pub fn ssm_scan(d: *Draft) void {
        const state = d.pick(i64, &.{ 1, 3, 16, 64, 128 });
        const head = d.small() * 2;
        const groups = d.small();
        const heads = groups * d.small();
        const tokens = d.small() * d.small();
        const sequences = d.small();
        const cells = sequences + d.below(3);
        const granular = d.chance(3);
        d.tensor(.{ .ne = .{ state, head, heads, cells }, .layout = d.whole_layout() });
        d.tensor(.{ .ne = .{ head, heads, tokens, sequences }, .layout = d.whole_layout() });
        d.tensor(.{ .ne = .{ heads, tokens, sequences, 1 } });
        d.tensor(.{ .ne = .{ if (granular) state else 1, heads, 1, 1 } });
        for (0..2) |_| d.tensor(.{ .ne = .{ state, groups, tokens, sequences } });
        indices(d, .{ sequences, 1, 1, 1 }, cells);
        d.int(if (granular) 1 else d.small());
    }
    pub fn rwkv_wkv6(d: *Draft) void {
        const s = wkv(d, 1 + d.below(20), 3);
        d.tensor(.{ .ne = .{ s.head, s.heads, 1, 1 } });
        d.tensor(.{ .ne = .{ s.head, s.heads, s.tokens, 1 } });
        d.tensor(s.state);
    }
    pub fn rwkv_wkv7(d: *Draft) void {
        const s = wkv(d, if (d.chance(8)) 1 + d.below(100) else 64 * (1 + d.below(2)), 6);
        d.tensor(s.state);
    }
    pub fn gated_linear_attn(d: *Draft) void {
        const s = wkv(d, 1 + d.below(20), 4);
        d.tensor(s.state);
        d.float(0.5);
    }
    pub fn gated_delta_net(d: *Draft) void {
        const head = d.dim();
        const key_heads = d.small();
        const heads = key_heads * d.small();
        const tokens = d.small() * d.small();
        const sequences = d.small();
        for (0..2) |_| d.tensor(.{ .ne = .{ head, key_heads, tokens, sequences }, .layout = d.rows_layout() });
        d.tensor(.{ .ne = .{ head, heads, tokens, sequences }, .layout = d.rows_layout() });
        d.tensor(.{ .ne = .{ d.pick(i64, &.{ 1, head }), heads, tokens, sequences } });
        d.tensor(.{ .ne = .{ 1, heads, tokens, sequences } });
        d.tensor(.{ .ne = .{ head, head, heads, sequences } });
        d.int(d.small());
    }

    fn binary(d: *Draft) void {
        const kind = d.pick(Type, &float_kinds);
        const ne = d.shape();
        var other = ne;
        for (&other) |*n| {
            if (d.chance(3)) n.* = 1;
        }
        d.tensor(.{ .kind = kind, .ne = ne, .layout = d.rows_layout() });
        d.tensor(.{ .kind = d.pick(Type, &.{ kind, .f32 }), .ne = other, .layout = d.random.enumValue(Layout) });
    }
    fn float_rows_one(d: *Draft) void {
        d.tensor(.{ .ne = d.shape(), .layout = d.whole_layout() });
        d.float(2);
    }
    fn any_float(d: *Draft) void {
        d.tensor(.{ .kind = d.pick(Type, &float_kinds), .ne = d.shape(), .layout = d.rows_layout() });
    }
    fn f32_rows(d: *Draft) void {
        d.tensor(.{ .ne = d.shape(), .layout = d.rows_layout() });
    }
    fn sortable(d: *Draft) void {
        d.tensor(.{ .ne = d.shape(), .layout = d.whole_layout() });
    }
    fn repeatable(d: *Draft) void {
        const kind = d.pick(Type, &.{ .f32, .f16, .bf16, .i16, .i32 });
        const ne = [4]i64{ d.dim(), d.small(), d.small(), d.small() };
        d.tensor(.{ .kind = kind, .ne = ne, .layout = d.rows_layout() });
    }
    fn multiple(d: *Draft, ne: [4]i64) [4]i64 {
        var all = ne;
        for (&all) |*n| n.* *= d.small();
        return all;
    }
    fn second_kind(d: *Draft, kind: Type) Type {
        return d.pick(Type, &.{ .f32, .f32, .f32, if (kind == .bf16) .bf16 else .f16, .q8_0 });
    }
    fn indices(d: *Draft, ne: [4]i64, rows: i64) void {
        const sort = d.chance(3);
        const sorted = if (sort) rows else 0;
        d.tensor(.{ .kind = .i32, .ne = ne, .input = !sort, .sorted = sorted, .layout = d.rows_layout() });
    }
    fn wkv(d: *Draft, head: i64, count: usize) struct { head: i64, heads: i64, tokens: i64, state: Spec } {
        const heads = d.small();
        const sequences = d.small();
        const tokens = if (d.chance(8)) d.dim() else sequences * d.small();
        for (0..count) |_| d.tensor(.{ .ne = .{ head, heads, tokens, 1 }, .layout = d.whole_layout() });
        const state: Spec = .{ .ne = .{ head * head * heads, sequences, 1, 1 } };
        return .{ .head = head, .heads = heads, .tokens = tokens, .state = state };
    }
};
