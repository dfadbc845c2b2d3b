// The routed experts' sum, forward and backward, for `model/layers/moe/experts_fused.py`.

#include "experts/backward.h"
#include "experts/forward.h"

// Of each format whether these kernels are faster here than what torch has: 1 for fp32, 2 for bf16.
LANES_EXPORT int experts_fused_is_fast() { return tiles::FAST_FORMATS; }

// Both take a Call and return 0, or 1 where an expert's number is out of range, or 2 without memory.
LANES_EXPORT int experts_fused_forward(const experts::Call *call, int is_bf16) {
    return is_bf16 ? experts::forward<lanes::bf16>(*call) : experts::forward<float>(*call);
}

LANES_EXPORT int experts_fused_backward(const experts::Call *call, int is_bf16) {
    return is_bf16 ? experts::backward<lanes::bf16>(*call) : experts::backward<float>(*call);
}
