// Cross-entropy of rows of logits, and in their place the gradient by them, for `model/training/losses/cross_entropy_fused.py`.
//
// A row is read twice while it is in the cache: for its largest number and for its exponentials, which the gradient is a
// multiple of. A row is summed in a fixed order, which depends on neither the other rows nor the number of threads.

#include <cmath>

#include "lanes.h"
#include "scratch.h"

namespace loss {

using namespace lanes;
using scratch::Memory;

// Arrays are whole and in C order: N rows of V logits.
struct Call {
    int64_t rows, vocabulary, threads;
    int64_t ignored;         // the target of rows that are not scored
    double z_weight;         // of the squared logarithm of a row's sum
    int64_t wants_gradient;  // by the logits, which it then takes the place of
    void *logits;            // [N, V]
    const int64_t *targets;  // [N]
    float *losses;           // [N]
};

template <typename T>
float largest_of(const T *row, int64_t count) {
    Floats tops = all(-__builtin_inff());
    for_vectors(count, [&](int64_t at, int64_t n) {
        const Floats numbers = load(row + at, n);
        if (n == LANES) tops = most(numbers, tops);
        else
            for (int64_t i = 0; i < n; ++i) tops[0] = numbers[i] > tops[0] ? numbers[i] : tops[0];
    });
    return largest(tops);
}

constexpr int64_t BLOCK = 1024;  // numbers that are summed before their sum is added to the row's, which rounds less

// The logarithm of the row's sum of exponentials. What is summed, each over that of the largest number, goes to `powers`.
template <typename T>
float log_sum_of(const T *row, int64_t count, float top, float *powers) {
    float whole = 0;
    for (int64_t first = 0; first < count; first += BLOCK) {
        Floats part = zeros();
        float rest = 0;
        for_vectors(count - first < BLOCK ? count - first : BLOCK, [&](int64_t at, int64_t n) {
            const Floats power = exponential(load(row + first + at, n) - top);
            if (powers) store(powers + first + at, power, n);
            if (n == LANES) part += power;
            else
                for (int64_t i = 0; i < n; ++i) rest += power[i];
        });
        whole += sum(part) + rest;
    }
    return top + std::log(whole);
}

// `powers` has room for a row; it is null where no gradient is wanted.
template <typename T>
float score(const Call &call, T *row, int64_t target, float *powers) {
    if (target == call.ignored) {
        if (powers) std::memset(row, 0, static_cast<size_t>(call.vocabulary) * sizeof(T));
        return 0;
    }
    const float top = largest_of(row, call.vocabulary), z = static_cast<float>(call.z_weight);
    const float log_sum = log_sum_of(row, call.vocabulary, top, powers);
    const float of_target = load_part(row + target, 1)[0];
    const float loss = log_sum - of_target + z * log_sum * log_sum;
    if (!powers) return loss;
    const float scale = 1 + 2 * z * log_sum, factor = scale * std::exp(top - log_sum);
    for_vectors(call.vocabulary, [&](int64_t at, int64_t n) { store(row + at, factor * load(powers + at, n), n); });
    store_part(row + target, all(scale * std::exp(of_target - log_sum) - 1), 1);
    return loss;
}

// 0, or 1 where a target is not in the vocabulary, or 2 without memory; nothing has been changed then.
template <typename T>
int score_rows(const Call &call) {
    for (int64_t i = 0; i < call.rows; ++i)
        if (call.targets[i] != call.ignored && (call.targets[i] < 0 || call.targets[i] >= call.vocabulary)) return 1;
    const int64_t row = call.wants_gradient ? scratch::aligned(call.vocabulary * 4) : 0;
    const Memory powers(call.threads * row);
    if (!powers.data) return 2;
#pragma omp parallel for num_threads(static_cast<int>(call.threads))
    for (int64_t i = 0; i < call.rows; ++i)
        call.losses[i] = score(call, static_cast<T *>(call.logits) + i * call.vocabulary, call.targets[i],
                               row ? powers.at<float>(scratch::thread_number() * row) : nullptr);
    return 0;
}

}  // namespace loss

LANES_EXPORT int loss_fused_score(const loss::Call *call, int is_bf16) {
    return is_bf16 ? loss::score_rows<lanes::bf16>(*call) : loss::score_rows<float>(*call);
}
