// Packs weights as serving/products.h reads them, once at load: each row of a strip is narrowed, then its words of 4 bytes
// are dealt out to the strip, which has a word of every output in turn; for INT4 scales and least numbers follow.

#pragma once

#include <cstdlib>

#include "serving/rows.h"

namespace serve {

// [N, K] row-major in fp32 or bf16. With `second` a strip is 16 rows of the first, then 16 of the second (gate and up).
struct Source {
    const void *first, *second;
    int32_t n_rows;  // of each
    int32_t is_bf16;
    const void *row(int strip, int i, int k) const {
        const int index = second ? strip * HALF + i % HALF : strip * STRIP + i;
        if (index >= n_rows) return nullptr;
        const char *from = static_cast<const char *>(second && i >= HALF ? second : first);
        return from + static_cast<int64_t>(index) * k * (is_bf16 ? 2 : 4);
    }
};

inline void widen_row(const lanes::bf16 *x, int64_t n, float *to) {
    in_vectors(n, [&](int64_t i, int64_t count) { lanes::store_part(to + i, lanes::load_part(x + i, count), count); });
}

// The numbers as bytes of one scale: the largest magnitude is 127. Returns the scale and the sum of the bytes.
inline float quantise_row(const float *x, int k, int8_t *to, int32_t *sum) {
    Range range;
    in_vectors(k, [&](int64_t i, int64_t count) { range.add(lanes::load_part(x + i, count)); });
    const float scale = range.largest() / 127.0f, divisor = scale > 0 ? scale : 1.0f;
    lanes::Ints sums{};
    typedef int8_t Bytes __attribute__((vector_size(LANES)));
    in_vectors(k, [&](int64_t i, int64_t count) {
        const lanes::Ints values = round_whole(lanes::load_part(x + i, count) / divisor);
        const Bytes bytes = __builtin_convertvector(values, Bytes);
        std::memcpy(to + i, &bytes, static_cast<size_t>(count));
        sums += values;
    });
    *sum = 0;
    for (int i = 0; i < LANES; ++i) *sum += sums[i];
    return scale + range.zero();
}

// Up to 32 numbers as 16 bytes of two halves each, 0 the least and 15 the largest of them.
inline void quantise_group(const float *x, int count, char *to, lanes::bf16 *scale, lanes::bf16 *least) {
    float low = x[0], high = x[0], unusable = 0;
    for (int i = 0; i < count; ++i) {
        low = x[i] < low ? x[i] : low;
        high = x[i] > high ? x[i] : high;
        unusable += x[i] * 0.0f;
    }
    *least = lanes::narrow(low);
    *scale = lanes::narrow((high - lanes::widen(*least)) / 15.0f + unusable);
    const float start = lanes::widen(*least), step = lanes::widen(*scale), inverse = step > 0 ? 1.0f / step : 0.0f;
    for (int i = 0; i < count; ++i) {
        const float steps = (x[i] - start) * inverse + 0.5f;
        const int number = steps > 15.0f ? 15 : steps > 0.0f ? static_cast<int>(steps) : 0;
        to[i / 8 * 4 + i % 4] = static_cast<char>(to[i / 8 * 4 + i % 4] | number << (i % 8 / 4 * 4));
    }
}

// One row of a strip: its words into `to`, which is zero, its scales into the matrix.
inline void quantise(const Matrix &matrix, int strip, int i, const float *x, char *to) {
    if (matrix.kind == INT4) {
        const int64_t numbers_bytes = STRIP * RowGroup::NUMBERS / 2;
        char *group = const_cast<char *>(matrix.data) + strip * matrix.strip_bytes();
        for (int k = 0; k < matrix.k; k += RowGroup::NUMBERS, group += group_bytes_of(INT4), to += RowGroup::NUMBERS / 2) {
            lanes::bf16 *scales = reinterpret_cast<lanes::bf16 *>(group + numbers_bytes) + i;
            const int left = matrix.k - k;
            quantise_group(x + k, left < RowGroup::NUMBERS ? left : RowGroup::NUMBERS, to, scales, scales + STRIP);
        }
        return;
    }
    int32_t sum;
    const_cast<float *>(matrix.scales)[strip * STRIP + i] = quantise_row(x, matrix.k, reinterpret_cast<int8_t *>(to), &sum);
    if (matrix.kind == INT8) const_cast<int32_t *>(matrix.starts)[strip * STRIP + i] = -128 * sum;
    else
        for (int k = 0; k < matrix.k; ++k) to[k] = static_cast<char>(to[k] ^ 0x80);  // the number + 128
}

// Of 4 bytes, that a group has for each output.
inline int64_t words_of(int32_t kind) { return kind == INT4 ? 4 : kind == INT8_DYNAMIC ? 8 : 1; }

// Packs into the memory that `matrix` points to, which is zero. False where there is no working memory.
inline bool pack_matrix(const Matrix &matrix, const Source &source) {
    const int k = matrix.k;
    const int64_t words = words_of(matrix.kind), row_bytes = up_to(matrix.n_groups() * words, HALF) * 4;  // `pack_floats` fills vectors
    char *memory = static_cast<char *>(std::calloc(1, static_cast<size_t>(up_to(k * 4, 64) + STRIP * row_bytes)));
    if (!memory) return false;
    float *wide = reinterpret_cast<float *>(memory);
    char *rows = memory + up_to(k * 4, 64);
    for (int strip = 0; strip < matrix.strips(); ++strip) {
        std::memset(rows, 0, static_cast<size_t>(STRIP * row_bytes));
        for (int i = 0; i < STRIP; ++i) {
            char *to = rows + i * row_bytes;
            const void *from = source.row(strip, i, k);
            if (!from) continue;
            if (source.is_bf16 && matrix.kind == BF16) {  // as it is: narrowing would flush the smallest numbers
                std::memcpy(to, from, static_cast<size_t>(k) * sizeof(lanes::bf16));
                continue;
            }
            if (source.is_bf16) widen_row(static_cast<const lanes::bf16 *>(from), k, wide);
            else copy_row(static_cast<const float *>(from), k, wide);
            if (is_quantised(matrix.kind)) quantise(matrix, strip, i, wide, to);
            else pack_floats(matrix.kind, wide, k, to);
        }
        char *to = const_cast<char *>(matrix.data) + strip * matrix.strip_bytes();
        const uint32_t *from = reinterpret_cast<const uint32_t *>(rows);
        for (int g = 0; g < matrix.n_groups(); ++g, to += group_bytes_of(matrix.kind)) {
            uint32_t *dealt = reinterpret_cast<uint32_t *>(to);
            for (int64_t word = g * words; word < (g + 1) * words; ++word)
                for (int i = 0; i < STRIP; ++i) *dealt++ = from[i * (row_bytes / 4) + word];
        }
    }
    std::free(memory);
    return true;
}

// A row of a packed matrix of FP32 or BF16, in fp32.
inline void unpack_row(const Matrix &matrix, int index, float *to) {
    const char *from = matrix.data + index / STRIP * matrix.strip_bytes() + index % STRIP * 4;
    const int numbers = group_of(matrix.kind);
    for (int i = 0; i < matrix.k; i += numbers, from += group_bytes_of(matrix.kind)) {
        if (matrix.kind == FP32) {
            std::memcpy(to + i, from, sizeof(float));
            continue;
        }
        lanes::bf16 pair[2];
        std::memcpy(pair, from, sizeof pair);
        to[i] = lanes::widen(pair[0]);
        if (i + 1 < matrix.k) to[i + 1] = lanes::widen(pair[1]);
    }
}

}  // namespace serve
