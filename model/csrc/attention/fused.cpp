// Causal attention of whole sequences, forward and backward, for `model/layers/attention/gqa_fused.py`.

#include "attention/backward.h"
#include "attention/forward.h"

// Of each format whether these kernels are faster here than torch's: 1 for fp32, 2 for bf16.
LANES_EXPORT int attention_fused_is_fast() { return tiles::FAST_FORMATS; }

// Both take a Call and return 0, or 1 where first keys are wrong, or 2 without memory.
LANES_EXPORT int attention_fused_forward(const attention::Call *call, int is_bf16) {
    return is_bf16 ? attention::forward<lanes::bf16>(*call) : attention::forward<float>(*call);
}

LANES_EXPORT int attention_fused_backward(const attention::Call *call, int is_bf16) {
    return is_bf16 ? attention::backward<lanes::bf16>(*call) : attention::backward<float>(*call);
}
