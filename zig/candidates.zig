//! The tokens that the sampler's filters leave: top-k, top-p and min-p over one row of scores.
//!
//! Nothing sorts the vocabulary: a filter finds the score at which to cut, and what stays keeps the
//! order of its ids, so that a draw depends on the scores only.

const std = @import("std");
const logits = @import("logits.zig");
const assert = std.debug.assert;
const Allocator = std.mem.Allocator;
const Vec = logits.Vec;
const lanes = logits.lanes;
const inf = std.math.inf(f32);

const Chosen = @Vector(lanes, bool);
const Mask = @Int(.unsigned, lanes);
const top_k_buffer_min = 2048;

/// What to keep. A filter that is off keeps everything.
pub const Filters = struct {
    /// The most probable tokens, this many; 0 is off.
    top_k: u32 = 0,
    /// Above 0: the fewest most probable tokens that together reach this probability; 1 is off.
    top_p: f32 = 1,
    /// Tokens at least this fraction as probable as the best one; 0 is off.
    min_p: f32 = 0,

    fn any(filters: Filters) bool {
        return filters.top_k > 0 or filters.top_p < 1 or filters.min_p > 0;
    }
};

/// Candidates and their tokens; without `ids`, a candidate's index is its token.
pub const Kept = struct {
    values: []const f32,
    ids: ?[]const u32,
};

/// The buffers of one sampler, in ascending order of id.
pub const Candidates = struct {
    filters: Filters,
    values: []f32 = &.{},
    ids: []u32 = &.{},
    /// Only for top-p.
    weights: []f32 = &.{},
    count: usize = 0,

    pub fn init(gpa: Allocator, size: usize, filters: Filters) Allocator.Error!Candidates {
        assert(filters.top_p > 0 and filters.top_p <= 1);
        var self: Candidates = .{ .filters = filters };
        if (filters.top_k >= size) self.filters.top_k = 0;
        if (!self.filters.any()) return self;
        const capacity = if (self.filters.top_k > 0)
            @min(size, @max(2 * @as(usize, self.filters.top_k), top_k_buffer_min))
        else
            size;
        errdefer self.deinit(gpa);
        self.values = try gpa.alloc(f32, capacity);
        self.ids = try gpa.alloc(u32, capacity);
        if (filters.top_p < 1) self.weights = try gpa.alloc(f32, capacity);
        return self;
    }

    pub fn deinit(self: *Candidates, gpa: Allocator) void {
        gpa.free(self.values);
        gpa.free(self.ids);
        gpa.free(self.weights);
        self.* = undefined;
    }

    /// Top-k, then top-p, then min-p, each on what the one before it left. Keeps at least the best
    /// token. `max` is the greatest score, and finite; no score is NaN. Valid until the next call.
    pub fn filter(self: *Candidates, scores: []const f32, max: f32) Kept {
        const filters = self.filters;
        const floor = if (filters.min_p > 0) max + @log(filters.min_p) else -inf;
        if (filters.top_k > 0) {
            self.collect_top_k(scores, filters.top_k);
            if (filters.top_p < 1) self.cut_top_p(filters.top_p * self.weigh(max));
            if (filters.min_p > 0) self.keep(.{ .value = floor, .ties = std.math.maxInt(usize) });
        } else if (filters.top_p < 1) {
            self.collect_top_p(scores, max, floor);
        } else if (filters.min_p > 0) {
            self.collect(scores, floor);
        } else {
            return .{ .values = scores, .ids = null };
        }
        assert(self.count > 0);
        return .{ .values = self.values[0..self.count], .ids = self.ids[0..self.count] };
    }

    /// Fills the buffer with what beats the best k so far, and cuts it back to k whenever it is
    /// full.
    fn collect_top_k(self: *Candidates, scores: []const f32, k: usize) void {
        assert(self.values.len >= @min(scores.len, k + lanes));
        self.count = 0;
        var threshold: f32 = -inf;
        var start: usize = 0;
        while (start < scores.len) : (start += lanes) {
            const better = logits.load(scores, start) > @as(Vec, @splat(threshold));
            if (!@reduce(.Or, better)) continue;
            if (self.count + lanes > self.values.len and self.count > k) {
                const cut = find_cut(self.values[0..self.count], null, @floatFromInt(k));
                self.keep(cut);
                // A later equal has a higher id, and so loses.
                threshold = cut.value;
            }
            self.append(scores, start, logits.load(scores, start) > @as(Vec, @splat(threshold)));
        }
        if (self.count > k) self.keep(find_cut(self.values[0..self.count], null, @floatFromInt(k)));
    }

    /// Collects ever deeper below the best token until the probability is reached, then cuts.
    /// `floor` is min-p's: what lies below it would be dropped afterwards, so it is not looked at.
    fn collect_top_p(self: *Candidates, scores: []const f32, max: f32, floor: f32) void {
        const target = self.filters.top_p * logits.mass(scores, max, 1, &.{});
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
    fn collect(self: *Candidates, scores: []const f32, floor: f32) void {
        assert(self.values.len == scores.len);
        self.count = 0;
        const bottom = @max(floor, -std.math.floatMax(f32));
        var start: usize = 0;
        while (start < scores.len) : (start += lanes) {
            self.append(scores, start, logits.load(scores, start) >= @as(Vec, @splat(bottom)));
        }
    }

    fn append(self: *Candidates, scores: []const f32, start: usize, chosen: Chosen) void {
        var mask: Mask = @bitCast(chosen);
        while (mask != 0) : (mask &= mask - 1) {
            const id = start + @ctz(mask);
            self.values[self.count] = scores[id];
            self.ids[self.count] = @intCast(id);
            self.count += 1;
        }
    }

    /// Computes each candidate's weight relative to the best one's, which is 1; returns their sum.
    fn weigh(self: *Candidates, max: f32) f64 {
        const weights = self.weights[0..self.count];
        logits.exponentials(self.values[0..self.count], max, 1, weights);
        var sum: f64 = 0;
        for (weights) |weight| sum += weight;
        return sum;
    }

    fn cut_top_p(self: *Candidates, target: f64) void {
        self.keep(find_cut(self.values[0..self.count], self.weights[0..self.count], target));
    }

    /// Drops candidates below the cut; the others stay in order.
    fn keep(self: *Candidates, cut: Cut) void {
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
};

/// Where to cut: everything above `value` stays, and of its equals the first `ties`.
const Cut = struct {
    value: f32,
    ties: usize,
};

/// The shortest descending run of values whose weights sum to `target` (each weighs 1 without
/// `weights`). A radix search from the highest digit down, so that no order of the values makes it
/// slow.
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
        // By rounding the target can lie beyond the whole sum: the lowest digit that weighs
        // something is then the cut.
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

const testing = std.testing;

test "equal scores: filters keep the lowest ids" {
    const scores: [3000]f32 = @splat(-7.5);
    const cases = [_]struct { filters: Filters, kept: usize }{
        .{ .filters = .{ .top_k = 1 }, .kept = 1 },
        .{ .filters = .{ .top_k = 40 }, .kept = 40 },
        .{ .filters = .{ .top_k = 40, .top_p = 0.5 }, .kept = 20 },
        .{ .filters = .{ .top_p = 0.5 }, .kept = 1500 },
        .{ .filters = .{ .top_p = 1e-6 }, .kept = 1 },
        .{ .filters = .{ .min_p = 1 }, .kept = 3000 },
        .{ .filters = .{ .top_k = 2999, .min_p = 0.5 }, .kept = 2999 },
        .{ .filters = .{ .top_k = 9000, .min_p = 0.5 }, .kept = 3000 },
    };
    for (cases) |case| {
        var candidates: Candidates = try .init(testing.allocator, scores.len, case.filters);
        defer candidates.deinit(testing.allocator);
        const kept = candidates.filter(&scores, -7.5);
        try testing.expectEqual(case.kept, kept.values.len);
        for (kept.ids.?, 0..) |id, i| try testing.expectEqual(i, id);
    }
}

test "zero and minus zero are equal" {
    const scores = [_]f32{ -0.0, -1, 0.0, 0.0, -0.0 };
    var candidates: Candidates = try .init(testing.allocator, scores.len, .{ .top_k = 2 });
    defer candidates.deinit(testing.allocator);
    try testing.expectEqualSlices(u32, &.{ 0, 2 }, candidates.filter(&scores, 0).ids.?);
}

test "a rising and a falling row are cut at the same value" {
    const gpa = testing.allocator;
    const size = 20_000;
    const scores = try gpa.alloc(f32, size);
    defer gpa.free(scores);
    for ([_]u32{ 1, 40, 3000, 19_999 }) |k| for ([_]bool{ true, false }) |rising| {
        for (scores, 0..) |*score, i| score.* = @floatFromInt(if (rising) i else size - 1 - i);
        var candidates: Candidates = try .init(gpa, size, .{ .top_k = k });
        defer candidates.deinit(gpa);
        const kept = candidates.filter(scores, size - 1);
        try testing.expectEqual(k, kept.values.len);
        try testing.expectEqual(@as(f32, @floatFromInt(size - k)), std.mem.min(f32, kept.values));
    };
}

test "tokens that are ruled out are never candidates" {
    var scores: [100]f32 = @splat(-inf);
    scores[40] = 1;
    scores[41] = -std.math.floatMax(f32);
    for ([_]Filters{ .{ .top_k = 10 }, .{ .top_p = 0.999 }, .{ .min_p = 0.01 } }) |filters| {
        var candidates: Candidates = try .init(testing.allocator, scores.len, filters);
        defer candidates.deinit(testing.allocator);
        const kept = candidates.filter(&scores, 1);
        for (kept.ids.?) |id| try testing.expect(id == 40 or id == 41);
    }
}

test "a cut keeps the shortest run that reaches the target" {
    const values = [_]f32{ 1, 3, 2, 3, -1, 2 };
    const weights = [_]f32{ 0.5, 4, 1, 4, 0.25, 1 };
    for ([_]f64{ 0.1, 4, 4.1, 8, 8.5, 9.5, 10.2, 10.6, 99 }, [_]Cut{
        .{ .value = 3, .ties = 1 },
        .{ .value = 3, .ties = 1 },
        .{ .value = 3, .ties = 2 },
        .{ .value = 3, .ties = 2 },
        .{ .value = 2, .ties = 1 },
        .{ .value = 2, .ties = 2 },
        .{ .value = 1, .ties = 1 },
        .{ .value = -1, .ties = 1 },
        .{ .value = -1, .ties = 354 },
    }) |target, expected| {
        try testing.expectEqual(expected, find_cut(&values, &weights, target));
    }
    try testing.expectEqual(Cut{ .value = 2, .ties = 1 }, find_cut(&values, null, 3));
}
