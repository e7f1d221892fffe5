// Included before every file of ggml: its elementary functions are the system's (see libm.zig). Zig links functions of
// these names into every library, whose last digits differ from those of the library that llama.cpp uses.
#pragma once

#include <math.h>
#ifdef __cplusplus
#include <cmath>
extern "C" {
#endif

float strata_cosf(float);
float strata_expf(float);
float strata_logf(float);
float strata_sinf(float);

#ifdef __cplusplus
}
#endif

#define cosf strata_cosf
#define expf strata_expf
#define logf strata_logf
#define sinf strata_sinf
