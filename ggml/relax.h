// Included before ggml's thread pool (see sources.zig). Its threads wait for each other by spinning on _mm_pause, and
// when another program has taken a core, the one that spins keeps the one it waits for from running until its time
// slice ends: thousands of microseconds, at every node of the graph. Giving the core up now and then costs nothing
// while no one else wants it.
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#include <sched.h>

static inline void strata_relax(void) {
    // About 20 microseconds of spinning; two threads that really run together wait for less.
    enum { pauses_per_yield = 512 };
    static _Thread_local unsigned pauses = 0;
    _mm_pause();
    if (++pauses % pauses_per_yield == 0) sched_yield();
}

#define _mm_pause strata_relax
#endif
