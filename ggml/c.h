// The part of ggml's C API that Strata uses; the build translates it to the Zig module `ggml`.
#include "ggml.h"
#include "ggml-alloc.h"
#include "ggml-backend.h"
#include "ggml-cpu.h"
