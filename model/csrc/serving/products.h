// Rows times packed weights, for any number of rows: the one product of the serving kernels.
//
// A matrix [N, K] is packed into strips of 32 outputs: [N/32][K/group][32][group], so that a product reads it once from
// front to back. Each output is summed by one lane in order of k, whatever number of rows is multiplied together: a
// row's result depends neither on its neighbours nor on the number of threads. Keys and values of attention are packed
// the same way, see `serving/attention.h`.

#pragma once

#include "lanes.h"

namespace serve {

constexpr int STRIP = 32;      // outputs that one tile computes
constexpr int HALF = 16;       // outputs of one vector
constexpr int TILE_ROWS = 12;  // 12 x 2 sums fill 24 of 32 registers
constexpr int AHEAD = 8192;    // bytes; distance of prefetching weights, see `ahead_of` in tiles.h
constexpr int AHEAD_OF_FEWEST = 3072;
constexpr int UNIT = 64;       // bytes of a vector of weights: HALF outputs of one group of k

#if defined(LANES_AVX512) || defined(__aarch64__)
constexpr int REGISTERS = 32;
#else
constexpr int REGISTERS = 16;
#endif

// How weights are kept, and rows for them.
enum Kind : int32_t {
    FP32 = 0,          // groups of 1, fp32 rows
    BF16 = 1,          // groups of 2, rows rounded to bf16
    INT8 = 2,          // groups of 4, a scale per output; rows of 16 bits at most and a scale each
    INT8_DYNAMIC = 3,  // groups of 32, a scale per output; rows of 8 bits, a scale per group
    INT4 = 4,          // groups of 32, scale and least number per group and output; the same rows
};

// What processors multiply themselves, rows hold as it is. Others get rows widened once, not for every strip: bf16 as fp32,
// bytes as 16 bits.
#if defined(LANES_BF16_DOT)
constexpr bool HAS_BF16_DOT = true;
#else
constexpr bool HAS_BF16_DOT = false;
#endif
#if defined(LANES_BYTE_DOT)
constexpr bool HAS_BYTE_DOT = true;
#else
constexpr bool HAS_BYTE_DOT = false;
#endif

// The part of a row that has one scale, where rows are of 8 bits (serving/groups.cpp).
struct RowGroup {
    static constexpr int NUMBERS = 32;
    float scale;
    int32_t sum;  // of the numbers
    int8_t numbers[NUMBERS];
};

constexpr int64_t up_to(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

constexpr bool is_quantised(int32_t kind) { return kind >= INT8; }  // rows are narrowed once they are whole
constexpr bool is_grouped(int32_t kind) { return kind >= INT8_DYNAMIC; }
constexpr bool has_row_scales(int32_t kind) { return kind == INT8; }
constexpr int group_of(int32_t kind) { return kind == FP32 ? 1 : kind == BF16 ? 2 : kind == INT8 ? 4 : RowGroup::NUMBERS; }
// Rows that a tile computes for one: high and low bytes of a row of 16 bits.
constexpr int parts_of(int32_t kind) { return kind == INT8 && HAS_BYTE_DOT ? 2 : 1; }
constexpr int number_bytes_of(int32_t kind) { return kind == FP32 || (kind == BF16 && !HAS_BF16_DOT) ? 4 : 2; }  // in rows

// Of a strip's groups: numbers, then for INT4 a bf16 scale and a bf16 least number of each output.
constexpr int64_t group_bytes_of(int32_t kind) {
    return kind == INT8_DYNAMIC ? STRIP * RowGroup::NUMBERS : kind == INT4 ? STRIP * (RowGroup::NUMBERS / 2 + 4) : 2 * UNIT;
}

// Of a row of `width` numbers as it is multiplied.
constexpr int64_t row_bytes(int32_t kind, int64_t width) {
    if (is_grouped(kind)) return up_to(width, RowGroup::NUMBERS) / RowGroup::NUMBERS * static_cast<int64_t>(sizeof(RowGroup));
    return up_to(width, HALF) * number_bytes_of(kind);
}

// Rows to be multiplied: row i is at `first + index[i] * stride`, `index` null: one after the other.
struct Rows {
    const char *first;
    int64_t stride;
    const int32_t *index;
    const float *scales;  // of row index[i], where the kind has them
    int32_t at(int i) const { return index ? index[i] : i; }
};

// A packed matrix; the layout of this struct is model/serving/executors/packed.py's too.
struct Matrix {
    const char *data;
    const float *scales;    // [n rounded up to STRIP], of INT8 and INT8_DYNAMIC, else null
    const int32_t *starts;  // likewise, of INT8: -128 times the sum of each output's weights, for rows in two parts
    int32_t n, k;           // k is rounded up to whole groups by the packing
    int32_t kind;
    int32_t padding;
    int n_groups() const { return (k + group_of(kind) - 1) / group_of(kind); }
    int64_t strip_bytes() const { return n_groups() * group_bytes_of(kind); }
    int strips() const { return (n + STRIP - 1) / STRIP; }
};

// Weights in memory as a tile reads them: two vectors per group of k, at `segment + step * stride` and `second` bytes
// behind. The segments follow each other in k; `ahead` is the distance of prefetching, zero: as tiles.h chooses it. For
// a single row other panels may be read at the same time, `panel_stride` bytes after each other: their sums are the
// tile's next rows.
struct Panel {
    const char *const *segments;
    int n_segments;
    int steps;  // groups per segment
    int64_t second, stride, ahead;
    const int32_t *starts;  // of its outputs; null: sums start at zero
    int64_t panel_stride;
};

// How many outputs of a strip are real.
constexpr int in_strip(int n, int strip) { return n - strip * STRIP < STRIP ? n - strip * STRIP : STRIP; }

typedef float Tile[TILE_ROWS][STRIP];

// Sums of 1 to TILE_ROWS rows with a panel, without scales. Not for kinds whose rows have groups.
void multiply(int32_t kind, const char *const *rows, int n_rows, const Panel &panel, Tile tile);

// The products of 1 to TILE_ROWS rows with one strip of a matrix whose kind has groups; of one row as multiply_streams.
void multiply_groups(const Matrix &matrix, int strip, const char *const *rows, int n_rows, Tile tile);
void multiply_group_streams(const Matrix &matrix, int strip, int apart, const char *row, Tile tile);

// The same for one strip of a matrix and rows first .. first + n_rows - 1, scales applied.
void multiply_strip(const Matrix &matrix, int strip, const Rows &rows, int first, int n_rows, Tile tile);

// Number of parts of a matrix that one row reads at the same time. Without AVX-512, hardware prefetches several streams
// further than one, and further than the prefetch instructions do.
#if defined(LANES_AVX512)
constexpr int STREAMS = 1;
#elif defined(__AVX2__)
constexpr int STREAMS = 4;
#else
constexpr int STREAMS = 2;
#endif

// One row with STREAMS strips at a distance of `apart` strips, as the rows of a tile.
void multiply_streams(const Matrix &matrix, int strip, int apart, const Rows &rows, Tile tile);

// Rows of the next tile of `left`. Where twelve fit into registers, tiles of three and more take as long for each row as
// tiles of twelve, and those between two of tiles.h's widths the time of the wider one: 9 are 6 and 3, 13 are 8 and 5.
constexpr int rows_of_tile(int left) {
    constexpr int OF[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 6, 6, 8, 12, 8, 8};
    if (REGISTERS == 32 && left < static_cast<int>(sizeof OF / sizeof *OF)) return OF[left];
    return left < TILE_ROWS ? left : TILE_ROWS;
}

// Calls each(row, strip, outputs[STRIP]) for every row with its products with the strips first .. first + n_strips - 1.
template <typename Each>
void for_outputs(const Matrix &matrix, int first_strip, int n_strips, const Rows &rows, int n_rows, const Each &each) {
    const int parts = parts_of(matrix.kind), end = first_strip + n_strips;
    int strip = first_strip;
    Tile tile;
    if (n_rows == 1 && STREAMS > 1) {
        const int apart = n_strips / STREAMS;
        for (; strip < first_strip + apart; ++strip) {
            multiply_streams(matrix, strip, apart, rows, tile);
            for (int i = 0; i < STREAMS; ++i) each(0, strip + i * apart, tile[i]);
        }
        strip += (STREAMS - 1) * apart;
    }
    for (; strip < end; ++strip)
        for (int first = 0, count; first < n_rows; first += count) {
            count = rows_of_tile((n_rows - first) * parts) / parts;
            multiply_strip(matrix, strip, rows, first, count, tile);
            for (int i = 0; i < count; ++i) each(first + i, strip, tile[i]);
        }
}

}  // namespace serve
