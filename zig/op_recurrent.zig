//! Checked operations that carry a state along the tokens: convolutions, state spaces, RWKV, gated linear attention,
//! delta nets. Where a result holds outputs and new states, the outputs come first.

const c = @import("ggml");
const status = @import("status.zig");
const checks = @import("op_checks.zig");

const Context = c.ggml_context;
const Tensor = checks.Tensor;
const Operand = checks.Operand;
const Error = status.Error;

/// The widest step of ggml's vector loops over a head of wkv7, which have no loop for a rest.
const wkv7_head_step = 64;

fn f32_operand(op: []const u8, name: []const u8, t: *Tensor) Error!Operand {
    const operand: Operand = try .init(op, name, t);
    try operand.of_type(&.{.f32});
    return operand;
}

fn natural_f32(op: []const u8, name: []const u8, t: *Tensor) Error!Operand {
    const operand = try f32_operand(op, name, t);
    try operand.natural();
    return operand;
}

/// The rows of a token lie side by side; tokens and sequences may have any stride.
fn packed_rows(op: []const u8, name: []const u8, t: *Tensor) Error!Operand {
    const operand = try f32_operand(op, name, t);
    try operand.unit_rows();
    if (t.nb[1] != t.nb[0] * @as(usize, @intCast(t.ne[0]))) {
        return operand.refuse("must have adjacent rows; apply cont first", .{});
    }
    return operand;
}

/// a [kernel - 1 + tokens, channels, sequences] and kernel [kernel, channels] give [channels, tokens, sequences].
pub fn ssm_conv(ctx: *Context, a: *Tensor, kernel: *Tensor) Error!*Tensor {
    const op = "ssm_conv";
    const input = try packed_rows(op, "a", a);
    const weights = try natural_f32(op, "kernel", kernel);
    if (a.ne[3] != 1) return input.refuse("must have at most three dimensions", .{});
    if (kernel.ne[2] != 1 or kernel.ne[3] != 1) return weights.refuse("must have at most two dimensions", .{});
    try checks.equal_dims(input, 1, weights, 1);
    if (a.ne[0] < kernel.ne[0]) return input.refuse("must be at least as long as {f}", .{weights});
    return c.ggml_ssm_conv(ctx, a, kernel);
}

/// state [state, head, heads, cells], x [head, heads, tokens, sequences], dt [heads, tokens, sequences],
/// a [1 or state, heads], b and c [state, groups, tokens, sequences], ids [sequences]. The result is x's elements of
/// output, then the states after the last token; with `snapshots` above 1, also after those before it.
pub fn ssm_scan(
    ctx: *Context,
    state: *Tensor,
    x: *Tensor,
    dt: *Tensor,
    a: *Tensor,
    b: *Tensor,
    c_: *Tensor,
    ids: *Tensor,
    snapshots: i32,
) Error!*Tensor {
    const op = "ssm_scan";
    const states = try natural_f32(op, "state", state);
    const input = try packed_rows(op, "x", x);
    const steps = try natural_f32(op, "dt", dt);
    const decay = try natural_f32(op, "a", a);
    const in_gate = try packed_rows(op, "b", b);
    const out_gate = try packed_rows(op, "c", c_);
    const cells: Operand = try .init(op, "ids", ids);

    const heads = x.ne[1];
    const tokens = x.ne[2];
    const sequences = x.ne[3];
    try checks.equal_dims(states, 1, input, 0);
    try checks.equal_dims(states, 2, input, 1);
    try steps.has_shape(.{ heads, tokens, sequences, 1 });
    try checks.equal_shapes(in_gate, out_gate);
    try checks.equal_dims(in_gate, 0, states, 0);
    try checks.fills(in_gate, 1, input, 1);
    try checks.equal_dims(in_gate, 2, input, 2);
    try checks.equal_dims(in_gate, 3, input, 3);
    if (a.ne[0] != 1) try decay.has_shape(.{ state.ne[0], heads, 1, 1 }) else try decay.has_shape(.{ 1, heads, 1, 1 });
    try checks.at_least(op, "snapshots", snapshots, 1);
    if (a.ne[0] != 1) {
        try checks.at_most(op, "snapshots", snapshots, 1);
        try check_vector_state(states);
    }

    try cells.of_type(&.{.i32});
    try cells.natural();
    try cells.has_shape(.{ sequences, 1, 1, 1 });
    const cell_elements = state.ne[0] * state.ne[1] * state.ne[2];
    try checks.result_shape(op, .{ cell_elements, sequences, snapshots, 1 });
    try checks.result_shape(op, .{ c.ggml_nelements(x) + cell_elements * sequences * snapshots, 1, 1, 1 });
    try checks.check_indices(cells, state.ne[3]);
    return c.ggml_ssm_scan(ctx, state, x, dt, a, b, c_, ids, snapshots);
}

/// With a decay for each state, ggml's loop for SVE has none for a rest.
fn check_vector_state(states: Operand) Error!void {
    const lanes = @divTrunc(c.ggml_cpu_get_sve_cnt(), @sizeOf(f32));
    if (lanes > 0 and @rem(states.t.ne[0], lanes) != 0) {
        return states.refuse("must have a first dimension of a multiple of {d} on this CPU", .{lanes});
    }
}

/// What the wkv kinds share: [head, heads, tokens] each, and a state of [head * head * heads, sequences].
fn check_wkv(op: []const u8, first: Operand, rest: []const Operand, state: Operand) Error!void {
    const head = first.t.ne[0];
    const heads = first.t.ne[1];
    const tokens = first.t.ne[2];
    const sequences = state.t.ne[1];
    try first.has_shape(.{ head, heads, tokens, 1 });
    for (rest) |operand| try checks.equal_shapes(operand, first);
    try checks.result_shape(op, .{ head, head, heads, sequences });
    try state.has_shape(.{ head * head * heads, sequences, 1, 1 });
    if (@rem(tokens, sequences) != 0) {
        return first.refuse("must have the same number of tokens for each sequence of {f}", .{state});
    }
    try checks.result_shape(op, .{ head * heads, tokens + head * sequences, 1, 1 });
}

/// faaaa is [head, heads]; the result is [head * heads, tokens + head * sequences].
pub fn rwkv_wkv6(
    ctx: *Context,
    k: *Tensor,
    v: *Tensor,
    r: *Tensor,
    faaaa: *Tensor,
    decay: *Tensor,
    state: *Tensor,
) Error!*Tensor {
    const op = "rwkv_wkv6";
    const key = try natural_f32(op, "k", k);
    const others = [_]Operand{
        try natural_f32(op, "v", v),
        try natural_f32(op, "r", r),
        try natural_f32(op, "decay", decay),
    };
    const bonus = try natural_f32(op, "faaaa", faaaa);
    try check_wkv(op, key, &others, try natural_f32(op, "state", state));
    try bonus.has_shape(.{ k.ne[0], k.ne[1], 1, 1 });
    return c.ggml_rwkv_wkv6(ctx, k, v, r, faaaa, decay, state);
}

/// The result is [head * heads, tokens + head * sequences].
pub fn rwkv_wkv7(
    ctx: *Context,
    r: *Tensor,
    w: *Tensor,
    k: *Tensor,
    v: *Tensor,
    a: *Tensor,
    b: *Tensor,
    state: *Tensor,
) Error!*Tensor {
    const op = "rwkv_wkv7";
    const key = try natural_f32(op, "k", k);
    const others = [_]Operand{
        try natural_f32(op, "r", r),
        try natural_f32(op, "w", w),
        try natural_f32(op, "v", v),
        try natural_f32(op, "a", a),
        try natural_f32(op, "b", b),
    };
    if (@rem(k.ne[0], wkv7_head_step) != 0) {
        return key.refuse("must have heads of a multiple of {d}", .{wkv7_head_step});
    }
    try check_wkv(op, key, &others, try natural_f32(op, "state", state));
    return c.ggml_rwkv_wkv7(ctx, r, w, k, v, a, b, state);
}

/// The result is [head * heads, tokens + head * sequences].
pub fn gated_linear_attn(
    ctx: *Context,
    k: *Tensor,
    v: *Tensor,
    q: *Tensor,
    gate: *Tensor,
    state: *Tensor,
    factor: f32,
) Error!*Tensor {
    const op = "gated_linear_attn";
    const key = try natural_f32(op, "k", k);
    const others = [_]Operand{
        try natural_f32(op, "v", v),
        try natural_f32(op, "q", q),
        try natural_f32(op, "gate", gate),
    };
    try check_wkv(op, key, &others, try natural_f32(op, "state", state));
    return c.ggml_gated_linear_attn(ctx, k, v, q, gate, state, factor);
}

/// v [head, heads, tokens, sequences], q and k the same with fewer heads or sequences, gate [1 or head, heads, ...],
/// beta [1, heads, ...], state [head, head, heads, sequences]. The result is
/// [head * heads, tokens * sequences + snapshots * head * sequences].
pub fn gated_delta_net(
    ctx: *Context,
    q: *Tensor,
    k: *Tensor,
    v: *Tensor,
    gate: *Tensor,
    beta: *Tensor,
    state: *Tensor,
    snapshots: i32,
) Error!*Tensor {
    const op = "gated_delta_net";
    const value = try f32_operand(op, "v", v);
    const head = v.ne[0];
    const heads = v.ne[1];
    const tokens = v.ne[2];
    const sequences = v.ne[3];
    try value.unit_rows();
    for ([_]Operand{ try f32_operand(op, "q", q), try f32_operand(op, "k", k) }) |operand| {
        try operand.unit_rows();
        try checks.equal_dims(operand, 0, value, 0);
        try checks.fills(operand, 1, value, 1);
        try checks.equal_dims(operand, 2, value, 2);
        try checks.fills(operand, 3, value, 3);
    }
    const gates = try natural_f32(op, "gate", gate);
    try gates.has_shape(.{ if (gate.ne[0] == 1) 1 else head, heads, tokens, sequences });
    const betas = try natural_f32(op, "beta", beta);
    try betas.has_shape(.{ 1, heads, tokens, sequences });
    const states = try natural_f32(op, "state", state);
    try states.has_shape(.{ head, head, heads, sequences });
    try checks.at_least(op, "snapshots", snapshots, 1);
    try checks.result_shape(op, .{ head, sequences, snapshots, 1 });
    try checks.result_shape(op, .{ head * heads, (tokens + snapshots * head) * sequences, 1, 1 });
    return c.ggml_gated_delta_net(ctx, q, k, v, gate, beta, state, snapshots);
}
