// Operations on single rows: root-mean-square norms, conversion for products, rotation. All in fp32, in an order that
// depends on the row's width alone.

#pragma once

#include <cmath>

#include "serving/model.h"

// Compiled once: quick to build, and the same bits wherever it is called from.
#define SERVE_ONCE __attribute__((noinline)) inline

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

SERVE_ONCE float root_mean_square(const float *x, int64_t n, float eps) {
    Floats sums = lanes::zeros();
    in_vectors(n, [&](int64_t i, int64_t count) {
        const Floats v = lanes::load_part(x + i, count);
        sums += v * v;
    });
    return std::sqrt(lanes::sum(sums) / static_cast<float>(n) + eps);
}

// to = x / rms(x) * weight; `to` may be x.
SERVE_ONCE void norm_row(const float *x, const float *weight, int64_t n, float eps, float *to) {
    const float scale = 1.0f / root_mean_square(x, n, eps);
    in_vectors(n, [&](int64_t i, int64_t count) {
        const Floats v = lanes::load_part(x + i, count) * scale * lanes::load_part(weight + i, count);
        lanes::store_part(to + i, v, count);
    });
}

inline void copy_row(const float *x, int64_t n, float *to) { std::memcpy(to, x, static_cast<size_t>(n) * sizeof(float)); }

inline void add_row(float *x, const float *bias, int64_t n) {
    if (!bias) return;
    in_vectors(n, [&](int64_t i, int64_t count) {
        lanes::store_part(x + i, lanes::load_part(x + i, count) + lanes::load_part(bias + i, count), count);
    });
}

// The largest magnitude of some numbers, and zero; NaN as the second where a number is not finite: quantised numbers have
// no way to say so but their scale.
struct Range {
    Floats most = lanes::zeros(), unusable = lanes::zeros();
    LANES_INLINE void add(Floats v) {
        most = lanes::most(most, lanes::most(v, -v));
        unusable += v * 0.0f;
    }
    LANES_INLINE float largest() const {
        float largest = 0;
        for (int i = 0; i < LANES; ++i) largest = most[i] > largest ? most[i] : largest;
        return largest;
    }
    LANES_INLINE float zero() const { return lanes::sum(unusable); }
};

// To the nearest whole number, of magnitudes below 2^22.
LANES_INLINE lanes::Ints round_whole(Floats v) {
    return lanes::bits<lanes::Ints>(v + 12582912.0f) - 0x4b400000;  // 1.5 * 2^23
}

// Writes numbers as a row for weights of FP32 or BF16 has them from `i` on, and returns what they became.
LANES_INLINE Floats put_floats(int32_t kind, Floats values, char *to, int64_t i) {
    if (kind == BF16) {
        const lanes::Halves halves = lanes::narrow(values);
        values = lanes::widen(halves);
        if (HAS_BF16_DOT) {
            std::memcpy(to + i * 2, &halves, sizeof halves);
            return values;
        }
    }
    std::memcpy(to + i * 4, &values, sizeof values);
    return values;
}

// The largest whole number of a row of INT8: of 16 bits, and so small that sums of 32 bits hold the products of n of them
// with bytes where they are not taken apart.
inline int most_of_int8(int64_t n) {
    constexpr int64_t MOST = 127 * 256;
    const int64_t that_fits = INT32_MAX / (127 * n);
    return static_cast<int>(HAS_BYTE_DOT || that_fits > MOST ? MOST : that_fits);
}

// Writes whole numbers 256 * high + low as bytes + 128, four high bytes before their four low ones.
LANES_INLINE void put_two_bytes(lanes::Ints values, char *to, int64_t at) {
    typedef uint8_t Bytes __attribute__((vector_size(LANES)));
    const lanes::Ints high = (values + 128) >> 8;
    const Bytes parts[2] = {__builtin_convertvector(high + 128, Bytes), __builtin_convertvector(values - high * 256 + 128, Bytes)};
    for (int i = 0; i < LANES; i += 4)
        for (int part = 0; part < 2; ++part)
            std::memcpy(to + (at + i) * 2 + part * 4, reinterpret_cast<const char *>(&parts[part]) + i, 4);
}

// Writes whole numbers as a row of INT8 has them from `at` on.
LANES_INLINE void put_whole(lanes::Ints values, char *to, int64_t at) {
    if (HAS_BYTE_DOT) return put_two_bytes(values, to, at);
    typedef int16_t Numbers __attribute__((vector_size(LANES * 2)));
    Numbers places{};  // 0 and 2, then 1 and 3 of each four
    for (int i = 0; i < LANES; ++i) places[i] = static_cast<int16_t>(i / 4 * 4 + i % 2 * 2 + i % 4 / 2);
    const Numbers numbers = __builtin_shuffle(__builtin_convertvector(values, Numbers), places);
    std::memcpy(to + at * 2, &numbers, sizeof numbers);
}

// Writes `count` numbers as a group, zeros behind them.
LANES_INLINE void pack_group(const float *x, int64_t count, RowGroup &to) {
    typedef int8_t Bytes __attribute__((vector_size(LANES)));
    constexpr int N = RowGroup::NUMBERS / LANES;
    Floats v[N];
    Range range;
    for (int i = 0; i < N; ++i) {
        const int64_t left = count - i * LANES;
        v[i] = left >= LANES ? lanes::load(x + i * LANES) : lanes::load_part(x + i * LANES, left < 0 ? 0 : left);
        range.add(v[i]);
    }
    const float largest = range.largest(), inverse = largest > 0 ? 127.0f / largest : 0.0f;
    lanes::Ints sums{};
    for (int i = 0; i < N; ++i) {
        const lanes::Ints values = round_whole(v[i] * inverse);
        const Bytes bytes = __builtin_convertvector(values, Bytes);
        std::memcpy(to.numbers + i * LANES, &bytes, sizeof bytes);
        sums += values;
    }
    to.scale = largest / 127.0f + range.zero();
    to.sum = 0;
    for (int i = 0; i < LANES; ++i) to.sum += sums[i];
}

// Calls put(numbers, i) for i = 0, LANES ... up to a multiple of 16, zeros behind the row.
template <typename Put>
LANES_INLINE void fill_row(const float *x, int64_t n, const Put &put) {
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) put(lanes::load(x + i), i);
    for (const int64_t end = up_to(n, HALF); i < end; i += LANES) put(lanes::load_part(x + i, n - i < 0 ? 0 : n - i), i);
}

// Writes numbers in the memory format of FP32 or BF16 weights, with zeros after them up to a multiple of 16.
SERVE_ONCE void pack_floats(int32_t kind, const float *x, int64_t n, char *to) {
    fill_row(x, n, [&](Floats v, int64_t i) {
        if (kind == BF16) lanes::store(reinterpret_cast<lanes::bf16 *>(to) + i, v);
        else lanes::store(reinterpret_cast<float *>(to) + i, v);
    });
}

// Writes a row in the form that `kind` multiplies, zeros behind it up to a multiple of 16 or to the end of a group.
SERVE_ONCE void pack_row(int32_t kind, const float *x, int64_t n, char *to, float *scale) {
    if (!is_quantised(kind)) return fill_row(x, n, [&](Floats v, int64_t i) { put_floats(kind, v, to, i); });
    if (is_grouped(kind)) {
        RowGroup *groups = reinterpret_cast<RowGroup *>(to);
        for (int64_t i = 0; i < n; i += RowGroup::NUMBERS, ++groups) pack_group(x + i, n - i, *groups);
        return;
    }
    Range range;
    in_vectors(n, [&](int64_t i, int64_t count) { range.add(lanes::load_part(x + i, count)); });
    const float most = static_cast<float>(most_of_int8(n)), largest = range.largest(), inverse = largest > 0 ? most / largest : 0.0f;
    *scale = largest / most + range.zero();
    fill_row(x, n, [&](Floats v, int64_t i) { put_whole(round_whole(v * inverse), to, i); });
}

// Turns the rotary numbers of a head by one row of cosines and sines (model/layers/attention/rotary.py: `rotate`).
SERVE_ONCE void turn_row(const Model &model, int row, float *x) {
    const int d = model.d_rotary;
    const float *cos = model.cos + static_cast<int64_t>(row) * d, *sin = model.sin + static_cast<int64_t>(row) * d;
    if (model.is_interleaved) {
        for (int i = 0; i < d; i += 2) {
            const float a = x[i], b = x[i + 1];
            x[i] = a * cos[i] - b * sin[i];
            x[i + 1] = b * cos[i + 1] + a * sin[i + 1];
        }
        return;
    }
    const int half = d / 2;
    in_vectors(half, [&](int64_t i, int64_t count) {
        const auto part = [&](const float *from, int64_t at) { return lanes::load_part(from + at, count); };
        const Floats a = part(x, i), b = part(x, i + half);
        lanes::store_part(x + i, a * part(cos, i) - b * part(sin, i), count);
        lanes::store_part(x + i + half, b * part(cos, i + half) + a * part(sin, i + half), count);
    });
}

}  // namespace serve
