//! Mutex and condition of the C library, so that no `std.Io` instance has to be carried to every lock.

const std = @import("std");
const assert = std.debug.assert;

pub const Mutex = struct {
    inner: std.c.pthread_mutex_t = std.c.PTHREAD_MUTEX_INITIALIZER,

    pub fn lock(mutex: *Mutex) void {
        assert(std.c.pthread_mutex_lock(&mutex.inner) == .SUCCESS);
    }

    pub fn unlock(mutex: *Mutex) void {
        assert(std.c.pthread_mutex_unlock(&mutex.inner) == .SUCCESS);
    }
};

pub const Condition = struct {
    inner: std.c.pthread_cond_t = std.c.PTHREAD_COND_INITIALIZER,

    /// Releases the mutex while asleep; may wake without a signal, so wait in a loop.
    pub fn wait(condition: *Condition, mutex: *Mutex) void {
        assert(std.c.pthread_cond_wait(&condition.inner, &mutex.inner) == .SUCCESS);
    }

    pub fn signal(condition: *Condition) void {
        assert(std.c.pthread_cond_signal(&condition.inner) == .SUCCESS);
    }

    pub fn broadcast(condition: *Condition) void {
        assert(std.c.pthread_cond_broadcast(&condition.inner) == .SUCCESS);
    }
};

test "a waiter wakes" {
    const Shared = struct {
        mutex: Mutex = .{},
        condition: Condition = .{},
        ready: bool = false,

        fn set(shared: *@This()) void {
            shared.mutex.lock();
            defer shared.mutex.unlock();
            shared.ready = true;
            shared.condition.signal();
        }
    };
    var shared: Shared = .{};
    const thread = try std.Thread.spawn(.{}, Shared.set, .{&shared});
    defer thread.join();
    shared.mutex.lock();
    defer shared.mutex.unlock();
    while (!shared.ready) shared.condition.wait(&shared.mutex);
    try std.testing.expect(shared.ready);
}
