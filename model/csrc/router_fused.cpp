// From a router's logits to each token's experts and their weights, forward and backward, for `model/layers/moe/router_fused.py`.
//
// Everything is fp32, and a row's result depends on no other row. Of equal scores the lower expert id wins; a NaN is the
// best score, as in torch.

#include <cmath>

#include "lanes.h"
#include "scratch.h"

namespace router {

using namespace lanes;

// Arrays are whole and in C order.
struct Call {
    int64_t rows, experts, top_k, threads, is_sigmoid, normalises;
    double scale, guard;        // of the weights; of the division by their sum
    const float *logits;        // [rows, experts]
    const float *bias;          // [experts], added for the choice only; may be null
    float *scores;              // [rows, experts]
    float *weights;             // [rows, top_k]
    int64_t *chosen;            // [rows, top_k], best first
    const float *grad_weights;  // [rows, top_k], may be null
    const float *grad_scores;   // [rows, experts], may be null
    float *grad_logits;         // [rows, experts]
};

constexpr int64_t ROWS_OF_A_THREAD = 64;  // fewer are done before another thread has woken up

LANES_INLINE float largest_number(Floats values) {
#if defined(LANES_AVX512)
    return _mm512_reduce_max_ps(bits<__m512>(values));
#else
    return largest(values);
#endif
}

// Numbers below which a score would be smaller than fp32's smallest normal number have a score of zero.
constexpr float LEAST = -87.0f;

LANES_INLINE Floats where_scored(Floats logits, Floats scores) { return logits < LEAST ? zeros() : scores; }

inline float peak_of(const float *logits, int64_t n) {
    Floats peaks = all(logits[0]);
    int64_t e = 0;
    for (; e + LANES <= n; e += LANES) peaks = most(load(logits + e), peaks);
    float peak = largest_number(peaks);
    for (; e < n; ++e) peak = logits[e] > peak ? logits[e] : peak;
    return peak;
}

// With a NaN among the logits all scores are NaN.
inline void softmax(const float *logits, int64_t n, float *scores) {
    const float peak = peak_of(logits, n);
    Floats sums = zeros();
    for_vectors(n, [&](int64_t e, int64_t count) {
        const Floats below = load(logits + e, count) - peak;
        store(scores + e, where_scored(below, exponential(below)), count);
        sums += load(scores + e, count);
    });
    const float total = sum(sums);
    for_vectors(n, [&](int64_t e, int64_t count) { store(scores + e, load(scores + e, count) / total, count); });
}

inline void sigmoids(const float *logits, int64_t n, float *scores) {
    for_vectors(n, [&](int64_t e, int64_t count) {
        const Floats values = load(logits + e, count);
        store(scores + e, where_scored(values, sigmoid(values)), count);
    });
}

// The scores that experts are chosen by, in whole vectors; NaN for experts that are taken and after the last expert.
inline void choice(const Call &call, const float *scores, float *own) {
    for_vectors(call.experts, [&](int64_t e, int64_t count) {
        Floats values = load(scores + e, count);
        if (call.bias) values += load(call.bias + e, count);
        store(own + e, values != values ? all(INFINITY) : values);
    });
    for (int64_t e = call.experts; e % LANES; ++e) own[e] = NAN;
}

// The place of the best that is left.
inline int64_t best(const float *own, int64_t n) {
    Floats peaks = all(-INFINITY);
    for (int64_t e = 0; e < n; e += LANES) peaks = most(load(own + e), peaks);
    const float peak = largest_number(peaks);
    int64_t found = 0;
#if defined(LANES_AVX512)
    const __m512 wanted = _mm512_set1_ps(peak);
    for (;; found += LANES)
        if (const __mmask16 equal = _mm512_cmp_ps_mask(_mm512_loadu_ps(own + found), wanted, _CMP_EQ_OQ))
            return found + __builtin_ctz(equal);
#else
    while (own[found] != peak) ++found;
    return found;
#endif
}

inline void forward_row(const Call &call, int64_t row, float *own) {
    const float *logits = call.logits + row * call.experts;
    float *scores = call.scores + row * call.experts, *weights = call.weights + row * call.top_k;
    if (call.is_sigmoid) sigmoids(logits, call.experts, scores);
    else softmax(logits, call.experts, scores);
    choice(call, scores, own);
    float total = 0;
    for (int64_t k = 0; k < call.top_k; ++k) {
        const int64_t expert = best(own, call.experts);
        own[expert] = NAN;
        call.chosen[row * call.top_k + k] = expert;
        total += weights[k] = scores[expert];
    }
    const float divisor = call.normalises ? total + static_cast<float>(call.guard) : 1.0f;
    for (int64_t k = 0; k < call.top_k; ++k) weights[k] = weights[k] / divisor * static_cast<float>(call.scale);
}

// With w_k = scale * s_k / d: adds to own[e], the gradients of the scores, those that come by the weights.
inline void add_weights(const Call &call, int64_t row, const float *scores, float *own) {
    const float *grad = call.grad_weights + row * call.top_k;
    const int64_t *chosen = call.chosen + row * call.top_k;
    float total = 0, towards = 0;
    for (int64_t k = 0; k < call.top_k; ++k) total += scores[chosen[k]], towards += grad[k] * scores[chosen[k]];
    const float divisor = call.normalises ? total + static_cast<float>(call.guard) : 1.0f;
    const float mean = call.normalises ? towards / divisor : 0.0f;
    for (int64_t k = 0; k < call.top_k; ++k) own[chosen[k]] += static_cast<float>(call.scale) * (grad[k] - mean) / divisor;
}

inline void backward_row(const Call &call, int64_t row, float *own) {
    const int64_t n = call.experts;
    const float *scores = call.scores + row * n;
    float *grad_logits = call.grad_logits + row * n;
    if (call.grad_scores) std::memcpy(own, call.grad_scores + row * n, static_cast<size_t>(n) * sizeof(float));
    else std::memset(own, 0, static_cast<size_t>(n) * sizeof(float));
    if (call.grad_weights) add_weights(call, row, scores, own);
    if (call.is_sigmoid)
        return for_vectors(n, [&](int64_t e, int64_t count) {
            const Floats score = load(scores + e, count);
            store(grad_logits + e, load(own + e, count) * score * (1.0f - score), count);
        });
    Floats products = zeros();
    for_vectors(n, [&](int64_t e, int64_t count) { products += load(own + e, count) * load(scores + e, count); });
    const float mean = sum(products);
    for_vectors(n, [&](int64_t e, int64_t count) {
        store(grad_logits + e, load(scores + e, count) * (load(own + e, count) - mean), count);
    });
}

// Calls task(row, whole vectors of memory for a row). 0, or 2 without memory.
template <typename Task>
int for_rows(const Call &call, const Task &task) {
    const int64_t useful = (call.rows + ROWS_OF_A_THREAD - 1) / ROWS_OF_A_THREAD;
    const int threads = static_cast<int>(call.threads < useful ? call.threads : useful);
    const int64_t stride = scratch::aligned(call.experts * 4) / 4;
    const scratch::Memory memory(threads * stride * 4);
    if (!memory.data) return 2;
    float *own = memory.at<float>(0);
#pragma omp parallel for num_threads(threads)
    for (int64_t row = 0; row < call.rows; ++row) task(row, own + scratch::thread_number() * stride);
    return 0;
}

}  // namespace router

// Both return 0, or 2 without memory.
LANES_EXPORT int router_fused_forward(const router::Call *call) {
    return router::for_rows(*call, [&](int64_t row, float *own) { router::forward_row(*call, row, own); });
}

LANES_EXPORT int router_fused_backward(const router::Call *call) {
    return router::for_rows(*call, [&](int64_t row, float *own) { router::backward_row(*call, row, own); });
}
