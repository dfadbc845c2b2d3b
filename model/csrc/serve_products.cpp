// The tiles of serve_products.h: 1 to 12 rows by 32 outputs, with AVX-512 (bf16 and VNNI dot products where there are
// any) or with whatever the compiler makes of vectors of 64 bytes. The sums are the same for every number of rows.

#include "serve_products.h"

#if defined(LANES_AVX512) && defined(__AVX512VNNI__)
#define SERVE_VNNI 1
#endif

namespace serve {

typedef float Floats16 __attribute__((vector_size(64)));
typedef int32_t Ints16 __attribute__((vector_size(64)));
typedef uint32_t Words16 __attribute__((vector_size(64)));

using lanes::bits;

template <typename T>
LANES_INLINE T load_unit(const char *from) {
    T value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

LANES_INLINE uint32_t load_word(const char *from) {
    uint32_t value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

LANES_INLINE Floats16 add_pairs(Floats16 sum, Words16 a, Words16 b) {
#if defined(LANES_BF16_DOT)
    return bits<Floats16>(_mm512_dpbf16_ps(bits<__m512>(sum), bits<__m512bh>(a), bits<__m512bh>(b)));
#else
    sum += bits<Floats16>(a << 16) * bits<Floats16>(b << 16);
    return sum + bits<Floats16>(a & 0xffff0000u) * bits<Floats16>(b & 0xffff0000u);
#endif
}

// --- What one group of k adds, of each kind; ROW is its bytes in a row ---------------------------------------------

struct ByFp32 {
    typedef Floats16 Sum;
    static constexpr int ROW = 4;
    template <int ROWS>
    static LANES_INLINE void add(Sum (&sums)[ROWS][2], const char *const *rows, int64_t at, const char *w0, const char *w1) {
        const Floats16 w[2] = {load_unit<Floats16>(w0), load_unit<Floats16>(w1)};
#pragma GCC unroll 12
        for (int i = 0; i < ROWS; ++i) {
            const Floats16 x = Floats16{} + bits<float>(load_word(rows[i] + at));
#pragma GCC unroll 2
            for (int j = 0; j < 2; ++j)
#if defined(LANES_AVX512)
                sums[i][j] = bits<Sum>(_mm512_fmadd_ps(bits<__m512>(x), bits<__m512>(w[j]), bits<__m512>(sums[i][j])));
#else
                sums[i][j] += x * w[j];
#endif
        }
    }
};

struct ByBf16 {
    typedef Floats16 Sum;
    static constexpr int ROW = 4;
    template <int ROWS>
    static LANES_INLINE void add(Sum (&sums)[ROWS][2], const char *const *rows, int64_t at, const char *w0, const char *w1) {
        const Words16 w[2] = {load_unit<Words16>(w0), load_unit<Words16>(w1)};
#pragma GCC unroll 12
        for (int i = 0; i < ROWS; ++i) {
            const Words16 x = Words16{} + load_word(rows[i] + at);
#pragma GCC unroll 2
            for (int j = 0; j < 2; ++j) sums[i][j] = add_pairs(sums[i][j], x, w[j]);
        }
    }
};

struct ByInt8Dynamic {
    typedef Ints16 Sum;
    static constexpr int ROW = 4;
    static LANES_INLINE Sum add_quads(Sum sum, Words16 x, Words16 w) {
#if defined(SERVE_VNNI)
        return bits<Sum>(_mm512_dpbusd_epi32(bits<__m512i>(sum), bits<__m512i>(x), bits<__m512i>(w)));
#else
        const Ints16 weights = bits<Ints16>(w);
        for (int i = 0; i < 4; ++i)
            sum += bits<Ints16>((x >> (8 * i)) & 255u) * ((weights << (24 - 8 * i)) >> 24);
        return sum;
#endif
    }
    template <int ROWS>
    static LANES_INLINE void add(Sum (&sums)[ROWS][2], const char *const *rows, int64_t at, const char *w0, const char *w1) {
        const Words16 w[2] = {load_unit<Words16>(w0), load_unit<Words16>(w1)};
#pragma GCC unroll 12
        for (int i = 0; i < ROWS; ++i) {
            const Words16 x = Words16{} + load_word(rows[i] + at);
#pragma GCC unroll 2
            for (int j = 0; j < 2; ++j) sums[i][j] = add_quads(sums[i][j], x, w[j]);
        }
    }
};

struct ByInt8 : ByInt8Dynamic {
    static constexpr int ROW = 8;  // high and low bytes take turns
};

// --- Tiles ------------------------------------------------------------------------------------------------------------

template <typename Sum>
LANES_INLINE Sum first_of(const int32_t *starts) {
    return __builtin_convertvector(load_unit<Ints16>(reinterpret_cast<const char *>(starts)), Sum);
}

template <typename By, int ROWS>
static void tile_of(const char *const *from, const Panel &panel, Tile tile) {
    typedef typename By::Sum Sum;
    const char *rows[ROWS];
    Sum sums[ROWS][2];
    for (int i = 0; i < ROWS; ++i) rows[i] = from[i];
#pragma GCC unroll 12
    for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 2
        for (int j = 0; j < 2; ++j)
            sums[i][j] = panel.starts ? first_of<Sum>(panel.starts + j * HALF) : Sum{};
    int64_t at = 0;
    for (int s = 0; s < panel.n_segments; ++s) {
        const char *w = panel.segments[s];
        for (int step = 0; step < panel.steps; ++step, w += panel.stride, at += By::ROW) {
            // Into the second cache: hardware prefetching stops at pages, and the first one is too small for so far ahead.
            __builtin_prefetch(w + panel.ahead, 0, 2);
            __builtin_prefetch(w + panel.ahead + panel.second, 0, 2);
            By::template add<ROWS>(sums, rows, at, w, w + panel.second);
        }
    }
#pragma GCC unroll 12
    for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 2
        for (int j = 0; j < 2; ++j) {
            const Floats16 values = __builtin_convertvector(sums[i][j], Floats16);
            std::memcpy(&tile[i][j * HALF], &values, sizeof values);
        }
}

typedef void (*TileOf)(const char *const *, const Panel &, Tile);

// Tiles of 5, 7, 9, 10 and 11 rows compute some row twice: that is cheaper than more code.
static constexpr int WIDTHS[] = {1, 2, 3, 4, 6, 8, 12};
#define SERVE_TILES(By) \
    {tile_of<By, 1>, tile_of<By, 2>, tile_of<By, 3>, tile_of<By, 4>, tile_of<By, 6>, tile_of<By, 8>, tile_of<By, 12>}
static constexpr TileOf TILES[4][7] = {
    SERVE_TILES(ByFp32), SERVE_TILES(ByBf16), SERVE_TILES(ByInt8), SERVE_TILES(ByInt8Dynamic)};

void multiply(int32_t kind, const char *const *rows, int n_rows, const Panel &panel, Tile tile) {
    const char *filled[TILE_ROWS];
    int width = 0;
    while (WIDTHS[width] < n_rows) ++width;
    for (int i = 0; i < WIDTHS[width]; ++i) filled[i] = rows[i < n_rows ? i : n_rows - 1];
    TILES[kind][width](filled, panel, tile);
}

void multiply_strip(const Matrix &matrix, int strip, const Rows &rows, int first, int n_rows, Tile tile) {
    const char *from[TILE_ROWS];
    const int parts = parts_of(matrix.kind), group = group_of(matrix.kind);
    for (int i = 0; i < n_rows; ++i)
        for (int part = 0; part < parts; ++part)
            from[i * parts + part] = rows.first + rows.at(first + i) * rows.stride + part * 4;
    const char *data = matrix.data + strip * matrix.strip_bytes();
    const int32_t *starts = matrix.starts ? matrix.starts + strip * STRIP : nullptr;
    const Panel panel = {&data, 1, (matrix.k + group - 1) / group, UNIT, 2 * UNIT, AHEAD, starts};
    multiply(matrix.kind, from, n_rows * parts, panel, tile);
    if (!matrix.scales) return;
    const float *scales = matrix.scales + strip * STRIP;
    for (int i = 0; i < n_rows; ++i) {
        const float of_row = rows.scales[rows.at(first + i)];
        const float *high = tile[i * parts], *low = tile[i * parts + 1];
        for (int column = 0; column < STRIP; ++column) {
            const float sum = parts == 1 ? high[column] : high[column] * 256.0f + low[column];
            tile[i][column] = sum * (of_row * scales[column]);
        }
    }
}

}  // namespace serve
