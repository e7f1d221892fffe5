//! The built-in sampling chain: from one row of logits to one token.
//!
//! Order, which is llama.cpp's: logit bias, penalties, then either greedy (temperature 0) or top-k,
//! top-p, min-p, temperature, and a draw. Each filter sees the candidates that the one before it
//! kept; top-p and min-p measure probabilities before temperature, so that a hotter draw does not
//! let unlikely tokens in.
//!
//! A draw is a function of the logits, the seed and the number of draws before it, and of nothing
//! else: candidates stay in the order of their ids, the vector width is fixed and no product is
//! fused, so that the same logits and the same seed give the same token on every CPU, alone or
//! among other sequences.
//!
//! Nothing sorts the vocabulary and no sample allocates. Filters look for the logit at which to
//! cut.

const std = @import("std");
const numbers = @import("logits.zig");
const status = @import("status.zig");
const Candidates = @import("candidates.zig").Candidates;
const Kept = @import("candidates.zig").Kept;
const TokenHistory = @import("token_history.zig").TokenHistory;
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
    /// Above 0, up to 1: keeps the fewest most probable tokens that together reach this
    /// probability. 1 is off.
    top_p: f32 = 1,
    /// 0 to 1: keeps tokens at least this fraction as probable as the most probable one. 0 is off.
    min_p: f32 = 0,
    /// 0.01 to 100: divides positive and multiplies negative logits of tokens seen (CTRL,
    /// arXiv:1909.05858). 1 is off.
    repetition_penalty: f32 = 1,
    /// -100 to 100: subtracted once per occurrence (OpenAI's definition). 0 is off.
    frequency_penalty: f32 = 0,
    /// -100 to 100: subtracted once from every token seen (OpenAI's definition). 0 is off.
    presence_penalty: f32 = 0,
    /// Keeps this many most probable tokens; 0 and -1 are off.
    top_k: i32 = 0,
    /// How many accepted tokens the penalties look back on: up to `penalty_last_n_max`; 0 is none,
    /// -1 all.
    penalty_last_n: i32 = 64,
    /// The 64-bit seed's halves, any value.
    seed_low: u32 = 0,
    seed_high: u32 = 0,
    /// 1 computes `Choice.log_probability`, which costs a pass of exponentials over the vocabulary;
    /// 0 does not.
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
        const top_k_allowed = "of tokens to keep; 0 or -1 keeps all";
        try check("top_k", config.top_k, -1, std.math.maxInt(i32), top_k_allowed);
        const last_n_max = penalty_last_n_max;
        const last_n_allowed = "up to 1048576, or -1 for all";
        try check("penalty_last_n", config.penalty_last_n, -1, last_n_max, last_n_allowed);
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
    /// The natural logarithm of the token's probability under the model's own softmax of the raw
    /// logits: before bias, penalties, filters and temperature. NaN unless `Config.log_probability`
    /// asks for it.
    log_probability: f32,
};

pub const Sampler = struct {
    gpa: Allocator,
    config: Config,
    vocabulary_size: u32,
    bias_ids: []u32,
    bias_values: []f32,
    history: TokenHistory,
    /// Draws since the start; with the seed, the whole state of the random numbers.
    draws: u64,
    /// The logits with bias and penalties, [vocabulary]; empty where neither is set.
    adjusted: []f32,
    /// Without buffers when greedy.
    candidates: Candidates,
    /// The sum of each block of weights, for the draw.
    block_sums: []f64,

    /// Copies the bias. Refuses a configuration out of range, and a bias that is NaN, too large, or
    /// for a token that does not exist or comes twice.
    pub fn init(
        gpa: Allocator,
        vocabulary_size: u32,
        config: Config,
        bias_ids: []const u32,
        bias_values: []const f32,
    ) status.Error!Sampler {
        if (vocabulary_size == 0) {
            return status.fail(error.InvalidArgument, "sampling: the vocabulary is empty", .{});
        }
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
            .candidates = .{ .filters = .{} },
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
        self.candidates.deinit(self.gpa);
        self.gpa.free(self.block_sums);
        self.* = undefined;
    }

    /// A sampler that goes on exactly as this one would: for a fork of the sequence.
    pub fn clone(self: *const Sampler) status.Error!Sampler {
        const size = self.vocabulary_size;
        var copy = try init(self.gpa, size, self.config, self.bias_ids, self.bias_values);
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

    /// Adds a token to what the penalties look back on. `sample` does not do so by itself: the
    /// caller decides whether the prompt counts. Free when no penalty is set.
    pub fn accept(self: *Sampler, token: u32) status.Error!void {
        if (token >= self.vocabulary_size) return status.fail(
            error.InvalidArgument,
            "sampling: token {d} does not exist; the vocabulary has {d} tokens",
            .{ token, self.vocabulary_size },
        );
        if (self.config.penalizes()) try self.history.push(self.gpa, token);
    }

    /// Chooses a token. `logits` has one number per token and is not modified; -infinity is a token
    /// that the model rules out. `step` is named when the logits hold NaN or +infinity, or rule out
    /// everything.
    pub fn sample(self: *Sampler, logits: []const f32, step: u64) status.Error!Choice {
        if (logits.len != self.vocabulary_size) return status.fail(
            error.InvalidArgument,
            "sampling: step {d} has {d} logits for a vocabulary of {d} tokens",
            .{ step, logits.len, self.vocabulary_size },
        );
        const raw = numbers.peak(logits);
        if (raw.nan or raw.max == inf or raw.max == -inf) return fail_logits(logits, step);

        const changed = self.bias_ids.len > 0 or self.history.counts.count() > 0;
        const scores = if (changed) self.adjust(logits) else logits;
        const top = if (changed) numbers.peak(scores) else raw;
        assert(!top.nan and top.max < inf);
        if (top.max == -inf) return status.fail(
            error.InvalidArgument,
            "sampling: at step {d} the logit bias bans every token that the model allows; ban fewer",
            .{step},
        );
        const token = if (self.config.temperature == 0) top.token else blk: {
            const kept = self.candidates.filter(scores, top.max);
            break :blk self.draw(kept, top.max);
        };
        assert(scores[token] > -inf);
        return .{
            .token = token,
            .log_probability = if (self.config.log_probability == 1)
                numbers.log_probability(logits, raw.max, token)
            else
                std.math.nan(f32),
        };
    }

    fn allocate_buffers(self: *Sampler) Allocator.Error!void {
        const config = self.config;
        const size: usize = self.vocabulary_size;
        if (self.bias_ids.len > 0 or config.penalizes()) self.adjusted = try self.gpa.alloc(f32, size);
        if (config.temperature == 0) return;
        self.block_sums = try self.gpa.alloc(f64, block_count(size));
        self.candidates = try .init(self.gpa, size, .{
            .top_k = @intCast(@max(config.top_k, 0)),
            .top_p = config.top_p,
            .min_p = config.min_p,
        });
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

    /// The logits with bias, then penalties.
    fn adjust(self: *Sampler, logits: []const f32) []const f32 {
        @memcpy(self.adjusted, logits);
        for (self.bias_ids, self.bias_values) |id, bias| {
            self.adjusted[id] = std.math.clamp(logits[id] + bias, -inf, std.math.floatMax(f32));
        }
        const config = self.config;
        for (self.history.counts.keys(), self.history.counts.values()) |id, occurrences| {
            const score = self.adjusted[id];
            if (score == -inf) continue;
            const repetition = config.repetition_penalty;
            const scaled = if (score > 0) score / repetition else score * repetition;
            const frequency = config.frequency_penalty * @as(f32, @floatFromInt(occurrences));
            const penalized = scaled - frequency - config.presence_penalty;
            // A penalty makes a token unlikely; it never rules one out.
            const limit = std.math.floatMax(f32);
            self.adjusted[id] = std.math.clamp(penalized, -limit, limit);
        }
        return self.adjusted;
    }

    /// One candidate, each with the probability of its softmax at the temperature.
    fn draw(self: *Sampler, kept: Kept, max: f32) u32 {
        // Below this a temperature acts like greedy, and its inverse must stay finite.
        const scale = 1 / @max(self.config.temperature, 1e-30);
        const total = numbers.mass(kept.values, max, scale, self.block_sums);
        var left = uniform(self.config.seed(), self.draws) * total;
        self.draws += 1;

        const blocks = block_count(kept.values.len);
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
        const start = block * numbers.block_length;
        const values = kept.values[start..@min(start + numbers.block_length, kept.values.len)];
        const index = start + numbers.pick(values, max, scale, left);
        return if (kept.ids) |ids| ids[index] else @intCast(index);
    }
};

fn block_count(values: usize) usize {
    return (values + numbers.block_length - 1) / numbers.block_length;
}

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
    const sentence = "the logits of step {d} are all -infinity: {s}";
    return status.fail(error.Internal, sentence, .{ step, advice });
}

/// A number in [0, 1) with 53 bits, a function of the seed and its place in the sequence:
/// SplitMix64 (Steele, Lea and Flood 2014) from a mixed seed, so that neighbouring seeds have
/// nothing in common.
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

const testing = std.testing;

/// The chain as its definition reads, in float64 and with a sort: the probability of every token, 0
/// where dropped.
fn naive_probabilities(scores: []const f64, config: Config, out: []f64) !void {
    const order = try testing.allocator.alloc(u32, scores.len);
    defer testing.allocator.free(order);
    for (order, 0..) |*id, i| id.* = @intCast(i);
    std.mem.sort(u32, order, scores, struct {
        fn before(all: []const f64, a: u32, b: u32) bool {
            return if (all[a] != all[b]) all[a] > all[b] else a < b;
        }
    }.before);
    const max = scores[order[0]];
    var kept: usize = scores.len;
    if (config.top_k > 0) kept = @min(kept, @as(usize, @intCast(config.top_k)));
    var total: f64 = 0;
    for (order[0..kept]) |id| total += @exp(scores[id] - max);
    if (config.top_p < 1) {
        var sum: f64 = 0;
        kept = for (order[0..kept], 1..) |id, n| {
            sum += @exp(scores[id] - max);
            if (sum >= config.top_p * total) break n;
        } else kept;
    }
    while (@exp(scores[order[kept - 1]] - max) < config.min_p) kept -= 1;
    var tempered: f64 = 0;
    for (order[0..kept]) |id| tempered += @exp((scores[id] - max) / config.temperature);
    @memset(out, 0);
    for (order[0..kept]) |id| out[id] = @exp((scores[id] - max) / config.temperature) / tempered;
}

fn naive_scores(
    logits: []const f32,
    config: Config,
    bias_ids: []const u32,
    bias_values: []const f32,
    history: []const u32,
    out: []f64,
) void {
    for (out, logits) |*score, logit| score.* = logit;
    for (bias_ids, bias_values) |id, bias| out[id] += bias;
    const unlimited = config.penalty_last_n < 0;
    const last_n: usize = if (unlimited) history.len else @intCast(config.penalty_last_n);
    const seen = history[history.len - @min(last_n, history.len) ..];
    const repetition = config.repetition_penalty;
    for (out, 0..) |*score, id| {
        const count: f64 = @floatFromInt(std.mem.countScalar(u32, seen, @intCast(id)));
        if (count == 0) continue;
        if (score.* > 0) score.* /= repetition else score.* *= repetition;
        score.* -= count * config.frequency_penalty + config.presence_penalty;
    }
}

/// The sampler's own probabilities: its candidates, weighed as the draw weighs them.
fn sampler_probabilities(sampler: *Sampler, logits: []const f32, out: []f64) void {
    const scores = if (sampler.adjusted.len > 0) sampler.adjust(logits) else logits;
    const max = numbers.peak(scores).max;
    const kept = sampler.candidates.filter(scores, max);
    const scale = 1 / sampler.config.temperature;
    const total = numbers.mass(kept.values, max, scale, &.{});
    @memset(out, 0);
    for (kept.values, 0..) |value, i| {
        const id = if (kept.ids) |ids| ids[i] else i;
        out[id] = @exp((value - max) * scale) / total;
    }
}

fn random_logits(random: std.Random, logits: []f32) void {
    const deviation = random.float(f32) * 6;
    // A third of the rows is coarse, so that many logits are equal, and some are ruled out.
    const coarse = random.uintLessThan(u32, 3) == 0;
    for (logits) |*logit| {
        const value = random.floatNorm(f32) * deviation;
        logit.* = if (coarse) @round(value) else value;
        if (coarse and random.uintLessThan(u32, 10) == 0) logit.* = -inf;
    }
    logits[random.uintLessThan(usize, logits.len)] = deviation;
}

test "the chain equals its definition on random logits, configurations, biases and histories" {
    const gpa = testing.allocator;
    var prng: std.Random.Xoshiro256 = .init(1);
    const random = prng.random();
    for (0..400) |round| {
        const size = if (round % 8 == 0)
            random.intRangeAtMost(u32, 5000, 8000)
        else
            random.intRangeAtMost(u32, 1, 300);
        const config: Config = .{
            .temperature = 0.1 + random.float(f32) * 2,
            .top_p = if (random.boolean()) 1 else 0.01 + 0.98 * random.float(f32),
            .min_p = if (random.boolean()) 0 else random.float(f32) * 0.2,
            .top_k = if (random.boolean()) 0 else random.intRangeAtMost(i32, 1, @intCast(size + 3)),
            .repetition_penalty = if (random.boolean()) 1 else 0.5 + random.float(f32),
            .frequency_penalty = if (random.boolean()) 0 else random.float(f32) * 2 - 1,
            .presence_penalty = if (random.boolean()) 0 else random.float(f32) * 2 - 1,
            .penalty_last_n = random.intRangeAtMost(i32, -1, 12),
        };
        const bias_ids: []const u32 = if (size < 4 or random.boolean()) &.{} else &.{ 3, 0 };
        const bias_values = ([_]f32{ -inf, 1.5 })[0..bias_ids.len];
        var sampler: Sampler = try .init(gpa, size, config, bias_ids, bias_values);
        defer sampler.deinit();
        const history = try gpa.alloc(u32, random.uintLessThan(usize, 40));
        defer gpa.free(history);
        for (history) |*token| {
            token.* = random.uintLessThan(u32, @min(size, 9));
            try sampler.accept(token.*);
        }
        const logits = try gpa.alloc(f32, size);
        defer gpa.free(logits);
        random_logits(random, logits);
        const rows = try gpa.alloc(f64, 3 * size);
        defer gpa.free(rows);
        const scores = rows[0..size];
        const expected = rows[size..][0..size];
        const actual = rows[2 * size ..];
        naive_scores(logits, config, bias_ids, bias_values, history, scores);
        const best = std.mem.findMax(f64, scores);
        if (scores[best] == -std.math.inf(f64)) {
            try testing.expectError(error.InvalidArgument, sampler.sample(logits, 0));
            continue;
        }
        try naive_probabilities(scores, config, expected);
        sampler_probabilities(&sampler, logits, actual);
        for (expected, actual) |e, a| {
            try testing.expectApproxEqAbs(e, a, 1e-5);
            // Far below, float32 has no number left.
            if (e > 1e-30) try testing.expect(a > 0);
            if (e == 0) try testing.expectEqual(0, a);
        }
        try expect_draws(&sampler, logits, expected);
    }
}

/// Draws in the order of ids against the running sum of the expected probabilities.
fn expect_draws(sampler: *Sampler, logits: []const f32, expected: []const f64) !void {
    for (0..5) |_| {
        const point = uniform(sampler.config.seed(), sampler.draws);
        const choice = try sampler.sample(logits, 0);
        var before: f64 = 0;
        for (expected[0..choice.token]) |probability| before += probability;
        try testing.expect(expected[choice.token] > 0);
        try testing.expect(point >= before - 1e-5);
        try testing.expect(point <= before + expected[choice.token] + 1e-5);
    }
}

test "greedy takes the lowest of the best and needs no random number" {
    var prng: std.Random.Xoshiro256 = .init(2);
    for (0..200) |_| {
        var logits: [2500]f32 = undefined;
        const size = 1 + prng.random().uintLessThan(u32, logits.len);
        random_logits(prng.random(), logits[0..size]);
        const config: Config = .{ .top_k = 3, .top_p = 0.1 };
        var sampler: Sampler = try .init(testing.allocator, size, config, &.{}, &.{});
        defer sampler.deinit();
        const choice = try sampler.sample(logits[0..size], 0);
        try testing.expectEqual(std.mem.findMax(f32, logits[0..size]), choice.token);
        try testing.expect(std.math.isNan(choice.log_probability));
        try testing.expectEqual(0, sampler.draws);
    }
}

test "zero and minus zero are equal" {
    const logits = [_]f32{ -0.0, -1, 0.0, 0.0, -0.0 };
    var greedy: Sampler = try .init(testing.allocator, logits.len, .{}, &.{}, &.{});
    defer greedy.deinit();
    try testing.expectEqual(0, (try greedy.sample(&logits, 0)).token);
}

test "top-p keeps at least one token, and a sharp distribution leaves only it" {
    var logits: [500]f32 = @splat(0);
    logits[321] = 50;
    for ([_]f32{ std.math.floatTrueMin(f32), 0.5, 0.999 }) |top_p| for ([_]i32{ 0, 40 }) |top_k| {
        const config: Config = .{ .temperature = 1000, .top_p = top_p, .top_k = top_k };
        var sampler: Sampler = try .init(testing.allocator, logits.len, config, &.{}, &.{});
        defer sampler.deinit();
        for (0..20) |_| try testing.expectEqual(321, (try sampler.sample(&logits, 0)).token);
    };
}

test "extreme temperatures and logits neither overflow nor stall" {
    const logits = [_]f32{ -std.math.floatMax(f32), 3e38, -inf, 3.1e38, 0 };
    for ([_]f32{ std.math.floatTrueMin(f32), 1e-20, 1, 1000 }) |temperature| {
        const config: Config = .{ .temperature = temperature };
        var sampler: Sampler = try .init(testing.allocator, 5, config, &.{}, &.{});
        defer sampler.deinit();
        try testing.expectEqual(3, (try sampler.sample(&logits, 0)).token);
    }
    const strong: Config = .{ .temperature = 1, .repetition_penalty = 100 };
    var alone: Sampler = try .init(testing.allocator, 2, strong, &.{}, &.{});
    defer alone.deinit();
    try alone.accept(1);
    try testing.expectEqual(1, (try alone.sample(&.{ -inf, -3e38 }, 0)).token);
    const penalties: Config = .{ .repetition_penalty = 0.01, .log_probability = 1 };
    var sampler: Sampler = try .init(testing.allocator, 5, penalties, &.{ 4, 3 }, &.{ 1e9, 1e9 });
    defer sampler.deinit();
    for (0..5) |token| try sampler.accept(@intCast(token));
    try testing.expectEqual(1, (try sampler.sample(&logits, 0)).token);
    const choice = try sampler.sample(&logits, 0);
    try testing.expectApproxEqRel(-1e37, choice.log_probability, 1e-5);
}

test "the same seed draws the same tokens; another seed and a reset do what they should" {
    var prng: std.Random.Xoshiro256 = .init(3);
    var logits: [1000]f32 = undefined;
    random_logits(prng.random(), &logits);
    var runs: [4][32]u32 = undefined;
    for (&runs, [_]u32{ 7, 7, 8, 7 }, [_]u32{ 0, 0, 0, 1 }) |*run, low, high| {
        const config: Config = .{ .temperature = 1.5, .seed_low = low, .seed_high = high };
        var sampler: Sampler = try .init(testing.allocator, logits.len, config, &.{}, &.{});
        defer sampler.deinit();
        for (run) |*token| token.* = (try sampler.sample(&logits, 0)).token;
        sampler.reset();
        for (run) |token| try testing.expectEqual(token, (try sampler.sample(&logits, 0)).token);
    }
    try testing.expectEqualSlices(u32, &runs[0], &runs[1]);
    try testing.expect(!std.mem.eql(u32, &runs[0], &runs[2]));
    try testing.expect(!std.mem.eql(u32, &runs[0], &runs[3]));
}

test "random numbers are the published ones: SplitMix64 of seed 0" {
    // mix(0) is 0, so seed 0 gives the generator's own first outputs.
    const published = [_]u64{ 0xe220a8397b1dcdaf, 0x6e789e6aa1b965f4, 0x06c45d188009454f };
    for (published, 0..) |bits, place| {
        try testing.expectEqual(@as(f64, @floatFromInt(bits >> 11)) * 0x1p-53, uniform(0, place));
    }
}

test "draws follow the probabilities: chi-square of 20,000 over 12 tokens" {
    var logits: [12]f32 = undefined;
    for (&logits, 0..) |*logit, i| logit.* = @as(f32, @floatFromInt(i * 5 % 12)) * 0.25;
    const config: Config = .{ .temperature = 0.7, .seed_low = 11 };
    var sampler: Sampler = try .init(testing.allocator, logits.len, config, &.{}, &.{});
    defer sampler.deinit();
    var counts: [12]f64 = @splat(0);
    for (0..20_000) |_| counts[(try sampler.sample(&logits, 0)).token] += 1;
    var scores: [12]f64 = undefined;
    for (&scores, logits) |*score, logit| score.* = logit;
    var expected: [12]f64 = undefined;
    try naive_probabilities(&scores, config, &expected);
    var chi_square: f64 = 0;
    for (counts, expected) |count, probability| {
        const mean = probability * 20_000;
        chi_square += (count - mean) * (count - mean) / mean;
    }
    // 11 degrees of freedom: 31.3 is exceeded once in a thousand seeds, and 0.7 undercut as rarely.
    try testing.expect(chi_square > 0.7 and chi_square < 31.3);
}

test "a clone goes on as the original, and apart from it" {
    var prng: std.Random.Xoshiro256 = .init(4);
    var logits: [300]f32 = undefined;
    random_logits(prng.random(), &logits);
    for ([_]i32{ -1, 5 }) |last_n| {
        const config: Config = .{ .temperature = 2, .presence_penalty = 3, .penalty_last_n = last_n };
        var original: Sampler = try .init(testing.allocator, logits.len, config, &.{9}, &.{4});
        defer original.deinit();
        for (0..8) |_| try original.accept((try original.sample(&logits, 0)).token);
        var copy = try original.clone();
        defer copy.deinit();
        for (0..30) |_| {
            const token = (try original.sample(&logits, 0)).token;
            try original.accept(token);
            try testing.expectEqual(token, (try copy.sample(&logits, 0)).token);
            try copy.accept(token);
        }
        const draws = original.draws;
        _ = try copy.sample(&logits, 0);
        try testing.expectEqual(draws, original.draws);
    }
}

test "a penalty ends when its token leaves the window, and not before" {
    const config: Config = .{ .presence_penalty = 1, .penalty_last_n = 3 };
    var sampler: Sampler = try .init(testing.allocator, 4, config, &.{}, &.{});
    defer sampler.deinit();
    const logits = [_]f32{ 1, 0.5, 0, 0 };
    for ([_]u32{ 0, 0, 2, 2, 2, 2 }, [_]u32{ 1, 1, 1, 1, 0, 0 }) |accepted, expected| {
        try sampler.accept(accepted);
        try testing.expectEqual(expected, (try sampler.sample(&logits, 0)).token);
    }
    sampler.reset();
    try testing.expectEqual(0, (try sampler.sample(&logits, 0)).token);
}

test "the log probability is the model's own, whatever the chain did" {
    var prng: std.Random.Xoshiro256 = .init(5);
    var logits: [3000]f32 = undefined;
    random_logits(prng.random(), &logits);
    const config: Config = .{
        .temperature = 3,
        .top_k = 500,
        .presence_penalty = 2,
        .log_probability = 1,
    };
    var sampler: Sampler = try .init(testing.allocator, logits.len, config, &.{17}, &.{5});
    defer sampler.deinit();
    var total: f64 = 0;
    for (logits) |logit| total += @exp(@as(f64, logit));
    for (0..50) |_| {
        const choice = try sampler.sample(&logits, 0);
        try sampler.accept(choice.token);
        const expected = @as(f64, logits[choice.token]) - @log(total);
        try testing.expectApproxEqAbs(expected, choice.log_probability, 2e-6);
    }
}

fn expect_failure(expected: status.Error, sentence: []const u8, actual: anytype) !void {
    try testing.expectError(expected, actual);
    try testing.expectEqualStrings(sentence, status.message());
}

test "logits that cannot be sampled name the step and the token" {
    var logits: [2100]f32 = @splat(-inf);
    var sampler: Sampler = try .init(testing.allocator, logits.len, .{}, &.{7}, &.{-inf});
    defer sampler.deinit();
    const advice = "the model file is damaged, or its graph left the range of its number types";
    const none = "the logits of step 16 are all -infinity: " ++ advice;
    try expect_failure(error.Internal, none, sampler.sample(&logits, 16));
    logits[7] = 1;
    const banned =
        "sampling: at step 3 the logit bias bans every token that the model allows; ban fewer";
    try expect_failure(error.InvalidArgument, banned, sampler.sample(&logits, 3));
    logits[2] = inf;
    const infinite = "the logits of step 0 hold +infinity at token 2 of 2100: " ++ advice;
    try expect_failure(error.Internal, infinite, sampler.sample(&logits, 0));
    logits[2] = 0;
    // In every place of a vector, of either sign, and in the odd end.
    for ([_]usize{ 5, 16, 1023, 1024, 2048, 2090, 2099 }) |at| for ([_]f32{ 1, -1 }) |sign| {
        logits[at] = std.math.copysign(std.math.nan(f32), sign);
        defer logits[at] = 0;
        try testing.expectError(error.Internal, sampler.sample(&logits, 17));
        var buffer: [200]u8 = undefined;
        const format = "the logits of step 17 hold NaN at token {d} of 2100: ";
        const found = try std.fmt.bufPrint(&buffer, format, .{at});
        try testing.expect(std.mem.startsWith(u8, status.message(), found));
    };
    _ = try sampler.sample(&logits, 18);
    const short = "sampling: step 4 has 2099 logits for a vocabulary of 2100 tokens";
    try expect_failure(error.InvalidArgument, short, sampler.sample(logits[0..2099], 4));
    const foreign = "sampling: token 2100 does not exist; the vocabulary has 2100 tokens";
    try expect_failure(error.InvalidArgument, foreign, sampler.accept(2100));
}

test "a configuration out of range names the field" {
    const nan = std.math.nan(f32);
    const cases = [_]struct { Config, []const u8 }{
        .{
            .{ .temperature = nan },
            "temperature is nan; give a number from 0 to 1000",
        },
        .{
            .{ .temperature = -0.5 },
            "temperature is -0.5; give a number from 0 to 1000",
        },
        .{
            .{ .top_p = 0 },
            "top_p is 0; give a number above 0, up to 1",
        },
        .{
            .{ .top_p = 1.5 },
            "top_p is 1.5; give a number above 0, up to 1",
        },
        .{
            .{ .min_p = nan },
            "min_p is nan; give a number from 0 to 1",
        },
        .{
            .{ .repetition_penalty = 0 },
            "repetition_penalty is 0; give a number from 0.01 to 100",
        },
        .{
            .{ .frequency_penalty = inf },
            "frequency_penalty is inf; give a number from -100 to 100",
        },
        .{
            .{ .presence_penalty = -101 },
            "presence_penalty is -101; give a number from -100 to 100",
        },
        .{
            .{ .top_k = -2 },
            "top_k is -2; give a number of tokens to keep; 0 or -1 keeps all",
        },
        .{
            .{ .penalty_last_n = penalty_last_n_max + 1 },
            "penalty_last_n is 1048577; give a number up to 1048576, or -1 for all",
        },
        .{
            .{ .log_probability = 2 },
            "log_probability is 2; give a number that is 0 or 1",
        },
    };
    for (cases) |case| {
        const config, const sentence = case;
        const result = Sampler.init(testing.allocator, 10, config, &.{}, &.{});
        try testing.expectError(error.InvalidArgument, result);
        try testing.expectEqualStrings("sampling: ", status.message()[0..10]);
        try testing.expectEqualStrings(sentence, status.message()[10..]);
    }
}

test "a bias that cannot be applied is refused" {
    const gpa = testing.allocator;
    const unknown = "sampling: the logit bias names token 10; the vocabulary has 10 tokens";
    try expect_failure(error.InvalidArgument, unknown, Sampler.init(gpa, 10, .{}, &.{10}, &.{1}));
    const twice = "sampling: the logit bias names token 4 twice; give one bias per token";
    const repeated = Sampler.init(gpa, 10, .{}, &.{ 4, 1, 4 }, &.{ 1, 2, 3 });
    try expect_failure(error.InvalidArgument, twice, repeated);
    const uneven = "sampling: the logit bias has 2 tokens and 1 values; give one value per token";
    try expect_failure(error.InvalidArgument, uneven, Sampler.init(gpa, 10, .{}, &.{ 4, 1 }, &.{1}));
    for ([_]f32{ std.math.nan(f32), inf, 2e9 }) |value| {
        try testing.expectError(error.InvalidArgument, Sampler.init(gpa, 10, .{}, &.{3}, &.{value}));
        const start = "sampling: the logit bias of token 3 is ";
        try testing.expect(std.mem.startsWith(u8, status.message(), start));
    }
    try testing.expectError(error.InvalidArgument, Sampler.init(gpa, 0, .{}, &.{}, &.{}));
}

test "running out of memory leaks nothing" {
    const Case = struct {
        fn run(gpa: Allocator) !void {
            const config: Config = .{
                .temperature = 1,
                .top_p = 0.5,
                .presence_penalty = 1,
                .penalty_last_n = -1,
            };
            var sampler: Sampler = try .init(gpa, 50, config, &.{ 1, 2 }, &.{ 1, 2 });
            defer sampler.deinit();
            for (0..50) |token| try sampler.accept(@intCast(token));
            var copy = try sampler.clone();
            copy.deinit();
        }
    };
    try testing.checkAllAllocationFailures(testing.allocator, Case.run, .{});
}
