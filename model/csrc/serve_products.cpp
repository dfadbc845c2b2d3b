// The tiles of serve_products.h: 1 to 12 rows by 32 outputs. How much of a tile is summed at a time follows from the
// number of registers; the sums are the same on all processors of one kind of dot product, for every number of rows.

#include "serve_products.h"

#if defined(LANES_AVX512) && defined(__AVX512VNNI__)
#define SERVE_VNNI 1
#endif

namespace serve {

using lanes::bits;
using lanes::Floats;
using lanes::Ints;
using lanes::LANES;
using lanes::Words;

constexpr int VECTORS = HALF / LANES;  // of one unit of weights
#if defined(LANES_AVX512) || defined(__aarch64__)
constexpr int REGISTERS = 32;
#else
constexpr int REGISTERS = 16;
#endif

template <typename T>
LANES_INLINE T load_as(const void *from) {
    T value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

// --- What 4 bytes of a row and of each output's weights add, of each kind; ROW is how far the next 4 of the row are ------

struct ByFp32 {
    typedef Floats Sum;
    static constexpr int ROW = 4;
    static constexpr int SUMS = REGISTERS * 3 / 4;
    static LANES_INLINE Sum add(Sum sum, Words x, Words w) { return sum + bits<Floats>(x) * bits<Floats>(w); }
};

struct ByBf16 {
    typedef Floats Sum;
    static constexpr int ROW = 4;
    static constexpr int SUMS = REGISTERS == 32 ? 24 : 8;  // rows and weights are widened to two vectors each
    static LANES_INLINE Sum add(Sum sum, Words x, Words w) { return lanes::add_products(sum, x, w); }
};

struct ByInt8Dynamic {
    typedef Ints Sum;
    static constexpr int ROW = 4;
    static constexpr int SUMS = ByBf16::SUMS;
    static LANES_INLINE Sum add(Sum sum, Words x, Words w) {
#if defined(SERVE_VNNI)
        return bits<Sum>(_mm512_dpbusd_epi32(bits<__m512i>(sum), bits<__m512i>(x), bits<__m512i>(w)));
#else
        // Bytes 0 and 2, then 1 and 3, as numbers of 16 bits.
        typedef int16_t Shorts __attribute__((vector_size(LANES * 4)));
        const Shorts weights = bits<Shorts>(w);
        sum = lanes::add_products(sum, bits<Ints>(x & 0x00ff00ffu), bits<Ints>((weights << 8) >> 8));
        return lanes::add_products(sum, bits<Ints>((x >> 8) & 0x00ff00ffu), bits<Ints>(weights >> 8));
#endif
    }
};

struct ByInt8 : ByInt8Dynamic {
    static constexpr int ROW = 8;  // high and low bytes take turns
};

// --- Tiles ------------------------------------------------------------------------------------------------------------

// Sums of ROWS rows with the outputs of UNITS units, from the panel's unit `first` on; of one row also with two panels.
template <typename By, int ROWS, int UNITS, int PANELS = 1>
LANES_INLINE void sum_units(const char *const *from, const Panel &panel, int first, Tile tile) {
    static_assert(PANELS == 1 || (ROWS == 1 && UNITS == 2), "another panel takes the place of rows");
    typedef typename By::Sum Sum;
    constexpr int WIDTH = UNITS * VECTORS, N_SUMS = PANELS * WIDTH;
    const int column = first * HALF;
    const int64_t second = first ? 0 : panel.second;
    const char *rows[ROWS];
    Sum sums[ROWS][N_SUMS];
#pragma GCC unroll 12
    for (int i = 0; i < ROWS; ++i) {
        rows[i] = from[i];
#pragma GCC unroll 8
        for (int j = 0; j < N_SUMS; ++j)
            sums[i][j] = panel.starts
                ? __builtin_convertvector(load_as<Ints>(panel.starts + column + j * LANES), Sum)
                : Sum{};
    }
    int64_t at = 0;
    for (int s = 0; s < panel.n_segments; ++s) {
        const char *w = panel.segments[s] + (first ? panel.second : 0);
        for (int step = 0; step < panel.steps; ++step, w += panel.stride, at += By::ROW) {
            Words weights[N_SUMS];
#pragma GCC unroll 4
            for (int unit = 0; unit < PANELS * UNITS; ++unit) {
                const char *of_unit = w + unit / UNITS * panel.beside + unit % UNITS * second;
                // Into the second cache: hardware prefetching stops at pages, and the first one is too small for so far ahead.
                if (PANELS == 1) __builtin_prefetch(of_unit + panel.ahead, 0, 2);
#pragma GCC unroll 4
                for (int v = 0; v < VECTORS; ++v) weights[unit * VECTORS + v] = load_as<Words>(of_unit + v * LANES * 4);
            }
#pragma GCC unroll 12
            for (int i = 0; i < ROWS; ++i) {
                const Words x = lanes::held(Words{} + load_as<uint32_t>(rows[i] + at));
#pragma GCC unroll 8
                for (int j = 0; j < N_SUMS; ++j) sums[i][j] = By::add(sums[i][j], x, weights[j]);
            }
        }
    }
#pragma GCC unroll 12
    for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 8
        for (int j = 0; j < N_SUMS; ++j) {
            float *to = &tile[PANELS == 1 ? i : j / WIDTH][column + j % WIDTH * LANES];
            lanes::store(to, __builtin_convertvector(sums[i][j], Floats));
        }
}

template <typename By, int ROWS>
static void sum_rows(const char *const *rows, const Panel &panel, Tile tile) {
    if constexpr (ROWS * 2 * VECTORS <= By::SUMS) {
        sum_units<By, ROWS, 2>(rows, panel, 0, tile);
    } else {
        sum_units<By, ROWS, 1>(rows, panel, 0, tile);
        sum_units<By, ROWS, 1>(rows, panel, 1, tile);
    }
}

typedef void (*SumRows)(const char *const *, const Panel &, Tile);
typedef void (*Multiply)(const char *const *, int, const Panel &, Tile);

// Numbers of rows between these compute some row twice: that is cheaper than more code.
static constexpr int WIDTHS[] = {1, 2, 3, 4, 6, 8, 12};
static_assert(WIDTHS[6] == TILE_ROWS, "the widest tile has all rows");

// The most rows that a processor has the registers to sum together.
template <typename By>
constexpr int most_rows() {
    int most = 1;
    for (int width : WIDTHS)
        if (width * VECTORS <= By::SUMS) most = width;
    return most;
}

template <typename By, int ROWS>
constexpr SumRows where_fits() {
    if constexpr (ROWS <= most_rows<By>()) return sum_rows<By, ROWS>;
    return nullptr;
}

template <typename By>
static void multiply_by(const char *const *rows, int n_rows, const Panel &panel, Tile tile) {
    static constexpr SumRows SUMS[] = {
        where_fits<By, 1>(), where_fits<By, 2>(), where_fits<By, 3>(), where_fits<By, 4>(),
        where_fits<By, 6>(), where_fits<By, 8>(), where_fits<By, 12>(),
    };
    int n_blocks = (n_rows + most_rows<By>() - 1) / most_rows<By>();
    for (int first = 0; first < n_rows; --n_blocks) {
        const int count = (n_rows - first + n_blocks - 1) / n_blocks;
        int width = 0;
        while (WIDTHS[width] < count) ++width;
        const char *filled[TILE_ROWS];
        for (int i = 0; i < WIDTHS[width]; ++i) filled[i] = rows[first + (i < count ? i : count - 1)];
        SUMS[width](filled, panel, tile + first);
        first += count;
    }
}

void multiply(int32_t kind, const char *const *rows, int n_rows, const Panel &panel, Tile tile) {
    static constexpr Multiply BY[] = {
        multiply_by<ByFp32>, multiply_by<ByBf16>, multiply_by<ByInt8>, multiply_by<ByInt8Dynamic>};
    BY[kind](rows, n_rows, panel, tile);
}

template <typename By>
static void multiply_beside(const char *const *rows, const Panel &panel, Tile tile) {
    sum_units<By, 1, 2, 2>(rows, panel, 0, tile);
}

static Panel panel_of(const Matrix &matrix, int strip, const char *const *data) {
    const int group = group_of(matrix.kind);
    const int32_t *starts = matrix.starts ? matrix.starts + strip * STRIP : nullptr;
    return {data, 1, (matrix.k + group - 1) / group, UNIT, 2 * UNIT, AHEAD, starts, matrix.strip_bytes()};
}

// What a scaled kind's sums of one row are: `low` is null but where a row has two parts.
static void scale_outputs(const float *high, const float *low, float of_row, const float *scales, float *to) {
    for (int column = 0; column < STRIP; ++column) {
        const float sum = low ? high[column] * 256.0f + low[column] : high[column];
        to[column] = sum * (of_row * scales[column]);
    }
}

void multiply_strip(const Matrix &matrix, int strip, const Rows &rows, int first, int n_rows, Tile tile) {
    const char *from[TILE_ROWS];
    const int parts = parts_of(matrix.kind);
    for (int i = 0; i < n_rows; ++i)
        for (int part = 0; part < parts; ++part)
            from[i * parts + part] = rows.first + rows.at(first + i) * rows.stride + part * 4;
    const char *data = matrix.data + strip * matrix.strip_bytes();
    multiply(matrix.kind, from, n_rows * parts, panel_of(matrix, strip, &data), tile);
    if (!matrix.scales) return;
    for (int i = 0; i < n_rows; ++i) {
        const float *low = parts == 2 ? tile[i * parts + 1] : nullptr;
        scale_outputs(tile[i * parts], low, rows.scales[rows.at(first + i)], matrix.scales + strip * STRIP, tile[i]);
    }
}

void multiply_two_strips(const Matrix &matrix, int strip, const Rows &rows, Tile tile) {
    static constexpr void (*BY[])(const char *const *, const Panel &, Tile) = {
        multiply_beside<ByFp32>, multiply_beside<ByBf16>, nullptr, multiply_beside<ByInt8Dynamic>};
    const char *from = rows.first + rows.at(0) * rows.stride, *data = matrix.data + strip * matrix.strip_bytes();
    BY[matrix.kind](&from, panel_of(matrix, strip, &data), tile);
    if (!matrix.scales) return;
    for (int i = 0; i < 2; ++i)
        scale_outputs(tile[i], nullptr, rows.scales[rows.at(0)], matrix.scales + (strip + i) * STRIP, tile[i]);
}

}  // namespace serve
