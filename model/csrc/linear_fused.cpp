// Linear maps of many rows and their gradients, for `model/layers/linear_fused.py`.

#include "linear_rows.h"
#include "linear_weight.h"

// Of each format whether these kernels are faster here than what torch has: 1 for fp32, 2 for bf16. Torch multiplies fp32 at
// full speed with AVX2, and bf16 with AMX.
LANES_EXPORT int linear_fused_is_fast() {
#if defined(__AMX_BF16__)
    return tiles::FAST_FORMATS & 1;
#elif defined(LANES_AVX512)
    return tiles::FAST_FORMATS;
#else
    return tiles::FAST_FORMATS & 2;
#endif
}

// All take a Call and return 0, or 2 without memory.
LANES_EXPORT int linear_fused_forward(const linear::Call *call, int is_bf16) {
    return is_bf16 ? linear::forward<lanes::bf16>(*call) : linear::forward<float>(*call);
}

LANES_EXPORT int linear_fused_grad_input(const linear::Call *call, int is_bf16) {
    return is_bf16 ? linear::grad_input<lanes::bf16>(*call) : linear::grad_input<float>(*call);
}

LANES_EXPORT int linear_fused_grad_weight(const linear::Call *call, int is_bf16) {
    return is_bf16 ? linear::grad_weight<lanes::bf16>(*call) : linear::grad_weight<float>(*call);
}
