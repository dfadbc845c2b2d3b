// Packs weights as serve_products.h reads them, once at load. A group of k has 4 bytes for each output in every form, so
// packing is: narrow a row, then deal its words out to the strip.

#pragma once

#include <cstdlib>

#include "serve_rows.h"

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
    Floats most = lanes::zeros(), unusable = lanes::zeros();
    in_vectors(k, [&](int64_t i, int64_t count) {
        const Floats v = lanes::load_part(x + i, count);
        most = lanes::most(most, lanes::most(v, -v));
        unusable += v * 0.0f;
    });
    float largest = 0;
    for (int i = 0; i < LANES; ++i) largest = most[i] > largest ? most[i] : largest;
    const float scale = largest / 127.0f, divisor = scale > 0 ? scale : 1.0f;
    lanes::Ints sums{};
    typedef int8_t Bytes __attribute__((vector_size(LANES)));
    in_vectors(k, [&](int64_t i, int64_t count) {
        const Floats rounded = lanes::load_part(x + i, count) / divisor + 12582912.0f;  // 1.5 * 2^23: to integers
        const lanes::Ints values = lanes::bits<lanes::Ints>(rounded) - 0x4b400000;
        const Bytes bytes = __builtin_convertvector(values, Bytes);
        std::memcpy(to + i, &bytes, static_cast<size_t>(count));
        sums += values;
    });
    *sum = 0;
    for (int i = 0; i < LANES; ++i) *sum += sums[i];
    return scale + lanes::sum(unusable);
}

// Packs into the memory that `matrix` points to, which is zero. False where there is no working memory.
inline bool pack_matrix(const Matrix &matrix, const Source &source) {
    const int k = matrix.k, group = group_of(matrix.kind);
    const int64_t n_groups = (k + group - 1) / group, row_bytes = up_to(n_groups, HALF) * 4;  // `pack_row` fills vectors
    char *memory = static_cast<char *>(std::calloc(1, static_cast<size_t>(up_to(k * 4, 64) + STRIP * row_bytes)));
    if (!memory) return false;
    float *wide = reinterpret_cast<float *>(memory);
    char *rows = memory + up_to(k * 4, 64);
    for (int strip = 0; strip < matrix.strips(); ++strip) {
        for (int i = 0; i < STRIP; ++i) {
            char *to = rows + i * row_bytes;
            const void *from = source.row(strip, i, k);
            if (!from) {
                std::memset(to, 0, static_cast<size_t>(row_bytes));
                continue;
            }
            if (source.is_bf16) widen_row(static_cast<const lanes::bf16 *>(from), k, wide);
            else copy_row(static_cast<const float *>(from), k, wide);
            if (!is_scaled(matrix.kind)) pack_row(matrix.kind, wide, k, to, nullptr);
            else {
                int32_t sum;
                const_cast<float *>(matrix.scales)[strip * STRIP + i] = quantise_row(wide, k, reinterpret_cast<int8_t *>(to), &sum);
                const_cast<int32_t *>(matrix.starts)[strip * STRIP + i] = -128 * sum;
            }
        }
        uint32_t *dealt = reinterpret_cast<uint32_t *>(const_cast<char *>(matrix.data) + strip * matrix.strip_bytes());
        const uint32_t *words = reinterpret_cast<const uint32_t *>(rows);
        for (int64_t g = 0; g < n_groups; ++g)
            for (int i = 0; i < STRIP; ++i) dealt[g * STRIP + i] = words[i * (row_bytes / 4) + g];
    }
    std::free(memory);
    return true;
}

}  // namespace serve
