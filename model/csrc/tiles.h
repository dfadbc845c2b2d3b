// Products of rows with columns, a tile at a time, and the panels that columns are packed into.
//
// A unit is 32 bits along the summed dimension: one fp32 number; two bf16 numbers where the processor multiplies such
// pairs, else one of them widened. So a panel of COLUMNS columns is [units][COLUMNS] words in all formats, and packing and
// transposing are the same code. Sums are fp32. Two ways lead to the same tile of results:
//   product_tile  columns packed into a panel, rows broadcast: no sums over lanes, pays from a few rows on
//   dot_tile      columns read in place, sums over lanes at the end: every number is read once, nothing is copied
// In both, what one row and one column give does not depend on the other rows and columns of the tile.

#pragma once

#include <type_traits>

#include "lanes.h"

namespace tiles {

using namespace lanes;

constexpr int ROWS = 6, VECTORS = 4;
constexpr int COLUMNS = VECTORS * LANES;
constexpr int DOT_COLUMNS = 4;
#if defined(LANES_AVX512) || defined(__aarch64__)
constexpr int TOGETHER = VECTORS, DOT_ROWS = 4;  // vectors of a panel that are multiplied at a time: 24 of 32 registers are sums
#else
constexpr int TOGETHER = 2, DOT_ROWS = 2;  // 12 of 16
#endif
// In which formats kernels made of these tiles are faster than torch's: 1 for fp32, 2 for bf16.
#if defined(__AVX2__)
constexpr int FAST_FORMATS = 3;
#else
constexpr int FAST_FORMATS = 0;
#endif
constexpr int64_t SINK_AHEAD = 2 * ROWS;  // rows between one that is finished and one whose other operands are fetched
constexpr int64_t FETCHED = 16 << 10;  // bytes between what is read and what is fetched meanwhile
static_assert(COLUMNS % DOT_COLUMNS == 0, "dot_tile fills a tile in whole groups of columns");

#if defined(LANES_BF16_DOT)
constexpr bool IS_WIDENED = false;  // bf16 numbers, before they are multiplied
#else
constexpr bool IS_WIDENED = true;
#endif

template <typename T>
constexpr int64_t PER_WORD = 4 / sizeof(T);
template <typename T>
constexpr int64_t PER_UNIT = IS_WIDENED ? 1 : PER_WORD<T>;
// What units hold.
template <typename T>
using Unit = std::conditional_t<IS_WIDENED, float, T>;

template <typename T>
constexpr int64_t units(int64_t count) {
    return (count + PER_UNIT<T> - 1) / PER_UNIT<T>;
}

// Asks memory for `count` numbers that will be read or written soon; they need not exist.
template <typename T>
LANES_INLINE void fetch(const T *from, int64_t count) {
    for (int64_t i = 0; i < count; i += 64 / static_cast<int64_t>(sizeof(T))) __builtin_prefetch(from + i);
}

LANES_INLINE Words load_words(const float *from) { return bits<Words>(load(from)); }
LANES_INLINE Words load_words(const bf16 *from) { return load_pairs(from); }
LANES_INLINE Words load_words_part(const float *from, int64_t count) { return bits<Words>(load_part(from, count)); }
LANES_INLINE Words load_words_part(const bf16 *from, int64_t count) { return load_pairs_part(from, count); }

// LANES units: LANES * PER_UNIT numbers, of which the first `count` are there.
template <typename T>
LANES_INLINE Words load_units(const T *from, int64_t count) {
    constexpr int64_t WIDTH = LANES * PER_UNIT<T>;
    if constexpr (IS_WIDENED) return bits<Words>(load(from, count));
    else return count == WIDTH ? load_words(from) : load_words_part(from, count);
}

// sum + a * b; the pointer only says of which format the words are.
LANES_INLINE Floats add(const float *, Floats sum, Words a, Words b) {
    return sum + bits<Floats>(a) * bits<Floats>(b);
}
LANES_INLINE Floats add(const bf16 *, Floats sum, Words a, Words b) { return add_products(sum, a, b); }

// out[r][c] = rows[r] . column c of the panel, over k numbers and TOGETHER * LANES columns; a row's units are `step`
// units apart. A row whose k ends within a unit is not read beyond its end. With `adds` to what is there.
template <typename T, int R>
__attribute__((noinline)) void product_tile(const T *const *rows, int64_t step, int64_t k, const uint32_t *panel, bool adds,
                                            float *out) {
    const T *format = nullptr;
    Floats sums[R][TOGETHER];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < TOGETHER; ++v) sums[r][v] = adds ? load(out + r * COLUMNS + v * LANES) : zeros();
    const T *row[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) row[r] = rows[r];
    const int64_t stride = step * PER_WORD<T>, whole = k / PER_WORD<T>;
    const auto add_unit = [&](const uint32_t(&unit)[R]) {
        Words b[TOGETHER];
#pragma GCC unroll 8
        for (int v = 0; v < TOGETHER; ++v) std::memcpy(&b[v], panel + v * LANES, sizeof b[v]);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            const Words a = held(Words{} + unit[r]);
#pragma GCC unroll 8
            for (int v = 0; v < TOGETHER; ++v) sums[r][v] = add(format, sums[r][v], a, b[v]);
        }
        panel += COLUMNS;
    };
    uint32_t unit[R];
#pragma GCC unroll 2  // alone, a unit's loop is up to 8 % slower on Zen 3 by where the linker puts it
    for (int64_t u = 0; u < whole; ++u) {
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) std::memcpy(&unit[r], row[r] + u * stride, sizeof unit[r]);
        add_unit(unit);
    }
    if (k % PER_WORD<T>) {
        for (int r = 0; r < R; ++r) {
            unit[r] = 0;
            std::memcpy(&unit[r], row[r] + whole * stride, sizeof(T));
        }
        add_unit(unit);
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < TOGETHER; ++v) store(out + r * COLUMNS + v * LANES, sums[r][v]);
}

// out[r][c] = rows[r] . columns[c] over k numbers, for R <= DOT_ROWS rows and DOT_COLUMNS columns. As much memory
// is prefetched from `ahead` on into the L2 cache, in its own order: hardware does not prefetch four streams at once, and
// prefetching into the L1 cache is slower.
template <typename T, int R>
__attribute__((noinline)) void dots(const T *const *rows, const T *const *columns, int64_t k, const T *ahead,
                                    float *out) {
    const T *format = nullptr;
    constexpr int64_t WIDTH = LANES * PER_WORD<T>;
    Floats sums[R][DOT_COLUMNS];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int c = 0; c < DOT_COLUMNS; ++c) sums[r][c] = zeros();
    const char *fetched = reinterpret_cast<const char *>(ahead);
    int64_t i = 0;
    for (; i + WIDTH <= k; i += WIDTH) {
        Words b[DOT_COLUMNS];
#pragma GCC unroll 4
        for (int c = 0; c < DOT_COLUMNS; ++c) {
            b[c] = held(load_words(columns[c] + i));
            __builtin_prefetch(fetched + c * 64, 0, 2);
        }
        fetched += DOT_COLUMNS * 64;
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) {
            const Words a = held(load_words(rows[r] + i));
#pragma GCC unroll 4
            for (int c = 0; c < DOT_COLUMNS; ++c) sums[r][c] = add(format, sums[r][c], a, b[c]);
        }
    }
    if (i < k)
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) {
            const Words a = load_words_part(rows[r] + i, k - i);
#pragma GCC unroll 4
            for (int c = 0; c < DOT_COLUMNS; ++c)
                sums[r][c] = add(format, sums[r][c], a, load_words_part(columns[c] + i, k - i));
        }
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) sum4(sums[r], out + r * COLUMNS);
}

// The tile of n <= ROWS rows of units with all COLUMNS columns of a packed panel, by `product_tile`.
template <typename T>
void product_of_units(int n, const T *const *rows, int64_t step, int64_t k, const uint32_t *panel, bool adds, float *out) {
    static_assert(ROWS == 6, "a case for each number of rows");
    for (int c = 0; c < COLUMNS; c += TOGETHER * LANES) switch (n) {
            case 1: product_tile<T, 1>(rows, step, k, panel + c, adds, out + c); break;
            case 2: product_tile<T, 2>(rows, step, k, panel + c, adds, out + c); break;
            case 3: product_tile<T, 3>(rows, step, k, panel + c, adds, out + c); break;
            case 4: product_tile<T, 4>(rows, step, k, panel + c, adds, out + c); break;
            case 5: product_tile<T, 5>(rows, step, k, panel + c, adds, out + c); break;
            case 6: product_tile<T, 6>(rows, step, k, panel + c, adds, out + c); break;
        }
}

constexpr int64_t WIDENED = 512;  // numbers of each row, which stay in the first cache

// k numbers as fp32, whole vectors of them.
template <typename T>
LANES_INLINE void widen(const T *from, int64_t k, float *to) {
    for_vectors(k, [&](int64_t i, int64_t several) { store(to + i, load(from + i, several)); });
}

// The same of rows as they are in memory.
template <typename T>
void product_of(int n, const T *const *rows, int64_t k, const uint32_t *panel, float *out) {
    if constexpr (std::is_same_v<T, Unit<T>>) return product_of_units(n, rows, 1, k, panel, false, out);
    else {
        alignas(64) float wide[ROWS][WIDENED];
        const float *begin[ROWS];
        for (int r = 0; r < n; ++r) begin[r] = wide[r];
        for (int64_t at = 0; at < k; at += WIDENED) {
            const int64_t count = k - at < WIDENED ? k - at : WIDENED;
            for (int r = 0; r < n; ++r) widen(rows[r] + at, count, wide[r]);
            product_of_units(n, begin, 1, count, panel + at * COLUMNS, at > 0, out);
        }
    }
}

// The tile of n <= DOT_ROWS rows with all COLUMNS columns; `next` are the columns after these.
template <typename T>
void dot_tile(int n, const T *const *rows, const T *const *columns, const T *const *next, int64_t k, float *out) {
    const int64_t groups = 1 + FETCHED / (DOT_COLUMNS * k * static_cast<int64_t>(sizeof(T)));
    const int64_t distance = DOT_COLUMNS * groups < COLUMNS ? DOT_COLUMNS * groups : COLUMNS;
    for (int64_t c = 0; c < COLUMNS; c += DOT_COLUMNS) {
        const T *ahead = c + distance < COLUMNS ? columns[c + distance] : next[c + distance - COLUMNS];
        switch (n) {
            case 1: dots<T, 1>(rows, columns + c, k, ahead, out + c); break;
            case 2: dots<T, 2>(rows, columns + c, k, ahead, out + c); break;
#if defined(LANES_AVX512) || defined(__aarch64__)
            case 3: dots<T, 3>(rows, columns + c, k, ahead, out + c); break;
            case 4: dots<T, 4>(rows, columns + c, k, ahead, out + c); break;
#endif
        }
    }
}

// LANES vectors of LANES words, transposed in place.
LANES_INLINE void transpose(Words *v) {
#if defined(LANES_AVX512)
    __m512i a[16], b[16];
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {  // pairs of rows, words side by side
        a[2 * i] = _mm512_unpacklo_epi32(bits<__m512i>(v[2 * i]), bits<__m512i>(v[2 * i + 1]));
        a[2 * i + 1] = _mm512_unpackhi_epi32(bits<__m512i>(v[2 * i]), bits<__m512i>(v[2 * i + 1]));
    }
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) {  // fours of rows: b[i + j] has column 4 * q + j in its quarter q
        b[i] = _mm512_unpacklo_epi64(a[i], a[i + 2]);
        b[i + 1] = _mm512_unpackhi_epi64(a[i], a[i + 2]);
        b[i + 2] = _mm512_unpacklo_epi64(a[i + 1], a[i + 3]);
        b[i + 3] = _mm512_unpackhi_epi64(a[i + 1], a[i + 3]);
    }
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {  // a 4 x 4 transpose of quarters
        const __m512i p = _mm512_shuffle_i32x4(b[j], b[j + 4], 0x44), q = _mm512_shuffle_i32x4(b[j], b[j + 4], 0xee);
        const __m512i r = _mm512_shuffle_i32x4(b[j + 8], b[j + 12], 0x44);
        const __m512i s = _mm512_shuffle_i32x4(b[j + 8], b[j + 12], 0xee);
        v[j] = bits<Words>(_mm512_shuffle_i32x4(p, r, 0x88));
        v[j + 4] = bits<Words>(_mm512_shuffle_i32x4(p, r, 0xdd));
        v[j + 8] = bits<Words>(_mm512_shuffle_i32x4(q, s, 0x88));
        v[j + 12] = bits<Words>(_mm512_shuffle_i32x4(q, s, 0xdd));
    }
#elif defined(__AVX2__)
    __m256i a[8], b[8];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {  // as above
        a[2 * i] = _mm256_unpacklo_epi32(bits<__m256i>(v[2 * i]), bits<__m256i>(v[2 * i + 1]));
        a[2 * i + 1] = _mm256_unpackhi_epi32(bits<__m256i>(v[2 * i]), bits<__m256i>(v[2 * i + 1]));
    }
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4) {  // b[i + j] has column 4 * q + j in its half q
        b[i] = _mm256_unpacklo_epi64(a[i], a[i + 2]);
        b[i + 1] = _mm256_unpackhi_epi64(a[i], a[i + 2]);
        b[i + 2] = _mm256_unpacklo_epi64(a[i + 1], a[i + 3]);
        b[i + 3] = _mm256_unpackhi_epi64(a[i + 1], a[i + 3]);
    }
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
        v[j] = bits<Words>(_mm256_permute2x128_si256(b[j], b[j + 4], 0x20));
        v[j + 4] = bits<Words>(_mm256_permute2x128_si256(b[j], b[j + 4], 0x31));
    }
#else
    for (int i = 0; i < LANES; ++i)
        for (int j = 0; j < i; ++j) {
            const uint32_t word = v[i][j];
            v[i][j] = v[j][i];
            v[j][i] = word;
        }
#endif
}

// A panel of COLUMNS columns, each k numbers side by side where its pointer says.
template <typename T>
void pack_columns(const T *const *columns, int64_t k, uint32_t *panel) {
    constexpr int64_t WIDTH = LANES * PER_UNIT<T>;
    for (int64_t i = 0; i < k; i += WIDTH, panel += LANES * COLUMNS) {
        const int64_t count = k - i < WIDTH ? k - i : WIDTH;
        for (int v = 0; v < VECTORS; ++v) {
            Words block[LANES];
            const T *const *from = columns + v * LANES;
            if (count == WIDTH)
#pragma GCC unroll 16
                for (int c = 0; c < LANES; ++c) block[c] = load_units(from[c] + i, WIDTH);
            else
#pragma GCC unroll 16
                for (int c = 0; c < LANES; ++c) block[c] = load_units(from[c] + i, count);
            transpose(block);
            for (int64_t u = 0; u < units<T>(count); ++u)
                std::memcpy(panel + u * COLUMNS + v * LANES, &block[u], sizeof block[u]);
        }
    }
}

// Where a row begins that `pack_left` packed.
template <typename T>
LANES_INLINE const Unit<T> *packed_row(const uint32_t *words) {
    return reinterpret_cast<const Unit<T> *>(words);
}

// Of such rows, of `n_units` units.
template <typename T>
void product_of_packed(int n, const Unit<T> *const *rows, int64_t n_units, const uint32_t *panel, float *out) {
    product_of_units(n, rows, ROWS, n_units * PER_UNIT<T>, panel, false, out);
}

// Vector v of COLUMNS numbers of which `count` are there.
template <typename T>
LANES_INLINE Floats load_at(const T *from, int v, int64_t count) {
    const int64_t left = count - v * LANES;
    return left >= LANES ? load(from + v * LANES) : left > 0 ? load_part(from + v * LANES, left) : zeros();
}

template <typename T>
LANES_INLINE void store_at(T *to, int v, int64_t count, Floats values) {
    const int64_t left = count - v * LANES;
    if (left >= LANES)
        store(to + v * LANES, values);
    else if (left > 0)
        store_part(to + v * LANES, values, left);
}

// Unit `u` of k rows, of each column: a number of one row, or of two where units are pairs.
template <typename T>
struct UnitOfRows {
    const T *first, *second;  // null: zeros

    template <typename Row>
    UnitOfRows(Row row, int64_t u, int64_t k)
        : first(row(u * PER_UNIT<T>)), second(PER_UNIT<T> == 2 && 2 * u + 1 < k ? row(2 * u + 1) : nullptr) {}

    // LANES columns from `at` on; where fewer than that are left, or none at all, the others are zero.
    LANES_INLINE Words at(int64_t at, int64_t left) const {
        const int64_t count = left < LANES ? left : LANES;
        if (count <= 0) return Words{};
        if constexpr (PER_UNIT<T> == 1) return bits<Words>(load(first + at, count));
        else {
            const auto half = [&](const T *row) {
                return row ? __builtin_convertvector(load_halves(row + at, count), Words) : Words{};
            };
            return half(first) | half(second) << 16;
        }
    }
};

// A panel whose units are those of k rows, of which the first `count` <= COLUMNS columns are there.
template <typename T, typename Row>
void pack_rows(const T *, Row row, int64_t k, int64_t count, uint32_t *panel) {
    for (int64_t u = 0; u < units<T>(k); ++u, panel += COLUMNS) {
        const UnitOfRows<T> unit(row, u, k);
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; ++v) {
            const Words words = unit.at(v * LANES, count - v * LANES);
            std::memcpy(panel + v * LANES, &words, sizeof words);
        }
    }
}

template <typename T>
constexpr int64_t panel_bytes(int64_t k) {
    return units<T>(k) * COLUMNS * 4;
}

// Columns first .. first + count of k rows as rows of tiles: [blocks of ROWS columns][units of k][ROWS] words; columns
// that fill up the last block are zero. A few units at a time, so that both sides stay within a page or two.
constexpr int64_t LEFT_UNITS = 8, LEFT_COLUMNS = 96;

// fp32 numbers go straight to their places, which makes experts' gradients 1.03 times as fast.
template <typename Row>
void pack_left(const float *, Row row, int64_t k, int64_t first, int64_t count, uint32_t *packed) {
    for (int64_t start = 0; start < k; start += LEFT_UNITS) {
        const int64_t end = start + LEFT_UNITS < k ? start + LEFT_UNITS : k;
        uint32_t *to = packed + start * ROWS;
        for (int64_t m = 0; m < count; m += ROWS, to += k * ROWS)
            for (int64_t i = start; i < end; ++i) {
                float values[ROWS] = {};
                const float *from = row(i) + first + m;
                if (count - m >= ROWS)
                    std::memcpy(values, from, sizeof values);
                else
                    std::memcpy(values, from, static_cast<size_t>(count - m) * sizeof(float));
                std::memcpy(to + (i - start) * ROWS, values, sizeof values);
            }
    }
}

template <typename T, typename Row>
void pack_left(const T *, Row row, int64_t k, int64_t first, int64_t count, uint32_t *packed) {
    static_assert(LEFT_COLUMNS % ROWS == 0 && LEFT_COLUMNS % LANES == 0, "whole blocks and vectors");
    const int64_t n_units = units<T>(k);
    uint32_t words[LEFT_UNITS][LEFT_COLUMNS];
    for (int64_t start = 0; start < n_units; start += LEFT_UNITS)
        for (int64_t column = 0; column < count; column += LEFT_COLUMNS) {
            const int64_t height = n_units - start < LEFT_UNITS ? n_units - start : LEFT_UNITS;
            const int64_t width = count - column < LEFT_COLUMNS ? count - column : LEFT_COLUMNS;
            for (int64_t i = 0; i < height; ++i) {
                const UnitOfRows<T> unit(row, start + i, k);
                for (int64_t c = 0; c < LEFT_COLUMNS; c += LANES) {
                    const Words of_columns = unit.at(first + column + c, width - c);
                    std::memcpy(words[i] + c, &of_columns, sizeof of_columns);
                }
            }
            uint32_t *to = packed + (column / ROWS * n_units + start) * ROWS;
            for (int64_t m = 0; m < width; m += ROWS, to += n_units * ROWS)
                for (int64_t i = 0; i < height; ++i) std::memcpy(to + i * ROWS, words[i] + m, ROWS * sizeof(uint32_t));
        }
}

}  // namespace tiles
