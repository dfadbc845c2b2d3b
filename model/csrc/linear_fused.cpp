// Linear maps of many rows and their gradients, for `model/layers/linear_fused.py`.

#include "linear_rows.h"
#include "linear_weight.h"

// Of each format whether these kernels are faster here than what torch has: 1 for fp32, 2 for bf16. By measured rates
// (model/kernel_ways.py); where nothing was measured, torch multiplies fp32 with AVX2 alone and bf16 with AMX.
#if !defined(FP32_LINEAR_BY_TORCH)
#if defined(LANES_AVX512)
#define FP32_LINEAR_BY_TORCH 0
#else
#define FP32_LINEAR_BY_TORCH 1
#endif
#endif
#if !defined(BF16_LINEAR_BY_TORCH)
#if defined(__AMX_BF16__)
#define BF16_LINEAR_BY_TORCH 1
#else
#define BF16_LINEAR_BY_TORCH 0
#endif
#endif
#if !defined(BF16_LINEAR_LEAST_ROWS)
#define BF16_LINEAR_LEAST_ROWS 512
#endif
LANES_EXPORT int linear_fused_is_fast() {
    return tiles::FAST_FORMATS & ((FP32_LINEAR_BY_TORCH ? 0 : 1) | (BF16_LINEAR_BY_TORCH ? 0 : 2));
}

// With fewer rows torch is as fast, or faster at the weight's gradient.
LANES_EXPORT int linear_fused_least_rows(int is_bf16) { return is_bf16 ? BF16_LINEAR_LEAST_ROWS : 512; }

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
