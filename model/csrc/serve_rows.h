// What is done to single rows: root-mean-square norms, the form that weights multiply, rotation. All in fp32, in an
// order that depends on the row's width alone. Knows nothing of layers.

#pragma once

#include <cmath>

#include "serve_model.h"

namespace serve {

using lanes::Floats;
using lanes::LANES;

// each(i, count) for i = 0, LANES ...: `count` is LANES but at the end.
template <typename Each>
LANES_INLINE void in_vectors(int64_t n, const Each &each) {
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) each(i, static_cast<int64_t>(LANES));
    if (i < n) each(i, n - i);
}

inline float root_mean_square(const float *x, int64_t n, float eps) {
    Floats sums = lanes::zeros();
    in_vectors(n, [&](int64_t i, int64_t count) {
        const Floats v = lanes::load_part(x + i, count);
        sums += v * v;
    });
    return std::sqrt(lanes::sum(sums) / static_cast<float>(n) + eps);
}

// to = x / rms(x) * weight; `to` may be x.
inline void norm_row(const float *x, const float *weight, int64_t n, float eps, float *to) {
    const float scale = 1.0f / root_mean_square(x, n, eps);
    in_vectors(n, [&](int64_t i, int64_t count) {
        const Floats v = lanes::load_part(x + i, count) * scale * lanes::load_part(weight + i, count);
        lanes::store_part(to + i, v, count);
    });
}

inline void add_row(float *x, const float *bias, int64_t n) {
    if (!bias) return;
    in_vectors(n, [&](int64_t i, int64_t count) {
        lanes::store_part(x + i, lanes::load_part(x + i, count) + lanes::load_part(bias + i, count), count);
    });
}

// Writes a row in the form of `kind`, zeros behind it up to a multiple of 16.
inline void pack_row(int32_t kind, const float *x, int64_t n, char *to, float *scale) {
    const int64_t n_filled = up_to(n, HALF);
    if (kind == FP32) {
        std::memcpy(to, x, static_cast<size_t>(n) * sizeof(float));
        std::memset(to + n * 4, 0, static_cast<size_t>(n_filled - n) * 4);
        return;
    }
    if (kind != INT8_DYNAMIC) {
        lanes::bf16 *numbers = reinterpret_cast<lanes::bf16 *>(to);
        in_vectors(n, [&](int64_t i, int64_t count) { lanes::store_part(numbers + i, lanes::load_part(x + i, count), count); });
        std::memset(numbers + n, 0, static_cast<size_t>(n_filled - n) * 2);
        return;
    }
    Floats most = lanes::zeros(), unusable = lanes::zeros();
    in_vectors(n, [&](int64_t i, int64_t count) {
        const Floats v = lanes::load_part(x + i, count);
        most = lanes::most(most, lanes::most(v, -v));
        unusable += v * 0.0f;  // NaN where a number is not finite: the row's products must say so
    });
    float largest = 0;
    for (int i = 0; i < LANES; ++i) largest = most[i] > largest ? most[i] : largest;
    *scale = largest / 127.0f + lanes::sum(unusable);
    const float inverse = largest > 0 ? 127.0f / largest : 0.0f;
    typedef uint8_t Bytes __attribute__((vector_size(LANES)));
    in_vectors(n, [&](int64_t i, int64_t count) {
        const Floats v = lanes::load_part(x + i, count) * inverse + 12582912.0f;  // 1.5 * 2^23: rounds to integers
        const Bytes bytes = __builtin_convertvector(lanes::bits<lanes::Ints>(v) + 128, Bytes);
        std::memcpy(to + i, &bytes, static_cast<size_t>(count));
    });
    std::memset(to + n, 128, static_cast<size_t>(n_filled - n));
}

// Turns d numbers by one row of cosines and sines (model/layers/rotary.py: `rotate`).
inline void turn_row(float *x, const float *cos, const float *sin, int d, bool is_interleaved) {
    const int first = is_interleaved ? 2 : 1, second = is_interleaved ? 1 : d / 2;
    for (int i = 0; i < d / 2; ++i) {
        float &a = x[i * first], &b = x[i * first + second];
        const float turned = a * cos[i * first] - b * sin[i * first];
        b = b * cos[i * first + second] + a * sin[i * first + second];
        a = turned;
    }
}

}  // namespace serve
