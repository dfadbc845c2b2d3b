// One step of AdamW on one parameter, and the size of its gradient, for `model/training/optim/adamw_fused.py`.
//
// A parameter's memory is read and written once: weights, gradient (fp32 or bf16), moments and, if there is one, the
// weights' copy in bf16. Results do not depend on the number of threads.

#include "lanes.h"

namespace adamw {

using namespace lanes;

constexpr int64_t BLOCK = 1 << 14;  // numbers that one thread takes at a time

// As `_Call` in optim/adamw_fused.py; arrays of `count` numbers.
struct Call {
    int64_t count, threads;
    float factor;                   // of the gradient
    float kept;                     // the share of the weights that decay leaves
    float keeps_first, adds_first;  // beta1 and 1 - beta1, each rounded by itself
    float keeps_second, adds_second;
    float step_size;                // the learning rate, corrected for a first moment that began at zero
    float deviation;                // what the second moment's root is multiplied by, for the same reason
    float eps, unused;
    float *weights;
    const void *gradient;
    float *first, *second;
    bf16 *copy;  // null where none is kept
};

// Calls each(place, how many numbers from there on) for each block.
template <typename Each>
void for_blocks(int64_t count, int64_t threads, const Each &each) {
    const int64_t blocks = (count + BLOCK - 1) / BLOCK;
#pragma omp parallel for num_threads(static_cast<int>(blocks < threads ? blocks : threads)) if (blocks > 1)
    for (int64_t start = 0; start < count; start += BLOCK) each(start, count - start < BLOCK ? count - start : BLOCK);
}

template <typename G>
void step_block(const Call &call, int64_t start, int64_t count) {
    float *weights = call.weights + start, *first = call.first + start, *second = call.second + start;
    const G *gradient = static_cast<const G *>(call.gradient) + start;
    for_vectors(count, [&](int64_t at, int64_t n) {
        const Floats g = call.factor * load(gradient + at, n);
        const Floats m = call.keeps_first * load(first + at, n) + call.adds_first * g;
        const Floats v = call.keeps_second * load(second + at, n) + call.adds_second * g * g;
        const Floats move = call.step_size * m / (call.deviation * root(v) + call.eps);
        const Floats moved = call.kept * load(weights + at, n) - move;
        store(first + at, m, n);
        store(second + at, v, n);
        store(weights + at, moved, n);
        if (call.copy) store(call.copy + start + at, narrow_exactly(moved), n);  // as torch casts, tiny numbers too
    });
}

template <typename G>
void step(const Call &call) {
    for_blocks(call.count, call.threads, [&](int64_t start, int64_t n) { step_block<G>(call, start, n); });
}

template <typename G>
float squares_of_block(const G *numbers, int64_t count) {
    constexpr int64_t SUMS = 4;  // one alone waits for its own last addition
    Floats parts[SUMS] = {};
    int64_t turn = 0;
    for_vectors(count, [&](int64_t at, int64_t n) {
        const Floats values = load(numbers + at, n);
        parts[turn++ % SUMS] += values * values;
    });
    return sum((parts[0] + parts[1]) + (parts[2] + parts[3]));
}

// `sums` has room for one number a block.
template <typename G>
double squares(const G *numbers, int64_t count, int64_t threads, float *sums) {
    for_blocks(count, threads, [&](int64_t start, int64_t n) { sums[start / BLOCK] = squares_of_block(numbers + start, n); });
    double whole = 0;
    for (int64_t i = 0; i * BLOCK < count; ++i) whole += sums[i];
    return whole;
}

}  // namespace adamw

LANES_EXPORT void adamw_fused_step(const adamw::Call *call, int is_gradient_bf16) {
    if (is_gradient_bf16) adamw::step<lanes::bf16>(*call);
    else adamw::step<float>(*call);
}

// How many numbers `sums` below must have room for.
LANES_EXPORT int64_t adamw_fused_blocks(int64_t count) { return (count + adamw::BLOCK - 1) / adamw::BLOCK; }

LANES_EXPORT double adamw_fused_squares(const void *numbers, int64_t count, int64_t threads, float *sums, int is_bf16) {
    using lanes::bf16;
    return is_bf16 ? adamw::squares(static_cast<const bf16 *>(numbers), count, threads, sums)
                   : adamw::squares(static_cast<const float *>(numbers), count, threads, sums);
}
