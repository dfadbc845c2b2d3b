// The tiles of serve_products.h: 1 to 12 rows by 32 outputs, with AVX-512 (bf16 and VNNI dot products where there are
// any) or with whatever the compiler makes of vectors of 64 bytes. The sums are the same for every number of rows.

#include "serve_products.h"

#if defined(LANES_AVX512) && defined(__AVX512VBMI__)
#define SERVE_LOOKUP 1
#endif
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

// Four sign-and-magnitude bytes of 16 outputs as two vectors of bf16 pairs. Within each 16 bytes the first eight are
// the first pairs of four outputs, the others their second pairs (model/serving/packed.py packs them so).
struct Expanded {
    Words16 first, second;
};

#if defined(SERVE_LOOKUP)
// The bits of bf16 m for m = 0 .. 127, low bytes and high bytes: an integer below 256 is a bf16 number.
struct Table {
    uint8_t low[128], high[128];
    Table() {
        for (int m = 0; m < 128; ++m) {
            const uint16_t number = lanes::narrow(static_cast<float>(m));
            low[m] = static_cast<uint8_t>(number);
            high[m] = static_cast<uint8_t>(number >> 8);
        }
    }
};
static const Table table;

LANES_INLINE Expanded expand_unit(Words16 packed) {
    const __m512i bytes = bits<__m512i>(packed);
    const __m512i low = _mm512_permutex2var_epi8(_mm512_loadu_si512(table.low), bytes, _mm512_loadu_si512(table.low + 64));
    const __m512i magnitude = _mm512_permutex2var_epi8(_mm512_loadu_si512(table.high), bytes, _mm512_loadu_si512(table.high + 64));
    const __m512i high = _mm512_ternarylogic_epi32(magnitude, bytes, _mm512_set1_epi8(-128), 0xf8);  // a | (b & c)
    return {bits<Words16>(_mm512_unpacklo_epi8(low, high)), bits<Words16>(_mm512_unpackhi_epi8(low, high))};
}
#else
LANES_INLINE Expanded expand_unit(Words16 packed) {
    uint8_t from[64];
    uint16_t to[2][32];
    std::memcpy(from, &packed, sizeof from);
    for (int i = 0; i < 64; ++i) {
        const float magnitude = static_cast<float>(from[i] & 127);
        to[i / 8 % 2][i / 16 * 8 + i % 8] = lanes::narrow(from[i] & 128 ? -magnitude : magnitude);
    }
    Expanded expanded;
    std::memcpy(&expanded.first, to[0], sizeof to[0]);
    std::memcpy(&expanded.second, to[1], sizeof to[1]);
    return expanded;
}
#endif

// --- What one group of k adds, of each kind; ROW is its bytes in a row ---------------------------------------------

struct ByFp32 {
    typedef Floats16 Sum;
    static constexpr int ROW = 4;
    template <int ROWS, int VECTORS>
    static LANES_INLINE void add(Sum (&sums)[ROWS][VECTORS], const char *const *rows, int64_t at, const char *const (&weights)[VECTORS]) {
        Floats16 w[VECTORS];
#pragma GCC unroll 4
        for (int j = 0; j < VECTORS; ++j) w[j] = load_unit<Floats16>(weights[j]);
#pragma GCC unroll 12
        for (int i = 0; i < ROWS; ++i) {
            const Floats16 x = Floats16{} + bits<float>(load_word(rows[i] + at));
#pragma GCC unroll 4
            for (int j = 0; j < VECTORS; ++j)
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
    template <int ROWS, int VECTORS>
    static LANES_INLINE void add(Sum (&sums)[ROWS][VECTORS], const char *const *rows, int64_t at, const char *const (&weights)[VECTORS]) {
        Words16 w[VECTORS];
#pragma GCC unroll 4
        for (int j = 0; j < VECTORS; ++j) w[j] = load_unit<Words16>(weights[j]);
#pragma GCC unroll 12
        for (int i = 0; i < ROWS; ++i) {
            const Words16 x = Words16{} + load_word(rows[i] + at);
#pragma GCC unroll 4
            for (int j = 0; j < VECTORS; ++j) sums[i][j] = add_pairs(sums[i][j], x, w[j]);
        }
    }
};

struct ByInt8 {
    typedef Floats16 Sum;
    static constexpr int ROW = 8;
    template <int ROWS, int VECTORS>
    static LANES_INLINE void add(Sum (&sums)[ROWS][VECTORS], const char *const *rows, int64_t at, const char *const (&weights)[VECTORS]) {
        Expanded w[VECTORS];
#pragma GCC unroll 4
        for (int j = 0; j < VECTORS; ++j) w[j] = expand_unit(load_unit<Words16>(weights[j]));
#pragma GCC unroll 12
        for (int i = 0; i < ROWS; ++i) {
            const Words16 x = Words16{} + load_word(rows[i] + at), y = Words16{} + load_word(rows[i] + at + 4);
#pragma GCC unroll 4
            for (int j = 0; j < VECTORS; ++j) sums[i][j] = add_pairs(add_pairs(sums[i][j], x, w[j].first), y, w[j].second);
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
    template <int ROWS, int VECTORS>
    static LANES_INLINE void add(Sum (&sums)[ROWS][VECTORS], const char *const *rows, int64_t at, const char *const (&weights)[VECTORS]) {
        Words16 w[VECTORS];
#pragma GCC unroll 4
        for (int j = 0; j < VECTORS; ++j) w[j] = load_unit<Words16>(weights[j]);
#pragma GCC unroll 12
        for (int i = 0; i < ROWS; ++i) {
            const Words16 x = Words16{} + load_word(rows[i] + at);
#pragma GCC unroll 4
            for (int j = 0; j < VECTORS; ++j) sums[i][j] = add_quads(sums[i][j], x, w[j]);
        }
    }
};

// --- Tiles ------------------------------------------------------------------------------------------------------------

constexpr int AHEAD = 6144;  // bytes of weights asked for ahead of their use; the hardware stops at pages

// STRIPS is 2 where few rows would leave the multipliers waiting for their own sums.
template <typename By, int ROWS, int STRIPS>
static void tile_of(const char *const *from, const Panel &panel, Tile *tiles) {
    typedef typename By::Sum Sum;
    constexpr int VECTORS = 2 * STRIPS;
    int64_t behind[VECTORS];
    const char *rows[ROWS];
    Sum sums[ROWS][VECTORS];
    for (int i = 0; i < ROWS; ++i) rows[i] = from[i];
    for (int j = 0; j < VECTORS; ++j) behind[j] = panel.behind[j];
#pragma GCC unroll 12
    for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 4
        for (int j = 0; j < VECTORS; ++j)
            sums[i][j] = panel.starts ? __builtin_convertvector(load_unit<Ints16>(reinterpret_cast<const char *>(panel.starts + j * HALF)), Sum) : Sum{};
    int64_t at = 0;
    for (int s = 0; s < panel.n_segments; ++s) {
        const char *w = panel.segments[s];
        for (int step = 0; step < panel.steps; ++step, w += panel.stride, at += By::ROW) {
            const char *weights[VECTORS];
#pragma GCC unroll 4
            for (int j = 0; j < VECTORS; ++j) {
                weights[j] = w + behind[j];
                __builtin_prefetch(weights[j] + AHEAD);
            }
            By::template add<ROWS, VECTORS>(sums, rows, at, weights);
        }
    }
#pragma GCC unroll 12
    for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 4
        for (int j = 0; j < VECTORS; ++j) {
            const Floats16 values = __builtin_convertvector(sums[i][j], Floats16);
            std::memcpy(&tiles[j / 2][i][j % 2 * HALF], &values, sizeof values);
        }
}

typedef void (*TileOf)(const char *const *, const Panel &, Tile *);

// Tiles of 5, 7, 9, 10 and 11 rows compute some row twice: that is cheaper than more code.
static constexpr int WIDTHS[] = {1, 2, 3, 4, 6, 8, 12};
#define SERVE_TILES(By) {tile_of<By, 1, 1>, tile_of<By, 2, 1>, tile_of<By, 3, 1>, tile_of<By, 4, 1>, tile_of<By, 6, 1>, tile_of<By, 8, 1>, tile_of<By, 12, 1>}
#define SERVE_PAIRS(By) {tile_of<By, 1, 2>, tile_of<By, 2, 2>, tile_of<By, 3, 2>}
static constexpr TileOf TILES[4][7] = {SERVE_TILES(ByFp32), SERVE_TILES(ByBf16), SERVE_TILES(ByInt8), SERVE_TILES(ByInt8Dynamic)};
static constexpr TileOf PAIRS[4][FEW_ROWS] = {SERVE_PAIRS(ByFp32), SERVE_PAIRS(ByBf16), SERVE_PAIRS(ByInt8), SERVE_PAIRS(ByInt8Dynamic)};

void multiply(int32_t kind, const char *const *rows, int n_rows, int n_strips, const Panel &panel, Tile *tiles) {
    if (n_strips == 2) return PAIRS[kind][n_rows - 1](rows, panel, tiles);
    const char *filled[TILE_ROWS];
    int width = 0;
    while (WIDTHS[width] < n_rows) ++width;
    for (int i = 0; i < WIDTHS[width]; ++i) filled[i] = rows[i < n_rows ? i : n_rows - 1];
    TILES[kind][width](filled, panel, tiles);
}

void multiply_strips(const Matrix &matrix, int strip, int n_strips, const Rows &rows, int first, int n_rows, const char *expanded, Tile *tiles) {
    const char *from[TILE_ROWS];
    for (int i = 0; i < n_rows; ++i) from[i] = rows.first + rows.at(first + i) * rows.stride;
    const int group = group_of(matrix.kind);
    const int64_t strip_bytes = matrix.strip_bytes();
    const char *data = expanded ? expanded : matrix.data + strip * strip_bytes;
    const int steps = (matrix.k + group - 1) / group;
    const int32_t *starts = matrix.starts ? matrix.starts + strip * STRIP : nullptr;
    const Panel panel = {&data, 1, expanded ? steps * 2 : steps, 2 * UNIT, {0, UNIT, strip_bytes, strip_bytes + UNIT}, starts};
    multiply(expanded ? static_cast<int32_t>(BF16) : matrix.kind, from, n_rows, n_strips, panel, tiles);
    if (!matrix.scales) return;
    for (int s = 0; s < n_strips; ++s) {
        const float *scales = matrix.scales + (strip + s) * STRIP;
        for (int i = 0; i < n_rows; ++i) {
            const float of_row = rows.scales ? rows.scales[rows.at(first + i)] : 1.0f;
            for (int column = 0; column < STRIP; ++column) tiles[s][i][column] *= of_row * scales[column];
        }
    }
}

void expand(const Matrix &matrix, int strip, char *to) {
    const char *data = matrix.data + strip * matrix.strip_bytes();
    const int64_t steps = matrix.strip_bytes() / (2 * UNIT);
    for (int64_t step = 0; step < steps; ++step, data += 2 * UNIT, to += 4 * UNIT)
        for (int half = 0; half < 2; ++half) {
            const Expanded unit = expand_unit(load_unit<Words16>(data + half * UNIT));
            std::memcpy(to + half * UNIT, &unit.first, UNIT);
            std::memcpy(to + (2 + half) * UNIT, &unit.second, UNIT);
        }
}

}  // namespace serve
