//! The built-in sampling chain: from one row of logits to one token.
//!
//! Order, which is llama.cpp's: logit bias, penalties, then either greedy (temperature 0) or top-k, top-p, min-p,
//! temperature, and a draw. Each filter sees the candidates that the one before it kept; top-p and min-p measure
//! probabilities before temperature, so that a hotter draw does not let unlikely tokens in.
//!
//! A draw is a function of the logits, the seed and the number of draws before it, and of nothing else: candidates stay
//! in the order of their ids, the vector width is fixed and no product is fused, so that the same logits and the same
//! seed give the same token on every CPU, alone or among other sequences.
//!
//! Nothing sorts the vocabulary and no sample allocates. Filters look for the logit at which to cut.

const std = @import("std");
const status = @import("status.zig");
const assert = std.debug.assert;
const Allocator = std.mem.Allocator;
const inf = std.math.inf(f32);

pub const penalty_last_n_max = 1 << 20;
/// Larger biases would only lose the logit's own digits. -infinity bans a token.
pub const logit_bias_max = 1e9;

/// Crosses the ABI: every field has four bytes, so there are no holes.
pub const Config = extern struct {
    /// 0 takes the most probable token; up to 1000. Divides the logits before the draw.
    temperature: f32 = 0,
    /// Above 0, up to 1: keeps the fewest most probable tokens that together reach this probability. 1 is off.
    top_p: f32 = 1,
    /// 0 to 1: keeps tokens at least this fraction as probable as the most probable one. 0 is off.
    min_p: f32 = 0,
    /// 0.01 to 100: divides positive and multiplies negative logits of tokens seen (CTRL, arXiv:1909.05858). 1 is off.
    repetition_penalty: f32 = 1,
    /// -100 to 100: subtracted once per occurrence (OpenAI's definition). 0 is off.
    frequency_penalty: f32 = 0,
    /// -100 to 100: subtracted once from every token seen (OpenAI's definition). 0 is off.
    presence_penalty: f32 = 0,
    /// Keeps this many most probable tokens; 0 and -1 are off.
    top_k: i32 = 0,
    /// How many accepted tokens the penalties look back on: up to `penalty_last_n_max`; 0 is none, -1 all.
    penalty_last_n: i32 = 64,
    /// The 64-bit seed's halves, any value.
    seed_low: u32 = 0,
    seed_high: u32 = 0,
    /// 1 computes `Choice.log_probability`, which costs a pass of exponentials over the vocabulary; 0 does not.
    log_probability: u32 = 0,

    /// Names the first field out of its range.
    pub fn validate(config: Config) status.Error!void {
        const denormal_min = std.math.floatTrueMin(f32);
        try check("temperature", config.temperature, 0, 1000, "from 0 to 1000");
        try check("top_p", config.top_p, denormal_min, 1, "above 0, up to 1");
        try check("min_p", config.min_p, 0, 1, "from 0 to 1");
        try check("repetition_penalty", config.repetition_penalty, 0.01, 100, "from 0.01 to 100");
        try check("frequency_penalty", config.frequency_penalty, -100, 100, "from -100 to 100");
        try check("presence_penalty", config.presence_penalty, -100, 100, "from -100 to 100");
        try check("top_k", config.top_k, -1, std.math.maxInt(i32), "of tokens to keep; 0 or -1 keeps all");
        try check("penalty_last_n", config.penalty_last_n, -1, penalty_last_n_max, "up to 1048576, or -1 for all");
        try check("log_probability", config.log_probability, 0, 1, "that is 0 or 1");
    }

    fn penalizes(config: Config) bool {
        return config.penalty_last_n != 0 and (config.repetition_penalty != 1 or
            config.frequency_penalty != 0 or config.presence_penalty != 0);
    }

    fn seed(config: Config) u64 {
        return @as(u64, config.seed_high) << 32 | config.seed_low;
    }
};

fn check(
    comptime name: []const u8,
    value: anytype,
    low: @TypeOf(value),
    high: @TypeOf(value),
    comptime allowed: []const u8,
) status.Error!void {
    // Written so that NaN, which compares false with everything, fails.
    if (value >= low and value <= high) return;
    const sentence = "sampling: " ++ name ++ " is {d}; give a number " ++ allowed;
    return status.fail(error.InvalidArgument, sentence, .{value});
}

pub const Choice = struct {
    token: u32,
    /// The natural logarithm of the token's probability under the model's own softmax of the raw logits: before bias,
    /// penalties, filters and temperature. NaN unless `Config.log_probability` asks for it.
    log_probability: f32,
};

pub const Sampler = struct {
    gpa: Allocator,
    config: Config,
    vocabulary_size: u32,
    bias_ids: []u32,
    bias_values: []f32,
    history: History,
    /// Draws since the start; with the seed, the whole state of the random numbers.
    draws: u64,
    /// The logits with bias and penalties, [vocabulary]; empty where neither is set.
    adjusted: []f32,
    /// Candidates in ascending order of id; all empty when greedy.
    values: []f32,
    ids: []u32,
    weights: []f32,
    count: usize,
    /// The sum of each block of weights, for the draw.
    block_sums: []f64,

    /// Copies the bias. Refuses a configuration out of range, and a bias that is NaN, too large, or for a token that
    /// does not exist or comes twice.
    pub fn init(
        gpa: Allocator,
        vocabulary_size: u32,
        config: Config,
        bias_ids: []const u32,
        bias_values: []const f32,
    ) status.Error!Sampler {
        if (vocabulary_size == 0) return status.fail(error.InvalidArgument, "sampling: the vocabulary is empty", .{});
        try config.validate();
        try check_bias(vocabulary_size, bias_ids, bias_values);
        var self: Sampler = .{
            .gpa = gpa,
            .config = config,
            .vocabulary_size = vocabulary_size,
            .bias_ids = &.{},
            .bias_values = &.{},
            .history = .{},
            .draws = 0,
            .adjusted = &.{},
            .values = &.{},
            .ids = &.{},
            .weights = &.{},
            .count = 0,
            .block_sums = &.{},
        };
        errdefer self.deinit();
        self.bias_ids = try gpa.dupe(u32, bias_ids);
        self.bias_values = try gpa.dupe(f32, bias_values);
        if (bias_ids.len > 1) try self.check_unique();
        if (config.penalizes()) try self.history.reserve(gpa, config.penalty_last_n);
        try self.allocate_buffers();
        return self;
    }

    pub fn deinit(self: *Sampler) void {
        self.gpa.free(self.bias_ids);
        self.gpa.free(self.bias_values);
        self.history.deinit(self.gpa);
        self.gpa.free(self.adjusted);
        self.gpa.free(self.values);
        self.gpa.free(self.ids);
        self.gpa.free(self.weights);
        self.gpa.free(self.block_sums);
        self.* = undefined;
    }

    /// A sampler that goes on exactly as this one would: for a fork of the sequence.
    pub fn clone(self: *const Sampler) status.Error!Sampler {
        var copy = try init(self.gpa, self.vocabulary_size, self.config, self.bias_ids, self.bias_values);
        errdefer copy.deinit();
        try copy.history.assign(self.gpa, &self.history);
        copy.draws = self.draws;
        return copy;
    }

    /// Back to the state after `init`: no history, the first random number next.
    pub fn reset(self: *Sampler) void {
        self.history.clear();
        self.draws = 0;
    }

    /// Adds a token to what the penalties look back on. `sample` does not do so by itself: the caller decides whether
    /// the prompt counts. Free when no penalty is set.
    pub fn accept(self: *Sampler, token: u32) status.Error!void {
        if (token >= self.vocabulary_size) return status.fail(
            error.InvalidArgument,
            "sampling: token {d} does not exist; the vocabulary has {d} tokens",
            .{ token, self.vocabulary_size },
        );
        if (self.config.penalizes()) try self.history.push(self.gpa, token);
    }

    /// Chooses a token. `logits` has one number per token and is not modified; -infinity is a token that the model
    /// rules out. `step` is named when the logits hold NaN or +infinity, or rule out everything.
    pub fn sample(self: *Sampler, logits: []const f32, step: u64) status.Error!Choice {
        if (logits.len != self.vocabulary_size) return status.fail(
            error.InvalidArgument,
            "sampling: step {d} has {d} logits for a vocabulary of {d} tokens",
            .{ step, logits.len, self.vocabulary_size },
        );
        const raw = peak(logits);
        if (raw.nan or raw.max == inf or raw.max == -inf) return fail_logits(logits, step);

        const changed = self.bias_ids.len > 0 or self.history.counts.count() > 0;
        const scores = if (changed) self.adjust(logits) else logits;
        const top = if (changed) peak(scores) else raw;
        assert(!top.nan and top.max < inf);
        if (top.max == -inf) return status.fail(
            error.InvalidArgument,
            "sampling: the logit bias bans every token that the model allows at step {d}; ban fewer tokens",
            .{step},
        );
        const token = if (self.config.temperature == 0) top.token else blk: {
            const kept = self.filter(scores, top.max);
            break :blk self.draw(kept, top.max);
        };
        assert(scores[token] > -inf);
        return .{
            .token = token,
            .log_probability = if (self.config.log_probability == 1)
                log_probability(logits, raw.max, token)
            else
                std.math.nan(f32),
        };
    }

    fn allocate_buffers(self: *Sampler) Allocator.Error!void {
        const config = self.config;
        const size: usize = self.vocabulary_size;
        if (self.bias_ids.len > 0 or config.penalizes()) self.adjusted = try self.gpa.alloc(f32, size);
        if (config.temperature == 0) return;
        self.block_sums = try self.gpa.alloc(f64, std.math.divCeil(usize, size, block_tokens) catch unreachable);
        if (!self.limits_count() and config.top_p == 1 and config.min_p == 0) return;
        const capacity = if (self.limits_count())
            @min(size, @max(2 * @as(usize, @intCast(config.top_k)), top_k_buffer_min))
        else
            size;
        self.values = try self.gpa.alloc(f32, capacity);
        self.ids = try self.gpa.alloc(u32, capacity);
        if (config.top_p < 1) self.weights = try self.gpa.alloc(f32, capacity);
    }

    fn check_unique(self: *Sampler) status.Error!void {
        const sorted = try self.gpa.dupe(u32, self.bias_ids);
        defer self.gpa.free(sorted);
        std.mem.sortUnstable(u32, sorted, {}, std.sort.asc(u32));
        for (sorted[0 .. sorted.len - 1], sorted[1..]) |id, next| if (id == next) return status.fail(
            error.InvalidArgument,
            "sampling: the logit bias names token {d} twice; give one bias per token",
            .{id},
        );
    }

    fn limits_count(self: *const Sampler) bool {
        return self.config.top_k > 0 and self.config.top_k < self.vocabulary_size;
    }

    /// The logits with bias, then penalties.
    fn adjust(self: *Sampler, logits: []const f32) []const f32 {
        @memcpy(self.adjusted, logits);
        for (self.bias_ids, self.bias_values) |id, bias| {
            self.adjusted[id] = std.math.clamp(logits[id] + bias, -inf, std.math.floatMax(f32));
        }
        const config = self.config;
        for (self.history.counts.keys(), self.history.counts.values()) |id, occurrences| {
            const score = self.adjusted[id];
            const scaled = if (score > 0) score / config.repetition_penalty else score * config.repetition_penalty;
            const frequency = config.frequency_penalty * @as(f32, @floatFromInt(occurrences));
            const penalized = scaled - frequency - config.presence_penalty;
            self.adjusted[id] = std.math.clamp(penalized, -inf, std.math.floatMax(f32));
        }
        return self.adjusted;
    }

    /// Candidates and their tokens; without `ids`, a candidate's index is its token.
    const Kept = struct {
        values: []const f32,
        ids: ?[]const u32,
    };

    /// Top-k, top-p, min-p. Keeps at least the best token.
    fn filter(self: *Sampler, scores: []const f32, max: f32) Kept {
        const config = self.config;
        const floor = if (config.min_p > 0) max + @log(config.min_p) else -inf;
        if (self.limits_count()) {
            self.collect_top_k(scores, @intCast(config.top_k));
            if (config.top_p < 1) self.cut_top_p(config.top_p * self.weigh(max));
            if (config.min_p > 0) self.keep(.{ .value = floor, .ties = std.math.maxInt(usize) });
        } else if (config.top_p < 1) {
            self.collect_top_p(scores, max, floor);
        } else if (config.min_p > 0) {
            self.collect(scores, floor);
        } else {
            return .{ .values = scores, .ids = null };
        }
        assert(self.count > 0);
        return .{ .values = self.values[0..self.count], .ids = self.ids[0..self.count] };
    }

    /// Fills the buffer with what beats the best k so far, and cuts it back to k whenever it is full.
    fn collect_top_k(self: *Sampler, scores: []const f32, k: usize) void {
        assert(self.values.len >= @min(scores.len, k + lanes));
        self.count = 0;
        var threshold: f32 = -inf;
        var start: usize = 0;
        while (start < scores.len) : (start += lanes) {
            const better = load(scores, start) > @as(Vec, @splat(threshold));
            if (!@reduce(.Or, better)) continue;
            if (self.count + lanes > self.values.len and self.count > k) {
                const cut = find_cut(self.values[0..self.count], null, @floatFromInt(k));
                self.keep(cut);
                // A later equal has a higher id, and so loses.
                threshold = cut.value;
            }
            self.append(scores, start, load(scores, start) > @as(Vec, @splat(threshold)));
        }
        if (self.count > k) self.keep(find_cut(self.values[0..self.count], null, @floatFromInt(k)));
    }

    /// Collects ever deeper below the best token until the probability is reached, then cuts. `floor` is min-p's: what
    /// lies below it would be dropped afterwards, so it is not looked at.
    fn collect_top_p(self: *Sampler, scores: []const f32, max: f32, floor: f32) void {
        const target = self.config.top_p * mass(scores, max, 1, self.block_sums);
        for ([_]f32{ 3, 6, 12, inf }) |depth| {
            const bottom = @max(max - depth, floor);
            self.collect(scores, bottom);
            const collected = self.weigh(max);
            if (collected >= target) return self.cut_top_p(target);
            if (bottom == floor) return;
        }
        // The deepest round keeps all that has a weight; it can miss the target only by rounding.
    }

    /// Keeps everything from `floor` up, except what is ruled out.
    fn collect(self: *Sampler, scores: []const f32, floor: f32) void {
        assert(self.values.len == scores.len);
        self.count = 0;
        const bottom = @max(floor, -std.math.floatMax(f32));
        var start: usize = 0;
        while (start < scores.len) : (start += lanes) {
            self.append(scores, start, load(scores, start) >= @as(Vec, @splat(bottom)));
        }
    }

    fn append(self: *Sampler, scores: []const f32, start: usize, chosen: @Vector(lanes, bool)) void {
        var mask: Mask = @bitCast(chosen);
        while (mask != 0) : (mask &= mask - 1) {
            const id = start + @ctz(mask);
            self.values[self.count] = scores[id];
            self.ids[self.count] = @intCast(id);
            self.count += 1;
        }
    }

    /// Computes each candidate's weight relative to the best one's, which is 1; returns their sum.
    fn weigh(self: *Sampler, max: f32) f64 {
        const weights = self.weights[0..self.count];
        exponentials(self.values[0..self.count], max, 1, weights);
        var sum: f64 = 0;
        for (weights) |weight| sum += weight;
        return sum;
    }

    fn cut_top_p(self: *Sampler, target: f64) void {
        self.keep(find_cut(self.values[0..self.count], self.weights[0..self.count], target));
    }

    /// Drops candidates below the cut; the others stay in order.
    fn keep(self: *Sampler, cut: Cut) void {
        var kept: usize = 0;
        var ties = cut.ties;
        for (self.values[0..self.count], self.ids[0..self.count]) |value, id| {
            if (value < cut.value) continue;
            if (value == cut.value) {
                if (ties == 0) continue;
                ties -= 1;
            }
            self.values[kept] = value;
            self.ids[kept] = id;
            kept += 1;
        }
        self.count = kept;
    }

    /// One candidate, each with the probability of its softmax at the temperature.
    fn draw(self: *Sampler, kept: Kept, max: f32) u32 {
        // Below this a temperature acts like greedy, and its inverse must stay finite.
        const scale = 1 / @max(self.config.temperature, 1e-30);
        const total = mass(kept.values, max, scale, self.block_sums);
        var left = uniform(self.config.seed(), self.draws) * total;
        self.draws += 1;

        const blocks = std.math.divCeil(usize, kept.values.len, block_tokens) catch unreachable;
        var block: usize = 0;
        // Rounding may carry `left` past the end: then the last block that weighs something is it.
        var fallback: usize = 0;
        while (block < blocks and left >= self.block_sums[block]) : (block += 1) {
            left -= self.block_sums[block];
            if (self.block_sums[block] > 0) fallback = block;
        }
        if (block == blocks) {
            block = fallback;
            left = self.block_sums[fallback];
        }
        const start = block * block_tokens;
        const values = kept.values[start..@min(start + block_tokens, kept.values.len)];
        const index = start + pick(values, max, scale, left);
        return if (kept.ids) |ids| ids[index] else @intCast(index);
    }
};

/// What the penalties look back on: how often each token occurs among the last so many.
const History = struct {
    counts: std.array_hash_map.Auto(u32, u32) = .empty,
    /// The tokens of the window, a ring; empty when the history is unlimited.
    window: []u32 = &.{},
    /// Tokens pushed into the ring since the start.
    pushed: u64 = 0,

    /// `last_n` -1 is unlimited.
    fn reserve(self: *History, gpa: Allocator, last_n: i32) Allocator.Error!void {
        assert(last_n != 0);
        if (last_n < 0) return;
        self.window = try gpa.alloc(u32, @intCast(last_n));
        try self.counts.ensureTotalCapacity(gpa, self.window.len);
    }

    fn deinit(self: *History, gpa: Allocator) void {
        self.counts.deinit(gpa);
        gpa.free(self.window);
    }

    fn clear(self: *History) void {
        self.counts.clearRetainingCapacity();
        self.pushed = 0;
    }

    fn assign(self: *History, gpa: Allocator, other: *const History) Allocator.Error!void {
        assert(self.window.len == other.window.len);
        self.clear();
        try self.counts.ensureTotalCapacity(gpa, other.counts.count());
        for (other.counts.keys(), other.counts.values()) |id, count| self.counts.putAssumeCapacity(id, count);
        @memcpy(self.window, other.window);
        self.pushed = other.pushed;
    }

    fn push(self: *History, gpa: Allocator, token: u32) Allocator.Error!void {
        if (self.window.len > 0) {
            const slot = &self.window[@intCast(self.pushed % self.window.len)];
            if (self.pushed >= self.window.len) self.forget(slot.*);
            slot.* = token;
        }
        // Allocates only where the history is unlimited: a window reserved its own.
        const entry = try self.counts.getOrPutValue(gpa, token, 0);
        entry.value_ptr.* += 1;
        self.pushed += 1;
    }

    fn forget(self: *History, token: u32) void {
        const count = self.counts.getPtr(token).?;
        count.* -= 1;
        if (count.* == 0) _ = self.counts.swapRemove(token);
    }
};

fn check_bias(vocabulary_size: u32, ids: []const u32, values: []const f32) status.Error!void {
    if (ids.len != values.len) return status.fail(
        error.InvalidArgument,
        "sampling: the logit bias has {d} tokens and {d} values; give one value per token",
        .{ ids.len, values.len },
    );
    for (ids, values) |id, value| {
        if (id >= vocabulary_size) return status.fail(
            error.InvalidArgument,
            "sampling: the logit bias names token {d}; the vocabulary has {d} tokens",
            .{ id, vocabulary_size },
        );
        if (value == -inf or @abs(value) <= logit_bias_max) continue;
        return status.fail(
            error.InvalidArgument,
            "sampling: the logit bias of token {d} is {d}; give -infinity or a number from {d} to {d}",
            .{ id, value, -logit_bias_max, logit_bias_max },
        );
    }
}

/// The sentence for logits that cannot be sampled.
fn fail_logits(logits: []const f32, step: u64) status.Error {
    @branchHint(.cold);
    const advice = "the model file is damaged, or its graph left the range of its number types";
    for (logits, 0..) |logit, token| if (std.math.isNan(logit) or logit == inf) return status.fail(
        error.Internal,
        "the logits of step {d} hold {s} at token {d} of {d}: {s}",
        .{ step, if (logit == inf) "+infinity" else "NaN", token, logits.len, advice },
    );
    return status.fail(error.Internal, "the logits of step {d} are all -infinity: {s}", .{ step, advice });
}

// Numbers. The width is fixed rather than the CPU's own: it decides in which order floats are added.
const lanes = 16;
const Vec = @Vector(lanes, f32);
const Mask = @Int(.unsigned, lanes);
const block_tokens = 1024;
const top_k_buffer_min = 2048;

/// Sixteen values from `start`; beyond the end, -infinity, which weighs nothing.
inline fn load(values: []const f32, start: usize) Vec {
    if (start + lanes <= values.len) return values[start..][0..lanes].*;
    var padded: [lanes]f32 = @splat(-inf);
    @memcpy(padded[0 .. values.len - start], values[start..]);
    return padded;
}

const Peak = struct {
    max: f32,
    /// The lowest token that has it.
    token: u32,
    nan: bool,
};

/// One pass: the greatest value, where, and whether any is NaN.
fn peak(values: []const f32) Peak {
    var best: f32 = -inf;
    var best_start: usize = 0;
    var magnitude: @Vector(lanes, u32) = @splat(0);
    var start: usize = 0;
    while (start < values.len) : (start += block_tokens) {
        const block = values[start..@min(start + block_tokens, values.len)];
        var maxima: [4]Vec = @splat(@splat(-inf));
        var i: usize = 0;
        while (i < block.len) : (i += 4 * lanes) {
            inline for (&maxima, 0..) |*max, part| if (i + part * lanes < block.len) {
                const value = load(block, i + part * lanes);
                max.* = @select(f32, value > max.*, value, max.*);
                // Without its sign, a NaN's pattern is above infinity's.
                magnitude = @max(magnitude, @as(@Vector(lanes, u32), @bitCast(value)) << @splat(1));
            };
        }
        const block_best = @reduce(.Max, @max(@max(maxima[0], maxima[1]), @max(maxima[2], maxima[3])));
        if (block_best > best) {
            best = block_best;
            best_start = start;
        }
    }
    const offset = std.mem.findScalar(f32, values[best_start..], best) orelse 0;
    return .{
        .max = best,
        .token = @intCast(best_start + offset),
        .nan = @reduce(.Max, magnitude) > @as(u32, @bitCast(inf)) << 1,
    };
}

/// e^x for x <= 0, within 3e-7 of its value; 0 below -87, where float32 ends.
inline fn exponential(x: Vec) Vec {
    const lowest: Vec = @splat(-87);
    const clamped = @select(f32, x > lowest, x, lowest);
    // x = n ln 2 + r. Adding 1.5 x 2^23 rounds to the integer n and leaves it in the low bits.
    const magic: Vec = @splat(12582912);
    const shifted = clamped * @as(Vec, @splat(std.math.log2e)) + magic;
    const n = shifted - magic;
    // ln 2 in two parts, the first short enough that its product with n is exact.
    const r = (clamped - n * @as(Vec, @splat(0.693359375))) - n * @as(Vec, @splat(-2.12194440e-4));
    // The Taylor series to r^7 / 7!: |r| <= 0.35, so the rest is below 1e-8.
    var sum: Vec = @splat(1.0 / 5040.0);
    inline for (.{ 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0 }) |coefficient| {
        sum = sum * r + @as(Vec, @splat(coefficient));
    }
    const bits: @Vector(lanes, u32) = @bitCast(shifted);
    const power: Vec = @bitCast((bits << @splat(23)) +% @as(@Vector(lanes, u32), @splat(0x3f800000)));
    return @select(f32, x < lowest, @as(Vec, @splat(0)), sum * power);
}

/// e^((value - max) scale) of each.
fn exponentials(values: []const f32, max: f32, scale: f32, out: []f32) void {
    assert(values.len == out.len);
    var start: usize = 0;
    while (start < values.len) : (start += lanes) {
        const weights: [lanes]f32 = exponential((load(values, start) - @as(Vec, @splat(max))) * @as(Vec, @splat(scale)));
        const n = @min(lanes, values.len - start);
        @memcpy(out[start..][0..n], weights[0..n]);
    }
}

/// The sum of e^((value - max) scale); `block_sums` gets each block's, or is empty when nobody wants them.
fn mass(values: []const f32, max: f32, scale: f32, block_sums: []f64) f64 {
    var total: f64 = 0;
    var start: usize = 0;
    while (start < values.len) : (start += block_tokens) {
        const block = values[start..@min(start + block_tokens, values.len)];
        var sums: [2]Vec = @splat(@splat(0));
        var i: usize = 0;
        while (i < block.len) : (i += 2 * lanes) {
            inline for (&sums, 0..) |*sum, part| if (i + part * lanes < block.len) {
                const value = load(block, i + part * lanes);
                sum.* += exponential((value - @as(Vec, @splat(max))) * @as(Vec, @splat(scale)));
            };
        }
        const block_sum: f64 = @reduce(.Add, sums[0] + sums[1]);
        if (block_sums.len > 0) block_sums[start / block_tokens] = block_sum;
        total += block_sum;
    }
    return total;
}

fn log_probability(logits: []const f32, max: f32, token: u32) f32 {
    return @floatCast(@as(f64, logits[token]) - max - @log(mass(logits, max, 1, &.{})));
}

/// The candidate at which the running sum of weights exceeds `target`; past the end, the last that weighs something.
fn pick(values: []const f32, max: f32, scale: f32, target: f64) usize {
    var buffer: [block_tokens]f32 = undefined;
    const weights = buffer[0..values.len];
    exponentials(values, max, scale, weights);
    var left = target;
    var last: usize = 0;
    for (weights, 0..) |weight, i| {
        if (weight == 0) continue;
        if (left < weight) return i;
        left -= weight;
        last = i;
    }
    assert(weights[last] > 0);
    return last;
}

/// Where to cut: everything above `value` stays, and of its equals the first `ties`.
const Cut = struct {
    value: f32,
    ties: usize,
};

/// The shortest descending run of values whose weights sum to `target` (each weighs 1 without `weights`). A radix search
/// from the highest digit down, so that no order of the values makes it slow.
fn find_cut(values: []const f32, weights: ?[]const f32, target: f64) Cut {
    assert(values.len > 0 and target > 0);
    const digit_bits = [_]u5{ 11, 11, 10 };
    var left = target;
    var known: u32 = 0;
    var known_mask: u32 = 0;
    var shift: u6 = 32;
    for (digit_bits) |bits| {
        shift -= bits;
        const digit_mask = (@as(u32, 1) << bits) - 1;
        var sums: [1 << 11]f64 = @splat(0);
        for (values, 0..) |value, i| {
            const key = sort_key(value);
            if (key & known_mask != known) continue;
            sums[key >> @intCast(shift) & digit_mask] += if (weights) |all| all[i] else 1;
        }
        // By rounding the target can lie beyond the whole sum: the lowest digit that weighs something is then the cut.
        var lowest: u32 = 0;
        while (sums[lowest] == 0) lowest += 1;
        var digit = digit_mask;
        while (digit > lowest and left > sums[digit]) : (digit -= 1) left -= sums[digit];
        known |= digit << @intCast(shift);
        known_mask |= digit_mask << @intCast(shift);
    }
    assert(shift == 0);
    const index = for (values, 0..) |value, i| {
        if (sort_key(value) == known) break i;
    } else unreachable;
    const ties = @ceil(left / if (weights) |all| all[index] else 1);
    return .{ .value = values[index], .ties = @intFromFloat(std.math.clamp(ties, 1, 1 << 32)) };
}

/// An integer that orders as the float does; both zeros are one.
inline fn sort_key(value: f32) u32 {
    const bits: u32 = @bitCast(value + 0.0);
    return if (bits >> 31 == 1) ~bits else bits | 1 << 31;
}

/// A number in [0, 1) with 53 bits, a function of the seed and its place in the sequence: SplitMix64 (Steele, Lea and
/// Flood 2014) from a mixed seed, so that neighbouring seeds have nothing in common.
fn uniform(seed: u64, place: u64) f64 {
    const bits = mix(mix(seed) +% (place +% 1) *% 0x9e3779b97f4a7c15);
    return @as(f64, @floatFromInt(bits >> 11)) * 0x1p-53;
}

fn mix(value: u64) u64 {
    var z = value;
    z = (z ^ z >> 30) *% 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) *% 0x94d049bb133111eb;
    return z ^ z >> 31;
}

comptime {
    assert(@sizeOf(Config) == 44);
}
