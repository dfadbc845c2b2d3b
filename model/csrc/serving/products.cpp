// The tiles of serving/products.h: 1 to 12 rows by 32 outputs. How much of a tile is summed at a time follows from the
// number of registers; the sums are the same on all processors of one kind of dot product, for every number of rows.

#include "serving/tiles.h"

namespace serve {

using lanes::bits;
using lanes::Floats;
using lanes::Ints;
using lanes::LANES;
using lanes::Words;

// --- What 4 bytes of each output's weights add, of each kind ------------------------------------------------------------
//
// They take PRODUCTS products, each of `part` of them with 4 bytes of a row; ROW is how far the row's bytes for the next 4 are.

struct ByFp32 {
    typedef Floats Sum;
    static constexpr int PRODUCTS = 1, ROW = 4;
    static LANES_INLINE Words part(Words w, int) { return w; }
    static LANES_INLINE Sum add(Sum sum, Words x, Words w) { return sum + bits<Floats>(x) * bits<Floats>(w); }
};

struct ByBf16Dot {
    typedef Floats Sum;
    static constexpr int PRODUCTS = 1, ROW = 4;
    static LANES_INLINE Words part(Words w, int) { return w; }
    static LANES_INLINE Sum add(Sum sum, Words x, Words w) { return lanes::add_products(sum, x, w); }
};

struct ByWideBf16 {
    typedef Floats Sum;
    static constexpr int PRODUCTS = 2, ROW = 8;
    static LANES_INLINE Words part(Words w, int i) { return i ? w & 0xffff0000u : w << 16; }
    static LANES_INLINE Sum add(Sum sum, Words x, Words w) { return ByFp32::add(sum, x, w); }
};

struct ByByteDot {
    typedef Ints Sum;
    static constexpr int PRODUCTS = 1, ROW = 8;  // high and low bytes take turns
    static LANES_INLINE Words part(Words w, int) { return w; }
    static LANES_INLINE Sum add(Sum sum, Words x, Words w) { return lanes::add_byte_products(sum, x, w); }
};

struct ByWideBytes {
    typedef Ints Sum;
    static constexpr int PRODUCTS = 2, ROW = 8;  // numbers 0 and 2, then 1 and 3
    static LANES_INLINE Words part(Words w, int i) {
        const lanes::Shorts pairs = bits<lanes::Shorts>(w);
        return bits<Words>(i ? pairs >> 8 : (pairs << 8) >> 8);
    }
    static LANES_INLINE Sum add(Sum sum, Words x, Words w) { return lanes::add_products(sum, bits<Ints>(x), bits<Ints>(w)); }
};

typedef std::conditional_t<HAS_BF16_DOT, ByBf16Dot, ByWideBf16> ByBf16;
typedef std::conditional_t<HAS_BYTE_DOT, ByByteDot, ByWideBytes> ByInt8;

// --- Tiles ------------------------------------------------------------------------------------------------------------

// Sums of ROWS rows with the outputs of UNITS units, from the panel's unit `first` on; of one row also with several panels.
//
// Where registers allow, two groups of k are multiplied together: the pointers to twelve rows do not fit into registers, and
// fetching the others takes products' time.
template <typename By, int ROWS, int UNITS, int PANELS = 1>
LANES_INLINE void sum_units(const char *const *from, const Panel &panel, int first, Tile tile) {
    static_assert(PANELS == 1 || (ROWS == 1 && UNITS == 2), "other panels take the place of rows");
    typedef typename By::Sum Sum;
    constexpr int WIDTH = UNITS * VECTORS, N_SUMS = PANELS * WIDTH;
    const int column = first * HALF;
    const int64_t second = first ? 0 : panel.second;
    const int64_t ahead = panel.ahead ? panel.ahead : ahead_of<Sum>(ROWS * By::PRODUCTS * VECTORS, UNITS);
    const char *rows[ROWS];
    Sum sums[ROWS][N_SUMS];
#pragma GCC unroll 12
    for (int i = 0; i < ROWS; ++i) {
        rows[i] = from[i];
#pragma GCC unroll 16
        for (int j = 0; j < N_SUMS; ++j)
            sums[i][j] = panel.starts
                ? __builtin_convertvector(load_as<Ints>(panel.starts + column + j * LANES), Sum)
                : Sum{};
    }
    int64_t at = 0;
    for (int s = 0; s < panel.n_segments; ++s) {
        const char *w = panel.segments[s] + (first ? panel.second : 0);
        const auto add_groups = [&](auto n) {
            constexpr int GROUPS = decltype(n)::value;
            const auto unit_at = [&](int group, int unit) {
                return w + group * panel.stride + unit / UNITS * panel.panel_stride + unit % UNITS * second;
            };
            // Into the L2 cache: hardware prefetching stops at pages, and the L1 cache is too small for this distance.
            if (PANELS == 1 && ahead)
#pragma GCC unroll 2
                for (int group = 0; group < GROUPS; ++group)
                    for (int unit = 0; unit < UNITS; ++unit) __builtin_prefetch(unit_at(group, unit) + ahead, 0, 2);
#pragma GCC unroll 2
            for (int product = 0; product < By::PRODUCTS; ++product) {
                Words weights[GROUPS][N_SUMS];
#pragma GCC unroll 2
                for (int group = 0; group < GROUPS; ++group)
#pragma GCC unroll 16
                    for (int j = 0; j < N_SUMS; ++j) {
                        const char *from = unit_at(group, j / VECTORS) + j % VECTORS * LANES * 4;
                        weights[group][j] = By::part(load_as<Words>(from), product);
                    }
#pragma GCC unroll 12
                for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 2
                    for (int group = 0; group < GROUPS; ++group) {
                        const Words x = all_of(rows[i] + at + group * By::ROW + product * 4);
#pragma GCC unroll 16
                        for (int j = 0; j < N_SUMS; ++j) sums[i][j] = By::add(sums[i][j], x, weights[group][j]);
                    }
            }
            w += GROUPS * panel.stride;
            at += GROUPS * By::ROW;
        };
        constexpr int GROUPS = REGISTERS == 32 && By::PRODUCTS == 1 && ROWS > 4 ? 2 : 1;
        int left = panel.steps;
        for (; left >= GROUPS; left -= GROUPS) add_groups(std::integral_constant<int, GROUPS>{});
        if (GROUPS > 1 && left) add_groups(std::integral_constant<int, 1>{});
    }
#pragma GCC unroll 12
    for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 16
        for (int j = 0; j < N_SUMS; ++j) {
            float *to = &tile[PANELS == 1 ? i : j / WIDTH][column + j % WIDTH * LANES];
            lanes::store(to, __builtin_convertvector(sums[i][j], Floats));
        }
}

template <typename By>
struct OfPanel {
    typedef Panel Weights;
    static constexpr int SUMS = REGISTERS * 3 / 4;
    template <int ROWS, int UNITS>
    static LANES_INLINE void sum(const char *const *rows, const Panel &panel, int first, Tile tile) {
        sum_units<By, ROWS, UNITS>(rows, panel, first, tile);
    }
};

void multiply(int32_t kind, const char *const *rows, int n_rows, const Panel &panel, Tile tile) {
    static constexpr void (*BY[])(const char *const *, int, const Panel &, Tile) = {
        Tiles<OfPanel<ByFp32>>::multiply, Tiles<OfPanel<ByBf16>>::multiply, Tiles<OfPanel<ByInt8>>::multiply};
    BY[kind](rows, n_rows, panel, tile);
}

static Panel panel_of(const Matrix &matrix, int strip, const char *const *data, int apart) {
    const int32_t *starts = parts_of(matrix.kind) == 2 ? matrix.starts + strip * STRIP : nullptr;
    return {data, 1, matrix.n_groups(), UNIT, 2 * UNIT, 0, starts, apart * matrix.strip_bytes()};
}

static void scale_outputs(const Matrix &matrix, int strip, float of_row, float *outputs) {
    const float *scales = matrix.scales + strip * STRIP;
    for (int column = 0; column < STRIP; ++column) outputs[column] *= of_row * scales[column];
}

// Prefetch scales, which are far from the weights in memory, before the sums are scaled.
static void ask_for_scales(const Matrix &matrix, int strip) {
    for (int column = 0; column < STRIP; column += HALF) __builtin_prefetch(matrix.scales + strip * STRIP + column);
}

void multiply_strip(const Matrix &matrix, int strip, const Rows &rows, int first, int n_rows, Tile tile) {
    const char *from[TILE_ROWS];
    const int parts = parts_of(matrix.kind);
    for (int i = 0; i < n_rows; ++i)
        for (int part = 0; part < parts; ++part)
            from[i * parts + part] = rows.first + rows.at(first + i) * rows.stride + part * 4;
    if (is_grouped(matrix.kind)) return multiply_groups(matrix, strip, from, n_rows, tile);
    const char *data = matrix.data + strip * matrix.strip_bytes();
    multiply(matrix.kind, from, n_rows * parts, panel_of(matrix, strip, &data, 0), tile);
    if (!has_row_scales(matrix.kind)) return;
    for (int i = 0; i < n_rows; ++i) {
        if (parts == 2)
            for (int column = 0; column < STRIP; ++column)
                tile[i][column] = tile[i * 2][column] * 256.0f + tile[i * 2 + 1][column];
        scale_outputs(matrix, strip, rows.scales[rows.at(first + i)], tile[i]);
    }
}

void multiply_streams(const Matrix &matrix, int strip, int apart, const Rows &rows, Tile tile) {
    const char *from = rows.first + rows.at(0) * rows.stride, *data = matrix.data + strip * matrix.strip_bytes();
    for (int i = 0; matrix.scales && i < STREAMS; ++i) ask_for_scales(matrix, strip + i * apart);
    if (is_grouped(matrix.kind)) return multiply_group_streams(matrix, strip, apart, from, tile);
    const Panel panel = panel_of(matrix, strip, &data, apart);
    if (matrix.kind == FP32) return sum_units<ByFp32, 1, 2, STREAMS>(&from, panel, 0, tile);
    if (matrix.kind == BF16) return sum_units<ByBf16, 1, 2, STREAMS>(&from, panel, 0, tile);
    sum_units<ByInt8, 1, 2, STREAMS>(&from, panel, 0, tile);
    for (int i = 0; i < STREAMS; ++i) scale_outputs(matrix, strip + i * apart, rows.scales[rows.at(0)], tile[i]);
}

}  // namespace serve
