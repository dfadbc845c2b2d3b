// Products of rows that have one scale per 32 numbers, with weights of 8 or of 4 bits. Within a group integers are
// multiplied and summed exactly; the groups' sums are added in fp32 in order of k, for any number of rows.

#include "serving/tiles.h"

namespace serve {

using lanes::bits;
using lanes::Floats;
using lanes::Ints;
using lanes::LANES;
using lanes::Shorts;
using lanes::Words;

// --- Forms of weights: how they are loaded, multiplied, and what the sums of a group add to the outputs --------------------

// Weights + 128; a group is [8][32 outputs][4 numbers]. Scales of outputs are left to the end.
struct ByBytes {
    typedef Ints Sum;
    static constexpr int32_t KIND = INT8_DYNAMIC;
    static constexpr int PER_WORD = 1;  // times 4 numbers of the row
    static constexpr int UNPACKING = 0;  // vectors that are computed from each before they are multiplied
    static LANES_INLINE void load(const char *from, Words *to) { to[0] = load_as<Words>(from); }
    static LANES_INLINE Sum add(Sum sum, Words weights, Words x) { return lanes::add_byte_products(sum, weights, x); }
    static LANES_INLINE Floats total(Floats total, Sum sum, const RowGroup &row, const char *, int) {
        return total + __builtin_convertvector(sum - 128 * row.sum, Floats) * row.scale;
    }
};

// Numbers from 0 to 15, to be scaled and added to the least one; a group is [4][32 outputs][4 bytes], a byte's low half
// is 4 numbers before its high half; then 32 scales and 32 least numbers, bf16.
struct ByNibbles {
    static constexpr int32_t KIND = INT4;
    static constexpr int PER_WORD = 2, UNPACKING = 2;
    static LANES_INLINE void load(const char *from, Words *to) {
        const Words words = load_as<Words>(from);
        to[0] = words & 0x0f0f0f0fu;
        to[1] = (words >> 4) & 0x0f0f0f0fu;
    }
#if defined(__AVX2__) && !defined(LANES_BYTE_DOT)
    typedef Shorts Sum;  // 16 products of at most 15 * 127 in each
    static LANES_INLINE Sum add(Sum sum, Words weights, Words x) {
#if defined(LANES_AVX512)
        return sum + bits<Sum>(_mm512_maddubs_epi16(bits<__m512i>(weights), bits<__m512i>(x)));
#else
        return sum + bits<Sum>(_mm256_maddubs_epi16(bits<__m256i>(weights), bits<__m256i>(x)));
#endif
    }
    static LANES_INLINE Ints whole(Sum sum) { return lanes::add_products(Ints{}, bits<Ints>(sum), Ints{} + 0x00010001); }
#else
    typedef Ints Sum;
    static LANES_INLINE Sum add(Sum sum, Words weights, Words x) { return lanes::add_byte_products(sum, weights, x); }
    static LANES_INLINE Ints whole(Sum sum) { return sum; }
#endif
    static LANES_INLINE Floats total(Floats total, Sum sum, const RowGroup &row, const char *group, int column) {
        const lanes::bf16 *scales = reinterpret_cast<const lanes::bf16 *>(group + STRIP * RowGroup::NUMBERS / 2) + column;
        total += __builtin_convertvector(whole(sum), Floats) * row.scale * lanes::load(scales);
        return total + lanes::load(scales + STRIP) * (row.scale * static_cast<float>(row.sum));
    }
};

// --- Tiles ------------------------------------------------------------------------------------------------------------

namespace {

struct Groups {
    const char *data;  // of a strip
    int n;
    int64_t panel_stride;  // bytes to the next of the strips that are read together
};

LANES_INLINE const RowGroup &group_of_row(const char *row, int g) { return reinterpret_cast<const RowGroup *>(row)[g]; }

template <typename By>
struct OfGroups {
    typedef Groups Weights;
    static constexpr int SUMS = REGISTERS == 32 ? 24 : 8;  // the others hold weights
    static constexpr int BYTES = group_bytes_of(By::KIND), STEP = 4 * By::PER_WORD;

    // Sums of ROWS rows with the outputs of UNITS units, from the strip's unit `first` on; of one row also with several strips.
    template <int ROWS, int UNITS, int STRIPS = 1>
    static LANES_INLINE void sum(const char *const *rows, const Groups &groups, int first, Tile tile) {
        static_assert(STRIPS == 1 || ROWS == 1, "other strips take the place of rows");
        constexpr int WIDTH = UNITS * VECTORS, N_SUMS = STRIPS * WIDTH;
        constexpr int64_t ahead = ahead_of<typename By::Sum>((ROWS * By::PER_WORD + By::UNPACKING) * VECTORS, UNITS);
        const int column = first * HALF;
        Floats totals[ROWS][N_SUMS]{};
        for (int g = 0; g < groups.n; ++g) {
            const char *group[STRIPS];
#pragma GCC unroll 4
            for (int s = 0; s < STRIPS; ++s) group[s] = groups.data + g * BYTES + s * groups.panel_stride;
            if (STRIPS == 1 && ahead)
                for (int at = 0; at < BYTES; at += UNIT) __builtin_prefetch(group[0] + ahead + at, 0, 2);
            typename By::Sum sums[ROWS][N_SUMS]{};
#pragma GCC unroll 1
            for (int step = 0; step < RowGroup::NUMBERS / STEP; ++step) {
                Words weights[N_SUMS][By::PER_WORD];
#pragma GCC unroll 16
                for (int j = 0; j < N_SUMS; ++j)
                    By::load(group[j / WIDTH] + step * 2 * UNIT + (column + j % WIDTH * LANES) * 4, weights[j]);
#pragma GCC unroll 12
                for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 2
                    for (int word = 0; word < By::PER_WORD; ++word) {
                        const Words x = all_of(group_of_row(rows[i], g).numbers + step * STEP + word * 4);
#pragma GCC unroll 16
                        for (int j = 0; j < N_SUMS; ++j) sums[i][j] = By::add(sums[i][j], weights[j][word], x);
                    }
            }
#pragma GCC unroll 12
            for (int i = 0; i < ROWS; ++i) {
                const RowGroup &row = group_of_row(rows[i], g);
#pragma GCC unroll 16
                for (int j = 0; j < N_SUMS; ++j)
                    totals[i][j] = By::total(totals[i][j], sums[i][j], row, group[j / WIDTH], column + j % WIDTH * LANES);
            }
        }
#pragma GCC unroll 12
        for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 16
            for (int j = 0; j < N_SUMS; ++j)
                lanes::store(&tile[STRIPS == 1 ? i : j / WIDTH][column + j % WIDTH * LANES], totals[i][j]);
    }
};

Groups groups_of(const Matrix &matrix, int strip, int apart) {
    return {matrix.data + strip * matrix.strip_bytes(), matrix.n_groups(), apart * matrix.strip_bytes()};
}

void scale_outputs(const Matrix &matrix, int strip, float *outputs) {
    if (!matrix.scales) return;
    for (int column = 0; column < STRIP; ++column) outputs[column] *= matrix.scales[strip * STRIP + column];
}

}  // namespace

void multiply_groups(const Matrix &matrix, int strip, const char *const *rows, int n_rows, Tile tile) {
    const Groups groups = groups_of(matrix, strip, 0);
    if (matrix.kind == INT4) Tiles<OfGroups<ByNibbles>>::multiply(rows, n_rows, groups, tile);
    else Tiles<OfGroups<ByBytes>>::multiply(rows, n_rows, groups, tile);
    for (int i = 0; i < n_rows; ++i) scale_outputs(matrix, strip, tile[i]);
}

void multiply_group_streams(const Matrix &matrix, int strip, int apart, const char *row, Tile tile) {
    const Groups groups = groups_of(matrix, strip, apart);
    if (matrix.kind == INT4) OfGroups<ByNibbles>::sum<1, 2, STREAMS>(&row, groups, 0, tile);
    else OfGroups<ByBytes>::sum<1, 2, STREAMS>(&row, groups, 0, tile);
    for (int i = 0; i < STREAMS; ++i) scale_outputs(matrix, strip + i * apart, tile[i]);
}

}  // namespace serve
